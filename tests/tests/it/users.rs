//! Users at the edge: tokens of the mission's identity provider, its key roll-over and its outage.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bartizan_tests::http::{Answer, Client};
use bartizan_tests::{Mesh, Start, eventually, peers, repository, skip};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

const READINGS: &str = "/v1/readings";

fn get(gateway: &str, path: &str, headers: &[(&str, &str)]) -> Answer {
    bartizan_tests::http::get(gateway, path, headers).unwrap()
}

fn with_token(gateway: &str, token: &str) -> Answer {
    get(
        gateway,
        READINGS,
        &[("Authorization", &format!("Bearer {token}"))],
    )
}

#[test]
fn the_edge_wants_a_token_and_a_clearance() {
    let mesh = Mesh::up(&Start::example("telemetry"));
    let gateway = mesh.gateway();
    let token = |more: &[&str]| mesh.token(more);
    // What is good, and what is handed on to the service of it.
    for clearance in ["SECRET", "TOP_SECRET"] {
        let good = token(&["--claim", &format!("clearance_level={clearance}")]);
        let answer = get(
            &gateway,
            READINGS,
            &[
                ("Authorization", &format!("Bearer {good}")),
                // Nobody outside says who they are by a header.
                ("X-Mission-User", "mallory"),
                ("x_mission_clearance", "TOP_SECRET"),
            ],
        );
        assert_eq!(answer.status, 200, "{}\n{}", answer.text(), mesh.last_words());
        let told: Value = serde_json::from_slice(&answer.body).unwrap();
        assert_eq!(
            told["got"],
            json!({ "x-mission-user": "ana", "x-mission-clearance": clearance, "authorization": null })
        );
    }
    // Without a token, and with a bad one: 401, and how to ask for it.
    let nobody = get(&gateway, READINGS, &[]);
    assert_eq!(nobody.status, 401, "{}", nobody.text());
    let challenge = nobody.header("www-authenticate").unwrap_or_default();
    assert!(
        challenge.starts_with("Bearer realm=") && !challenge.contains("error"),
        "{challenge}"
    );
    let good = token(&["--claim", "clearance_level=SECRET"]);
    let (signed, signature) = good.rsplit_once('.').unwrap();
    let (head, payload) = signed.split_once('.').unwrap();
    let forged = token(&["--claim", "clearance_level=CONFIDENTIAL"]);
    let forged = forged
        .rsplit_once('.')
        .unwrap()
        .0
        .split_once('.')
        .unwrap()
        .1
        .to_owned();
    let none = "eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0";
    for (what, bad) in [
        (
            "another signature",
            format!("{signed}.{}", signature.chars().rev().collect::<String>()),
        ),
        (
            "a payload that was not signed, and too low",
            format!("{head}.{forged}.{signature}"),
        ),
        ("no algorithm", format!("{none}.{payload}.")),
        (
            "another audience",
            token(&["--audience", "another-api", "--claim", "clearance_level=SECRET"]),
        ),
        (
            "another issuer",
            token(&[
                "--issuer",
                "https://elsewhere.example",
                "--claim",
                "clearance_level=SECRET",
            ]),
        ),
        ("not a token", "open-sesame".to_owned()),
    ] {
        let answer = with_token(&gateway, &bad);
        assert_eq!(answer.status, 401, "{what}: {}", answer.text());
        let challenge = answer.header("www-authenticate").unwrap_or_default();
        assert!(
            challenge.contains("error=\"invalid_token\""),
            "{what}: {challenge}"
        );
    }
    // A good token that says too little: 403.
    for claims in [
        &["--claim", "clearance_level=CONFIDENTIAL"][..],
        &["--claim", "clearance_level=secret"],
        &["--claim", "clearance_level:=7"],
        &["--claim", "clearance_level:={\"SECRET\":true}"],
        &[],
    ] {
        let answer = with_token(&gateway, &token(claims));
        assert_eq!(answer.status, 403, "{claims:?}: {}", answer.text());
    }
    // The denial is explained with who asked, the rule and its line; the token itself is nowhere.
    let explained = mesh.bartizan(&["explain", "--last-denied"]);
    assert_eq!(explained.code, 0, "{}", explained.stderr);
    for words in [
        "ana",
        "mission-2026",
        "edge-policy",
        "policies.yaml:",
        "clearance_level",
    ] {
        assert!(explained.stdout.contains(words), "{words}: {}", explained.stdout);
    }
    let mut logs = String::new();
    for line in mesh.access_log() {
        logs += &line.to_string();
    }
    assert!(logs.contains("https://identity.mission.example"), "{logs}");
    assert!(
        !logs.contains(payload) && !logs.contains(signature),
        "a token is in the log"
    );
    // The commands of the documentation, by the same claims.
    let can = |claim: &str| {
        mesh.bartizan(&[
            "can",
            "outside",
            "mission-edge/edge",
            "GET",
            READINGS,
            "--claim",
            claim,
            "--claim",
            "sub=ana",
            "--claim",
            "aud=mission-service-api",
            "--claim",
            "iss=https://identity.mission.example",
        ])
    };
    assert_eq!(can("clearance_level=SECRET").code, 0);
    assert_eq!(can("clearance_level=CONFIDENTIAL").code, 4);
}

/// A running issuer.
struct Issuer {
    process: Child,
    address: String,
    keys: std::path::PathBuf,
}

impl Issuer {
    /// Starts one with this key; `None` where it is not installed.
    fn start(folder: &Path, signing: &str, published: &[Value], port: u16) -> Option<Self> {
        let modules = peers().join("node/node_modules");
        if !modules.exists() {
            skip("no OpenID Connect issuer: cargo xtask peers");
            return None;
        }
        let keys = folder.join("issuer-keys.json");
        write_keys(&keys, signing, published);
        let mut process = Command::new("node")
            .arg(repository().join("tests/peers/issuer.mjs"))
            .args([&port.to_string(), &keys.display().to_string()])
            .env("NODE_PATH", &modules)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut ready = String::new();
        let mut lines = BufReader::new(process.stdout.take().unwrap());
        while !ready.starts_with("ready") {
            ready.clear();
            assert!(lines.read_line(&mut ready).unwrap() > 0, "the issuer ended");
        }
        // What else it prints goes nowhere, and does not stop it.
        std::thread::spawn(move || std::io::copy(&mut lines, &mut std::io::sink()));
        Some(Self {
            process,
            address: format!("127.0.0.1:{port}"),
            keys,
        })
    }

    fn token(&self, client: &str) -> Option<String> {
        let basic = match client {
            "secret" => "c2VjcmV0OnNlY3JldA==",
            "confidential" => "Y29uZmlkZW50aWFsOmNvbmZpZGVudGlhbA==",
            other => panic!("no client {other}"),
        };
        let answer = Client::connect(&self.address)
            .and_then(|mut client| {
                client.request(
                    "POST",
                    "/token",
                    &[
                        ("Host", &self.address),
                        ("Authorization", &format!("Basic {basic}")),
                        ("Content-Type", "application/x-www-form-urlencoded"),
                    ],
                    b"grant_type=client_credentials",
                )
            })
            .ok()?;
        let answer: Value = serde_json::from_slice(&answer.body).ok()?;
        Some(answer["access_token"].as_str()?.to_owned())
    }

    /// Publishes these keys and signs with one of them from now on.
    fn roll(&self, signing: &str, published: &[Value]) {
        write_keys(&self.keys, signing, published);
        bartizan_tests::kill(i32::try_from(self.process.id()).unwrap(), Signal::SIGHUP);
        eventually(
            "the issuer signs with the new key",
            Duration::from_secs(10),
            || {
                self.token("secret")
                    .is_some_and(|token| key_id(&token) == signing)
            },
        );
    }

    fn stop(&mut self) {
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

impl Drop for Issuer {
    fn drop(&mut self) {
        self.stop();
    }
}

fn write_keys(file: &Path, signing: &str, published: &[Value]) {
    let text = json!({ "signing": signing, "jwks": { "keys": published } }).to_string();
    std::fs::write(file, text).unwrap();
}

/// The `kid` of a token's header, which is base64url.
fn key_id(token: &str) -> String {
    const DIGITS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let (mut bits, mut count, mut text) = (0_u32, 0, Vec::new());
    for byte in token.split('.').next().unwrap_or_default().bytes() {
        let digit = DIGITS.iter().position(|known| *known == byte).unwrap_or_default();
        bits = bits << 6 | u32::try_from(digit).unwrap();
        count += 6;
        if count >= 8 {
            count -= 8;
            text.push(u8::try_from(bits >> count & 0xff).unwrap());
        }
    }
    let header: Value = serde_json::from_slice(&text).unwrap_or_default();
    header["kid"].as_str().unwrap_or_default().to_owned()
}

fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port()
}

/// Users that fetch tokens and use them.
struct Users {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
    failures: Arc<Mutex<Vec<String>>>,
    threads: Vec<std::thread::JoinHandle<()>>,
}

impl Users {
    fn start(gateway: &str, token: &Arc<Mutex<String>>) -> Self {
        let mut users = Self {
            stop: Arc::default(),
            answered: Arc::default(),
            failures: Arc::default(),
            threads: Vec::new(),
        };
        for _ in 0..3 {
            let (gateway, token) = (gateway.to_owned(), Arc::clone(token));
            let (stop, answered, failures) = (
                Arc::clone(&users.stop),
                Arc::clone(&users.answered),
                Arc::clone(&users.failures),
            );
            users.threads.push(std::thread::spawn(move || {
                let mut client = None;
                while !stop.load(Ordering::Relaxed) {
                    let token = format!("Bearer {}", token.lock().unwrap());
                    let mut open = client
                        .take()
                        .map_or_else(|| Client::connect(&gateway), Ok)
                        .unwrap();
                    match open.request("GET", READINGS, &[("Authorization", &token)], b"") {
                        Ok(answer) if answer.status == 200 => {
                            answered.fetch_add(1, Ordering::Relaxed);
                        }
                        other => failures.lock().unwrap().push(format!("{other:?}")),
                    }
                    client = open.keep_alive.then_some(open);
                    std::thread::sleep(Duration::from_millis(2));
                }
            }));
        }
        users
    }

    fn more(&self, count: u64) {
        let until = self.answered.load(Ordering::Relaxed) + count;
        let deadline = Instant::now() + Duration::from_secs(20);
        while self.answered.load(Ordering::Relaxed) < until && self.failures.lock().unwrap().is_empty() {
            assert!(Instant::now() < deadline, "users are not answered");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn finish(self) -> (u64, Vec<String>) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().unwrap();
        }
        let failures = self.failures.lock().unwrap().clone();
        (self.answered.load(Ordering::Relaxed), failures)
    }
}

/// The example with the keys of a running issuer, which its discovery document names, instead of its own.
fn example_of(folder: &Path, issuer: &str) -> Start {
    let documents = folder.join("telemetry");
    std::fs::create_dir(&documents).unwrap();
    for entry in std::fs::read_dir(repository().join("examples/telemetry")).unwrap() {
        let path = entry.unwrap().path();
        let to = documents.join(path.file_name().unwrap());
        let text = std::fs::read_to_string(&path).unwrap();
        if path.file_name().is_some_and(|name| name == "users.yaml") {
            let (head, _) = text.split_once("      # The public half").unwrap();
            let text = head.replace("https://identity.mission.example", issuer);
            std::fs::write(to, text).unwrap();
        } else {
            std::fs::write(to, text).unwrap();
        }
    }
    Start {
        documents,
        ..Start::example("telemetry")
    }
}

#[test]
fn keys_roll_over_under_load_and_the_issuer_may_be_away() {
    let folder = tempfile::tempdir().unwrap();
    let key = |name: &str| -> Value {
        let file = folder.path().join(name);
        let mut command = Command::new(bartizan_tests::binary());
        command.args(["token", "new-key", &file.display().to_string()]);
        let made = bartizan_tests::run(command, Duration::from_secs(20));
        assert_eq!(made.code, 0, "{}", made.stderr);
        serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap()
    };
    let (old, new) = (key("old.jwk"), key("new.jwk"));
    let (old_id, new_id) = (old["kid"].as_str().unwrap(), new["kid"].as_str().unwrap());
    let port = free_port();
    let Some(mut issuer) = Issuer::start(folder.path(), old_id, std::slice::from_ref(&old), port) else {
        return;
    };
    let mesh = Mesh::up(&example_of(folder.path(), &format!("http://{}", issuer.address)));
    let gateway = mesh.gateway();
    let first = issuer.token("secret").unwrap();
    eventually("the issuer's keys are known", Duration::from_secs(15), || {
        with_token(&gateway, &first).status == 200
    });
    assert_eq!(
        with_token(&gateway, &issuer.token("confidential").unwrap()).status,
        403
    );

    // A key that was not there when keys were fetched: nobody is turned away.
    let token = Arc::new(Mutex::new(first.clone()));
    let users = Users::start(&gateway, &token);
    users.more(100);
    issuer.roll(new_id, &[new.clone(), old.clone()]);
    *token.lock().unwrap() = issuer.token("secret").unwrap();
    users.more(300);
    // The issuer is away, and the control plane is started anew: the keys that were fetched stay good.
    issuer.stop();
    users.more(100);
    let control = mesh.control_plane();
    bartizan_tests::kill(control, Signal::SIGKILL);
    eventually("another control plane", Duration::from_secs(20), || {
        mesh.processes(&["bartizan", "internal", "control"])
            .iter()
            .any(|process| *process != control)
    });
    mesh.settle();
    users.more(300);
    let (answered, failures) = users.finish();
    assert!(
        failures.is_empty(),
        "{} of {answered}: {:?}\n{}",
        failures.len(),
        failures.first(),
        mesh.last_words()
    );
    // A proxy that starts while the issuer is away has them, too.
    let proxy = mesh.proxy_of("mission-edge", "edge-bartizan-0");
    bartizan_tests::kill(proxy, Signal::SIGKILL);
    eventually("another proxy", Duration::from_secs(20), || {
        bartizan_tests::http::get(
            &gateway,
            READINGS,
            &[("Authorization", &format!("Bearer {}", token.lock().unwrap()))],
        )
        .is_ok_and(|answer| answer.status == 200)
    });

    // A token by a key that nobody knows is refused, and never held up for long.
    let stranger = key("stranger.jwk");
    let mut command = Command::new(bartizan_tests::binary());
    let file = folder.path().join("stranger.jwk").display().to_string();
    let issuer_name = format!("http://{}", issuer.address);
    command.args([
        "token",
        "sign",
        &file,
        "--issuer",
        &issuer_name,
        "--subject",
        "eve",
        "--audience",
        "mission-service-api",
        "--claim",
        "clearance_level=SECRET",
    ]);
    let forged = bartizan_tests::run(command, Duration::from_secs(20));
    assert_ne!(stranger["kid"], old["kid"]);
    for _ in 0..3 {
        let start = Instant::now();
        assert_eq!(with_token(&gateway, forged.stdout.trim()).status, 401);
        assert!(start.elapsed() < Duration::from_secs(4), "{:?}", start.elapsed());
    }

    // The old key is withdrawn: what it signed is refused, as soon as the keys are fetched again.
    let Some(again) = Issuer::start(folder.path(), new_id, std::slice::from_ref(&new), port) else {
        return;
    };
    eventually(
        "tokens by the old key are refused",
        Duration::from_secs(40),
        || {
            // Whoever brings an unknown key makes the keys be fetched.
            with_token(&gateway, forged.stdout.trim());
            with_token(&gateway, &first).status == 401
        },
    );
    let fresh = again.token("secret").unwrap();
    assert_eq!(with_token(&gateway, &fresh).status, 200);
}
