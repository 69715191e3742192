//! HTTP/1.1 through the pair: what is allowed passes unharmed and is counted exactly, what is not is refused and told why.

use std::sync::atomic::Ordering;

use bartizan_mesh::MtlsMode;

use crate::scene::{Client, Plan, Scene, allow, echo_app, get, is_end, metric, policy, until};

#[test]
fn an_allowed_request_passes_with_its_identity_and_is_counted_on_both_sides() {
    let app = echo_app();
    let scene = Scene::new(&Plan::new(app.address));
    let mut client = Client::new(scene.outbound);
    for _ in 0..5 {
        let answer = client.ask(
            "POST /v1/ingest/a?x=1 HTTP/1.1\r\nhost: cart\r\nx-envoy-peer-metadata: forged\r\n\
             x-forwarded-client-cert: URI=spiffe://forged\r\ncontent-length: 5\r\n\r\nhello",
        );
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
        assert!(answer.contains("POST /v1/ingest/a?x=1 HTTP/1.1"), "{answer}");
        assert!(answer.ends_with("hello"), "{answer}");
        assert!(!answer.contains("forged"), "{answer}");
        assert!(
            answer.contains("By=spiffe://cluster.local/ns/shop/sa/cart;Subject=\"\";URI=spiffe://cluster.local/ns/shop/sa/web"),
            "{answer}"
        );
        assert!(answer.contains("x-request-id: "), "{answer}");
    }
    assert_eq!(app.requests.load(Ordering::SeqCst), 5);
    let log = scene.server_log(5);
    let client_log = scene.client_log(5);
    let labels = [
        "source_workload=\"web\"",
        "destination_workload=\"cart\"",
        "destination_service=\"cart.shop.svc.cluster.local\"",
        "response_code=\"200\"",
        "response_flags=\"-\"",
        "source_principal=\"spiffe://cluster.local/ns/shop/sa/web\"",
        "destination_principal=\"spiffe://cluster.local/ns/shop/sa/cart\"",
        "request_protocol=\"http\"",
    ];
    for (proxy, reporter, security) in [
        (&scene.client, "source", "unknown"),
        (&scene.server, "destination", "mutual_tls"),
    ] {
        let mut all = labels.to_vec();
        let (reporter, security) = (
            format!("reporter=\"{reporter}\""),
            format!("connection_security_policy=\"{security}\""),
        );
        all.extend([reporter.as_str(), security.as_str()]);
        let text = proxy.metrics();
        assert_eq!(metric(&text, "istio_requests_total", &all), 5.0, "{text}");
        assert_eq!(metric(&text, "istio_requests_total", &[]), 5.0, "{text}");
    }
    // One connection was opened and used for all.
    let text = scene.client.metrics();
    assert_eq!(
        metric(&text, "bartizan_upstream_connects_total", &["result=\"ok\""]),
        1.0,
        "{text}"
    );
    assert_eq!(
        metric(&text, "bartizan_upstream_reused_total", &[]),
        4.0,
        "{text}"
    );
    assert_eq!(log[0]["path"], "/v1/ingest/a?x=1");
    assert_eq!(log[0]["policy"], "ns[shop]-policy[cart]-rule[0]");
    assert_eq!(log[0]["decision"], "allow");
    assert_eq!(log[0]["bytes_received"], 5);
    assert_eq!(
        log[0]["source_principal"],
        "spiffe://cluster.local/ns/shop/sa/web"
    );
    assert!(
        log[0]["requested_server_name"]
            .as_str()
            .unwrap()
            .starts_with("outbound_.")
    );
    let id = log[0]["request_id"].as_str().unwrap();
    assert_eq!(client_log[0]["request_id"], id);
}

#[test]
fn a_denied_request_is_answered_403_with_its_decision() {
    let app = echo_app();
    let scene = Scene::new(&Plan::new(app.address));
    let mut client = Client::new(scene.outbound);
    let answer = client.ask("DELETE /a HTTP/1.1\r\nhost: cart\r\nx-request-id: mine\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.1 403 "), "{answer}");
    assert!(answer.ends_with("RBAC: access denied"), "{answer}");
    let log = scene.server_log(1);
    let denied = &log[0];
    assert_eq!(denied["response_code"], 403);
    assert_eq!(
        denied["response_code_details"],
        "rbac_access_denied_matched_policy[none]"
    );
    assert_eq!(denied["request_id"], "mine");
    assert_eq!(denied["decision"], "deny");
    let decision = denied["decision_id"].as_str().unwrap();
    assert!(
        answer.contains(&format!("x-bartizan-decision: {decision}")),
        "{answer}"
    );
    assert_eq!(app.requests.load(Ordering::SeqCst), 0);
    // The connection is good for the next one.
    assert!(client.ask(&get("/b")).starts_with("HTTP/1.1 200"));
    assert_eq!(
        metric(&scene.server.metrics(), "bartizan_policy_denied_total", &[]),
        1.0
    );
}

#[test]
fn a_path_without_a_single_meaning_is_refused() {
    let app = echo_app();
    let scene = Scene::new(&Plan::new(app.address));
    let answer = Client::new(scene.outbound).ask(&get("/a%2fb"));
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    assert_eq!(app.requests.load(Ordering::SeqCst), 0);
    // What has one meaning but two forms is forwarded as it was sent, and logged in both.
    let answer = Client::new(scene.outbound).ask(&get("/%61/b?c=%2f"));
    assert!(answer.contains("GET /%61/b?c=%2f HTTP/1.1"), "{answer}");
    let log = scene.server_log(2);
    assert_eq!(
        (&log[1]["path"], &log[1]["canonical_path"]),
        (&"/%61/b?c=%2f".into(), &"/a/b".into())
    );
    assert!(log[0].get("canonical_path").is_none());
}

#[test]
fn a_server_with_another_identity_gets_nothing() {
    let app = echo_app();
    let scene = Scene::new(&Plan {
        server_account: "thief",
        ..Plan::new(app.address)
    });
    let answer = Client::new(scene.outbound).ask(&get("/a"));
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    assert_eq!(app.requests.load(Ordering::SeqCst), 0);
    let log = scene.client_log(1);
    assert_eq!(log[0]["response_flags"], "UF", "{log:?}");
    assert!(
        log[0]["upstream_transport_failure_reason"]
            .as_str()
            .unwrap()
            .contains("thief"),
        "{log:?}"
    );
    let text = scene.client.metrics();
    assert!(
        metric(&text, "bartizan_tls_refused_total", &["side=\"client\""]) >= 1.0,
        "{text}"
    );
}

#[test]
fn strict_refuses_plaintext_and_permissive_lets_it_to_policy() {
    let app = echo_app();
    let scene = Scene::new(&Plan::new(app.address));
    let mut client = Client::new(scene.inbound);
    client.send(&get("/a"));
    assert_eq!(client.receive(), None);
    scene.server_log(1);
    assert_eq!(
        metric(&scene.server.metrics(), "bartizan_plaintext_refused_total", &[]),
        1.0
    );

    let mut open = allow("web", &["GET"]);
    open.from.clear();
    let scene = Scene::new(&Plan {
        mtls: MtlsMode::Permissive,
        rules: vec![open],
        ..Plan::new(app.address)
    });
    let answer = Client::new(scene.inbound)
        .ask("GET /a HTTP/1.1\r\nhost: cart\r\nx-forwarded-client-cert: URI=spiffe://forged\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert!(!answer.contains("forged"), "{answer}");
    scene.server_log(1);
    let text = scene.server.metrics();
    assert_eq!(
        metric(
            &text,
            "istio_requests_total",
            &["connection_security_policy=\"none\""]
        ),
        1.0,
        "{text}"
    );
    // The client's proxy still speaks mutual TLS to it.
    assert!(
        Client::new(scene.outbound)
            .ask(&get("/a"))
            .starts_with("HTTP/1.1 200 ")
    );
}

#[test]
fn nowhere_is_refused_with_a_reason() {
    let app = echo_app();
    let scene = Scene::new(&Plan::new(app.address));
    let answer = Client::new(scene.nowhere).ask(&get("/"));
    assert!(answer.starts_with("HTTP/1.1 502 "), "{answer}");
    assert!(answer.contains("has no port"), "{answer}");
    let log = scene.client_log(1);
    assert_eq!(log[0]["response_flags"], "NR");

    let scene = Scene::new(&Plan {
        reachable: false,
        ..Plan::new(app.address)
    });
    let answer = Client::new(scene.outbound).ask(&get("/"));
    assert!(
        answer.starts_with("HTTP/1.1 403 ") && answer.ends_with("RBAC: access denied"),
        "{answer}"
    );
    let log = scene.client_log(1);
    assert!(
        log[0]["response_code_details"]
            .as_str()
            .unwrap()
            .starts_with("not_reachable"),
        "{log:?}"
    );
    assert!(log[0]["decision_id"].is_string());
}

#[test]
fn a_connect_failure_is_tried_on_another_endpoint() {
    let app = echo_app();
    let scene = Scene::new(&Plan {
        dead_endpoints: 1,
        ..Plan::new(app.address)
    });
    for _ in 0..20 {
        // A new connection each, so that each has to choose.
        let answer = Client::new(scene.outbound).ask(&get("/"));
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    }
    scene.client_log(20);
    let text = scene.client.metrics();
    assert!(
        metric(&text, "bartizan_retries_total", &["reason=\"connect\""]) >= 1.0,
        "{text}"
    );
    assert_eq!(metric(&text, "istio_requests_total", &[]), 20.0);
    assert_eq!(app.requests.load(Ordering::SeqCst), 20);
}

#[test]
fn an_application_that_is_not_there_is_503() {
    let scene = Scene::new(&Plan::new(crate::scene::free()));
    let answer = Client::new(scene.outbound).ask(&get("/"));
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    assert_eq!(scene.server_log(1)[0]["response_flags"], "UF");
    // The server's proxy says that its application got nothing: for the client's it is an endpoint where nobody listens.
    assert_eq!(scene.client_log(1)[0]["response_flags"], "UF");
    assert!(!answer.contains("x-bartizan-unsent"), "{answer}");
}

#[test]
fn malformed_and_smuggling_requests_are_refused() {
    let app = echo_app();
    let scene = Scene::new(&Plan::new(app.address));
    for bad in [
        "GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n",
        "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\ncontent-length: 4\r\n\r\nabcd",
        "GET / HTTP/1.1\r\nhost: a\r\nx : y\r\n\r\n",
    ] {
        let answer = Client::new(scene.outbound).ask(bad);
        assert!(answer.starts_with("HTTP/1.1 400 "), "{bad} {answer}");
    }
    let answer = Client::new(scene.outbound).ask("CONNECT cart:80 HTTP/1.1\r\nhost: cart:80\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.1 405 "), "{answer}");
    assert_eq!(app.requests.load(Ordering::SeqCst), 0);
}

/// Answers one connection with `answer`, after the request has ended with `end`; gives back what was asked.
fn scripted(
    end: &'static str,
    answer: &'static str,
) -> (std::net::SocketAddr, std::sync::mpsc::Receiver<String>) {
    use std::io::{Read as _, Write as _};
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (send, asked) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut text = String::new();
            while !text.ends_with(end) {
                let mut buffer = [0; 4096];
                match stream.read(&mut buffer) {
                    Ok(length @ 1..) => text.push_str(std::str::from_utf8(&buffer[..length]).unwrap()),
                    _ => break,
                }
                if text.contains("expect: 100-continue") && text.ends_with("\r\n\r\n") {
                    stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").unwrap();
                }
            }
            send.send(text).unwrap();
            stream.write_all(answer.as_bytes()).unwrap();
        }
    });
    (address, asked)
}

fn read_all(client: &mut Client) -> String {
    use std::io::Read as _;
    let mut text = String::new();
    client.stream.read_to_string(&mut text).unwrap();
    text
}

#[test]
fn chunks_and_trailers_pass_both_ways() {
    let answer = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntrailer: x-sum\r\n\r\n\
                  3\r\nabc\r\n0\r\nx-sum: 6\r\n\r\n";
    let (app, asked) = scripted("0\r\nx-check: 1\r\n\r\n", answer);
    let scene = Scene::new(&Plan::new(app));
    let mut client = Client::new(scene.outbound);
    client.send(
        "POST / HTTP/1.1\r\nhost: cart\r\nte: trailers\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n\
         4\r\nbody\r\n0\r\nx-check: 1\r\n\r\n",
    );
    let text = read_all(&mut client);
    assert!(
        text.starts_with("HTTP/1.1 200 OK\r\n") && text.contains("3\r\nabc\r\n"),
        "{text}"
    );
    assert!(text.contains("x-sum: 6"), "{text}");
    assert!(asked.recv().unwrap().contains("4\r\nbody\r\n"));
    assert_eq!(scene.server_log(1)[0]["bytes_received"], 4);
}

#[test]
fn a_client_that_waits_for_100_continue_gets_it_from_the_application() {
    let (app, asked) = scripted("last", "HTTP/1.1 204 No Content\r\n\r\n");
    let scene = Scene::new(&Plan::new(app));
    let mut client = Client::new(scene.outbound);
    client.send("POST / HTTP/1.1\r\nhost: cart\r\ncontent-length: 4\r\nexpect: 100-continue\r\n\r\n");
    assert_eq!(client.receive().unwrap(), "HTTP/1.1 100 Continue\r\n\r\n");
    client.send("last");
    assert!(client.receive().unwrap().starts_with("HTTP/1.1 204 "));
    assert!(asked.recv().unwrap().ends_with("last"));
}

#[test]
fn a_head_request_has_no_body() {
    let app = echo_app();
    let scene = Scene::new(&Plan {
        rules: vec![allow("web", &[])],
        ..Plan::new(app.address)
    });
    let mut client = Client::new(scene.outbound);
    client.send("HEAD /a HTTP/1.1\r\nhost: cart\r\nconnection: close\r\n\r\n");
    let text = read_all(&mut client);
    assert!(
        text.starts_with("HTTP/1.1 200 ") && text.contains("content-length"),
        "{text}"
    );
    assert!(text.ends_with("\r\n\r\n"), "{text}");
}

#[test]
fn an_answer_that_is_cut_or_never_comes_is_told_apart() {
    // The application leaves without a word.
    let (app, _asked) = scripted("\r\n\r\n", "");
    let scene = Scene::new(&Plan::new(app));
    let answer = Client::new(scene.outbound).ask(&get("/"));
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    assert_eq!(scene.server_log(1)[0]["response_flags"], "UC");
    // It promises more than it sends: the client must not take it for whole.
    let (app, _asked) = scripted("\r\n\r\n", "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nabc");
    let scene = Scene::new(&Plan::new(app));
    let mut client = Client::new(scene.outbound);
    client.send(&get("/"));
    let text = {
        use std::io::Read as _;
        let mut bytes = Vec::new();
        let _ = client.stream.read_to_end(&mut bytes);
        String::from_utf8(bytes).unwrap()
    };
    assert!(
        text.starts_with("HTTP/1.1 200 ") && text.ends_with("\r\n\r\nabc"),
        "{text}"
    );
    assert_eq!(scene.server_log(1)[0]["response_flags"], "UC");
    // It does not speak HTTP.
    let (app, _asked) = scripted("\r\n\r\n", "220 hello\r\n\r\n");
    let scene = Scene::new(&Plan::new(app));
    let answer = Client::new(scene.outbound).ask(&get("/"));
    assert!(answer.starts_with("HTTP/1.1 502 "), "{answer}");
    assert_eq!(scene.server_log(1)[0]["response_flags"], "UPE");
}

#[test]
fn large_bodies_pass_whole() {
    let app = echo_app();
    let scene = Scene::new(&Plan::new(app.address));
    let mut client = Client::new(scene.outbound);
    let body = "0123456789abcdef".repeat(500_000);
    let request = format!(
        "POST /big HTTP/1.1\r\nhost: cart\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    let mut writing = Client::from(client.stream.try_clone().unwrap());
    let writer = std::thread::spawn(move || writing.send(&request));
    let answer = client.receive().unwrap();
    writer.join().unwrap();
    assert!(answer.ends_with(&body));
    let log = scene.server_log(1);
    assert_eq!(log[0]["bytes_received"], 8_000_000);
}

#[test]
fn an_upgrade_carries_bytes_and_ends_when_policy_denies_it() {
    let app = echo_app();
    let scene = Scene::new(&Plan::new(app.address));
    let mut client = Client::new(scene.outbound);
    let answer = client.ask(
        "GET /ws HTTP/1.1\r\nhost: cart\r\nupgrade: websocket\r\nconnection: upgrade\r\nsec-websocket-key: x\r\n\r\n",
    );
    assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
    use std::io::{Read as _, Write as _};
    client.stream.write_all(b"ping").unwrap();
    let mut buffer = [0; 4];
    client.stream.read_exact(&mut buffer).unwrap();
    assert_eq!(&buffer, b"ping");
    scene.change_server(vec![policy(vec![allow("nobody", &[])])]);
    let ended = client.stream.read(&mut buffer);
    assert!(is_end(&ended), "{ended:?}");
}

#[test]
fn an_upgrade_is_judged_by_the_request_that_it_was() {
    use std::io::{Read as _, Write as _};
    let app = echo_app();
    let scene = Scene::new(&Plan::new(app.address));
    let mut client = Client::new(scene.outbound);
    let answer =
        client.ask("GET /ws HTTP/1.1\r\nhost: cart\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
    let mut buffer = [0; 4];
    let (svid, bundle) = scene.ca.svid("cart");
    for round in 0..3 {
        // A rule that speaks of methods still allows it; to bytes it would not apply.
        match round {
            0 => scene.change_server(vec![policy(vec![allow("other", &[]), allow("web", &["GET"])])]),
            1 => scene
                .server
                .replace_credentials(svid.clone(), bundle.clone())
                .unwrap(),
            _ => scene.change_server(vec![policy(vec![allow("web", &["GET", "PUT"])])]),
        }
        // The worker has seen the change when it answers somebody else by it.
        assert!(
            Client::new(scene.outbound)
                .ask(&get("/"))
                .starts_with("HTTP/1.1 200 ")
        );
        client.stream.write_all(b"ping").unwrap();
        client.stream.read_exact(&mut buffer).unwrap();
        assert_eq!(&buffer, b"ping");
    }
    scene.change_server(vec![policy(vec![allow("web", &["POST"])])]);
    let ended = client.stream.read(&mut buffer);
    assert!(is_end(&ended), "{ended:?}");
}

#[test]
fn what_applications_read_differently_from_policy_does_not_reach_them() {
    let app = echo_app();
    let scene = Scene::new(&Plan {
        rules: vec![allow("web", &[])],
        ..Plan::new(app.address)
    });
    for method in ["post", "Get", "pOST"] {
        let request = format!("{method} /v1 HTTP/1.1\r\nhost: cart\r\n\r\n");
        let answer = Client::new(scene.outbound).ask(&request);
        assert!(answer.starts_with("HTTP/1.1 400 "), "{method} {answer}");
    }
    assert_eq!(app.requests.load(Ordering::SeqCst), 0);
    let answer = Client::new(scene.outbound).ask(
        "GET / HTTP/1.1\r\nhost: cart\r\nX_Forwarded-Client_Cert: URI=spiffe://forged\r\n\
         x_bartizan_unsent: forged\r\nx_other: kept\r\n\r\n",
    );
    assert!(
        answer.contains("x_other: kept") && !answer.contains("forged"),
        "{answer}"
    );
}

#[test]
fn a_change_holds_for_the_next_request_of_an_open_connection() {
    let app = echo_app();
    let scene = Scene::new(&Plan::new(app.address));
    let mut client = Client::new(scene.outbound);
    assert!(client.ask(&get("/")).starts_with("HTTP/1.1 200 "));
    scene.change_server(vec![policy(vec![allow("nobody", &[])])]);
    assert!(client.ask(&get("/")).starts_with("HTTP/1.1 403 "));
    scene.change_server(vec![policy(vec![allow("web", &["GET"])])]);
    assert!(client.ask(&get("/")).starts_with("HTTP/1.1 200 "));
    assert_eq!(scene.server_log(3).last().unwrap()["config_version"], 3);
}

#[test]
fn nothing_is_lost_while_policy_and_credentials_change() {
    let app = echo_app();
    let scene = Scene::new(&Plan::new(app.address));
    let stop = std::sync::atomic::AtomicBool::new(false);
    let sent = std::sync::atomic::AtomicU64::new(0);
    std::thread::scope(|threads| {
        for _ in 0..3 {
            threads.spawn(|| {
                let mut client = Client::new(scene.outbound);
                while !stop.load(Ordering::SeqCst) {
                    let answer = client.ask(&get("/"));
                    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
                    sent.fetch_add(1, Ordering::SeqCst);
                }
            });
        }
        for round in 0..20 {
            let mut rules = vec![allow("web", &["GET"])];
            rules.extend((0..round).map(|_| allow("other", &[])));
            scene.change_server(vec![policy(rules)]);
            let (svid, bundle) = scene.ca.svid("cart");
            scene.server.replace_credentials(svid, bundle).unwrap();
            let before = sent.load(Ordering::SeqCst);
            until("requests go on", || sent.load(Ordering::SeqCst) > before + 5);
        }
        stop.store(true, Ordering::SeqCst);
    });
    let sent = sent.load(Ordering::SeqCst);
    scene.client_log(sent as usize);
    scene.server_log(sent as usize);
    let expected = sent as f64;
    for proxy in [&scene.client, &scene.server] {
        let text = proxy.metrics();
        assert_eq!(
            metric(&text, "istio_requests_total", &["response_code=\"200\""]),
            expected
        );
        assert_eq!(metric(&text, "istio_requests_total", &[]), expected);
    }
}

#[test]
fn several_workers_count_together() {
    let app = echo_app();
    let scene = Scene::new(&Plan {
        workers: 3,
        ..Plan::new(app.address)
    });
    std::thread::scope(|threads| {
        for _ in 0..8 {
            threads.spawn(|| {
                let mut client = Client::new(scene.outbound);
                for _ in 0..10 {
                    assert!(client.ask(&get("/")).starts_with("HTTP/1.1 200 "));
                }
            });
        }
    });
    scene.client_log(80);
    scene.server_log(80);
    for proxy in [&scene.client, &scene.server] {
        let text = proxy.metrics();
        assert_eq!(
            metric(&text, "istio_requests_total", &["response_code=\"200\""]),
            80.0,
            "{text}"
        );
        assert_eq!(
            metric(&text, "istio_request_duration_milliseconds_count", &[]),
            80.0,
            "{text}"
        );
    }
    scene.change_server(vec![policy(vec![allow("nobody", &[])])]);
    for _ in 0..6 {
        assert!(
            Client::new(scene.outbound)
                .ask(&get("/"))
                .starts_with("HTTP/1.1 403 ")
        );
    }
}
