//! The keys of issuers, as the owner of the world has them: which are wanted, and what was reported of them.

use std::collections::BTreeMap;
use std::sync::Arc;

use bartizan_compile::KeyOrigin;
use bartizan_mesh::Digest;
use tokio::sync::watch;

use super::Owner;
use crate::keys::store::KeyStore;
use crate::status::unix_seconds;

/// What the owner knows of keys.
pub(super) struct Keys {
    store: KeyStore,
    /// Whoever fetches looks here.
    origins: watch::Sender<Arc<[KeyOrigin]>>,
    /// What was reported of each key set that is wanted.
    reported: BTreeMap<Arc<str>, (Digest, i64)>,
}

impl Keys {
    pub(super) fn new(store: KeyStore) -> (Self, watch::Receiver<Arc<[KeyOrigin]>>) {
        let (origins, seen) = watch::channel(Arc::from([]));
        let keys = Self {
            store,
            origins,
            reported: BTreeMap::new(),
        };
        (keys, seen)
    }

    /// Of all that was reported.
    pub(super) fn digest(&self) -> Digest {
        let lines: Vec<String> = self
            .reported
            .iter()
            .map(|(name, (digest, fetched_at))| format!("{name:?} {digest} {fetched_at}"))
            .collect();
        Digest::of(lines.join("\n").as_bytes())
    }
}

impl Owner {
    /// Takes in which key sets the documents speak of now. What was kept of a new one is there at once, before anybody is told
    /// anything: a restart while an issuer is away takes nothing from proxies.
    pub(super) fn follow_keys(&mut self) {
        let origins = self.world.key_sources();
        if **self.keys.origins.borrow() == *origins {
            return;
        }
        self.keys
            .reported
            .retain(|name, _| origins.iter().any(|origin| origin.name == *name));
        let now = unix_seconds((self.now)());
        for origin in &origins {
            if self.keys.reported.contains_key(&origin.name) {
                continue;
            }
            if let Some(kept) = self.keys.store.read(&origin.name, now) {
                self.report_keys(&origin.name, kept.jwks, kept.fetched_at);
            }
        }
        self.keys.origins.send_replace(origins.into());
    }

    /// Takes in the keys of a key set.
    pub(super) fn report_keys(&mut self, name: &Arc<str>, jwks: Arc<str>, fetched_at: i64) {
        let digest = Digest::of(jwks.as_bytes());
        let update = self.world.report_keys(name, jwks, fetched_at);
        if !update.is_empty() {
            self.keys.reported.insert(Arc::clone(name), (digest, fetched_at));
        }
        self.absorb(&update);
    }
}
