//! What a control plane is started with, and why it may not start.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use bartizan_mesh::{PathRule, Profile, Settings};
use bartizan_types::{Hostname, Name, Secret, TrustDomain};
use tokio::sync::watch;

use crate::keys::KeyTimes;
use crate::store::StoreError;

/// The shortest life of an SVID that makes sense: renewal at half of it must be possible.
pub(crate) const SHORTEST_TTL: Duration = Duration::from_secs(10);

/// What a control plane is started with.
#[derive(Debug)]
pub struct Options {
    /// Folders and files with documents. Paths in findings are relative to the first.
    pub sources: Vec<PathBuf>,
    /// `ca/`, `versions/` and `keys/` are made below it.
    pub state_directory: PathBuf,
    /// Where each proxy's `proxy-NAMESPACE-POD.sock` is.
    pub run_directory: PathBuf,
    /// What holds for the whole mesh.
    pub settings: Settings,
    /// Whether the settings' profile was chosen at the start; a Profile among the documents then has no effect.
    pub profile_is_chosen: bool,
    /// Default and longest life of an SVID; at least ten seconds.
    pub svid_ttl: Duration,
    /// Where gateways listen on the host when no `LocalRun` says.
    pub gateway_address: IpAddr,
    /// The control socket, inherited.
    pub control: std::os::unix::net::UnixListener,
    /// The admin page's socket on the host's loopback, inherited; none: no admin page.
    pub admin: Option<std::net::TcpListener>,
    /// Opens the admin page.
    pub admin_token: Secret<String>,
    /// A PEM file with root certificates of issuers of tokens that the system's roots do not vouch for; read for each fetch.
    pub jwks_ca: Option<PathBuf>,
    /// How often keys of issuers are fetched; the default but in tests.
    pub key_times: KeyTimes,
    /// Whether warnings refuse documents, too.
    pub strict: bool,
    /// The one process that may speak as the node; none: anybody who can reach the control socket.
    pub supervisor: Option<i32>,
    /// Becomes true when the control plane should end.
    pub drain: watch::Receiver<bool>,
}

/// Why the control plane cannot start, or had to end.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// The state directory.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// An inherited socket.
    #[error("use the inherited {socket} socket: {source}")]
    Socket {
        /// `control` or `admin`.
        socket: &'static str,
        /// What the system answered.
        source: std::io::Error,
    },
    /// The lifetime of SVIDs.
    #[error("an SVID's life of {} s is too short to be renewed in time; at least {} s are needed", .0.as_secs(), SHORTEST_TTL.as_secs())]
    ShortLife(Duration),
    /// The CA's own root.
    #[error("the CA's root is no trust bundle: {0}")]
    Bundle(String),
    /// The gRPC server.
    #[error("serve the control socket: {0}")]
    Serve(String),
    /// The owner of the world.
    #[error("the owner of the mesh's state has ended: {0}")]
    Owner(String),
}

/// The settings of a local mesh: Istio's root namespace and domain.
///
/// # Panics
/// Never: the names are literals.
pub fn settings(profile: Profile, paths: PathRule, trust_domain: TrustDomain) -> Settings {
    Settings {
        trust_domain,
        root_namespace: Name::parse("istio-system").expect("the name is a literal"),
        cluster_domain: Hostname::parse("cluster.local").expect("the name is a literal"),
        profile,
        paths,
    }
}
