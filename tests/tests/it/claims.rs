//! `bartizan prove` and `bartizan diff` on the example and on changes of it: the answers, their examples, the exit codes, and
//! that the command which each answer shows agrees with it.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use bartizan_tests::{Ended, binary, repository, run};
use serde_json::Value;

const CLAIMS: &str = r"
apiVersion: bartizan.dev/v1alpha1
kind: PolicyClaim
metadata: {name: sensors-stay-out}
spec:
  never:
    from: {namespaces: [sensors]}
    to: {namespaces: [mission-services]}
---
apiVersion: bartizan.dev/v1alpha1
kind: PolicyClaim
metadata: {name: nobody-deletes}
spec:
  never:
    to: {services: [telemetry-query.mission-services]}
    request: {methods: [DELETE]}
---
apiVersion: bartizan.dev/v1alpha1
kind: PolicyClaim
metadata: {name: of-nothing}
spec:
  never:
    to: {services: [misspelt.mission-services]}
";

fn bartizan(words: &[&str]) -> Ended {
    let mut command = Command::new(binary());
    command.args(words);
    run(command, Duration::from_mins(1))
}

fn told(ended: &Ended) -> Value {
    serde_json::from_str(&ended.stdout).unwrap_or_else(|_| panic!("{}{}", ended.stdout, ended.stderr))
}

/// A copy of the example whose policies are changed.
fn changed(from: &str, to: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(repository().join("examples/telemetry"))
        .unwrap()
        .flatten()
    {
        std::fs::copy(entry.path(), folder.path().join(entry.file_name())).unwrap();
    }
    let policies = folder.path().join("policies.yaml");
    let text = std::fs::read_to_string(&policies).unwrap();
    assert!(text.contains(from), "the example has no `{from}`");
    std::fs::write(&policies, text.replace(from, to)).unwrap();
    folder
}

fn example() -> String {
    repository().join("examples/telemetry").display().to_string()
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

/// Runs the command that an answer shows, and gives its exit code.
fn shown(example: &Value) -> i32 {
    let command = example["command"].as_str().unwrap();
    let script = command.replacen("bartizan", binary().to_str().unwrap(), 1);
    let mut shell = Command::new("sh");
    shell.args(["-c", &script]);
    run(shell, Duration::from_mins(1)).code
}

#[test]
fn the_claims_of_the_example_hold_and_others_are_refuted_with_a_request_that_passes() {
    let good = bartizan(&["prove", &example()]);
    assert_eq!(good.code, 0, "{}{}", good.stdout, good.stderr);

    let file = tempfile::tempdir().unwrap();
    let claims = file.path().join("claims.yaml");
    std::fs::write(&claims, CLAIMS).unwrap();
    let all = bartizan(&["prove", &example(), "--claim", &text(&claims), "--output", "json"]);
    assert_eq!(all.code, 7, "{}{}", all.stdout, all.stderr);
    let told = told(&all);
    let of = |name: &str| {
        told["claims"]
            .as_array()
            .unwrap()
            .iter()
            .find(|claim| claim["name"] == name)
            .unwrap_or_else(|| panic!("{name} is not in {told}"))
    };
    let sensors = of("sensors-stay-out");
    assert_eq!(sensors["answer"], "false");
    assert_eq!(sensors["example"]["from"], "sensors/sensor-gateway");
    assert_eq!(
        sensors["example"]["request"]["path"],
        "/telemetry.v1.Readings/Post"
    );
    assert_eq!(
        sensors["example"]["rule"],
        "AuthorizationPolicy mission-services/data-processor-policy rules[0]"
    );
    assert_eq!(shown(&sensors["example"]), 0, "what is let in, `can` allows");
    assert_eq!(of("nobody-deletes")["answer"], "holds");
    // A claim about nothing is no proof.
    assert_eq!(of("of-nothing")["answer"], "undecided");
}

#[test]
fn a_way_from_outside_that_needs_no_clearance_is_told_hop_by_hop() {
    let open = changed(
        r#"values: ["SECRET", "TOP_SECRET"]"#,
        r#"values: ["SECRET", "TOP_SECRET", "CONFIDENTIAL"]"#,
    );
    let refuted = bartizan(&["prove", &text(open.path())]);
    assert_eq!(refuted.code, 7, "{}{}", refuted.stdout, refuted.stderr);
    assert!(
        refuted
            .stdout
            .contains("the way: outside -> mission-edge/edge-bartizan-0 -> "),
        "{}",
        refuted.stdout
    );

    let plain = changed("mode: STRICT", "mode: PERMISSIVE");
    let refuted = bartizan(&["prove", &text(plain.path())]);
    assert_eq!(refuted.code, 7);
    assert!(
        refuted
            .stdout
            .contains("mission-services/reading-store-0 takes plaintext on port 7000"),
        "{}",
        refuted.stdout
    );
}

#[test]
fn a_change_is_told_with_the_rule_and_a_request_that_decides_differently() {
    let same = bartizan(&["diff", &example(), &example()]);
    assert_eq!(same.code, 0, "{}{}", same.stdout, same.stderr);

    let wider = changed(
        r#"paths: ["/v1/ingest/*"]"#,
        r#"paths: ["/v1/ingest/*", "/v1/bulk"]"#,
    );
    let wider = text(wider.path());
    let opens = bartizan(&["diff", &example(), &wider, "--output", "json"]);
    assert_eq!(opens.code, 9, "{}{}", opens.stdout, opens.stderr);
    let told = told(&opens);
    assert_eq!(
        (&told["opens"], &told["closes"]),
        (&Value::Bool(true), &Value::Bool(false))
    );
    let workload = &told["workloads"][0];
    assert_eq!(workload["workload"], "mission-services/telemetry-ingest");
    let change = &workload["changes"][0];
    assert_eq!(change["after"]["request"]["path"], "/v1/bulk");
    assert_eq!(change["after"]["allowed"], true);
    assert_eq!(change["before"]["allowed"], false);
    assert!(
        change["rule"]
            .as_str()
            .unwrap()
            .contains("telemetry-ingest-policy rules[0]"),
        "{change}"
    );
    assert_eq!(shown(&change["after"]), 0);
    assert_eq!(shown(&change["before"]), 4);

    // The other way round it only closes.
    assert_eq!(bartizan(&["diff", &wider, &example()]).code, 10);
    assert_eq!(
        bartizan(&["diff", &wider, &example(), "--fail-on", "opens"]).code,
        0
    );
    assert_eq!(
        bartizan(&["diff", &example(), &wider, "--fail-on", "closes"]).code,
        0
    );
}
