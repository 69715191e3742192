//! What is counted, logged and explained: exactly, on both sides of every hop.

use std::collections::BTreeSet;
use std::time::Duration;

use bartizan_tests::http::{Client, get, metric};
use bartizan_tests::{Mesh, Start, eventually};
use serde_json::Value;

/// Istio's default JSON access log has these keys.
const ISTIO_FIELDS: &[&str] = &[
    "start_time",
    "method",
    "path",
    "protocol",
    "response_code",
    "response_flags",
    "response_code_details",
    "connection_termination_details",
    "upstream_transport_failure_reason",
    "bytes_received",
    "bytes_sent",
    "duration",
    "upstream_service_time",
    "x_forwarded_for",
    "user_agent",
    "request_id",
    "authority",
    "upstream_host",
    "upstream_cluster",
    "upstream_local_address",
    "downstream_local_address",
    "downstream_remote_address",
    "requested_server_name",
    "route_name",
];

const REQUESTS: &str = "istio_requests_total";

#[test]
fn every_request_is_counted_once_on_each_side() {
    let mesh = Mesh::up(&Start::scene("lab"));
    let mut client = Client::connect(&mesh.gateway()).unwrap();
    let mut send = |path: &str, count: usize, status: u16| {
        for _ in 0..count {
            assert_eq!(
                client.request("GET", path, &[], b"").unwrap().status,
                status,
                "{path}"
            );
        }
    };
    send("/web/x", 300, 200);
    send("/front/x", 40, 200);
    send("/nowhere", 25, 403);

    let sum = |names: &[&str], labels: &[(&str, &str)]| -> f64 {
        names
            .iter()
            .map(|name| metric(&mesh.metrics("lab", name), REQUESTS, labels))
            .sum()
    };
    let edge_to_web = [
        ("reporter", "source"),
        ("source_workload", "edge-bartizan"),
        ("source_workload_namespace", "lab"),
        (
            "source_principal",
            "spiffe://cluster.local/ns/lab/sa/edge-bartizan",
        ),
        ("destination_workload", "web"),
        ("destination_app", "web"),
        ("destination_version", "v1"),
        ("destination_principal", "spiffe://cluster.local/ns/lab/sa/web"),
        ("destination_service", "web.lab.svc.cluster.local"),
        ("destination_service_name", "web"),
        ("destination_service_namespace", "lab"),
        ("request_protocol", "http"),
        ("response_code", "200"),
        ("response_flags", "-"),
    ];
    eventually("the last request is counted", Duration::from_secs(2), || {
        sum(&["edge-bartizan-0"], &edge_to_web) >= 300.0
    });
    let edge = mesh.metrics("lab", "edge-bartizan-0");
    assert_eq!(metric(&edge, REQUESTS, &edge_to_web), 300.0, "{edge}");
    assert_eq!(
        metric(
            &edge,
            REQUESTS,
            &[("destination_service_name", "front"), ("response_code", "200")]
        ),
        40.0
    );
    assert_eq!(
        metric(&edge, REQUESTS, &[("response_code", "403")]),
        25.0,
        "{edge}"
    );
    assert_eq!(metric(&edge, REQUESTS, &[]), 365.0, "{edge}");

    let webs = ["web-0", "web-1"];
    let destination = [
        ("reporter", "destination"),
        ("connection_security_policy", "mutual_tls"),
        ("response_code", "200"),
    ];
    let at_web = |source: &str| {
        sum(
            &webs,
            &[&destination[..], &[("source_workload", source)]].concat(),
        )
    };
    assert_eq!(at_web("edge-bartizan"), 300.0);
    assert_eq!(at_web("front"), 40.0);
    // Nothing else: no probe, no health check, no retry.
    assert_eq!(sum(&webs, &[]), 340.0);
    let front = mesh.metrics("lab", "front-0");
    assert_eq!(metric(&front, REQUESTS, &[("reporter", "destination")]), 40.0);
    assert_eq!(
        metric(
            &front,
            REQUESTS,
            &[("reporter", "source"), ("destination_workload", "web")]
        ),
        40.0
    );

    // The histograms have as many, in Istio's buckets.
    for name in [
        "istio_request_duration_milliseconds",
        "istio_request_bytes",
        "istio_response_bytes",
    ] {
        assert_eq!(
            metric(&edge, &format!("{name}_count"), &edge_to_web),
            300.0,
            "{name}"
        );
        assert_eq!(
            metric(
                &edge,
                &format!("{name}_bucket"),
                &[&edge_to_web[..], &[("le", "+Inf")]].concat()
            ),
            300.0,
            "{name}"
        );
    }
    for bound in [
        "0.5", "1", "5", "10", "25", "50", "100", "250", "500", "1000", "2500", "5000", "10000", "30000",
        "60000",
    ] {
        assert!(edge.contains(&format!("le=\"{bound}\"")), "no bucket {bound}");
    }

    // The merged page has the same numbers, for whoever has the token and means this page.
    let url = mesh.summary["adminUrl"].as_str().unwrap();
    let (address, token) = url
        .strip_prefix("http://")
        .unwrap()
        .split_once("/?token=")
        .unwrap();
    let bearer = format!("Bearer {token}");
    let fetch = |path: &str, headers: &[(&str, &str)]| get(address, path, headers).unwrap();
    let page = fetch("/metrics", &[("Host", address), ("Authorization", &bearer)]);
    assert_eq!(page.status, 200);
    let page = page.text();
    assert_eq!(metric(&page, REQUESTS, &edge_to_web), 300.0);
    assert_eq!(
        metric(&page, REQUESTS, &[("pod", "web-0")]) + metric(&page, REQUESTS, &[("pod", "web-1")]),
        340.0
    );
    assert_eq!(metric(&page, "bartizan_scrape_up", &[]), 5.0);
    assert_eq!(
        fetch(&format!("/metrics?token={token}"), &[("Host", address)]).status,
        200
    );
    for path in ["/metrics", "/", "/status.json", "/metrics?token=0123"] {
        assert_eq!(fetch(path, &[("Host", address)]).status, 401, "{path}");
    }
    assert_eq!(
        fetch("/metrics", &[("Host", address), ("Authorization", "Bearer 00")]).status,
        401
    );
    for (name, value) in [("Host", "rebound.example:80"), ("Origin", "http://evil.example")] {
        let mut headers = vec![("Authorization", bearer.as_str()), (name, value)];
        if name != "Host" {
            headers.push(("Host", address));
        }
        let refused = fetch("/metrics", &headers);
        assert!(
            (400..500).contains(&refused.status) && !refused.text().contains(REQUESTS),
            "{name}: {refused:?}"
        );
    }
    // A browser trades the token in its address for a cookie.
    let entered = fetch(&format!("/?token={token}"), &[("Host", address)]);
    assert_eq!((entered.status, entered.header("location")), (303, Some("/")));
    let cookie = entered.header("set-cookie").unwrap();
    assert!(
        cookie.contains("HttpOnly") && cookie.contains("SameSite=Strict"),
        "{cookie}"
    );
    let cookie = cookie.split(';').next().unwrap();
    let page = fetch("/", &[("Host", address), ("Cookie", cookie)]);
    assert_eq!(page.status, 200);
    assert!(page.text().contains("web-0"), "{}", page.text());

    // The access log has a line for each, on each side, under one id. Proxies write it ten times a second.
    eventually("the last line is written", Duration::from_secs(2), || {
        mesh.access_log()
            .iter()
            .filter(|line| line["path"] == "/nowhere")
            .count()
            >= 25
    });
    let lines = mesh.access_log();
    let of = |reporter: &str, path: &str| {
        lines
            .iter()
            .filter(|line| line["reporter"] == reporter && line["path"] == path)
            .count()
    };
    assert_eq!((of("source", "/web/x"), of("destination", "/web/x")), (300, 300));
    assert_eq!(
        (of("source", "/front/x"), of("destination", "/front/x")),
        (40, 40)
    );
    assert_eq!(
        (of("source", "/web/behind"), of("destination", "/web/behind")),
        (40, 40)
    );
    assert_eq!((of("source", "/nowhere"), of("destination", "/nowhere")), (25, 0));
    let ids = |reporter: &str| -> BTreeSet<String> {
        lines
            .iter()
            .filter(|line| line["reporter"] == reporter && line["path"] != "/nowhere")
            .map(|line| line["request_id"].as_str().unwrap().to_owned())
            .collect()
    };
    assert_eq!(ids("source"), ids("destination"));
    // `front` hands the id on, so that the hops of a request are found together.
    assert_eq!(ids("source").len(), 340);
    for line in &lines {
        for field in ISTIO_FIELDS {
            assert!(line.get(field).is_some(), "{field} is not in {line}");
        }
    }
}

#[test]
fn connections_of_bytes_are_counted_and_logged() {
    let mesh = Mesh::up(&Start::scene("lab"));
    let script = "import socket\nfor i in range(7):\n  s=socket.create_connection(('web',7000)); s.sendall(b'hello\\n'); s.recv(100); s.close()";
    let ended = mesh.run_as("lab/caller", &["/usr/bin/python3", "-c", script]);
    assert_eq!(ended.code, 0, "{ended:?}");
    let count = |name: &str, labels: &[(&str, &str)]| -> f64 {
        ["web-0", "web-1"]
            .iter()
            .map(|pod| metric(&mesh.metrics("lab", pod), name, labels))
            .sum()
    };
    let labels = [
        ("reporter", "destination"),
        ("source_principal", "spiffe://cluster.local/ns/lab/sa/caller"),
        ("connection_security_policy", "mutual_tls"),
    ];
    eventually("all are closed", Duration::from_secs(3), || {
        count("istio_tcp_connections_closed_total", &labels) >= 7.0
    });
    for (name, expected) in [
        ("istio_tcp_connections_opened_total", 7.0),
        ("istio_tcp_connections_closed_total", 7.0),
        ("istio_tcp_received_bytes_total", 7.0 * 6.0),
        ("istio_tcp_sent_bytes_total", 7.0 * 11.0),
    ] {
        assert_eq!(count(name, &labels), expected, "{name}");
    }
    eventually("both sides have logged", Duration::from_secs(2), || {
        let lines = mesh.access_log();
        let of = |reporter: &str| {
            lines
                .iter()
                .filter(|line| {
                    line["reporter"] == reporter
                        && line["requested_server_name"]
                            .as_str()
                            .is_some_and(|name| name.contains("7000"))
                            == (reporter == "destination")
                        && line["bytes_received"] == 6
                        && line["bytes_sent"] == 11
                })
                .count()
        };
        (of("destination"), of("source")) == (7, 7)
    });
}

#[test]
fn logs_show_what_workloads_print_and_the_access_log() {
    let mesh = Mesh::up(&Start::scene("lab"));
    mesh.edit_document(
        "mesh.yaml",
        "command: [/usr/bin/python3, ./slow.py]",
        r#"command: [/bin/sh, -c, "echo it speaks; echo it complains >&2; exec /usr/bin/python3 ./slow.py"]"#,
    );
    eventually("it is printed", Duration::from_secs(10), || {
        let ended = mesh.bartizan(&["logs", "lab/slow"]);
        ended.stdout.contains("it speaks") && ended.stdout.contains("it complains")
    });
    mesh.settle();
    assert_eq!(get(&mesh.gateway(), "/slow/1", &[]).unwrap().status, 200);
    assert_eq!(get(&mesh.gateway(), "/web/1", &[]).unwrap().status, 200);
    eventually("the request is in the log", Duration::from_secs(2), || {
        let ended = mesh.bartizan(&["logs", "--access", "slow"]);
        ended.stdout.lines().count() == 1 && ended.stdout.contains("\"/slow/1\"")
    });
    // All of them come in the order of time.
    let starts: Vec<String> = mesh
        .access_log()
        .iter()
        .map(|line| line["start_time"].as_str().unwrap().to_owned())
        .collect();
    assert!(starts.len() >= 4 && starts.is_sorted(), "{starts:?}");
    assert_ne!(mesh.bartizan(&["logs", "no-such"]).code, 0);
}

fn explained(mesh: &Mesh, id: &str) -> Value {
    let ended = mesh.bartizan(&["explain", "--output", "json", id]);
    assert_eq!(ended.code, 0, "{id}: {}", ended.stderr);
    serde_json::from_str(&ended.stdout).unwrap()
}

#[test]
fn a_denial_is_explained_by_either_of_its_ids() {
    let mesh = Mesh::up(&Start::scene("lab"));
    let policies = std::fs::read_to_string(mesh.documents.join("policies.yaml")).unwrap();
    let line_of = |what: &str| policies.lines().position(|line| line.contains(what)).unwrap() + 1;

    // At the gateway.
    let denied = get(&mesh.gateway(), "/nowhere", &[]).unwrap();
    assert_eq!(denied.status, 403);
    assert_eq!(denied.text(), "RBAC: access denied");
    let id = denied.header("x-bartizan-decision").unwrap().to_owned();
    let text = mesh.bartizan(&["explain", &id]);
    assert_eq!(text.code, 0, "{text:?}");
    assert!(
        text.stdout.contains("edge-policy") && text.stdout.contains("policies.yaml:"),
        "{}",
        text.stdout
    );

    // Between pods, with an id that the caller has set: a caller who is let in for other paths.
    let call = |identity: &str, method: &str, path: &str, id: &str| {
        let ended = mesh.run_as(
            identity,
            &[
                "curl",
                "-s",
                "-m",
                "10",
                "-D",
                "-",
                "-X",
                method,
                "-H",
                &format!("x-request-id: {id}"),
                &format!("http://web:8080{path}"),
            ],
        );
        assert_eq!(ended.code, 0, "{ended:?}");
        ended.stdout
    };
    let answer = call("lab/caller", "GET", "/web/private", "the-first");
    assert!(
        answer.contains("403") && answer.contains("RBAC: access denied"),
        "{answer}"
    );
    let decision = answer
        .lines()
        .find_map(|line| line.strip_prefix("x-bartizan-decision: "))
        .unwrap()
        .trim();
    let by_request = explained(&mesh, "the-first");
    let by_decision = explained(&mesh, decision);
    for explanation in [&by_request, &by_decision] {
        assert_eq!(explanation["explanation"]["allowed"], false, "{explanation:#}");
        let text = explanation.to_string();
        assert!(
            text.contains("web-policy") && text.contains("policies.yaml"),
            "{explanation:#}"
        );
        assert_eq!(explanation["judged"]["decision_id"], decision);
        assert_eq!(
            explanation["judged"]["source_principal"],
            "spiffe://cluster.local/ns/lab/sa/caller"
        );
    }
    // An allowed request says by which rule, and where that stands.
    assert!(call("lab/caller", "GET", "/web/public/1", "the-second").contains("200 OK"));
    let allowed = explained(&mesh, "the-second");
    assert_eq!(allowed["explanation"]["allowed"], true, "{allowed:#}");
    let rule = line_of(r#"principals: ["cluster.local/ns/lab/sa/caller"]"#) - 2;
    assert!(
        allowed["places"].to_string().contains(&format!("{rule}")),
        "line {rule}: {allowed:#}"
    );
    let text = mesh.bartizan(&["explain", "the-second"]);
    assert!(
        text.stdout.contains(&format!("policies.yaml:{rule}")),
        "{}",
        text.stdout
    );

    // Plain TCP: reset, and the log's decision id tells why. The stranger is let in nowhere, the gateway is by HTTP only.
    let script = "import socket\ns=socket.create_connection(('web',7000))\ntry:\n  s.sendall(b'x\\n'); print(s.recv(10))\nexcept ConnectionResetError: print('reset')";
    let reset = mesh.run_as("lab/front", &["/usr/bin/python3", "-c", script]);
    assert_eq!(reset.stdout.trim(), "reset", "{reset:?}");
    let mut found = None;
    eventually("the denied connection is logged", Duration::from_secs(2), || {
        found = mesh.access_log().into_iter().find(|line| {
            line["decision"] == "deny"
                && line["method"].is_null()
                && line["source_principal"] == "spiffe://cluster.local/ns/lab/sa/front"
        });
        found.is_some()
    });
    let decision = found.as_ref().unwrap()["decision_id"]
        .as_str()
        .unwrap()
        .to_owned();
    let explanation = explained(&mesh, &decision);
    assert_eq!(explanation["explanation"]["allowed"], false, "{explanation:#}");
    assert!(explanation.to_string().contains("web-lines"), "{explanation:#}");
    assert_ne!(mesh.bartizan(&["explain", "no-such-id"]).code, 0);
}

#[test]
fn can_says_what_happens() {
    let mesh = Mesh::up(&Start::scene("lab"));
    let documents = mesh.documents.display().to_string();
    let mut seen = BTreeSet::new();
    for caller in ["lab/caller", "lab/front", "lab/stranger", "lab/web"] {
        for (method, path) in [
            ("GET", "/web/public/1"),
            ("POST", "/web/public/1"),
            ("GET", "/web/behind"),
            ("GET", "/web/behind/"),
            ("GET", "/web/%70ublic/1"),
            ("GET", "/web/public/../behind"),
        ] {
            let called = mesh.run_as(
                caller,
                &[
                    "curl",
                    "-s",
                    "-m",
                    "10",
                    "--path-as-is",
                    "-o",
                    "/dev/null",
                    "-w",
                    "%{http_code}",
                    "-X",
                    method,
                    &format!("http://web:8080{path}"),
                ],
            );
            let happened = called.stdout == "200";
            assert!(
                ["200", "403", "400"].contains(&called.stdout.as_str()),
                "{caller} {method} {path}: {called:?}"
            );
            let online = mesh.bartizan(&["can", caller, "web.lab:8080", method, path]);
            let offline = mesh.bartizan(&["can", "--in", &documents, caller, "web.lab:8080", method, path]);
            let expected = if happened { 0 } else { 4 };
            assert_eq!(
                online.code, expected,
                "{caller} {method} {path}: {called:?} but {online:?}"
            );
            assert_eq!(
                offline.code, expected,
                "{caller} {method} {path}: {called:?} but {offline:?}"
            );
            seen.insert(happened);
        }
        // TCP.
        let script =
            "import socket\ns=socket.create_connection(('web',7000))\ns.sendall(b'x\\n')\nassert s.recv(10)";
        let connected = mesh.run_as(caller, &["/usr/bin/python3", "-c", script]).code == 0;
        let can = mesh.bartizan(&["can", caller, "web.lab:7000"]);
        assert_eq!(can.code, if connected { 0 } else { 4 }, "{caller}: {can:?}");
    }
    assert_eq!(seen.len(), 2, "both answers are seen");
    let outside = mesh.bartizan(&["can", "outside", "web.lab:8080", "GET", "/web/public/1"]);
    assert_eq!(outside.code, 4, "{outside:?}");
}
