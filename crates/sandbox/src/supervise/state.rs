//! What all pods' tasks publish together: one value that readers watch.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bartizan_types::{NamespacedName, PodReport, Secret};
use tokio::sync::watch;

/// A one-time secret that vouches for a proxy which has no SVID yet.
#[derive(Clone, Debug)]
pub struct Vouch {
    /// No two secrets of a supervisor have the same, so that a reader sees a new one also where it has missed that the one
    /// before was used, or that its pod was made anew.
    pub number: u64,
    /// The secret.
    pub secret: Secret<Vec<u8>>,
}

/// All pods, and the secrets that are open.
#[derive(Clone, Debug, Default)]
pub struct State {
    /// By name.
    pub pods: BTreeMap<NamespacedName, PodReport>,
    /// Of proxies that have not shown an SVID yet.
    pub vouches: BTreeMap<NamespacedName, Vouch>,
}

/// The writing end.
#[derive(Debug)]
pub(super) struct Publisher {
    state: watch::Sender<Arc<State>>,
    vouched: AtomicU64,
}

impl Publisher {
    pub(super) fn new() -> (Self, watch::Receiver<Arc<State>>) {
        let (sender, receiver) = watch::channel(Arc::default());
        let publisher = Self {
            state: sender,
            vouched: AtomicU64::new(0),
        };
        (publisher, receiver)
    }

    /// Publishes a pod's report, if it says something new.
    pub(super) fn report(&self, report: PodReport) {
        self.state.send_if_modified(|state| {
            if state.pods.get(&report.spec.name) == Some(&report) {
                return false;
            }
            Arc::make_mut(state).pods.insert(report.spec.name.clone(), report);
            true
        });
    }

    /// Announces a secret.
    pub(super) fn vouch(&self, pod: &NamespacedName, secret: Secret<Vec<u8>>) {
        let number = self.vouched.fetch_add(1, Ordering::Relaxed) + 1;
        self.state.send_modify(|state| {
            let state = Arc::make_mut(state);
            state.vouches.insert(pod.clone(), Vouch { number, secret });
        });
    }

    /// A secret is not needed any more.
    pub(super) fn vouch_used(&self, pod: &NamespacedName) {
        self.state.send_if_modified(|state| {
            state.vouches.contains_key(pod) && Arc::make_mut(state).vouches.remove(pod).is_some()
        });
    }

    /// A pod is gone.
    pub(super) fn remove(&self, pod: &NamespacedName) {
        self.state.send_modify(|state| {
            let state = Arc::make_mut(state);
            state.pods.remove(pod);
            state.vouches.remove(pod);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A reader that looks only now and then has to see that a pod of the same name has another secret.
    #[test]
    fn a_secret_of_a_pod_that_was_made_anew_has_another_number() {
        let (publisher, state) = Publisher::new();
        let pod = NamespacedName::parse("lab/web-0").unwrap();
        let mut seen = Vec::new();
        let mut look = || seen.push(state.borrow().vouches.get(&pod).map(|vouch| vouch.number));
        publisher.vouch(&pod, Secret::new(vec![1]));
        look();
        publisher.remove(&pod);
        publisher.vouch(&pod, Secret::new(vec![2]));
        look();
        publisher.vouch_used(&pod);
        publisher.vouch(&pod, Secret::new(vec![3]));
        look();
        assert_eq!(seen, [Some(1), Some(2), Some(3)]);
    }
}
