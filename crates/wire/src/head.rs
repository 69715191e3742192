//! Heads of HTTP messages: what a request or response says before its body, the same for HTTP/1 and HTTP/2.
//!
//! The codecs make these and write these; the proxy decides over them. Fields that belong to one hop
//! (`Connection` and what it names, `Transfer-Encoding`, `Keep-Alive`, `Upgrade`, …) are taken out by the
//! codec that reads a head and made anew by the codec that writes one (RFC 9110 §7.6.1).

mod bridge;
mod headers;

pub use bridge::BridgeError;
pub(crate) use headers::is_field_value;
pub use headers::{Headers, InvalidHeader};

use bytes::Bytes;
use http::{Method, StatusCode, Version};

/// How many body bytes follow a head, as far as the head tells (RFC 9112 §6.3).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BodyLength {
    /// No body: none announced, or none allowed (`HEAD`, 204, 304).
    Empty,
    /// Exactly this many bytes.
    Known(u64),
    /// Until its end shows: chunked, until close, or an HTTP/2 stream without `content-length`.
    Unknown,
}

/// The head of a request.
#[derive(Clone, Debug)]
pub struct RequestHead {
    /// The method; extension methods included.
    pub method: Method,
    /// Origin form (`/path?query`), `*` for `OPTIONS *`, or `host:port` for `CONNECT`. The absolute form has
    /// been taken apart: its authority has become the `host` field (RFC 9112 §3.2.2).
    pub target: Bytes,
    /// The version that the client spoke.
    pub version: Version,
    /// End-to-end fields; `host` is among them, from `:authority` on HTTP/2.
    pub headers: Headers,
    /// The body to come.
    pub body: BodyLength,
    /// The protocol that the client asks to change to (`websocket`). Never `h2c`: what would follow could not
    /// be authorized request by request, so that offer is dropped.
    pub upgrade: Option<Bytes>,
    /// Whether the client waits for `100 Continue` before it sends the body.
    pub expect_continue: bool,
}

impl RequestHead {
    /// A request without fields and body, HTTP/1.1.
    pub fn new(method: Method, target: Bytes) -> Self {
        Self {
            method,
            target,
            version: Version::HTTP_11,
            headers: Headers::new(),
            body: BodyLength::Empty,
            upgrade: None,
            expect_continue: false,
        }
    }

    /// The path, without the query. `*` and the target of `CONNECT` are given as they are.
    pub fn path(&self) -> &[u8] {
        match memchr::memchr(b'?', &self.target) {
            Some(at) => self.target.get(..at).unwrap_or_default(),
            None => &self.target,
        }
    }

    /// The query after the `?`, when there is a `?`.
    pub fn query(&self) -> Option<&[u8]> {
        memchr::memchr(b'?', &self.target).and_then(|at| self.target.get(at + 1..))
    }

    /// Host and optional port, as the client wrote them; empty when it gave none (HTTP/1.0).
    pub fn authority(&self) -> &[u8] {
        self.headers.get("host").unwrap_or_default()
    }
}

/// The head of a response.
#[derive(Clone, Debug)]
pub struct ResponseHead {
    /// The version that the server spoke.
    pub version: Version,
    /// The status code.
    pub status: StatusCode,
    /// The reason phrase; empty where the server sent none, and the writer puts the usual one for its code.
    pub reason: Bytes,
    /// End-to-end fields.
    pub headers: Headers,
    /// The body to come.
    pub body: BodyLength,
    /// The protocol that a 101 changes to.
    pub upgrade: Option<Bytes>,
}

impl ResponseHead {
    /// A response without fields and body, HTTP/1.1.
    pub fn new(status: StatusCode) -> Self {
        Self {
            version: Version::HTTP_11,
            status,
            reason: Bytes::new(),
            headers: Headers::new(),
            body: BodyLength::Empty,
            upgrade: None,
        }
    }

    /// Whether another head follows for the same request (1xx other than 101).
    pub fn is_interim(&self) -> bool {
        self.status.is_informational() && self.status != StatusCode::SWITCHING_PROTOCOLS
    }
}
