//! The control plane as its callers see it: real sockets, a node and proxies that speak to it, folders that change.

#![expect(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a test")]

mod admin;
mod live;
mod plane;
mod restart;
mod sign;
mod stubs;
