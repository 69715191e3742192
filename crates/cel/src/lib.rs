//! Conditions in CEL, the Common Expression Language (github.com/google/cel-spec): read, type-checked, bounded in cost,
//! and evaluated.
//!
//! [`check`] turns a text into a [`Program`] or says what is wrong with it and where. A program is evaluated over an
//! [`Activation`], which is asked for one declared attribute at a time. Its typed tree ([`Program::expression`]) is public
//! for whoever wants to reason about it instead of running it.
//!
//! What is here means what CEL says. What is left out is refused by [`check`]: unsigned integers, bytes, messages, optional
//! values, `type`, namespaced functions, and time zones other than UTC and fixed offsets. An object (`source`) is a name for
//! its fields and no value. The pattern of `matches`, the block of `inBlock` and the keys of a map are literals.

#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "an operator is defined for few types and all others are one error"
)]

mod calls;
mod check;
mod compare;
mod convert;
mod environment;
mod error;
mod evaluate;
mod expression;
mod extent;
mod operators;
mod parse;
mod pattern;
mod problem;
mod program;
mod suggest;
mod syntax;
mod time;
mod token;
mod types;
mod value;

pub use environment::Environment;
pub use error::{EvalError, Reason};
pub use expression::{Expression, Function, Kind, Literal, Macro, Operator, TimeField};
pub use extent::Extent;
pub use pattern::Pattern;
pub use problem::Problem;
pub use program::{MOST_STEPS, MOST_TEXT_BYTES, Program, check};
pub use time::{Duration, Timestamp};
pub use types::Type;
pub use value::{Activation, Found, List, Map, Sequence, Table, Text, Value};
