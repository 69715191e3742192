//! The program from outside.
#![expect(clippy::unwrap_used, reason = "a test fails by a panic")]

mod pages;
