//! A connection to an upstream of either HTTP version, so that a proxy has one type for both.

use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite};

use crate::exchange::{Cause, Counters, Frame, Receive, Sent, Transmit, Upstream};
use crate::head::{RequestHead, ResponseHead};
use crate::{h1, h2};

/// HTTP/1 or one stream of HTTP/2.
#[derive(Debug)]
pub enum AnyUpstream<IO> {
    /// A connection of its own.
    Http1(h1::ClientConnection<IO>),
    /// A stream beside others.
    Http2(h2::ClientStream),
}

macro_rules! either {
    ($this:expr, $each:ident => $result:expr) => {
        match $this {
            Self::Http1($each) => $result,
            Self::Http2($each) => $result,
        }
    };
}

impl<IO: AsyncRead + AsyncWrite + Unpin> Receive for AnyUpstream<IO> {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Frame>, Cause>> {
        either!(self, each => each.poll_frame(cx))
    }

    fn is_received(&self) -> bool {
        either!(self, each => each.is_received())
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> Transmit for AnyUpstream<IO> {
    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Cause>> {
        either!(self, each => each.poll_room(cx))
    }

    fn queue(&mut self, frame: Frame) -> Result<(), Cause> {
        either!(self, each => each.queue(frame))
    }

    fn finish(&mut self) -> Result<(), Cause> {
        either!(self, each => each.finish())
    }

    fn is_finished(&self) -> bool {
        either!(self, each => each.is_finished())
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Cause>> {
        either!(self, each => each.poll_flush(cx))
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> Upstream for AnyUpstream<IO> {
    fn queue_head(&mut self, head: &RequestHead) -> Result<(), Cause> {
        either!(self, each => each.queue_head(head))
    }

    fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<ResponseHead, Cause>> {
        either!(self, each => each.poll_head(cx))
    }

    fn sent(&self, cause: &Cause) -> Sent {
        either!(self, each => each.sent(cause))
    }

    fn counters(&self) -> Counters {
        either!(self, each => each.counters())
    }
}
