//! Runs the case tables of `cases/`: a folder a decision, a file a topic, each case with what it must give.

mod authn;
mod authz;
mod mtls;
mod path;
mod route;

datatest_stable::harness! {
    { test = authn::run, root = "../../cases/authn", pattern = r"\.yaml$" },
    { test = authz::run, root = "../../cases/authz", pattern = r"\.yaml$" },
    { test = route::run, root = "../../cases/route", pattern = r"\.yaml$" },
    { test = path::run, root = "../../cases/path", pattern = r"\.yaml$" },
    { test = mtls::run, root = "../../cases/mtls", pattern = r"\.yaml$" },
}

/// Reads a table.
fn read<T: serde::de::DeserializeOwned>(file: &std::path::Path) -> datatest_stable::Result<T> {
    Ok(serde_saphyr::from_str(&std::fs::read_to_string(file)?)?)
}

/// Fails with all lines at once, or not at all.
fn verdict(failures: &[String]) -> datatest_stable::Result<()> {
    if failures.is_empty() {
        Ok(())
    } else {
        Err(failures.join("\n").into())
    }
}
