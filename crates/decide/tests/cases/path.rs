//! `cases/path`: request targets, their canonical paths, and what is forwarded.

use std::path::Path;

use bartizan_decide::{canonical_path, forwarded_target, query_of};
use bartizan_mesh::PathRule;
use serde::Deserialize;

#[derive(Deserialize)]
#[serde(untagged)]
enum Table {
    OneRule(OneRule),
    Modes(Modes),
}

/// One rule, and what it says of each target.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OneRule {
    rule: PathRule,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    target: String,
    /// The canonical path,
    path: Option<String>,
    /// or the name of the refusal.
    refused: Option<String>,
    /// The target that is forwarded, where it is another.
    forwarded: Option<String>,
}

/// Several rules beside each other.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Modes {
    modes: Vec<PathRule>,
    cases: Vec<ModesCase>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ModesCase {
    target: String,
    /// What is forwarded in each mode, or `refused`.
    forwarded: Vec<String>,
}

pub(crate) fn run(file: &Path) -> datatest_stable::Result<()> {
    let failures = match crate::read(file)? {
        Table::OneRule(table) => one_rule(&table),
        Table::Modes(table) => modes(&table),
    };
    crate::verdict(&failures)
}

fn one_rule(table: &OneRule) -> Vec<String> {
    let mut failures = Vec::new();
    for case in &table.cases {
        let (path, refused) = match canonical_path(&case.target, table.rule) {
            Ok(path) => (Some(path.as_str().to_owned()), None),
            Err(ambiguous) => (None, Some(format!("{ambiguous:?}"))),
        };
        if (&path, &refused) != (&case.path, &case.refused) {
            failures.push(format!(
                "`{}` gives {path:?} {refused:?}, not {:?} {:?}",
                case.target, case.path, case.refused
            ));
        }
        let forwarded = forwarded_target(&case.target, table.rule);
        if case.forwarded.is_some() && forwarded != case.forwarded {
            failures.push(format!("`{}` is forwarded as {forwarded:?}", case.target));
        }
    }
    failures
}

fn modes(table: &Modes) -> Vec<String> {
    let mut failures = Vec::new();
    for case in &table.cases {
        if case.forwarded.len() != table.modes.len() {
            failures.push(format!("`{}` has not one column a mode", case.target));
        }
        for (mode, wanted) in table.modes.iter().zip(&case.forwarded) {
            // The path that is matched with the query as sent is what is forwarded.
            let found = canonical_path(&case.target, *mode).map_or_else(
                |_| "refused".to_owned(),
                |path| match query_of(&case.target) {
                    Some(query) => format!("{path}?{query}"),
                    None => path.to_string(),
                },
            );
            if found != *wanted {
                failures.push(format!(
                    "`{}` under {mode:?} gives `{found}`, not `{wanted}`",
                    case.target
                ));
            }
            let is_origin_form = case.target.starts_with('/');
            let forwarded = forwarded_target(&case.target, *mode).unwrap_or_else(|| case.target.clone());
            if is_origin_form && found != "refused" && forwarded != *wanted {
                failures.push(format!(
                    "`{}` under {mode:?} is forwarded as `{forwarded}`",
                    case.target
                ));
            }
        }
    }
    failures
}
