//! What a change of documents reaches.

use std::collections::BTreeSet;

use bartizan_types::{NamespacedName, PodRole, PodSpec};

use super::World;
use crate::model::{Model, differing};
use crate::options::Options;
use crate::view;

/// What a change may have reached.
#[derive(Debug, Default)]
pub(super) struct Touched {
    pub(super) workloads: BTreeSet<NamespacedName>,
    pub(super) services: BTreeSet<NamespacedName>,
}

impl World {
    /// What is reached by going from the present model to `new`.
    pub(super) fn reached_by(&self, new: &Model, options: &Options) -> Touched {
        let old = &self.model;
        let mut touched = Touched::default();
        if self.options.settings != options.settings
            || old.remote != new.remote
            || old.tells_labels != new.tells_labels
        {
            touched.workloads.extend(self.picture.proxies.keys().cloned());
            touched.services.extend(old.services.keys().cloned());
            touched.services.extend(new.services.keys().cloned());
        }
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
        for (before, after) in differing(&old.policies, &new.policies)
            .into_iter()
            .chain(differing(&old.access_rules, &new.access_rules))
            .map(|(_, before, after)| (before, after))
        {
            let both = || [before, after].into_iter().flatten();
            touched
                .workloads
                .extend(self.attached(|pod| both().any(|entry| entry.attachment.selects(pod))));
            // Who asks an authorizer is told where it is.
            for name in both().filter_map(|entry| entry.policy.provider.as_ref()) {
                let providers = [&old.providers, &new.providers];
                let found = providers.into_iter().filter_map(|providers| providers.get(name));
                touched
                    .services
                    .extend(found.map(|entry| entry.provider.service.clone()));
            }
        }
        for (_, before, after) in differing(&old.authentications, &new.authentications) {
            let both = || [before, after].into_iter().flatten();
            touched
                .workloads
                .extend(self.attached(|pod| both().any(|entry| entry.attachment.selects(pod))));
        }
        for (name, before, after) in differing(&old.providers, &new.providers) {
            let both = [before, after].into_iter().flatten();
            touched
                .services
                .extend(both.map(|entry| entry.provider.service.clone()));
            let asks = |pod: &PodSpec| {
                view::policies_of(new, pod, options).any(|entry| entry.policy.provider.as_ref() == Some(name))
            };
            touched.workloads.extend(self.attached(asks));
        }
        for service in old.for_people.symmetric_difference(&new.for_people) {
            let selects = |pod: &PodSpec| {
                pod.name.namespace == service.namespace
                    && [&old.services, &new.services]
                        .into_iter()
                        .filter_map(|services| services.get(service))
                        .any(|entry| entry.selects(&pod.labels))
            };
            touched.workloads.extend(self.attached(selects));
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

    /// The pods that are told something and of which this is true.
    fn attached(&self, is_reached: impl Fn(&PodSpec) -> bool) -> Vec<NamespacedName> {
        let pods = self.picture.proxies.values().map(|picture| &picture.spec);
        pods.filter(|pod| is_reached(pod))
            .map(|pod| pod.name.clone())
            .collect()
    }
}
