//! What proxies are told, kept so that a change can be told from it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bartizan_mesh::{Key, Resource};
use bartizan_types::{Namespace, NamespacedName, PodSpec, SpiffeId};

use crate::names::in_namespace;
use crate::update::Change;

/// What proxies are told, kept so that a change can be told from it.
#[derive(Clone, Debug, Default)]
pub(super) struct Picture {
    /// Told to everybody: settings, services, workloads.
    pub(super) everyone: BTreeMap<Key, Arc<Resource>>,
    pub(super) services: BTreeMap<NamespacedName, ServicePicture>,
    pub(super) proxies: BTreeMap<NamespacedName, ProxyPicture>,
    pub(super) by_identity: BTreeMap<SpiffeId, BTreeSet<NamespacedName>>,
}

/// Where a service is served, and who is told.
#[derive(Clone, Debug)]
pub(super) struct ServicePicture {
    pub(super) key: Key,
    pub(super) endpoints: Arc<Resource>,
    pub(super) audience: BTreeSet<SpiffeId>,
}

/// A proxy and what it alone is told.
#[derive(Clone, Debug)]
pub(super) struct ProxyPicture {
    pub(super) spec: Arc<PodSpec>,
    pub(super) own: BTreeMap<Key, Arc<Resource>>,
}

impl Picture {
    /// The pods of a namespace.
    pub(super) fn in_namespace<'a>(
        &'a self,
        namespace: &'a Namespace,
    ) -> impl Iterator<Item = &'a Arc<PodSpec>> {
        in_namespace(&self.proxies, namespace).map(|(_, picture)| &picture.spec)
    }

    /// Sets what counts for a pod; says whether an identity came into the mesh or left it.
    pub(super) fn set_spec(&mut self, name: &NamespacedName, spec: Option<Arc<PodSpec>>) -> bool {
        let old = self
            .proxies
            .get(name)
            .map(|picture| picture.spec.identity.clone());
        let new = spec.as_ref().map(|spec| spec.identity.clone());
        match spec {
            None => {
                self.proxies.remove(name);
            }
            Some(spec) => match self.proxies.get_mut(name) {
                Some(picture) => picture.spec = spec,
                None => {
                    let own = BTreeMap::new();
                    self.proxies.insert(name.clone(), ProxyPicture { spec, own });
                }
            },
        }
        if old == new {
            return false;
        }
        let mut changed = false;
        if let Some(old) = old
            && let Some(pods) = self.by_identity.get_mut(&old)
        {
            pods.remove(name);
            if pods.is_empty() {
                self.by_identity.remove(&old);
                changed = true;
            }
        }
        if let Some(new) = new {
            let pods = self.by_identity.entry(new).or_default();
            changed |= pods.is_empty();
            pods.insert(name.clone());
        }
        changed
    }
}

/// Puts a value under a key or takes it away, and notes the change; an equal value stays the same allocation.
pub(super) fn replace(
    map: &mut BTreeMap<Key, Arc<Resource>>,
    key: Key,
    new: Option<Arc<Resource>>,
    change: &mut Change,
) {
    let old = map.get(&key);
    if let (Some(old), Some(new)) = (old, &new)
        && old == new
    {
        return;
    }
    change.note(&key, old, new.as_ref());
    match new {
        Some(new) => {
            map.insert(key, new);
        }
        None => {
            map.remove(&key);
        }
    }
}
