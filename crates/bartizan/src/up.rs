//! `bartizan up`: the supervisor of a local mesh.
//!
//! This process owns everything that must outlive a restart of another: the control socket, every proxy's listening
//! sockets and credentials, the pipe that keeps the sandbox alive. Its own death ends the mesh.

mod children;
mod detach;
mod node;
mod ports;
mod requests;
mod summary;

use std::net::TcpListener;
use std::os::unix::net::UnixListener;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use bartizan_proxy::{Bootstrap, Descriptors, GatewayDescriptor, OneTimeSecret};
use bartizan_sandbox::supervise::{ProxyStart, Supervisor, SupervisorOptions};
use bartizan_sandbox::{Options, Sandbox, SandboxError};

use crate::args::UpArgs;
use crate::exit::{Exit, FINDINGS, HOST};
use crate::folder::{Folder, has_errors};
use crate::internal::{self, ControlStart};
use crate::place::Place;
use crate::text;

pub(crate) use children::token;
pub(crate) use summary::named;

/// Runs a mesh until it is told to end.
///
/// # Errors
/// With an exit code of its own for bad documents and for a host that does not permit a sandbox.
pub(crate) fn run(place: &Place, args: UpArgs) -> anyhow::Result<ExitCode> {
    let started = Instant::now();
    let folder = Folder::read(&args.sources, &args.documents)?;
    let findings = folder.check(args.documents.strict);
    if !args.detached_child {
        eprint!(
            "{}",
            bartizan_config::finding::render_all(&findings, text::paint())
        );
    }
    if has_errors(&findings) {
        return Err(Exit::error(
            FINDINGS,
            format!(
                "{} in the documents; nothing was started",
                bartizan_config::finding::summary(&findings)
            ),
        ));
    }
    if !place.is_occupied() {
        ports::must_be_free(&folder, args.gateway_address)?; // a mesh that runs already has them itself, and is told below
    }
    if args.detach && !args.detached_child {
        return detach::run(place, &args, started);
    }
    let lock = place.occupy()?;
    let progress = summary::Progress::new(&args);
    progress.say("making the sandbox");
    internal::log_to_file(&place.logs().join("supervisor.log"))?;
    let result = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?
        .block_on(mesh(place, args, &progress, started));
    clean(place);
    drop(lock);
    result
}

async fn mesh(
    place: &Place,
    args: UpArgs,
    progress: &summary::Progress,
    started: Instant,
) -> anyhow::Result<ExitCode> {
    let control = listen(&place.control_socket())?;
    let requests = listen(&place.supervisor_socket())?;
    let admin = TcpListener::bind(("127.0.0.1", args.admin_port)).with_context(|| {
        format!(
            "listen on 127.0.0.1:{} for the admin page: choose another with --admin-port",
            args.admin_port
        )
    })?;
    let token = children::token()?;
    let url = format!("http://{}/?token={token}", admin.local_addr()?);
    children::write_private(&place.admin_file(), url.as_bytes())?;

    let (sandbox, events) = Sandbox::start(Options {
        init_arguments: vec!["internal".to_owned(), internal::SANDBOX_INIT.to_owned()],
        scratch: place.scratch(),
        unlink: vec![place.run.clone()],
        masked: vec![place.state.clone(), place.run.clone()],
    })
    .await
    .map_err(host_problem)?;
    // Proxies have our own user id: what they must never read is taken out of their sight.
    for (folder, what) in [("ca", "the CA"), ("keys", "the issuers' keys")] {
        sandbox
            .hide(&place.state.join(folder))
            .await
            .with_context(|| format!("hide {what} from the sandbox"))?;
    }
    let (supervisor, supervising) = Supervisor::start(sandbox, events, supervisor_options(place, &args));
    let sources = args
        .sources
        .iter()
        .map(std::path::absolute)
        .collect::<Result<Vec<_>, _>>()
        .context("work out the folders' paths")?;
    let jwks_ca = args
        .jwks_ca
        .as_ref()
        .map(std::path::absolute)
        .transpose()
        .context("work out the path of the issuers' roots")?;
    let chosen = crate::folder::profile(args.documents.profile.as_deref())?;
    let start = ControlStart {
        sources,
        state_directory: place.state.clone(),
        run_directory: place.run.clone(),
        profile: chosen.profile,
        paths: chosen.paths,
        profile_is_chosen: chosen.is_named,
        trust_domain: args.documents.trust_domain.clone(),
        svid_ttl: args.svid_ttl,
        gateway_address: args.gateway_address,
        jwks_ca,
        strict: args.documents.strict,
        admin_token: token,
        control: 0,
        admin: 0,
    };
    let control_plane = children::keep_control(start, control, admin, place.logs().join("control.log"));
    let node = node::keep_connected(place.control_socket(), supervisor.clone());
    let (asked_down, mut down) = tokio::sync::watch::channel(false);
    let trust_domain = args.documents.trust_domain.clone();
    let requests = requests::serve(requests, supervisor.clone(), trust_domain, asked_down);

    tokio::pin!(supervising, control_plane, node, requests);
    let summary = summary::when_up(place, &args, progress, url, started);
    tokio::pin!(summary);
    let mut summed = false;
    let ended = crate::signals::ended();
    tokio::pin!(ended);
    let broken = loop {
        tokio::select! {
            result = &mut supervising => break result.err().map(anyhow::Error::from),
            result = &mut control_plane => break result.err(),
            () = &mut node => {}
            result = &mut requests => break result.err(),
            () = &mut summary, if !summed => summed = true,
            result = &mut ended => break result.err(),
            _ = down.wait_for(|down| *down) => break None,
        }
    };
    progress.say("ending: draining connections");
    supervisor.end().await;
    let again = crate::signals::ended();
    tokio::select! {
        _ = &mut supervising => {}
        _ = &mut control_plane => {}
        () = &mut node => {}
        _ = again => progress.say("ending at once"),
    }
    progress.end("ended");
    broken.map_or(Ok(ExitCode::SUCCESS), Err)
}

fn supervisor_options(place: &Place, args: &UpArgs) -> SupervisorOptions {
    let facts = Arc::new((place.clone(), args.svid_ttl, args.workers, args.drain));
    SupervisorOptions {
        run_directory: place.run.clone(),
        log_directory: place.logs(),
        proxy_arguments: ["bartizan", "internal", internal::PROXY]
            .map(str::to_owned)
            .to_vec(),
        proxy_environment: ["BARTIZAN_LOG", "RUST_BACKTRACE"]
            .iter()
            .filter_map(|name| Some(((*name).to_owned(), std::env::var(name).ok()?)))
            .collect(),
        bootstrap: Box::new(move |start| {
            let (place, ttl, workers, drain) = &*facts;
            serde_json::to_vec(&bootstrap(place, *ttl, *workers, *drain, start)).unwrap_or_default()
        }),
        drain: args.drain + Duration::from_secs(1),
    }
}

fn bootstrap(
    place: &Place,
    svid_ttl: Duration,
    workers: u32,
    drain: Duration,
    start: &ProxyStart<'_>,
) -> Bootstrap {
    let name = &start.pod.name;
    let file = |folder: std::path::PathBuf, file: &str| {
        folder
            .join(name.namespace.as_str())
            .join(name.name.as_str())
            .join(file)
    };
    let seconds = |duration: Duration| u32::try_from(duration.as_secs()).unwrap_or(u32::MAX);
    Bootstrap {
        workload: name.clone(),
        address: start.address.into(),
        control: place.control_socket(),
        admin: start.admin_socket.clone(),
        snapshot: file(place.snapshots(), "snapshot.json"),
        access_log: file(place.logs(), "access.jsonl"),
        secret: start.bootstrap_secret.map(OneTimeSecret::new),
        workers,
        svid_ttl_seconds: seconds(svid_ttl),
        drain_seconds: seconds(drain),
        descriptors: Descriptors {
            outbound: Some(start.descriptors.outbound),
            inbound: Some(start.descriptors.inbound),
            dns_udp: Some(start.descriptors.dns_udp),
            dns_tcp: Some(start.descriptors.dns_tcp),
            credentials: Some(start.descriptors.credentials),
            gateway: start
                .descriptors
                .gateway
                .iter()
                .filter_map(|(port, descriptor)| {
                    Some(GatewayDescriptor {
                        port: bartizan_types::Port::new(u32::from(*port)).ok()?,
                        descriptor: *descriptor,
                    })
                })
                .collect(),
        },
    }
}

fn listen(path: &std::path::Path) -> anyhow::Result<UnixListener> {
    std::fs::remove_file(path).ok();
    UnixListener::bind(path).with_context(|| format!("listen on {}", path.display()))
}

fn host_problem(error: SandboxError) -> anyhow::Error {
    match error {
        SandboxError::Host(problems) => {
            let mut text =
                String::from("this machine does not let bartizan make a sandbox; nothing was started\n");
            for problem in problems {
                text += &format!(
                    "  error[{}]: {}: {}\n    remedy: {}\n",
                    problem.code, problem.ability, problem.what, problem.remedy
                );
            }
            Exit::error(HOST, text.trim_end().to_owned())
        }
        other @ (SandboxError::Io { .. } | SandboxError::Refused(_) | SandboxError::Ended) => {
            anyhow::Error::from(other).context("make the sandbox")
        }
    }
}

/// Removes what a mesh leaves in the run directory.
fn clean(place: &Place) {
    if let Ok(entries) = std::fs::read_dir(&place.run) {
        for entry in entries.flatten() {
            std::fs::remove_file(entry.path()).ok();
        }
    }
    std::fs::remove_dir(&place.run).ok();
}
