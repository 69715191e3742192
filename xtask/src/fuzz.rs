//! Builds the fuzz targets with coverage counters on the stable compiler, and runs each for some seconds.

use std::path::Path;

use crate::run;

/// What `cargo fuzz` gives the compiler on nightly, without a sanitizer: all of it is stable, and libFuzzer reads it.
const COVERAGE: &str = "-Cpasses=sancov-module \
-Cllvm-args=-sanitizer-coverage-level=4 \
-Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
-Cllvm-args=-sanitizer-coverage-pc-table \
-Cllvm-args=-sanitizer-coverage-trace-compares";
/// Where everything is built and new inputs are kept; below `target`, so that nothing of it is checked in.
const FOLDER: &str = "target/fuzz";
const USAGE: &str = "cargo xtask fuzz [--seconds N | --smoke] [TARGET…]";
/// A smoke run tries the same inputs each time: from the seeds alone, with one random seed, at most this many. What it says
/// is about the code, not about the machine; looking for what nobody knows is what a run by time is for.
const SMOKE: [&str; 3] = ["-seed=1", "-runs=10000", "-max_total_time=20"];

/// How long each target runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Length {
    Seconds(u32),
    Smoke,
}

/// Runs the targets named, or all, each for the time asked.
pub(crate) fn run(arguments: &[String]) -> Result<(), String> {
    let (length, asked) = parse(arguments)?;
    let known = targets()?;
    if let Some(unknown) = asked.iter().find(|name| !known.contains(name)) {
        return Err(format!(
            "`{unknown}` is not a fuzz target; there are {}",
            known.join(", ")
        ));
    }
    let host = host()?;
    // With --target, build scripts and macros are not instrumented. Not --locked: a dependency that a room has won since then
    // joins this workspace's lock file, which keeps every other version.
    run::cargo_with(
        &[
            "build",
            "--release",
            "--manifest-path",
            "fuzz/Cargo.toml",
            "--bins",
            "--target",
            &host,
        ],
        &[("CARGO_TARGET_DIR", FOLDER), ("RUSTFLAGS", COVERAGE)],
    )?;
    for target in if asked.is_empty() { &known } else { &asked } {
        one(target, length, &host)?;
    }
    Ok(())
}

fn one(target: &str, length: Length, host: &str) -> Result<(), String> {
    let root = run::root();
    let corpus = match length {
        Length::Seconds(_) => format!("{FOLDER}/corpus/{target}"),
        Length::Smoke => format!("{FOLDER}/smoke/{target}"),
    };
    if length == Length::Smoke {
        std::fs::remove_dir_all(root.join(&corpus)).ok();
    }
    let artifacts = format!("{FOLDER}/artifacts/{target}/");
    for folder in [&corpus, &artifacts] {
        std::fs::create_dir_all(root.join(folder)).map_err(|error| format!("make {folder}: {error}"))?;
    }
    let before = reproducers(&root.join(&artifacts));
    let program = root.join(format!("{FOLDER}/{host}/release/{target}"));
    let length: Vec<String> = match length {
        Length::Seconds(seconds) => vec![format!("-max_total_time={seconds}")],
        Length::Smoke => SMOKE.map(str::to_owned).to_vec(),
    };
    let (prefix, seeds) = (
        format!("-artifact_prefix={artifacts}"),
        format!("fuzz/seeds/{target}"),
    );
    let mut arguments: Vec<&str> = length.iter().map(String::as_str).collect();
    arguments.extend([
        "-timeout=10",
        "-rss_limit_mb=2048",
        "-verbosity=0",
        "-print_final_stats=1",
        &prefix,
        &corpus,
        &seeds,
    ]);
    let result = run::program(&program.display().to_string(), &arguments);
    result.map_err(|problem| {
        let new: Vec<String> = reproducers(&root.join(&artifacts))
            .into_iter()
            .filter(|name| !before.contains(name))
            .map(|name| format!("{artifacts}{name}"))
            .collect();
        format!(
            "{target} found something: {problem}\n  reproducer: {}\n  again: {} REPRODUCER",
            if new.is_empty() {
                "none was written".to_owned()
            } else {
                new.join(", ")
            },
            program.display()
        )
    })
}

fn reproducers(folder: &Path) -> Vec<String> {
    std::fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect()
}

/// The targets in the fuzz workspace, each with seeds.
fn targets() -> Result<Vec<String>, String> {
    let mut names = Vec::new();
    let folder = run::root().join("fuzz/fuzz_targets");
    let entries =
        std::fs::read_dir(&folder).map_err(|error| format!("read {}: {error}", folder.display()))?;
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if let Some(name) = name.strip_suffix(".rs") {
            if !run::exists(&format!("fuzz/seeds/{name}")) {
                return Err(format!("fuzz/seeds/{name} does not exist: {name} has no seeds"));
            }
            names.push(name.to_owned());
        }
    }
    names.sort_unstable();
    Ok(names)
}

fn parse(arguments: &[String]) -> Result<(Length, Vec<String>), String> {
    let mut length = Length::Seconds(60);
    let mut targets = Vec::new();
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        if argument == "--seconds" {
            let number = rest.next().ok_or(USAGE)?;
            let seconds = number.parse().ok().filter(|seconds| *seconds > 0);
            length =
                Length::Seconds(seconds.ok_or_else(|| format!("`{number}` is not a number of seconds"))?);
        } else if argument == "--smoke" {
            length = Length::Smoke;
        } else if argument.starts_with('-') {
            return Err(format!("`{argument}` is not known: {USAGE}"));
        } else {
            targets.push(argument.clone());
        }
    }
    Ok((length, targets))
}

fn host() -> Result<String, String> {
    let rustc = std::env::var("RUSTC").unwrap_or_else(|_| "rustc".to_owned());
    run::output(&rustc, &["-vV"])?
        .lines()
        .find_map(|line| line.strip_prefix("host: "))
        .map(str::to_owned)
        .ok_or_else(|| "rustc -vV names no host".to_owned())
}

#[cfg(test)]
mod tests {
    use super::{Length, parse, targets};

    #[test]
    fn arguments_are_seconds_and_targets() {
        let parse = |text: &str| parse(&text.split_whitespace().map(str::to_owned).collect::<Vec<_>>());
        assert_eq!(parse(""), Ok((Length::Seconds(60), Vec::new())));
        assert_eq!(
            parse("--seconds 5 a b"),
            Ok((Length::Seconds(5), vec!["a".to_owned(), "b".to_owned()]))
        );
        assert_eq!(parse("--smoke"), Ok((Length::Smoke, Vec::new())));
        for wrong in ["--seconds", "--seconds x", "--seconds 0", "--second 5"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn every_target_is_built_and_has_seeds() {
        let manifest = crate::run::read("fuzz/Cargo.toml").unwrap_or_default();
        let targets = targets().unwrap_or_default();
        assert!(!targets.is_empty());
        for target in targets {
            assert!(
                manifest.contains(&format!("name = \"{target}\"")),
                "fuzz/Cargo.toml does not name {target}"
            );
        }
    }
}
