//! Houses local workloads: namespaces, addresses, capture rules, and the processes inside them.
//!
//! A [`Sandbox`] is one child process that owns a user, network, mount and PID namespace and makes pods in it on
//! request. Nothing here knows about Kubernetes, policies or configuration: the supervisor decides what runs, this room
//! makes it run where it cannot reach anything but its proxy.
//!
//! The files in reading order: `spec` (what can be asked for), `client` (asking), `probe` (can this host do it),
//! `message` and `channel` (how it is asked), `init` (the process that does it, with one file a duty), `nft` and
//! `netlink` (bytes for the kernel), `sys` (the calls that need `unsafe`).

pub mod client;
pub mod error;
pub mod probe;
pub mod spec;
pub mod supervise;

mod channel;
mod init;
mod message;
mod netlink;
mod nft;
mod sys;

pub use client::{Event, Sandbox};
pub use error::SandboxError;
pub use init::sandbox_init_main;
pub use probe::Problem;
pub use spec::{
    CONTAINER_BINARY, CONTAINER_HOME, CONTAINER_PATH, ContainerSpec, DNS_PORT, ExecSpec, ExitStatus,
    INBOUND_PORT, MARK, MARK_SELF, OUTBOUND_PORT, Options, PodCounters, PodSockets, PodSpec, ProcessId,
    ProxySpec, Volume, VolumeContent, VolumeFile, VolumeMount, hosts, resolv_conf,
};
