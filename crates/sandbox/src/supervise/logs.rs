//! What containers print, in the form of Kubernetes' container runtimes: `TIME STREAM F LINE`.
//!
//! Containers write into pipes (a process could open a log file again through its own descriptors); each pipe has a task
//! that copies line by line. A log that grows past its bound is moved to `NAME.1`, and the one before that is dropped.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bartizan_types::NamespacedName;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::unix::pipe;
use tokio::sync::Mutex;

/// What a container's log file is called after its name.
pub const CONTAINER_LOG_SUFFIX: &str = ".log";

/// A longer line is cut into parts of this length, marked `P` as runtimes do.
const LONGEST_LINE: u64 = 16 * 1024;
/// A log file that is larger is moved away.
const LARGEST_LOG: u64 = 10 * 1024 * 1024;

/// Where a container's log is.
pub fn container_log(directory: &Path, pod: &NamespacedName, container: &str) -> PathBuf {
    directory
        .join(pod.namespace.as_str())
        .join(pod.name.as_str())
        .join(format!("{container}{CONTAINER_LOG_SUFFIX}"))
}

/// A log file that several streams write to; the lock is held for one line.
#[derive(Clone, Debug)]
pub(super) struct Log(Arc<Mutex<LogFile>>);

#[derive(Debug)]
struct LogFile {
    path: PathBuf,
    file: Option<(tokio::fs::File, u64)>,
}

impl Log {
    pub(super) fn new(path: PathBuf) -> Self {
        Self(Arc::new(Mutex::new(LogFile { path, file: None })))
    }

    /// Writes one line of `stream` (`stdout`, `stderr`, or `supervisor` for what we say of the container).
    pub(super) async fn line(&self, stream: &str, whole: bool, text: &[u8]) {
        let mut log = self.0.lock().await;
        let mut line = format!("{} {stream} {} ", now(), if whole { 'F' } else { 'P' }).into_bytes();
        line.extend_from_slice(text);
        line.push(b'\n');
        if let Err(error) = log.write(&line).await {
            log.file = None;
            tracing::warn!(path = %log.path.display(), %error, "write a container's log");
        }
    }

    /// A pipe whose other end's lines go into this log until it is closed.
    pub(super) fn pipe(&self, stream: &'static str) -> std::io::Result<OwnedFd> {
        let (reader, writer) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC)?;
        nix::fcntl::fcntl(
            &reader,
            nix::fcntl::FcntlArg::F_SETFL(nix::fcntl::OFlag::O_NONBLOCK),
        )?;
        let reader = pipe::Receiver::from_owned_fd(reader)?;
        let log = self.clone();
        // Owned by the pipe: it ends when the last writer is gone, which the end of the pod brings about.
        tokio::spawn(async move { log.copy(stream, reader).await });
        Ok(writer)
    }

    async fn copy(&self, stream: &str, reader: pipe::Receiver) {
        let mut reader = BufReader::new(reader);
        let mut line = Vec::new();
        loop {
            line.clear();
            match (&mut reader)
                .take(LONGEST_LINE)
                .read_until(b'\n', &mut line)
                .await
            {
                Ok(0) | Err(_) => return,
                Ok(_) => {
                    let whole = line.last() == Some(&b'\n');
                    if whole {
                        line.pop();
                    }
                    self.line(stream, whole, &line).await;
                }
            }
        }
    }
}

impl LogFile {
    async fn write(&mut self, line: &[u8]) -> std::io::Result<()> {
        if self.file.as_ref().is_some_and(|(_, size)| *size > LARGEST_LOG) {
            self.file = None;
            let mut old = self.path.clone().into_os_string();
            old.push(".1");
            tokio::fs::rename(&self.path, old).await?;
        }
        if self.file.is_none() {
            if let Some(folder) = self.path.parent() {
                tokio::fs::create_dir_all(folder).await?;
            }
            let file = tokio::fs::OpenOptions::new()
                .create(true)
                .append(true)
                .mode(0o600)
                .open(&self.path)
                .await?;
            let size = file.metadata().await?.len();
            self.file = Some((file, size));
        }
        if let Some((file, size)) = &mut self.file {
            file.write_all(line).await?;
            file.flush().await?;
            *size += line.len() as u64;
        }
        Ok(())
    }
}

/// The time in RFC 3339 with milliseconds, UTC.
fn now() -> String {
    let since = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default();
    let seconds = i64::try_from(since.as_secs()).unwrap_or_default();
    let millis = u16::try_from(since.subsec_millis()).unwrap_or_default();
    bartizan_types::DateTime::from_unix(seconds, millis).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn lines_of_a_pipe_reach_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ns/pod/app.log");
        let log = Log::new(path.clone());
        let mut writer = std::fs::File::from(log.pipe("stdout").unwrap());
        std::io::Write::write_all(&mut writer, b"one\ntwo").unwrap();
        drop(writer);
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(5);
        loop {
            let text = std::fs::read_to_string(&path).unwrap_or_default();
            if text.contains(" stdout F one\n") && text.contains(" stdout P two\n") {
                break;
            }
            assert!(std::time::Instant::now() < deadline, "{text}");
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    }
}
