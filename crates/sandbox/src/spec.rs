//! What a supervisor can ask of the sandbox: pods, proxies, containers, commands in containers.

use std::fmt::Write as _;
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::os::fd::{OwnedFd, RawFd};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// `SO_MARK` of the proxy's own connections: exempt from capture.
pub const MARK: u32 = 0x6261_7274;

/// `SO_MARK` for connections to an endpoint that may be the proxy's own pod: TCP to the pod's own address arrives at
/// [`INBOUND_PORT`] with its original destination; everything else is as with [`MARK`].
pub const MARK_SELF: u32 = 0x6261_7275;

/// Where TCP that the application opens arrives, on 127.0.0.1 of the pod (Istio's port).
pub const OUTBOUND_PORT: u16 = 15001;

/// Where TCP from other pods arrives, on the pod's own address (Istio's port).
pub const INBOUND_PORT: u16 = 15006;

/// Where DNS that the application asks arrives, on 127.0.0.1 of the pod, UDP and TCP (Istio's port).
pub const DNS_PORT: u16 = 15053;

/// An empty, private, writable directory of each container: what its `HOME` should be.
pub const CONTAINER_HOME: &str = "/home/app";

/// Where a container finds the `bartizan` binary.
pub const CONTAINER_BINARY: &str = "/run/bartizan/bin/bartizan";

/// A `PATH` for containers: the usual places and the directory of [`CONTAINER_BINARY`].
pub const CONTAINER_PATH: &str =
    "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/run/bartizan/bin";

/// How a sandbox starts.
#[derive(Debug, Clone)]
pub struct Options {
    /// The arguments with which this same binary calls [`crate::sandbox_init_main`]; the number of the control
    /// descriptor is appended as the last one.
    pub init_arguments: Vec<String>,
    /// An existing directory of the caller. Inside the sandbox it holds a private memory file system; on the host it stays empty.
    pub scratch: PathBuf,
    /// Sockets, or directories whose sockets, are unlinked when the supervisor has died; a directory that is then empty goes too.
    pub unlink: Vec<PathBuf>,
    /// Paths that no container may see, even below a declared path: the state directory.
    pub masked: Vec<PathBuf>,
}

/// A pod to make: a network of its own and what its containers share.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PodSpec {
    /// The key under which everything later names this pod, for example `shop/cart-0`.
    pub name: String,
    /// Its address, from 10.66.0.0/16; 10.66.0.1 is nobody's.
    pub address: Ipv4Addr,
    /// Its host name, at most 64 bytes.
    pub hostname: String,
    /// The text of `/etc/resolv.conf`; [`resolv_conf`] makes the usual one.
    pub resolv_conf: String,
    /// The text of `/etc/hosts`; [`hosts`] makes the usual one.
    pub hosts: String,
    /// What its containers can mount.
    pub volumes: Vec<Volume>,
}

/// A volume that lives as long as its pod.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Volume {
    /// Its name, unique in the pod.
    pub name: String,
    /// What is in it.
    pub content: VolumeContent,
}

/// What a volume holds.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum VolumeContent {
    /// Kubernetes `emptyDir`: in memory, shared by the pod's containers.
    Empty {
        /// The most it may hold; half of the memory without it.
        size_bytes: Option<u64>,
    },
    /// Files from a `ConfigMap`, `Secret` or the downward API, read-only in containers.
    Files(Vec<VolumeFile>),
}

/// One file of a volume.
#[derive(Clone, Serialize, Deserialize)]
pub struct VolumeFile {
    /// Relative path inside the volume, without `..`.
    pub path: PathBuf,
    /// Permission bits, such as 0o644.
    pub mode: u32,
    /// Its bytes; they travel beside the JSON.
    #[serde(skip)]
    pub content: Vec<u8>,
}

impl std::fmt::Debug for VolumeFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "VolumeFile({}, {:o}, {} bytes)",
            self.path.display(),
            self.mode,
            self.content.len()
        )
    }
}

/// The sockets through which a pod's traffic must go. Non-blocking; made in the pod's namespace; the supervisor keeps
/// them and gives duplicates to each proxy of the pod.
///
/// They are not in a `SO_REUSEPORT` group: an application has the proxy's host user id and could join it. Workers share one socket.
#[derive(Debug)]
pub struct PodSockets {
    /// 127.0.0.1:15001.
    pub outbound: TcpListener,
    /// The pod's address, port 15006.
    pub inbound: TcpListener,
    /// 127.0.0.1:15053.
    pub dns_tcp: TcpListener,
    /// 127.0.0.1:15053.
    pub dns_udp: UdpSocket,
}

/// A proxy to start: this same binary in the pod's network, with no privilege but setting the mark.
#[derive(Debug)]
pub struct ProxySpec {
    /// The pod whose proxy it is.
    pub pod: String,
    /// Arguments, `argv[0]` included.
    pub argv: Vec<String>,
    /// The whole environment.
    pub env: Vec<(String, String)>,
    /// Descriptors it inherits, at these numbers (3 or more, each once).
    pub descriptors: Vec<(RawFd, OwnedFd)>,
    /// Its standard output.
    pub stdout: OwnedFd,
    /// Its standard error.
    pub stderr: OwnedFd,
}

/// A container to start: the application, confined.
#[derive(Debug)]
pub struct ContainerSpec {
    /// The pod it belongs to.
    pub pod: String,
    /// Its name, unique in the pod; starting it again after its end replaces it.
    pub name: String,
    /// Command and arguments; a command without `/` is looked up in `PATH` of `env`.
    pub argv: Vec<String>,
    /// The whole environment.
    pub env: Vec<(String, String)>,
    /// Where it starts; must exist in the container.
    pub working_directory: PathBuf,
    /// The user id that it sees as its own.
    pub run_as_user: u32,
    /// The group id that it sees as its own.
    pub run_as_group: u32,
    /// Host paths that it may read, at the same place.
    pub read: Vec<PathBuf>,
    /// Host paths that it may write, at the same place.
    pub write: Vec<PathBuf>,
    /// Volumes of the pod and where they appear.
    pub volumes: Vec<VolumeMount>,
    /// Its standard output: a pipe, as a process can open its own descriptors again.
    pub stdout: OwnedFd,
    /// Its standard error, likewise.
    pub stderr: OwnedFd,
}

/// Where a volume appears in a container.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct VolumeMount {
    /// The volume's name in the pod.
    pub volume: String,
    /// Absolute path in the container.
    pub path: PathBuf,
    /// Only this part of the volume, a relative path without `..`.
    pub sub_path: Option<String>,
    /// Not writable here.
    pub read_only: bool,
}

/// A command in a running container.
#[derive(Debug)]
pub struct ExecSpec {
    /// The pod.
    pub pod: String,
    /// The container, running.
    pub container: String,
    /// Command and arguments.
    pub argv: Vec<String>,
    /// The whole environment.
    pub env: Vec<(String, String)>,
    /// Where it starts.
    pub working_directory: PathBuf,
    /// Its standard input.
    pub stdin: OwnedFd,
    /// Its standard output.
    pub stdout: OwnedFd,
    /// Its standard error.
    pub stderr: OwnedFd,
    /// Whether standard input is a terminal that becomes the controlling one.
    pub terminal: bool,
}

/// A process in the sandbox; never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ProcessId(pub u64);

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ExitStatus {
    /// It returned this code.
    Code(i32),
    /// This signal ended it.
    Signal(i32),
}

/// Packets that a pod's rules did not let through, since the pod was made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodCounters {
    /// UDP out, other than DNS.
    pub udp_out: u64,
    /// Other IPv4 out: ICMP, raw, TCP that is not the proxy's.
    pub other_out: u64,
    /// Anything from the bridge that is not TCP for the proxy.
    pub inbound: u64,
    /// IPv6 other than loopback.
    pub ipv6: u64,
}

/// The usual `/etc/resolv.conf` of a pod: every question is captured, so the server's address means nothing.
pub fn resolv_conf(namespace: &str) -> String {
    format!(
        "nameserver 10.66.0.1\nsearch {namespace}.svc.cluster.local svc.cluster.local cluster.local\noptions ndots:5\n"
    )
}

/// The usual `/etc/hosts` of a pod: its own names, the full one of a pod with a subdomain first, as the kubelet writes it.
pub fn hosts(address: Ipv4Addr, hostname: &str, full: Option<&str>) -> String {
    let mut text = String::from("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n");
    let names = full.into_iter().chain([hostname]).collect::<Vec<_>>().join("\t");
    let _ = writeln!(text, "{address}\t{names}");
    text
}
