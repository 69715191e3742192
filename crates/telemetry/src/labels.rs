//! The values of Istio's standard labels: who called whom, through which service, as seen by which side.

use std::sync::Arc;

use bartizan_types::SpiffeId;

/// Which side of a hop reports (label `reporter`).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Reporter {
    /// The client's proxy, and gateways.
    Source,
    /// The server's proxy.
    Destination,
}

impl Reporter {
    /// The label's value.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Source => "source",
            Self::Destination => "destination",
        }
    }
}

/// How the hop was protected (label `connection_security_policy`).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum SecurityPolicy {
    /// Both sides have proved who they are.
    MutualTls,
    /// The server saw plaintext.
    None,
    /// What the client's side always says, as in Istio.
    Unknown,
}

impl SecurityPolicy {
    /// The label's value.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::MutualTls => "mutual_tls",
            Self::None => "none",
            Self::Unknown => "unknown",
        }
    }
}

/// What a request was (label `request_protocol`); connections say `tcp`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum RequestProtocol {
    /// HTTP of any version.
    Http,
    /// A content type of `application/grpc`.
    Grpc,
}

impl RequestProtocol {
    /// The label's value.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Grpc => "grpc",
        }
    }
}

/// One side of a hop. The default is a workload of which nothing is known.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Workload {
    /// The owning controller's name (the Deployment, not the pod).
    pub name: Arc<str>,
    /// Its namespace.
    pub namespace: Arc<str>,
    /// Its proven identity with scheme; `unknown` for plaintext.
    pub principal: Arc<str>,
    /// Label `app`.
    pub app: Arc<str>,
    /// Label `version`.
    pub version: Arc<str>,
    /// Label `service.istio.io/canonical-name`, else `app.kubernetes.io/name`, else `app`, else the workload's name.
    pub canonical_service: Arc<str>,
    /// Label `service.istio.io/canonical-revision`, else `app.kubernetes.io/version`, else `version`, else `latest`.
    pub canonical_revision: Arc<str>,
    /// The cluster.
    pub cluster: Arc<str>,
}

impl Default for Workload {
    fn default() -> Self {
        let unknown: Arc<str> = UNKNOWN.into();
        Self {
            name: Arc::clone(&unknown),
            namespace: Arc::clone(&unknown),
            principal: Arc::clone(&unknown),
            app: Arc::clone(&unknown),
            version: Arc::clone(&unknown),
            canonical_service: Arc::clone(&unknown),
            canonical_revision: "latest".into(),
            cluster: unknown,
        }
    }
}

impl Workload {
    /// Reads the standard labels of a pod whose controller is `name` in `namespace`.
    pub fn from_labels(
        name: &str,
        namespace: &str,
        cluster: &str,
        labels: &bartizan_types::Labels,
        principal: Option<&SpiffeId>,
    ) -> Self {
        let first = |keys: &[&str], otherwise: &str| -> Arc<str> {
            keys.iter()
                .find_map(|key| labels.get(*key).filter(|value| !value.is_empty()))
                .map_or(otherwise, String::as_str)
                .into()
        };
        Self {
            name: known(name),
            namespace: known(namespace),
            principal: principal.map_or(UNKNOWN, SpiffeId::as_str).into(),
            app: first(&["app"], UNKNOWN),
            version: first(&["version"], UNKNOWN),
            canonical_service: first(
                &["service.istio.io/canonical-name", "app.kubernetes.io/name", "app"],
                if name.is_empty() { UNKNOWN } else { name },
            ),
            canonical_revision: first(
                &[
                    "service.istio.io/canonical-revision",
                    "app.kubernetes.io/version",
                    "version",
                ],
                "latest",
            ),
            cluster: known(cluster),
        }
    }

    /// What an identity alone says: its namespace and its principal. Authenticated, where the rest of a peer's labels is not.
    pub fn from_identity(id: &SpiffeId) -> Self {
        Self {
            namespace: known(id.namespace().unwrap_or_default()),
            principal: id.as_str().into(),
            ..Self::default()
        }
    }
}

/// The service that was called.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Service {
    /// The full host name, such as `reviews.default.svc.cluster.local`.
    pub host: Arc<str>,
    /// The short name, or `BlackHoleCluster`, `PassthroughCluster`, `InboundPassthroughCluster`.
    pub name: Arc<str>,
    /// Its namespace.
    pub namespace: Arc<str>,
}

impl Default for Service {
    fn default() -> Self {
        Self {
            host: UNKNOWN.into(),
            name: UNKNOWN.into(),
            namespace: UNKNOWN.into(),
        }
    }
}

/// Everything about a hop that does not change from request to request.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct EdgeLabels {
    /// Who reports.
    pub reporter: Reporter,
    /// Who calls.
    pub source: Arc<Workload>,
    /// Who is called.
    pub destination: Arc<Workload>,
    /// As what it is called.
    pub service: Arc<Service>,
    /// How the hop is protected; the client's side always says [`SecurityPolicy::Unknown`].
    pub security: SecurityPolicy,
}

pub(crate) const UNKNOWN: &str = "unknown";

fn known(text: &str) -> Arc<str> {
    if text.is_empty() { UNKNOWN } else { text }.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn canonical_names_fall_back_in_istios_order() {
        let labels = |pairs: &[(&str, &str)]| {
            pairs
                .iter()
                .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
                .collect()
        };
        let read =
            |pairs: &[(&str, &str)]| Workload::from_labels("cart-v2", "shop", "", &labels(pairs), None);
        let bare = read(&[]);
        assert_eq!(
            (&*bare.canonical_service, &*bare.canonical_revision),
            ("cart-v2", "latest")
        );
        assert_eq!(
            (&*bare.app, &*bare.cluster, &*bare.principal),
            ("unknown", "unknown", "unknown")
        );
        let app = read(&[("app", "cart"), ("version", "v2")]);
        assert_eq!(
            (&*app.canonical_service, &*app.canonical_revision),
            ("cart", "v2")
        );
        let all = read(&[
            ("app", "cart"),
            ("app.kubernetes.io/name", "basket"),
            ("service.istio.io/canonical-name", "korb"),
        ]);
        assert_eq!(&*all.canonical_service, "korb");
    }
}
