//! The one cell that holds what the proxy serves from. Its writer swaps it once a transaction; workers read it once a
//! request, and are told that it changed, so that they judge what is open again.

use std::sync::Arc;

use arc_swap::ArcSwap;
use bartizan_decide::Engine;
use bartizan_mesh::Snapshot;
use tokio::sync::watch;

/// The present engine, and the number of times that something changed that open connections are judged by.
#[derive(Debug)]
pub(crate) struct SnapshotCell {
    engine: Arc<ArcSwap<Engine>>,
    changes: watch::Sender<u64>,
}

impl SnapshotCell {
    /// A cell that serves from `snapshot`.
    pub(crate) fn new(snapshot: Snapshot) -> Self {
        Self {
            engine: Arc::new(ArcSwap::from_pointee(Engine::build(Arc::new(snapshot)))),
            changes: watch::Sender::new(0),
        }
    }

    /// The cell itself, for a reader that caches it.
    pub(crate) fn engine(&self) -> &Arc<ArcSwap<Engine>> {
        &self.engine
    }

    /// The present engine.
    pub(crate) fn load(&self) -> Arc<Engine> {
        self.engine.load_full()
    }

    /// Serves from `snapshot` from now on. Only the one writer calls it.
    pub(crate) fn swap(&self, snapshot: Snapshot) {
        let next = self.load().next(Arc::new(snapshot));
        self.engine.store(Arc::new(next));
        self.nudge();
    }

    /// Says that open connections are to be judged again, after a swap or a change of the trust bundle.
    pub(crate) fn nudge(&self) {
        self.changes.send_modify(|changes| *changes += 1);
    }

    /// Tells of every change from now on.
    pub(crate) fn subscribe(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }
}
