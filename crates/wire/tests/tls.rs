//! TLS streams with the mesh's own configurations, on loopback sockets.

#![expect(clippy::unwrap_used, reason = "a test fails by a panic")]

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bartizan_identity::{
    Authority, ClientAlpn, ClientKey, ClientTls, Clock, Credentials, ExpectedPeers, PrivateKey, ServerAlpn,
    ServerTls, Svid, TlsVersions, mesh_sni,
};
use bartizan_types::{SpiffeId, TrustDomain};
use bartizan_wire::exchange::{collect, send_request_bytes};
use bartizan_wire::h1::{ClientConnection, Limits, ServerConnection};
use bartizan_wire::head::{BodyLength, RequestHead, ResponseHead};
use bartizan_wire::sniff::{FirstBytes, read_first};
use bartizan_wire::socket::{Bind, Connect, bind, connect};
use bartizan_wire::stream::{MaybeTls, Prefixed};
use bartizan_wire::tls_stream::{self, TlsError, TlsFacts};
use bytes::{Bytes, BytesMut};
use http::{Method, StatusCode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(10)
}

struct Mesh {
    authority: Authority,
}

impl Mesh {
    fn new() -> Self {
        let domain = TrustDomain::parse("cluster.local").unwrap();
        Self {
            authority: Authority::create(domain, SystemTime::now()).unwrap(),
        }
    }

    fn credentials(&self, id: &str) -> Arc<Credentials> {
        let key = PrivateKey::generate().unwrap();
        let csr = key.csr().unwrap();
        let id = SpiffeId::parse(id).unwrap();
        let issued = self
            .authority
            .issue(&csr, &id, Duration::from_hours(1), SystemTime::now())
            .unwrap();
        let svid = Svid::new(issued.chain, key).unwrap();
        Credentials::new(svid, self.authority.trust_bundle().unwrap()).unwrap()
    }
}

const SERVER: &str = "spiffe://cluster.local/ns/shop/sa/cart";
const CLIENT: &str = "spiffe://cluster.local/ns/shop/sa/front";

async fn tcp_pair() -> (TcpStream, TcpStream) {
    let listener = bind("127.0.0.1:0".parse().unwrap(), Bind::default()).unwrap();
    let address = listener.local_addr().unwrap();
    let (client, server) = tokio::join!(connect(address, Connect::default(), soon()), listener.accept());
    (client.unwrap(), server.unwrap().0)
}

/// Both ends after a handshake, the server's through the sniffer.
async fn pair(
    expected: &str,
) -> (
    Result<(MaybeTls, TlsFacts), TlsError>,
    Result<(MaybeTls, TlsFacts), TlsError>,
) {
    let mesh = Mesh::new();
    let clock = Clock::system();
    let server = ServerTls::new(&mesh.credentials(SERVER), &clock, TlsVersions::default()).unwrap();
    let client = ClientTls::new(&mesh.credentials(CLIENT), &clock, TlsVersions::default());
    let key = ClientKey {
        expected: ExpectedPeers::one(SpiffeId::parse(expected).unwrap()),
        alpn: ClientAlpn::Http1,
    };
    let config = client.config(&key).unwrap();
    let sni = mesh_sni(8080, "cart.shop.svc.cluster.local").unwrap();
    let (client_tcp, mut server_tcp) = tcp_pair().await;
    let accept = async {
        let mut first = BytesMut::new();
        let kind = read_first(&mut server_tcp, &mut first).await.unwrap();
        assert!(
            matches!(&kind, FirstBytes::Tls(hello) if hello.sni.as_deref()
                == Some("outbound_.8080_._.cart.shop.svc.cluster.local") && hello.alpn.contains(&b"istio".to_vec())),
            "{kind:?}"
        );
        let io = Prefixed::new(server_tcp, first.freeze());
        tls_stream::accept(server.config(ServerAlpn::Any), io, soon()).await
    };
    let (client, server) = tokio::join!(tls_stream::connect(config, sni, client_tcp, soon()), accept);
    let wrap = |result: Result<(tls_stream::TlsStream, TlsFacts), TlsError>| {
        result.map(|(stream, facts)| (MaybeTls::from(stream), facts))
    };
    (wrap(client), wrap(server))
}

#[tokio::test]
async fn a_handshake_tells_who_and_how() {
    let (client, server) = pair(SERVER).await;
    let ((client, at_client), (server, at_server)) = (client.unwrap(), server.unwrap());
    assert_eq!(at_server.alpn.as_deref(), Some(&b"istio-http/1.1"[..]));
    assert_eq!(
        at_server.sni.as_deref(),
        Some("outbound_.8080_._.cart.shop.svc.cluster.local")
    );
    assert_eq!(at_client.sni, at_server.sni);
    assert_eq!(at_server.group.as_deref(), Some("X25519MLKEM768"));
    assert!(!at_server.resumed);
    for (facts, id) in [(&at_server, CLIENT), (&at_client, SERVER)] {
        let peer = bartizan_identity::peer_of(Some(&facts.chain));
        assert_eq!(peer.identity().unwrap().to_string(), id);
    }
    assert!(client.is_tls());
    assert_eq!(
        client.tcp().local_addr().unwrap(),
        server.tcp().peer_addr().unwrap()
    );
}

#[tokio::test]
async fn a_server_with_another_identity_is_refused() {
    let (client, server) = pair("spiffe://cluster.local/ns/shop/sa/other").await;
    assert!(matches!(client, Err(TlsError::Handshake(_))));
    assert!(matches!(server, Err(TlsError::Handshake(_))));
}

#[tokio::test]
async fn a_silent_peer_is_given_up_at_the_deadline() {
    let (_client, server) = tcp_pair().await;
    let mesh = Mesh::new();
    let tls = ServerTls::new(
        &mesh.credentials(SERVER),
        &Clock::system(),
        TlsVersions::default(),
    )
    .unwrap();
    let io = Prefixed::new(server, Bytes::new());
    let deadline = Instant::now() + Duration::from_millis(20);
    let result = tls_stream::accept(tls.config(ServerAlpn::Any), io, deadline).await;
    assert!(matches!(result, Err(TlsError::Deadline)));
}

#[tokio::test]
async fn large_bodies_pass_unharmed() {
    const SIZE: usize = 6_000_000;
    let (client, server) = pair(SERVER).await;
    let ((client, _), (server, _)) = (client.unwrap(), server.unwrap());
    let body: Bytes = (0..SIZE).map(|at| u8::try_from(at % 253).unwrap()).collect();
    let serve = async {
        let mut down = ServerConnection::new(server, Limits::default());
        while let Some(head) = down.read_head().await.unwrap() {
            assert_eq!(head.body, BodyLength::Known(SIZE as u64));
            let all = collect(&mut down, SIZE).await.unwrap().unwrap();
            down.reply(ResponseHead::new(StatusCode::OK), all).await.unwrap();
            assert!(down.keep_alive());
        }
    };
    let ask = async {
        let mut up = ClientConnection::new(client, Limits::default());
        for _ in 0..2 {
            let mut head = RequestHead::new(Method::POST, Bytes::from_static(b"/"));
            head.headers.append("host", b"cart").unwrap();
            head.body = BodyLength::Known(SIZE as u64);
            let response = send_request_bytes(&mut up, &head, body.clone()).await.unwrap();
            assert_eq!(response.status, StatusCode::OK);
            assert!(collect(&mut up, SIZE).await.unwrap().unwrap() == body);
            assert!(up.is_reusable());
        }
    };
    timeout(Duration::from_mins(1), async { tokio::join!(serve, ask) })
        .await
        .unwrap();
}

#[tokio::test]
async fn a_close_is_seen_as_the_end() {
    let (client, server) = pair(SERVER).await;
    let ((mut client, _), (mut server, _)) = (client.unwrap(), server.unwrap());
    client.write_all(b"last").await.unwrap();
    client.shutdown().await.unwrap();
    let mut seen = Vec::new();
    server.read_to_end(&mut seen).await.unwrap();
    assert_eq!(seen, b"last");
    // The other direction is still open: half close (RFC 8446 §6.1).
    server.write_all(b"answer").await.unwrap();
    server.shutdown().await.unwrap();
    let mut answer = Vec::new();
    client.read_to_end(&mut answer).await.unwrap();
    assert_eq!(answer, b"answer");
}

#[tokio::test]
async fn a_cut_is_not_taken_for_an_end() {
    let (client, server) = pair(SERVER).await;
    let ((client, _), (mut server, _)) = (client.unwrap(), server.unwrap());
    drop(client);
    let error = server.read_u8().await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::UnexpectedEof);
    let (client, server) = pair(SERVER).await;
    let ((client, _), (server, _)) = (client.unwrap(), server.unwrap());
    drop(client);
    let mut down = ServerConnection::new(server, Limits::default());
    assert!(
        down.read_head().await.unwrap().is_none(),
        "between two requests it is an end"
    );
}
