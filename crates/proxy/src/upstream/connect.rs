//! Opens connections to targets: TCP with the mark that passes capture, then mutual TLS where the target has an identity,
//! which it must prove exactly.

use std::io;
use std::time::Duration;

use bartizan_identity::{ClientKey, ExpectedPeers, HandshakeFailure, mesh_sni};
use bartizan_telemetry::families;
use bartizan_wire::h2::{self, HandshakeError};
use bartizan_wire::socket::{self, Connect};
use bartizan_wire::stream::MaybeTls;
use bartizan_wire::tls_stream::{self, TlsError};
use tokio::time::Instant;

use super::target::Target;
use crate::worker::Worker;

/// The mark of sockets to the proxy's own pod: inbound capture takes them, outbound capture lets them pass.
pub(crate) const MARK_SELF: u32 = 0x6261_7275;
/// How long TCP and TLS may take together.
const CONNECT: Duration = Duration::from_secs(5);
/// Silence after which the kernel asks whether the other end is there.
const KEEPALIVE: Duration = Duration::from_mins(1);

/// Why there is no connection. Nothing was sent.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectError {
    /// TCP.
    #[error("connect to `{0}`: {1}")]
    Tcp(std::net::SocketAddr, #[source] io::Error),
    /// TLS.
    #[error("{0}")]
    Tls(HandshakeFailure),
    /// TLS was not finished in time.
    #[error("TLS handshake was not finished in time")]
    Deadline,
    /// HTTP/2.
    #[error(transparent)]
    Http2(#[from] HandshakeError),
    /// The proxy has no credentials, or the name cannot be said in a handshake.
    #[error("{0}")]
    Unfit(&'static str),
}

impl ConnectError {
    /// The text for `upstream_transport_failure_reason`; none where TLS was not reached.
    pub(crate) fn transport_failure(&self) -> Option<String> {
        match self {
            Self::Tls(failure) => Some(failure.to_string()),
            Self::Deadline | Self::Unfit(_) => Some(self.to_string()),
            Self::Tcp(..) | Self::Http2(_) => None,
        }
    }
}

/// Opens a connection.
pub(super) async fn open(worker: &Worker, target: &Target) -> Result<MaybeTls, ConnectError> {
    let opened = try_open(worker, target, Instant::now() + CONNECT).await;
    let result = match &opened {
        Ok(_) => "ok",
        Err(ConnectError::Tcp(..)) => "tcp",
        Err(ConnectError::Tls(_) | ConnectError::Deadline | ConnectError::Unfit(_)) => "tls",
        Err(ConnectError::Http2(_)) => "http2",
    };
    worker.count(&families::UPSTREAM_CONNECTS, &[result]);
    opened
}

async fn try_open(worker: &Worker, target: &Target, deadline: Instant) -> Result<MaybeTls, ConnectError> {
    let address = target.id.address;
    let options = Connect {
        mark: target.mark,
        source: None,
        keepalive: Some(KEEPALIVE),
    };
    let tcp = socket::connect(address, options, deadline)
        .await
        .map_err(|error| ConnectError::Tcp(address, error))?;
    let Some(identity) = &target.id.identity else {
        return Ok(tcp.into());
    };
    let own = worker
        .shared
        .identity
        .get()
        .ok_or(ConnectError::Unfit("the proxy has no SVID yet"))?;
    let (host, port) = &target.server;
    let server = mesh_sni(*port, host)
        .map_err(|_| ConnectError::Unfit("the service's name cannot be said in a TLS handshake"))?;
    let key = ClientKey {
        expected: ExpectedPeers::one(identity.clone()),
        alpn: target.id.carried.alpn(),
    };
    let config = own
        .client
        .config(&key)
        .map_err(|_| ConnectError::Unfit("the provider has no suite for TLS 1.3"))?;
    match tls_stream::connect(config, server, tcp, deadline).await {
        Ok((stream, facts)) => {
            let group = facts.group.as_deref().unwrap_or("unknown");
            worker.count(&families::TLS_HANDSHAKES, &["client", group]);
            Ok(stream.into())
        }
        Err(TlsError::Handshake(error)) => {
            let failure = HandshakeFailure::of(&error);
            worker.count(&families::TLS_REFUSED, &["client", failure.reason()]);
            Err(ConnectError::Tls(failure))
        }
        Err(TlsError::Deadline) => {
            worker.count(&families::TLS_REFUSED, &["client", "deadline"]);
            Err(ConnectError::Deadline)
        }
    }
}

/// Opens a connection for HTTP/2.
pub(super) async fn http2(worker: &Worker, target: &Target) -> Result<h2::ClientConnection, ConnectError> {
    let stream = open(worker, target).await?;
    let settings = h2::Settings {
        https: stream.is_tls(),
        ..h2::Settings::default()
    };
    let opened = h2::ClientConnection::handshake(stream, &settings, Instant::now() + CONNECT).await;
    opened.map_err(ConnectError::Http2)
}
