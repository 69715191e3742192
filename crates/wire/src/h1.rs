//! HTTP/1.1 and 1.0, our own codec on `httparse`: heads and bodies sans IO ([`parse`], [`chunk`], [`encode`]),
//! and the two ends of a connection.

pub mod chunk;
mod client;
pub mod encode;
pub mod parse;
mod server;

pub use client::ClientConnection;
pub use parse::Limits;
pub use server::{HeadError, ServerConnection};
