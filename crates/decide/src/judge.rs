//! Open connections, judged again after a change: what the new policy denies is closed.

use std::sync::Arc;

use crate::authenticate::{Authenticated, TokenRefused, TokenRule, authenticate_again};
use crate::authorize::{authorize_after_asked, authorize_connection, authorize_tcp_after_asked, denied};
use crate::denied::{Denied, Reason};
use crate::engine::Engine;
use crate::facts::{ConnectionFacts, Headers, HttpFacts};
use crate::user::User;

/// Whether an open connection of bytes is still allowed.
///
/// # Errors
/// [`Denied`] when it is to be closed.
pub fn judge_again_tcp(old: &Engine, new: &Engine, facts: &ConnectionFacts<'_>) -> Result<(), Denied> {
    if new.decides_alike(old, facts.local) {
        return Ok(());
    }
    authorize_tcp_after_asked(old, new, facts)
}

/// Whether a request in flight (an upgrade or a long stream) is still allowed: by policy, by the time and by the keys that
/// verify its user's token. `facts.now` is the present, and `accepted` what [`authenticate`](crate::authenticate()) gave.
///
/// # Errors
/// [`Denied`] when it is to be closed.
pub fn judge_again_http<H: Headers + ?Sized>(
    old: &Engine,
    new: &Engine,
    facts: &HttpFacts<'_, H>,
    accepted: &Authenticated,
    verify: impl FnMut(&Arc<TokenRule>, &str) -> Result<Arc<User>, TokenRefused>,
) -> Result<(), Denied> {
    let is_expired = accepted.expires_at().is_some_and(|at| at <= facts.connection.now);
    if !is_expired && new.decides_alike(old, facts.connection.local) {
        return Ok(());
    }
    let user = authenticate_again(new, facts.connection.local, accepted, verify).map_err(|refused| {
        denied(
            new,
            facts.connection.local,
            Reason::TokenRefused(refused.says().to_owned()),
        )
    })?;
    let facts = HttpFacts {
        user: user.as_deref(),
        ..*facts
    };
    authorize_after_asked(old, new, &facts)
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
