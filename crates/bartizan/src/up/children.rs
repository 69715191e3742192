//! The control plane's process: started with its sockets, started again when it ends.

use std::net::TcpListener;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use nix::fcntl::{FcntlArg, FdFlag, fcntl};

use crate::internal::{self, ControlStart};

/// Waits before the control plane is started again: this long at first, doubling to the last.
const FIRST_WAIT: Duration = Duration::from_millis(50);
const LONGEST_WAIT: Duration = Duration::from_secs(5);
/// A control plane that ends this often without having lived ten seconds will not live at all.
const MOST_QUICK_ENDS: u32 = 8;
const QUICK: Duration = Duration::from_secs(10);

/// Runs the control plane for as long as this future is driven.
///
/// # Errors
/// When it cannot be started, or ends again and again at once.
pub(crate) async fn keep_control(
    mut start: ControlStart,
    control: UnixListener,
    admin: TcpListener,
    log: PathBuf,
) -> anyhow::Result<()> {
    let mut wait = FIRST_WAIT;
    let mut quick_ends = 0;
    loop {
        let started = Instant::now();
        let mut child = spawn(&mut start, &control, &admin, &log)?;
        let status = child.wait().await.context("wait for the control plane")?;
        if started.elapsed() < QUICK {
            quick_ends += 1;
        } else {
            (quick_ends, wait) = (0, FIRST_WAIT);
        }
        tracing::warn!(%status, "the control plane ended; it is started again");
        if quick_ends >= MOST_QUICK_ENDS {
            bail!(
                "the control plane does not stay up ({status}); its last words are in {}",
                log.display()
            );
        }
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(LONGEST_WAIT);
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
    let binary = std::env::current_exe().context("find this program")?;
    tokio::process::Command::new(binary)
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
