//! What the capture does to connections that it lets through: every way to listen, every way to call, exactly as it was meant.

use std::time::Duration;

use bartizan_tests::{Mesh, eventually};
use serde_json::{Value, json};

use crate::lab::{addresses, attempt, code, curl, documents};

fn body(ended: &bartizan_tests::Ended) -> Value {
    let text = ended.stdout.rsplit_once('\n').map_or("", |(body, _)| body);
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{ended:?}: {error}"))
}

#[test]
fn a_server_is_reached_however_it_listens_and_sees_its_caller() {
    let mesh = Mesh::up(&documents("lab"));
    for (url, host) in [
        ("http://web.lab:80/a?b=c", None),
        ("http://web.lab:8080/a?b=c", None),
        ("http://loopback-only:8080/a?b=c", Some("loopback-only")),
        ("http://address-only:8080/a?b=c", Some("address-only")),
        ("http://store:7000/a?b=c", None),
        ("http://store-0.store:7000/a?b=c", Some("store-0")),
    ] {
        let ended = curl(
            &mesh,
            "lab/client",
            &["-H", "X-Own: 1", "-H", "X-Forwarded-Client-Cert: forged", url],
        );
        assert_eq!(code(&ended), "200", "{url}: {ended:?}\n{}", mesh.last_words());
        let answer = body(&ended);
        if let Some(host) = host {
            assert_eq!(answer["host"], host, "{url}");
        }
        assert_eq!(answer["path"], "/a?b=c", "{url}");
        let headers = &answer["headers"];
        assert_eq!(headers["x-own"], "1", "{url}");
        // The caller's identity is what its certificate proves, not what it says.
        let caller = headers["x-forwarded-client-cert"].as_str().unwrap_or_default();
        assert!(
            caller.contains("URI=spiffe://cluster.local/ns/lab/sa/client"),
            "{url}: {answer}"
        );
        assert!(!caller.contains("forged"), "{url}: {answer}");
        assert_eq!(
            headers["host"],
            url.trim_start_matches("http://")
                .split('/')
                .next()
                .unwrap()
                .trim_end_matches(":80")
        );
    }
}

#[test]
fn one_hop_is_two_log_lines_that_agree() {
    let mesh = Mesh::up(&documents("lab"));
    let ended = curl(
        &mesh,
        "lab/client",
        &[
            "-H",
            "x-request-id: 5f0e7c1a-0000-4000-8000-00000000c0de",
            "http://web/agree",
        ],
    );
    assert_eq!(code(&ended), "200", "{ended:?}");
    let find = || {
        mesh.access_log()
            .into_iter()
            .filter(|entry| entry["path"] == "/agree")
            .collect::<Vec<_>>()
    };
    eventually("both sides logged", Duration::from_secs(5), || find().len() == 2);
    let lines = find();
    let side = |reporter: &str| {
        lines
            .iter()
            .find(|entry| entry["reporter"] == reporter)
            .cloned()
            .unwrap_or_default()
    };
    let (source, destination) = (side("source"), side("destination"));
    for entry in [&source, &destination] {
        assert_eq!(
            entry["request_id"], "5f0e7c1a-0000-4000-8000-00000000c0de",
            "{entry}"
        );
        assert_eq!(entry["response_code"], 200, "{entry}");
    }
    // The address that the caller has is what the other side sees.
    let caller = |entry: &Value| {
        entry["downstream_remote_address"]
            .as_str()
            .and_then(|address| Some(address.rsplit_once(':')?.0.to_owned()))
    };
    assert_eq!(caller(&source), caller(&destination), "{source}\n{destination}");
    assert_eq!(
        source["upstream_host"], destination["downstream_local_address"],
        "{source}\n{destination}"
    );
    assert!(
        destination["requested_server_name"] == "outbound_.80_._.web.lab.svc.cluster.local",
        "{destination}"
    );
}

#[test]
fn a_pod_reaches_itself_through_the_mesh() {
    let mesh = Mesh::up(&documents("lab"));
    let own = addresses(&mesh, "loopback-only").remove(0);
    let script = |url: &str| {
        mesh.bartizan(&[
            "exec",
            "lab/loopback-only",
            "--",
            "curl",
            "-sS",
            "-m",
            "5",
            "-w",
            "\n%{http_code}",
            url,
        ])
    };
    // Its own loopback is left alone: no proxy adds anything.
    let direct = body(&script("http://127.0.0.1:8080/"));
    assert_eq!(
        direct["headers"]["x-forwarded-client-cert"],
        Value::Null,
        "{direct}"
    );
    assert_eq!(direct["caller"], "127.0.0.1");
    // By its service or its address it is a caller like any other.
    for url in [
        "http://loopback-only:8080/".to_owned(),
        format!("http://{own}:8080/"),
    ] {
        let ended = script(&url);
        assert_eq!(code(&ended), "200", "{url}: {ended:?}");
        let through = body(&ended);
        assert!(
            through["headers"]["x-forwarded-client-cert"]
                .as_str()
                .is_some_and(|text| text.contains("/sa/web")),
            "{url}: {through}"
        );
    }
}

#[test]
fn a_plaintext_caller_is_refused_where_mtls_is_strict() {
    let mesh = Mesh::up(&documents("lab"));
    let web = addresses(&mesh, "web-0").remove(0);
    let mut command = mesh.on_the_wire("curl");
    command.args([
        "-sS",
        "-m",
        "5",
        "-o",
        "/dev/null",
        "-w",
        "%{http_code}",
        &format!("http://{web}:8080/"),
    ]);
    let ended = bartizan_tests::run(command, Duration::from_secs(20));
    assert_eq!(ended.stdout, "000", "{ended:?}");
    // The same server, by somebody with an identity.
    assert_eq!(
        attempt(&mesh, "lab/client", json!(["connect", web, 8080])),
        "HTTP/1.1 200 OK"
    );
}
