//! Computes again what a change touched, and says what that changes for each proxy.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bartizan_mesh::{Key, Policy, PolicyName, Reach, Resource};
use bartizan_types::{NamespacedName, PodRole, PodSpec, SpiffeId};

use super::World;
use super::picture::{ServicePicture, replace};
use super::reached::Touched;
use crate::names::in_namespace;
use crate::scope::Door;
use crate::update::{Change, Update};
use crate::{endpoints, plan, scope, view};

impl World {
    /// Computes again what was touched, and says what that changes for each proxy.
    pub(super) fn refresh(&mut self, touched: Touched) -> Update {
        let mut update = Update::default();
        let Touched {
            mut workloads,
            mut services,
        } = touched;

        let specs: BTreeMap<NamespacedName, Option<Arc<PodSpec>>> = workloads
            .iter()
            .map(|name| (name.clone(), self.spec_of(name)))
            .collect();
        let mut pods_changed = false;
        for (name, spec) in &specs {
            let old = self.picture.proxies.get(name).map(|picture| picture.spec.clone());
            pods_changed |= old != *spec;
            for spec in [old.as_ref(), spec.as_ref()].into_iter().flatten() {
                services.extend(view::services_of(&self.model, spec).map(|entry| entry.service.name.clone()));
            }
        }

        if pods_changed {
            // Another pod may ask an authorizer, and be told where it is.
            let asked = self.model.providers.values();
            services.extend(asked.map(|entry| entry.provider.service.clone()));
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

    /// Settings, services and workloads.
    fn refresh_everyone(
        &mut self,
        workloads: &BTreeSet<NamespacedName>,
        services: &BTreeSet<NamespacedName>,
        update: &mut Update,
    ) {
        let settings = Resource::Settings(self.options.settings.clone());
        replace(
            &mut self.picture.everyone,
            settings.key(),
            Some(Arc::new(settings)),
            &mut update.everyone,
        );
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
                // Replicas have the same policies: each set of them is asked once.
                let mut doors: BTreeMap<Vec<PolicyName>, Vec<&Policy>> = BTreeMap::new();
                let mut is_served = entry.service.alias_of.is_some();
                for spec in self.picture.in_namespace(&name.namespace) {
                    if entry.selects(&spec.labels) {
                        is_served = true;
                        let attached = view::policies_of(&self.model, spec, &self.options);
                        let policies: Vec<_> = attached.map(|entry| &entry.policy).collect();
                        doors.insert(policies.iter().map(|policy| policy.id()).collect(), policies);
                    }
                }
                if is_served {
                    let doors: Vec<_> = doors
                        .into_values()
                        .map(|policies| Door {
                            namespace: &name.namespace,
                            policies,
                        })
                        .collect();
                    let mut audience = scope::audience(&doors, &self.options.settings.profile, identities);
                    audience.extend(self.askers(name).cloned());
                    audience
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

    /// The workloads that a CUSTOM policy makes ask this service.
    fn askers(&self, service: &NamespacedName) -> impl Iterator<Item = &SpiffeId> {
        let providers: BTreeSet<&Arc<str>> = self
            .model
            .providers
            .iter()
            .filter(|(_, entry)| entry.provider.service == *service)
            .map(|(name, _)| name)
            .collect();
        self.picture
            .proxies
            .values()
            .filter(move |picture| {
                !providers.is_empty()
                    && view::policies_of(&self.model, &picture.spec, &self.options)
                        .filter_map(|entry| entry.policy.provider.as_ref())
                        .any(|provider| providers.contains(provider))
            })
            .map(|picture| &picture.spec.identity)
    }

    /// Views, policies, token rules with their keys, authorizers, listeners and routes.
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
            let provider = entry.policy.provider.as_ref();
            if let Some(provider) = provider.and_then(|name| self.model.providers.get(name)) {
                own.insert(provider.key.clone(), provider.resource.clone());
            }
        }
        for entry in view::authentications_of(&self.model, spec, &self.options) {
            own.insert(entry.resource.key(), entry.resource.clone());
            for keys in entry
                .keys
                .iter()
                .filter_map(|origin| self.key_sets.get(&origin.name))
            {
                own.insert(keys.key(), keys.clone());
            }
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
