//! The program from outside.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by a panic")]

mod pages;
