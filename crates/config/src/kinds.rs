//! Which kinds there are, and what happens to each.

use std::cell::RefCell;

use bartizan_types::{Name, Namespace};

use crate::field::Fields;
use crate::finding::{Severity, codes};
use crate::node::Node;
use crate::resource::Resource;
use crate::{gateway_api, istio, kube, names, native, suggest};

/// The kinds that are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Known {
    Namespace,
    ServiceAccount,
    Deployment,
    StatefulSet,
    Pod,
    Service,
    ConfigMap,
    Secret,
    PeerAuthentication,
    RequestAuthentication,
    AuthorizationPolicy,
    GatewayClass,
    Gateway,
    HttpRoute,
    ReferenceGrant,
    LocalRun,
    StaticProxy,
    AccessRule,
    Profile,
    PolicyTest,
    PolicyClaim,
}

/// The resource that is being read.
pub(crate) struct Owner<'a> {
    pub(crate) namespace: Namespace,
    /// Documents found in texts of this one.
    pub(crate) inner: &'a RefCell<Vec<InnerDocument>>,
}

/// YAML in a text: the keys that lead to the text, and the tree.
pub(crate) type InnerDocument = (&'static [&'static str], Node);

/// What a document is, by its `apiVersion` and `kind`.
pub(crate) enum Class {
    /// `kind: List` of `v1`.
    List,
    Known(Known),
    Other(Other),
}

/// A kind that is not read.
pub(crate) enum Other {
    /// Known, but not in this API version; these are read.
    Version(&'static [&'static str]),
    /// Comes later, or runs or protects something that is not run or protected here; this is why it matters.
    NotSupported(&'static str),
    /// Kubernetes' own, without an effect on this machine.
    NoMeaning,
    /// In a group of the mesh, where no such kind exists.
    Unknown,
    /// Somebody else's.
    Foreign,
}

const SECURITY: &[&str] = &["security.istio.io/v1", "security.istio.io/v1beta1"];
const GATEWAY: &[&str] = &[
    "gateway.networking.k8s.io/v1",
    "gateway.networking.k8s.io/v1beta1",
];
const NATIVE: &[&str] = &["bartizan.dev/v1alpha1"];

const KNOWN: &[(&str, &[&str], Known)] = &[
    ("Namespace", &["v1"], Known::Namespace),
    ("ServiceAccount", &["v1"], Known::ServiceAccount),
    ("Deployment", &["apps/v1"], Known::Deployment),
    ("StatefulSet", &["apps/v1"], Known::StatefulSet),
    ("Pod", &["v1"], Known::Pod),
    ("Service", &["v1"], Known::Service),
    ("ConfigMap", &["v1"], Known::ConfigMap),
    ("Secret", &["v1"], Known::Secret),
    ("PeerAuthentication", SECURITY, Known::PeerAuthentication),
    ("RequestAuthentication", SECURITY, Known::RequestAuthentication),
    ("AuthorizationPolicy", SECURITY, Known::AuthorizationPolicy),
    ("GatewayClass", GATEWAY, Known::GatewayClass),
    ("Gateway", GATEWAY, Known::Gateway),
    ("HTTPRoute", GATEWAY, Known::HttpRoute),
    ("ReferenceGrant", GATEWAY, Known::ReferenceGrant),
    ("LocalRun", NATIVE, Known::LocalRun),
    ("StaticProxy", NATIVE, Known::StaticProxy),
    ("AccessRule", NATIVE, Known::AccessRule),
    ("Profile", NATIVE, Known::Profile),
    ("PolicyTest", NATIVE, Known::PolicyTest),
    ("PolicyClaim", NATIVE, Known::PolicyClaim),
];

const PROTECTS: &str = "without it, traffic would be treated in another way than the documents say";
const RUNS: &str = "without it, something that the documents run would be missing";

/// By API group, then kind.
const NOT_SUPPORTED: &[(&str, &[&str], &str)] = &[
    (
        "networking.istio.io",
        &[
            "VirtualService",
            "DestinationRule",
            "Gateway",
            "ServiceEntry",
            "WorkloadEntry",
            "WorkloadGroup",
            "Sidecar",
            "EnvoyFilter",
            "ProxyConfig",
        ],
        PROTECTS,
    ),
    ("telemetry.istio.io", &["Telemetry"], PROTECTS),
    (
        "extensions.istio.io",
        &["WasmPlugin", "TrafficExtension"],
        PROTECTS,
    ),
    (
        "gateway.networking.k8s.io",
        &[
            "GRPCRoute",
            "TLSRoute",
            "TCPRoute",
            "UDPRoute",
            "ListenerSet",
            "BackendTLSPolicy",
        ],
        PROTECTS,
    ),
    ("networking.k8s.io", &["NetworkPolicy", "Ingress"], PROTECTS),
    ("", &["ReplicationController", "PersistentVolumeClaim"], RUNS),
    ("", &["Endpoints"], PROTECTS),
    ("discovery.k8s.io", &["EndpointSlice"], PROTECTS),
    ("apps", &["DaemonSet", "ReplicaSet"], RUNS),
    ("batch", &["Job", "CronJob"], RUNS),
];

/// Groups of Kubernetes' own whose other kinds have no effect here.
const KUBERNETES_GROUPS: &[&str] = &[
    "",
    "admissionregistration.k8s.io",
    "apiextensions.k8s.io",
    "apiregistration.k8s.io",
    "apps",
    "authentication.k8s.io",
    "authorization.k8s.io",
    "autoscaling",
    "batch",
    "certificates.k8s.io",
    "coordination.k8s.io",
    "discovery.k8s.io",
    "events.k8s.io",
    "flowcontrol.apiserver.k8s.io",
    "networking.k8s.io",
    "node.k8s.io",
    "policy",
    "rbac.authorization.k8s.io",
    "scheduling.k8s.io",
    "storage.k8s.io",
];

const MESH_GROUPS: &[&str] = &[
    "bartizan.dev",
    "extensions.istio.io",
    "gateway.networking.k8s.io",
    "networking.istio.io",
    "security.istio.io",
    "telemetry.istio.io",
];

/// What a document of this `apiVersion` and `kind` is.
pub(crate) fn classify(api_version: &str, kind: &str) -> Class {
    if api_version == "v1" && kind == "List" {
        return Class::List;
    }
    let group = api_version.rsplit_once('/').map_or("", |(group, _)| group);
    let ours = MESH_GROUPS.contains(&group) || KUBERNETES_GROUPS.contains(&group);
    if let Some((_, _, why)) = NOT_SUPPORTED
        .iter()
        .find(|(theirs, kinds, _)| *theirs == group && kinds.contains(&kind))
    {
        return Class::Other(Other::NotSupported(why));
    }
    if let Some((_, versions, known)) = KNOWN.iter().find(|(name, _, _)| *name == kind)
        && ours
    {
        if versions.contains(&api_version) {
            return Class::Known(*known);
        }
        return Class::Other(Other::Version(versions));
    }
    Class::Other(if MESH_GROUPS.contains(&group) {
        Other::Unknown
    } else if KUBERNETES_GROUPS.contains(&group) {
        Other::NoMeaning
    } else {
        Other::Foreign
    })
}

impl Other {
    /// Says what happens to the document.
    pub(crate) fn report(&self, api_version: &str, kind: &str, fields: &Fields<'_>) {
        let sink = fields.sink;
        let spot = |name: &'static str| fields.get(name).map_or(fields.spot, |value| value.spot);
        let (kind_text, version_text) = (sink.quoted(kind), sink.quoted(api_version));
        let near = || {
            suggest::nearest(kind, KNOWN.iter().map(|(name, _, _)| *name))
                .filter(|near| *near != kind)
                .map(|near| format!("did you mean `{near}`?"))
        };
        match self {
            Self::Version(versions) => {
                let what = format!("{kind_text} is not read in {version_text}");
                let list: Vec<String> = versions.iter().map(|version| format!("`{version}`")).collect();
                let help = format!("its `apiVersion` is {}", list.join(" or "));
                sink.error_help(codes::API_VERSION, spot("apiVersion"), what, help);
            }
            Self::NotSupported(why) => sink.push(
                Severity::Error,
                codes::KIND_NOT_SUPPORTED,
                spot("kind"),
                format!("{kind_text} of {version_text} is not supported yet"),
                Some((*why).to_owned()),
                Some("leave the document out until a version supports it".to_owned()),
            ),
            Self::NoMeaning => match near() {
                // A misspelt kind of our own would otherwise pass as something harmless.
                Some(help) => sink.error_help(
                    codes::KIND_NOT_SUPPORTED,
                    spot("kind"),
                    format!("{version_text} has no kind {kind_text} that is known"),
                    help,
                ),
                None => sink.push(
                    Severity::Note,
                    codes::NO_MEANING,
                    spot("kind"),
                    format!("{kind_text} of {version_text} has no meaning here"),
                    None,
                    None,
                ),
            },
            Self::Unknown => {
                let what = format!("{version_text} has no kind {kind_text} that is known");
                match near() {
                    Some(help) => sink.error_help(codes::KIND_NOT_SUPPORTED, spot("kind"), what, help),
                    None => sink.error(codes::KIND_NOT_SUPPORTED, spot("kind"), what),
                }
            }
            Self::Foreign => sink.push(
                Severity::Warning,
                codes::FOREIGN_KIND,
                spot("kind"),
                format!("{kind_text} of {version_text} is somebody else's kind, so it has no effect"),
                None,
                near(),
            ),
        }
    }
}

impl Known {
    /// Whether the kind lives in a namespace.
    pub(crate) fn is_namespaced(self) -> bool {
        match self {
            Self::Namespace | Self::GatewayClass | Self::Profile | Self::PolicyClaim => false,
            Self::ServiceAccount
            | Self::Deployment
            | Self::StatefulSet
            | Self::Pod
            | Self::Service
            | Self::ConfigMap
            | Self::Secret
            | Self::PeerAuthentication
            | Self::RequestAuthentication
            | Self::AuthorizationPolicy
            | Self::Gateway
            | Self::HttpRoute
            | Self::ReferenceGrant
            | Self::LocalRun
            | Self::StaticProxy
            | Self::AccessRule
            | Self::PolicyTest => true,
        }
    }

    /// How `metadata.name` must look.
    pub(crate) fn name_rule(self) -> fn(&str) -> Result<Name, String> {
        match self {
            Self::Namespace => names::dns_label,
            Self::Service => names::service_name,
            Self::ServiceAccount
            | Self::Deployment
            | Self::StatefulSet
            | Self::Pod
            | Self::ConfigMap
            | Self::Secret
            | Self::PeerAuthentication
            | Self::RequestAuthentication
            | Self::AuthorizationPolicy
            | Self::GatewayClass
            | Self::Gateway
            | Self::HttpRoute
            | Self::ReferenceGrant
            | Self::LocalRun
            | Self::StaticProxy
            | Self::AccessRule
            | Self::Profile
            | Self::PolicyTest
            | Self::PolicyClaim => names::dns_name,
        }
    }

    /// Reads what is beside `metadata`.
    pub(crate) fn read(self, fields: &Fields<'_>, owner: &Owner<'_>) -> Option<Resource> {
        match self {
            Self::Namespace => Some(kube::namespace::read(fields)),
            Self::ServiceAccount => Some(kube::service_account::read(fields)),
            Self::Deployment => kube::deployment::read(fields).map(Resource::Deployment),
            Self::StatefulSet => kube::stateful_set::read(fields).map(Resource::StatefulSet),
            Self::Pod => kube::pod::read(fields).map(Resource::Pod),
            Self::Service => kube::service::read(fields).map(Resource::Service),
            Self::ConfigMap => Some(Resource::ConfigMap(kube::config_map::read(fields, owner))),
            Self::Secret => Some(Resource::Secret(kube::secret::read(fields))),
            Self::PeerAuthentication => {
                istio::peer_authentication::read(fields).map(Resource::PeerAuthentication)
            }
            Self::RequestAuthentication => {
                istio::request_authentication::read(fields).map(Resource::RequestAuthentication)
            }
            Self::AuthorizationPolicy => {
                istio::authorization_policy::read(fields, owner).map(Resource::AuthorizationPolicy)
            }
            Self::GatewayClass => gateway_api::gateway_class::read(fields).map(Resource::GatewayClass),
            Self::Gateway => gateway_api::gateway::read(fields).map(Resource::Gateway),
            Self::HttpRoute => gateway_api::http_route::read(fields).map(Resource::HttpRoute),
            Self::ReferenceGrant => gateway_api::reference_grant::read(fields).map(Resource::ReferenceGrant),
            Self::LocalRun => native::local_run::read(fields).map(Resource::LocalRun),
            Self::StaticProxy => native::static_proxy::read(fields).map(Resource::StaticProxy),
            Self::AccessRule => native::access_rule::read(fields).map(Resource::AccessRule),
            Self::Profile => native::profile::read(fields).map(Resource::Profile),
            Self::PolicyTest => native::policy_test::read(fields).map(Resource::PolicyTest),
            Self::PolicyClaim => native::policy_claim::read(fields, owner).map(Resource::PolicyClaim),
        }
    }
}
