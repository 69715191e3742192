//! The same random policies and requests for bartizan and for Envoy: what becomes of them must be the same.

use std::process::Command;
use std::time::Duration;

use bartizan_tests::{peers, repository, run, skip};

#[test]
fn bartizan_and_envoy_decide_alike() {
    let (python, envoy) = (
        peers().join("python/bin/python"),
        peers().join("python/bin/envoy"),
    );
    if !python.exists() || !envoy.exists() {
        return skip("no Envoy: cargo xtask peers");
    }
    let mut command = Command::new(python);
    command
        .arg(repository().join("tests/differential/agree.py"))
        .arg("--bartizan")
        .arg(bartizan_tests::binary())
        .arg("--envoy")
        .arg(envoy)
        // More of each by hand: `--cases 1000 --seed N`.
        .args(["--cases", "250", "--requests", "8"]);
    let ended = run(command, Duration::from_mins(5));
    assert_eq!(ended.code, 0, "{}\n{}", ended.stdout, ended.stderr);
    println!("{}", ended.stdout);
}
