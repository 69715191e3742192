//! `h2spec` against both HTTP/2 sides of a sidecar, and a gateway's.

use std::path::PathBuf;
use std::time::Duration;

use bartizan_tests::{Mesh, peers, repository, run, skip};

use crate::lab::with_modules;

/// Cases that fail for a reason that is not ours, by the end of their line.
const KNOWN: [(&str, &str); 2] = [
    (
        "Sends invalid connection preface",
        "the port speaks HTTP/1.1 too, and answers `INVALID CONNECTION PREFACE` in that: 400, and the connection is closed",
    ),
    (
        "Sends a large size HEADERS frame that exceeds the SETTINGS_MAX_FRAME_SIZE",
        "the case takes for granted that the limit is 16,384; ours is larger and the frame of 17,500 bytes is fair",
    ),
];

fn program() -> Option<PathBuf> {
    let program = peers().join("h2spec");
    if program.exists() {
        return Some(program);
    }
    skip("no h2spec: cargo xtask peers");
    None
}

/// Judges what h2spec printed.
fn judge(side: &str, printed: &str) {
    let failed: Vec<&str> = printed
        .lines()
        .skip_while(|line| !line.contains("Failures:"))
        .filter(|line| line.contains('×'))
        .filter(|line| !KNOWN.iter().any(|(known, _)| line.ends_with(known)))
        .collect();
    let summary = printed
        .lines()
        .find(|line| line.contains("tests, "))
        .unwrap_or_default();
    assert!(
        failed.is_empty(),
        "{side}: {summary}\n{}\n{printed}",
        failed.join("\n")
    );
    let passed: usize = summary
        .split(", ")
        .find_map(|part| part.strip_suffix(" passed")?.parse().ok())
        .unwrap_or_default();
    assert!(passed + KNOWN.len() >= 145, "{side}: {printed}");
}

#[test]
fn every_case_passes_on_every_side() {
    let Some(program) = program() else { return };
    let Some((start, _folder)) = with_modules(&repository().join("tests/documents/peers")) else {
        return;
    };
    let mesh = Mesh::up(&start.with(&["--profile", "istio"]));
    // From outside: the gateway's listener.
    let gateway = mesh.gateway();
    let (address, port) = gateway.rsplit_once(':').unwrap();
    let mut command = std::process::Command::new(&program);
    command.args(["-h", address, "-p", port, "-P", "/echo", "-o", "3"]);
    judge("gateway", &run(command, Duration::from_mins(5)).stdout);
    // From inside a pod: what its own sidecar takes from the application.
    let mut command = mesh.command(&[
        "run",
        "--as",
        "peers/client",
        "--",
        "./h2spec",
        "-h",
        "echo.peers",
        "-p",
        "8080",
        "-P",
        "/echo",
        "-o",
        "3",
    ]);
    command.current_dir(peers());
    judge("outbound", &run(command, Duration::from_mins(5)).stdout);
    // On the wire, as a plaintext peer: what a sidecar takes from the network.
    let text = std::fs::read_to_string(mesh.documents.join("documents.yaml")).unwrap();
    mesh.write_document("documents.yaml", &text.replace("mode: STRICT", "mode: PERMISSIVE").replace("            principals:\n", "            notPrincipals: [cluster.local/ns/peers/sa/nobody]\n            xprincipals:\n").replace("            xprincipals:\n              - cluster.local/ns/peers/sa/client\n              - cluster.local/ns/peers/sa/edge-bartizan\n", ""));
    mesh.settle();
    let echo = crate::lab::addresses(&mesh, "echo").remove(0);
    let mut command = mesh.on_the_wire(program.to_str().unwrap());
    command.args(["-h", &echo, "-p", "8080", "-P", "/echo", "-o", "3"]);
    judge("inbound", &run(command, Duration::from_mins(5)).stdout);
}
