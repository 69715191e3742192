//! What goes over the control socket between a supervisor and its sandbox.
//!
//! A request's JSON travels in a sealed memory file (its first descriptor), because a volume's content may be larger
//! than a message; an answer fits into the message itself.

use std::net::SocketAddrV4;
use std::os::fd::RawFd;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::probe::Problem;
use crate::spec::{ExitStatus, PodCounters, PodSpec, ProcessId, VolumeFile, VolumeMount};

/// A request and the number that its answer repeats.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Request {
    pub(crate) id: u64,
    pub(crate) ask: Ask,
}

/// Everything a sandbox can be asked. Descriptors follow in the order that each variant says.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Ask {
    /// Always first, once.
    Start {
        scratch: PathBuf,
        unlink: Vec<PathBuf>,
        masked: Vec<PathBuf>,
    },
    /// Answer: four sockets (outbound, inbound, DNS TCP, DNS UDP).
    CreatePod(PodSpec),
    /// Makes a directory invisible for everything in the sandbox, proxies included.
    Hide {
        directory: PathBuf,
    },
    /// Descriptors: stdout, stderr, then one for each of `numbers`.
    Proxy {
        pod: String,
        argv: Vec<String>,
        env: Vec<(String, String)>,
        numbers: Vec<RawFd>,
    },
    /// Descriptors: stdout, stderr.
    Container(ContainerAsk),
    /// Descriptors: stdin, stdout, stderr.
    Exec {
        pod: String,
        container: String,
        command: Command,
        terminal: bool,
    },
    /// Answer: one socket that is connecting.
    OpenSocket {
        pod: String,
        to: SocketAddrV4,
    },
    Signal {
        process: ProcessId,
        signal: i32,
    },
    KillPod {
        pod: String,
    },
    DeletePod {
        pod: String,
    },
    Counters {
        pod: String,
    },
    WriteVolume {
        pod: String,
        volume: String,
        files: Vec<VolumeFile>,
    },
}

/// What is executed.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Command {
    pub(crate) argv: Vec<String>,
    pub(crate) env: Vec<(String, String)>,
    pub(crate) working_directory: PathBuf,
}

/// A container, without its descriptors.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ContainerAsk {
    pub(crate) pod: String,
    pub(crate) name: String,
    pub(crate) command: Command,
    pub(crate) run_as_user: u32,
    pub(crate) run_as_group: u32,
    pub(crate) read: Vec<PathBuf>,
    pub(crate) write: Vec<PathBuf>,
    pub(crate) volumes: Vec<VolumeMount>,
}

/// What a sandbox says.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Say {
    Answer {
        id: u64,
        answer: Result<Answer, Refusal>,
    },
    Exited {
        process: ProcessId,
        status: ExitStatus,
    },
}

/// A request that was carried out.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Answer {
    Done,
    Process(ProcessId),
    Counters(PodCounters),
}

/// A request that was not.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Refusal {
    Host(Vec<Problem>),
    Text(String),
}

impl From<String> for Refusal {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}
