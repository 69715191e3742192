//! What is wrong with an expression, for the person who wrote it.

use std::fmt;
use std::ops::Range;

/// One thing that is wrong with an expression.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Problem {
    /// Where, in bytes of the text.
    pub range: Range<usize>,
    /// What is wrong.
    pub what: String,
    /// What to write instead, where that is known.
    pub help: Option<String>,
}

impl Problem {
    pub(crate) fn new(range: Range<usize>, what: impl Into<String>) -> Self {
        Self {
            range,
            what: what.into(),
            help: None,
        }
    }

    pub(crate) fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)?;
        match &self.help {
            Some(help) => write!(f, "; {help}"),
            None => Ok(()),
        }
    }
}
