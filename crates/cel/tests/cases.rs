//! `cases/cel`: expressions over the attributes of an AccessRule, and what must come out.
#![expect(clippy::panic, reason = "a test fails by a panic")]

use std::collections::BTreeMap;
use std::path::Path;

use bartizan_cel::{Activation, Environment, Found, Timestamp, Type, Value, check};
use serde::Deserialize;

type Failure = Box<dyn std::error::Error>;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    /// One line.
    #[serde(rename = "why")]
    _why: String,
    /// Where it is written that it must be so.
    #[serde(rename = "source")]
    _source: String,
    #[serde(default)]
    given: Given,
    cases: Vec<Case>,
}

/// Attributes by their dotted names; those that are not named are not there.
#[derive(Default, Deserialize)]
#[serde(transparent)]
struct Given(BTreeMap<String, serde_json::Value>);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    when: String,
    is: Option<bool>,
    /// An error in the evaluation.
    error: Option<String>,
    /// What `check` says; with `at` and `help` where those matter.
    problem: Option<String>,
    at: Option<String>,
    help: Option<String>,
    /// Instead of the table's, attribute by attribute.
    #[serde(default)]
    given: Given,
}

struct Merged<'c>(&'c Given, &'c Given);

impl Activation for Merged<'_> {
    fn resolve<'a>(&'a self, path: &str, key: Option<&str>) -> Found<'a> {
        let Some(value) = self.1.0.get(path).or_else(|| self.0.0.get(path)) else {
            return Found::Absent;
        };
        match (value, key) {
            (serde_json::Value::String(text), None) if text == "UNAVAILABLE" => Found::Unavailable,
            (serde_json::Value::String(text), None) if path == "now" => {
                Timestamp::parse(text).map(Value::Timestamp).into()
            }
            (serde_json::Value::Object(map), Some(key)) => map.get(key).into(),
            (_, Some(_)) => panic!("a key is asked of {path}"),
            (value, None) => value.into(),
        }
    }
}

fn run(path: &Path) -> Result<(), Failure> {
    let table: Table = serde_saphyr::from_str(&std::fs::read_to_string(path)?)?;
    let mut wrong = Vec::new();
    for case in &table.cases {
        if let Err(why) = judge(&table, case) {
            wrong.push(format!("{}\n    {why}", case.when));
        }
    }
    if wrong.is_empty() {
        Ok(())
    } else {
        Err(wrong.join("\n").into())
    }
}

fn judge(table: &Table, case: &Case) -> Result<(), String> {
    let program = match check(&case.when, Environment::access_rule()) {
        Ok(program) => program,
        Err(problems) => {
            let Some(expected) = &case.problem else {
                return Err(format!("is refused: {problems:?}"));
            };
            let problem = problems
                .iter()
                .find(|problem| problem.what.contains(expected.as_str()))
                .ok_or_else(|| format!("no problem says {expected:?}: {problems:?}"))?;
            let at = case
                .when
                .get(problem.range.clone())
                .ok_or("the range is not in the text")?;
            if case.at.as_deref().is_some_and(|expected| expected != at) {
                return Err(format!("the problem is at {at:?}"));
            }
            let help = problem.help.as_deref().unwrap_or_default();
            if case
                .help
                .as_ref()
                .is_some_and(|expected| !help.contains(expected.as_str()))
            {
                return Err(format!("the help is {help:?}"));
            }
            return Ok(());
        }
    };
    if let Some(expected) = &case.problem {
        return Err(format!("is accepted instead of {expected:?}"));
    }
    assert_eq!(program.expression().of, Type::Bool);
    match (
        program.evaluate(&Merged(&table.given, &case.given)),
        case.is,
        &case.error,
    ) {
        (Ok(found), Some(expected), None) if found == expected => Ok(()),
        (Err(error), None, Some(expected)) if error.to_string().contains(expected.as_str()) => {
            match (case.when.get(error.range()), &case.at) {
                (None, _) => Err("the range is not in the text".to_owned()),
                (Some(at), Some(expected)) if at != expected => Err(format!("the error is at {at:?}")),
                _ => Ok(()),
            }
        }
        (found, ..) => Err(format!("gives {found:?}")),
    }
}

datatest_stable::harness! {
    { test = run, root = "../../cases/cel", pattern = r"\.yaml$" },
}
