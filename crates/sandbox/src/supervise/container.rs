//! One container: started, asked, started again, ended; and commands beside it.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use bartizan_types::{ContainerSpec, PodSpec, RestartPolicy};
use tokio::sync::{mpsc, oneshot, watch};

use super::back_off::BackOff;
use super::environment;
use super::logs::{Log, container_log};
use super::{Execution, Running, Shared, probe};
use crate::{ExecSpec, ExitStatus, ProcessId, SandboxError, VolumeMount};

/// The user id of a container that names none: high, and not root.
const DEFAULT_USER: u32 = 65_532;
/// A killed process is waited for this long.
const AFTER_KILL: Duration = Duration::from_secs(5);

/// Where something runs.
pub(super) struct Place<'a> {
    pub(super) pod: &'a PodSpec,
    pub(super) pod_key: String,
    pub(super) address: Ipv4Addr,
    pub(super) container: &'a ContainerSpec,
}

/// What a container's task says to its pod's.
#[derive(Debug)]
pub(super) enum Change {
    /// It runs.
    Started,
    /// Whether it takes requests.
    Ready(bool),
    /// What a person should know, or nothing any more.
    Message(Option<String>),
    /// It ended; it is started again or not.
    Ended { how: String, again: bool },
}

/// How a container's life is over.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Over {
    /// Ended well, and is not started again.
    Succeeded,
    /// Ended badly, and is not started again.
    Failed,
    /// It was told to end.
    Stopped,
}

/// Runs a container as its pod's policy says until it is over or `stop` turns true.
pub(super) async fn keep(
    shared: &Shared,
    place: &Place<'_>,
    restart: RestartPolicy,
    mut stop: watch::Receiver<bool>,
    mut say: impl FnMut(Change) + Send,
) -> Over {
    let mut back_off = BackOff::application();
    let log = Log::new(container_log(
        &shared.options.log_directory,
        &place.pod.name,
        place.container.name.as_str(),
    ));
    loop {
        if *stop.borrow() {
            return Over::Stopped;
        }
        let started = Instant::now();
        let (how, good) = match start(shared, place, &log).await {
            Ok(process) => {
                say(Change::Started);
                match watch_over(shared, place, process, &mut stop, &mut say).await {
                    Some(status) => (ended(status), status == ExitStatus::Code(0)),
                    None => return Over::Stopped,
                }
            }
            Err(error) => (error.to_string(), false),
        };
        let again = match restart {
            RestartPolicy::Always => true,
            RestartPolicy::OnFailure => !good,
            RestartPolicy::Never => false,
        };
        say(Change::Ended {
            how: how.clone(),
            again,
        });
        if !again {
            return if good { Over::Succeeded } else { Over::Failed };
        }
        let wait = back_off.after(started.elapsed());
        let text = format!(
            "container {}: {how}, started again in {:.1} s",
            place.container.name,
            wait.as_secs_f32()
        );
        log.line("supervisor", true, text.as_bytes()).await;
        say(Change::Message(Some(text)));
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            _ = stop.wait_for(|stop| *stop) => return Over::Stopped,
        }
    }
}

/// Until the process ends (its status) or is told to (`None`); probes are asked meanwhile.
async fn watch_over(
    shared: &Shared,
    place: &Place<'_>,
    process: ProcessId,
    stop: &mut watch::Receiver<bool>,
    say: &mut (impl FnMut(Change) + Send),
) -> Option<ExitStatus> {
    let mut exit = shared.exits.of(process);
    let grace = Duration::from_secs(place.pod.termination_grace_seconds.into());
    let unhealthy = {
        let probes = ask_probes(shared, place, say);
        tokio::select! {
            biased;
            status = &mut exit => return Some(status.unwrap_or(ExitStatus::Code(-1))),
            _ = stop.wait_for(|stop| *stop) => None,
            why = probes => Some(why),
        }
    };
    if let Some(why) = &unhealthy {
        say(Change::Ready(false));
        say(Change::Message(Some(format!(
            "container {}: {why}",
            place.container.name
        ))));
    }
    let status = end(shared, process, &mut exit, grace).await;
    unhealthy.is_some().then_some(status)
}

/// Asks the startup probe first, then readiness and liveness; returns why the container must be started again.
async fn ask_probes(shared: &Shared, place: &Place<'_>, say: &mut (impl FnMut(Change) + Send)) -> String {
    let container = place.container;
    if let Some(startup) = &container.startup {
        let mut failed = None;
        probe::ask_on(shared, place, startup, |found| {
            failed = found.err();
            false
        })
        .await;
        if let Some(why) = failed {
            return format!("startup probe: {why}");
        }
    }
    let readiness = async {
        match &container.readiness {
            None => {
                say(Change::Ready(true));
                std::future::pending::<()>().await;
            }
            Some(readiness) => {
                probe::ask_on(shared, place, readiness, |found| {
                    say(Change::Ready(found.is_ok()));
                    say(Change::Message(found.err().map(|why| {
                        format!("container {}: readiness probe: {why}", container.name)
                    })));
                    true
                })
                .await;
            }
        }
    };
    let liveness = async {
        let mut failed = String::new();
        match &container.liveness {
            None => std::future::pending::<()>().await,
            Some(liveness) => {
                probe::ask_on(shared, place, liveness, |found| match found {
                    Ok(()) => true,
                    Err(why) => {
                        failed = why;
                        false
                    }
                })
                .await;
            }
        }
        format!("liveness probe: {failed}")
    };
    tokio::select! {
        () = readiness => String::new(),
        why = liveness => why,
    }
}

/// SIGTERM, the grace, SIGKILL.
pub(super) async fn end(
    shared: &Shared,
    process: ProcessId,
    exit: &mut oneshot::Receiver<ExitStatus>,
    grace: Duration,
) -> ExitStatus {
    let signal = |signal: nix::sys::signal::Signal| shared.sandbox.signal(process, signal as i32);
    signal(nix::sys::signal::Signal::SIGTERM).await.ok();
    if let Ok(status) = tokio::time::timeout(grace, &mut *exit).await {
        return status.unwrap_or(ExitStatus::Code(-1));
    }
    signal(nix::sys::signal::Signal::SIGKILL).await.ok();
    match tokio::time::timeout(AFTER_KILL, exit).await {
        Ok(Ok(status)) => status,
        Ok(Err(_)) | Err(_) => ExitStatus::Signal(nix::sys::signal::Signal::SIGKILL as i32),
    }
}

async fn start(shared: &Shared, place: &Place<'_>, log: &Log) -> Result<ProcessId, SandboxError> {
    let pipe = |stream| {
        log.pipe(stream).map_err(|source| SandboxError::Io {
            what: format!("make a pipe for container {}", place.container.name),
            source,
        })
    };
    shared
        .declared
        .check(&place.container.read, &place.container.write)
        .map_err(SandboxError::Refused)?;
    let variables = environment::variables(place.container, &place.pod.hostname, place.address);
    let user = place.container.run_as_user.unwrap_or(DEFAULT_USER);
    let spec = crate::ContainerSpec {
        pod: place.pod_key.clone(),
        name: place.container.name.as_str().to_owned(),
        argv: expanded(&place.container.command, &variables),
        env: variables.into_iter().collect(),
        working_directory: directory(place),
        run_as_user: user,
        run_as_group: user,
        read: place.container.read.clone(),
        write: place.container.write.clone(),
        volumes: place
            .container
            .mounts
            .iter()
            .map(|mount| VolumeMount {
                volume: mount.volume.as_str().to_owned(),
                path: mount.path.clone(),
                sub_path: mount.sub_path.as_ref().map(|path| path.display().to_string()),
                read_only: mount.read_only,
            })
            .collect(),
        stdout: pipe("stdout")?,
        stderr: pipe("stderr")?,
    };
    shared.sandbox.spawn_container(spec).await
}

fn directory(place: &Place<'_>) -> PathBuf {
    place
        .container
        .working_directory
        .clone()
        .unwrap_or_else(|| PathBuf::from("/"))
}

fn expanded(command: &[String], variables: &BTreeMap<String, String>) -> Vec<String> {
    command
        .iter()
        .map(|word| environment::expand(word, variables))
        .collect()
}

/// `exit 1`, `signal 9`.
pub(super) fn ended(status: ExitStatus) -> String {
    match status {
        ExitStatus::Code(code) => format!("exit {code}"),
        ExitStatus::Signal(signal) => format!("signal {signal}"),
    }
}

/// Runs a command in the container without any input or output.
pub(super) async fn exec_quietly(
    shared: &Shared,
    place: &Place<'_>,
    command: &[String],
) -> Result<ExitStatus, SandboxError> {
    let null = || -> Result<OwnedFd, SandboxError> {
        std::fs::OpenOptions::new()
            .read(true)
            .write(true)
            .open("/dev/null")
            .map(OwnedFd::from)
            .map_err(|source| SandboxError::Io {
                what: "open `/dev/null`".to_owned(),
                source,
            })
    };
    let streams = [null()?, null()?, null()?];
    let process = exec(shared, place, command, &[], streams, false).await?;
    shared.exits.of(process).await.map_err(|_| SandboxError::Ended)
}

async fn exec(
    shared: &Shared,
    place: &Place<'_>,
    command: &[String],
    more: &[(String, String)],
    [stdin, stdout, stderr]: [OwnedFd; 3],
    terminal: bool,
) -> Result<ProcessId, SandboxError> {
    let mut variables = environment::variables(place.container, &place.pod.hostname, place.address);
    variables.extend(more.iter().cloned());
    let spec = ExecSpec {
        pod: place.pod_key.clone(),
        container: place.container.name.as_str().to_owned(),
        argv: command.to_vec(),
        env: variables.into_iter().collect(),
        working_directory: directory(place),
        stdin,
        stdout,
        stderr,
        terminal,
    };
    shared.sandbox.exec(spec).await
}

/// Carries an [`Execution`] to its end.
pub(super) async fn execute(
    shared: &Shared,
    pod: &PodSpec,
    address: Ipv4Addr,
    execution: Execution,
    reply: oneshot::Sender<Result<Running, SandboxError>>,
) {
    let wanted = execution.container.as_deref();
    let container = pod
        .containers
        .iter()
        .find(|container| wanted.is_none_or(|wanted| container.name.as_str() == wanted));
    let Some(container) = container else {
        let text = match wanted {
            Some(wanted) => format!("pod `{}` has no container `{wanted}`", pod.name),
            None => format!("pod `{}` has no container: it is a gateway", pod.name),
        };
        reply.send(Err(SandboxError::Refused(text))).ok();
        return;
    };
    let place = Place {
        pod,
        pod_key: pod.name.to_string(),
        address,
        container,
    };
    let started = exec(
        shared,
        &place,
        &execution.command,
        &execution.environment,
        execution.streams,
        execution.terminal,
    )
    .await;
    let process = match started {
        Ok(process) => process,
        Err(error) => {
            reply.send(Err(error)).ok();
            return;
        }
    };
    let (ended, receiver) = oneshot::channel();
    let (signals, mut received) = mpsc::channel(8);
    let mut exit = shared.exits.of(process);
    reply
        .send(Ok(Running {
            ended: receiver,
            signals,
        }))
        .ok();
    loop {
        tokio::select! {
            status = &mut exit => {
                ended.send(status.unwrap_or(ExitStatus::Code(-1))).ok();
                return;
            }
            signal = received.recv() => match signal {
                Some(signal) => {
                    shared.sandbox.signal(process, signal).await.ok();
                }
                // Whoever asked is gone: so is the process.
                None => {
                    end(shared, process, &mut exit, Duration::from_secs(1)).await;
                    return;
                }
            },
        }
    }
}
