//! Findings as text for people and as JSON for programs.

use std::borrow::Cow;
use std::fmt::Write as _;

use super::{Finding, Severity};

/// Whether text has colours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Paint {
    /// Plain text.
    Plain,
    /// ANSI escape sequences, for a terminal.
    Ansi,
}

impl Paint {
    fn wrap(self, style: &str, text: &str) -> String {
        match self {
            Self::Plain => text.to_owned(),
            Self::Ansi => format!("\x1b[{style}m{text}\x1b[0m"),
        }
    }
}

/// One finding, drawn with its source line, ending in a line break.
///
/// ```text
/// error[BZ0110]: `principal` is not a field of `source`
///   --> mesh/policy.yaml:12:13
///    |
/// 12 |             principal: [a]
///    |             ^^^^^^^^^
///    = help: did you mean `principals`?
/// ```
pub fn render(finding: &Finding, paint: Paint) -> String {
    let style = match finding.severity {
        Severity::Error => "1;31",
        Severity::Warning => "1;33",
        Severity::Note => "1;36",
    };
    let number = finding.position.line.to_string();
    let gutter = " ".repeat(number.len());
    let bar = paint.wrap("1;34", "|");
    let head = format!("{}[{}]", finding.severity.as_str(), finding.code);
    let mut out = format!("{}: {}\n", paint.wrap(style, &head), visible(&finding.what));
    let arrow = paint.wrap("1;34", "-->");
    let _ = writeln!(
        out,
        "{gutter}{arrow} {}:{}",
        visible(&finding.file),
        finding.position
    );
    let why_text = finding.why.as_deref().map(visible);
    let mut why = why_text.as_deref();
    if let Some(line) = &finding.source_line {
        let _ = writeln!(out, "{gutter} {bar}");
        let _ = writeln!(
            out,
            "{} {bar} {}",
            paint.wrap("1;34", &number),
            visible(line.trim_end())
        );
        let width = u32::try_from(line.chars().count()).unwrap_or(u32::MAX);
        let before = finding.position.column.saturating_sub(1).min(width);
        let length = finding
            .length
            .unwrap_or(1)
            .min(width.saturating_sub(before))
            .max(1);
        let carets = paint.wrap(style, &"^".repeat(usize::try_from(length).unwrap_or(1)));
        let indent = " ".repeat(usize::try_from(before).unwrap_or(0));
        let label = why.filter(|why| why.len() <= 60);
        if label.is_some() {
            why = None;
        }
        let label = label
            .map(|why| format!(" {}", paint.wrap(style, why)))
            .unwrap_or_default();
        let _ = writeln!(out, "{gutter} {bar} {indent}{carets}{label}");
    }
    for (word, text) in [("why", why), ("help", finding.help.as_deref())] {
        if let Some(text) = text {
            // Lines after the first (a document to copy) stand below it.
            for (number, line) in text.lines().enumerate() {
                let line = visible(line);
                let _ = if number == 0 {
                    writeln!(out, "{gutter} {} {word}: {line}", paint.wrap("1;34", "="))
                } else {
                    writeln!(out, "{gutter}   {line}")
                };
            }
        }
    }
    out
}

/// The text without control characters, which in what people wrote could command a terminal.
fn visible(text: &str) -> Cow<'_, str> {
    if text.contains(char::is_control) {
        let escaped = |c: char| {
            if c.is_control() {
                c.escape_default().to_string()
            } else {
                c.to_string()
            }
        };
        Cow::Owned(text.chars().map(escaped).collect())
    } else {
        Cow::Borrowed(text)
    }
}

/// All findings, drawn, with an empty line between two; nothing where there are none.
pub fn render_all(findings: &[Finding], paint: Paint) -> String {
    let drawn: Vec<String> = findings.iter().map(|finding| render(finding, paint)).collect();
    drawn.join("\n")
}

/// How many there are: `2 errors, 1 warning`; `no findings` where there are none.
pub fn summary(findings: &[Finding]) -> String {
    let mut parts = Vec::new();
    for severity in [Severity::Error, Severity::Warning, Severity::Note] {
        let count = findings
            .iter()
            .filter(|finding| finding.severity == severity)
            .count();
        match count {
            0 => {}
            1 => parts.push(format!("1 {}", severity.as_str())),
            _ => parts.push(format!("{count} {}s", severity.as_str())),
        }
    }
    if parts.is_empty() {
        "no findings".to_owned()
    } else {
        parts.join(", ")
    }
}

/// All findings as a JSON array of objects with `code`, `severity`, `file`, `position`, `what` and, where they are
/// known, `length`, `why`, `help` and `source_line`.
pub fn to_json(findings: &[Finding]) -> serde_json::Value {
    serde_json::to_value(findings).unwrap_or_default()
}
