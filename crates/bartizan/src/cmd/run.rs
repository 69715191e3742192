//! `bartizan run` and `bartizan exec`: a command as one more workload, or beside a workload's own.
//!
//! With a terminal the command gets a pseudo-terminal of its own and this process carries the characters, so that an
//! application never holds the person's terminal.

mod terminal;

use std::io::IsTerminal as _;
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use nix::sys::signal::{SigSet, Signal};

use crate::args::{ExecArgs, RunArgs};
use crate::exit::{Exit, USAGE};
use crate::place::Place;
use crate::supervisor_socket::{Client, Later, Process, Reply, Request, say_later};

/// How many characters fit in a line, where standard output is a terminal.
pub(crate) fn terminal_width() -> Option<usize> {
    let size = terminal::window()?;
    (size.ws_col > 0).then_some(usize::from(size.ws_col))
}

/// Runs a command under an identity.
///
/// # Errors
/// When no mesh runs here or the command cannot be started.
pub(crate) fn run(place: &Place, args: RunArgs) -> anyhow::Result<ExitCode> {
    let Some((namespace, service_account)) = args.identity.split_once('/') else {
        return Err(Exit::error(
            USAGE,
            format!(
                "--as `{}`: it has the form NAMESPACE/SERVICEACCOUNT",
                args.identity
            ),
        ));
    };
    known(place, namespace, service_account)?;
    let write = args
        .write
        .iter()
        .map(std::path::absolute)
        .collect::<Result<Vec<_>, _>>()
        .context("--write")?;
    let request = Request::Run {
        namespace: namespace.to_owned(),
        service_account: service_account.to_owned(),
        labels: pairs("--label", &args.labels)?,
        write,
        process: process(
            args.command,
            pairs("--env", &args.environment)?,
            shared_directory(),
        ),
    };
    carry(place, &request)
}

/// # Errors
/// When no document and no namespace gives this service account: a typing mistake, or a document that is missing.
fn known(place: &Place, namespace: &str, service_account: &str) -> anyhow::Result<()> {
    place.must_run()?;
    let accounts = crate::with_runtime(crate::admin::status(place))?.service_accounts;
    let is = |account: &&bartizan_types::NamespacedName| {
        account.namespace.as_str() == namespace && account.name.as_str() == service_account
    };
    if accounts.iter().any(|account| is(&account)) {
        return Ok(());
    }
    let others: Vec<String> = accounts
        .iter()
        .filter(|account| account.namespace.as_str() == namespace)
        .map(ToString::to_string)
        .collect();
    if others.is_empty() {
        bail!("namespace `{namespace}` does not exist in this mesh");
    }
    bail!(
        "service account `{namespace}/{service_account}` does not exist; the namespace has {}",
        others.join(", ")
    )
}

/// Runs a command in a container.
///
/// # Errors
/// When no mesh runs here, there is no such workload, or the command cannot be started.
pub(crate) fn exec(place: &Place, args: ExecArgs) -> anyhow::Result<ExitCode> {
    let request = Request::Exec {
        workload: args.workload,
        container: args.container,
        process: process(args.command, Vec::new(), None),
    };
    carry(place, &request)
}

fn process(
    command: Vec<String>,
    mut environment: Vec<(String, String)>,
    directory: Option<PathBuf>,
) -> Process {
    let terminal = std::io::stdin().is_terminal() && std::io::stdout().is_terminal();
    if let (true, Ok(term)) = (terminal, std::env::var("TERM")) {
        environment.push(("TERM".to_owned(), term));
    }
    Process {
        command,
        environment,
        directory,
        terminal,
    }
}

/// The working directory, where the workload may see it. A project's folder is what a person means to share; a home, a
/// temporary directory or the whole system is not: there are keys, and sockets of agents and desktops.
fn shared_directory() -> Option<PathBuf> {
    let directory = std::env::current_dir().ok()?;
    let home = std::env::var_os("HOME").map(PathBuf::from);
    if is_narrow(&directory, home.as_deref()) {
        return Some(directory);
    }
    eprintln!(
        "note: `{}` is not shared with the workload; run it from a project's folder to share that",
        directory.display()
    );
    None
}

fn is_narrow(directory: &Path, home: Option<&Path>) -> bool {
    let shared_by_all = [
        "/", "/home", "/media", "/mnt", "/opt", "/srv", "/tmp", "/usr", "/var", "/var/tmp",
    ];
    let of_the_system = ["/dev", "/etc", "/proc", "/root", "/run", "/sys", "/var/run"];
    !shared_by_all.iter().any(|place| directory == Path::new(place))
        && !of_the_system.iter().any(|place| directory.starts_with(place))
        && !home.is_some_and(|home| home.starts_with(directory))
}

fn pairs(flag: &str, texts: &[String]) -> anyhow::Result<Vec<(String, String)>> {
    texts
        .iter()
        .map(|text| {
            let (name, value) = text
                .split_once('=')
                .with_context(|| format!("{flag} `{text}`: it has the form NAME=VALUE"))?;
            Ok((name.to_owned(), value.to_owned()))
        })
        .collect()
}

fn carry(place: &Place, request: &Request) -> anyhow::Result<ExitCode> {
    let (Request::Run { process, .. } | Request::Exec { process, .. }) = request else {
        bail!("only a process can be carried");
    };
    let terminal = if process.terminal {
        Some(terminal::Terminal::open()?)
    } else {
        None
    };
    let descriptors = match &terminal {
        Some(terminal) => [terminal.inner_end(); 3],
        None => [
            std::io::stdin().as_raw_fd(),
            std::io::stdout().as_raw_fd(),
            std::io::stderr().as_raw_fd(),
        ],
    };
    // Blocked before any thread is made, so that only the one below takes them.
    let signals: SigSet = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGQUIT]
        .into_iter()
        .collect();
    signals.thread_block().context("block signals")?;
    if terminal.is_some() {
        SigSet::from(Signal::SIGWINCH)
            .thread_block()
            .context("block signals")?;
    }
    let mut client = Client::send(place, request, &descriptors)?;
    let mut later = client.later()?;
    std::thread::spawn(move || {
        while let Ok(signal) = signals.wait() {
            say_later(&mut later, &Later::Signal(signal as i32));
        }
    });
    let carried = terminal.map(terminal::Terminal::carry).transpose()?;
    let code = loop {
        match client.next()? {
            Some(Reply::Started(_)) => {}
            Some(Reply::Ended(code)) => break code,
            Some(Reply::Refused(why)) => {
                drop(carried);
                bail!("{why}");
            }
            Some(Reply::Done) | None => {
                drop(carried);
                bail!("the mesh ended");
            }
        }
    };
    if let Some(carried) = carried {
        carried.finish();
    }
    Ok(ExitCode::from(u8::try_from(code).unwrap_or(1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_projects_folder_is_shared_and_a_home_is_not() {
        let narrow = |directory: &str| is_narrow(Path::new(directory), Some(Path::new("/home/ann")));
        for shared in [
            "/home/ann/shop",
            "/src",
            "/tmp/shop",
            "/var/lib/shop",
            "/home/ben/x",
        ] {
            assert!(narrow(shared), "{shared}");
        }
        for kept in [
            "/",
            "/home",
            "/home/ann",
            "/tmp",
            "/var/tmp",
            "/run/user/1000",
            "/etc",
            "/etc/ssl",
            "/dev/shm",
            "/proc/1",
        ] {
            assert!(!narrow(kept), "{kept}");
        }
    }
}
