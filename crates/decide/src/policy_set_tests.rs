//! What a decision costs, counted in rules that are matched in full.

use std::net::{IpAddr, SocketAddr};

use bartizan_mesh::{
    JwtRule, KeySource, Matcher, MtlsMode, Operation, PolicyKind, RemoteAddress, Resource, Snapshot, Source,
    Transaction, View,
};
use bartizan_types::{Labels, NamespacedName, Peer, Port, SpiffeId, Version};

use super::*;
use crate::authenticate::{Keys, TokenRule};
use crate::authorize::{http_subject, tcp_subject};
use crate::engine::Engine;
use crate::facts::{ConnectionFacts, HttpFacts, NoHeaders};
use crate::user::User;

/// The engine of one workload without policies.
fn engine(workload: &NamespacedName) -> Engine {
    let view = View {
        workload: workload.clone(),
        identity: SpiffeId::parse("spiffe://cluster.local/ns/here/sa/app").unwrap(),
        labels: Labels::new(),
        policies: Vec::new(),
        authentications: Vec::new(),
        is_for_people: false,
        remote: RemoteAddress::default(),
        mtls: MtlsMode::Permissive,
        inbound: Vec::new(),
        gateway: None,
    };
    Engine::build(Arc::new(Snapshot::default().apply(&Transaction {
        version: Version(1),
        upserts: vec![Resource::View(view)],
        removals: Vec::new(),
    })))
}

/// `https://issuer.example/alice` of the tenant `t`.
fn user() -> User {
    let rule = TokenRule {
        policy: NamespacedName::parse("here/users").unwrap(),
        index: 0,
        rule: JwtRule {
            issuer: None,
            audiences: Vec::new(),
            keys: KeySource::Fetched("keys".into()),
            locations: Vec::new(),
            forward_original_token: false,
            output_payload_to_header: None,
            output_claims: Vec::new(),
            space_delimited_claims: Vec::new(),
        },
        keys: Keys::Missing { set: "keys".into() },
    };
    let claims = serde_json::json!({ "iss": "https://issuer.example", "sub": "alice", "tenant": "t" });
    User::new(&rule, "a.b.c", claims.as_object().cloned().unwrap(), None)
}

/// How many rules are matched in full for one request (HTTP, TCP).
fn cost(rules: Vec<Rule>, action: Action) -> (usize, usize) {
    let policy = Policy {
        kind: PolicyKind::AuthorizationPolicy,
        provider: None,
        dry_run: false,
        name: NamespacedName::parse("here/many").unwrap(),
        action,
        rules,
    };
    let set = PolicySet::build(&[Arc::new(policy)], PathRule::RefuseAmbiguous);
    let name = NamespacedName::parse("here/app-0").unwrap();
    let engine = engine(&name);
    let (_, local) = engine.local(&name).unwrap();
    let user = user();
    let peer = Peer::Authenticated(SpiffeId::parse("spiffe://cluster.local/ns/a/sa/x").unwrap());
    let connection = ConnectionFacts {
        local: &name,
        peer: &peer,
        source: IpAddr::from([10, 66, 0, 1]),
        destination: SocketAddr::from(([10, 66, 0, 2], 8080)),
        remote: IpAddr::from([10, 66, 0, 1]),
        sni: None,
        tls: None,
        now: 0,
    };
    let http = HttpFacts {
        connection,
        method: "GET",
        authority: Some("app.here"),
        target: "/v1/items/7",
        headers: &NoHeaders,
        user: Some(&user),
        route_is_for_people: false,
    };
    let count = |indexes: &Indexes, http_facts: bool| {
        let index = match action {
            Action::Allow => &indexes.allow,
            Action::Deny => &indexes.deny,
            Action::Audit => &indexes.audit,
            Action::Custom => &indexes.custom,
        };
        let mut count = 0;
        let mut counted = |_| {
            count += 1;
            false
        };
        if http_facts {
            index.find(&http_subject(&engine, local, &http, http.target), &mut counted);
        } else {
            index.find(&tcp_subject(&engine, local, &connection), &mut counted);
        }
        count
    };
    (count(&set.enforced.http, true), count(&set.enforced.tcp, false))
}

fn any<T>(values: impl IntoIterator<Item = T>) -> Matcher<T> {
    Matcher {
        any: values.into_iter().collect(),
        none: Vec::new(),
    }
}

fn text(text: &str) -> StringMatch {
    StringMatch::parse(text)
}

fn from(source: Source) -> Rule {
    Rule {
        from: vec![source],
        ..Rule::default()
    }
}

fn to(operation: Operation) -> Rule {
    Rule {
        to: vec![operation],
        ..Rule::default()
    }
}

/// Rules that cannot match the request, told apart from each other by a field, by their number.
type Kind = (&'static str, Box<dyn Fn(usize) -> Rule>);

fn kinds() -> Vec<Kind> {
    let path = |pattern: String| {
        to(Operation {
            paths: any([PathMatch::Text(text(&pattern))]),
            ..Operation::default()
        })
    };
    vec![
        (
            "principals",
            Box::new(|at| {
                from(Source {
                    principals: any([text(&format!("cluster.local/ns/a/sa/x{at}"))]),
                    ..Source::default()
                })
            }),
        ),
        (
            "principal prefixes",
            Box::new(|at| {
                from(Source {
                    principals: any([text(&format!("cluster.local/ns/n{at}/*"))]),
                    ..Source::default()
                })
            }),
        ),
        (
            "namespaces",
            Box::new(|at| {
                from(Source {
                    namespaces: any([format!("n{at}").into()]),
                    ..Source::default()
                })
            }),
        ),
        (
            "service accounts",
            Box::new(|at| {
                from(Source {
                    service_accounts: any([NamespacedName::parse(&format!("a/y{at}")).unwrap()]),
                    ..Source::default()
                })
            }),
        ),
        (
            "principals by condition",
            Box::new(|at| Rule {
                when: vec![Condition::SourcePrincipal(any([text(&format!(
                    "cluster.local/ns/a/sa/x{at}"
                ))]))],
                ..Rule::default()
            }),
        ),
        (
            "request principals",
            Box::new(|at| {
                from(Source {
                    request_principals: any([text(&format!("https://issuer.example/alice{at}"))]),
                    ..Source::default()
                })
            }),
        ),
        (
            "issuers",
            Box::new(|at| {
                from(Source {
                    request_principals: any([text(&format!("https://issuer{at}.example/*"))]),
                    ..Source::default()
                })
            }),
        ),
        (
            "claims",
            Box::new(|at| Rule {
                when: vec![Condition::RequestClaim(
                    vec!["tenant".into()],
                    any([text(&format!("t{at}"))]),
                )],
                ..Rule::default()
            }),
        ),
        ("paths", Box::new(move |at| path(format!("/v1/items/x{at}")))),
        ("path prefixes", Box::new(move |at| path(format!("/v2/{at}/*")))),
        (
            "path templates",
            Box::new(|at| {
                to(Operation {
                    paths: any([PathMatch::Template(format!("/t{at}/{{*}}/x").into())]),
                    ..Operation::default()
                })
            }),
        ),
        (
            "hosts",
            Box::new(|at| {
                to(Operation {
                    hosts: any([text(&format!("APP{at}.here"))]),
                    ..Operation::default()
                })
            }),
        ),
        (
            "host prefixes",
            Box::new(|at| {
                to(Operation {
                    hosts: any([text(&format!("app{at}.here:*"))]),
                    ..Operation::default()
                })
            }),
        ),
        (
            "the same principal, other paths",
            Box::new(|at| Rule {
                from: from(Source {
                    principals: any([text("cluster.local/ns/a/sa/x")]),
                    ..Source::default()
                })
                .from,
                to: to(Operation {
                    paths: any([PathMatch::Text(text(&format!("/v1/items/x{at}")))]),
                    ..Operation::default()
                })
                .to,
                ..Rule::default()
            }),
        ),
        (
            "a grid of namespaces and paths",
            Box::new(|at| Rule {
                from: from(Source {
                    namespaces: any([if at % 10 == 0 {
                        "a".into()
                    } else {
                        format!("n{}", at % 10).into()
                    }]),
                    ..Source::default()
                })
                .from,
                to: to(Operation {
                    paths: any([PathMatch::Text(text(&if at / 10 % 10 == 0 {
                        format!("/v1/items/x{}", at / 100)
                    } else {
                        format!("/v{}/*", at / 10 % 10 + 1)
                    }))]),
                    ..Operation::default()
                })
                .to,
                ..Rule::default()
            }),
        ),
    ]
}

#[test]
fn rules_that_cannot_match_cost_nothing() {
    for (name, rule) in kinds() {
        for (count, action) in [(1_000, Action::Deny), (10_000, Action::Allow)] {
            let (http, _) = cost((0..count).map(&rule).collect(), action);
            assert!(http <= SMALL_COST, "{count} rules by {name} cost {http}");
        }
    }
}

/// Where few rules are left in a place, they are matched without more division.
const SMALL_COST: usize = 4;

#[test]
fn rules_for_tcp_are_found_by_port_and_identity() {
    let rules = (0..10_000).map(|at: u32| Rule {
        from: from(Source {
            namespaces: any([format!("n{}", at % 100).into()]),
            ..Source::default()
        })
        .from,
        to: to(Operation {
            ports: any([Port::new(1 + at % 5_000).unwrap()]),
            methods: if at.is_multiple_of(2) {
                any([text("PUT")])
            } else {
                Matcher::default()
            },
            ..Operation::default()
        })
        .to,
        ..Rule::default()
    });
    let (_, tcp) = cost(rules.clone().collect(), Action::Deny);
    assert!(tcp <= SMALL_COST, "{tcp}");
    let (_, tcp) = cost(rules.collect(), Action::Allow);
    assert!(tcp <= SMALL_COST, "{tcp}");
}

#[test]
fn the_rule_that_matches_is_a_candidate_among_many() {
    for (name, rule) in kinds() {
        let mut rules: Vec<Rule> = (0..1_000).map(&rule).collect();
        rules.push(Rule {
            from: from(Source {
                namespaces: any(["a".into()]),
                ..Source::default()
            })
            .from,
            ..Rule::default()
        });
        let (http, tcp) = cost(rules, Action::Deny);
        assert!(http > 0 && tcp > 0, "{name}");
    }
}

#[test]
fn rules_with_many_values_in_many_fields_do_not_explode() {
    let rules = (0..40).map(|at| Rule {
        from: from(Source {
            namespaces: any((0..100).map(|n| format!("n{}", (n + at) % 130).into())),
            ..Source::default()
        })
        .from,
        to: to(Operation {
            paths: any((0..100).map(|n| PathMatch::Text(text(&format!("/p{}", (n + at) % 130))))),
            hosts: any((0..100).map(|n| text(&format!("h{}", (n + at) % 130)))),
            ..Operation::default()
        })
        .to,
        ..Rule::default()
    });
    let index_rules: Vec<Rule> = rules.collect();
    let mut copies = 0;
    let index = RuleIndex::build(
        (0..).zip(&index_rules),
        Has {
            http: true,
            user: true,
        },
    );
    index.each(&mut |_| copies += 1);
    // 40 rules of 300 values each, and each at least once.
    assert!((40..=2 * 40 * 300 + 1_000 + 40).contains(&copies), "{copies}");
}
