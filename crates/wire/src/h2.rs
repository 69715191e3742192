//! HTTP/2 over the `h2` crate: bounds, heads in our words, and streams that fit the [exchange](crate::exchange).

mod body;
mod client;
mod coalesce;
mod server;

pub use client::{ClientConnection, ClientStream};
pub use server::{ServerConnection, ServerStream};

use thiserror::Error;

/// Bounds of a connection, for both ends; what goes beyond them is a connection or stream error to the peer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Settings {
    /// Streams that the peer may have open; more are refused (`REFUSED_STREAM`). For a client, the streams that
    /// it opens on one connection at most.
    pub concurrent_streams: u32,
    /// Bytes a peer may send on a stream before they are taken.
    pub stream_window: u32,
    /// Bytes a peer may send on the connection before they are taken.
    pub connection_window: u32,
    /// The largest frame that is accepted.
    pub frame_bytes: u32,
    /// Bytes of a header list, as HPACK counts them.
    pub header_list_bytes: u32,
    /// Streams that the peer reset and that nobody has accepted yet; beyond that the connection ends with
    /// `ENHANCE_YOUR_CALM` (rapid reset, CVE-2023-44487).
    pub pending_resets: usize,
    /// Streams that the client gave up before the head of their answer; beyond that, when they are more than half of all, the
    /// connection ends likewise. Streams that were taken already are counted here.
    pub premature_resets: u64,
    /// Streams that were reset because of the peer's errors; beyond that the connection ends likewise.
    pub error_resets: usize,
    /// Bytes of one stream's data that wait to be written.
    pub send_buffer_bytes: usize,
    /// `:scheme` of requests that a client sends.
    pub https: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            concurrent_streams: 250,
            stream_window: 256 * 1024,
            connection_window: 1024 * 1024,
            frame_bytes: 32 * 1024,
            header_list_bytes: 64 * 1024,
            pending_resets: 20,
            premature_resets: 500,
            error_resets: 256,
            send_buffer_bytes: 128 * 1024,
            https: false,
        }
    }
}

/// Why there is no HTTP/2 connection.
#[derive(Debug, Error)]
pub enum HandshakeError {
    /// The deadline came first.
    #[error("HTTP/2 handshake was not finished in time")]
    Deadline,
    /// The preface or settings were wrong, or the socket failed.
    #[error("HTTP/2 handshake: {0}")]
    Http2(#[from] h2::Error),
}
