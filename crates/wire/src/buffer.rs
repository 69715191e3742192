//! The two buffers of a connection: what was read and not yet used, what is to be written.
//!
//! Buffers are lent from a small store of the thread and given back as soon as the connection waits with
//! nothing in them, so that idle connections hold none. Reads grow from 8 KiB to 256 KiB while a body keeps
//! filling them. Small pieces are gathered into one buffer, large ones are written from where they lie, both
//! in one vectored write.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};

/// The smallest and the usual read.
pub(crate) const READ_BYTES: usize = 8 * 1024;
/// The largest read.
const MOST_READ_BYTES: usize = 256 * 1024;
/// The most that one TLS record brings.
const RECORD_BYTES: usize = 16 * 1024;
/// Below this room a read is not worth its system call.
const LEAST_ROOM: usize = 1024;
/// Pieces up to this size are copied behind each other, larger ones keep their place.
const COPY_BYTES: usize = 4 * 1024;
/// Above this many queued bytes no more is taken in until some are written.
pub(crate) const HIGH_WATER: usize = 256 * 1024;
/// Pieces of one vectored write.
const SLICES: usize = 16;
/// Buffers a thread keeps for the next connection that wakes.
const SPARES: usize = 32;

thread_local! {
    static SPARE_IN: RefCell<Vec<BytesMut>> = const { RefCell::new(Vec::new()) };
    static SPARE_OUT: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

pub(crate) fn lend_in() -> BytesMut {
    SPARE_IN
        .with_borrow_mut(Vec::pop)
        .unwrap_or_else(|| BytesMut::with_capacity(READ_BYTES))
}

pub(crate) fn give_back_in(mut buffer: BytesMut) {
    // Whole again only when no head or frame of it lives.
    if buffer.try_reclaim(READ_BYTES) && buffer.capacity() <= 2 * READ_BYTES {
        SPARE_IN.with_borrow_mut(|spares| {
            if spares.len() < SPARES {
                spares.push(buffer);
            }
        });
    }
}

fn give_back_out(buffer: Vec<u8>) {
    if (1..=4 * COPY_BYTES).contains(&buffer.capacity()) {
        SPARE_OUT.with_borrow_mut(|spares| {
            if spares.len() < SPARES {
                spares.push(buffer);
            }
        });
    }
}

/// What is to be written, in order.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    pieces: VecDeque<Bytes>,
    tail: Vec<u8>,
    /// Bytes of `tail` that are written already.
    sent: usize,
    queued: usize,
}

impl Outbox {
    /// Bytes that wait.
    pub(crate) fn len(&self) -> usize {
        self.queued
    }

    /// Lets `write` add small bytes, and says how many it added.
    pub(crate) fn gather<T>(&mut self, write: impl FnOnce(&mut Vec<u8>) -> T) -> (T, usize) {
        if self.tail.capacity() == 0
            && let Some(spare) = SPARE_OUT.with_borrow_mut(Vec::pop)
        {
            self.tail = spare;
        }
        let before = self.tail.len();
        let result = write(&mut self.tail);
        let added = self.tail.len() - before;
        self.queued += added;
        (result, added)
    }

    /// Adds bytes, copying them when they are few.
    pub(crate) fn push(&mut self, bytes: Bytes) {
        if bytes.len() <= COPY_BYTES {
            self.gather(|tail| tail.extend_from_slice(&bytes));
            return;
        }
        self.queued += bytes.len();
        if self.tail.len() > self.sent {
            let mut piece = Bytes::from(std::mem::take(&mut self.tail));
            piece.advance(self.sent);
            self.sent = 0;
            self.pieces.push_back(piece);
        }
        self.pieces.push_back(bytes);
    }

    fn consume(&mut self, mut count: usize) {
        self.queued = self.queued.saturating_sub(count);
        while count > 0 {
            let Some(piece) = self.pieces.front_mut() else {
                self.sent += count;
                return;
            };
            if piece.len() > count {
                piece.advance(count);
                return;
            }
            count -= piece.len();
            self.pieces.pop_front();
        }
    }

    fn clear(&mut self) {
        self.sent = 0;
        if self.pieces.capacity() > SLICES {
            self.pieces = VecDeque::new();
        }
        let mut tail = std::mem::take(&mut self.tail);
        tail.clear();
        give_back_out(tail);
    }
}

/// A stream with its two buffers.
#[derive(Debug)]
pub(crate) struct Wire<IO> {
    pub(crate) io: IO,
    pub(crate) inbox: BytesMut,
    pub(crate) outbox: Outbox,
    read_bytes: usize,
    /// The stream has been written to since its last flush.
    dirty: bool,
    /// The peer has ended its side, or the stream broke.
    pub(crate) ended: bool,
    /// Bytes handed to the stream since this was last set to 0.
    pub(crate) written: u64,
}

impl<IO: AsyncRead + AsyncWrite + Unpin> Wire<IO> {
    pub(crate) fn new(io: IO, inbox: BytesMut) -> Self {
        Self {
            io,
            inbox,
            outbox: Outbox::default(),
            read_bytes: READ_BYTES,
            dirty: false,
            ended: false,
            written: 0,
        }
    }

    /// Reads once, at most what the buffer has room for; 0 at the end of the stream. `expected` body bytes let
    /// the buffer grow. While it waits with an empty buffer, the buffer is given back.
    pub(crate) fn poll_fill(&mut self, cx: &mut Context<'_>, expected: u64) -> Poll<io::Result<usize>> {
        if self.ended {
            return Poll::Ready(Ok(0));
        }
        if self.inbox.capacity() == 0 {
            self.inbox = lend_in();
        }
        // A TLS record brings at most 16 KiB: as long as one fits, the buffer is used up before the next is taken.
        let (least, wanted) = if expected > READ_BYTES as u64 {
            (self.read_bytes.min(RECORD_BYTES), self.read_bytes)
        } else {
            (LEAST_ROOM, READ_BYTES)
        };
        if self.inbox.capacity() - self.inbox.len() < least {
            self.inbox.reserve(wanted);
        }
        let room = self.inbox.capacity() - self.inbox.len();
        let read = pin!(self.io.read_buf(&mut self.inbox)).poll(cx);
        match read {
            Poll::Pending => {
                self.give_back();
                Poll::Pending
            }
            Poll::Ready(Ok(count)) => {
                if count == 0 {
                    self.ended = true;
                } else if count >= room {
                    self.read_bytes = (self.read_bytes * 2).min(MOST_READ_BYTES);
                } else if count < self.read_bytes / 4 {
                    self.read_bytes = (self.read_bytes / 2).max(READ_BYTES);
                }
                Poll::Ready(Ok(count))
            }
            Poll::Ready(Err(error)) => {
                self.ended = true;
                Poll::Ready(Err(error))
            }
        }
    }

    /// Lets go of the read buffer when nothing is in it.
    pub(crate) fn give_back(&mut self) {
        if self.inbox.is_empty() {
            give_back_in(std::mem::take(&mut self.inbox));
        }
    }

    /// Writes everything that is queued and flushes the stream.
    pub(crate) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.outbox.len() > 0 {
            let io = Pin::new(&mut self.io);
            let tail = self.outbox.tail.get(self.outbox.sent..).unwrap_or_default();
            let count = if self.outbox.pieces.is_empty() {
                ready!(io.poll_write(cx, tail))?
            } else {
                let mut slices = [IoSlice::new(&[]); SLICES];
                let mut used = 0;
                let pieces = self.outbox.pieces.iter().map(|piece| &piece[..]);
                for (slice, piece) in slices.iter_mut().zip(pieces.chain([tail])) {
                    *slice = IoSlice::new(piece);
                    used += 1;
                }
                ready!(io.poll_write_vectored(cx, slices.get(..used).unwrap_or_default()))?
            };
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.outbox.consume(count);
            self.written += count as u64;
            self.dirty = true;
        }
        if self.dirty {
            self.outbox.clear();
            ready!(Pin::new(&mut self.io).poll_flush(cx))?;
            self.dirty = false;
        }
        Poll::Ready(Ok(()))
    }

    /// Ready while more may be queued; writes when much waits.
    pub(crate) fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.outbox.len() < HIGH_WATER {
            return Poll::Ready(Ok(()));
        }
        self.poll_flush(cx)
    }
}
