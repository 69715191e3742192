//! Starting other programs from the top of the repository.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The top of the repository.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap_or(Path::new("."))
        .to_owned()
}

/// Whether this path exists below the top.
pub(crate) fn exists(path: &str) -> bool {
    root().join(path).exists()
}

/// Reads a file below the top.
pub(crate) fn read(path: &str) -> Result<String, String> {
    std::fs::read_to_string(root().join(path)).map_err(|error| format!("read {path}: {error}"))
}

/// A command that runs at the top.
pub(crate) fn command(program: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.args(arguments).current_dir(root()).stdin(Stdio::null());
    command
}

/// Runs a program and shows what it prints.
pub(crate) fn program(program: &str, arguments: &[&str]) -> Result<(), String> {
    finish(program, arguments, command(program, arguments))
}

/// Runs cargo.
pub(crate) fn cargo(arguments: &[&str]) -> Result<(), String> {
    cargo_with(arguments, &[])
}

/// Runs cargo with more environment.
pub(crate) fn cargo_with(arguments: &[&str], environment: &[(&str, &str)]) -> Result<(), String> {
    let mut command = command(&cargo_path(), arguments);
    command.envs(environment.iter().copied());
    finish("cargo", arguments, command)
}

/// The cargo that runs this xtask.
pub(crate) fn cargo_path() -> String {
    std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned())
}

/// Runs a program and takes what it prints.
pub(crate) fn output(program: &str, arguments: &[&str]) -> Result<String, String> {
    let output = command(program, arguments)
        .stderr(Stdio::inherit())
        .output()
        .map_err(|error| format!("start {program}: {error}"))?;
    if !output.status.success() {
        return Err(format!("{program} {}: {}", arguments.join(" "), output.status));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn finish(name: &str, arguments: &[&str], mut command: Command) -> Result<(), String> {
    eprintln!("$ {name} {}", arguments.join(" "));
    let status = command
        .status()
        .map_err(|error| format!("start {name}: {error}"))?;
    if status.success() {
        Ok(())
    } else {
        Err(format!("{name} {}: {status}", arguments.join(" ")))
    }
}
