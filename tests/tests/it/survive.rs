//! Whatever is killed comes back; what cannot start says why and leaves nothing.

use std::io::{BufRead as _, BufReader, Read as _};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use bartizan_tests::http::{get, metric};
use bartizan_tests::load::{Load, LoadPlan};
use bartizan_tests::{
    Ended, Mesh, Start, binary, descendants, eventually, is_alive, kill, repository, run, skip, unprivileged,
};
use bartizan_tests::{Privilege, USER};
use nix::sys::signal::Signal;

const ECHO: &[&str] = &["bartizan", "echo", "--name", "web"];

#[test]
fn a_killed_application_is_started_again_with_back_off() {
    let mesh = Mesh::up(&Start::scene("lab"));
    let load = Load::start(&LoadPlan::new(&mesh.gateway(), &["/web/x"]));
    load.more(50);
    let restarts = || {
        let mut all: Vec<u64> = ["web-0", "web-1"]
            .iter()
            .map(|name| {
                mesh.workload("lab", name)["containers"][0]["restarts"]
                    .as_u64()
                    .unwrap()
            })
            .collect();
        all.sort_unstable();
        all
    };
    // One of the two is killed again and again.
    let both = mesh.processes(ECHO);
    let other = both[1];
    let mut victim = both[0];
    let mut waits = Vec::new();
    for round in 1..5 {
        let killed = Instant::now();
        kill(victim, Signal::SIGKILL);
        eventually("it was started again", Duration::from_secs(30), || {
            let now = mesh.processes(ECHO);
            let successor = now
                .iter()
                .find(|process| **process != other && **process != victim);
            match successor {
                Some(successor) if now.len() == 2 && restarts()[1] == round => {
                    victim = *successor;
                    true
                }
                _ => false,
            }
        });
        waits.push(killed.elapsed());
        mesh.settle();
    }
    eprintln!("started again after {waits:?}");
    assert!(waits[3] > waits[1], "no back-off: {waits:?}");
    // A request that was in the killed process is lost with it. None other is: what could not be handed to a dead
    // application is sent to the other replica.
    let outcome = load.finish();
    for failure in &outcome.failures {
        assert!(
            failure
                .reason
                .contains("upstream closed the connection before it answered"),
            "{failure:?}"
        );
    }
    assert!(outcome.failed <= 4 * 4, "{:?}", outcome.failures);
    eprintln!(
        "{} answered, {} were in a killed process",
        outcome.answered, outcome.failed
    );
}

/// Waits until all threads of a killed process are gone, and its connections with them: until then a request may be written
/// to it, and nobody can say whether it was taken.
fn gone(process: i32) {
    let place = PathBuf::from(format!("/proc/{process}"));
    eventually("the process is gone", Duration::from_secs(2), || !place.exists());
}

#[test]
fn a_killed_proxy_comes_back_as_itself_also_without_the_control_plane() {
    let mesh = Mesh::up(&Start::scene("lab"));
    let gateway = mesh.gateway();
    assert_eq!(get(&gateway, "/front/x", &[]).unwrap().status, 200);
    let expiry = |name: &str| {
        metric(
            &mesh.metrics("lab", name),
            "bartizan_certificate_expiry_timestamp_seconds",
            &[],
        )
    };
    let restarts = |name: &str| mesh.workload("lab", name)["proxyRestarts"].as_u64().unwrap();
    for name in ["front-0", "web-0", "edge-bartizan-0"] {
        let before = expiry(name);
        let old = mesh.proxy_of("lab", name);
        let killed = Instant::now();
        kill(old, Signal::SIGKILL);
        gone(old);
        // The listening sockets outlive it: whoever connects waits, and is answered by the successor.
        let answer = get(&gateway, "/front/x", &[]);
        let answer = answer.unwrap_or_else(|error| panic!("{name}: {error}\n{}", mesh.last_words()));
        assert_eq!(
            answer.status,
            200,
            "{name}: {}\n{}",
            answer.text(),
            mesh.last_words()
        );
        eprintln!(
            "{name}: answered {:?} after its proxy was killed",
            killed.elapsed()
        );
        eventually(
            "the successor has the same certificate",
            Duration::from_secs(3),
            || restarts(name) == 1 && (expiry(name) - before).abs() < 0.5,
        );
        assert_ne!(mesh.proxy_of("lab", name), old);
    }

    // The same while nobody answers for the control plane.
    let control = mesh.control_plane();
    kill(control, Signal::SIGSTOP);
    for name in ["front-0", "web-1", "edge-bartizan-0"] {
        let before = expiry(name);
        let old = mesh.proxy_of("lab", name);
        kill(old, Signal::SIGKILL);
        gone(old);
        let answer = get(&gateway, "/front/x", &[]);
        let answer = answer.unwrap_or_else(|error| panic!("{name}: {error}\n{}", mesh.last_words()));
        assert_eq!(
            answer.status,
            200,
            "{name}: {}\n{}",
            answer.text(),
            mesh.last_words()
        );
        eventually(
            "the successor has the same certificate",
            Duration::from_secs(3),
            || (expiry(name) - before).abs() < 0.5,
        );
        // Policy holds from the snapshot: what was denied is.
        assert_eq!(get(&gateway, "/nowhere", &[]).unwrap().status, 403);
    }
    kill(control, Signal::SIGCONT);
    mesh.settle();
    mesh.edit_document("policies.yaml", r#""/web", "/web/*", "#, "");
    eventually(
        "the successors follow the control plane again",
        Duration::from_secs(3),
        || get(&gateway, "/web/x", &[]).is_ok_and(|answer| answer.status == 403),
    );
}

#[test]
fn a_killed_control_plane_comes_back_from_its_state_and_nothing_is_lost() {
    let mesh = Mesh::up(&Start::scene("lab"));
    let load = Load::start(&LoadPlan::new(&mesh.gateway(), &["/web/x", "/front/x"]));
    let mut version = mesh.status()["version"].as_u64().unwrap();
    for round in 0..3 {
        let old = mesh.control_plane();
        kill(old, Signal::SIGKILL);
        load.more(50);
        // A question that is asked meanwhile waits in the socket's backlog.
        mesh.settle();
        assert_ne!(mesh.control_plane(), old);
        let status = mesh.status();
        let now = status["version"].as_u64().unwrap();
        assert!(now >= version, "round {round}: version {now} after {version}");
        version = now;
        assert_eq!(status["workloads"].as_array().unwrap().len(), 5);
        for (from, to) in [
            (r#""POST"]"#, r#""POST", "PUT"]"#),
            (r#""POST", "PUT"]"#, r#""POST"]"#),
        ] {
            mesh.edit_document("policies.yaml", from, to);
            eventually(
                "the change has a version of its own",
                Duration::from_secs(2),
                || mesh.status()["version"].as_u64().unwrap() > version,
            );
            version = mesh.status()["version"].as_u64().unwrap();
        }
        mesh.settle();
    }
    // Killed while the documents on disk are broken: the accepted ones go on, and the finding is told.
    mesh.edit_document("policies.yaml", "action: ALLOW", "action: ALOW");
    eventually("the broken file is refused", Duration::from_secs(2), || {
        mesh.status()["refused"] == true
    });
    kill(mesh.control_plane(), Signal::SIGKILL);
    load.more(50);
    eventually("the successor refuses it too", Duration::from_secs(5), || {
        let ended = mesh.bartizan(&["status", "--output", "json"]);
        serde_json::from_str::<serde_json::Value>(&ended.stdout).is_ok_and(|status| status["refused"] == true)
    });
    let status = mesh.status();
    assert!(status["version"].as_u64().unwrap() >= version);
    assert_eq!(status["workloads"].as_array().unwrap().len(), 5);
    mesh.edit_document("policies.yaml", "action: ALOW", "action: ALLOW");
    mesh.settle();
    load.more(50);
    load.finish().assert_nothing_lost(|| mesh.last_words());
    let status = mesh.status();
    for workload in status["workloads"].as_array().unwrap() {
        assert_eq!(workload["proxyRestarts"], 0, "{workload}");
    }
}

#[test]
fn everything_is_killed_at_once_and_comes_back() {
    let mesh = Mesh::up(&Start::scene("lab"));
    let gateway = mesh.gateway();
    assert_eq!(get(&gateway, "/front/x", &[]).unwrap().status, 200);
    let mut victims = mesh.processes(&["bartizan", "internal", "proxy"]);
    assert_eq!(victims.len(), 5);
    victims.extend(mesh.processes(&["bartizan", "echo"]));
    victims.push(mesh.control_plane());
    for victim in victims {
        kill(victim, Signal::SIGKILL);
    }
    eventually("everything serves again", Duration::from_secs(10), || {
        get(&gateway, "/front/x", &[]).is_ok_and(|answer| answer.status == 200)
    });
    mesh.settle();
    // The sandbox's own first process is what everything stands on: its death is the mesh's end, and nothing stays.
    let all = descendants(mesh.supervisor());
    let supervisor = mesh.supervisor();
    let init = mesh.processes(&["bartizan", "internal", "sandbox-init"])[0];
    kill(init, Signal::SIGKILL);
    eventually("the mesh has ended", Duration::from_secs(10), || {
        !is_alive(supervisor) && !all.iter().any(|process| is_alive(*process))
    });
    assert_eq!(mesh.bartizan(&["status"]).code, 5);
}

/// `up` of the small mesh in its own folder, without [`Mesh`], for starts that shall fail.
struct Try {
    folder: tempfile::TempDir,
}

impl Try {
    fn new() -> Self {
        let folder = tempfile::Builder::new().prefix("bz").tempdir().unwrap();
        let documents = folder.path().join("documents");
        std::fs::create_dir(&documents).unwrap();
        for entry in std::fs::read_dir(repository().join("tests/scenes/lab"))
            .unwrap()
            .flatten()
        {
            std::fs::copy(entry.path(), documents.join(entry.file_name())).unwrap();
        }
        give(folder.path());
        Self { folder }
    }

    fn documents(&self) -> PathBuf {
        self.folder.path().join("documents")
    }

    fn command(&self, state: &Path, arguments: &[&str]) -> Command {
        let mut command = unprivileged(Privilege::None, binary());
        command
            .arg("--state")
            .arg(state)
            .args(arguments)
            .env("HOME", self.folder.path())
            .current_dir(self.folder.path());
        command
    }

    /// Runs `up` in the foreground to its end, which has to come by itself.
    fn up(&self, state: &Path, more: &[&str]) -> Ended {
        let documents = self.documents().display().to_string();
        let mut arguments = vec!["up"];
        arguments.extend(more);
        arguments.push(&documents);
        run(self.command(state, &arguments), Duration::from_mins(1))
    }
}

impl Drop for Try {
    /// Whatever a failed assertion has left running ends.
    fn drop(&mut self) {
        for state in ["state", "disk/state"] {
            let state = self.folder.path().join(state);
            if state.exists() {
                run(self.command(&state, &["down"]), Duration::from_secs(30));
            }
        }
        let disk = self.folder.path().join("disk");
        if disk.exists() {
            let mut unmount = Command::new("umount");
            unmount.arg("--quiet").arg(disk);
            run(unmount, Duration::from_secs(5));
        }
    }
}

fn give(path: &Path) {
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    std::os::unix::fs::chown(path, Some(USER), Some(USER)).unwrap();
    if path.is_dir() {
        for entry in std::fs::read_dir(path).unwrap().flatten() {
            give(&entry.path());
        }
    }
}

/// Processes that name this state directory, or hold something below it.
fn left_over(state: &Path) -> Vec<i32> {
    let text = state.display().to_string();
    bartizan_tests::processes_of(&text)
        .into_iter()
        .map(|(process, _)| process)
        .filter(|process| is_alive(*process))
        .collect()
}

fn sockets(state: &Path) -> usize {
    std::fs::read_dir(state.join("run")).map_or(0, |entries| entries.flatten().count())
}

#[test]
fn what_cannot_start_says_what_to_do_and_leaves_nothing() {
    let attempt = Try::new();
    let state = attempt.folder.path().join("state");
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let nothing_left = |what: &str| {
        assert_eq!(left_over(&state), Vec::<i32>::new(), "{what}");
        assert_eq!(sockets(&state), 0, "{what}");
    };

    // The admin page's port.
    let ended = attempt.up(&state, &["--admin-port", &port]);
    assert_eq!(ended.code, 1, "{ended:?}");
    assert!(
        ended.stderr.contains(&port) && ended.stderr.contains("--admin-port"),
        "{}",
        ended.stderr
    );
    nothing_left("a taken admin port");

    // A gateway's port.
    let mesh = attempt.documents().join("mesh.yaml");
    let text = std::fs::read_to_string(&mesh).unwrap();
    std::fs::write(&mesh, text.replace("127.0.0.1:0", &format!("127.0.0.1:{port}"))).unwrap();
    let ended = attempt.up(&state, &[]);
    assert_eq!(ended.code, 1, "{ended:?}");
    assert!(
        ended.stderr.contains(&format!("127.0.0.1:{port}")) && ended.stderr.contains("in use"),
        "{}",
        ended.stderr
    );
    nothing_left("a taken gateway port");
    std::fs::write(&mesh, &text).unwrap();

    // Documents with an error.
    let policies = attempt.documents().join("policies.yaml");
    let good = std::fs::read_to_string(&policies).unwrap();
    std::fs::write(&policies, good.replace("ALLOW", "ALOW")).unwrap();
    let ended = attempt.up(&state, &[]);
    assert_eq!(ended.code, 3, "{ended:?}");
    assert!(
        ended.stderr.contains("error[BZ") && ended.stderr.contains("nothing was started"),
        "{}",
        ended.stderr
    );
    std::fs::write(&policies, good).unwrap();
    nothing_left("documents with errors");

    // A folder that is not ours, a file where a folder should be, a folder without write permission.
    let file = attempt.folder.path().join("file");
    std::fs::write(&file, "").unwrap();
    let locked = attempt.folder.path().join("locked");
    std::fs::create_dir(&locked).unwrap();
    std::fs::set_permissions(&locked, std::os::unix::fs::PermissionsExt::from_mode(0o500)).unwrap();
    give(&locked);
    for place in [
        Path::new("/proc/state"),
        &file,
        &file.join("state"),
        &locked.join("state"),
        Path::new("/usr"),
    ] {
        let ended = attempt.up(place, &[]);
        assert_eq!(ended.code, 1, "{}: {ended:?}", place.display());
        assert!(
            ended.stderr.contains(&place.display().to_string()) && ended.stderr.contains("--state"),
            "{}: {}",
            place.display(),
            ended.stderr
        );
        assert_eq!(ended.stderr.matches("error: ").count(), 1, "{}", ended.stderr);
    }

    // A state directory in the documents' folder, with a run directory too deep for a socket, works.
    let deep = attempt
        .folder
        .path()
        .join("a-rather-long-name-for-a-folder/and-one-more-below-it/state");
    let up = run(
        attempt.command(
            &deep,
            &["up", "--detach", &attempt.documents().display().to_string()],
        ),
        Duration::from_mins(1),
    );
    assert_eq!(up.code, 0, "{up:?}");
    // A second mesh of the same name is refused, and the first one goes on.
    let second = attempt.up(&deep, &[]);
    assert_eq!(second.code, 1, "{second:?}");
    assert!(
        second.stderr.contains("runs already") && second.stderr.contains("bartizan down"),
        "{}",
        second.stderr
    );
    let status = run(
        attempt.command(&deep, &["status", "--wait", "10s"]),
        Duration::from_secs(20),
    );
    assert_eq!(status.code, 0, "{status:?}");
    let down = run(attempt.command(&deep, &["down"]), Duration::from_secs(30));
    assert_eq!(down.code, 0, "{down:?}");
    eventually("nothing is left", Duration::from_secs(3), || {
        left_over(&deep).is_empty()
    });
    let again = run(attempt.command(&deep, &["status"]), Duration::from_secs(5));
    assert_eq!(again.code, 5, "{again:?}");
}

#[test]
fn a_full_disk_is_said_and_does_not_stop_what_runs() {
    if !nix::unistd::geteuid().is_root() {
        skip("a full disk needs root, to mount a small file system");
        return;
    }
    let attempt = Try::new();
    let disk = attempt.folder.path().join("disk");
    std::fs::create_dir(&disk).unwrap();
    let mount = |size: &str| {
        let mut mount = Command::new("mount");
        mount
            .args([
                "-t",
                "tmpfs",
                "-o",
                &format!("size={size},mode=0700,uid={USER},gid={USER}"),
                "tmpfs",
            ])
            .arg(&disk);
        let ended = run(mount, Duration::from_secs(5));
        assert_eq!(ended.code, 0, "{ended:?}");
    };
    let unmount = || {
        let mut unmount = Command::new("umount");
        unmount.arg(&disk);
        run(unmount, Duration::from_secs(5))
    };
    let state = disk.join("state");

    // Full from the beginning.
    mount("64k");
    std::fs::write(disk.join("filler"), vec![0; 48 * 1024]).unwrap();
    let full = attempt.up(&state, &[]);
    unmount();
    assert_eq!(full.code, 1, "{full:?}");
    assert!(
        full.stderr.contains("space") && full.stderr.contains("--state"),
        "{}",
        full.stderr
    );
    assert_eq!(left_over(&state), Vec::<i32>::new());

    // Full while it runs: requests, changes and restarts go on; only what is kept on disk is not.
    mount("8m");
    let documents = attempt.documents().display().to_string();
    let up = run(
        attempt.command(&state, &["up", "--detach", "--output", "json", &documents]),
        Duration::from_mins(1),
    );
    assert_eq!(up.code, 0, "{up:?}");
    let summary: serde_json::Value = serde_json::from_str(&up.stdout).unwrap();
    let gateway = summary["status"]["gateways"][0]["addresses"][0]
        .as_str()
        .unwrap()
        .to_owned();
    let filler = disk.join("filler");
    let mut written = 0;
    let chunk = vec![0; 4096];
    let mut file = std::fs::File::create(&filler).unwrap();
    while std::io::Write::write_all(&mut file, &chunk).is_ok() {
        written += 1;
    }
    assert!(written > 100);
    let load = Load::start(&LoadPlan::new(&gateway, &["/web/x", "/front/x"]));
    load.more(200);
    let policies = attempt.documents().join("policies.yaml");
    let good = std::fs::read_to_string(&policies).unwrap();
    std::fs::write(&policies, good.replace(r#""/slow/*""#, r#""/slow/*", "/more""#)).unwrap();
    eventually(
        "a change is served, or said not to be",
        Duration::from_secs(3),
        || {
            let status = run(
                attempt.command(&state, &["status", "--output", "json"]),
                Duration::from_secs(10),
            );
            let status: serde_json::Value = serde_json::from_str(&status.stdout).unwrap();
            get(&gateway, "/more", &[]).is_ok_and(|answer| answer.status == 404)
                || status["findings"]
                    .as_array()
                    .is_some_and(|all| all.iter().any(|one| one.to_string().contains("space")))
        },
    );
    load.finish().assert_nothing_lost(String::new);
    drop(file);
    std::fs::remove_file(&filler).unwrap();
    let down = run(attempt.command(&state, &["down"]), Duration::from_secs(30));
    assert_eq!(down.code, 0, "{down:?}");
    eventually("nothing holds the disk", Duration::from_secs(3), || {
        unmount().code == 0
    });
}

#[test]
fn ctrl_c_in_the_foreground_drains_and_leaves_nothing() {
    let attempt = Try::new();
    let state = attempt.folder.path().join("state");
    let documents = attempt.documents().display().to_string();
    // Without a terminal, as a script or a service manager runs it.
    let mut up = attempt
        .command(&state, &["up", &documents])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut read = BufReader::new(up.stdout.take().unwrap());
    let mut summary = String::new();
    while !summary.contains("leaves nothing behind") {
        let mut line = String::new();
        assert_ne!(read.read_line(&mut line).unwrap(), 0, "it ended: {summary}");
        summary += &line;
    }
    for part in [
        "lab/web-0",
        "cluster.local/ns/lab/sa/web",
        "STRICT",
        "ready",
        "gateway",
        "admin page",
        " can lab/",
    ] {
        assert!(summary.contains(part), "`{part}` is not in {summary}");
    }
    assert!(
        !summary.contains('\x1b'),
        "colours without a terminal: {summary:?}"
    );
    let gateway = summary
        .split("http://")
        .nth(1)
        .unwrap()
        .split_whitespace()
        .next()
        .unwrap()
        .to_owned();
    assert_eq!(get(&gateway, "/front/x", &[]).unwrap().status, 200);
    let supervisor = i32::try_from(up.id()).unwrap();
    let all = descendants(supervisor);
    assert!(all.len() > 10, "{all:?}");

    // What is open is finished first.
    let address = gateway.clone();
    let begun = std::thread::spawn(move || get(&address, "/slow/20", &[]));
    let socket = state.join("run/proxy-lab-slow-0.sock");
    eventually("the request is on its way", Duration::from_secs(3), || {
        let metrics = bartizan_tests::http::get_unix(&socket, "/metrics")
            .map_or_else(|_| String::new(), |answer| answer.text());
        metric(&metrics, "bartizan_connections_open", &[("direction", "inbound")]) >= 1.0
    });
    kill(supervisor, Signal::SIGINT);
    let answer = begun.join().unwrap();
    let ended = up.wait().unwrap();
    let mut complaints = String::new();
    up.stderr.take().unwrap().read_to_string(&mut complaints).unwrap();
    assert_eq!(ended.code(), Some(0), "{complaints}");
    let answer = answer.unwrap_or_else(|error| panic!("{error}: {complaints}"));
    assert_eq!(answer.text(), "line\n".repeat(20));
    eventually("every process is gone", Duration::from_secs(2), || {
        !all.iter().any(|process| is_alive(*process))
    });
    assert_eq!(sockets(&state), 0);
    assert!(
        TcpListener::bind(&gateway).is_ok(),
        "the gateway's port is still taken"
    );
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
    assert!(!mounts.contains(&state.display().to_string()), "{mounts}");
}

#[test]
fn what_programs_read_is_json() {
    let mesh = Mesh::up(&Start::scene("lab"));
    assert!(
        mesh.summary["adminUrl"]
            .as_str()
            .unwrap()
            .starts_with("http://127.0.0.1:")
    );
    assert!(mesh.summary["startedInMillis"].as_u64().unwrap() > 0);
    let _ = get(&mesh.gateway(), "/nowhere", &[]).unwrap();
    let documents = mesh.documents.display().to_string();
    let denied = ["explain", "--last-denied", "--output", "json"];
    eventually("the denial can be explained", Duration::from_secs(3), || {
        mesh.bartizan(&denied).code == 0
    });
    let cases: [(&[&str], i32); 7] = [
        (&["status", "--output", "json"], 0),
        (&["status", "--dump", "all"], 0),
        (&["status", "--dump", "lab/web-0"], 0),
        (&["check", "--output", "json", &documents], 0),
        (
            &[
                "can",
                "--output",
                "json",
                "lab/caller",
                "web.lab",
                "GET",
                "/web/public/1",
            ],
            0,
        ),
        (
            &[
                "can",
                "--output",
                "json",
                "lab/stranger",
                "web.lab",
                "GET",
                "/web/public/1",
            ],
            4,
        ),
        (&denied, 0),
    ];
    for (arguments, code) in cases {
        let ended = mesh.bartizan(arguments);
        assert_eq!(ended.code, code, "{arguments:?}: {ended:?}");
        let parsed: Result<serde_json::Value, _> = serde_json::from_str(&ended.stdout);
        assert!(parsed.is_ok(), "{arguments:?}: {}", ended.stdout);
    }
    let called = mesh.bartizan(&[
        "call",
        "--output",
        "json",
        "--as",
        "lab/caller",
        "http://web.lab:8080/web/public/1",
    ]);
    assert_eq!(called.code, 0, "{called:?}");
    assert!(
        serde_json::from_str::<serde_json::Value>(&called.stdout).is_ok(),
        "{}",
        called.stdout
    );
}

#[test]
fn a_host_without_namespaces_is_told_which_setting_to_change() {
    let attempt = Try::new();
    let state = attempt.folder.path().join("state");
    // A user namespace in which no other may be made, and a user in it without any privilege.
    let script = r#"echo 0 > /proc/sys/user/max_user_namespaces || exit 99; exec setpriv --bounding-set -all --inh-caps -all "$@""#;
    let bartizan = binary().display().to_string();
    let (state_text, documents) = (
        state.display().to_string(),
        attempt.documents().display().to_string(),
    );
    let mut command = unprivileged(Privilege::None, Path::new("unshare"));
    command
        .args([
            "--user",
            "--map-user=1000",
            "--map-group=1000",
            "--keep-caps",
            "sh",
            "-c",
            script,
            "sh",
        ])
        .args([&bartizan, "--state", &state_text, "up", &documents])
        .env("HOME", attempt.folder.path())
        .current_dir(attempt.folder.path());
    let ended = run(command, Duration::from_secs(30));
    if ended.code == 99 {
        skip(&format!(
            "the number of user namespaces cannot be limited here: {}",
            ended.stderr
        ));
        return;
    }
    assert_eq!(ended.code, 6, "{ended:?}");
    assert!(
        ended.stderr.contains("max_user_namespaces") && ended.stderr.contains("nothing was started"),
        "{}",
        ended.stderr
    );
    assert_eq!(left_over(&state), Vec::<i32>::new());
    assert_eq!(sockets(&state), 0);
}

#[test]
fn proxies_are_killed_under_load_and_only_what_was_in_them_is_lost() {
    let mesh = Mesh::up(&Start::scene("lab"));
    let load = Load::start(&LoadPlan::new(&mesh.gateway(), &["/web/x", "/front/x"]));
    load.more(100);
    let victims = ["web-0", "front-0", "web-1", "edge-bartizan-0", "web-0"];
    for (round, name) in victims.into_iter().enumerate() {
        let old = mesh.proxy_of("lab", name);
        kill(old, Signal::SIGKILL);
        gone(old);
        load.more(100);
        eventually("the restart is reported", Duration::from_secs(5), || {
            let restarts = mesh.workload("lab", name)["proxyRestarts"].as_u64().unwrap();
            restarts == if round == 4 { 2 } else { 1 }
        });
        mesh.settle();
    }
    let outcome = load.finish();
    eprintln!(
        "{} answered, {} lost, {} stale: {:?}",
        outcome.answered, outcome.failed, outcome.stale, outcome.failures
    );
    // Four connections with a request each, over two hops.
    assert!(
        outcome.failed <= 4 * 5,
        "{:?}\n{}",
        outcome.failures,
        mesh.last_words()
    );
    for failure in &outcome.failures {
        let is_cut = failure
            .reason
            .contains("upstream closed the connection before it answered")
            || failure.reason.contains("connection closed before")
            || failure.reason.contains("connection error")
            || failure.reason.contains("502")
            || failure.reason.contains("connection: ");
        assert!(is_cut, "{failure:?}");
    }
}

#[test]
fn certificates_that_ended_while_the_authority_was_away_are_replaced() {
    let mesh = Mesh::up(&Start::scene("lab").with(&["--svid-ttl", "10s"]));
    let gateway = mesh.gateway();
    assert_eq!(get(&gateway, "/front/x", &[]).unwrap().status, 200);
    let control = mesh.control_plane();
    kill(control, Signal::SIGSTOP);
    let names = ["edge-bartizan-0", "front-0", "web-0", "web-1", "slow-0"];
    let now = || {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        since.unwrap().as_secs_f64()
    };
    let ends = |name: &str| {
        let metrics = mesh.metrics("lab", name);
        metric(&metrics, "bartizan_certificate_expiry_timestamp_seconds", &[])
    };
    eventually("all certificates have ended", Duration::from_secs(20), || {
        names
            .iter()
            .all(|name| ends(name) > 0.0 && ends(name) + 1.0 < now())
    });
    // What is open stays open. What is opened anew is refused: nobody believes an identity that has ended.
    assert_eq!(get(&gateway, "/front/x", &[]).unwrap().status, 200);
    let refused = get(&gateway, "/slow/1", &[]).unwrap();
    assert_eq!(refused.status, 503, "{refused:?}");
    let metrics = mesh.metrics("lab", "edge-bartizan-0");
    assert!(
        metric(&metrics, "bartizan_tls_refused_total", &[("reason", "expired")]) >= 1.0,
        "{metrics}"
    );
    kill(control, Signal::SIGCONT);
    let back = Instant::now();
    for path in ["/web/x", "/slow/1", "/front/x"] {
        eventually(
            &format!("{path} is answered again"),
            Duration::from_secs(15),
            || get(&gateway, path, &[]).is_ok_and(|answer| answer.status == 200),
        );
    }
    eprintln!("everything is answered again after {:?}", back.elapsed());
    mesh.settle();
    assert!(names.iter().all(|name| ends(name) > now()));
}
