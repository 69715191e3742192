//! Where policies, token rules and routes stand, kept apart from the mesh so that editing a comment pushes nothing.

use std::collections::BTreeMap;
use std::sync::Arc;

use bartizan_config::{Document, Resource};
use bartizan_mesh::PolicyName;
use bartizan_types::{NamespacedName, RuleId};
use serde::{Deserialize, Serialize};

/// File and line of every policy and rule of one version.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Positions {
    /// By `Kind/namespace/name`.
    resources: BTreeMap<String, ResourcePosition>,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ResourcePosition {
    file: Arc<str>,
    line: u32,
    /// The line of each rule.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    rules: Vec<u32>,
}

/// A line of a file.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Place {
    /// The path as shown to people.
    pub file: Arc<str>,
    /// From 1.
    pub line: u32,
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.file, self.line)
    }
}

impl Positions {
    /// Where an AuthorizationPolicy starts.
    pub fn policy(&self, policy: &NamespacedName) -> Option<Place> {
        self.resource("AuthorizationPolicy", policy)
    }

    /// Where an AuthorizationPolicy or an AccessRule starts.
    pub fn document(&self, policy: &PolicyName) -> Option<Place> {
        self.resource(policy.kind.as_str(), &policy.name)
    }

    /// Where a resource of this kind starts (`AuthorizationPolicy`, `AccessRule`, `RequestAuthentication`,
    /// `PeerAuthentication`, `HTTPRoute`).
    pub fn resource(&self, kind: &str, name: &NamespacedName) -> Option<Place> {
        let position = self.resources.get(&format!("{kind}/{name}"))?;
        Some(Place {
            file: position.file.clone(),
            line: position.line,
        })
    }

    /// Where a rule starts; of a RequestAuthentication one of its `jwtRules`.
    pub fn rule(&self, rule: &RuleId) -> Option<Place> {
        let key = format!("{}/{}/{}", rule.kind, rule.namespace, rule.policy);
        let position = self.resources.get(&key)?;
        Some(Place {
            file: position.file.clone(),
            line: *position.rules.get(usize::try_from(rule.rule).ok()?)?,
        })
    }

    pub(crate) fn of<'a>(documents: impl Iterator<Item = &'a Document>) -> Self {
        let mut positions = Self::default();
        for document in documents {
            let (list, rules) = if let Resource::AuthorizationPolicy(policy) = &document.resource {
                ("rules", policy.rules.len())
            } else if let Resource::AccessRule(rule) = &document.resource {
                ("rules", rule.rules.len())
            } else if let Resource::HttpRoute(route) = &document.resource {
                ("rules", route.rules.len())
            } else if let Resource::RequestAuthentication(authentication) = &document.resource {
                ("jwtRules", authentication.rules.len())
            } else if let Resource::PeerAuthentication(_) = &document.resource {
                ("rules", 0)
            } else {
                continue;
            };
            let Some(name) = document.namespaced_name() else {
                continue;
            };
            let line_of = |index: usize| {
                document
                    .positions
                    .spot(&format!("spec.{list}[{index}]"))
                    .position
                    .line
            };
            positions.resources.insert(
                format!("{}/{name}", document.reference.kind),
                ResourcePosition {
                    file: document.file.clone(),
                    line: document.position.line,
                    rules: (0..rules).map(line_of).collect(),
                },
            );
        }
        positions
    }
}
