//! The client's end of an HTTP/2 connection: many requests at a time, each a [`ClientStream`].
//!
//! The connection's frames are moved by one task on the thread that opened it. The task ends by itself: when the
//! connection breaks or is told to go away and its streams have ended, or when the last handle is dropped, and
//! then at most [`FAREWELL`] later.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use h2::{Reason, RecvStream};
use http::Response;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout, timeout_at};

use super::body::{BodyIn, BodyOut};
use super::coalesce::coalesce;
use super::{HandshakeError, Settings};
use crate::exchange::{Cause, Counters, Frame, Receive, Sent, Transmit, Upstream};
use crate::h1::parse::ParseError;
use crate::head::{BodyLength, RequestHead, ResponseHead};

/// How long a connection that nobody uses any more may take to say so to its server.
const FAREWELL: Duration = Duration::from_secs(5);
/// Interim responses before the final one.
const INTERIM_RESPONSES: u8 = 16;

/// What all handles of a connection share.
#[derive(Debug)]
struct Shared {
    streams: AtomicUsize,
    ended: AtomicBool,
    /// Dropped with the last handle: the task's sign to say farewell.
    _alive: oneshot::Sender<()>,
}

/// A handle of a connection; clones are cheap.
#[derive(Clone, Debug)]
pub struct ClientConnection {
    requests: SendRequest<Bytes>,
    shared: Arc<Shared>,
    limit: usize,
    https: bool,
}

impl ClientConnection {
    /// Sends preface and settings, and starts the task. Does not wait for the server's settings.
    ///
    /// # Errors
    /// [`HandshakeError`].
    pub async fn handshake<IO>(io: IO, settings: &Settings, deadline: Instant) -> Result<Self, HandshakeError>
    where
        IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (io, flusher) = coalesce(io);
        let mut builder = h2::client::Builder::new();
        builder
            .enable_push(false)
            .initial_max_send_streams(settings.concurrent_streams as usize)
            .initial_window_size(settings.stream_window)
            .initial_connection_window_size(settings.connection_window)
            .max_frame_size(settings.frame_bytes)
            .max_header_list_size(settings.header_list_bytes)
            .max_local_error_reset_streams(Some(settings.error_resets))
            .max_send_buffer_size(settings.send_buffer_bytes);
        let (requests, connection) = timeout_at(deadline, builder.handshake(io))
            .await
            .map_err(|_| HandshakeError::Deadline)??;
        let (alive, dropped) = oneshot::channel::<()>();
        let shared = Arc::new(Shared {
            streams: AtomicUsize::new(0),
            ended: AtomicBool::new(false),
            _alive: alive,
        });
        let weak = Arc::downgrade(&shared);
        tokio::spawn(async move {
            let mut connection = pin!(connection);
            let mut drive = pin!(poll_fn(move |cx| {
                let result = connection.as_mut().poll(cx);
                match flusher.poll(cx) {
                    // Dropping the connection ends its streams.
                    Poll::Ready(Err(_)) => Poll::Ready(()),
                    Poll::Ready(Ok(())) | Poll::Pending => result.map(|_| ()),
                }
            }));
            tokio::select! {
                () = &mut drive => {}
                _ = dropped => {
                    let _ = timeout(FAREWELL, drive).await;
                }
            }
            if let Some(shared) = weak.upgrade() {
                shared.ended.store(true, Ordering::Relaxed);
            }
        });
        Ok(Self {
            requests,
            shared,
            limit: settings.concurrent_streams as usize,
            https: settings.https,
        })
    }

    /// Streams that are open.
    pub fn streams(&self) -> usize {
        self.shared.streams.load(Ordering::Relaxed)
    }

    /// Whether one more stream may be opened without waiting for another to end.
    pub fn has_room(&self) -> bool {
        self.streams() < self.limit.min(self.requests.current_max_send_streams())
    }

    /// Whether no stream can be opened any more: it broke, or the server says goodbye.
    pub fn is_closed(&self) -> bool {
        let mut cx = Context::from_waker(Waker::noop());
        self.shared.ended.load(Ordering::Relaxed)
            || matches!(self.requests.clone().poll_ready(&mut cx), Poll::Ready(Err(_)))
    }

    /// A stream for one request. Above the server's limit its head waits for another stream to end.
    pub fn open(&self) -> ClientStream {
        self.shared.streams.fetch_add(1, Ordering::Relaxed);
        ClientStream {
            connection: self.clone(),
            request: BodyOut::default(),
            waiting: None,
            response: BodyIn::none(),
            answered: false,
            opened: false,
            interims: 0,
            counters: Counters::default(),
        }
    }
}

/// One request of a connection. Dropped before its end, the server is told (`RST_STREAM`).
#[derive(Debug)]
pub struct ClientStream {
    connection: ClientConnection,
    request: BodyOut,
    waiting: Option<ResponseFuture>,
    response: BodyIn,
    answered: bool,
    opened: bool,
    interims: u8,
    counters: Counters,
}

impl Drop for ClientStream {
    fn drop(&mut self) {
        self.connection.shared.streams.fetch_sub(1, Ordering::Relaxed);
    }
}

impl ClientStream {
    /// The connection that it is a stream of.
    pub fn connection(&self) -> &ClientConnection {
        &self.connection
    }

    fn begin(&mut self, response: Response<RecvStream>) -> Result<ResponseHead, Cause> {
        let (parts, body) = response.into_parts();
        let head = ResponseHead::from_http2(&parts, body.is_end_stream())?;
        self.counters.head_received = 3 + head.headers.size() as u64;
        self.response = BodyIn::new(body);
        self.answered = true;
        Ok(head)
    }
}

impl Receive for ClientStream {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Frame>, Cause>> {
        if self.answered {
            self.response.poll_frame(cx)
        } else {
            Poll::Ready(Err(Cause::Desynchronized))
        }
    }

    fn is_received(&self) -> bool {
        self.answered && self.response.is_received()
    }
}

impl Transmit for ClientStream {
    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Cause>> {
        self.request.poll_room(cx)
    }

    fn queue(&mut self, frame: Frame) -> Result<(), Cause> {
        self.request.queue(frame)
    }

    fn finish(&mut self) -> Result<(), Cause> {
        self.request.finish();
        Ok(())
    }

    fn is_finished(&self) -> bool {
        self.request.is_finished()
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Cause>> {
        self.request.poll_flush(cx)
    }
}

impl Upstream for ClientStream {
    fn queue_head(&mut self, head: &RequestHead) -> Result<(), Cause> {
        if self.opened {
            return Err(Cause::Desynchronized);
        }
        let request = head.to_http2(self.connection.https)?;
        let ended = matches!(head.body, BodyLength::Empty | BodyLength::Known(0));
        let (waiting, stream) = self.connection.requests.send_request(request, ended)?;
        self.opened = true;
        self.waiting = Some(waiting);
        self.request = BodyOut::new(stream, ended);
        self.counters.head_sent =
            (head.method.as_str().len() + head.target.len() + head.headers.size()) as u64;
        Ok(())
    }

    fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<ResponseHead, Cause>> {
        // After its answer the codec's future must not be polled again.
        let Some(waiting) = &mut self.waiting else {
            return Poll::Ready(Err(Cause::Desynchronized));
        };
        match waiting.poll_informational(cx) {
            Poll::Ready(Some(interim)) => {
                self.interims += 1;
                if self.interims > INTERIM_RESPONSES {
                    return Poll::Ready(Err(ParseError::Interim.into()));
                }
                let (parts, ()) = interim?.into_parts();
                let mut head = ResponseHead::from_http2(&parts, true)?;
                head.body = BodyLength::Empty;
                if !head.is_interim() {
                    // 101 has no meaning here (RFC 9113 §8.6).
                    return Poll::Ready(Err(ParseError::Interim.into()));
                }
                return Poll::Ready(Ok(head));
            }
            Poll::Ready(None) => {}
            Poll::Pending => return Poll::Pending,
        }
        let response = ready!(pin!(waiting).poll(cx));
        self.waiting = None;
        Poll::Ready(self.begin(response?))
    }

    fn sent(&self, cause: &Cause) -> Sent {
        let refused = match cause {
            // `GOAWAY` as a stream's error means that its number is above the last one looked at (RFC 9113 §6.8).
            Cause::Http2(error) => {
                error.is_remote()
                    && (error.is_go_away()
                        || (error.is_reset() && error.reason() == Some(Reason::REFUSED_STREAM)))
            }
            Cause::Io(_)
            | Cause::Closed
            | Cause::Parse(_)
            | Cause::Body(_)
            | Cause::Length
            | Cause::Desynchronized
            | Cause::Bridge(_) => false,
        };
        if refused || !self.opened {
            Sent::Nothing
        } else {
            Sent::MaybeProcessed
        }
    }

    fn counters(&self) -> Counters {
        Counters {
            body_received: self.response.received,
            body_sent: self.request.sent,
            ..self.counters
        }
    }
}
