//! Gateways: which are ours, their listeners, and the pods that serve them.
//!
//! As Istio does for its managed gateways, a gateway `GATEWAY` of class `CLASS` is served by the workload `GATEWAY-CLASS`
//! with the service account `GATEWAY-CLASS` of the gateway's namespace; neither needs a document.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;

use bartizan_config::gateway_api::{Gateway, GatewayClass, RouteNamespaces};
use bartizan_config::istio::GatewayTopology;
use bartizan_config::{Document, Finding, Severity};
use bartizan_mesh::{Key, Listener, Resource};
use bartizan_types::{
    GatewayListen, HostPattern, Labels, Name, NamespacedName, PodRole, PodSpec, Port, RestartPolicy, SpiffeId,
};

use crate::codes;
use crate::library::Library;
use crate::options::Options;
use crate::plan::{LocalRuns, Plan, PlannedPod, sealed};

/// One of our gateways.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct GatewayEntry {
    pub(crate) listeners: Vec<ListenerEntry>,
    /// The workload and service account that serve it.
    pub(crate) account: Name,
    class: Name,
    topology: Option<GatewayTopology>,
}

/// One listener of a gateway of ours.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ListenerEntry {
    pub(crate) listener: Listener,
    pub(crate) key: Key,
    pub(crate) resource: Arc<Resource>,
    pub(crate) routes_from: RouteNamespaces,
}

pub(crate) type Gateways = BTreeMap<NamespacedName, Arc<GatewayEntry>>;

/// All gateways of ours.
pub(crate) fn build(library: &Library, findings: &mut Vec<Finding>) -> Gateways {
    let mut classes: BTreeMap<&Name, &GatewayClass> = BTreeMap::new();
    for document in library.iter() {
        if let bartizan_config::Resource::GatewayClass(class) = &document.resource {
            classes.insert(document.name(), class);
        }
    }
    let mut gateways = Gateways::new();
    for document in library.iter() {
        let bartizan_config::Resource::Gateway(gateway) = &document.resource else {
            continue;
        };
        let ours = match classes.get(&gateway.class) {
            Some(class) => class.is_ours(),
            None => matches!(gateway.class.as_str(), "bartizan" | "istio"),
        };
        if !ours {
            let what = format!(
                "gateway class `{}` is not ours: nothing listens for this gateway",
                gateway.class
            );
            let finding = document.finding(
                codes::NOT_OUR_GATEWAY,
                Severity::Warning,
                "spec.gatewayClassName",
                what,
            );
            findings
                .push(finding.help("use `bartizan` or `istio`, or add a GatewayClass with our controller"));
            continue;
        }
        if let Some(name) = document.namespaced_name()
            && let Some(entry) = entry(&name, document, gateway, findings)
        {
            gateways.insert(name, Arc::new(entry));
        }
    }
    gateways
}

fn entry(
    name: &NamespacedName,
    document: &Document,
    gateway: &Gateway,
    findings: &mut Vec<Finding>,
) -> Option<GatewayEntry> {
    let Ok(account) = Name::parse(&format!("{}-{}", name.name, gateway.class)) else {
        let what = format!(
            "`{}-{}` is too long for the name of a workload",
            name.name, gateway.class
        );
        findings.push(document.finding(codes::NAME_TAKEN, Severity::Error, "metadata.name", what));
        return None;
    };
    let mut listeners = Vec::new();
    for written in &gateway.listeners {
        let hostname = written.hostname.clone().unwrap_or(HostPattern::Any);
        let listener = Listener {
            gateway: name.clone(),
            section: written.name.clone(),
            port: written.port,
            hostname,
        };
        let resource = Resource::Listener(listener.clone());
        listeners.push(ListenerEntry {
            listener,
            key: resource.key(),
            resource: Arc::new(resource),
            routes_from: written.routes_from.clone().unwrap_or(RouteNamespaces::Same),
        });
    }
    Some(GatewayEntry {
        listeners,
        account,
        class: gateway.class.clone(),
        topology: gateway.topology,
    })
}

/// Adds the pods that serve the gateways to the plan.
pub(crate) fn add_pods(
    plan: &mut Plan,
    gateways: &Gateways,
    library: &Library,
    options: &Options,
    local: &LocalRuns<'_>,
    findings: &mut Vec<Finding>,
) {
    let mut taken: BTreeMap<SocketAddr, &NamespacedName> = BTreeMap::new();
    for document in library.iter() {
        let Some((name, entry)) = document
            .namespaced_name()
            .filter(|_| matches!(document.resource, bartizan_config::Resource::Gateway(_)))
            .and_then(|name| gateways.get_key_value(&name))
        else {
            continue;
        };
        let listen = listen(name, entry, document, options, local, findings);
        for place in listen.iter().filter(|place| place.address.port() != 0) {
            if let Some(other) = taken.insert(place.address, name) {
                let what = format!(
                    "gateways `{other}` and `{name}` would both listen at {}",
                    place.address
                );
                let finding =
                    document.finding(codes::LISTENER_CONFLICT, Severity::Error, "spec.listeners", what);
                findings.push(finding.help(local_run_help(name, place.port, "127.0.0.1:9080")));
            }
        }
        let Ok(instance) = Name::parse(&format!("{}-0", entry.account)) else {
            continue;
        };
        let instance = NamespacedName::new(name.namespace.clone(), instance);
        if plan.contains_key(&instance) || instance.name.as_str().len() > 63 {
            let what =
                format!("`{instance}`, the replica that serves gateway `{name}`, is taken or too long");
            findings.push(document.finding(codes::NAME_TAKEN, Severity::Error, "metadata.name", what));
            continue;
        }
        let spec = Arc::new(pod(&instance, name, entry, listen, options));
        plan.insert(
            instance,
            Arc::new(PlannedPod {
                spec,
                after: None,
                topology: entry.topology,
            }),
        );
    }
}

fn pod(
    instance: &NamespacedName,
    gateway: &NamespacedName,
    entry: &GatewayEntry,
    listen: Vec<GatewayListen>,
    options: &Options,
) -> PodSpec {
    let labels: Labels = [
        ("gateway.networking.k8s.io/gateway-name", gateway.name.to_string()),
        (
            "gateway.networking.k8s.io/gateway-class-name",
            entry.class.to_string(),
        ),
        ("service.istio.io/canonical-name", entry.account.to_string()),
        ("service.istio.io/canonical-revision", "latest".to_owned()),
    ]
    .map(|(key, value)| (key.to_owned(), value))
    .into();
    sealed(PodSpec {
        name: instance.clone(),
        workload: entry.account.clone(),
        service_account: entry.account.clone(),
        identity: SpiffeId::workload(&options.settings.trust_domain, &gateway.namespace, &entry.account),
        labels,
        annotations: Labels::new(),
        hostname: instance.name.to_string(),
        subdomain: None,
        role: PodRole::Gateway {
            gateway: gateway.clone(),
            listen,
        },
        init_containers: Vec::new(),
        containers: Vec::new(),
        volumes: Vec::new(),
        restart: RestartPolicy::Always,
        termination_grace_seconds: 30,
        template_hash: String::new(),
    })
}

/// Where the host listens for each port of a gateway.
fn listen(
    name: &NamespacedName,
    entry: &GatewayEntry,
    document: &Document,
    options: &Options,
    local: &LocalRuns<'_>,
    findings: &mut Vec<Finding>,
) -> Vec<GatewayListen> {
    let ports: BTreeSet<Port> = entry
        .listeners
        .iter()
        .map(|listener| listener.listener.port)
        .collect();
    let mut places = Vec::new();
    for &port in &ports {
        let index = entry
            .listeners
            .iter()
            .position(|listener| listener.listener.port == port);
        let path = format!("spec.listeners[{}].port", index.unwrap_or_default());
        let own = |number| SocketAddr::new(options.gateway_address, number);
        let address = match local.for_gateway(name, port, ports.len() == 1) {
            Some(address) => address,
            None if port.get() >= 1024 => own(port.get()),
            None if port.get() == 80 => {
                let what = format!(
                    "port 80 of gateway `{name}` is offered at {} of this machine",
                    own(8080)
                );
                let finding = document.finding(codes::GATEWAY_ADDRESS, Severity::Note, &path, what);
                findings.push(finding.help(local_run_help(name, port, "127.0.0.1:8080")));
                own(8080)
            }
            None => {
                let what = format!("port {port} of gateway `{name}` needs privileges on this machine");
                let finding = document.finding(codes::GATEWAY_ADDRESS, Severity::Error, &path, what);
                let address = format!("127.0.0.1:{}", 8000 + u32::from(port.get()));
                findings.push(finding.help(local_run_help(name, port, &address)));
                continue;
            }
        };
        places.push(GatewayListen { port, address });
    }
    places
}

fn local_run_help(gateway: &NamespacedName, port: Port, address: &str) -> String {
    format!(
        "say where the host listens:\n  apiVersion: bartizan.dev/v1alpha1\n  kind: LocalRun\n  metadata: {{ name: local }}\n  spec:\n    gateways:\n      - gateway: {gateway}\n        listen: [{{ port: {port}, address: \"{address}\" }}]"
    )
}
