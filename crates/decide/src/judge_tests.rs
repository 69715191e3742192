//! Changes, and which open connections they close.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use bartizan_mesh::{
    Action, Matcher, MtlsMode, PathRule, Policy, PolicyKind, PolicyName, Profile, RemoteAddress, Resource,
    Rule, Settings, Snapshot, Source, Transaction, View,
};
use bartizan_types::{
    Hostname, Labels, Name, NamespacedName, Peer, SpiffeId, StringMatch, TrustDomain, Version,
};

use super::*;
use crate::authenticate::authenticate;
use crate::authorize::{Reason, authorize_tcp};
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
