//! HTTP/2 on both sides, alone and bridged to HTTP/1.

#![expect(clippy::unwrap_used, reason = "a test fails by a panic")]

use std::time::Duration;

use bartizan_wire::exchange::{
    Cause, Downstream, Frame, Receive, Sent, Side, Transmit, Upstream, collect, next_frame, send_request,
    send_request_bytes, send_response,
};
use bartizan_wire::h1::{self, Limits};
use bartizan_wire::h2::{ClientConnection, ServerConnection, ServerStream, Settings};
use bartizan_wire::head::{BodyLength, Headers, RequestHead, ResponseHead};
use bartizan_wire::pool::SharedPool;
use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode, Version};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(10)
}

async fn within<T>(future: impl Future<Output = T>) -> T {
    timeout(Duration::from_secs(20), future).await.expect("in time")
}

fn request(method: Method, path: &'static str) -> RequestHead {
    let mut head = RequestHead::new(method, Bytes::from_static(path.as_bytes()));
    head.headers.append("host", b"shop:8080").unwrap();
    head.headers.append("X-Case", b"Kept Value").unwrap();
    head
}

/// Serves each stream of one connection with `serve`, until the client leaves.
async fn serve<F: Future<Output = ()> + Send + 'static>(
    io: DuplexStream,
    settings: Settings,
    serve: impl Fn(RequestHead, ServerStream) -> F,
) {
    let mut connection = ServerConnection::handshake(io, &settings, soon()).await.unwrap();
    let mut streams = JoinSet::new();
    while let Some(accepted) = connection.accept().await {
        let Ok((head, stream)) = accepted else { break };
        streams.spawn(serve(head, stream));
    }
    while let Some(ended) = streams.join_next().await {
        ended.unwrap();
    }
}

/// Answers with the request's body and its trailers, in as many frames.
async fn echo(head: RequestHead, mut stream: ServerStream) {
    assert_eq!(head.authority(), b"shop:8080");
    let mut response = ResponseHead::new(StatusCode::OK);
    response.body = BodyLength::Unknown;
    response.headers.append("x-path", head.path()).unwrap();
    stream.queue_head(&response).unwrap();
    loop {
        let frame = next_frame(&mut stream).await.unwrap();
        let ended = frame.is_none();
        if let Some(frame) = frame {
            std::future::poll_fn(|cx| stream.poll_room(cx)).await.unwrap();
            stream.queue(frame).unwrap();
        } else {
            stream.finish().unwrap();
        }
        std::future::poll_fn(|cx| stream.poll_flush(cx)).await.unwrap();
        if ended {
            return;
        }
    }
}

async fn connected<F: Future<Output = ()> + Send + 'static>(
    settings: Settings,
    each: impl Fn(RequestHead, ServerStream) -> F + Send + 'static,
) -> ClientConnection {
    let (client, server) = duplex(1 << 16);
    tokio::spawn(serve(server, settings, each));
    ClientConnection::handshake(client, &settings, soon())
        .await
        .unwrap()
}

#[tokio::test]
async fn requests_share_a_connection_and_large_bodies_obey_the_windows() {
    let settings = Settings {
        stream_window: 70_000,
        connection_window: 100_000,
        ..Settings::default()
    };
    let client = connected(settings, echo).await;
    let mut tasks = JoinSet::new();
    for index in 0..20u8 {
        let client = client.clone();
        tasks.spawn(async move {
            let mut up = client.open();
            let size = 200_000 + usize::from(index);
            // More than a window: the echo flows back while the request still leaves.
            let (down_client, down) = duplex(8192);
            let mut down = h1::ServerConnection::new(down, Limits::default());
            let (mut reader, mut writer) = tokio::io::split(down_client);
            let send = async {
                let text =
                    format!("POST /echo HTTP/1.1\r\nHost: shop:8080\r\nContent-Length: {size}\r\n\r\n");
                writer.write_all(text.as_bytes()).await.unwrap();
                writer.write_all(&vec![index; size]).await.unwrap();
            };
            let carry = async {
                let head = down.read_head().await.unwrap().unwrap();
                let response = send_request(&mut down, &mut up, &head).await.unwrap();
                assert_eq!(response.version, Version::HTTP_2);
                assert_eq!(response.headers.get("x-path"), Some(&b"/echo"[..]));
                send_response(&mut down, &mut up, &response).await.unwrap();
                assert!(down.keep_alive());
                drop(down);
            };
            let receive = async {
                let mut all = Vec::new();
                reader.read_to_end(&mut all).await.unwrap();
                let text = String::from_utf8_lossy(&all[..60]).into_owned();
                assert!(text.starts_with("HTTP/1.1 200 OK\r\n"), "{text}");
                let body: usize = all.split(|&byte| byte != index).map(<[u8]>::len).sum();
                assert!(body >= size, "{body} of {size}");
            };
            tokio::join!(send, carry, receive);
            assert_eq!(Upstream::counters(&up).body_received, size as u64);
        });
    }
    within(async {
        while let Some(done) = tasks.join_next().await {
            done.unwrap();
        }
    })
    .await;
    assert_eq!(client.streams(), 0);
    assert!(!client.is_closed() && client.has_room());
}

#[tokio::test]
async fn trailers_cross_versions_both_ways() {
    // HTTP/1 client → HTTP/2 upstream with trailers each way.
    let client = connected(Settings::default(), echo).await;
    let (mut h1_client, down) = duplex(8192);
    let mut down = h1::ServerConnection::new(down, Limits::default());
    h1_client
        .write_all(b"POST /t HTTP/1.1\r\nHost: shop:8080\r\nTE: trailers\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\nX-Sum: 7\r\n\r\n")
        .await
        .unwrap();
    let head = down.read_head().await.unwrap().unwrap();
    let mut up = client.open();
    let response = within(send_request(&mut down, &mut up, &head)).await.unwrap();
    within(send_response(&mut down, &mut up, &response))
        .await
        .unwrap();
    drop(down);
    let mut seen = String::new();
    h1_client.read_to_string(&mut seen).await.unwrap();
    assert_eq!(
        seen,
        "HTTP/1.1 200 OK\r\nx-path: /t\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\nx-sum: 7\r\n\r\n"
    );
}

/// An HTTP/2 client of the `h2` crate itself, in front of our server.
async fn plain_client(io: DuplexStream) -> h2::client::SendRequest<Bytes> {
    let (requests, connection) = h2::client::handshake(io).await.unwrap();
    tokio::spawn(async move {
        let _ = connection.await;
    });
    requests.ready().await.unwrap()
}

#[tokio::test]
async fn a_client_of_http2_is_bridged_to_an_upstream_of_http1() {
    let (client, server) = duplex(1 << 16);
    let (upstream, origin) = duplex(1 << 16);
    let proxy = tokio::spawn(async move {
        let mut connection = ServerConnection::handshake(server, &Settings::default(), soon())
            .await
            .unwrap();
        let (head, mut stream) = connection.accept().await.unwrap().unwrap();
        assert_eq!(head.version, Version::HTTP_2);
        assert_eq!((head.path(), head.query()), (&b"/a"[..], Some(&b"b"[..])));
        assert_eq!(head.authority(), b"shop");
        assert_eq!(head.headers.get("cookie"), Some(&b"a=1; b=2"[..]));
        let mut up = h1::ClientConnection::new(upstream, Limits::default());
        let carried = async {
            let response = send_request(&mut stream, &mut up, &head).await.unwrap();
            send_response(&mut stream, &mut up, &response).await.unwrap();
            assert!(up.is_reusable());
            assert_eq!(Downstream::counters(&stream).body_sent, 4);
            drop(stream);
        };
        let driven = async { while connection.accept().await.is_some() {} };
        tokio::join!(carried, driven);
    });
    let origin = async {
        let (mut reader, mut writer) = tokio::io::split(origin);
        let mut seen = Vec::new();
        while !seen.ends_with(b"0\r\nx-end: z\r\n\r\n") {
            seen.push(reader.read_u8().await.unwrap());
        }
        let seen = String::from_utf8(seen).unwrap();
        assert_eq!(
            seen,
            "POST /a?b HTTP/1.1\r\nhost: shop\r\nx-a: 1\r\ncookie: a=1; b=2\r\ntransfer-encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\nx-end: z\r\n\r\n"
        );
        writer
            .write_all(b"HTTP/1.1 103 Early\r\nLink: l\r\n\r\nHTTP/1.1 201 Made\r\nServer: o\r\nKeep-Alive: x\r\nTransfer-Encoding: chunked\r\n\r\n4\r\ndone\r\n0\r\nGrpc-Status: 0\r\n\r\n")
            .await
            .unwrap();
        (reader, writer)
    };
    let ask = async {
        let mut requests = plain_client(client).await;
        let request = Request::post("http://shop/a?b")
            .header("x-a", "1")
            .header("cookie", "a=1")
            .header("cookie", "b=2")
            .body(())
            .unwrap();
        let (response, mut body) = requests.send_request(request, false).unwrap();
        body.send_data(Bytes::from_static(b"body"), false).unwrap();
        let mut trailers = HeaderMap::new();
        trailers.insert("x-end", "z".parse().unwrap());
        // Servers that put trailers among the fields of the head would believe these.
        for name in [
            "host",
            "authorization",
            "x-forwarded-client-cert",
            "x_forwarded_client_cert",
        ] {
            trailers.insert(name, "forged".parse().unwrap());
        }
        body.send_trailers(trailers).unwrap();
        let response = response.await.unwrap();
        assert_eq!(response.status(), StatusCode::CREATED);
        assert_eq!(response.headers()["server"], "o");
        assert!(!response.headers().contains_key("keep-alive"));
        let mut body = response.into_body();
        assert_eq!(body.data().await.unwrap().unwrap(), "done");
        assert!(body.data().await.is_none());
        assert_eq!(body.trailers().await.unwrap().unwrap()["grpc-status"], "0");
    };
    within(async { tokio::join!(origin, ask) }).await;
    within(proxy).await.unwrap();
}

#[tokio::test]
async fn malformed_requests_are_answered_400_and_the_connection_stays() {
    let (client, server) = duplex(1 << 16);
    tokio::spawn(serve(server, Settings::default(), echo));
    let mut requests = plain_client(client).await;
    for host in ["admin@shop", "sh/op", "", "shop shop"] {
        let no_host = Request::get("http://shop/")
            .header("host", host)
            .body(())
            .unwrap();
        let (mut parts, ()) = no_host.into_parts();
        parts.uri = http::Uri::from_static("/");
        assert!(RequestHead::from_http2(&parts, true).is_err(), "{host:?}");
    }
    let two_hosts = Request::get("http://shop/")
        .header("host", "other")
        .body(())
        .unwrap();
    let fragment = {
        let mut request = Request::get("http://shop:8080/").body(()).unwrap();
        request.headers_mut().append("host", "a".parse().unwrap());
        request.headers_mut().append("host", "b".parse().unwrap());
        request
    };
    for request in [two_hosts, fragment] {
        let (response, _) = requests.send_request(request, true).unwrap();
        assert_eq!(within(response).await.unwrap().status(), StatusCode::BAD_REQUEST);
    }
    let good = Request::get("http://shop:8080/")
        .header("host", "shop:8080")
        .body(())
        .unwrap();
    let (response, _) = requests.send_request(good, true).unwrap();
    let mut response = within(response).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    assert!(
        within(response.body_mut().data())
            .await
            .unwrap()
            .unwrap()
            .is_empty()
    );
}

#[tokio::test]
async fn a_refused_stream_was_not_processed_and_a_cut_one_may_have_been() {
    let (client, server) = duplex(1 << 16);
    let origin = tokio::spawn(async move {
        let mut connection = h2::server::handshake(server).await.unwrap();
        let (_, mut respond) = connection.accept().await.unwrap().unwrap();
        respond.send_reset(h2::Reason::REFUSED_STREAM);
        let (_, respond) = connection.accept().await.unwrap().unwrap();
        drop(connection);
        drop(respond);
    });
    let client = ClientConnection::handshake(client, &Settings::default(), soon())
        .await
        .unwrap();
    let mut up = client.open();
    let error = within(send_request_bytes(
        &mut up,
        &request(Method::GET, "/"),
        Bytes::new(),
    ))
    .await
    .unwrap_err();
    assert_eq!(
        (error.side, error.sent),
        (Side::Upstream, Sent::Nothing),
        "{error}"
    );
    let mut up = client.open();
    let error = within(send_request_bytes(
        &mut up,
        &request(Method::GET, "/"),
        Bytes::new(),
    ))
    .await
    .unwrap_err();
    assert_eq!(error.sent, Sent::MaybeProcessed, "{error}");
    within(origin).await.unwrap();
    within(async {
        while !client.is_closed() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    // A stream of a closed connection provably sends nothing.
    let mut up = client.open();
    let error = within(send_request_bytes(
        &mut up,
        &request(Method::GET, "/"),
        Bytes::new(),
    ))
    .await
    .unwrap_err();
    assert_eq!(error.sent, Sent::Nothing, "{error}");
}

#[tokio::test]
async fn a_graceful_end_lets_open_streams_finish_and_tells_new_ones_to_go_elsewhere() {
    let (client, server) = duplex(1 << 16);
    let client = ClientConnection::handshake(client, &Settings::default(), soon())
        .await
        .unwrap();
    let mut connection = ServerConnection::handshake(server, &Settings::default(), soon())
        .await
        .unwrap();
    let first = tokio::spawn({
        let mut up = client.open();
        async move {
            let response = send_request_bytes(&mut up, &request(Method::GET, "/1"), Bytes::new()).await;
            let response = response.unwrap();
            assert_eq!(response.status, StatusCode::OK);
            collect(&mut up, 100).await.unwrap().unwrap()
        }
    });
    let (_, mut stream) = within(connection.accept()).await.unwrap().unwrap();
    connection.graceful_shutdown();
    let answer = async {
        while !client.is_closed() {
            tokio::task::yield_now().await;
        }
        stream
            .reply(ResponseHead::new(StatusCode::OK), Bytes::from_static(b"last"))
            .await
            .unwrap();
        drop(stream);
    };
    let drain = async { while connection.accept().await.is_some() {} };
    within(async { tokio::join!(answer, drain) }).await;
    assert_eq!(within(first).await.unwrap(), "last");
}

#[tokio::test]
async fn a_client_that_gives_up_ends_the_exchange() {
    let (client, server) = duplex(1 << 16);
    let (upstream, mut origin) = duplex(1 << 16);
    let ask = tokio::spawn(async move {
        let mut requests = plain_client(client).await;
        let (response, mut body) = requests
            .send_request(Request::get("http://shop/").body(()).unwrap(), true)
            .unwrap();
        let mut buffer = [0; 10];
        origin.read_exact(&mut buffer).await.unwrap();
        body.send_reset(h2::Reason::CANCEL);
        drop(response);
        (requests, origin)
    });
    let mut connection = ServerConnection::handshake(server, &Settings::default(), soon())
        .await
        .unwrap();
    let (head, mut stream) = within(connection.accept()).await.unwrap().unwrap();
    let mut up = h1::ClientConnection::new(upstream, Limits::default());
    let error = within(async {
        tokio::select! {
            result = send_request(&mut stream, &mut up, &head) => result.unwrap_err(),
            _ = connection.accept() => unreachable!("no further request"),
        }
    })
    .await;
    assert_eq!(error.side, Side::Downstream);
    assert!(matches!(error.cause, Cause::Http2(_)), "{error}");
    drop(within(ask).await.unwrap());
}

#[tokio::test]
async fn rapid_resets_end_the_connection() {
    let (client, server) = duplex(1 << 20);
    let settings = Settings {
        premature_resets: 100,
        ..Settings::default()
    };
    let ended = tokio::spawn(async move {
        let mut connection = ServerConnection::handshake(server, &settings, soon())
            .await
            .unwrap();
        let mut served = JoinSet::new();
        let mut count = 0;
        loop {
            match connection.accept().await {
                // Each is taken at once, so that none waits to be accepted.
                Some(Ok((_, mut stream))) => {
                    count += 1;
                    served.spawn(async move { std::future::poll_fn(|cx| stream.poll_gone(cx)).await });
                }
                Some(Err(_)) | None => return count,
            }
        }
    });
    let requests = plain_client(client).await;
    let flood = async {
        loop {
            let Ok(mut ready) = requests.clone().ready().await else {
                break;
            };
            let Ok((_, mut stream)) =
                ready.send_request(Request::get("http://shop/").body(()).unwrap(), false)
            else {
                break;
            };
            // Let the head leave first: a reset before it would take the request back.
            tokio::task::yield_now().await;
            stream.send_reset(h2::Reason::CANCEL);
            tokio::task::yield_now().await;
        }
    };
    let (count, ()) = within(async { tokio::join!(ended, flood) }).await;
    let count = count.unwrap();
    assert!((100..500).contains(&count), "ended after {count} streams");
}

#[tokio::test]
async fn answers_that_have_begun_may_be_given_up_any_number_of_times() {
    let (client, server) = duplex(1 << 20);
    let settings = Settings {
        premature_resets: 10,
        ..Settings::default()
    };
    tokio::spawn(serve(server, settings, |_, mut stream| async move {
        let mut response = ResponseHead::new(StatusCode::OK);
        response.body = BodyLength::Unknown;
        stream.queue_head(&response).unwrap();
        std::future::poll_fn(|cx| stream.poll_gone(cx)).await;
    }));
    let requests = plain_client(client).await;
    for _ in 0..100 {
        let mut ready = within(requests.clone().ready()).await.unwrap();
        let (response, mut stream) = ready
            .send_request(Request::get("http://shop/").body(()).unwrap(), false)
            .unwrap();
        assert_eq!(within(response).await.unwrap().status(), StatusCode::OK);
        stream.send_reset(h2::Reason::CANCEL);
    }
}

#[tokio::test]
async fn a_pool_shares_connections_and_asks_for_another_when_they_are_full() {
    let settings = Settings {
        concurrent_streams: 2,
        ..Settings::default()
    };
    let mut pool = SharedPool::new(2);
    assert!(pool.checkout(&"a").is_none());
    pool.insert("a", connected(settings, echo).await);
    let first = pool.checkout(&"a").unwrap();
    let streams = (first.open(), first.open());
    assert!(!first.has_room());
    assert!(pool.checkout(&"a").is_none(), "full: another is to be opened");
    pool.insert("a", connected(settings, echo).await);
    let second = pool.checkout(&"a").unwrap();
    let more = (second.open(), second.open());
    assert!(
        pool.checkout(&"a").is_some(),
        "all are full and no more is allowed"
    );
    drop(streams);
    assert_eq!(pool.checkout(&"a").unwrap().streams(), 0);
    drop(more);
    pool.sweep(|_| true);
    assert!(pool.is_empty());
}

#[tokio::test]
async fn frames_of_one_answer_leave_in_one_write() {
    // The server's side is read raw: what one wake-up wrote comes in one read.
    let (mut client, server) = duplex(1 << 16);
    let mut hello = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    hello.extend([0, 0, 0, 4, 0, 0, 0, 0, 0]); // SETTINGS
    hello.extend([0, 0, 0, 4, 1, 0, 0, 0, 0]); // its acknowledgement
    // HEADERS, END_STREAM|END_HEADERS, stream 1: GET http / and authority "a".
    let block = [0x82, 0x86, 0x84, 0x41, 0x01, b'a'];
    hello.extend([0, 0, u8::try_from(block.len()).unwrap(), 1, 5, 0, 0, 0, 1]);
    hello.extend(block);
    client.write_all(&hello).await.unwrap();
    let mut connection = ServerConnection::handshake(server, &Settings::default(), soon())
        .await
        .unwrap();
    let (_, mut stream) = within(connection.accept()).await.unwrap().unwrap();
    // Settings, window update and acknowledgement are out of the way.
    let idle = async {
        tokio::select! {
            _ = connection.accept() => unreachable!("no further request"),
            () = tokio::task::yield_now() => {}
        }
    };
    idle.await;
    let mut before = vec![0; 4096];
    let _ = client.read(&mut before).await.unwrap();
    let mut response = ResponseHead::new(StatusCode::OK);
    response.body = BodyLength::Unknown;
    {
        stream.queue_head(&response).unwrap();
        stream.queue(Frame::Data(Bytes::from(vec![b'x'; 1000]))).unwrap();
        let mut trailers = Headers::new();
        trailers.append("grpc-status", b"0").unwrap();
        std::future::poll_fn(|cx| stream.poll_room(cx)).await.unwrap();
        stream.queue(Frame::Trailers(trailers)).unwrap();
        std::future::poll_fn(|cx| stream.poll_flush(cx)).await.unwrap();
    }
    assert!(stream.is_received());
    tokio::select! {
        _ = connection.accept() => unreachable!("no further request"),
        () = tokio::task::yield_now() => {}
    }
    let mut answer = vec![0; 4096];
    let count = client.read(&mut answer).await.unwrap();
    let mut frames = Vec::new();
    let mut at = 0;
    while at < count {
        frames.push(answer[at + 3]);
        at += 9 + usize::from(answer[at + 1]) * 256 + usize::from(answer[at + 2]);
    }
    // HEADERS, DATA, HEADERS.
    assert_eq!(frames, [1, 0, 1], "in one write");
}

#[test]
fn unknown_response_forms_do_not_cross() {
    let (parts, ()) = Response::new(()).into_parts();
    assert_eq!(
        ResponseHead::from_http2(&parts, true).unwrap().body,
        BodyLength::Empty
    );
    let mut response = Response::builder();
    for length in ["1", "2"] {
        response = response.header("content-length", length);
    }
    let (parts, ()) = response.body(()).unwrap().into_parts();
    assert!(ResponseHead::from_http2(&parts, false).is_err());
}
