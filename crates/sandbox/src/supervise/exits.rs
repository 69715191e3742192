//! How processes ended, for whoever waits. A process may end before anybody has asked for it: its end is kept until then.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use tokio::sync::oneshot;

use crate::{ExitStatus, ProcessId};

/// Ends that nobody has asked for; the oldest are forgotten beyond this many.
const MOST_KEPT: usize = 4096;

#[derive(Debug)]
enum Slot {
    Waiting(oneshot::Sender<ExitStatus>),
    Ended(ExitStatus),
}

/// Process to its end or to who waits for it; the lock is held for one look-up.
#[derive(Debug, Default)]
pub(super) struct Exits(Mutex<HashMap<ProcessId, Slot>>);

impl Exits {
    /// A process ended.
    pub(super) fn ended(&self, process: ProcessId, status: ExitStatus) {
        let mut slots = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match slots.remove(&process) {
            Some(Slot::Waiting(waiter)) => {
                waiter.send(status).ok();
            }
            Some(Slot::Ended(_)) | None => {
                if slots.len() >= MOST_KEPT {
                    slots.retain(|_, slot| matches!(slot, Slot::Waiting(_)));
                }
                slots.insert(process, Slot::Ended(status));
            }
        }
    }

    /// Waits for its end. Each process may be asked for once.
    pub(super) fn of(&self, process: ProcessId) -> oneshot::Receiver<ExitStatus> {
        let (sender, receiver) = oneshot::channel();
        let mut slots = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match slots.remove(&process) {
            Some(Slot::Ended(status)) => {
                sender.send(status).ok();
            }
            Some(Slot::Waiting(_)) | None => {
                slots.insert(process, Slot::Waiting(sender));
            }
        }
        receiver
    }
}
