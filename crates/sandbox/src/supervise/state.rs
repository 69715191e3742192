//! What all pods' tasks publish together: one value that readers watch.

use std::collections::BTreeMap;
use std::sync::Arc;

use bartizan_types::{NamespacedName, PodReport, Secret};
use tokio::sync::watch;

/// A one-time secret that vouches for a proxy which has no SVID yet.
#[derive(Clone, Debug)]
pub struct Vouch {
    /// Grows with each secret, so that a reader sees a new one.
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
pub(super) struct Publisher(watch::Sender<Arc<State>>);

impl Publisher {
    pub(super) fn new() -> (Self, watch::Receiver<Arc<State>>) {
        let (sender, receiver) = watch::channel(Arc::default());
        (Self(sender), receiver)
    }

    /// Publishes a pod's report, if it says something new.
    pub(super) fn report(&self, report: PodReport) {
        self.0.send_if_modified(|state| {
            if state.pods.get(&report.spec.name) == Some(&report) {
                return false;
            }
            Arc::make_mut(state).pods.insert(report.spec.name.clone(), report);
            true
        });
    }

    /// Announces a secret.
    pub(super) fn vouch(&self, pod: &NamespacedName, secret: Secret<Vec<u8>>) {
        self.0.send_modify(|state| {
            let state = Arc::make_mut(state);
            let number = state.vouches.get(pod).map_or(1, |vouch| vouch.number + 1);
            state.vouches.insert(pod.clone(), Vouch { number, secret });
        });
    }

    /// A secret is not needed any more.
    pub(super) fn vouch_used(&self, pod: &NamespacedName) {
        self.0.send_if_modified(|state| {
            state.vouches.contains_key(pod) && Arc::make_mut(state).vouches.remove(pod).is_some()
        });
    }

    /// A pod is gone.
    pub(super) fn remove(&self, pod: &NamespacedName) {
        self.0.send_modify(|state| {
            let state = Arc::make_mut(state);
            state.pods.remove(pod);
            state.vouches.remove(pod);
        });
    }
}
