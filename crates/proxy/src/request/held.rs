//! A client whose body is read ahead, as far as an authorizer wants to see it, and handed on whole afterwards.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::task::{Context, Poll, ready};

use bartizan_wire::exchange::{Cause, Counters, Downstream, Frame, Receive, Transmit, next_frame};
use bartizan_wire::head::ResponseHead;
use bytes::{Bytes, BytesMut};
use http::StatusCode;

use super::answer::Client;

/// A client's side with the frames that were read ahead.
pub(crate) struct Held<'d, D> {
    down: &'d mut D,
    frames: VecDeque<Frame>,
    /// Data in `frames`, in bytes.
    bytes: usize,
    /// A frame has been handed on.
    touched: bool,
}

/// The beginning of a body.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Excerpt {
    /// At most as many bytes as were asked for.
    pub(crate) bytes: Bytes,
    /// Whether more follows.
    pub(crate) is_partial: bool,
}

impl<'d, D: Client> Held<'d, D> {
    /// Nothing has been read ahead.
    pub(crate) fn new(down: &'d mut D) -> Self {
        Self {
            down,
            frames: VecDeque::new(),
            bytes: 0,
            touched: false,
        }
    }

    /// Tells a client that waits with its body to send it.
    ///
    /// # Errors
    /// [`Cause`] of the client's connection.
    pub(crate) async fn call_for_body(&mut self) -> Result<(), Cause> {
        self.down
            .queue_interim(&ResponseHead::new(StatusCode::CONTINUE))?;
        poll_fn(|cx| self.down.poll_flush(cx)).await
    }

    /// Reads until the body has ended or more than `limit` bytes are held: one frame beyond it at most. The client is held back
    /// by not being read further.
    ///
    /// # Errors
    /// [`Cause`] of the client's body.
    pub(crate) async fn excerpt(&mut self, limit: usize) -> Result<Excerpt, Cause> {
        while self.bytes <= limit && !self.down.is_received() {
            match next_frame(self.down).await? {
                Some(frame) => {
                    if let Frame::Data(data) = &frame {
                        self.bytes += data.len();
                    }
                    self.frames.push_back(frame);
                }
                None => break,
            }
        }
        let mut data = self.frames.iter().filter_map(|frame| match frame {
            Frame::Data(data) => Some(data),
            Frame::Trailers(_) => None,
        });
        let is_partial = self.bytes > limit;
        let bytes = match (data.next(), data.next()) {
            (None, _) => Bytes::new(),
            (Some(only), None) => only.slice(..only.len().min(limit)),
            (Some(first), Some(second)) => {
                let mut bytes = BytesMut::with_capacity(self.bytes.min(limit));
                for part in [first, second].into_iter().chain(data) {
                    let room = limit - bytes.len();
                    bytes.extend_from_slice(part.get(..part.len().min(room)).unwrap_or_default());
                }
                bytes.freeze()
            }
        };
        Ok(Excerpt { bytes, is_partial })
    }
}

impl<D: Downstream> Receive for Held<'_, D> {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Frame>, Cause>> {
        if let Some(frame) = self.frames.pop_front() {
            self.touched = true;
            return Poll::Ready(Ok(Some(frame)));
        }
        let frame = ready!(self.down.poll_frame(cx));
        self.touched |= matches!(frame, Ok(Some(_)));
        Poll::Ready(frame)
    }

    fn is_received(&self) -> bool {
        self.frames.is_empty() && self.down.is_received()
    }
}

impl<D: Downstream> Transmit for Held<'_, D> {
    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Cause>> {
        self.down.poll_room(cx)
    }

    fn queue(&mut self, frame: Frame) -> Result<(), Cause> {
        self.down.queue(frame)
    }

    fn finish(&mut self) -> Result<(), Cause> {
        self.down.finish()
    }

    fn is_finished(&self) -> bool {
        self.down.is_finished()
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Cause>> {
        self.down.poll_flush(cx)
    }
}

impl<D: Downstream> Downstream for Held<'_, D> {
    fn queue_head(&mut self, head: &ResponseHead) -> Result<(), Cause> {
        self.down.queue_head(head)
    }

    fn queue_interim(&mut self, head: &ResponseHead) -> Result<(), Cause> {
        self.down.queue_interim(head)
    }

    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<Cause> {
        self.down.poll_gone(cx)
    }

    /// What is held can be sent again; once something of it was handed on, it is gone.
    fn is_body_untouched(&self) -> bool {
        !self.touched
    }

    fn counters(&self) -> Counters {
        self.down.counters()
    }
}

impl<D: Client> Client for Held<'_, D> {
    async fn answer(&mut self, head: ResponseHead, body: Bytes) -> Result<(), Cause> {
        self.down.answer(head, body).await
    }
}
