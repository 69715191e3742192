//! Can this host house a sandbox? What is missing and the one line that allows it.

use std::fmt;

use serde::{Deserialize, Serialize};

/// One ability that the host withholds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// The ability, for example `user namespace`.
    pub ability: String,
    /// What was attempted and how it failed.
    pub what: String,
    /// The command or setting that allows it on this host.
    pub remedy: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} (remedy: {})", self.ability, self.what, self.remedy)
    }
}
