//! The rest of what policies can say, each thing once by the real mesh: audits and dry runs, the client's address behind proxies,
//! access rules, users, targets and former names of the trust domain.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, SystemTime};

use bartizan_tests::http::{Client, metric};
use bartizan_tests::{Mesh, Start, eventually, repository};
use serde_json::Value;

use crate::lab::{Key, code, curl, documents, serve, users_of_edge};

const ISSUER: &str = "https://issuer.example";

/// The documents of `origin` and those of `rest` in one folder.
fn start(folder: &std::path::Path) -> Start {
    let tests = repository().join("tests/documents");
    for (from, to) in [
        ("origin/documents.yaml", "documents.yaml"),
        ("origin/origin.py", "origin.py"),
        ("rest/rest.yaml", "rest.yaml"),
        ("rest/local-run.yaml", "local-run.yaml"),
    ] {
        std::fs::copy(tests.join(from), folder.join(to)).unwrap();
    }
    Start {
        documents: folder.to_owned(),
        ..documents("origin")
    }
}

/// Conditions over what Istio's words do not reach; `hour` is the present one.
fn access_rules(hour: u64) -> String {
    let conditions = [
        (
            "/labels",
            r#"source.labels["tier"] == "batch" && source.version == "v2" && source.workload == "batch""#
                .to_owned(),
        ),
        (
            "/tls",
            r#"connection.tls && connection.tlsVersion == "TLSv1.3" && connection.group == "X25519MLKEM768""#
                .to_owned(),
        ),
        (
            "/tls-other",
            r#"connection.tlsVersion == "TLSv1.2" || connection.group == "secp256r1""#.to_owned(),
        ),
        (
            "/now",
            // The hour may end while the test runs.
            format!(
                "now.getHours(\"UTC\") == {hour} || now.getHours(\"UTC\") == {}",
                (hour + 1) % 24
            ),
        ),
        ("/later", format!("now.getHours(\"UTC\") == {}", (hour + 12) % 24)),
        (
            "/destination",
            r#"destination.labels["app"] == "origin" && destination.version == "v1""#.to_owned(),
        ),
    ];
    let mut out = "apiVersion: bartizan.dev/v1alpha1\nkind: AccessRule\nmetadata:\n  name: conditions\n  namespace: lab\nspec:\n  selector:\n    matchLabels:\n      app: origin\n  action: ALLOW\n  rules:\n".to_owned();
    for (path, condition) in conditions {
        out += &format!("    - when: 'request.path == \"{path}\" && ({condition})'\n");
    }
    out
}

fn gateway(mesh: &Mesh, name: &str) -> String {
    mesh.summary["status"]["gateways"]
        .as_array()
        .unwrap()
        .iter()
        .find(|gateway| gateway["name"].to_string().contains(name))
        .and_then(|gateway| gateway["addresses"][0].as_str())
        .unwrap_or_else(|| panic!("no {name}: {}", mesh.summary))
        .to_owned()
}

fn get(mesh: &Mesh, path: &str, headers: &[(&str, &str)]) -> u16 {
    bartizan_tests::http::get(&gateway(mesh, "edge"), path, headers)
        .unwrap()
        .status
}

/// What a caller without a pod of its own gets.
fn ask(mesh: &Mesh, identity: &str, path: &str) -> String {
    code(&curl(mesh, identity, &[&format!("http://origin:8080{path}")])).to_owned()
}

/// What a pod gets.
fn ask_from(mesh: &Mesh, pod: &str, path: &str) -> String {
    let url = format!("http://origin:8080{path}");
    let ended = mesh.bartizan(&[
        "exec",
        pod,
        "--",
        "curl",
        "-sS",
        "-m",
        "10",
        "-w",
        "\n%{http_code}",
        &url,
    ]);
    code(&ended).to_owned()
}

/// The line that the application's proxy has written about this path.
fn line(mesh: &Mesh, path: &str) -> Value {
    let mut found = Value::Null;
    eventually(&format!("{path} is logged"), Duration::from_secs(3), || {
        let lines = mesh.access_log();
        let line = lines
            .into_iter()
            .find(|line| line["path"] == path && line["reporter"] == "destination");
        found = line.unwrap_or_default();
        !found.is_null()
    });
    found
}

#[test]
fn each_word_of_a_policy_does_what_it_says() {
    let folder = tempfile::tempdir().unwrap();
    let key = Key::new(folder.path(), "issuer.jwk");
    let place = tempfile::tempdir().unwrap();
    let mesh = Mesh::up(&start(place.path()));

    audits_and_dry_runs_are_told_and_change_nothing(&mesh);
    the_address_is_the_one_that_trusted_proxies_tell(&mesh);
    the_address_is_the_one_that_the_balancer_tells(&mesh);
    // A former name of the trust domain means the same, another one does not.
    assert_eq!(
        ask(&mesh, "lab/stranger", "/alias"),
        "200",
        "{}",
        mesh.last_words()
    );
    assert_eq!(ask(&mesh, "lab/caller", "/alias"), "403");
    assert_eq!(ask(&mesh, "lab/stranger", "/alias-of-others"), "403");
    conditions_decide(&mesh);
    users_are_who_their_token_says(&mesh, &key);
}

fn audits_and_dry_runs_are_told_and_change_nothing(mesh: &Mesh) {
    for (path, status) in [
        ("/plain", "200"),
        ("/audited", "200"),
        ("/audited-and-denied", "403"),
        ("/dry/denied", "200"),
        ("/dry/allowed", "403"),
    ] {
        assert_eq!(
            ask(mesh, "lab/caller", path),
            status,
            "{path}\n{}",
            mesh.last_words()
        );
    }
    let audited = |path: &str| line(mesh, path)["audited"].clone();
    let mark = Value::from(vec!["ns[lab]-policy[watch]-rule[1]"]);
    assert_eq!(audited("/plain"), Value::Null);
    assert_eq!(
        (audited("/audited"), audited("/audited-and-denied")),
        (mark.clone(), mark)
    );
    let shadow = |path: &str| {
        let line = line(mesh, path);
        let of = |action: &str, what: &str| line[format!("istio_dry_run_{action}_shadow_{what}")].clone();
        [
            of("allow", "engine_result"),
            of("allow", "effective_policy_id"),
            of("deny", "engine_result"),
            of("deny", "effective_policy_id"),
        ]
    };
    let allowed = Value::from("ns[lab]-policy[perhaps-allow]-rule[0]");
    let denied = Value::from("ns[lab]-policy[perhaps-deny]-rule[0]");
    assert_eq!(shadow("/dry/allowed")[..2], ["allowed".into(), allowed]);
    assert_eq!(shadow("/dry/denied")[2..], ["denied".into(), denied]);
    let plain = shadow("/plain");
    assert_eq!(plain[3], Value::Null, "{plain:?}");
    let metrics = mesh.metrics("lab", "origin-0");
    let count = |name: &str, labels: &[(&str, &str)]| metric(&metrics, name, labels);
    assert_eq!(
        count(
            "bartizan_policy_audited_total",
            &[("policy", "watch"), ("rule", "1")]
        ),
        2.0,
        "{metrics}"
    );
    assert_eq!(
        count(
            "bartizan_policy_audited_total",
            &[("policy", "watch"), ("rule", "0")]
        ),
        0.0
    );
    for labels in [
        [("action", "allow"), ("result", "allowed")],
        [("action", "deny"), ("result", "denied")],
    ] {
        assert_eq!(
            count("bartizan_policy_shadow_total", &labels),
            1.0,
            "{labels:?}\n{metrics}"
        );
    }
}

/// One proxy is trusted: what it has appended is the last entry, and whatever stands before is the client's own invention.
fn the_address_is_the_one_that_trusted_proxies_tell(mesh: &Mesh) {
    for (forwarded, status) in [
        (&[][..], 403),
        (&["203.0.113.7"], 200),
        (&["198.51.100.1, 203.0.113.7"], 200),
        (&["203.0.113.7, 198.51.100.1"], 403),
        (&["198.51.100.1", "203.0.113.7"], 200),
        (&["203.0.113.7", "198.51.100.1"], 403),
        (&["nobody, 203.0.113.7"], 200),
        (&["203.0.113.7, nobody"], 403),
        (&["203.0.113.7,"], 403),
    ] {
        let headers: Vec<(&str, &str)> = forwarded
            .iter()
            .map(|entry| ("X-Forwarded-For", *entry))
            .collect();
        assert_eq!(get(mesh, "/address", &headers), status, "{forwarded:?}");
        // What `ipBlocks` is about is the connection's own peer.
        assert_eq!(get(mesh, "/peer", &headers), 403, "{forwarded:?}");
    }
    let told = bartizan_tests::http::get(
        &gateway(mesh, "edge"),
        "/address",
        &[("X-Forwarded-For", "203.0.113.7")],
    );
    assert_eq!(told.unwrap().status, 200);
    eventually("the address is logged", Duration::from_secs(3), || {
        mesh.access_log()
            .iter()
            .any(|line| line["path"] == "/address" && line["remote_address"] == "203.0.113.7")
    });
}

/// A header of version 2 (§2.2): a proxied IPv4 stream, or none.
fn version_2(source: Option<[u8; 4]>) -> Vec<u8> {
    let mut out = b"\r\n\r\n\0\r\nQUIT\n".to_vec();
    match source {
        Some(source) => {
            out.extend([0x21, 0x11, 0, 12]);
            out.extend(source);
            out.extend([10, 0, 0, 1, 0x30, 0x39, 0, 80]);
        }
        None => out.extend([0x20, 0, 0, 0]),
    }
    out
}

/// What the gateway behind a balancer answers to this header and a request; nothing when it closes.
fn proxied(mesh: &Mesh, header: &[u8]) -> Option<u16> {
    let mut stream = TcpStream::connect(gateway(mesh, "proxied")).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    // At once: what is refused by its header is not waited for.
    let request =
        b"GET /address HTTP/1.1\r\nHost: lab\r\nX-Forwarded-For: 203.0.113.8\r\nConnection: close\r\n\r\n";
    stream.write_all(&[header, request].concat()).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).ok();
    let text = String::from_utf8_lossy(&answer);
    text.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok()
}

fn the_address_is_the_one_that_the_balancer_tells(mesh: &Mesh) {
    let line = |source: &str| format!("PROXY TCP4 {source} 10.0.0.1 12345 80\r\n").into_bytes();
    for (header, status) in [
        (line("203.0.113.9"), Some(200)),
        (line("198.51.100.1"), Some(403)),
        (version_2(Some([203, 0, 113, 9])), Some(200)),
        (version_2(Some([198, 51, 100, 1])), Some(403)),
        // The balancer's own connections speak for nobody.
        (version_2(None), Some(403)),
        (b"PROXY UNKNOWN\r\n".to_vec(), Some(403)),
        // Who sends no header, or a broken one, or two, is not heard.
        (Vec::new(), None),
        (b"PROXY TCP4 203.0.113.9 10.0.0.1 99999 80\r\n".to_vec(), None),
        (b"PROXY TCP4 203.0.113.9\r\n".to_vec(), None),
        (b"\r\n\r\n\0\r\nQUIT\n\x31\x11\0\x0c".to_vec(), None),
    ] {
        let got = proxied(mesh, &header);
        let shown = String::from_utf8_lossy(&header);
        // A refusal may be said before the connection is closed.
        let is_right = got == status || status.is_none() && got == Some(400);
        assert!(is_right, "{shown:?}: {got:?}");
    }
    let twice = [line("203.0.113.9"), line("203.0.113.9")].concat();
    assert_ne!(proxied(mesh, &twice), Some(200));
    // The gateway lets this one in, and the application's own side knows the address from the gateway, not from the client.
    assert_eq!(proxied(mesh, &line("203.0.113.66")), Some(403));
    eventually(
        "the application's side has refused it",
        Duration::from_secs(3),
        || {
            mesh.access_log().iter().any(|line| {
                line["reporter"] == "destination"
                    && line["remote_address"] == "203.0.113.66"
                    && line["policy"]
                        .as_str()
                        .is_some_and(|policy| policy.contains("not-this-one"))
            })
        },
    );
}

fn conditions_decide(mesh: &Mesh) {
    let seconds = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap()
        .as_secs();
    assert_eq!(ask_from(mesh, "lab/batch-0", "/labels"), "403");
    serve(mesh, "conditions.yaml", &access_rules(seconds / 3600 % 24));
    for (path, status) in [
        ("/labels", "200"),
        ("/tls", "200"),
        ("/tls-other", "403"),
        ("/now", "200"),
        ("/later", "403"),
        ("/destination", "200"),
    ] {
        assert_eq!(
            ask_from(mesh, "lab/batch-0", path),
            status,
            "{path}\n{}",
            mesh.last_words()
        );
    }
    // The same account with another version, and without the label.
    assert_eq!(ask_from(mesh, "lab/older-0", "/labels"), "403");
    assert_eq!(ask(mesh, "lab/caller", "/labels"), "403");
    assert_eq!(ask_from(mesh, "lab/older-0", "/tls"), "200");
    let shown = line(mesh, "/now");
    assert_eq!(shown["downstream_tls_group"], "X25519MLKEM768", "{shown}");
}

fn users_are_who_their_token_says(mesh: &Mesh, key: &Key) {
    let users = users_of_edge("lab", ISSUER, &[key]).replace(
        "      jwks:",
        "      outputClaimToHeaders:\n        - header: x-user-name\n          claim: sub\n        - header: x-user-team\n          claim: team\n      jwks:",
    );
    serve(mesh, "users.yaml", &users);
    let (ana, bob) = (key.token(ISSUER, "ana", &[]), key.token(ISSUER, "bob", &[]));
    let bearer = |token: &str| format!("Bearer {token}");
    assert_eq!(
        get(mesh, "/user", &[("Authorization", &bearer(&ana))]),
        200,
        "{}",
        mesh.last_words()
    );
    assert_eq!(get(mesh, "/user", &[("Authorization", &bearer(&bob))]), 403);
    assert_eq!(get(mesh, "/user", &[]), 401);
    // The policy is the one gateway's.
    let other = format!(
        "PROXY TCP4 203.0.113.9 10.0.0.1 1 80\r\nGET /user HTTP/1.1\r\nHost: lab\r\nAuthorization: {}\r\nConnection: close\r\n\r\n",
        bearer(&ana)
    );
    let mut stream = TcpStream::connect(gateway(mesh, "proxied")).unwrap();
    stream.write_all(other.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok();
    assert!(answer.starts_with("HTTP/1.1 403"), "{answer}");

    // Nobody says by a header who they are: however it is spelled, it is gone, and only the token's claims are there.
    let forged = [
        ("X-User-Name", "mallory"),
        ("x_user_name", "mallory"),
        ("X-User_Name", "mallory"),
        ("x-user-team", "mallory"),
        ("X_USER-TEAM", "mallory"),
        ("x-user-name", "mallory"),
    ];
    let authorization = bearer(&bob);
    for (token, expected) in [(None, vec![]), (Some(&authorization), vec!["bob"])] {
        let mut headers = forged.to_vec();
        headers.extend(token.map(|token| ("Authorization", token.as_str())));
        let mut client = Client::connect(&gateway(mesh, "edge")).unwrap();
        let answer = client.request("GET", "/open", &headers, b"").unwrap();
        assert_eq!(answer.status, 200, "{}", answer.text());
        let told: Value = serde_json::from_slice(&answer.body).unwrap();
        let claims: Vec<&str> = told["fields"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|field| {
                let name = field[0]
                    .as_str()
                    .unwrap_or_default()
                    .to_lowercase()
                    .replace('_', "-");
                name.starts_with("x-user-")
            })
            .map(|field| field[1].as_str().unwrap_or_default())
            .collect();
        assert_eq!(claims, expected, "{told}");
    }
}
