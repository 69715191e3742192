//! Bodies from bytes (RFC 9112 §6 and §7): data frames and trailers out of what the socket gave.
//!
//! Pure and resumable at every byte. Chunk extensions are read over; sizes, size lines and trailer sections
//! are bounded by [`Limits`]. Data is split off the buffer, never copied.

use bytes::{Buf, Bytes, BytesMut};
use std::mem::MaybeUninit;
use thiserror::Error;

use super::parse::{Framing, HeadScan, Limits, ParseError};
use crate::head::Headers;

/// Why a body cannot be read on.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum BodyError {
    /// A size line that is not a hexadecimal number with extensions.
    #[error("malformed chunk size")]
    ChunkSize,
    /// No CRLF after a chunk's data.
    #[error("chunk data is not followed by CRLF")]
    ChunkEnd,
    /// A size line or its extensions beyond the limit.
    #[error("chunk size line is too long")]
    ChunkLineTooLong,
    /// A trailer field that is malformed, or a field that must not stand in trailers.
    #[error("malformed trailer field")]
    Trailer,
    /// A trailer section beyond the limits.
    #[error("trailer section is too large")]
    TrailersTooLarge,
    /// The connection ended before the body.
    #[error("connection closed before the end of the body")]
    Incomplete,
}

/// One step of a body.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Decoded {
    /// More bytes are needed.
    NeedMore,
    /// Body bytes, at least one.
    Data(Bytes),
    /// The trailer section; the end follows.
    Trailers(Headers),
    /// The body is complete; what the buffer still holds belongs to the next message.
    End,
}

#[derive(Clone, Copy, Debug)]
enum State {
    Length(u64),
    UntilClose,
    /// Before a size line.
    Size,
    /// In a chunk with so many bytes to come.
    Data(u64),
    /// Before the CRLF that ends a chunk.
    DataEnd,
    Trailers(HeadScan),
    Done,
}

/// Reads one body.
#[derive(Clone, Copy, Debug)]
pub struct BodyDecoder {
    state: State,
    limits: Limits,
}

impl BodyDecoder {
    /// A decoder for a body that ends as `framing` says.
    pub fn new(framing: Framing, limits: Limits) -> Self {
        let state = match framing {
            Framing::None | Framing::Length(0) => State::Done,
            Framing::Length(length) => State::Length(length),
            Framing::Chunked => State::Size,
            Framing::UntilClose => State::UntilClose,
        };
        Self { state, limits }
    }

    /// Whether the body is complete.
    pub fn is_done(&self) -> bool {
        matches!(self.state, State::Done)
    }

    /// Body bytes that are certainly still to come, to size the next read.
    pub(crate) fn expected(&self) -> u64 {
        match self.state {
            State::Length(left) | State::Data(left) => left,
            State::UntilClose => u64::MAX,
            State::Size | State::DataEnd | State::Trailers(_) | State::Done => 0,
        }
    }

    /// The connection has ended: right only for a body that ends so.
    ///
    /// # Errors
    /// [`BodyError::Incomplete`].
    pub fn end_of_input(&mut self) -> Result<(), BodyError> {
        match self.state {
            State::UntilClose | State::Done => {
                self.state = State::Done;
                Ok(())
            }
            State::Length(_) | State::Size | State::Data(_) | State::DataEnd | State::Trailers(_) => {
                Err(BodyError::Incomplete)
            }
        }
    }

    /// The next step out of `buffer`, taking what it consumed.
    ///
    /// # Errors
    /// [`BodyError`]; the connection cannot be used further.
    pub fn decode(&mut self, buffer: &mut BytesMut) -> Result<Decoded, BodyError> {
        loop {
            match self.state {
                State::Done => return Ok(Decoded::End),
                _ if buffer.is_empty() => return Ok(Decoded::NeedMore),
                State::UntilClose => return Ok(Decoded::Data(buffer.split().freeze())),
                State::Length(left) => {
                    let (data, left) = take(buffer, left);
                    self.state = if left == 0 {
                        State::Done
                    } else {
                        State::Length(left)
                    };
                    return Ok(Decoded::Data(data));
                }
                State::Data(left) => {
                    let (data, left) = take(buffer, left);
                    self.state = if left == 0 {
                        State::DataEnd
                    } else {
                        State::Data(left)
                    };
                    return Ok(Decoded::Data(data));
                }
                State::DataEnd => match buffer.get(..2) {
                    Some(b"\r\n") => {
                        buffer.advance(2);
                        self.state = State::Size;
                    }
                    None if buffer.first() == Some(&b'\r') => return Ok(Decoded::NeedMore),
                    Some(_) | None => return Err(BodyError::ChunkEnd),
                },
                State::Size => {
                    let limit = self.limits.chunk_line_bytes;
                    let line = buffer.get(..limit.min(buffer.len())).unwrap_or_default();
                    let Some(newline) = memchr::memchr(b'\n', line) else {
                        // What is there must be the start of a size line, so that nonsense is refused at once.
                        chunk_size(line.strip_suffix(b"\r").unwrap_or(line), false)?;
                        return if buffer.len() >= limit {
                            Err(BodyError::ChunkLineTooLong)
                        } else {
                            Ok(Decoded::NeedMore)
                        };
                    };
                    let line = line
                        .get(..newline)
                        .and_then(|line| line.strip_suffix(b"\r"))
                        .ok_or(BodyError::ChunkSize)?;
                    let size = chunk_size(line, true)?;
                    buffer.advance(newline + 1);
                    self.state = if size == 0 {
                        State::Trailers(HeadScan::default())
                    } else {
                        State::Data(size)
                    };
                }
                State::Trailers(mut scan) => {
                    let end = scan.end(buffer, self.limits.trailer_bytes).map_err(|error| {
                        if error == ParseError::BareLf {
                            BodyError::Trailer
                        } else {
                            BodyError::TrailersTooLarge
                        }
                    })?;
                    let Some(end) = end else {
                        self.state = State::Trailers(scan);
                        return Ok(Decoded::NeedMore);
                    };
                    self.state = State::Done;
                    let section = buffer.split_to(end).freeze();
                    if section.len() > 2 {
                        let trailers = parse_trailers(&section, &self.limits)?;
                        if !trailers.is_empty() {
                            return Ok(Decoded::Trailers(trailers));
                        }
                    }
                }
            }
        }
    }
}

fn take(buffer: &mut BytesMut, left: u64) -> (Bytes, u64) {
    let count = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
    let data = if count == buffer.len() {
        buffer.split()
    } else {
        buffer.split_to(count)
    };
    (data.freeze(), left - count as u64)
}

/// The size at the start of a size line; `complete` when the line is.
fn chunk_size(line: &[u8], complete: bool) -> Result<u64, BodyError> {
    let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
    if (digits == 0 && (complete || !line.is_empty())) || digits > 15 {
        return Err(BodyError::ChunkSize);
    }
    let (size, rest) = line.split_at(digits);
    let size = size.iter().fold(0u64, |sum, &byte| {
        let digit = match byte {
            b'0'..=b'9' => byte - b'0',
            _ => (byte | 0x20) - b'a' + 10,
        };
        sum * 16 + u64::from(digit)
    });
    // Some servers pad the size with spaces; it ends the line or extensions follow.
    let extension = rest.trim_ascii_start();
    let extension_valid = extension.is_empty()
        || (extension.first() == Some(&b';') && extension.iter().copied().all(crate::head::is_field_value));
    let padding_valid = rest
        .iter()
        .take(rest.len() - extension.len())
        .all(|byte| matches!(byte, b' ' | b'\t'));
    if extension_valid && padding_valid {
        Ok(size)
    } else {
        Err(BodyError::ChunkSize)
    }
}

/// Fields that frame, route or authorize a message, or say who sent it, have no place after it (RFC 9110 §6.5.1): nobody has
/// looked at them, and some servers put them among those of the head.
pub(crate) fn is_forbidden_trailer(name: &[u8]) -> bool {
    const FORBIDDEN: [&str; 16] = [
        "transfer-encoding",
        "content-length",
        "host",
        "connection",
        "trailer",
        "te",
        "upgrade",
        "expect",
        "authorization",
        "proxy-authorization",
        "cookie",
        "set-cookie",
        "content-encoding",
        "content-type",
        "content-range",
        "forwarded",
    ];
    const OF_PROXIES: [&str; 3] = ["x-forwarded-", "x-envoy-", "x-bartizan-"];
    let begins = |start: &&str| {
        name.get(..start.len()).is_some_and(|name| {
            // Servers that name variables after fields make no difference between the two signs.
            let same =
                |(one, other): (&u8, u8)| one.eq_ignore_ascii_case(&other) || (*one == b'_' && other == b'-');
            name.iter().zip(start.bytes()).all(same)
        })
    };
    FORBIDDEN
        .iter()
        .any(|forbidden| name.len() == forbidden.len() && begins(forbidden))
        || OF_PROXIES.iter().any(begins)
}

fn parse_trailers(section: &Bytes, limits: &Limits) -> Result<Headers, BodyError> {
    let mut request = httparse::Request::new(&mut []);
    // `httparse` reads header blocks only behind a start line when the slots are uninitialised.
    let mut line = BytesMut::with_capacity(section.len() + 16);
    line.extend_from_slice(b"GET / HTTP/1.1\r\n");
    line.extend_from_slice(section);
    let block = line.freeze();
    let mut slots = [const { MaybeUninit::uninit() }; Limits::MOST_FIELDS];
    let slots = slots
        .get_mut(..limits.fields)
        .ok_or(BodyError::TrailersTooLarge)?;
    let status = request
        .parse_with_uninit_headers(&block, slots)
        .map_err(|error| {
            if error == httparse::Error::TooManyHeaders {
                BodyError::TrailersTooLarge
            } else {
                BodyError::Trailer
            }
        })?;
    if status != httparse::Status::Complete(block.len()) {
        return Err(BodyError::Trailer);
    }
    let base = block.as_ptr().addr();
    let span = |bytes: &[u8]| (bytes.as_ptr().addr().wrapping_sub(base), bytes.len());
    let mut trailers = Headers::in_block(block.clone(), request.headers.len());
    for field in request
        .headers
        .iter()
        .filter(|field| !is_forbidden_trailer(field.name.as_bytes()))
    {
        trailers.push_span(span(field.name.as_bytes()), span(field.value.trim_ascii()));
    }
    Ok(trailers)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Data, trailers and what follows.
    type Read = (Vec<u8>, Option<Headers>, Vec<u8>);

    fn decode_all(input: &[u8], step: usize) -> Result<Read, BodyError> {
        let mut decoder = BodyDecoder::new(Framing::Chunked, Limits::default());
        let (mut data, mut trailers, mut buffer) = (Vec::new(), None, BytesMut::new());
        let mut parts = input.chunks(step.max(1));
        loop {
            match decoder.decode(&mut buffer)? {
                Decoded::NeedMore => match parts.next() {
                    Some(part) => buffer.extend_from_slice(part),
                    None => return Err(BodyError::Incomplete),
                },
                Decoded::Data(bytes) => data.extend_from_slice(&bytes),
                Decoded::Trailers(fields) => trailers = Some(fields),
                Decoded::End => {
                    for part in parts {
                        buffer.extend_from_slice(part);
                    }
                    return Ok((data, trailers, buffer.to_vec()));
                }
            }
        }
    }

    #[test]
    fn chunks_extensions_trailers_and_what_follows() {
        let input = b"5\r\nhello\r\n6 ;a=\"b\";c\r\n world\r\n0\r\nX: y\r\ncontent-length: 4\r\n\r\nGET /";
        for step in 1..input.len() {
            let (data, trailers, rest) = decode_all(input, step).unwrap();
            assert_eq!(data, b"hello world");
            let trailers = trailers.unwrap();
            assert_eq!(trailers.iter().collect::<Vec<_>>(), [(&b"X"[..], &b"y"[..])]);
            assert_eq!(rest, b"GET /");
        }
    }

    #[test]
    fn malformed_chunks_are_refused_at_every_split() {
        for (input, expected) in [
            (&b"\r\n"[..], BodyError::ChunkSize),
            (b"g\r\n", BodyError::ChunkSize),
            (b"-1\r\n", BodyError::ChunkSize),
            (b"0x5\r\n", BodyError::ChunkSize),
            (b"5\nhello", BodyError::ChunkSize),
            (b" 5\r\nhello\r\n", BodyError::ChunkSize),
            (b"5 5\r\nhello\r\n", BodyError::ChunkSize),
            (b"5;a\0b\r\nhello\r\n", BodyError::ChunkSize),
            (b"5;a\rb\r\nhello\r\n", BodyError::ChunkSize),
            (b"ffffffffffffffff\r\n", BodyError::ChunkSize),
            (b"5\r\nhelloworld", BodyError::ChunkEnd),
            (b"5\r\nhello\n0\r\n\r\n", BodyError::ChunkEnd),
            (b"0\r\nX y\r\n\r\n", BodyError::Trailer),
            (b"0\r\nX: y\n\n", BodyError::Trailer),
            (b"5\r\nhel", BodyError::Incomplete),
        ] {
            for step in 1..=input.len() {
                assert_eq!(decode_all(input, step), Err(expected), "{input:?} by {step}");
            }
        }
    }

    #[test]
    fn long_size_lines_and_trailers_are_bounded() {
        let line = [b"5;".as_slice(), &vec![b'a'; 5000]].concat();
        assert_eq!(decode_all(&line, 100), Err(BodyError::ChunkLineTooLong));
        let trailers = [b"0\r\nx: ".as_slice(), &vec![b'a'; 20000]].concat();
        assert_eq!(decode_all(&trailers, 100), Err(BodyError::TrailersTooLarge));
        let many = [b"0\r\n".as_slice(), &b"a: b\r\n".repeat(101), b"\r\n"].concat();
        assert_eq!(decode_all(&many, 100), Err(BodyError::TrailersTooLarge));
    }

    #[test]
    fn a_length_ends_where_it_says() {
        let mut decoder = BodyDecoder::new(Framing::Length(3), Limits::default());
        let mut buffer = BytesMut::from(&b"abcd"[..]);
        assert_eq!(
            decoder.decode(&mut buffer),
            Ok(Decoded::Data(Bytes::from_static(b"abc")))
        );
        assert_eq!(decoder.decode(&mut buffer), Ok(Decoded::End));
        assert_eq!(&buffer[..], b"d");
        let mut short = BodyDecoder::new(Framing::Length(3), Limits::default());
        assert_eq!(short.end_of_input(), Err(BodyError::Incomplete));
    }
}
