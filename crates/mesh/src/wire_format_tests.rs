//! Bodies, digests and the last-good file.

use std::collections::BTreeMap;

use bartizan_types::{Labels, Name, Port, Protocol, SpiffeId, StringMatch};
use proptest::prelude::*;

use super::*;
use crate::authentication::{ClaimHeader, JwtRule, KeySet, KeySource, TokenLocation};
use crate::policy::{Action, Condition, Matcher, Operation, PathMatch, Rule, Source};
use crate::provider::{BodyInCheck, HttpProvider, Provider, ProviderProtocol};
use crate::resource::{
    Endpoint, Endpoints, InboundPort, MtlsMode, RemoteAddress, Service, ServicePort, Transaction, View,
};
use crate::route::{
    Backend, HeaderEdit, HeaderMatch, Listener, PathSelector, QueryMatch, Route, RouteFilter, RouteMatch,
    RouteRule,
};

fn name(text: &str) -> NamespacedName {
    NamespacedName::parse(text).unwrap()
}

fn policy(text: &str) -> PolicyName {
    PolicyName {
        kind: PolicyKind::AuthorizationPolicy,
        name: name(text),
    }
}

fn port(number: u32) -> Port {
    Port::new(number).unwrap()
}

fn id() -> SpiffeId {
    SpiffeId::parse("spiffe://cluster.local/ns/a/sa/x").unwrap()
}

fn text(text: &str) -> StringMatch {
    StringMatch::parse(text)
}

/// One of each kind, with every field in use.
#[expect(clippy::too_many_lines, reason = "one literal with every field of every kind")]
fn resources() -> Vec<Resource> {
    let matcher = |any: &str, none: &str| Matcher {
        any: vec![text(any)],
        none: vec![text(none)],
    };
    let edit = HeaderEdit {
        set: vec![("a".to_owned(), "1".to_owned())],
        add: vec![("b".to_owned(), "2".to_owned())],
        remove: vec!["c".to_owned()],
    };
    vec![
        from_value(serde_json::json!({
            "kind": "settings", "trustDomain": "cluster.local", "rootNamespace": "istio-system",
            "clusterDomain": "cluster.local", "paths": "refuse-ambiguous",
            "profile": { "name": "zero-trust", "mtls": "strict", "withoutPolicy": "deny", "acrossNamespaces": "as-written",
                "userCredentials": "optional", "reach": "allowed" }
        }))
        .unwrap(),
        Resource::Service(Service {
            name: name("a/s"),
            hostname: bartizan_types::Hostname::parse("s.a.svc.cluster.local").unwrap(),
            addresses: vec!["10.67.0.1".parse().unwrap(), "fd00::1".parse().unwrap()],
            headless: false,
            alias_of: Some(bartizan_types::Hostname::parse("other.a.svc.cluster.local").unwrap()),
            ports: vec![ServicePort {
                port: port(80),
                name: None,
                protocol: Protocol::Detect,
            }],
        }),
        Resource::Endpoints(Endpoints {
            service: name("a/s"),
            endpoints: vec![Endpoint {
                workload: name("a/s-0"),
                address: "10.66.0.1".parse().unwrap(),
                ports: BTreeMap::from([(port(80), port(8080)), (port(9), port(9))]),
                identity: Some(id()),
                ready: true,
            }],
        }),
        from_value(serde_json::json!({
            "kind": "workload", "name": {"namespace": "a", "name": "s-0"}, "addresses": ["10.66.0.1"],
            "identity": "spiffe://cluster.local/ns/a/sa/x", "workloadName": "s", "canonicalService": "s",
            "canonicalRevision": "v1", "app": "s", "version": "v1", "hostname": "s-0.s.a.svc.cluster.local",
            "labels": { "tier": "batch" }
        }))
        .unwrap(),
        Resource::Policy(Policy {
            kind: PolicyKind::AuthorizationPolicy,
            name: name("a/p"),
            action: Action::Allow,
            provider: None,
            dry_run: false,
            rules: vec![
                Rule {
                    from: vec![Source {
                        principals: matcher("cluster.local/*", "*"),
                        namespaces: Matcher {
                            any: vec!["a*".into()],
                            none: vec![],
                        },
                        service_accounts: Matcher {
                            any: vec![name("a/x")],
                            none: vec![],
                        },
                        trust_domains: matcher("a", "b"),
                        ip_blocks: Matcher {
                            any: vec!["10.0.0.0/8".parse_cidr()],
                            none: vec![],
                        },
                        remote_ip_blocks: Matcher {
                            any: vec![],
                            none: vec!["10.0.0.0/8".parse_cidr()],
                        },
                        request_principals: matcher("https://issuer/*", "*/me"),
                    }],
                    to: vec![Operation {
                        hosts: matcher("*.a", "b"),
                        ports: Matcher {
                            any: vec![port(80)],
                            none: vec![],
                        },
                        methods: matcher("GET", "PUT"),
                        paths: Matcher {
                            any: vec![PathMatch::Text(text("/a*")), PathMatch::Template("/{*}".into())],
                            none: vec![],
                        },
                    }],
                    when: vec![
                        Condition::Header("x".into(), matcher("1", "2")),
                        Condition::DestinationPort(Matcher {
                            any: vec![port(80)],
                            none: vec![],
                        }),
                        Condition::RequestClaim(vec!["a".into(), "b".into()], matcher("1", "2")),
                        Condition::RequestAudiences(matcher("1", "2")),
                    ],
                    expression: Some("source.authenticated".into()),
                },
                Rule::default(),
            ],
        }),
        Resource::View(View {
            workload: name("a/s-0"),
            identity: id(),
            labels: Labels::from([("app".to_owned(), "s".to_owned())]),
            policies: vec![policy("a/p")],
            authentications: vec![name("a/r")],
            is_for_people: true,
            remote: RemoteAddress { trusted_proxies: 1, proxy_protocol: true },
            mtls: MtlsMode::Strict,
            inbound: vec![InboundPort {
                port: port(8080),
                mtls: MtlsMode::Permissive,
                protocol: Protocol::Grpc,
                service: Some(name("a/s")),
            }],
            gateway: None,
        }),
        Resource::Listener(Listener {
            gateway: name("a/g"),
            section: Name::parse("web").unwrap(),
            port: port(80),
            hostname: bartizan_types::HostPattern::parse("*.example").unwrap(),
        }),
        Resource::Route(Route {
            is_for_people: true,
            name: name("a/r"),
            parents: vec![(name("a/g"), Name::parse("web").unwrap())],
            hostnames: vec![bartizan_types::HostPattern::Any],
            rules: vec![RouteRule {
                name: Some("main".to_owned()),
                matches: vec![RouteMatch {
                    path: PathSelector::Regex("/.*".to_owned()),
                    method: Some("GET".to_owned()),
                    headers: vec![HeaderMatch {
                        name: "x".to_owned(),
                        value: "y".to_owned(),
                        regex: true,
                    }],
                    query: vec![QueryMatch {
                        name: "x".to_owned(),
                        value: "y".to_owned(),
                        regex: false,
                    }],
                }],
                filters: vec![RouteFilter::RequestHeaders(edit.clone())],
                backends: vec![Backend {
                    service: Some((name("a/s"), port(80))),
                    weight: 1,
                    filters: vec![RouteFilter::ResponseHeaders(edit)],
                }],
                request_timeout_ms: Some(1),
                backend_timeout_ms: None,
            }],
        }),
        Resource::RequestAuthentication(RequestAuthentication {
            name: name("a/r"),
            rules: vec![JwtRule {
                issuer: Some("https://issuer.example.org".into()),
                audiences: vec!["me".into()],
                keys: KeySource::Fetched("k".into()),
                locations: vec![
                    TokenLocation::Header {
                        name: "authorization".into(),
                        prefix: "Bearer ".into(),
                    },
                    TokenLocation::Param("access_token".into()),
                    TokenLocation::Cookie("session".into()),
                ],
                forward_original_token: true,
                output_payload_to_header: Some("x-payload".into()),
                output_claims: vec![ClaimHeader {
                    header: "x-user".into(),
                    claim: vec!["a".into(), "b".into()],
                }],
                space_delimited_claims: vec!["groups".into()],
            }],
            is_unreadable: false,
        }),
        Resource::KeySet(KeySet {
            name: "k".into(),
            source: "https://issuer.example.org/keys".into(),
            jwks: Some("{\"keys\":[]}".into()),
            fetched_at: 1,
        }),
        Resource::Provider(Provider {
            name: "opa".into(),
            service: name("a/s"),
            port: port(80),
            timeout_ms: 1_000,
            fail_open: false,
            status_on_error: 503,
            body: Some(BodyInCheck {
                max_bytes: 1,
                allow_partial: true,
                pack_as_bytes: false,
            }),
            clear_route_cache: true,
            protocol: ProviderProtocol::Http(HttpProvider {
                additional_headers: vec![("a".into(), "b".into())],
                headers_to_upstream_on_allow: vec![text("x-*")],
                ..HttpProvider::default()
            }),
        }),
    ]
}

trait ParseCidr {
    fn parse_cidr(&self) -> bartizan_types::Cidr;
}

impl ParseCidr for str {
    fn parse_cidr(&self) -> bartizan_types::Cidr {
        bartizan_types::Cidr::parse(self).unwrap()
    }
}

#[test]
fn every_kind_comes_back_as_it_was() {
    for resource in resources() {
        let encoded = encode(&resource);
        assert_eq!(decode(&encoded.key, &encoded.body).unwrap(), resource);
        assert_eq!(encode(&resource), encoded, "the same bytes each time");
        assert_eq!(digest(&resource), encoded.digest);
        let plain: Resource = serde_json::from_slice(&encoded.body).unwrap();
        assert_eq!(plain, resource);
    }
}

#[test]
fn keys_are_sorted_and_there_is_no_white_space() {
    let listener = &resources()[6];
    assert_eq!(
        String::from_utf8_lossy(&encode(listener).body),
        r#"{"gateway":{"name":"g","namespace":"a"},"hostname":"*.example","kind":"listener","port":80,"section":"web"}"#
    );
}

#[test]
fn an_unknown_field_is_refused_at_every_depth() {
    for resource in resources() {
        let body: Value = serde_json::from_slice(&encode(&resource).body).unwrap();
        let mut at_top = body.clone();
        at_top["surprise"] = Value::Bool(true);
        assert!(from_value(at_top).is_err(), "{resource:?}");
    }
    for pointer in [
        "/rules/0",
        "/rules/0/from/0",
        "/rules/0/to/0",
        "/rules/0/to/0/paths",
    ] {
        let mut body: Value = serde_json::from_slice(&encode(&resources()[4]).body).unwrap();
        body.pointer_mut(pointer).unwrap()["surprise"] = Value::Bool(true);
        assert!(from_value(body).is_err(), "{pointer}");
    }
}

#[test]
fn a_policy_that_cannot_be_decoded_denies_and_keeps_its_name() {
    let key = Key("policy/a/p".into());
    for body in [
        &b"{"[..],
        b"[]",
        b"{}",
        br#"{"kind":"policy","name":{"namespace":"a","name":"p"},"action":"audit","rules":[]}"#,
        br#"{"kind":"policy","name":{"namespace":"a","name":"other"},"action":"allow","rules":[]}"#,
        br#"{"kind":"listener","gateway":{"namespace":"a","name":"g"},"section":"s","port":1,"hostname":"*"}"#,
    ] {
        let (resource, error) = decode_or_deny(&key, body).unwrap();
        assert_eq!(resource, Resource::Policy(Policy::deny_everything(policy("a/p"))));
        assert!(error.is_some_and(|error| error.to_string().contains("policy/a/p")));
    }
    for body in [
        &b"{"[..],
        br#"{"kind":"requestAuthentication","name":{"namespace":"a","name":"r"},"rules":[]}"#,
    ] {
        let key = Key("request-authentication/a/r".into());
        let refusing = RequestAuthentication::refuse_everything(name("a/r"));
        let (resource, error) = decode_or_deny(&key, body).unwrap();
        assert_eq!(resource, Resource::RequestAuthentication(refusing));
        assert!(error.is_some());
        let (resource, _) = decode_or_deny(&Key("access-rule/a/p".into()), body).unwrap();
        assert!(
            matches!(resource, Resource::Policy(policy) if policy.kind == PolicyKind::AccessRule && policy.action == Action::Deny)
        );
    }
    let other = Key("service/a/s".into());
    assert!(decode_or_deny(&other, b"{}").is_err());
    assert!(decode_or_deny(&Key("policy/nonsense".into()), b"{}").is_err());
}

#[test]
fn the_last_good_file_comes_back_and_what_is_broken_in_it_denies() {
    let mut store = Store::new();
    store.apply(&Transaction {
        version: Version(7),
        upserts: resources(),
        removals: Vec::new(),
    });
    let text = store_to_json(&store);
    let (read, replaced) = store_from_json(&text).unwrap();
    assert_eq!(read, store);
    assert!(replaced.is_empty());
    assert_eq!(store_to_json(&read), text);

    let (read, replaced) = store_from_json(&text.replace("\"allow\"", "\"unheard-of\"")).unwrap();
    assert_eq!(replaced.len(), 1);
    assert_eq!(
        **read.get(&Key("policy/a/p".into())).unwrap(),
        Resource::Policy(Policy::deny_everything(policy("a/p")))
    );
    assert!(store_from_json(&text.replace("\"strict\"", "\"lax\"")).is_err());
    assert!(store_from_json(text.get(..text.len() / 2).unwrap()).is_err());
    assert!(store_from_json("").is_err());
}

proptest! {
    #[test]
    fn no_bytes_panic(body in prop::collection::vec(any::<u8>(), 0..64), key in "\\PC{0,20}") {
        let _ = decode_or_deny(&Key(key.as_str().into()), &body);
    }

    #[test]
    fn a_damaged_body_is_an_error_or_another_resource(at in 0_usize..11, byte in any::<usize>(), value in any::<u8>()) {
        let resource = &resources()[at];
        let encoded = encode(resource);
        let mut body = encoded.body.to_vec();
        let byte = byte % body.len();
        body[byte] = value;
        if let Ok(decoded) = decode(&encoded.key, &body) {
            prop_assert_eq!(decoded.key(), resource.key());
        }
    }
}
