//! What the documents mean together, before anything runs. A pure function of documents, options and kept addresses.

use std::collections::BTreeMap;
use std::sync::Arc;

use bartizan_config::{Document, Finding, Resource, Severity};
use bartizan_types::NamespacedName;

use crate::allocations::Allocations;
use crate::gateways::{self, Gateways};
use crate::library::Library;
use crate::mtls::MtlsRules;
use crate::options::Options;
use crate::plan::{self, LocalRuns, Plan};
use crate::policies::{self, Policies};
use crate::positions::Positions;
use crate::routes::{self, Routes};
use crate::services::{self, Services};
use crate::{analyze, codes};

/// What the documents mean together.
#[derive(Clone, Debug, Default)]
pub(crate) struct Model {
    pub(crate) services: Services,
    pub(crate) policies: Policies,
    pub(crate) mtls: MtlsRules,
    pub(crate) gateways: Gateways,
    pub(crate) routes: Routes,
    pub(crate) plan: Plan,
    /// Every service account that a workload may have.
    pub(crate) service_accounts: Vec<NamespacedName>,
    pub(crate) positions: Positions,
    pub(crate) allocations: Allocations,
}

impl Model {
    /// Joins the documents. With an error among the findings the model is not to be used.
    pub(crate) fn new(
        documents: Vec<Document>,
        options: &Options,
        allocations: &Allocations,
    ) -> (Self, Vec<Finding>) {
        let mut findings = Vec::new();
        let library = Library::new(documents, options, &mut findings);
        for document in library.iter() {
            if matches!(document.resource, Resource::StaticProxy(_)) {
                let what = "a StaticProxy has no meaning in a mesh";
                findings.push(document.finding(codes::STATIC_ONLY, Severity::Warning, "kind", what));
            }
        }
        let local = LocalRuns::new(&library, &mut findings);
        let (services, allocations) = services::build(&library, options, allocations, &mut findings);
        let gateways = gateways::build(&library, &mut findings);
        let mut plan = plan::build(&library, options, &local, &mut findings);
        gateways::add_pods(&mut plan, &gateways, &library, options, &local, &mut findings);
        local.report_unused(&mut findings);
        let model = Self {
            policies: policies::build(&library, options),
            mtls: MtlsRules::new(&library, options, &mut findings),
            routes: routes::build(&library, &gateways, &services, &mut findings),
            service_accounts: library.service_accounts(),
            positions: Positions::of(library.iter().map(|document| &**document)),
            services,
            gateways,
            plan,
            allocations,
        };
        analyze::findings(&library, &model, options, &mut findings);
        findings.sort_by(|a, b| {
            (&a.file, a.position, a.code.id, &a.what).cmp(&(&b.file, b.position, b.code.id, &b.what))
        });
        (model, findings)
    }

    /// Takes over `old`'s values wherever they are equal, so that what did not change is the same allocation.
    pub(crate) fn share_with(&mut self, old: &Self) {
        share(&mut self.services, &old.services);
        share(&mut self.policies, &old.policies);
        share(&mut self.gateways, &old.gateways);
        share(&mut self.routes, &old.routes);
        for (name, pod) in &mut self.plan {
            if let Some(old) = old.plan.get(name) {
                if old == pod {
                    *pod = old.clone();
                } else if old.spec == pod.spec {
                    *pod = Arc::new(plan::PlannedPod {
                        spec: old.spec.clone(),
                        after: pod.after.clone(),
                    });
                }
            }
        }
    }
}

fn share<K: Ord, T: PartialEq>(new: &mut BTreeMap<K, Arc<T>>, old: &BTreeMap<K, Arc<T>>) {
    for (key, value) in new {
        if let Some(old) = old.get(key).filter(|old| *old == value) {
            *value = old.clone();
        }
    }
}

/// A key with its old and its new value.
pub(crate) type Differing<'a, K, T> = (&'a K, Option<&'a Arc<T>>, Option<&'a Arc<T>>);

/// The keys whose values differ; both maps share what is equal.
pub(crate) fn differing<'a, K: Ord, T>(
    old: &'a BTreeMap<K, Arc<T>>,
    new: &'a BTreeMap<K, Arc<T>>,
) -> Vec<Differing<'a, K, T>> {
    let mut differing = Vec::new();
    for (key, value) in new {
        let before = old.get(key);
        if !before.is_some_and(|before| Arc::ptr_eq(before, value)) {
            differing.push((key, before, Some(value)));
        }
    }
    for (key, value) in old {
        if !new.contains_key(key) {
            differing.push((key, Some(value), None));
        }
    }
    differing
}
