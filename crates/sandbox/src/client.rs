//! The supervisor's side: starts the sandbox's first process, asks it for things, hears about exits.

use std::collections::HashMap;
use std::net::SocketAddrV4;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nix::sys::socket::{Shutdown, shutdown};
use tokio::sync::{Semaphore, mpsc, oneshot};

use crate::channel;
use crate::error::SandboxError;
use crate::message::{Answer, Ask, Command, ContainerAsk, Refusal, Request, Say};
use crate::spec::{
    ContainerSpec, ExecSpec, ExitStatus, Options, PodCounters, PodSockets, PodSpec, ProcessId, ProxySpec,
    VolumeFile,
};
use crate::sys;

/// Something that happened without being asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// A process that was started has ended.
    Exited {
        /// Which.
        process: ProcessId,
        /// How.
        status: ExitStatus,
    },
    /// The sandbox itself has ended, and with it everything inside; nothing follows.
    Ended,
}

/// A running sandbox. Clones share it; when the last is dropped, everything inside ends.
#[derive(Debug, Clone)]
pub struct Sandbox {
    inner: Arc<Inner>,
}

/// Closes the socket's traffic when the last `Sandbox` goes, whoever else still holds the descriptor.
#[derive(Debug)]
struct Inner {
    shared: Arc<Shared>,
}

/// The most requests on their way at once. The sandbox takes one at a time; descriptors in flight are limited by the kernel.
const MOST_REQUESTS: usize = 8;

#[derive(Debug)]
struct Shared {
    socket: OwnedFd,
    turns: Semaphore,
    /// Protects the numbers of requests and who waits for them.
    waiting: Mutex<Waiting>,
}

#[derive(Debug, Default)]
struct Waiting {
    next: u64,
    ended: bool,
    callers: HashMap<u64, oneshot::Sender<Reply>>,
}

type Reply = Result<(Answer, Vec<OwnedFd>), Refusal>;

impl Sandbox {
    /// Starts the sandbox and waits until it is ready.
    ///
    /// # Errors
    /// [`SandboxError::Host`] when the host forbids something, with the remedies; [`SandboxError::Io`] when the first
    /// process cannot be started.
    pub async fn start(options: Options) -> Result<(Self, mpsc::UnboundedReceiver<Event>), SandboxError> {
        let (ours, theirs) = channel::pair().map_err(|e| SandboxError::io("make the control socket", e))?;
        let mut command = std::process::Command::new("/proc/self/exe");
        command
            .arg0("bartizan")
            .args(&options.init_arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        let child = sys::spawn_inheriting(&mut command, theirs.as_fd())
            .map_err(|e| SandboxError::io("start the sandbox's first process", e))?;
        drop(theirs);

        let shared = Arc::new(Shared {
            socket: ours,
            turns: Semaphore::new(MOST_REQUESTS),
            waiting: Mutex::default(),
        });
        let (events, receiver) = mpsc::unbounded_channel();
        let reader = Arc::clone(&shared);
        std::thread::Builder::new()
            .name("sandbox-events".into())
            .spawn(move || reader.read(child, &events))
            .map_err(|e| SandboxError::io("start the thread for the sandbox's events", e))?;
        let sandbox = Self {
            inner: Arc::new(Inner { shared }),
        };
        let Options {
            scratch,
            unlink,
            masked,
            ..
        } = options;
        sandbox
            .ask(
                Ask::Start {
                    scratch,
                    unlink,
                    masked,
                },
                &[],
            )
            .await?;
        Ok((sandbox, receiver))
    }

    /// Makes a directory look empty for everything inside, proxies included: the certificate authority's keys. A missing
    /// directory is made, with mode 0700. Outside nothing changes.
    pub async fn hide(&self, directory: &Path) -> Result<(), SandboxError> {
        let directory = directory.to_owned();
        self.done(Ask::Hide { directory }).await
    }

    /// Makes a pod: network, rules, shared namespaces, volumes.
    pub async fn create_pod(&self, spec: PodSpec) -> Result<PodSockets, SandboxError> {
        let (_, sockets) = self.ask(Ask::CreatePod(spec), &[]).await?;
        let [outbound, inbound, dns_tcp, dns_udp] =
            <[OwnedFd; 4]>::try_from(sockets).map_err(|_| unexpected("create a pod"))?;
        Ok(PodSockets {
            outbound: outbound.into(),
            inbound: inbound.into(),
            dns_tcp: dns_tcp.into(),
            dns_udp: dns_udp.into(),
        })
    }

    /// Starts a proxy in a pod's network. Returns when its program runs.
    ///
    /// Not cancel safe, like all that start something: the process may run although nobody learned its number.
    pub async fn spawn_proxy(&self, spec: ProxySpec) -> Result<ProcessId, SandboxError> {
        let ProxySpec {
            pod,
            argv,
            env,
            descriptors,
            stdout,
            stderr,
        } = spec;
        let numbers = descriptors.iter().map(|(number, _)| *number).collect();
        let mut passed = vec![stdout.as_fd(), stderr.as_fd()];
        passed.extend(descriptors.iter().map(|(_, descriptor)| descriptor.as_fd()));
        self.process(
            Ask::Proxy {
                pod,
                argv,
                env,
                numbers,
            },
            &passed,
        )
        .await
    }

    /// Starts a container in a pod. Returns when its program runs.
    pub async fn spawn_container(&self, spec: ContainerSpec) -> Result<ProcessId, SandboxError> {
        let ask = ContainerAsk {
            pod: spec.pod,
            name: spec.name,
            command: Command {
                argv: spec.argv,
                env: spec.env,
                working_directory: spec.working_directory,
            },
            run_as_user: spec.run_as_user,
            run_as_group: spec.run_as_group,
            read: spec.read,
            write: spec.write,
            volumes: spec.volumes,
        };
        self.process(Ask::Container(ask), &[spec.stdout.as_fd(), spec.stderr.as_fd()])
            .await
    }

    /// Starts a command in a running container.
    pub async fn exec(&self, spec: ExecSpec) -> Result<ProcessId, SandboxError> {
        let ask = Ask::Exec {
            pod: spec.pod,
            container: spec.container,
            command: Command {
                argv: spec.argv,
                env: spec.env,
                working_directory: spec.working_directory,
            },
            terminal: spec.terminal,
        };
        self.process(
            ask,
            &[spec.stdin.as_fd(), spec.stdout.as_fd(), spec.stderr.as_fd()],
        )
        .await
    }

    /// Connects from inside a pod, past its proxy and policy: for probes.
    ///
    /// # Errors
    /// [`SandboxError::Io`] with the connection's own error, or `TimedOut` after `timeout`.
    pub async fn open_socket(
        &self,
        pod: &str,
        to: SocketAddrV4,
        timeout: Duration,
    ) -> Result<tokio::net::TcpStream, SandboxError> {
        let failed =
            |error: std::io::Error| SandboxError::io(format!("connect to {to} in pod `{pod}`"), error);
        let (_, sockets) = self
            .ask(
                Ask::OpenSocket {
                    pod: pod.to_owned(),
                    to,
                },
                &[],
            )
            .await?;
        let socket = sockets
            .into_iter()
            .next()
            .ok_or_else(|| unexpected("open a socket"))?;
        let stream = tokio::net::TcpStream::from_std(socket.into()).map_err(failed)?;
        tokio::time::timeout(timeout, stream.writable())
            .await
            .map_err(|_| failed(std::io::ErrorKind::TimedOut.into()))?
            .map_err(failed)?;
        match stream.take_error().map_err(failed)? {
            Some(error) => Err(failed(error)),
            None => Ok(stream),
        }
    }

    /// Sends a signal to a process that was started here.
    pub async fn signal(&self, process: ProcessId, signal: i32) -> Result<(), SandboxError> {
        self.done(Ask::Signal { process, signal }).await
    }

    /// Kills every application process of a pod; its network, volumes and proxy stay, and containers can be started again.
    pub async fn kill_pod(&self, pod: &str) -> Result<(), SandboxError> {
        self.done(Ask::KillPod { pod: pod.to_owned() }).await
    }

    /// Ends a pod with everything in it: processes, proxy, namespaces, interface, volumes.
    pub async fn delete_pod(&self, pod: &str) -> Result<(), SandboxError> {
        self.done(Ask::DeletePod { pod: pod.to_owned() }).await
    }

    /// What a pod's rules have dropped so far.
    pub async fn pod_counters(&self, pod: &str) -> Result<PodCounters, SandboxError> {
        match self.ask(Ask::Counters { pod: pod.to_owned() }, &[]).await? {
            (Answer::Counters(counters), _) => Ok(counters),
            (Answer::Done | Answer::Process(_), _) => Err(unexpected("read counters")),
        }
    }

    /// Replaces the files of a [`crate::VolumeContent::Files`] volume; files that are not named any more go.
    /// Each file changes at once; running containers see it.
    pub async fn write_volume(
        &self,
        pod: &str,
        volume: &str,
        files: Vec<VolumeFile>,
    ) -> Result<(), SandboxError> {
        self.done(Ask::WriteVolume {
            pod: pod.to_owned(),
            volume: volume.to_owned(),
            files,
        })
        .await
    }

    /// Ends everything inside now, as dropping the last clone does. [`Event::Ended`] follows when it is gone.
    pub fn kill(&self) {
        // A socket that is already shut down is what was wanted.
        let _ = shutdown(self.inner.shared.socket.as_raw_fd(), Shutdown::Both);
    }

    async fn done(&self, ask: Ask) -> Result<(), SandboxError> {
        self.ask(ask, &[]).await.map(|_| ())
    }

    async fn process(&self, ask: Ask, descriptors: &[BorrowedFd<'_>]) -> Result<ProcessId, SandboxError> {
        match self.ask(ask, descriptors).await? {
            (Answer::Process(process), _) => Ok(process),
            (Answer::Done | Answer::Counters(_), _) => Err(unexpected("start a process")),
        }
    }

    async fn ask(
        &self,
        ask: Ask,
        descriptors: &[BorrowedFd<'_>],
    ) -> Result<(Answer, Vec<OwnedFd>), SandboxError> {
        let shared = &self.inner.shared;
        let _turn = shared.turns.acquire().await.map_err(|_| SandboxError::Ended)?;
        let answer = shared.submit(ask, descriptors)?;
        match answer.await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(Refusal::Text(text))) => Err(SandboxError::Refused(text)),
            Ok(Err(Refusal::Host(problems))) => Err(SandboxError::Host(problems)),
            Err(_) => Err(SandboxError::Ended),
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        let _ = shutdown(self.shared.socket.as_raw_fd(), Shutdown::Both);
    }
}

impl Shared {
    fn submit(
        &self,
        ask: Ask,
        descriptors: &[BorrowedFd<'_>],
    ) -> Result<oneshot::Receiver<Reply>, SandboxError> {
        let failed = |error: std::io::Error| SandboxError::io("ask the sandbox", error);
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.ended {
            return Err(SandboxError::Ended);
        }
        let id = waiting.next;
        let body = Request::new(id, ask).encode().map_err(failed)?;
        let file = channel::memory_file(&body).map_err(failed)?;
        let mut passed = vec![file.as_fd()];
        passed.extend_from_slice(descriptors);
        let (sender, receiver) = oneshot::channel();
        waiting.next += 1;
        waiting.callers.insert(id, sender);
        if let Err(error) = channel::send(self.socket.as_fd(), b"R", &passed) {
            waiting.callers.remove(&id);
            return Err(failed(error));
        }
        Ok(receiver)
    }

    /// Reads until the sandbox has ended, then collects its first process.
    fn read(&self, mut child: Child, events: &mpsc::UnboundedSender<Event>) {
        loop {
            let (body, descriptors) = match channel::receive(self.socket.as_fd()) {
                Ok(Some(message)) => message,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                Ok(None) | Err(_) => break,
            };
            match serde_json::from_slice(&body) {
                Ok(Say::Answer { id, answer }) => {
                    let caller = self
                        .waiting
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .callers
                        .remove(&id);
                    if let Some(caller) = caller {
                        let _ = caller.send(answer.map(|answer| (answer, descriptors)));
                    }
                }
                Ok(Say::Exited { process, status }) => {
                    let _ = events.send(Event::Exited { process, status });
                }
                Err(error) => tracing::error!("the sandbox said something that cannot be read: {error}"),
            }
        }
        let _ = shutdown(self.socket.as_raw_fd(), Shutdown::Both);
        {
            let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            waiting.ended = true;
            waiting.callers.clear();
        }
        let _ = child.wait();
        let _ = events.send(Event::Ended);
    }
}

fn unexpected(what: &str) -> SandboxError {
    SandboxError::Refused(format!("{what}: the sandbox gave another kind of answer"))
}
