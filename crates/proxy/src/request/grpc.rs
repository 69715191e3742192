//! Looks along while a gRPC call passes: counts its messages and reads its status. The bytes are not touched.

use std::task::{Context, Poll};

use bartizan_wire::exchange::{Cause, Counters, Downstream, Frame, Receive, Transmit};
use bartizan_wire::head::{Headers, ResponseHead};

/// What was seen of a call.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Messages {
    /// Messages from the client.
    pub(crate) requests: u64,
    /// Messages to the client.
    pub(crate) responses: u64,
    /// The status that the server or a proxy gave.
    pub(crate) status: Option<u32>,
}

/// Counts length-prefixed messages (gRPC over HTTP/2, "Length-Prefixed-Message").
#[derive(Debug, Default)]
struct Counter {
    messages: u64,
    prefix: [u8; 5],
    prefix_length: usize,
    rest: u64,
}

impl Counter {
    fn see(&mut self, mut bytes: &[u8]) {
        while let Some(first) = bytes.first() {
            if self.rest > 0 {
                let skip = usize::try_from(self.rest).unwrap_or(usize::MAX).min(bytes.len());
                self.rest -= skip as u64;
                bytes = bytes.get(skip..).unwrap_or_default();
                continue;
            }
            if let Some(place) = self.prefix.get_mut(self.prefix_length) {
                *place = *first;
            }
            self.prefix_length += 1;
            bytes = bytes.get(1..).unwrap_or_default();
            if self.prefix_length == self.prefix.len() {
                let [_, length @ ..] = self.prefix;
                self.rest = u64::from(u32::from_be_bytes(length));
                self.prefix_length = 0;
                self.messages += 1;
            }
        }
    }
}

/// A downstream that carries a gRPC call.
pub(crate) struct Observed<'d, D> {
    pub(crate) down: &'d mut D,
    requests: Counter,
    responses: Counter,
    status: Option<u32>,
}

impl<'d, D> Observed<'d, D> {
    /// Looks along at `down`.
    pub(crate) fn new(down: &'d mut D) -> Self {
        Self {
            down,
            requests: Counter::default(),
            responses: Counter::default(),
            status: None,
        }
    }

    /// What was seen.
    pub(crate) fn messages(&self) -> Messages {
        Messages {
            requests: self.requests.messages,
            responses: self.responses.messages,
            status: self.status,
        }
    }

    fn see_status(&mut self, headers: &Headers) {
        if let Some(status) = headers.get_str("grpc-status") {
            self.status = status.parse().ok();
        }
    }
}

impl<D: Downstream> Receive for Observed<'_, D> {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Frame>, Cause>> {
        let frame = self.down.poll_frame(cx);
        if let Poll::Ready(Ok(Some(Frame::Data(data)))) = &frame {
            self.requests.see(data);
        }
        frame
    }

    fn is_received(&self) -> bool {
        self.down.is_received()
    }
}

impl<D: Downstream> Transmit for Observed<'_, D> {
    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Cause>> {
        self.down.poll_room(cx)
    }

    fn queue(&mut self, frame: Frame) -> Result<(), Cause> {
        match &frame {
            Frame::Data(data) => self.responses.see(data),
            Frame::Trailers(trailers) => self.see_status(trailers),
        }
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

impl<D: Downstream> Downstream for Observed<'_, D> {
    fn queue_head(&mut self, head: &ResponseHead) -> Result<(), Cause> {
        self.see_status(&head.headers);
        self.down.queue_head(head)
    }

    fn queue_interim(&mut self, head: &ResponseHead) -> Result<(), Cause> {
        self.down.queue_interim(head)
    }

    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<Cause> {
        self.down.poll_gone(cx)
    }

    fn is_body_untouched(&self) -> bool {
        self.down.is_body_untouched()
    }

    fn counters(&self) -> Counters {
        self.down.counters()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn messages_are_counted_however_they_are_cut(lengths in proptest::collection::vec(0_usize..40, 0..10), cut in 1_usize..50) {
            let mut bytes = Vec::new();
            for length in &lengths {
                bytes.push(0);
                bytes.extend_from_slice(&u32::try_from(*length).unwrap().to_be_bytes());
                bytes.extend(std::iter::repeat_n(7, *length));
            }
            let mut counter = Counter::default();
            for piece in bytes.chunks(cut) {
                counter.see(piece);
            }
            prop_assert_eq!(counter.messages, lengths.len() as u64);
        }
    }
}
