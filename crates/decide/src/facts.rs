//! What is known of a connection or a request when it is decided. Everything is borrowed; nothing is allocated.

use std::net::{IpAddr, SocketAddr};

use bartizan_types::{NamespacedName, Peer};

use crate::user::User;

/// What is known of a connection.
#[derive(Clone, Copy, Debug)]
pub struct ConnectionFacts<'a> {
    /// The local workload that is asked: its view says which policies count.
    pub local: &'a NamespacedName,
    /// Who asks.
    pub peer: &'a Peer,
    /// The connection's own remote address.
    pub source: IpAddr,
    /// The workload's address and port (at a gateway: the listener's port).
    pub destination: SocketAddr,
    /// The client's address, as trusted proxies tell it (X-Forwarded-For, PROXY protocol); that of the connection where
    /// nothing says otherwise.
    pub remote: IpAddr,
    /// The server name of the TLS handshake, if there was one.
    pub sni: Option<&'a str>,
    /// What was agreed in the TLS handshake, if there was one.
    pub tls: Option<TlsFacts<'a>>,
    /// The time of the decision, in seconds since 1970.
    pub now: i64,
}

/// What a TLS handshake agreed on, in the words of the TLS registries.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TlsFacts<'a> {
    /// Such as `TLSv1.3`.
    pub version: &'a str,
    /// Such as `TLS_AES_256_GCM_SHA384`.
    pub cipher: &'a str,
    /// Such as `X25519MLKEM768`.
    pub group: &'a str,
}

/// What is known of an HTTP request.
#[derive(Debug)]
pub struct HttpFacts<'a, H: ?Sized> {
    /// The connection that it came on.
    pub connection: ConnectionFacts<'a>,
    /// The method as sent.
    pub method: &'a str,
    /// `:authority` or `Host` as sent, port text included; `None` when there is neither.
    pub authority: Option<&'a str>,
    /// The request target as sent, query included.
    pub target: &'a str,
    /// The headers.
    pub headers: &'a H,
    /// Whose token was verified ([`authenticate`](crate::authenticate::authenticate)); `None` where none was presented.
    pub user: Option<&'a User>,
    /// The route that was chosen at a gateway is marked for people ([`Forward::is_for_people`](crate::Forward)). A
    /// sidecar has no routes; its workload's view says it.
    pub route_is_for_people: bool,
}

impl<H: ?Sized> Clone for HttpFacts<'_, H> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<H: ?Sized> Copy for HttpFacts<'_, H> {}

/// The headers of a request, in whatever shape the caller has them.
pub trait Headers {
    /// All values of a header in the order of the request; `name` is in lower case.
    fn values<'h>(&'h self, name: &'h str) -> impl Iterator<Item = &'h [u8]>;

    /// The names of all headers, in any case; one that has several values may come several times.
    fn names(&self) -> impl Iterator<Item = &str>;
}

/// A request without headers.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoHeaders;

impl Headers for NoHeaders {
    fn values<'h>(&'h self, _name: &'h str) -> impl Iterator<Item = &'h [u8]> {
        std::iter::empty()
    }

    fn names(&self) -> impl Iterator<Item = &str> {
        std::iter::empty()
    }
}

impl Headers for [(String, String)] {
    fn values<'h>(&'h self, name: &'h str) -> impl Iterator<Item = &'h [u8]> {
        self.iter()
            .filter(move |(key, _)| key.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_bytes())
    }

    fn names(&self) -> impl Iterator<Item = &str> {
        self.iter().map(|(name, _)| name.as_str())
    }
}

impl Headers for Vec<(String, String)> {
    fn values<'h>(&'h self, name: &'h str) -> impl Iterator<Item = &'h [u8]> {
        self.as_slice().values(name)
    }

    fn names(&self) -> impl Iterator<Item = &str> {
        self.as_slice().names()
    }
}
