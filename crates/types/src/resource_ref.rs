//! Pointers to resources.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::name::{Name, Namespace};

/// A resource's kind, such as `AuthorizationPolicy`.
pub type Kind = Arc<str>;

/// One resource: kind, namespace (none for cluster-wide kinds) and name.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct ResourceRef {
    /// The kind without its group.
    pub kind: Kind,
    /// The namespace; none for cluster-wide kinds such as Namespace.
    pub namespace: Option<Namespace>,
    /// The name.
    pub name: Name,
}

impl ResourceRef {
    /// A reference to a namespaced resource.
    pub fn namespaced(kind: &str, namespace: Namespace, name: Name) -> Self {
        Self {
            kind: kind.into(),
            namespace: Some(namespace),
            name,
        }
    }
}

impl fmt::Display for ResourceRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.namespace {
            Some(namespace) => write!(f, "{} {namespace}/{}", self.kind, self.name),
            None => write!(f, "{} {}", self.kind, self.name),
        }
    }
}
