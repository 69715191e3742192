//! The law of the room: after any history a world tells every proxy what a fresh world of the same state would tell it,
//! and the changes that were sent on the way add up to exactly that.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test: literals that parse, and indices by remainder"
)]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use bartizan_compile::{Options, Update, World};
use bartizan_config::{Document, Finding, SourceFile, read};
use bartizan_mesh::{Key, PathRule, Profile, Resource, Settings};
use bartizan_types::{Hostname, Name, NamespacedName, PodPhase, PodReport, PodSpec, TrustDomain};
use proptest::prelude::*;

/// One step of a history.
#[derive(Clone, Debug)]
enum Step {
    Documents(Vec<Part>),
    /// One document comes or changes.
    Changed(Part),
    /// One field of a document changes, by the document's place.
    Turned(usize, bool),
    /// One document goes, by its place.
    Without(usize),
    /// Documents with an error among them.
    Broken(Vec<Part>),
    /// A planned pod is reported, by its place in the plan.
    Report {
        pod: usize,
        phase: u8,
        ready: bool,
        address: u8,
    },
    /// A pod is reported that nobody planned, with these labels and identity.
    Stranger {
        name: u8,
        label: u8,
        account: u8,
        ready: bool,
    },
    /// Keys were fetched, by the place of their key set among those that are wanted; beyond them, of nothing.
    Keys {
        set: usize,
        content: u8,
        at: u8,
    },
    /// A reported pod is gone, by its place among the reported.
    Gone {
        pod: usize,
    },
}

/// A document, by small numbers that make collisions likely.
#[derive(Clone, Debug)]
enum Part {
    Workload {
        name: u8,
        namespace: u8,
        label: u8,
        account: u8,
        replicas: u8,
        stateful: bool,
        version: u8,
        users: u8,
        proxies: u8,
    },
    Service {
        name: u8,
        namespace: u8,
        label: u8,
        headless: bool,
        port: u8,
        not_ready: bool,
    },
    Policy {
        name: u8,
        namespace: u8,
        label: Option<u8>,
        from: Option<(u8, u8)>,
        action: u8,
        port: Option<u8>,
        dry_run: bool,
    },
    AccessRule {
        name: u8,
        namespace: u8,
        label: Option<u8>,
        deny: bool,
        of_labels: bool,
    },
    /// A RequestAuthentication for labels, a service or a gateway.
    Tokens {
        name: u8,
        namespace: u8,
        label: Option<u8>,
        target: u8,
        keys: (u8, u8),
    },
    /// Istio's mesh configuration; its authorizer is a service, if that exists.
    Mesh {
        service: u8,
        namespace: u8,
        timeout: u8,
        paths: u8,
        proxies: u8,
        aliases: bool,
        /// Whether a policy asks it.
        asks: bool,
    },
    Profile {
        which: u8,
    },
    PeerAuthentication {
        name: u8,
        namespace: u8,
        label: Option<u8>,
        mode: u8,
        port: Option<u8>,
    },
    Gateway {
        name: u8,
        namespace: u8,
        all: bool,
        host: u8,
    },
    Route {
        name: u8,
        namespace: u8,
        gateway: u8,
        host: u8,
        backend: u8,
        other: bool,
        users: bool,
    },
    Grant {
        namespace: u8,
    },
}

const NAMESPACES: [&str; 3] = ["shop", "bank", "istio-system"];

fn namespace(index: u8) -> &'static str {
    NAMESPACES[usize::from(index) % NAMESPACES.len()]
}

fn mode(index: u8) -> &'static str {
    ["STRICT", "PERMISSIVE", "DISABLE", "UNSET"][usize::from(index) % 4]
}

impl Part {
    /// Changes one field, or another one.
    fn turn(&mut self, other: bool) {
        let next = |value: &mut u8| *value = (*value + 1) % 3;
        match self {
            Self::Workload { users, label, .. } => next(if other { users } else { label }),
            Self::Service { port, label, .. } => next(if other { port } else { label }),
            Self::Policy { dry_run, action, .. } => {
                if other {
                    *dry_run = !*dry_run;
                } else {
                    next(action);
                }
            }
            Self::AccessRule { deny, of_labels, .. } => {
                let flag = if other { deny } else { of_labels };
                *flag = !*flag;
            }
            Self::Tokens { target, keys, .. } => next(if other { target } else { &mut keys.0 }),
            Self::Mesh { asks, .. } if other => *asks = !*asks,
            Self::Mesh { timeout, proxies, .. } => {
                next(timeout);
                if *timeout == 0 {
                    next(proxies);
                }
            }
            Self::Profile { which } => next(which),
            Self::PeerAuthentication { mode, .. } => next(mode),
            Self::Gateway { host, .. } => *host = 1 - *host,
            Self::Route {
                users,
                other: elsewhere,
                ..
            } => {
                let flag = if other { users } else { elsewhere };
                *flag = !*flag;
            }
            Self::Grant { namespace } => next(namespace),
        }
    }

    /// Kind, namespace and name: a folder has each only once.
    fn identity(&self) -> String {
        match self {
            // A Deployment and a StatefulSet of one name would have replicas of one name.
            Self::Workload { name, namespace, .. } => format!("workload {namespace} {name}"),
            Self::Service { name, namespace, .. } => format!("service {namespace} {name}"),
            Self::Policy { name, namespace, .. } => format!("policy {namespace} {name}"),
            Self::AccessRule { name, namespace, .. } => format!("access rule {namespace} {name}"),
            Self::Tokens { name, namespace, .. } => format!("tokens {namespace} {name}"),
            Self::Mesh { .. } => "mesh".to_owned(),
            Self::Profile { .. } => "profile".to_owned(),
            Self::PeerAuthentication { name, namespace, .. } => format!("peer {namespace} {name}"),
            Self::Gateway { name, namespace, .. } => format!("gateway {namespace} {name}"),
            Self::Route { name, namespace, .. } => format!("route {namespace} {name}"),
            Self::Grant { namespace } => format!("grant {namespace}"),
        }
    }

    #[expect(clippy::too_many_lines, reason = "one kind of document after the other")]
    fn write(&self, text: &mut String) {
        let selector = |label: &Option<u8>| {
            label.map_or(String::new(), |label| {
                format!("selector: {{ matchLabels: {{ l: l{label} }} }}, ")
            })
        };
        text.push_str("---\n");
        match self {
            Self::Workload {
                name,
                namespace: place,
                label,
                account,
                replicas,
                stateful,
                version,
                users,
                proxies,
            } => {
                let users = [
                    "",
                    ", bartizan.dev/users: required",
                    ", bartizan.dev/users: not-required",
                ][usize::from(*users) % 3];
                let proxies = if *proxies == 0 {
                    String::new()
                } else {
                    format!(
                        "annotations: {{ proxy.istio.io/config: \"gatewayTopology: {{ numTrustedProxies: {proxies} }}\" }}, "
                    )
                };
                let kind = if *stateful { "StatefulSet" } else { "Deployment" };
                let service = if *stateful { "serviceName: s0, " } else { "" };
                let _ = writeln!(
                    text,
                    "apiVersion: apps/v1\nkind: {kind}\nmetadata: {{ name: w{name}, namespace: {} }}\nspec: {{ {service}replicas: {replicas}, selector: {{ matchLabels: {{ l: l{label} }} }}, template: {{ metadata: {{ {proxies}labels: {{ l: l{label}, version: v{version}{users} }} }}, spec: {{ serviceAccountName: a{account}, containers: [{{ name: c, command: [run], ports: [{{ name: web, containerPort: 80{version} }}] }}] }} }} }}",
                    namespace(*place)
                );
            }
            Self::Service {
                name,
                namespace: place,
                label,
                headless,
                port,
                not_ready,
            } => {
                let address = if *headless { "clusterIP: None, " } else { "" };
                let target = if *port == 0 {
                    "web".to_owned()
                } else {
                    format!("90{port}")
                };
                let _ = writeln!(
                    text,
                    "apiVersion: v1\nkind: Service\nmetadata: {{ name: s{name}, namespace: {} }}\nspec: {{ {address}publishNotReadyAddresses: {not_ready}, selector: {{ l: l{label} }}, ports: [{{ port: 80, targetPort: {target} }}] }}",
                    namespace(*place)
                );
            }
            Self::Policy {
                name,
                namespace: place,
                label,
                from,
                action,
                port,
                dry_run,
            } => {
                let action = ["ALLOW", "ALLOW", "DENY", "AUDIT"][usize::from(*action) % 4];
                let annotations = if *dry_run {
                    ", annotations: { istio.io/dry-run: \"true\" }"
                } else {
                    ""
                };
                let mut rule = String::new();
                if let Some((place, account)) = from {
                    let _ = write!(
                        rule,
                        "from: [{{ source: {{ principals: [cluster.local/ns/{}/sa/a{account}] }} }}], ",
                        namespace(*place)
                    );
                }
                if let Some(port) = port {
                    let _ = write!(rule, "to: [{{ operation: {{ ports: [\"90{port}\"] }} }}]");
                }
                let _ = writeln!(
                    text,
                    "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{ name: p{name}, namespace: {}{annotations} }}\nspec: {{ {}action: {action}, rules: [{{ {rule} }}] }}",
                    namespace(*place),
                    selector(label)
                );
            }
            Self::AccessRule {
                name,
                namespace: place,
                label,
                deny,
                of_labels,
            } => {
                let action = if *deny { "DENY" } else { "ALLOW" };
                let when = if *of_labels {
                    "source.labels['l'] == 'l1'"
                } else {
                    "source.namespace == 'shop'"
                };
                let _ = writeln!(
                    text,
                    "apiVersion: bartizan.dev/v1alpha1\nkind: AccessRule\nmetadata: {{ name: r{name}, namespace: {} }}\nspec: {{ {}action: {action}, rules: [{{ when: \"{when}\" }}] }}",
                    namespace(*place),
                    selector(label)
                );
            }
            Self::Tokens {
                name,
                namespace: place,
                label,
                target,
                keys,
            } => {
                let target = match target {
                    0 => format!("targetRefs: [{{ kind: Service, name: s{} }}], ", keys.0 % 3),
                    1 => "targetRefs: [{ group: gateway.networking.k8s.io, kind: Gateway, name: g0 }], "
                        .to_owned(),
                    _ => selector(label),
                };
                let rule = |which: u8| match which % 4 {
                    0 => "{ issuer: me, jwks: '{\"keys\":[]}' }".to_owned(),
                    1 => "{ issuer: \"https://a.example\" }".to_owned(),
                    which => {
                        format!("{{ issuer: me, jwksUri: \"https://b.example/{which}\", timeout: {which}s }}")
                    }
                };
                let _ = writeln!(
                    text,
                    "apiVersion: security.istio.io/v1\nkind: RequestAuthentication\nmetadata: {{ name: t{name}, namespace: {} }}\nspec: {{ {target}jwtRules: [{}, {}] }}",
                    namespace(*place),
                    rule(keys.0),
                    rule(keys.1)
                );
            }
            Self::Mesh {
                service,
                namespace: place,
                timeout,
                paths,
                proxies,
                aliases,
                asks,
            } => {
                let paths = ["DEFAULT", "BASE", "MERGE_SLASHES"][usize::from(*paths) % 3];
                let aliases = if *aliases {
                    "trustDomainAliases: [old.example]"
                } else {
                    "trustDomainAliases: []"
                };
                let _ = writeln!(
                    text,
                    "apiVersion: v1\nkind: ConfigMap\nmetadata: {{ name: istio, namespace: istio-system }}\ndata:\n  mesh: |\n    {aliases}\n    pathNormalization: {{ normalization: {paths} }}\n    defaultConfig: {{ gatewayTopology: {{ numTrustedProxies: {proxies} }} }}\n    extensionProviders: [{{ name: opa, envoyExtAuthzGrpc: {{ service: s{service}.{place}, port: 80, timeout: {}s }} }}]",
                    timeout + 1,
                    place = namespace(*place),
                );
                if *asks {
                    text.push_str("---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: { name: ask, namespace: shop }\nspec: { selector: { matchLabels: { l: l0 } }, action: CUSTOM, provider: { name: opa }, rules: [{}] }\n");
                }
            }
            Self::Profile { which } => {
                let text_of = bartizan_compile::profile::BUILT_IN[usize::from(*which) % 3].1;
                text.push_str(text_of);
            }
            Self::PeerAuthentication {
                name,
                namespace: place,
                label,
                mode: which,
                port,
            } => {
                let ports = match (label, port) {
                    (Some(_), Some(port)) => {
                        format!(", portLevelMtls: {{ 90{port}: {{ mode: {} }} }}", mode(which + 1))
                    }
                    _ => String::new(),
                };
                let _ = writeln!(
                    text,
                    "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {{ name: m{name}, namespace: {} }}\nspec: {{ {}mtls: {{ mode: {} }}{ports} }}",
                    namespace(*place),
                    selector(label),
                    mode(*which)
                );
            }
            Self::Gateway {
                name,
                namespace: place,
                all,
                host,
            } => {
                let from = if *all { "All" } else { "Same" };
                // A port for each gateway: they share the host's addresses.
                let port = 8000 + u32::from(*name) * 10 + u32::from(*place);
                let _ = writeln!(
                    text,
                    "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {{ name: g{name}, namespace: {} }}\nspec: {{ gatewayClassName: bartizan, listeners: [{{ name: web, port: {port}, protocol: HTTP, hostname: h{host}.example, allowedRoutes: {{ namespaces: {{ from: {from} }} }} }}] }}",
                    namespace(*place)
                );
            }
            Self::Route {
                name,
                namespace: place,
                gateway,
                host,
                backend,
                other,
                users,
            } => {
                let annotations = if *users {
                    ", annotations: { bartizan.dev/users: required }"
                } else {
                    ""
                };
                let target = namespace(if *other { place + 1 } else { *place });
                let _ = writeln!(
                    text,
                    "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{ name: r{name}, namespace: {}{annotations} }}\nspec: {{ parentRefs: [{{ name: g{gateway}, namespace: shop }}], hostnames: [h{host}.example], rules: [{{ backendRefs: [{{ name: s{backend}, namespace: {target}, port: 80 }}] }}] }}",
                    namespace(*place)
                );
            }
            Self::Grant { namespace: place } => {
                let from: Vec<_> = NAMESPACES
                    .iter()
                    .map(|name| {
                        format!("{{ group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: {name} }}")
                    })
                    .collect();
                let _ = writeln!(
                    text,
                    "apiVersion: gateway.networking.k8s.io/v1beta1\nkind: ReferenceGrant\nmetadata: {{ name: t, namespace: {} }}\nspec: {{ from: [{}], to: [{{ group: \"\", kind: Service }}] }}",
                    namespace(*place),
                    from.join(", ")
                );
            }
        }
    }
}

fn folder(parts: &[Part]) -> Vec<Document> {
    let mut text = String::new();
    for name in NAMESPACES {
        let _ = writeln!(
            text,
            "---\napiVersion: v1\nkind: Namespace\nmetadata: {{ name: {name} }}"
        );
        for account in 0..3 {
            let _ = writeln!(
                text,
                "---\napiVersion: v1\nkind: ServiceAccount\nmetadata: {{ name: a{account}, namespace: {name} }}"
            );
        }
    }
    let mut seen = std::collections::BTreeSet::new();
    let services: Vec<_> = parts
        .iter()
        .filter_map(|part| {
            let Part::Service { name, namespace, .. } = part else {
                return None;
            };
            Some((*name, *namespace))
        })
        .collect();
    for part in parts {
        // An authorizer that does not exist would be an error.
        if matches!(part, Part::Mesh { service, namespace, .. } if !services.contains(&(*service, *namespace)))
        {
            continue;
        }
        if seen.insert(part.identity()) {
            part.write(&mut text);
        }
    }
    let reading = read(&SourceFile::new("law.yaml", text.as_str()));
    let errors: Vec<_> = reading.findings.into_iter().filter(Finding::is_error).collect();
    assert!(errors.is_empty(), "{errors:#?}\n{text}");
    reading.documents
}

fn options(profile: &Profile) -> Options {
    Options::new(Settings {
        trust_domain: TrustDomain::parse("cluster.local").unwrap(),
        root_namespace: Name::parse("istio-system").unwrap(),
        cluster_domain: Hostname::parse("cluster.local").unwrap(),
        profile: profile.clone(),
        paths: PathRule::RefuseAmbiguous,
    })
}

fn report(spec: PodSpec, phase: u8, ready: bool, address: u8) -> PodReport {
    let phase = match phase % 5 {
        0 => PodPhase::Pending,
        1 => PodPhase::Terminating,
        2 => PodPhase::Failed,
        _ => PodPhase::Running,
    };
    PodReport {
        spec,
        address: IpAddr::V4(Ipv4Addr::new(10, 66, 0, address)),
        phase,
        ready: ready && phase == PodPhase::Running,
        message: None,
        containers: Vec::new(),
        proxy_restarts: 0,
        udp_dropped: 0,
    }
}

type Held = BTreeMap<NamespacedName, BTreeMap<Key, Arc<Resource>>>;

fn told(world: &World) -> Held {
    world
        .proxies()
        .map(|proxy| (proxy.clone(), world.resources_for(proxy)))
        .collect()
}

fn part() -> impl Strategy<Value = Part> {
    let small = || 0u8..3;
    let maybe = || prop::option::of(0u8..3);
    prop_oneof![
        4 => ((small(), small(), small(), small()), small(), any::<bool>(), small(), small(), 0u8..2).prop_map(
            |((name, namespace, label, account), replicas, stateful, version, users, proxies)| Part::Workload { name, namespace, label, account, replicas, stateful, version, users, proxies }),
        3 => (small(), small(), small(), any::<bool>(), small(), any::<bool>()).prop_map(
            |(name, namespace, label, headless, port, not_ready)| Part::Service { name, namespace, label, headless, port, not_ready }),
        4 => (small(), small(), maybe(), prop::option::of((small(), small())), 0u8..4, maybe(), prop::bool::weighted(0.2)).prop_map(
            |(name, namespace, label, from, action, port, dry_run)| Part::Policy { name, namespace, label, from, action, port, dry_run }),
        2 => (small(), small(), maybe(), any::<bool>(), any::<bool>()).prop_map(
            |(name, namespace, label, deny, of_labels)| Part::AccessRule { name, namespace, label, deny, of_labels }),
        3 => (small(), small(), maybe(), 0u8..4, (0u8..4, 0u8..4)).prop_map(
            |(name, namespace, label, target, keys)| Part::Tokens { name, namespace, label, target, keys }),
        4 => (small(), small(), small(), small(), small(), any::<bool>(), any::<bool>()).prop_map(
            |(service, namespace, timeout, paths, proxies, aliases, asks)| Part::Mesh { service, namespace, timeout, paths, proxies, aliases, asks }),
        1 => small().prop_map(|which| Part::Profile { which }),
        2 => (small(), small(), maybe(), 0u8..4, maybe()).prop_map(
            |(name, namespace, label, mode, port)| Part::PeerAuthentication { name, namespace, label, mode, port }),
        2 => (0u8..2, 0u8..2, any::<bool>(), 0u8..2).prop_map(
            |(name, namespace, all, host)| Part::Gateway { name, namespace, all, host }),
        3 => (small(), 0u8..2, 0u8..2, 0u8..2, small(), any::<bool>(), any::<bool>()).prop_map(
            |(name, namespace, gateway, host, backend, other, users)| Part::Route { name, namespace, gateway, host, backend, other, users }),
        1 => small().prop_map(|namespace| Part::Grant { namespace }),
    ]
}

/// A small mesh in which what belongs together meets: a marked route, an authorizer that is asked, and those who ask.
fn core() -> Vec<Part> {
    let workload = |name, label, account| Part::Workload {
        name,
        namespace: 0,
        label,
        account,
        replicas: 1,
        stateful: false,
        version: 0,
        users: 0,
        proxies: 0,
    };
    let service = |name, label| Part::Service {
        name,
        namespace: 0,
        label,
        headless: false,
        port: 1,
        not_ready: false,
    };
    vec![
        workload(0, 0, 0),
        workload(1, 1, 1),
        workload(2, 2, 2),
        service(0, 1),
        service(1, 2),
        Part::Mesh {
            service: 1,
            namespace: 0,
            timeout: 0,
            paths: 0,
            proxies: 0,
            aliases: false,
            asks: true,
        },
        Part::Gateway {
            name: 0,
            namespace: 0,
            all: true,
            host: 0,
        },
        Part::Route {
            name: 0,
            namespace: 0,
            gateway: 0,
            host: 0,
            backend: 0,
            other: false,
            users: true,
        },
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        1 => prop::collection::vec(part(), 0..18).prop_map(Step::Documents),
        4 => part().prop_map(Step::Changed),
        8 => (0usize..18, any::<bool>()).prop_map(|(place, other)| Step::Turned(place, other)),
        2 => (0usize..18).prop_map(Step::Without),
        1 => prop::collection::vec(part(), 0..4).prop_map(Step::Broken),
        6 => (0usize..20, 0u8..6, any::<bool>(), 2u8..12).prop_map(|(pod, phase, ready, address)| Step::Report { pod, phase, ready, address }),
        1 => (0u8..2, 0u8..3, 0u8..4, any::<bool>()).prop_map(|(name, label, account, ready)| Step::Stranger { name, label, account, ready }),
        2 => (0usize..20).prop_map(|pod| Step::Gone { pod }),
        3 => (0usize..4, 0u8..3, 0u8..3).prop_map(|(set, content, at)| Step::Keys { set, content, at }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 160, ..ProptestConfig::default() })]

    #[test]
    fn incremental_is_full(
        zero_trust: bool,
        with_core: bool,
        first in prop::collection::vec(part(), 0..14),
        rest in prop::collection::vec(step(), 1..24),
    ) {
        let profile = if zero_trust { Profile::zero_trust() } else { Profile::istio() };
        let mut world = World::new(options(&profile));
        let mut documents: Vec<Document> = Vec::new();
        let mut parts: Vec<Part> = Vec::new();
        let mut reports: BTreeMap<NamespacedName, PodReport> = BTreeMap::new();
        let mut keys: BTreeMap<Arc<str>, (Arc<str>, i64)> = BTreeMap::new();
        let mut held = Held::new();
        let mut all = if with_core { core() } else { Vec::new() };
        all.extend(first);
        for step in std::iter::once(Step::Documents(all)).chain(rest) {
            let plan_before = world.plan();
            let update = match step {
                Step::Documents(_) | Step::Changed(_) | Step::Turned(..) | Step::Without(_) => {
                    let mut next_parts = parts.clone();
                    if let Step::Documents(all) = step {
                        next_parts = all;
                    } else if let Step::Changed(part) = step {
                        next_parts.insert(0, part);
                    } else if let Step::Turned(place, other) = step
                        && let Some(part) = next_parts.get_mut(place)
                    {
                        part.turn(other);
                    } else if let Step::Without(place) = step
                        && place < parts.len()
                    {
                        next_parts.remove(place);
                    }
                    let next = folder(&next_parts);
                    match world.set_documents(next.clone()) {
                        Ok(update) => {
                            documents = next;
                            parts = next_parts;
                            let wanted = world.key_sources();
                            keys.retain(|name, _| wanted.iter().any(|origin| origin.name == *name));
                            update
                        }
                        // An authorizer may take no mTLS: then everything stays.
                        Err(findings) => {
                            let refused: Vec<_> = findings.iter().filter(|finding| finding.is_error()).collect();
                            prop_assert!(refused.iter().all(|finding| finding.code.id == "BZ0264"), "{refused:#?}");
                            Update::default()
                        }
                    }
                }
                Step::Broken(parts) => {
                    let mut next = folder(&parts);
                    next.push(next[0].clone());
                    let findings = world.set_documents(next).unwrap_err();
                    prop_assert!(findings.iter().any(Finding::is_error));
                    Update::default()
                }
                Step::Report { pod, phase, ready, address } => {
                    let plan = world.plan();
                    let Some(spec) = (!plan.is_empty()).then(|| plan[pod % plan.len()].clone()) else { continue };
                    let report = report(spec, phase, ready, address);
                    reports.insert(report.spec.name.clone(), report.clone());
                    world.report_pod(report)
                }
                Step::Stranger { name, label, account, ready } => {
                    let name = NamespacedName::parse(&format!("shop/run-{name}")).unwrap();
                    let mut template = World::new(options(&profile));
                    let text = format!("apiVersion: v1\nkind: Pod\nmetadata: {{ name: {}, namespace: shop, labels: {{ l: l{label} }} }}\nspec: {{ serviceAccountName: a{account}, containers: [{{ name: c, command: [run] }}] }}", name.name);
                    let mut all = read(&SourceFile::new("run.yaml", text.as_str())).documents;
                    all.extend(folder(&[]));
                    let text = "apiVersion: v1\nkind: ServiceAccount\nmetadata: { name: a3, namespace: shop }";
                    all.extend(read(&SourceFile::new("a3.yaml", text)).documents);
                    template.set_documents(all).unwrap();
                    let report = report(template.plan()[0].clone(), 4, ready, 200);
                    reports.insert(name, report.clone());
                    world.report_pod(report)
                }
                Step::Keys { set, content, at } => {
                    let jwks: Arc<str> = format!("{{\"keys\":[{content}]}}").into();
                    let wanted = world.key_sources();
                    let name = wanted.get(set).map_or_else(|| "jwks/nowhere".into(), |origin| origin.name.clone());
                    if set < wanted.len() {
                        keys.insert(name.clone(), (jwks.clone(), i64::from(at)));
                    }
                    world.report_keys(&name, jwks, i64::from(at))
                }
                Step::Gone { pod } => {
                    let Some(name) = reports.keys().nth(pod).cloned() else { continue };
                    reports.remove(&name);
                    world.pod_gone(&name)
                }
            };

            // What was sent adds up.
            for name in &update.removed {
                held.remove(name);
            }
            for name in &update.added {
                held.insert(name.clone(), BTreeMap::new());
            }
            for (proxy, resources) in &mut held {
                let change = update.change_for(proxy);
                for key in &change.removals {
                    prop_assert!(!change.upserts.contains_key(key), "{proxy} is sent {key} and its removal");
                    prop_assert!(resources.remove(key).is_some(), "{proxy} is sent the removal of {key}, which it has not");
                }
                for (key, resource) in change.upserts {
                    prop_assert_eq!(&resource.key(), &key);
                    let old = resources.insert(key.clone(), resource.clone());
                    prop_assert!(old.as_ref() != Some(&resource), "{proxy} is sent {key}, which it has");
                }
            }
            let now = told(&world);
            prop_assert_eq!(&held, &now, "what was sent does not add up");
            prop_assert_eq!(update.plan_changed, plan_before != world.plan());

            // A fresh world says the same.
            let mut fresh_options = options(&profile);
            fresh_options.allocations = world.allocations().clone();
            let mut fresh = World::new(fresh_options);
            for report in reports.values().rev() {
                fresh.report_pod(report.clone());
            }
            fresh.set_documents(documents.clone()).unwrap();
            for (name, (jwks, at)) in &keys {
                fresh.report_keys(name, jwks.clone(), *at);
            }
            prop_assert_eq!(world.key_sources(), fresh.key_sources());
            prop_assert_eq!(world.settings(), fresh.settings());
            prop_assert_eq!(&now, &told(&fresh), "a fresh world says otherwise");
            prop_assert_eq!(world.plan(), fresh.plan());
            prop_assert_eq!(world.services(), fresh.services());
            prop_assert_eq!(world.workloads(), fresh.workloads());
        }
    }
}
