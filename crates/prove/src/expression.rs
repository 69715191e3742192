//! The requests for which an expression is true, and those for which it is false; for the others it is an error.

use bartizan_mesh::{Snapshot, View};

use crate::formula::Formula;
use crate::speaker::Speaker;

/// Whom an expression speaks of as `destination`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Callee<'a> {
    pub(crate) snapshot: &'a Snapshot,
    pub(crate) view: &'a View,
}

/// Where an expression is true, and where it is false.
#[derive(Clone, Debug)]
pub(crate) struct Meaning {
    pub(crate) is_true: Formula,
    pub(crate) is_false: Formula,
}

/// The meaning of an expression's text.
pub(crate) fn meaning(
    speaker: &mut Speaker<'_>,
    text: &str,
    _callee: &Callee<'_>,
    _is_http: bool,
) -> Meaning {
    let (is_true, is_false) = speaker.opaque(text);
    Meaning { is_true, is_false }
}
