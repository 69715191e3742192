//! The scenes: a sandbox with pods, and what is seen from inside and outside.

use std::collections::HashMap;
use std::fs::{self, File};
use std::future::Future;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use bartizan_sandbox::{
    CONTAINER_BINARY, CONTAINER_PATH, ContainerSpec, Event, ExecSpec, ExitStatus, MARK, MARK_SELF, Options,
    PodSockets, PodSpec, ProcessId, ProxySpec, Sandbox, SandboxError, Volume, VolumeContent, VolumeFile,
    VolumeMount, hosts, resolv_conf,
};
use tokio::sync::mpsc::UnboundedReceiver;

const PATIENCE: Duration = Duration::from_secs(20);

type Scene = fn() -> Pin<Box<dyn Future<Output = ()>>>;

/// Runs the scenes and says whether any failed.
pub(super) fn run_all(filter: &str) -> bool {
    let scenes: [(&str, Scene); 12] = [
        ("application_tcp_is_captured_with_its_destination", || {
            Box::pin(outbound())
        }),
        ("tcp_from_other_pods_arrives_at_the_proxy", || Box::pin(inbound())),
        ("dns_is_captured", || Box::pin(dns())),
        ("nothing_but_tcp_leaves_and_drops_are_counted", || {
            Box::pin(drops())
        }),
        ("an_application_cannot_escape", || Box::pin(escapes())),
        ("an_application_sees_only_its_own_world", || Box::pin(view())),
        ("volumes_and_declared_paths_are_where_they_should_be", || {
            Box::pin(files())
        }),
        ("processes_are_started_signalled_and_reported", || {
            Box::pin(processes())
        }),
        ("a_proxy_has_its_descriptors_and_one_capability", || {
            Box::pin(proxy())
        }),
        (
            "pods_are_made_and_deleted_without_trace",
            || Box::pin(lifecycle()),
        ),
        ("many_pods_are_made_at_once", || Box::pin(many())),
        ("a_killed_supervisor_leaves_nothing", || Box::pin(killed())),
    ];
    if let Err(text) = possible() {
        println!("SKIPPED: no sandbox on this host: {text}");
        return std::env::var_os("CI").is_some_and(|value| value == "true");
    }
    let mut failed = false;
    for (name, scene) in scenes {
        if !name.contains(filter) {
            continue;
        }
        let started = Instant::now();
        let result = std::panic::catch_unwind(|| runtime().block_on(scene()));
        println!(
            "{} {name} ({} ms)",
            if result.is_ok() { "ok    " } else { "FAILED" },
            started.elapsed().as_millis()
        );
        failed |= result.is_err();
    }
    failed
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
}

fn possible() -> Result<(), String> {
    runtime().block_on(async {
        let directory = tempfile::tempdir().unwrap();
        match Sandbox::start(options(directory.path())).await {
            Ok(_) => Ok(()),
            Err(SandboxError::Host(problems)) => Err(format!("{problems:?}")),
            Err(error) => panic!("{error}"),
        }
    })
}

fn options(state: &Path) -> Options {
    let scratch = state.join("scratch");
    fs::create_dir_all(&scratch).unwrap();
    Options {
        init_arguments: vec!["sandbox-init".into()],
        scratch,
        unlink: vec![state.join("run")],
        masked: vec![state.to_owned()],
    }
}

struct World {
    sandbox: Sandbox,
    events: UnboundedReceiver<Event>,
    ended: HashMap<ProcessId, ExitStatus>,
    state: tempfile::TempDir,
    sockets: HashMap<String, PodSockets>,
}

fn pod(name: &str, last: u8, volumes: Vec<Volume>) -> PodSpec {
    let address = Ipv4Addr::new(10, 66, 0, last);
    PodSpec {
        name: name.into(),
        address,
        hostname: name.into(),
        resolv_conf: resolv_conf("shop"),
        hosts: hosts(address, name),
        volumes,
    }
}

fn container(pod: &str, name: &str, arguments: &[&str], stdout: OwnedFd) -> ContainerSpec {
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
fn output() -> (File, OwnedFd) {
    let (reader, writer) = std::io::pipe().unwrap();
    (OwnedFd::from(reader).into(), writer.into())
}

/// Reads on a thread, as pipes block.
async fn text_of(mut reader: File) -> String {
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

async fn first_line(mut reader: File) -> (String, File) {
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
    async fn new(pods: &[(&str, u8)]) -> Self {
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

    async fn attack(&mut self, pod: &str, arguments: &[&str]) -> String {
        let (reader, writer) = output();
        self.run(container(pod, "attacker", arguments, writer), reader)
            .await
    }

    /// Runs a container to its end and returns what it printed.
    async fn run(&mut self, spec: ContainerSpec, reader: File) -> String {
        let process = self.sandbox.spawn_container(spec).await.unwrap();
        let text = text_of(reader).await;
        self.end_of(process).await;
        text
    }

    async fn end_of(&mut self, process: ProcessId) -> ExitStatus {
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
    async fn server(&mut self, pod: &str, port: &str) -> ProcessId {
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

fn original_destination(stream: &std::net::TcpStream) -> SocketAddrV4 {
    let address = nix::sys::socket::getsockopt(stream, nix::sys::socket::sockopt::OriginalDst).unwrap();
    SocketAddrV4::new(
        Ipv4Addr::from(u32::from_be(address.sin_addr.s_addr)),
        u16::from_be(address.sin_port),
    )
}

/// Answers one connection with where it wanted to go.
fn answer_one(listener: &TcpListener) -> tokio::task::JoinHandle<()> {
    let listener = listener.try_clone().unwrap();
    tokio::spawn(async move {
        let listener = tokio::net::TcpListener::from_std(listener).unwrap();
        let (stream, peer) = listener.accept().await.unwrap();
        let mut stream = stream.into_std().unwrap();
        stream.set_nonblocking(false).unwrap();
        write!(stream, "{} wanted {}", peer.ip(), original_destination(&stream)).unwrap();
    })
}

async fn outbound() {
    let mut world = World::new(&[("a", 5)]).await;
    for to in [
        "10.66.0.9:8080",
        "10.67.1.2:80",
        "10.66.0.5:7777",
        "93.184.216.34:443",
        "10.66.0.1:53",
    ] {
        let listener = if to.ends_with(":53") {
            &world.sockets["a"].dns_tcp
        } else {
            &world.sockets["a"].outbound
        };
        let answer = answer_one(listener);
        assert_eq!(
            world.attack("a", &["connect", to]).await,
            format!("10.66.0.5 wanted {to}")
        );
        answer.await.unwrap();
    }
    assert_eq!(world.attack("a", &["loopback"]).await, "connected");
    assert_eq!(world.attack("a", &["loopback6"]).await, "connected");
    let refused = world.attack("a", &["connect6"]).await;
    assert!(refused.starts_with("refused E"), "{refused}");
}

async fn inbound() {
    let mut world = World::new(&[("a", 5), ("b", 6)]).await;
    world.server("a", "8080").await;
    world.server("b", "8080").await;
    // From pod a, past its rules as its proxy is, to pod b: b's proxy hears of it, not the application.
    let answer = answer_one(&world.sockets["b"].inbound);
    let to = SocketAddrV4::new(Ipv4Addr::new(10, 66, 0, 6), 8080);
    let stream = world.sandbox.open_socket("a", to, PATIENCE).await.unwrap();
    assert_eq!(read(stream).await, "10.66.0.5 wanted 10.66.0.6:8080");
    answer.await.unwrap();
    // To its own application, by both addresses.
    for address in [Ipv4Addr::new(10, 66, 0, 6), Ipv4Addr::LOCALHOST] {
        let stream = world
            .sandbox
            .open_socket("b", SocketAddrV4::new(address, 8080), PATIENCE)
            .await
            .unwrap();
        assert!(read(stream).await.starts_with("application"));
    }
    // Not beyond the pods, even with the mark.
    let outside = SocketAddrV4::new(Ipv4Addr::new(10, 67, 0, 1), 80);
    assert!(
        world
            .sandbox
            .open_socket("a", outside, Duration::from_millis(300))
            .await
            .is_err()
    );
    // A closed port of the pod itself is refused at once.
    let closed = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 81);
    let error = world
        .sandbox
        .open_socket("a", closed, PATIENCE)
        .await
        .unwrap_err()
        .to_string();
    assert_eq!(
        error,
        "connect to 127.0.0.1:81 in pod `a`: Connection refused (os error 111)"
    );
}

async fn read(stream: tokio::net::TcpStream) -> String {
    let mut stream = stream;
    let mut text = String::new();
    let read = tokio::io::AsyncReadExt::read_to_string(&mut stream, &mut text);
    tokio::time::timeout(PATIENCE, read)
        .await
        .expect("an answer in time")
        .unwrap();
    text
}

async fn dns() {
    let mut world = World::new(&[("a", 5)]).await;
    for to in ["10.66.0.1:53", "8.8.8.8:53"] {
        let server: UdpSocket = world.sockets["a"].dns_udp.try_clone().unwrap();
        let answer = tokio::spawn(async move {
            let server = tokio::net::UdpSocket::from_std(server).unwrap();
            let mut question = [0; 64];
            let (length, from) = server.recv_from(&mut question).await.unwrap();
            assert_eq!(&question[..length], b"question");
            server.send_to(b"answer", from).await.unwrap();
        });
        assert_eq!(world.attack("a", &["dns", to]).await, "answer");
        answer.await.unwrap();
    }
}

async fn drops() {
    let mut world = World::new(&[("a", 5), ("b", 6)]).await;
    let before = world.sandbox.pod_counters("a").await.unwrap();
    assert_eq!((before.udp_out, before.other_out), (0, 0));
    for to in ["10.66.0.6:9999", "8.8.8.8:443", "10.66.255.255:1"] {
        let outcome = world.attack("a", &["udp", to]).await;
        assert!(outcome.starts_with("refused E"), "{to}: {outcome}");
    }
    let after = world.sandbox.pod_counters("a").await.unwrap();
    assert!(after.udp_out >= 2, "{after:?}");
    // A socket bound to the interface gets "loopback" onto the bridge, where rules by address alone would let it.
    for (kind, to) in [
        ("udp", "127.0.0.1:9"),
        ("tcp", "10.66.0.6:80"),
        ("tcp", "127.0.0.1:80"),
    ] {
        let before = world.sandbox.pod_counters("a").await.unwrap().other_out;
        let outcome = world.attack("a", &["device", kind, to]).await;
        assert!(
            outcome == "nothing" || outcome.starts_with("refused E"),
            "{kind} {to}: {outcome}"
        );
        let after = world.sandbox.pod_counters("a").await.unwrap().other_out;
        assert!(
            after > before || outcome == "refused ECONNREFUSED",
            "{kind} {to}: {outcome}"
        );
    }
    // ICMP and raw sockets cannot even be made.
    for (kind, protocol) in [("2", "1"), ("3", "1"), ("3", "255"), ("3", "17")] {
        assert!(
            world
                .attack("a", &["socket", "2", kind, protocol])
                .await
                .starts_with("refused E")
        );
    }
    // The proxy's own kind of socket cannot be made by the application, and its UDP would not pass either.
    assert_eq!(world.attack("a", &["udp", "127.0.0.1:9"]).await, "sent");
}

async fn escapes() {
    let mut world = World::new(&[("a", 5), ("b", 6)]).await;
    let host = TcpListener::bind("127.0.0.1:0").unwrap();
    let host_port = host.local_addr().unwrap().port();
    let name = format!("bartizan-test-{}", std::process::id());
    let abstract_name = std::os::unix::net::SocketAddr::from_abstract_name(&name).unwrap();
    let _abstract = std::os::unix::net::UnixListener::bind_addr(&abstract_name).unwrap();
    let socket = world.state.path().join("host.sock");
    let _unix = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let to_host = format!("127.0.0.1:{host_port}");
    let socket = socket.display().to_string();
    let state = world.state.path().display().to_string();
    let inbound_of_own = "10.66.0.5:15006";
    let attempts: Vec<(Vec<&str>, &str)> = vec![
        (vec!["connect", &to_host], "refused ECONNREFUSED"),
        (vec!["abstract", &name], "refused ECONNREFUSED"),
        (vec!["unix", &socket], "refused ENOENT"),
        (vec!["list", &state], "refused ENOENT"),
        (vec!["socket", "17", "3", "0"], "refused EAFNOSUPPORT"),
        (vec!["socket", "40", "1", "0"], "refused EAFNOSUPPORT"),
        (vec!["socket", "16", "3", "12"], "refused EAFNOSUPPORT"),
        (vec!["socket", "16", "3", "0"], "done"),
        (vec!["socket", "2", "3", "6"], "refused EPERM"),
        (vec!["socket", "10", "3", "6"], "refused EPERM"),
        (vec!["mark"], "refused EPERM"),
        (vec!["transparent"], "refused EPERM"),
        (vec!["unshare", "268435456"], "refused EPERM"),
        (vec!["unshare", "1073741824"], "refused EPERM"),
        (vec!["clone"], "refused EPERM"),
        (vec!["clone3"], "refused ENOSYS"),
        (vec!["io_uring"], "refused ENOSYS"),
        (vec!["mount"], "refused EPERM"),
        (vec!["remount"], "refused EPERM"),
        (vec!["ptrace", "1"], "refused EPERM"),
        (vec!["kill", "1"], "sent|refused EPERM"),
        (vec!["read", "/proc/1/environ"], "refused EACCES"),
        (vec!["list", "/proc/1/fd"], "refused EACCES|"),
        (vec!["list", "/proc/1/root"], "refused EACCES"),
        (vec!["write", "/proc/sys/kernel/core_pattern"], "refused"),
        (vec!["write", "/proc/sys/net/ipv4/ip_forward"], "refused"),
        (vec!["write", "/usr/bin/bartizan-test"], "refused EROFS"),
        (vec!["write", "/etc/passwd"], "refused"),
        (vec!["write", CONTAINER_BINARY], "refused"),
        (vec!["write", "/anything"], "refused EROFS"),
        (vec!["read", "/proc/kcore"], "refused ENOENT|"),
        (vec!["list", "/root"], ""),
        (vec!["read", "/etc/shadow"], "refused ENOENT"),
        (vec!["bind", "127.0.0.1:15001"], "refused EADDRINUSE"),
        (vec!["bind", "0.0.0.0:15006"], "refused EADDRINUSE"),
        (vec!["join", "127.0.0.1:15001"], "refused EADDRINUSE"),
        (vec!["join", "10.66.0.5:15006"], "refused EADDRINUSE"),
        (vec!["join", "0.0.0.0:15053"], "refused EADDRINUSE"),
        (vec!["bind", "10.66.0.6:80"], "refused EADDRNOTAVAIL"),
        (vec!["bind", "0.0.0.0:80"], "bound"),
        (vec!["inject"], "refused EPERM"),
    ];
    for (attempt, expected) in attempts {
        let outcome = world.attack("a", &attempt).await;
        let met = expected.split('|').any(|expected| outcome == expected)
            || (expected == "refused" && outcome.starts_with("refused E"));
        assert!(met, "{attempt:?}: {outcome}, expected {expected}");
    }
    // Its own inbound port is reached by nobody but the mesh: the connection is captured like any other.
    let answer = answer_one(&world.sockets["a"].outbound);
    assert_eq!(
        world.attack("a", &["connect", inbound_of_own]).await,
        "10.66.0.5 wanted 10.66.0.5:15006"
    );
    answer.await.unwrap();
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert_eq!(
            world.attack("a", &["status", set]).await,
            "0000000000000000",
            "{set}"
        );
    }
    assert_eq!(world.attack("a", &["status", "NoNewPrivs"]).await, "1");
    assert_eq!(world.attack("a", &["status", "Seccomp"]).await, "2");
    // 0, 1, 2 and the one that lists.
    assert_eq!(world.attack("a", &["descriptors"]).await, "4");
    // The pod's first process is still there after `kill 1`.
    assert_eq!(world.attack("a", &["processes"]).await, "2");
    // As uid 0, which a user can ask for, nothing is different.
    for attempt in [
        &["mark"][..],
        &["mount"],
        &["socket", "2", "3", "6"],
        &["unshare", "268435456"],
    ] {
        let (reader, writer) = output();
        let mut spec = container("a", "root", attempt, writer);
        (spec.run_as_user, spec.run_as_group) = (0, 0);
        assert_eq!(world.run(spec, reader).await, "refused EPERM", "{attempt:?}");
    }
}

async fn view() {
    let mut world = World::new(&[("a", 5)]).await;
    assert_eq!(world.attack("a", &["hostname"]).await, "a");
    assert_eq!(world.attack("a", &["read", "/etc/hostname"]).await, "a");
    assert_eq!(
        world.attack("a", &["status", "Uid"]).await,
        "65532 65532 65532 65532"
    );
    let resolver = world.attack("a", &["read", "/etc/resolv.conf"]).await;
    assert_eq!(
        resolver,
        "nameserver 10.66.0.1|search shop.svc.cluster.local svc.cluster.local cluster.local|options ndots:5"
    );
    assert!(
        world
            .attack("a", &["read", "/etc/hosts"])
            .await
            .contains("10.66.0.5\ta")
    );
    assert!(
        world
            .attack("a", &["read", "/etc/nsswitch.conf"])
            .await
            .contains("hosts: files dns")
    );
    assert!(
        world
            .attack("a", &["read", "/etc/passwd"])
            .await
            .contains("app:x:65532:65532")
    );
    assert_eq!(world.attack("a", &["list", "/run"]).await, "bartizan lock");
    assert_eq!(world.attack("a", &["list", "/home"]).await, "app");
    assert_eq!(world.attack("a", &["list", "/tmp"]).await, "");
    assert_eq!(world.attack("a", &["list", "/sys"]).await, "devices");
    for path in [
        "/tmp/x",
        "/run/x",
        "/var/tmp/x",
        "/dev/shm/x",
        "/home/app/x",
        "/dev/null",
    ] {
        // /run belongs to root in the container's eyes as well as ours, so it is writable for the one user there is.
        assert_eq!(world.attack("a", &["write", path]).await, "written", "{path}");
    }
    // What another container of the same pod has written to /tmp is not seen.
    assert_eq!(world.attack("a", &["read", "/tmp/x"]).await, "refused ENOENT");
    // Programs of the host run, and find themselves by name.
    let (reader, writer) = output();
    let mut spec = container("a", "shell", &[], writer);
    spec.argv = [
        "sh",
        "-c",
        "id -u && pwd && echo $A && cat /proc/1/comm >/dev/null && ls /proc/self/fd | wc -l",
    ]
    .map(String::from)
    .into();
    spec.env.push(("A".into(), "b c".into()));
    spec.working_directory = "/usr".into();
    assert_eq!(world.run(spec, reader).await, "65532\n/usr\nb c\n4");
}

#[expect(clippy::too_many_lines, reason = "one scene, top to bottom")]
async fn files() {
    let state = tempfile::tempdir().unwrap();
    let outside = tempfile::tempdir().unwrap();
    let real = fs::canonicalize(outside.path()).unwrap();
    fs::create_dir(real.join("code")).unwrap();
    fs::write(real.join("code/program"), "text").unwrap();
    fs::create_dir(real.join("data")).unwrap();
    // Where containers are real users, a declared path is written with their own rights.
    fs::set_permissions(
        real.join("data"),
        std::os::unix::fs::PermissionsExt::from_mode(0o777),
    )
    .unwrap();
    // A state directory below a declared path is masked.
    let inner_state = real.join("code/.bartizan");
    fs::create_dir(&inner_state).unwrap();
    fs::write(inner_state.join("key"), "secret").unwrap();
    let mut start = options(state.path());
    start.masked.push(inner_state.clone());
    let (sandbox, events) = Sandbox::start(start).await.unwrap();
    let mut world = World {
        sandbox,
        events,
        ended: HashMap::new(),
        state,
        sockets: HashMap::new(),
    };
    let file = |path: &str, content: &str| VolumeFile {
        path: path.into(),
        mode: 0o644,
        content: content.into(),
    };
    let volumes = vec![
        Volume {
            name: "shared".into(),
            content: VolumeContent::Empty {
                size_bytes: Some(1 << 20),
            },
        },
        Volume {
            name: "config".into(),
            content: VolumeContent::Files(vec![file("a.yaml", "one"), file("d/b", "two")]),
        },
    ];
    world.sandbox.create_pod(pod("a", 5, volumes)).await.unwrap();
    let volume = |volume: &str, path: &str, sub_path: Option<&str>| VolumeMount {
        volume: volume.into(),
        path: path.into(),
        sub_path: sub_path.map(Into::into),
        read_only: false,
    };
    let look = async |world: &mut World, arguments: &[&str]| {
        let (reader, writer) = output();
        let mut spec = container("a", "looker", arguments, writer);
        spec.read = vec![real.join("code")];
        spec.write = vec![real.join("data")];
        spec.volumes = vec![
            volume("shared", "/data", None),
            volume("config", "/etc/app/config", None),
            volume("config", "/usr/share/one.yaml", Some("a.yaml")),
            volume("shared", "/srv/part", Some("part/of")),
            volume("config", "/data/nested", Some("d")),
        ];
        world.run(spec, reader).await
    };
    let code = real.join("code/program").display().to_string();
    let data = real.join("data/new").display().to_string();
    let key = inner_state.join("key").display().to_string();
    let cases: Vec<(Vec<&str>, &str)> = vec![
        (vec!["read", &code], "text"),
        (vec!["write", &code], "refused EROFS|refused EACCES"),
        (vec!["read", &key], "refused ENOENT"),
        (vec!["write", &data], "written"),
        (vec!["write", "/data/x"], "written"),
        (vec!["read", "/data/x"], "x"),
        (vec!["read", "/etc/app/config/a.yaml"], "one"),
        (
            vec!["write", "/etc/app/config/a.yaml"],
            "refused EROFS|refused EACCES",
        ),
        (vec!["read", "/usr/share/one.yaml"], "one"),
        (vec!["read", "/data/nested/b"], "two"),
        (vec!["write", "/srv/part/y"], "written"),
        (vec!["read", "/data/part/of/y"], "x"),
    ];
    for (arguments, expected) in cases {
        let outcome = look(&mut world, &arguments).await;
        let met = expected.split('|').any(|expected| outcome == expected);
        assert!(met, "{arguments:?}: {outcome}, expected {expected}");
    }
    assert_eq!(fs::read_to_string(real.join("data/new")).unwrap(), "x");
    // An explosion of /usr/share must not lose its entries.
    assert!(look(&mut world, &["list", "/usr/share"]).await.split(' ').count() > 5);
    world
        .sandbox
        .write_volume("a", "config", vec![file("a.yaml", "changed")])
        .await
        .unwrap();
    assert_eq!(
        look(&mut world, &["read", "/etc/app/config/a.yaml"]).await,
        "changed"
    );

    // A symbolic link that an application puts into a volume leads nowhere.
    let (reader, writer) = output();
    let mut planter = container("a", "planter", &[], writer);
    planter.argv = [
        "sh",
        "-c",
        "ln -s / /data/evil && ln -s / /data/part/up && echo planted",
    ]
    .map(String::from)
    .into();
    planter.volumes = vec![volume("shared", "/data", None)];
    assert_eq!(world.run(planter, reader).await, "planted");
    for sub_path in ["evil", "evil/etc", "part/up/etc", "../x", "/etc"] {
        let (_, writer) = output();
        let mut spec = container("a", "follower", &["list", "/follow"], writer);
        spec.volumes = vec![volume("shared", "/follow", Some(sub_path))];
        assert!(world.sandbox.spawn_container(spec).await.is_err(), "{sub_path}");
    }
    for path in ["/proc", "/", "/nonexistent/x", "relative"] {
        let (_, writer) = output();
        let mut spec = container("a", "reader", &["list", "/"], writer);
        spec.read = vec![PathBuf::from(path)];
        let error = world.sandbox.spawn_container(spec).await.unwrap_err().to_string();
        assert!(error.contains("declared path"), "{error}");
    }
}

#[expect(clippy::too_many_lines, reason = "one scene, top to bottom")]
async fn processes() {
    let mut world = World::new(&[("a", 5)]).await;
    let (reader, writer) = output();
    let waiting = world
        .sandbox
        .spawn_container(container("a", "main", &["wait"], writer))
        .await
        .unwrap();
    let (line, _reader) = first_line(reader).await;
    assert_eq!(line, "waiting");

    let (_, writer) = output();
    let twice = world
        .sandbox
        .spawn_container(container("a", "main", &["wait"], writer))
        .await
        .unwrap_err();
    assert_eq!(
        twice.to_string(),
        "start container `main` of pod `a`: it runs already"
    );

    let exec = async |world: &mut World, arguments: &[&str], input: &str| {
        let (reader, writer) = output();
        let (stdin, mut feed) = std::io::pipe().unwrap();
        feed.write_all(input.as_bytes()).unwrap();
        drop(feed);
        let process = world
            .sandbox
            .exec(ExecSpec {
                pod: "a".into(),
                container: "main".into(),
                argv: arguments.iter().map(|text| (*text).to_owned()).collect(),
                env: vec![("PATH".into(), CONTAINER_PATH.into())],
                working_directory: "/tmp".into(),
                stdin: stdin.into(),
                stderr: writer.try_clone().unwrap(),
                stdout: writer,
                terminal: false,
            })
            .await?;
        let text = text_of(reader).await;
        Ok::<_, SandboxError>((text, world.end_of(process).await))
    };
    let (text, status) = exec(&mut world, &["sh", "-c", "cat; pwd; exit 7"], "in")
        .await
        .unwrap();
    assert_eq!((text.as_str(), status), ("in/tmp", ExitStatus::Code(7)));
    let (text, _) = exec(&mut world, &["cat", "/proc/self/status"], "").await.unwrap();
    assert!(
        text.contains("CapBnd:\t0000000000000000") && text.contains("Seccomp:\t2"),
        "{text}"
    );
    // It is the same world: a file in the container's private /tmp is seen by the next command.
    exec(&mut world, &["sh", "-c", "echo 1 > /tmp/mark"], "")
        .await
        .unwrap();
    assert_eq!(exec(&mut world, &["cat", "/tmp/mark"], "").await.unwrap().0, "1");
    let missing = exec(&mut world, &["no-such-command"], "")
        .await
        .unwrap_err()
        .to_string();
    assert!(
        missing.contains("command `no-such-command` is not in PATH"),
        "{missing}"
    );

    world.sandbox.signal(waiting, libc::SIGTERM).await.unwrap();
    assert_eq!(world.end_of(waiting).await, ExitStatus::Signal(libc::SIGTERM));
    assert!(world.sandbox.signal(waiting, libc::SIGTERM).await.is_err());
    assert!(
        exec(&mut world, &["true"], "")
            .await
            .unwrap_err()
            .to_string()
            .contains("it does not run")
    );

    // Orphans stay in the pod until it is killed; afterwards containers can be started again.
    assert_eq!(world.attack("a", &["orphan"]).await, "left");
    assert_eq!(world.attack("a", &["processes"]).await, "3");
    world.sandbox.kill_pod("a").await.unwrap();
    assert_eq!(world.attack("a", &["processes"]).await, "2");

    let terminal = nix::pty::openpty(None, None).unwrap();
    let waiting = {
        let (reader, writer) = output();
        let process = world
            .sandbox
            .spawn_container(container("a", "main", &["wait"], writer))
            .await
            .unwrap();
        first_line(reader).await;
        process
    };
    let (reader, writer) = output();
    let process = world
        .sandbox
        .exec(ExecSpec {
            pod: "a".into(),
            container: "main".into(),
            argv: [CONTAINER_BINARY, "attack", "terminal"].map(String::from).into(),
            env: Vec::new(),
            working_directory: "/".into(),
            stdin: terminal.slave.try_clone().unwrap(),
            stderr: writer.try_clone().unwrap(),
            stdout: writer,
            terminal: true,
        })
        .await
        .unwrap();
    assert!(text_of(reader).await.parse::<i32>().unwrap() > 1);
    world.end_of(process).await;
    world.sandbox.signal(waiting, libc::SIGKILL).await.unwrap();
    assert_eq!(world.end_of(waiting).await, ExitStatus::Signal(libc::SIGKILL));

    let (_, writer) = output();
    let mut nowhere = container("a", "nowhere", &["wait"], writer);
    nowhere.working_directory = "/no/such/place".into();
    let error = world
        .sandbox
        .spawn_container(nowhere)
        .await
        .unwrap_err()
        .to_string();
    assert!(error.contains("working directory `/no/such/place`"), "{error}");
}

async fn proxy() {
    let mut world = World::new(&[("a", 5)]).await;
    let keys = world.state.path().join("ca");
    world.sandbox.hide(&keys).await.unwrap();
    fs::write(keys.join("key"), "secret").unwrap();
    let keys = keys.display().to_string();
    let run = async |world: &mut World, arguments: &[&str]| {
        let (reader, writer) = output();
        let mut argv = vec!["bartizan".to_owned(), "attack".to_owned()];
        argv.extend(arguments.iter().map(|text| (*text).to_owned()));
        let sockets = &world.sockets["a"];
        let descriptors = vec![
            (4, sockets.inbound.as_fd().try_clone_to_owned().unwrap()),
            (3, sockets.outbound.as_fd().try_clone_to_owned().unwrap()),
            (9, sockets.dns_udp.as_fd().try_clone_to_owned().unwrap()),
        ];
        let stderr = writer.try_clone().unwrap();
        let spec = ProxySpec {
            pod: "a".into(),
            argv,
            env: Vec::new(),
            descriptors,
            stdout: writer,
            stderr,
        };
        let process = world.sandbox.spawn_proxy(spec).await.unwrap();
        let text = text_of(reader).await;
        assert_eq!(world.end_of(process).await, ExitStatus::Code(0));
        text
    };
    assert_eq!(run(&mut world, &["mark"]).await, "done");
    // To its own pod: with one mark the application, with the other its own inbound side.
    world.server("a", "8080").await;
    let to_application = run(&mut world, &["marked", &MARK.to_string(), "10.66.0.5:8080"]).await;
    assert_eq!(to_application, "application, called by 10.66.0.5");
    let answer = answer_one(&world.sockets["a"].inbound);
    let to_self = run(&mut world, &["marked", &MARK_SELF.to_string(), "10.66.0.5:8080"]).await;
    assert_eq!(to_self, "10.66.0.5 wanted 10.66.0.5:8080");
    answer.await.unwrap();
    assert_eq!(run(&mut world, &["list", "/proc/self/fd"]).await, "0 1 2 3 4 5 9");
    assert_eq!(run(&mut world, &["list", &keys]).await, "");
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert_eq!(
            run(&mut world, &["status", set]).await,
            "0000000000001000",
            "{set}"
        );
    }
    assert_eq!(run(&mut world, &["socket", "2", "3", "6"]).await, "refused EPERM");
    assert_eq!(run(&mut world, &["unshare", "268435456"]).await, "refused EPERM");
}

async fn lifecycle() {
    let mut world = World::new(&[("a", 5), ("b", 6)]).await;
    let again = world
        .sandbox
        .create_pod(pod("a", 7, Vec::new()))
        .await
        .unwrap_err();
    assert_eq!(again.to_string(), "pod `a` exists already");
    let same = world
        .sandbox
        .create_pod(pod("c", 6, Vec::new()))
        .await
        .unwrap_err();
    assert_eq!(
        same.to_string(),
        "pod `c` cannot have address 10.66.0.6: pod `b` has it"
    );
    assert!(world.sandbox.create_pod(pod("c", 1, Vec::new())).await.is_err());
    let server = world.server("b", "8080").await;
    world.sandbox.delete_pod("b").await.unwrap();
    assert_eq!(world.end_of(server).await, ExitStatus::Signal(libc::SIGKILL));
    world.sockets.remove("b");
    assert!(world.sandbox.delete_pod("b").await.is_err());
    for _ in 0..3 {
        let sockets = world.sandbox.create_pod(pod("b", 6, Vec::new())).await.unwrap();
        world.sockets.insert("b".into(), sockets);
        world.server("b", "8080").await;
        world.sandbox.delete_pod("b").await.unwrap();
    }
    // On the host nothing of it is seen.
    assert_eq!(
        fs::read_dir(world.state.path().join("scratch")).unwrap().count(),
        0
    );
    let World {
        sandbox, mut events, ..
    } = world;
    drop(sandbox);
    let last = async {
        while let Some(event) = events.recv().await {
            if event == Event::Ended {
                return;
            }
        }
        panic!("no end was reported");
    };
    tokio::time::timeout(PATIENCE, last)
        .await
        .expect("the sandbox ends in time");
}

async fn many() {
    const PODS: u8 = 30;
    let mut world = World::new(&[]).await;
    let large = VolumeFile {
        path: "large".into(),
        mode: 0o444,
        content: vec![b'x'; 1 << 20],
    };
    let started = Instant::now();
    let mut made = tokio::task::JoinSet::new();
    for number in 0..PODS {
        let sandbox = world.sandbox.clone();
        let volumes = vec![Volume {
            name: "large".into(),
            content: VolumeContent::Files(vec![large.clone()]),
        }];
        made.spawn(async move {
            let name = format!("pod-{number}");
            let sockets = sandbox
                .create_pod(pod(&name, 10 + number, volumes))
                .await
                .unwrap();
            let (reader, writer) = output();
            let mut spec = container(&name, "main", &["serve", "8080"], writer);
            spec.volumes = vec![VolumeMount {
                volume: "large".into(),
                path: "/etc/l".into(),
                sub_path: None,
                read_only: true,
            }];
            sandbox.spawn_container(spec).await.unwrap();
            assert_eq!(first_line(reader).await.0, "listening");
            sockets
        });
    }
    let sockets = made.join_all().await;
    println!(
        "       {PODS} pods with a container each in {} ms",
        started.elapsed().as_millis()
    );
    assert_eq!(sockets.len(), usize::from(PODS));
    for number in 0..PODS {
        world.sandbox.delete_pod(&format!("pod-{number}")).await.unwrap();
    }
    for _ in 0..PODS {
        let event = tokio::time::timeout(PATIENCE, world.events.recv())
            .await
            .unwrap()
            .unwrap();
        assert!(
            matches!(
                event,
                Event::Exited {
                    status: ExitStatus::Signal(libc::SIGKILL),
                    ..
                }
            ),
            "{event:?}"
        );
    }
}

/// A supervisor that is about to be killed: starts a pod with a server and says so.
pub(super) fn victim(directory: &str) -> ExitCode {
    runtime().block_on(async {
        let state = Path::new(directory);
        fs::create_dir_all(state.join("run")).unwrap();
        let (sandbox, _events) = Sandbox::start(options(state)).await.unwrap();
        let _sockets = sandbox.create_pod(pod("a", 5, Vec::new())).await.unwrap();
        let (reader, writer) = output();
        sandbox
            .spawn_container(container("a", "server", &["serve", "8080"], writer))
            .await
            .unwrap();
        first_line(reader).await;
        let _socket = std::os::unix::net::UnixListener::bind(state.join("run/control.sock")).unwrap();
        println!("ready");
        std::io::stdout().flush().unwrap();
        std::future::pending::<ExitCode>().await
    })
}

async fn killed() {
    let state = tempfile::tempdir().unwrap();
    // Every process of the victim inherits this variable's value in its environment or holds this pipe; the pipe is the proof.
    let (mut proof, held) = output();
    let mut victim = Command::new("/proc/self/exe")
        .arg("victim")
        .arg(state.path())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(held)
        .spawn()
        .unwrap();
    let stdout: OwnedFd = victim.stdout.take().unwrap().into();
    let (line, _keep) = first_line(stdout.into()).await;
    assert_eq!(line, "ready");
    assert!(state.path().join("run/control.sock").exists());
    let inside = descendants(victim.id());
    assert!(inside.len() >= 3, "{inside:?}");
    victim.kill().unwrap();
    victim.wait().unwrap();
    let closed = tokio::task::spawn_blocking(move || proof.read_to_end(&mut Vec::new()));
    tokio::time::timeout(PATIENCE, closed)
        .await
        .expect("every process lets go")
        .unwrap()
        .unwrap();
    let deadline = Instant::now() + PATIENCE;
    while inside.iter().any(|(pid, start)| start_time(*pid) == Some(*start)) {
        assert!(Instant::now() < deadline, "processes are left");
        tokio::task::yield_now().await;
    }
    while state.path().join("run/control.sock").exists() {
        assert!(Instant::now() < deadline, "the socket is left");
        tokio::task::yield_now().await;
    }
}

/// Processes below `pid` with their start times.
fn descendants(pid: u32) -> Vec<(u32, u64)> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let Ok(child) = entry.file_name().to_string_lossy().parse::<u32>() else {
            continue;
        };
        if stat(child).is_some_and(|fields| fields[1] == u64::from(pid)) {
            found.extend(start_time(child).map(|start| (child, start)));
            found.extend(descendants(child));
        }
    }
    found
}

fn start_time(pid: u32) -> Option<u64> {
    stat(pid).and_then(|fields| fields.get(19).copied())
}

/// The fields of `/proc/PID/stat` after the name, the state as 0.
fn stat(pid: u32) -> Option<Vec<u64>> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let fields: Vec<u64> = text
        .rsplit_once(") ")?
        .1
        .split(' ')
        .map(|field| field.trim().parse().unwrap_or(0))
        .collect();
    // A zombie that nobody has collected yet is not running.
    (!text.contains(") Z ")).then_some(fields)
}
