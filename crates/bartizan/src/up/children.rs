//! The control plane's process: started with its sockets, started again when it ends.

use std::net::TcpListener;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::net::UnixListener;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use nix::fcntl::{FcntlArg, FdFlag, fcntl};

use crate::internal::{self, ControlStart};

/// Waits before the control plane is started again: this long at first, doubling to the last.
const FIRST_WAIT: Duration = Duration::from_millis(50);
const LONGEST_WAIT: Duration = Duration::from_secs(5);
const LONGEST_WAIT_AFTER_A_KILL: Duration = Duration::from_millis(500);
/// When this many in a row ended by themselves and none has ever lived ten seconds, none will. Later the mesh is kept, come
/// what may: traffic goes on without a control plane.
const MOST_QUICK_ENDS: u32 = 8;
const QUICK: Duration = Duration::from_secs(10);

/// Runs the control plane for as long as this future is driven.
///
/// # Errors
/// When it cannot be started, or ends by itself again and again from the beginning.
pub(crate) async fn keep_control(
    mut start: ControlStart,
    control: UnixListener,
    admin: TcpListener,
    log: PathBuf,
) -> anyhow::Result<()> {
    let mut wait = FIRST_WAIT;
    let mut quick_ends = QuickEnds::default();
    loop {
        let started = Instant::now();
        let mut child = match spawn(&mut start, &control, &admin, &log) {
            Ok(child) => child,
            Err(error) if quick_ends.has_begun => {
                tracing::warn!("the control plane cannot be started again: {error:#}");
                tokio::time::sleep(LONGEST_WAIT).await;
                continue;
            }
            Err(error) => return Err(error),
        };
        quick_ends.has_begun = true;
        let status = child.wait().await.context("wait for the control plane")?;
        if started.elapsed() >= QUICK {
            wait = FIRST_WAIT;
        }
        let is_hopeless = quick_ends.note(started.elapsed(), status.signal());
        tracing::warn!(%status, "the control plane ended; it is started again");
        if is_hopeless {
            bail!(
                "the control plane does not stay up ({status}): {}",
                last_words(&log)
            );
        }
        tokio::time::sleep(wait).await;
        let longest = if is_killed(status.signal()) {
            LONGEST_WAIT_AFTER_A_KILL
        } else {
            LONGEST_WAIT
        };
        wait = (wait * 2).min(longest);
    }
}

/// Tells a control plane that cannot live from one that is killed.
#[derive(Default)]
struct QuickEnds {
    in_a_row: u32,
    has_begun: bool,
    has_lived: bool,
}

impl QuickEnds {
    /// Notes an end, and whether to give up.
    fn note(&mut self, lived: Duration, signal: Option<i32>) -> bool {
        self.has_lived |= lived >= QUICK;
        self.in_a_row = if is_killed(signal) { 0 } else { self.in_a_row + 1 };
        !self.has_lived && self.in_a_row >= MOST_QUICK_ENDS
    }
}

/// Whoever is killed from outside has not failed.
fn is_killed(signal: Option<i32>) -> bool {
    matches!(signal, Some(libc::SIGKILL | libc::SIGTERM | libc::SIGINT))
}

/// What a log ends with, and where it is.
fn last_words(log: &Path) -> String {
    let text = std::fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let file = log.display();
    match text.lines().rev().find(|line| !line.trim().is_empty()) {
        Some(line) => format!("{} (more is in {file})", line.trim()),
        None => format!("{file} does not say why; is its disk full?"),
    }
}

fn spawn(
    start: &mut ControlStart,
    control: &UnixListener,
    admin: &TcpListener,
    log: &Path,
) -> anyhow::Result<tokio::process::Child> {
    // Copies that survive exec, for the moment of the start only.
    let control = inheritable(control.as_fd().try_clone_to_owned()?)?;
    let admin = inheritable(admin.as_fd().try_clone_to_owned()?)?;
    start.control = control.as_raw_fd();
    start.admin = admin.as_raw_fd();
    let words = inheritable(words(start)?)?;
    let output = std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(log)
        .with_context(|| format!("open {}", log.display()))?;
    // By this name also when the file was replaced by another build meanwhile.
    tokio::process::Command::new("/proc/self/exe")
        .arg0("bartizan")
        .args(["internal", internal::CONTROL])
        .arg(words.as_raw_fd().to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::from(output.try_clone().context("copy a descriptor")?))
        .stderr(Stdio::from(output))
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .context("start the control plane")
}

/// A memory file with what the control plane must know.
fn words(start: &ControlStart) -> anyhow::Result<OwnedFd> {
    use std::io::{Seek as _, Write as _};
    let memory = nix::sys::memfd::memfd_create(c"bartizan-control", nix::sys::memfd::MFdFlags::MFD_CLOEXEC)
        .context("make a memory file for the control plane")?;
    let mut file = std::fs::File::from(memory);
    file.write_all(&serde_json::to_vec(start)?)?;
    file.rewind()?;
    Ok(file.into())
}

fn inheritable(descriptor: OwnedFd) -> anyhow::Result<OwnedFd> {
    fcntl(&descriptor, FcntlArg::F_SETFD(FdFlag::empty())).context("let a descriptor be inherited")?;
    Ok(descriptor)
}

/// A token for the admin page, from the system's randomness.
pub(crate) fn token() -> anyhow::Result<String> {
    let mut bytes = [0u8; 24];
    std::io::Read::read_exact(
        &mut std::fs::File::open("/dev/urandom").context("open /dev/urandom")?,
        &mut bytes,
    )
    .context("read /dev/urandom")?;
    Ok(bytes
        .iter()
        .fold(String::new(), |text, byte| text + &format!("{byte:02x}")))
}

/// Writes a file that only we can read.
pub(crate) fn write_private(path: &Path, content: &[u8]) -> anyhow::Result<()> {
    let write = || -> std::io::Result<()> {
        let mut file = std::fs::OpenOptions::new()
            .create(true)
            .write(true)
            .truncate(true)
            .mode(0o600)
            .open(path)?;
        std::io::Write::write_all(&mut file, content)
    };
    write().with_context(|| format!("write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_words_are_told_or_that_there_are_none() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("control.log");
        assert!(last_words(&log).ends_with("is its disk full?"));
        std::fs::write(&log, "one\nwrite ca/root.key: no space\n\n").unwrap();
        assert!(last_words(&log).starts_with("write ca/root.key: no space (more is in "));
    }

    #[test]
    fn only_a_control_plane_that_never_lived_is_given_up() {
        let at_once = Duration::from_millis(5);
        let mut ends = QuickEnds::default();
        let given_up = (1..=9).find(|_| ends.note(at_once, None));
        assert_eq!(given_up, Some(8));

        let mut ends = QuickEnds::default();
        assert!(
            !(1..50).any(|_| ends.note(at_once, Some(libc::SIGKILL))),
            "it is killed again and again"
        );
        assert!(
            (1..9).any(|_| ends.note(at_once, Some(libc::SIGSEGV))),
            "it crashes by itself"
        );

        let mut ends = QuickEnds::default();
        assert!(!ends.note(QUICK, None));
        assert!(!(1..50).any(|_| ends.note(at_once, None)), "one has lived");
    }
}
