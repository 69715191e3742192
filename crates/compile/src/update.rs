//! What a change means for each proxy.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bartizan_config::Finding;
use bartizan_mesh::{Key, Resource};
use bartizan_types::NamespacedName;

/// What must be sent because of one change.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Update {
    /// What every proxy is sent that was there before.
    pub everyone: Change,
    /// What single proxies are sent besides. For a proxy that is new, everything.
    pub proxies: BTreeMap<NamespacedName, Change>,
    /// The proxies that are new.
    pub added: BTreeSet<NamespacedName>,
    /// The proxies that are gone.
    pub removed: BTreeSet<NamespacedName>,
    /// Whether the plan is another one.
    pub plan_changed: bool,
    /// Warnings and notes about the documents, after `set_documents`.
    pub findings: Vec<Finding>,
}

impl Update {
    /// What this proxy is sent; empty when nothing changes for it.
    pub fn change_for(&self, proxy: &NamespacedName) -> Change {
        let own = self.proxies.get(proxy).cloned().unwrap_or_default();
        if self.added.contains(proxy) {
            return own;
        }
        let mut change = self.everyone.clone();
        change.upserts.extend(own.upserts);
        change.removals.extend(own.removals);
        change
    }

    /// Whether no proxy is sent anything and the plan stays.
    pub fn is_empty(&self) -> bool {
        self.everyone.is_empty()
            && self.proxies.is_empty()
            && self.added.is_empty()
            && self.removed.is_empty()
            && !self.plan_changed
    }
}

/// Resources that come or change, and keys that go. No key is in both.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Change {
    /// New and changed resources.
    pub upserts: BTreeMap<Key, Arc<Resource>>,
    /// What is gone.
    pub removals: BTreeSet<Key>,
}

impl Change {
    /// Whether there is nothing to send.
    pub fn is_empty(&self) -> bool {
        self.upserts.is_empty() && self.removals.is_empty()
    }

    /// What makes `new` out of `old`.
    pub(crate) fn between(old: &BTreeMap<Key, Arc<Resource>>, new: &BTreeMap<Key, Arc<Resource>>) -> Self {
        let mut change = Self::default();
        for (key, resource) in new {
            change.note(key, old.get(key), Some(resource));
        }
        for key in old.keys().filter(|key| !new.contains_key(*key)) {
            change.removals.insert(key.clone());
        }
        change
    }

    /// Notes what happened to one key.
    pub(crate) fn note(&mut self, key: &Key, old: Option<&Arc<Resource>>, new: Option<&Arc<Resource>>) {
        match (old, new) {
            (None, None) => {}
            (Some(_), None) => {
                self.removals.insert(key.clone());
            }
            (Some(old), Some(new)) if Arc::ptr_eq(old, new) || old == new => {}
            (_, Some(new)) => {
                self.upserts.insert(key.clone(), new.clone());
            }
        }
    }
}
