//! How findings are drawn, and what a document says about its own places.

use bartizan_config::finding::{Code, Paint, Severity, render, render_all, summary, to_json};
use bartizan_config::{Position, Reading, SourceFile, read};

const POLICY: &str = "\
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata:
  name: telemetry-ingest-policy
  namespace: mission-services
  annotations: {example.org/owner: team-a}
spec:
  selector:
    matchLabels:
      app: telemetry-ingest
  action: ALLOW
  rules:
  - from:
    - source: {principals: [\"*\"]}
    - source:
        principals: [\"cluster.local/ns/mission-services/sa/data-processor\"]
    to:
    - operation:
        methods: [\"POST\"]
        paths: [\"/v1/ingest/*\"]
";

fn policy(text: &str) -> Reading {
    read(&SourceFile::new("mesh/policy.yaml", text))
}

#[test]
fn a_finding_is_drawn_with_its_line() {
    let reading = policy(&POLICY.replace("principals: [\"*\"]", "principal: [\"*\"]"));
    insta::assert_snapshot!(render_all(&reading.findings, Paint::Plain), @r#"
    error[BZ0110]: `principal` is not a field of `source`
      --> mesh/policy.yaml:14:16
       |
    14 |     - source: {principal: ["*"]}
       |                ^^^^^^^^^
       = help: did you mean `principals`?
    "#);
}

#[test]
fn a_document_to_copy_keeps_its_lines_and_other_control_characters_are_shown() {
    let mut reading = policy(&POLICY.replace("principals: [\"*\"]", "principal: [\"*\"]"));
    let finding = reading.findings.remove(0).help("say so:\n  kind: LocalRun\x07");
    let drawn = render(&finding, Paint::Plain);
    assert!(
        drawn.ends_with("= help: say so:\n       kind: LocalRun\\u{7}\n"),
        "{drawn}"
    );
}

#[test]
fn a_problem_in_an_expression_is_drawn_at_its_own_line() {
    let reading = policy(
        "apiVersion: bartizan.dev/v1alpha1\nkind: AccessRule\nmetadata: {name: a}\nspec:\n  action: DENY\n  rules:\n    - when: |\n        source.authenticated\n          && source.labls[\"tier\"] == \"web\"\n",
    );
    insta::assert_snapshot!(render_all(&reading.findings, Paint::Plain), @r#"
    error[BZ0125]: `source` has no field `labls`
     --> mesh/policy.yaml:9:21
      |
    9 |           && source.labls["tier"] == "web"
      |                     ^^^^^
      = help: did you mean `labels`?
    "#);
}

#[test]
fn a_field_of_the_mesh_configuration_is_drawn_at_its_own_line() {
    let reading = policy(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: istio}\ndata:\n  mesh: |\n    trustDomain: td\n    extensionProviders:\n      - name: opa\n        envoyExtAuthzGrpc: {service: opa.auth, port: 9191, timeOut: 1s}\n",
    );
    insta::assert_snapshot!(render_all(&reading.findings, Paint::Plain), @"
    error[BZ0110]: `timeOut` is not a field of `envoyExtAuthzGrpc`
     --> mesh/policy.yaml:9:60
      |
    9 |         envoyExtAuthzGrpc: {service: opa.auth, port: 9191, timeOut: 1s}
      |                                                            ^^^^^^^
      = help: did you mean `timeout`?
    ");
}

#[test]
fn several_findings_are_summed_up() {
    let reading = policy(
        "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec:\n  hostNetwork: true\n  nodeName: x\n  containers: [{name: c, image: i}]\n---\napiVersion: a/v1\nkind: B\n",
    );
    assert_eq!(summary(&reading.findings), "1 error, 1 warning, 1 note");
    assert_eq!(summary(&[]), "no findings");
    assert_eq!(summary(&reading.strict().findings), "2 errors, 1 note");
}

#[test]
fn json_has_the_parts() {
    let reading = policy("kind: Namespace\n");
    assert_eq!(
        to_json(&reading.findings).to_string(),
        r#"[{"code":"BZ0105","file":"mesh/policy.yaml","length":1,"position":{"column":1,"line":1},"severity":"error","source_line":"kind: Namespace","what":"the document has no `apiVersion`"}]"#
    );
}

#[test]
fn every_field_has_its_place() {
    let reading = policy(POLICY);
    assert!(reading.findings.is_empty(), "{:?}", reading.findings);
    let document = &reading.documents[0];
    let at = |path: &str| {
        let Position { line, column } = document.positions.position(path);
        (line, column)
    };
    assert_eq!(at("spec.rules[0]"), (13, 5));
    assert_eq!(at("spec.rules[0].from[1].source.principals[0]"), (16, 22));
    assert_eq!(at("spec.rules[0].to[0].operation.paths[0]"), (20, 17));
    assert_eq!(at("spec.action"), (11, 11));
    assert_eq!(document.positions.key_spot("spec.action").position.column, 3);
    assert_eq!(at("metadata.annotations[\"example.org/owner\"]"), (6, 36));
    assert_eq!(at("spec.selector"), (8, 3));
    // What does not exist is where its nearest ancestor is.
    assert_eq!(at("spec.rules[0].from[7].source"), (13, 5));
    assert_eq!(at("spec.rules[0].to[0].operation.hosts[0]"), (18, 7));
    assert_eq!(at("spec.rules[9]"), (12, 3));
    assert_eq!(at("status"), (1, 1));
    assert_eq!(at("nonsense[["), (1, 1));
}

#[test]
fn other_rooms_point_at_fields() {
    const NOBODY: Code = Code::new("BZ0299", "nobody has this identity", "Nothing runs as it.");
    let reading = policy(POLICY);
    let finding = reading.documents[0]
        .finding(
            NOBODY,
            Severity::Warning,
            "spec.rules[0].from[1].source.principals[0]",
            "no workload has the identity `cluster.local/ns/mission-services/sa/data-processor`",
        )
        .why("the rule matches nobody")
        .help("create the ServiceAccount `mission-services/data-processor`, or correct the name");
    insta::assert_snapshot!(render(&finding, Paint::Plain), @r#"
    warning[BZ0299]: no workload has the identity `cluster.local/ns/mission-services/sa/data-processor`
      --> mesh/policy.yaml:16:22
       |
    16 |         principals: ["cluster.local/ns/mission-services/sa/data-processor"]
       |                      ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^ the rule matches nobody
       = help: create the ServiceAccount `mission-services/data-processor`, or correct the name
    "#);
}

#[test]
fn a_document_cannot_command_the_terminal() {
    let reading =
        policy("apiVersion: v1\nkind: Namespace\nmetadata: {name: \"\\e[2J\", labels: {\"\\a\": x}}\n");
    let drawn = render_all(&reading.findings, Paint::Plain);
    assert_eq!(reading.findings.len(), 2);
    assert!(
        !drawn.contains(|c: char| c.is_control() && c != '\n'),
        "{drawn:?}"
    );
}

#[test]
fn a_line_of_a_secret_is_never_kept() {
    const CODE: Code = Code::new("BZ0298", "t", "E.");
    let reading = policy("apiVersion: v1\nkind: Secret\nmetadata: {name: s}\nstringData: {a: hunter2}\n");
    let finding = reading.documents[0].finding(CODE, Severity::Error, "stringData.a", "x");
    assert_eq!(finding.source_line, None);
    assert!(!format!("{:?}", reading.documents[0].resource).contains("hunter2"));
}
