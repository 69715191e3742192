//! The owner of the tasks that serve streams: none outlives the control plane.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;

/// Waits until the drain is asked for; a sender that is gone asks, too. Cancel safe.
pub(crate) async fn drained(drain: &mut watch::Receiver<bool>) {
    let _ = drain.wait_for(|drain| *drain).await;
}

/// Tasks of open streams. A clone refers to the same set.
#[derive(Clone, Default)]
pub(crate) struct Tasks {
    /// Protects the set while a task is added or all are taken; never held across an await.
    set: Arc<Mutex<JoinSet<()>>>,
}

impl Tasks {
    /// Starts a task that this set owns.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let mut set = self.set.lock().unwrap_or_else(PoisonError::into_inner);
        while set.try_join_next().is_some() {}
        set.spawn(task);
    }

    /// Waits until all have ended, then ends those that have not by then.
    pub(crate) async fn finish(&self, within: Duration) {
        let mut set = std::mem::take(&mut *self.set.lock().unwrap_or_else(PoisonError::into_inner));
        let all = async { while set.join_next().await.is_some() {} };
        if tokio::time::timeout(within, all).await.is_err() {
            set.shutdown().await;
        }
    }
}
