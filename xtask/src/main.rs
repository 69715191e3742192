//! The only entry point for building, testing and checking.
fn main() {}
