//! Who the user of a request is: `decide` finds the tokens, the worker verifies them, and what a token's rule says of the
//! request's head is done. A token of a key that is not known yet waits a moment for newer keys.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use bartizan_decide::{
    Authenticated, Changes, Engine, TokenRefused, TokenRule, Unauthenticated, User, authenticate,
};
use bartizan_telemetry::families;
use bartizan_wire::head::RequestHead;
use bytes::Bytes;

use super::answer::Answer;
use super::headers::{self, Fields};
use super::outcome::Outcome;
use super::{Judged, facts};
use crate::connection::Connection;
use crate::tokens::Seen;
use crate::tokens::unknown_keys::{Asking, UnknownKey};
use crate::worker::Worker;

/// How long a request waits for newer keys.
const PATIENCE: Duration = Duration::from_secs(2);
/// Requests of one worker that wait for keys at most; the next are refused at once.
const MOST_WAITING: u32 = 256;

/// What `decide` says of a rule whose keys have not been fetched, without asking for a verification.
const NO_KEYS_YET: &str = "Jwks remote fetch is failed";

/// The user of a request, and what it takes to judge it again.
#[derive(Clone)]
pub(crate) struct Accepted {
    pub(crate) authenticated: Authenticated,
    /// When the tokens were accepted, in seconds since 1970. Expiry alone closes nothing that is open, so that they are
    /// judged again by this time.
    at: i64,
}

impl Accepted {
    /// The user.
    pub(crate) fn user(&self) -> Option<&Arc<User>> {
        self.authenticated.user.as_ref()
    }

    /// Asks the worker about a token that was accepted before.
    pub(crate) fn verify_again(
        &self,
        worker: &Worker,
        rule: &Arc<TokenRule>,
        token: &str,
    ) -> Result<Arc<User>, TokenRefused> {
        let keyring = &worker.shared.keyring;
        worker
            .tokens
            .verify(keyring, rule, token, self.at, &mut Seen::default())
    }
}

/// Authenticates a request and changes its head accordingly. Where it waited, it is judged by the engine of afterwards.
///
/// # Errors
/// The answer, 401 or 403.
pub(super) async fn who(
    connection: &Connection,
    judged: &mut Judged,
    head: &mut RequestHead,
    outcome: &mut Outcome<'_>,
) -> Result<Accepted, Box<Answer>> {
    let mut seen = Seen::default();
    let now = connection.worker.now_seconds();
    let mut verdict = look(connection, &judged.engine, head, outcome, now, &mut seen);
    if verdict.is_err() && seen.unknown.is_some() {
        verdict = Box::pin(with_newer_keys(connection, judged, head, outcome, now, &mut seen)).await;
        outcome.judged_by(&judged.engine);
    }
    match verdict {
        Ok(mut authenticated) => {
            if let Some(user) = &authenticated.user {
                outcome.user = seen
                    .known
                    .into_iter()
                    .find(|known| Arc::ptr_eq(&known.user, user));
            }
            let changes = std::mem::take(&mut authenticated.changes);
            apply(changes, head, outcome);
            Ok(Accepted {
                authenticated,
                at: now,
            })
        }
        Err(unauthenticated) => {
            let reason = seen.reason.unwrap_or(match unauthenticated.says() {
                NO_KEYS_YET => "no_keys",
                _ => "rules",
            });
            connection.worker.count(&families::JWT_REFUSED, &[reason]);
            let id = outcome.refuse_token(&unauthenticated);
            Err(Box::new(Answer::unauthenticated(
                &unauthenticated,
                &realm(head),
                id,
            )))
        }
    }
}

fn look(
    connection: &Connection,
    engine: &Engine,
    head: &RequestHead,
    outcome: &Outcome<'_>,
    now: i64,
    seen: &mut Seen,
) -> Result<Authenticated, Unauthenticated> {
    let worker = &connection.worker;
    let fields = Fields(&head.headers);
    let facts = facts(connection, head, &fields, outcome.remote, None);
    authenticate(engine, &facts, |rule, token| {
        worker
            .tokens
            .verify(&worker.shared.keyring, rule, token, now, seen)
    })
}

/// Has the control plane fetch the keys anew, and looks again when they are there.
async fn with_newer_keys(
    connection: &Connection,
    judged: &mut Judged,
    head: &RequestHead,
    outcome: &Outcome<'_>,
    now: i64,
    seen: &mut Seen,
) -> Result<Authenticated, Unauthenticated> {
    let worker = &connection.worker;
    let until = Instant::now() + PATIENCE;
    let slot = WaitingSlot::take(worker);
    loop {
        let asking = match (&seen.unknown, &slot) {
            (Some(unknown), Some(_)) => {
                let known = fetched_at(&judged.engine, unknown);
                let asking = worker.shared.unknown_keys.ask(unknown, known, Instant::now());
                match asking {
                    Asking::Asked | Asking::Waited => newer_than(worker, unknown, known, until).await,
                    Asking::NotBefore(at) => {
                        let at = at.min(until);
                        newer_than(worker, unknown, known, at).await;
                    }
                    Asking::Nobody => {}
                }
                asking
            }
            _ => Asking::Nobody,
        };
        let label = match asking {
            Asking::Asked => "asked",
            Asking::Waited | Asking::NotBefore(_) => "waited",
            Asking::Nobody => "limited",
        };
        worker.count(&families::JWT_KEYS_ASKED, &[label]);
        judged.seen = worker.changes();
        judged.engine = worker.engine();
        *seen = Seen::default();
        let verdict = look(connection, &judged.engine, head, outcome, now, seen);
        let is_found = verdict.is_ok() || seen.unknown.is_none();
        // Who was only told later asks for itself once more: the answer to others may be older than the key.
        if is_found || matches!(asking, Asking::Asked | Asking::Nobody) || Instant::now() >= until {
            if asking != Asking::Nobody {
                let label = if is_found { "found" } else { "missing" };
                worker.count(&families::JWT_KEYS_FOUND, &[label]);
            }
            return verdict;
        }
    }
}

/// Waits until there are other keys than those of `known`.
async fn newer_than(worker: &Worker, unknown: &UnknownKey, known: i64, until: Instant) {
    // The worker wakes the task after every change.
    let changed = poll_fn(|_| {
        if fetched_at(&worker.engine(), unknown) == known {
            Poll::Pending
        } else {
            Poll::Ready(())
        }
    });
    // Whoever waited in vain looks once more all the same.
    let _ = tokio::time::timeout_at(until.into(), changed).await;
}

fn fetched_at(engine: &Engine, unknown: &UnknownKey) -> i64 {
    engine
        .snapshot()
        .key_set(&unknown.set)
        .map_or(0, |set| set.fetched_at)
}

/// A place among the requests that wait.
struct WaitingSlot<'w>(&'w Worker);

impl<'w> WaitingSlot<'w> {
    fn take(worker: &'w Worker) -> Option<Self> {
        let waiting = &worker.waiting_for_keys;
        (waiting.get() < MOST_WAITING).then(|| {
            waiting.set(waiting.get() + 1);
            Self(worker)
        })
    }
}

impl Drop for WaitingSlot<'_> {
    fn drop(&mut self) {
        let waiting = &self.0.waiting_for_keys;
        waiting.set(waiting.get().saturating_sub(1));
    }
}

/// What only this proxy may write goes, tokens go, claims come.
fn apply(changes: Changes, head: &mut RequestHead, outcome: &mut Outcome<'_>) {
    if changes.is_empty() {
        return;
    }
    headers::drop_fields(&mut head.headers, |name| {
        let is_token = |field: &str| name.eq_ignore_ascii_case(field.as_bytes());
        changes.remove.iter().any(|field| is_token(field))
            || changes.forged.iter().any(|field| headers::is_named(name, field))
    });
    for (name, value) in &changes.set {
        // Names were checked when the document was read, values when the user was made.
        let _ = head.headers.append(name, value);
    }
    if let Some(target) = changes.target {
        outcome.retarget(head, Bytes::from(target));
    }
}

/// What a challenge names: the URI that was asked for, without the query, which may hold the token.
pub(super) fn realm(head: &RequestHead) -> String {
    /// Envoy's limit.
    const LONGEST_PATH: usize = 256;
    let scheme = match head.headers.get(headers::FORWARDED_PROTO) {
        Some(b"https") => "https",
        _ => "http",
    };
    let path = head.path();
    let path = path.get(..LONGEST_PATH).unwrap_or(path);
    format!(
        "{scheme}://{}{}",
        String::from_utf8_lossy(head.authority()),
        String::from_utf8_lossy(path)
    )
}
