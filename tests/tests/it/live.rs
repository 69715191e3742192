//! Documents that change while the mesh runs: how soon, as one, what is refused, and what becomes of what is open.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::os::fd::AsFd as _;
use std::process::{Child, ChildStdin, ChildStdout, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bartizan_tests::http::{Client, get};
use bartizan_tests::load::{Load, LoadPlan};
use bartizan_tests::{Mesh, Start, eventually};
use nix::poll::{PollFd, PollFlags, poll};

/// What "within a second" allows; the machine may be busy with other tests.
const SOON: Duration = Duration::from_secs(1);

/// Until `path` is answered with `status`; how long that took.
fn until(client: &mut Client<TcpStream>, path: &str, status: u16, within: Duration) -> Duration {
    let start = Instant::now();
    eventually(&format!("{path} is answered with {status}"), within, || {
        client
            .request("GET", path, &[], b"")
            .is_ok_and(|answer| answer.status == status)
    });
    start.elapsed()
}

fn version(mesh: &Mesh) -> u64 {
    mesh.status()["version"].as_u64().unwrap()
}

#[test]
fn a_saved_file_takes_effect_everywhere_within_a_second() {
    let mesh = Mesh::up(&Start::scene("lab"));
    let gateway = mesh.gateway();
    let mut client = Client::connect(&gateway).unwrap();
    let mut slowest = Duration::ZERO;
    for round in 0..5 {
        let before = version(&mesh);
        // One hop at the gateway, one between two pods.
        mesh.edit_document("policies.yaml", r#""/web", "/web/*", "#, "");
        slowest = slowest.max(until(&mut client, "/web/x", 403, SOON));
        assert_eq!(
            client.request("GET", "/front/x", &[], b"").unwrap().status,
            200,
            "round {round}"
        );
        mesh.edit_document(
            "policies.yaml",
            r#"paths: ["/web/behind"]"#,
            r#"paths: ["/web/other"]"#,
        );
        // `front` hands on what `web` answers.
        slowest = slowest.max(until(&mut client, "/front/x", 403, SOON));
        let start = Instant::now();
        eventually("every proxy has acknowledged the newest version", SOON, || {
            let status = mesh.status();
            let newest = status["version"].as_u64().unwrap();
            newest > before
                && status["workloads"]
                    .as_array()
                    .unwrap()
                    .iter()
                    .all(|workload| workload["proxy"]["acknowledged"].as_u64() == Some(newest))
        });
        slowest = slowest.max(start.elapsed());
        mesh.edit_document(
            "policies.yaml",
            r#""/front", "#,
            r#""/web", "/web/*", "/front", "#,
        );
        mesh.edit_document(
            "policies.yaml",
            r#"paths: ["/web/other"]"#,
            r#"paths: ["/web/behind"]"#,
        );
        slowest = slowest.max(until(&mut client, "/front/x", 200, SOON));
        slowest = slowest.max(until(&mut client, "/web/x", 200, SOON));
    }
    eprintln!("the slowest change took {slowest:?}");
}

#[test]
fn a_broken_file_is_refused_whole_and_the_old_version_stays() {
    let mesh = Mesh::up(&Start::scene("lab"));
    let gateway = mesh.gateway();
    let mut client = Client::connect(&gateway).unwrap();
    let good = std::fs::read_to_string(mesh.documents.join("policies.yaml")).unwrap();
    let line_of = |text: &str, what: &str| text.lines().position(|line| line.contains(what)).unwrap() + 1;

    let broken = good.replacen("action: ALLOW", "action: ALOW", 1);
    let before = version(&mesh);
    mesh.write_document("policies.yaml", &broken);
    let refused = || {
        let status = mesh.status();
        status["refused"] == true && status["findings"].as_array().is_some_and(|all| !all.is_empty())
    };
    eventually("the broken file is refused", SOON, refused);
    let status = mesh.status();
    let finding = &status["findings"][0];
    assert!(finding["code"].as_str().unwrap().starts_with("BZ"), "{finding}");
    assert_eq!(finding["file"], "policies.yaml");
    assert_eq!(finding["line"], line_of(&broken, "ALOW"));
    assert_eq!(finding["column"], 11, "{finding}");
    let text = mesh.bartizan(&["status"]);
    let place = format!("policies.yaml:{}:11", line_of(&broken, "ALOW"));
    assert!(
        text.stdout.contains("error[BZ") && text.stdout.contains(&place),
        "{}",
        text.stdout
    );
    // `check` says the same, and with its own exit code.
    let documents = mesh.documents.display().to_string();
    let checked = mesh.bartizan(&["check", &documents]);
    assert_eq!(checked.code, 3, "{checked:?}");
    assert!(format!("{}{}", checked.stdout, checked.stderr).contains(finding["code"].as_str().unwrap()));

    // Refused whole: a good change of another file waits as well.
    mesh.edit_document("routes.yaml", "value: /web", "value: /wab");
    mesh.write_document("policies.yaml", &broken.replace("ALOW", "ALLOWED"));
    eventually("the new text is refused", SOON, || {
        mesh.status()["findings"][0]["text"]
            .as_str()
            .is_some_and(|text| text.contains("ALLOWED"))
    });
    assert_eq!(version(&mesh), before);
    assert_eq!(client.request("GET", "/web/x", &[], b"").unwrap().status, 200);
    mesh.edit_document("routes.yaml", "value: /wab", "value: /web");

    mesh.write_document("policies.yaml", &good);
    let accepted = || mesh.status()["refused"] == false;
    eventually("the good file is accepted", SOON, accepted);
    assert_eq!(mesh.status()["findings"].as_array().unwrap().len(), 0);

    // Half of a file, as a tool that does not rename leaves it when it is killed; the last line is cut in its middle.
    let path = mesh.documents.join("policies.yaml");
    let cut = good.rfind("principals: [\"clus").unwrap() + 20;
    std::fs::write(&path, &good.as_bytes()[..cut]).unwrap();
    eventually("half a file is refused", SOON, refused);
    assert_eq!(client.request("GET", "/web/x", &[], b"").unwrap().status, 200);
    assert_eq!(version(&mesh), before);
    std::fs::write(&path, &good).unwrap();
    eventually("the whole file is accepted", SOON, accepted);

    // Half of a file that its writer has still open is waited for, and not taken for a state at all.
    let count = || mesh.status()["counts"]["statesRefused"].as_u64().unwrap();
    let refusals = count();
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .truncate(true)
        .open(&path)
        .unwrap();
    file.write_all(&good.as_bytes()[..cut]).unwrap();
    let written = Instant::now();
    while written.elapsed() < Duration::from_millis(500) {
        assert!(accepted());
    }
    file.write_all(&good.as_bytes()[cut..]).unwrap();
    file.write_all(b"# a comment more\n").unwrap();
    drop(file);
    mesh.edit_document("routes.yaml", "value: /front", "value: /frond");
    until(&mut client, "/front/x", 404, SOON);
    assert_eq!(count(), refusals);

    // And a mended file applies.
    mesh.write_document("policies.yaml", &broken);
    eventually("the broken file is refused", SOON, refused);
    mesh.write_document("policies.yaml", &good.replace(r#""/web", "/web/*", "#, ""));
    until(&mut client, "/web/x", 403, SOON);
    assert!(version(&mesh) > before);
}

/// A process of `bartizan run` that is spoken to line by line.
pub(crate) struct Inside {
    child: Child,
    write: ChildStdin,
    read: BufReader<ChildStdout>,
}

impl Inside {
    pub(crate) fn python(mesh: &Mesh, identity: &str, script: &str) -> Self {
        let mut child = mesh
            .command(&[
                "run",
                "--as",
                identity,
                "--",
                "/usr/bin/python3",
                "-u",
                "-c",
                script,
            ])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        Self {
            write: child.stdin.take().unwrap(),
            read: BufReader::new(child.stdout.take().unwrap()),
            child,
        }
    }

    /// The next line; nothing for ten seconds is the end of the test, and of the process.
    pub(crate) fn line(&mut self) -> String {
        let out = self.read.get_ref().as_fd();
        let mut ready = [PollFd::new(out, PollFlags::POLLIN)];
        if self.read.buffer().is_empty() && poll(&mut ready, 10_000_u16) != Ok(1) {
            self.child.kill().ok();
            panic!("nothing is said");
        }
        let mut line = String::new();
        self.read.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    pub(crate) fn say(&mut self, text: &str) {
        writeln!(self.write, "{text}").unwrap();
    }

    pub(crate) fn end(mut self) {
        drop(self.write);
        self.child.wait().unwrap();
    }
}

/// Opens a connection to `web:7000`, sends each line that it reads, prints what comes back, or how it was closed.
pub(crate) const LINES: &str = r#"
import socket, sys, threading
s = socket.create_connection(("web", 7000))
def hear():
    while True:
        try:
            got = s.recv(1000)
        except ConnectionResetError:
            print("reset"); return
        if not got:
            print("closed"); return
        print(got.decode().strip())
threading.Thread(target=hear, daemon=True).start()
for line in sys.stdin:
    try:
        s.sendall(line.encode())
    except OSError:
        pass
"#;

/// Reads an answer without an end from `slow`, and says every 20 lines that it goes on, or how it ended.
const STREAM: &str = r#"
import http.client
c = http.client.HTTPConnection("slow", 8080)
c.request("GET", "/slow/0")
r = c.getresponse()
print(r.status)
got = 0
try:
    while True:
        if not r.read1(5):
            print("ended"); break
        got += 1
        if got % 20 == 0:
            print("goes on")
except (http.client.HTTPException, OSError) as e:
    print("cut", type(e).__name__)
"#;

#[test]
fn what_a_new_policy_denies_is_closed_and_the_rest_is_kept() {
    let mesh = Mesh::up(&Start::scene("lab"));
    // Two may open lines, one of them keeps its right.
    mesh.edit_document(
        "policies.yaml",
        r#"principals: ["cluster.local/ns/lab/sa/caller"]
      to:
        - operation:
            ports: ["7000"]"#,
        r#"principals: ["cluster.local/ns/lab/sa/caller", "cluster.local/ns/lab/sa/stranger"]
      to:
        - operation:
            ports: ["7000"]"#,
    );
    mesh.settle();
    let mut caller = Inside::python(&mesh, "lab/caller", LINES);
    let mut stranger = Inside::python(&mesh, "lab/stranger", LINES);
    for one in [&mut caller, &mut stranger] {
        one.say("hello");
        assert_eq!(one.line(), "web: hello");
    }
    // Answers in the middle: one from outside through the gateway, one between pods.
    let mut stream = Inside::python(&mesh, "lab/caller", STREAM);
    assert_eq!(stream.line(), "200");
    let mut outside = TcpStream::connect(mesh.gateway()).unwrap();
    outside
        .write_all(b"GET /slow/0 HTTP/1.1\r\nHost: lab\r\n\r\n")
        .unwrap();
    let mut begin = [0; 12];
    outside.read_exact(&mut begin).unwrap();
    assert_eq!(&begin, b"HTTP/1.1 200");

    // The stranger's lines and the gateway's answers are denied.
    mesh.edit_document("policies.yaml", r#", "cluster.local/ns/lab/sa/stranger""#, "");
    let start = Instant::now();
    assert_eq!(stranger.line(), "reset", "{}", mesh.last_words());
    let lines_closed = start.elapsed();
    mesh.edit_document(
        "slow.yaml",
        r#"    - from:
        - source:
            principals: ["cluster.local/ns/lab/sa/edge-bartizan"]
"#,
        "",
    );
    let start = Instant::now();
    outside.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let mut rest = Vec::new();
    let ended = outside.read_to_end(&mut rest);
    let answer_closed = start.elapsed();
    // The client can tell a cut answer from a whole one: there is no last chunk.
    assert!(
        ended.is_err() || !rest.ends_with(b"0\r\n\r\n"),
        "the answer looks whole"
    );
    eprintln!("lines closed after {lines_closed:?}, the answer after {answer_closed:?}");
    assert!(
        lines_closed < SOON && answer_closed < SOON,
        "{lines_closed:?} {answer_closed:?}"
    );
    assert_eq!(get(&mesh.gateway(), "/slow/1", &[]).unwrap().status, 403);

    // What is still allowed was not touched.
    caller.say("again");
    assert_eq!(caller.line(), "web: again");
    assert_eq!(stream.line(), "goes on");
    assert_eq!(stream.line(), "goes on");
    // A closing is counted and can be explained.
    eventually("the closing is in the access log", Duration::from_secs(3), || {
        mesh.access_log().iter().any(|line| {
            line["decision"] == "deny"
                && line["source_principal"] == "spiffe://cluster.local/ns/lab/sa/stranger"
                && line["bytes_sent"] == 11
        })
    });

    // Not even a change that takes the last rule away lets the streams live on.
    mesh.edit_document(
        "policies.yaml",
        "  name: web-lines\n",
        "  name: web-lines-of-nobody\n",
    );
    mesh.settle();
    caller.say("third");
    assert_eq!(caller.line(), "web: third");
    caller.end();
    stranger.end();
    stream.child.kill().unwrap();
    stream.end();
}

/// The two halves of a change: what the gateway's route says of itself, and who may call it.
fn coupled(colour: &str) -> String {
    format!(
        r#"apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata:
  name: coupled
  namespace: lab
spec:
  parentRefs:
    - name: edge
  rules:
    - matches:
        - path:
            type: PathPrefix
            value: /coupled
      filters:
        - type: ResponseHeaderModifier
          responseHeaderModifier:
            set:
              - name: x-colour
                value: {colour}
      backendRefs:
        - name: web
          port: 8080
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata:
  name: coupled
  namespace: lab
spec:
  selector:
    matchLabels:
      gateway.networking.k8s.io/gateway-name: edge
  action: ALLOW
  rules:
    - to:
        - operation:
            paths: ["/coupled"]
      when:
        - key: request.headers[x-want]
          values: ["{colour}"]
"#
    )
}

#[test]
fn a_request_sees_a_change_whole_or_not_at_all() {
    let mesh = Mesh::up(&Start::scene("lab"));
    mesh.write_document("coupled.yaml", &coupled("red"));
    mesh.settle();
    let gateway = mesh.gateway();
    let stop = AtomicBool::new(false);
    let (answered, denied) = (AtomicU64::new(0), AtomicU64::new(0));
    std::thread::scope(|threads| {
        let hammers: Vec<_> = ["red", "blue", "red", "blue"]
            .into_iter()
            .map(|colour| {
                let (gateway, stop, answered, denied) = (&gateway, &stop, &answered, &denied);
                threads.spawn(move || {
                    let mut client = Client::connect(gateway).unwrap();
                    while !stop.load(Ordering::Relaxed) {
                        let answer = client
                            .request("GET", "/coupled", &[("x-want", colour)], b"")
                            .unwrap();
                        match answer.status {
                            200 => {
                                answered.fetch_add(1, Ordering::Relaxed);
                                assert_eq!(answer.header("x-colour"), Some(colour), "half a change");
                            }
                            403 => {
                                denied.fetch_add(1, Ordering::Relaxed);
                            }
                            other => panic!("status {other}"),
                        }
                    }
                })
            })
            .collect();
        for colour in ["blue", "red"].into_iter().cycle().take(30) {
            mesh.write_document("coupled.yaml", &coupled(colour));
            eventually("the change is served", SOON, || {
                get(&gateway, "/coupled", &[("x-want", colour)]).is_ok_and(|answer| answer.status == 200)
                    || hammers.iter().any(std::thread::ScopedJoinHandle::is_finished)
            });
            if hammers.iter().any(std::thread::ScopedJoinHandle::is_finished) {
                break;
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
    let (answered, denied) = (answered.into_inner(), denied.into_inner());
    eprintln!("{answered} answered, {denied} denied, none saw half a change");
    assert!(
        answered > 200 && denied > 200,
        "{answered} answered, {denied} denied"
    );
}

#[test]
fn replicas_come_and_go_under_load_and_what_is_begun_is_finished() {
    let mesh = Mesh::up(&Start::scene("lab"));
    let gateway = mesh.gateway();
    let load = Load::start(&LoadPlan::new(&gateway, &["/web/x", "/front/x"]));
    let replicas = |mesh: &Mesh| {
        mesh.status()["workloads"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|workload| workload["workload"] == "web" && workload["ready"] == true)
            .count()
    };
    let of_web = |count: u32| format!("  name: web\n  namespace: lab\nspec:\n  replicas: {count}\n");
    for (from, to) in [(2, 4), (4, 1), (1, 3), (3, 1), (1, 2)] {
        mesh.edit_document("services.yaml", &of_web(from), &of_web(to));
        let start = Instant::now();
        while replicas(&mesh) != usize::try_from(to).unwrap() {
            assert!(
                start.elapsed() < Duration::from_secs(15),
                "{from} to {to}: {:#}\n{}",
                mesh.status()["workloads"],
                mesh.last_words()
            );
        }
        load.more(100);
    }
    mesh.settle();
    // A changed template replaces one replica after the other.
    mesh.edit_document(
        "services.yaml",
        "app: web\n        version: v1",
        "app: web\n        version: v2",
    );
    mesh.settle();
    load.more(100);
    load.finish().assert_nothing_lost(|| mesh.last_words());

    // A deployment that goes finishes what it has begun: two seconds of answer, and the deployment is gone before its end.
    let begun = std::thread::spawn(move || get(&gateway, "/slow/40", &[]));
    eventually("the request is on its way", Duration::from_secs(3), || {
        let metrics = mesh.metrics("lab", "slow-0");
        bartizan_tests::http::metric(&metrics, "bartizan_connections_open", &[("direction", "inbound")])
            >= 1.0
    });
    mesh.edit_document("slow.yaml", "replicas: 1", "replicas: 0");
    let answer = begun.join().unwrap();
    let answer = answer.unwrap_or_else(|error| panic!("{error}\n{}", mesh.last_words()));
    assert_eq!(answer.text(), "line\n".repeat(40));
    eventually("the replica is gone", Duration::from_secs(10), || {
        !mesh.status()["workloads"]
            .as_array()
            .unwrap()
            .iter()
            .any(|workload| workload["workload"] == "slow")
    });
    // Nobody serves, which is not the same as nobody may.
    let answer = get(&mesh.gateway(), "/slow/1", &[]).unwrap();
    assert_eq!(answer.status, 503, "{answer:?}");
}

#[test]
fn a_new_deployment_appears_and_a_removed_one_is_gone() {
    let mesh = Mesh::up(&Start::scene("lab"));
    let gateway = mesh.gateway();
    let document = std::fs::read_to_string(mesh.documents.join("services.yaml")).unwrap();
    let from = document
        .find("apiVersion: v1\nkind: Service\nmetadata:\n  name: front")
        .unwrap();
    let more = document[from..]
        .replace("front", "extra")
        .replace("example.org/extra", "example.org/web");
    let more = format!(
        "{more}---\n{}",
        r#"apiVersion: v1
kind: ServiceAccount
metadata:
  name: extra
  namespace: lab
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata:
  name: extra
  namespace: lab
spec:
  action: ALLOW
  rules:
    - to:
        - operation:
            paths: ["/extra"]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata:
  name: extra
  namespace: lab
spec:
  parentRefs:
    - name: edge
  rules:
    - matches:
        - path:
            value: /extra
      backendRefs:
        - name: extra
          port: 8080
"#
    );
    mesh.write_document("extra.yaml", &more);
    let mut client = Client::connect(&gateway).unwrap();
    let took = until(&mut client, "/extra", 200, Duration::from_secs(5));
    eprintln!("a new deployment serves after {took:?}");
    let process = |mesh: &Mesh| mesh.workload("lab", "extra-0");
    assert_eq!(process(&mesh)["ready"], true);
    std::fs::remove_file(mesh.documents.join("extra.yaml")).unwrap();
    until(&mut client, "/extra", 403, SOON);
    eventually("its replica is gone", Duration::from_secs(10), || {
        !mesh.status()["workloads"]
            .as_array()
            .unwrap()
            .iter()
            .any(|workload| workload["workload"] == "extra")
    });
    mesh.settle();
    assert_eq!(client.request("GET", "/web/x", &[], b"").unwrap().status, 200);
}

#[test]
fn plain_text_is_closed_when_a_port_becomes_strict() {
    let mesh = Mesh::up(&Start::scene("lab"));
    mesh.write_document(
        "permissive.yaml",
        r#"apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata:
  name: web
  namespace: lab
spec:
  selector:
    matchLabels:
      app: web
  mtls:
    mode: STRICT
  portLevelMtls:
    7000:
      mode: PERMISSIVE
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata:
  name: web-lines-for-all
  namespace: lab
spec:
  selector:
    matchLabels:
      app: web
  action: ALLOW
  rules:
    - to:
        - operation:
            ports: ["7000"]
"#,
    );
    let address = mesh.workload("lab", "web-0")["address"]
        .as_str()
        .unwrap()
        .to_owned();
    let script = LINES.replace("\"web\"", &format!("\"{address}\""));
    let plain = || {
        let mut child = mesh
            .on_the_wire("/usr/bin/python3")
            .args(["-u", "-c", &script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        Inside {
            write: child.stdin.take().unwrap(),
            read: BufReader::new(child.stdout.take().unwrap()),
            child,
        }
    };
    let mut open = None;
    eventually("plain text is taken", Duration::from_secs(3), || {
        let mut one = plain();
        one.say("hello");
        let is_taken = one.line() == "web: hello";
        open = Some(one);
        is_taken
    });
    let mut caller = Inside::python(&mesh, "lab/caller", LINES);
    caller.say("hello");
    assert_eq!(caller.line(), "web: hello");
    mesh.edit_document("permissive.yaml", "mode: PERMISSIVE", "mode: STRICT");
    let start = Instant::now();
    let mut open = open.unwrap();
    assert_eq!(open.line(), "reset", "{}", mesh.last_words());
    eprintln!("closed after {:?}", start.elapsed());
    assert!(start.elapsed() < SOON);
    caller.say("again");
    assert_eq!(caller.line(), "web: again");
    let mut late = plain();
    late.say("hello");
    assert_eq!(late.line(), "reset");
    open.end();
    late.end();
    caller.end();
}

#[test]
fn readiness_decides_who_is_called() {
    let mesh = Mesh::up(&Start::scene("lab"));
    let mut client = Client::connect(&mesh.gateway()).unwrap();
    // The probe asks every second, and one failure counts.
    let probed = Duration::from_secs(1) + SOON;
    for _ in 0..3 {
        assert_eq!(client.request("GET", "/slow/1", &[], b"").unwrap().status, 200);
        let unready = mesh.bartizan(&["exec", "lab/slow-0", "--", "/usr/bin/touch", "/tmp/unready"]);
        assert_eq!(unready.code, 0, "{unready:?}");
        let went = until(&mut client, "/slow/1", 503, probed);
        let answer = client.request("GET", "/slow/1", &[], b"").unwrap();
        assert_eq!(answer.text(), "no healthy upstream");
        assert_eq!(mesh.workload("lab", "slow-0")["ready"], false);
        let ready = mesh.bartizan(&["exec", "lab/slow-0", "--", "/bin/rm", "/tmp/unready"]);
        assert_eq!(ready.code, 0, "{ready:?}");
        let came = until(&mut client, "/slow/1", 200, probed);
        eprintln!("left out after {went:?}, called again after {came:?}");
    }
}
