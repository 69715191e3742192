//! Serves the supervisor's own socket: `run`, `exec`, `down`.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, bail};
use bartizan_sandbox::supervise::{Execution, Supervisor};
use bartizan_sandbox::{CONTAINER_BINARY, ExitStatus};
use bartizan_types::{
    ContainerSpec, Name, NamespacedName, PodRole, PodSpec, RestartPolicy, SpiffeId, TrustDomain,
};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::UnixStream;
use tokio::net::unix::OwnedWriteHalf;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::internal;
use crate::supervisor_socket::{Later, Process, Reply, Request, receive};

/// A client that says nothing for this long is dropped.
const FIRST_LINE: Duration = Duration::from_secs(5);
/// A workload of `run` must be ready within this time.
const RUN_READY: Duration = Duration::from_secs(30);
/// The container of a `run` pod.
const RUN_CONTAINER: &str = "run";

/// Serves for as long as it is driven.
///
/// # Errors
/// When the listener breaks.
pub(crate) async fn serve(
    listener: UnixListener,
    supervisor: Supervisor,
    trust_domain: String,
    down: watch::Sender<bool>,
) -> anyhow::Result<()> {
    listener.set_nonblocking(true)?;
    let listener = tokio::net::UnixListener::from_std(listener)?;
    let mut clients = JoinSet::new();
    let mut numbers = 0u32;
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let (stream, _) = accepted.context("accept on the supervisor's socket")?;
                numbers += 1;
                let (supervisor, trust_domain, down, number) = (supervisor.clone(), trust_domain.clone(), down.clone(), numbers);
                clients.spawn(async move {
                    if let Err(error) = client(stream, supervisor, trust_domain, down, number).await {
                        tracing::debug!(error = %format!("{error:#}"), "a client of the supervisor's socket");
                    }
                });
            }
            Some(_) = clients.join_next(), if !clients.is_empty() => {}
        }
    }
}

async fn client(
    stream: UnixStream,
    supervisor: Supervisor,
    trust_domain: String,
    down: watch::Sender<bool>,
    number: u32,
) -> anyhow::Result<()> {
    let stream = stream.into_std()?;
    let (stream, request, descriptors) = tokio::task::spawn_blocking(move || -> anyhow::Result<_> {
        stream.set_nonblocking(false)?;
        stream.set_read_timeout(Some(FIRST_LINE))?;
        let (request, descriptors) = receive(&stream)?;
        stream.set_read_timeout(None)?;
        stream.set_nonblocking(true)?;
        Ok((stream, request, descriptors))
    })
    .await??;
    let (read, mut write) = UnixStream::from_std(stream)?.into_split();
    let mut lines = BufReader::new(read).lines();
    let streams: Option<[OwnedFd; 3]> = descriptors.try_into().ok();
    match request {
        Request::Down => {
            down.send_replace(true);
            // The connection's end tells the client when everything is gone.
            std::future::pending::<()>().await;
        }
        Request::Exec {
            workload,
            container,
            process,
        } => {
            let result = match find(&supervisor, &workload) {
                Ok(pod) => {
                    execute(
                        &supervisor,
                        &pod,
                        container,
                        process,
                        streams,
                        &mut lines,
                        &mut write,
                    )
                    .await
                }
                Err(error) => Err(error),
            };
            if let Err(error) = result {
                say(&mut write, &Reply::Refused(format!("{error:#}"))).await?;
            }
        }
        Request::Run {
            namespace,
            service_account,
            labels,
            write: writable,
            process,
        } => {
            let spec = run_pod(
                &trust_domain,
                &namespace,
                &service_account,
                labels,
                &process,
                writable,
                number,
            );
            let result = match spec {
                Ok(spec) => {
                    let name = spec.name.clone();
                    let container = Some(RUN_CONTAINER.to_owned());
                    let result = match ready(&supervisor, spec).await {
                        Ok(()) => {
                            execute(
                                &supervisor,
                                &name,
                                container,
                                process,
                                streams,
                                &mut lines,
                                &mut write,
                            )
                            .await
                        }
                        Err(error) => Err(error),
                    };
                    supervisor.end_extra(name).await;
                    result
                }
                Err(error) => Err(error),
            };
            if let Err(error) = result {
                say(&mut write, &Reply::Refused(format!("{error:#}"))).await?;
            }
        }
    }
    Ok(())
}

/// Starts the pod of a `run` and waits until it is ready.
async fn ready(supervisor: &Supervisor, spec: PodSpec) -> anyhow::Result<()> {
    let name = spec.name.clone();
    supervisor.run_extra(spec).await?;
    let mut state = supervisor.state();
    // The container of such a pod does nothing: when it cannot be started, it never can.
    let cannot_start = |pod: &bartizan_types::PodReport| {
        let message = pod.message.clone()?;
        let (what, _) = message.split_once(", started again in ")?;
        Some(what.trim_start_matches("container run: ").to_owned())
    };
    let waited = state.wait_for(|state| {
        state
            .pods
            .get(&name)
            .is_some_and(|pod| pod.ready || cannot_start(pod).is_some())
    });
    match tokio::time::timeout(RUN_READY, waited).await {
        Ok(result) => match result?.pods.get(&name) {
            Some(pod) if !pod.ready => {
                bail!(
                    "the workload cannot be started: {}",
                    cannot_start(pod).unwrap_or_default()
                )
            }
            _ => Ok(()),
        },
        Err(_) => {
            let why = supervisor
                .state()
                .borrow()
                .pods
                .get(&name)
                .and_then(|pod| pod.message.clone())
                .unwrap_or_else(|| "its proxy does not serve; does the namespace exist?".to_owned());
            bail!("the workload is not ready after {} s: {why}", RUN_READY.as_secs())
        }
    }
}

async fn execute(
    supervisor: &Supervisor,
    pod: &NamespacedName,
    container: Option<String>,
    process: Process,
    streams: Option<[OwnedFd; 3]>,
    lines: &mut tokio::io::Lines<BufReader<tokio::net::unix::OwnedReadHalf>>,
    write: &mut OwnedWriteHalf,
) -> anyhow::Result<()> {
    let streams = streams.context("three descriptors are expected with the request")?;
    let mut running = supervisor
        .execute(Execution {
            pod: pod.clone(),
            container,
            command: process.command,
            environment: process.environment,
            streams,
            terminal: process.terminal,
        })
        .await?;
    say(write, &Reply::Started(pod.to_string())).await?;
    loop {
        tokio::select! {
            ended = &mut running.ended => {
                let code = match ended.unwrap_or(ExitStatus::Code(1)) {
                    ExitStatus::Code(code) => code,
                    ExitStatus::Signal(signal) => 128 + signal,
                };
                return say(write, &Reply::Ended(code)).await;
            }
            line = lines.next_line() => match line {
                Ok(Some(line)) => {
                    if let Ok(Later::Signal(signal)) = serde_json::from_str(&line) {
                        running.signals.send(signal).await.ok();
                    }
                }
                // The client is gone; dropping `running` ends the process.
                Ok(None) | Err(_) => return Ok(()),
            },
        }
    }
}

async fn say(write: &mut OwnedWriteHalf, reply: &Reply) -> anyhow::Result<()> {
    let mut line = serde_json::to_vec(reply)?;
    line.push(b'\n');
    write.write_all(&line).await.context("answer a client")
}

/// A pod by `namespace/pod`, `namespace/controller`, or either name alone where only one has it.
fn find(supervisor: &Supervisor, text: &str) -> anyhow::Result<NamespacedName> {
    let state = supervisor.state();
    let state = state.borrow();
    let (namespace, name) = match text.split_once('/') {
        Some((namespace, name)) => (Some(namespace), name),
        None => (None, text),
    };
    let fits = |pod: &&bartizan_types::PodReport, by_pod: bool| {
        namespace.is_none_or(|namespace| pod.spec.name.namespace.as_str() == namespace)
            && name
                == if by_pod {
                    pod.spec.name.name.as_str()
                } else {
                    pod.spec.workload.as_str()
                }
    };
    let exact: Vec<&NamespacedName> = state
        .pods
        .values()
        .filter(|pod| fits(pod, true))
        .map(|pod| &pod.spec.name)
        .collect();
    if let [one] = exact[..] {
        return Ok(one.clone());
    }
    let mut owned: Vec<&bartizan_types::PodReport> =
        state.pods.values().filter(|pod| fits(pod, false)).collect();
    owned.sort_by_key(|pod| !pod.ready);
    match (owned.first(), exact.len()) {
        (Some(pod), 0)
            if owned
                .iter()
                .all(|other| other.spec.name.namespace == pod.spec.name.namespace) =>
        {
            Ok(pod.spec.name.clone())
        }
        (None, 0) => bail!("no workload `{text}` runs; `bartizan status` lists them"),
        _ => bail!("`{text}` is the name of workloads in several namespaces: write NAMESPACE/{name}"),
    }
}

fn run_pod(
    trust_domain: &str,
    namespace: &str,
    service_account: &str,
    labels: Vec<(String, String)>,
    process: &Process,
    write: Vec<PathBuf>,
    number: u32,
) -> anyhow::Result<PodSpec> {
    let namespace = Name::parse(namespace).with_context(|| format!("namespace `{namespace}`"))?;
    let service_account =
        Name::parse(service_account).with_context(|| format!("service account `{service_account}`"))?;
    let name = format!("run-{service_account}-{number}");
    let labels: BTreeMap<String, String> = labels
        .into_iter()
        .chain([("bartizan.dev/run".to_owned(), "true".to_owned())])
        .collect();
    let directory = process.directory.clone();
    Ok(PodSpec {
        identity: SpiffeId::workload(&TrustDomain::parse(trust_domain)?, &namespace, &service_account),
        name: NamespacedName::new(namespace, Name::parse(&name)?),
        workload: Name::parse(&format!("run-{service_account}"))?,
        service_account,
        labels,
        annotations: BTreeMap::new(),
        hostname: name,
        subdomain: None,
        role: PodRole::Application,
        init_containers: Vec::new(),
        containers: vec![ContainerSpec {
            name: Name::parse(RUN_CONTAINER)?,
            command: vec![
                CONTAINER_BINARY.to_owned(),
                "internal".to_owned(),
                internal::PAUSE.to_owned(),
            ],
            working_directory: directory.clone(),
            environment: Vec::new(),
            run_as_user: None,
            mounts: Vec::new(),
            read: directory.into_iter().collect(),
            write,
            ports: Vec::new(),
            readiness: None,
            liveness: None,
            startup: None,
        }],
        volumes: Vec::new(),
        restart: RestartPolicy::Always,
        termination_grace_seconds: 1,
        template_hash: String::new(),
    })
}
