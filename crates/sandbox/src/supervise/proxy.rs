//! A pod's proxy: started with the pod's sockets, asked whether it serves, started again at once when it ends.
//!
//! The supervisor keeps the listening sockets and a memory file with the proxy's credentials, and gives both to each
//! successor: connections wait in the sockets' backlog meanwhile, and no key touches a disk.

use std::io::{Seek as _, Write as _};
use std::net::{Ipv4Addr, TcpListener};
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use bartizan_types::{PodSpec, Secret};
use nix::sys::memfd::{MFdFlags, memfd_create};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::sync::watch;

use super::back_off::BackOff;
use super::container::{end, ended};
use super::logs::{Log, container_log};
use super::{Descriptors, ProxyStart, Shared};
use crate::{PodSockets, ProxySpec, SandboxError};

/// Between two questions whether a starting proxy serves.
const ASK_EVERY: Duration = Duration::from_millis(10);
/// Between two questions whether a serving proxy still does.
const ASK_AGAIN: Duration = Duration::from_secs(2);
/// One question takes at most this long.
const ASK_TIMEOUT: Duration = Duration::from_secs(2);
/// The length of a one-time secret.
const SECRET_BYTES: usize = 32;

/// What outlives each proxy of a pod.
pub(super) struct Kept {
    sockets: PodSockets,
    credentials: OwnedFd,
    gateway: Vec<(u16, TcpListener)>,
    admin_socket: PathBuf,
}

/// What a proxy's task says to its pod's.
#[derive(Debug)]
pub(super) enum Change {
    /// It was started.
    Started,
    /// Whether it serves.
    Ready(bool),
    /// It ended by itself.
    Ended(String),
}

impl Kept {
    /// # Errors
    /// When the memory file cannot be made, or a gateway's port is taken on the host.
    pub(super) fn new(shared: &Shared, pod: &PodSpec, sockets: PodSockets) -> Result<Self, SandboxError> {
        let mut gateway = Vec::new();
        if let bartizan_types::PodRole::Gateway { listen, .. } = &pod.role {
            for listen in listen {
                let listener = TcpListener::bind(listen.address)
                    .and_then(|listener| listener.set_nonblocking(true).map(|()| listener))
                    .map_err(|source| SandboxError::Io {
                        what: format!(
                            "listen on {} for the gateway's port {}",
                            listen.address, listen.port
                        ),
                        source,
                    })?;
                gateway.push((listen.port.get(), listener));
            }
        }
        Ok(Self {
            sockets,
            credentials: memory_file(c"bartizan-credentials", &[])?,
            gateway,
            admin_socket: shared.options.run_directory.join(pod.proxy_socket_name()),
        })
    }

    /// Writes into a gateway's role where the host really listens: port 0 is any free one.
    pub(super) fn note_addresses(&self, role: &mut bartizan_types::PodRole) {
        let bartizan_types::PodRole::Gateway { listen, .. } = role else {
            return;
        };
        for (listen, (_, listener)) in listen.iter_mut().zip(&self.gateway) {
            if let Ok(address) = listener.local_addr() {
                listen.address = address;
            }
        }
    }

    /// Asks the proxy's own endpoint; `Ok` when it serves.
    pub(super) async fn ask(&self, method: &str, path: &str) -> Result<(), String> {
        let asked = async {
            let mut stream = UnixStream::connect(&self.admin_socket).await?;
            let request = format!(
                "{method} {path} HTTP/1.1\r\nHost: proxy\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
            );
            stream.write_all(request.as_bytes()).await?;
            let mut answer = Vec::new();
            stream.take(64 * 1024).read_to_end(&mut answer).await?;
            Ok::<_, std::io::Error>(answer)
        };
        let answer = match tokio::time::timeout(ASK_TIMEOUT, asked).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => return Err(error.to_string()),
            Err(_) => return Err("no answer".to_owned()),
        };
        let text = String::from_utf8_lossy(&answer);
        if text.starts_with("HTTP/1.1 200") || text.starts_with("HTTP/1.0 200") {
            Ok(())
        } else {
            Err(text.lines().last().unwrap_or_default().to_owned())
        }
    }
}

/// Runs the pod's proxy until `stop` turns true, then lets it drain.
pub(super) async fn keep(
    shared: &Shared,
    pod: &PodSpec,
    address: Ipv4Addr,
    kept: &Kept,
    mut stop: watch::Receiver<bool>,
    mut say: impl FnMut(Change) + Send,
) {
    let mut back_off = BackOff::proxy();
    let log = Log::new(container_log(&shared.options.log_directory, &pod.name, "proxy"));
    loop {
        let started = Instant::now();
        let how = match start(shared, pod, address, kept, &log).await {
            Ok(process) => {
                say(Change::Started);
                let mut exit = shared.exits.of(process);
                let serving = watch_serving(shared, pod, kept, &mut say);
                let by_itself = tokio::select! {
                    biased;
                    status = &mut exit => Some(ended(status.unwrap_or(crate::ExitStatus::Code(-1)))),
                    _ = stop.wait_for(|stop| *stop) => None,
                    () = serving => None,
                };
                let Some(how) = by_itself else {
                    end(shared, process, &mut exit, shared.options.drain).await;
                    return;
                };
                how
            }
            Err(error) => error.to_string(),
        };
        let wait = back_off.after(started.elapsed());
        log.line(
            "supervisor",
            true,
            format!("proxy: {how}, started again in {} ms", wait.as_millis()).as_bytes(),
        )
        .await;
        say(Change::Ended(how));
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            _ = stop.wait_for(|stop| *stop) => return,
        }
    }
}

/// Never returns.
async fn watch_serving(shared: &Shared, pod: &PodSpec, kept: &Kept, say: &mut (impl FnMut(Change) + Send)) {
    let mut known = false;
    loop {
        let serves = kept.ask("GET", "/healthz").await.is_ok();
        if serves {
            shared.publisher.vouch_used(&pod.name);
        }
        if serves != known {
            known = serves;
            say(Change::Ready(serves));
        }
        tokio::time::sleep(if known { ASK_AGAIN } else { ASK_EVERY }).await;
    }
}

async fn start(
    shared: &Shared,
    pod: &PodSpec,
    address: Ipv4Addr,
    kept: &Kept,
    log: &Log,
) -> Result<crate::ProcessId, SandboxError> {
    let io = |what: &'static str| {
        move |source: std::io::Error| SandboxError::Io {
            what: what.to_owned(),
            source,
        }
    };
    std::fs::remove_file(&kept.admin_socket).ok();
    let clone = |descriptor: std::os::fd::BorrowedFd<'_>| descriptor.try_clone_to_owned();
    let mut descriptors = Descriptors {
        bootstrap: 3,
        outbound: 4,
        inbound: 5,
        dns_udp: 6,
        dns_tcp: 7,
        credentials: 8,
        gateway: Vec::new(),
    };
    let mut inherited = vec![
        (
            descriptors.outbound,
            clone(kept.sockets.outbound.as_fd()).map_err(io("copy a socket"))?,
        ),
        (
            descriptors.inbound,
            clone(kept.sockets.inbound.as_fd()).map_err(io("copy a socket"))?,
        ),
        (
            descriptors.dns_udp,
            clone(kept.sockets.dns_udp.as_fd()).map_err(io("copy a socket"))?,
        ),
        (
            descriptors.dns_tcp,
            clone(kept.sockets.dns_tcp.as_fd()).map_err(io("copy a socket"))?,
        ),
        (
            descriptors.credentials,
            clone(kept.credentials.as_fd()).map_err(io("copy the credentials' file"))?,
        ),
    ];
    for (number, (port, listener)) in (9..).zip(&kept.gateway) {
        descriptors.gateway.push((*port, number));
        inherited.push((number, clone(listener.as_fd()).map_err(io("copy a socket"))?));
    }
    let has_credentials = nix::sys::stat::fstat(&kept.credentials).is_ok_and(|stat| stat.st_size > 0);
    let secret = if has_credentials {
        None
    } else {
        Some(one_time_secret()?)
    };
    if let Some(secret) = &secret {
        shared.publisher.vouch(&pod.name, secret.clone());
    }
    let bootstrap = (shared.options.bootstrap)(&ProxyStart {
        pod,
        address,
        admin_socket: kept.admin_socket.clone(),
        bootstrap_secret: secret.as_ref().map(|secret| secret.expose().as_slice()),
        descriptors,
    });
    inherited.push((3, memory_file(c"bartizan-bootstrap", &bootstrap)?));
    let spec = ProxySpec {
        pod: pod.name.to_string(),
        argv: shared.options.proxy_arguments.clone(),
        env: shared.options.proxy_environment.clone(),
        descriptors: inherited,
        stdout: log.pipe("stdout").map_err(io("make a pipe for the proxy"))?,
        stderr: log.pipe("stderr").map_err(io("make a pipe for the proxy"))?,
    };
    shared.sandbox.spawn_proxy(spec).await
}

fn memory_file(name: &std::ffi::CStr, content: &[u8]) -> Result<OwnedFd, SandboxError> {
    let io = |source: std::io::Error| SandboxError::Io {
        what: "make a memory file for a proxy".to_owned(),
        source,
    };
    let descriptor = memfd_create(name, MFdFlags::MFD_CLOEXEC).map_err(|error| io(error.into()))?;
    let mut file = std::fs::File::from(descriptor);
    file.write_all(content).map_err(io)?;
    file.rewind().map_err(io)?;
    Ok(file.into())
}

fn one_time_secret() -> Result<Secret<Vec<u8>>, SandboxError> {
    let mut bytes = vec![0; SECRET_BYTES];
    std::fs::File::open("/dev/urandom")
        .and_then(|mut file| std::io::Read::read_exact(&mut file, &mut bytes))
        .map_err(|source| SandboxError::Io {
            what: "read `/dev/urandom`".to_owned(),
            source,
        })?;
    Ok(Secret::new(bytes))
}
