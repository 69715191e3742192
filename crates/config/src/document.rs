//! A document as it was read: the resource, and where each of its fields stands.

use std::collections::BTreeMap;
use std::sync::Arc;

use bartizan_types::{Labels, Name, Namespace, NamespacedName, ResourceRef};

use crate::finding::{Code, Finding, Severity};
use crate::resource::Resource;
use crate::source::Position;
use crate::source_map::SourceMap;

/// What [`read`](crate::read) made of one file.
#[derive(Clone, Debug, Default)]
pub struct Reading {
    /// The documents without an error of their own, in the order of the file.
    pub documents: Vec<Document>,
    /// Everything that was found, in the order of the file.
    pub findings: Vec<Finding>,
}

impl Reading {
    /// Whether the file must be refused.
    pub fn has_errors(&self) -> bool {
        self.findings.iter().any(Finding::is_error)
    }

    /// The reading as `--strict` sees it: warnings are errors.
    #[must_use]
    pub fn strict(mut self) -> Self {
        self.findings = self.findings.into_iter().map(Finding::strict).collect();
        self
    }
}

/// One document.
#[derive(Clone, Debug, PartialEq)]
pub struct Document {
    /// Kind, namespace and name. A namespaced resource without `metadata.namespace` is in `default`.
    pub reference: ResourceRef,
    /// Labels and annotations of the resource itself.
    pub metadata: Metadata,
    /// What it says.
    pub resource: Resource,
    /// Where each field stands.
    pub positions: SourceMap,
    /// The file's path as shown to people.
    pub file: Arc<str>,
    /// Where the document starts.
    pub position: Position,
}

impl Document {
    /// Namespace and name, for a namespaced kind.
    pub fn namespaced_name(&self) -> Option<NamespacedName> {
        let namespace = self.reference.namespace.clone()?;
        Some(NamespacedName::new(namespace, self.reference.name.clone()))
    }

    /// The namespace, for a namespaced kind.
    pub fn namespace(&self) -> Option<&Namespace> {
        self.reference.namespace.as_ref()
    }

    /// The resource's name.
    pub fn name(&self) -> &Name {
        &self.reference.name
    }

    /// A finding at the value of the field at `path` (such as `spec.rules[0].from[1].source.principals[0]`), or at its
    /// nearest ancestor that exists.
    pub fn finding(&self, code: Code, severity: Severity, path: &str, what: impl Into<String>) -> Finding {
        let mut finding = Finding::new(
            code,
            severity,
            self.positions.file(),
            self.positions.spot(path),
            what,
        );
        if matches!(self.resource, Resource::Secret(_)) {
            finding.source_line = None;
        }
        finding
    }
}

/// `metadata` without name and namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Metadata {
    /// `metadata.labels`.
    pub labels: Labels,
    /// `metadata.annotations`.
    pub annotations: BTreeMap<String, String>,
}
