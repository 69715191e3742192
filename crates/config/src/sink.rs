//! Collects the findings of one file, within a bound.

use std::cell::{Cell, OnceCell, RefCell};

use crate::finding::{Code, Finding, Severity, codes, shortened};
use crate::source::{Position, SourceFile, Spot, line_starts, lines};

/// Where readers put findings.
pub(crate) struct Sink {
    file: SourceFile,
    /// Where each line starts, in bytes.
    lines: OnceCell<Vec<usize>>,
    findings: RefCell<Vec<Finding>>,
    errors: Cell<usize>,
    secret: Cell<bool>,
    inner: bool,
}

const MOST_FINDINGS: usize = 1_000;
/// Characters of what a finding says; only a hostile value makes it longer.
const LONGEST_TEXT: usize = 1_000;

impl Sink {
    pub(crate) fn new(file: &SourceFile) -> Self {
        Self {
            file: file.clone(),
            lines: OnceCell::new(),
            findings: RefCell::default(),
            errors: Cell::new(0),
            secret: Cell::new(false),
            inner: false,
        }
    }

    /// Findings of a text inside of a file, whose places are the text's own.
    pub(crate) fn inner(text: &SourceFile) -> Self {
        Self {
            inner: true,
            ..Self::new(text)
        }
    }

    pub(crate) fn is_inner(&self) -> bool {
        self.inner
    }

    /// From now on, whether source lines and values stay out of findings.
    pub(crate) fn hide_values(&self, hide: bool) {
        self.secret.set(hide);
    }

    /// How many errors there were; more than are kept, if there were very many.
    pub(crate) fn errors(&self) -> usize {
        self.errors.get()
    }

    /// Whether further findings are left out, so that looking for a good help is in vain.
    pub(crate) fn is_full(&self) -> bool {
        self.findings.borrow().len() > MOST_FINDINGS
    }

    pub(crate) fn into_findings(self) -> Vec<Finding> {
        let mut findings = self.findings.into_inner();
        findings.sort_by_key(|finding| finding.position);
        findings
    }

    /// A value as a message quotes it.
    pub(crate) fn quoted(&self, text: &str) -> String {
        if self.secret.get() {
            return "the value".to_owned();
        }
        let mut short = shortened(text);
        if let Some((at, _)) = short.char_indices().nth(80) {
            short.truncate(at);
            short.push('…');
        }
        format!("`{short}`")
    }

    pub(crate) fn is_secret(&self) -> bool {
        self.secret.get()
    }

    pub(crate) fn push(
        &self,
        severity: Severity,
        code: Code,
        spot: Spot,
        what: impl Into<String>,
        why: Option<String>,
        help: Option<String>,
    ) {
        if severity == Severity::Error {
            self.errors.set(self.errors.get() + 1);
        }
        let mut findings = self.findings.borrow_mut();
        if findings.len() > MOST_FINDINGS {
            return;
        }
        let finding = if findings.len() == MOST_FINDINGS {
            self.errors.set(self.errors.get() + 1);
            let what = "more than 1,000 findings in one file; the rest is left out";
            self.finding(
                Severity::Error,
                codes::TOO_COMPLEX,
                spot,
                what.to_owned(),
                None,
                None,
            )
        } else {
            self.finding(severity, code, spot, what.into(), why, help)
        };
        findings.push(finding);
    }

    /// The text of the file from this place on.
    pub(crate) fn text_from(&self, position: Position) -> &str {
        let starts = self.lines.get_or_init(|| line_starts(&self.file.text));
        let line = usize::try_from(position.line.saturating_sub(1)).unwrap_or(usize::MAX);
        let column = usize::try_from(position.column.saturating_sub(1)).unwrap_or(usize::MAX);
        let line = starts.get(line).and_then(|start| self.file.text.get(*start..));
        let line = line.unwrap_or_default();
        let start = line.char_indices().nth(column).map_or(line.len(), |(at, _)| at);
        line.get(start..).unwrap_or_default()
    }

    pub(crate) fn error(&self, code: Code, spot: Spot, what: impl Into<String>) {
        self.push(Severity::Error, code, spot, what, None, None);
    }

    pub(crate) fn error_help(
        &self,
        code: Code,
        spot: Spot,
        what: impl Into<String>,
        help: impl Into<String>,
    ) {
        self.push(Severity::Error, code, spot, what, None, Some(help.into()));
    }

    fn finding(
        &self,
        severity: Severity,
        code: Code,
        spot: Spot,
        mut what: String,
        why: Option<String>,
        help: Option<String>,
    ) -> Finding {
        let starts = self.lines.get_or_init(|| line_starts(&self.file.text));
        let index = usize::try_from(spot.position.line.saturating_sub(1)).unwrap_or(usize::MAX);
        let start = starts.get(index).filter(|_| !self.secret.get());
        let rest = start.and_then(|start| self.file.text.get(*start..));
        if let Some((at, _)) = what.char_indices().nth(LONGEST_TEXT) {
            what.truncate(at);
            what.push('…');
        }
        Finding {
            code,
            severity,
            file: self.file.path.clone(),
            position: spot.position,
            length: Some(spot.length),
            what,
            why,
            help,
            source_line: rest.and_then(|rest| lines(rest).next()).map(shortened),
        }
    }
}
