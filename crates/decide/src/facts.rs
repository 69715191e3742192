//! What is known of a connection or a request when it is decided. Everything is borrowed; nothing is allocated.

use std::net::{IpAddr, SocketAddr};

use bartizan_types::{NamespacedName, Peer};

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
    /// The server name of the TLS handshake, if there was one.
    pub sni: Option<&'a str>,
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
}

/// A request without headers.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoHeaders;

impl Headers for NoHeaders {
    fn values<'h>(&'h self, _name: &'h str) -> impl Iterator<Item = &'h [u8]> {
        std::iter::empty()
    }
}

impl Headers for [(String, String)] {
    fn values<'h>(&'h self, name: &'h str) -> impl Iterator<Item = &'h [u8]> {
        self.iter()
            .filter(move |(key, _)| key.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_bytes())
    }
}

impl Headers for Vec<(String, String)> {
    fn values<'h>(&'h self, name: &'h str) -> impl Iterator<Item = &'h [u8]> {
        self.as_slice().values(name)
    }
}
