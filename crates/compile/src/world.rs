//! The documents and the pods that run, and what each proxy is told of them.
//!
//! INVARIANT: whatever the order of changes, `resources_for` says what it would say in a new `World` that was given the
//! present documents and reports. `tests/law.rs` tries random histories.

mod picture;
mod reached;
mod refresh;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bartizan_config::{Document, Finding};
use bartizan_mesh::{Key, KeySet, Resource};
use bartizan_types::{NamespacedName, PodReport, PodSpec, SpiffeId};

use crate::allocations::Allocations;
use crate::keys::{Fetched, FetchedKeys, KeyOrigin};
use crate::model::Model;
use crate::options::Options;
use crate::positions::Positions;
use crate::update::Update;
use picture::Picture;
use reached::Touched;

/// The whole mesh.
#[derive(Clone, Debug)]
pub struct World {
    /// What it was made with.
    given: Options,
    /// What holds with the documents: their profile and the mesh's configuration.
    pub(crate) options: Options,
    pub(crate) model: Model,
    pub(crate) reports: BTreeMap<NamespacedName, PodReport>,
    picture: Picture,
    plan: Vec<Arc<PodSpec>>,
    /// What was fetched of the key sets that the documents speak of.
    fetched: Fetched,
    /// The same as resources.
    key_sets: BTreeMap<Arc<str>, Arc<Resource>>,
}

/// All findings about these documents.
pub fn check(documents: Vec<Document>, options: &Options) -> Vec<Finding> {
    Model::join(documents, options, &options.allocations).findings
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
            given: options.clone(),
            options,
            model,
            reports: BTreeMap::new(),
            picture,
            plan: Vec::new(),
            fetched: Fetched::new(),
            key_sets: BTreeMap::new(),
        }
    }

    /// Replaces all documents.
    ///
    /// # Errors
    /// All findings when one of them is an error; the world then stays as it is.
    pub fn set_documents(&mut self, documents: Vec<Document>) -> Result<Update, Vec<Finding>> {
        let joined = Model::join(documents, &self.given, &self.model.allocations);
        if joined.findings.iter().any(Finding::is_error) {
            return Err(joined.findings);
        }
        let mut model = joined.model;
        model.share_with(&self.model);
        let touched = self.reached_by(&model, &joined.options);
        self.model = model;
        self.options = joined.options;
        self.keep_key_sets();
        let mut update = self.refresh(touched);
        update.findings = joined.findings;
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
        self.model.key_sources.values().cloned().collect()
    }

    /// Takes in the keys (a JWKS with public keys only) that were fetched for a key set, and when, in seconds since 1970.
    ///
    /// What is reported is kept as long as a document speaks of the key set; a key set that none speaks of is forgotten.
    pub fn report_keys(&mut self, name: &str, jwks: Arc<str>, fetched_at: i64) -> Update {
        let mut update = Update::default();
        let Some(origin) = self.model.key_sources.get(name) else {
            return update;
        };
        let fetched = FetchedKeys { jwks, fetched_at };
        let resource = Arc::new(key_set(origin, Some(&fetched)));
        let key = resource.key();
        for (proxy, picture) in &mut self.picture.proxies {
            if let Some(own) = picture.own.get_mut(&key) {
                update
                    .proxies
                    .entry(proxy.clone())
                    .or_default()
                    .note(&key, Some(own), Some(&resource));
                *own = resource.clone();
            }
        }
        update.proxies.retain(|_, change| !change.is_empty());
        self.key_sets.insert(origin.name.clone(), resource);
        self.fetched.insert(origin.name.clone(), fetched);
        update
    }

    /// Forgets the key sets that no document speaks of, and makes room for new ones.
    fn keep_key_sets(&mut self) {
        let sources = &self.model.key_sources;
        self.fetched.retain(|name, _| sources.contains_key(name));
        self.key_sets.retain(|name, _| sources.contains_key(name));
        for (name, origin) in sources {
            let fetched = self.fetched.get(name);
            self.key_sets
                .entry(name.clone())
                .or_insert_with(|| Arc::new(key_set(origin, fetched)));
        }
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

    /// Where each service is served, also those that no proxy is told about: for who looks at the whole mesh.
    pub fn endpoints(&self) -> impl Iterator<Item = (Key, Arc<Resource>)> {
        let services = self.picture.services.values();
        services.map(|service| (service.key.clone(), service.endpoints.clone()))
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
}

fn key_set(origin: &KeyOrigin, fetched: Option<&FetchedKeys>) -> Resource {
    Resource::KeySet(KeySet {
        name: origin.name.clone(),
        source: origin.location.uri().clone(),
        jwks: fetched.map(|fetched| fetched.jwks.clone()),
        fetched_at: fetched.map_or(0, |fetched| fetched.fetched_at),
    })
}
