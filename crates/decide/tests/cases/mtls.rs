//! `cases/mtls`: what an inbound connection may be.

use std::path::Path;

use bartizan_decide::{FirstBytes, admit};
use bartizan_mesh::MtlsMode;
use serde::Deserialize;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    cases: Vec<Case>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    mode: MtlsMode,
    first: First,
    admission: String,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum First {
    MeshTls,
    OtherTls,
    Plaintext,
}

pub(crate) fn run(file: &Path) -> datatest_stable::Result<()> {
    let table: Table = crate::read(file)?;
    let mut failures = Vec::new();
    for case in &table.cases {
        let first = match case.first {
            First::MeshTls => FirstBytes::MeshTls,
            First::OtherTls => FirstBytes::OtherTls,
            First::Plaintext => FirstBytes::Plaintext,
        };
        let found = format!("{:?}", admit(case.mode, first));
        if found != case.admission {
            failures.push(format!(
                "{:?} {:?} gives {found}, not {}",
                case.mode, case.first, case.admission
            ));
        }
    }
    crate::verdict(&failures)
}
