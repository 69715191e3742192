//! HTTP/1 heads and chunks to bytes. Every head written here frames its message in exactly one way, whatever
//! fields a caller left in it (RFC 9112 §6).

use http::StatusCode;

use super::parse::Framing;
use crate::buffer::Outbox;
use crate::exchange::{Cause, Frame};
use crate::head::{BodyLength, Headers, RequestHead, ResponseHead};

/// What a response must know of its request and connection.
#[derive(Clone, Copy, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "independent facts")]
pub struct ResponseTo {
    /// The request was `HEAD`: fields as for `GET`, no body.
    pub head: bool,
    /// The request was `CONNECT`: a 2xx opens a tunnel.
    pub connect: bool,
    /// The client speaks HTTP/1.0: no chunks, no interim responses.
    pub http10: bool,
    /// The connection stays open after it.
    pub keep_alive: bool,
}

fn decimal(out: &mut Vec<u8>, mut number: u64) {
    let mut digits = [0u8; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        if let Some(digit) = digits.get_mut(at) {
            // A remainder of 10 fits.
            *digit = b'0' + u8::try_from(number % 10).unwrap_or(0);
        }
        number /= 10;
        if number == 0 {
            break;
        }
    }
    out.extend_from_slice(digits.get(at..).unwrap_or_default());
}

fn field(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    out.extend_from_slice(name);
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

/// Writes the fields, and the framing in the place of `content-length` or after them.
fn fields(out: &mut Vec<u8>, headers: &Headers, framing: Framing, keep_length: bool) {
    let mut framed = framing == Framing::None || framing == Framing::UntilClose;
    for (name, value) in headers.iter() {
        let is = |other: &[u8]| name.eq_ignore_ascii_case(other);
        match name.len() {
            14 if is(b"content-length") => match framing {
                Framing::Length(length) if !framed => {
                    out.extend_from_slice(name);
                    out.extend_from_slice(b": ");
                    decimal(out, length);
                    out.extend_from_slice(b"\r\n");
                    framed = true;
                }
                Framing::None if keep_length && super::parse::content_length(value).is_some() => {
                    field(out, name, value);
                }
                Framing::None | Framing::Length(_) | Framing::Chunked | Framing::UntilClose => {}
            },
            7 if is(b"upgrade") => {}
            10 if is(b"connection") || is(b"keep-alive") => {}
            16 if is(b"proxy-connection") => {}
            17 if is(b"transfer-encoding") => {}
            _ => field(out, name, value),
        }
    }
    if !framed {
        match framing {
            Framing::Length(length) => {
                out.extend_from_slice(b"content-length: ");
                decimal(out, length);
                out.extend_from_slice(b"\r\n");
            }
            Framing::Chunked => out.extend_from_slice(b"transfer-encoding: chunked\r\n"),
            Framing::None | Framing::UntilClose => {}
        }
    }
}

/// Writes a request head and says how its body is to be written.
pub fn request_head(out: &mut Vec<u8>, head: &RequestHead) -> Framing {
    let framing = match head.body {
        BodyLength::Empty => Framing::None,
        BodyLength::Known(length) => Framing::Length(length),
        BodyLength::Unknown => Framing::Chunked,
    };
    out.extend_from_slice(head.method.as_str().as_bytes());
    out.push(b' ');
    out.extend_from_slice(&head.target);
    out.extend_from_slice(b" HTTP/1.1\r\n");
    fields(out, &head.headers, framing, false);
    if let Some(protocol) = &head.upgrade {
        field(out, b"connection", b"upgrade");
        field(out, b"upgrade", protocol);
    }
    out.extend_from_slice(b"\r\n");
    framing
}

/// Writes a response head and says how its body is to be written.
pub fn response_head(out: &mut Vec<u8>, head: &ResponseHead, to: ResponseTo) -> Framing {
    let status = head.status;
    let tunnel = to.connect && status.is_success();
    let bodiless = status.is_informational() || status == StatusCode::NO_CONTENT || tunnel;
    let framing = match head.body {
        _ if bodiless || to.head || status == StatusCode::NOT_MODIFIED => Framing::None,
        BodyLength::Empty => Framing::Length(0),
        BodyLength::Known(length) => Framing::Length(length),
        BodyLength::Unknown if to.http10 => Framing::UntilClose,
        BodyLength::Unknown => Framing::Chunked,
    };
    out.extend_from_slice(b"HTTP/1.1 ");
    out.extend_from_slice(status.as_str().as_bytes());
    out.push(b' ');
    if head.reason.is_empty() {
        out.extend_from_slice(status.canonical_reason().unwrap_or_default().as_bytes());
    } else {
        out.extend_from_slice(&head.reason);
    }
    out.extend_from_slice(b"\r\n");
    fields(out, &head.headers, framing, !bodiless);
    if status == StatusCode::SWITCHING_PROTOCOLS {
        field(out, b"connection", b"upgrade");
        field(out, b"upgrade", head.upgrade.as_deref().unwrap_or_default());
    } else if status.is_informational() || tunnel {
    } else if !to.keep_alive || framing == Framing::UntilClose {
        field(out, b"connection", b"close");
    } else if to.http10 {
        field(out, b"connection", b"keep-alive");
    }
    out.extend_from_slice(b"\r\n");
    framing
}

/// Writes the size line of a chunk of `length` bytes; its data and CRLF follow.
pub fn chunk_size(out: &mut Vec<u8>, length: usize) {
    let mut shift = (usize::BITS - length.leading_zeros()).div_ceil(4).max(1) * 4;
    while shift > 0 {
        shift -= 4;
        let digit = (length >> shift) & 0xf;
        // A hexadecimal digit fits.
        let digit = u32::try_from(digit)
            .ok()
            .and_then(|digit| char::from_digit(digit, 16));
        out.push(digit.map_or(b'0', |digit| digit as u8));
    }
    out.extend_from_slice(b"\r\n");
}

/// Writes the last chunk and the trailer section.
pub fn last_chunk(out: &mut Vec<u8>, trailers: Option<&Headers>) {
    out.extend_from_slice(b"0\r\n");
    for (name, value) in trailers.into_iter().flat_map(Headers::iter) {
        field(out, name, value);
    }
    out.extend_from_slice(b"\r\n");
}

/// Writes one body as its head has announced it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BodyEncoder {
    framing: Framing,
    finished: bool,
}

impl BodyEncoder {
    pub(crate) fn new(framing: Framing) -> Self {
        Self {
            framing,
            finished: framing == Framing::None || framing == Framing::Length(0),
        }
    }

    /// A message without a body, complete.
    pub(crate) fn finished() -> Self {
        Self::new(Framing::None)
    }

    pub(crate) fn is_finished(&self) -> bool {
        self.finished
    }

    pub(crate) fn is_until_close(&self) -> bool {
        self.framing == Framing::UntilClose
    }

    /// Queues a frame and says how many body bytes it had. Data of a message that may have no body (`HEAD`) is
    /// dropped, trailers where nothing can carry them too (RFC 9110 §6.5.1).
    pub(crate) fn queue(&mut self, outbox: &mut Outbox, frame: Frame) -> Result<u64, Cause> {
        match (frame, self.framing) {
            (Frame::Data(data), _) if data.is_empty() => Ok(0),
            (Frame::Data(_), Framing::None) => Ok(0),
            (Frame::Data(_), _) if self.finished => Err(Cause::Length),
            (Frame::Data(data), Framing::Length(left)) => {
                let length = data.len() as u64;
                let left = left.checked_sub(length).ok_or(Cause::Length)?;
                self.framing = Framing::Length(left);
                self.finished = left == 0;
                outbox.push(data);
                Ok(length)
            }
            (Frame::Data(data), Framing::Chunked) => {
                let length = data.len() as u64;
                outbox.gather(|tail| chunk_size(tail, data.len()));
                outbox.push(data);
                outbox.gather(|tail| tail.extend_from_slice(b"\r\n"));
                Ok(length)
            }
            (Frame::Data(data), Framing::UntilClose) => {
                let length = data.len() as u64;
                outbox.push(data);
                Ok(length)
            }
            (Frame::Trailers(trailers), Framing::Chunked) if !self.finished => {
                outbox.gather(|tail| last_chunk(tail, Some(&trailers)));
                self.finished = true;
                Ok(0)
            }
            (Frame::Trailers(_), _) => Ok(0),
        }
    }

    /// Ends the body.
    ///
    /// # Errors
    /// [`Cause::Length`] when fewer bytes came than were announced.
    pub(crate) fn finish(&mut self, outbox: &mut Outbox) -> Result<(), Cause> {
        if self.finished {
            return Ok(());
        }
        match self.framing {
            Framing::Length(left) if left > 0 => return Err(Cause::Length),
            Framing::Chunked => {
                outbox.gather(|tail| last_chunk(tail, None));
            }
            Framing::Length(_) | Framing::None | Framing::UntilClose => {}
        }
        self.finished = true;
        Ok(())
    }
}
