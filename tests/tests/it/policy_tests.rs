//! `bartizan test`: the example's own tests, by its folder and in the running mesh, and tests that must fail.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use bartizan_tests::{Ended, Mesh, Start, binary, repository, run};
use serde_json::Value;

const WRONG: &str = r"
apiVersion: bartizan.dev/v1alpha1
kind: PolicyTest
metadata: {name: wrong, namespace: mission-services}
spec:
  tests:
    - name: anybody stores
      from: mission-services/data-processor
      to: reading-store.mission-services:7000
      expect: ALLOW
    - name: the ingest does not store
      from: mission-services/telemetry-ingest
      to: reading-store.mission-services:7000
      expect: DENY
    - name: by another rule
      from: mission-services/telemetry-ingest
      to: reading-store.mission-services:7000
      expect: ALLOW
      by: AuthorizationPolicy mission-services/telemetry-query-policy
";

/// `bartizan test`, without a mesh.
fn test(folder: &Path, more: &[&str]) -> Ended {
    let mut command = Command::new(binary());
    command.arg("test").arg(folder).args(more);
    run(command, Duration::from_mins(1))
}

/// What came of the test of this name.
fn of<'v>(told: &'v Value, name: &str) -> &'v Value {
    told["tests"]
        .as_array()
        .unwrap()
        .iter()
        .find(|test| test["name"] == name)
        .unwrap_or_else(|| panic!("{name} is not in {told}"))
}

#[test]
fn tests_are_judged_by_the_folder_and_by_the_mesh_alike() {
    let mut mesh = Start::example("telemetry");
    let folder = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(repository().join("examples/telemetry"))
        .unwrap()
        .flatten()
    {
        std::fs::copy(entry.path(), folder.path().join(entry.file_name())).unwrap();
    }
    let documents = folder.path().to_str().unwrap();
    let offline = |more: &[&str]| test(folder.path(), more);

    // The example's own tests hold, by the folder alone.
    let good = offline(&[]);
    assert_eq!(good.code, 0, "{}{}", good.stdout, good.stderr);

    // And what is wrong fails with what decided, and a code of its own.
    std::fs::write(folder.path().join("wrong.yaml"), WRONG).unwrap();
    let wrong = offline(&["--output", "json"]);
    assert_eq!(wrong.code, 11, "{}{}", wrong.stdout, wrong.stderr);
    let told: Value = serde_json::from_str(&wrong.stdout).unwrap();
    assert_eq!(told["failed"], 3, "{told}");
    assert_eq!(of(&told, "anybody stores")["got"], "DENY");
    let stores = of(&told, "the ingest does not store");
    assert_eq!(stores["got"], "ALLOW");
    assert!(
        stores["at"]["file"].as_str().unwrap().ends_with("wrong.yaml"),
        "{stores}"
    );
    assert!(
        stores["why"]
            .as_str()
            .unwrap()
            .contains("AuthorizationPolicy mission-services/reading-store-policy rules[0] (policies.yaml:"),
        "{stores}"
    );

    // The same in the mesh, by real connections of these callers.
    folder.path().clone_into(&mut mesh.documents);
    let mesh = Mesh::up(&mesh);
    let live = mesh.bartizan(&["test", documents, "--live", "--allow-skipped", "--output", "json"]);
    assert_eq!(live.code, 11, "{}{}", live.stdout, live.stderr);
    let told_live: Value = serde_json::from_str(&live.stdout).unwrap();
    assert_eq!(told_live["failed"], 3, "{told_live}");
    for test in told_live["tests"].as_array().unwrap() {
        let offline = of(&told, test["name"].as_str().unwrap());
        if test["result"] != "skipped" {
            assert_eq!(test["result"], offline["result"], "{test}\n{offline}");
            assert_eq!(test["got"], offline["got"], "{test}\n{offline}");
        }
    }
    // Claims without a token are no request; without leave to skip that fails.
    assert!(told_live["skipped"].as_u64().unwrap() > 0, "{told_live}");
    std::fs::remove_file(folder.path().join("wrong.yaml")).unwrap();
    let strict = mesh.bartizan(&["test", documents, "--live"]);
    assert_eq!(strict.code, 11, "{}{}", strict.stdout, strict.stderr);
    assert!(strict.stdout.contains("needs a token"), "{}", strict.stdout);
    let lenient = mesh.bartizan(&["test", documents, "--live", "--allow-skipped"]);
    assert_eq!(lenient.code, 0, "{}{}", lenient.stdout, lenient.stderr);
}

#[test]
fn a_folder_without_tests_is_a_mistake() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::copy(
        repository().join("examples/telemetry/namespaces.yaml"),
        folder.path().join("namespaces.yaml"),
    )
    .unwrap();
    let ended = test(folder.path(), &[]);
    assert_eq!(ended.code, 2, "{}{}", ended.stdout, ended.stderr);
    assert!(ended.stderr.contains("there is no test"), "{}", ended.stderr);
}
