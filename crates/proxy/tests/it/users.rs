//! Users' tokens at a workload's proxy: found, verified, remembered, taken out, handed on, logged, and judged again.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime};

use bartizan_identity::jwt::{Algorithm, SigningKey, generate_key};
use bartizan_mesh::{
    ClaimHeader, Condition, JwtRule, KeySource, Matcher, PathRule, Profile, RequestAuthentication, Resource,
    Rule, Settings, TokenLocation, UserCredentials, View,
};
use bartizan_types::{Hostname, Name, StringMatch, TrustDomain};
use serde_json::json;

use crate::scene::{App, Client, Plan, Scene, allow, echo_app, is_end, metric, name, policy, until, view};

const ISSUER: &str = "https://issuer.example";

/// A workload that takes tokens of one issuer and wants a clearance.
struct Users {
    key: SigningKey,
    scene: Scene,
    app: App,
    rule: JwtRule,
}

pub fn rule(key: &SigningKey) -> JwtRule {
    JwtRule {
        issuer: Some(ISSUER.into()),
        audiences: vec!["cart".into()],
        keys: KeySource::Inline(key.to_public_jwks().unwrap().into()),
        locations: vec![
            TokenLocation::Header {
                name: "authorization".into(),
                prefix: "Bearer ".into(),
            },
            TokenLocation::Param("access_token".into()),
        ],
        forward_original_token: false,
        output_payload_to_header: Some("x-payload".into()),
        output_claims: vec![ClaimHeader {
            header: "x-clearance".into(),
            claim: vec!["clearance".into()],
        }],
        space_delimited_claims: Vec::new(),
    }
}

pub fn authentication(rules: Vec<JwtRule>) -> Resource {
    Resource::RequestAuthentication(RequestAuthentication {
        name: name("shop/users"),
        rules,
        is_unreadable: false,
    })
}

fn cleared(levels: &[&str]) -> Rule {
    let any = levels
        .iter()
        .map(|level| StringMatch::Exact((*level).into()))
        .collect();
    Rule {
        when: vec![Condition::RequestClaim(
            vec!["clearance".into()],
            Matcher {
                any,
                none: Vec::new(),
            },
        )],
        ..allow("web", &[])
    }
}

/// The view with the document on it.
fn with_users(plan: &Plan, scene: &Scene) -> Resource {
    let Resource::View(view) = view(plan, "cart-0", scene.inbound) else {
        unreachable!()
    };
    Resource::View(View {
        authentications: vec![name("shop/users")],
        ..view
    })
}

fn users(change: impl FnOnce(&mut JwtRule)) -> Users {
    users_with(generate_key(Algorithm::Es256).unwrap(), change)
}

fn users_with(key: SigningKey, change: impl FnOnce(&mut JwtRule)) -> Users {
    let app = echo_app();
    let plan = Plan {
        rules: vec![cleared(&["SECRET"])],
        ..Plan::new(app.address)
    };
    let scene = Scene::new(&plan);
    let mut rule = rule(&key);
    change(&mut rule);
    scene.change_server(vec![
        with_users(&plan, &scene),
        authentication(vec![rule.clone()]),
    ]);
    Users {
        key,
        scene,
        app,
        rule,
    }
}

pub fn now() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    i64::try_from(since.unwrap().as_secs()).unwrap()
}

/// A token that is in order, but for `changes`.
pub fn token(key: &SigningKey, changes: serde_json::Value) -> String {
    let mut claims = json!({
        "iss": ISSUER,
        "sub": "anna",
        "aud": "cart",
        "exp": now() + 600,
        "clearance": "SECRET",
        "private": "nobody's business",
    });
    let claims_map = claims.as_object_mut().unwrap();
    for (name, value) in changes.as_object().unwrap() {
        claims_map.insert(name.clone(), value.clone());
    }
    key.sign(&serde_json::Map::new(), &claims).unwrap()
}

fn get(path: &str, fields: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nhost: cart\r\n{fields}\r\n")
}

fn bearer(token: &str) -> String {
    format!("authorization: Bearer {token}\r\n")
}

fn ask(users: &Users, fields: &str) -> String {
    Client::new(users.scene.outbound).ask(&get("/", fields))
}

/// The whole logs of both proxies have none of the tokens.
fn no_token_is_logged(scene: &Scene, tokens: &[&str]) {
    for (proxy, file) in [(&scene.client, "client.jsonl"), (&scene.server, "server.jsonl")] {
        proxy.flush_log();
        let text = std::fs::read_to_string(scene.directory.path().join(file)).unwrap();
        for token in tokens {
            for part in token.split('.') {
                assert!(!text.contains(part), "{file}: {part}");
            }
        }
    }
}

#[test]
fn a_good_token_passes_its_claims_on_and_goes_no_further() {
    let users = users(|_| {});
    let good = token(&users.key, json!({}));
    let forged = "x-clearance: TOP\r\nX_Clearance: TOP\r\nx_payload: TOP\r\nX-Payload: TOP\r\n";
    let answer = ask(&users, &format!("{forged}{}", bearer(&good)));
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    let lower = answer.to_ascii_lowercase();
    assert!(
        !lower.contains("authorization") && !lower.contains(": top"),
        "{answer}"
    );
    assert!(lower.contains("x-clearance: secret\r\n"), "{answer}");
    let payload = good.split('.').nth(1).unwrap();
    assert!(answer.contains(&format!("x-payload: {payload}\r\n")), "{answer}");

    let log = users.scene.server_log(1);
    assert_eq!(
        log[0]["request_auth"],
        json!({
            "issuer": ISSUER,
            "subject": "anna",
            "principal": format!("{ISSUER}/anna"),
            "presenter": null,
            "audiences": ["cart"],
            "key_id": users.key.key_id(),
            "expires_at": log[0]["request_auth"]["expires_at"],
            "claims": { "clearance": "SECRET" },
        })
    );
    assert_eq!(log[0]["decision"], "allow");
    assert_eq!(log[0]["downstream_tls_version"], "TLSv1.3");
    assert!(
        log[0]["downstream_tls_cipher"]
            .as_str()
            .unwrap()
            .starts_with("TLS_")
    );
    no_token_is_logged(&users.scene, &[&good]);
}

#[test]
fn what_is_wrong_with_a_token_is_told_as_envoy_tells_it() {
    let users = users(|_| {});
    let other = generate_key(Algorithm::Es256).unwrap();
    let good = token(&users.key, json!({}));
    let (head, _) = good.rsplit_once('.').unwrap();
    let expired = token(&users.key, json!({ "exp": now() - 100 }));
    let cases = [
        (
            String::new(),
            401,
            "Jwt is missing",
            "rbac_access_denied_matched_policy[none]",
        ),
        (
            bearer(&token(&users.key, json!({ "clearance": "PUBLIC" }))),
            403,
            "RBAC: access denied",
            "rbac_access_denied_matched_policy[none]",
        ),
        (
            bearer(&expired),
            401,
            "Jwt is expired",
            "jwt_authn_access_denied{Jwt_is_expired}",
        ),
        (
            bearer(&token(&users.key, json!({ "aud": "desk" }))),
            401,
            "Audiences in Jwt are not allowed",
            "jwt_authn_access_denied{Audiences_in_Jwt_are_not_allowed}",
        ),
        (
            bearer(&token(&users.key, json!({ "iss": "https://other.example" }))),
            401,
            "Jwt issuer is not configured",
            "jwt_authn_access_denied{Jwt_issuer_is_not_configured}",
        ),
        (
            bearer(&token(&other, json!({}))),
            401,
            "Jwks doesn't have key to match kid or alg from Jwt",
            "jwt_authn_access_denied{Jwks_doesn't_have_key_to_match_kid_or_alg_from_Jwt}",
        ),
        (
            bearer(&format!("{head}.{}", "A".repeat(86))),
            401,
            "Jwt verification fails",
            "jwt_authn_access_denied{Jwt_verification_fails}",
        ),
        (
            bearer("nonsense"),
            401,
            "Jwt is not in the form of Header.Payload.Signature with two dots and 3 sections",
            "jwt_authn_access_denied{Jwt_is_not_in_the_form_of_Header.Payload.Signature_with_two_dots_and_3_sections}",
        ),
    ];
    for (fields, status, body, _) in &cases {
        let answer = Client::new(users.scene.outbound).ask(&get("/a?b=c", fields));
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
        assert!(answer.ends_with(body), "{answer}");
        assert!(answer.contains("x-bartizan-decision: "), "{answer}");
        let challenge = "www-authenticate: Bearer realm=\"http://cart/a\"";
        assert_eq!(answer.contains(challenge), *status == 401, "{answer}");
        // Without a token there is nothing wrong with it (RFC 6750 §3.1).
        let has_error = answer.contains(", error=\"invalid_token\"\r\n");
        assert_eq!(has_error, *status == 401 && !fields.is_empty(), "{answer}");
    }
    assert_eq!(users.app.requests.load(Ordering::SeqCst), 0);
    let log = users.scene.server_log(cases.len());
    for (line, (_, status, _, details)) in log.iter().zip(&cases) {
        assert_eq!(line["response_code"], *status, "{line}");
        assert_eq!(line["response_code_details"], *details, "{line}");
        assert_eq!(line["decision"], "deny", "{line}");
        assert!(line["decision_id"].is_string(), "{line}");
        let is_refused = details.starts_with("jwt");
        assert_eq!(line["request_auth_error"].is_string(), is_refused, "{line}");
        if is_refused {
            let why = line["request_auth_error"].as_str().unwrap();
            assert!(
                why.contains("RequestAuthentication `shop/users` jwtRules[0]"),
                "{why}"
            );
            assert!(line["request_auth"].is_null(), "{line}");
        }
    }
    let metrics = users.scene.server.metrics();
    for reason in [
        "expired",
        "audience",
        "issuer",
        "signature",
        "form",
        "unknown_key",
    ] {
        let label = format!("reason=\"{reason}\"");
        let count = metric(&metrics, "bartizan_jwt_refused_total", &[&label]);
        assert_eq!(count, 1.0, "{reason}");
    }
    no_token_is_logged(&users.scene, &[&good, &expired]);
}

#[test]
fn a_token_is_verified_once_and_still_expires() {
    let users = users_with(generate_key(Algorithm::Rs256).unwrap(), |_| {});
    // The skew is a minute: it counts for a few seconds more.
    let short = token(&users.key, json!({ "exp": now() - 56 }));
    let mut client = Client::new(users.scene.outbound);
    for _ in 0..5 {
        let answer = client.ask(&get("/", &bearer(&short)));
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    }
    let metrics = users.scene.server.metrics();
    assert_eq!(metric(&metrics, "bartizan_jwt_verified_total", &[]), 1.0);
    let remembered = ["result=\"accepted\""];
    assert_eq!(
        metric(&metrics, "bartizan_jwt_remembered_total", &remembered),
        4.0
    );
    let mut answer = String::new();
    until("it expires", || {
        answer = client.ask(&get("/", &bearer(&short)));
        answer.starts_with("HTTP/1.1 401 ")
    });
    assert!(answer.ends_with("Jwt is expired"), "{answer}");
    // A bad one that comes again is not verified again either.
    let bad = format!("{}A", &short[..short.len() - 1]);
    for _ in 0..3 {
        assert!(client.ask(&get("/", &bearer(&bad))).starts_with("HTTP/1.1 401 "));
    }
    let metrics = users.scene.server.metrics();
    assert!(metric(&metrics, "bartizan_jwt_remembered_total", &["result=\"refused\""]) >= 2.0);
}

#[test]
fn a_token_in_the_query_is_taken_out_of_target_and_logs() {
    let users = users(|_| {});
    let good = token(&users.key, json!({}));
    let path = format!("/a?x=1&access_token={good}&y=2");
    let answer = Client::new(users.scene.outbound).ask(&get(&path, ""));
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert!(answer.contains("GET /a?x=1&y=2 HTTP/1.1"), "{answer}");
    // Refused ones are not shown either.
    let bad = token(&users.key, json!({ "exp": 1 }));
    let answer = Client::new(users.scene.outbound).ask(&get(&format!("/a?access_token={bad}"), ""));
    assert!(answer.starts_with("HTTP/1.1 401 "), "{answer}");
    assert!(answer.contains("realm=\"http://cart/a\""), "{answer}");
    let log = users.scene.server_log(2);
    assert_eq!(log[0]["path"], "/a?x=1&access_token=REDACTED&y=2");
    assert_eq!(log[1]["path"], "/a?access_token=REDACTED");
    assert_eq!(users.scene.client_log(2)[0]["path"], log[0]["path"]);
    no_token_is_logged(&users.scene, &[&good, &bad]);
}

#[test]
fn a_token_stays_where_its_rule_says_so_and_goes_out_of_cookies() {
    let users = users(|rule| rule.forward_original_token = true);
    let good = token(&users.key, json!({}));
    let answer = ask(&users, &bearer(&good));
    assert!(
        answer.contains(&format!("authorization: Bearer {good}\r\n")),
        "{answer}"
    );

    let mut rule = users.rule.clone();
    rule.forward_original_token = false;
    rule.locations = vec![TokenLocation::Cookie("session".into())];
    users.scene.change_server(vec![authentication(vec![rule])]);
    let cookies = format!("cookie: a=b; session={good}; c=d\r\n");
    let answer = ask(&users, &cookies);
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert!(!answer.contains(&good) && answer.contains("a=b; c=d"), "{answer}");
    // The other place is no longer one.
    assert!(ask(&users, &bearer(&good)).ends_with("Jwt is missing"));
}

#[test]
fn rules_that_are_not_there_refuse_every_request() {
    let app = echo_app();
    let plan = Plan::new(app.address);
    let scene = Scene::new(&plan);
    scene.change_server(vec![with_users(&plan, &scene)]);
    let answer = Client::new(scene.outbound).ask(&get("/", ""));
    assert!(answer.starts_with("HTTP/1.1 401 "), "{answer}");
    assert_eq!(app.requests.load(Ordering::SeqCst), 0);
    // And keys that cannot be read refuse every token, but no request without one.
    let key = generate_key(Algorithm::Es256).unwrap();
    let mut rule = rule(&key);
    rule.keys = KeySource::Inline("{".into());
    scene.change_server(vec![authentication(vec![rule])]);
    assert!(
        Client::new(scene.outbound)
            .ask(&get("/", ""))
            .starts_with("HTTP/1.1 200 ")
    );
    let answer = Client::new(scene.outbound).ask(&get("/", &bearer(&token(&key, json!({})))));
    assert!(answer.starts_with("HTTP/1.1 401 "), "{answer}");
    assert!(
        answer.ends_with("Jwks doesn't have any valid public key"),
        "{answer}"
    );
}

const UPGRADE: &str = "upgrade: websocket\r\nconnection: upgrade\r\n";

/// Opens a stream as a user.
fn open(users: &Users, token: &str) -> Client {
    let mut client = Client::new(users.scene.outbound);
    let answer = client.ask(&get("/ws", &format!("{UPGRADE}{}", bearer(token))));
    assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
    client
}

fn is_open(client: &mut Client) -> bool {
    use std::io::{Read as _, Write as _};
    let mut buffer = [0; 4];
    client.stream.write_all(b"ping").is_ok() && client.stream.read_exact(&mut buffer).is_ok()
}

fn ends_within_a_second(client: &mut Client) {
    use std::io::Read as _;
    let begin = Instant::now();
    let ended = client.stream.read(&mut [0; 4]);
    assert!(is_end(&ended), "{ended:?}");
    assert!(begin.elapsed() < Duration::from_secs(1));
}

#[test]
fn streams_end_when_the_keys_of_their_users_are_gone() {
    let users = users(|_| {});
    let (old, new) = (&users.key, generate_key(Algorithm::Es256).unwrap());
    let mut client = open(&users, &token(old, json!({})));
    // Both keys: nothing ends.
    let both = |first: &SigningKey, second: &SigningKey| {
        let mut keys: serde_json::Value = serde_json::from_str(&first.to_public_jwks().unwrap()).unwrap();
        let more: serde_json::Value = serde_json::from_str(&second.to_public_jwks().unwrap()).unwrap();
        let more = more["keys"].as_array().unwrap().clone();
        keys["keys"].as_array_mut().unwrap().extend(more);
        keys.to_string()
    };
    let with_keys = |jwks: String| JwtRule {
        keys: KeySource::Inline(jwks.into()),
        ..users.rule.clone()
    };
    users
        .scene
        .change_server(vec![authentication(vec![with_keys(both(old, &new))])]);
    let mut second = open(&users, &token(&new, json!({})));
    assert!(is_open(&mut client) && is_open(&mut second));
    users.scene.change_server(vec![authentication(vec![with_keys(
        new.to_public_jwks().unwrap(),
    )])]);
    ends_within_a_second(&mut client);
    assert!(is_open(&mut second));
    let closed = [
        "bartizan_connections_judged_closed_total",
        "direction=\"inbound\"",
        "reason=\"token\"",
    ];
    until("it is counted", || {
        metric(&users.scene.server.metrics(), closed[0], &closed[1..]) == 1.0
    });
    let mut line = serde_json::Value::Null;
    until("it is on record", || {
        users.scene.server.flush_log();
        let path = users.scene.directory.path().join("server.jsonl");
        let text = std::fs::read_to_string(path).unwrap();
        let found = text
            .lines()
            .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap())
            .find(|line| line["connection_termination_details"] == "token_no_longer_accepted");
        line = found.unwrap_or_default();
        !line.is_null()
    });
    assert_eq!(line["decision"], "deny", "{line}");
    assert!(line["decision_id"].is_string(), "{line}");
}

#[test]
fn streams_end_when_policy_wants_another_claim_and_expiry_alone_ends_none() {
    let users = users(|_| {});
    let short = token(&users.key, json!({ "exp": now() - 57 }));
    let mut client = open(&users, &short);
    until("it has expired", || {
        ask(&users, &bearer(&short)).starts_with("HTTP/1.1 401 ")
    });
    // Judged again by a change that lets it be.
    users
        .scene
        .change_server(vec![policy(vec![cleared(&["SECRET", "TOP SECRET"])])]);
    let top = token(&users.key, json!({ "clearance": "TOP SECRET" }));
    assert!(ask(&users, &bearer(&top)).starts_with("HTTP/1.1 200 "));
    assert!(is_open(&mut client));
    users
        .scene
        .change_server(vec![policy(vec![cleared(&["TOP SECRET"])])]);
    ends_within_a_second(&mut client);
    until("it is counted", || {
        let labels = ["direction=\"inbound\"", "reason=\"policy\""];
        let metrics = users.scene.server.metrics();
        metric(&metrics, "bartizan_connections_judged_closed_total", &labels) == 1.0
    });
}

#[test]
fn two_issuers_at_one_place_are_told_apart_also_when_remembered() {
    let users = users(|_| {});
    let key = generate_key(Algorithm::EdDsa).unwrap();
    let second = JwtRule {
        issuer: Some("https://second.example".into()),
        keys: KeySource::Inline(key.to_public_jwks().unwrap().into()),
        ..users.rule.clone()
    };
    users
        .scene
        .change_server(vec![authentication(vec![users.rule.clone(), second])]);
    let tokens = [
        token(&users.key, json!({})),
        token(&key, json!({ "iss": "https://second.example" })),
    ];
    for _ in 0..3 {
        for token in &tokens {
            let answer = ask(&users, &bearer(token));
            assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        }
    }
    // The second issuer may not speak for the first.
    let stolen = token(&key, json!({}));
    for _ in 0..2 {
        assert!(ask(&users, &bearer(&stolen)).starts_with("HTTP/1.1 401 "));
    }
    let metrics = users.scene.server.metrics();
    assert_eq!(metric(&metrics, "bartizan_jwt_verified_total", &[]), 2.0);
}

#[tokio::test]
async fn a_call_with_a_bad_token_gets_unauthenticated_as_trailers_only() {
    let users = users(|_| {});
    let stream = tokio::net::TcpStream::connect(users.scene.outbound)
        .await
        .unwrap();
    let (send, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    let mut send = send.ready().await.unwrap();
    let request = http::Request::post("http://cart/v1.Ingest/Put")
        .header("content-type", "application/grpc")
        .header("authorization", "Bearer a.b.c")
        .body(())
        .unwrap();
    let (response, _) = send.send_request(request, true).unwrap();
    let response = response.await.unwrap();
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["grpc-status"], "16");
    assert!(response.headers().contains_key("x-bartizan-decision"));
    assert!(response.headers().contains_key("www-authenticate"));
}

/// Resources that a workload takes no notice of keep what it remembers.
#[test]
fn a_change_that_is_about_something_else_forgets_no_token() {
    let users = users(|_| {});
    let good = token(&users.key, json!({}));
    assert!(ask(&users, &bearer(&good)).starts_with("HTTP/1.1 200 "));
    let other = crate::scene::policy_of("shop/other", bartizan_mesh::Action::Deny, Vec::new());
    users.scene.change_server(vec![other]);
    assert!(ask(&users, &bearer(&good)).starts_with("HTTP/1.1 200 "));
    let metrics = users.scene.server.metrics();
    assert_eq!(metric(&metrics, "bartizan_jwt_verified_total", &[]), 1.0);
}

#[test]
fn where_people_come_a_request_without_a_user_is_told_to_bring_one() {
    let users = users(|_| {});
    let plan = Plan::new(users.app.address);
    let Resource::View(view) = with_users(&plan, &users.scene) else {
        unreachable!()
    };
    users.scene.change_server(vec![
        Resource::Settings(Settings {
            trust_domain: TrustDomain::parse("cluster.local").unwrap(),
            root_namespace: Name::parse("istio-system").unwrap(),
            cluster_domain: Hostname::parse("cluster.local").unwrap(),
            profile: Profile {
                user_credentials: UserCredentials::WhereMarked,
                ..Profile::zero_trust()
            },
            paths: PathRule::RefuseAmbiguous,
        }),
        Resource::View(View {
            is_for_people: true,
            ..view
        }),
        policy(vec![allow("web", &[])]),
    ]);
    let answer = ask(&users, "");
    assert!(answer.starts_with("HTTP/1.1 401 "), "{answer}");
    assert!(
        answer.contains("www-authenticate: Bearer realm=\"http://cart/\"\r\n"),
        "{answer}"
    );
    assert!(answer.contains("x-bartizan-decision: "), "{answer}");
    let good = token(&users.key, json!({}));
    assert!(ask(&users, &bearer(&good)).starts_with("HTTP/1.1 200 "));
    let log = users.scene.server_log(2);
    assert_eq!(log[0]["response_code_details"], "no_user_credential");
}

#[tokio::test]
async fn a_stream_of_http2_is_reset_when_its_users_key_is_gone() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let app = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut connection = h2::server::handshake(stream).await.unwrap();
                let mut open = Vec::new();
                while let Some(Ok((_, mut respond))) = connection.accept().await {
                    let mut body = respond.send_response(http::Response::new(()), false).unwrap();
                    body.send_data("hello".into(), false).unwrap();
                    open.push(body);
                }
            });
        }
    });
    let key = generate_key(Algorithm::Es256).unwrap();
    let plan = Plan {
        protocol: bartizan_types::Protocol::Http2,
        rules: vec![cleared(&["SECRET"])],
        ..Plan::new(app)
    };
    let scene = Scene::new(&plan);
    scene.change_server(vec![with_users(&plan, &scene), authentication(vec![rule(&key)])]);
    let stream = tokio::net::TcpStream::connect(scene.outbound).await.unwrap();
    let (send, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    let mut send = send.ready().await.unwrap();
    let request = http::Request::get("http://cart/events")
        .header("authorization", format!("Bearer {}", token(&key, json!({}))))
        .body(())
        .unwrap();
    let (response, _) = send.send_request(request, true).unwrap();
    let response = response.await.unwrap();
    assert_eq!(response.status(), 200);
    let mut body = response.into_body();
    assert_eq!(body.data().await.unwrap().unwrap(), "hello");
    let begin = Instant::now();
    let other = generate_key(Algorithm::Es256).unwrap();
    scene.change_server(vec![authentication(vec![rule(&other)])]);
    let ended = tokio::time::timeout(crate::scene::PATIENCE, body.data())
        .await
        .unwrap();
    assert!(matches!(ended, Some(Err(_))), "{ended:?}");
    assert!(begin.elapsed() < Duration::from_secs(1));
    let log = scene.server_log(1);
    assert_eq!(log[0]["response_code_details"], "token_no_longer_accepted");
    assert!(log[0]["decision_id"].is_string() && log[0]["request_auth_error"].is_string());
}
