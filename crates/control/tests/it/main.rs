//! The control plane as its callers see it: real sockets, a node and proxies that speak to it, folders that change.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test: what is not as expected ends it"
)]

mod admin;
mod issuer;
mod keys;
mod live;
mod plane;
mod restart;
mod sign;
mod stubs;
