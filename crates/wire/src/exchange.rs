//! One request and its response between a downstream and an upstream, whatever versions they speak.
//!
//! [`send_request`] writes the request and waits for the response head, [`send_response`] writes the response;
//! between the two the proxy decides. Both bodies move at the same time, in the caller's own task: an upstream
//! may answer before it has read the request (RFC 9112 §9.5), and is then heard. The slower side sets the pace:
//! what waits in each direction is at most 256 KiB and one read. Nothing here has a timeout; callers put a
//! deadline around it.

use std::fmt;
use std::future::poll_fn;
use std::io;
use std::task::{Context, Poll};

use bytes::Bytes;
use thiserror::Error;

use crate::h1::chunk::BodyError;
use crate::h1::parse::ParseError;
use crate::head::{BridgeError, Headers, RequestHead, ResponseHead};

/// A piece of a body.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Frame {
    /// Bytes.
    Data(Bytes),
    /// The trailer section; the end follows.
    Trailers(Headers),
}

/// What went wrong on one side.
#[derive(Debug, Error)]
pub enum Cause {
    /// The socket or TLS failed.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The peer closed the connection in the middle.
    #[error("connection closed by the peer")]
    Closed,
    /// The peer's head is malformed.
    #[error(transparent)]
    Parse(#[from] ParseError),
    /// The peer's body is malformed or cut.
    #[error(transparent)]
    Body(#[from] BodyError),
    /// More or fewer bytes than the head announced.
    #[error("body is not as long as its head says")]
    Length,
    /// The connection holds bytes that belong to no request.
    #[error("connection holds bytes that were not asked for")]
    Desynchronized,
    /// The message cannot be said in the peer's version.
    #[error(transparent)]
    Bridge(#[from] BridgeError),
    /// HTTP/2: the stream or connection ended with an error.
    #[error(transparent)]
    Http2(#[from] h2::Error),
}

/// Which peer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Side {
    /// Towards the client.
    Downstream,
    /// Towards the server.
    Upstream,
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Downstream => "downstream",
            Self::Upstream => "upstream",
        })
    }
}

/// Whether the upstream can have acted on a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sent {
    /// Provably not: nothing was written, or the upstream said that it did not look at it (`REFUSED_STREAM`, `GOAWAY`).
    Nothing,
    /// It may have.
    MaybeProcessed,
}

/// How an exchange failed. The connections of both sides are then not to be used again.
#[derive(Debug, Error)]
#[error("{side}: {cause}")]
pub struct ExchangeError {
    /// Where.
    pub side: Side,
    /// Whether another upstream may be tried, as far as the upstream is concerned; the request's body must be
    /// there again too ([`Downstream::is_body_untouched`]).
    pub sent: Sent,
    /// What.
    #[source]
    pub cause: Cause,
}

/// Bytes of one exchange on one connection: heads as encoded for HTTP/1, as field bytes for HTTP/2; bodies
/// without chunk framing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counters {
    /// Head bytes received.
    pub head_received: u64,
    /// Body bytes received.
    pub body_received: u64,
    /// Head bytes sent.
    pub head_sent: u64,
    /// Body bytes sent.
    pub body_sent: u64,
}

/// A message body that arrives.
pub trait Receive {
    /// The next frame, `None` at the end and ever after.
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Frame>, Cause>>;
    /// Whether the end has been seen.
    fn is_received(&self) -> bool;
}

/// A message body that leaves.
pub trait Transmit {
    /// Ready when a frame may be queued. May write.
    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Cause>>;
    /// Queues a frame; it is written by the next `poll_flush`.
    ///
    /// # Errors
    /// [`Cause::Length`] when it is more than the head announced.
    fn queue(&mut self, frame: Frame) -> Result<(), Cause>;
    /// Queues the end of the body.
    ///
    /// # Errors
    /// [`Cause::Length`] when less came than the head announced.
    fn finish(&mut self) -> Result<(), Cause>;
    /// Whether [`Self::finish`] was called.
    fn is_finished(&self) -> bool;
    /// Ready when everything queued is written.
    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Cause>>;
}

/// The client's side of an exchange: its request is received, the response transmitted.
pub trait Downstream: Receive + Transmit {
    /// Queues the final response head.
    ///
    /// # Errors
    /// [`Cause`] when it cannot be said in the client's version.
    fn queue_head(&mut self, head: &ResponseHead) -> Result<(), Cause>;
    /// Queues an interim (1xx) response head; dropped where the client cannot understand it.
    ///
    /// # Errors
    /// As [`Self::queue_head`].
    fn queue_interim(&mut self, head: &ResponseHead) -> Result<(), Cause>;
    /// Ready when the client has gone away or given up on this request. A client of HTTP/1 that ends its sending
    /// side while it waits counts as gone: the two cannot be told apart before a write fails.
    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<Cause>;
    /// Whether no byte of the request's body has been taken yet, so that it can be sent elsewhere.
    fn is_body_untouched(&self) -> bool;
    /// Bytes of this exchange.
    fn counters(&self) -> Counters;
}

/// The server's side of an exchange: the request is transmitted, its response received.
pub trait Upstream: Receive + Transmit {
    /// Queues the request head.
    ///
    /// # Errors
    /// [`Cause`] when it cannot be said in the server's version, or the connection is not fit for it.
    fn queue_head(&mut self, head: &RequestHead) -> Result<(), Cause>;
    /// The next response head: any number of interim ones, then the final one.
    fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<ResponseHead, Cause>>;
    /// Whether the server can have acted on the request; `cause` is what ended it.
    fn sent(&self, cause: &Cause) -> Sent;
    /// Bytes of this exchange.
    fn counters(&self) -> Counters;
}

enum Broken {
    Source(Cause),
    Sink(Cause),
}

/// Moves a body until its end is written. While nothing arrives, what is queued is written.
fn poll_body<S: Receive, K: Transmit>(
    cx: &mut Context<'_>,
    source: &mut S,
    sink: &mut K,
) -> Poll<Result<(), Broken>> {
    loop {
        if sink.is_finished() && source.is_received() {
            return sink.poll_flush(cx).map_err(Broken::Sink);
        }
        match sink.poll_room(cx) {
            Poll::Ready(result) => result.map_err(Broken::Sink)?,
            Poll::Pending => return Poll::Pending,
        }
        match source.poll_frame(cx) {
            Poll::Ready(Ok(Some(frame))) => sink.queue(frame).map_err(Broken::Sink)?,
            Poll::Ready(Ok(None)) => {
                sink.finish().map_err(Broken::Sink)?;
            }
            Poll::Ready(Err(cause)) => return Poll::Ready(Err(Broken::Source(cause))),
            Poll::Pending => {
                if let Poll::Ready(result) = sink.poll_flush(cx) {
                    result.map_err(Broken::Sink)?;
                }
                return Poll::Pending;
            }
        }
    }
}

fn upstream<U: Upstream>(up: &U, cause: Cause) -> ExchangeError {
    ExchangeError {
        side: Side::Upstream,
        sent: up.sent(&cause),
        cause,
    }
}

fn downstream(cause: Cause) -> ExchangeError {
    ExchangeError {
        side: Side::Downstream,
        sent: Sent::MaybeProcessed,
        cause,
    }
}

/// Sends the request with its body and returns the final response head, which may come before the body's end.
/// Interim responses are passed on. Ends early when the client goes away.
///
/// # Errors
/// [`ExchangeError`]. Not cancel safe: after a drop, neither connection can carry another request.
pub async fn send_request<D: Downstream, U: Upstream>(
    down: &mut D,
    up: &mut U,
    head: &RequestHead,
) -> Result<ResponseHead, ExchangeError> {
    up.queue_head(head).map_err(|cause| upstream(up, cause))?;
    let mut request_open = true;
    // Kept until it is known whether a response came before the upstream closed.
    let mut broken = None;
    poll_fn(|cx| {
        if request_open {
            match poll_body(cx, down, up) {
                Poll::Pending => {}
                Poll::Ready(Ok(())) => request_open = false,
                Poll::Ready(Err(Broken::Source(cause))) => return Poll::Ready(Err(downstream(cause))),
                Poll::Ready(Err(Broken::Sink(cause))) => {
                    request_open = false;
                    broken = Some(cause);
                }
            }
        }
        loop {
            match up.poll_head(cx) {
                Poll::Ready(Ok(interim)) if interim.is_interim() => {
                    down.queue_interim(&interim).map_err(downstream)?;
                    if let Poll::Ready(result) = down.poll_flush(cx) {
                        result.map_err(downstream)?;
                    }
                }
                Poll::Ready(Ok(head)) => return Poll::Ready(Ok(head)),
                Poll::Ready(Err(cause)) => {
                    let cause = broken.take().unwrap_or(cause);
                    return Poll::Ready(Err(upstream(up, cause)));
                }
                Poll::Pending => break,
            }
        }
        if !request_open && let Poll::Ready(cause) = down.poll_gone(cx) {
            return Poll::Ready(Err(downstream(cause)));
        }
        Poll::Pending
    })
    .await
}

/// Sends a request whose body is at hand, and returns the final response head; interim ones are dropped.
///
/// # Errors
/// As [`send_request`].
pub async fn send_request_bytes<U: Upstream>(
    up: &mut U,
    head: &RequestHead,
    body: Bytes,
) -> Result<ResponseHead, ExchangeError> {
    let queued = up.queue_head(head).and_then(|()| {
        if !body.is_empty() {
            up.queue(Frame::Data(body))?;
        }
        up.finish()
    });
    queued.map_err(|cause| upstream(up, cause))?;
    let mut broken = None;
    let mut open = true;
    poll_fn(|cx| {
        if open && let Poll::Ready(result) = up.poll_flush(cx) {
            open = false;
            broken = result.err();
        }
        loop {
            match up.poll_head(cx) {
                Poll::Ready(Ok(interim)) if interim.is_interim() => {}
                Poll::Ready(Ok(head)) => return Poll::Ready(Ok(head)),
                Poll::Ready(Err(cause)) => {
                    let cause = broken.take().unwrap_or(cause);
                    return Poll::Ready(Err(upstream(up, cause)));
                }
                Poll::Pending => return Poll::Pending,
            }
        }
    })
    .await
}

/// Sends the response with its body, and meanwhile what is left of the request's. Returns when the response is
/// written, even when the request is not at its end; the connections then know that they cannot be used again.
///
/// # Errors
/// [`ExchangeError`]; the client has then seen a part of the response. Not cancel safe.
pub async fn send_response<D: Downstream, U: Upstream>(
    down: &mut D,
    up: &mut U,
    head: &ResponseHead,
) -> Result<(), ExchangeError> {
    down.queue_head(head).map_err(downstream)?;
    let mut request_open = !(down.is_received() && up.is_finished());
    let mut cut = None;
    poll_fn(|cx| {
        if request_open {
            match poll_body(cx, down, up) {
                Poll::Pending => {}
                // A response may follow a connection that takes no more of the request.
                Poll::Ready(Ok(()) | Err(Broken::Sink(_))) => request_open = false,
                Poll::Ready(Err(Broken::Source(cause))) => return Poll::Ready(Err(downstream(cause))),
            }
        }
        if cut.is_none() {
            match poll_body(cx, up, down) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(())) => return Poll::Ready(Ok(())),
                Poll::Ready(Err(Broken::Source(cause))) => cut = Some(cause),
                Poll::Ready(Err(Broken::Sink(cause))) => return Poll::Ready(Err(downstream(cause))),
            }
        }
        // What came before the cut is the client's.
        match (down.poll_flush(cx), cut.take()) {
            (Poll::Pending, cause) => {
                cut = cause;
                Poll::Pending
            }
            (Poll::Ready(_), Some(cause)) => Poll::Ready(Err(upstream(up, cause))),
            (Poll::Ready(result), None) => Poll::Ready(result.map_err(downstream)),
        }
    })
    .await
}

/// The next frame of a body.
///
/// # Errors
/// [`Cause`]. Cancel safe.
pub async fn next_frame<S: Receive>(source: &mut S) -> Result<Option<Frame>, Cause> {
    poll_fn(|cx| source.poll_frame(cx)).await
}

/// Reads a whole body of at most `limit` bytes; `None` when it is larger, and then it is not read on.
///
/// # Errors
/// [`Cause`].
pub async fn collect<S: Receive>(source: &mut S, limit: usize) -> Result<Option<Bytes>, Cause> {
    let mut body = bytes::BytesMut::new();
    while let Some(frame) = next_frame(source).await? {
        if let Frame::Data(data) = frame {
            if body.len() + data.len() > limit {
                return Ok(None);
            }
            if body.is_empty() && source.is_received() {
                return Ok(Some(data));
            }
            body.extend_from_slice(&data);
        }
    }
    Ok(Some(body.freeze()))
}

/// Writes a response with a body that is at hand.
///
/// # Errors
/// [`Cause`].
pub async fn send_reply<D: Downstream>(down: &mut D, head: &ResponseHead, body: Bytes) -> Result<(), Cause> {
    down.queue_head(head)?;
    if !body.is_empty() {
        down.queue(Frame::Data(body))?;
    }
    down.finish()?;
    poll_fn(|cx| down.poll_flush(cx)).await
}
