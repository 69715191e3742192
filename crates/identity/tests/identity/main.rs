//! The room as its callers use it: real handshakes in memory, real certificates.

#![expect(
    clippy::unwrap_used,
    reason = "a failure in a test's own support code is a failed test"
)]

mod authority;
mod handshake;
mod possession;
mod support;
