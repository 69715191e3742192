//! End-to-end tests: the real binary, as a user without privileges, in its own namespaces, with other people's programs.
//! One binary, so that it links once.

mod bypass;
mod capture;
mod commands;
mod identity;
mod lab;
mod live;
mod sandbox;
mod telemetry;
