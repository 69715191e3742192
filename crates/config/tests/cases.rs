//! Runs every table of `cases/config`: documents in, findings with code, line and column out, or none.

use std::path::Path;

use bartizan_config::{Finding, Severity, SourceFile, read};
use serde::Deserialize;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    /// What the table is about.
    #[expect(dead_code, reason = "for readers of the table")]
    why: String,
    /// Where the rule comes from.
    #[expect(dead_code, reason = "for readers of the table")]
    source: String,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    name: String,
    text: String,
    /// `SEVERITY CODE LINE:COLUMN`, in the order of the file; notes are listed only where the case has some.
    #[serde(default)]
    findings: Vec<String>,
    /// The documents that are read, as `Kind namespace/name`. Where it is not given, a case without an error has at
    /// least one.
    documents: Option<Vec<String>>,
    /// Parts of the drawn findings that must be there.
    #[serde(default)]
    says: Vec<String>,
    /// Texts that the drawn findings must not have.
    #[serde(default)]
    hides: Vec<String>,
}

fn short(finding: &Finding) -> String {
    format!(
        "{} {} {}",
        finding.severity.as_str(),
        finding.code,
        finding.position
    )
}

#[expect(clippy::needless_pass_by_value, reason = "the harness asks for this shape")]
fn run(path: &Path, text: String) -> datatest_stable::Result<()> {
    let table: Table = serde_saphyr::from_str(&text)?;
    let mut problems = Vec::new();
    assert!(!table.cases.is_empty(), "{}: no cases", path.display());
    for case in table.cases {
        let reading = read(&SourceFile::new("case.yaml", case.text.as_str()));
        let wants_notes = case.findings.iter().any(|line| line.starts_with("note"));
        let found: Vec<String> = reading
            .findings
            .iter()
            .filter(|finding| wants_notes || finding.severity != Severity::Note)
            .map(short)
            .collect();
        let drawn =
            bartizan_config::finding::render_all(&reading.findings, bartizan_config::finding::Paint::Plain);
        if found != case.findings {
            problems.push(format!(
                "`{}`: expected {:#?}\nfound {found:#?}\n{drawn}",
                case.name, case.findings
            ));
        }
        for part in &case.says {
            if !drawn.contains(part.as_str()) {
                problems.push(format!("`{}`: does not say {part:?}:\n{drawn}", case.name));
            }
        }
        for part in &case.hides {
            if drawn.contains(part.as_str()) {
                problems.push(format!("`{}`: shows {part:?}:\n{drawn}", case.name));
            }
        }
        let documents: Vec<String> = reading
            .documents
            .iter()
            .map(|document| document.reference.to_string())
            .collect();
        match case.documents {
            Some(expected) if expected != documents => {
                problems.push(format!(
                    "`{}`: expected {expected:?}, read {documents:?}",
                    case.name
                ));
            }
            None if documents.is_empty() != reading.has_errors() => {
                problems.push(format!("`{}`: read {documents:?}\n{drawn}", case.name));
            }
            Some(_) | None => {}
        }
    }
    if problems.is_empty() {
        Ok(())
    } else {
        Err(problems.join("\n").into())
    }
}

datatest_stable::harness! {
    { test = run, root = "../../cases/config", pattern = r".*\.yaml$" },
}
