//! `up --detach`: the mesh goes on in a session of its own, and this process waits until it is up.

use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitCode, Stdio};
use std::time::Instant;

use anyhow::{Context as _, bail};

use super::summary;
use crate::args::UpArgs;
use crate::place::Place;

/// Starts the mesh in the background and prints its summary.
///
/// # Errors
/// When it ends before it is up (what it said last is part of the error), or is not up in time.
pub(super) fn run(place: &Place, args: &UpArgs, started: Instant) -> anyhow::Result<ExitCode> {
    // Says "runs already" here, where it is read; the lock is let go for the child.
    drop(place.occupy()?);
    let log_path = place.logs().join("up.log");
    let log = std::fs::File::create(&log_path).with_context(|| format!("open {}", log_path.display()))?;
    let binary = std::env::current_exe().context("find this program")?;
    let mut child = Command::new(binary)
        .args(std::env::args_os().skip(1))
        .arg("--detached-child")
        .stdin(Stdio::null())
        .stdout(Stdio::from(log.try_clone().context("copy a descriptor")?))
        .stderr(Stdio::from(log))
        .process_group(0)
        .spawn()
        .context("start the mesh in the background")?;
    let progress = summary::Progress::new(args);
    let up = crate::with_runtime(async {
        tokio::select! {
            up = summary::when_up_elsewhere(place, args, &progress, started) => Ok(Some(up)),
            ended = async {
                loop {
                    if let Some(status) = child.try_wait()? {
                        return Ok::<_, anyhow::Error>(status);
                    }
                    tokio::time::sleep(std::time::Duration::from_millis(20)).await;
                }
            } => {
                tracing::debug!(?ended, "the mesh ended");
                Ok(None)
            }
        }
    })?;
    match up {
        Some(Ok(())) => return Ok(ExitCode::SUCCESS),
        Some(Err(missing)) => bail!(
            "{missing}\nthe mesh goes on in the background: `{program} status` tells how it is, `{program} down` ends it",
            program = summary::named(place)
        ),
        None => {}
    }
    let status = child.wait().context("wait for the mesh")?;
    let words = std::fs::read_to_string(&log_path).unwrap_or_default();
    let mut words = words.trim().trim_start_matches("error: ").to_owned();
    if words.is_empty() {
        words = format!(
            "the mesh ended ({status}) and {} does not say why: is its disk full? Without --detach it is said here",
            log_path.display()
        );
    }
    match status.code().and_then(|code| u8::try_from(code).ok()) {
        Some(code) if code != 0 => Err(crate::exit::Exit::error(code, words)),
        _ => bail!("the mesh ended before it was up ({status}): {words}"),
    }
}
