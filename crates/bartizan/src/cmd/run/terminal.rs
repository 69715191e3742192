//! A pseudo-terminal for a command, and the characters carried between it and the person's own.

use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd, RawFd};
use std::sync::mpsc;
use std::time::Duration;

use anyhow::Context as _;
use nix::pty::{OpenptyResult, openpty};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};

/// What the command still printed when it ended is waited for this long.
const LAST_WORDS: Duration = Duration::from_millis(300);

/// An open pair; the inner end is the command's.
pub(super) struct Terminal(OpenptyResult);

/// A pair in use; the person's terminal is as before when this is dropped.
pub(super) struct Carried {
    before: Termios,
    printed: mpsc::Receiver<()>,
}

impl Terminal {
    /// Makes a pair of the size and with the settings of the person's terminal.
    pub(super) fn open() -> anyhow::Result<Self> {
        let settings = tcgetattr(std::io::stdin()).context("read the terminal's settings")?;
        let pair = openpty(window().as_ref(), &settings).context("make a pseudo-terminal")?;
        Ok(Self(pair))
    }

    /// The command's end.
    pub(super) fn inner_end(&self) -> RawFd {
        self.0.slave.as_raw_fd()
    }

    /// Starts carrying.
    pub(super) fn carry(self) -> anyhow::Result<Carried> {
        let OpenptyResult { master, slave } = self.0;
        // Our copy of the command's end must go, or we would never see that the command has closed it.
        drop(slave);
        let before = tcgetattr(std::io::stdin()).context("read the terminal's settings")?;
        let mut raw = before.clone();
        cfmakeraw(&mut raw);
        tcsetattr(std::io::stdin(), SetArg::TCSANOW, &raw).context("set the terminal to raw")?;
        let keyboard = copy(&master)?;
        let sized = copy(&master)?;
        // Blocked by the caller in every thread, and taken here alone.
        let resized = SigSet::from(Signal::SIGWINCH);
        std::thread::spawn(move || {
            while resized.wait().is_ok() {
                resize(&sized);
            }
        });
        std::thread::spawn(move || copy_until_end(std::io::stdin(), std::fs::File::from(keyboard)));
        let (done, printed) = mpsc::channel();
        std::thread::spawn(move || {
            copy_until_end(std::fs::File::from(master), std::io::stdout());
            done.send(()).ok();
        });
        Ok(Carried { before, printed })
    }
}

impl Carried {
    /// Waits for what the command printed last.
    pub(super) fn finish(self) {
        self.printed.recv_timeout(LAST_WORDS).ok();
    }
}

impl Drop for Carried {
    fn drop(&mut self) {
        tcsetattr(std::io::stdin(), SetArg::TCSANOW, &self.before).ok();
    }
}

fn copy(master: &OwnedFd) -> anyhow::Result<OwnedFd> {
    master.as_fd().try_clone_to_owned().context("copy a descriptor")
}

fn copy_until_end(mut from: impl std::io::Read, mut to: impl std::io::Write) {
    let mut buffer = [0u8; 4096];
    while let Ok(count @ 1..) = from.by_ref().read(&mut buffer) {
        let Some(bytes) = buffer.get(..count) else { return };
        if to.by_ref().write_all(bytes).and_then(|()| to.flush()).is_err() {
            return;
        }
    }
}

#[expect(unsafe_code, reason = "nix has no call for a terminal's size")]
fn resize(master: &OwnedFd) {
    if let Some(size) = window() {
        // SAFETY: TIOCSWINSZ reads one `winsize` from the pointer, which is valid and of that type for the whole call.
        unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCSWINSZ, &raw const size) };
    }
}

#[expect(unsafe_code, reason = "nix has no call for a terminal's size")]
pub(super) fn window() -> Option<nix::pty::Winsize> {
    let mut size = nix::pty::Winsize {
        ws_row: 0,
        ws_col: 0,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    // SAFETY: TIOCGWINSZ writes one `winsize` to the pointer, which is valid and of that type for the whole call.
    let result = unsafe { libc::ioctl(libc::STDOUT_FILENO, libc::TIOCGWINSZ, &raw mut size) };
    (result == 0).then_some(size)
}
