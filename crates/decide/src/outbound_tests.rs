//! Addresses and names, and where they lead.

use std::collections::BTreeMap;

use bartizan_mesh::{Endpoint, PathRule, Profile, Resource, Settings, Transaction};
use bartizan_types::{TrustDomain, Version};

use super::*;

fn name(text: &str) -> NamespacedName {
    NamespacedName::parse(text).unwrap()
}

fn port(number: u32) -> Port {
    Port::new(number).unwrap()
}

fn id(account: &str) -> SpiffeId {
    SpiffeId::parse(&format!("spiffe://cluster.local/ns/shop/sa/{account}")).unwrap()
}

fn service(text: &str, addresses: &[&str], headless: bool, alias: Option<&str>) -> Resource {
    let name = name(text);
    Resource::Service(Service {
        hostname: Hostname::parse(&format!("{}.{}.svc.cluster.local", name.name, name.namespace)).unwrap(),
        name,
        addresses: addresses.iter().map(|address| address.parse().unwrap()).collect(),
        headless,
        alias_of: alias.map(|alias| Hostname::parse(alias).unwrap()),
        ports: vec![ServicePort {
            port: port(80),
            name: None,
            protocol: Protocol::Grpc,
        }],
    })
}

fn endpoints(service: &str, address: &str, target: u32, ready: bool, identity: Option<SpiffeId>) -> Resource {
    Resource::Endpoints(Endpoints {
        service: name(service),
        endpoints: vec![Endpoint {
            workload: name("shop/w"),
            address: address.parse().unwrap(),
            ports: BTreeMap::from([(port(80), port(target))]),
            identity,
            ready,
        }],
    })
}

fn workload(text: &str, address: &str, hostname: Option<&str>) -> Resource {
    Resource::Workload(Workload {
        name: name(text),
        addresses: vec![address.parse().unwrap()],
        identity: id("w"),
        workload_name: Name::parse("w").unwrap(),
        canonical_service: "w".to_owned(),
        canonical_revision: "latest".to_owned(),
        app: None,
        version: None,
        hostname: hostname.map(|hostname| Hostname::parse(hostname).unwrap()),
        labels: bartizan_types::Labels::new(),
    })
}

fn snapshot() -> Snapshot {
    let settings = Resource::Settings(Settings {
        trust_domain: TrustDomain::parse("cluster.local").unwrap(),
        root_namespace: Name::parse("istio-system").unwrap(),
        cluster_domain: Hostname::parse("cluster.local").unwrap(),
        profile: Profile::zero_trust(),
        paths: PathRule::RefuseAmbiguous,
    });
    Snapshot::default().apply(&Transaction {
        version: Version(1),
        upserts: vec![
            settings,
            service("shop/cart", &["10.67.0.1"], false, None),
            endpoints("shop/cart", "10.66.0.1", 8080, true, Some(id("cart"))),
            service("shop/hidden", &["10.67.0.2"], false, None),
            service("shop/db", &[], true, None),
            endpoints("shop/db", "10.66.0.2", 80, true, None),
            service("shop/empty", &[], true, None),
            endpoints("shop/empty", "10.66.0.9", 80, false, None),
            service("shop/alias", &[], false, Some("cart.shop.svc.cluster.local")),
            service("other/alias", &[], false, Some("alias.shop.svc.cluster.local")),
            service("other/round", &[], false, Some("round.other.svc.cluster.local")),
            service("other/nowhere", &[], false, Some("www.example.org")),
            workload("shop/cart-0", "10.66.0.1", None),
            workload("shop/db-0", "10.66.0.2", Some("db-0.db.shop.svc.cluster.local")),
        ],
        removals: Vec::new(),
    })
}

fn at(snapshot: &Snapshot, address: &str) -> String {
    match outbound(snapshot, address.parse().unwrap()) {
        Destination::Service {
            service,
            port,
            endpoints,
        } => format!(
            "service {} {} {}",
            service.name,
            port.port,
            endpoints.endpoints.len()
        ),
        Destination::Workload {
            workload,
            port,
            protocol,
            service,
            identity,
        } => format!(
            "workload {} {port} {protocol:?} {:?} {identity:?}",
            workload.name,
            service.map(|(service, port)| format!("{}:{port}", service.name))
        ),
        Destination::Refused(refusal) => refusal.to_string(),
    }
}

#[test]
fn an_address_leads_to_a_service_a_workload_or_nowhere() {
    let snapshot = snapshot();
    for (address, wanted) in [
        ("10.67.0.1:80", "service shop/cart 80 1"),
        ("[::ffff:10.67.0.1]:80", "service shop/cart 80 1"),
        ("10.67.0.1:81", "service `shop/cart` has no port 81"),
        (
            "10.67.0.2:80",
            "service `shop/hidden` is not reachable by policy: no ALLOW rule could let this workload in",
        ),
        (
            "8.8.8.8:80",
            "no way out: `8.8.8.8:80` is not an address of the mesh",
        ),
        (
            "10.66.0.1:0",
            "no way out: `10.66.0.1:0` is not an address of the mesh",
        ),
        (
            "10.66.0.1:8080",
            "workload shop/cart-0 8080 Grpc Some(\"shop/cart:80\") Some(`spiffe://cluster.local/ns/shop/sa/cart`)",
        ),
        (
            "10.66.0.1:9",
            "workload shop/cart-0 9 Detect None Some(`spiffe://cluster.local/ns/shop/sa/w`)",
        ),
        (
            "10.66.0.2:80",
            "workload shop/db-0 80 Grpc Some(\"shop/db:80\") None",
        ),
    ] {
        assert_eq!(at(&snapshot, address), wanted, "{address}");
    }
}

#[test]
fn a_backend_is_followed_through_aliases_and_not_for_ever() {
    let snapshot = snapshot();
    let of = |text: &str| match backend(&snapshot, &name(text), port(80)) {
        Destination::Service { service, .. } => service.name.to_string(),
        Destination::Workload { workload, .. } => workload.name.to_string(),
        Destination::Refused(refusal) => refusal.to_string(),
    };
    assert_eq!(of("shop/cart"), "shop/cart");
    assert_eq!(of("other/alias"), "shop/cart");
    assert_eq!(of("other/round"), "there is no service `other/round`");
    assert_eq!(of("other/nowhere"), "there is no service `other/nowhere`");
    assert_eq!(of("other/unknown"), "there is no service `other/unknown`");
}

#[test]
fn names_mean_addresses_and_say_whose() {
    let snapshot = snapshot();
    let of =
        |namespace: &str, text: &str| match resolve_name(&snapshot, &Name::parse(namespace).unwrap(), text) {
            Answer::NoSuchName => "no such name".to_owned(),
            Answer::OnlyBelow => "only below".to_owned(),
            Answer::Addresses { canonical, addresses } => format!("{canonical} {addresses:?}"),
        };
    let cart = "cart.shop.svc.cluster.local [10.67.0.1]";
    for (namespace, text, wanted) in [
        ("shop", "cart", cart),
        ("shop", "CART.", cart),
        ("other", "cart.shop", cart),
        ("other", "cart.shop.svc.cluster.local.", cart),
        ("other", "cart", "no such name"),
        ("shop", "alias", cart),
        ("other", "alias", cart),
        ("other", "round", "no such name"),
        ("other", "nowhere", "no such name"),
        ("shop", "db", "db.shop.svc.cluster.local [10.66.0.2]"),
        ("shop", "empty", "empty.shop.svc.cluster.local []"),
        ("shop", "db-0.db", "db-0.db.shop.svc.cluster.local [10.66.0.2]"),
        ("shop", "db-1.db", "no such name"),
        ("shop", "www.example.org", "no such name"),
        ("other", "cluster.local.", "only below"),
        ("other", "svc.cluster.local", "only below"),
        ("other", "shop.svc.cluster.local", "only below"),
        ("other", "nobody.svc.cluster.local", "no such name"),
        ("other", "db.shop.pod.cluster.local", "no such name"),
        ("other", "xcluster.local", "no such name"),
        ("shop", "", "no such name"),
        ("shop", ".", "no such name"),
    ] {
        assert_eq!(of(namespace, text), wanted, "{namespace} {text}");
    }
}
