//! HTTP/1 connections against peers that do what peers do: answer early, wait, leave, cut, flood, stay idle.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by a panic")]

use std::time::Duration;

use bartizan_wire::exchange::{
    Cause, Downstream, Frame, Sent, Side, Transmit, Upstream, collect, next_frame, send_request,
    send_request_bytes, send_response,
};
use bartizan_wire::h1::chunk::BodyError;
use bartizan_wire::h1::{ClientConnection, HeadError, Limits, ServerConnection};
use bartizan_wire::head::{BodyLength, RequestHead, ResponseHead};
use bartizan_wire::pool::{Pool, PoolLimits, Reusable};
use bartizan_wire::relay::{Ended, RelayCounters, relay};
use bartizan_wire::socket::{Bind, Connect, bind, connect};
use bartizan_wire::stream::Prefixed;
use bytes::Bytes;
use http::{Method, StatusCode};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

fn pattern(at: usize) -> u8 {
    u8::try_from(at % 251).unwrap_or_default()
}

type Server = ServerConnection<DuplexStream>;
type Client = ClientConnection<DuplexStream>;

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(10)
}

async fn within<T>(future: impl Future<Output = T>) -> T {
    timeout(Duration::from_secs(20), future).await.expect("in time")
}

/// client ⇄ (down | up) ⇄ server
fn proxy(bytes: usize) -> (DuplexStream, Server, Client, DuplexStream) {
    let (client, down) = duplex(bytes);
    let (up, server) = duplex(bytes);
    let down = ServerConnection::new(down, Limits::default());
    (client, down, ClientConnection::new(up, Limits::default()), server)
}

async fn read_until(stream: &mut (impl AsyncReadExt + Unpin), end: &str) -> String {
    let mut seen = Vec::new();
    while !seen.ends_with(end.as_bytes()) {
        let byte = within(stream.read_u8()).await;
        seen.push(byte.unwrap_or_else(|_| panic!("ended after {:?}", seen.escape_ascii().to_string())));
    }
    String::from_utf8(seen).unwrap()
}

async fn head(down: &mut Server) -> RequestHead {
    within(down.read_head()).await.unwrap().expect("a request")
}

#[tokio::test]
async fn an_early_response_is_heard_while_the_request_is_still_sent() {
    let (mut client, mut down, mut up, mut server) = proxy(4096);
    let upload = async {
        client
            .write_all(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10000000\r\n\r\n")
            .await
            .unwrap();
        // The rest never comes; the answer does.
        client.write_all(&[b'a'; 2000]).await.unwrap();
        read_until(&mut client, "no").await
    };
    let serve = async {
        read_until(&mut server, "\r\n\r\n").await;
        server
            .write_all(b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno")
            .await
            .unwrap();
    };
    let carry = async {
        let head = head(&mut down).await;
        let response = send_request(&mut down, &mut up, &head).await.unwrap();
        assert_eq!(response.status, StatusCode::PAYLOAD_TOO_LARGE);
        send_response(&mut down, &mut up, &response).await.unwrap();
        assert!(!down.keep_alive() && !up.is_reusable());
    };
    let (seen, (), ()) = within(async { tokio::join!(upload, serve, carry) }).await;
    assert!(seen.starts_with("HTTP/1.1 413 Too Large\r\n"), "{seen}");
}

#[tokio::test]
async fn an_early_response_is_heard_when_the_upstream_takes_no_more() {
    let (mut client, mut down, mut up, mut server) = proxy(4096);
    let upload = async {
        client
            .write_all(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10000000\r\n\r\n")
            .await
            .unwrap();
        let (mut reader, mut writer) = tokio::io::split(client);
        let flood = async { while writer.write_all(&[b'a'; 4096]).await.is_ok() {} };
        tokio::select! {
            () = flood => panic!("the client was cut before the answer"),
            seen = read_until(&mut reader, "no") => seen,
        }
    };
    let serve = async {
        read_until(&mut server, "\r\n\r\n").await;
        server
            .write_all(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno")
            .await
            .unwrap();
        drop(server);
    };
    let carry = async {
        let head = head(&mut down).await;
        let response = send_request(&mut down, &mut up, &head).await.unwrap();
        send_response(&mut down, &mut up, &response).await.unwrap();
        assert!(!down.keep_alive() && !up.is_reusable());
        down
    };
    let (seen, (), _down) = within(async { tokio::join!(upload, serve, carry) }).await;
    assert!(seen.starts_with("HTTP/1.1 403 Forbidden\r\n"), "{seen}");
}

#[tokio::test]
async fn large_bodies_move_both_ways_at_the_same_time() {
    const SIZE: usize = 5_000_000;
    let (mut client, mut down, mut up, mut server) = proxy(16 * 1024);
    // The server echoes while it reads: neither side may wait for the other to finish.
    let serve = async {
        read_until(&mut server, "\r\n\r\n").await;
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {SIZE}\r\n\r\n");
        server.write_all(head.as_bytes()).await.unwrap();
        let mut part = vec![0; 10_000];
        let mut left = SIZE;
        while left > 0 {
            let count = server.read(&mut part).await.unwrap();
            server.write_all(&part[..count]).await.unwrap();
            left -= count;
        }
    };
    let (mut reader, mut writer) = tokio::io::split(&mut client);
    let send = async {
        let head = format!("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: {SIZE}\r\n\r\n");
        writer.write_all(head.as_bytes()).await.unwrap();
        let body: Vec<u8> = (0..SIZE).map(pattern).collect();
        writer.write_all(&body).await.unwrap();
    };
    let receive = async {
        read_until(&mut reader, "\r\n\r\n").await;
        let mut body = vec![0; SIZE];
        reader.read_exact(&mut body).await.unwrap();
        assert!(body.iter().enumerate().all(|(at, &byte)| byte == pattern(at)));
    };
    let carry = async {
        let head = head(&mut down).await;
        let response = send_request(&mut down, &mut up, &head).await.unwrap();
        send_response(&mut down, &mut up, &response).await.unwrap();
        assert!(down.keep_alive() && up.is_reusable());
        let (down, up) = (Downstream::counters(&down), Upstream::counters(&up));
        assert_eq!((down.body_received, down.body_sent), (SIZE as u64, SIZE as u64));
        assert_eq!((up.body_received, up.body_sent), (SIZE as u64, SIZE as u64));
        assert!(down.head_received > 30 && up.head_received > 30 && down.head_sent > 30);
    };
    within(async { tokio::join!(serve, send, receive, carry) }).await;
}

#[tokio::test]
async fn a_client_that_waits_is_told_to_continue_and_one_that_is_refused_is_closed() {
    let (mut client, mut down, ..) = proxy(4096);
    client
        .write_all(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n")
        .await
        .unwrap();
    let request = head(&mut down).await;
    assert!(request.expect_continue);
    down.send_continue().await.unwrap();
    assert_eq!(
        read_until(&mut client, "\r\n\r\n").await,
        "HTTP/1.1 100 Continue\r\n\r\n"
    );
    client.write_all(b"ok").await.unwrap();
    assert_eq!(collect(&mut down, 10).await.unwrap().unwrap(), "ok");
    down.reply(ResponseHead::new(StatusCode::OK), Bytes::new())
        .await
        .unwrap();
    assert!(down.keep_alive());
    read_until(&mut client, "\r\n\r\n").await;

    client
        .write_all(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n")
        .await
        .unwrap();
    head(&mut down).await;
    let denied = Bytes::from_static(b"RBAC: access denied");
    down.reply(ResponseHead::new(StatusCode::FORBIDDEN), denied)
        .await
        .unwrap();
    assert!(!down.keep_alive());
    let seen = read_until(&mut client, "denied").await;
    assert!(seen.contains("connection: close\r\n"), "{seen}");
}

#[tokio::test]
async fn a_reply_reads_over_a_body_that_has_come_and_stays() {
    let (mut client, mut down, ..) = proxy(4096);
    client
        .write_all(b"POST /1 HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nbodyHEAD /2 HTTP/1.1\r\nHost: x\r\n\r\n")
        .await
        .unwrap();
    head(&mut down).await;
    down.reply(
        ResponseHead::new(StatusCode::FORBIDDEN),
        Bytes::from_static(b"no"),
    )
    .await
    .unwrap();
    assert!(down.keep_alive());
    assert_eq!(head(&mut down).await.target, "/2");
    down.reply(ResponseHead::new(StatusCode::OK), Bytes::from_static(b"unsent"))
        .await
        .unwrap();
    assert!(down.keep_alive());
    let seen = read_until(&mut client, "content-length: 6\r\n\r\n").await;
    assert_eq!(
        seen,
        "HTTP/1.1 403 Forbidden\r\ncontent-length: 2\r\n\r\nnoHTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\n"
    );
}

#[tokio::test]
async fn an_upgrade_becomes_bytes_both_ways() {
    let (mut client, mut down, mut up, mut server) = proxy(4096);
    let carry = async {
        let head = head(&mut down).await;
        assert_eq!(head.upgrade.as_deref(), Some(&b"websocket"[..]));
        let response = send_request(&mut down, &mut up, &head).await.unwrap();
        assert_eq!(response.status, StatusCode::SWITCHING_PROTOCOLS);
        send_response(&mut down, &mut up, &response).await.unwrap();
        let (down, from_client) = down.into_upgraded();
        let (up, from_server) = up.into_upgraded();
        let mut down = Prefixed::new(down, from_client);
        let mut up = Prefixed::new(up, from_server);
        let counters = RelayCounters::default();
        let ended = relay(&mut down, &mut up, None, &counters).await;
        assert!(matches!(ended, Ended::Closed), "{ended:?}");
    };
    let ask = async {
        client
            .write_all(b"GET /ws HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: k\r\n\r\nearly")
            .await
            .unwrap();
        let seen = read_until(&mut client, "hello").await;
        assert_eq!(
            seen,
            "HTTP/1.1 101 Switching Protocols\r\nSec-WebSocket-Accept: a\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\nhello"
        );
        client.write_all(b"bye").await.unwrap();
        client.shutdown().await.unwrap();
    };
    let serve = async {
        let seen = read_until(&mut server, "\r\n\r\n").await;
        assert!(
            seen.contains("connection: upgrade\r\nupgrade: websocket\r\n"),
            "{seen}"
        );
        server
            .write_all(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: a\r\n\r\nhello")
            .await
            .unwrap();
        assert_eq!(read_until(&mut server, "bye").await, "earlybye");
        drop(server);
    };
    within(async { tokio::join!(carry, ask, serve) }).await;
}

#[tokio::test]
async fn a_client_that_leaves_ends_the_wait_for_the_upstream() {
    let (mut client, mut down, mut up, mut server) = proxy(4096);
    client
        .write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        .await
        .unwrap();
    let head = head(&mut down).await;
    let leave = async {
        read_until(&mut server, "\r\n\r\n").await;
        drop(client);
    };
    let (result, ()) = within(async { tokio::join!(send_request(&mut down, &mut up, &head), leave) }).await;
    let error = result.unwrap_err();
    assert_eq!(error.side, Side::Downstream);
    assert!(matches!(error.cause, Cause::Closed), "{error}");
}

#[tokio::test]
async fn a_request_body_that_is_cut_is_not_completed() {
    let (mut client, mut down, mut up, _server) = proxy(4096);
    client
        .write_all(b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab")
        .await
        .unwrap();
    let head = head(&mut down).await;
    client.shutdown().await.unwrap();
    let error = within(send_request(&mut down, &mut up, &head)).await.unwrap_err();
    assert_eq!(error.side, Side::Downstream);
    assert!(
        matches!(error.cause, Cause::Body(BodyError::Incomplete)),
        "{error}"
    );
    assert!(!up.is_reusable() && !Upstream::counters(&up).body_sent.eq(&5));
}

#[tokio::test]
async fn what_was_not_written_is_told_from_what_may_have_been_seen() {
    // Nothing can be written: the peer is gone before the first byte.
    let (up, server) = duplex(64);
    drop(server);
    let mut up = ClientConnection::new(up, Limits::default());
    let mut request = RequestHead::new(Method::GET, Bytes::from_static(b"/"));
    request.headers.append("host", b"x").unwrap();
    let error = send_request_bytes(&mut up, &request, Bytes::new())
        .await
        .unwrap_err();
    assert_eq!((error.side, error.sent), (Side::Upstream, Sent::Nothing));

    // Written, then closed without an answer.
    let (up, mut server) = duplex(4096);
    let mut up = ClientConnection::new(up, Limits::default());
    let close = async {
        read_until(&mut server, "\r\n\r\n").await;
        drop(server);
    };
    let (result, ()) = tokio::join!(send_request_bytes(&mut up, &request, Bytes::new()), close);
    let error = result.unwrap_err();
    assert_eq!((error.side, error.sent), (Side::Upstream, Sent::MaybeProcessed));
    assert!(matches!(error.cause, Cause::Closed), "{error}");

    // A connection with stray bytes is not used at all.
    let (up, mut server) = duplex(4096);
    let mut up = ClientConnection::new(up, Limits::default());
    server.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
    assert!(!up.is_alive());
    let error = send_request_bytes(&mut up, &request, Bytes::new())
        .await
        .unwrap_err();
    assert_eq!(error.sent, Sent::Nothing);
}

#[tokio::test]
async fn interim_responses_are_bounded() {
    let (up, mut server) = duplex(1 << 16);
    let mut up = ClientConnection::new(up, Limits::default());
    let mut request = RequestHead::new(Method::GET, Bytes::from_static(b"/"));
    request.headers.append("host", b"x").unwrap();
    server
        .write_all(&b"HTTP/1.1 103 Hint\r\n\r\n".repeat(17))
        .await
        .unwrap();
    // Bytes before the request would be stray: they count only once it is sent.
    let error = within(send_request_bytes(&mut up, &request, Bytes::new()))
        .await
        .unwrap_err();
    assert!(matches!(error.cause, Cause::Parse(_)), "{error}");
}

#[tokio::test]
async fn a_head_in_the_middle_of_a_close_is_told_from_a_clean_end() {
    let (mut client, mut down, ..) = proxy(4096);
    client.write_all(b"GET / HT").await.unwrap();
    client.shutdown().await.unwrap();
    assert!(matches!(within(down.read_head()).await, Err(HeadError::Closed)));
    let (client, mut down, ..) = proxy(4096);
    assert!(down.is_idle());
    drop(client);
    assert!(within(down.read_head()).await.unwrap().is_none());
}

#[tokio::test]
async fn a_body_that_is_longer_or_shorter_than_announced_is_an_error() {
    let (mut client, mut down, ..) = proxy(4096);
    client
        .write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        .await
        .unwrap();
    head(&mut down).await;
    let mut response = ResponseHead::new(StatusCode::OK);
    response.body = BodyLength::Known(3);
    down.queue_head(&response).unwrap();
    assert!(matches!(
        down.queue(Frame::Data(Bytes::from_static(b"four"))),
        Err(Cause::Length)
    ));
    assert!(matches!(down.finish(), Err(Cause::Length)));
    assert!(!down.keep_alive());
}

async fn tcp_pair() -> (TcpStream, TcpStream) {
    let listener = bind("127.0.0.1:0".parse().unwrap(), Bind::default()).unwrap();
    let address = listener.local_addr().unwrap();
    let (client, server) = tokio::join!(connect(address, Connect::default(), soon()), listener.accept());
    (client.unwrap(), server.unwrap().0)
}

#[tokio::test]
async fn a_lingering_close_lets_the_client_read_the_refusal() {
    let (mut client, server) = tcp_pair().await;
    let mut down = ServerConnection::new(server, Limits::default());
    client
        .write_all(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 300000\r\n\r\n")
        .await
        .unwrap();
    within(down.read_head()).await.unwrap().unwrap();
    down.reply(
        ResponseHead::new(StatusCode::FORBIDDEN),
        Bytes::from_static(b"no"),
    )
    .await
    .unwrap();
    let close = down.close(soon());
    let client = async {
        // Data that comes after the refusal must not turn it into a reset.
        client.write_all(&vec![b'a'; 300_000]).await.unwrap();
        let seen = read_until(&mut client, "no").await;
        assert!(seen.starts_with("HTTP/1.1 403"), "{seen}");
        assert_eq!(client.read(&mut [0]).await.unwrap(), 0);
        drop(client);
    };
    within(async { tokio::join!(close, client) }).await;
}

#[tokio::test]
async fn a_pool_gives_back_what_works_and_drops_what_was_closed() {
    let now = std::time::Instant::now();
    let limits = PoolLimits {
        idle_per_key: 2,
        idle: 3,
        idle_timeout: Duration::from_secs(10),
    };
    let mut pool: Pool<&str, ClientConnection<TcpStream>> = Pool::new(limits);
    let mut servers = Vec::new();
    for _ in 0..3 {
        let (client, server) = tcp_pair().await;
        pool.checkin("a", ClientConnection::new(client, Limits::default()), now);
        servers.push(server);
    }
    assert_eq!(pool.len(), 2, "the oldest made room");
    assert!(pool.checkout(&"b", now).is_none());
    // The newest is closed by its server: it is passed over once that is seen.
    let closed = servers.pop().unwrap().peer_addr().unwrap();
    within(async {
        loop {
            tokio::task::yield_now().await;
            let connection = pool.checkout(&"a", now).expect("the other still works");
            if connection.io().local_addr().unwrap() != closed {
                break;
            }
            pool.checkin("a", connection, now);
        }
    })
    .await;
    assert_eq!(pool.len(), 0);
    let (client, _server) = tcp_pair().await;
    pool.checkin("a", ClientConnection::new(client, Limits::default()), now);
    assert!(
        pool.checkout(&"a", now + Duration::from_secs(10)).is_none(),
        "idle too long"
    );
    let (client, _server2) = tcp_pair().await;
    pool.checkin("a", ClientConnection::new(client, Limits::default()), now);
    pool.clear_if(|key| *key == "a");
    assert!(pool.is_empty());
}

#[tokio::test]
async fn frames_come_as_they_arrive() {
    let (mut client, mut down, ..) = proxy(4096);
    client
        .write_all(b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n")
        .await
        .unwrap();
    head(&mut down).await;
    assert!(down.is_body_untouched());
    assert_eq!(
        next_frame(&mut down).await.unwrap(),
        Some(Frame::Data(Bytes::from_static(b"a")))
    );
    assert!(!down.is_body_untouched());
    client.write_all(b"0\r\n\r\n").await.unwrap();
    assert_eq!(next_frame(&mut down).await.unwrap(), None);
    assert_eq!(next_frame(&mut down).await.unwrap(), None);
}

#[test]
fn connections_and_exchanges_are_small() {
    // What an idle connection holds on the heap beside its socket; its buffers are lent only while in use.
    assert!(
        size_of::<ServerConnection<TcpStream>>() <= 512,
        "{}",
        size_of::<ServerConnection<TcpStream>>()
    );
    assert!(
        size_of::<ClientConnection<TcpStream>>() <= 512,
        "{}",
        size_of::<ClientConnection<TcpStream>>()
    );
    let (_client, mut down, mut up, _server) = proxy(64);
    let request = RequestHead::new(Method::GET, Bytes::from_static(b"/"));
    let future = send_request(&mut down, &mut up, &request);
    assert!(size_of_val(&future) <= 512, "{}", size_of_val(&future));
}
