//! What `up` shows: progress while it starts, then a summary with what to try next.

mod living;
mod try_next;

pub(crate) use try_next::named;

use std::io::{IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

use bartizan_control::Status;
use serde_json::json;

use crate::args::{Output, UpArgs};
use crate::cmd::status::{missing, settled, workloads};
use crate::place::Place;
use crate::{admin, text};

/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(25);

/// The line that changes while the mesh starts. Without a terminal each step is a line of its own.
pub(super) struct Progress {
    live: bool,
    quiet: bool,
}

impl Progress {
    pub(super) fn new(args: &UpArgs) -> Self {
        Self {
            live: std::io::stderr().is_terminal() && !args.detached_child,
            quiet: args.detached_child || args.output == Output::Json,
        }
    }

    /// Shows a step.
    pub(super) fn say(&self, step: &str) {
        if self.live {
            eprint!("\r\x1b[K{step} …");
            std::io::stderr().flush().ok();
        } else if !self.quiet {
            eprintln!("{step}");
        }
    }

    /// Shows a step that nothing follows.
    pub(super) fn end(&self, step: &str) {
        self.clear();
        if self.live || !self.quiet {
            eprintln!("{step}");
        }
    }

    /// A line that stays, above the one that lives.
    fn event(&self, event: &str) {
        self.clear();
        if !self.quiet {
            eprintln!("{event}");
        }
    }

    /// The line that lives, in a terminal.
    fn stand(&self, line: &str) {
        if self.live && !self.quiet {
            eprint!("\r\x1b[K{line}");
            std::io::stderr().flush().ok();
        }
    }

    fn clear(&self) {
        if self.live {
            eprint!("\r\x1b[K");
        }
    }
}

/// Waits until everything is up, then prints the summary, then tells of changes for as long as it is driven; says what is
/// missing when it takes too long, and goes on waiting.
pub(super) async fn when_up(
    place: &Place,
    args: &UpArgs,
    progress: &Progress,
    url: String,
    started: Instant,
) {
    let status = wait(place, args, progress).await;
    if args.detached_child {
        return;
    }
    print(place, args, progress, &status, &url, started).await;
    living::tell(place, progress, status).await;
}

/// The summary for a mesh that runs in another process, or what is missing when that takes too long: scripts must not
/// hang.
pub(super) async fn when_up_elsewhere(
    place: &Place,
    args: &UpArgs,
    progress: &Progress,
    started: Instant,
) -> Result<(), String> {
    let Ok(status) = tokio::time::timeout(args.wait + LOOK_EVERY, wait(place, args, progress)).await else {
        progress.clear();
        let status = admin::status(place).await;
        return Err(status.map_or_else(
            |error| format!("the mesh does not answer: {error:#}"),
            |status| missing(&status),
        ));
    };
    let url = std::fs::read_to_string(place.admin_file()).unwrap_or_default();
    print(place, args, progress, &status, &url, started).await;
    Ok(())
}

async fn wait(place: &Place, args: &UpArgs, progress: &Progress) -> Status {
    let deadline = Instant::now() + args.wait;
    let mut warned = false;
    let mut said = String::new();
    loop {
        if let Ok(status) = admin::status(place).await {
            if settled(&status) {
                progress.clear();
                return status;
            }
            let ready = status.workloads.iter().filter(|workload| workload.ready).count();
            let step = format!("starting workloads: {ready} of {} ready", status.workloads.len());
            if step != said {
                progress.say(&step);
                said = step;
            }
            if !warned && !args.detach && Instant::now() > deadline {
                warned = true;
                progress.clear();
                eprintln!("warning: {}", missing(&status));
            }
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

async fn print(
    place: &Place,
    args: &UpArgs,
    progress: &Progress,
    status: &Status,
    url: &str,
    started: Instant,
) {
    let dump = admin::dump(place, "").await.ok();
    let try_next = try_next::commands(place, &args.sources, status, dump.as_ref());
    progress.clear();
    let took = started.elapsed();
    match args.output {
        Output::Json => {
            let summary = json!({
                "mesh": place.mesh,
                "state": place.state,
                "adminUrl": url,
                "tryNext": try_next,
                "startedInMillis": u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
                "status": status,
            });
            println!("{summary}");
        }
        Output::Text => println!("{}", drawn(place, args, status, &try_next, url, took)),
    }
    std::io::stdout().flush().ok();
}

fn drawn(
    place: &Place,
    args: &UpArgs,
    status: &Status,
    try_next: &[String],
    url: &str,
    took: Duration,
) -> String {
    let mut out = format!(
        "the mesh is up after {}: version {}, trust domain {}\n{}: {}\n\n{}\n",
        text::duration(took),
        status.version,
        status.trust_domain,
        status.authority.kind,
        status.authority.notice,
        workloads(status)
    );
    for gateway in &status.gateways {
        for address in &gateway.addresses {
            out += &format!("gateway     http://{address}  ({})\n", gateway.name);
        }
    }
    out += &format!("admin page  {url}\n\nto try next:\n");
    for command in try_next {
        out += &format!("  {command}\n");
    }
    if args.detach {
        out += &format!("  {} down\n", try_next::named(place));
    } else {
        out += "\nCtrl-C ends the mesh and leaves nothing behind.";
    }
    out
}
