//! What a person sees at the command line: hops, explanations, logs for programs, and the living summary of `up`.

use std::time::Duration;

use bartizan_tests::{Ended, Mesh, Start, binary, eventually, repository, run};
use serde_json::Value;

/// The example, its gateway on any free port of the host.
fn example(documents: &std::path::Path) -> Start {
    for entry in std::fs::read_dir(repository().join("examples/telemetry"))
        .unwrap()
        .flatten()
    {
        std::fs::copy(entry.path(), documents.join(entry.file_name())).unwrap();
    }
    let local = documents.join("local-run.yaml");
    let text = std::fs::read_to_string(&local).unwrap();
    let gateways = "  gateways:\n    - gateway: mission-edge/edge\n      listen: \"127.0.0.1:0\"\n";
    std::fs::write(&local, format!("{text}{gateways}")).unwrap();
    let mut start = Start::example("telemetry");
    documents.clone_into(&mut start.documents);
    start
}

fn all(ended: &Ended) -> String {
    format!("{}{}", ended.stdout, ended.stderr)
}

#[test]
fn a_call_shows_its_hops_and_why_it_was_denied() {
    let folder = tempfile::tempdir().unwrap();
    let mesh = Mesh::up(&example(folder.path()));

    // Raw TCP has no request id: the hops are found by their connections.
    let store = "tcp://reading-store.mission-services:7000";
    let allowed = mesh.bartizan(&[
        "call",
        "--as",
        "mission-services/telemetry-ingest",
        "-d",
        "LIST",
        store,
    ]);
    assert_eq!(allowed.code, 0, "{}", all(&allowed));
    for hop in [
        "sent by mission-services/run-telemetry-ingest-",
        "received by mission-services/reading-store-0: TCP",
    ] {
        assert!(allowed.stdout.contains(hop), "{}", all(&allowed));
    }
    let denied = mesh.bartizan(&[
        "call",
        "--as",
        "mission-services/data-processor",
        "-d",
        "LIST",
        store,
    ]);
    assert_eq!(denied.code, 4, "{}", all(&denied));
    let (_, id) = denied.stdout.rsplit_once(" explain ").expect("what to ask");
    let explained = mesh.bartizan(&["explain", id.trim()]);
    assert!(
        explained.stdout.contains("mission-services/reading-store-policy"),
        "{}",
        all(&explained)
    );

    // From outside the gateway makes the id, and policies speak of the listener's port, not of the host's.
    let cleared = mesh.cleared();
    let readings = format!("http://{}/v1/readings", mesh.gateway());
    let outside = mesh.bartizan(&["call", "-H", &cleared, &readings]);
    assert_eq!(outside.code, 0, "{}", all(&outside));
    assert!(
        outside.stdout.contains("sent by mission-edge/edge-bartizan-0")
            && outside
                .stdout
                .contains("received by mission-services/telemetry-query"),
        "{}",
        all(&outside)
    );
    let outside = mesh.bartizan(&[
        "call",
        "-H",
        &cleared,
        &format!("http://{}/admin", mesh.gateway()),
    ]);
    assert_eq!(outside.code, 4, "{}", all(&outside));
    let explained = mesh.bartizan(&["explain", "--last-denied"]);
    assert!(
        explained
            .stdout
            .contains("denied: no rule of an ALLOW policy matched")
            && explained.stdout.contains("found /admin"),
        "{}",
        all(&explained)
    );

    let logs = mesh.bartizan(&["logs", "telemetry-ingest", "--output", "json"]);
    assert_eq!(logs.code, 0, "{}", all(&logs));
    let lines: Vec<Value> = logs
        .stdout
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert!(
        lines.iter().any(|line| line["container"] == "ingest"
            && line["line"]
                .as_str()
                .is_some_and(|text| text.contains("listens on"))),
        "{lines:?}"
    );
    assert_eq!(
        mesh.bartizan(&["logs", "edge-bartizan"]).code,
        0,
        "nothing printed is no error"
    );
    for (arguments, words) in [
        (&["logs", "no-such"][..], "no workload `no-such`"),
        (
            &["logs", "telemetry-ingest", "-c", "no-such"],
            "no container `no-such`; it has ingest, proxy",
        ),
        (&["status", "--dump", "no-such"], "no workload `no-such`"),
        (
            &["can", "sensors/sensor-gateway", "no-such.x", "GET", "/"],
            "telemetry-ingest.mission-services",
        ),
    ] {
        let ended = mesh.bartizan(arguments);
        assert!(ended.code == 1 && ended.stderr.contains(words), "{}", all(&ended));
    }
    let dump = mesh.bartizan(&["status", "--dump", "telemetry-ingest"]);
    assert!(
        dump.code == 0 && dump.stdout.contains("resources"),
        "{}",
        all(&dump)
    );
    let can = |clearance: &str| {
        let clearance = format!("clearance_level={clearance}");
        let arguments = ["can", "outside", "mission-edge/edge", "GET", "/v1/readings"];
        let claims = [
            "iss=https://identity.mission.example",
            "aud=mission-service-api",
            &clearance,
        ];
        let claims = claims.map(|claim| ["--claim", claim]);
        mesh.bartizan(&[&arguments[..], claims.as_flattened()].concat())
    };
    let (high, low) = (can("SECRET"), can("CONFIDENTIAL"));
    assert_eq!((high.code, low.code), (0, 4), "{}\n{}", all(&high), all(&low));
    let can = mesh.bartizan(&["can", "outside", "mission-edge/edge", "GET", "v1"]);
    assert_eq!(can.code, 2, "{}", all(&can));
}

#[test]
fn up_tells_of_changes_for_as_long_as_it_runs() {
    let folder = tempfile::tempdir().unwrap();
    let mesh = Mesh::up(&example(folder.path()));
    assert_eq!(mesh.down().code, 0);
    let said = folder.path().join("said");
    let mut command = mesh.command(&["up", &mesh.documents.display().to_string()]);
    let mut up = command
        .stdout(std::process::Stdio::null())
        .stderr(std::fs::File::create(&said).unwrap())
        .spawn()
        .unwrap();
    let says = |words: &str| {
        eventually(words, Duration::from_secs(30), || {
            std::fs::read_to_string(&said).is_ok_and(|text| text.contains(words))
        });
    };
    eventually("the mesh is up", Duration::from_mins(1), || {
        mesh.bartizan(&["status", "--wait", "10s"]).code == 0
    });
    mesh.write_document(
        "more.yaml",
        "apiVersion: v1\nkind: Namespace\nmetadata: {name: more, nam: x}\n",
    );
    says("the documents have errors");
    says("error[BZ0110]");
    says("more.yaml:3:");
    mesh.write_document(
        "more.yaml",
        "apiVersion: v1\nkind: Namespace\nmetadata: {name: more}\n",
    );
    says("the documents are without errors again");
    says("the changed documents are served by all 8 proxies");
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(i32::try_from(up.id()).unwrap()),
        nix::sys::signal::Signal::SIGINT,
    )
    .unwrap();
    says("ended\n");
    assert_eq!(up.wait().unwrap().code(), Some(0));
}

#[test]
fn what_needs_no_mesh_needs_no_home() {
    let mut command = std::process::Command::new(binary());
    command
        .args(["check", "examples/telemetry"])
        .current_dir(repository())
        .env_remove("HOME")
        .env_remove("XDG_STATE_HOME");
    let ended = run(command, Duration::from_secs(30));
    assert_eq!(ended.code, 0, "{}", all(&ended));
    let mut command = std::process::Command::new(binary());
    command
        .arg("status")
        .env_remove("HOME")
        .env_remove("XDG_STATE_HOME");
    let ended = run(command, Duration::from_secs(30));
    assert!(
        ended.code == 2 && ended.stderr.contains("--state DIR"),
        "{}",
        all(&ended)
    );
}

#[test]
fn an_output_that_takes_nothing_is_no_crash() {
    let full = || std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let mut command = std::process::Command::new(binary());
    command
        .args(["--state", "/nonexistent/place", "status"])
        .stderr(full());
    assert_eq!(command.status().unwrap().code(), Some(5));

    // The reader is gone before a word is written, as with `| head`.
    let mut command = std::process::Command::new(binary());
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let output = command
        .args(["check", "examples/telemetry"])
        .current_dir(repository())
        .stdout(writer)
        .stderr(std::process::Stdio::piped())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!said.contains("panicked"), "{said}");
    assert_eq!(output.status.code(), None, "{said}");
}
