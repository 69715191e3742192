//! Runs every test and adds the test programs' own results up to one closing line.

use std::io::{BufRead as _, BufReader};
use std::process::Stdio;

use crate::{peers, run};

/// Builds the binary that end-to-end tests start, runs all tests, and gives the closing line.
pub(crate) fn all(arguments: &[String]) -> Result<String, String> {
    run::cargo(&["build", "--locked", "--package", "bartizan"])?;
    let mut command = run::command(
        &run::cargo_path(),
        &["test", "--workspace", "--locked", "--no-fail-fast"],
    );
    command
        .args(arguments)
        .env("BARTIZAN_PEERS", peers::folder())
        .stdout(Stdio::piped());
    eprintln!(
        "$ cargo test --workspace --locked --no-fail-fast {}",
        arguments.join(" ")
    );
    let mut child = command.spawn().map_err(|error| format!("start cargo: {error}"))?;
    let (mut passed, mut failed, mut skipped) = (0u64, 0u64, 0u64);
    if let Some(stdout) = child.stdout.take() {
        for line in BufReader::new(stdout).split(b'\n') {
            let line = line.map_err(|error| format!("read the test output: {error}"))?;
            let line = String::from_utf8_lossy(&line);
            println!("{line}");
            if let Some(counts) = line.strip_prefix("test result: ") {
                passed += count(counts, "passed");
                failed += count(counts, "failed");
                skipped += count(counts, "ignored");
            }
        }
    }
    let status = child
        .wait()
        .map_err(|error| format!("wait for cargo test: {error}"))?;
    let summary = format!("{passed} passed, {failed} failed, {skipped} skipped");
    if !status.success() || failed > 0 {
        return Err(format!("{status}\n{summary}"));
    }
    if passed == 0 {
        return Err("no test ran".to_owned());
    }
    Ok(summary)
}

fn count(line: &str, word: &str) -> u64 {
    line.split([';', '.'])
        .find_map(|part| part.trim().strip_suffix(word)?.trim().parse().ok())
        .unwrap_or(0)
}
