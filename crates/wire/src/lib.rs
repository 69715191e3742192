//! Bytes on sockets: HTTP/1 and HTTP/2, TLS streams, sniffing, relaying, pools, socket options.
//!
//! This room has no rules of its own: it reads what a peer sends, strictly and within bounds, and writes what it
//! is told. Reading order: [`head`] (what a message says), [`exchange`] (one request between two connections),
//! [`h1`] and [`h2`] (the codecs), [`relay`] (bytes), [`pool`], and the streams below them. Everything is driven
//! by the caller's task and stays on the caller's thread; the one exception is an HTTP/2 client connection, which
//! owns a task for its frames.

pub mod exchange;
pub mod h1;
pub mod h2;
pub mod head;
pub mod pool;
pub mod proxy_protocol;
pub mod relay;
pub mod sniff;
pub mod socket;
pub mod stream;
pub mod tls_stream;
pub mod upstream;

mod buffer;
