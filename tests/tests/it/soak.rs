//! Everything at once, for a while: load from outside and between pods, while documents change, certificates rotate,
//! deployments are replaced and the control plane is killed. Not one request may be lost.
//!
//! `BARTIZAN_SOAK_SECONDS` says how long; 20 s without it.

use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use bartizan_tests::http::metric;
use bartizan_tests::load::{Load, LoadPlan};
use bartizan_tests::{Mesh, Start, eventually, kill};
use nix::sys::signal::Signal;

/// Calls `web` over kept connections from inside a pod until its input ends; then tells how many answers were right, and
/// every failure. A kept connection that was closed before a byte of an answer is opened anew once, as HTTP/1.1 wants it.
const INSIDE: &str = r#"
import http.client, sys, threading, time
stop = threading.Event()
right, wrong, lock = [0], [], threading.Lock()
began = time.time()
def run():
    kept = None
    sent = 0
    while not stop.is_set():
        for attempt in (0, 1):
            fresh = kept is None
            try:
                if fresh:
                    kept, sent = http.client.HTTPConnection("web", 8080, timeout=15), 0
                kept.request("GET", "/web/public/1")
                answer = kept.getresponse()
                body = answer.read()
                sent += 1
                if answer.status == 200 and b'"service":"web"' in body:
                    with lock: right[0] += 1
                else:
                    with lock: wrong.append((time.time() - began, "status %d %r" % (answer.status, body[:80])))
                if sent >= 100 or answer.will_close:
                    kept.close(); kept = None
                break
            except (http.client.RemoteDisconnected, ConnectionResetError, BrokenPipeError) as e:
                kept = None
                if fresh:
                    with lock: wrong.append((time.time() - began, "new connection %r" % e))
                    break
            except Exception as e:
                kept = None
                with lock: wrong.append((time.time() - began, repr(e)))
                break
        time.sleep(0.004)
threads = [threading.Thread(target=run) for _ in range(3)]
for t in threads: t.start()
sys.stdin.read()
stop.set()
for t in threads: t.join()
print(right[0])
for at, what in wrong[:100]: print("%.3f %s" % (at, what))
"#;

fn inside(mesh: &Mesh) -> Child {
    mesh.command(&[
        "run",
        "--as",
        "lab/caller",
        "--",
        "/usr/bin/python3",
        "-c",
        INSIDE,
    ])
    .stdin(Stdio::piped())
    .stdout(Stdio::piped())
    .spawn()
    .unwrap()
}

/// The changes that are made one after the other, each with its way back.
fn change(mesh: &Mesh, round: usize) -> &'static str {
    let flip = |name: &str, one: &str, other: &str| {
        let text = std::fs::read_to_string(mesh.documents.join(name)).unwrap();
        let (from, to) = if text.contains(one) {
            (one, other)
        } else {
            (other, one)
        };
        mesh.edit_document(name, from, to);
    };
    match round % 7 {
        0 => {
            flip(
                "policies.yaml",
                r#"methods: ["GET", "POST"]"#,
                r#"methods: ["GET", "POST", "HEAD"]"#,
            );
            "a policy"
        }
        1 => {
            kill(mesh.control_plane(), Signal::SIGKILL);
            "the control plane is killed"
        }
        2 => {
            flip(
                "services.yaml",
                "app: web\n        version: v1\n",
                "app: web\n        version: v2\n",
            );
            "the web deployment is replaced"
        }
        3 => {
            flip("routes.yaml", "value: /slow\n", "value: /slower\n");
            "a route"
        }
        4 => {
            flip("services.yaml", "  replicas: 2\n", "  replicas: 3\n");
            "replicas"
        }
        5 => {
            flip("policies.yaml", "action: ALLOW\n", "action: ALOW\n");
            "a broken file"
        }
        _ => {
            flip("policies.yaml", "action: ALLOW\n", "action: ALOW\n");
            kill(mesh.control_plane(), Signal::SIGKILL);
            "a mended file, and the control plane is killed at once"
        }
    }
}

#[test]
fn nothing_is_lost_while_everything_changes() {
    let seconds = std::env::var("BARTIZAN_SOAK_SECONDS")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(20);
    let mesh = Mesh::up(&Start::scene("lab").with(&["--svid-ttl", "10s"]));
    let start = Instant::now();
    let outside = Load::start(&LoadPlan::new(&mesh.gateway(), &["/web/x", "/front/x"]));
    let mut inside = inside(&mesh);
    outside.more(100);
    let mut round = 0;
    let mut told = Vec::new();
    while start.elapsed() < Duration::from_secs(seconds) || round < 7 {
        told.push(format!("  {:?} {}", start.elapsed(), change(&mesh, round)));
        round += 1;
        let next = Instant::now() + Duration::from_millis(1500);
        while Instant::now() < next {
            outside.more(20);
        }
    }
    // An odd number of flips may have left the file broken.
    let text = std::fs::read_to_string(mesh.documents.join("policies.yaml")).unwrap();
    if text.contains("ALOW") {
        mesh.edit_document("policies.yaml", "ALOW", "ALLOW");
    }
    eventually("everything is in order again", Duration::from_secs(20), || {
        mesh.bartizan(&["status", "--wait", "20s"]).code == 0
    });
    drop(inside.stdin.take());
    let output = inside.wait_with_output().unwrap();
    let outside = outside.finish();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let (right, wrong) = text.split_once('\n').unwrap_or_default();
    eprintln!(
        "{round} changes in {:?}; from inside {right} answered",
        start.elapsed()
    );
    outside.assert_nothing_lost(|| format!("{}\n{}", told.join("\n"), mesh.last_words()));
    assert!(
        wrong.is_empty() && right.parse::<u64>().is_ok_and(|right| right > 100),
        "{text}\n{}\n{}",
        told.join("\n"),
        mesh.last_words()
    );
    // The certificates have been renewed all the time, and no proxy was started again.
    let status = mesh.status();
    for workload in status["workloads"].as_array().unwrap() {
        assert_eq!(workload["proxyRestarts"], 0, "{workload}");
    }
    for name in ["edge-bartizan-0", "front-0"] {
        let renewed = metric(
            &mesh.metrics("lab", name),
            "bartizan_certificate_renewals_total",
            &[("result", "ok")],
        );
        #[expect(clippy::cast_precision_loss, reason = "seconds")]
        let least = (seconds as f64 / 10.0).floor();
        assert!(renewed >= least, "{name} has renewed {renewed} times");
    }
}
