//! HTTP/2 and gRPC through the pair.

use std::net::SocketAddr;
use std::time::Duration;

use bartizan_types::Protocol;
use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use tokio::net::{TcpListener, TcpStream};

use crate::scene::{PATIENCE, Plan, Scene, allow, metric, policy};

/// An HTTP/2 application that says goodbye after the first request of each connection.
async fn short_lived_app() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut connection = h2::server::handshake(stream).await.unwrap();
                while let Some(Ok((_, mut respond))) = connection.accept().await {
                    connection.graceful_shutdown();
                    respond.send_response(Response::new(()), true).unwrap();
                }
            });
        }
    });
    address
}

#[tokio::test]
async fn goodbyes_of_the_application_lose_nothing() {
    let scene = Scene::new(&plan(short_lived_app().await));
    let send = connect(scene.outbound).await;
    for _ in 0..10 {
        let mut calls = tokio::task::JoinSet::new();
        for _ in 0..4 {
            let mut send = send.clone();
            calls.spawn(async move {
                send.send_request(call("POST", "/v1"), true)
                    .unwrap()
                    .0
                    .await
                    .unwrap()
                    .status()
            });
        }
        while let Some(status) = in_time(calls.join_next()).await {
            assert_eq!(status.unwrap(), 200);
        }
    }
    scene.server_log(40);
}

/// An HTTP/2 application: gives the body back, then trailers with `grpc-status: 0`; `/wait` keeps its response open.
pub async fn app() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut connection = h2::server::handshake(stream).await.unwrap();
                while let Some(Ok((request, mut respond))) = connection.accept().await {
                    tokio::spawn(async move {
                        let is_waiting = request.uri().path() == "/wait";
                        let mut body = request.into_body();
                        let response = Response::builder()
                            .header("content-type", "application/grpc")
                            .body(())
                            .unwrap();
                        let mut send = respond.send_response(response, false).unwrap();
                        while let Some(Ok(data)) = body.data().await {
                            body.flow_control().release_capacity(data.len()).unwrap();
                            send.send_data(data, false).unwrap();
                        }
                        if is_waiting {
                            std::future::pending::<()>().await;
                        }
                        let mut trailers = HeaderMap::new();
                        trailers.insert("grpc-status", "0".parse().unwrap());
                        send.send_trailers(trailers).unwrap();
                    });
                }
            });
        }
    });
    address
}

fn plan(app: SocketAddr) -> Plan {
    Plan {
        protocol: Protocol::Grpc,
        rules: vec![allow("web", &["POST"])],
        ..Plan::new(app)
    }
}

async fn connect(to: SocketAddr) -> h2::client::SendRequest<Bytes> {
    let stream = TcpStream::connect(to).await.unwrap();
    let (send, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    send.ready().await.unwrap()
}

fn call(method: &str, path: &str) -> Request<()> {
    Request::builder()
        .method(method)
        .uri(format!("http://cart.shop{path}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(())
        .unwrap()
}

fn message(text: &str) -> Bytes {
    let mut bytes = vec![0];
    bytes.extend_from_slice(&u32::try_from(text.len()).unwrap().to_be_bytes());
    bytes.extend_from_slice(text.as_bytes());
    bytes.into()
}

async fn in_time<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, work).await.expect("in time")
}

#[tokio::test]
async fn calls_pass_beside_each_other_with_their_trailers() {
    let scene = Scene::new(&plan(app().await));
    let send = connect(scene.outbound).await;
    let mut calls = tokio::task::JoinSet::new();
    for number in 0..50 {
        let mut send = send.clone();
        calls.spawn(async move {
            let (response, mut body) = send.send_request(call("POST", "/v1/Ingest"), false).unwrap();
            body.send_data(message(&format!("message {number}")), true)
                .unwrap();
            let response = response.await.unwrap();
            assert_eq!(response.status(), 200);
            let mut body = response.into_body();
            let mut whole = Vec::new();
            while let Some(data) = body.data().await {
                let data = data.unwrap();
                body.flow_control().release_capacity(data.len()).unwrap();
                whole.extend_from_slice(&data);
            }
            assert_eq!(whole, message(&format!("message {number}")));
            let trailers = body.trailers().await.unwrap().unwrap();
            assert_eq!(trailers["grpc-status"], "0");
        });
    }
    in_time(async {
        while let Some(call) = calls.join_next().await {
            call.unwrap()
        }
    })
    .await;
    let log = {
        scene.client_log(50);
        scene.server_log(50)
    };
    assert_eq!(log[0]["protocol"], "HTTP/2");
    assert_eq!(log[0]["grpc_status"], 0);
    for proxy in [&scene.client, &scene.server] {
        let text = proxy.metrics();
        let labels = [
            "request_protocol=\"grpc\"",
            "grpc_response_status=\"0\"",
            "response_code=\"200\"",
        ];
        assert_eq!(metric(&text, "istio_requests_total", &labels), 50.0, "{text}");
        assert_eq!(metric(&text, "istio_request_messages_total", &[]), 50.0, "{text}");
        assert_eq!(
            metric(&text, "istio_response_messages_total", &[]),
            50.0,
            "{text}"
        );
    }
    let text = scene.client.metrics();
    assert_eq!(
        metric(&text, "bartizan_upstream_connects_total", &[]),
        1.0,
        "{text}"
    );
}

#[tokio::test]
async fn a_denied_call_gets_permission_denied_as_trailers_only() {
    let scene = Scene::new(&plan(app().await));
    let mut send = connect(scene.outbound).await;
    let (response, _) = send.send_request(call("PUT", "/v1/Ingest"), true).unwrap();
    let response = in_time(response).await.unwrap();
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["grpc-status"], "7");
    assert_eq!(response.headers()["grpc-message"], "RBAC: access denied");
    assert!(response.headers().contains_key("x-bartizan-decision"));
    assert!(response.into_body().is_end_stream());
    let log = scene.server_log(1);
    assert_eq!(log[0]["grpc_status"], 7);
    assert_eq!(log[0]["decision"], "deny");
}

#[tokio::test]
async fn an_open_stream_that_a_change_denies_is_ended() {
    let scene = Scene::new(&plan(app().await));
    let mut send = connect(scene.outbound).await;
    let (response, mut body) = send.send_request(call("POST", "/wait"), false).unwrap();
    body.send_data(message("x"), true).unwrap();
    let response = in_time(response).await.unwrap();
    assert_eq!(response.status(), 200);
    let mut body = response.into_body();
    in_time(body.data()).await.unwrap().unwrap();
    let begin = std::time::Instant::now();
    scene.change_server(vec![policy(vec![allow("other", &[])])]);
    let ended = in_time(body.data()).await;
    assert!(matches!(ended, None | Some(Err(_))), "{ended:?}");
    assert!(begin.elapsed() < Duration::from_secs(1));
    let log = scene.server_log(1);
    assert_eq!(log[0]["decision"], "deny");
}

#[tokio::test]
async fn http1_to_a_port_that_is_declared_grpc_becomes_http2() {
    let scene = Scene::new(&plan(app().await));
    let to = scene.outbound;
    let asking = tokio::task::spawn_blocking(move || {
        let mut client = crate::scene::Client::new(to);
        client.send("POST /a HTTP/1.1\r\nhost: cart\r\ncontent-length: 5\r\nconnection: close\r\n\r\nhello");
        let mut text = String::new();
        use std::io::Read as _;
        client.stream.read_to_string(&mut text).unwrap();
        text
    });
    let answer = in_time(asking).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert!(answer.contains("hello"), "{answer}");
}

#[tokio::test]
async fn a_drain_lets_streams_end() {
    let scene = Scene::new(&plan(app().await));
    let mut send = connect(scene.outbound).await;
    let (response, mut body) = send.send_request(call("POST", "/v1"), false).unwrap();
    let response = in_time(response).await.unwrap();
    let Scene { server, client, .. } = scene;
    let draining = tokio::task::spawn_blocking(move || server.drain(PATIENCE));
    tokio::time::sleep(Duration::from_millis(50)).await;
    body.send_data(message("last"), true).unwrap();
    let mut back = response.into_body();
    assert_eq!(in_time(back.data()).await.unwrap().unwrap(), message("last"));
    assert_eq!(
        in_time(back.trailers()).await.unwrap().unwrap()["grpc-status"],
        "0"
    );
    assert!(in_time(draining).await.unwrap());
    drop(client);
}
