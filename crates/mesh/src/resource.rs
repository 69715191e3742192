//! What a proxy is told: one resource for each thing that a person wrote or that runs.
//!
//! Everybody gets `Settings`, every `Service` (names and virtual addresses) and every `Workload` (who an address is).
//! `Endpoints`, `Policy`, `View`, `Listener` and `Route` go only to the proxies that they concern (`compile::scope`).
//! A `Service` without `Endpoints` is therefore one that no policy lets this workload reach.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use bartizan_types::{
    Hostname, Labels, Name, NamespacedName, Port, Protocol, SpiffeId, TrustDomain, Version,
};
use serde::{Deserialize, Serialize};

use crate::policy::Policy;
use crate::route::{Listener, Route};

/// The name of a resource in a store: `kind/namespace/name`, such as `policy/mission-services/telemetry-ingest-policy`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct Key(pub Arc<str>);

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Key {
    /// The key of a namespaced resource of this kind.
    pub fn new(kind: &str, name: &NamespacedName) -> Self {
        Self(format!("{kind}/{name}").into())
    }

    /// The part before the first `/`.
    pub fn kind(&self) -> &str {
        self.0.split('/').next().unwrap_or_default()
    }
}

/// One resource, with all that a proxy needs of it. Its JSON has the variant's name in `kind`.
///
/// Decoding is strict: a field that is not known is an error, so that a newer control plane cannot make an older proxy
/// skip the half of a rule that it does not understand.
#[derive(Clone, PartialEq, Debug, Serialize)]
#[serde(tag = "kind", rename_all = "camelCase")]
pub enum Resource {
    /// Key `settings`.
    Settings(Settings),
    /// Key `service/ns/name`.
    Service(Service),
    /// Key `endpoints/ns/name`, the service's name.
    Endpoints(Endpoints),
    /// Key `workload/ns/name`.
    Workload(Workload),
    /// Key `policy/ns/name`.
    Policy(Policy),
    /// Key `view/ns/name`, the workload's name.
    View(View),
    /// Key `listener/ns/gateway/section` (the gateway's name and the listener's).
    Listener(Listener),
    /// Key `route/ns/name`.
    Route(Route),
}

impl Resource {
    /// Where this resource is kept.
    pub fn key(&self) -> Key {
        match self {
            Self::Settings(_) => Key("settings".into()),
            Self::Service(service) => Key::new("service", &service.name),
            Self::Endpoints(endpoints) => Key::new("endpoints", &endpoints.service),
            Self::Workload(workload) => Key::new("workload", &workload.name),
            Self::Policy(policy) => Key::new("policy", &policy.name),
            Self::View(view) => Key::new("view", &view.workload),
            Self::Listener(listener) => {
                Key(format!("listener/{}/{}", listener.gateway, listener.section).into())
            }
            Self::Route(route) => Key::new("route", &route.name),
        }
    }
}

/// A numbered change that is applied whole or not at all.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Transaction {
    /// The version that holds once it is applied.
    pub version: Version,
    /// New and changed resources.
    pub upserts: Vec<Resource>,
    /// What is gone.
    pub removals: Vec<Key>,
}

/// What holds for the whole mesh.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Settings {
    /// The trust domain of this mesh.
    pub trust_domain: TrustDomain,
    /// The namespace whose policies count everywhere (Istio `rootNamespace`).
    pub root_namespace: Name,
    /// The domain behind `.svc`, such as `cluster.local`.
    pub cluster_domain: Hostname,
    /// What holds where no policy speaks.
    pub profile: Profile,
    /// What happens to a path that two parsers could read differently.
    pub paths: PathRule,
}

/// What holds where no policy speaks.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Profile {
    /// STRICT mTLS, nothing allowed unless a policy allows it, no way out that is not declared.
    ZeroTrust,
    /// Istio's defaults: PERMISSIVE, allowed unless an ALLOW policy is attached or a DENY matches.
    Istio,
}

/// What happens to a path that two parsers could read differently (DESIGN "One meaning of a path").
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PathRule {
    /// Refused with 400 (zero trust).
    RefuseAmbiguous,
    /// Istio `pathNormalization: BASE`: RFC 3986 dot segments, `\` to `/`.
    Base,
}

/// A service's names and ports; endpoints are told apart from it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Service {
    /// Namespace and name.
    pub name: NamespacedName,
    /// The full name, `name.namespace.svc.cluster.local`.
    pub hostname: Hostname,
    /// Virtual addresses; empty when the service is headless or only a name.
    pub addresses: Vec<IpAddr>,
    /// `clusterIP: None`: the name resolves to the endpoints' own addresses.
    pub headless: bool,
    /// `type: ExternalName`: another mesh name that this one stands for.
    pub alias_of: Option<Hostname>,
    /// The ports that clients call.
    pub ports: Vec<ServicePort>,
}

/// One port of a service.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ServicePort {
    /// The number that clients call.
    pub port: Port,
    /// Its name in the document.
    pub name: Option<String>,
    /// What was declared; [`Protocol::Detect`] is the mark of a port for which nothing was.
    pub protocol: Protocol,
}

impl ServicePort {
    /// Whether the document said what the port speaks.
    pub fn is_declared(&self) -> bool {
        self.protocol != Protocol::Detect
    }
}

impl Service {
    /// The port that clients call by this number.
    pub fn port(&self, number: Port) -> Option<&ServicePort> {
        self.ports.iter().find(|port| port.port == number)
    }
}

/// The places where a service is served.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Endpoints {
    /// The service.
    pub service: NamespacedName,
    /// All endpoints, ready or not, in the order of their workloads' names.
    pub endpoints: Vec<Endpoint>,
}

/// One place where a service is served.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Endpoint {
    /// The workload that serves.
    pub workload: NamespacedName,
    /// Its address.
    pub address: IpAddr,
    /// Service port to workload port.
    pub ports: BTreeMap<Port, Port>,
    /// The identity that the server must prove; `None` only for a plaintext endpoint.
    pub identity: Option<SpiffeId>,
    /// Whether new requests may go there. An endpoint leaves when its termination begins.
    pub ready: bool,
}

/// Who an address is: for telemetry, for connections straight to a workload's address, and for `explain`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Workload {
    /// Namespace and instance name (the pod's), such as `mission-services/telemetry-ingest-0`.
    pub name: NamespacedName,
    /// Its addresses in the mesh.
    pub addresses: Vec<IpAddr>,
    /// Its identity.
    pub identity: SpiffeId,
    /// The owning controller's name (Istio `*_workload`), such as the Deployment's.
    pub workload_name: Name,
    /// Istio `*_canonical_service`.
    pub canonical_service: String,
    /// Istio `*_canonical_revision`.
    pub canonical_revision: String,
    /// Label `app`, if any.
    pub app: Option<String>,
    /// Label `version`, if any.
    pub version: Option<String>,
    /// DNS names of this one instance below its headless service, if it has one.
    pub hostname: Option<Hostname>,
}

/// What a local workload's own proxy needs to know.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct View {
    /// The workload.
    pub workload: NamespacedName,
    /// Its identity.
    pub identity: SpiffeId,
    /// Its labels.
    pub labels: Labels,
    /// The policies that select it; keys of `Policy` resources. A key without a resource denies.
    pub policies: Vec<NamespacedName>,
    /// mTLS mode of ports that are not listed below.
    pub mtls: MtlsMode,
    /// Ports that a service targets or that a policy speaks of, in order of their number.
    pub inbound: Vec<InboundPort>,
    /// The gateway that this workload serves, if it is one.
    pub gateway: Option<NamespacedName>,
}

impl View {
    /// The port of this number, if a service targets it or a policy speaks of it.
    pub fn inbound_port(&self, number: Port) -> Option<&InboundPort> {
        self.inbound.iter().find(|port| port.port == number)
    }

    /// What plaintext may do on this port.
    pub fn mtls_of(&self, number: Port) -> MtlsMode {
        self.inbound_port(number).map_or(self.mtls, |port| port.mtls)
    }
}

/// One port of a local workload.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct InboundPort {
    /// The workload's port (a service's target port).
    pub port: Port,
    /// What plaintext may do here.
    pub mtls: MtlsMode,
    /// Declared by a service; [`Protocol::Detect`] where nothing was declared.
    pub protocol: Protocol,
    /// The service whose target this is (the first by name where there are several): for telemetry and `:authority` checks.
    pub service: Option<NamespacedName>,
}

/// Effective mode of a `PeerAuthentication` (never unset).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MtlsMode {
    /// TLS is not ended: plaintext, or the application's own TLS.
    Disable,
    /// Both.
    Permissive,
    /// Mesh mTLS only; plaintext is refused.
    Strict,
}
