//! The keys of the issuers of users' tokens: fetched, kept fresh, kept on disk, and told to the owner of the world.
//!
//! One task owns all key sets. What it knows of an issuer only ever gets newer: while an issuer is away, its last keys stay,
//! for seven days; then they are taken away, and every token of the issuer is refused. A key set that was never fetched
//! refuses every token. There is no state in which a token passes because its keys are missing.

mod address;
mod client;
mod fetch;
mod schedule;
pub(crate) mod store;

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bartizan_compile::KeyOrigin;
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinError, JoinSet};
use tokio::time::Instant;

use crate::state::Message;
use crate::status::{KeyCounts, KeySetStatus, unix_seconds};
use fetch::{FetchError, Fetched, fetch};
pub use schedule::KeyTimes;
use schedule::Schedule;
use store::{KeptKeys, KeyStore};

/// How many questions for newer keys wait; more are passed over, and the next bad token asks again.
const QUESTIONS: usize = 256;
/// The most fetches at once.
const MOST_FETCHES: usize = 16;
/// A key set without keys.
const NO_KEYS: &str = r#"{"keys":[]}"#;

/// What the task works with.
pub(crate) struct Setup {
    pub(crate) store: KeyStore,
    pub(crate) times: KeyTimes,
    /// A PEM file with roots of private issuers, beside the system's; read anew for each fetch.
    pub(crate) roots: Option<PathBuf>,
    pub(crate) origins: watch::Receiver<Arc<[KeyOrigin]>>,
    pub(crate) owner: mpsc::Sender<Message>,
}

/// How others speak to the task.
#[derive(Clone)]
pub(crate) struct KeysHandle {
    questions: mpsc::Sender<Arc<str>>,
    seen: watch::Receiver<Arc<KeysSeen>>,
}

/// What the task says of itself.
#[derive(Clone, Debug, Default)]
pub(crate) struct KeysSeen {
    pub(crate) sets: Vec<KeySetStatus>,
    pub(crate) counts: KeyCounts,
}

impl KeysHandle {
    /// A proxy has seen a token of a key that this key set does not have. Never waits.
    pub(crate) fn unknown_key(&self, key_set: &str) {
        if self.questions.try_send(key_set.into()).is_err() {
            tracing::debug!(key_set, "a question for newer keys is passed over");
        }
    }

    /// What is known now.
    pub(crate) fn seen(&self) -> Arc<KeysSeen> {
        Arc::clone(&self.seen.borrow())
    }
}

/// The task, not yet running, and the handle to it.
pub(crate) fn keys(setup: Setup) -> (Keys, KeysHandle) {
    let (questions, asked) = mpsc::channel(QUESTIONS);
    let (seen, watched) = watch::channel(Arc::default());
    let keys = Keys {
        setup,
        asked,
        seen,
        sets: BTreeMap::new(),
        fetches: JoinSet::new(),
        running: HashMap::new(),
        counts: KeyCounts::default(),
    };
    (
        keys,
        KeysHandle {
            questions,
            seen: watched,
        },
    )
}

/// Owns all key sets.
pub(crate) struct Keys {
    setup: Setup,
    asked: mpsc::Receiver<Arc<str>>,
    seen: watch::Sender<Arc<KeysSeen>>,
    sets: BTreeMap<Arc<str>, KeySet>,
    fetches: JoinSet<Result<Fetched, FetchError>>,
    /// Whose fetch each task is.
    running: HashMap<tokio::task::Id, Arc<str>>,
    counts: KeyCounts,
}

struct KeySet {
    origin: KeyOrigin,
    schedule: Schedule,
    /// What proxies have; none: nothing yet.
    kept: Option<KeptKeys>,
    /// How many keys that are, and which are not used.
    described: Described,
    /// Whether a proxy waits for an answer.
    is_asked: bool,
    is_evicted: bool,
    problem: Option<FetchError>,
    /// Since when it is a problem.
    failing_since: Option<i64>,
}

#[derive(Default)]
struct Described {
    ids: Vec<String>,
    count: usize,
    skipped: Vec<String>,
}

impl Described {
    fn of(jwks: &str) -> Self {
        let Ok(keys) = bartizan_identity::jwt::KeySet::parse(jwks) else {
            return Self::default();
        };
        Self {
            ids: keys.key_ids().map(str::to_owned).collect(),
            count: keys.len(),
            skipped: Vec::new(),
        }
    }
}

impl Keys {
    /// Works until the owner of the world is gone. Dropping it ends its fetches.
    pub(crate) async fn work(mut self) {
        self.follow().await;
        loop {
            let next = self.start_due();
            self.show();
            let next = next.unwrap_or_else(|| Instant::now() + Duration::from_hours(1));
            tokio::select! {
                changed = self.setup.origins.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    self.follow().await;
                }
                Some(name) = self.asked.recv() => self.unknown_key(&name),
                Some(ended) = self.fetches.join_next_with_id() => {
                    if self.fetched(ended).await.is_err() {
                        return;
                    }
                }
                () = tokio::time::sleep_until(next) => {
                    if self.evict().await.is_err() {
                        return;
                    }
                }
            }
        }
    }

    /// Takes in which key sets are wanted now.
    async fn follow(&mut self) {
        let origins = Arc::clone(&self.setup.origins.borrow_and_update());
        self.sets
            .retain(|name, _| origins.iter().any(|origin| origin.name == *name));
        for origin in origins.iter() {
            if let Some(set) = self.sets.get_mut(&origin.name) {
                set.origin = origin.clone();
                continue;
            }
            let (store, name, now) = (self.setup.store.clone(), Arc::clone(&origin.name), unix_now());
            let kept = blocking(move || store.read(&name, now)).await.flatten();
            let described = kept
                .as_ref()
                .map(|kept| Described::of(&kept.jwks))
                .unwrap_or_default();
            tracing::debug!(key_set = %origin.name, kept = kept.is_some(), "keep a key set fresh");
            let set = KeySet {
                origin: origin.clone(),
                schedule: Schedule::new(Instant::now()),
                kept,
                described,
                is_asked: false,
                is_evicted: false,
                problem: None,
                failing_since: None,
            };
            self.sets.insert(Arc::clone(&origin.name), set);
        }
    }

    /// Starts what is due, and says when something will be.
    fn start_due(&mut self) -> Option<Instant> {
        let now = Instant::now();
        for (name, set) in &mut self.sets {
            if self.fetches.len() >= MOST_FETCHES {
                return None; // a fetch that ends makes room
            }
            if !set.schedule.is_due(now) {
                continue;
            }
            set.schedule.started(now);
            let validator = set.kept.as_ref().and_then(|kept| kept.validator.clone());
            let task = self
                .fetches
                .spawn(fetch(set.origin.clone(), validator, self.setup.roots.clone()));
            self.running.insert(task.id(), Arc::clone(name));
        }
        self.sets
            .values()
            .filter_map(|set| set.schedule.next())
            .chain(self.eviction())
            .min()
    }

    /// When the first key set will be too old.
    fn eviction(&self) -> Option<Instant> {
        let now = unix_now();
        let left = self
            .sets
            .values()
            .filter_map(|set| {
                set.kept
                    .as_ref()
                    .map(|kept| self.setup.times.left(kept.checked_at, now))
            })
            .min()?;
        Some(Instant::now() + left)
    }

    fn unknown_key(&mut self, name: &str) {
        self.counts.unknown_keys += 1;
        if let Some(set) = self.sets.get_mut(name) {
            set.is_asked = true;
            set.schedule.ask(Instant::now(), self.setup.times.unknown_key);
        }
    }

    /// Takes the result of a fetch.
    async fn fetched(
        &mut self,
        ended: Result<(tokio::task::Id, Result<Fetched, FetchError>), JoinError>,
    ) -> Result<(), OwnerGone> {
        let (id, result) = match ended {
            Ok((id, result)) => (id, result),
            Err(error) => (error.id(), Err(FetchError::Broken)),
        };
        let Some(name) = self.running.remove(&id) else {
            return Ok(());
        };
        let outcome = result.as_ref().map_or_else(FetchError::reason, |_| "ok");
        *self.counts.fetches.entry(outcome.to_owned()).or_default() += 1;
        let Some(set) = self.sets.get_mut(&name) else {
            return Ok(()); // nobody wants it any more
        };
        let (now, unix, jitter) = (
            Instant::now(),
            unix_now(),
            bartizan_identity::crypto::random_unit(),
        );
        let fetched = match result {
            Ok(fetched) => fetched,
            Err(error) => {
                if set.problem.as_ref() != Some(&error) {
                    tracing::warn!(key_set = %name, reason = error.reason(), has_keys = set.kept.is_some(), "fetch the keys of an issuer: {error}");
                }
                set.problem = Some(error);
                set.failing_since.get_or_insert(unix);
                set.schedule.failed(now, &self.setup.times, jitter);
                return self.evict().await;
            }
        };
        if set.problem.take().is_some() {
            tracing::info!(key_set = %name, "the keys of the issuer can be fetched again");
        }
        set.failing_since = None;
        set.schedule
            .succeeded(now, fetched.lifetime(), &self.setup.times, jitter);
        let is_asked = std::mem::take(&mut set.is_asked);
        let before = set.kept.take();
        let mut kept = match (fetched, &before) {
            (Fetched::New(new), _) => {
                set.described = Described {
                    skipped: new.skipped,
                    ..Described::of(&new.jwks)
                };
                KeptKeys {
                    name: Arc::clone(&name),
                    jwks: new.jwks,
                    fetched_at: unix,
                    checked_at: unix,
                    validator: new.validator,
                }
            }
            (Fetched::Same { .. }, Some(kept)) => kept.clone(),
            (Fetched::Same { .. }, None) => return Ok(()), // nothing was known that could be the same
        };
        kept.checked_at = unix;
        let is_new = before.as_ref().is_none_or(|before| before.jwks != kept.jwks) || set.is_evicted;
        // What is the same is only told when somebody has asked: proxies need not hear that nothing has changed.
        kept.fetched_at = match &before {
            Some(before) if !is_new && !is_asked => before.fetched_at,
            // By this number proxies tell an answer from what they had, also within one second.
            Some(before) => unix.max(before.fetched_at.saturating_add(1)),
            None => unix,
        };
        set.is_evicted = false;
        set.kept = Some(kept.clone());
        let store = self.setup.store.clone();
        let to_keep = kept.clone();
        if let Some(Err(error)) = blocking(move || store.write(&to_keep)).await {
            tracing::warn!(key_set = %name, %error, "keep the keys of an issuer");
        }
        if is_new {
            tracing::info!(key_set = %name, keys = set.described.count, "the keys of an issuer have changed");
        }
        if is_new || is_asked {
            self.tell(&kept).await?;
        }
        Ok(())
    }

    /// Takes away what is too old to be believed.
    async fn evict(&mut self) -> Result<(), OwnerGone> {
        let now = unix_now();
        let mut old = Vec::new();
        for set in self.sets.values_mut() {
            let Some(kept) = &set.kept else { continue };
            if self.setup.times.left(kept.checked_at, now).is_zero() {
                let kept = KeptKeys {
                    jwks: NO_KEYS.into(),
                    fetched_at: now,
                    ..kept.clone()
                };
                set.kept = None;
                set.is_evicted = true;
                set.described = Described::default();
                old.push(kept);
            }
        }
        for kept in old {
            tracing::error!(key_set = %kept.name, "the issuer has been away for too long: its keys are not believed any more");
            let (store, name) = (self.setup.store.clone(), Arc::clone(&kept.name));
            blocking(move || store.remove(&name)).await;
            self.tell(&kept).await?;
        }
        Ok(())
    }

    async fn tell(&self, kept: &KeptKeys) -> Result<(), OwnerGone> {
        let message = Message::Keys {
            name: Arc::clone(&kept.name),
            jwks: Arc::clone(&kept.jwks),
            fetched_at: kept.fetched_at,
        };
        self.setup.owner.send(message).await.map_err(|_| OwnerGone)
    }

    fn show(&self) {
        let (now, unix) = (Instant::now(), unix_now());
        let sets = self.sets.values().map(|set| set.status(now, unix)).collect();
        self.seen.send_replace(Arc::new(KeysSeen {
            sets,
            counts: self.counts.clone(),
        }));
    }
}

/// The owner has ended: so does this task.
struct OwnerGone;

impl KeySet {
    fn status(&self, now: Instant, unix: i64) -> KeySetStatus {
        let next = self
            .schedule
            .next()
            .map(|next| i64::try_from(next.saturating_duration_since(now).as_secs()).unwrap_or(i64::MAX));
        KeySetStatus {
            name: self.origin.name.to_string(),
            source: self.origin.location.uri().to_string(),
            keys: self.described.count,
            key_ids: self.described.ids.clone(),
            skipped: self.described.skipped.clone(),
            fetched_at: self.kept.as_ref().map(|kept| kept.fetched_at),
            checked_at: self.kept.as_ref().map(|kept| kept.checked_at),
            next_at: next.map(|seconds| unix.saturating_add(seconds)),
            failing_since: self.failing_since,
            problem: self.problem.as_ref().map(ToString::to_string),
            evicted: self.is_evicted,
        }
    }
}

/// Runs what blocks; none when it was broken off.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    tokio::task::spawn_blocking(work).await.ok()
}

fn unix_now() -> i64 {
    unix_seconds(SystemTime::now())
}
