//! What an explanation says, and that the change it proposes is one.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use bartizan_mesh::{
    Condition, JwtRule, KeySource, Matcher, Operation, PathMatch, PolicyKind, RemoteAddress, Resource, Rule,
    Snapshot, Source, Transaction, View,
};
use bartizan_types::{Labels, NamespacedName, Peer, SpiffeId, StringMatch, Version};

use super::*;
use crate::authenticate::{Keys, TokenRule};
use crate::facts::NoHeaders;

fn name(text: &str) -> NamespacedName {
    NamespacedName::parse(text).unwrap()
}

fn engine(policies: Vec<Policy>, mtls: MtlsMode) -> Engine {
    let view = Resource::View(View {
        workload: name("here/app-0"),
        identity: SpiffeId::parse("spiffe://cluster.local/ns/here/sa/app").unwrap(),
        labels: Labels::from([("app".to_owned(), "app".to_owned())]),
        policies: policies.iter().map(Policy::id).collect(),
        authentications: Vec::new(),
        is_for_people: false,
        remote: RemoteAddress::default(),
        mtls,
        inbound: Vec::new(),
        gateway: None,
    });
    Engine::build(Arc::new(Snapshot::default().apply(&Transaction {
        version: Version(1),
        upserts: policies.into_iter().map(Resource::Policy).chain([view]).collect(),
        removals: Vec::new(),
    })))
}

fn explained(engine: &Engine, peer: &Peer, method: &str, target: &str) -> Explanation {
    explain_http(
        engine,
        &HttpFacts {
            connection: ConnectionFacts {
                local: &name("here/app-0"),
                peer,
                source: IpAddr::from([10, 66, 0, 1]),
                destination: SocketAddr::from(([10, 66, 0, 2], 8080)),
                remote: IpAddr::from([10, 66, 0, 1]),
                sni: None,
                tls: None,
                now: 0,
            },
            method,
            authority: Some("app"),
            target,
            headers: &NoHeaders,
            user: None,
            route_is_for_people: false,
        },
    )
}

fn only(text: &str) -> Matcher<StringMatch> {
    Matcher {
        any: vec![StringMatch::parse(text)],
        none: Vec::new(),
    }
}

fn ingest() -> Policy {
    Policy {
        kind: PolicyKind::AuthorizationPolicy,
        name: name("here/ingest"),
        action: Action::Allow,
        provider: None,
        dry_run: false,
        rules: vec![Rule {
            from: vec![Source {
                principals: only("cluster.local/ns/a/sa/processor"),
                ..Source::default()
            }],
            to: vec![Operation {
                methods: only("POST"),
                paths: Matcher {
                    any: vec![PathMatch::Text(StringMatch::parse("/v1/ingest/*"))],
                    none: Vec::new(),
                },
                ..Operation::default()
            }],
            ..Rule::default()
        }],
    }
}

#[test]
fn a_denial_names_the_field_and_the_change() {
    let peer = Peer::Authenticated(SpiffeId::parse("spiffe://cluster.local/ns/a/sa/query").unwrap());
    let explanation = explained(
        &engine(vec![ingest()], MtlsMode::Strict),
        &peer,
        "POST",
        "/v1/ingest/%22x%22?q",
    );
    assert_eq!(
        explanation.to_string(),
        "denied: no rule of an ALLOW policy matched\n\
         path as policies see it: /v1/ingest/\"x\"\n\
         ALLOW here/ingest\n\
         \x20 rules[0] does not match\n\
         \x20   rules[0].from[0].source.principals: no wanted value matches: wanted \
         [cluster.local/ns/a/sa/processor], found cluster.local/ns/a/sa/query\n\
         what would let it pass:\n\
         apiVersion: security.istio.io/v1\n\
         kind: AuthorizationPolicy\n\
         metadata: { name: allow-app-0, namespace: here }\n\
         spec:\n\
         \x20 selector: { matchLabels: { app: \"app\" } }\n\
         \x20 action: ALLOW\n\
         \x20 rules:\n\
         \x20 - from:\n\
         \x20   - source: { principals: [\"cluster.local/ns/a/sa/query\"] }\n\
         \x20   to:\n\
         \x20   - operation: { ports: [\"8080\"], methods: [\"POST\"], paths: [\"/v1/ingest/\\\"x\\\"\"] }\n"
    );
    let json = serde_json::to_value(&explanation).unwrap();
    assert_eq!(
        json.pointer("/policies/0/rules/0/failed/0/field").unwrap(),
        "rules[0].from[0].source.principals"
    );
}

#[test]
fn a_deny_rule_is_named_to_be_narrowed_and_plaintext_gets_its_own_advice() {
    let deny = Policy {
        kind: PolicyKind::AuthorizationPolicy,
        name: name("here/deny"),
        action: Action::Deny,
        provider: None,
        dry_run: false,
        rules: vec![Rule::default()],
    };
    let explanation = explained(
        &engine(vec![deny], MtlsMode::Permissive),
        &Peer::Plaintext,
        "GET",
        "/",
    );
    assert_eq!(
        explanation.change.as_deref(),
        Some("# narrow or remove rules[0] of AuthorizationPolicy `here/deny`\n")
    );
    let explanation = explained(
        &engine(vec![ingest()], MtlsMode::Strict),
        &Peer::Plaintext,
        "GET",
        "/",
    );
    assert!(explanation.change.unwrap().contains("kind: PeerAuthentication"));
    let explanation = explained(
        &engine(vec![ingest()], MtlsMode::Permissive),
        &Peer::Plaintext,
        "GET",
        "//",
    );
    assert!(!explanation.allowed && explanation.canonical_path.is_none());
    assert!(explanation.change.unwrap().contains("plain form"));
}

#[test]
fn long_lists_are_cut() {
    let mut policy = ingest();
    policy.rules[0].from[0].principals.any = (0..100)
        .map(|at| StringMatch::parse(&format!("cluster.local/ns/a/sa/s{at}")))
        .collect();
    let explanation = explained(
        &engine(vec![policy], MtlsMode::Permissive),
        &Peer::Plaintext,
        "GET",
        "/",
    );
    let wanted = &explanation.policies[0].rules[0].failed[0].wanted;
    assert_eq!(
        (wanted.len(), wanted.last().map(String::as_str)),
        (17, Some("and 84 more"))
    );
}

#[test]
fn a_path_that_reads_as_a_pattern_is_not_proposed() {
    let peer = Peer::Authenticated(SpiffeId::parse("spiffe://cluster.local/ns/a/sa/query").unwrap());
    for target in ["/*", "/v1/{**}"] {
        let change = explained(&engine(vec![ingest()], MtlsMode::Strict), &peer, "GET", target)
            .change
            .unwrap();
        assert!(
            change.starts_with("# no policy can allow exactly the path"),
            "{change}"
        );
    }
}

fn user(claims: &serde_json::Value) -> User {
    let rule = TokenRule {
        policy: name("here/users"),
        index: 1,
        rule: JwtRule {
            issuer: None,
            audiences: Vec::new(),
            keys: KeySource::Inline("{}".into()),
            locations: Vec::new(),
            forward_original_token: false,
            output_payload_to_header: None,
            output_claims: Vec::new(),
            space_delimited_claims: Vec::new(),
        },
        keys: Keys::Missing { set: "k".into() },
    };
    User::new(
        &rule,
        "a.b.c",
        claims.as_object().cloned().unwrap(),
        Some("key-1"),
    )
}

fn with_user(engine: &Engine, user: Option<&User>) -> Explanation {
    explain_http(
        engine,
        &HttpFacts {
            connection: ConnectionFacts {
                local: &name("here/app-0"),
                peer: &Peer::Authenticated(SpiffeId::parse("spiffe://cluster.local/ns/a/sa/edge").unwrap()),
                source: IpAddr::from([10, 66, 0, 1]),
                destination: SocketAddr::from(([10, 66, 0, 2], 8080)),
                remote: IpAddr::from([10, 66, 0, 1]),
                sni: None,
                tls: None,
                now: 0,
            },
            method: "GET",
            authority: Some("app"),
            target: "/secret",
            headers: &NoHeaders,
            user,
            route_is_for_people: false,
        },
    )
}

fn clearance() -> Policy {
    let mut policy = ingest();
    policy.rules = vec![Rule {
        from: vec![Source {
            request_principals: only("i/*"),
            ..Source::default()
        }],
        when: vec![Condition::RequestClaim(
            vec!["realm".into(), "clearance_level".into()],
            only("SECRET"),
        )],
        ..Rule::default()
    }];
    policy
}

#[test]
fn a_user_with_too_low_a_claim_gets_a_change_that_is_for_that_claim() {
    let claims = serde_json::json!({ "iss": "i", "sub": "alice", "realm": { "clearance_level": "LOW" } });
    let explanation = with_user(&engine(vec![clearance()], MtlsMode::Strict), Some(&user(&claims)));
    let failed = &explanation.policies[0].rules[0].failed[0];
    assert_eq!(failed.field, "rules[0].when[0].values");
    assert!(failed.key.is_some(), "{failed:?}");
    assert_eq!(failed.found.as_deref(), Some("\"LOW\""));
    let told = explanation.user.as_ref().unwrap();
    assert_eq!(told.accepted_by, "RequestAuthentication here/users jwtRules[1]");
    assert_eq!(told.key_id.as_deref(), Some("key-1"));
    let change = explanation.change.unwrap();
    for part in [
        "source: { principals: [\"cluster.local/ns/a/sa/edge\"], requestPrincipals: [\"i/alice\"] }",
        "    when:\n    - key: \"request.auth.claims[realm][clearance_level]\"\n      values: [\"LOW\"]\n",
    ] {
        assert!(change.contains(part), "{change}");
    }
}

#[test]
fn a_claim_that_reads_as_a_pattern_is_not_proposed() {
    let claims = serde_json::json!({ "iss": "i", "sub": "*", "realm": { "clearance_level": "*" } });
    let explanation = with_user(&engine(vec![clearance()], MtlsMode::Strict), Some(&user(&claims)));
    assert_eq!(
        explanation.change.as_deref(),
        Some("# no policy can name exactly this user\n")
    );
}

#[test]
fn who_sends_no_token_is_told_how_one_is_sent() {
    let explanation = with_user(&engine(vec![clearance()], MtlsMode::Strict), None);
    assert!(
        explanation.reason.contains("for a request with a user's token"),
        "{}",
        explanation.reason
    );
    let change = explanation.change.unwrap();
    assert!(change.contains("kind: RequestAuthentication"), "{change}");
}

#[test]
fn an_expression_tells_what_it_read() {
    let mut policy = ingest();
    policy.kind = PolicyKind::AccessRule;
    policy.rules = vec![Rule {
        expression: Some("source.namespace == \"b\" && request.path == \"/x\"".into()),
        ..Rule::default()
    }];
    let explanation = with_user(&engine(vec![policy], MtlsMode::Strict), None);
    let rule = &explanation.policies[0].rules[0];
    assert_eq!(rule.failed[0].found.as_deref(), Some("source.namespace = \"a\""));
    assert_eq!(rule.expression.as_ref().unwrap().value, Some(false));
    assert_eq!(explanation.policies[0].kind, "AccessRule");
}

#[test]
fn an_explanation_names_the_authorizers_and_what_would_come_after_them() {
    let mut ask = ingest();
    ask.name = name("here/ask");
    ask.action = Action::Custom;
    ask.provider = Some("opa".into());
    ask.rules = vec![Rule::default()];
    let mut allow = ingest();
    allow.rules = vec![Rule::default()];
    let before = engine(vec![ask, allow], MtlsMode::Strict);
    let provider = Resource::Provider(bartizan_mesh::Provider {
        name: "opa".into(),
        service: name("auth/opa"),
        port: bartizan_types::Port::new(9191).unwrap(),
        timeout_ms: 1,
        fail_open: false,
        status_on_error: 403,
        body: None,
        clear_route_cache: false,
        protocol: ProviderProtocol::Grpc,
    });
    assert_eq!(
        with_user(&before, None)
            .change
            .as_deref()
            .map(|change| change.starts_with("# declare \"opa\"")),
        Some(true)
    );
    let with = before.next(Arc::new(before.snapshot().apply(&Transaction {
        version: Version(2),
        upserts: vec![provider],
        removals: Vec::new(),
    })));
    let explanation = with_user(&with, None);
    assert!(explanation.allowed, "{explanation}");
    assert_eq!(explanation.asks[0].provider, "opa");
    assert!(explanation.to_string().contains("asked first: authorizer `opa`"));
}
