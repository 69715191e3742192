//! The supervisor's own socket: `run`, `exec`, `down`, and what they say to each other. JSON lines; a first line that
//! starts a process comes with its three standard descriptors (`SCM_RIGHTS`).

use std::io::{BufRead as _, BufReader, IoSlice, IoSliceMut, Write as _};
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;

use anyhow::{Context as _, bail};
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};
use serde::{Deserialize, Serialize};

use crate::place::Place;

/// A longer first line is refused.
const LONGEST_REQUEST: usize = 256 * 1024;

/// The first line.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "do")]
pub(crate) enum Request {
    /// One more workload that lives as long as its command.
    #[serde(rename_all = "camelCase")]
    Run {
        /// Its identity's namespace.
        namespace: String,
        /// Its identity's service account.
        service_account: String,
        /// Its labels.
        labels: Vec<(String, String)>,
        /// Paths that it may write.
        write: Vec<std::path::PathBuf>,
        /// What is run.
        process: Process,
    },
    /// A command in a container.
    #[serde(rename_all = "camelCase")]
    Exec {
        /// `namespace/pod`, or a name that only one pod or controller has.
        workload: String,
        /// The first one when absent.
        container: Option<String>,
        /// What is run.
        process: Process,
    },
    /// End the mesh.
    Down,
}

/// A process to start.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Process {
    /// Program and arguments.
    pub(crate) command: Vec<String>,
    /// Variables besides the container's.
    pub(crate) environment: Vec<(String, String)>,
    /// Where it starts, if it can.
    pub(crate) directory: Option<std::path::PathBuf>,
    /// Whether its standard input is a terminal.
    pub(crate) terminal: bool,
}

/// Later lines from the client.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Later {
    /// Send it this signal.
    Signal(i32),
}

/// Lines from the supervisor.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Reply {
    /// The process runs, in this pod.
    Started(String),
    /// It ended with this exit code (128 and the signal's number for a signal).
    Ended(i32),
    /// It cannot be done, and why.
    Refused(String),
    /// The mesh has ended.
    Done,
}

/// A connection to the supervisor.
pub(crate) struct Client {
    stream: UnixStream,
    lines: BufReader<UnixStream>,
}

impl Client {
    /// Connects and sends the request, with descriptors for a process.
    ///
    /// # Errors
    /// When no mesh runs here or the connection breaks.
    pub(crate) fn send(place: &Place, request: &Request, descriptors: &[RawFd]) -> anyhow::Result<Self> {
        place.must_run()?;
        let path = place.supervisor_socket();
        let mut stream =
            UnixStream::connect(&path).with_context(|| format!("connect to {}", path.display()))?;
        let mut line = serde_json::to_vec(request)?;
        line.push(b'\n');
        if line.len() > LONGEST_REQUEST {
            bail!("the command with its environment is longer than 256 KiB");
        }
        let rights = [ControlMessage::ScmRights(descriptors)];
        let control = if descriptors.is_empty() {
            &[][..]
        } else {
            &rights[..]
        };
        let sent = sendmsg::<()>(
            stream.as_raw_fd(),
            &[IoSlice::new(&line)],
            control,
            MsgFlags::empty(),
            None,
        )
        .context("send to the supervisor")?;
        stream
            .write_all(line.get(sent..).unwrap_or_default())
            .context("send to the supervisor")?;
        let lines = BufReader::new(stream.try_clone().context("copy a descriptor")?);
        Ok(Self { stream, lines })
    }

    /// The next line; `None` at the end.
    ///
    /// # Errors
    /// When the connection breaks.
    pub(crate) fn next(&mut self) -> anyhow::Result<Option<Reply>> {
        let mut line = String::new();
        if self
            .lines
            .read_line(&mut line)
            .context("read from the supervisor")?
            == 0
        {
            return Ok(None);
        }
        serde_json::from_str(&line)
            .map(Some)
            .context("read the supervisor's answer")
    }

    /// A handle for later lines, usable from another thread.
    ///
    /// # Errors
    /// When the descriptor cannot be copied.
    pub(crate) fn later(&self) -> anyhow::Result<UnixStream> {
        self.stream.try_clone().context("copy a descriptor")
    }
}

/// Sends a later line.
pub(crate) fn say_later(stream: &mut UnixStream, later: &Later) {
    if let Ok(mut line) = serde_json::to_vec(later) {
        line.push(b'\n');
        stream.write_all(&line).ok();
    }
}

/// Reads the first line and its descriptors from a client. Blocking; bounded by the stream's read timeout.
///
/// # Errors
/// When the line is too long, not one of ours, or the connection breaks.
pub(crate) fn receive(stream: &UnixStream) -> anyhow::Result<(Request, Vec<OwnedFd>)> {
    let mut line = Vec::new();
    let mut descriptors: Vec<OwnedFd> = Vec::new();
    while !line.contains(&b'\n') {
        let mut buffer = [0u8; 4096];
        let mut space = nix::cmsg_space!([RawFd; 8]);
        let mut slices = [IoSliceMut::new(&mut buffer)];
        let message = recvmsg::<()>(
            stream.as_raw_fd(),
            &mut slices,
            Some(&mut space),
            MsgFlags::MSG_CMSG_CLOEXEC,
        )
        .context("read from a client")?;
        for control in message.cmsgs().context("read a client's descriptors")? {
            if let ControlMessageOwned::ScmRights(rights) = control {
                descriptors.extend(rights.into_iter().map(own));
            }
        }
        let count = message.bytes;
        if count == 0 {
            bail!("the client went away");
        }
        line.extend_from_slice(buffer.get(..count).unwrap_or_default());
        if line.len() > LONGEST_REQUEST || descriptors.len() > 8 {
            bail!("the request is too large");
        }
    }
    let request = serde_json::from_slice(&line).context("read a client's request")?;
    Ok((request, descriptors))
}

#[expect(
    unsafe_code,
    reason = "a descriptor that arrived by SCM_RIGHTS has no owner yet"
)]
fn own(descriptor: RawFd) -> OwnedFd {
    // SAFETY: recvmsg has just made this descriptor in our table, and nobody else knows its number.
    unsafe { OwnedFd::from_raw_fd(descriptor) }
}
