//! What the node says: which pods run, and whom it vouches for.

use std::collections::BTreeSet;

use bartizan_identity::BootstrapSecret;
use bartizan_types::{NamespacedName, PodReport, SpiffeId};

use super::{Claim, Node, NodeHello, Owner};
use crate::issue::SignRefused;

/// The most secrets that wait for their use.
const MOST_VOUCHES: usize = 10_000;

impl Owner {
    pub(super) fn node_hello(&mut self, hello: NodeHello) {
        tracing::info!(node = hello.node, pods = hello.pods.len(), "the node reports");
        let now: BTreeSet<_> = hello.pods.iter().map(|pod| pod.spec.name.clone()).collect();
        let gone: Vec<_> = self
            .pods
            .keys()
            .filter(|name| !now.contains(*name))
            .cloned()
            .collect();
        for name in gone {
            self.gone(&name);
        }
        for pod in hello.pods {
            self.pod(pod);
        }
        self.vouches.clear();
        for (name, secret) in hello.vouches {
            self.vouch(name, secret);
        }
        self.node = Some(Node {
            connection: hello.connection,
            name: hello.node,
            connected: true,
        });
    }

    pub(super) fn node_lost(&mut self, connection: u64) {
        if let Some(node) = self.node.as_mut().filter(|node| node.connection == connection) {
            tracing::warn!(node = node.name, "the node's stream has ended");
            node.connected = false;
        }
    }

    pub(super) fn pod(&mut self, report: PodReport) {
        let name = report.spec.name.clone();
        if self.pods.get(&name) == Some(&report) {
            return;
        }
        self.pods.insert(name, report.clone());
        let update = self.world.report_pod(report);
        self.absorb(&update);
    }

    pub(super) fn gone(&mut self, name: &NamespacedName) {
        self.vouches.remove(name);
        self.used.remove(name);
        if self.pods.remove(name).is_some() {
            let update = self.world.pod_gone(name);
            self.absorb(&update);
            self.sessions.forget(name);
        }
    }

    pub(super) fn vouch(&mut self, name: NamespacedName, secret: BootstrapSecret) {
        if self
            .used
            .get(&name)
            .is_some_and(|used| used.matches(secret.expose()))
        {
            tracing::debug!(workload = %name, "a one-time secret is announced that was used: it stays used");
        } else if self.vouches.len() < MOST_VOUCHES || self.vouches.contains_key(&name) {
            self.vouches.insert(name, secret);
        } else {
            tracing::warn!(workload = %name, "too many one-time secrets wait for their use: this one is refused");
        }
    }

    /// The identity of a workload: what runs counts before what should run.
    pub(super) fn identity_of(&self, name: &NamespacedName) -> Option<SpiffeId> {
        let running = self.pods.get(name).map(|pod| pod.spec.identity.clone());
        running.or_else(|| self.world.identity_of(name).cloned())
    }

    /// Judges a request for an SVID. A one-time secret is used up by the first request that shows it.
    pub(super) fn attest(&mut self, name: &NamespacedName, claim: Claim) -> Result<SpiffeId, SignRefused> {
        if self.node.is_none() {
            return Err(SignRefused::NodeUnknown);
        }
        let identity = self
            .identity_of(name)
            .ok_or_else(|| SignRefused::NotVouched(name.clone()))?;
        match claim {
            Claim::Bootstrap(shown) => {
                let secret = self
                    .vouches
                    .get(name)
                    .ok_or_else(|| SignRefused::NoSecret(name.clone()))?;
                if !secret.matches(&shown) {
                    return Err(SignRefused::WrongSecret(name.clone()));
                }
                if let Some(secret) = self.vouches.remove(name) {
                    self.used.insert(name.clone(), secret);
                }
            }
            Claim::Possession(proven) => {
                if !self.pods.contains_key(name) {
                    return Err(SignRefused::NotVouched(name.clone()));
                }
                if proven != identity {
                    return Err(SignRefused::OtherIdentity {
                        workload: name.clone(),
                        proven,
                        identity,
                    });
                }
            }
        }
        Ok(identity)
    }
}
