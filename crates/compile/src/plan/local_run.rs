//! What LocalRun documents say, found by container and by gateway.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use bartizan_config::native::{LocalTarget, LocalWorkload};
use bartizan_config::{Document, Finding, Resource, Severity};
use bartizan_types::{Name, Namespace, NamespacedName, Port};

use crate::codes;
use crate::library::Library;

/// All LocalRun documents. What is looked up counts as used.
#[derive(Default)]
pub(crate) struct LocalRuns<'a> {
    images: BTreeMap<&'a str, Entry<'a, LocalWorkload>>,
    containers: BTreeMap<(&'a Namespace, &'a Name, &'a Name), Entry<'a, LocalWorkload>>,
    gateways: BTreeMap<(&'a NamespacedName, Option<Port>), Entry<'a, SocketAddr>>,
    used: RefCell<BTreeSet<String>>,
}

/// One entry and where it stands.
struct Entry<'a, T> {
    value: &'a T,
    document: &'a Document,
    path: String,
}

/// What a LocalRun says for one container.
pub(crate) struct LocalMatch<'a> {
    pub(crate) entry: &'a LocalWorkload,
    pub(crate) document: &'a Document,
}

impl<'a> LocalRuns<'a> {
    pub(crate) fn new(library: &'a Library, findings: &mut Vec<Finding>) -> Self {
        let mut runs = Self::default();
        for document in library.iter() {
            let Resource::LocalRun(local) = &document.resource else {
                continue;
            };
            for (index, entry) in local.workloads.iter().enumerate() {
                let path = format!("spec.workloads[{index}]");
                let entry = Entry {
                    value: entry,
                    document,
                    path,
                };
                match &entry.value.target {
                    LocalTarget::Image(image) => insert(&mut runs.images, image.as_str(), entry, findings),
                    LocalTarget::Container {
                        namespace,
                        workload,
                        container,
                    } => {
                        insert(
                            &mut runs.containers,
                            (namespace, workload, container),
                            entry,
                            findings,
                        );
                    }
                }
            }
            for (index, gateway) in local.gateways.iter().enumerate() {
                for (place, listen) in gateway.listen.iter().enumerate() {
                    let path = match listen.port {
                        None => format!("spec.gateways[{index}].listen"),
                        Some(_) => format!("spec.gateways[{index}].listen[{place}]"),
                    };
                    let entry = Entry {
                        value: &listen.address,
                        document,
                        path,
                    };
                    insert(
                        &mut runs.gateways,
                        (&gateway.gateway, listen.port),
                        entry,
                        findings,
                    );
                }
            }
        }
        runs
    }

    /// The entry for a container: one that names it, else one that names its image.
    pub(crate) fn for_container(
        &self,
        namespace: &Namespace,
        workload: &Name,
        container: &Name,
        image: Option<&str>,
    ) -> Option<LocalMatch<'a>> {
        let named = self.containers.get(&(namespace, workload, container));
        let entry = named.or_else(|| self.images.get(image?))?;
        self.mark(entry);
        Some(LocalMatch {
            entry: entry.value,
            document: entry.document,
        })
    }

    /// Where the host listens for a gateway's port; the entry without a port counts for a gateway with only one.
    pub(crate) fn for_gateway(&self, gateway: &NamespacedName, port: Port, only: bool) -> Option<SocketAddr> {
        let exact = self.gateways.get(&(gateway, Some(port)));
        let entry = exact.or_else(|| self.gateways.get(&(gateway, None)).filter(|_| only))?;
        self.mark(entry);
        Some(*entry.value)
    }

    fn mark<T>(&self, entry: &Entry<'a, T>) {
        self.used.borrow_mut().insert(entry.place());
    }

    /// A warning for each entry that was never looked up.
    pub(crate) fn report_unused(&self, findings: &mut Vec<Finding>) {
        for entry in self.images.values() {
            self.report(entry, "image", "no container has this image", findings);
        }
        for entry in self.containers.values() {
            self.report(entry, "container", "no workload has this container", findings);
        }
        for entry in self.gateways.values() {
            self.report(entry, "", "no gateway of ours has this name and port", findings);
        }
    }

    fn report<T>(&self, entry: &Entry<'_, T>, field: &str, what: &str, findings: &mut Vec<Finding>) {
        if self.used.borrow().contains(&entry.place()) {
            return;
        }
        let path = if field.is_empty() {
            entry.path.clone()
        } else {
            format!("{}.{field}", entry.path)
        };
        findings.push(
            entry
                .document
                .finding(codes::UNUSED_LOCAL_RUN, Severity::Warning, &path, what),
        );
    }
}

impl<T> Entry<'_, T> {
    /// What tells the entry from every other.
    fn place(&self) -> String {
        format!("{} {} {}", self.document.file, self.document.position, self.path)
    }
}

fn insert<'a, K: Ord, T>(
    map: &mut BTreeMap<K, Entry<'a, T>>,
    key: K,
    entry: Entry<'a, T>,
    findings: &mut Vec<Finding>,
) {
    if let Some(first) = map.get(&key) {
        let place = first.document.positions.spot(&first.path).position;
        findings.push(
            entry
                .document
                .finding(
                    codes::LOCAL_RUN_TWICE,
                    Severity::Error,
                    &entry.path,
                    "another entry is for the same thing",
                )
                .help(format!(
                    "the other one is at {}:{place}; keep one of them",
                    first.document.file
                )),
        );
        return;
    }
    map.insert(key, entry);
}
