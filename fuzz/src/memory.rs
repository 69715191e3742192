//! A stream in memory whose other end has sent everything and reads everything, so that no future has to wait.

use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// One end of a connection.
#[derive(Debug)]
pub struct Memory {
    /// What is still to be read, the next part last.
    parts: Vec<Vec<u8>>,
    /// What has been written.
    pub written: Vec<u8>,
}

impl Memory {
    /// A stream from which these parts are read one by one, then its end.
    pub fn new(parts: &[&[u8]]) -> Self {
        Self {
            parts: parts.iter().map(|part| part.to_vec()).rev().collect(),
            written: Vec::new(),
        }
    }
}

impl AsyncRead for Memory {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let Some(mut part) = self.parts.pop() {
            let rest = part.split_off(part.len().min(into.remaining()));
            into.put_slice(&part);
            if !rest.is_empty() {
                self.parts.push(rest);
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Memory {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.written.extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// The result of a future that has nothing to wait for.
///
/// # Panics
/// When it waits nevertheless.
pub fn ready<T>(future: impl Future<Output = T>) -> T {
    let mut future = pin!(future);
    let mut context = Context::from_waker(Waker::noop());
    // A future may give way to others between two steps.
    for _ in 0..1 << 20 {
        if let Poll::Ready(value) = future.as_mut().poll(&mut context) {
            return value;
        }
    }
    panic!("waits for something that will not come")
}
