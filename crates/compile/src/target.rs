//! Which workloads a document of the security API is for (Istio `ShouldAttachPolicy`).

use bartizan_config::istio::{PolicyTarget, TargetReference};
use bartizan_types::{Name, Namespace, NamespacedName, PodRole, PodSpec, Selector};

use crate::options::Options;
use crate::services::Services;

/// For which workloads a document is.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Attachment {
    namespace: Namespace,
    /// Whether it lives in the root namespace, where a selector reaches every namespace.
    pub(crate) is_root: bool,
    target: Target,
}

#[derive(Clone, Debug, PartialEq)]
enum Target {
    Selector(Selector),
    References {
        gateways: Vec<Name>,
        /// What the services select. Istio asks a waypoint there; here every workload has a proxy of its own, which judges.
        services: Vec<Selector>,
    },
}

impl Attachment {
    /// The attachment of a document of this name.
    pub(crate) fn new(
        name: &NamespacedName,
        written: &PolicyTarget,
        services: &Services,
        options: &Options,
    ) -> Self {
        Self {
            namespace: name.namespace.clone(),
            is_root: name.namespace == options.settings.root_namespace,
            target: match written {
                PolicyTarget::Selector(selector) => Target::Selector(selector.clone()),
                PolicyTarget::References(references) => {
                    let mut gateways = Vec::new();
                    let mut selectors = Vec::new();
                    for reference in references {
                        match reference {
                            TargetReference::Gateway(gateway) => gateways.push(gateway.clone()),
                            TargetReference::Service(service) => {
                                let service = NamespacedName::new(name.namespace.clone(), service.clone());
                                let entry = services.get(&service);
                                selectors.extend(entry.and_then(|entry| entry.selector()).cloned());
                            }
                        }
                    }
                    Target::References {
                        gateways,
                        services: selectors,
                    }
                }
            },
        }
    }

    /// Whether the document is for this workload: by selector in its own namespace, or everywhere from the root namespace;
    /// by target only in its own namespace.
    pub(crate) fn selects(&self, pod: &PodSpec) -> bool {
        let own = self.namespace == pod.name.namespace;
        match &self.target {
            Target::Selector(selector) => (own || self.is_root) && selector.matches(&pod.labels),
            Target::References { gateways, services } => {
                let is_gateway = match &pod.role {
                    PodRole::Application => false,
                    PodRole::Gateway { gateway, .. } => gateways.contains(&gateway.name),
                };
                own && (is_gateway || services.iter().any(|selector| selector.matches(&pod.labels)))
            }
        }
    }

    /// Whether it asks for some workloads and not for a whole namespace or mesh.
    pub(crate) fn is_selective(&self) -> bool {
        match &self.target {
            Target::Selector(selector) => !selector.is_empty(),
            Target::References { .. } => true,
        }
    }

    /// The field that says for whom it is.
    pub(crate) fn path(&self) -> &'static str {
        match &self.target {
            Target::Selector(_) => "spec.selector.matchLabels",
            Target::References { .. } => "spec.targetRefs",
        }
    }

    /// Where it looks, for people.
    pub(crate) fn place(&self) -> String {
        if self.is_root {
            "in the mesh".to_owned()
        } else {
            format!("of namespace `{}`", self.namespace)
        }
    }
}
