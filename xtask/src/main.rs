//! `cargo xtask VERB`: the one entry point for everything that is done to this repository. No dependencies.
#![expect(clippy::print_stdout, reason = "a command-line tool")]

mod arrows;
mod deny;
mod fuzz;
mod peers;
mod reference;
mod run;
mod tests_run;

use std::process::ExitCode;

const USAGE: &str = "cargo xtask VERB

  ci       everything that must pass: arrows, deny, format, lints, docs, tests, a smoke run of the fuzz targets and the benchmark
  test     installs the test peers, builds the binary, runs all tests; arguments after it go to the test programs
  lint     format and clippy, warnings are errors
  arrows   the imports between rooms against the table in ARCHITECTURE.md
  deny     banned crates, licences, sources
  docs     generated reference pages, rustdoc without warnings, links between pages; --write makes the pages anew
  gen      generates Rust from proto/
  peers    installs what the tests' peers need
  fuzz     runs each fuzz target, or those named, for some seconds (--seconds N) and fails with the input that broke one
  bench    the side-by-side benchmark (--short for a smoke run)
";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (verb, rest) = match arguments.split_first() {
        Some((verb, rest)) => (verb.as_str(), rest),
        None => ("help", &[][..]),
    };
    let done = match verb {
        "ci" => ci(),
        "test" => peers::install()
            .and_then(|()| tests_run::all(rest))
            .map(|summary| println!("{summary}")),
        "lint" => lint(),
        "arrows" => arrows::check(),
        "deny" => deny::check(),
        "docs" => docs(rest),
        "gen" => run::cargo(&["run", "--quiet", "--manifest-path", "xtask/gen/Cargo.toml"]),
        "peers" => peers::install(),
        "fuzz" => fuzz::run(rest),
        "bench" => run::program("python3", &[&["benches/run_all.py"], &as_strs(rest)[..]].concat()),
        "help" | "--help" | "-h" => {
            println!("{USAGE}");
            Ok(())
        }
        other => Err(format!("`{other}` is not a verb\n\n{USAGE}")),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("xtask {verb}: {problem}");
            ExitCode::FAILURE
        }
    }
}

fn ci() -> Result<(), String> {
    peers::install()?;
    let summary = tests_run::all(&[])?;
    arrows::check()?;
    deny::check()?;
    lint()?;
    docs(&[])?;
    fuzz::run(&["--smoke".to_owned()])?;
    if run::exists("benches/run_all.py") {
        run::program("python3", &["benches/run_all.py", "--short"])?;
    }
    println!("{summary}");
    Ok(())
}

fn lint() -> Result<(), String> {
    run::cargo(&["fmt", "--all", "--check"])?;
    run::cargo(&["fmt", "--manifest-path", "fuzz/Cargo.toml", "--check"])?;
    run::cargo(&[
        "clippy",
        "--workspace",
        "--all-targets",
        "--locked",
        "--",
        "-D",
        "warnings",
    ])
}

fn docs(rest: &[String]) -> Result<(), String> {
    match as_strs(rest).as_slice() {
        [] => reference::check()?,
        ["--write"] => reference::write()?,
        _ => return Err("cargo xtask docs [--write]".to_owned()),
    }
    run::cargo_with(
        &["doc", "--workspace", "--no-deps", "--locked"],
        &[("RUSTDOCFLAGS", "-D warnings")],
    )?;
    arrows::links()
}

fn as_strs(texts: &[String]) -> Vec<&str> {
    texts.iter().map(String::as_str).collect()
}
