//! The way in: routes, filters, timeouts, versions, and the gateway's own policy.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bartizan_mesh::{
    Action, Backend, HeaderEdit, Listener, MtlsMode, PathSelector, RemoteAddress, Resource, Route,
    RouteFilter, RouteMatch, RouteRule, Transaction, View,
};
use bartizan_proxy::{Running, StaticConfig, StaticListener, StaticRole};
use bartizan_types::{HostPattern, Name, Version};

use crate::scene::{
    App, Client, PATIENCE, Plan, Scene, allow, echo_app, everything, free, get, id, is_end, metric, name,
    policy_name, policy_of, port,
};

pub struct Way {
    pub scene: Scene,
    pub gateway: Running,
    pub address: SocketAddr,
    pub app: App,
}

pub fn gateway_view() -> Resource {
    Resource::View(View {
        workload: name("edge/gate-0"),
        identity: id("gate"),
        labels: std::collections::BTreeMap::default(),
        policies: vec![policy_name("edge/gate")],
        authentications: Vec::new(),
        is_for_people: false,
        remote: RemoteAddress::default(),
        mtls: MtlsMode::Strict,
        inbound: Vec::new(),
        gateway: Some(name("edge/gate")),
    })
}

fn rule(prefix: &str) -> RouteRule {
    RouteRule {
        name: None,
        matches: vec![RouteMatch {
            path: PathSelector::Prefix(prefix.to_owned()),
            method: None,
            headers: Vec::new(),
            query: Vec::new(),
        }],
        filters: Vec::new(),
        backends: Vec::new(),
        request_timeout_ms: None,
        backend_timeout_ms: None,
    }
}

pub fn way(methods: &[&str]) -> Way {
    let app = echo_app();
    let plan = Plan {
        rules: vec![allow("gate", &[])],
        ..Plan::new(app.address)
    };
    let scene = Scene::new(&plan);
    let address = free();
    let backend = Backend {
        service: Some((name("shop/cart"), port(scene.outbound.port()))),
        weight: 1,
        filters: Vec::new(),
    };
    let mut edited = rule("/edited");
    edited.filters = vec![
        RouteFilter::RequestHeaders(HeaderEdit {
            set: vec![("x-set".to_owned(), "by-route".to_owned())],
            add: Vec::new(),
            remove: vec!["x-gone".to_owned()],
        }),
        RouteFilter::ResponseHeaders(HeaderEdit {
            set: vec![("x-answer".to_owned(), "edited".to_owned())],
            add: Vec::new(),
            remove: vec!["x-app".to_owned()],
        }),
    ];
    let mut slow = rule("/slow");
    slow.request_timeout_ms = Some(50);
    let mut rules = vec![edited, slow, rule("/v1")];
    for rule in &mut rules {
        rule.backends = vec![backend.clone()];
    }
    rules.push(rule("/nothing"));
    let mut open = allow("gate", methods);
    open.from.clear();
    let mut resources = everything(&plan, "web-0", scene.outbound, scene.inbound);
    resources.retain(|resource| !matches!(**resource, Resource::View(_)));
    resources.extend(
        [
            gateway_view(),
            policy_of("edge/gate", Action::Allow, vec![open]),
            Resource::Listener(Listener {
                gateway: name("edge/gate"),
                section: Name::parse("web").unwrap(),
                port: port(80),
                hostname: HostPattern::Any,
            }),
            Resource::Route(Route {
                name: name("edge/way-in"),
                parents: vec![(name("edge/gate"), Name::parse("web").unwrap())],
                hostnames: vec![HostPattern::parse("shop.example").unwrap()],
                rules,
                is_for_people: false,
            }),
        ]
        .map(Arc::new),
    );
    let gateway = Running::start(StaticConfig {
        workload: name("edge/gate-0"),
        resources,
        listeners: vec![StaticListener {
            address,
            role: StaticRole::Gateway { port: port(80) },
        }],
        svid: scene.ca.svid("gate"),
        access_log: Some(scene.directory.path().join("gateway.jsonl")),
        metrics: None,
        workers: 1,
        drain: PATIENCE,
    })
    .unwrap();
    Way {
        scene,
        gateway,
        address,
        app,
    }
}

fn ask(way: &Way, path: &str, more: &str) -> String {
    Client::new(way.address).ask(&format!(
        "GET {path} HTTP/1.1\r\nhost: shop.example\r\n{more}\r\n"
    ))
}

#[test]
fn a_routed_request_passes_with_the_gateways_fields() {
    let way = way(&["GET"]);
    let answer = ask(
        &way,
        "/v1/a",
        "x-request-id: forged\r\nx-forwarded-for: 1.2.3.4\r\n",
    );
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert!(!answer.contains("forged"), "{answer}");
    let lower = answer.to_ascii_lowercase();
    assert!(lower.contains("x-forwarded-for: 1.2.3.4,127.0.0.1"), "{answer}");
    assert!(lower.contains("x-forwarded-proto: http"), "{answer}");
    assert!(
        answer.contains("URI=spiffe://cluster.local/ns/shop/sa/gate"),
        "{answer}"
    );
    let log = way.scene.server_log(1);
    assert_eq!(
        log[0]["source_principal"],
        "spiffe://cluster.local/ns/shop/sa/gate"
    );
}

#[test]
fn routes_edit_and_limit() {
    let way = way(&["GET"]);
    let answer = ask(&way, "/edited", "x-gone: here\r\nx-set: mine\r\n");
    assert!(answer.contains("x-answer: edited"), "{answer}");
    assert!(!answer.contains("x-app: echo"), "{answer}");
    assert!(
        answer.contains("x-set: by-route") && !answer.contains("x-gone"),
        "{answer}"
    );
    let answer = ask(&way, "/slow", "");
    assert!(answer.starts_with("HTTP/1.1 504 "), "{answer}");
}

#[test]
fn what_has_no_route_or_no_backend_or_no_policy_is_told_apart() {
    let way = way(&["GET"]);
    for (path, host, method, status) in [
        ("/other", "shop.example", "GET", "404"),
        ("/v1", "other.example", "GET", "404"),
        ("/nothing", "shop.example", "GET", "500"),
        ("/v1", "shop.example", "POST", "403"),
        ("/v1/%2e%2e", "shop.example", "GET", "400"),
    ] {
        let mut client = Client::new(way.address);
        let answer = client.ask(&format!(
            "{method} {path} HTTP/1.1\r\nhost: {host}\r\ncontent-length: 0\r\n\r\n"
        ));
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")),
            "{path} {answer}"
        );
        assert_eq!(
            answer.contains("x-bartizan-decision"),
            matches!(status, "403" | "400"),
            "{answer}"
        );
    }
    crate::scene::until("all are counted", || {
        metric(
            &way.gateway.metrics(),
            "istio_requests_total",
            &["reporter=\"source\""],
        ) >= 5.0
    });
    assert_eq!(way.app.requests.load(std::sync::atomic::Ordering::SeqCst), 0);
}

#[tokio::test]
async fn http2_from_outside_reaches_a_service_of_http1() {
    let way = way(&["POST"]);
    let stream = tokio::net::TcpStream::connect(way.address).await.unwrap();
    let (send, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    let mut send = send.ready().await.unwrap();
    let request = http::Request::post("http://shop.example/v1/x")
        .header("content-length", "5")
        .body(())
        .unwrap();
    let (response, mut body) = send.send_request(request, false).unwrap();
    body.send_data(bytes::Bytes::from_static(b"hello"), true).unwrap();
    let response = tokio::time::timeout(PATIENCE, response).await.unwrap().unwrap();
    assert_eq!(response.status(), 200);
    let mut body = response.into_body();
    let text = String::from_utf8(body.data().await.unwrap().unwrap().to_vec()).unwrap();
    assert!(text.starts_with("POST /v1/x HTTP/1.1\r\n"), "{text}");
    assert!(
        text.to_ascii_lowercase().contains("host: shop.example") && text.ends_with("hello"),
        "{text}"
    );
}

#[test]
fn an_upgrade_ends_when_the_gateways_own_policy_denies_it() {
    use std::io::{Read as _, Write as _};
    let way = way(&["GET"]);
    let mut client = Client::new(way.address);
    let answer = client.ask(
        "GET /v1/ws HTTP/1.1\r\nhost: shop.example\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n",
    );
    assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
    let change = |version, methods| {
        let mut open = allow("gate", methods);
        open.from.clear();
        way.gateway.apply(&Transaction {
            version: Version(version),
            upserts: vec![policy_of("edge/gate", Action::Allow, vec![open])],
            removals: Vec::new(),
        });
    };
    change(2, &["GET", "PUT"]);
    assert!(ask(&way, "/v1/x", "").starts_with("HTTP/1.1 200 "));
    let mut buffer = [0; 4];
    client.stream.write_all(b"ping").unwrap();
    client.stream.read_exact(&mut buffer).unwrap();
    assert_eq!(&buffer, b"ping");
    change(3, &["POST"]);
    let ended = client.stream.read(&mut buffer);
    assert!(is_end(&ended), "{ended:?}");
}

#[test]
fn bytes_that_are_not_http_get_nothing() {
    let way = way(&["GET"]);
    let mut client = Client::new(way.address);
    client.send("EHLO me\r\n\r\n");
    let answer = client.receive().unwrap();
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    drop(client);
    // A gateway whose clients keep their connections still drains in time.
    let mut idle = Client::new(way.address);
    assert!(idle.ask(&get("/x")).starts_with("HTTP/1.1 404 "));
    let begin = std::time::Instant::now();
    assert!(way.gateway.drain(PATIENCE));
    assert!(begin.elapsed() < Duration::from_secs(5));
}
