//! An HTTP/2 client of hand-made frames over cleartext, by prior knowledge (RFC 9113 section 3.3): it sends what no library
//! would, and shows what comes for each stream.

use std::io::{self, Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RESET: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GO_AWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// What came.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event {
    /// The head of an answer.
    Head {
        /// Of which stream.
        stream: u32,
        /// Its `:status`.
        status: u16,
        /// Nothing follows.
        is_end: bool,
    },
    /// Bytes of a body.
    Data {
        /// Of which stream.
        stream: u32,
        /// They.
        bytes: Vec<u8>,
        /// Nothing follows.
        is_end: bool,
    },
    /// The stream was reset.
    Reset {
        /// Which.
        stream: u32,
        /// The error code.
        code: u32,
    },
    /// The connection takes no more streams.
    GoAway,
    /// The connection was closed.
    Closed,
}

/// A connection.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    read: Vec<u8>,
    next: u32,
}

impl Connection {
    /// Opens one, and lets the server send without end and without a table of fields.
    ///
    /// # Errors
    /// The system's.
    pub fn open(address: &str) -> io::Result<Self> {
        let mut stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")?;
        let mut connection = Self {
            stream,
            read: Vec::new(),
            next: 1,
        };
        let mut settings = Vec::new();
        for (name, value) in [(1_u16, 0_u32), (4, 0x3fff_ffff)] {
            settings.extend(name.to_be_bytes());
            settings.extend(value.to_be_bytes());
        }
        connection.send(SETTINGS, 0, 0, &settings)?;
        connection.send(WINDOW_UPDATE, 0, 0, &0x3fff_0000_u32.to_be_bytes())?;
        Ok(connection)
    }

    fn send(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) -> io::Result<()> {
        let length = u32::try_from(payload.len()).map_err(io::Error::other)?;
        let mut frame = length.to_be_bytes()[1..].to_vec();
        frame.extend([kind, flags]);
        frame.extend(stream.to_be_bytes());
        frame.extend(payload);
        self.stream.write_all(&frame)
    }

    /// Sends a request without a body: exactly these fields, in this order. Its stream.
    ///
    /// # Errors
    /// The system's.
    pub fn request(&mut self, fields: &[(&[u8], &[u8])]) -> io::Result<u32> {
        let mut block = Vec::new();
        for (name, value) in fields {
            // Literal without indexing, new name, no Huffman coding (RFC 7541 section 6.2.2).
            block.push(0);
            for text in [name, value] {
                block.extend(length(text.len()));
                block.extend(*text);
            }
        }
        let stream = self.next;
        self.next += 2;
        self.send(HEADERS, END_STREAM | END_HEADERS, stream, &block)?;
        Ok(stream)
    }

    /// Sends a GET with these fields after the usual ones. Its stream.
    ///
    /// # Errors
    /// The system's.
    pub fn get(&mut self, path: &str, fields: &[(&str, &str)]) -> io::Result<u32> {
        let usual = [
            (":method", "GET"),
            (":scheme", "http"),
            (":authority", "lab"),
            (":path", path),
        ];
        let all: Vec<(&[u8], &[u8])> = usual
            .iter()
            .chain(fields)
            .map(|(name, value)| (name.as_bytes(), value.as_bytes()))
            .collect();
        self.request(&all)
    }

    /// The next thing that comes within the time; `None` when nothing does.
    ///
    /// # Errors
    /// When what comes is not what was asked for.
    pub fn next(&mut self, within: Duration) -> io::Result<Option<Event>> {
        let deadline = Instant::now() + within;
        loop {
            if let Some(frame) = self.frame()
                && let Some(event) = self.understand(frame)?
            {
                return Ok(Some(event));
            }
            if self.has_frame() {
                continue;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            self.stream.set_read_timeout(Some(left))?;
            let mut bytes = [0; 16 * 1024];
            match self.stream.read(&mut bytes) {
                Ok(0) => return Ok(Some(Event::Closed)),
                Ok(count) => self.read.extend_from_slice(&bytes[..count]),
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {
                    return Ok(Some(Event::Closed));
                }
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                    return Ok(None);
                }
                Err(error) => return Err(error),
            }
        }
    }

    fn has_frame(&self) -> bool {
        self.read.len() >= 9
            && self.read.len() >= 9 + (usize::from(self.read[1]) << 8 | usize::from(self.read[2]))
    }

    fn frame(&mut self) -> Option<(u8, u8, u32, Vec<u8>)> {
        if !self.has_frame() {
            return None;
        }
        // What is sent here was told no larger frame than 16,384.
        let length = usize::from(self.read[1]) << 8 | usize::from(self.read[2]);
        let frame: Vec<u8> = self.read.drain(..9 + length).collect();
        let stream = u32::from_be_bytes([frame[5] & 0x7f, frame[6], frame[7], frame[8]]);
        Some((frame[3], frame[4], stream, frame[9..].to_vec()))
    }

    fn understand(&mut self, frame: (u8, u8, u32, Vec<u8>)) -> io::Result<Option<Event>> {
        let (kind, flags, stream, payload) = frame;
        let is_end = flags & END_STREAM != 0;
        Ok(match kind {
            SETTINGS | PING if flags & 1 == 0 => {
                self.send(kind, 1, 0, if kind == PING { &payload } else { &[] })?;
                None
            }
            HEADERS => Some(Event::Head {
                stream,
                status: status(&payload)
                    .ok_or_else(|| io::Error::other(format!("no status: {payload:?}")))?,
                is_end,
            }),
            DATA => Some(Event::Data {
                stream,
                bytes: payload,
                is_end,
            }),
            RESET => Some(Event::Reset {
                stream,
                code: payload.iter().fold(0, |code, byte| code << 8 | u32::from(*byte)),
            }),
            GO_AWAY => Some(Event::GoAway),
            _ => None,
        })
    }

    /// The whole answer to a stream: its status and its body; `None` when it was reset or the connection closed.
    ///
    /// # Errors
    /// When it does not end in time.
    pub fn answer(&mut self, of: u32, within: Duration) -> io::Result<Option<(u16, Vec<u8>)>> {
        let deadline = Instant::now() + within;
        let (mut found, mut body) = (0, Vec::new());
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let ended = match self.next(left)? {
                None => return Err(io::ErrorKind::TimedOut.into()),
                Some(Event::Head {
                    stream,
                    status,
                    is_end,
                }) if stream == of => {
                    found = status;
                    is_end
                }
                Some(Event::Data {
                    stream,
                    bytes,
                    is_end,
                }) if stream == of => {
                    body.extend(bytes);
                    is_end
                }
                Some(Event::Reset { stream, .. }) if stream == of => return Ok(None),
                Some(Event::GoAway | Event::Closed) => return Ok(None),
                Some(_) => false,
            };
            if ended {
                return Ok(Some((found, body)));
            }
        }
    }
}

/// An integer with a prefix of seven bits (RFC 7541 section 5.1).
fn length(count: usize) -> Vec<u8> {
    let digit = |value: usize| u8::try_from(value & 0x7f).unwrap_or_default();
    if count < 127 {
        return vec![digit(count)];
    }
    let (mut rest, mut out) = (count - 127, vec![127]);
    while rest >= 128 {
        out.push(digit(rest) | 128);
        rest >>= 7;
    }
    out.push(digit(rest));
    out
}

/// The `:status` that a block of fields begins with: one of the static table, or three digits, plain or in Huffman code.
fn status(block: &[u8]) -> Option<u16> {
    // Changes of the table's size come first.
    let block = &block[block.iter().position(|byte| byte & 0xe0 != 0x20)?..];
    let known = [200, 204, 206, 304, 400, 404, 500];
    let (first, rest) = block.split_first()?;
    if first & 0x80 != 0 {
        return known.get(usize::from(first & 0x7f).checked_sub(8)?).copied();
    }
    if !(8..=14).contains(&(first & if first & 0x40 != 0 { 0x3f } else { 0x0f })) {
        return None;
    }
    let (length, text) = rest.split_first()?;
    let text = text.get(..usize::from(length & 0x7f))?;
    if length & 0x80 == 0 {
        return std::str::from_utf8(text).ok()?.parse().ok();
    }
    let bits: Vec<bool> = text
        .iter()
        .flat_map(|byte| (0..8).rev().map(move |at| byte >> at & 1 == 1))
        .collect();
    let value = |bits: &[bool]| bits.iter().fold(0_u16, |value, bit| value << 1 | u16::from(*bit));
    let (mut at, mut status) = (0, 0);
    for _ in 0..3 {
        // 0, 1 and 2 are five bits, 3 to 9 are six, from 0x19 on (RFC 7541 appendix B).
        let digit = match value(bits.get(at..at + 5)?) {
            digit @ 0..=2 => {
                at += 5;
                digit
            }
            _ => {
                let digit = value(bits.get(at..at + 6)?);
                at += 6;
                digit.checked_sub(0x16)?
            }
        };
        status = status * 10 + digit;
    }
    Some(status)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_read_however_it_is_written() {
        assert_eq!(status(&[0x88]), Some(200));
        assert_eq!(status(&[0x20, 0x8d]), Some(404));
        // 403: 011010 00000 011001, and ones to the end.
        assert_eq!(
            status(&[0x48, 0x83, 0b0110_1000, 0b0000_1100, 0b1111_1111]),
            Some(403)
        );
        assert_eq!(status(&[0x08, 0x03, b'5', b'0', b'3']), Some(503));
        assert_eq!(status(&[0x40]), None);
    }
}
