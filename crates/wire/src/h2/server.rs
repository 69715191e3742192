//! The server's end of an HTTP/2 connection. Each request is a stream of its own, to be served beside the others;
//! [`ServerConnection::accept`] must be polled all the while, since it moves the frames of all streams.

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Waker, ready};

use bytes::Bytes;
use h2::server::{Connection, SendResponse};
use h2::{Reason, RecvStream};
use http::{Method, Request, Response, StatusCode};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, timeout_at};

use super::body::{BodyIn, BodyOut};
use super::coalesce::{Coalesce, Flusher, coalesce};
use super::{HandshakeError, Settings};
use crate::exchange::{Cause, Counters, Downstream, Frame, Receive, Transmit};
use crate::head::{BodyLength, RequestHead, ResponseHead};

/// The server's end of a connection.
#[derive(Debug)]
pub struct ServerConnection<IO> {
    connection: Connection<Coalesce<IO>, Bytes>,
    flusher: Flusher<IO>,
    opened: u64,
    premature: Arc<AtomicU64>,
    premature_limit: u64,
    calmed: bool,
}

impl<IO: AsyncRead + AsyncWrite + Unpin> ServerConnection<IO> {
    /// Reads the client's preface (give sniffed bytes back with [`Prefixed`](crate::stream::Prefixed)) and sends the settings.
    ///
    /// # Errors
    /// [`HandshakeError`].
    pub async fn handshake(io: IO, settings: &Settings, deadline: Instant) -> Result<Self, HandshakeError> {
        let (io, flusher) = coalesce(io);
        let mut builder = h2::server::Builder::new();
        builder
            .max_concurrent_streams(settings.concurrent_streams)
            .initial_window_size(settings.stream_window)
            .initial_connection_window_size(settings.connection_window)
            .max_frame_size(settings.frame_bytes)
            .max_header_list_size(settings.header_list_bytes)
            .max_pending_accept_reset_streams(settings.pending_resets)
            .max_local_error_reset_streams(Some(settings.error_resets))
            .max_send_buffer_size(settings.send_buffer_bytes);
        let mut handshake = std::pin::pin!(builder.handshake(io));
        let shake = poll_fn(|cx| {
            let result = handshake.as_mut().poll(cx);
            // An error shows at the next read.
            let _ = flusher.poll(cx);
            result
        });
        let connection = timeout_at(deadline, shake)
            .await
            .map_err(|_| HandshakeError::Deadline)??;
        Ok(Self {
            connection,
            flusher,
            opened: 0,
            premature: Arc::default(),
            premature_limit: settings.premature_resets,
            calmed: false,
        })
    }

    /// The next request, `None` when the connection is over and every stream has ended. Requests that are
    /// malformed in our words (two hosts, a target that is no path) are answered 400 here.
    ///
    /// # Errors
    /// The connection's; it is over then. Cancel safe.
    pub async fn accept(&mut self) -> Option<Result<(RequestHead, ServerStream), h2::Error>> {
        poll_fn(|cx| self.poll_accept(cx)).await
    }

    /// [`Self::accept`] as a poll.
    pub fn poll_accept(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<(RequestHead, ServerStream), h2::Error>>> {
        loop {
            let accepted = self.connection.poll_accept(cx);
            if accepted.is_pending()
                && let Poll::Ready(Err(error)) = self.flusher.poll(cx)
            {
                // The codec sees only the gathered side; a broken socket must end it here.
                self.connection.abrupt_shutdown(Reason::INTERNAL_ERROR);
                return Poll::Ready(Some(Err(h2_io(error))));
            }
            let Some((request, respond)) = ready!(accepted).transpose()? else {
                return Poll::Ready(None);
            };
            self.opened += 1;
            let premature = self.premature.load(Ordering::Relaxed);
            if !self.calmed && premature > self.premature_limit && premature > self.opened / 2 {
                self.calmed = true;
                self.connection.abrupt_shutdown(Reason::ENHANCE_YOUR_CALM);
            }
            if !self.calmed
                && let Some(stream) = ServerStream::begin(request, respond, &self.premature)
            {
                return Poll::Ready(Some(Ok(stream)));
            }
        }
    }

    /// Tells the client to open no more streams (`GOAWAY`); those that are open go on, and [`Self::accept`]
    /// returns `None` after the last.
    pub fn graceful_shutdown(&mut self) {
        self.connection.graceful_shutdown();
    }
}

/// `h2` makes its errors of its own reasons only; the socket's own error is lost here and told as a cancel.
fn h2_io(_error: std::io::Error) -> h2::Error {
    h2::Error::from(Reason::CANCEL)
}

/// One request of a connection.
#[derive(Debug)]
pub struct ServerStream {
    request: BodyIn,
    respond: SendResponse<Bytes>,
    /// The final head has been sent.
    response: Option<BodyOut>,
    is_head: bool,
    premature: Arc<AtomicU64>,
    counters: Counters,
}

impl Drop for ServerStream {
    fn drop(&mut self) {
        let mut cx = Context::from_waker(Waker::noop());
        // Giving up an answer that has begun is ordinary: that is how a watch ends.
        if self.response.is_none() && self.poll_gone(&mut cx).is_ready() {
            self.premature.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl ServerStream {
    fn begin(
        request: Request<RecvStream>,
        mut respond: SendResponse<Bytes>,
        premature: &Arc<AtomicU64>,
    ) -> Option<(RequestHead, Self)> {
        let (parts, body) = request.into_parts();
        match RequestHead::from_http2(&parts, body.is_end_stream()) {
            Ok(head) => {
                let stream = Self {
                    request: BodyIn::new(body),
                    respond,
                    response: None,
                    is_head: head.method == Method::HEAD,
                    premature: Arc::clone(premature),
                    counters: Counters {
                        head_received: head_bytes(&head),
                        ..Counters::default()
                    },
                };
                Some((head, stream))
            }
            Err(_) => {
                let mut response = Response::new(());
                *response.status_mut() = StatusCode::BAD_REQUEST;
                // The client may have gone; there is nobody else to tell.
                let _ = respond.send_response(response, true);
                None
            }
        }
    }

    /// Answers without an upstream.
    ///
    /// # Errors
    /// [`Cause`].
    pub async fn reply(&mut self, mut head: ResponseHead, body: Bytes) -> Result<(), Cause> {
        head.body = BodyLength::Known(body.len() as u64);
        if !head.headers.contains("content-length") {
            let length = body.len().to_string();
            head.headers.append_checked(b"content-length", length.as_bytes());
        }
        crate::exchange::send_reply(self, &head, body).await
    }

    /// Ends the stream without a complete answer.
    pub fn reset(&mut self, reason: Reason) {
        self.respond.send_reset(reason);
    }
}

fn head_bytes(head: &RequestHead) -> u64 {
    (head.method.as_str().len() + head.target.len() + head.headers.size()) as u64
}

impl Receive for ServerStream {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Frame>, Cause>> {
        self.request.poll_frame(cx)
    }

    fn is_received(&self) -> bool {
        self.request.is_received()
    }
}

impl Transmit for ServerStream {
    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Cause>> {
        match &mut self.response {
            Some(response) => response.poll_room(cx),
            None => Poll::Ready(Ok(())),
        }
    }

    fn queue(&mut self, frame: Frame) -> Result<(), Cause> {
        self.response.as_mut().ok_or(Cause::Desynchronized)?.queue(frame)
    }

    fn finish(&mut self) -> Result<(), Cause> {
        self.response.as_mut().ok_or(Cause::Desynchronized)?.finish();
        Ok(())
    }

    fn is_finished(&self) -> bool {
        self.response.as_ref().is_some_and(BodyOut::is_finished)
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Cause>> {
        match &mut self.response {
            Some(response) => response.poll_flush(cx),
            None => Poll::Ready(Ok(())),
        }
    }
}

impl Downstream for ServerStream {
    fn queue_head(&mut self, head: &ResponseHead) -> Result<(), Cause> {
        let ended = matches!(head.body, BodyLength::Empty | BodyLength::Known(0)) || self.is_head;
        let stream = self.respond.send_response(head.to_http2()?, ended)?;
        self.response = Some(BodyOut::new(stream, ended));
        self.counters.head_sent = 3 + head.headers.size() as u64;
        Ok(())
    }

    fn queue_interim(&mut self, head: &ResponseHead) -> Result<(), Cause> {
        self.respond.send_informational(head.to_http2()?)?;
        Ok(())
    }

    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<Cause> {
        match &mut self.response {
            Some(response) => response.poll_reset(cx),
            None => self.respond.poll_reset(cx).map(|reset| match reset {
                Ok(reason) => h2::Error::from(reason).into(),
                Err(error) => error.into(),
            }),
        }
    }

    fn is_body_untouched(&self) -> bool {
        !self.request.is_touched()
    }

    fn counters(&self) -> Counters {
        Counters {
            body_received: self.request.received,
            body_sent: self.response.as_ref().map_or(0, |response| response.sent),
            ..self.counters
        }
    }
}
