//! The two steps of an end: *drain* (say so to every client, take nothing new, finish what is open) and, after a deadline,
//! *stop* (drop what is left). Everything that is long-lived holds a [`Drain`].

use tokio::sync::watch;

/// How far the proxy is on its way out.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Stage {
    /// Serves.
    Serving,
    /// Every answer says that its connection ends; connections are still accepted.
    Announcing,
    /// As before, and nothing new is accepted.
    Draining,
    /// What is still open is dropped.
    Stopping,
}

/// The one handle; cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Drain(watch::Sender<Stage>);

impl Drain {
    /// Serving.
    pub(crate) fn new() -> Self {
        Self(watch::Sender::new(Stage::Serving))
    }

    /// Goes on to `stage`; never back.
    pub(crate) fn advance(&self, stage: Stage) {
        self.0.send_if_modified(|present| {
            let ahead = stage > *present;
            if ahead {
                *present = stage;
            }
            ahead
        });
    }

    /// The present stage.
    pub(crate) fn stage(&self) -> Stage {
        *self.0.borrow()
    }

    /// Ends when the stage is `stage` or later. Cancel safe.
    pub(crate) async fn reached(&self, stage: Stage) {
        // The sender is in self: the wait cannot fail.
        let _ = self.0.subscribe().wait_for(|present| *present >= stage).await;
    }

    /// Tells of every change of the stage.
    pub(crate) fn subscribe(&self) -> watch::Receiver<Stage> {
        self.0.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stages_only_go_forward() {
        let drain = Drain::new();
        drain.advance(Stage::Draining);
        drain.advance(Stage::Announcing);
        assert_eq!(drain.stage(), Stage::Draining);
    }
}
