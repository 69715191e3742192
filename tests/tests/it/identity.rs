//! Who is who: SVIDs, mutual TLS, refusals, rotation, and where keys are.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bartizan_tests::http::metric;
use bartizan_tests::load::{Load, LoadPlan};
use bartizan_tests::{Ended, Mesh, Start, eventually, kill, run};
use nix::sys::signal::Signal;

const TRUST_DOMAIN: &str = "spiffe://cluster.local";

/// A certificate and its key, made by somebody who is not the mesh.
struct Forged {
    chain: PathBuf,
    key: PathBuf,
}

fn openssl(arguments: &[&str]) -> Ended {
    let mut command = Command::new("openssl");
    command.args(arguments);
    let ended = run(command, Duration::from_secs(20));
    assert_eq!(ended.code, 0, "openssl {arguments:?}: {}", ended.stderr);
    ended
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

/// Who signs a forged certificate.
enum Signer<'a> {
    /// Its own key.
    Itself,
    /// The certificate and the key in these files; the certificate is sent along.
    Authority(&'a Path, &'a Path),
}

fn forge(folder: &Path, name: &str, id: &str, signer: &Signer<'_>, days: &str) -> Forged {
    let file = |ending: &str| folder.join(format!("{name}.{ending}"));
    let (key, request, leaf, chain, extensions) =
        (file("key"), file("csr"), file("crt"), file("pem"), file("ext"));
    std::fs::write(
        &extensions,
        format!(
            "subjectAltName=critical,URI:{id}\nkeyUsage=critical,digitalSignature\nbasicConstraints=critical,CA:FALSE\nextendedKeyUsage=serverAuth,clientAuth\n"
        ),
    )
    .unwrap();
    openssl(&[
        "req",
        "-new",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-subj",
        "/O=forged",
        "-keyout",
        &text(&key),
        "-out",
        &text(&request),
    ]);
    let (request, extensions, out) = (text(&request), text(&extensions), text(&leaf));
    let mut arguments = vec![
        "x509",
        "-req",
        "-in",
        &request,
        "-days",
        days,
        "-extfile",
        &extensions,
        "-out",
        &out,
    ];
    let (authority, authority_key);
    match signer {
        Signer::Itself => {
            authority_key = text(&key);
            arguments.extend(["-signkey", &authority_key]);
        }
        Signer::Authority(certificate, key) => {
            (authority, authority_key) = (text(certificate), text(key));
            arguments.extend(["-CA", &authority, "-CAkey", &authority_key, "-set_serial", "4711"]);
        }
    }
    openssl(&arguments);
    let mut whole = std::fs::read_to_string(&leaf).unwrap();
    if let Signer::Authority(certificate, _) = signer {
        let authority = std::fs::read_to_string(certificate).unwrap();
        let end = authority
            .find("-----BEGIN PRIVATE KEY")
            .unwrap_or(authority.len());
        whole += &authority[..end];
    }
    std::fs::write(&chain, whole).unwrap();
    Forged { chain, key }
}

/// An authority of one's own.
fn foreign_authority(folder: &Path) -> (PathBuf, PathBuf) {
    let (key, certificate) = (folder.join("authority.key"), folder.join("authority.crt"));
    openssl(&[
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-subj",
        "/O=foreign",
        "-days",
        "1",
        "-addext",
        "subjectAltName=URI:spiffe://cluster.local",
        "-keyout",
        &text(&key),
        "-out",
        &text(&certificate),
    ]);
    (certificate, key)
}

/// Speaks TLS to a replica's port from the wire, sends a request, and gives back what came.
fn from_the_wire(mesh: &Mesh, address: &str, forged: Option<&Forged>, more: &[&str]) -> Ended {
    let mut arguments = vec![
        "s_client",
        "-connect",
        address,
        "-servername",
        "outbound_.8080_._.web.lab.svc.cluster.local",
        "-alpn",
        "istio-http/1.1",
        "-showcerts",
        "-ign_eof",
    ];
    let files = forged.map(|forged| (text(&forged.chain), text(&forged.key)));
    if let Some((chain, key)) = &files {
        arguments.extend(["-cert", chain, "-cert_chain", chain, "-key", key]);
    }
    arguments.extend(more);
    let wire = mesh.on_the_wire("openssl");
    let mut command = Command::new("sh");
    command
        .arg("-c")
        .arg(r#"printf 'GET /web/public/1 HTTP/1.1\r\nHost: web\r\nConnection: close\r\n\r\n' | "$@""#)
        .arg("sh")
        .arg(wire.get_program())
        .args(wire.get_args())
        .args(arguments);
    run(command, Duration::from_secs(20))
}

fn address_of(mesh: &Mesh, name: &str) -> String {
    mesh.workload("lab", name)["address"].as_str().unwrap().to_owned()
}

/// The first certificate that `s_client -showcerts` printed.
fn leaf_of(ended: &Ended) -> String {
    let from = ended
        .stdout
        .find("-----BEGIN CERTIFICATE")
        .unwrap_or_else(|| panic!("{ended:?}"));
    let to = ended.stdout[from..].find("-----END CERTIFICATE-----").unwrap() + from;
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(
        file.path(),
        format!("{}-----END CERTIFICATE-----\n", &ended.stdout[from..to]),
    )
    .unwrap();
    openssl(&["x509", "-in", &text(file.path()), "-noout", "-text", "-serial"]).stdout
}

fn seconds(ended: &str, label: &str) -> i64 {
    let line = ended.lines().find(|line| line.trim().starts_with(label)).unwrap();
    let mut command = Command::new("date");
    command.args(["-d", line.split_once(':').unwrap().1.trim(), "+%s"]);
    run(command, Duration::from_secs(5))
        .stdout
        .trim()
        .parse()
        .unwrap()
}

#[test]
fn an_svid_says_who_a_workload_is_for_one_hour() {
    let mesh = Mesh::up(&Start::scene("lab"));
    let folder = tempfile::tempdir().unwrap();
    let intermediate = mesh.state().join("ca/intermediate.pem");
    let caller = forge(
        folder.path(),
        "caller",
        &format!("{TRUST_DOMAIN}/ns/lab/sa/caller"),
        &Signer::Authority(&intermediate, &intermediate),
        "1",
    );
    let web = format!("{}:8080", address_of(&mesh, "web-0"));

    // Somebody who holds the authority's key is believed: the control for every refusal in the next test.
    let answered = from_the_wire(&mesh, &web, Some(&caller), &["-tls1_3"]);
    assert!(
        answered.stdout.contains("HTTP/1.1 200"),
        "{answered:?}\n{}",
        mesh.last_words()
    );
    let leaf = leaf_of(&answered);
    assert!(
        leaf.contains("URI:spiffe://cluster.local/ns/lab/sa/web"),
        "{leaf}"
    );
    assert!(!leaf.contains("CA:TRUE"), "{leaf}");
    let now = i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()).unwrap();
    let (from, to) = (seconds(&leaf, "Not Before"), seconds(&leaf, "Not After"));
    assert!(
        (now + 3500..=now + 3600).contains(&to),
        "{to} is not in an hour from {now}"
    );
    assert!(
        (now - 120..=now).contains(&from),
        "{from} is not shortly before {now}"
    );
    assert_eq!(mesh.workload("lab", "web-0")["proxy"]["certificateNotAfter"], to);

    // Between proxies the hybrid group is the only one that is used; with an older peer there is another.
    let gateway = mesh.gateway();
    for _ in 0..20 {
        assert_eq!(
            bartizan_tests::http::get(&gateway, "/web/x", &[]).unwrap().status,
            200
        );
    }
    let edge = mesh.metrics("lab", "edge-bartizan-0");
    let hybrid = [("side", "client"), ("group", "X25519MLKEM768")];
    assert!(
        metric(&edge, "bartizan_tls_handshakes_total", &hybrid) >= 1.0,
        "{edge}"
    );
    assert_eq!(
        metric(&edge, "bartizan_tls_handshakes_total", &hybrid),
        metric(&edge, "bartizan_tls_handshakes_total", &[("side", "client")])
    );

    let older = from_the_wire(&mesh, &web, Some(&caller), &["-tls1_2"]);
    assert!(!older.stdout.contains("HTTP/1.1"), "TLS 1.2 is spoken: {older:?}");

    // What is issued here is a laboratory's, and everybody is told.
    let status = mesh.bartizan(&["status"]);
    assert!(status.stdout.contains("for a laboratory"), "{}", status.stdout);
    let log = std::fs::read_to_string(mesh.state().join("logs/control.log")).unwrap();
    assert!(log.contains("lab CA"), "{log}");
}

#[test]
fn whoever_proves_nothing_is_refused_counted_and_logged() {
    let mesh = Mesh::up(&Start::scene("lab"));
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let intermediate = mesh.state().join("ca/intermediate.pem");
    let ours = Signer::Authority(&intermediate, &intermediate);
    let (foreign, foreign_key) = foreign_authority(folder);
    let caller = format!("{TRUST_DOMAIN}/ns/lab/sa/caller");
    let cases = [
        ("expired", Some(forge(folder, "expired", &caller, &ours, "0"))),
        (
            "unknown_trust_domain",
            Some(forge(
                folder,
                "elsewhere",
                "spiffe://elsewhere.example/ns/lab/sa/caller",
                &ours,
                "1",
            )),
        ),
        (
            "self_signed",
            Some(forge(folder, "self", &caller, &Signer::Itself, "1")),
        ),
        (
            "untrusted_chain",
            Some(forge(
                folder,
                "foreign",
                &caller,
                &Signer::Authority(&foreign, &foreign_key),
                "1",
            )),
        ),
        (
            "not_an_svid",
            Some(forge(folder, "nobody", "https://lab/caller", &ours, "1")),
        ),
        ("no_certificate", None),
    ];
    let web = format!("{}:8080", address_of(&mesh, "web-0"));
    // The expired one was valid until now.
    eventually("a second has passed", Duration::from_secs(3), || {
        let made = std::fs::metadata(folder.join("expired.crt"))
            .unwrap()
            .modified()
            .unwrap();
        made.elapsed().is_ok_and(|age| age > Duration::from_millis(1100))
    });
    for (reason, forged) in &cases {
        let before = mesh.metrics("lab", "web-0");
        let ended = from_the_wire(&mesh, &web, forged.as_ref(), &["-tls1_3"]);
        assert!(!ended.stdout.contains("HTTP/1.1"), "{reason}: {ended:?}");
        let labels = [("side", "server"), ("reason", *reason)];
        let count = |text: &str| metric(text, "bartizan_tls_refused_total", &labels);
        eventually(&format!("{reason} is counted"), Duration::from_secs(3), || {
            count(&mesh.metrics("lab", "web-0")) == count(&before) + 1.0
        });
        eventually(&format!("{reason} is logged"), Duration::from_secs(3), || {
            mesh.access_log().iter().any(|line| {
                line["connection_termination_details"]
                    .as_str()
                    .is_some_and(|details| details.starts_with(&format!("tls_refused: {reason}")))
            })
        });
    }

    // A true identity that is not the right one gets through TLS and no further.
    let stranger = forge(
        folder,
        "stranger",
        &format!("{TRUST_DOMAIN}/ns/lab/sa/stranger"),
        &ours,
        "1",
    );
    let denied = from_the_wire(&mesh, &web, Some(&stranger), &["-tls1_3"]);
    assert!(denied.stdout.contains("HTTP/1.1 403"), "{denied:?}");
    let metrics = mesh.metrics("lab", "web-0");
    assert_eq!(
        metric(&metrics, "bartizan_policy_denied_total", &[("layer", "http")]),
        1.0,
        "{metrics}"
    );
    eventually("the denial is logged", Duration::from_secs(3), || {
        mesh.access_log().iter().any(|line| {
            line["decision"] == "deny"
                && line["source_principal"] == "spiffe://cluster.local/ns/lab/sa/stranger"
        })
    });

    // Plain text into a STRICT pod is reset, not answered.
    let script = format!(
        "import socket\ns=socket.create_connection(('{}',8080))\ns.sendall(b'GET /web/public/1 HTTP/1.1\\r\\nHost: web\\r\\n\\r\\n')\ntry:\n  print('got', s.recv(100))\nexcept ConnectionResetError:\n  print('reset')\n",
        address_of(&mesh, "web-0")
    );
    let mut plain = mesh.on_the_wire("python3");
    plain.args(["-c", &script]);
    let ended = run(plain, Duration::from_secs(20));
    assert_eq!(ended.stdout.trim(), "reset", "{ended:?}");
    let metrics = mesh.metrics("lab", "web-0");
    assert_eq!(
        metric(
            &metrics,
            "bartizan_plaintext_refused_total",
            &[("direction", "inbound")]
        ),
        1.0
    );
}

#[test]
fn certificates_rotate_under_load_and_over_a_killed_control_plane() {
    let mesh = Mesh::up(&Start::scene("lab").with(&["--svid-ttl", "10s"]));
    let folder = tempfile::tempdir().unwrap();
    let intermediate = mesh.state().join("ca/intermediate.pem");
    let caller = forge(
        folder.path(),
        "caller",
        &format!("{TRUST_DOMAIN}/ns/lab/sa/caller"),
        &Signer::Authority(&intermediate, &intermediate),
        "1",
    );
    let web = format!("{}:8080", address_of(&mesh, "web-0"));
    let serial = || {
        let leaf = leaf_of(&from_the_wire(&mesh, &web, Some(&caller), &["-tls1_3"]));
        leaf.lines()
            .find(|line| line.starts_with("serial="))
            .unwrap()
            .to_owned()
    };
    let first = serial();
    let load = Load::start(&LoadPlan::new(&mesh.gateway(), &["/web/x", "/front/x"]));
    let names = ["edge-bartizan-0", "front-0", "web-0", "web-1"];
    let renewed = |name: &str| {
        metric(
            &mesh.metrics("lab", name),
            "bartizan_certificate_renewals_total",
            &[("result", "ok")],
        )
    };
    eventually("every proxy has renewed", Duration::from_secs(12), || {
        names.iter().all(|name| renewed(name) >= 1.0)
    });
    let second = serial();
    assert_ne!(first, second, "the certificate has changed");
    kill(mesh.control_plane(), Signal::SIGKILL);
    let before: Vec<f64> = names.iter().map(|name| renewed(name)).collect();
    eventually(
        "every proxy has renewed twice more",
        Duration::from_secs(25),
        || {
            names
                .iter()
                .zip(&before)
                .all(|(name, before)| renewed(name) >= before + 2.0)
        },
    );
    assert_ne!(second, serial());
    load.finish().assert_nothing_lost(|| mesh.last_words());
    let status = mesh.status();
    for workload in status["workloads"].as_array().unwrap() {
        assert_eq!(workload["proxyRestarts"], 0, "{workload}");
    }
}

#[test]
fn the_authority_is_kept_with_strict_modes_and_no_key_of_a_proxy_is_on_disk() {
    let mesh = Mesh::up(&Start::scene("lab"));
    let gateway = mesh.gateway();
    assert_eq!(
        bartizan_tests::http::get(&gateway, "/front/x", &[])
            .unwrap()
            .status,
        200
    );
    let ca = mesh.state().join("ca");
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode(&mesh.state()), 0o700);
    assert_eq!(mode(&ca), 0o700);
    let owner = std::fs::metadata(mesh.state()).unwrap().uid();
    for entry in std::fs::read_dir(&ca).unwrap().flatten() {
        assert_eq!(mode(&entry.path()), 0o600, "{}", entry.path().display());
        assert_eq!(entry.metadata().unwrap().uid(), owner);
    }
    let mut folders = vec![mesh.state()];
    let mut looked_at = 0;
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap().flatten() {
            let kind = entry.file_type().unwrap();
            if kind.is_dir() && entry.path() != ca {
                folders.push(entry.path());
            } else if kind.is_file() {
                looked_at += 1;
                let content = std::fs::read(entry.path()).unwrap();
                // A PEM key, or PKCS#8 with the algorithm id of EC keys on P-256.
                let der = [0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];
                let found = content
                    .windows(11)
                    .any(|part| part == b"PRIVATE KEY" || part == der);
                assert!(!found, "{} has a key", entry.path().display());
            }
        }
    }
    assert!(looked_at > 5, "only {looked_at} files were looked at");

    // The next run has the same authority.
    let root = std::fs::read(ca.join("root.pem")).unwrap();
    let mesh = mesh.again();
    assert_eq!(std::fs::read(mesh.state().join("ca/root.pem")).unwrap(), root);
    assert_eq!(
        bartizan_tests::http::get(&mesh.gateway(), "/front/x", &[])
            .unwrap()
            .status,
        200
    );
}

/// Stands where a replica was, with its address, and answers TLS with this certificate until it is dropped.
struct Impostor {
    child: std::process::Child,
}

impl Impostor {
    fn of(mesh: &Mesh, name: &str, forged: &Forged) -> Self {
        let address = address_of(mesh, name);
        // The number of the pod's cable at the bridge is in the name of its other end: `eth0@if7`.
        let proxy = mesh.proxy_of("lab", name).to_string();
        let mut links = mesh.on_the_wire("true");
        links = {
            let mut command = Command::new(links.get_program());
            command.args(["--target", &proxy, "--net"]);
            command.args(
                links
                    .get_args()
                    .filter(|argument| *argument == "--user" || *argument == "--preserve-credentials"),
            );
            command.args(["ip", "-o", "link"]);
            command
        };
        let links = run(links, Duration::from_secs(5)).stdout;
        let number = links
            .split("@if")
            .nth(1)
            .unwrap()
            .split(':')
            .next()
            .unwrap()
            .to_owned();
        let mut cut = mesh.on_the_wire("sh");
        cut.args([
            "-c",
            &format!(
                "set -e; cable=$(ip -o link | sed -n 's/^{number}: \\([^@]*\\)@.*/\\1/p'); ip link set \"$cable\" down; ip address replace {address}/16 dev mesh0"
            ),
        ]);
        let ended = run(cut, Duration::from_secs(5));
        assert_eq!(ended.code, 0, "{links}{ended:?}");
        let mut serve = mesh.on_the_wire("openssl");
        serve.args([
            "s_server",
            "-accept",
            &format!("{address}:8080"),
            "-alpn",
            "istio-http/1.1",
            "-www",
            "-quiet",
            "-cert",
            &text(&forged.chain),
            "-cert_chain",
            &text(&forged.chain),
            "-key",
            &text(&forged.key),
        ]);
        let child = serve
            .stdin(std::process::Stdio::null())
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap();
        Self { child }
    }
}

impl Drop for Impostor {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

#[test]
fn a_server_with_another_identity_is_not_believed() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let (foreign, foreign_key) = foreign_authority(folder);
    // Every replica has its identity from the same authority: the right to be `stranger` is none to answer for `slow`.
    for reason in ["wrong_identity", "untrusted_chain"] {
        let mesh = Mesh::up(&Start::scene("lab"));
        let intermediate = mesh.state().join("ca/intermediate.pem");
        let forged = if reason == "wrong_identity" {
            forge(
                folder,
                reason,
                &format!("{TRUST_DOMAIN}/ns/lab/sa/stranger"),
                &Signer::Authority(&intermediate, &intermediate),
                "1",
            )
        } else {
            forge(
                folder,
                reason,
                &format!("{TRUST_DOMAIN}/ns/lab/sa/slow"),
                &Signer::Authority(&foreign, &foreign_key),
                "1",
            )
        };
        let _impostor = Impostor::of(&mesh, "slow-0", &forged);
        let gateway = mesh.gateway();
        let labels = [("side", "client"), ("reason", reason)];
        eventually(&format!("{reason} is counted"), Duration::from_secs(12), || {
            let answer = bartizan_tests::http::get(&gateway, "/slow/1", &[]).unwrap();
            assert_ne!(answer.status, 200, "an impostor was believed: {answer:?}");
            metric(
                &mesh.metrics("lab", "edge-bartizan-0"),
                "bartizan_tls_refused_total",
                &labels,
            ) >= 1.0
        });
        eventually(&format!("{reason} is logged"), Duration::from_secs(3), || {
            mesh.access_log().iter().any(|line| {
                line["path"] == "/slow/1"
                    && line["response_code"] == 503
                    && line["response_flags"]
                        .as_str()
                        .is_some_and(|flags| flags.contains("UF"))
                    && !line["upstream_transport_failure_reason"].is_null()
            })
        });
    }
}
