//! What is let in, over all requests and not samples: claims with a counterexample when they are false, and what a change of
//! documents opens and closes.
//!
//! A workload's policies become a set of requests. Each thing that requests differ in (caller, port, path, a claim of the
//! token, …) is divided into the classes that the patterns of the question can tell apart, each with an example, and a set is
//! a decision diagram over those classes: exact, and small where policies are. The meaning is that of `decide`, whose answers
//! the tests compare with these, both ways. What an expression asks that cannot be put so stays open, and an answer that
//! depends on it says so.

mod address;
mod apart;
mod bits;
pub mod claim;
mod clock;
pub mod compare;
mod diagram;
mod expression;
mod formula;
mod laws;
mod machine;
#[cfg(test)]
mod oracle;
mod problem;
pub mod request;
mod routes;
mod rule;
mod sealed;
mod side;
mod speaker;
mod text;
mod words;

pub use claim::{
    Answer, Needs, PlainPort, callers_without, every_way, every_way_of, every_way_on_to, is_alike, never,
    plain_ports,
};
pub use compare::{Change, Responsible, Ways, compare};
pub use problem::TooLarge;
pub use request::{HttpRequest, Request};
pub use words::Callers;
