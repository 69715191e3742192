//! One immutable version of the mesh, indexed for what a proxy asks on each connection and request.
//!
//! A snapshot is made from the one before it: what a change does not touch is shared, so that the cost follows the
//! change and not the mesh. Where two resources claim the same place (an address, a name), the first by name has it,
//! in whatever order they came.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use bartizan_types::{Hostname, Name, NamespacedName, Port, Version};

use crate::policy::Policy;
use crate::resource::{
    Endpoints, Key, Resource, Service, ServicePort, Settings, Transaction, View, Workload,
};
use crate::route::{Listener, Route};
use crate::shared_map::SharedMap;
use crate::store::Store;

/// One immutable version of the mesh. A clone is cheap.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    store: Store,
    settings: Option<Arc<Settings>>,
    services: SharedMap<NamespacedName, Arc<Service>>,
    services_by_address: SharedMap<IpAddr, Vec<NamespacedName>>,
    services_by_hostname: SharedMap<Hostname, Vec<NamespacedName>>,
    endpoints: SharedMap<NamespacedName, Arc<Endpoints>>,
    endpoints_by_address: SharedMap<IpAddr, Vec<NamespacedName>>,
    workloads: SharedMap<NamespacedName, Arc<Workload>>,
    workloads_by_address: SharedMap<IpAddr, Vec<NamespacedName>>,
    workloads_by_hostname: SharedMap<Hostname, Vec<NamespacedName>>,
    policies: SharedMap<NamespacedName, Arc<Policy>>,
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
        snapshot.store.set_version(store.version());
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
            next.upsert(&Arc::new(resource.clone()));
        }
        next.store.set_version(transaction.version);
        next
    }

    /// The resources that this snapshot was made of.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// The version.
    pub fn version(&self) -> Version {
        self.store.version()
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

    /// The policy of this name.
    pub fn policy(&self, name: &NamespacedName) -> Option<&Arc<Policy>> {
        self.policies.get(name)
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

    /// `cart.shop` of `cart.shop.svc.cluster.local` and of `cart.shop.svc`.
    fn within_cluster<'a>(&self, name: &'a str) -> &'a str {
        let in_domain = self.settings.as_ref().and_then(|settings| {
            name.strip_suffix(settings.cluster_domain.as_str())?
                .strip_suffix('.')?
                .strip_suffix(".svc")
        });
        in_domain.or_else(|| name.strip_suffix(".svc")).unwrap_or(name)
    }

    fn upsert(&mut self, resource: &Arc<Resource>) {
        if let Some(old) = self.store.upsert(Arc::clone(resource)) {
            if old == *resource {
                return; // nothing changes, so what was built from the old one can be kept
            }
            self.unindex(&old);
        }
        self.index(resource);
    }

    fn remove(&mut self, key: &Key) {
        if let Some(old) = self.store.remove(key) {
            self.unindex(&old);
        }
    }

    fn index(&mut self, resource: &Resource) {
        match resource {
            Resource::Settings(settings) => self.settings = Some(Arc::new(settings.clone())),
            Resource::Service(service) => {
                for address in &service.addresses {
                    self.services_by_address.add(*address, service.name.clone());
                }
                self.services_by_hostname
                    .add(service.hostname.clone(), service.name.clone());
                self.services
                    .insert(service.name.clone(), Arc::new(service.clone()));
            }
            Resource::Endpoints(endpoints) => {
                for endpoint in &endpoints.endpoints {
                    self.endpoints_by_address
                        .add(endpoint.address, endpoints.service.clone());
                }
                self.endpoints
                    .insert(endpoints.service.clone(), Arc::new(endpoints.clone()));
            }
            Resource::Workload(workload) => {
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
            Resource::Policy(policy) => {
                self.policies
                    .insert(policy.name.clone(), Arc::new(policy.clone()));
            }
            Resource::View(view) => {
                Arc::make_mut(&mut self.views).insert(view.workload.clone(), Arc::new(view.clone()));
            }
            Resource::Listener(listener) => {
                let key = (listener.gateway.clone(), listener.section.clone());
                Arc::make_mut(&mut self.listeners).insert(key, Arc::new(listener.clone()));
            }
            Resource::Route(route) => {
                Arc::make_mut(&mut self.routes).insert(route.name.clone(), Arc::new(route.clone()));
            }
        }
    }

    fn unindex(&mut self, resource: &Resource) {
        match resource {
            Resource::Settings(_) => self.settings = None,
            Resource::Service(service) => {
                for address in &service.addresses {
                    self.services_by_address.take(address, &service.name);
                }
                self.services_by_hostname.take(&service.hostname, &service.name);
                self.services.remove(&service.name);
            }
            Resource::Endpoints(endpoints) => {
                for endpoint in &endpoints.endpoints {
                    self.endpoints_by_address
                        .take(&endpoint.address, &endpoints.service);
                }
                self.endpoints.remove(&endpoints.service);
            }
            Resource::Workload(workload) => {
                for address in &workload.addresses {
                    self.workloads_by_address.take(address, &workload.name);
                }
                if let Some(hostname) = &workload.hostname {
                    self.workloads_by_hostname.take(hostname, &workload.name);
                }
                self.workloads.remove(&workload.name);
            }
            Resource::Policy(policy) => {
                self.policies.remove(&policy.name);
            }
            Resource::View(view) => {
                Arc::make_mut(&mut self.views).remove(&view.workload);
            }
            Resource::Listener(listener) => {
                let key = (listener.gateway.clone(), listener.section.clone());
                Arc::make_mut(&mut self.listeners).remove(&key);
            }
            Resource::Route(route) => {
                Arc::make_mut(&mut self.routes).remove(&route.name);
            }
        }
    }
}

#[cfg(test)]
#[path = "snapshot_tests.rs"]
mod tests;
