//! Services: names, virtual addresses and ports; what they select.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use bartizan_config::kube::{self, PortReference, ServiceKind};
use bartizan_config::{Document, Finding, Severity};
use bartizan_mesh::{Resource, Service, ServicePort};
use bartizan_types::{ContainerPort, Hostname, Labels, NamespacedName, PodSpec, Port, Protocol, Selector};

use crate::allocations::Allocations;
use crate::codes;
use crate::library::Library;
use crate::options::Options;

/// A service: what everybody is told, and what its endpoints are computed from.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ServiceEntry {
    pub(crate) service: Service,
    pub(crate) resource: Arc<Resource>,
    selector: Selector,
    pub(crate) ports: Vec<TargetPort>,
    pub(crate) publish_not_ready: bool,
}

/// A service's port and what it means at a workload.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct TargetPort {
    pub(crate) port: Port,
    target: PortReference,
    pub(crate) protocol: Protocol,
}

pub(crate) type Services = BTreeMap<NamespacedName, Arc<ServiceEntry>>;

impl ServiceEntry {
    /// Whether a pod of the service's namespace with these labels stands behind it. Without a selector nothing does.
    pub(crate) fn selects(&self, labels: &Labels) -> bool {
        !self.selector.is_empty() && self.service.alias_of.is_none() && self.selector.matches(labels)
    }

    /// The labels that it asks for; `None` where nothing stands behind it.
    pub(crate) fn selector(&self) -> Option<&Selector> {
        (self.has_selector() && self.service.alias_of.is_none()).then_some(&self.selector)
    }

    pub(crate) fn has_selector(&self) -> bool {
        !self.selector.is_empty()
    }
}

impl TargetPort {
    /// The workload's port, where it has one of this number or name.
    pub(crate) fn at(&self, pod: &PodSpec) -> Option<Port> {
        let name = match &self.target {
            PortReference::Number(port) => return Some(*port),
            PortReference::Name(name) => name,
        };
        ports_of(pod)
            .find(|port| port.name.as_ref() == Some(name))
            .map(|port| port.port)
    }

    /// The name that the target is found by, if it is not a number.
    pub(crate) fn target_name(&self) -> Option<&str> {
        match &self.target {
            PortReference::Number(_) => None,
            PortReference::Name(name) => Some(name),
        }
    }
}

/// The ports that a pod's containers name.
pub(crate) fn ports_of(pod: &PodSpec) -> impl Iterator<Item = &ContainerPort> {
    pod.containers.iter().flat_map(|container| &container.ports)
}

/// All services, and their addresses.
pub(crate) fn build(
    library: &Library,
    options: &Options,
    allocations: &Allocations,
    findings: &mut Vec<Finding>,
) -> (Services, Allocations) {
    let mut found: BTreeMap<NamespacedName, (&Document, &kube::Service)> = BTreeMap::new();
    for document in library.iter() {
        if let bartizan_config::Resource::Service(service) = &document.resource
            && let Some(name) = document.namespaced_name()
        {
            found.insert(name, (document, service));
        }
    }
    let addressed = found
        .iter()
        .filter(|(_, (_, service))| service.kind == ServiceKind::ClusterIp);
    let (allocations, without) = allocations.for_services(addressed.map(|(name, _)| name));
    for name in without {
        if let Some((document, _)) = found.get(&name) {
            let what = format!("no virtual address is left for service `{name}`");
            findings.push(document.finding(codes::ADDRESSES_EXHAUSTED, Severity::Error, "spec", what));
        }
    }
    let mut services = Services::new();
    for (name, (document, service)) in &found {
        let Some(hostname) = full_name(name, options) else {
            let what = format!("`{name}` is too long for the name of a service");
            findings.push(document.finding(codes::NAME_TAKEN, Severity::Error, "metadata.name", what));
            continue;
        };
        let alias_of = match &service.kind {
            ServiceKind::ClusterIp | ServiceKind::Headless => None,
            ServiceKind::ExternalName(other) => {
                let target = end_of_chain(other, &found, options);
                if target.is_none() {
                    let what = format!("external name `{other}` does not lead to a service of the mesh");
                    findings.push(
                        document
                            .finding(codes::EXTERNAL_NAME, Severity::Error, "spec.externalName", what)
                            .why("nothing leaves the mesh yet, so that requests to it could only fail")
                            .help(format!(
                                "name a service in full: `NAME.NAMESPACE.svc.{}`",
                                options.settings.cluster_domain
                            )),
                    );
                }
                target.and_then(|target| full_name(&target, options))
            }
        };
        services.insert(
            name.clone(),
            Arc::new(entry(name, hostname, alias_of, service, &allocations)),
        );
    }
    (services, allocations)
}

fn entry(
    name: &NamespacedName,
    hostname: Hostname,
    alias_of: Option<Hostname>,
    written: &kube::Service,
    allocations: &Allocations,
) -> ServiceEntry {
    let service = Service {
        name: name.clone(),
        hostname,
        addresses: allocations.get(name).map(IpAddr::V4).into_iter().collect(),
        headless: written.kind == ServiceKind::Headless,
        alias_of,
        ports: written
            .ports
            .iter()
            .map(|port| ServicePort {
                port: port.port,
                name: port.name.clone(),
                protocol: port.protocol(),
            })
            .collect(),
    };
    ServiceEntry {
        resource: Arc::new(Resource::Service(service.clone())),
        service,
        selector: written.selector.clone(),
        ports: written
            .ports
            .iter()
            .map(|port| TargetPort {
                port: port.port,
                target: port.target.clone().unwrap_or(PortReference::Number(port.port)),
                protocol: port.protocol(),
            })
            .collect(),
        publish_not_ready: written.publish_not_ready_addresses,
    }
}

/// The service with pods that a chain of external names leads to; `None` where it leaves the mesh or goes round.
fn end_of_chain(
    first: &Hostname,
    services: &BTreeMap<NamespacedName, (&Document, &kube::Service)>,
    options: &Options,
) -> Option<NamespacedName> {
    let mut next = first;
    for _ in 0..=services.len() {
        let name = mesh_service(next, options)?;
        match &services.get(&name)?.1.kind {
            ServiceKind::ClusterIp | ServiceKind::Headless => return Some(name),
            ServiceKind::ExternalName(other) => next = other,
        }
    }
    None
}

/// `name.namespace.svc.cluster.local`.
pub(crate) fn full_name(name: &NamespacedName, options: &Options) -> Option<Hostname> {
    let domain = &options.settings.cluster_domain;
    Hostname::parse(&format!("{}.{}.svc.{domain}", name.name, name.namespace)).ok()
}

/// The service that `name.namespace`, `name.namespace.svc` or the full name stands for.
fn mesh_service(hostname: &Hostname, options: &Options) -> Option<NamespacedName> {
    let text = hostname.as_str();
    let suffix = format!(".svc.{}", options.settings.cluster_domain);
    let short = text
        .strip_suffix(suffix.as_str())
        .or_else(|| text.strip_suffix(".svc"))
        .unwrap_or(text);
    let (name, namespace) = short.split_once('.')?;
    if namespace.contains('.') {
        return None;
    }
    NamespacedName::parse(&format!("{namespace}/{name}")).ok()
}
