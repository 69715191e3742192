//! `bartizan test DIR`: what policies must decide, as PolicyTest documents say it, judged by the folder alone or asked of the
//! running mesh under the callers' own identities.

mod live;
mod offline;
#[cfg(test)]
mod tests;

use std::process::ExitCode;

use bartizan_config::native::{Expectation, PolicyTestCase};
use bartizan_config::{Document, Resource};
use serde_json::{Value, json};

use crate::args::{Output, TestArgs};
use crate::exit::{Exit, TEST_FAILED, USAGE};
use crate::folder::Folder;
use crate::place::Place;

/// One test, with where it is written.
struct Test {
    /// `NAMESPACE/NAME` of its document.
    document: String,
    file: String,
    line: usize,
    case: PolicyTestCase,
}

/// What came of a test.
#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    /// As expected; by what.
    Passed { by: String },
    /// Not as expected: what came, why, and the smallest change that would let the request pass, where one is known.
    Failed {
        got: String,
        why: String,
        change: Option<String>,
    },
    /// It cannot be run here.
    Skipped { why: String },
}

/// Runs every test of the folder.
///
/// # Errors
/// When the documents have errors, there is no test, or `--live` finds no mesh.
pub(crate) fn run(
    place: impl FnOnce() -> anyhow::Result<Place>,
    args: &TestArgs,
) -> anyhow::Result<ExitCode> {
    let folder = Folder::read(&args.sources, &args.documents)?;
    let tests = tests_of(&folder.documents);
    let judged = offline::Folder::of(folder, args.documents.strict)?;
    if tests.is_empty() {
        return Err(Exit::error(
            USAGE,
            "there is no test: write a PolicyTest document into the folder",
        ));
    }
    let live = if args.live {
        Some(live::Mesh::of(place()?, &args.sources)?)
    } else {
        None
    };
    let mut told = Vec::new();
    let mut counts = Counts::default();
    for test in &tests {
        let outcome = match &live {
            Some(mesh) => mesh.run(test),
            None => judged.run(test),
        };
        counts.add(&outcome);
        match args.output {
            // One after the other: a live test takes its time.
            Output::Text => print!("{}", drawn(test, &outcome)),
            Output::Json => told.push(to_json(test, &outcome)),
        }
    }
    match args.output {
        Output::Text => println!("{}", counts.summary()),
        Output::Json => println!(
            "{}",
            json!({
                "live": args.live,
                "tests": told,
                "passed": counts.passed,
                "failed": counts.failed,
                "skipped": counts.skipped,
            })
        ),
    }
    let is_good = counts.failed == 0 && (counts.skipped == 0 || args.allow_skipped);
    Ok(if is_good {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(TEST_FAILED)
    })
}

fn tests_of(documents: &[Document]) -> Vec<Test> {
    let mut tests = Vec::new();
    for document in documents {
        let Resource::PolicyTest(test) = &document.resource else {
            continue;
        };
        let name = document
            .namespaced_name()
            .map_or_else(|| document.name().to_string(), |name| name.to_string());
        for (index, case) in test.tests.iter().enumerate() {
            tests.push(Test {
                document: name.clone(),
                file: document.file.to_string(),
                line: document.positions.position(&format!("spec.tests[{index}]")).line as usize,
                case: case.clone(),
            });
        }
    }
    tests
}

#[derive(Default)]
struct Counts {
    passed: usize,
    failed: usize,
    skipped: usize,
}

impl Counts {
    fn add(&mut self, outcome: &Outcome) {
        match outcome {
            Outcome::Passed { .. } => self.passed += 1,
            Outcome::Failed { .. } => self.failed += 1,
            Outcome::Skipped { .. } => self.skipped += 1,
        }
    }

    fn summary(&self) -> String {
        let all = self.passed + self.failed + self.skipped;
        let mut text = format!(
            "{all} {}: {} passed",
            if all == 1 { "test" } else { "tests" },
            self.passed
        );
        for (count, word) in [(self.failed, "failed"), (self.skipped, "skipped")] {
            if count > 0 {
                text += &format!(", {count} {word}");
            }
        }
        text
    }
}

/// Who asks whom for what, in a line.
fn asked(case: &PolicyTestCase) -> String {
    let what = case.request.as_ref().map_or_else(
        || "TCP".to_owned(),
        |request| {
            let method = request.method.as_deref().unwrap_or("GET");
            format!("{method} {}", request.path.as_deref().unwrap_or("/"))
        },
    );
    format!("{} -> {} {what}", case.from, case.to)
}

fn expected(case: &PolicyTestCase) -> String {
    match &case.by {
        Some(by) => format!("{} by {by}", case.expect),
        None => case.expect.to_string(),
    }
}

fn drawn(test: &Test, outcome: &Outcome) -> String {
    let name = format!("{}: {}", test.document, test.case.name);
    match outcome {
        Outcome::Passed { .. } => format!("ok       {name}\n"),
        Outcome::Skipped { why } => format!("skipped  {name} ({}:{}): {why}\n", test.file, test.line),
        Outcome::Failed { got, why, change } => {
            let mut out = format!("FAILED   {name} ({}:{})\n", test.file, test.line);
            out += &format!("         {}\n", asked(&test.case));
            out += &format!("         expected {}, got {got}\n", expected(&test.case));
            out += &format!("         {why}\n");
            if let (Some(change), Expectation::Allow) = (change, test.case.expect) {
                out += "         what would let it pass:\n";
                for line in change.trim_end().lines() {
                    out += &format!("           {line}\n");
                }
            }
            out
        }
    }
}

fn to_json(test: &Test, outcome: &Outcome) -> Value {
    let (result, got, why, change) = match outcome {
        Outcome::Passed { by } => ("passed", None, Some(by), None),
        Outcome::Failed { got, why, change } => ("failed", Some(got), Some(why), change.as_ref()),
        Outcome::Skipped { why } => ("skipped", None, Some(why), None),
    };
    json!({
        "policyTest": test.document,
        "name": test.case.name,
        "at": { "file": test.file, "line": test.line },
        "from": test.case.from,
        "to": test.case.to,
        "request": asked(&test.case),
        "expected": expected(&test.case),
        "result": result,
        "got": got,
        "why": why,
        "change": change,
    })
}
