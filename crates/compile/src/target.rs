//! Which workloads a document of the security API is for (Istio `ShouldAttachPolicy`).

use bartizan_config::istio::PolicyTarget;
use bartizan_types::{Name, Namespace, NamespacedName, PodRole, PodSpec, Selector};

use crate::options::Options;

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
    Gateways(Vec<Name>),
}

impl Attachment {
    /// The attachment of a document of this name.
    pub(crate) fn new(name: &NamespacedName, written: &PolicyTarget, options: &Options) -> Self {
        Self {
            namespace: name.namespace.clone(),
            is_root: name.namespace == options.settings.root_namespace,
            target: match written {
                PolicyTarget::Selector(selector) => Target::Selector(selector.clone()),
                PolicyTarget::Gateways(names) => Target::Gateways(names.clone()),
            },
        }
    }

    /// Whether the document is for this workload: by selector in its own namespace, or everywhere from the root namespace;
    /// by target only in its own namespace.
    pub(crate) fn selects(&self, pod: &PodSpec) -> bool {
        let own = self.namespace == pod.name.namespace;
        match &self.target {
            Target::Selector(selector) => (own || self.is_root) && selector.matches(&pod.labels),
            Target::Gateways(gateways) => match &pod.role {
                PodRole::Application => false,
                PodRole::Gateway { gateway, .. } => own && gateways.contains(&gateway.name),
            },
        }
    }

    /// Whether it asks for some workloads and not for a whole namespace or mesh.
    pub(crate) fn is_selective(&self) -> bool {
        match &self.target {
            Target::Selector(selector) => !selector.is_empty(),
            Target::Gateways(_) => true,
        }
    }

    /// The field that says for whom it is.
    pub(crate) fn path(&self) -> &'static str {
        match &self.target {
            Target::Selector(_) => "spec.selector.matchLabels",
            Target::Gateways(_) => "spec.targetRefs",
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
