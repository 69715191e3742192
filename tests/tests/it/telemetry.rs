//! The mission-system example, as its README says.

use std::process::Command;
use std::time::Duration;

use bartizan_tests::{Mesh, Start, descendants, eventually, is_alive, run};

fn curl(arguments: &[&str]) -> bartizan_tests::Ended {
    let mut command = Command::new("curl");
    command
        .args(["-s", "-m", "10", "-w", "\n%{http_code}"])
        .args(arguments);
    run(command, Duration::from_secs(20))
}

fn status_of(ended: &bartizan_tests::Ended) -> &str {
    ended.stdout.lines().last().unwrap_or_default()
}

#[test]
fn a_reading_goes_through_every_hop_and_comes_back() {
    let mesh = Mesh::up(&Start::example("telemetry"));
    let gateway = mesh.gateway();
    let readings = format!("http://{gateway}/v1/readings");
    let cleared = mesh.cleared();
    let posted = curl(&["-H", &cleared, "-d", r#"{"sensor":"s1","value":21.5}"#, &readings]);
    assert_eq!(status_of(&posted), "200", "{posted:?}\n{}", mesh.last_words());
    let read = curl(&["-H", &cleared, &readings]);
    assert_eq!(status_of(&read), "200", "{read:?}\n{}", mesh.last_words());
    assert!(
        read.stdout.contains("21.5") && read.stdout.contains("checked"),
        "{}",
        read.stdout
    );
    let canary = curl(&["-D", "-", "-H", &cleared, "-H", "x-canary: always", &readings]);
    assert!(canary.stdout.contains("x-served-by: canary"), "{}", canary.stdout);
    assert!(
        canary.stdout.contains("telemetry-query-canary"),
        "{}",
        canary.stdout
    );

    let denied = curl(&["-D", "-", "-H", &cleared, &format!("http://{gateway}/admin")]);
    assert!(denied.stdout.contains("403"), "{}", denied.stdout);
    let explained = mesh.bartizan(&["explain", "--last-denied"]);
    assert_eq!(explained.code, 0, "{}", explained.stderr);
    assert!(explained.stdout.contains("edge-policy"), "{}", explained.stdout);
    assert!(
        explained.stdout.contains("policies.yaml:"),
        "{}",
        explained.stdout
    );
}

#[test]
fn only_the_processor_may_post_to_ingest() {
    let mesh = Mesh::up(&Start::example("telemetry"));
    let post = |identity: &str, path: &str| {
        mesh.run_as(
            identity,
            &[
                "curl",
                "-s",
                "-m",
                "10",
                "-o",
                "/dev/null",
                "-w",
                "%{http_code}",
                "-d",
                "{}",
                &format!("http://telemetry-ingest.mission-services:8080{path}"),
            ],
        )
    };
    let allowed = post("mission-services/data-processor", "/v1/ingest/x");
    assert_eq!(allowed.stdout, "200", "{allowed:?}\n{}", mesh.last_words());
    for (identity, path) in [
        ("mission-services/telemetry-query", "/v1/ingest/x"),
        ("mission-services/data-processor", "/v1/other"),
        ("sensors/sensor-gateway", "/v1/ingest/x"),
    ] {
        let denied = post(identity, path);
        assert_eq!(denied.stdout, "403", "{identity} {path}: {denied:?}");
    }
}

#[test]
fn down_leaves_nothing_and_so_does_a_killed_supervisor() {
    let mesh = Mesh::up(&Start::example("telemetry"));
    let supervisor = mesh.supervisor();
    let processes = descendants(supervisor);
    assert!(processes.len() > 16, "{processes:?}");
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(supervisor),
        nix::sys::signal::Signal::SIGKILL,
    )
    .unwrap();
    eventually("every process is gone", Duration::from_secs(10), || {
        !processes.iter().any(|process| is_alive(*process))
    });
    let run = mesh.state().join("run");
    eventually("no socket is left", Duration::from_secs(5), || {
        std::fs::read_dir(&run).map_or(true, |entries| {
            !entries.flatten().any(|entry| {
                entry
                    .path()
                    .extension()
                    .is_some_and(|extension| extension == "sock")
            })
        })
    });
    drop(mesh);

    let mesh = Mesh::up(&Start::example("telemetry"));
    let processes = descendants(mesh.supervisor());
    let ended = mesh.down();
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    eventually("every process is gone", Duration::from_secs(5), || {
        !processes.iter().any(|process| is_alive(*process))
    });
}
