//! Versions of the mesh's configuration.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The number of a configuration version, for people; it grows by one with each accepted change.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
pub struct Version(pub u64);

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}
