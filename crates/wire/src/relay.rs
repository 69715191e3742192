//! Bytes both ways between two connections, until both directions have ended.
//!
//! Each direction keeps its own half close: the end of one side's data is passed on, and the other direction
//! goes on. A buffer starts at 8 KiB, doubles while reads fill it up to 256 KiB, and is given back while its
//! direction waits. To end a relay from outside (a policy denies the connection), drop the future.

use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::time::{Instant, sleep_until};

use crate::buffer::{READ_BYTES, give_back_in, lend_in};

/// The largest buffer of one direction.
const MOST_BYTES: usize = 256 * 1024;

/// Bytes carried so far, readable while the relay runs.
#[derive(Debug, Default)]
pub struct RelayCounters {
    /// From the first stream to the second.
    pub from_a: AtomicU64,
    /// From the second stream to the first.
    pub from_b: AtomicU64,
}

/// How a relay ended.
#[derive(Debug)]
pub enum Ended {
    /// Both sides ended their data.
    Closed,
    /// No byte moved for the given time.
    Idle,
    /// The first stream failed.
    FailedA(io::Error),
    /// The second stream failed.
    FailedB(io::Error),
}

struct Direction {
    buffer: BytesMut,
    size: usize,
    dirty: bool,
    read_ended: bool,
    done: bool,
}

enum Failed {
    Reading(io::Error),
    Writing(io::Error),
}

impl Direction {
    fn new() -> Self {
        Self {
            buffer: BytesMut::new(),
            size: READ_BYTES,
            dirty: false,
            read_ended: false,
            done: false,
        }
    }

    fn poll<R: AsyncRead + Unpin, W: AsyncWrite + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        reader: &mut R,
        writer: &mut W,
        carried: &AtomicU64,
        moved: &mut bool,
    ) -> Poll<Result<(), Failed>> {
        loop {
            if self.done {
                return Poll::Ready(Ok(()));
            }
            while !self.buffer.is_empty() {
                let write = Pin::new(&mut *writer).poll_write(cx, &self.buffer);
                let count = ready!(write).map_err(Failed::Writing)?;
                if count == 0 {
                    return Poll::Ready(Err(Failed::Writing(io::ErrorKind::WriteZero.into())));
                }
                self.buffer.advance(count);
                // One writer: this direction.
                carried.fetch_add(count as u64, Ordering::Relaxed);
                self.dirty = true;
                *moved = true;
            }
            if self.read_ended {
                ready!(Pin::new(&mut *writer).poll_shutdown(cx)).map_err(Failed::Writing)?;
                self.done = true;
                self.buffer = BytesMut::new();
                continue;
            }
            if self.buffer.capacity() == 0 && self.size == READ_BYTES {
                self.buffer = lend_in();
            } else {
                self.buffer.reserve(self.size);
            }
            let room = self.buffer.capacity();
            let read = pin!(reader.read_buf(&mut self.buffer)).poll(cx);
            match read {
                Poll::Ready(Ok(0)) => self.read_ended = true,
                Poll::Ready(Ok(count)) => {
                    if count >= room {
                        self.size = (self.size * 2).min(MOST_BYTES);
                    } else if count < self.size / 4 {
                        self.size = (self.size / 2).max(READ_BYTES);
                    }
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(Failed::Reading(error))),
                Poll::Pending => {
                    give_back_in(std::mem::take(&mut self.buffer));
                    if self.dirty {
                        ready!(Pin::new(&mut *writer).poll_flush(cx)).map_err(Failed::Writing)?;
                        self.dirty = false;
                    }
                    return Poll::Pending;
                }
            }
        }
    }
}

/// Carries bytes between `a` and `b` until both have ended, one failed, or nothing moved for between one and two
/// times `idle`. Bytes still buffered are lost when it is dropped.
pub async fn relay<A, B>(a: &mut A, b: &mut B, idle: Option<Duration>, counters: &RelayCounters) -> Ended
where
    A: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    let (mut forth, mut back) = (Direction::new(), Direction::new());
    let mut moved = false;
    // Checked once a period instead of being moved at every read.
    let mut timer = pin!(idle.map(|idle| sleep_until(Instant::now() + idle)));
    poll_fn(|cx| {
        let to_b = forth.poll(cx, a, b, &counters.from_a, &mut moved);
        let to_a = back.poll(cx, b, a, &counters.from_b, &mut moved);
        match (to_b, to_a) {
            (Poll::Ready(Err(Failed::Reading(error))), _) | (_, Poll::Ready(Err(Failed::Writing(error)))) => {
                return Poll::Ready(Ended::FailedA(error));
            }
            (Poll::Ready(Err(Failed::Writing(error))), _) | (_, Poll::Ready(Err(Failed::Reading(error)))) => {
                return Poll::Ready(Ended::FailedB(error));
            }
            (Poll::Ready(Ok(())), Poll::Ready(Ok(()))) => return Poll::Ready(Ended::Closed),
            (Poll::Ready(Ok(())) | Poll::Pending, Poll::Ready(Ok(())) | Poll::Pending) => {}
        }
        if let (Some(mut timer), Some(idle)) = (timer.as_mut().as_pin_mut(), idle) {
            while timer.as_mut().poll(cx).is_ready() {
                if !std::mem::take(&mut moved) {
                    return Poll::Ready(Ended::Idle);
                }
                timer.as_mut().reset(Instant::now() + idle);
            }
        }
        Poll::Pending
    })
    .await
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    #[tokio::test]
    async fn half_close_is_passed_on_and_the_answer_still_comes() {
        let (mut client, mut a) = duplex(1000);
        let (mut b, mut server) = duplex(1000);
        let counters = RelayCounters::default();
        let serve = async {
            let mut request = Vec::new();
            server.read_to_end(&mut request).await.unwrap();
            server.write_all(&vec![7; 100_000]).await.unwrap();
            drop(server);
            request
        };
        let ask = async {
            client.write_all(b"question").await.unwrap();
            client.shutdown().await.unwrap();
            let mut answer = Vec::new();
            client.read_to_end(&mut answer).await.unwrap();
            answer
        };
        let (ended, request, answer) = tokio::join!(relay(&mut a, &mut b, None, &counters), serve, ask);
        assert!(matches!(ended, Ended::Closed), "{ended:?}");
        assert_eq!(request, b"question");
        assert_eq!(answer, vec![7; 100_000]);
        assert_eq!(counters.from_a.load(Ordering::Relaxed), 8);
        assert_eq!(counters.from_b.load(Ordering::Relaxed), 100_000);
    }

    #[tokio::test(start_paused = true)]
    async fn silence_ends_it_and_traffic_does_not() {
        let (mut client, mut a) = duplex(1000);
        let (mut b, mut server) = duplex(1000);
        let counters = RelayCounters::default();
        let idle = Duration::from_secs(10);
        let start = Instant::now();
        let talk = async {
            for _ in 0..5 {
                tokio::time::sleep(Duration::from_secs(9)).await;
                client.write_all(b"x").await.unwrap();
                server.read_u8().await.unwrap();
            }
        };
        let (ended, ()) = tokio::join!(relay(&mut a, &mut b, Some(idle), &counters), talk);
        assert!(matches!(ended, Ended::Idle), "{ended:?}");
        let lasted = start.elapsed();
        assert!(
            lasted >= Duration::from_secs(55) && lasted <= Duration::from_secs(65),
            "{lasted:?}"
        );
    }
}
