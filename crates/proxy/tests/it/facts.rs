//! What a request is judged by: the client's address behind proxies, the one meaning of its path and host; and what
//! policies that only look leave behind.

use std::io::Read as _;
use std::sync::atomic::Ordering;

use bartizan_mesh::{
    Action, Matcher, Operation, PathMatch, PathRule, Policy, PolicyKind, Profile, RemoteAddress, Resource,
    Rule, Settings, Source, View,
};
use bartizan_types::{Cidr, Hostname, Name, StringMatch, TrustDomain};
use serde_json::json;

use crate::gateway::{Way, gateway_view, way};
use crate::scene::{
    Client, Plan, Scene, allow, echo_app, is_end, metric, name, policy, policy_name, policy_of, until, view,
};

fn from_blocks(source: Source) -> Vec<Rule> {
    vec![Rule {
        from: vec![source],
        ..Rule::default()
    }]
}

fn remote_blocks(block: &str) -> Source {
    Source {
        remote_ip_blocks: Matcher {
            any: vec![Cidr::parse(block).unwrap()],
            none: Vec::new(),
        },
        ..Source::default()
    }
}

fn change(way: &Way, version: u64, remote: RemoteAddress, rules: Vec<Rule>) {
    let Resource::View(view) = gateway_view() else {
        unreachable!()
    };
    way.gateway.apply(&bartizan_mesh::Transaction {
        version: bartizan_types::Version(version),
        upserts: vec![
            Resource::View(View { remote, ..view }),
            policy_of("edge/gate", Action::Allow, rules),
        ],
        removals: Vec::new(),
    });
}

fn ask(way: &Way, before: &str, more: &str) -> String {
    Client::new(way.address).ask(&format!(
        "{before}GET /v1/a HTTP/1.1\r\nhost: shop.example\r\n{more}\r\n"
    ))
}

/// The lines of the gateway's log, when there are so many.
fn gateway_log(way: &Way, lines: usize) -> Vec<serde_json::Value> {
    let path = way.scene.directory.path().join("gateway.jsonl");
    let mut log = Vec::new();
    until("the log has its lines", || {
        way.gateway.flush_log();
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        log = text
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        log.len() >= lines
    });
    log
}

#[test]
fn the_clients_address_is_what_trusted_proxies_say() {
    let way = way(&["GET"]);
    let trusted = |trusted_proxies| RemoteAddress {
        trusted_proxies,
        proxy_protocol: false,
    };
    let forwarded = "x-forwarded-for: 203.0.113.7\r\n";
    change(&way, 2, trusted(1), from_blocks(remote_blocks("203.0.113.0/24")));
    let answer = ask(&way, "", forwarded);
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert!(
        answer
            .to_ascii_lowercase()
            .contains("x-forwarded-for: 203.0.113.7,127.0.0.1")
    );
    for fields in [
        "",
        "x-forwarded-for: 203.0.113.7, 198.51.100.1\r\n",
        "x-forwarded-for: nobody\r\n",
    ] {
        let answer = ask(&way, "", fields);
        assert!(answer.starts_with("HTTP/1.1 403 "), "{fields} {answer}");
    }
    let log = gateway_log(&way, 4);
    assert_eq!(log[0]["remote_address"], "203.0.113.7");
    assert!(
        log[0]["downstream_remote_address"]
            .as_str()
            .unwrap()
            .starts_with("127.0.0.1:")
    );
    assert!(log[1].get("remote_address").is_none(), "{}", log[1]);
    assert_eq!(log[2]["remote_address"], "198.51.100.1");
    // It may also have ended TLS.
    for (said, proto) in [("https", "https"), ("gopher", "http"), ("https, http", "http")] {
        let answer = ask(&way, "", &format!("{forwarded}x-forwarded-proto: {said}\r\n"));
        assert!(
            answer.contains(&format!("x-forwarded-proto: {proto}\r\n")),
            "{answer}"
        );
    }
    // Without a trusted proxy nobody is believed.
    change(&way, 3, trusted(0), vec![Rule::default()]);
    let answer = ask(&way, "", "x-forwarded-proto: https\r\n");
    assert!(answer.contains("x-forwarded-proto: http\r\n"), "{answer}");
    change(&way, 3, trusted(0), from_blocks(remote_blocks("203.0.113.0/24")));
    assert!(ask(&way, "", forwarded).starts_with("HTTP/1.1 403 "));
    // At a workload's proxy the last entry counts: the gateway has written it.
    change(&way, 4, trusted(0), vec![Rule::default()]);
    way.scene
        .change_server(vec![policy(from_blocks(remote_blocks("127.0.0.1")))]);
    assert!(ask(&way, "", forwarded).starts_with("HTTP/1.1 200 "));
    way.scene
        .change_server(vec![policy(from_blocks(remote_blocks("203.0.113.7")))]);
    assert!(ask(&way, "", forwarded).starts_with("HTTP/1.1 403 "));
}

#[test]
fn a_proxy_protocol_header_names_the_client_and_is_not_optional() {
    let way = way(&["GET"]);
    let announced = RemoteAddress {
        trusted_proxies: 0,
        proxy_protocol: true,
    };
    let here = Source {
        // The connection's own address stays what it is.
        ip_blocks: Matcher {
            any: vec![Cidr::parse("127.0.0.1").unwrap()],
            none: Vec::new(),
        },
        ..remote_blocks("203.0.113.0/24")
    };
    change(&way, 2, announced, from_blocks(here));
    let header = "PROXY TCP4 203.0.113.7 10.0.0.1 4711 80\r\n";
    let answer = ask(&way, header, "");
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert!(
        answer
            .to_ascii_lowercase()
            .contains("x-forwarded-for: 203.0.113.7\r\n"),
        "{answer}"
    );
    assert!(ask(&way, "PROXY TCP4 198.51.100.1 10.0.0.1 4711 80\r\n", "").starts_with("HTTP/1.1 403 "));
    // A load balancer that looks whether the gateway lives speaks for itself.
    assert!(ask(&way, "PROXY UNKNOWN\r\n", "").starts_with("HTTP/1.1 403 "));
    for bad in ["", "PROXY TCP4 203.0.113.7\r\n"] {
        let mut client = Client::new(way.address);
        client.send(&format!("{bad}GET /v1/a HTTP/1.1\r\nhost: shop.example\r\n\r\n"));
        let ended = client.stream.read(&mut [0; 16]);
        assert!(is_end(&ended), "{bad} {ended:?}");
    }
    let log = gateway_log(&way, 5);
    assert_eq!(log[0]["remote_address"], "203.0.113.7");
    let details = log[4]["connection_termination_details"].as_str().unwrap();
    assert!(details.starts_with("proxy_protocol: "), "{details}");
    until("both are counted", || {
        let labels = ["direction=\"gateway\"", "reason=\"proxy_protocol\""];
        metric(
            &way.gateway.metrics(),
            "bartizan_connections_refused_total",
            &labels,
        ) == 2.0
    });
    assert_eq!(way.app.requests.load(Ordering::SeqCst), 1);
}

fn operation(operation: Operation) -> Vec<Rule> {
    vec![Rule {
        to: vec![operation],
        ..allow("web", &[])
    }]
}

#[test]
fn in_istios_modes_the_path_that_policy_has_matched_goes_on() {
    let app = echo_app();
    let plan = Plan {
        rules: operation(Operation {
            paths: Matcher {
                any: vec![PathMatch::Text(StringMatch::Prefix("/b".into()))],
                none: Vec::new(),
            },
            ..Operation::default()
        }),
        ..Plan::new(app.address)
    };
    let scene = Scene::new(&plan);
    scene.change_server(vec![Resource::Settings(Settings {
        trust_domain: TrustDomain::parse("cluster.local").unwrap(),
        root_namespace: Name::parse("istio-system").unwrap(),
        cluster_domain: Hostname::parse("cluster.local").unwrap(),
        profile: Profile::zero_trust(),
        paths: PathRule::MergeSlashes,
    })]);
    let get =
        |path: &str| Client::new(scene.outbound).ask(&format!("GET {path} HTTP/1.1\r\nhost: cart\r\n\r\n"));
    let answer = get("/a/..//b/./c?x=//y");
    assert!(answer.contains("GET /b/c?x=//y HTTP/1.1\r\n"), "{answer}");
    assert!(get("/b/../a").starts_with("HTTP/1.1 403 "));
    let log = scene.server_log(2);
    assert_eq!(log[0]["path"], "/a/..//b/./c?x=//y");
    assert_eq!(log[0]["canonical_path"], "/b/c");
}

#[test]
fn a_request_has_one_host_for_policy_and_application() {
    let app = echo_app();
    let scene = Scene::new(&Plan {
        rules: operation(Operation {
            hosts: Matcher {
                any: vec![StringMatch::Exact("good".into())],
                none: Vec::new(),
            },
            ..Operation::default()
        }),
        ..Plan::new(app.address)
    });
    let ask = |text: &str| Client::new(scene.outbound).ask(text);
    // The absolute form counts, and its host is the one that the application reads (RFC 9112 §3.2.2).
    let answer = ask("GET http://good/a HTTP/1.1\r\nhost: evil\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert!(
        answer.contains("GET /a HTTP/1.1\r\n") && !answer.contains("evil"),
        "{answer}"
    );
    for (text, status) in [
        ("GET http://evil/a HTTP/1.1\r\nhost: good\r\n\r\n", "403"),
        ("GET /a HTTP/1.1\r\nhost: evil\r\n\r\n", "403"),
        ("GET /a HTTP/1.1\r\nhost: good\r\nhost: evil\r\n\r\n", "400"),
        ("GET /a HTTP/1.1\r\n\r\n", "400"),
        ("GET http://evil@good/a HTTP/1.1\r\nhost: good\r\n\r\n", "400"),
        ("GET /a HTTP/1.1\r\nhost: good, evil\r\n\r\n", "400"),
        (
            "GET /a HTTP/1.1\r\nhost: good\r\nx-forwarded-host: evil\r\n\r\n",
            "200",
        ),
    ] {
        let answer = ask(text);
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")),
            "{text} {answer}"
        );
    }
    assert_eq!(app.requests.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn authority_and_host_of_http2_name_one_host() {
    let way = way(&["GET"]);
    let stream = tokio::net::TcpStream::connect(way.address).await.unwrap();
    let (send, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    let mut send = send.ready().await.unwrap();
    let mut status = async |host: &str| {
        let request = http::Request::get("http://shop.example/v1/a")
            .header("host", host)
            .body(())
            .unwrap();
        let (response, _) = send.send_request(request, true).unwrap();
        response.await.map(|response| response.status().as_u16())
    };
    assert_eq!(status("shop.example").await.unwrap(), 200);
    let refused = status("evil.example").await;
    assert!(!matches!(refused, Ok(200)), "{refused:?}");
    assert_eq!(way.app.requests.load(Ordering::SeqCst), 1);
}

#[test]
fn what_only_looks_is_on_record_and_changes_nothing() {
    let app = echo_app();
    let plan = Plan::new(app.address);
    let scene = Scene::new(&plan);
    let Resource::View(view) = view(&plan, "cart-0", scene.inbound) else {
        unreachable!()
    };
    let looks = |named: &str, action, dry_run, rules| {
        Resource::Policy(Policy {
            kind: PolicyKind::AuthorizationPolicy,
            name: name(named),
            action,
            provider: None,
            dry_run,
            rules,
        })
    };
    scene.change_server(vec![
        Resource::View(View {
            policies: ["shop/cart", "shop/audit", "shop/trial"]
                .map(policy_name)
                .to_vec(),
            ..view
        }),
        looks("shop/audit", Action::Audit, false, vec![allow("web", &["POST"])]),
        looks("shop/trial", Action::Deny, true, vec![allow("web", &["POST"])]),
    ]);
    for method in ["GET", "POST"] {
        let answer = Client::new(scene.outbound).ask(&format!(
            "{method} / HTTP/1.1\r\nhost: cart\r\ncontent-length: 0\r\n\r\n"
        ));
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    }
    let log = scene.server_log(2);
    assert!(log[0].get("audited").is_none(), "{}", log[0]);
    assert_eq!(log[1]["audited"], json!(["ns[shop]-policy[audit]-rule[0]"]));
    assert_eq!(
        log[1]["istio_dry_run_deny_shadow_effective_policy_id"],
        "ns[shop]-policy[trial]-rule[0]"
    );
    assert_eq!(log[1]["istio_dry_run_deny_shadow_engine_result"], "denied");
    let metrics = scene.server.metrics();
    let audited = ["policy=\"audit\"", "rule=\"0\""];
    assert_eq!(metric(&metrics, "bartizan_policy_audited_total", &audited), 1.0);
    let shadow = ["action=\"deny\"", "result=\"denied\""];
    assert_eq!(metric(&metrics, "bartizan_policy_shadow_total", &shadow), 1.0);
}

#[test]
fn what_only_looks_at_bytes_is_on_record_too() {
    use std::io::Write as _;
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let plan = Plan {
        protocol: bartizan_types::Protocol::Tcp,
        rules: vec![allow("web", &[])],
        ..Plan::new(listener.local_addr().unwrap())
    };
    let scene = Scene::new(&plan);
    let Resource::View(view) = view(&plan, "cart-0", scene.inbound) else {
        unreachable!()
    };
    scene.change_server(vec![
        Resource::View(View {
            policies: ["shop/cart", "shop/audit"].map(policy_name).to_vec(),
            ..view
        }),
        policy_of("shop/audit", Action::Audit, vec![allow("web", &[])]),
    ]);
    let mut client = std::net::TcpStream::connect(scene.outbound).unwrap();
    client.write_all(b"x").unwrap();
    let (mut server, _) = listener.accept().unwrap();
    server.read_exact(&mut [0]).unwrap();
    drop((client, server));
    let log = scene.server_log(1);
    assert_eq!(log[0]["audited"], json!(["ns[shop]-policy[audit]-rule[0]"]));
    assert_eq!(log[0]["downstream_tls_version"], "TLSv1.3");
}
