//! Why an evaluation has no answer.

use std::ops::Range;

/// An evaluation without an answer. The caller decides what that means; nothing is allocated for it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{reason}")]
pub struct EvalError {
    reason: Reason,
    start: u32,
    end: u32,
}

impl EvalError {
    pub(crate) fn new(reason: Reason, range: &Range<usize>) -> Self {
        let short = |at: usize| u32::try_from(at).unwrap_or(u32::MAX);
        Self {
            reason,
            start: short(range.start),
            end: short(range.end),
        }
    }

    /// What went wrong.
    pub fn reason(&self) -> Reason {
        self.reason
    }

    /// Which part of the text it went wrong in, in bytes.
    pub fn range(&self) -> Range<usize> {
        self.start as usize..self.end as usize
    }
}

/// What can go wrong in an evaluation.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Reason {
    /// A map has no such key.
    #[error("no such key")]
    NoSuchKey,
    /// An attribute that this caller does not have.
    #[error("no such attribute here")]
    NoSuchAttribute,
    /// An attribute that does not exist for what is judged, such as `request` on a TCP connection.
    #[error("not available on this connection")]
    Unavailable,
    /// An index before the first or after the last element.
    #[error("index out of bounds")]
    OutOfBounds,
    /// An operator or function is not defined for the types that its values have.
    #[error("no such overload")]
    NoSuchOverload,
    /// A whole number divided by zero, or the rest of that.
    #[error("division by zero")]
    DivisionByZero,
    /// A number, timestamp or duration out of its range.
    #[error("out of range")]
    OutOfRange,
    /// A text that is not what it is converted to.
    #[error("the text cannot be converted")]
    BadText,
    /// A text that should be an IP address.
    #[error("not an IP address")]
    NotAnAddress,
    /// The evaluation took more steps than its inputs were declared to need.
    #[error("more steps than the inputs should need")]
    Budget,
}
