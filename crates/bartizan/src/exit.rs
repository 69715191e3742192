//! Exit codes that mean something: 0 done, 1 failed, 2 wrong usage (clap's), 3 the documents have errors, 4 denied,
//! 5 no mesh runs here, 6 this host does not permit a sandbox, 7 a claim is false, 8 a claim is not decided, 9 a change
//! opens something, 10 a change only closes something, 11 a policy test failed.

use std::process::ExitCode;

/// The command line says something that cannot be.
pub(crate) const USAGE: u8 = 2;
/// The documents have errors.
pub(crate) const FINDINGS: u8 = 3;
/// The answer is "denied".
pub(crate) const DENIED: u8 = 4;
/// No mesh runs here.
pub(crate) const NOT_RUNNING: u8 = 5;
/// This host does not permit a sandbox.
pub(crate) const HOST: u8 = 6;

/// A claim is false.
pub(crate) const CLAIM_FALSE: u8 = 7;
/// No claim is false, and one could not be decided.
pub(crate) const CLAIM_UNDECIDED: u8 = 8;
/// A change opens something.
pub(crate) const OPENS: u8 = 9;
/// A change opens nothing and closes something.
pub(crate) const CLOSES: u8 = 10;
/// A policy test failed, or was skipped where that is not allowed.
pub(crate) const TEST_FAILED: u8 = 11;

/// An error with an exit code of its own.
#[derive(Debug, thiserror::Error)]
#[error("{text}")]
pub(crate) struct Exit {
    /// The process's exit code.
    pub(crate) code: u8,
    /// What a person reads.
    pub(crate) text: String,
}

impl Exit {
    /// An error that ends the process with `code`.
    pub(crate) fn error(code: u8, text: impl Into<String>) -> anyhow::Error {
        Self {
            code,
            text: text.into(),
        }
        .into()
    }
}

/// Prints the error with its causes and gives its exit code.
pub(crate) fn failed(error: &anyhow::Error) -> ExitCode {
    // Where standard error is a file on a full disk, the exit code still tells.
    std::io::Write::write_all(&mut std::io::stderr(), format!("error: {error:#}\n").as_bytes()).ok();
    let code = error.downcast_ref::<Exit>().map_or(1, |exit| exit.code);
    ExitCode::from(code)
}
