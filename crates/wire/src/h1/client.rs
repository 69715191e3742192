//! The client's end of an HTTP/1 connection: one request at a time, reusable while both sides keep their word.

use std::io;
use std::task::{Context, Poll, Waker, ready};

use bytes::{Buf, Bytes, BytesMut};
use http::{Method, StatusCode};
use tokio::io::{AsyncRead, AsyncWrite};

use super::chunk::{BodyDecoder, Decoded};
use super::encode::{self, BodyEncoder};
use super::parse::{Framing, HeadScan, Limits, ParseError, parse_response};
use crate::buffer::Wire;
use crate::exchange::{Cause, Counters, Frame, Receive, Sent, Transmit, Upstream};
use crate::head::{RequestHead, ResponseHead};
use crate::pool::Reusable;

/// Where the present exchange stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    /// None has begun, or the last one is complete.
    Idle,
    /// A request is being sent and its final response head has not come.
    Waiting,
    /// The final response head has come.
    Answered,
    /// Something broke.
    Failed,
}

/// The client's end of a connection.
#[derive(Debug)]
pub struct ClientConnection<IO> {
    wire: Wire<IO>,
    limits: Limits,
    scan: HeadScan,
    phase: Phase,
    request: BodyEncoder,
    response: BodyDecoder,
    method: Method,
    upgrade_asked: bool,
    interims: u8,
    persistent: bool,
    counters: Counters,
}

impl<IO: AsyncRead + AsyncWrite + Unpin> ClientConnection<IO> {
    /// A connection on `io`, on which nothing has been sent.
    pub fn new(io: IO, limits: Limits) -> Self {
        Self {
            wire: Wire::new(io, BytesMut::new()),
            limits,
            scan: HeadScan::default(),
            phase: Phase::Idle,
            request: BodyEncoder::finished(),
            response: BodyDecoder::new(Framing::None, limits),
            method: Method::GET,
            upgrade_asked: false,
            interims: 0,
            persistent: true,
            counters: Counters::default(),
        }
    }

    /// The stream below.
    pub fn io(&self) -> &IO {
        &self.wire.io
    }

    /// Whether another request may be sent: the last exchange is complete on both sides, the server keeps the
    /// connection open and has sent nothing that was not asked for.
    pub fn is_reusable(&self) -> bool {
        let complete = self.phase == Phase::Idle
            || (self.phase == Phase::Answered && self.response.is_done() && self.request.is_finished());
        complete
            && self.persistent
            && !self.wire.ended
            && self.wire.inbox.is_empty()
            && self.wire.outbox.len() == 0
    }

    /// The stream, with what was read from it beyond the head: for 101 and `CONNECT`.
    pub fn into_upgraded(self) -> (IO, Bytes) {
        (self.wire.io, self.wire.inbox.freeze())
    }

    fn read_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<ResponseHead, Cause>> {
        loop {
            // Some servers end a body with an empty line too many; a second one is nonsense.
            if self.counters.head_received == 0 && self.wire.inbox.starts_with(b"\r\n") {
                self.wire.inbox.advance(2);
                self.counters.head_received = 2;
            }
            if let Some(end) = self.scan.end(&self.wire.inbox, self.limits.head_bytes)? {
                self.scan = HeadScan::default();
                let bytes = self.wire.inbox.split_to(end).freeze();
                let parsed = parse_response(&bytes, &self.method, self.upgrade_asked, &self.limits)?;
                self.counters.head_received += end as u64;
                if parsed.head.is_interim() {
                    self.interims += 1;
                    if self.interims > self.limits.interim_responses {
                        return Poll::Ready(Err(ParseError::Interim.into()));
                    }
                } else {
                    self.phase = Phase::Answered;
                    self.response = BodyDecoder::new(parsed.framing, self.limits);
                    self.persistent = parsed.persistent
                        && parsed.head.status != StatusCode::SWITCHING_PROTOCOLS
                        && self.method != Method::CONNECT;
                }
                return Poll::Ready(Ok(parsed.head));
            }
            if ready!(self.wire.poll_fill(cx, 0))? == 0 {
                return Poll::Ready(Err(Cause::Closed));
            }
        }
    }

    fn read_frame(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Frame>, Cause>> {
        if self.phase != Phase::Answered {
            return Poll::Ready(Err(Cause::Desynchronized));
        }
        loop {
            match self.response.decode(&mut self.wire.inbox)? {
                Decoded::Data(data) => {
                    self.counters.body_received += data.len() as u64;
                    return Poll::Ready(Ok(Some(Frame::Data(data))));
                }
                Decoded::Trailers(trailers) => return Poll::Ready(Ok(Some(Frame::Trailers(trailers)))),
                Decoded::End => {
                    self.wire.give_back();
                    return Poll::Ready(Ok(None));
                }
                Decoded::NeedMore => {
                    let expected = self.response.expected();
                    if ready!(self.wire.poll_fill(cx, expected))? == 0 {
                        self.response.end_of_input()?;
                    }
                }
            }
        }
    }

    fn note<T>(&mut self, result: Poll<Result<T, Cause>>) -> Poll<Result<T, Cause>> {
        if matches!(result, Poll::Ready(Err(_))) {
            self.phase = Phase::Failed;
            self.persistent = false;
        }
        result
    }

    fn note_written(&mut self, result: Poll<io::Result<()>>) -> Poll<Result<(), Cause>> {
        if matches!(result, Poll::Ready(Err(_))) {
            // A response may still be readable.
            self.persistent = false;
        }
        result.map_err(Cause::Io)
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> Receive for ClientConnection<IO> {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Frame>, Cause>> {
        let result = self.read_frame(cx);
        self.note(result)
    }

    fn is_received(&self) -> bool {
        self.phase == Phase::Answered && self.response.is_done()
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> Transmit for ClientConnection<IO> {
    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Cause>> {
        let result = self.wire.poll_room(cx);
        self.note_written(result)
    }

    fn queue(&mut self, frame: Frame) -> Result<(), Cause> {
        self.counters.body_sent += self.request.queue(&mut self.wire.outbox, frame)?;
        Ok(())
    }

    fn finish(&mut self) -> Result<(), Cause> {
        self.request.finish(&mut self.wire.outbox)
    }

    fn is_finished(&self) -> bool {
        self.request.is_finished()
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Cause>> {
        let result = self.wire.poll_flush(cx);
        self.note_written(result)
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> Upstream for ClientConnection<IO> {
    fn queue_head(&mut self, head: &RequestHead) -> Result<(), Cause> {
        self.wire.written = 0;
        self.counters = Counters::default();
        if !self.is_reusable() {
            return Err(Cause::Desynchronized);
        }
        let (framing, bytes) = self.wire.outbox.gather(|tail| encode::request_head(tail, head));
        self.request = BodyEncoder::new(framing);
        self.response = BodyDecoder::new(Framing::None, self.limits);
        self.phase = Phase::Waiting;
        self.method = head.method.clone();
        self.upgrade_asked = head.upgrade.is_some();
        self.interims = 0;
        self.counters.head_sent = bytes as u64;
        Ok(())
    }

    fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<ResponseHead, Cause>> {
        if self.phase != Phase::Waiting {
            return Poll::Ready(Err(Cause::Desynchronized));
        }
        let result = self.read_head(cx);
        self.note(result)
    }

    fn sent(&self, _cause: &Cause) -> Sent {
        if self.wire.written == 0 {
            Sent::Nothing
        } else {
            Sent::MaybeProcessed
        }
    }

    fn counters(&self) -> Counters {
        self.counters
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> Reusable for ClientConnection<IO> {
    /// Looks at the socket without waiting: anything that has arrived, an end or bytes, makes it unusable.
    fn is_alive(&mut self) -> bool {
        if !self.is_reusable() {
            return false;
        }
        let mut cx = Context::from_waker(Waker::noop());
        self.wire.poll_fill(&mut cx, 0).is_pending()
    }
}
