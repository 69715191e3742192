//! A real Open Policy Agent decides: over gRPC, over HTTP, and of connections of bytes; through the mesh, with identities.

use std::time::Duration;

use bartizan_tests::{Ended, Mesh, eventually, kill, peers, repository, skip};

use nix::sys::signal::Signal;

use crate::lab::{code, curl, documents};

const CLIENT: &str = "shop/client";
const LEDGER: &str = "http://ledger:8080";
const SHELF: &str = "http://shelf:8080";

/// The mesh with the agent; `None`, and said so, where it was not built. The folder lives as long as the second value.
fn up() -> Option<(Mesh, tempfile::TempDir)> {
    if !peers().join("opa-authorizer").exists() {
        skip("no Open Policy Agent: cargo xtask peers");
        return None;
    }
    let mut start = documents("authorizer");
    let place = tempfile::Builder::new().prefix("bzdocs").tempdir().unwrap();
    for entry in std::fs::read_dir(&start.documents).unwrap().flatten() {
        std::fs::copy(entry.path(), place.path().join(entry.file_name())).unwrap();
    }
    let policy = repository().join("tests/peers/opa/policy.rego");
    std::fs::copy(policy, place.path().join("policy.rego")).unwrap();
    let local = place.path().join("local-run.yaml");
    let text = std::fs::read_to_string(&local).unwrap();
    std::fs::write(&local, text.replace("PEERS", &peers().display().to_string())).unwrap();
    place.path().clone_into(&mut start.documents);
    Some((Mesh::up(&start), place))
}

fn ask(mesh: &Mesh, arguments: &[&str]) -> Ended {
    curl(mesh, CLIENT, &[&["-i"], arguments].concat())
}

fn write(mesh: &Mesh, base: &str, amount: &str) -> Ended {
    let body = format!("{{\"amount\": {amount}}}");
    let url = format!("{base}/entries");
    ask(mesh, &["-H", "content-type: application/json", "-d", &body, &url])
}

fn bytes(mesh: &Mesh, identity: &str) -> Ended {
    let script = "import socket\ns = socket.create_connection(('vault', 7000), 10)\ns.settimeout(10)\ns.sendall(b'hello\\n')\nprint(s.recv(100))";
    mesh.run_as(identity, &["/usr/bin/python3", "-c", script])
}

#[test]
fn the_agent_decides_about_requests_and_connections() {
    let Some((mesh, _folder)) = up() else { return };
    for base in [LEDGER, SHELF] {
        // Yes, with what the agent adds and takes away.
        let got = ask(
            &mesh,
            &[
                "-H",
                "x-asking-team: red",
                "-H",
                "x-decided-by: me",
                "-H",
                "x-secret: s",
                &format!("{base}/a?b=c"),
            ],
        );
        assert_eq!(code(&got), "200", "{base} {got:?}\n{}", mesh.last_words());
        let lower = got.stdout.to_lowercase();
        for there in [
            "x-policy: reading",
            "\"x-team\":\"red\"",
            "\"x-decided-by\":\"opa\"",
        ] {
            assert!(lower.contains(there), "{base} {there} {got:?}");
        }
        assert!(!lower.contains("x-secret"), "{base} {got:?}");
        // No, in the agent's words.
        let got = ask(&mesh, &[&format!("{base}/private/x")]);
        assert_eq!(code(&got), "401", "{base} {got:?}");
        assert!(
            got.stdout
                .to_lowercase()
                .contains("www-authenticate: basic realm=\"private\"")
                && got.stdout.contains("this is private")
                && got.stdout.contains("x-bartizan-decision: "),
            "{base} {got:?}"
        );
        // By the body.
        assert_eq!(code(&write(&mesh, base, "5")), "200", "{base}");
        assert_eq!(code(&write(&mesh, base, "5000")), "403", "{base}");
        // A body that is larger than the agent is to see is refused, not cut.
        let got = write(&mesh, base, &"1".repeat(9000));
        assert_eq!(code(&got), "413", "{base} {got:?}");
        // What the policy's own rule does not ask about.
        let healthz = code(&ask(&mesh, &["-X", "PUT", &format!("{base}/healthz")])).to_owned();
        assert_eq!(healthz, if base == LEDGER { "200" } else { "403" }, "{base}");
    }
    // Bytes, by who sends them.
    let got = bytes(&mesh, "shop/batch");
    assert!(got.stdout.contains("hello"), "{got:?}\n{}", mesh.last_words());
    let got = bytes(&mesh, CLIENT);
    assert!(!got.stdout.contains("hello"), "{got:?}");

    let log = mesh.access_log();
    let of = |path: &str| {
        log.iter()
            .find(|line| line["path"] == path && line["reporter"] == "destination")
            .unwrap_or_else(|| panic!("no line of {path}: {log:#?}"))
    };
    let refused = of("/private/x");
    assert_eq!(refused["decision"], "deny", "{refused}");
    assert_eq!(refused["response_flags"], "UAEX", "{refused}");
    assert_eq!(refused["authorizer"]["allowed"], false, "{refused}");
    assert_eq!(of("/a?b=c")["authorizer"]["allowed"], true);
    // The agent was asked over mutual TLS, by the workloads themselves.
    assert!(
        log.iter().any(|line| {
            line["destination_principal"] == "spiffe://cluster.local/ns/policy/sa/opa"
                && line["source_principal"] == "spiffe://cluster.local/ns/shop/sa/ledger"
        }),
        "{log:#?}"
    );
}

#[test]
fn the_pages_documents_are_those_that_are_tested() {
    let page = std::fs::read_to_string(repository().join("docs/authorizers.md")).unwrap();
    let documents = documents("authorizer").documents.join("documents.yaml");
    let tested = std::fs::read_to_string(documents).unwrap();
    let blocks: Vec<&str> = page
        .split("```yaml\n")
        .skip(1)
        .map(|rest| rest.split("```").next().unwrap())
        .collect();
    assert_eq!(blocks.len(), 3);
    for block in blocks {
        assert!(tested.contains(block), "{block}");
    }
}

#[test]
fn without_the_agent_nothing_passes_and_with_it_all_goes_on() {
    let Some((mesh, _folder)) = up() else { return };
    let get = || code(&ask(&mesh, &[&format!("{LEDGER}/a")])).to_owned();
    assert_eq!(get(), "200", "{}", mesh.last_words());
    // Its own policy stops letting the ledger in: it is not asked, and nothing passes.
    mesh.edit_document(
        "documents.yaml",
        "              - cluster.local/ns/shop/sa/ledger\n",
        "",
    );
    mesh.settle();
    eventually("the ledger refuses", Duration::from_secs(20), || get() != "200");
    let refused = get();
    assert!(matches!(&*refused, "503" | "403"), "{refused}");
    mesh.edit_document(
        "documents.yaml",
        "              - cluster.local/ns/shop/sa/shelf\n",
        "              - cluster.local/ns/shop/sa/ledger\n              - cluster.local/ns/shop/sa/shelf\n",
    );
    mesh.settle();
    eventually("the ledger is served again", Duration::from_secs(20), || {
        get() == "200"
    });
    // It dies, and what restarts it brings all back.
    for process in mesh.processes(&["opa-authorizer"]) {
        kill(process, Signal::SIGKILL);
    }
    eventually("the agent is back", Duration::from_secs(30), || get() == "200");
    let log = mesh.access_log();
    assert!(
        log.iter()
            .filter(|line| line["path"] == "/a" && line["reporter"] == "destination")
            .all(|line| (line["response_code"] == 200) == (line["authorizer"]["allowed"] == true)),
        "{log:#?}"
    );
}
