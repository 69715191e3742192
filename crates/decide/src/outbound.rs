//! Where an outbound connection goes: by its original destination to a service or a workload, else nowhere.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use bartizan_mesh::{Endpoints, Service, ServicePort, Snapshot, Workload};
use bartizan_types::{Hostname, Name, NamespacedName, Port, Protocol, SpiffeId};

/// How many `ExternalName` services may stand behind each other.
const MOST_ALIASES: usize = 8;

/// Where a connection or a route's backend leads.
#[derive(Clone, Debug)]
pub enum Destination<'s> {
    /// A service: an endpoint is chosen for each request or connection.
    Service {
        /// The service.
        service: &'s Arc<Service>,
        /// The port that was called.
        port: &'s ServicePort,
        /// Where it is served.
        endpoints: &'s Arc<Endpoints>,
    },
    /// One workload, by its own address (headless services too).
    Workload {
        /// The workload.
        workload: &'s Arc<Workload>,
        /// Its port.
        port: Port,
        /// What the port speaks, where a service says it.
        protocol: Protocol,
        /// The service that has this port as a target, and the service's port: for telemetry.
        service: Option<(&'s Arc<Service>, Port)>,
        /// The identity that it must prove; `None` only for an endpoint that speaks plaintext.
        identity: Option<&'s SpiffeId>,
    },
    /// Nowhere.
    Refused(Refusal),
}

/// Why an outbound connection leads nowhere.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Refusal {
    /// The address is neither a service's nor a workload's.
    #[error("no way out: `{0}` is not an address of the mesh")]
    NoWayOut(SocketAddr),
    /// The service has no such port.
    #[error("service `{service}` has no port {port}")]
    NoSuchPort {
        /// The service.
        service: NamespacedName,
        /// The port that was called.
        port: Port,
    },
    /// The control plane told no endpoints, because no policy could let this workload in.
    #[error("service `{0}` is not reachable by policy: no ALLOW rule could let this workload in")]
    NotReachable(NamespacedName),
    /// No service of this name.
    #[error("there is no service `{0}`")]
    NoSuchService(NamespacedName),
}

/// Where the original destination of a captured connection leads.
pub fn outbound(snapshot: &Snapshot, original: SocketAddr) -> Destination<'_> {
    let address = original.ip().to_canonical();
    let Ok(port) = Port::new(u32::from(original.port())) else {
        return Destination::Refused(Refusal::NoWayOut(original));
    };
    if let Some(service) = snapshot.service_at(address) {
        return of_service(snapshot, service, port);
    }
    let Some(workload) = snapshot.workload_at(address) else {
        return Destination::Refused(Refusal::NoWayOut(original));
    };
    // A service that targets this port says more about it. The first by name, where there are several.
    let served = snapshot.endpoints_at(address).find_map(|endpoints| {
        let service = snapshot.service(&endpoints.service)?;
        let mut here = endpoints
            .endpoints
            .iter()
            .filter(|endpoint| endpoint.address == address);
        let (endpoint, service_port) = here.find_map(|endpoint| {
            let mut ports = endpoint.ports.iter();
            let (service_port, _) = ports.find(|(_, target)| **target == port)?;
            Some((endpoint, service.port(*service_port)?))
        })?;
        Some((service, service_port, endpoint))
    });
    match served {
        Some((service, service_port, endpoint)) => Destination::Workload {
            workload,
            port,
            protocol: service_port.protocol,
            service: Some((service, service_port.port)),
            identity: endpoint.identity.as_ref(),
        },
        None => Destination::Workload {
            workload,
            port,
            protocol: Protocol::Detect,
            service: None,
            identity: Some(&workload.identity),
        },
    }
}

/// Where a named service leads: for the backends of routes.
pub fn backend<'s>(snapshot: &'s Snapshot, service: &NamespacedName, port: Port) -> Destination<'s> {
    let mut name = service.clone();
    for _ in 0..MOST_ALIASES {
        let Some(service) = snapshot.service(&name) else {
            return Destination::Refused(Refusal::NoSuchService(name));
        };
        let Some(alias) = &service.alias_of else {
            return of_service(snapshot, service, port);
        };
        match snapshot.service_named(&name.namespace, alias.as_str()) {
            Some(service) => name = service.name.clone(),
            None => break,
        }
    }
    Destination::Refused(Refusal::NoSuchService(service.clone()))
}

fn of_service<'s>(snapshot: &'s Snapshot, service: &'s Arc<Service>, port: Port) -> Destination<'s> {
    let Some(service_port) = service.port(port) else {
        return Destination::Refused(Refusal::NoSuchPort {
            service: service.name.clone(),
            port,
        });
    };
    match snapshot.endpoints(&service.name) {
        Some(endpoints) => Destination::Service {
            service,
            port: service_port,
            endpoints,
        },
        None => Destination::Refused(Refusal::NotReachable(service.name.clone())),
    }
}

/// What a name means.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Answer {
    /// The name is not one of the mesh.
    NoSuchName,
    /// No name of the mesh, but names below it are: a namespace, or the cluster's domain (RFC 8020: not NXDOMAIN).
    OnlyBelow,
    /// The name exists. There may be no address: a headless service without ready endpoints.
    Addresses {
        /// The full name that the addresses belong to, after aliases.
        canonical: Hostname,
        /// In the order of the document or of the endpoints.
        addresses: Vec<IpAddr>,
    },
}

/// What a mesh name means to a workload of `namespace`: services by short and full names, single instances below a
/// headless service, `ExternalName` followed.
pub fn resolve_name(snapshot: &Snapshot, namespace: &Name, name: &str) -> Answer {
    let lower = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
    if let Some(workload) = snapshot.workload_named(namespace, &lower)
        && let Some(hostname) = &workload.hostname
    {
        return Answer::Addresses {
            canonical: hostname.clone(),
            addresses: workload.addresses.clone(),
        };
    }
    let mut found = snapshot.service_named(namespace, &lower);
    for _ in 0..MOST_ALIASES {
        let Some(service) = found else { break };
        match &service.alias_of {
            Some(alias) => found = snapshot.service_named(&service.name.namespace, alias.as_str()),
            None => {
                return Answer::Addresses {
                    canonical: service.hostname.clone(),
                    addresses: addresses_of(snapshot, service),
                };
            }
        }
    }
    if is_above(snapshot, &lower) {
        return Answer::OnlyBelow;
    }
    Answer::NoSuchName
}

/// Whether names of the mesh are below this full name.
fn is_above(snapshot: &Snapshot, name: &str) -> bool {
    let Some(domain) = snapshot
        .settings()
        .map(|settings| settings.cluster_domain.as_str())
    else {
        return false;
    };
    if name == domain {
        return true;
    }
    match name.strip_suffix(domain).and_then(|rest| rest.strip_suffix('.')) {
        Some("svc") => true,
        Some(rest) => rest.strip_suffix(".svc").is_some_and(|namespace| {
            !namespace.contains('.')
                && snapshot
                    .services()
                    .any(|service| service.name.namespace.as_str() == namespace)
        }),
        None => false,
    }
}

fn addresses_of(snapshot: &Snapshot, service: &Service) -> Vec<IpAddr> {
    if !service.headless {
        return service.addresses.clone();
    }
    let endpoints = snapshot.endpoints(&service.name);
    endpoints
        .into_iter()
        .flat_map(|endpoints| &endpoints.endpoints)
        .filter(|endpoint| endpoint.ready)
        .map(|endpoint| endpoint.address)
        .collect()
}

#[cfg(test)]
#[path = "outbound_tests.rs"]
mod tests;
