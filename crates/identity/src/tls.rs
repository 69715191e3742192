//! TLS configurations of the mesh: which versions, application protocols and verifiers, on either side.
//!
//! Sessions are not resumed: every connection proves both identities against the bundle of its own time.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use bartizan_types::Peer;
use rustls::client::Resumption;
use rustls::server::NoServerSessionStorage;
use rustls::{ClientConfig, ServerConfig, SupportedProtocolVersion};
use rustls_pki_types::{CertificateDer, ServerName};

use crate::clock::Clock;
use crate::credentials::{Credentials, PresentSvid};
use crate::crypto;
use crate::leaf::Leaf;
use crate::verify::{ExpectedPeers, VerifyClient, VerifyServer};

/// Which TLS versions are spoken (Istio `meshMTLS.minProtocolVersion`).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum TlsVersions {
    /// 1.3 only, the mesh's own default.
    #[default]
    Only13,
    /// 1.2 as well, for peers that have no 1.3.
    From12,
}

impl TlsVersions {
    pub(crate) fn list(self) -> &'static [&'static SupportedProtocolVersion] {
        static ONLY_13: [&SupportedProtocolVersion; 1] = [&rustls::version::TLS13];
        static FROM_12: [&SupportedProtocolVersion; 2] = [&rustls::version::TLS13, &rustls::version::TLS12];
        match self {
            Self::Only13 => &ONLY_13,
            Self::From12 => &FROM_12,
        }
    }
}

/// What a server agrees to speak inside TLS, most wanted first. `istio-peer-exchange` is not among them: whoever agrees
/// to it must exchange metadata first, and its only users (Istio's clients) offer `istio` with it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum ServerAlpn {
    /// HTTP of either version, or TCP.
    Any,
    /// TCP only: a client that offers only HTTP protocols is refused.
    Tcp,
}

/// What a client offers to speak inside TLS (Istio's sidecars offer the same).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum ClientAlpn {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2, and with it gRPC.
    Http2,
    /// Bytes.
    Tcp,
}

impl ServerAlpn {
    fn list(self) -> &'static [&'static [u8]] {
        match self {
            Self::Any => &[
                b"istio-h2",
                b"istio-http/1.1",
                b"istio-http/1.0",
                b"istio",
                b"h2",
                b"http/1.1",
                b"http/1.0",
            ],
            Self::Tcp => &[b"istio"],
        }
    }
}

impl ClientAlpn {
    fn list(self) -> &'static [&'static [u8]] {
        match self {
            Self::Http1 => &[b"istio-http/1.1", b"istio", b"http/1.1"],
            Self::Http2 => &[b"istio-h2", b"istio", b"h2"],
            Self::Tcp => &[b"istio"],
        }
    }
}

/// What both sides agreed to speak inside TLS.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Negotiated {
    /// HTTP/2.
    Http2,
    /// HTTP/1.1 or 1.0.
    Http1,
    /// Bytes, or a client that said nothing: look at what is sent.
    Unsaid,
}

impl Negotiated {
    /// Reads the protocol that rustls reports.
    pub fn of(alpn: Option<&[u8]>) -> Self {
        match alpn {
            Some(b"istio-h2" | b"h2") => Self::Http2,
            Some(b"istio-http/1.1" | b"istio-http/1.0" | b"http/1.1" | b"http/1.0") => Self::Http1,
            Some(_) | None => Self::Unsaid,
        }
    }
}

/// Whether the protocols that a ClientHello offers mark it as the mesh's own TLS rather than an application's
/// (Istio's PERMISSIVE listeners decide by this).
pub fn is_mesh_alpn(offered: &[u8]) -> bool {
    matches!(
        offered,
        b"istio" | b"istio-peer-exchange" | b"istio-h2" | b"istio-http/1.1" | b"istio-http/1.0"
    )
}

/// The server's side of mutual TLS. A client must show an SVID of a trusted domain.
#[derive(Clone, Debug)]
pub struct ServerTls {
    any: Arc<ServerConfig>,
    tcp: Arc<ServerConfig>,
}

impl ServerTls {
    /// Makes the configurations; they follow the cell and are never made again.
    ///
    /// # Errors
    /// When the provider has no suite for the versions.
    pub fn new(
        credentials: &Arc<Credentials>,
        clock: &Clock,
        versions: TlsVersions,
    ) -> Result<Self, rustls::Error> {
        let make = |alpn: ServerAlpn| -> Result<Arc<ServerConfig>, rustls::Error> {
            let mut config = ServerConfig::builder_with_details(crypto::provider(), Arc::clone(&clock.0))
                .with_protocol_versions(versions.list())?
                .with_client_cert_verifier(Arc::new(VerifyClient(Arc::clone(credentials))))
                .with_cert_resolver(Arc::new(PresentSvid(Arc::clone(credentials))));
            config.alpn_protocols = alpn.list().iter().map(|name| name.to_vec()).collect();
            config.session_storage = Arc::new(NoServerSessionStorage {});
            config.send_tls13_tickets = 0;
            Ok(Arc::new(config))
        };
        Ok(Self {
            any: make(ServerAlpn::Any)?,
            tcp: make(ServerAlpn::Tcp)?,
        })
    }

    /// The configuration to accept with.
    pub fn config(&self, alpn: ServerAlpn) -> Arc<ServerConfig> {
        Arc::clone(match alpn {
            ServerAlpn::Any => &self.any,
            ServerAlpn::Tcp => &self.tcp,
        })
    }
}

/// Everything that makes one client configuration differ from another: a whole value, fit for a pool's key.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ClientKey {
    /// Who may answer.
    pub expected: ExpectedPeers,
    /// What is offered.
    pub alpn: ClientAlpn,
}

/// The client's side of mutual TLS.
#[derive(Debug)]
pub struct ClientTls {
    credentials: Arc<Credentials>,
    clock: Clock,
    versions: TlsVersions,
    made: RwLock<HashMap<ClientKey, Arc<ClientConfig>>>,
}

impl ClientTls {
    /// The most configurations that are kept; beyond it they are made again.
    const KEPT: usize = 4096;

    /// Makes nothing yet.
    pub fn new(credentials: &Arc<Credentials>, clock: &Clock, versions: TlsVersions) -> Self {
        Self {
            credentials: Arc::clone(credentials),
            clock: clock.clone(),
            versions,
            made: RwLock::new(HashMap::new()),
        }
    }

    /// The configuration to connect with; made once for a key, and following the cell.
    ///
    /// # Errors
    /// When the provider has no suite for the versions.
    pub fn config(&self, key: &ClientKey) -> Result<Arc<ClientConfig>, rustls::Error> {
        let made = self.made.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(config) = made.get(key) {
            return Ok(Arc::clone(config));
        }
        drop(made);
        let mut config = ClientConfig::builder_with_details(crypto::provider(), Arc::clone(&self.clock.0))
            .with_protocol_versions(self.versions.list())?
            .dangerous() // rustls' word for any verifier but its own
            .with_custom_certificate_verifier(Arc::new(VerifyServer {
                credentials: Arc::clone(&self.credentials),
                expected: key.expected.clone(),
            }))
            .with_client_cert_resolver(Arc::new(PresentSvid(Arc::clone(&self.credentials))));
        config.alpn_protocols = key.alpn.list().iter().map(|name| name.to_vec()).collect();
        config.resumption = Resumption::disabled();
        let config = Arc::new(config);
        let mut made = self.made.write().unwrap_or_else(PoisonError::into_inner);
        if made.len() >= Self::KEPT {
            made.clear();
        }
        made.insert(key.clone(), Arc::clone(&config));
        Ok(config)
    }
}

/// The server name by which a mesh client says where it wants to go: `outbound_.PORT_._.HOST` (Istio's form, without a subset).
///
/// # Errors
/// When `host` cannot be written into a ClientHello.
pub fn mesh_sni(port: u16, host: &str) -> Result<ServerName<'static>, rustls_pki_types::InvalidDnsNameError> {
    ServerName::try_from(format!("outbound_.{port}_._.{host}"))
}

/// Who the peer of a finished handshake is, from the chain that rustls kept. Only for connections made with configurations of this file:
/// their verifiers have judged the chain.
pub fn peer_of(chain: Option<&[CertificateDer<'_>]>) -> Peer {
    chain
        .and_then(|chain| chain.first())
        .and_then(|leaf| Leaf::read(leaf).ok())
        .map_or(Peer::Plaintext, |leaf| Peer::Authenticated(leaf.id))
}
