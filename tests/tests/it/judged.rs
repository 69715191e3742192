//! What is open is judged again by every change: a policy, an access rule, an issuer's key. What lost its right ends within a
//! second, with the reason on record; everything else goes on.

use std::io::{self, Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use bartizan_tests::h2::{Connection, Event};
use bartizan_tests::{Mesh, eventually};
use serde_json::Value;

use crate::lab::{Key, change, documents, serve, users_of_edge};
use crate::live::{Inside, LINES};

/// What "within a second" allows.
const SOON: Duration = Duration::from_secs(1);
/// After this, what should have ended goes on.
const LONG: Duration = Duration::from_secs(5);
const ISSUER: &str = "https://issuer.example";

const POLICIES: &str = r#"apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata:
  name: edge
  namespace: lab
spec:
  selector:
    matchLabels:
      gateway.networking.k8s.io/gateway-name: edge
  action: ALLOW
  rules:
    - to:
        - operation:
            paths: ["/hold/*", "/up/*"]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata:
  name: origin
  namespace: lab
spec:
  selector:
    matchLabels:
      app: origin
  action: ALLOW
  rules:
    - from:
        - source:
            principals: ["cluster.local/ns/lab/sa/edge-bartizan"]
      to:
        - operation:
            ports: ["8080"]
    - from:
        - source:
            serviceAccounts: ["caller", "stranger"]
      to:
        - operation:
            ports: ["7000"]
"#;

/// At the application's own sidecar: the gateway lets it through.
const DENY: &str = r#"apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata:
  name: no-more
  namespace: lab
spec:
  selector:
    matchLabels:
      app: origin
  action: DENY
  rules:
    - to:
        - operation:
            ports: ["8080"]
            paths: ["*/policy"]
    - from:
        - source:
            serviceAccounts: ["stranger"]
      to:
        - operation:
            ports: ["7000"]
"#;

/// One at the gateway, of a field; one at the application, of bytes.
const RULES: &str = r#"apiVersion: bartizan.dev/v1alpha1
kind: AccessRule
metadata:
  name: no-team
  namespace: lab
spec:
  selector:
    matchLabels:
      gateway.networking.k8s.io/gateway-name: edge
  action: DENY
  rules:
    - when: 'request.path.startsWith("/hold/rule") || request.headers["x-team"] == "rule"'
---
apiVersion: bartizan.dev/v1alpha1
kind: AccessRule
metadata:
  name: no-bytes
  namespace: lab
spec:
  selector:
    matchLabels:
      app: origin
  action: DENY
  rules:
    - when: 'destination.port == 7000 && source.serviceAccount == "stranger"'
"#;

/// A connection over HTTP/1.1 to the gateway: an answer without an end, or lines after an upgrade.
struct Open(TcpStream);

impl Open {
    fn new(gateway: &str, path: &str, token: Option<&str>) -> Self {
        let mut stream = TcpStream::connect(gateway).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let mut head = format!("GET {path} HTTP/1.1\r\nHost: lab\r\nx-team: {}\r\n", name(path));
        if let Some(token) = token {
            head += &format!("Authorization: Bearer {token}\r\n");
        }
        let is_upgrade = path.starts_with("/up/");
        if is_upgrade {
            head += "Connection: upgrade\r\nUpgrade: lines\r\n";
        }
        stream.write_all(format!("{head}\r\n").as_bytes()).unwrap();
        let mut open = Self(stream);
        let head = open.until(b"\r\n\r\n");
        let status = if is_upgrade {
            "HTTP/1.1 101"
        } else {
            "HTTP/1.1 200"
        };
        assert!(head.starts_with(status), "{path}: {head}");
        open
    }

    fn until(&mut self, end: &[u8]) -> String {
        let mut got = Vec::new();
        while !got.ends_with(end) {
            let mut byte = [0];
            self.0.read_exact(&mut byte).unwrap();
            got.push(byte[0]);
        }
        String::from_utf8(got).unwrap()
    }

    /// It still says something new.
    fn goes_on(&mut self, is_upgrade: bool) {
        if is_upgrade {
            self.0.write_all(b"still there\n").unwrap();
            assert_eq!(self.until(b"\n"), "still there\n");
        } else {
            // Whatever is under way first, then what cannot have been.
            for _ in 0..3 {
                self.0.set_nonblocking(true).unwrap();
                while self.0.read(&mut [0; 4096]).is_ok_and(|count| count > 0) {}
                self.0.set_nonblocking(false).unwrap();
                self.until(b"line\n");
            }
        }
    }

    /// Reads to its end, which must not look like the answer's own.
    fn ends(&mut self, what: &str) {
        let deadline = Instant::now() + LONG;
        let mut last = Vec::new();
        loop {
            let mut bytes = [0; 4096];
            match self.0.read(&mut bytes) {
                Ok(0) => break,
                Ok(count) => last = bytes[..count].to_vec(),
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => break,
                Err(error) => panic!("{what}: {error}"),
            }
            assert!(Instant::now() < deadline, "{what}: the answer goes on");
        }
        assert!(!last.ends_with(b"0\r\n\r\n"), "{what}: the answer looks whole");
    }
}

fn name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or_default()
}

fn stream(connection: &mut Connection, path: &str, token: Option<&str>) -> u32 {
    let bearer = token.map(|token| format!("Bearer {token}"));
    let mut fields = vec![("x-team", name(path))];
    if let Some(bearer) = &bearer {
        fields.push(("authorization", bearer));
    }
    let stream = connection.get(path, &fields).unwrap();
    loop {
        match connection.next(Duration::from_secs(5)).unwrap() {
            Some(Event::Head {
                stream: of, status, ..
            }) if of == stream => {
                assert_eq!(status, 200, "{path}");
                return stream;
            }
            Some(Event::Data { .. }) => {}
            other => panic!("{path}: {other:?}"),
        }
    }
}

/// Reads until `of` is reset; nothing else may end.
fn is_reset(connection: &mut Connection, of: u32) {
    let deadline = Instant::now() + LONG;
    loop {
        match connection.next(LONG).unwrap() {
            Some(Event::Reset { stream, .. }) if stream == of => return,
            Some(Event::Data { is_end: false, .. }) if Instant::now() < deadline => {}
            other => panic!("{other:?}"),
        }
    }
}

fn goes_on(connection: &mut Connection, of: u32) {
    for _ in 0..3 {
        // What was under way is read as well, so that the last one is new.
        while connection.next(Duration::from_millis(1)).unwrap().is_some() {}
        match connection.next(Duration::from_secs(5)).unwrap() {
            Some(Event::Data {
                stream,
                is_end: false,
                ..
            }) => assert_eq!(stream, of),
            other => panic!("{other:?}"),
        }
    }
}

/// What one change ends: a long answer, a stream beside another one, an upgraded connection, lines over TCP.
struct Doomed {
    answer: Open,
    upgraded: Open,
    connection: Connection,
    stream: u32,
    neighbour: u32,
    lines: Option<Inside>,
}

impl Doomed {
    fn open(mesh: &Mesh, name: &str, token: Option<&str>, neighbours: Option<&str>) -> Self {
        let gateway = mesh.gateway();
        let mut connection = Connection::open(&gateway).unwrap();
        let doomed = stream(&mut connection, &format!("/hold/{name}"), token);
        let neighbour = stream(&mut connection, "/hold/kept", neighbours);
        let lines = token.is_none().then(|| {
            let mut lines = Inside::python(mesh, "lab/stranger", &LINES.replace("web", "origin"));
            lines.say("hello");
            assert_eq!(lines.line(), "hello", "{}", mesh.last_words());
            lines
        });
        Self {
            answer: Open::new(&gateway, &format!("/hold/{name}"), token),
            upgraded: Open::new(&gateway, &format!("/up/{name}"), token),
            connection,
            stream: doomed,
            neighbour,
            lines,
        }
    }

    /// All of it ends within a second of `change`; its neighbour does not.
    fn ends_by(mut self, what: &str, change: impl FnOnce()) {
        change();
        let start = Instant::now();
        self.answer.ends(what);
        is_reset(&mut self.connection, self.stream);
        self.upgraded.ends(what);
        if let Some(lines) = &mut self.lines {
            assert_eq!(lines.line(), "reset", "{what}");
        }
        let took = start.elapsed();
        eprintln!("{what}: all closed after {took:?}");
        assert!(took < SOON, "{what}: {took:?}");
        goes_on(&mut self.connection, self.neighbour);
        if let Some(lines) = self.lines {
            lines.end();
        }
    }
}

/// The denials of these paths and, if asked, of bytes are in the log of one reporter, and `explain` finds each by its id.
fn are_on_record(mesh: &Mesh, name: &str, bytes: bool, says: &str, explained: &str) {
    let of = |line: &Value, path: Option<&str>| {
        line["decision"] == "deny"
            && line["path"].as_str() == path
            && (path.is_some() || line["source_principal"] == "spiffe://cluster.local/ns/lab/sa/stranger")
            && line.to_string().contains(says)
    };
    let (hold, up) = (format!("/hold/{name}"), format!("/up/{name}"));
    for (path, count) in [
        (Some(hold.as_str()), 2),
        (Some(up.as_str()), 1),
        (None, usize::from(bytes)),
    ] {
        let mut found = Vec::new();
        eventually(
            &format!("{count} denials of {path:?} by {says} are logged"),
            Duration::from_secs(3),
            || {
                found = mesh
                    .access_log()
                    .into_iter()
                    .filter(|line| of(line, path))
                    .collect();
                found.len() == count
            },
        );
        for line in found {
            let id = line["decision_id"]
                .as_str()
                .unwrap_or_else(|| panic!("no id: {line}"));
            let ended = mesh.bartizan(&["explain", id]);
            assert_eq!(ended.code, 0, "{ended:?}");
            assert!(
                ended.stdout.contains(explained),
                "{path:?}: no `{explained}` in\n{}",
                ended.stdout
            );
        }
    }
}

#[test]
fn what_is_open_ends_with_its_right() {
    let folder = tempfile::tempdir().unwrap();
    let (stays, goes) = (Key::new(folder.path(), "stays"), Key::new(folder.path(), "goes"));
    let mesh = Mesh::up(&documents("origin"));
    serve(&mesh, "policies.yaml", POLICIES);
    serve(
        &mesh,
        "users.yaml",
        &users_of_edge("lab", ISSUER, &[&stays, &goes]),
    );
    let gateway = mesh.gateway();
    let (staying, going) = (stays.token(ISSUER, "ana", &[]), goes.token(ISSUER, "bob", &[]));

    // What no change speaks of: it outlives all of them.
    let mut kept_answer = Open::new(&gateway, "/hold/kept", Some(&staying));
    let mut kept_upgrade = Open::new(&gateway, "/up/kept", None);
    let mut kept_lines = Inside::python(&mesh, "lab/caller", &LINES.replace("web", "origin"));
    let mut kept = |mesh: &Mesh| {
        kept_answer.goes_on(false);
        kept_upgrade.goes_on(true);
        kept_lines.say("hello");
        assert_eq!(kept_lines.line(), "hello", "{}", mesh.last_words());
    };
    kept(&mesh);

    let doomed = Doomed::open(&mesh, "policy", None, None);
    doomed.ends_by("a policy", || mesh.write_document("deny.yaml", DENY));
    kept(&mesh);
    are_on_record(&mesh, "policy", true, "no-more", "lab/no-more");
    change(&mesh, || {
        std::fs::remove_file(mesh.documents.join("deny.yaml")).unwrap();
    });

    let doomed = Doomed::open(&mesh, "rule", None, None);
    doomed.ends_by("an access rule", || mesh.write_document("rules.yaml", RULES));
    kept(&mesh);
    are_on_record(&mesh, "rule", false, "no-team", "no-team");
    are_on_record_of_bytes(&mesh);

    let doomed = Doomed::open(&mesh, "key", Some(&going), Some(&staying));
    doomed.ends_by("an issuer's key", || {
        mesh.write_document("users.yaml", &users_of_edge("lab", ISSUER, &[&stays]));
    });
    kept(&mesh);
    are_on_record(&mesh, "key", false, "request_auth_error", "RequestAuthentication");
    // The same users come again.
    let again = |token: &str| {
        let header = format!("Bearer {token}");
        let fields = [("Authorization", header.as_str()), ("x-team", "blue")];
        bartizan_tests::http::get(&gateway, "/up/x", &fields)
            .unwrap()
            .status
    };
    assert_eq!((again(&staying), again(&going)), (200, 401));
}

fn are_on_record_of_bytes(mesh: &Mesh) {
    let line = mesh
        .access_log()
        .into_iter()
        .find(|line| {
            line["path"].is_null() && line["decision"] == "deny" && line.to_string().contains("no-bytes")
        })
        .unwrap();
    let explained = mesh.bartizan(&["explain", line["decision_id"].as_str().unwrap()]);
    assert!(explained.stdout.contains("lab/no-bytes"), "{}", explained.stdout);
}
