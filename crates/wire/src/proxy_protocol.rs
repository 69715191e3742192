//! The PROXY protocol, versions 1 and 2: what a load balancer says of its client before anything else on a connection.
//!
//! [`parse`] is pure and is asked again with more bytes while it says [`Parsed::NeedMore`]; it never asks for more than 232.
//! A header that is not exactly of one of the two forms, or is missing, is an error: the connection is to be closed, since what
//! follows could be read as something that nobody sent (The PROXY protocol, Versions 1 & 2, §2). Whom to believe is not decided
//! here.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use bytes::BytesMut;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncReadExt};

/// What a header of version 1 begins with (§2.1).
const VERSION_1: &[u8] = b"PROXY ";
/// The longest header of version 1 with its CRLF (§2.1).
const LINE_BYTES: usize = 107;
/// What a header of version 2 begins with (§2.2).
const VERSION_2: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// Signature, version and command, family and protocol, length.
const FIXED_BYTES: usize = 16;
/// The addresses of two unix sockets, which are read over.
const UNIX_BYTES: usize = 216;

/// Both ends of the connection that a proxy stands in for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Addresses {
    /// The client.
    pub source: SocketAddr,
    /// What the client called.
    pub destination: SocketAddr,
}

/// How far a header has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Parsed {
    /// The rest has not arrived.
    NeedMore,
    /// What it says is known.
    Header {
        /// The two ends; `None` where the header speaks of none (`LOCAL`, `UNKNOWN`, `UNSPEC`, unix sockets), and the
        /// connection's own count.
        addresses: Option<Addresses>,
        /// Bytes of the header, with extensions (TLVs) that may not have arrived yet and are to be read over: at most 65551.
        length: usize,
    },
}

/// Why bytes are no header.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum Malformed {
    /// Neither version's signature.
    #[error("connection does not begin with a PROXY protocol header")]
    Missing,
    /// Version 1: no CRLF within 107 bytes.
    #[error("PROXY protocol line is longer than 107 bytes")]
    TooLong,
    /// Version 1: not one of the forms of §2.1.
    #[error("PROXY protocol line is not of the form `PROXY TCP4|TCP6 SOURCE DESTINATION PORT PORT`")]
    Line,
    /// Version 2: another version than 2, or a command that is neither `LOCAL` nor `PROXY`.
    #[error("PROXY protocol version and command `{0:#04x}` are not known")]
    Command(u8),
    /// Version 2: a family or protocol without a meaning, or one that no TCP connection can have.
    #[error("PROXY protocol family and protocol `{0:#04x}` are not of a TCP connection")]
    Family(u8),
    /// Version 2: the length leaves no room for the family's addresses.
    #[error("PROXY protocol header has {0} bytes for its addresses, which are more")]
    Short(u16),
}

/// Why there is no header on a connection.
#[derive(Debug, Error)]
pub enum HeaderError {
    /// It is not one.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// The connection ended in it.
    #[error("connection closed in the middle of a PROXY protocol header")]
    Closed,
    /// The socket failed.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Reads the header that `bytes`, all that a connection has sent so far, begin with.
///
/// # Errors
/// [`Malformed`], as soon as no further byte could make it a header.
pub fn parse(bytes: &[u8]) -> Result<Parsed, Malformed> {
    if starts(bytes, VERSION_2) {
        return match bytes.split_at_checked(FIXED_BYTES) {
            Some((fixed, rest)) => version_2(fixed, rest),
            None => early_2(bytes),
        };
    }
    if starts(bytes, VERSION_1) {
        return version_1(bytes);
    }
    Err(Malformed::Missing)
}

/// Whether `bytes` begin with `signature`, or can still become it.
fn starts(bytes: &[u8], signature: &[u8]) -> bool {
    let length = bytes.len().min(signature.len());
    bytes.get(..length) == signature.get(..length)
}

fn version_1(bytes: &[u8]) -> Result<Parsed, Malformed> {
    let line = bytes.get(..LINE_BYTES).unwrap_or(bytes);
    let end = line.windows(2).position(|two| two == b"\r\n");
    let body = match end {
        Some(end) => line.get(..end).unwrap_or_default(),
        None => line.strip_suffix(b"\r").unwrap_or(line),
    };
    // A bare CR or LF ends no line, and may not stand in one.
    if body.iter().any(|byte| matches!(byte, b'\r' | b'\n')) {
        return Err(Malformed::Line);
    }
    let Some(end) = end else {
        return if line.len() == LINE_BYTES {
            Err(Malformed::TooLong)
        } else {
            Ok(Parsed::NeedMore)
        };
    };
    let text = std::str::from_utf8(body).map_err(|_| Malformed::Line)?;
    let length = end + 2;
    let mut words = text.split(' ').skip(1);
    let addresses = match words.next() {
        // What follows it is to be ignored.
        Some("UNKNOWN") => None,
        Some("TCP4") => Some(line_addresses(&mut words, |text| {
            text.parse::<Ipv4Addr>().ok().map(IpAddr::V4)
        })?),
        Some("TCP6") => Some(line_addresses(&mut words, |text| {
            let is_groups = !text.contains('.');
            is_groups.then(|| text.parse::<Ipv6Addr>().ok().map(IpAddr::V6))?
        })?),
        Some(_) | None => return Err(Malformed::Line),
    };
    Ok(Parsed::Header { addresses, length })
}

fn line_addresses<'t>(
    words: &mut impl Iterator<Item = &'t str>,
    address: impl Fn(&str) -> Option<IpAddr>,
) -> Result<Addresses, Malformed> {
    let mut next = || words.next().ok_or(Malformed::Line);
    let (source, destination) = (next()?, next()?);
    let (source_port, destination_port) = (next()?, next()?);
    if words.next().is_some() {
        return Err(Malformed::Line);
    }
    let end = |text, number| Some(SocketAddr::new(address(text)?, port(number)?));
    Ok(Addresses {
        source: end(source, source_port).ok_or(Malformed::Line)?,
        destination: end(destination, destination_port).ok_or(Malformed::Line)?,
    })
}

/// A decimal number without leading zeros (§2.1).
fn port(text: &str) -> Option<u16> {
    let is_plain = text.bytes().all(|byte| byte.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    is_plain.then(|| text.parse().ok())?
}

/// What can be refused before the fixed part is whole.
fn early_2(bytes: &[u8]) -> Result<Parsed, Malformed> {
    let command = bytes.get(12).copied();
    if let Some(command) = command.filter(|command| !matches!(command, 0x20 | 0x21)) {
        return Err(Malformed::Command(command));
    }
    if command == Some(0x21)
        && let Some(&family) = bytes.get(13)
    {
        address_bytes(family)?;
    }
    Ok(Parsed::NeedMore)
}

fn version_2(fixed: &[u8], rest: &[u8]) -> Result<Parsed, Malformed> {
    let &[command, family, high, low] = fixed.last_chunk::<4>().ok_or(Malformed::Missing)?;
    let announced = u16::from_be_bytes([high, low]);
    let length = FIXED_BYTES + usize::from(announced);
    let wanted = match command {
        // The block, its family too, is to be ignored.
        0x20 => {
            return Ok(Parsed::Header {
                addresses: None,
                length,
            });
        }
        0x21 => address_bytes(family)?,
        other => return Err(Malformed::Command(other)),
    };
    if usize::from(announced) < wanted {
        return Err(Malformed::Short(announced));
    }
    let Some(block) = rest.get(..wanted) else {
        return Ok(Parsed::NeedMore);
    };
    let addresses = match family {
        0x11 => block_addresses::<4>(block),
        0x21 => block_addresses::<16>(block),
        _ => None,
    };
    Ok(Parsed::Header { addresses, length })
}

/// How long the addresses of a family are.
fn address_bytes(family: u8) -> Result<usize, Malformed> {
    match family {
        0x00 => Ok(0),
        0x11 => Ok(12),
        0x21 => Ok(36),
        0x31 => Ok(UNIX_BYTES),
        // Datagrams, and what §2.2 gives no meaning.
        other => Err(Malformed::Family(other)),
    }
}

/// Two addresses of `N` bytes, then two ports.
fn block_addresses<const N: usize>(block: &[u8]) -> Option<Addresses>
where
    IpAddr: From<[u8; N]>,
{
    let (source, rest) = block.split_first_chunk::<N>()?;
    let (destination, ports) = rest.split_first_chunk::<N>()?;
    let &[a, b, c, d] = ports.first_chunk::<4>()?;
    Some(Addresses {
        source: SocketAddr::new((*source).into(), u16::from_be_bytes([a, b])),
        destination: SocketAddr::new((*destination).into(), u16::from_be_bytes([c, d])),
    })
}

/// Reads a header from `io`. What was read behind it is left in `buffer`. Extensions are read over without being kept. Has no
/// timeout of its own. Not cancel safe: after a drop the connection is to be closed.
///
/// # Errors
/// [`HeaderError`]; the connection is to be closed without an answer.
pub async fn read_header<IO: AsyncRead + Unpin>(
    io: &mut IO,
    buffer: &mut BytesMut,
) -> Result<Option<Addresses>, HeaderError> {
    let (addresses, length) = loop {
        match parse(buffer)? {
            Parsed::Header { addresses, length } => break (addresses, length),
            Parsed::NeedMore => more(io, buffer).await?,
        }
    };
    let mut left = length;
    loop {
        let here = left.min(buffer.len());
        let _ = buffer.split_to(here);
        left -= here;
        if left == 0 {
            return Ok(addresses);
        }
        more(io, buffer).await?;
    }
}

async fn more<IO: AsyncRead + Unpin>(io: &mut IO, buffer: &mut BytesMut) -> Result<(), HeaderError> {
    if buffer.capacity() - buffer.len() < FIXED_BYTES {
        buffer.reserve(512);
    }
    if io.read_buf(buffer).await? == 0 {
        return Err(HeaderError::Closed);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;

    use super::*;

    #[tokio::test]
    async fn what_follows_a_header_is_kept_and_extensions_are_not() {
        let extensions = vec![7; 40_000];
        let mut bytes = VERSION_2.to_vec();
        bytes.extend([0x21, 0x11]);
        bytes.extend(u16::try_from(12 + extensions.len()).unwrap().to_be_bytes());
        bytes.extend([192, 0, 2, 1, 10, 0, 0, 1, 0x1f, 0x90, 0, 80]);
        bytes.extend(&extensions);
        bytes.extend(b"GET / HTTP/1.1\r\n");
        let (mut client, mut server) = tokio::io::duplex(1000);
        let sent = tokio::spawn(async move {
            client.write_all(&bytes).await.unwrap();
            client
        });
        let mut buffer = BytesMut::new();
        let addresses = read_header(&mut server, &mut buffer).await.unwrap().unwrap();
        assert_eq!(addresses.source, "192.0.2.1:8080".parse().unwrap());
        assert!(buffer.capacity() < 2000, "{}", buffer.capacity());
        let _client = sent.await.unwrap();
        while buffer.len() < 16 {
            server.read_buf(&mut buffer).await.unwrap();
        }
        assert_eq!(&buffer[..], b"GET / HTTP/1.1\r\n");
    }

    #[tokio::test]
    async fn a_connection_that_ends_in_a_header_has_none() {
        for bytes in [&b""[..], b"PROXY TCP4 1.2.3.4", VERSION_2] {
            let mut io = bytes;
            let read = read_header(&mut io, &mut BytesMut::new()).await;
            assert!(matches!(read, Err(HeaderError::Closed)), "{read:?}");
        }
    }
}
