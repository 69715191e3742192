//! Findings: what is wrong, or worth knowing, about something that a person wrote.
//!
//! A finding carries everything needed to draw it, so that it can be shown far from the file it is about.

mod code;
mod render;

use std::sync::Arc;

use serde::Serialize;

pub use code::{CODES, Code, codes};
pub use render::{Paint, render, render_all, summary, to_json};

use crate::source::{Position, SourceFile, Spot};

/// How much a finding matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Worth knowing; nothing needs to be done.
    Note,
    /// Probably not what was meant; an error with `--strict`.
    Warning,
    /// The document is refused, and with it the whole new state.
    Error,
}

impl Severity {
    /// The word that people read.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Note => "note",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

/// One finding.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What kind of finding it is; stable over versions.
    pub code: Code,
    /// How much it matters.
    pub severity: Severity,
    /// The file's path as shown to people.
    pub file: Arc<str>,
    /// Where in the file.
    pub position: Position,
    /// How many characters of the line it is about, where that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub length: Option<u32>,
    /// What is wrong, with the values that decide it.
    pub what: String,
    /// Why it matters.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// How to fix it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub help: Option<String>,
    /// The line of the file; none where it may hold a secret.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source_line: Option<String>,
}

impl Finding {
    /// A finding at `spot` of `file`, with the line that it is about.
    pub fn new(
        code: Code,
        severity: Severity,
        file: &SourceFile,
        spot: Spot,
        what: impl Into<String>,
    ) -> Self {
        Self {
            code,
            severity,
            file: file.path.clone(),
            position: spot.position,
            length: Some(spot.length),
            what: what.into(),
            why: None,
            help: None,
            source_line: file.line(spot.position.line).map(shortened),
        }
    }

    /// The same finding with the reason why it matters.
    #[must_use]
    pub fn why(mut self, why: impl Into<String>) -> Self {
        self.why = Some(why.into());
        self
    }

    /// The same finding with the way to fix it.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// The finding as `--strict` sees it: a warning is an error.
    #[must_use]
    pub fn strict(mut self) -> Self {
        if self.severity == Severity::Warning {
            self.severity = Severity::Error;
        }
        self
    }

    /// Whether it refuses the document.
    pub fn is_error(&self) -> bool {
        self.severity == Severity::Error
    }
}

/// A source line as a finding keeps it: at most 400 characters, without control characters.
pub(crate) fn shortened(line: &str) -> String {
    line.chars()
        .take(400)
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect()
}
