//! Scenes: pods that come and go, and the supervisor's death.

use std::fs;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::time::Instant;

use bartizan_sandbox::{Event, ExitStatus, Sandbox, Volume, VolumeContent, VolumeFile, VolumeMount};

use crate::world::{PATIENCE, World, container, first_line, options, output, pod, runtime};

pub(crate) async fn lifecycle() {
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

pub(crate) async fn many() {
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
pub(crate) fn victim(directory: &str) -> ExitCode {
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

pub(crate) async fn killed() {
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
