//! Open connections, judged again after a change: what the new policy denies is closed.

use crate::authorize::{Denied, authorize_connection, authorize_http, authorize_tcp};
use crate::engine::Engine;
use crate::facts::{ConnectionFacts, Headers, HttpFacts};

/// Whether an open connection of bytes is still allowed.
///
/// # Errors
/// [`Denied`] when it is to be closed.
pub fn judge_again_tcp(old: &Engine, new: &Engine, facts: &ConnectionFacts<'_>) -> Result<(), Denied> {
    if new.decides_alike(old, facts.local) {
        return Ok(());
    }
    authorize_tcp(new, facts).map(drop)
}

/// Whether a request in flight (an upgrade or a long stream) is still allowed.
///
/// # Errors
/// [`Denied`] when it is to be closed.
pub fn judge_again_http<H: Headers + ?Sized>(
    old: &Engine,
    new: &Engine,
    facts: &HttpFacts<'_, H>,
) -> Result<(), Denied> {
    if new.decides_alike(old, facts.connection.local) {
        return Ok(());
    }
    authorize_http(new, facts).map(drop)
}

/// Whether a connection between two HTTP requests may stay: each request is judged by itself, so only the mTLS mode
/// can close it.
///
/// # Errors
/// [`Denied`] when it is to be closed.
pub fn judge_again_connection(old: &Engine, new: &Engine, facts: &ConnectionFacts<'_>) -> Result<(), Denied> {
    if new.decides_alike(old, facts.local) {
        return Ok(());
    }
    authorize_connection(new, facts)
}

#[cfg(test)]
#[path = "judge_tests.rs"]
mod tests;
