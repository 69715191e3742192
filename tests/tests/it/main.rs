//! End-to-end tests: the real binary, as a user without privileges, in its own namespaces, with other people's programs.
//! One binary, so that it links once.
#![expect(
    clippy::float_cmp,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::too_many_lines,
    clippy::unwrap_used,
    reason = "a test fails by a panic, tells one story from the start to the end, and counts whole numbers"
)]

mod agree;
mod authorizer;
mod byo;
mod bypass;
mod capture;
mod claims;
mod commands;
mod door;
mod h2spec;
mod identity;
mod judged;
mod lab;
mod live;
mod nist;
mod observe;
mod peers;
mod policy_tests;
mod rebuild;
mod rest;
mod sandbox;
mod soak;
mod survive;
mod telemetry;
mod tricks;
mod users;
