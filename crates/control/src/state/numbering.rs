//! The number of the version: it grows by one with each change, and goes on where the last control plane ended.
//!
//! Before the node has reported, nobody knows whether this is still the state of the last control plane. Then the inputs are
//! compared with those that were kept, and the number is settled.

use bartizan_types::Version;

use crate::store::StoreError;
use crate::store::versions::{Head, Record, VersionStore};

/// Counts versions and keeps them.
pub(super) struct Numbering {
    version: Version,
    /// Whether `version` is that of this state, and not just of the last control plane's.
    settled: bool,
    /// Whether `version` is new, so that further changes before it is sent belong to it.
    fresh: bool,
    head: Option<Head>,
    store: VersionStore,
}

impl Numbering {
    /// Goes on from what was kept.
    pub(super) fn new(store: VersionStore, kept: Option<&Record>) -> Self {
        let head = store.head();
        let version = head
            .as_ref()
            .map(|head| head.version)
            .max(kept.map(|kept| kept.version))
            .unwrap_or_default();
        Self {
            version,
            settled: false,
            fresh: false,
            head,
            store,
        }
    }

    /// The version now.
    pub(super) fn version(&self) -> Version {
        self.version
    }

    /// Whether the number is that of this state.
    pub(super) fn is_settled(&self) -> bool {
        self.settled
    }

    /// Something changes: it belongs to a new version.
    pub(super) fn change(&mut self) {
        if !self.fresh {
            self.version = Version(self.version.0.saturating_add(1));
            self.fresh = true;
        }
    }

    /// Decides whether the state is that of the control plane before, whose number then goes on.
    pub(super) fn settle(&mut self, inputs: Option<&String>) {
        let same = self
            .head
            .as_ref()
            .is_some_and(|head| head.inputs.is_some() && head.inputs.as_ref() == inputs);
        if !same {
            self.change();
        }
        self.settled = true;
        self.fresh = true; // all that led here is this version
    }

    /// The version is sent: the next change makes another.
    pub(super) fn sent(&mut self) {
        self.fresh = false;
    }

    /// Keeps the number, and what it was made of.
    pub(super) fn keep_head(&mut self, inputs: Option<String>) {
        if !self.settled && !self.fresh {
            return; // what was kept is still true
        }
        let head = Head {
            version: self.version,
            inputs: inputs.filter(|_| self.settled),
        };
        if self.head.as_ref() == Some(&head) {
            return;
        }
        match self.store.set_head(&head) {
            Ok(()) => self.head = Some(head),
            Err(error) => tracing::warn!(%error, "keep the number of the version"),
        }
    }

    /// Keeps the documents of the version.
    pub(super) fn keep(&self, record: &Record) -> Result<(), StoreError> {
        self.store.keep(record)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_goes_on_only_with_the_same_inputs() {
        let state = tempfile::tempdir().unwrap();
        let open = || Numbering::new(VersionStore::open(state.path()).unwrap(), None);
        let (a, b) = ("a".to_owned(), "b".to_owned());

        let mut first = open();
        first.change(); // the first documents
        first.keep_head(None);
        first.settle(Some(&a));
        first.change(); // found while settling
        assert_eq!(first.version(), Version(1));
        first.sent();
        first.keep_head(Some(a.clone()));
        first.change();
        first.sent();
        first.keep_head(Some(b.clone()));
        assert_eq!(first.version(), Version(2));

        let mut same = open();
        assert_eq!(same.version(), Version(2));
        same.keep_head(None);
        same.settle(Some(&b));
        assert_eq!(same.version(), Version(2));

        let mut other = open();
        other.settle(Some(&a));
        assert_eq!(other.version(), Version(3));

        // Killed between a change of the documents and the node's report.
        let mut killed = open();
        killed.change();
        killed.keep_head(None);
        let mut next = open();
        assert_eq!(next.version(), Version(3));
        next.settle(Some(&b));
        assert_eq!(next.version(), Version(4));
    }
}
