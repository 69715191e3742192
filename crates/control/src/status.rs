//! What runs, with versions and findings: the answer to `bartizan status`, and what the admin page shows.
//!
//! Times are seconds since 1970, so that programs need no date parser.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::{SystemTime, UNIX_EPOCH};

use bartizan_config::finding::{Paint, render};
use bartizan_config::{Finding, Severity};
use bartizan_mesh::{MtlsMode, ServicePort};
use bartizan_types::{
    ContainerReport, GatewayListen, Name, NamespacedName, PodPhase, Port, SpiffeId, TrustDomain, Version,
};
use serde::{Deserialize, Serialize};

/// The control plane's view of the mesh at one moment.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// The build of the control plane.
    pub build: String,
    /// When this control plane started.
    pub started_at: i64,
    /// How long it runs.
    pub uptime_seconds: u64,
    /// The version now.
    pub version: Version,
    /// When the documents of this version were accepted.
    pub accepted_at: Option<i64>,
    /// The name of the settings' profile.
    pub profile: Name,
    /// The mesh's trust domain.
    pub trust_domain: TrustDomain,
    /// Who signs.
    pub authority: AuthorityStatus,
    /// The node that reports, once it has.
    pub node: Option<NodeStatus>,
    /// Every pod that should run or runs, by name.
    pub workloads: Vec<WorkloadStatus>,
    /// Every service, by name.
    pub services: Vec<ServiceStatus>,
    /// Every gateway, by name.
    pub gateways: Vec<GatewayStatus>,
    /// Every service account that a workload may have, by namespace and name.
    pub service_accounts: Vec<NamespacedName>,
    /// The keys of every issuer that they are fetched of, by name.
    #[serde(default)]
    pub key_sets: Vec<KeySetStatus>,
    /// How many documents the served version has.
    pub documents: usize,
    /// Whether what stands on disk now is refused, and an older version is served.
    pub refused: bool,
    /// Findings about what stands on disk now, errors first.
    pub findings: Vec<FindingStatus>,
    /// How many findings there are besides these.
    #[serde(default)]
    pub findings_left_out: usize,
    /// What has been counted since this control plane started.
    pub counts: Counts,
}

/// The certificate authority.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AuthorityStatus {
    /// `lab CA`.
    pub kind: String,
    /// What a person should know about it.
    pub notice: String,
    /// When the root ends.
    pub root_not_after: i64,
    /// When the intermediate ends; it is renewed before.
    pub intermediate_not_after: i64,
    /// The longest life of an SVID, in seconds.
    pub svid_ttl_seconds: u64,
}

/// The node's supervisor.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeStatus {
    /// Its name.
    pub name: String,
    /// Whether its stream is open.
    pub connected: bool,
}

/// One replica.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WorkloadStatus {
    /// Namespace and instance name.
    pub name: NamespacedName,
    /// The controller's name.
    pub workload: String,
    /// Its label `app`.
    pub app: Option<String>,
    /// Who it is.
    pub identity: SpiffeId,
    /// Its address, once it has one.
    pub address: Option<IpAddr>,
    /// How far it is; absent while the node has not made it.
    pub phase: Option<PodPhase>,
    /// Whether it takes requests.
    pub ready: bool,
    /// The gateway that it serves, if it is one.
    pub gateway: Option<NamespacedName>,
    /// Whether the documents plan it; not so for what `bartizan run` started and for what is about to end.
    pub planned: bool,
    /// What a person should know when it is not ready.
    pub message: Option<String>,
    /// Effective mTLS mode of ports that are not listed below.
    pub mtls: MtlsMode,
    /// Ports whose mode differs.
    pub port_mtls: BTreeMap<Port, MtlsMode>,
    /// How many policies with action ALLOW are for it.
    pub allow: usize,
    /// How many policies with action DENY are for it.
    pub deny: usize,
    /// The services that select it.
    pub services: Vec<NamespacedName>,
    /// Its containers.
    pub containers: Vec<ContainerReport>,
    /// How often its proxy was started again.
    pub proxy_restarts: u32,
    /// UDP packets of the application that were dropped.
    pub udp_dropped: u64,
    /// What is known of its proxy, once it has connected or asked for a certificate.
    pub proxy: Option<ProxyStatus>,
}

/// One workload's proxy.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProxyStatus {
    /// Whether its stream is open.
    pub connected: bool,
    /// Its build.
    pub build: String,
    /// The version that it acknowledged last.
    pub acknowledged: Option<Version>,
    /// Why it refused the last version, if it did.
    pub refused: Option<String>,
    /// When the certificate ends that was issued last to it by this control plane since its start.
    pub certificate_not_after: Option<i64>,
}

/// One service.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceStatus {
    /// Namespace and name.
    pub name: NamespacedName,
    /// Its full name.
    pub hostname: String,
    /// Its virtual addresses.
    pub addresses: Vec<IpAddr>,
    /// The name that it stands for, if it is only a name.
    pub alias_of: Option<String>,
    /// The ports that clients call.
    pub ports: Vec<ServicePort>,
    /// How many of its pods take requests.
    pub ready: usize,
    /// How many pods stand behind it.
    pub endpoints: usize,
}

/// One gateway.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GatewayStatus {
    /// Namespace and name.
    pub name: NamespacedName,
    /// Where the host listens.
    pub addresses: Vec<SocketAddr>,
    /// Which listener's port each address stands for.
    #[serde(default)]
    pub listeners: Vec<GatewayListen>,
    /// Whether one of its proxies takes requests.
    pub ready: bool,
}

/// The keys of one issuer of users' tokens.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct KeySetStatus {
    /// The key set's name in the mesh.
    pub name: String,
    /// The URI that is fetched: of the JWKS, or of the issuer's discovery document.
    pub source: String,
    /// How many keys can be used; while there are none, every token of the issuer is refused.
    pub keys: usize,
    /// `kid` of those that have one.
    pub key_ids: Vec<String>,
    /// Keys that are not used, and why.
    pub skipped: Vec<String>,
    /// When the keys came that proxies have.
    pub fetched_at: Option<i64>,
    /// When the issuer said last that they are its keys.
    pub checked_at: Option<i64>,
    /// When it is asked again; absent while it is asked.
    pub next_at: Option<i64>,
    /// Since when it cannot be asked.
    pub failing_since: Option<i64>,
    /// Why the last fetch failed, if it did.
    pub problem: Option<String>,
    /// Whether its keys were taken away, because it has been away for too long.
    pub evicted: bool,
}

/// What has been counted of the keys of issuers.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct KeyCounts {
    /// Fetches, by what became of them: `ok`, or why not.
    pub fetches: BTreeMap<String, u64>,
    /// How often a proxy has seen a token of a key that it does not have.
    pub unknown_keys: u64,
}

/// A finding, as fields and as the text that people read.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FindingStatus {
    /// The stable code.
    pub code: String,
    /// `error`, `warning` or `note`.
    pub severity: String,
    /// The file.
    pub file: String,
    /// From 1.
    pub line: u32,
    /// From 1.
    pub column: u32,
    /// What is wrong.
    pub what: String,
    /// Drawn with its source line, without colours.
    pub text: String,
}

impl From<&Finding> for FindingStatus {
    fn from(finding: &Finding) -> Self {
        Self {
            code: finding.code.id.to_owned(),
            severity: finding.severity.as_str().to_owned(),
            file: finding.file.to_string(),
            line: finding.position.line,
            column: finding.position.column,
            what: finding.what.clone(),
            text: render(finding, Paint::Plain),
        }
    }
}

impl FindingStatus {
    /// Whether it refuses the whole new state.
    pub fn is_error(&self) -> bool {
        self.severity == Severity::Error.as_str()
    }
}

/// What has been counted since this control plane started.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Counts {
    /// SVIDs issued for a bootstrap secret.
    pub issued_bootstrap: u64,
    /// SVIDs issued for possession of the one before.
    pub issued_renewal: u64,
    /// Requests for an SVID that were refused, by reason.
    pub sign_refused: BTreeMap<String, u64>,
    /// Proxies' greetings that were refused, by reason.
    pub hello_refused: BTreeMap<String, u64>,
    /// Transactions sent.
    pub transactions: u64,
    /// Resources sent, upserts and removals.
    pub resources: u64,
    /// Transactions acknowledged.
    pub acknowledged: u64,
    /// Transactions refused by a proxy.
    pub nacks: u64,
    /// New states of the sources that were applied.
    pub states_accepted: u64,
    /// New states of the sources that were refused.
    pub states_refused: u64,
    /// Of the keys of issuers.
    #[serde(default)]
    pub keys: KeyCounts,
}

/// Seconds since 1970; 0 for a time before.
pub(crate) fn unix_seconds(time: SystemTime) -> i64 {
    let seconds = time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    i64::try_from(seconds).unwrap_or(i64::MAX)
}
