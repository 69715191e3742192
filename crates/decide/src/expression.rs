//! The expressions of AccessRules: compiled when the engine is built, evaluated against the facts of a decision.

use bartizan_mesh::Action;

use crate::facts::Headers;
use crate::matching::Subject;

/// An expression of a rule.
#[derive(Debug)]
pub(crate) struct Expression {
    /// Why it cannot be evaluated.
    problem: String,
}

impl Expression {
    /// Compiles an expression; one that cannot be compiled is kept as one that fails closed.
    pub(crate) fn compile(text: &str) -> Self {
        Self {
            problem: format!("the expression `{text}` cannot be read"),
        }
    }

    /// Why it cannot be compiled.
    pub(crate) fn problem(&self) -> Option<&str> {
        Some(&self.problem)
    }

    /// Whether it is true; where it cannot be evaluated it does not allow, and it does deny.
    pub(crate) fn holds<H: Headers + ?Sized>(&self, action: Action, _subject: &Subject<'_, H>) -> bool {
        action != Action::Allow
    }
}
