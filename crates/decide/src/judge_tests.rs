//! Changes, and which open connections they close.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use bartizan_mesh::{
    Action, JwtRule, KeySet, KeySource, Matcher, MtlsMode, PathRule, Policy, PolicyKind, PolicyName, Profile,
    Provider, ProviderProtocol, RemoteAddress, RequestAuthentication, Resource, Rule, Settings, Snapshot,
    Source, TokenLocation, Transaction, View,
};
use bartizan_types::{
    Hostname, Labels, Name, NamespacedName, Peer, SpiffeId, StringMatch, TrustDomain, Version,
};

use super::*;
use crate::authenticate::{Keys, RefusedKind, authenticate};
use crate::authorize::authorize_tcp;
use crate::denied::Reason;
use crate::facts::NoHeaders;

fn name(text: &str) -> NamespacedName {
    NamespacedName::parse(text).unwrap()
}

fn policy(text: &str, action: Action, principal: &str) -> Resource {
    Resource::Policy(Policy {
        kind: PolicyKind::AuthorizationPolicy,
        name: name(text),
        action,
        provider: None,
        dry_run: false,
        rules: vec![Rule {
            from: vec![Source {
                principals: Matcher {
                    any: vec![StringMatch::parse(principal)],
                    none: Vec::new(),
                },
                ..Source::default()
            }],
            ..Rule::default()
        }],
    })
}

fn policy_name(text: &str) -> PolicyName {
    PolicyName {
        kind: PolicyKind::AuthorizationPolicy,
        name: name(text),
    }
}

/// A request without a token.
fn nobody(engine: &Engine, facts: &HttpFacts<'_, NoHeaders>) -> Authenticated {
    authenticate(engine, facts, |_, _| unreachable!("there is no token")).unwrap()
}

fn view(mtls: MtlsMode, policies: &[&str]) -> Resource {
    Resource::View(View {
        workload: name("here/app-0"),
        identity: SpiffeId::parse("spiffe://cluster.local/ns/here/sa/app").unwrap(),
        labels: Labels::new(),
        policies: policies.iter().map(|policy| policy_name(policy)).collect(),
        authentications: Vec::new(),
        is_for_people: false,
        remote: RemoteAddress::default(),
        mtls,
        inbound: Vec::new(),
        gateway: None,
    })
}

fn settings(profile: Profile) -> Resource {
    Resource::Settings(Settings {
        trust_domain: TrustDomain::parse("cluster.local").unwrap(),
        root_namespace: Name::parse("istio-system").unwrap(),
        cluster_domain: Hostname::parse("cluster.local").unwrap(),
        profile,
        paths: PathRule::RefuseAmbiguous,
    })
}

fn after(engine: &Engine, upserts: Vec<Resource>) -> Engine {
    let version = Version(engine.snapshot().version().0 + 1);
    engine.next(Arc::new(engine.snapshot().apply(&Transaction {
        version,
        upserts,
        removals: Vec::new(),
    })))
}

fn start() -> Engine {
    after(
        &Engine::build(Arc::new(Snapshot::default())),
        vec![
            settings(Profile::zero_trust()),
            policy("here/allow", Action::Allow, "*"),
            view(MtlsMode::Permissive, &["here/allow"]),
        ],
    )
}

/// Whether a TCP connection, a request in flight and an idle connection of this peer stay.
fn stay(old: &Engine, new: &Engine, peer: &Peer) -> [bool; 3] {
    let local = name("here/app-0");
    let connection = ConnectionFacts {
        local: &local,
        peer,
        source: IpAddr::from([10, 66, 0, 1]),
        destination: SocketAddr::from(([10, 66, 0, 2], 80)),
        remote: IpAddr::from([10, 66, 0, 1]),
        sni: None,
        tls: None,
        now: 0,
    };
    let http = HttpFacts {
        connection,
        method: "GET",
        authority: None,
        target: "/",
        headers: &NoHeaders,
        user: None,
        route_is_for_people: false,
    };
    [
        judge_again_tcp(old, new, &connection).is_ok(),
        judge_again_http(old, new, &http, &nobody(old, &http), |_, _| unreachable!()).is_ok(),
        judge_again_connection(old, new, &connection).is_ok(),
    ]
}

fn peer(account: &str) -> Peer {
    Peer::Authenticated(SpiffeId::parse(&format!("spiffe://cluster.local/ns/a/sa/{account}")).unwrap())
}

#[test]
fn only_what_the_change_denies_is_closed() {
    let old = start();
    let new = after(
        &old,
        vec![
            policy("here/deny", Action::Deny, "cluster.local/ns/a/sa/x"),
            view(MtlsMode::Permissive, &["here/allow", "here/deny"]),
        ],
    );
    assert_eq!(stay(&old, &new, &peer("x")), [false, false, true]);
    assert_eq!(stay(&old, &new, &peer("y")), [true, true, true]);
}

#[test]
fn a_changed_policy_of_the_same_name_is_seen() {
    let old = start();
    let new = after(
        &old,
        vec![policy("here/allow", Action::Allow, "cluster.local/ns/a/sa/y")],
    );
    assert_eq!(stay(&old, &new, &peer("x")), [false, false, true]);
    assert_eq!(stay(&old, &new, &peer("y")), [true, true, true]);
}

#[test]
fn strict_closes_plaintext_and_nothing_else() {
    let old = after(
        &start(),
        vec![Resource::Policy(Policy {
            kind: PolicyKind::AuthorizationPolicy,
            name: name("here/allow"),
            action: Action::Allow,
            provider: None,
            dry_run: false,
            rules: vec![Rule::default()],
        })],
    );
    assert_eq!(stay(&old, &old, &Peer::Plaintext), [true; 3]);
    let new = after(&old, vec![view(MtlsMode::Strict, &["here/allow"])]);
    assert_eq!(stay(&old, &new, &Peer::Plaintext), [false; 3]);
    assert_eq!(stay(&old, &new, &peer("x")), [true; 3]);
}

#[test]
fn a_change_of_the_profile_is_a_change_of_the_decision() {
    let old = after(
        &start(),
        vec![settings(Profile::istio()), view(MtlsMode::Permissive, &[])],
    );
    assert_eq!(stay(&old, &old, &peer("x")), [true; 3]);
    let new = after(&old, vec![settings(Profile::zero_trust())]);
    assert_eq!(stay(&old, &new, &peer("x")), [false, false, true]);
}

#[test]
fn what_does_not_concern_a_workload_is_not_compiled_again() {
    let old = start();
    let new = after(&old, vec![policy("elsewhere/deny", Action::Deny, "*")]);
    assert!(new.decides_alike(&old, &name("here/app-0")));
    assert_eq!(stay(&old, &new, &peer("x")), [true; 3]);
    let same = after(&old, vec![policy("here/allow", Action::Allow, "*")]);
    assert!(
        same.decides_alike(&old, &name("here/app-0")),
        "an equal resource is no change"
    );
}

#[test]
fn a_workload_that_is_gone_keeps_nothing() {
    let old = start();
    let new = Engine::build(Arc::new(Snapshot::default()));
    assert_eq!(stay(&old, &new, &peer("x")), [false; 3]);
}

#[test]
fn a_permit_of_another_version_names_no_rule() {
    let old = start();
    let new = after(&old, vec![view(MtlsMode::Permissive, &[])]);
    let local = name("here/app-0");
    let peer = peer("x");
    let connection = ConnectionFacts {
        local: &local,
        peer: &peer,
        source: IpAddr::from([10, 66, 0, 1]),
        destination: SocketAddr::from(([10, 66, 0, 2], 80)),
        remote: IpAddr::from([10, 66, 0, 1]),
        sni: None,
        tls: None,
        now: 0,
    };
    let permit = authorize_tcp(&old, &connection).unwrap().permit().unwrap();
    assert_eq!(
        old.allowed_by(&permit).unwrap().to_string(),
        "ns[here]-policy[allow]-rule[0]"
    );
    assert_eq!(new.allowed_by(&permit), None);
    assert_eq!(
        authorize_tcp(&new, &connection).unwrap_err().reason,
        Reason::NoAllowPolicy
    );
}

const ALICE: &str = "alice.payload.signature";

/// Rules for tokens whose keys have this text.
fn tokens(jwks: &str) -> Vec<Resource> {
    vec![
        Resource::RequestAuthentication(RequestAuthentication {
            name: name("here/users"),
            rules: vec![JwtRule {
                issuer: Some("i".into()),
                audiences: Vec::new(),
                keys: KeySource::Fetched("keys".into()),
                locations: vec![TokenLocation::Header {
                    name: "authorization".into(),
                    prefix: "Bearer ".into(),
                }],
                forward_original_token: false,
                output_payload_to_header: None,
                output_claims: Vec::new(),
                space_delimited_claims: Vec::new(),
            }],
            is_unreadable: false,
        }),
        Resource::KeySet(KeySet {
            name: "keys".into(),
            source: "https://i.example/jwks".into(),
            jwks: Some(jwks.into()),
            fetched_at: 1,
        }),
    ]
}

fn with_users(view_of: &[&str]) -> Resource {
    let Resource::View(view) = view(MtlsMode::Permissive, view_of) else {
        unreachable!("a view");
    };
    Resource::View(View {
        authentications: vec![name("here/users")],
        ..view
    })
}

/// `alice` is verified by `key-1`, until a minute after the second 1000.
fn verify(rule: &Arc<TokenRule>, token: &str, now: i64) -> Result<Arc<User>, TokenRefused> {
    assert_eq!(token, ALICE);
    let refused = |says| Err(TokenRefused::new(RefusedKind::Other, says, String::new()));
    let Keys::Text { jwks, .. } = &rule.keys else {
        return refused("without keys nobody is asked");
    };
    if !jwks.contains("key-1") {
        return refused("Jwt verification fails");
    }
    if now >= 1060 {
        return refused("Jwt is expired");
    }
    let claims = serde_json::json!({ "iss": "i", "sub": "alice", "exp": 1000 });
    let claims = claims.as_object().cloned().unwrap();
    Ok(Arc::new(User::new(rule, token, claims, Some("key-1"))))
}

/// What becomes of alice's stream, which began under `old` at the second 900.
fn alice_stays(old: &Engine, new: &Engine, now: i64) -> Result<(), Reason> {
    let (local, peer) = (name("here/app-0"), peer("x"));
    let headers = vec![("authorization".to_owned(), format!("Bearer {ALICE}"))];
    let at = |now| HttpFacts {
        connection: ConnectionFacts {
            local: &local,
            peer: &peer,
            source: IpAddr::from([10, 66, 0, 1]),
            destination: SocketAddr::from(([10, 66, 0, 2], 80)),
            remote: IpAddr::from([10, 66, 0, 1]),
            sni: None,
            tls: None,
            now,
        },
        method: "GET",
        authority: None,
        target: "/",
        headers: &headers,
        user: None,
        route_is_for_people: false,
    };
    let accepted = authenticate(old, &at(900), |rule, token| verify(rule, token, 900)).unwrap();
    assert_eq!(accepted.expires_at(), Some(1060));
    let facts = HttpFacts {
        user: accepted.user.as_deref(),
        ..at(now)
    };
    judge_again_http(old, new, &facts, &accepted, |rule, token| {
        verify(rule, token, now)
    })
    .map_err(|denied| denied.reason)
}

fn start_with_users() -> Engine {
    let mut resources = tokens("key-1 key-2");
    resources.push(with_users(&["here/allow"]));
    after(&start(), resources)
}

#[test]
fn a_token_is_judged_again_by_its_keys() {
    let old = start_with_users();
    assert_eq!(alice_stays(&old, &old, 950), Ok(()));
    let rolled = after(&old, tokens("key-1 key-3"));
    assert_eq!(alice_stays(&old, &rolled, 950), Ok(()), "her key is still there");
    let gone = after(&old, tokens("key-3"));
    assert_eq!(
        alice_stays(&old, &gone, 950),
        Err(Reason::TokenRefused("Jwt verification fails".to_owned()))
    );
    let no_rules =
        Resource::RequestAuthentication(RequestAuthentication::refuse_everything(name("here/users")));
    assert!(matches!(
        alice_stays(&old, &after(&old, vec![no_rules]), 950),
        Err(Reason::TokenRefused(_))
    ));
}

#[test]
fn a_token_is_judged_again_by_the_time() {
    let old = start_with_users();
    assert_eq!(alice_stays(&old, &old, 1059), Ok(()));
    assert_eq!(
        alice_stays(&old, &old, 1060),
        Err(Reason::TokenRefused("Jwt is expired".to_owned()))
    );
}

#[test]
fn a_refetch_of_the_same_keys_is_no_change() {
    let old = start_with_users();
    let mut keys = tokens("key-1 key-2");
    if let Some(Resource::KeySet(keys)) = keys.last_mut() {
        keys.fetched_at = 2;
    }
    let new = after(&old, keys);
    assert!(new.decides_alike(&old, &name("here/app-0")));
    let changed = after(&old, tokens("key-1"));
    assert!(!changed.decides_alike(&old, &name("here/app-0")));
}

#[test]
fn a_user_is_judged_again_by_policy() {
    let old = start_with_users();
    let only = |subject: &str| {
        Resource::Policy(Policy {
            kind: PolicyKind::AuthorizationPolicy,
            name: name("here/allow"),
            action: Action::Allow,
            provider: None,
            dry_run: false,
            rules: vec![Rule {
                from: vec![Source {
                    request_principals: Matcher {
                        any: vec![StringMatch::parse(subject)],
                        none: Vec::new(),
                    },
                    ..Source::default()
                }],
                ..Rule::default()
            }],
        })
    };
    assert_eq!(
        alice_stays(&old, &after(&old, vec![only("i/alice")]), 950),
        Ok(())
    );
    assert_eq!(
        alice_stays(&old, &after(&old, vec![only("i/bob")]), 950),
        Err(Reason::NoAllowMatched)
    );
}

/// A CUSTOM policy that asks an authorizer, and the authorizer.
fn asks(provider: &str) -> Vec<Resource> {
    vec![
        Resource::Policy(Policy {
            kind: PolicyKind::AuthorizationPolicy,
            name: name("here/ask"),
            action: Action::Custom,
            provider: Some(provider.into()),
            dry_run: false,
            rules: vec![Rule::default()],
        }),
        Resource::Provider(Provider {
            name: provider.into(),
            service: name("auth/opa"),
            port: bartizan_types::Port::new(9191).unwrap(),
            timeout_ms: 1_000,
            fail_open: false,
            status_on_error: 403,
            body: None,
            clear_route_cache: false,
            protocol: ProviderProtocol::Grpc,
        }),
        view(MtlsMode::Permissive, &["here/allow", "here/ask"]),
    ]
}

#[test]
fn an_authorizer_that_was_asked_is_not_asked_again_and_one_that_was_not_refuses() {
    let without = start();
    let old = after(&without, asks("opa"));
    assert_eq!(stay(&old, &old, &peer("x")), [true; 3]);
    let same = after(&old, vec![policy("here/allow", Action::Allow, "cluster.local/*")]);
    assert_eq!(stay(&old, &same, &peer("x")), [true; 3], "opa has said yes");
    assert_eq!(stay(&without, &old, &peer("x")), [false, false, true]);
    let other = after(&old, asks("other"));
    assert_eq!(stay(&old, &other, &peer("x")), [false, false, true]);
    let mut open = asks("opa");
    if let Some(Resource::Provider(provider)) = open.get_mut(1) {
        provider.fail_open = true;
    }
    assert!(!after(&old, open).decides_alike(&old, &name("here/app-0")));
}

#[test]
fn an_expression_is_judged_again_at_every_change() {
    let rule = |expression: &str| {
        Resource::Policy(Policy {
            kind: PolicyKind::AccessRule,
            name: name("here/hours"),
            action: Action::Deny,
            provider: None,
            dry_run: false,
            rules: vec![Rule {
                expression: Some(expression.into()),
                ..Rule::default()
            }],
        })
    };
    let Resource::View(view) = view(MtlsMode::Permissive, &["here/allow"]) else {
        unreachable!("a view");
    };
    let mut policies = view.policies.clone();
    policies.push(PolicyName {
        kind: PolicyKind::AccessRule,
        name: name("here/hours"),
    });
    let view = Resource::View(View { policies, ..view });
    let old = after(&start(), vec![rule("now.getHours() == 5"), view]);
    assert_eq!(stay(&old, &old, &peer("x")), [true; 3]);
    assert!(
        !old.decides_alike(&old, &name("here/app-0")),
        "what it reads changes without a change of it"
    );
    let new = after(&old, vec![rule("now.getHours() == 0")]);
    assert_eq!(stay(&old, &new, &peer("x")), [false, false, true]);
    assert!(new.problems().is_empty());
    let broken = after(&old, vec![rule("now.")]);
    assert_eq!(stay(&old, &broken, &peer("x")), [false, false, true], "closed");
    assert_eq!(broken.problems().len(), 1);
}
