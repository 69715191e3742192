//! The signals that end a process.

use anyhow::Context as _;
use tokio::signal::unix::{SignalKind, signal};

/// Waits for SIGTERM, SIGINT or SIGHUP.
///
/// # Errors
/// When a handler cannot be set.
pub(crate) async fn ended() -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("watch SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("watch SIGINT")?;
    let mut hangup = signal(SignalKind::hangup()).context("watch SIGHUP")?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
        _ = hangup.recv() => {}
    }
    Ok(())
}

/// Ends this process without a word when whoever reads its output has gone, as in `bartizan status | head`; for commands
/// that only print.
#[expect(unsafe_code, reason = "a signal's disposition is the process's own")]
pub(crate) fn end_with_the_reader() {
    // SAFETY: the default disposition runs no code of ours, and no other thread exists yet.
    unsafe {
        nix::sys::signal::signal(
            nix::sys::signal::Signal::SIGPIPE,
            nix::sys::signal::SigHandler::SigDfl,
        )
    }
    .ok();
}
