//! The profile `nist` (SP 800-204B, APE-SR-3 and EUAZ-SR-1 to EUAZ-SR-3) on a mesh without any policy: what passes, what is
//! refused, and how little opens it.

use std::os::unix::fs::PermissionsExt as _;
use std::time::{Duration, Instant};

use bartizan_tests::http::get;
use bartizan_tests::{Mesh, eventually};
use serde_json::Value;

use crate::lab::{Key, addresses, code, curl, documents, serve, users_of};

const ISSUER: &str = "https://issuer.example";
const LEDGER: &str = "http://ledger.own:8080/entries";
const PEOPLE: &str = "http://people.own:8080/people";

/// Names one caller of the other namespace, and the own one, which an ALLOW policy would shut out otherwise.
fn ledger_policy(from: &str) -> String {
    format!(
        r#"apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata:
  name: ledger
  namespace: own
spec:
  selector:
    matchLabels:
      app: ledger
  action: ALLOW
  rules:
    - from:
        - source:
            namespaces: ["own"]
    - {from}to:
        - operation:
            ports: ["8080"]
"#
    )
}

/// Lets users in from outside; nothing more.
const EDGE: &str = r#"apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata:
  name: edge
  namespace: own
spec:
  selector:
    matchLabels:
      gateway.networking.k8s.io/gateway-name: edge
  action: ALLOW
  rules:
    - to:
        - operation:
            paths: ["/people"]
"#;

fn ask(mesh: &Mesh, identity: &str, url: &str, token: Option<&str>) -> String {
    let bearer = token.map(|token| format!("Authorization: Bearer {token}"));
    let mut arguments = vec![];
    if let Some(bearer) = &bearer {
        arguments.extend(["-H", bearer.as_str()]);
    }
    arguments.push(url);
    code(&curl(mesh, identity, &arguments)).to_owned()
}

/// What a line over TCP comes back as; nothing when the connection is not carried.
fn line(mesh: &Mesh, identity: &str, host: &str) -> String {
    let script = format!(
        "import socket\ns = socket.create_connection(('{host}', 7000), 10)\ns.settimeout(10)\ns.sendall(b'hello\\n')\nprint(s.recv(100).decode())"
    );
    let ended = mesh.run_as(identity, &["/usr/bin/python3", "-c", &script]);
    ended.stdout.trim().to_owned()
}

/// A refusal that is like this is in the log, with an id of its own.
fn is_logged(mesh: &Mesh, what: &str, matches: impl Fn(&Value) -> bool) {
    let is_refused = |line: &Value| line["decision"] == "deny" && line["decision_id"].is_string();
    let deadline = Instant::now() + Duration::from_secs(3);
    loop {
        let log = mesh.access_log();
        if log.iter().any(|line| is_refused(line) && matches(line)) {
            return;
        }
        let log: Vec<String> = log.iter().map(Value::to_string).collect();
        assert!(
            Instant::now() < deadline,
            "{what} is not in the log:\n{}",
            log.join("\n")
        );
    }
}

fn is_from(line: &Value, namespace: &str) -> bool {
    line["source_principal"] == format!("spiffe://cluster.local/ns/{namespace}/sa/caller")
}

#[test]
fn without_a_policy_only_the_own_namespace_and_proven_users_pass() {
    let folder = tempfile::tempdir().unwrap();
    let (key, other_key) = (Key::new(folder.path(), "a"), Key::new(folder.path(), "b"));
    let mesh = Mesh::up(&documents("nist").with(&["--profile", "nist"]));
    let gateway = mesh.gateway();

    // Nobody without an identity: not on the wire (APE-SR-3.a), not from outside.
    let ledger = addresses(&mesh, "ledger").remove(0);
    let mut command = mesh.on_the_wire("curl");
    let plain = format!("http://{ledger}:8080/entries");
    command.args(["-sS", "-m", "5", "-o", "/dev/null", "-w", "%{http_code}", &plain]);
    let ended = bartizan_tests::run(command, Duration::from_secs(20));
    assert_eq!(ended.stdout, "000", "{ended:?}");
    eventually("plaintext is in the log", Duration::from_secs(3), || {
        mesh.access_log().iter().any(|line| {
            line["connection_termination_details"]
                .as_str()
                .is_some_and(|why| why.starts_with("plaintext_refused"))
        })
    });
    assert_eq!(get(&gateway, "/ledger", &[]).unwrap().status, 403);
    is_logged(&mesh, "somebody outside", |line| {
        line["path"] == "/ledger" && line["response_code"] == 403
    });

    // The own namespace, and no other (APE-SR-3.c): of HTTP and of bytes.
    assert_eq!(
        ask(&mesh, "own/caller", LEDGER, None),
        "200",
        "{}",
        mesh.last_words()
    );
    assert_eq!(line(&mesh, "own/caller", "ledger.own"), "echo: hello");
    assert_eq!(ask(&mesh, "other/caller", LEDGER, None), "403");
    assert_eq!(line(&mesh, "other/caller", "ledger.own"), "");
    is_logged(&mesh, "a request of another namespace", |line| {
        is_from(line, "other") && line["path"] == "/entries"
    });
    is_logged(&mesh, "bytes of another namespace", |line| {
        is_from(line, "other") && line["path"].is_null()
    });

    // A rule that names nobody in full lets nobody in from elsewhere; one that does opens that pair, and that port (APE-SR-3.d).
    for unnamed in [
        "",
        "from:\n        - source:\n            namespaces: [\"oth*\"]\n      ",
    ] {
        serve(&mesh, "ledger.yaml", &ledger_policy(unnamed));
        assert_eq!(ask(&mesh, "other/caller", LEDGER, None), "403", "{unnamed}");
        assert_eq!(ask(&mesh, "own/caller", LEDGER, None), "200", "{unnamed}");
    }
    let named = "from:\n        - source:\n            serviceAccounts: [\"other/caller\"]\n      ";
    serve(&mesh, "ledger.yaml", &ledger_policy(named));
    assert_eq!(
        ask(&mesh, "other/caller", LEDGER, None),
        "200",
        "{}",
        mesh.last_words()
    );
    assert_eq!(ask(&mesh, "own/caller", LEDGER, None), "200");
    assert_eq!(ask(&mesh, "other/neighbour", LEDGER, None), "403");
    assert_eq!(ask(&mesh, "other/caller", "http://stock.own:8080/", None), "403");
    assert_eq!(line(&mesh, "other/caller", "ledger.own"), "");
    assert_eq!(ask(&mesh, "own/caller", "http://stock.own:8080/", None), "200");

    // For people: also within the namespace nobody without a user's verified token (APE-SR-3.b, EUAZ-SR-3).
    assert_eq!(ask(&mesh, "own/caller", PEOPLE, None), "401");
    let user = key.token(ISSUER, "ana", &[]);
    assert_eq!(
        ask(&mesh, "own/caller", PEOPLE, Some(&user)),
        "401",
        "nobody verifies tokens yet"
    );
    is_logged(&mesh, "no user", |line| {
        is_from(line, "own")
            && line["response_code"] == 401
            && line["response_code_details"] == "no_user_credential"
    });
    serve(&mesh, "users.yaml", &users_of("own", ISSUER, &[&key], true));
    assert_eq!(ask(&mesh, "own/caller", PEOPLE, None), "401");
    assert_eq!(
        ask(&mesh, "own/caller", PEOPLE, Some(&user)),
        "200",
        "{}",
        mesh.last_words()
    );
    let forged = other_key.token(ISSUER, "ana", &[]);
    assert_eq!(ask(&mesh, "own/caller", PEOPLE, Some(&forged)), "401");
    // A user does not stand in for the caller's right.
    assert_eq!(ask(&mesh, "other/caller", PEOPLE, Some(&user)), "403");
    // Bytes cannot show a token; where only programs talk none is wanted.
    assert_eq!(line(&mesh, "own/caller", "people.own"), "");
    assert_eq!(ask(&mesh, "own/caller", "http://stock.own:8080/", None), "200");

    // From outside the same, on both hops. The gateway needs its policy, since people have no namespace.
    let outside = |token: Option<&str>| {
        let bearer = token.map(|token| format!("Bearer {token}"));
        let fields: Vec<(&str, &str)> = bearer.iter().map(|bearer| ("Authorization", &**bearer)).collect();
        get(&gateway, "/people", &fields).unwrap().status
    };
    assert_eq!(
        (outside(None), outside(Some(&forged)), outside(Some(&user))),
        (401, 401, 403)
    );
    serve(&mesh, "edge.yaml", EDGE);
    assert_eq!(
        (outside(None), outside(Some(&forged)), outside(Some(&user))),
        (401, 401, 200)
    );
    // A gateway that keeps the token to itself hands nobody on: the application's own side asks again.
    serve(&mesh, "users.yaml", &users_of("own", ISSUER, &[&key], false));
    assert_eq!(outside(Some(&user)), 401);
    is_logged(&mesh, "the second hop", |line| {
        line["source_principal"] == "spiffe://cluster.local/ns/own/sa/edge-bartizan"
            && line["reporter"] == "destination"
            && line["response_code"] == 401
    });
    assert_eq!(ask(&mesh, "own/caller", "http://stock.own:8080/", None), "200");
}

#[test]
fn a_changed_copy_of_the_profile_is_a_profile() {
    let shown = {
        let mut command = std::process::Command::new(bartizan_tests::binary());
        command.args(["profile", "show", "nist"]);
        let ended = bartizan_tests::run(command, Duration::from_secs(20));
        assert_eq!(ended.code, 0, "{ended:?}");
        ended.stdout
    };
    // Everybody is told where everything is, so that it is the asked side that refuses; and nobody asks for users.
    let changed = shown
        .replace("name: nist", "name: ours")
        .replace("reach: ALLOWED", "reach: EVERYTHING")
        .replace("userCredentials: WHERE_MARKED", "userCredentials: OPTIONAL");
    assert_ne!(shown, changed);
    let folder = tempfile::tempdir().unwrap();
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let file = folder.path().join("ours.yaml");
    std::fs::write(&file, changed).unwrap();
    let mesh = Mesh::up(&documents("nist").with(&["--profile", &file.display().to_string()]));
    assert_eq!(
        ask(&mesh, "own/caller", PEOPLE, None),
        "200",
        "{}",
        mesh.last_words()
    );
    // What was not changed holds as before, with the reasons of the asked side.
    let refused = |why: &str| {
        assert_eq!(ask(&mesh, "own/caller", LEDGER, None), "200");
        assert_eq!(ask(&mesh, "other/caller", LEDGER, None), "403");
        assert_eq!(line(&mesh, "other/caller", "stock.own"), "");
        is_logged(&mesh, "a request", |line| {
            is_from(line, "other") && line["reporter"] == "destination" && line["path"] == "/entries"
        });
        is_logged(&mesh, "a connection", |line| {
            is_from(line, "other")
                && line["reporter"] == "destination"
                && line["destination_workload"] == "stock"
        });
        let explained = mesh.bartizan(&["explain", "--last-denied"]);
        assert!(
            explained.stdout.contains("its own namespace"),
            "{}",
            explained.stdout
        );
        let can = mesh.bartizan(&["can", "other/caller", "ledger.own:8080", "GET", "/entries"]);
        assert!(can.code == 4 && can.stdout.contains(why), "{can:?}");
    };
    refused("lets in only its own namespace");
    serve(&mesh, "ledger.yaml", &ledger_policy(""));
    refused("only by a rule that names it in full");
}
