//! PolicyTest documents over a small mesh, without the mesh.

use clap::Parser as _;

use super::{Outcome, drawn, offline, tests_of};
use crate::args::{Arguments, Command};
use crate::folder::Folder;

const MESH: &str = r#"
apiVersion: v1
kind: Namespace
metadata: {name: payments}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: ledger, namespace: payments}
---
apiVersion: v1
kind: Service
metadata: {name: ledger, namespace: payments}
spec:
  selector: {app: ledger}
  ports: [{name: http, port: 8080}, {name: tcp-raw, port: 9000}]
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: ledger, namespace: payments}
spec:
  selector: {matchLabels: {app: ledger}}
  template:
    metadata: {labels: {app: ledger}}
    spec:
      serviceAccountName: ledger
      containers: [{name: app, image: ledger, command: [/bin/true]}]
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: default, namespace: payments}
spec: {mtls: {mode: STRICT}}
---
apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: {name: users, namespace: payments}
spec:
  selector: {matchLabels: {app: ledger}}
  jwtRules: [{issuer: "https://issuer.example", jwksUri: "https://issuer.example/keys"}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: ledger, namespace: payments}
spec:
  selector: {matchLabels: {app: ledger}}
  rules:
    - from: [{source: {serviceAccounts: [batch]}}]
      to: [{operation: {methods: [POST], paths: [/v1/entries]}}]
    - to: [{operation: {methods: [GET], paths: ["/v1/*"]}}]
      when: [{key: "request.auth.claims[clearance]", values: [SECRET]}]
    - from: [{source: {namespaces: [ops]}}]
      to: [{operation: {ports: ["9000"]}}]
---
apiVersion: bartizan.dev/v1alpha1
kind: AccessRule
metadata: {name: nights, namespace: payments}
spec:
  selector: {matchLabels: {app: ledger}}
  action: DENY
  rules:
    - when: 'now.getHours("UTC") < 6 && source.serviceAccount == "batch"'
"#;

/// What comes of each of `tests`, as a flow list.
fn outcomes(tests: &str) -> Vec<(String, Outcome)> {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("mesh.yaml");
    let document = format!(
        "---\napiVersion: bartizan.dev/v1alpha1\nkind: PolicyTest\nmetadata: {{name: t, namespace: payments}}\nspec:\n  tests:\n{tests}"
    );
    std::fs::write(&file, format!("{MESH}{document}")).unwrap();
    let arguments = Arguments::parse_from(["bartizan".as_ref(), "test".as_ref(), file.as_os_str()]);
    let Command::Test(args) = arguments.command else {
        panic!("another command");
    };
    let folder = Folder::read(&args.sources, &args.documents).unwrap();
    let tests = tests_of(&folder.documents);
    let judged = offline::Folder::of(folder, false).unwrap();
    tests
        .iter()
        .map(|test| {
            let outcome = judged.run(test);
            (drawn(test, &outcome), outcome)
        })
        .collect()
}

fn only(test: &str) -> (String, Outcome) {
    let mut all = outcomes(&format!("    - {test}\n"));
    assert_eq!(all.len(), 1);
    all.remove(0)
}

#[test]
fn what_is_decided_as_expected_passes() {
    for (drawn, outcome) in outcomes(
        r#"
    - {name: batch posts, from: payments/batch, to: ledger.payments, request: {method: POST, path: /v1/entries, at: "2026-01-01T12:00:00Z"}, expect: ALLOW, by: "AuthorizationPolicy payments/ledger rules[0]"}
    - {name: any rule of it, from: payments/batch, to: "payments/ledger:8080", request: {method: POST, path: /v1/entries, at: "2026-01-01T12:00:00Z"}, expect: ALLOW, by: AuthorizationPolicy payments/ledger}
    - {name: not at night, from: payments/batch, to: ledger.payments, request: {method: POST, path: /v1/entries, at: "2026-01-01T05:00:00Z"}, expect: DENY, by: "AccessRule payments/nights rules[0]"}
    - {name: nor elsewhere, from: payments/batch, to: ledger.payments, request: {method: POST, path: /v1/other, at: "2026-01-01T12:00:00Z"}, expect: DENY}
    - {name: with a clearance, from: shop/web, to: ledger.payments, request: {path: /v1/x, claims: {iss: "https://issuer.example", sub: ann, clearance: SECRET}}, expect: ALLOW, by: "RequestAuthentication payments/users jwtRules[0]"}
    - {name: without, from: shop/web, to: ledger.payments, request: {path: /v1/x, claims: {iss: "https://issuer.example", sub: ann}}, expect: DENY}
    - {name: of another issuer, from: shop/web, to: ledger.payments, request: {path: /v1/x, claims: {iss: "https://other.example", clearance: SECRET}}, expect: 401, by: RequestAuthentication payments/users}
    - {name: a connection, from: ops/shell, to: "ledger.payments:9000", expect: ALLOW, by: "AuthorizationPolicy payments/ledger rules[2]"}
    - {name: no plaintext, from: outside, to: "ledger.payments:9000", expect: DENY, by: PeerAuthentication payments/default}
"#,
    ) {
        assert!(matches!(outcome, Outcome::Passed { .. }), "{drawn}");
    }
}

#[test]
fn a_failed_test_says_what_decided_and_where() {
    let (drawn, outcome) = only(
        r#"{name: oops, from: payments/batch, to: ledger.payments, request: {method: POST, path: /v1/entries, at: "2026-01-01T12:00:00Z"}, expect: DENY}"#,
    );
    assert!(matches!(outcome, Outcome::Failed { .. }));
    assert!(drawn.contains("FAILED   payments/t: oops ("), "{drawn}");
    assert!(drawn.contains("mesh.yaml:"), "{drawn}");
    assert!(
        drawn.contains("payments/batch -> ledger.payments POST /v1/entries"),
        "{drawn}"
    );
    assert!(drawn.contains("expected DENY, got ALLOW"), "{drawn}");
    assert!(
        drawn.contains("decided by AuthorizationPolicy payments/ledger rules[0] ("),
        "{drawn}"
    );
}

#[test]
fn a_denied_one_says_what_would_let_it_pass() {
    let (drawn, _) = only(
        r"{name: oops, from: shop/web, to: ledger.payments, request: {method: PUT, path: /v2}, expect: ALLOW}",
    );
    assert!(drawn.contains("expected ALLOW, got DENY"), "{drawn}");
    assert!(drawn.contains("what would let it pass:"), "{drawn}");
}

#[test]
fn the_right_decision_by_the_wrong_rule_fails() {
    for by in [
        "AuthorizationPolicy payments/ledger rules[1]",
        "AuthorizationPolicy payments/other",
        "AccessRule payments/nights",
        "PeerAuthentication payments/default",
        "RequestAuthentication payments/users",
    ] {
        let (drawn, outcome) = only(&format!(
            r#"{{name: oops, from: payments/batch, to: ledger.payments, request: {{method: POST, path: /v1/entries, at: "2026-01-01T12:00:00Z"}}, expect: ALLOW, by: "{by}"}}"#
        ));
        assert!(matches!(outcome, Outcome::Failed { .. }), "{by}: {drawn}");
        assert!(
            drawn.contains(&format!("expected ALLOW by {by}, got ALLOW")),
            "{drawn}"
        );
    }
}

#[test]
fn a_callee_that_is_not_there_fails_its_test() {
    let (drawn, outcome) = only(r"{name: oops, from: a/b, to: nothing.payments, expect: DENY}");
    assert!(matches!(outcome, Outcome::Failed { .. }), "{drawn}");
    assert!(
        drawn.contains("no service `nothing.payments` is known"),
        "{drawn}"
    );
}

#[test]
fn a_service_that_nobody_may_call_denies() {
    let mut documents = MESH
        .split("---")
        .take(4)
        .map(|document| document.replace("ledger", "vault"));
    documents.next();
    let vault: Vec<String> = documents.collect();
    let tests = format!(
        r"
    - {{name: not by request, from: payments/batch, to: vault.payments, request: {{method: GET}}, expect: DENY}}
    - {{name: nor by connection, from: ops/shell, to: 'vault.payments:9000', expect: DENY}}
---
{}",
        vault.join("---")
    );
    for (drawn, outcome) in outcomes(&tests) {
        assert!(matches!(outcome, Outcome::Passed { .. }), "{drawn}");
    }
}
