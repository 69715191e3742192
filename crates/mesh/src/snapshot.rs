//! One immutable version of the mesh, indexed for what a proxy asks on each connection and request.
//!
//! A snapshot is made from the one before it: what a change does not touch is shared, so that the cost follows the
//! change and not the mesh. Where two resources claim the same place (an address, a name), the first by name has it,
//! in whatever order they came.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use bartizan_types::{Hostname, Name, NamespacedName, Port, Version};

use crate::authentication::{KeySet, RequestAuthentication};
use crate::policy::{Policy, PolicyKind, PolicyName};
use crate::provider::Provider;
use crate::resource::{
    Endpoints, Key, Resource, Service, ServicePort, Settings, Transaction, View, Workload,
};
use crate::route::{Listener, Route};
use crate::shared_map::SharedMap;
use crate::store::Store;

/// One immutable version of the mesh. A clone is cheap.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    version: Version,
    settings: Option<Arc<Settings>>,
    services: SharedMap<NamespacedName, Arc<Service>>,
    services_by_address: SharedMap<IpAddr, Vec<NamespacedName>>,
    services_by_hostname: SharedMap<Hostname, Vec<NamespacedName>>,
    endpoints: SharedMap<NamespacedName, Arc<Endpoints>>,
    endpoints_by_address: SharedMap<IpAddr, Vec<NamespacedName>>,
    workloads: SharedMap<NamespacedName, Arc<Workload>>,
    workloads_by_address: SharedMap<IpAddr, Vec<NamespacedName>>,
    workloads_by_hostname: SharedMap<Hostname, Vec<NamespacedName>>,
    policies: SharedMap<PolicyName, Arc<Policy>>,
    authentications: Arc<BTreeMap<NamespacedName, Arc<RequestAuthentication>>>,
    key_sets: Arc<BTreeMap<Arc<str>, Arc<KeySet>>>,
    providers: Arc<BTreeMap<Arc<str>, Arc<Provider>>>,
    views: Arc<BTreeMap<NamespacedName, Arc<View>>>,
    listeners: Arc<BTreeMap<(NamespacedName, Name), Arc<Listener>>>,
    routes: Arc<BTreeMap<NamespacedName, Arc<Route>>>,
}

impl Snapshot {
    /// Indexes everything in a store: for a start from the last good file.
    pub fn build(store: &Store) -> Self {
        let mut snapshot = Self::default();
        for (_, resource) in store.iter() {
            snapshot.upsert(resource);
        }
        snapshot.version = store.version();
        snapshot
    }

    /// The snapshot after a change; shares with this one whatever the change does not touch.
    #[must_use]
    pub fn apply(&self, transaction: &Transaction) -> Self {
        let mut next = self.clone();
        for key in &transaction.removals {
            next.remove(key);
        }
        for resource in &transaction.upserts {
            next.upsert(resource);
        }
        next.version = transaction.version;
        next
    }

    /// The resources that this snapshot was made of, copied: for the last-good file and for digests. A snapshot holds
    /// each only once, in the form that it serves from.
    pub fn store(&self) -> Store {
        let mut store = Store::new();
        store.set_version(self.version);
        for resource in self.resources() {
            store.upsert(Arc::new(resource));
        }
        store
    }

    /// The version.
    pub fn version(&self) -> Version {
        self.version
    }

    /// What holds for the whole mesh; `None` until the control plane has said it.
    pub fn settings(&self) -> Option<&Arc<Settings>> {
        self.settings.as_ref()
    }

    /// The service of this name.
    pub fn service(&self, name: &NamespacedName) -> Option<&Arc<Service>> {
        self.services.get(name)
    }

    /// All services, in no particular order.
    pub fn services(&self) -> impl Iterator<Item = &Arc<Service>> {
        self.services.iter().map(|(_, service)| service)
    }

    /// The service that has this virtual address.
    pub fn service_at(&self, address: IpAddr) -> Option<&Arc<Service>> {
        self.services_by_address
            .all(&address)
            .first()
            .and_then(|name| self.service(name))
    }

    /// The service that has this virtual address, and its port of this number.
    pub fn service_port_at(&self, address: IpAddr, port: Port) -> Option<(&Arc<Service>, &ServicePort)> {
        let service = self.service_at(address)?;
        Some((service, service.port(port)?))
    }

    /// The service of this full host name.
    pub fn service_by_hostname(&self, hostname: &str) -> Option<&Arc<Service>> {
        self.services_by_hostname
            .all(hostname)
            .first()
            .and_then(|name| self.service(name))
    }

    /// The service that `name` means in `namespace`: `cart`, `cart.shop`, `cart.shop.svc` or the full host name. Lower
    /// case, without a trailing dot.
    pub fn service_named(&self, namespace: &Name, name: &str) -> Option<&Arc<Service>> {
        if let Some(service) = self.service_by_hostname(name) {
            return Some(service);
        }
        let name = self.within_cluster(name);
        let (service, namespace) = match name.split_once('.') {
            None => (name, namespace.clone()),
            Some((service, namespace)) => (service, Name::parse(namespace).ok()?),
        };
        self.service(&NamespacedName::new(namespace, Name::parse(service).ok()?))
    }

    /// The workload of this name.
    pub fn workload(&self, name: &NamespacedName) -> Option<&Arc<Workload>> {
        self.workloads.get(name)
    }

    /// All workloads, in no particular order.
    pub fn workloads(&self) -> impl Iterator<Item = &Arc<Workload>> {
        self.workloads.iter().map(|(_, workload)| workload)
    }

    /// Who has this address.
    pub fn workload_at(&self, address: IpAddr) -> Option<&Arc<Workload>> {
        self.workloads_by_address
            .all(&address)
            .first()
            .and_then(|name| self.workload(name))
    }

    /// The instance that `name` means in `namespace`, where it has a name of its own below a headless service:
    /// `db-0.db`, `db-0.db.data`, `db-0.db.data.svc` or the full host name.
    pub fn workload_named(&self, namespace: &Name, name: &str) -> Option<&Arc<Workload>> {
        let by_hostname = |hostname: &str| {
            self.workloads_by_hostname
                .all(hostname)
                .first()
                .and_then(|name| self.workload(name))
        };
        by_hostname(name).or_else(|| {
            let domain = self.settings.as_ref()?.cluster_domain.as_str();
            let name = self.within_cluster(name);
            by_hostname(&match name.split('.').count() {
                2 => format!("{name}.{namespace}.svc.{domain}"),
                _ => format!("{name}.svc.{domain}"),
            })
        })
    }

    /// Where a service is served; `None` when no policy lets this workload reach it.
    pub fn endpoints(&self, service: &NamespacedName) -> Option<&Arc<Endpoints>> {
        self.endpoints.get(service)
    }

    /// The endpoints of all services that are served at this address, in the order of the services' names.
    pub fn endpoints_at(&self, address: IpAddr) -> impl Iterator<Item = &Arc<Endpoints>> {
        self.endpoints_by_address
            .all(&address)
            .iter()
            .filter_map(|service| self.endpoints(service))
    }

    /// The policy of this kind and name.
    pub fn policy(&self, name: &PolicyName) -> Option<&Arc<Policy>> {
        self.policies.get(name)
    }

    /// All policies, in no particular order.
    pub fn policies(&self) -> impl Iterator<Item = &Arc<Policy>> {
        self.policies.iter().map(|(_, policy)| policy)
    }

    /// The rules for tokens of this name.
    pub fn authentication(&self, name: &NamespacedName) -> Option<&Arc<RequestAuthentication>> {
        self.authentications.get(name)
    }

    /// All rules for tokens, by name.
    pub fn authentications(&self) -> impl Iterator<Item = &Arc<RequestAuthentication>> {
        self.authentications.values()
    }

    /// The fetched keys of this name.
    pub fn key_set(&self, name: &str) -> Option<&Arc<KeySet>> {
        self.key_sets.get(name)
    }

    /// All fetched keys, by name.
    pub fn key_sets(&self) -> impl Iterator<Item = &Arc<KeySet>> {
        self.key_sets.values()
    }

    /// The authorizer of this name.
    pub fn provider(&self, name: &str) -> Option<&Arc<Provider>> {
        self.providers.get(name)
    }

    /// All authorizers, by name.
    pub fn providers(&self) -> impl Iterator<Item = &Arc<Provider>> {
        self.providers.values()
    }

    /// What the proxy of this local workload needs to know.
    pub fn view(&self, workload: &NamespacedName) -> Option<&Arc<View>> {
        self.views.get(workload)
    }

    /// The views of all local workloads; a sidecar and a gateway have one.
    pub fn views(&self) -> impl Iterator<Item = &Arc<View>> {
        self.views.values()
    }

    /// All listeners, in the order of gateway and section.
    pub fn listeners(&self) -> impl Iterator<Item = &Arc<Listener>> {
        self.listeners.values()
    }

    /// The listeners of a gateway, in the order of their sections.
    pub fn listeners_of(&self, gateway: &NamespacedName) -> impl Iterator<Item = &Arc<Listener>> {
        self.listeners()
            .filter(move |listener| listener.gateway == *gateway)
    }

    /// All routes, in the order of their names.
    pub fn routes(&self) -> impl Iterator<Item = &Arc<Route>> {
        self.routes.values()
    }

    /// Whether both have the same listeners and routes, by pointer: what is built from them can be kept.
    pub fn same_ways_in(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.listeners, &other.listeners) && Arc::ptr_eq(&self.routes, &other.routes)
    }

    /// Copies of everything, one after the other, in no particular order.
    fn resources(&self) -> impl Iterator<Item = Resource> {
        fn copies<'m, K: 'm, T: Clone + 'm>(
            all: impl Iterator<Item = (&'m K, &'m Arc<T>)>,
            resource: fn(T) -> Resource,
        ) -> impl Iterator<Item = Resource> {
            all.map(move |(_, value)| resource(T::clone(value)))
        }
        let settings = self.settings.iter();
        settings
            .map(|settings| Resource::Settings(Settings::clone(settings)))
            .chain(copies(self.services.iter(), Resource::Service))
            .chain(copies(self.endpoints.iter(), Resource::Endpoints))
            .chain(copies(self.workloads.iter(), Resource::Workload))
            .chain(copies(self.policies.iter(), Resource::Policy))
            .chain(copies(
                self.authentications.iter(),
                Resource::RequestAuthentication,
            ))
            .chain(copies(self.key_sets.iter(), Resource::KeySet))
            .chain(copies(self.providers.iter(), Resource::Provider))
            .chain(copies(self.views.iter(), Resource::View))
            .chain(copies(self.listeners.iter(), Resource::Listener))
            .chain(copies(self.routes.iter(), Resource::Route))
    }

    /// `cart.shop` of `cart.shop.svc.cluster.local` and of `cart.shop.svc`.
    fn within_cluster<'a>(&self, name: &'a str) -> &'a str {
        let in_domain = self.settings.as_ref().and_then(|settings| {
            name.strip_suffix(settings.cluster_domain.as_str())?
                .strip_suffix('.')?
                .strip_suffix(".svc")
        });
        in_domain.or_else(|| name.strip_suffix(".svc")).unwrap_or(name)
    }

    /// Puts a resource in its place; an equal one that is there already stays, so that what was built from it is kept.
    fn upsert(&mut self, resource: &Resource) {
        match resource {
            Resource::Settings(settings) => {
                if self.settings.as_deref() != Some(settings) {
                    self.settings = Some(Arc::new(settings.clone()));
                }
            }
            Resource::Service(service) => {
                if self.service(&service.name).is_none_or(|old| **old != *service) {
                    self.remove_service(&service.name);
                    for address in &service.addresses {
                        self.services_by_address.add(*address, service.name.clone());
                    }
                    self.services_by_hostname
                        .add(service.hostname.clone(), service.name.clone());
                    self.services
                        .insert(service.name.clone(), Arc::new(service.clone()));
                }
            }
            Resource::Endpoints(endpoints) => {
                let name = &endpoints.service;
                if self.endpoints(name).is_none_or(|old| **old != *endpoints) {
                    self.remove_endpoints(name);
                    for endpoint in &endpoints.endpoints {
                        self.endpoints_by_address.add(endpoint.address, name.clone());
                    }
                    self.endpoints.insert(name.clone(), Arc::new(endpoints.clone()));
                }
            }
            Resource::Workload(workload) => {
                if self.workload(&workload.name).is_none_or(|old| **old != *workload) {
                    self.remove_workload(&workload.name);
                    for address in &workload.addresses {
                        self.workloads_by_address.add(*address, workload.name.clone());
                    }
                    if let Some(hostname) = &workload.hostname {
                        self.workloads_by_hostname
                            .add(hostname.clone(), workload.name.clone());
                    }
                    self.workloads
                        .insert(workload.name.clone(), Arc::new(workload.clone()));
                }
            }
            Resource::Policy(policy) => {
                let name = policy.id();
                if self.policy(&name).is_none_or(|old| **old != *policy) {
                    self.policies.insert(name, Arc::new(policy.clone()));
                }
            }
            Resource::RequestAuthentication(authentication) => {
                let name = authentication.name.clone();
                replace(&mut self.authentications, name, authentication);
            }
            Resource::KeySet(keys) => replace(&mut self.key_sets, keys.name.clone(), keys),
            Resource::Provider(provider) => replace(&mut self.providers, provider.name.clone(), provider),
            Resource::View(view) => replace(&mut self.views, view.workload.clone(), view),
            Resource::Listener(listener) => {
                let key = (listener.gateway.clone(), listener.section.clone());
                replace(&mut self.listeners, key, listener);
            }
            Resource::Route(route) => replace(&mut self.routes, route.name.clone(), route),
        }
    }

    /// Takes out the resource of a key, if it is there.
    fn remove(&mut self, key: &Key) {
        let Some((kind, name)) = key.0.split_once('/') else {
            if &*key.0 == "settings" {
                self.settings = None;
            }
            return;
        };
        if kind == "listener" {
            let Some((gateway, section)) = name.rsplit_once('/') else {
                return;
            };
            if let (Ok(gateway), Ok(section)) = (NamespacedName::parse(gateway), Name::parse(section)) {
                take_out(&mut self.listeners, &(gateway, section));
            }
            return;
        }
        match kind {
            "key-set" => return take_out(&mut self.key_sets, &name.into()),
            "provider" => return take_out(&mut self.providers, &name.into()),
            _ => {}
        }
        let Ok(name) = NamespacedName::parse(name) else {
            return;
        };
        match kind {
            "service" => self.remove_service(&name),
            "endpoints" => self.remove_endpoints(&name),
            "workload" => self.remove_workload(&name),
            "policy" | "access-rule" => {
                let kind = if kind == "policy" {
                    PolicyKind::AuthorizationPolicy
                } else {
                    PolicyKind::AccessRule
                };
                self.policies.remove(&PolicyName { kind, name });
            }
            "request-authentication" => take_out(&mut self.authentications, &name),
            "view" => take_out(&mut self.views, &name),
            "route" => take_out(&mut self.routes, &name),
            _ => {} // no resource has such a key
        }
    }

    fn remove_service(&mut self, name: &NamespacedName) {
        if let Some(service) = self.services.remove(name) {
            for address in &service.addresses {
                self.services_by_address.take(address, name);
            }
            self.services_by_hostname.take(&service.hostname, name);
        }
    }

    fn remove_endpoints(&mut self, name: &NamespacedName) {
        if let Some(endpoints) = self.endpoints.remove(name) {
            for endpoint in &endpoints.endpoints {
                self.endpoints_by_address.take(&endpoint.address, name);
            }
        }
    }

    fn remove_workload(&mut self, name: &NamespacedName) {
        if let Some(workload) = self.workloads.remove(name) {
            for address in &workload.addresses {
                self.workloads_by_address.take(address, name);
            }
            if let Some(hostname) = &workload.hostname {
                self.workloads_by_hostname.take(hostname, name);
            }
        }
    }
}

/// Puts a value in its place, unless an equal one is there.
fn replace<K: Ord + Clone, T: PartialEq + Clone>(map: &mut Arc<BTreeMap<K, Arc<T>>>, key: K, value: &T) {
    if map.get(&key).is_none_or(|old| **old != *value) {
        Arc::make_mut(map).insert(key, Arc::new(value.clone()));
    }
}

/// Takes a value out; where there is none nothing is copied.
fn take_out<K: Ord + Clone, T>(map: &mut Arc<BTreeMap<K, Arc<T>>>, key: &K) {
    if map.contains_key(key) {
        Arc::make_mut(map).remove(key);
    }
}

#[cfg(test)]
#[path = "snapshot_tests.rs"]
mod tests;
