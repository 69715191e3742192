// An authorizer of other people's making: the Open Policy Agent's engine, asked as Envoy asks, over gRPC and over HTTP.
//
// The input and the answer have the shape that the agent's own Envoy plugin gives them: the policy says `true`, `false`, or an
// object with `allowed`, `headers`, `request_headers_to_remove`, `response_headers_to_add`, `http_status` and `body`.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	auth "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	kind "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"github.com/open-policy-agent/opa/v1/rego"
	"google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/encoding/protojson"
)

const usage = "usage: opa-authorizer POLICY.rego GRPC_ADDRESS HTTP_ADDRESS"

// The largest body that is read, in bytes.
const mostBody = 1 << 20

// What the policy says.
type decision struct {
	Allowed         bool              `json:"allowed"`
	Headers         map[string]string `json:"headers"`
	HeadersToRemove []string          `json:"request_headers_to_remove"`
	ResponseHeaders map[string]string `json:"response_headers_to_add"`
	Status          int32             `json:"http_status"`
	Body            string            `json:"body"`
}

type authorizer struct {
	auth.UnimplementedAuthorizationServer
	query rego.PreparedEvalQuery
}

func main() {
	if len(os.Args) != 4 {
		log.Fatal(usage)
	}
	ctx := context.Background()
	query, err := rego.New(rego.Query("data.envoy.authz.allow"), rego.Load(os.Args[1:2], nil)).PrepareForEval(ctx)
	if err != nil {
		log.Fatal(err)
	}
	a := &authorizer{query: query}
	grpcListener, err := net.Listen("tcp", os.Args[2])
	if err != nil {
		log.Fatal(err)
	}
	httpListener, err := net.Listen("tcp", os.Args[3])
	if err != nil {
		log.Fatal(err)
	}
	server := grpc.NewServer()
	auth.RegisterAuthorizationServer(server, a)
	go func() { log.Fatal(server.Serve(grpcListener)) }()
	fmt.Printf("opa: gRPC on %s, HTTP on %s\n", grpcListener.Addr(), httpListener.Addr())
	log.Fatal(http.Serve(httpListener, a))
}

func (a *authorizer) decide(ctx context.Context, input map[string]any) (decision, error) {
	results, err := a.query.Eval(ctx, rego.EvalInput(input))
	if err != nil {
		return decision{}, err
	}
	if len(results) == 0 || len(results[0].Expressions) == 0 {
		return decision{}, nil // undefined is no
	}
	switch value := results[0].Expressions[0].Value.(type) {
	case bool:
		return decision{Allowed: value}, nil
	default:
		bytes, err := json.Marshal(value)
		if err != nil {
			return decision{}, err
		}
		var said decision
		return said, json.Unmarshal(bytes, &said)
	}
}

// Adds what the agent's plugin works out of path and body.
func parse(input map[string]any, path, contentType, body string) {
	target, err := url.ParseRequestURI(path)
	if err != nil {
		return
	}
	input["parsed_path"] = strings.Split(strings.Trim(target.EscapedPath(), "/"), "/")
	input["parsed_query"] = map[string][]string(target.Query())
	if strings.HasPrefix(contentType, "application/json") && body != "" {
		var parsed any
		if json.Unmarshal([]byte(body), &parsed) == nil {
			input["parsed_body"] = parsed
		}
	}
}

// Check is asked over gRPC.
func (a *authorizer) Check(ctx context.Context, request *auth.CheckRequest) (*auth.CheckResponse, error) {
	bytes, err := protojson.Marshal(request)
	if err != nil {
		return nil, err
	}
	input := map[string]any{}
	if err := json.Unmarshal(bytes, &input); err != nil {
		return nil, err
	}
	asked := request.GetAttributes().GetRequest().GetHttp()
	if asked != nil {
		body := asked.GetBody()
		if body == "" {
			body = string(asked.GetRawBody())
		}
		parse(input, asked.GetPath(), asked.GetHeaders()["content-type"], body)
	}
	said, err := a.decide(ctx, input)
	if err != nil {
		return nil, err
	}
	if said.Allowed {
		return &auth.CheckResponse{
			Status: &status.Status{Code: int32(codes.OK)},
			HttpResponse: &auth.CheckResponse_OkResponse{OkResponse: &auth.OkHttpResponse{
				Headers:              options(said.Headers),
				HeadersToRemove:      said.HeadersToRemove,
				ResponseHeadersToAdd: options(said.ResponseHeaders),
			}},
		}, nil
	}
	code := said.Status
	if code == 0 {
		code = http.StatusForbidden
	}
	return &auth.CheckResponse{
		Status: &status.Status{Code: int32(codes.PermissionDenied)},
		HttpResponse: &auth.CheckResponse_DeniedResponse{DeniedResponse: &auth.DeniedHttpResponse{
			Status:  &kind.HttpStatus{Code: kind.StatusCode(code)},
			Headers: options(said.Headers),
			Body:    said.Body,
		}},
	}, nil
}

func options(headers map[string]string) []*core.HeaderValueOption {
	var all []*core.HeaderValueOption
	for name, value := range headers {
		all = append(all, &core.HeaderValueOption{Header: &core.HeaderValue{Key: name, Value: value}})
	}
	return all
}

// ServeHTTP is asked over HTTP, with a request like the one that is checked.
func (a *authorizer) ServeHTTP(answer http.ResponseWriter, request *http.Request) {
	body, err := io.ReadAll(io.LimitReader(request.Body, mostBody))
	if err != nil {
		http.Error(answer, err.Error(), http.StatusInternalServerError)
		return
	}
	headers := map[string]string{}
	for name, values := range request.Header {
		headers[strings.ToLower(name)] = strings.Join(values, ",")
	}
	path := request.URL.RequestURI()
	input := map[string]any{"attributes": map[string]any{"request": map[string]any{"http": map[string]any{
		"method": request.Method, "path": path, "host": request.Host, "headers": headers, "body": string(body),
	}}}}
	parse(input, path, headers["content-type"], string(body))
	said, err := a.decide(request.Context(), input)
	if err != nil {
		http.Error(answer, err.Error(), http.StatusInternalServerError)
		return
	}
	for name, value := range said.Headers {
		answer.Header().Set(name, value)
	}
	if said.Allowed {
		for name, value := range said.ResponseHeaders {
			answer.Header().Set(name, value)
		}
		// As Envoy reads it.
		answer.Header().Set("x-envoy-auth-headers-to-remove", strings.Join(said.HeadersToRemove, ","))
		answer.WriteHeader(http.StatusOK)
		return
	}
	code := int(said.Status)
	if code == 0 {
		code = http.StatusForbidden
	}
	answer.WriteHeader(code)
	io.WriteString(answer, said.Body)
}
