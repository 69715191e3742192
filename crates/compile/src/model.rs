//! What the documents mean together, before anything runs. A pure function of documents, options and kept addresses.

use std::collections::BTreeMap;
use std::sync::Arc;

use bartizan_config::{Document, Finding, Resource, Severity};
use bartizan_mesh::RemoteAddress;
use bartizan_types::{NamespacedName, PodSpec};

use crate::allocations::Allocations;
use crate::authentications::{self, Authentications};
use crate::gateways::{self, Gateways};
use crate::keys::{self, KeyOrigin};
use crate::library::Library;
use crate::mesh_config::{self, Effective};
use crate::mtls::MtlsRules;
use crate::options::Options;
use crate::people::MarkedServices;
use crate::plan::{self, LocalRuns, Plan};
use crate::policies::{self, Policies};
use crate::positions::Positions;
use crate::providers::{self, Providers};
use crate::routes::{self, Routes};
use crate::services::{self, Services};
use crate::{analyze, codes};

/// What the documents mean together.
#[derive(Clone, Debug, Default)]
pub(crate) struct Model {
    pub(crate) services: Services,
    pub(crate) policies: Policies,
    pub(crate) access_rules: Policies,
    pub(crate) authentications: Authentications,
    /// The key sets that must be fetched, by name.
    pub(crate) key_sources: BTreeMap<Arc<str>, KeyOrigin>,
    pub(crate) providers: Providers,
    /// The services behind routes that are marked for people.
    pub(crate) for_people: MarkedServices,
    /// How clients' addresses are found where no workload says otherwise.
    pub(crate) remote: RemoteAddress,
    /// Whether an AccessRule speaks of a source's labels, so that everybody must be told everybody's.
    pub(crate) tells_labels: bool,
    pub(crate) mtls: MtlsRules,
    pub(crate) gateways: Gateways,
    pub(crate) routes: Routes,
    pub(crate) plan: Plan,
    /// Every service account that a workload may have.
    pub(crate) service_accounts: Vec<NamespacedName>,
    pub(crate) positions: Positions,
    pub(crate) allocations: Allocations,
}

/// Documents, joined.
#[derive(Clone, Debug)]
pub(crate) struct Joined {
    /// With an error among the findings it is not to be used.
    pub(crate) model: Model,
    /// What holds with these documents.
    pub(crate) options: Options,
    /// Everything that was found.
    pub(crate) findings: Vec<Finding>,
}

impl Model {
    /// Joins the documents.
    pub(crate) fn join(documents: Vec<Document>, options: &Options, allocations: &Allocations) -> Joined {
        let mut findings = Vec::new();
        let library = Library::new(documents, options, &mut findings);
        let Effective {
            options,
            remote,
            mesh,
        } = mesh_config::effective(&library, options, &mut findings);
        let options = &options;
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
        let authentications = authentications::build(&library, &services, options);
        let providers = mesh.map(|(document, mesh)| {
            providers::build(
                document,
                &mesh.extension_providers,
                &services,
                options,
                &mut findings,
            )
        });
        let routes = routes::build(&library, &gateways, &services, &mut findings);
        let model = Self {
            policies: policies::build(&library, &services, options),
            access_rules: policies::build_access_rules(&library, &services, options),
            key_sources: keys::sources(authentications.values().flat_map(|entry| &entry.keys)),
            authentications,
            providers: providers.unwrap_or_default(),
            for_people: routes::marked_services(&routes),
            remote,
            tells_labels: speaks_of_labels(&library),
            mtls: MtlsRules::new(&library, options, &mut findings),
            routes,
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
        Joined {
            model,
            options: options.clone(),
            findings,
        }
    }

    /// How a client's address is found at this workload.
    pub(crate) fn remote_of(&self, pod: &PodSpec) -> RemoteAddress {
        let planned = self.plan.get(&pod.name);
        mesh_config::topology(planned.and_then(|planned| planned.topology), self.remote)
    }

    /// Takes over `old`'s values wherever they are equal, so that what did not change is the same allocation.
    pub(crate) fn share_with(&mut self, old: &Self) {
        share(&mut self.services, &old.services);
        share(&mut self.policies, &old.policies);
        share(&mut self.access_rules, &old.access_rules);
        share(&mut self.authentications, &old.authentications);
        share(&mut self.providers, &old.providers);
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
                        topology: pod.topology,
                    });
                }
            }
        }
    }
}

/// Whether an AccessRule speaks of a source's labels.
fn speaks_of_labels(library: &Library) -> bool {
    library.iter().any(|document| {
        let Resource::AccessRule(rule) = &document.resource else {
            return false;
        };
        rule.rules.iter().any(|rule| rule.uses("source.labels"))
    })
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
