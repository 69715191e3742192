//! Bodies of HTTP/2 streams: frames in, with the window given back as they are taken; frames out, as the peer's
//! window allows.

use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use h2::{RecvStream, SendStream};

use crate::exchange::{Cause, Frame};
use crate::head::Headers;

/// A body that arrives.
#[derive(Debug)]
pub(super) struct BodyIn {
    stream: Option<RecvStream>,
    /// The data has ended, trailers may follow.
    data_ended: bool,
    touched: bool,
    pub(super) received: u64,
}

impl BodyIn {
    pub(super) fn new(stream: RecvStream) -> Self {
        Self {
            stream: (!stream.is_end_stream()).then_some(stream),
            data_ended: false,
            touched: false,
            received: 0,
        }
    }

    /// A body of which nothing is expected yet.
    pub(super) fn none() -> Self {
        Self {
            stream: None,
            data_ended: true,
            touched: false,
            received: 0,
        }
    }

    pub(super) fn is_received(&self) -> bool {
        self.stream.is_none()
    }

    pub(super) fn is_touched(&self) -> bool {
        self.touched
    }

    pub(super) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Frame>, Cause>> {
        let Some(stream) = &mut self.stream else {
            return Poll::Ready(Ok(None));
        };
        while !self.data_ended {
            match ready!(stream.poll_data(cx)).transpose()? {
                Some(data) => {
                    // The taker holds back by not asking; then the window closes.
                    stream.flow_control().release_capacity(data.len())?;
                    self.received += data.len() as u64;
                    let ended = stream.is_end_stream();
                    if ended || !data.is_empty() {
                        if ended {
                            self.stream = None;
                        }
                        self.touched |= !data.is_empty();
                        return Poll::Ready(Ok((!data.is_empty()).then_some(Frame::Data(data))));
                    }
                }
                None => self.data_ended = true,
            }
        }
        let trailers = ready!(stream.poll_trailers(cx))?;
        self.stream = None;
        Poll::Ready(Ok(trailers
            .map(|trailers| Headers::from_http2(&trailers))
            .filter(|trailers| !trailers.is_empty())
            .map(Frame::Trailers)))
    }
}

/// A body that leaves. At most one data frame waits here.
#[derive(Debug, Default)]
pub(super) struct BodyOut {
    stream: Option<SendStream<Bytes>>,
    waiting: Bytes,
    trailers: Option<Headers>,
    ended: bool,
    /// The end has been given to the codec.
    closed: bool,
    pub(super) sent: u64,
}

impl BodyOut {
    /// The body after a head that was sent; `ended` when the head was the end.
    pub(super) fn new(stream: SendStream<Bytes>, ended: bool) -> Self {
        Self {
            stream: Some(stream),
            ended,
            closed: ended,
            ..Self::default()
        }
    }

    pub(super) fn is_finished(&self) -> bool {
        self.ended
    }

    pub(super) fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Cause>> {
        if self.waiting.is_empty() {
            return Poll::Ready(Ok(()));
        }
        self.poll_data(cx)
    }

    /// Gives waiting data to the codec as far as the window allows. Ready when all is given.
    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Cause>> {
        let last = self.ended && self.trailers.is_none();
        let Some(stream) = &mut self.stream else {
            return Poll::Ready(Err(Cause::Desynchronized));
        };
        while !self.waiting.is_empty() {
            stream.reserve_capacity(self.waiting.len());
            let mut room = stream.capacity();
            if room == 0 {
                match ready!(stream.poll_capacity(cx)).transpose()? {
                    Some(given) => room = given,
                    // The stream is not open for sending any more: say why.
                    None => {
                        return match ready!(stream.poll_reset(cx)) {
                            Ok(reason) => Poll::Ready(Err(h2::Error::from(reason).into())),
                            Err(error) => Poll::Ready(Err(error.into())),
                        };
                    }
                }
            }
            let count = room.min(self.waiting.len());
            let data = self.waiting.split_to(count);
            let end = last && self.waiting.is_empty();
            self.sent += count as u64;
            stream.send_data(data, end)?;
            self.closed |= end;
        }
        Poll::Ready(Ok(()))
    }

    pub(super) fn queue(&mut self, frame: Frame) -> Result<(), Cause> {
        match frame {
            Frame::Data(data) if data.is_empty() => Ok(()),
            // A response that may have no body (`HEAD`): dropped, as on HTTP/1.
            Frame::Data(_) if self.closed => Ok(()),
            Frame::Data(_) if self.waiting.has_remaining() => Err(Cause::Desynchronized),
            Frame::Data(data) => {
                self.waiting = data;
                Ok(())
            }
            Frame::Trailers(trailers) => {
                self.trailers = Some(trailers);
                self.ended = true;
                Ok(())
            }
        }
    }

    pub(super) fn finish(&mut self) {
        self.ended = true;
    }

    pub(super) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Cause>> {
        if !self.waiting.is_empty() {
            ready!(self.poll_data(cx))?;
        }
        if self.ended && !self.closed {
            let Some(stream) = &mut self.stream else {
                return Poll::Ready(Err(Cause::Desynchronized));
            };
            match self.trailers.take() {
                Some(trailers) => stream.send_trailers(trailers.to_http2()?)?,
                None => stream.send_data(Bytes::new(), true)?,
            }
            self.closed = true;
        }
        Poll::Ready(Ok(()))
    }

    /// Ready when the peer gave up on the stream.
    pub(super) fn poll_reset(&mut self, cx: &mut Context<'_>) -> Poll<Cause> {
        match &mut self.stream {
            None => Poll::Pending,
            Some(stream) => stream.poll_reset(cx).map(|reset| match reset {
                Ok(reason) => h2::Error::from(reason).into(),
                Err(error) => error.into(),
            }),
        }
    }
}
