//! Tests of reading as other rooms call it.

mod draw;
mod laws;
