//! Laws of snapshots: incremental is the same as full, and a change costs what it touches.

use std::time::Instant;

use bartizan_types::{Labels, Protocol, SpiffeId, TrustDomain};
use proptest::prelude::*;
use proptest::sample::select;

use super::*;
use crate::authentication::{JwtRule, KeySource};
use crate::policy::Policy;
use crate::provider::ProviderProtocol;
use crate::resource::{Endpoint, MtlsMode, PathRule, Profile, RemoteAddress};

fn name(text: &str) -> NamespacedName {
    NamespacedName::parse(text).unwrap()
}

fn address(last: u8) -> IpAddr {
    IpAddr::from([10, 67, 0, last])
}

fn service(at: u8, addresses: Vec<IpAddr>, hostname: &str) -> Service {
    Service {
        name: name(&format!("shop/s{at}")),
        hostname: Hostname::parse(hostname).unwrap(),
        addresses,
        headless: false,
        alias_of: None,
        ports: vec![ServicePort {
            port: Port::new(80).unwrap(),
            name: Some("http".to_owned()),
            protocol: Protocol::Http,
        }],
    }
}

fn endpoints(service: &str, addresses: &[IpAddr]) -> Endpoints {
    Endpoints {
        service: name(service),
        endpoints: addresses
            .iter()
            .enumerate()
            .map(|(at, address)| Endpoint {
                workload: name(&format!("{service}-{at}")),
                address: *address,
                ports: BTreeMap::from([(Port::new(80).unwrap(), Port::new(8080).unwrap())]),
                identity: Some(SpiffeId::parse("spiffe://cluster.local/ns/shop/sa/s").unwrap()),
                ready: true,
            })
            .collect(),
    }
}

fn workload(at: u8, addresses: Vec<IpAddr>, hostname: Option<&str>) -> Workload {
    Workload {
        labels: bartizan_types::Labels::new(),
        name: name(&format!("shop/w{at}")),
        addresses,
        identity: SpiffeId::parse("spiffe://cluster.local/ns/shop/sa/s").unwrap(),
        workload_name: Name::parse("w").unwrap(),
        canonical_service: "w".to_owned(),
        canonical_revision: "latest".to_owned(),
        app: None,
        version: None,
        hostname: hostname.map(|hostname| Hostname::parse(hostname).unwrap()),
    }
}

fn settings(domain: &str) -> Settings {
    Settings {
        trust_domain: TrustDomain::parse("cluster.local").unwrap(),
        root_namespace: Name::parse("istio-system").unwrap(),
        cluster_domain: Hostname::parse(domain).unwrap(),
        profile: Profile::zero_trust(),
        paths: PathRule::RefuseAmbiguous,
    }
}

fn addresses() -> impl Strategy<Value = Vec<IpAddr>> {
    prop::collection::vec((1_u8..4).prop_map(address), 0..3)
}

fn resource() -> impl Strategy<Value = Resource> {
    let hosts = || select(&["a.example", "b.example"][..]);
    prop_oneof![
        Just(Resource::Settings(settings("cluster.local"))),
        Just(Resource::Settings(settings("other.local"))),
        (0_u8..3, addresses(), hosts())
            .prop_map(|(at, addresses, host)| Resource::Service(service(at, addresses, host))),
        (0_u8..3, addresses())
            .prop_map(|(at, addresses)| Resource::Endpoints(endpoints(&format!("shop/s{at}"), &addresses))),
        (0_u8..3, addresses(), prop::option::of(hosts()))
            .prop_map(|(at, addresses, host)| Resource::Workload(workload(at, addresses, host))),
        (0_u8..3, any::<bool>()).prop_map(|(at, is_rule)| {
            Resource::Policy(Policy::deny_everything(PolicyName {
                kind: if is_rule {
                    PolicyKind::AccessRule
                } else {
                    PolicyKind::AuthorizationPolicy
                },
                name: name(&format!("shop/p{at}")),
            }))
        }),
        (0_u8..2, any::<bool>()).prop_map(|(at, is_inline)| {
            Resource::RequestAuthentication(RequestAuthentication {
                name: name(&format!("shop/r{at}")),
                rules: vec![JwtRule {
                    issuer: Some("https://issuer.example.org".into()),
                    audiences: Vec::new(),
                    keys: if is_inline {
                        KeySource::Inline("{}".into())
                    } else {
                        KeySource::Fetched("k0".into())
                    },
                    locations: Vec::new(),
                    forward_original_token: false,
                    output_payload_to_header: None,
                    output_claims: Vec::new(),
                    space_delimited_claims: Vec::new(),
                }],
                is_unreadable: false,
            })
        }),
        (0_u8..2, 0_i64..3).prop_map(|(at, fetched_at)| Resource::KeySet(KeySet {
            name: format!("k{at}").into(),
            source: "https://issuer.example.org/keys".into(),
            jwks: (fetched_at > 0).then(|| "{}".into()),
            fetched_at,
        })),
        (0_u8..2, any::<bool>()).prop_map(|(at, fail_open)| Resource::Provider(Provider {
            name: format!("opa{at}").into(),
            service: name("shop/opa"),
            port: Port::parse("9191").unwrap(),
            timeout_ms: 1_000,
            fail_open,
            status_on_error: 403,
            body: None,
            clear_route_cache: false,
            protocol: ProviderProtocol::Grpc,
        })),
        (0_u8..2, any::<bool>()).prop_map(|(at, is_strict)| Resource::View(View {
            workload: name(&format!("shop/w{at}")),
            identity: SpiffeId::parse("spiffe://cluster.local/ns/shop/sa/s").unwrap(),
            labels: Labels::new(),
            policies: Vec::new(),
            authentications: Vec::new(),
            is_for_people: false,
            remote: RemoteAddress::default(),
            mtls: if is_strict {
                MtlsMode::Strict
            } else {
                MtlsMode::Permissive
            },
            inbound: Vec::new(),
            gateway: None,
        })),
        (0_u8..2, hosts()).prop_map(|(at, host)| Resource::Listener(Listener {
            gateway: name("edge/gateway"),
            section: Name::parse(&format!("l{at}")).unwrap(),
            port: Port::new(80).unwrap(),
            hostname: bartizan_types::HostPattern::parse(host).unwrap(),
        })),
        (0_u8..2, hosts()).prop_map(|(at, host)| Resource::Route(Route {
            is_for_people: at == 0,
            name: name(&format!("shop/r{at}")),
            parents: Vec::new(),
            hostnames: vec![bartizan_types::HostPattern::parse(host).unwrap()],
            rules: Vec::new(),
        })),
    ]
}

fn transaction() -> impl Strategy<Value = Transaction> {
    (
        1_u64..100,
        prop::collection::vec(resource(), 0..6),
        prop::collection::vec(resource(), 0..4),
    )
        .prop_map(|(version, upserts, removals)| Transaction {
            version: Version(version),
            upserts,
            removals: removals.iter().map(Resource::key).collect(),
        })
}

/// Everything that a snapshot answers.
fn answers(snapshot: &Snapshot) -> String {
    let mut all = format!("{:?} {:?}", snapshot.version(), snapshot.settings());
    for last in 0..5 {
        let address = address(last);
        let served: Vec<_> = snapshot.endpoints_at(address).collect();
        all += &format!(
            "\n{:?} {:?} {served:?}",
            snapshot.service_at(address),
            snapshot.workload_at(address)
        );
    }
    let shop = Name::parse("shop").unwrap();
    for text in [
        "a.example",
        "b.example",
        "s0",
        "s1.shop",
        "s2.shop.svc",
        "s0.shop.svc.cluster.local",
        "s0.shop.svc.other.local",
    ] {
        all += &format!(
            "\n{:?} {:?}",
            snapshot.service_named(&shop, text),
            snapshot.workload_named(&shop, text)
        );
    }
    for at in 0..3 {
        let of = |kind: &str| name(&format!("shop/{kind}{at}"));
        all += &format!(
            "\n{:?} {:?} {:?} {:?} {:?}",
            snapshot.service(&of("s")),
            snapshot.endpoints(&of("s")),
            snapshot.workload(&of("w")),
            [PolicyKind::AuthorizationPolicy, PolicyKind::AccessRule]
                .map(|kind| snapshot.policy(&PolicyName { kind, name: of("p") })),
            snapshot.view(&of("w"))
        );
    }
    let tokens: Vec<_> = snapshot.authentications().collect();
    let keys: Vec<_> = snapshot.key_sets().collect();
    let providers: Vec<_> = snapshot.providers().collect();
    all += &format!("\n{tokens:?} {keys:?} {providers:?}");
    let listeners: Vec<_> = snapshot.listeners().collect();
    let routes: Vec<_> = snapshot.routes().collect();
    all + &format!("\n{listeners:?} {routes:?}")
}

proptest! {
    #[test]
    fn a_changed_snapshot_is_the_one_built_from_the_changed_store(
        transactions in prop::collection::vec(transaction(), 1..8),
    ) {
        let mut store = Store::new();
        let mut snapshot = Snapshot::default();
        for transaction in &transactions {
            let (before, kept) = (answers(&snapshot), snapshot.clone());
            store.apply(transaction);
            snapshot = snapshot.apply(transaction);
            prop_assert_eq!(&snapshot.store(), &store);
            prop_assert_eq!(answers(&snapshot), answers(&Snapshot::build(&store)));
            prop_assert_eq!(answers(&kept), before, "a snapshot does not change");
        }
    }

    #[test]
    fn the_difference_of_two_stores_leads_from_one_to_the_other(
        one in prop::collection::vec(transaction(), 0..4),
        other in prop::collection::vec(transaction(), 0..4),
    ) {
        let of = |transactions: &[Transaction]| {
            let mut store = Store::new();
            for transaction in transactions {
                store.apply(transaction);
            }
            store
        };
        let (mut one, other) = (of(&one), of(&other));
        let difference = one.difference(&other);
        one.apply(&difference);
        prop_assert_eq!(&one, &other);
        let nothing = one.difference(&other);
        prop_assert!(nothing.upserts.is_empty() && nothing.removals.is_empty());
    }
}

#[test]
fn names_are_found_as_people_write_them() {
    let snapshot = Snapshot::default().apply(&Transaction {
        version: Version(1),
        upserts: vec![
            Resource::Settings(settings("cluster.local")),
            Resource::Service(service(0, vec![address(1)], "s0.shop.svc.cluster.local")),
            Resource::Workload(workload(
                0,
                vec![address(9)],
                Some("w-0.s0.shop.svc.cluster.local"),
            )),
        ],
        removals: Vec::new(),
    });
    let (shop, other) = (Name::parse("shop").unwrap(), Name::parse("other").unwrap());
    for text in ["s0", "s0.shop", "s0.shop.svc", "s0.shop.svc.cluster.local"] {
        assert!(snapshot.service_named(&shop, text).is_some(), "{text}");
    }
    for text in [
        "s0",
        "s1.shop",
        "s0.shop.svc.other",
        "s0.shop.cluster.local",
        "svc",
        "",
    ] {
        assert!(snapshot.service_named(&other, text).is_none(), "{text}");
    }
    for text in [
        "w-0.s0",
        "w-0.s0.shop",
        "w-0.s0.shop.svc",
        "w-0.s0.shop.svc.cluster.local",
    ] {
        assert!(snapshot.workload_named(&shop, text).is_some(), "{text}");
    }
    assert!(snapshot.workload_named(&other, "w-0.s0").is_none());
    let (found, port) = snapshot
        .service_port_at(address(1), Port::new(80).unwrap())
        .unwrap();
    assert_eq!(
        (found.name.to_string(), port.is_declared()),
        ("shop/s0".to_owned(), true)
    );
}

#[test]
fn one_change_among_5000_services_takes_less_than_5_ms() {
    let upserts = (0..5_000_u16).flat_map(|at| {
        let [high, low] = at.to_be_bytes();
        let ip = |net| IpAddr::from([10, net, high, low]);
        let mut service = service(0, vec![ip(67)], &format!("s{at}.shop.svc.cluster.local"));
        service.name = name(&format!("shop/s{at}"));
        let mut workload = workload(0, vec![ip(66)], None);
        workload.name = name(&format!("shop/w{at}"));
        [
            Resource::Endpoints(endpoints(&format!("shop/s{at}"), &[ip(66)])),
            Resource::Service(service),
            Resource::Workload(workload),
        ]
    });
    let mut snapshot = Snapshot::default().apply(&Transaction {
        version: Version(1),
        upserts: upserts.collect(),
        removals: Vec::new(),
    });
    // The fastest of several runs: other work on the machine does not fail the test.
    let fastest = (0..20_u8).map(|at| {
        let change = Transaction {
            version: Version(2),
            upserts: vec![Resource::Endpoints(endpoints("shop/s77", &[address(at)]))],
            removals: Vec::new(),
        };
        let start = Instant::now();
        snapshot = snapshot.apply(&change);
        start.elapsed()
    });
    let fastest = fastest.min().unwrap();
    assert!(fastest.as_millis() < 5, "{fastest:?}");
}
