//! Roles of this binary that only bartizan itself starts: `bartizan internal ROLE …`. The first of them joins and makes
//! namespaces, so they are told apart before any thread or runtime exists.

use std::os::fd::{FromRawFd as _, OwnedFd, RawFd};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail};
use bartizan_mesh::{PathRule, Profile};
use bartizan_types::{Secret, TrustDomain};
use serde::{Deserialize, Serialize};

use crate::exit;

/// The sandbox's first process; its last argument is the control descriptor's number.
pub(crate) const SANDBOX_INIT: &str = "sandbox-init";
/// A pod's proxy.
pub(crate) const PROXY: &str = "proxy";
/// The control plane.
pub(crate) const CONTROL: &str = "control";
/// A container that only waits: the home of `bartizan run`.
pub(crate) const PAUSE: &str = "pause";

/// Prints a page of `docs/`: see [`crate::reference`].
pub(crate) const REFERENCE: &str = "reference";

/// Runs the internal role that the arguments name, if they name one.
pub(crate) fn before_threads() -> Option<ExitCode> {
    let mut arguments = std::env::args().skip(1);
    if arguments.next().as_deref() != Some("internal") {
        return None;
    }
    let role = arguments.next().unwrap_or_default();
    let rest: Vec<String> = arguments.collect();
    let result = match role.as_str() {
        SANDBOX_INIT => match rest.last().and_then(|number| number.parse::<i32>().ok()) {
            Some(control) => bartizan_sandbox::sandbox_init_main(control),
            None => Err(anyhow::anyhow!("the control descriptor's number is missing")),
        },
        PROXY => proxy(),
        CONTROL => control(&rest),
        PAUSE => pause(),
        REFERENCE => crate::reference::print(&rest),
        other => Err(anyhow::anyhow!("`{other}` is not a role")),
    };
    Some(match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => exit::failed(&error),
    })
}

/// What the supervisor tells the control plane at its start (JSON).
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct ControlStart {
    /// Folders and files.
    pub(crate) sources: Vec<std::path::PathBuf>,
    /// CA, versions.
    pub(crate) state_directory: std::path::PathBuf,
    /// Sockets.
    pub(crate) run_directory: std::path::PathBuf,
    /// What holds where no policy speaks.
    pub(crate) profile: Profile,
    /// What a path means with it.
    pub(crate) paths: PathRule,
    /// Whether the command line names it.
    pub(crate) profile_is_chosen: bool,
    /// The mesh's trust domain.
    pub(crate) trust_domain: String,
    /// Lifetime of SVIDs.
    pub(crate) svid_ttl: Duration,
    /// Where gateways listen.
    pub(crate) gateway_address: std::net::IpAddr,
    /// Roots of private issuers.
    pub(crate) jwks_ca: Option<std::path::PathBuf>,
    /// Warnings are errors.
    pub(crate) strict: bool,
    /// For the admin page.
    pub(crate) admin_token: String,
    /// The descriptor of the control socket.
    pub(crate) control: RawFd,
    /// The descriptor of the admin page's listener.
    pub(crate) admin: RawFd,
}

fn control(arguments: &[String]) -> anyhow::Result<()> {
    let [start] = arguments else {
        bail!("the number of the descriptor to read from is missing")
    };
    let mut file = std::fs::File::from(inherited(start.parse().context("a descriptor's number")?));
    let start: ControlStart = serde_json::from_reader(&mut file).context("read what the supervisor says")?;
    // The supervisor's death is ours. It may have died before this line: then our parent is another already.
    let parent = nix::unistd::getppid();
    nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL)
        .context("tie this process to its supervisor")?;
    if nix::unistd::getppid() != parent {
        return Ok(());
    }
    log_to_stderr();
    let (drain, drained) = tokio::sync::watch::channel(false);
    let options = bartizan_control::Options {
        sources: start.sources,
        state_directory: start.state_directory,
        run_directory: start.run_directory,
        settings: bartizan_control::settings(
            start.profile,
            start.paths,
            TrustDomain::parse(&start.trust_domain)?,
        ),
        profile_is_chosen: start.profile_is_chosen,
        svid_ttl: start.svid_ttl,
        gateway_address: start.gateway_address,
        control: std::os::unix::net::UnixListener::from(inherited(start.control)),
        admin: Some(std::net::TcpListener::from(inherited(start.admin))),
        admin_token: Secret::new(start.admin_token),
        jwks_ca: start.jwks_ca,
        key_times: bartizan_control::KeyTimes::default(),
        strict: start.strict,
        supervisor: Some(parent.as_raw()),
        drain: drained,
    };
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?
        .block_on(async {
            let ended = async {
                crate::signals::ended().await.ok();
                drain.send_replace(true);
                std::future::pending::<()>().await;
            };
            tokio::select! {
                result = bartizan_control::run(options) => result.map_err(anyhow::Error::from),
                () = ended => Ok(()),
            }
        })
}

/// What the allocator is told by.
const SMALL_PAGES: &str = "MIMALLOC_ALLOW_THP";

/// Gives this process small pages only: it is executed anew, once, because the allocator takes its first pages before `main`.
/// A proxy touches little of much, and with transparent huge pages it holds four times the memory that it uses. It is for
/// proxies, which start no other program that would inherit it. Where it cannot be executed anew, it goes on as it is.
pub(crate) fn small_pages() {
    use std::os::unix::process::CommandExt as _;
    if std::env::var_os(SMALL_PAGES).is_some() {
        return;
    }
    let mut arguments = std::env::args_os();
    let Some(name) = arguments.next() else { return };
    let error = std::process::Command::new("/proc/self/exe")
        .arg0(name)
        .args(arguments)
        .env(SMALL_PAGES, "0")
        .exec();
    eprintln!("note: with huge pages this proxy takes more memory: {error}");
}

fn proxy() -> anyhow::Result<()> {
    small_pages();
    log_to_stderr();
    let bootstrap = bartizan_proxy::Bootstrap::read(std::fs::File::from(inherited(3)))?;
    bartizan_proxy::run(bootstrap)?;
    Ok(())
}

fn pause() -> anyhow::Result<()> {
    crate::with_runtime(crate::signals::ended())
}

/// Logs of our own processes: to standard error, which the supervisor collects. `BARTIZAN_LOG` sets the level.
pub(crate) fn log_to_stderr() {
    let filter = tracing_subscriber::EnvFilter::try_from_env("BARTIZAN_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(false)
        // On a full disk a line is lost; telling of it on standard error, a file there as well, would end the process.
        .log_internal_errors(false)
        .init();
}

/// The supervisor's own log: to a file, so that it does not run through what people read.
///
/// # Errors
/// When the file cannot be opened.
pub(crate) fn log_to_file(path: &std::path::Path) -> anyhow::Result<()> {
    let file = std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)
        .with_context(|| format!("open {}", path.display()))?;
    let filter = tracing_subscriber::EnvFilter::try_from_env("BARTIZAN_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(file)
        .with_ansi(false)
        // On a full disk a line is lost; telling of it on standard error, a file there as well, would end the process.
        .log_internal_errors(false)
        .init();
    Ok(())
}

#[expect(unsafe_code, reason = "an inherited descriptor has no owner yet")]
fn inherited(number: RawFd) -> OwnedFd {
    // SAFETY: the process that started us put it there for this role, which takes each number once, before anything else
    // opens descriptors.
    unsafe { OwnedFd::from_raw_fd(number) }
}
