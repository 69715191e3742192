//! The documents and the pods that run, and what each proxy is told of them.
//!
//! INVARIANT: whatever the order of changes, `resources_for` says what it would say in a new `World` that was given the
//! present documents and reports. `tests/law.rs` tries random histories.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bartizan_config::{Document, Finding};
use bartizan_mesh::{Key, Policy, Reach, Resource};
use bartizan_types::{Namespace, NamespacedName, PodReport, PodRole, PodSpec, SpiffeId};

use crate::allocations::Allocations;
use crate::keys::{Fetched, FetchedKeys, KeyOrigin};
use crate::model::{Model, differing};
use crate::names::in_namespace;
use crate::options::Options;
use crate::plan;
use crate::positions::Positions;
use crate::update::{Change, Update};
use crate::{endpoints, scope, view};

/// The whole mesh.
#[derive(Clone, Debug)]
pub struct World {
    pub(crate) options: Options,
    pub(crate) model: Model,
    pub(crate) reports: BTreeMap<NamespacedName, PodReport>,
    picture: Picture,
    plan: Vec<Arc<PodSpec>>,
    keys: Fetched,
}

/// What proxies are told, kept so that a change can be told from it.
#[derive(Clone, Debug, Default)]
struct Picture {
    /// Told to everybody: settings, services, workloads.
    everyone: BTreeMap<Key, Arc<Resource>>,
    services: BTreeMap<NamespacedName, ServicePicture>,
    proxies: BTreeMap<NamespacedName, ProxyPicture>,
    by_identity: BTreeMap<SpiffeId, BTreeSet<NamespacedName>>,
}

/// Where a service is served, and who is told.
#[derive(Clone, Debug)]
struct ServicePicture {
    key: Key,
    endpoints: Arc<Resource>,
    audience: BTreeSet<SpiffeId>,
}

/// A proxy and what it alone is told.
#[derive(Clone, Debug)]
struct ProxyPicture {
    spec: Arc<PodSpec>,
    own: BTreeMap<Key, Arc<Resource>>,
}

/// What a change may have reached.
#[derive(Debug, Default)]
struct Touched {
    workloads: BTreeSet<NamespacedName>,
    services: BTreeSet<NamespacedName>,
}

/// All findings about these documents.
pub fn check(documents: Vec<Document>, options: &Options) -> Vec<Finding> {
    Model::new(documents, options, &options.allocations).1
}

impl World {
    /// A mesh without documents and pods.
    pub fn new(options: Options) -> Self {
        let settings = Resource::Settings(options.settings.clone());
        let mut picture = Picture::default();
        picture.everyone.insert(settings.key(), Arc::new(settings));
        let model = Model {
            allocations: options.allocations.clone(),
            ..Model::default()
        };
        Self {
            options,
            model,
            reports: BTreeMap::new(),
            picture,
            plan: Vec::new(),
            keys: Fetched::new(),
        }
    }

    /// Replaces all documents.
    ///
    /// # Errors
    /// All findings when one of them is an error; the world then stays as it is.
    pub fn set_documents(&mut self, documents: Vec<Document>) -> Result<Update, Vec<Finding>> {
        let (mut model, findings) = Model::new(documents, &self.options, &self.model.allocations);
        if findings.iter().any(Finding::is_error) {
            return Err(findings);
        }
        model.share_with(&self.model);
        let touched = self.reached_by(&model);
        self.model = model;
        let mut update = self.refresh(touched);
        update.findings = findings;
        Ok(update)
    }

    /// Takes in what a node says of a pod. A pod that no document plans (`bartizan run`) counts as well.
    pub fn report_pod(&mut self, report: PodReport) -> Update {
        let name = report.spec.name.clone();
        if self.reports.get(&name) == Some(&report) {
            return Update::default();
        }
        self.reports.insert(name.clone(), report);
        self.refresh(Touched {
            workloads: [name].into(),
            services: BTreeSet::new(),
        })
    }

    /// Takes in that a node no longer has a pod.
    pub fn pod_gone(&mut self, name: &NamespacedName) -> Update {
        if self.reports.remove(name).is_none() {
            return Update::default();
        }
        self.refresh(Touched {
            workloads: [name.clone()].into(),
            services: BTreeSet::new(),
        })
    }

    /// The key sets that the documents speak of, by name: those that somebody should fetch.
    pub fn key_sources(&self) -> Vec<KeyOrigin> {
        Vec::new()
    }

    /// Takes in the keys (a JWKS with public keys only) that were fetched for a key set, and when, in seconds since 1970.
    /// A key set that no document speaks of (any more) is forgotten.
    pub fn report_keys(&mut self, name: &str, jwks: Arc<str>, fetched_at: i64) -> Update {
        if !self.key_sources().iter().any(|origin| *origin.name == *name) {
            return Update::default();
        }
        self.keys.insert(name.into(), FetchedKeys { jwks, fetched_at });
        Update::default()
    }

    /// Everybody who is told something: the pods that a node reported, and those that are planned.
    pub fn proxies(&self) -> impl Iterator<Item = &NamespacedName> {
        self.picture.proxies.keys()
    }

    /// All that a proxy holds when it is up to date; empty for a proxy that does not exist.
    pub fn resources_for(&self, proxy: &NamespacedName) -> BTreeMap<Key, Arc<Resource>> {
        let Some(picture) = self.picture.proxies.get(proxy) else {
            return BTreeMap::new();
        };
        let mut resources = self.picture.everyone.clone();
        for service in self.picture.services.values() {
            if service.audience.contains(&picture.spec.identity) {
                resources.insert(service.key.clone(), service.endpoints.clone());
            }
        }
        resources.extend(
            picture
                .own
                .iter()
                .map(|(key, resource)| (key.clone(), resource.clone())),
        );
        resources
    }

    /// The identity of a proxy's workload.
    pub fn identity_of(&self, proxy: &NamespacedName) -> Option<&SpiffeId> {
        self.picture
            .proxies
            .get(proxy)
            .map(|picture| &picture.spec.identity)
    }

    /// What the node should run now. A replica of an ordered StatefulSet appears once those before it are ready.
    pub fn plan(&self) -> Vec<PodSpec> {
        self.plan.iter().map(|spec| PodSpec::clone(spec)).collect()
    }

    /// What a node reported of a pod last.
    pub fn report(&self, pod: &NamespacedName) -> Option<&PodReport> {
        self.reports.get(pod)
    }

    /// Where policies and their rules stand.
    pub fn positions(&self) -> &Positions {
        &self.model.positions
    }

    /// The virtual addresses of services, to be kept over restarts.
    pub fn allocations(&self) -> &Allocations {
        &self.model.allocations
    }

    /// What holds for the whole mesh.
    pub fn settings(&self) -> &bartizan_mesh::Settings {
        &self.options.settings
    }

    /// What counts for every pod, by namespace and name.
    pub(crate) fn specs(&self) -> impl Iterator<Item = &PodSpec> {
        self.picture.proxies.values().map(|picture| &*picture.spec)
    }

    /// The spec that counts for a pod: what it was told to run if it runs, else what is planned.
    fn spec_of(&self, name: &NamespacedName) -> Option<Arc<PodSpec>> {
        let planned = self.model.plan.get(name).map(|pod| &pod.spec);
        match self.reports.get(name) {
            None => planned.cloned(),
            Some(report) => {
                let known = self.picture.proxies.get(name).map(|picture| &picture.spec);
                let same = [planned, known]
                    .into_iter()
                    .flatten()
                    .find(|spec| ***spec == report.spec);
                Some(same.map_or_else(|| Arc::new(report.spec.clone()), Arc::clone))
            }
        }
    }

    /// What is reached by going from the present model to `new`.
    fn reached_by(&self, new: &Model) -> Touched {
        let old = &self.model;
        let mut touched = Touched::default();
        for (name, before, after) in differing(&old.services, &new.services) {
            touched.services.insert(name.clone());
            let selected = self.picture.in_namespace(&name.namespace).filter(|spec| {
                [before, after]
                    .into_iter()
                    .flatten()
                    .any(|entry| entry.selects(&spec.labels))
            });
            touched.workloads.extend(selected.map(|spec| spec.name.clone()));
        }
        for (_, before, after) in differing(&old.policies, &new.policies) {
            let selected = self.picture.proxies.values().filter(|picture| {
                [before, after]
                    .into_iter()
                    .flatten()
                    .any(|entry| entry.selects(&picture.spec))
            });
            touched
                .workloads
                .extend(selected.map(|picture| picture.spec.name.clone()));
        }
        match old.mtls.differing(&new.mtls, &self.options) {
            None => touched.workloads.extend(self.picture.proxies.keys().cloned()),
            Some(namespaces) => {
                for namespace in namespaces {
                    let workloads = self.picture.in_namespace(namespace);
                    touched.workloads.extend(workloads.map(|spec| spec.name.clone()));
                }
            }
        }
        let mut gateways: BTreeSet<&NamespacedName> = BTreeSet::new();
        gateways.extend(
            differing(&old.gateways, &new.gateways)
                .into_iter()
                .map(|(name, ..)| name),
        );
        for (_, before, after) in differing(&old.routes, &new.routes) {
            gateways.extend(
                [before, after]
                    .into_iter()
                    .flatten()
                    .flat_map(|route| &route.gateways),
            );
        }
        touched.workloads.extend(
            self.picture
                .proxies
                .values()
                .filter(|picture| matches!(&picture.spec.role, PodRole::Gateway { gateway, .. } if gateways.contains(gateway)))
                .map(|picture| picture.spec.name.clone()),
        );
        touched.workloads.extend(
            differing(&old.plan, &new.plan)
                .into_iter()
                .map(|(name, ..)| name.clone()),
        );
        touched
    }

    /// Computes again what was touched, and says what that changes for each proxy.
    fn refresh(&mut self, touched: Touched) -> Update {
        let mut update = Update::default();
        let Touched {
            mut workloads,
            mut services,
        } = touched;

        let specs: BTreeMap<NamespacedName, Option<Arc<PodSpec>>> = workloads
            .iter()
            .map(|name| (name.clone(), self.spec_of(name)))
            .collect();
        for (name, spec) in &specs {
            let old = self.picture.proxies.get(name).map(|picture| picture.spec.clone());
            for spec in [old.as_ref(), spec.as_ref()].into_iter().flatten() {
                services.extend(view::services_of(&self.model, spec).map(|entry| entry.service.name.clone()));
            }
        }

        let mut moved = BTreeMap::new();
        let mut identities_changed = false;
        for (name, spec) in specs {
            let old = self.picture.proxies.get(&name);
            match (
                old.map(|old| &old.spec.identity),
                spec.as_ref().map(|spec| &spec.identity),
            ) {
                (None, None) => {}
                (None, Some(_)) => {
                    update.added.insert(name.clone());
                }
                (Some(_), None) => {
                    update.removed.insert(name.clone());
                }
                (Some(old), Some(new)) if old == new => {}
                // Another identity under the same name may know quite other services.
                (Some(_), Some(_)) => {
                    moved.insert(name.clone(), self.resources_for(&name));
                }
            }
            identities_changed |= self.picture.set_spec(&name, spec);
        }
        if identities_changed {
            services.extend(self.model.services.keys().cloned());
            services.extend(self.picture.services.keys().cloned());
        }

        self.refresh_everyone(&workloads, &services, &mut update);
        self.refresh_services(&services, &moved, &mut update);
        workloads.retain(|name| !update.removed.contains(name));
        self.refresh_proxies(&workloads, &moved, &mut update);
        for name in update.added.clone() {
            let change = Change::between(&BTreeMap::new(), &self.resources_for(&name));
            update.proxies.insert(name, change);
        }
        for (name, old) in &moved {
            // What everybody is told is told apart.
            let mut change = Change::between(old, &self.resources_for(name));
            change
                .upserts
                .retain(|key, _| !update.everyone.upserts.contains_key(key));
            change
                .removals
                .retain(|key| !update.everyone.removals.contains(key));
            update.proxies.insert(name.clone(), change);
        }
        update.proxies.retain(|_, change| !change.is_empty());

        let plan = plan::runnable(&self.model.plan, &self.reports);
        let same = plan.len() == self.plan.len()
            && plan
                .iter()
                .zip(&self.plan)
                .all(|(new, old)| Arc::ptr_eq(new, old) || new == old);
        update.plan_changed = !same;
        self.plan = plan;
        update
    }

    /// Services and workloads.
    fn refresh_everyone(
        &mut self,
        workloads: &BTreeSet<NamespacedName>,
        services: &BTreeSet<NamespacedName>,
        update: &mut Update,
    ) {
        for name in workloads {
            let workload = self.reports.get(name).map(|report| {
                Arc::new(Resource::Workload(view::workload(
                    &self.model,
                    report,
                    &self.options,
                )))
            });
            let key = Key::new("workload", name);
            replace(&mut self.picture.everyone, key, workload, &mut update.everyone);
        }
        for name in services {
            let service = self.model.services.get(name).map(|entry| entry.resource.clone());
            let key = Key::new("service", name);
            replace(&mut self.picture.everyone, key, service, &mut update.everyone);
        }
    }

    /// Endpoints, and who is told of them.
    fn refresh_services(
        &mut self,
        services: &BTreeSet<NamespacedName>,
        moved: &BTreeMap<NamespacedName, BTreeMap<Key, Arc<Resource>>>,
        update: &mut Update,
    ) {
        for name in services {
            let new = self.service_picture(name);
            let old = match &new {
                Some(new) => self.picture.services.insert(name.clone(), new.clone()),
                None => self.picture.services.remove(name),
            };
            let Some(key) = old.as_ref().or(new.as_ref()).map(|picture| picture.key.clone()) else {
                continue;
            };
            let told = |picture: Option<&ServicePicture>, identity: &SpiffeId| {
                let picture = picture.filter(|picture| picture.audience.contains(identity))?;
                Some(picture.endpoints.clone())
            };
            let audiences = [&old, &new]
                .into_iter()
                .flatten()
                .flat_map(|picture| &picture.audience);
            for identity in audiences.collect::<BTreeSet<_>>() {
                let (before, after) = (told(old.as_ref(), identity), told(new.as_ref(), identity));
                for proxy in self.picture.by_identity.get(identity).into_iter().flatten() {
                    if !update.added.contains(proxy) && !moved.contains_key(proxy) {
                        let change = update.proxies.entry(proxy.clone()).or_default();
                        change.note(&key, before.as_ref(), after.as_ref());
                    }
                }
            }
        }
    }

    fn service_picture(&self, name: &NamespacedName) -> Option<ServicePicture> {
        let entry = self.model.services.get(name)?;
        let reports = in_namespace(&self.reports, &name.namespace).map(|(_, report)| report);
        let endpoints = Resource::Endpoints(endpoints::endpoints(
            entry,
            reports,
            &self.model.mtls,
            &self.options,
        ));
        let identities = self.picture.by_identity.keys();
        let audience = match self.options.settings.profile.reach {
            Reach::Everything => identities.cloned().collect(),
            Reach::Allowed => {
                let mut policies: BTreeMap<&NamespacedName, &Policy> = BTreeMap::new();
                let mut is_served = entry.service.alias_of.is_some();
                for spec in self.picture.in_namespace(&name.namespace) {
                    if entry.selects(&spec.labels) {
                        is_served = true;
                        let attached = view::policies_of(&self.model, spec, &self.options);
                        policies.extend(attached.map(|policy| (&policy.policy.name, &policy.policy)));
                    }
                }
                let policies: Vec<_> = policies.into_values().collect();
                if is_served {
                    scope::audience(&policies, identities)
                } else {
                    // Where nobody serves there is nothing to keep secret, and callers should hear that nobody does.
                    identities.cloned().collect()
                }
            }
        };
        let old = self.picture.services.get(name).map(|old| &old.endpoints);
        Some(ServicePicture {
            key: endpoints.key(),
            endpoints: old
                .filter(|old| ***old == endpoints)
                .cloned()
                .unwrap_or_else(|| Arc::new(endpoints)),
            audience,
        })
    }

    /// Views, policies, listeners and routes.
    fn refresh_proxies(
        &mut self,
        workloads: &BTreeSet<NamespacedName>,
        moved: &BTreeMap<NamespacedName, BTreeMap<Key, Arc<Resource>>>,
        update: &mut Update,
    ) {
        for name in workloads {
            let Some(picture) = self.picture.proxies.get(name) else {
                continue;
            };
            let mut own = self.own_resources(&picture.spec);
            for (key, resource) in &mut own {
                if let Some(old) = picture.own.get(key).filter(|old| *old == resource) {
                    *resource = old.clone();
                }
            }
            if !update.added.contains(name) && !moved.contains_key(name) {
                let change = Change::between(&picture.own, &own);
                let told = update.proxies.entry(name.clone()).or_default();
                told.upserts.extend(change.upserts);
                told.removals.extend(change.removals);
            }
            if let Some(picture) = self.picture.proxies.get_mut(name) {
                picture.own = own;
            }
        }
    }

    fn own_resources(&self, spec: &PodSpec) -> BTreeMap<Key, Arc<Resource>> {
        let mut own = BTreeMap::new();
        let view = Resource::View(view::view(&self.model, spec, &self.options));
        own.insert(view.key(), Arc::new(view));
        for entry in view::policies_of(&self.model, spec, &self.options) {
            own.insert(entry.resource.key(), entry.resource.clone());
        }
        if let PodRole::Gateway { gateway, .. } = &spec.role {
            for listener in self
                .model
                .gateways
                .get(gateway)
                .into_iter()
                .flat_map(|entry| &entry.listeners)
            {
                own.insert(listener.key.clone(), listener.resource.clone());
            }
            for route in self
                .model
                .routes
                .values()
                .filter(|route| route.gateways.contains(gateway))
            {
                own.insert(route.resource.key(), route.resource.clone());
            }
        }
        own
    }
}

impl Picture {
    /// The pods of a namespace.
    fn in_namespace<'a>(&'a self, namespace: &'a Namespace) -> impl Iterator<Item = &'a Arc<PodSpec>> {
        in_namespace(&self.proxies, namespace).map(|(_, picture)| &picture.spec)
    }

    /// Sets what counts for a pod; says whether an identity came into the mesh or left it.
    fn set_spec(&mut self, name: &NamespacedName, spec: Option<Arc<PodSpec>>) -> bool {
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
fn replace(
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
