//! What goes over the control socket between a supervisor and its sandbox.
//!
//! A request travels in a memory file (its first descriptor), because a volume's content may be larger than a message;
//! an answer fits into the message itself. In the file are the JSON's length (8 bytes, the machine's order), the JSON, and
//! the contents of all files that it names, one after the other.

use std::io;
use std::net::SocketAddrV4;
use std::os::fd::RawFd;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::probe::Problem;
use crate::spec::{ExitStatus, PodCounters, PodSpec, ProcessId, VolumeContent, VolumeFile, VolumeMount};

/// A request and the number that its answer repeats.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Request {
    pub(crate) id: u64,
    pub(crate) ask: Ask,
    /// The lengths of the contents that follow.
    lengths: Vec<usize>,
}

impl Request {
    pub(crate) fn new(id: u64, ask: Ask) -> Self {
        Self {
            id,
            ask,
            lengths: Vec::new(),
        }
    }

    /// The bytes of the memory file.
    pub(crate) fn encode(mut self) -> io::Result<Vec<u8>> {
        let contents: Vec<Vec<u8>> = self
            .ask
            .files()
            .into_iter()
            .map(|file| std::mem::take(&mut file.content))
            .collect();
        self.lengths = contents.iter().map(Vec::len).collect();
        let json = serde_json::to_vec(&self)?;
        let mut bytes = json.len().to_ne_bytes().to_vec();
        bytes.extend_from_slice(&json);
        for content in contents {
            bytes.extend_from_slice(&content);
        }
        Ok(bytes)
    }

    /// Reads what [`Request::encode`] wrote.
    pub(crate) fn decode(bytes: &[u8]) -> io::Result<Self> {
        let cut = || io::Error::new(io::ErrorKind::UnexpectedEof, "a request is shorter than it says");
        let (length, rest) = bytes.split_first_chunk().ok_or_else(cut)?;
        let (json, mut rest) = rest
            .split_at_checked(usize::from_ne_bytes(*length))
            .ok_or_else(cut)?;
        let mut request: Self = serde_json::from_slice(json)?;
        let lengths = std::mem::take(&mut request.lengths);
        for (file, length) in request.ask.files().into_iter().zip(lengths) {
            let (content, after) = rest.split_at_checked(length).ok_or_else(cut)?;
            file.content = content.to_vec();
            rest = after;
        }
        Ok(request)
    }
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

impl Ask {
    /// Every file that it carries, always in the same order.
    fn files(&mut self) -> Vec<&mut VolumeFile> {
        match self {
            Self::CreatePod(spec) => spec
                .volumes
                .iter_mut()
                .flat_map(|volume| match &mut volume.content {
                    VolumeContent::Files(files) => files.as_mut_slice(),
                    VolumeContent::Empty { .. } => &mut [],
                })
                .collect(),
            Self::WriteVolume { files, .. } => files.iter_mut().collect(),
            Self::Start { .. }
            | Self::Hide { .. }
            | Self::Proxy { .. }
            | Self::Container(_)
            | Self::Exec { .. }
            | Self::OpenSocket { .. }
            | Self::Signal { .. }
            | Self::KillPod { .. }
            | Self::DeletePod { .. }
            | Self::Counters { .. } => Vec::new(),
        }
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contents_of_files_survive_the_way() {
        let file = |content: &[u8]| VolumeFile {
            path: "a".into(),
            mode: 0o600,
            content: content.to_vec(),
        };
        let every_byte: Vec<u8> = (0..=255).collect();
        let files = vec![file(&every_byte), file(b""), file(b"last")];
        let ask = Ask::WriteVolume {
            pod: "p".into(),
            volume: "v".into(),
            files,
        };
        let bytes = Request::new(7, ask).encode().unwrap();
        let Request {
            id,
            ask: Ask::WriteVolume { files, .. },
            ..
        } = Request::decode(&bytes).unwrap()
        else {
            panic!("another request");
        };
        assert_eq!(id, 7);
        assert_eq!(
            files.into_iter().map(|file| file.content).collect::<Vec<_>>(),
            [every_byte, vec![], b"last".to_vec()]
        );
        for length in 0..bytes.len() {
            assert!(Request::decode(&bytes[..length]).is_err(), "{length}");
        }
    }
}
