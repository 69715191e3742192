//! The documents of one state, each once, in an order that does not depend on files.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bartizan_config::kube::{ConfigMap, SecretData};
use bartizan_config::{Document, Finding, Resource, Severity};
use bartizan_types::{Labels, Name, Namespace, NamespacedName, ResourceRef};

use crate::codes;
use crate::options::Options;

/// The documents of one state by reference.
#[derive(Clone, Debug, Default)]
pub(crate) struct Library {
    documents: BTreeMap<ResourceRef, Arc<Document>>,
    /// Labels of every namespace, also of those that exist without a document.
    pub(crate) namespaces: BTreeMap<Namespace, Labels>,
}

impl Library {
    /// Sorts documents in; a second document of the same reference, or one in a namespace that does not exist, is an error.
    pub(crate) fn new(documents: Vec<Document>, options: &Options, findings: &mut Vec<Finding>) -> Self {
        let mut library = Self::default();
        for name in ["default", options.settings.root_namespace.as_str()] {
            if let Ok(name) = Name::parse(name) {
                library
                    .namespaces
                    .insert(name.clone(), namespace_labels(&name, &Labels::new()));
            }
        }
        for document in documents {
            if let Some(first) = library.documents.get(&document.reference) {
                let place = format!("{}:{}", first.file, first.position);
                findings.push(
                    document
                        .finding(
                            codes::DUPLICATE_RESOURCE,
                            Severity::Error,
                            "metadata.name",
                            format!("{} is written twice", document.reference),
                        )
                        .help(format!("the other one is at {place}; keep one of them")),
                );
                continue;
            }
            if matches!(document.resource, Resource::Namespace) {
                let name = document.name().clone();
                let labels = namespace_labels(&name, &document.metadata.labels);
                library.namespaces.insert(name, labels);
            }
            library
                .documents
                .insert(document.reference.clone(), Arc::new(document));
        }
        for document in library.documents.values() {
            library.check_namespace(document, options, findings);
        }
        library
    }

    fn check_namespace(&self, document: &Document, options: &Options, findings: &mut Vec<Finding>) {
        let Some(namespace) = document.namespace() else {
            return;
        };
        if self.namespaces.contains_key(namespace) || options.is_given_namespace(namespace) {
            return;
        }
        findings.push(
            document
                .finding(
                    codes::MISSING_NAMESPACE,
                    Severity::Error,
                    "metadata.namespace",
                    format!("namespace `{namespace}` of {} does not exist", document.reference),
                )
                .help(format!(
                    "add a document:\n  apiVersion: v1\n  kind: Namespace\n  metadata: {{ name: {namespace} }}"
                )),
        );
    }

    /// Every document, by kind, namespace and name.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Arc<Document>> {
        self.documents.values()
    }

    fn find(&self, kind: &str, name: &NamespacedName) -> Option<&Document> {
        let reference = ResourceRef::namespaced(kind, name.namespace.clone(), name.name.clone());
        self.documents.get(&reference).map(|document| &**document)
    }

    pub(crate) fn config_map(&self, name: &NamespacedName) -> Option<&ConfigMap> {
        let Resource::ConfigMap(map) = &self.find("ConfigMap", name)?.resource else {
            return None;
        };
        Some(map)
    }

    pub(crate) fn secret(&self, name: &NamespacedName) -> Option<&SecretData> {
        let Resource::Secret(secret) = &self.find("Secret", name)?.resource else {
            return None;
        };
        Some(secret)
    }

    /// Every service account that a pod may run as: those of the documents, and each namespace's `default`.
    pub(crate) fn service_accounts(&self) -> Vec<NamespacedName> {
        let written = self
            .iter()
            .filter(|document| matches!(document.resource, Resource::ServiceAccount))
            .filter_map(|document| document.namespaced_name());
        let defaults = self.namespaces.keys().filter_map(|namespace| {
            Some(NamespacedName::new(
                namespace.clone(),
                Name::parse("default").ok()?,
            ))
        });
        let all: BTreeSet<NamespacedName> = written.chain(defaults).collect();
        all.into_iter().collect()
    }

    /// Whether a pod of the namespace may run as this service account.
    pub(crate) fn has_service_account(&self, name: &NamespacedName) -> bool {
        name.name.as_str() == "default" || self.find("ServiceAccount", name).is_some()
    }
}

/// Kubernetes puts the name among a namespace's labels.
fn namespace_labels(name: &Namespace, labels: &Labels) -> Labels {
    let mut labels = labels.clone();
    labels.insert("kubernetes.io/metadata.name".to_owned(), name.to_string());
    labels
}
