//! The mesh that tests of the sandbox, the capture and its escapes share, and a program inside that tries things.

use bartizan_tests::{Mesh, Start, repository, run};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
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
    command
        .arg(script)
        .arg(Value::from(attempts.to_vec()).to_string());
    outcomes(&run(command, Duration::from_mins(1)), attempts.len())
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
        .filter(|pod| pod["workload"] == json!(workload) || pod["name"]["name"] == json!(workload))
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
    run(command, Duration::from_mins(1))
}

/// A folder of documents that finds the modules of `cargo xtask peers` in `.venv`; `None`, and said so, where they are missing.
/// The folder lives as long as the second value.
pub(crate) fn with_modules(folder: &std::path::Path) -> Option<(Start, tempfile::TempDir)> {
    let modules = bartizan_tests::peers().join("python");
    if !modules.join("bin/python3").exists() {
        bartizan_tests::skip("no Python modules: cargo xtask peers");
        return None;
    }
    let place = tempfile::Builder::new()
        .prefix("bzdocs")
        .tempdir()
        .expect("a folder");
    for entry in std::fs::read_dir(folder).expect("read documents").flatten() {
        if entry.file_name() != ".venv" {
            std::fs::copy(entry.path(), place.path().join(entry.file_name())).expect("copy a document");
        }
    }
    std::os::unix::fs::symlink(&modules, place.path().join(".venv")).expect("link the modules");
    // The link leads out of the folder, so where it leads to is declared as well.
    let local = place.path().join("local-run.yaml");
    let text = std::fs::read_to_string(&local).expect("read local-run.yaml");
    std::fs::write(
        &local,
        text.replace("read: [.", &format!("read: [{}, .", modules.display())),
    )
    .expect("write local-run.yaml");
    let mut start = Start::example("telemetry");
    place.path().clone_into(&mut start.documents);
    Some((start, place))
}

/// Changes the documents, and waits until every proxy serves what they say then.
pub(crate) fn change(mesh: &Mesh, change: impl FnOnce()) {
    let version = || mesh.status()["version"].as_u64();
    let before = version();
    change();
    bartizan_tests::eventually("the change is read", Duration::from_secs(10), || {
        version() > before
    });
    mesh.settle();
}

/// Writes one of the documents, and waits until every proxy serves it.
pub(crate) fn serve(mesh: &Mesh, name: &str, text: &str) {
    change(mesh, || mesh.write_document(name, text));
}

/// An issuer of tokens, by its key.
pub(crate) struct Key {
    file: PathBuf,
    /// What others may know of it, as a member of a key set.
    pub(crate) public: Value,
}

impl Key {
    /// A new one in a file of this folder.
    pub(crate) fn new(folder: &Path, name: &str) -> Self {
        let file = folder.join(name);
        let mut command = Command::new(bartizan_tests::binary());
        command.args(["token", "new-key", &file.display().to_string()]);
        let made = run(command, Duration::from_secs(20));
        assert_eq!(made.code, 0, "{}", made.stderr);
        let whole: Value = serde_json::from_str(&std::fs::read_to_string(&file).unwrap()).unwrap();
        let public = whole
            .as_object()
            .unwrap()
            .iter()
            .filter(|(name, _)| !["d", "p", "q", "dp", "dq", "qi"].contains(&name.as_str()))
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect();
        Self { file, public }
    }

    /// A token by it: who it is by and about, and more arguments of `bartizan token sign`.
    pub(crate) fn token(&self, issuer: &str, subject: &str, more: &[&str]) -> String {
        let mut command = Command::new(bartizan_tests::binary());
        let file = self.file.display().to_string();
        command.args(["token", "sign", &file, "--issuer", issuer, "--subject", subject]);
        command.args(more);
        let signed = run(command, Duration::from_secs(20));
        assert_eq!(signed.code, 0, "{}", signed.stderr);
        signed.stdout.trim().to_owned()
    }
}

/// A RequestAuthentication of the gateway `edge` in this namespace, for tokens by these keys.
pub(crate) fn users_of_edge(namespace: &str, issuer: &str, keys: &[&Key]) -> String {
    let selector = "  selector:\n    matchLabels:\n      gateway.networking.k8s.io/gateway-name: edge\n";
    users_of(namespace, issuer, keys, true).replace("spec:\n", &format!("spec:\n{selector}"))
}

/// The same for everything in the namespace, with or without handing tokens on.
pub(crate) fn users_of(namespace: &str, issuer: &str, keys: &[&Key], is_handed_on: bool) -> String {
    let keys: Vec<&Value> = keys.iter().map(|key| &key.public).collect();
    format!(
        "apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata:
  name: users
  namespace: {namespace}
spec:
  jwtRules:
    - issuer: {issuer}
      forwardOriginalToken: {is_handed_on}
      jwks: '{}'
",
        json!({ "keys": keys })
    )
}
