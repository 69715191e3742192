//! Scenes: containers, commands in them, proxies.

use std::fs;
use std::io::Write;
use std::os::fd::AsFd;

use bartizan_sandbox::{
    CONTAINER_BINARY, CONTAINER_PATH, ExecSpec, ExitStatus, MARK, MARK_SELF, ProxySpec, SandboxError,
};

use crate::world::{World, answer_one, container, first_line, output, text_of};

#[expect(clippy::too_many_lines, reason = "one scene, top to bottom")]
pub(crate) async fn processes() {
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

pub(crate) async fn proxy() {
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
