//! `bartizan down`: ends a mesh and waits until nothing is left.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::bail;

use crate::args::DownArgs;
use crate::place::Place;
use crate::supervisor_socket::{Client, Request};

/// Between two looks whether it is over.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Asks the supervisor to end and waits for it.
///
/// # Errors
/// When no mesh runs here, or it does not end in time.
pub(crate) fn run(place: &Place, args: &DownArgs) -> anyhow::Result<ExitCode> {
    let _client = Client::send(place, &Request::Down, &[])?;
    let deadline = Instant::now() + args.wait;
    while place.is_occupied() {
        if Instant::now() >= deadline {
            bail!(
                "the mesh still runs after {} s; its log is {}",
                args.wait.as_secs(),
                place.logs().join("supervisor.log").display()
            );
        }
        std::thread::sleep(LOOK_EVERY);
    }
    Ok(ExitCode::SUCCESS)
}
