//! What documents become: every field of the kinds that decide who may do what, in the words that other rooms read.

use std::time::Duration;

use bartizan_config::istio::{
    Action, Authorizer, Condition, Jwks, PathNormalization, PolicyTarget, TargetReference,
};
use bartizan_config::native::{Expectation, PolicyClaim, Profile, Reach, WithoutPolicy};
use bartizan_config::{Document, Resource, SourceFile, Users, read};
use bartizan_types::StringMatch;

fn documents(text: &str) -> Vec<Document> {
    let reading = read(&SourceFile::new("mesh/a.yaml", text));
    assert!(!reading.has_errors(), "{:?}", reading.findings);
    reading.documents
}

fn document(text: &str) -> Document {
    documents(text).remove(0)
}

fn texts(values: &[std::sync::Arc<str>]) -> Vec<&str> {
    values.iter().map(|value| &**value).collect()
}

#[test]
fn rules_of_tokens_have_all_their_fields() {
    let document = document(
        r#"
apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: {name: users, namespace: a}
spec:
  targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: g}, {kind: Service, name: s}]
  jwtRules:
    - issuer: https://a.example
      audiences: [x, z]
      jwks_uri: https://a.example/keys
      fromHeaders: [{name: X-Token}, {name: Authorization, prefix: "Bearer "}]
      fromParams: [Token]
      fromCookies: [Session]
      outputPayloadToHeader: X-Payload
      outputClaimToHeaders: [{header: X_Role, claim: realm.role}]
      forwardOriginalToken: true
      timeout: 2.5s
      spaceDelimitedClaims: [roles]
    - {issuer: https://a.example/tenant/}
    - {issuer: inline, jwks: '{"keys":[]}'}
"#,
    );
    let Resource::RequestAuthentication(read) = &document.resource else {
        panic!("{:?}", document.resource)
    };
    let PolicyTarget::References(targets) = &read.target else {
        panic!("{:?}", read.target)
    };
    let [TargetReference::Gateway(g), TargetReference::Service(s)] = targets.as_slice() else {
        panic!("{targets:?}")
    };
    assert_eq!((g.as_str(), s.as_str()), ("g", "s"));
    let [full, discovered, inline] = read.rules.as_slice() else {
        panic!("{:?}", read.rules)
    };
    assert_eq!(full.issuer.as_deref(), Some("https://a.example"));
    assert_eq!(texts(&full.audiences), ["x", "z"]);
    assert_eq!(full.jwks, Jwks::Uri("https://a.example/keys".into()));
    let headers: Vec<_> = full
        .from_headers
        .iter()
        .map(|header| (&*header.name, &*header.prefix))
        .collect();
    assert_eq!(headers, [("x-token", ""), ("authorization", "Bearer ")]);
    assert_eq!(texts(&full.from_params), ["Token"]);
    assert_eq!(texts(&full.from_cookies), ["Session"]);
    assert_eq!(full.output_payload_to_header.as_deref(), Some("x-payload"));
    let [output] = full.output_claim_to_headers.as_slice() else {
        panic!("{full:?}")
    };
    assert_eq!(&*output.header, "x_role");
    assert_eq!(texts(&output.claim), ["realm", "role"]);
    assert_eq!(full.forward_original_token, Some(true));
    assert_eq!(full.timeout, Some(Duration::from_millis(2500)));
    assert_eq!(texts(&full.space_delimited_claims), ["roles"]);
    assert!(!full.has_default_locations());

    let uri = "https://a.example/tenant/.well-known/openid-configuration";
    assert_eq!(discovered.jwks, Jwks::Discovery(uri.into()));
    assert!(discovered.has_default_locations());
    assert_eq!(discovered.forward_original_token, None);
    assert_eq!(inline.jwks, Jwks::Inline(r#"{"keys":[]}"#.into()));
    let at = document.positions.position("spec.jwtRules[2].jwks");
    assert_eq!((at.line, at.column), (20, 30));
}

#[test]
fn policies_have_the_fields_of_tokens_and_of_authorizers() {
    let document = document(
        r#"
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: p, namespace: a, annotations: {istio.io/dry-run: "true"}}
spec:
  action: AUDIT
  rules:
    - from: [{source: {requestPrincipals: ["i/s"], notRequestPrincipals: ["*"], remoteIpBlocks: [10.0.0.0/8], notRemoteIpBlocks: [10.1.0.0/16]}}]
      when:
        - {key: remote.ip, values: [10.0.0.1]}
        - {key: request.auth.principal, values: ["i/*"]}
        - {key: request.auth.audiences, values: [x]}
        - {key: request.auth.presenter, notValues: [w]}
        - {key: "request.auth.claims[a][b.c]", values: ["z*"]}
"#,
    );
    let Resource::AuthorizationPolicy(read) = &document.resource else {
        panic!("{:?}", document.resource)
    };
    assert!(read.dry_run);
    assert_eq!((read.action, &read.provider), (Some(Action::Audit), &None));
    let [rule] = read.rules.as_slice() else {
        panic!("{:?}", read.rules)
    };
    let source = &rule.from[0];
    assert_eq!(source.request_principals.any, [StringMatch::parse("i/s")]);
    assert_eq!(source.request_principals.none, [StringMatch::Present]);
    assert_eq!(source.remote_ip_blocks.any[0].to_string(), "10.0.0.0/8");
    assert_eq!(source.remote_ip_blocks.none[0].to_string(), "10.1.0.0/16");
    assert!(source.ip_blocks.is_empty());
    let [
        Condition::RemoteIp(remote),
        Condition::RequestPrincipal(principal),
        Condition::RequestAudiences(audiences),
        Condition::RequestPresenter(presenter),
        Condition::RequestClaim(path, claim),
    ] = rule.when.as_slice()
    else {
        panic!("{:?}", rule.when)
    };
    assert_eq!(remote.any.len(), 1);
    assert_eq!(principal.any, [StringMatch::parse("i/*")]);
    assert_eq!(audiences.any, [StringMatch::parse("x")]);
    assert_eq!(presenter.none, [StringMatch::parse("w")]);
    assert_eq!(texts(path), ["a", "b.c"]);
    assert_eq!(claim.any, [StringMatch::parse("z*")]);
}

const MESH: &str = r#"apiVersion: v1
kind: ConfigMap
metadata: {name: istio, namespace: istio-system}
data:
  mesh: |
    trustDomain: td.example
    trustDomainAliases: [old.example]
    pathNormalization: {normalization: MERGE_SLASHES}
    defaultConfig: {gatewayTopology: {numTrustedProxies: 2, proxyProtocol: {}}}
    extensionProviders:
      - name: opa
        envoyExtAuthzGrpc:
          service: auth/opa.auth.svc.cluster.local
          port: 9191
          timeout: 0.5s
          failOpen: false
          statusOnError: "503"
          clearRouteCache: true
          includeRequestBodyInCheck: {maxRequestBytes: 8192, allowPartialMessage: true, packAsBytes: true}
      - name: web
        envoyExtAuthzHttp:
          service: web.auth.svc.cluster.local
          port: 8000
          pathPrefix: /check
          includeRequestHeadersInCheck: [Cookie, "X-*"]
          includeHeadersInCheck: ["*-old"]
          includeAdditionalHeadersInCheck: {X-From: bartizan}
          headersToUpstreamOnAllow: [X-User]
          headersToDownstreamOnAllow: [set-cookie]
          headersToDownstreamOnDeny: [location]
"#;

#[test]
fn the_mesh_configuration_has_its_fields_and_their_places() {
    let document = document(MESH);
    let Resource::ConfigMap(read) = &document.resource else {
        panic!("{:?}", document.resource)
    };
    assert_eq!(read.data.len(), 1);
    let mesh = read.mesh.as_deref().expect("the map is Istio's");
    assert_eq!(
        mesh.trust_domain
            .as_ref()
            .map(bartizan_types::TrustDomain::as_str),
        Some("td.example")
    );
    assert_eq!(mesh.trust_domain_aliases[0].as_str(), "old.example");
    assert_eq!(mesh.path_normalization, Some(PathNormalization::MergeSlashes));
    let topology = mesh.gateway_topology.expect("it is written");
    assert_eq!(
        (topology.trusted_proxies, topology.proxy_protocol),
        (Some(2), true)
    );
    let [opa, web] = mesh.extension_providers.as_slice() else {
        panic!("{mesh:?}")
    };
    assert_eq!((&*opa.name, opa.port.get()), ("opa", 9191));
    assert_eq!(
        opa.service.namespace.as_ref().map(bartizan_types::Name::as_str),
        Some("auth")
    );
    assert_eq!(opa.service.host.as_str(), "opa.auth.svc.cluster.local");
    assert_eq!(opa.timeout, Some(Duration::from_millis(500)));
    assert_eq!(
        (opa.fail_open, opa.status_on_error, opa.clear_route_cache),
        (Some(false), Some(503), Some(true))
    );
    let body = opa.body.expect("it is written");
    assert_eq!(
        (
            body.max_request_bytes,
            body.allow_partial_message,
            body.pack_as_bytes
        ),
        (8192, Some(true), Some(true))
    );
    assert_eq!(opa.authorizer, Authorizer::Grpc);
    let Authorizer::Http(http) = &web.authorizer else {
        panic!("{web:?}")
    };
    assert_eq!(
        (web.timeout, web.fail_open, web.status_on_error, web.body),
        (None, None, None, None)
    );
    assert_eq!(http.path_prefix.as_deref(), Some("/check"));
    assert_eq!(
        http.include_request_headers_in_check,
        [
            StringMatch::parse("cookie"),
            StringMatch::parse("x-*"),
            StringMatch::parse("*-old")
        ]
    );
    assert_eq!(
        http.include_additional_headers_in_check,
        [("x-from".to_owned(), "bartizan".to_owned())]
    );
    assert_eq!(http.headers_to_upstream_on_allow, [StringMatch::parse("x-user")]);
    assert_eq!(
        http.headers_to_downstream_on_allow,
        [StringMatch::parse("set-cookie")]
    );
    assert_eq!(
        http.headers_to_downstream_on_deny,
        [StringMatch::parse("location")]
    );

    let at = |path: &str| {
        let position = document.positions.position(path);
        (position.line, position.column)
    };
    assert_eq!(at("data.mesh.trustDomain"), (6, 18));
    assert_eq!(at("data.mesh.trustDomainAliases[0]"), (7, 26));
    assert_eq!(
        at("data.mesh.extensionProviders[1].envoyExtAuthzHttp.service"),
        (22, 20)
    );
    assert_eq!(at("data.mesh.extensionProviders[7]"), (10, 5));
    assert_eq!(at("data.mesh"), (6, 5));
}

#[test]
fn marks_are_read_where_they_stand() {
    let documents = documents(
        r#"
apiVersion: apps/v1
kind: Deployment
metadata: {name: d}
spec:
  selector: {matchLabels: {app: a}}
  template:
    metadata:
      labels: {app: a, bartizan.dev/users: required}
      annotations: {proxy.istio.io/config: "gatewayTopology: {numTrustedProxies: 1}"}
    spec: {containers: [{name: c, image: i}]}
---
apiVersion: v1
kind: Pod
metadata: {name: p, labels: {bartizan.dev/users: not-required}}
spec: {containers: [{name: c, image: i}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: g, annotations: {proxy.istio.io/config: "gatewayTopology: {proxyProtocol: {}}"}}
spec: {gatewayClassName: bartizan, listeners: [{name: http, port: 80, protocol: HTTP}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: r, annotations: {bartizan.dev/users: required}}
spec: {parentRefs: [{name: g}], rules: [{}]}
"#,
    );
    let resources: Vec<&Resource> = documents.iter().map(|document| &document.resource).collect();
    let [
        Resource::Deployment(deployment),
        Resource::Pod(pod),
        Resource::Gateway(gateway),
        Resource::HttpRoute(route),
    ] = resources.as_slice()
    else {
        panic!("{resources:?}")
    };
    let marks = deployment.template.marks;
    assert_eq!(marks.users, Some(Users::Required));
    assert_eq!(
        marks.topology.and_then(|topology| topology.trusted_proxies),
        Some(1)
    );
    assert_eq!(
        (pod.marks.users, pod.marks.topology),
        (Some(Users::NotRequired), None)
    );
    assert!(gateway.topology.is_some_and(|topology| topology.proxy_protocol));
    assert_eq!(route.users, Some(Users::Required));
}

#[test]
fn profiles_tests_and_claims_have_their_fields() {
    let documents = documents(
        r#"
apiVersion: bartizan.dev/v1alpha1
kind: Profile
metadata: {name: own}
spec: {mtls: STRICT, withoutPolicy: OWN_NAMESPACE, acrossNamespaces: NAMED, userCredentials: WHERE_MARKED, wayOut: DECLARED, paths: BASE, reach: EVERYTHING}
---
apiVersion: bartizan.dev/v1alpha1
kind: PolicyTest
metadata: {name: t, namespace: a}
spec:
  tests:
    - name: one
      from: a/b
      to: s.a:80
      request: {method: POST, path: /x?y, host: s, headers: {X-A: b}, claims: {iss: i, level: 3, list: [1.5, null, true]}, sourceIp: 10.0.0.1, remoteIp: "::1", at: 1970-01-01T00:01:00Z}
      expect: 401
      by: RequestAuthentication a/users jwtRules[1]
    - {name: two, from: outside, to: a/w, expect: DENY, by: PeerAuthentication a/default}
---
apiVersion: bartizan.dev/v1alpha1
kind: PolicyClaim
metadata: {name: c}
spec: {everyWay: {to: {services: [s.a], namespaces: [b]}, needs: {claims: {"realm[role]": [x, "y*"]}, principals: ["*/sa/e"], namespaces: ["n*"], mtls: true}}}
---
apiVersion: bartizan.dev/v1alpha1
kind: PolicyClaim
metadata: {name: d}
spec: {never: {from: {notNamespaces: [a], serviceAccounts: [a/b]}, request: {methods: [GET], paths: ["/{*}"]}}}
"#,
    );
    assert_eq!(documents[0].reference.namespace, None);
    let resources: Vec<&Resource> = documents.iter().map(|document| &document.resource).collect();
    let [
        Resource::Profile(Profile {
            without_policy: WithoutPolicy::OwnNamespace,
            reach: Reach::Everything,
            ..
        }),
        Resource::PolicyTest(tests),
        Resource::PolicyClaim(PolicyClaim::EveryWay(every_way)),
        Resource::PolicyClaim(PolicyClaim::Never(never)),
    ] = resources.as_slice()
    else {
        panic!("{resources:?}")
    };
    let [one, two] = tests.tests.as_slice() else {
        panic!("{tests:?}")
    };
    assert_eq!((&*one.name, &*one.from, &*one.to), ("one", "a/b", "s.a:80"));
    assert_eq!(one.expect, Expectation::Unauthenticated);
    let by = one.by.as_ref().expect("it is written");
    assert_eq!(by.to_string(), "RequestAuthentication a/users rules[1]");
    let request = one.request.as_ref().expect("it is written");
    assert_eq!(request.method.as_deref(), Some("POST"));
    assert_eq!(request.path.as_deref(), Some("/x?y"));
    assert_eq!(request.host.as_deref(), Some("s"));
    assert_eq!(request.headers, [("x-a".to_owned(), "b".to_owned())]);
    let claims = serde_json::json!({"iss": "i", "level": 3, "list": [1.5, null, true]});
    assert_eq!(request.claims.as_ref(), claims.as_object());
    assert_eq!(
        request.source_ip.map(|address| address.to_string()).as_deref(),
        Some("10.0.0.1")
    );
    assert_eq!(
        request.remote_ip.map(|address| address.to_string()).as_deref(),
        Some("::1")
    );
    assert_eq!(request.at, Some(60));
    assert_eq!((two.expect, &two.request), (Expectation::Deny, &None));
    assert_eq!(two.by.as_ref().and_then(|by| by.rule), None);

    assert_eq!(every_way.to.services[0].to_string(), "a/s");
    assert_eq!(texts(&every_way.to.namespaces), ["b"]);
    let [(path, values)] = every_way.needs.claims.as_slice() else {
        panic!("{every_way:?}")
    };
    assert_eq!(texts(path), ["realm", "role"]);
    assert_eq!(*values, [StringMatch::parse("x"), StringMatch::parse("y*")]);
    assert_eq!(every_way.needs.principals, [StringMatch::parse("*/sa/e")]);
    assert_eq!(texts(&every_way.needs.namespaces), ["n*"]);
    assert!(every_way.needs.mtls);

    assert_eq!(texts(&never.from.namespaces.none), ["a"]);
    assert_eq!(never.from.service_accounts.any[0].to_string(), "a/b");
    assert!(never.to.services.is_empty() && never.to.namespaces.is_empty());
    let request = never.request.as_ref().expect("it is written");
    assert_eq!(request.methods, [StringMatch::parse("GET")]);
    assert_eq!(request.paths.len(), 1);
}

#[test]
fn access_rules_say_what_they_speak_of() {
    let document = document(
        r#"
apiVersion: bartizan.dev/v1alpha1
kind: AccessRule
metadata: {name: hours, namespace: a, annotations: {istio.io/dry-run: "true"}}
spec:
  selector: {matchLabels: {app: x}}
  action: DENY
  rules:
    - when: now.getHours() < 6 && source.labels["tier"] != "batch"
    - when: request.method == "POST" || auth.claims["level"] >= 3
"#,
    );
    let Resource::AccessRule(read) = &document.resource else {
        panic!("{:?}", document.resource)
    };
    assert!(read.dry_run);
    assert_eq!(read.action, Action::Deny);
    assert!(matches!(&read.target, PolicyTarget::Selector(selector) if !selector.is_empty()));
    let [hours, post] = read.rules.as_slice() else {
        panic!("{:?}", read.rules)
    };
    assert_eq!(
        &*hours.when,
        r#"now.getHours() < 6 && source.labels["tier"] != "batch""#
    );
    assert_eq!(texts(&hours.attributes), ["now", "source.labels"]);
    assert_eq!(texts(&post.attributes), ["auth.claims", "request.method"]);
    assert!(hours.uses("source") && hours.uses("source.labels") && !hours.uses("request"));
    assert!(post.uses("request") && post.uses("auth") && !post.uses("req"));
}
