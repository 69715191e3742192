//! Istio's labels of the two sides of a hop, from identities and the control plane's table of addresses: what a peer says
//! of itself in headers is not believed.

use std::net::IpAddr;
use std::sync::Arc;

use bartizan_mesh::{Snapshot, Workload};
use bartizan_telemetry::{self as telemetry, Service};
use bartizan_types::{NamespacedName, Peer, Port, SpiffeId};

const UNKNOWN: &str = "unknown";

/// A workload of the table, with the identity that counts for this hop.
pub(crate) fn side_of(workload: &Workload, principal: Option<&SpiffeId>) -> telemetry::Workload {
    let or_unknown = |text: &Option<String>| text.as_deref().unwrap_or(UNKNOWN).into();
    telemetry::Workload {
        name: workload.workload_name.as_str().into(),
        namespace: workload.name.namespace.as_str().into(),
        principal: principal.map_or(UNKNOWN, SpiffeId::as_str).into(),
        app: or_unknown(&workload.app),
        version: or_unknown(&workload.version),
        canonical_service: workload.canonical_service.as_str().into(),
        canonical_revision: workload.canonical_revision.as_str().into(),
        cluster: UNKNOWN.into(),
    }
}

/// The workload that this proxy serves.
pub(crate) fn own_side(snapshot: &Snapshot, name: &NamespacedName) -> Arc<telemetry::Workload> {
    let identity = snapshot.view(name).map(|view| &view.identity);
    Arc::new(match snapshot.workload(name) {
        Some(workload) => side_of(workload, identity),
        None => identity.map_or_else(telemetry::Workload::default, telemetry::Workload::from_identity),
    })
}

/// Whoever called from `address` as `peer`. The table's workload counts only when it has the identity that was proven.
pub(crate) fn caller_side(snapshot: &Snapshot, peer: &Peer, address: IpAddr) -> Arc<telemetry::Workload> {
    let known = snapshot.workload_at(address.to_canonical());
    Arc::new(match (peer.identity(), known) {
        (Some(id), Some(workload)) if workload.identity == *id => side_of(workload, Some(id)),
        (Some(id), _) => telemetry::Workload::from_identity(id),
        (None, Some(workload)) => side_of(workload, None),
        (None, None) => telemetry::Workload::default(),
    })
}

/// A service of the mesh.
pub(crate) fn service_of(service: &bartizan_mesh::Service) -> Service {
    Service {
        host: service.hostname.as_str().into(),
        name: service.name.name.as_str().into(),
        namespace: service.name.namespace.as_str().into(),
    }
}

/// As what an inbound port was called.
pub(crate) fn inbound_service(snapshot: &Snapshot, local: &NamespacedName, port: Port) -> Arc<Service> {
    let service = snapshot
        .view(local)
        .and_then(|view| view.inbound_port(port))
        .and_then(|inbound| inbound.service.as_ref())
        .and_then(|name| snapshot.service(name));
    Arc::new(match service {
        Some(service) => service_of(service),
        None => Service {
            host: snapshot
                .workload(local)
                .map_or(UNKNOWN, |workload| &workload.canonical_service)
                .into(),
            name: "InboundPassthroughCluster".into(),
            namespace: local.namespace.as_str().into(),
        },
    })
}

/// As what a refused outbound connection is counted.
pub(crate) fn nowhere() -> Service {
    Service {
        name: "BlackHoleCluster".into(),
        ..Service::default()
    }
}
