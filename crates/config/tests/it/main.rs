//! Tests of reading as other rooms call it.

mod draw;
mod examples;
mod laws;
mod places;
mod values;
