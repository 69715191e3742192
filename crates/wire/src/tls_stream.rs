//! TLS on a socket, and what the handshake told. Who the peer is, `identity` decides: its configurations verify.
//!
//! rustls asks the socket for 4 KiB at a time. Between the two stands a read-ahead that steps aside for small
//! messages and, once reads come back full, takes 64 KiB with one system call.

use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{CipherSuite, ClientConfig, HandshakeKind, ProtocolVersion, ServerConfig};
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::stream::Prefixed;

/// One read of a connection that carries much.
const READ_AHEAD_BYTES: usize = 64 * 1024;
/// Encrypted bytes that wait for the socket, so that one write carries as much as one read has brought.
const WRITE_BYTES: usize = 160 * 1024;

/// What a finished handshake has agreed on and shown.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct TlsFacts {
    /// The peer's certificates, leaf first; empty when it showed none.
    pub chain: Vec<CertificateDer<'static>>,
    /// The protocol agreed on.
    pub alpn: Option<Vec<u8>>,
    /// The server name that the client asked for.
    pub sni: Option<String>,
    /// The key exchange group, such as `X25519MLKEM768`.
    pub group: Option<String>,
    /// The protocol version.
    pub version: Option<ProtocolVersion>,
    /// The cipher suite by its IANA name, such as `TLS_AES_256_GCM_SHA384`.
    pub cipher: Option<&'static str>,
    /// An earlier session was taken up: no certificate was sent this time, and `chain` is from that session.
    pub resumed: bool,
}

/// Why there is no TLS connection.
#[derive(Debug, Error)]
pub enum TlsError {
    /// The deadline came first.
    #[error("TLS handshake was not finished in time")]
    Deadline,
    /// The peer was refused or refused us, spoke no TLS, or the socket failed; a `rustls::Error` is inside where TLS said no.
    #[error("TLS handshake: {0}")]
    Handshake(#[from] io::Error),
}

/// A TLS connection on a socket, either end.
///
/// An end without `close_notify` is an error ([`io::ErrorKind::UnexpectedEof`]), so that a cut is not taken for
/// the end of the data (RFC 8446 §6.1, RFC 9112 §9.8).
#[derive(Debug)]
pub struct TlsStream(tokio_rustls::TlsStream<ReadAhead<TcpStream>>);

/// Finishes a handshake as the server. `io` may hold the bytes that told that this is TLS.
///
/// # Errors
/// [`TlsError`]. Cancel safe: the connection is closed.
pub async fn accept(
    config: Arc<ServerConfig>,
    io: Prefixed<TcpStream>,
    deadline: Instant,
) -> Result<(TlsStream, TlsFacts), TlsError> {
    let (io, prefix) = io.into_parts();
    let io = ReadAhead {
        io,
        buffer: prefix.into(),
        bulk: false,
    };
    let mut stream = timeout_at(deadline, TlsAcceptor::from(config).accept(io))
        .await
        .map_err(|_| TlsError::Deadline)??;
    let (_, session) = stream.get_mut();
    session.set_buffer_limit(Some(WRITE_BYTES));
    let facts = TlsFacts {
        sni: session.server_name().map(str::to_owned),
        ..facts(session)
    };
    Ok((TlsStream(stream.into()), facts))
}

/// Finishes a handshake as the client.
///
/// # Errors
/// As [`accept`].
pub async fn connect(
    config: Arc<ClientConfig>,
    server: ServerName<'static>,
    io: TcpStream,
    deadline: Instant,
) -> Result<(TlsStream, TlsFacts), TlsError> {
    let sni = if let ServerName::DnsName(name) = &server {
        Some(name.as_ref().to_owned())
    } else {
        None
    };
    let io = ReadAhead {
        io,
        buffer: BytesMut::new(),
        bulk: false,
    };
    let mut stream = timeout_at(deadline, TlsConnector::from(config).connect(server, io))
        .await
        .map_err(|_| TlsError::Deadline)??;
    let (_, session) = stream.get_mut();
    session.set_buffer_limit(Some(WRITE_BYTES));
    let facts = TlsFacts {
        sni,
        ..facts(session)
    };
    Ok((TlsStream(stream.into()), facts))
}

fn facts<D>(session: &rustls::ConnectionCommon<D>) -> TlsFacts {
    TlsFacts {
        chain: session
            .peer_certificates()
            .unwrap_or_default()
            .iter()
            .map(|certificate| certificate.clone().into_owned())
            .collect(),
        alpn: session.alpn_protocol().map(<[u8]>::to_vec),
        sni: None,
        group: session
            .negotiated_key_exchange_group()
            .map(|group| format!("{:?}", group.name())),
        version: session.protocol_version(),
        cipher: session
            .negotiated_cipher_suite()
            .and_then(|suite| cipher_name(suite.suite())),
        resumed: session.handshake_kind() == Some(HandshakeKind::Resumed),
    }
}

/// The IANA name; rustls has its own for the suites of TLS 1.3.
fn cipher_name(suite: CipherSuite) -> Option<&'static str> {
    const NAMES: [(CipherSuite, &str); 3] = [
        (CipherSuite::TLS13_AES_128_GCM_SHA256, "TLS_AES_128_GCM_SHA256"),
        (CipherSuite::TLS13_AES_256_GCM_SHA384, "TLS_AES_256_GCM_SHA384"),
        (
            CipherSuite::TLS13_CHACHA20_POLY1305_SHA256,
            "TLS_CHACHA20_POLY1305_SHA256",
        ),
    ];
    NAMES
        .iter()
        .find(|(known, _)| *known == suite)
        .map_or_else(|| suite.as_str(), |(_, name)| Some(*name))
}

impl TlsFacts {
    /// The protocol version as Envoy writes it: `TLSv1.3`.
    pub fn version_text(&self) -> Option<&'static str> {
        let version = self.version?;
        if version == ProtocolVersion::TLSv1_3 {
            Some("TLSv1.3")
        } else if version == ProtocolVersion::TLSv1_2 {
            Some("TLSv1.2")
        } else {
            version.as_str()
        }
    }
}

impl TlsStream {
    /// The socket below.
    pub fn tcp(&self) -> &TcpStream {
        &self.0.get_ref().0.io
    }
}

impl AsyncRead for TlsStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for TlsStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

/// A socket that reads more than it is asked for, while much comes.
#[derive(Debug)]
struct ReadAhead<IO> {
    io: IO,
    buffer: BytesMut,
    /// The last read filled what it was given.
    bulk: bool,
}

impl<IO: AsyncRead + Unpin> AsyncRead for ReadAhead<IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.buffer.is_empty() {
            if !this.bulk {
                let before = buf.remaining();
                ready!(Pin::new(&mut this.io).poll_read(cx, buf))?;
                this.bulk = before >= 4096 && buf.remaining() == 0;
                return Poll::Ready(Ok(()));
            }
            this.buffer.reserve(READ_AHEAD_BYTES);
            let read = pin!(this.io.read_buf(&mut this.buffer)).poll(cx);
            if this.buffer.is_empty() {
                // Idle, ended or broken: no buffer is held.
                this.buffer = BytesMut::new();
                this.bulk = false;
                return read.map_ok(|_| ());
            }
            this.bulk = this.buffer.len() >= 2 * 4096;
        }
        let count = this.buffer.len().min(buf.remaining());
        buf.put_slice(this.buffer.get(..count).unwrap_or_default());
        this.buffer.advance(count);
        if this.buffer.is_empty() && !this.bulk {
            this.buffer = BytesMut::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for ReadAhead<IO> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
