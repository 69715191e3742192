//! `cases/path`: request targets and their canonical paths.

use std::path::Path;

use bartizan_decide::canonical_path;
use bartizan_mesh::PathRule;
use serde::Deserialize;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
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
}

pub(crate) fn run(file: &Path) -> datatest_stable::Result<()> {
    let table: Table = crate::read(file)?;
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
    }
    crate::verdict(&failures)
}
