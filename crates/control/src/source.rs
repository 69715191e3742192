//! Where documents come from. Today: files, read whole and watched.

pub mod file;
pub(crate) mod watch;
