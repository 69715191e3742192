//! Requests and connections that an external authorizer is asked about: one of the test's own that answers as a script says,
//! over HTTP and over gRPC.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bartizan_mesh::{
    Action, Backend, BodyInCheck, Condition, Endpoint, Endpoints, HeaderEdit, HeaderMatch, HttpProvider,
    Matcher, MtlsMode, PathSelector, Policy, PolicyKind, Provider, ProviderProtocol, Resource, Route,
    RouteFilter, RouteMatch, RouteRule, Rule, Service, ServicePort, Transaction,
};
use bartizan_proto::ext_authz::check_response::HttpResponse;
use bartizan_proto::ext_authz::{
    BoolValue, CheckRequest, CheckResponse, DeniedHttpResponse, HeaderValue, HeaderValueOption, HttpStatus,
    OkHttpResponse, QueryParameter, Status,
};
use bartizan_proxy::{Running, StaticConfig, StaticListener, StaticRole};
use bartizan_types::{HostPattern, Hostname, Name, Protocol, SpiffeId, StringMatch, Version};
use bytes::{BufMut as _, Bytes, BytesMut};
use prost::Message as _;

use crate::scene::{
    App, Client, PATIENCE, Plan, Scene, allow, echo_app, everything, free, get, id, is_end, metric, name,
    policy_name, port, read_message, until, view,
};

/// What a scripted authorizer does.
#[derive(Clone)]
enum Act {
    /// These bytes, over HTTP.
    Bytes(Vec<u8>),
    /// This message, over gRPC.
    Message(Box<CheckResponse>),
    /// These bytes as the body of a gRPC answer, and this status.
    Raw(Vec<u8>, &'static str),
    /// Nothing, until the other side leaves.
    Silence,
    /// The end of the connection.
    Leave,
}

fn http(status: &str, headers: &str, body: &str) -> Act {
    let length = body.len();
    Act::Bytes(format!("HTTP/1.1 {status}\r\n{headers}content-length: {length}\r\n\r\n{body}").into_bytes())
}

fn said(code: i32, http_response: Option<HttpResponse>) -> Act {
    Act::Message(Box::new(CheckResponse {
        status: Some(Status {
            code,
            message: String::new(),
        }),
        http_response,
    }))
}

fn field(name: &str, value: &str, append: Option<bool>) -> HeaderValueOption {
    HeaderValueOption {
        header: Some(HeaderValue {
            key: name.to_owned(),
            value: value.to_owned(),
            raw_value: Bytes::new(),
        }),
        append: append.map(|value| BoolValue { value }),
        ..HeaderValueOption::default()
    }
}

/// A scripted authorizer: what it was asked, and how many have left it waiting.
#[derive(Clone)]
struct Authorizer {
    address: SocketAddr,
    asked: Arc<Mutex<Vec<Asked>>>,
    connections: Arc<AtomicU64>,
    left: Arc<AtomicU64>,
}

#[derive(Clone, Debug)]
enum Asked {
    Http(String),
    Grpc(Box<CheckRequest>),
}

impl Authorizer {
    fn new(address: SocketAddr) -> Self {
        Self {
            address,
            asked: Arc::default(),
            connections: Arc::default(),
            left: Arc::default(),
        }
    }

    /// One that speaks HTTP/1.1.
    fn over_http(act: Act) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let this = Self::new(listener.local_addr().unwrap());
        let serving = this.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(mut stream) = stream else { return };
                let (this, act) = (serving.clone(), act.clone());
                this.connections.fetch_add(1, Ordering::SeqCst);
                std::thread::spawn(move || {
                    let mut read = Vec::new();
                    while let Some(message) = read_message(&mut stream, &mut read) {
                        this.asked
                            .lock()
                            .unwrap()
                            .push(Asked::Http(String::from_utf8_lossy(&message).into_owned()));
                        match &act {
                            Act::Bytes(bytes) => drop(stream.write_all(bytes)),
                            Act::Silence => {
                                if is_end(&stream.read(&mut [0; 16])) {
                                    this.left.fetch_add(1, Ordering::SeqCst);
                                }
                                return;
                            }
                            Act::Leave => return,
                            Act::Message(_) | Act::Raw(..) => panic!("gRPC is not spoken here"),
                        }
                    }
                });
            }
        });
        this
    }

    /// One that speaks gRPC.
    fn over_grpc(act: Act) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let this = Self::new(listener.local_addr().unwrap());
        let serving = this.clone();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async {
                let listener = tokio::net::TcpListener::from_std(listener).unwrap();
                while let Ok((stream, _)) = listener.accept().await {
                    serving.connections.fetch_add(1, Ordering::SeqCst);
                    tokio::spawn(serve_grpc(stream, serving.clone(), act.clone()));
                }
            });
        });
        this
    }

    fn http_asked(&self) -> Vec<String> {
        let asked = self.asked.lock().unwrap();
        let text = |asked: &Asked| match asked {
            Asked::Http(text) => text.clone(),
            Asked::Grpc(request) => panic!("{request:?}"),
        };
        asked.iter().map(text).collect()
    }

    fn grpc_asked(&self) -> Vec<CheckRequest> {
        let asked = self.asked.lock().unwrap();
        let request = |asked: &Asked| match asked {
            Asked::Grpc(request) => CheckRequest::clone(request),
            Asked::Http(text) => panic!("{text}"),
        };
        asked.iter().map(request).collect()
    }
}

async fn serve_grpc(stream: tokio::net::TcpStream, this: Authorizer, act: Act) {
    let Ok(mut connection) = h2::server::handshake(stream).await else {
        return;
    };
    while let Some(Ok((request, mut respond))) = connection.accept().await {
        let (this, act) = (this.clone(), act.clone());
        if let Act::Leave = act {
            return;
        }
        tokio::spawn(async move {
            assert_eq!(request.uri().path(), "/envoy.service.auth.v3.Authorization/Check");
            let mut body = request.into_body();
            let mut message = BytesMut::new();
            while let Some(Ok(data)) = body.data().await {
                let _ = body.flow_control().release_capacity(data.len());
                message.extend_from_slice(&data);
            }
            let asked = CheckRequest::decode(&message[5..]).unwrap();
            this.asked.lock().unwrap().push(Asked::Grpc(Box::new(asked)));
            let (body, status) = match &act {
                Act::Message(response) => (response.encode_to_vec(), "0"),
                Act::Raw(bytes, status) => (bytes.clone(), *status),
                Act::Silence => {
                    let _ = std::future::poll_fn(|cx| respond.poll_reset(cx)).await;
                    this.left.fetch_add(1, Ordering::SeqCst);
                    return;
                }
                Act::Bytes(_) | Act::Leave => unreachable!("not spoken here"),
            };
            let head = http::Response::builder().header("content-type", "application/grpc");
            let mut trailers = http::HeaderMap::new();
            trailers.insert("grpc-status", status.parse().unwrap());
            let mut framed = BytesMut::new();
            framed.put_u8(0);
            framed.put_u32(u32::try_from(body.len()).unwrap());
            framed.extend_from_slice(&body);
            let Ok(mut send) = respond.send_response(head.body(()).unwrap(), false) else {
                return;
            };
            send.reserve_capacity(framed.len());
            let _ = send.send_data(framed.freeze(), false);
            let _ = send.send_trailers(trailers);
        });
    }
}

fn provider(protocol: ProviderProtocol) -> Provider {
    Provider {
        name: "opa".into(),
        service: name("policy/opa"),
        port: port(80),
        timeout_ms: 10_000,
        fail_open: false,
        status_on_error: 503,
        body: None,
        clear_route_cache: false,
        protocol,
    }
}

fn http_provider() -> Provider {
    let listed = |names: &[&str]| names.iter().map(|name| StringMatch::parse(name)).collect();
    provider(ProviderProtocol::Http(HttpProvider {
        path_prefix: "/check".into(),
        include_request_headers: listed(&["x-ask-*"]),
        additional_headers: vec![("x-by".into(), "bartizan".into())],
        headers_to_upstream_on_allow: listed(&["x-user", "x-role"]),
        headers_to_downstream_on_allow: listed(&["x-policy"]),
        headers_to_downstream_on_deny: Vec::new(),
    }))
}

/// What makes the server's proxy ask the authorizer about everything.
fn asking(provider: Provider, at: SocketAddr, identity: Option<SpiffeId>) -> Vec<Resource> {
    let protocol = match provider.protocol {
        ProviderProtocol::Http(_) => Protocol::Http,
        ProviderProtocol::Grpc => Protocol::Grpc,
    };
    vec![
        Resource::Service(Service {
            name: name("policy/opa"),
            hostname: Hostname::parse("opa.policy.svc.cluster.local").unwrap(),
            addresses: vec!["10.67.0.9".parse().unwrap()],
            headless: false,
            alias_of: None,
            ports: vec![ServicePort {
                port: port(80),
                name: None,
                protocol,
            }],
        }),
        Resource::Endpoints(Endpoints {
            service: name("policy/opa"),
            endpoints: vec![Endpoint {
                workload: name("policy/opa-0"),
                address: at.ip(),
                ports: BTreeMap::from([(port(80), port(at.port()))]),
                identity,
                ready: true,
            }],
        }),
        Resource::Provider(provider),
        Resource::Policy(custom()),
    ]
}

fn custom() -> Policy {
    Policy {
        kind: PolicyKind::AuthorizationPolicy,
        name: name("shop/ask"),
        action: Action::Custom,
        provider: Some("opa".into()),
        dry_run: false,
        rules: vec![Rule::default()],
    }
}

fn no_villains() -> Policy {
    Policy {
        name: name("shop/no-villains"),
        action: Action::Deny,
        provider: None,
        rules: vec![Rule {
            when: vec![Condition::Header(
                "x-role".into(),
                Matcher {
                    any: vec![StringMatch::parse("villain")],
                    none: Vec::new(),
                },
            )],
            ..Rule::default()
        }],
        ..custom()
    }
}

fn with_policies(resource: Resource, names: &[&str]) -> Resource {
    let Resource::View(mut view) = resource else {
        panic!("{resource:?}")
    };
    view.policies = names.iter().map(|name| policy_name(name)).collect();
    Resource::View(view)
}

/// A mesh whose server's proxy asks this authorizer.
fn scene_of(plan: &Plan, provider: Provider, at: SocketAddr, identity: Option<SpiffeId>) -> Scene {
    let scene = Scene::new(plan);
    let mut upserts = asking(provider, at, identity);
    let own = view(plan, "cart-0", scene.inbound);
    upserts.push(with_policies(own, &["shop/cart", "shop/ask"]));
    scene.change_server(upserts);
    scene
}

fn scene(app: &App, provider: Provider, authorizer: &Authorizer) -> Scene {
    scene_of(&Plan::new(app.address), provider, authorizer.address, None)
}

fn requests(app: &App) -> u64 {
    app.requests.load(Ordering::SeqCst)
}

fn post(body: &str, more: &str) -> String {
    let length = body.len();
    format!("POST /v1 HTTP/1.1\r\nhost: cart\r\n{more}content-length: {length}\r\n\r\n{body}")
}

#[test]
fn a_yes_over_http_changes_what_is_listed() {
    let fields = "x-user: ann\r\nx-role: a\r\nx-role: b\r\nx-other: no\r\nx-policy: seen\r\nx-forwarded-client-cert: URI=forged\r\n";
    let authorizer = Authorizer::over_http(http("200 OK", fields, ""));
    let app = echo_app();
    let scene = scene(&app, http_provider(), &authorizer);
    let mut client = Client::new(scene.outbound);
    for _ in 0..3 {
        let answer = client.ask(
            "GET /v1?q=1 HTTP/1.1\r\nhost: cart\r\nauthorization: Bearer t\r\nx-ask-me: yes\r\nx-user: forged\r\nx-not: sent\r\n\r\n",
        );
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        let (head, echoed) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.contains("x-policy: seen"), "{answer}");
        assert!(echoed.starts_with("GET /v1?q=1 "), "{answer}");
        assert!(
            echoed.contains("x-user: ann\r\n") && !echoed.contains("forged"),
            "{answer}"
        );
        assert!(
            echoed.contains("x-role: a\r\n") && echoed.contains("x-role: b\r\n"),
            "{answer}"
        );
        assert!(!echoed.contains("x-other"), "{answer}");
        assert!(
            echoed.contains("URI=spiffe://cluster.local/ns/shop/sa/web"),
            "{answer}"
        );
    }
    let asked = authorizer.http_asked();
    assert_eq!(asked.len(), 3);
    assert_eq!(
        authorizer.connections.load(Ordering::SeqCst),
        1,
        "the connection is kept"
    );
    assert!(
        asked[0].starts_with("GET /check/v1?q=1 HTTP/1.1\r\n"),
        "{}",
        asked[0]
    );
    let lower = asked[0].to_ascii_lowercase();
    for sent in [
        "host: cart\r\n",
        "authorization: bearer t\r\n",
        "x-ask-me: yes\r\n",
        "x-by: bartizan\r\n",
        "content-length: 0\r\n",
    ] {
        assert!(lower.contains(sent), "{lower}");
    }
    assert!(!lower.contains("x-not") && !lower.contains("x-user"), "{lower}");
    let log = scene.server_log(3);
    assert_eq!(log[0]["authorizer"]["provider"], "opa");
    assert_eq!(log[0]["authorizer"]["allowed"], true);
    assert!(log[0]["authorizer"]["milliseconds"].is_u64());
    assert_eq!(log[0]["decision"], "allow");
    let metrics = scene.server.metrics();
    let labels = ["provider=\"opa\"", "result=\"allowed\""];
    assert_eq!(metric(&metrics, "bartizan_authorizer_checks_total", &labels), 3.0);
    assert!(metric(&metrics, "bartizan_authorizer_microseconds_total", &labels[..1]) > 0.0);
}

#[test]
fn a_no_over_http_is_the_clients_answer() {
    let fields = "www-authenticate: Basic\r\nset-cookie: a\r\nset-cookie: b\r\ncontent-type: text/html\r\nx-envoy-upstream-service-time: 1\r\n";
    let authorizer = Authorizer::over_http(http("401 Unauthorized", fields, "<p>who?</p>"));
    let app = echo_app();
    let scene = scene(&app, http_provider(), &authorizer);
    let mut client = Client::new(scene.outbound);
    let answer = client.ask(&get("/v1"));
    assert!(answer.starts_with("HTTP/1.1 401 "), "{answer}");
    let lower = answer.to_ascii_lowercase();
    for sent in [
        "www-authenticate: basic\r\n",
        "set-cookie: a\r\n",
        "set-cookie: b\r\n",
        "content-type: text/html\r\n",
        "x-bartizan-decision: ",
    ] {
        assert!(lower.contains(sent), "{answer}");
    }
    assert!(
        !lower.contains("x-envoy") && !lower.contains("text/plain"),
        "{answer}"
    );
    assert!(answer.ends_with("\r\n\r\n<p>who?</p>"), "{answer}");
    // The connection goes on.
    assert!(client.ask(&get("/v1")).starts_with("HTTP/1.1 401 "));
    assert_eq!(requests(&app), 0);
    let log = scene.server_log(2);
    assert_eq!(log[0]["response_code"], 401);
    assert_eq!(log[0]["response_flags"], "UAEX");
    assert_eq!(log[0]["response_code_details"], "ext_authz_denied");
    assert_eq!(log[0]["decision"], "deny");
    assert_eq!(log[0]["authorizer"]["allowed"], false);
    assert_eq!(log[0]["authorizer"]["status"], 401);
    assert!(log[0]["policy"].as_str().unwrap().contains("ask"), "{log:?}");
}

#[test]
fn whatever_goes_wrong_is_no_yes_unless_the_provider_says_so() {
    let huge = "x".repeat(300 * 1024);
    let many: String = (0..200).map(|at| format!("x-user: {at}\r\n")).collect();
    let cases = [
        ("an error", Some(http("500 Oops", "", "")), "status 500"),
        ("unavailable", Some(http("503 Busy", "", "")), "status 503"),
        (
            "garbage",
            Some(Act::Bytes(b"\x16\x03\x01garbage\r\n\r\n".to_vec())),
            "did not answer",
        ),
        ("a huge body", Some(http("403 No", "", &huge)), "more than"),
        ("many fields", Some(http("200 OK", &many, "")), ""),
        (
            "two lengths",
            Some(Act::Bytes(
                b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\ncontent-length: 1\r\n\r\n".to_vec(),
            )),
            "did not answer",
        ),
        ("nothing", Some(Act::Leave), "did not answer"),
        ("silence", Some(Act::Silence), "within"),
        ("nobody", None, "is not reached"),
    ];
    for (what, act, error) in cases {
        let authorizer = match act {
            Some(act) => Authorizer::over_http(act),
            None => Authorizer::new(free()),
        };
        for fail_open in [false, true] {
            let app = echo_app();
            let provider = Provider {
                timeout_ms: if what == "silence" { 100 } else { 10_000 },
                fail_open,
                ..http_provider()
            };
            let scene = scene(&app, provider, &authorizer);
            let mut client = Client::new(scene.outbound);
            let answer = client.ask(&get("/v1"));
            let status = if fail_open { "200" } else { "503" };
            assert!(
                answer.starts_with(&format!("HTTP/1.1 {status} ")),
                "{what}: {answer}"
            );
            assert_eq!(requests(&app), u64::from(fail_open), "{what}");
            let log = scene.server_log(1);
            let said = log[0]["authorizer"]["error"].as_str().unwrap();
            assert!(said.contains(error), "{what}: {said}");
            assert!(log[0]["authorizer"]["allowed"].is_null(), "{log:?}");
            if fail_open {
                assert_eq!(log[0]["response_flags"], "-", "{what}");
            } else {
                assert_eq!(log[0]["response_flags"], "UAEX", "{what}");
                assert_eq!(log[0]["response_code_details"], "ext_authz_error", "{what}");
            }
            let labels = ["provider=\"opa\"", "result=\"error\""];
            let metrics = scene.server.metrics();
            assert_eq!(
                metric(&metrics, "bartizan_authorizer_checks_total", &labels),
                1.0,
                "{what}"
            );
        }
    }
}

#[test]
fn the_body_is_shown_as_far_as_wanted_and_carried_whole() {
    let body = |max_bytes, allow_partial| Provider {
        body: Some(BodyInCheck {
            max_bytes,
            allow_partial,
            pack_as_bytes: false,
        }),
        // A body that is too large is told so even then.
        fail_open: true,
        ..http_provider()
    };
    let chunked = "POST /v1 HTTP/1.1\r\nhost: cart\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n4\r\ndefg\r\n0\r\n\r\n";
    let cases = [
        (body(7, false), post("abcdefg", ""), Some(("abcdefg", "false"))),
        (body(6, false), post("abcdefg", ""), None),
        (body(6, true), post("abcdefg", ""), Some(("abcdef", "true"))),
        (body(7, true), post("abcdefg", ""), Some(("abcdefg", "false"))),
        (body(7, false), chunked.to_owned(), Some(("abcdefg", "false"))),
        (body(6, false), chunked.to_owned(), None),
        (body(5, true), chunked.to_owned(), Some(("abcde", "true"))),
        (body(5, false), get("/v1"), Some(("", "false"))),
    ];
    for (provider, request, expected) in cases {
        let authorizer = Authorizer::over_http(http("200 OK", "", ""));
        let app = echo_app();
        let scene = scene(&app, provider, &authorizer);
        let answer = Client::new(scene.outbound).ask(&request);
        let Some((shown, is_partial)) = expected else {
            assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
            assert_eq!((requests(&app), authorizer.http_asked().len()), (0, 0));
            continue;
        };
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        let asked = authorizer.http_asked().remove(0);
        assert!(asked.ends_with(&format!("\r\n\r\n{shown}")), "{asked}");
        assert!(
            asked.contains(&format!("x-envoy-auth-partial-body: {is_partial}\r\n")),
            "{asked}"
        );
        if request.contains("chunked") {
            // The application knows no chunks: to it they are one more message, which is whole.
            until("the chunks arrive", || requests(&app) == 2);
        } else {
            assert!(
                request.starts_with("GET") || answer.ends_with("abcdefg"),
                "{answer}"
            );
            assert_eq!(requests(&app), 1);
        }
    }
}

#[test]
fn a_client_that_waits_with_its_body_is_told_once_to_send_it() {
    let authorizer = Authorizer::over_http(http("200 OK", "", ""));
    let app = echo_app();
    let provider = Provider {
        body: Some(BodyInCheck {
            max_bytes: 100,
            allow_partial: false,
            pack_as_bytes: false,
        }),
        ..http_provider()
    };
    let scene = scene(&app, provider, &authorizer);
    let mut client = Client::from(TcpStream::connect(scene.outbound).unwrap());
    client.send("POST /v1 HTTP/1.1\r\nhost: cart\r\nexpect: 100-continue\r\ncontent-length: 5\r\n\r\n");
    let interim = client.receive().unwrap();
    assert!(interim.starts_with("HTTP/1.1 100 "), "{interim}");
    assert_eq!(authorizer.http_asked().len(), 0);
    let answer = client.ask("hello");
    assert!(
        answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("hello"),
        "{answer}"
    );
    assert!(!answer.to_ascii_lowercase().contains("expect:"), "{answer}");
}

#[test]
fn a_large_body_is_held_back_and_arrives_whole() {
    let authorizer = Authorizer::over_http(http("200 OK", "", ""));
    let app = echo_app();
    let provider = Provider {
        body: Some(BodyInCheck {
            max_bytes: 1000,
            allow_partial: true,
            pack_as_bytes: false,
        }),
        ..http_provider()
    };
    let scene = scene(&app, provider, &authorizer);
    let body: String = (0..2_000_000_u32)
        .map(|at| char::from(b'a' + u8::try_from(at % 26).unwrap()))
        .collect();
    let mut client = Client::new(scene.outbound);
    let mut writing = client.stream.try_clone().unwrap();
    let request = post(&body, "");
    let writer = std::thread::spawn(move || writing.write_all(request.as_bytes()).unwrap());
    let answer = client.receive().unwrap();
    writer.join().unwrap();
    assert!(answer.ends_with(&body), "{}", answer.len());
    assert!(authorizer.http_asked()[0].ends_with(&body[..1000]));
}

#[test]
fn who_leaves_takes_the_question_along() {
    for over_grpc in [false, true] {
        let (authorizer, provider) = if over_grpc {
            (
                Authorizer::over_grpc(Act::Silence),
                provider(ProviderProtocol::Grpc),
            )
        } else {
            (Authorizer::over_http(Act::Silence), http_provider())
        };
        let app = echo_app();
        let scene = scene(&app, provider, &authorizer);
        let mut client = Client::new(scene.outbound);
        client.send(&get("/v1"));
        until("the authorizer is asked", || {
            authorizer.asked.lock().unwrap().len() == 1
        });
        drop(client);
        until("the question is taken back", || {
            authorizer.left.load(Ordering::SeqCst) == 1
        });
        assert_eq!(requests(&app), 0);
        let log = scene.server_log(1);
        assert_eq!(log[0]["response_flags"], "DC", "{log:?}");
    }
}

#[test]
fn a_yes_over_grpc_changes_what_it_says() {
    let yes = said(
        0,
        Some(HttpResponse::OkResponse(OkHttpResponse {
            headers: vec![
                field("x-user", "ann", None),
                field("x-more", "b", Some(true)),
                field("x-bartizan-x", "no", None),
            ],
            headers_to_remove: vec!["x-secret".to_owned()],
            response_headers_to_add: vec![field("x-app", "authorizer's", None)],
            query_parameters_to_set: vec![QueryParameter {
                key: "tenant".to_owned(),
                value: "red".to_owned(),
            }],
            query_parameters_to_remove: vec!["token".to_owned()],
        })),
    );
    let authorizer = Authorizer::over_grpc(yes);
    let app = echo_app();
    let provider = Provider {
        body: Some(BodyInCheck {
            max_bytes: 4,
            allow_partial: true,
            pack_as_bytes: true,
        }),
        ..provider(ProviderProtocol::Grpc)
    };
    let scene = scene(&app, provider, &authorizer);
    let mut client = Client::new(scene.outbound);
    for _ in 0..3 {
        let request = "POST /v1?token=t&q=1 HTTP/1.1\r\nhost: cart:80\r\nx-secret: s\r\nx-more: a\r\ncontent-length: 5\r\n\r\nhello";
        let answer = client.ask(request);
        let (head, echoed) = answer.split_once("\r\n\r\n").unwrap();
        assert!(
            head.starts_with("HTTP/1.1 200 ") && head.contains("x-app: authorizer's"),
            "{answer}"
        );
        assert!(!head.contains("x-app: echo"), "{answer}");
        assert!(
            echoed.starts_with("POST /v1?q=1&tenant=red HTTP/1.1\r\n"),
            "{answer}"
        );
        assert!(
            echoed.contains("x-user: ann\r\n") && !echoed.contains("x-secret"),
            "{answer}"
        );
        assert!(
            echoed.contains("x-more: a\r\n") && echoed.contains("x-more: b\r\n"),
            "{answer}"
        );
        assert!(
            !echoed.contains("x-bartizan-x") && echoed.ends_with("hello"),
            "{answer}"
        );
    }
    assert_eq!(
        authorizer.connections.load(Ordering::SeqCst),
        1,
        "the connection is kept"
    );
    let asked = authorizer.grpc_asked().remove(0).attributes.unwrap();
    let (source, destination) = (asked.source.unwrap(), asked.destination.unwrap());
    assert_eq!(source.principal, "spiffe://cluster.local/ns/shop/sa/web");
    assert_eq!(destination.principal, "spiffe://cluster.local/ns/shop/sa/cart");
    let address = destination.address.unwrap().socket_address.unwrap();
    assert_eq!(address.port_value, u32::from(scene.inbound.port()));
    let http = asked.request.unwrap().http.unwrap();
    assert_eq!(
        (&*http.method, &*http.path, &*http.host),
        ("POST", "/v1?token=t&q=1", "cart:80")
    );
    assert_eq!(
        (&http.raw_body[..], &*http.body, http.size),
        (&b"hell"[..], "", 5)
    );
    assert_eq!(http.headers["x-envoy-auth-partial-body"], "true");
    assert_eq!(http.headers["x-secret"], "s");
    assert!(!http.id.is_empty() && http.id == http.headers["x-request-id"]);
    let log = scene.server_log(3);
    assert_eq!(log[0]["path"], "/v1?token=t&q=1", "the log has what was sent");
}

#[test]
fn a_no_over_grpc_is_the_clients_answer() {
    let no = said(
        16,
        Some(HttpResponse::DeniedResponse(DeniedHttpResponse {
            status: Some(HttpStatus { code: 302 }),
            headers: vec![
                field("location", "/login", None),
                field("connection", "x-user", None),
            ],
            body: "this way".to_owned(),
        })),
    );
    let authorizer = Authorizer::over_grpc(no);
    let app = echo_app();
    let scene = scene(&app, provider(ProviderProtocol::Grpc), &authorizer);
    let answer = Client::new(scene.outbound).ask(&get("/v1"));
    assert!(
        answer.starts_with("HTTP/1.1 302 ") && answer.ends_with("this way"),
        "{answer}"
    );
    assert!(
        answer.contains("location: /login") && !answer.contains("x-user"),
        "{answer}"
    );
    assert_eq!(requests(&app), 0);
}

#[test]
fn a_broken_grpc_authorizer_is_no_yes() {
    let method = said(
        0,
        Some(HttpResponse::OkResponse(OkHttpResponse {
            headers: vec![field(":path", "/other", None)],
            ..OkHttpResponse::default()
        })),
    );
    let cases = [
        ("unavailable", Act::Raw(Vec::new(), "14"), "gRPC status 14"),
        ("garbage", Act::Raw(vec![0xff; 20], "0"), "no CheckResponse"),
        ("nothing at all", Act::Raw(Vec::new(), "0"), "no CheckResponse"),
        ("huge", Act::Raw(vec![0; 400 * 1024], "0"), "more than"),
        ("another path", method, "`:path`"),
        ("silence", Act::Silence, "within"),
        ("leaves", Act::Leave, "did not answer"),
    ];
    for (what, act, error) in cases {
        let authorizer = Authorizer::over_grpc(act);
        let app = echo_app();
        let provider = Provider {
            timeout_ms: if what == "silence" { 100 } else { 10_000 },
            ..provider(ProviderProtocol::Grpc)
        };
        let scene = scene(&app, provider, &authorizer);
        let answer = Client::new(scene.outbound).ask(&get("/v1"));
        assert!(answer.starts_with("HTTP/1.1 503 "), "{what}: {answer}");
        assert_eq!(requests(&app), 0);
        let log = scene.server_log(1);
        let said = log[0]["authorizer"]["error"].as_str().unwrap();
        assert!(said.contains(error), "{what}: {said}");
    }
}

#[test]
fn what_an_authorizer_adds_is_judged_by_policy() {
    let authorizer = Authorizer::over_http(http("200 OK", "x-role: villain\r\n", ""));
    let app = echo_app();
    let plan = Plan::new(app.address);
    let scene = scene_of(&plan, http_provider(), authorizer.address, None);
    assert!(
        Client::new(scene.outbound)
            .ask(&get("/v1"))
            .starts_with("HTTP/1.1 200 ")
    );
    let deny = no_villains();
    let own = view(&plan, "cart-0", scene.inbound);
    scene.change_server(vec![
        Resource::Policy(deny),
        with_policies(own, &["shop/cart", "shop/ask", "shop/no-villains"]),
    ]);
    let answer = Client::new(scene.outbound).ask(&get("/v1"));
    assert!(answer.starts_with("HTTP/1.1 403 "), "{answer}");
    assert_eq!(requests(&app), 1);
}

#[test]
fn nobody_is_asked_about_what_policy_refuses_anyway() {
    let authorizer = Authorizer::over_http(http("200 OK", "", ""));
    let app = echo_app();
    let scene = scene(&app, http_provider(), &authorizer);
    let answer = Client::new(scene.outbound).ask("DELETE /v1 HTTP/1.1\r\nhost: cart\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.1 403 "), "{answer}");
    assert_eq!((requests(&app), authorizer.http_asked().len()), (0, 0));
}

/// An authorizer that has been asked once and thinks: the client that waits, and the connection of the question.
fn thinking(scene: &Scene, listener: &TcpListener) -> (Client, TcpStream) {
    let mut client = Client::new(scene.outbound);
    client.send(&get("/v1"));
    let (mut asking, _) = listener.accept().unwrap();
    read_message(&mut asking, &mut Vec::new()).unwrap();
    (client, asking)
}

#[test]
fn a_change_that_refuses_whatever_the_authorizer_says_does_not_wait_for_it() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let authorizer = Authorizer::new(listener.local_addr().unwrap());
    let app = echo_app();
    let scene = scene(&app, http_provider(), &authorizer);
    let (mut client, mut asking) = thinking(&scene, &listener);
    scene.change_server(vec![crate::scene::policy(vec![allow("web", &["PUT"])])]);
    let answer = client.receive().unwrap();
    assert!(answer.starts_with("HTTP/1.1 403 "), "{answer}");
    assert!(is_end(&asking.read(&mut [0; 16])), "the question is taken back");
    assert_eq!(requests(&app), 0);
    let log = scene.server_log(1);
    assert_eq!(log[0]["decision"], "deny", "{log:?}");
}

#[test]
fn a_change_while_the_authorizer_thinks_judges_what_it_adds() {
    for (role, status) in [("villain", "403"), ("hero", "200")] {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let authorizer = Authorizer::new(listener.local_addr().unwrap());
        let app = echo_app();
        let plan = Plan::new(app.address);
        let scene = scene_of(&plan, http_provider(), authorizer.address, None);
        let (mut client, mut asking) = thinking(&scene, &listener);
        let own = view(&plan, "cart-0", scene.inbound);
        scene.change_server(vec![
            Resource::Policy(no_villains()),
            with_policies(own, &["shop/cart", "shop/ask", "shop/no-villains"]),
        ]);
        // A whole connection later the worker has heard of the change.
        let refused = Client::new(scene.outbound).ask(&get("/v1/%2e%2e"));
        assert!(refused.starts_with("HTTP/1.1 400 "), "{refused}");
        let answer = format!("HTTP/1.1 200 OK\r\nx-role: {role}\r\ncontent-length: 0\r\n\r\n");
        asking.write_all(answer.as_bytes()).unwrap();
        let answer = client.receive().unwrap();
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")),
            "{role}: {answer}"
        );
        assert_eq!(requests(&app), u64::from(role == "hero"));
    }
}

/// The authorizer behind a proxy of its own, as in a mesh.
fn authorizers_proxy(
    scene: &Scene,
    authorizer: &Authorizer,
    account: &str,
    caller: &str,
) -> (Running, SocketAddr) {
    let at = free();
    let plan = Plan {
        rules: vec![allow(caller, &[])],
        ..Plan::new(authorizer.address)
    };
    let running = Running::start(StaticConfig {
        workload: name("shop/cart-0"),
        resources: everything(&plan, "cart-0", scene.outbound, at),
        listeners: vec![StaticListener {
            address: at,
            role: StaticRole::Inbound {
                to: authorizer.address,
            },
        }],
        svid: scene.ca.svid(account),
        access_log: None,
        metrics: None,
        workers: 1,
        drain: PATIENCE,
    })
    .unwrap();
    (running, at)
}

#[test]
fn the_authorizer_must_prove_who_it_is_and_lets_in_whom_it_wants() {
    let authorizer = Authorizer::over_http(http("200 OK", "x-user: ann\r\n", ""));
    for (account, caller, status, error) in [
        ("opa", "cart", "200", None),
        ("impostor", "cart", "503", Some("is not reached")),
        // Its own proxy refuses: that is its answer, and no yes.
        ("opa", "web", "403", None),
    ] {
        let app = echo_app();
        let scene = Scene::new(&Plan::new(app.address));
        let (_proxy, at) = authorizers_proxy(&scene, &authorizer, account, caller);
        let mut upserts = asking(http_provider(), at, Some(id("opa")));
        let own = view(&Plan::new(app.address), "cart-0", scene.inbound);
        upserts.push(with_policies(own, &["shop/cart", "shop/ask"]));
        scene.change_server(upserts);
        let answer = Client::new(scene.outbound).ask(&get("/v1"));
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")),
            "{account}: {answer}"
        );
        let log = scene.server_log(1);
        let said = log[0]["authorizer"]["error"].as_str();
        assert_eq!(said.is_some(), error.is_some(), "{log:?}");
        assert!(
            said.unwrap_or_default().contains(error.unwrap_or_default()),
            "{log:?}"
        );
    }
}

/// Greets each client.
fn greeter() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let _ = stream.write_all(b"hello");
        }
    });
    address
}

#[test]
fn connections_of_bytes_are_asked_about_over_grpc_alone() {
    let grpc = |timeout_ms, fail_open| Provider {
        timeout_ms,
        fail_open,
        ..provider(ProviderProtocol::Grpc)
    };
    let cases = [
        (
            "yes",
            Authorizer::over_grpc(said(0, None)),
            grpc(10_000, false),
            true,
        ),
        (
            "no",
            Authorizer::over_grpc(said(7, None)),
            grpc(10_000, false),
            false,
        ),
        (
            "silence",
            Authorizer::over_grpc(Act::Silence),
            grpc(100, false),
            false,
        ),
        ("open", Authorizer::over_grpc(Act::Silence), grpc(100, true), true),
        (
            "http",
            Authorizer::over_http(http("403 No", "", "")),
            http_provider(),
            true,
        ),
    ];
    for (what, authorizer, provider, passes) in cases {
        let plan = Plan {
            protocol: Protocol::Tcp,
            rules: vec![allow("web", &[])],
            ..Plan::new(greeter())
        };
        let scene = scene_of(&plan, provider, authorizer.address, None);
        let mut client = TcpStream::connect(scene.outbound).unwrap();
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut greeting = Vec::new();
        let read = client.read_to_end(&mut greeting);
        assert_eq!(greeting == b"hello", passes, "{what}: {read:?} {greeting:?}");
        drop(client);
        let log = scene.server_log(1);
        if what == "http" {
            assert_eq!(authorizer.http_asked().len(), 0);
            continue;
        }
        let asked = authorizer.grpc_asked().remove(0).attributes.unwrap();
        assert!(asked.request.unwrap().http.is_none());
        assert_eq!(
            asked.source.unwrap().principal,
            "spiffe://cluster.local/ns/shop/sa/web"
        );
        assert_eq!(log[0]["authorizer"]["provider"], "opa", "{log:?}");
        assert_eq!(log[0]["response_flags"] == "UAEX", !passes, "{what}: {log:?}");
    }
}

#[tokio::test]
async fn a_refused_grpc_call_ends_with_a_status() {
    let authorizer = Authorizer::over_http(http(
        "403 No",
        "content-type: text/html\r\nx-why: policy\r\n",
        "not yours",
    ));
    let app = echo_app();
    let plan = Plan {
        protocol: Protocol::Http2,
        mtls: MtlsMode::Strict,
        ..Plan::new(app.address)
    };
    let scene = scene_of(&plan, http_provider(), authorizer.address, None);
    let stream = tokio::net::TcpStream::connect(scene.outbound).await.unwrap();
    let (send, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    let mut send = send.ready().await.unwrap();
    let call = http::Request::post("http://cart/shop.Cart/Add")
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(())
        .unwrap();
    let (response, _body) = send.send_request(call, true).unwrap();
    let response = tokio::time::timeout(PATIENCE, response).await.unwrap().unwrap();
    assert_eq!(response.status(), 200);
    let headers = response.headers();
    assert_eq!(headers["grpc-status"], "7");
    assert_eq!(headers["grpc-message"], "not yours");
    assert_eq!(headers.get_all("content-type").iter().count(), 1);
    assert_eq!(headers["content-type"], "application/grpc");
    assert_eq!(headers["x-why"], "policy");
}

#[tokio::test]
async fn a_body_over_http2_is_shown_and_carried_whole_with_its_trailers() {
    let authorizer = Authorizer::over_grpc(said(0, None));
    let plan = Plan {
        protocol: Protocol::Http2,
        ..Plan::new(crate::http2::app().await)
    };
    let provider = Provider {
        body: Some(BodyInCheck {
            max_bytes: 7,
            allow_partial: true,
            pack_as_bytes: false,
        }),
        ..provider(ProviderProtocol::Grpc)
    };
    let scene = scene_of(&plan, provider, authorizer.address, None);
    let stream = tokio::net::TcpStream::connect(scene.outbound).await.unwrap();
    let (send, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    let mut send = send.ready().await.unwrap();
    let call = http::Request::post("http://cart/v1").body(()).unwrap();
    let (response, mut body) = send.send_request(call, false).unwrap();
    for part in ["hello", " ", "there"] {
        body.send_data(Bytes::from_static(part.as_bytes()), false)
            .unwrap();
    }
    body.send_data(Bytes::new(), true).unwrap();
    let response = tokio::time::timeout(PATIENCE, response).await.unwrap().unwrap();
    assert_eq!(response.status(), 200);
    let mut body = response.into_body();
    let mut text = Vec::new();
    while let Some(data) = body.data().await {
        text.extend_from_slice(&data.unwrap());
    }
    assert_eq!(text, b"hello there");
    assert_eq!(body.trailers().await.unwrap().unwrap()["grpc-status"], "0");
    let asked = authorizer.grpc_asked().remove(0).attributes.unwrap();
    let http = asked.request.unwrap().http.unwrap();
    assert_eq!(
        (&*http.body, http.size, &*http.protocol),
        ("hello t", -1, "HTTP/2")
    );
}

#[test]
fn an_upgrade_is_asked_about_once_and_carries_bytes() {
    let authorizer = Authorizer::over_http(http("200 OK", "x-user: ann\r\n", ""));
    let app = echo_app();
    let provider = Provider {
        body: Some(BodyInCheck {
            max_bytes: 7,
            allow_partial: false,
            pack_as_bytes: false,
        }),
        ..http_provider()
    };
    let scene = scene(&app, provider, &authorizer);
    let mut client = Client::new(scene.outbound);
    let answer =
        client.ask("GET /v1 HTTP/1.1\r\nhost: cart\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
    let mut buffer = [0; 4];
    client.stream.write_all(b"ping").unwrap();
    client.stream.read_exact(&mut buffer).unwrap();
    assert_eq!(&buffer, b"ping");
    let asked = authorizer.http_asked();
    assert_eq!(asked.len(), 1);
    assert!(!asked[0].to_ascii_lowercase().contains("upgrade"), "{}", asked[0]);
}

#[test]
fn an_authorizer_does_not_ask_itself() {
    let app = echo_app();
    let plan = Plan::new(app.address);
    let scene = Scene::new(&plan);
    let mut upserts = asking(http_provider(), scene.inbound, Some(id("cart")));
    for resource in &mut upserts {
        if let Resource::Endpoints(endpoints) = resource {
            endpoints.endpoints[0].workload = name("shop/cart-0");
        }
    }
    let own = view(&plan, "cart-0", scene.inbound);
    upserts.push(with_policies(own, &["shop/cart", "shop/ask"]));
    scene.change_server(upserts);
    let answer = Client::new(scene.outbound).ask(&get("/v1"));
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    let log = scene.server_log(1);
    let error = log[0]["authorizer"]["error"].as_str().unwrap();
    assert!(error.contains("itself"), "{error}");
}

#[test]
fn a_gateway_chooses_the_route_anew_where_the_provider_says_so() {
    let authorizer = Authorizer::over_http(http("200 OK", "x-user: ann\r\nx-policy: seen\r\n", ""));
    let route = |headers: Vec<HeaderMatch>, set: &str, cart: u16| RouteRule {
        name: None,
        matches: vec![RouteMatch {
            path: PathSelector::Prefix("/".to_owned()),
            method: None,
            headers,
            query: Vec::new(),
        }],
        filters: vec![RouteFilter::RequestHeaders(HeaderEdit {
            set: vec![("x-route".to_owned(), set.to_owned())],
            add: Vec::new(),
            remove: Vec::new(),
        })],
        backends: vec![Backend {
            service: Some((name("shop/cart"), port(cart))),
            weight: 1,
            filters: Vec::new(),
        }],
        request_timeout_ms: None,
        backend_timeout_ms: None,
    };
    for (clear_route_cache, expected) in [(false, "everybody"), (true, "ann")] {
        let way = crate::gateway::way(&["GET"]);
        let provider = Provider {
            clear_route_cache,
            ..http_provider()
        };
        let mut upserts = asking(provider, authorizer.address, None);
        let cart = way.scene.outbound.port();
        let is_ann = HeaderMatch {
            name: "x-user".to_owned(),
            value: "ann".to_owned(),
            regex: false,
        };
        upserts.push(with_policies(
            crate::gateway::gateway_view(),
            &["edge/gate", "shop/ask"],
        ));
        upserts.push(Resource::Route(Route {
            name: name("edge/way-in"),
            parents: vec![(name("edge/gate"), Name::parse("web").unwrap())],
            hostnames: vec![HostPattern::parse("shop.example").unwrap()],
            rules: vec![
                route(vec![is_ann], "ann", cart),
                route(Vec::new(), "everybody", cart),
            ],
            is_for_people: false,
        }));
        way.gateway.apply(&Transaction {
            version: Version(2),
            upserts,
            removals: Vec::new(),
        });
        let answer = Client::new(way.address).ask("GET /v1 HTTP/1.1\r\nhost: shop.example\r\n\r\n");
        assert!(answer.contains(&format!("x-route: {expected}\r\n")), "{answer}");
        assert!(answer.contains("x-user: ann\r\n"), "{answer}");
        let head = answer.split_once("\r\n\r\n").unwrap().0;
        assert_eq!(head.matches("x-policy: seen").count(), 1, "{answer}");
    }
}

#[test]
fn a_slow_authorizer_holds_up_nobody_else() {
    let authorizer = Authorizer::over_http(Act::Silence);
    let app = echo_app();
    let plan = Plan::new(app.address);
    let scene = scene_of(&plan, http_provider(), authorizer.address, None);
    let mut waiting: Vec<Client> = (0..20).map(|_| Client::new(scene.outbound)).collect();
    for client in &mut waiting {
        client.send(&get("/v1"));
    }
    until("all are asked about", || {
        authorizer.asked.lock().unwrap().len() == 20
    });
    // Without the policy that asks, the same worker serves at once.
    scene.change_server(vec![view(&plan, "cart-0", scene.inbound)]);
    let begin = Instant::now();
    assert!(
        Client::new(scene.outbound)
            .ask(&get("/v1"))
            .starts_with("HTTP/1.1 200 ")
    );
    assert!(begin.elapsed() < Duration::from_secs(5));
    assert_eq!(requests(&app), 1);
}
