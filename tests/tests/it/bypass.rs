//! The application is the adversary: every way around its proxy and out of its pod, tried from inside.
//!
//! What is possible on the host is tried there, too, by the same program: an attempt that fails everywhere would show nothing.

use std::io::Write as _;
use std::net::{Ipv4Addr, TcpListener};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{SocketAddr as UnixAddress, UnixListener};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bartizan_tests::{Mesh, eventually};
use serde_json::{Value, json};

use crate::lab::{addresses, attempts, attempts_outside, documents, host};

/// One attempt: what it must come to inside, and, where the host permits it, what it comes to there.
struct Row {
    attempt: Value,
    inside: &'static str,
    outside: Option<&'static str>,
}

fn row(attempt: Value, inside: &'static str) -> Row {
    Row {
        attempt,
        inside,
        outside: None,
    }
}

/// With a control on the host.
fn both(attempt: Value, inside: &'static str, outside: &'static str) -> Row {
    Row {
        attempt,
        inside,
        outside: Some(outside),
    }
}

/// `a|b` are alternatives; `a*` is a beginning.
fn fits(pattern: &str, text: &str) -> bool {
    pattern.split('|').any(|one| match one.strip_suffix('*') {
        Some(start) => text.starts_with(start),
        None => text == one,
    })
}

fn judge(mesh: &Mesh, identity: &str, rows: &[Row]) {
    let all: Vec<Value> = rows.iter().map(|row| row.attempt.clone()).collect();
    let mut wrong = Vec::new();
    for (row, got) in rows.iter().zip(attempts(mesh, identity, &all)) {
        if !fits(row.inside, &got) {
            wrong.push(format!("{}: expected {}, got {got}", row.attempt, row.inside));
        }
    }
    let outside: Vec<&Row> = rows.iter().filter(|row| row.outside.is_some()).collect();
    let all: Vec<Value> = outside.iter().map(|row| row.attempt.clone()).collect();
    for (row, got) in outside.iter().zip(attempts_outside(mesh, &all)) {
        let expected = row.outside.unwrap_or_default();
        if !fits(expected, &got) {
            wrong.push(format!(
                "on the host {}: expected {expected}, got {got}",
                row.attempt
            ));
        }
    }
    assert!(wrong.is_empty(), "as {identity}:\n{}", wrong.join("\n"));
}

/// A server on the host that must never hear from an application.
struct Bait {
    port: u16,
    heard: Arc<AtomicUsize>,
}

fn bait(address: Ipv4Addr) -> Bait {
    let listener = TcpListener::bind((address, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let heard = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&heard);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            counter.fetch_add(1, Ordering::SeqCst);
            if let Ok(mut stream) = stream {
                stream.write_all(b"host\r\n").ok();
            }
        }
    });
    Bait { port, heard }
}

/// The addresses that this machine has besides loopback.
fn real_addresses() -> Vec<Ipv4Addr> {
    nix::ifaddrs::getifaddrs()
        .unwrap()
        .filter_map(|interface| {
            interface
                .address?
                .as_sockaddr_in()
                .map(nix::sys::socket::SockaddrIn::ip)
        })
        .filter(|address| !address.is_loopback())
        .collect()
}

#[test]
fn no_connection_goes_around_the_proxy() {
    let mesh = Mesh::up(&documents("lab"));
    let loopback = bait(Ipv4Addr::LOCALHOST);
    let everywhere = bait(Ipv4Addr::UNSPECIFIED);
    let web = addresses(&mesh, "web-0").remove(0);
    let no_way = "HTTP/1.1 502 Bad Gateway";
    let denied = "HTTP/1.1 403 Forbidden";
    let mut rows = vec![
        // The host's loopback is not the pod's.
        both(
            json!(["connect", "127.0.0.1", loopback.port]),
            "refused ECONNREFUSED",
            "host",
        ),
        both(
            json!(["connect", "127.0.0.1", everywhere.port]),
            "refused ECONNREFUSED",
            "host",
        ),
        both(
            json!(["connect", "0.0.0.0", everywhere.port]),
            "refused ECONNREFUSED",
            "host",
        ),
        row(json!(["connect", "127.0.0.53", 53]), "refused ECONNREFUSED"),
        // Captured, and no address of the mesh: the bridge, a virtual address of nothing, the outside, a cloud's metadata.
        row(json!(["connect", "10.66.0.1", 80]), no_way),
        row(json!(["connect", "10.66.0.1", 22]), no_way),
        row(json!(["connect", "10.67.0.1", 80]), no_way),
        row(json!(["connect", "1.2.3.4", 80]), no_way),
        row(json!(["connect", "169.254.169.254", 80]), no_way),
        row(json!(["connect", "web.lab", 8081]), no_way),
        row(json!(["connect", "1.2.3.4", 80, {"mptcp": true}]), no_way),
        row(json!(["connect", "255.255.255.255", 80]), "refused ENETUNREACH"),
        // Captured, and denied by the other side: another pod's address, whatever the port, and its own.
        row(json!(["connect", web, 8080]), denied),
        row(json!(["connect", web, 8080, {"mptcp": true}]), denied),
        row(json!(["connect", web, 22]), denied),
        row(
            json!(["connect", format!("::ffff:{web}"), 8080, {"family": "6"}]),
            denied,
        ),
        row(json!(["connect", "web", 80]), denied),
        row(json!(["connect", "own", 8080]), denied),
        // The proxies' own ports are no way in, neither one's own nor another's.
        row(
            json!(["connect", "127.0.0.1", 15001]),
            "closed|refused ECONNRESET",
        ),
        row(json!(["connect", "127.0.0.1", 15006]), "refused ECONNREFUSED"),
        row(
            json!(["connect", "own", 15001]),
            "closed|refused ECONNRESET|HTTP/1.1 40*|HTTP/1.1 50*",
        ),
        row(
            json!(["connect", "own", 15006]),
            "closed|refused ECONNRESET|HTTP/1.1 40*|HTTP/1.1 50*",
        ),
        row(
            json!(["connect", web, 15001]),
            "closed|refused ECONNRESET|HTTP/1.1 40*|HTTP/1.1 50*",
        ),
        row(
            json!(["connect", web, 15006]),
            "closed|refused ECONNRESET|HTTP/1.1 40*|HTTP/1.1 50*",
        ),
        row(
            json!(["connect", web, 15053]),
            "closed|refused ECONNRESET|HTTP/1.1 40*|HTTP/1.1 50*",
        ),
        row(json!(["bind", "0.0.0.0", 15001]), "refused EADDRINUSE"),
        row(json!(["bind", "0.0.0.0", 15006]), "refused EADDRINUSE"),
        row(
            json!(["bind", "0.0.0.0", 15006, {"reuse": true}]),
            "refused EADDRINUSE",
        ),
        row(
            json!(["bind", "127.0.0.1", 15001, {"reuse": true}]),
            "refused EADDRINUSE",
        ),
        row(
            json!(["bind", "127.0.0.1", 15053, {"reuse": true}]),
            "refused EADDRINUSE",
        ),
        row(
            json!(["bind", "::", 15006, {"family": "6"}]),
            "refused EADDRINUSE",
        ),
        row(json!(["bind", web, 8080]), "refused EADDRNOTAVAIL"),
        row(
            json!(["connect", "1.2.3.4", 80, {"source": [web, 0]}]),
            "refused EADDRNOTAVAIL",
        ),
        row(
            json!(["connect", "1.2.3.4", 80, {"source": ["0.0.0.0", 53]}]),
            no_way,
        ),
        // By another interface than the route's.
        row(json!(["connect", "1.2.3.4", 80, {"device": "eth0"}]), "refused *"),
        row(json!(["connect", web, 8080, {"device": "lo"}]), "refused *"),
        // IPv6 is refused but for loopback.
        row(
            json!(["connect", "fd00::1", 80, {"family": "6"}]),
            "refused ENETUNREACH",
        ),
        row(
            json!(["connect", "::1", everywhere.port, {"family": "6"}]),
            "refused ECONNREFUSED",
        ),
        // What it may do.
        both(json!(["loopback", "127.0.0.1"]), "x", "x"),
        row(json!(["loopback", "127.9.9.9"]), "x"),
        row(json!(["loopback", "::1", {"family": "6"}]), "x"),
        row(json!(["bind", "0.0.0.0", 80]), "bound"),
    ];
    for address in real_addresses() {
        rows.push(both(
            json!(["connect", address.to_string(), everywhere.port]),
            no_way,
            "host",
        ));
        rows.push(both(
            json!(["udp", address.to_string(), everywhere.port]),
            "refused EPERM",
            "sent",
        ));
    }
    // The controls on the host are heard; nothing else is.
    let controls = 2 + real_addresses().len();
    judge(&mesh, "lab/stranger", &rows);
    assert_eq!(loopback.heard.load(Ordering::SeqCst), 1);
    assert_eq!(everywhere.heard.load(Ordering::SeqCst), controls);
    // The same attempts by somebody whom policy lets in: so the denials above were policy's.
    let client = [
        row(json!(["connect", web, 8080]), "HTTP/1.1 200 OK"),
        row(json!(["connect", web, 8080, {"mptcp": true}]), "HTTP/1.1 200 OK"),
        row(
            json!(["connect", format!("::ffff:{web}"), 8080, {"family": "6"}]),
            "HTTP/1.1 200 OK",
        ),
        row(json!(["connect", "web", 80]), "HTTP/1.1 200 OK"),
        // Even for it a proxy's ports are none of the mesh's.
        row(
            json!(["connect", web, 15001]),
            "closed|refused ECONNRESET|HTTP/1.1 40*|HTTP/1.1 50*",
        ),
        row(
            json!(["connect", web, 15006]),
            "closed|refused ECONNRESET|HTTP/1.1 40*|HTTP/1.1 50*",
        ),
        row(
            json!(["connect", web, 15053]),
            "closed|refused ECONNRESET|HTTP/1.1 40*|HTTP/1.1 50*",
        ),
        row(
            json!(["connect", "own", 15053]),
            "closed|refused ECONNRESET|HTTP/1.1 40*|HTTP/1.1 50*",
        ),
    ];
    judge(&mesh, "lab/client", &client);
}

#[test]
fn nothing_but_tcp_and_dns_to_the_proxy_leaves_and_drops_are_counted() {
    let mesh = Mesh::up(&documents("lab"));
    let web = addresses(&mesh, "web-0").remove(0);
    let script = mesh.documents.join("inside.py").display().to_string();
    let dropped = || {
        mesh.status()["workloads"]
            .as_array()
            .into_iter()
            .flatten()
            .find(|pod| pod["name"]["name"] == "store-0")
            .and_then(|pod| pod["udpDropped"].as_u64())
            .unwrap_or_default()
    };
    assert_eq!(dropped(), 0);
    let table = [
        (json!(["udp", "8.8.8.8", 123]), "refused EPERM"),
        (json!(["udp", web, 9]), "refused EPERM"),
        (json!(["udp", "10.66.0.1", 5353]), "refused EPERM"),
        (json!(["udp", "224.0.0.251", 5353]), "refused EPERM"),
        (
            json!(["udp", "8.8.8.8", 123, {"source": ["0.0.0.0", 53]}]),
            "refused EPERM",
        ),
        (
            json!(["udp", "8.8.8.8", 123, {"device": "eth0"}]),
            "refused EPERM",
        ),
        (json!(["udp", "8.8.8.8", 443, {"protocol": 136}]), "refused EPERM"),
    ];
    let list: Vec<Value> = table.iter().map(|(attempt, _)| attempt.clone()).collect();
    let ended = mesh.bartizan(&[
        "exec",
        "lab/store-0",
        "--",
        "/usr/bin/python3",
        &script,
        &Value::from(list).to_string(),
    ]);
    let lines: Vec<&str> = ended.stdout.lines().collect();
    for ((attempt, expected), got) in table.iter().zip(&lines) {
        assert_eq!(got.trim_matches('"'), *expected, "{attempt}");
    }
    assert_eq!(lines.len(), table.len(), "{ended:?}");
    eventually("drops are counted", Duration::from_secs(10), || dropped() >= 6);

    // DNS goes to the proxy, whatever server the program names; there are only the mesh's names.
    let rows = [
        row(
            json!(["dns", "web.lab.svc.cluster.local", "A", {"server": "8.8.8.8"}]),
            "NOERROR 10.67.*",
        ),
        row(
            json!(["dns", "web.lab.svc.cluster.local", "A", {"server": web}]),
            "NOERROR 10.67.*",
        ),
        row(
            json!(["dns", "web.lab.svc.cluster.local", "A", {"server": "8.8.8.8", "tcp": true}]),
            "NOERROR 10.67.*",
        ),
        row(
            json!(["dns", "secret-data.example.com", "A", {"server": "8.8.8.8"}]),
            "NXDOMAIN",
        ),
        row(
            json!(["dns", "secret-data.example.com", "TXT", {"server": "8.8.8.8", "tcp": true}]),
            "NXDOMAIN",
        ),
    ];
    judge(&mesh, "lab/client", &rows);
    // Refused and written down.
    let list = json!([["dns", "secret-data.example.com", "A", {"server": "8.8.8.8"}], ["dns", "store", "A"]])
        .to_string();
    let ended = mesh.bartizan(&["exec", "lab/store-0", "--", "/usr/bin/python3", &script, &list]);
    assert!(ended.stdout.starts_with("\"NXDOMAIN\""), "{ended:?}");
    eventually("it is logged", Duration::from_secs(5), || {
        let log = mesh.bartizan(&["logs", "lab/store-0", "-c", "proxy"]);
        log.stdout
            .contains("outside the mesh name=\"secret-data.example.com.\"")
    });
}

#[test]
fn outside_addresses_are_refused_and_logged() {
    let mesh = Mesh::up(&documents("lab"));
    let refused = mesh.run_as(
        "lab/client",
        &[
            "curl",
            "-sS",
            "-m",
            "5",
            "-w",
            "%{http_code}",
            "-o",
            "/dev/null",
            "http://203.0.113.7:8080/x",
        ],
    );
    assert_eq!(refused.stdout, "502", "{refused:?}");
    // TLS to the outside: no plaintext answer can be given, so the connection ends.
    let tls = mesh.run_as("lab/client", &["curl", "-sSk", "-m", "5", "https://203.0.113.8/"]);
    assert!(tls.code == 35 || tls.code == 56, "{tls:?}");
    let find = |address: &str| {
        mesh.access_log()
            .into_iter()
            .filter(|entry| entry["downstream_local_address"] == address)
            .collect::<Vec<_>>()
    };
    for address in ["203.0.113.7:8080", "203.0.113.8:443"] {
        eventually("it is logged", Duration::from_secs(5), || {
            find(address).len() == 1
        });
        let entry = find(address).remove(0);
        assert_eq!(entry["response_flags"], "NR", "{entry}");
        assert!(entry.to_string().contains("no way out"), "{entry}");
        assert_eq!(entry["upstream_host"], Value::Null, "{entry}");
    }
}

#[test]
fn a_pod_is_closed() {
    let mesh = Mesh::up(&documents("lab"));
    let supervisor = mesh.supervisor();
    let state = mesh.state().display().to_string();
    // Sockets of the host, for everybody.
    let folder = tempfile::Builder::new().prefix("bait").tempdir().unwrap();
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let path = folder.path().join("host.sock");
    let _named = UnixListener::bind(&path).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o777)).unwrap();
    let name = format!("bartizan-bait-{}", std::process::id());
    let _abstract = UnixListener::bind_addr(&UnixAddress::from_abstract_name(&name).unwrap()).unwrap();
    let path = path.display().to_string();
    let control = format!("{state}/run/control.sock");
    let rows = [
        // Unix sockets of the host.
        both(json!(["unix", path]), "refused ENOENT", "connected"),
        both(
            json!(["unix", format!("@{name}")]),
            "refused ECONNREFUSED",
            "connected",
        ),
        both(json!(["unix", control]), "refused ENOENT", "connected"),
        both(
            json!(["unix", format!("{state}/run/supervisor.sock")]),
            "refused ENOENT",
            "connected",
        ),
        row(json!(["unix", "/run/dbus/system_bus_socket"]), "refused ENOENT"),
        row(json!(["unix", "/var/run/docker.sock"]), "refused ENOENT"),
        // Files.
        both(json!(["listing", state]), "refused ENOENT|", "ca *"),
        row(json!(["listing", "/root"]), ""),
        row(json!(["listing", "/home"]), "app"),
        row(json!(["listing", "/sys"]), "devices"),
        row(json!(["listing", "/run"]), "bartizan lock"),
        row(json!(["write", "/usr/bin/x"]), "refused EROFS"),
        row(json!(["write", "/etc/hosts"]), "refused EROFS"),
        row(json!(["write", "/etc/resolv.conf"]), "refused EROFS"),
        row(json!(["write", "/sys/x"]), "refused EROFS"),
        row(json!(["write", "/run/bartizan/bin/bartizan"]), "refused *"),
        row(
            json!(["write", mesh.documents.join("pods.yaml").display().to_string()]),
            "refused EROFS",
        ),
        row(
            json!(["symlink_write", "/tmp/link", "/usr/bin/x"]),
            "refused EROFS",
        ),
        row(json!(["write", "/proc/sys/net/ipv4/ip_forward"]), "refused *"),
        row(json!(["write", "/proc/sys/kernel/hostname"]), "refused *"),
        row(json!(["write", "/proc/sysrq-trigger"]), "refused *"),
        both(json!(["write", "/tmp/x"]), "written", "written"),
        // Processes: its own and no other.
        row(json!(["processes"]), "1 2 *"),
        both(
            json!(["read", format!("/proc/{supervisor}/cmdline")]),
            "refused ENOENT",
            "*",
        ),
        row(json!(["listing", "/proc/1/fd"]), "refused EACCES"),
        row(json!(["read", "/proc/1/environ"]), "refused EACCES"),
        row(json!(["listing", "/proc/1/root"]), "refused EACCES"),
        row(json!(["read", "/proc/1/mem"]), "refused EACCES"),
        both(json!(["kill", supervisor]), "refused ESRCH", "sent"),
        row(json!(["kill", 1, 9]), "sent"),
        row(json!(["ptrace", 1]), "refused EPERM"),
        row(json!(["ptrace", supervisor]), "refused EPERM"),
        row(json!(["memory", 1]), "refused EPERM"),
        row(json!(["descriptors"]), ""),
        // Sockets of other families.
        row(json!(["make", 17, 3, 768]), "refused EAFNOSUPPORT"),
        row(json!(["make", 2, 3, 6]), "refused EPERM"),
        row(json!(["make", 2, 3, 1]), "refused EPERM"),
        row(json!(["make", 2, 2, 1]), "refused EACCES"),
        row(json!(["make", 10, 3, 58]), "refused EPERM"),
        row(json!(["make", 40, 1]), "refused EAFNOSUPPORT"),
        row(json!(["make", 16, 3, 12]), "refused EAFNOSUPPORT"),
        row(json!(["make", 16, 3, 9]), "refused EAFNOSUPPORT"),
        row(json!(["make", 38, 5]), "refused EAFNOSUPPORT"),
        row(json!(["make", 44, 3]), "refused EAFNOSUPPORT"),
        row(json!(["make", 30, 1]), "refused EAFNOSUPPORT"),
        both(json!(["make", 16, 3, 0]), "made", "made"),
        both(json!(["make", 1, 1]), "made", "made"),
        row(json!(["interface_up"]), "refused EPERM"),
        // Options that would make it the proxy, or another's.
        row(json!(["option", 1, 36, 0x6261_7274]), "refused EPERM"),
        row(json!(["option", 0, 19, 1]), "refused EPERM"),
        row(json!(["option", 1, 12, 7]), "refused EPERM"),
        row(json!(["option", 6, 19, 1]), "refused EPERM"),
        // Namespaces and mounts.
        both(json!(["clone", 0x1000_0000]), "refused EPERM", "made"),
        row(json!(["clone", 0x4000_0000]), "refused EPERM"),
        both(json!(["clone", 0]), "made", "made"),
        both(json!(["call", "unshare", 0x1000_0000]), "refused EPERM", "done"),
        row(json!(["call", "unshare", 0x4000_0000]), "refused EPERM"),
        row(json!(["call", "unshare", 0x2_0000]), "refused EPERM"),
        row(json!(["setns", "/proc/self/ns/net"]), "refused EPERM"),
        row(json!(["setns", "/proc/1/ns/net"]), "refused EACCES"),
        row(json!(["mount", "x", "/tmp", "tmpfs"]), "refused EPERM"),
        row(json!(["mount", "/", "/tmp", "none", 4096]), "refused EPERM"),
        // Calls: chroot, clone3, io_uring, open_tree, fsopen, mount_setattr, pivot_root, swapon, reboot, kexec, init_module, keyctl,
        // bpf, perf, userfaultfd, open_by_handle_at, process_vm_readv, kcmp, syslog.
        row(json!(["syscall", 161, 0]), "refused EPERM"),
        row(json!(["syscall", 435, 0, 0]), "refused ENOSYS"),
        row(json!(["syscall", 425, 1, 0]), "refused ENOSYS"),
        row(json!(["syscall", 428, -100, 0, 0]), "refused EPERM"),
        row(json!(["syscall", 430, 0, 0]), "refused EPERM"),
        row(json!(["syscall", 442, 0, 0, 0, 0, 0]), "refused EPERM"),
        row(json!(["syscall", 155, 0, 0]), "refused EPERM"),
        row(json!(["syscall", 169, 0, 0, 0, 0]), "refused EPERM"),
        row(json!(["syscall", 246, 0, 0, 0, 0]), "refused EPERM"),
        row(json!(["syscall", 175, 0, 0, 0]), "refused EPERM"),
        row(json!(["syscall", 250, 0, 0, 0]), "refused EPERM"),
        row(json!(["syscall", 321, 0, 0, 0]), "refused EPERM"),
        row(json!(["syscall", 298, 0, 0, -1, -1, 0]), "refused EPERM"),
        row(json!(["syscall", 323, 0]), "refused EPERM"),
        row(json!(["syscall", 304, -1, 0, 0]), "refused EPERM"),
        row(json!(["syscall", 312, 1, 1, 0, 0, 0]), "refused EPERM"),
        row(json!(["syscall", 103, 2, 0, 0]), "refused EPERM"),
        // The other ways into the kernel, whose numbers mean other calls.
        row(json!(["old_call", 310, 0x1000_0000]), "killed|refused *"),
        row(
            json!(["syscall", 0x4000_0110, 0x1000_0000]),
            "refused ENOSYS|refused EPERM",
        ),
        // What it is.
        row(json!(["status", "CapEff"]), "0000000000000000"),
        row(json!(["status", "CapPrm"]), "0000000000000000"),
        row(json!(["status", "CapBnd"]), "0000000000000000"),
        row(json!(["status", "CapAmb"]), "0000000000000000"),
        row(json!(["status", "NoNewPrivs"]), "1"),
        row(json!(["status", "Seccomp"]), "2"),
        row(json!(["status", "Uid"]), "65532 65532 65532 65532"),
    ];
    judge(&mesh, "lab/client", &rows);
    // It all still stands.
    assert!(bartizan_tests::is_alive(supervisor));
    assert!(
        mesh.status()["workloads"]
            .as_array()
            .into_iter()
            .flatten()
            .all(|pod| pod["proxyRestarts"] == 0)
    );
}

#[test]
fn a_program_run_from_anywhere_starts_and_sees_no_state() {
    let mesh = Mesh::up(&documents("lab"));
    let state: PathBuf = mesh.state();
    // A socket of an agent, in a directory that everybody shares.
    let folder = tempfile::Builder::new().prefix("agent").tempdir().unwrap();
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let socket = folder.path().join("agent.sock");
    let _agent = UnixListener::bind(&socket).unwrap();
    std::fs::set_permissions(&socket, std::fs::Permissions::from_mode(0o777)).unwrap();
    let socket = socket.display().to_string();
    assert_eq!(attempts_outside(&mesh, &[json!(["unix", socket])]), ["connected"]);
    let script = std::fs::read_to_string(mesh.documents.join("inside.py")).unwrap();
    let list = json!([
        ["unix", socket],
        ["listing", format!("{}/ca", state.display())],
        ["read", format!("{}/run/admin.url", state.display())],
        ["unix", format!("{}/run/control.sock", state.display())],
    ])
    .to_string();
    for place in [
        "/",
        "/tmp",
        "/etc",
        "/dev",
        state.parent().unwrap().to_str().unwrap(),
    ] {
        let mut command = mesh.command(&[
            "run",
            "--as",
            "lab/client",
            "--",
            "/usr/bin/python3",
            "-c",
            &script,
            &list,
        ]);
        command.current_dir(place);
        let ended = bartizan_tests::run(command, Duration::from_secs(20));
        assert!(ended.stderr.contains("is not shared"), "from {place}: {ended:?}");
        let lines: Vec<&str> = ended.stdout.lines().collect();
        assert_eq!(lines.len(), 4, "from {place}: {ended:?}");
        assert!(
            lines.iter().all(|line| line.starts_with("\"refused ENOENT")),
            "from {place}: {ended:?}"
        );
    }
    // A place that cannot be shared says so at once.
    let mut command = mesh.command(&["run", "--as", "lab/client", "--", "/bin/true"]);
    command.current_dir(&state);
    let started = std::time::Instant::now();
    let ended = bartizan_tests::run(command, Duration::from_secs(20));
    assert_eq!(ended.code, 1, "{ended:?}");
    assert!(ended.stderr.contains("state directory"), "{ended:?}");
    assert!(
        started.elapsed() < Duration::from_secs(5),
        "{:?}",
        started.elapsed()
    );
}

#[test]
fn the_host_does_not_reach_into_pods() {
    let mesh = Mesh::up(&documents("lab"));
    let web = addresses(&mesh, "web-0").remove(0);
    // Whatever this machine's network answers for such an address: the pod hears nothing of it.
    let url = format!("http://{web}:8080/from-the-host");
    let ended = host("curl", &["--noproxy", "*", "-sS", "-m", "2", &url]);
    assert!(!ended.stdout.contains("web-0"), "{ended:?}");
    let routes = std::fs::read_to_string("/proc/net/route").unwrap();
    assert!(
        !routes
            .lines()
            .any(|line| line.split('\t').nth(1).is_some_and(|to| to.ends_with("420A"))),
        "{routes}"
    );
    // From inside it is heard and logged, so the log would show it.
    let inside = mesh.run_as(
        "lab/client",
        &["curl", "-sS", "-m", "5", &url.replace("host", "pod")],
    );
    assert!(inside.stdout.contains("web-0"), "{inside:?}");
    let heard = |path: &str| mesh.access_log().iter().any(|entry| entry["path"] == path);
    eventually("it is logged", Duration::from_secs(5), || heard("/from-the-pod"));
    assert!(!heard("/from-the-host"));
}
