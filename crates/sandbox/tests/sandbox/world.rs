//! What scenes are made of: a sandbox with pods, containers that attack, and what they print.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use bartizan_sandbox::{
    CONTAINER_BINARY, CONTAINER_PATH, ContainerSpec, Event, ExitStatus, Options, PodSockets, PodSpec,
    ProcessId, Sandbox, Volume, hosts, resolv_conf,
};
use tokio::sync::mpsc::UnboundedReceiver;

/// How long anything may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// A sandbox, its pods' sockets, and who has ended.
pub(crate) struct World {
    pub(crate) sandbox: Sandbox,
    pub(crate) events: UnboundedReceiver<Event>,
    pub(crate) ended: HashMap<ProcessId, ExitStatus>,
    pub(crate) state: tempfile::TempDir,
    pub(crate) sockets: HashMap<String, PodSockets>,
}

pub(crate) fn pod(name: &str, last: u8, volumes: Vec<Volume>) -> PodSpec {
    let address = Ipv4Addr::new(10, 66, 0, last);
    PodSpec {
        name: name.into(),
        address,
        hostname: name.into(),
        resolv_conf: resolv_conf("shop"),
        hosts: hosts(address, name, None),
        volumes,
    }
}

pub(crate) fn container(pod: &str, name: &str, arguments: &[&str], stdout: OwnedFd) -> ContainerSpec {
    let mut argv = vec![CONTAINER_BINARY.to_owned(), "attack".to_owned()];
    argv.extend(arguments.iter().map(|text| (*text).to_owned()));
    ContainerSpec {
        pod: pod.into(),
        name: name.into(),
        argv,
        env: vec![("PATH".into(), CONTAINER_PATH.into())],
        working_directory: "/".into(),
        run_as_user: 65532,
        run_as_group: 65532,
        read: Vec::new(),
        write: Vec::new(),
        volumes: Vec::new(),
        stderr: stdout.try_clone().unwrap(),
        stdout,
    }
}

/// A pipe: the end to read from, and the end for a process.
pub(crate) fn output() -> (File, OwnedFd) {
    let (reader, writer) = std::io::pipe().unwrap();
    (OwnedFd::from(reader).into(), writer.into())
}

/// Reads on a thread, as pipes block.
pub(crate) async fn text_of(mut reader: File) -> String {
    let read = tokio::task::spawn_blocking(move || {
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        text
    });
    tokio::time::timeout(PATIENCE, read)
        .await
        .expect("output ends in time")
        .unwrap()
        .trim()
        .to_owned()
}

pub(crate) async fn first_line(mut reader: File) -> (String, File) {
    let read = tokio::task::spawn_blocking(move || {
        let mut line = Vec::new();
        let mut byte = [0];
        while reader.read(&mut byte).unwrap() == 1 && byte[0] != b'\n' {
            line.push(byte[0]);
        }
        (String::from_utf8(line).unwrap(), reader)
    });
    tokio::time::timeout(PATIENCE, read)
        .await
        .expect("a line comes in time")
        .unwrap()
}

impl World {
    pub(crate) async fn new(pods: &[(&str, u8)]) -> Self {
        let state = tempfile::tempdir().unwrap();
        let (sandbox, events) = Sandbox::start(options(state.path())).await.unwrap();
        let mut world = Self {
            sandbox,
            events,
            ended: HashMap::new(),
            state,
            sockets: HashMap::new(),
        };
        for (name, last) in pods {
            let sockets = world
                .sandbox
                .create_pod(pod(name, *last, Vec::new()))
                .await
                .unwrap();
            world.sockets.insert((*name).into(), sockets);
        }
        world
    }

    pub(crate) async fn attack(&mut self, pod: &str, arguments: &[&str]) -> String {
        let (reader, writer) = output();
        self.run(container(pod, "attacker", arguments, writer), reader)
            .await
    }

    /// Runs a container to its end and returns what it printed.
    pub(crate) async fn run(&mut self, spec: ContainerSpec, reader: File) -> String {
        let process = self.sandbox.spawn_container(spec).await.unwrap();
        let text = text_of(reader).await;
        self.end_of(process).await;
        text
    }

    pub(crate) async fn end_of(&mut self, process: ProcessId) -> ExitStatus {
        loop {
            if let Some(status) = self.ended.get(&process) {
                return *status;
            }
            match tokio::time::timeout(PATIENCE, self.events.recv())
                .await
                .expect("the process ends in time")
            {
                Some(Event::Exited { process, status }) => {
                    self.ended.insert(process, status);
                }
                Some(Event::Ended) | None => panic!("the sandbox ended"),
            }
        }
    }

    /// Starts an application that listens on `port`; its process.
    pub(crate) async fn server(&mut self, pod: &str, port: &str) -> ProcessId {
        let (reader, writer) = output();
        let process = self
            .sandbox
            .spawn_container(container(pod, "server", &["serve", port], writer))
            .await
            .unwrap();
        assert_eq!(first_line(reader).await.0, "listening");
        process
    }
}

pub(crate) fn original_destination(stream: &std::net::TcpStream) -> SocketAddrV4 {
    let address = nix::sys::socket::getsockopt(stream, nix::sys::socket::sockopt::OriginalDst).unwrap();
    SocketAddrV4::new(
        Ipv4Addr::from(u32::from_be(address.sin_addr.s_addr)),
        u16::from_be(address.sin_port),
    )
}

/// Answers one connection with where it wanted to go.
pub(crate) fn answer_one(listener: &TcpListener) -> tokio::task::JoinHandle<()> {
    let listener = listener.try_clone().unwrap();
    tokio::spawn(async move {
        let listener = tokio::net::TcpListener::from_std(listener).unwrap();
        let (stream, peer) = listener.accept().await.unwrap();
        let mut stream = stream.into_std().unwrap();
        stream.set_nonblocking(false).unwrap();
        write!(stream, "{} wanted {}", peer.ip(), original_destination(&stream)).unwrap();
    })
}

pub(crate) async fn read(stream: tokio::net::TcpStream) -> String {
    let mut stream = stream;
    let mut text = String::new();
    let read = tokio::io::AsyncReadExt::read_to_string(&mut stream, &mut text);
    tokio::time::timeout(PATIENCE, read)
        .await
        .expect("an answer in time")
        .unwrap();
    text
}

pub(crate) fn options(state: &Path) -> Options {
    let scratch = state.join("scratch");
    fs::create_dir_all(&scratch).unwrap();
    Options {
        init_arguments: vec!["sandbox-init".into()],
        scratch,
        unlink: vec![state.join("run")],
        masked: vec![state.to_owned()],
    }
}

pub(crate) fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
}
