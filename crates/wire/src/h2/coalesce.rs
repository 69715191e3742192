//! Gathers the small writes of an HTTP/2 connection: everything that one wake-up of the connection produces
//! goes out in one write, and so in one TLS record where it fits.
//!
//! The codec flushes after every data frame, which for a unary call means one write for head and message and
//! another for the trailers. Here its flush is a note only; [`Flusher::poll`], called when the connection's poll
//! has returned, does the write. Shutdown writes what is left.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// From this many gathered bytes on, they are written at once.
const GATHER_BYTES: usize = 16 * 1024;

#[derive(Debug)]
struct Shared<IO> {
    io: IO,
    gathered: Vec<u8>,
    written: usize,
    dirty: bool,
}

impl<IO: AsyncWrite + Unpin> Shared<IO> {
    fn poll_write_out(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Some(rest) = self.gathered.get(self.written..).filter(|rest| !rest.is_empty()) {
            let count = ready!(Pin::new(&mut self.io).poll_write(cx, rest))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.written += count;
            self.dirty = true;
        }
        self.written = 0;
        if self.gathered.capacity() > 2 * GATHER_BYTES {
            self.gathered = Vec::new();
        }
        self.gathered.clear();
        Poll::Ready(Ok(()))
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_write_out(cx))?;
        if self.dirty {
            ready!(Pin::new(&mut self.io).poll_flush(cx))?;
            self.dirty = false;
        }
        Poll::Ready(Ok(()))
    }
}

/// The stream that the codec writes to. The lock is never contended: both holders live in one task.
#[derive(Debug)]
pub(crate) struct Coalesce<IO>(Arc<Mutex<Shared<IO>>>);

/// Writes what was gathered.
#[derive(Debug)]
pub(crate) struct Flusher<IO>(Arc<Mutex<Shared<IO>>>);

fn lock<IO>(shared: &Mutex<Shared<IO>>) -> MutexGuard<'_, Shared<IO>> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(crate) fn coalesce<IO>(io: IO) -> (Coalesce<IO>, Flusher<IO>) {
    let shared = Arc::new(Mutex::new(Shared {
        io,
        gathered: Vec::new(),
        written: 0,
        dirty: false,
    }));
    (Coalesce(Arc::clone(&shared)), Flusher(shared))
}

impl<IO: AsyncWrite + Unpin> Flusher<IO> {
    /// Writes what was gathered; to be called after each poll of the connection.
    pub(crate) fn poll(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        lock(&self.0).poll_flush(cx)
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for Coalesce<IO> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut lock(&self.0).io).poll_read(cx, buf)
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Coalesce<IO> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut shared = lock(&self.0);
        if shared.gathered.len() >= GATHER_BYTES {
            ready!(shared.poll_write_out(cx))?;
        }
        for buf in bufs {
            shared.gathered.extend_from_slice(buf);
        }
        Poll::Ready(Ok(bufs.iter().map(|buf| buf.len()).sum()))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut shared = lock(&self.0);
        ready!(shared.poll_flush(cx))?;
        Pin::new(&mut shared.io).poll_shutdown(cx)
    }
}
