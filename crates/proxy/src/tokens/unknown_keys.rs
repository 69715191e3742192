//! Tokens of keys that nobody knows yet: the control plane is told, a few times a key set, and fetches the issuer's keys
//! anew. A roll-over loses nothing so, and whoever makes up key ids causes no more fetches than anybody else.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

/// Between two tellings about one key set.
const PAUSE: Duration = Duration::from_secs(1);
/// After which an answer is not expected any more.
const FORGOTTEN: Duration = Duration::from_secs(10);
/// Messages that may wait for a control plane.
const MOST_WAITING: usize = 16;
/// Key sets that are kept in mind; a proxy has few.
const MOST_SETS: usize = 1024;

/// What the control plane is told.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct UnknownKey {
    /// The key set's name.
    pub(crate) set: Arc<str>,
    /// The id that it lacks.
    pub(crate) kid: Arc<str>,
}

/// Whether the control plane is asked for newer keys.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Asking {
    /// It has been told now.
    Asked,
    /// It was told before, and has not answered.
    Waited,
    /// It was told and has answered a moment ago; it may be told again then.
    NotBefore(Instant),
    /// There is nobody to tell, or too much waits for it.
    Nobody,
}

/// What all workers have asked for.
#[derive(Debug)]
pub(crate) struct UnknownKeys {
    told: Mutex<HashMap<Arc<str>, Told>>,
    to_control: mpsc::Sender<UnknownKey>,
}

#[derive(Clone, Copy, Debug)]
struct Told {
    at: Instant,
    /// Of the keys that lacked it: what is newer is the answer.
    fetched_at: i64,
}

impl UnknownKeys {
    /// With the end where the messages come out; without it, nobody is asked.
    pub(crate) fn new() -> (Self, mpsc::Receiver<UnknownKey>) {
        let (to_control, messages) = mpsc::channel(MOST_WAITING);
        let unknown = Self {
            told: Mutex::default(),
            to_control,
        };
        (unknown, messages)
    }

    /// Tells that the keys of `fetched_at` lack the key, unless that was told.
    pub(crate) fn ask(&self, key: &UnknownKey, fetched_at: i64, now: Instant) -> Asking {
        // Nothing panics while it holds the lock.
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(before) = told.get(&key.set) {
            let age = now.saturating_duration_since(before.at);
            if before.fetched_at == fetched_at && age < FORGOTTEN {
                return Asking::Waited;
            }
            if age < PAUSE {
                return Asking::NotBefore(before.at + PAUSE);
            }
        }
        if told.len() >= MOST_SETS {
            told.retain(|_, told| now.saturating_duration_since(told.at) < FORGOTTEN);
        }
        if told.len() >= MOST_SETS || self.to_control.try_send(key.clone()).is_err() {
            return Asking::Nobody;
        }
        told.insert(Arc::clone(&key.set), Told { at: now, fetched_at });
        Asking::Asked
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(kid: &str) -> UnknownKey {
        UnknownKey {
            set: "jwks/https://issuer.example/keys".into(),
            kid: kid.into(),
        }
    }

    #[test]
    fn one_question_at_a_time_and_not_too_many() {
        let (unknown, mut messages) = UnknownKeys::new();
        let begin = Instant::now();
        let after = |millis| begin + Duration::from_millis(millis);
        assert_eq!(unknown.ask(&key("a"), 5, begin), Asking::Asked);
        assert_eq!(unknown.ask(&key("b"), 5, after(1)), Asking::Waited);
        assert_eq!(unknown.ask(&key("c"), 5, after(5_000)), Asking::Waited);
        // An answer came, and the next key is not in it.
        assert_eq!(
            unknown.ask(&key("d"), 6, after(200)),
            Asking::NotBefore(after(1_000))
        );
        assert_eq!(unknown.ask(&key("d"), 6, after(1_000)), Asking::Asked);
        // An answer that never came is not waited for.
        assert_eq!(unknown.ask(&key("e"), 6, after(11_001)), Asking::Asked);
        let told: Vec<_> = std::iter::from_fn(|| messages.try_recv().ok()).collect();
        assert_eq!(told, [key("a"), key("d"), key("e")]);
        drop(messages);
        assert_eq!(unknown.ask(&key("f"), 7, after(30_000)), Asking::Nobody);
    }
}
