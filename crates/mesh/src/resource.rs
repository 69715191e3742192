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

use crate::authentication::{KeySet, RequestAuthentication};
use crate::policy::{Policy, PolicyKind, PolicyName};
use crate::provider::Provider;
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

impl PolicyName {
    /// Where the policy is kept.
    pub fn key(&self) -> Key {
        Key::new(
            match self.kind {
                PolicyKind::AuthorizationPolicy => "policy",
                PolicyKind::AccessRule => "access-rule",
            },
            &self.name,
        )
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
    /// Key `policy/ns/name`, and `access-rule/ns/name` for an AccessRule.
    Policy(Policy),
    /// Key `request-authentication/ns/name`.
    RequestAuthentication(RequestAuthentication),
    /// Key `key-set/NAME`.
    KeySet(KeySet),
    /// Key `provider/NAME`.
    Provider(Provider),
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
            Self::Policy(policy) => policy.id().key(),
            Self::RequestAuthentication(authentication) => {
                Key::new("request-authentication", &authentication.name)
            }
            Self::KeySet(keys) => Key(format!("key-set/{}", keys.name).into()),
            Self::Provider(provider) => Key(format!("provider/{}", provider.name).into()),
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

/// What holds where no policy speaks: a document of its own (`bartizan profile show`).
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Profile {
    /// The document's name, such as `zero-trust`.
    pub name: Name,
    /// The mTLS mode where no PeerAuthentication says one.
    pub mtls: MtlsMode,
    /// What becomes of a request to a workload that no ALLOW policy selects.
    pub without_policy: WithoutPolicy,
    /// From which namespaces an ALLOW rule lets in that does not name its source.
    pub across_namespaces: AcrossNamespaces,
    /// Where a user's verified token is asked for beside the caller's identity.
    pub user_credentials: UserCredentials,
    /// Whom the control plane tells where a service is served.
    pub reach: Reach,
}

impl Profile {
    /// The profile that holds until the control plane has spoken: nothing is allowed.
    pub fn zero_trust() -> Self {
        Self {
            name: Name::parse("zero-trust").unwrap_or_else(|_| unreachable!("a literal name")),
            mtls: MtlsMode::Strict,
            without_policy: WithoutPolicy::Deny,
            across_namespaces: AcrossNamespaces::AsWritten,
            user_credentials: UserCredentials::Optional,
            reach: Reach::Allowed,
        }
    }

    /// Istio's defaults, for migration.
    pub fn istio() -> Self {
        Self {
            name: Name::parse("istio").unwrap_or_else(|_| unreachable!("a literal name")),
            mtls: MtlsMode::Permissive,
            without_policy: WithoutPolicy::Allow,
            reach: Reach::Everything,
            ..Self::zero_trust()
        }
    }
}

/// What becomes of a request to a workload that no ALLOW policy selects.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WithoutPolicy {
    /// It passes unless a DENY policy matches (Istio).
    Allow,
    /// It is refused.
    Deny,
    /// It passes when the caller proves an identity of the workload's own namespace (NIST SP 800-204B APE-SR-3).
    OwnNamespace,
}

/// From which namespaces an ALLOW rule lets in.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AcrossNamespaces {
    /// As the rule says.
    AsWritten,
    /// A caller of another namespace only where the rule names its principal, service account or namespace in full.
    Named,
}

/// Where a user's verified token is asked for beside the caller's identity.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum UserCredentials {
    /// Where policies ask for it.
    Optional,
    /// Also on every route and workload that is marked for people ([`View::is_for_people`], `Route::is_for_people`).
    WhereMarked,
    /// On every HTTP request.
    Everywhere,
}

/// Whom the control plane tells where a service is served.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reach {
    /// Those whom policy could let in (least knowledge).
    Allowed,
    /// Everybody.
    Everything,
}

/// What a path means to policies and routes (DESIGN "One meaning of a path").
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PathRule {
    /// A path that two parsers could read differently is refused with 400 (zero trust).
    RefuseAmbiguous,
    /// Istio `pathNormalization: NONE`: as sent.
    None,
    /// Istio `BASE`: RFC 3986 dot segments, `\\` to `/`, escapes of unreserved characters decoded.
    Base,
    /// Istio `MERGE_SLASHES`: `BASE`, and `//` is `/`.
    MergeSlashes,
    /// Istio `DECODE_AND_MERGE_SLASHES`: `%2f` and `%5c` are slashes, then as `MERGE_SLASHES`.
    DecodeAndMergeSlashes,
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
    /// Its labels, where an AccessRule of the mesh speaks of a source's labels; else empty.
    pub labels: Labels,
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
    pub policies: Vec<PolicyName>,
    /// The `RequestAuthentication`s that select it, by name; one without a resource refuses every request.
    pub authentications: Vec<NamespacedName>,
    /// Marked for people (label `bartizan.dev/users: required`, or behind a route that is): see [`UserCredentials`].
    pub is_for_people: bool,
    /// How the client's address is found behind proxies.
    pub remote: RemoteAddress,
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

/// How the client's address is found behind proxies (Istio `gatewayTopology`).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RemoteAddress {
    /// `numTrustedProxies`: how many addresses at the end of X-Forwarded-For were written by proxies that are trusted.
    pub trusted_proxies: u32,
    /// `proxyProtocol`: connections begin with a PROXY protocol header of version 1 or 2.
    pub proxy_protocol: bool,
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
