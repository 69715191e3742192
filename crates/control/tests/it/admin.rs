//! The admin page.

use std::path::PathBuf;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixListener};

use crate::plane::{Place, Plane, Proxy, SOON, running};

/// Sends a head and reads the whole answer.
async fn ask(plane: &Plane, request: &str) -> String {
    let mut stream = TcpStream::connect(plane.admin).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    tokio::time::timeout(SOON, stream.read_to_end(&mut answer))
        .await
        .unwrap()
        .unwrap();
    String::from_utf8(answer).unwrap()
}

async fn get(plane: &Plane, path: &str, more: &str) -> String {
    let host = plane.admin;
    ask(
        plane,
        &format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{more}\r\n"),
    )
    .await
}

const BEARER: &str = "Authorization: Bearer token-of-this-run\r\n";

#[tokio::test]
async fn the_page_needs_the_token_of_the_run() {
    let place = Place::shop();
    let (plane, _node, _) = running(&place).await;
    for path in ["/", "/status.json", "/metrics", "/nothing", "/?token=wrong"] {
        let answer = get(&plane, path, "").await;
        assert!(answer.starts_with("HTTP/1.1 401 "), "{path}: {answer}");
        assert!(!answer.contains("shop"), "{answer}");
    }
    assert!(get(&plane, "/healthz", "").await.starts_with("HTTP/1.1 200 "));

    let entered = get(&plane, "/?token=token-of-this-run", "").await;
    assert!(entered.starts_with("HTTP/1.1 303 "), "{entered}");
    let cookie = entered
        .lines()
        .find_map(|line| line.strip_prefix("set-cookie: "))
        .unwrap();
    assert!(cookie.contains("HttpOnly; SameSite=Strict"), "{cookie}");
    let cookie = cookie.split(';').next().unwrap();
    let page = get(&plane, "/", &format!("Cookie: {cookie}\r\n")).await;
    assert!(page.starts_with("HTTP/1.1 200 "), "{page}");
    for text in [
        "shop/cart-0",
        "spiffe://cluster.local/ns/shop/sa/cart",
        "10.66.0.2",
        "lab CA",
        "cart.shop.svc.cluster.local",
        "content-security-policy: default-src 'none'",
        "x-frame-options: DENY",
    ] {
        assert!(page.contains(text), "{text}: {page}");
    }
    let status = get(&plane, "/status.json", BEARER).await;
    let body = status.split_once("\r\n\r\n").unwrap().1;
    let status: bartizan_control::Status = serde_json::from_str(body).unwrap();
    assert_eq!(status.version, plane.status().await.version);
}

#[tokio::test]
async fn other_hosts_origins_and_methods_are_refused() {
    let place = Place::shop();
    let plane = place.start();
    let evil = ask(
        &plane,
        "GET / HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n",
    )
    .await;
    assert!(evil.starts_with("HTTP/1.1 421 "), "{evil}");
    let health = ask(
        &plane,
        "GET /healthz HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n",
    )
    .await;
    assert!(health.starts_with("HTTP/1.1 421 "), "{health}");
    let origin = get(
        &plane,
        "/status.json",
        &format!("{BEARER}Origin: http://evil.example\r\n"),
    )
    .await;
    assert!(origin.starts_with("HTTP/1.1 421 "), "{origin}");
    let host = plane.admin;
    let post =
        format!("POST / HTTP/1.1\r\nHost: {host}\r\nContent-Length: 0\r\nConnection: close\r\n{BEARER}\r\n");
    assert!(ask(&plane, &post).await.starts_with("HTTP/1.1 405 "));
    assert!(get(&plane, "/nothing", BEARER).await.starts_with("HTTP/1.1 404 "));
}

/// A proxy's own endpoint, for one answer.
fn proxy_metrics(path: PathBuf, body: &'static str) -> tokio::task::JoinHandle<()> {
    let listener = UnixListener::bind(path).unwrap();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut head = [0; 4096];
            let read = stream.read(&mut head).await.unwrap();
            assert!(head[..read].starts_with(b"GET /metrics HTTP/1.1\r\n"));
            let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    })
}

#[tokio::test]
async fn metrics_are_those_of_all_proxies_and_our_own() {
    let place = Place::shop();
    let (plane, node, _) = running(&place).await;
    Proxy::start(&plane, &node, "shop/web-0").await;
    let socket = place.run_directory().join("proxy-shop-cart-0.sock");
    let served = proxy_metrics(
        socket,
        "# TYPE istio_requests_total counter\nistio_requests_total{reporter=\"destination\"} 7\n",
    );
    let metrics = get(&plane, "/metrics", BEARER).await;
    served.abort();
    let line = metrics
        .lines()
        .find(|line| line.starts_with("istio_requests_total{"))
        .unwrap();
    assert!(
        line.contains("pod=\"cart-0\"") && line.contains("namespace=\"shop\"") && line.ends_with(" 7"),
        "{line}"
    );
    for line in [
        "bartizan_svids_issued_total{proof=\"bootstrap\"} 1",
        "bartizan_control_scrapes 1",
        "bartizan_control_scrapes_failed 1",
        "bartizan_control_refused 0",
    ] {
        assert!(metrics.lines().any(|found| found == line), "{line}: {metrics}");
    }
}
