//! Pods as the control plane plans them and a node's supervisor runs and reports them.
//!
//! `compile` resolves documents to [`PodSpec`]s (config maps read, commands mapped, defaults filled in), `sandbox` runs
//! them, and answers with [`PodReport`]s. Both travel as JSON inside `Node.Connect`.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::fnv::fnv1a;
use crate::labels::Labels;
use crate::name::{Name, NamespacedName};
use crate::port::Port;
use crate::spiffe::SpiffeId;

/// One replica that should run, with everything resolved but its own address.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodSpec {
    /// Namespace and instance name, such as `mission-services/telemetry-ingest-0`.
    pub name: NamespacedName,
    /// The controller's name (the Deployment's, StatefulSet's, Gateway's, or the pod's own).
    pub workload: Name,
    /// The service account.
    pub service_account: Name,
    /// The identity that its proxy is given.
    pub identity: SpiffeId,
    /// The template's labels.
    pub labels: Labels,
    /// The template's annotations.
    pub annotations: Labels,
    /// The host name inside the pod.
    pub hostname: String,
    /// The governing headless service, if the pod names one.
    pub subdomain: Option<Name>,
    /// What kind of pod it is.
    pub role: PodRole,
    /// Run one after the other, each to its end, before the containers.
    pub init_containers: Vec<ContainerSpec>,
    /// The application; empty for a gateway.
    pub containers: Vec<ContainerSpec>,
    /// Volumes that containers mount by name.
    pub volumes: Vec<VolumeSpec>,
    /// What happens when a container ends.
    pub restart: RestartPolicy,
    /// Seconds between the termination signal and the kill.
    pub termination_grace_seconds: u32,
    /// Stable content hash of what this pod runs; a pod whose hash differs from the plan's is replaced.
    pub template_hash: String,
}

impl PodSpec {
    /// The file name of its proxy's own socket in the run directory.
    pub fn proxy_socket_name(&self) -> String {
        proxy_socket_name(&self.name)
    }
}

/// The file name of a proxy's own socket in the run directory. A socket's whole path has at most 107 bytes, so a long name
/// keeps its beginning and ends in a hash of the whole.
pub fn proxy_socket_name(pod: &NamespacedName) -> String {
    const LONGEST: usize = 48;
    let plain = format!("{}-{}", pod.namespace, pod.name);
    if plain.len() <= LONGEST {
        return format!("proxy-{plain}.sock");
    }
    // The names are the mesh's own, and a clash would only be refused as a socket in use.
    let hash = fnv1a(pod.to_string().as_bytes());
    format!(
        "proxy-{}-{hash:016x}.sock",
        plain.get(..LONGEST - 17).unwrap_or_default()
    )
}

/// What kind of pod it is.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum PodRole {
    /// A workload of the user's, with a sidecar.
    Application,
    /// A gateway: a proxy and no application, listening on the host.
    Gateway {
        /// The gateway.
        gateway: NamespacedName,
        /// Listener port to the host's address that stands for it.
        listen: Vec<GatewayListen>,
    },
}

/// One port of a gateway on the host.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GatewayListen {
    /// The listener's port in the `Gateway`.
    pub port: Port,
    /// Where the host listens for it.
    pub address: SocketAddr,
}

/// Kubernetes `restartPolicy`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum RestartPolicy {
    /// Always, with back-off.
    #[default]
    Always,
    /// Only after a failure.
    OnFailure,
    /// Never.
    Never,
}

/// One container: a command on this machine.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ContainerSpec {
    /// Its name in the pod.
    pub name: Name,
    /// Program and arguments; never empty. `$(VAR)` is expanded by the supervisor as Kubernetes does.
    pub command: Vec<String>,
    /// Absolute; the root directory when absent.
    pub working_directory: Option<PathBuf>,
    /// In the order of the document; later values win.
    pub environment: Vec<EnvironmentVariable>,
    /// The user id that the process sees; absent: a high one that is not root.
    pub run_as_user: Option<u32>,
    /// The ports that the document names, for services that target a port by its name.
    #[serde(default)]
    pub ports: Vec<ContainerPort>,
    /// Volumes in its file system.
    pub mounts: Vec<Mount>,
    /// Host paths that it may read (absolute), from `LocalRun`.
    pub read: Vec<PathBuf>,
    /// Host paths that it may write (absolute), from `LocalRun`.
    pub write: Vec<PathBuf>,
    /// Whether it takes requests.
    pub readiness: Option<Probe>,
    /// Whether it must be restarted.
    pub liveness: Option<Probe>,
    /// Whether it has started; the others wait for it.
    pub startup: Option<Probe>,
}

/// One port of a container (Kubernetes `ContainerPort`).
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ContainerPort {
    /// Its name.
    pub name: Option<String>,
    /// Its number.
    pub port: Port,
}

/// One variable of a container's environment.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EnvironmentVariable {
    /// Its name.
    pub name: String,
    /// Its value.
    pub value: EnvironmentValue,
}

/// Where a variable's value comes from.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum EnvironmentValue {
    /// This text; `$(VAR)` refers to variables before it.
    Text(String),
    /// The pod's address, known when it is made (`status.podIP`).
    PodAddress,
}

/// A volume.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct VolumeSpec {
    /// Its name in the pod.
    pub name: Name,
    /// What it holds.
    pub source: VolumeSource,
}

/// What a volume holds.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum VolumeSource {
    /// Empty at first, shared by the pod's containers, gone with the pod.
    Empty,
    /// These files, read-only (ConfigMap, Secret).
    Files(Vec<VolumeFile>),
}

/// One file of a volume.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct VolumeFile {
    /// Relative to the mount, without `..`.
    pub path: PathBuf,
    /// Permission bits, such as 0o644.
    pub mode: u32,
    /// Its bytes.
    pub content: Vec<u8>,
}

impl std::fmt::Debug for VolumeFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({} bytes)", self.path.display(), self.content.len())
    }
}

/// A volume in a container's file system.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Mount {
    /// The volume's name.
    pub volume: Name,
    /// Absolute.
    pub path: PathBuf,
    /// One file or directory of the volume.
    pub sub_path: Option<PathBuf>,
    /// Whether writing is refused.
    pub read_only: bool,
}

/// A probe (Kubernetes `Probe`); times in seconds, as there.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Probe {
    /// What is tried.
    pub action: ProbeAction,
    /// Before the first try.
    pub initial_delay_seconds: u32,
    /// Between tries; at least 1.
    pub period_seconds: u32,
    /// Of one try; at least 1.
    pub timeout_seconds: u32,
    /// Successes in a row that make it good; at least 1.
    pub success_threshold: u32,
    /// Failures in a row that make it bad; at least 1.
    pub failure_threshold: u32,
}

/// What a probe tries.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ProbeAction {
    /// GET; 200 to 399 is good.
    HttpGet {
        /// The container's port.
        port: Port,
        /// Path with query.
        path: String,
        /// Name and value.
        headers: Vec<(String, String)>,
    },
    /// A connection can be opened.
    TcpSocket {
        /// The container's port.
        port: Port,
    },
    /// `grpc.health.v1.Health/Check` answers SERVING.
    Grpc {
        /// The container's port.
        port: Port,
        /// The service's name; empty for the server.
        service: String,
    },
    /// The command ends with 0, run inside the container.
    Exec {
        /// Program and arguments.
        command: Vec<String>,
    },
}

/// What a supervisor says of a pod that it has.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodReport {
    /// What it was told to run; where any free port of the host was asked for, with the port that it got.
    pub spec: PodSpec,
    /// Its address in the mesh.
    pub address: IpAddr,
    /// How far it is.
    pub phase: PodPhase,
    /// Whether it takes requests: running, proxy ready, every readiness probe good. False from the moment it begins to end.
    pub ready: bool,
    /// What a person should know when it is not ready, such as `container app: exit 1, restart in 4 s`.
    pub message: Option<String>,
    /// Its containers, init containers first.
    pub containers: Vec<ContainerReport>,
    /// How often its proxy was started again.
    pub proxy_restarts: u32,
    /// UDP packets of the application that were dropped.
    pub udp_dropped: u64,
}

/// How far a pod is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum PodPhase {
    /// Being made, or init containers run.
    Pending,
    /// Its containers have been started.
    Running,
    /// Told to end; takes no new requests.
    Terminating,
    /// Every container ended well and none is started again.
    Succeeded,
    /// A container ended badly and is not started again.
    Failed,
}

/// What a supervisor says of a container.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ContainerReport {
    /// Its name.
    pub name: Name,
    /// Whether it runs now.
    pub running: bool,
    /// Whether its own readiness probe is good (true without one while it runs).
    pub ready: bool,
    /// How often it was started again.
    pub restarts: u32,
    /// How it ended last: `exit 1`, `signal 9`.
    pub last_end: Option<String>,
}
