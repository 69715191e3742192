//! What a connection speaks, from its first bytes: TLS, HTTP/2, HTTP/1, or something else.
//!
//! [`classify`] is pure and is asked again with more bytes while it says [`FirstBytes::NeedMore`]. It never needs
//! more than 64 KiB. Nothing here decides what is allowed; what was found only says which codec reads on.

use std::future::poll_fn;
use std::io;
use std::pin::pin;
use std::task::Poll;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt};

use crate::buffer::{READ_BYTES, give_back_in, lend_in};

/// What every HTTP/2 client sends first (RFC 9113 §3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// The longest handshake message that is waited for; a larger hello is [`FirstBytes::Other`].
const HELLO_BYTES: usize = 60 * 1024;
/// The longest method that is taken for one.
const METHOD_BYTES: usize = 24;
/// A target of this length is taken for HTTP without waiting for its end.
const TARGET_BYTES: usize = 2048;

/// What the first bytes of a connection say.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum FirstBytes {
    /// Not yet enough to tell.
    NeedMore,
    /// A TLS client.
    Tls(ClientHello),
    /// HTTP/2 without TLS, with prior knowledge.
    Http2Preface,
    /// A request line of HTTP/1.
    Http1,
    /// None of these; also what looked like TLS and is malformed.
    Other,
}

/// What a TLS client asks for (RFC 8446 §4.1.2).
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ClientHello {
    /// The server name, lower case (RFC 6066 §3).
    pub sni: Option<String>,
    /// The protocols offered, in the client's order (RFC 7301).
    pub alpn: Vec<Vec<u8>>,
}

/// Tells what `bytes`, all that a connection has sent so far, are the beginning of.
pub fn classify(bytes: &[u8]) -> FirstBytes {
    match bytes.first() {
        None => FirstBytes::NeedMore,
        Some(0x16) => match parse_client_hello(bytes) {
            Hello::NeedMore => FirstBytes::NeedMore,
            Hello::Complete(hello) => FirstBytes::Tls(hello),
            Hello::Malformed => FirstBytes::Other,
        },
        Some(b'P') if PREFACE.starts_with(bytes) => {
            if bytes.len() == PREFACE.len() {
                FirstBytes::Http2Preface
            } else {
                FirstBytes::NeedMore
            }
        }
        Some(b'P') if bytes.starts_with(PREFACE) => FirstBytes::Http2Preface,
        Some(_) => request_line(bytes),
    }
}

/// A request line: upper-case method, a target, `HTTP/`. Line protocols of others begin like one (`GET key`
/// of redis, `SSH-2.0-…`), so the version is waited for unless the target is very long.
fn request_line(bytes: &[u8]) -> FirstBytes {
    // Empty lines before a request are allowed (RFC 9112 §2.2).
    let mut line = bytes;
    for _ in 0..4 {
        line = line.strip_prefix(b"\r\n").unwrap_or(line);
    }
    if line.is_empty() || line == b"\r" {
        return FirstBytes::NeedMore;
    }
    let method = line
        .iter()
        .take_while(|byte| byte.is_ascii_uppercase() || matches!(byte, b'-' | b'_'))
        .count();
    if method > METHOD_BYTES {
        return FirstBytes::Other;
    }
    match line.get(method) {
        None => return FirstBytes::NeedMore,
        Some(b' ') if method > 0 => {}
        Some(_) => return FirstBytes::Other,
    }
    let rest = line.get(method + 1..).unwrap_or_default();
    let target = rest.iter().take_while(|byte| byte.is_ascii_graphic()).count();
    match rest.get(target) {
        None if target > TARGET_BYTES && rest.first() == Some(&b'/') => FirstBytes::Http1,
        None if target > TARGET_BYTES => FirstBytes::Other,
        None => FirstBytes::NeedMore,
        Some(b' ') if target > 0 => {
            let version = rest.get(target + 1..).unwrap_or_default();
            let known = b"HTTP/";
            if version.starts_with(known) {
                FirstBytes::Http1
            } else if known.starts_with(version) {
                FirstBytes::NeedMore
            } else {
                FirstBytes::Other
            }
        }
        Some(_) => FirstBytes::Other,
    }
}

/// How far a client hello has come.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Hello {
    /// The rest has not arrived.
    NeedMore,
    /// It is all there.
    Complete(ClientHello),
    /// This is not a client hello.
    Malformed,
}

/// Reads a client hello that may be spread over several records.
pub fn parse_client_hello(bytes: &[u8]) -> Hello {
    let mut message = Vec::new();
    let mut rest = bytes;
    loop {
        // Record: type, version (2), length (2).
        let header_valid =
            rest.first().is_none_or(|&kind| kind == 0x16) && rest.get(1).is_none_or(|&major| major == 3);
        if !header_valid {
            return Hello::Malformed;
        }
        let Some((header, body)) = rest.split_at_checked(5) else {
            return Hello::NeedMore;
        };
        let length = usize::from(u16_at(header, 3));
        if length == 0 || length > 16 * 1024 {
            return Hello::Malformed;
        }
        let part = body.get(..length).unwrap_or(body);
        message.extend_from_slice(part);
        // Handshake message: type 1, length (3).
        if message.first() != Some(&1) && !message.is_empty() {
            return Hello::Malformed;
        }
        if let Some(&[_, a, b, c]) = message.get(..4) {
            let wanted = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
            if wanted > HELLO_BYTES {
                return Hello::Malformed;
            }
            if let Some(body) = message.get(4..4 + wanted) {
                return client_hello(body).map_or(Hello::Malformed, Hello::Complete);
            }
        }
        if part.len() < length {
            return Hello::NeedMore;
        }
        rest = body.get(length..).unwrap_or_default();
    }
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    match bytes.get(at..at + 2) {
        Some(&[high, low]) => u16::from_be_bytes([high, low]),
        _ => 0,
    }
}

/// A cursor over length-prefixed parts.
struct Parts<'a>(&'a [u8]);

impl<'a> Parts<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn short(&mut self) -> Option<&'a [u8]> {
        let length = usize::from(*self.take(1)?.first()?);
        self.take(length)
    }

    fn long(&mut self) -> Option<&'a [u8]> {
        let length = usize::from(u16_at(self.take(2)?, 0));
        self.take(length)
    }
}

fn client_hello(body: &[u8]) -> Option<ClientHello> {
    let mut parts = Parts(body);
    parts.take(2 + 32)?; // version, random
    parts.short()?; // session id
    parts.long()?; // cipher suites
    parts.short()?; // compression methods
    let mut hello = ClientHello::default();
    if parts.0.is_empty() {
        return Some(hello);
    }
    let mut extensions = Parts(parts.long()?);
    while !extensions.0.is_empty() {
        let kind = u16_at(extensions.take(2)?, 0);
        let mut content = Parts(extensions.long()?);
        match kind {
            0 => {
                let mut names = Parts(content.long()?);
                while !names.0.is_empty() {
                    let is_host = names.take(1)? == [0];
                    let name = names.long()?;
                    if is_host && hello.sni.is_none() {
                        let name = std::str::from_utf8(name).ok().filter(|name| name.is_ascii())?;
                        hello.sni = Some(name.to_ascii_lowercase());
                    }
                }
            }
            16 => {
                let mut protocols = Parts(content.long()?);
                while !protocols.0.is_empty() {
                    hello.alpn.push(protocols.short()?.to_vec());
                }
            }
            _ => {}
        }
    }
    Some(hello)
}

/// Reads into `buffer` until it can be told what the client speaks. At the end of the stream the answer is
/// [`FirstBytes::Other`], with an empty buffer when nothing came. Holds no buffer before the first byte; has no
/// timeout of its own. Cancel safe: what was read is in `buffer`.
///
/// # Errors
/// When the socket fails.
pub async fn read_first<IO: AsyncRead + Unpin>(io: &mut IO, buffer: &mut BytesMut) -> io::Result<FirstBytes> {
    read_first_and(io, buffer, || {}).await
}

/// [`read_first`], and calls `begun` when the first byte has come: from then on a client is not idle but slow.
///
/// # Errors
/// When the socket fails.
pub async fn read_first_and<IO: AsyncRead + Unpin>(
    io: &mut IO,
    buffer: &mut BytesMut,
    begun: impl FnOnce(),
) -> io::Result<FirstBytes> {
    let mut begun = Some(begun);
    loop {
        let known = classify(buffer);
        if known != FirstBytes::NeedMore {
            return Ok(known);
        }
        let count = poll_fn(|cx| {
            if buffer.capacity() == 0 {
                *buffer = lend_in();
            } else if buffer.capacity() == buffer.len() {
                buffer.reserve(READ_BYTES);
            }
            let read = pin!(io.read_buf(buffer)).poll(cx);
            if read.is_pending() && buffer.is_empty() {
                give_back_in(std::mem::take(buffer));
            }
            match read {
                Poll::Ready(count) => Poll::Ready(count),
                Poll::Pending => Poll::Pending,
            }
        })
        .await?;
        if count == 0 {
            return Ok(FirstBytes::Other);
        }
        if let Some(begun) = begun.take() {
            begun();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rustls::pki_types::ServerName;

    use super::*;

    fn real_hello(alpn: &[&str]) -> Vec<u8> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(rustls::RootCertStore::empty())
            .with_no_client_auth();
        config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        let name = ServerName::try_from("Outbound.Shop.Example").unwrap();
        let mut client = rustls::ClientConnection::new(Arc::new(config), name).unwrap();
        let mut bytes = Vec::new();
        client.write_tls(&mut bytes).unwrap();
        bytes
    }

    #[test]
    fn a_real_hello_is_read_at_its_last_byte() {
        let bytes = real_hello(&["istio-h2", "h2"]);
        for end in 1..bytes.len() {
            assert_eq!(classify(&bytes[..end]), FirstBytes::NeedMore, "{end}");
        }
        let FirstBytes::Tls(hello) = classify(&bytes) else {
            panic!("not TLS")
        };
        assert_eq!(hello.sni.as_deref(), Some("outbound.shop.example"));
        assert_eq!(hello.alpn, [b"istio-h2".to_vec(), b"h2".to_vec()]);
    }

    #[test]
    fn a_hello_in_small_records_is_joined() {
        let bytes = real_hello(&["h2"]);
        let mut split = Vec::new();
        for part in bytes[5..].chunks(100) {
            split.extend_from_slice(&[0x16, 3, 1, 0, u8::try_from(part.len()).unwrap()]);
            split.extend_from_slice(part);
        }
        assert!(matches!(classify(&split), FirstBytes::Tls(hello) if hello.alpn == [b"h2".to_vec()]));
    }

    #[tokio::test]
    async fn the_first_byte_is_told_once_and_at_once() {
        let (mut client, mut server) = tokio::io::duplex(64);
        let begun = std::cell::Cell::new(0);
        let mut buffer = BytesMut::new();
        let mut reading = pin!(read_first_and(&mut server, &mut buffer, || begun.set(begun.get() + 1)));
        let mut polled = async || poll_fn(|cx| Poll::Ready(reading.as_mut().poll(cx))).await;
        assert!(polled().await.is_pending());
        assert_eq!(begun.get(), 0);
        for byte in b"GET / HTTP" {
            tokio::io::AsyncWriteExt::write_all(&mut client, &[*byte])
                .await
                .unwrap();
            assert!(polled().await.is_pending());
            assert_eq!(begun.get(), 1);
        }
        tokio::io::AsyncWriteExt::write_all(&mut client, b"/")
            .await
            .unwrap();
        let Poll::Ready(Ok(first)) = polled().await else {
            panic!("a request line is enough")
        };
        assert_eq!(first, FirstBytes::Http1);
    }

    #[test]
    fn protocols_are_told_apart() {
        for (bytes, expected) in [
            (&b"GET / HTTP/1.1\r\n"[..], FirstBytes::Http1),
            (b"GET / HTTP/", FirstBytes::Http1),
            (b"\r\nPOST /x HTTP/1.0", FirstBytes::Http1),
            (b"GET / HTT", FirstBytes::NeedMore),
            (b"GET", FirstBytes::NeedMore),
            (b"GET key\r\n", FirstBytes::Other),
            (b"SSH-2.0-OpenSSH_9.6 Ubuntu\r\n", FirstBytes::Other),
            (b"EHLO example.org\r\n", FirstBytes::Other),
            (b"\x00\x00\x00\x08\x04\xd2\x16\x2f", FirstBytes::Other),
            (b"*1\r\n$4\r\nPING\r\n", FirstBytes::Other),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00", FirstBytes::Http2Preface),
            (b"PRI * HTTP/2.0\r\n", FirstBytes::NeedMore),
            (b"PUT /", FirstBytes::NeedMore),
            (b"\x16\x03", FirstBytes::NeedMore),
            (b"\x16\x02", FirstBytes::Other),
            (b"\x16\x03\x01\x00\x00", FirstBytes::Other),
            (b"\x16\x03\x01\x00\x05\x02", FirstBytes::Other),
            (b"", FirstBytes::NeedMore),
        ] {
            assert_eq!(
                classify(bytes),
                expected,
                "{:?}",
                bytes.escape_ascii().to_string()
            );
        }
        let long = [b"GET /".as_slice(), &vec![b'a'; 3000]].concat();
        assert_eq!(classify(&long), FirstBytes::Http1);
    }
}
