//! What can go wrong when the sandbox is asked for something.

use thiserror::Error;

use crate::probe::Problem;

/// Why the sandbox did not start or did not do what was asked.
#[derive(Debug, Error)]
pub enum SandboxError {
    /// The host lacks an ability; each problem names its remedy.
    #[error("this host does not permit a sandbox: {}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Host(Vec<Problem>),
    /// The sandbox's first process was not started or its socket broke.
    #[error("{what}: {source}")]
    Io {
        /// What was attempted, on what.
        what: String,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// The sandbox refused or could not do what was asked; the text says what and why.
    #[error("{0}")]
    Refused(String),
    /// The sandbox's first process has ended.
    #[error("the sandbox has ended")]
    Ended,
}

impl SandboxError {
    pub(crate) fn io(what: impl Into<String>, source: impl Into<std::io::Error>) -> Self {
        Self::Io {
            what: what.into(),
            source: source.into(),
        }
    }
}
