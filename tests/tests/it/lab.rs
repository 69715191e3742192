//! The mesh that tests of the sandbox, the capture and its escapes share, and a program inside that tries things.

use bartizan_tests::{Mesh, Start, repository, run};
use serde_json::{Value, json};
use std::process::Command;
use std::time::Duration;

/// A folder below `tests/documents`.
pub(crate) fn documents(name: &str) -> Start {
    let mut start = Start::example("telemetry");
    start.documents = repository().join("tests/documents").join(name);
    start
}

/// Does attempts with `inside.py` as a workload of this identity; one outcome for each.
pub(crate) fn attempts(mesh: &Mesh, identity: &str, attempts: &[Value]) -> Vec<String> {
    let script = mesh.documents.join("inside.py").display().to_string();
    let list = Value::from(attempts.to_vec()).to_string();
    let ended = mesh.run_as(identity, &["/usr/bin/python3", &script, &list]);
    outcomes(&ended, attempts.len())
}

/// Does attempts on the host, as a user without privileges: what shows that they could succeed.
pub(crate) fn attempts_outside(mesh: &Mesh, attempts: &[Value]) -> Vec<String> {
    let script = mesh.documents.join("inside.py");
    let mut command = bartizan_tests::unprivileged(
        bartizan_tests::Privilege::None,
        std::path::Path::new("/usr/bin/python3"),
    );
    command.arg(script).arg(Value::from(attempts.to_vec()).to_string());
    outcomes(&run(command, Duration::from_secs(60)), attempts.len())
}

/// One attempt.
pub(crate) fn attempt(mesh: &Mesh, identity: &str, attempt: Value) -> String {
    attempts(mesh, identity, &[attempt]).remove(0)
}

fn outcomes(ended: &bartizan_tests::Ended, expected: usize) -> Vec<String> {
    let lines: Vec<String> = ended
        .stdout
        .lines()
        .map(|line| match serde_json::from_str(line) {
            Ok(Value::String(text)) => text,
            Ok(other) => other.to_string(),
            Err(error) => panic!("`{line}`: {error}"),
        })
        .collect();
    assert_eq!(lines.len(), expected, "{}\n{}", ended.stdout, ended.stderr);
    lines
}

/// Where the pods of a controller are.
pub(crate) fn addresses(mesh: &Mesh, workload: &str) -> Vec<String> {
    mesh.status()["workloads"]
        .as_array()
        .into_iter()
        .flatten()
        .filter(|pod| {
            pod["workload"] == json!(workload) || pod["name"]["name"] == json!(workload)
        })
        .filter_map(|pod| Some(pod["address"].as_str()?.to_owned()))
        .collect()
}

/// Runs curl as a workload; the body and, in the last line, the status code.
pub(crate) fn curl(mesh: &Mesh, identity: &str, arguments: &[&str]) -> bartizan_tests::Ended {
    let base = ["curl", "-sS", "-m", "20", "-w", "\n%{http_code}"];
    mesh.run_as(identity, &[&base, arguments].concat())
}

/// The last line.
pub(crate) fn code(ended: &bartizan_tests::Ended) -> &str {
    ended.stdout.lines().last().unwrap_or_default()
}

/// A command on the host.
pub(crate) fn host(program: &str, arguments: &[&str]) -> bartizan_tests::Ended {
    let mut command = Command::new(program);
    command.args(arguments);
    run(command, Duration::from_secs(60))
}
