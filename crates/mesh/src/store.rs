//! All resources that one side of the stream has, by key.

use std::sync::Arc;

use bartizan_types::Version;

use crate::resource::{Key, Resource, Transaction};
use crate::shared_map::SharedMap;

/// All resources of one version by key. A clone is cheap, and a change after a clone copies only what it touches.
#[derive(Clone, Debug, Default)]
pub struct Store {
    version: Version,
    resources: SharedMap<Key, Arc<Resource>>,
}

impl Store {
    /// Nothing, at version 0.
    pub fn new() -> Self {
        Self::default()
    }

    /// The version of the transaction that was applied last.
    pub fn version(&self) -> Version {
        self.version
    }

    /// How many resources there are.
    pub fn len(&self) -> usize {
        self.resources.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The resource of this key.
    pub fn get(&self, key: &Key) -> Option<&Arc<Resource>> {
        self.resources.get(key)
    }

    /// Everything, in no particular order.
    pub fn iter(&self) -> impl Iterator<Item = (&Key, &Arc<Resource>)> {
        self.resources.iter()
    }

    /// Everything in the order of the keys: for files and for people.
    pub fn sorted(&self) -> Vec<(&Key, &Arc<Resource>)> {
        let mut all: Vec<_> = self.iter().collect();
        all.sort_unstable_by_key(|(key, _)| *key);
        all
    }

    /// Applies a change: removals first, then upserts, so that a key that is in both stays.
    pub fn apply(&mut self, transaction: &Transaction) {
        for key in &transaction.removals {
            self.remove(key);
        }
        for resource in &transaction.upserts {
            self.upsert(Arc::new(resource.clone()));
        }
        self.version = transaction.version;
    }

    /// The change that turns this store into `newer`, upserts and removals in the order of their keys.
    pub fn difference(&self, newer: &Self) -> Transaction {
        let mut upserts: Vec<_> = newer
            .iter()
            .filter(|(key, resource)| {
                !self
                    .get(key)
                    .is_some_and(|old| Arc::ptr_eq(old, resource) || old == *resource)
            })
            .collect();
        upserts.sort_unstable_by_key(|(key, _)| *key);
        let mut removals: Vec<_> = self
            .iter()
            .filter(|(key, _)| newer.get(key).is_none())
            .map(|(key, _)| key.clone())
            .collect();
        removals.sort_unstable();
        Transaction {
            version: newer.version,
            upserts: upserts
                .into_iter()
                .map(|(_, resource)| Resource::clone(resource))
                .collect(),
            removals,
        }
    }

    /// Sets the version without a change of resources.
    pub(crate) fn set_version(&mut self, version: Version) {
        self.version = version;
    }

    /// Puts one resource in its place and gives back what was there.
    pub(crate) fn upsert(&mut self, resource: Arc<Resource>) -> Option<Arc<Resource>> {
        self.resources.insert(resource.key(), resource)
    }

    /// Takes one resource out.
    pub(crate) fn remove(&mut self, key: &Key) -> Option<Arc<Resource>> {
        self.resources.remove(key)
    }
}

impl PartialEq for Store {
    /// Whether version and resources are the same.
    fn eq(&self, other: &Self) -> bool {
        self.version == other.version
            && self.len() == other.len()
            && self
                .iter()
                .all(|(key, resource)| other.get(key) == Some(resource))
    }
}
