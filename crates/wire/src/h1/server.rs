//! The server's end of an HTTP/1 connection: requests come in one after the other, pipelined ones too, and each
//! is answered before the next is read (RFC 9112 §9.3).

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use http::{Method, StatusCode, Version};
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::time::Instant;

use super::chunk::{BodyDecoder, BodyError, Decoded};
use super::encode::{self, BodyEncoder, ResponseTo};
use super::parse::{Framing, HeadScan, Limits, ParseError, parse_request};
use crate::buffer::{READ_BYTES, Wire};
use crate::exchange::{Cause, Counters, Downstream, Frame, Receive, Transmit};
use crate::head::{BodyLength, RequestHead, ResponseHead};

/// Empty lines that are read over before a request (RFC 9112 §2.2).
const BLANK_LINES: u8 = 4;
/// Bytes that are read and dropped while a connection closes.
const LINGER_BYTES: usize = 1024 * 1024;

/// Why there is no further request.
#[derive(Debug, Error)]
pub enum HeadError {
    /// It is malformed; tell the client and close: [`ServerConnection::reply_error`].
    #[error(transparent)]
    Parse(#[from] ParseError),
    /// The client closed the connection in the middle of a head.
    #[error("connection closed in the middle of a request head")]
    Closed,
    /// The socket or TLS failed.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// The server's end of a connection.
#[derive(Debug)]
pub struct ServerConnection<IO> {
    wire: Wire<IO>,
    limits: Limits,
    scan: HeadScan,
    blank_lines: u8,
    request: BodyDecoder,
    response: BodyEncoder,
    to: ResponseTo,
    /// A request has been read and its final response head not yet written.
    owes_head: bool,
    close: bool,
    untouched: bool,
    counters: Counters,
}

impl<IO: AsyncRead + AsyncWrite + Unpin> ServerConnection<IO> {
    /// A connection on `io`, from which nothing has been read.
    pub fn new(io: IO, limits: Limits) -> Self {
        Self::with_prefix(io, BytesMut::new(), limits)
    }

    /// A connection on `io`, from which `prefix` has been read.
    pub fn with_prefix(io: IO, prefix: BytesMut, limits: Limits) -> Self {
        Self {
            wire: Wire::new(io, prefix),
            limits,
            scan: HeadScan::default(),
            blank_lines: 0,
            request: BodyDecoder::new(Framing::None, limits),
            response: BodyEncoder::finished(),
            to: ResponseTo {
                head: false,
                connect: false,
                http10: false,
                keep_alive: true,
            },
            owes_head: false,
            close: false,
            untouched: true,
            counters: Counters::default(),
        }
    }

    /// The stream below.
    pub fn io(&self) -> &IO {
        &self.wire.io
    }

    /// The next request head; `None` when the client closed the connection between two requests. Holds no read
    /// buffer while it waits for the first byte.
    ///
    /// # Errors
    /// [`HeadError`]. Cancel safe.
    pub async fn read_head(&mut self) -> Result<Option<RequestHead>, HeadError> {
        poll_fn(|cx| self.poll_read_head(cx)).await
    }

    /// [`Self::read_head`] as a poll.
    pub fn poll_read_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<RequestHead>, HeadError>> {
        loop {
            while self.wire.inbox.starts_with(b"\r\n") {
                self.wire.inbox.advance(2);
                self.blank_lines += 1;
                if self.blank_lines > BLANK_LINES {
                    return Poll::Ready(Err(ParseError::StartLine.into()));
                }
            }
            if let Some(end) = self.scan.end(&self.wire.inbox, self.limits.head_bytes)? {
                self.scan = HeadScan::default();
                self.blank_lines = 0;
                self.owes_head = true;
                let head = self.wire.inbox.split_to(end).freeze();
                return Poll::Ready(Ok(Some(self.begin(&head)?)));
            }
            match ready!(self.wire.poll_fill(cx, 0)) {
                Ok(0) if self.wire.inbox.is_empty() => return Poll::Ready(Ok(None)),
                Ok(0) => return Poll::Ready(Err(HeadError::Closed)),
                Ok(_) => {}
                // TLS clients often leave without `close_notify`; between two requests nothing is cut.
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof && self.wire.inbox.is_empty() => {
                    return Poll::Ready(Ok(None));
                }
                Err(error) => return Poll::Ready(Err(error.into())),
            }
        }
    }

    fn begin(&mut self, bytes: &Bytes) -> Result<RequestHead, ParseError> {
        let parsed = parse_request(bytes, &self.limits)?;
        let head = parsed.head;
        self.request = BodyDecoder::new(parsed.framing, self.limits);
        self.response = BodyEncoder::finished();
        self.to = ResponseTo {
            head: head.method == Method::HEAD,
            connect: head.method == Method::CONNECT,
            http10: head.version == Version::HTTP_10,
            keep_alive: parsed.persistent,
        };
        self.untouched = true;
        self.counters = Counters {
            head_received: bytes.len() as u64,
            ..Counters::default()
        };
        Ok(head)
    }

    /// Whether the connection waits between two requests, with no byte of the next.
    pub fn is_idle(&self) -> bool {
        !self.owes_head && self.response.is_finished() && self.wire.inbox.is_empty()
    }

    /// Lets the present or next response be the last and say so (`connection: close`).
    pub fn close_after_response(&mut self) {
        self.close = true;
    }

    /// Whether another request may be read: both messages are complete and both sides want to stay.
    pub fn keep_alive(&self) -> bool {
        !self.owes_head
            && self.to.keep_alive
            && !self.close
            && !self.wire.ended
            && self.request.is_done()
            && self.response.is_finished()
            && !self.response.is_until_close()
    }

    /// Answers the present request without an upstream. What has already arrived of its body is dropped; when
    /// more is to come, the connection closes after the response.
    ///
    /// # Errors
    /// [`Cause`].
    pub async fn reply(&mut self, mut head: ResponseHead, body: Bytes) -> Result<(), Cause> {
        while !self.request.is_done() {
            match self.request.decode(&mut self.wire.inbox) {
                Ok(Decoded::Data(_) | Decoded::Trailers(_) | Decoded::End) => {}
                Ok(Decoded::NeedMore) | Err(_) => {
                    self.close = true;
                    break;
                }
            }
        }
        head.body = BodyLength::Known(body.len() as u64);
        if self.to.head && !head.headers.contains("content-length") {
            // The length that `GET` would have.
            let length = body.len().to_string();
            head.headers.append_checked(b"content-length", length.as_bytes());
        }
        crate::exchange::send_reply(self, &head, body).await
    }

    /// Tells the client that its request is refused with `status`, as the last response. Does nothing when a
    /// response has begun already. Write errors are of no interest any more.
    pub async fn reply_error(&mut self, status: StatusCode) {
        if !self.response.is_finished() || self.wire.outbox.len() > 0 {
            return;
        }
        self.close = true;
        self.to = ResponseTo {
            head: false,
            connect: false,
            http10: false,
            keep_alive: false,
        };
        self.owes_head = true;
        let mut head = ResponseHead::new(status);
        let body = Bytes::from_static(status.canonical_reason().unwrap_or_default().as_bytes());
        head.body = BodyLength::Known(body.len() as u64);
        // A literal name and value.
        let _ = head.headers.append("content-type", b"text/plain");
        let _ = crate::exchange::send_reply(self, &head, body).await;
    }

    /// Tells a client that waits with its body to send it.
    ///
    /// # Errors
    /// [`Cause`].
    pub async fn send_continue(&mut self) -> Result<(), Cause> {
        self.queue_interim(&ResponseHead::new(StatusCode::CONTINUE))?;
        poll_fn(|cx| self.poll_flush(cx)).await
    }

    /// The stream, with what was read from it beyond the head: for 101 and `CONNECT`.
    pub fn into_upgraded(self) -> (IO, Bytes) {
        (self.wire.io, self.wire.inbox.freeze())
    }

    /// Closes the connection so that the client can still read what was written: ends the sending side and,
    /// when the client may be sending, reads and drops at most 1 MiB until it stops or `deadline` comes
    /// (RFC 9112 §9.6).
    pub async fn close(mut self, deadline: Instant) {
        let linger = !self.request.is_done() || !self.wire.inbox.is_empty();
        let shut = async {
            poll_fn(|cx| self.wire.poll_flush(cx)).await?;
            poll_fn(|cx| Pin::new(&mut self.wire.io).poll_shutdown(cx)).await?;
            let mut dropped = 0;
            let mut buffer = BytesMut::with_capacity(if linger { READ_BYTES } else { 0 });
            while linger && dropped < LINGER_BYTES {
                buffer.clear();
                match self.wire.io.read_buf(&mut buffer).await? {
                    0 => break,
                    count => dropped += count,
                }
            }
            io::Result::Ok(())
        };
        // Past the deadline or on an error the socket is simply dropped.
        let _ = tokio::time::timeout_at(deadline, shut).await;
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> Receive for ServerConnection<IO> {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Frame>, Cause>> {
        loop {
            match self.request.decode(&mut self.wire.inbox)? {
                Decoded::Data(data) => {
                    self.untouched = false;
                    self.counters.body_received += data.len() as u64;
                    return Poll::Ready(Ok(Some(Frame::Data(data))));
                }
                Decoded::Trailers(trailers) => return Poll::Ready(Ok(Some(Frame::Trailers(trailers)))),
                Decoded::End => return Poll::Ready(Ok(None)),
                Decoded::NeedMore => {
                    let expected = self.request.expected();
                    if ready!(self.wire.poll_fill(cx, expected))? == 0 {
                        return Poll::Ready(Err(BodyError::Incomplete.into()));
                    }
                }
            }
        }
    }

    fn is_received(&self) -> bool {
        self.request.is_done()
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> Transmit for ServerConnection<IO> {
    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Cause>> {
        self.wire.poll_room(cx).map_err(Cause::Io)
    }

    fn queue(&mut self, frame: Frame) -> Result<(), Cause> {
        self.counters.body_sent += self.response.queue(&mut self.wire.outbox, frame)?;
        Ok(())
    }

    fn finish(&mut self) -> Result<(), Cause> {
        self.response.finish(&mut self.wire.outbox)
    }

    fn is_finished(&self) -> bool {
        !self.owes_head && self.response.is_finished()
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Cause>> {
        self.wire.poll_flush(cx).map_err(Cause::Io)
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> Downstream for ServerConnection<IO> {
    fn queue_head(&mut self, head: &ResponseHead) -> Result<(), Cause> {
        if !self.owes_head {
            return Err(Cause::Desynchronized);
        }
        let to = ResponseTo {
            keep_alive: self.to.keep_alive && !self.close,
            ..self.to
        };
        let (framing, bytes) = self
            .wire
            .outbox
            .gather(|tail| encode::response_head(tail, head, to));
        self.owes_head = false;
        self.response = BodyEncoder::new(framing);
        self.counters.head_sent = bytes as u64;
        Ok(())
    }

    fn queue_interim(&mut self, head: &ResponseHead) -> Result<(), Cause> {
        if self.owes_head && !self.to.http10 {
            let to = self.to;
            self.wire
                .outbox
                .gather(|tail| encode::response_head(tail, head, to));
        }
        Ok(())
    }

    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<Cause> {
        // A pipelined request says that the client is there; nothing more is read before its turn.
        while self.wire.inbox.is_empty() {
            match ready!(self.wire.poll_fill(cx, 0)) {
                Ok(0) => return Poll::Ready(Cause::Closed),
                Ok(_) => {}
                Err(error) => return Poll::Ready(error.into()),
            }
        }
        Poll::Pending
    }

    fn is_body_untouched(&self) -> bool {
        self.untouched
    }

    fn counters(&self) -> Counters {
        self.counters
    }
}
