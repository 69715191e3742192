//! Two proxies of this crate against each other in one process, over real sockets on loopback.
#![expect(
    clippy::panic,
    clippy::pedantic,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::float_cmp,
    unreachable_pub,
    reason = "tests"
)]

mod authorizer;
mod facts;
mod gateway;
mod http1;
mod http2;
mod live;
mod scene;
mod tcp;
mod users;
