//! Scenes: what an application cannot do and what it sees.

use std::net::TcpListener;
use std::os::linux::net::SocketAddrExt;

use bartizan_sandbox::CONTAINER_BINARY;

use crate::world::{World, answer_one, container, output};

pub(crate) async fn escapes() {
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

pub(crate) async fn view() {
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
