//! Which mTLS mode holds at a workload and port (Istio `PeerAuthentication`).
//!
//! The oldest resource wins in Istio. Documents have no creation time, so here the first by name wins, then by namespace.

use std::collections::BTreeMap;

use bartizan_config::istio::{self, PeerAuthentication};
use bartizan_config::{Document, Finding, Severity};
use bartizan_mesh::MtlsMode;
use bartizan_types::{Labels, Name, Namespace, Port};

use crate::codes;
use crate::library::Library;
use crate::options::Options;

/// Every namespace's rules.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct MtlsRules {
    namespaces: BTreeMap<Namespace, NamespaceRules>,
}

/// A namespace's rules, the first by name first.
#[derive(Clone, Debug, Default, PartialEq)]
struct NamespaceRules {
    /// Whether a resource speaks for the whole namespace.
    has_whole: bool,
    /// Its mode; unset inherits.
    whole: Option<MtlsMode>,
    workloads: Vec<(Name, PeerAuthentication)>,
}

/// The modes of one workload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct WorkloadMtls {
    /// Of ports that are not listed.
    pub(crate) mode: MtlsMode,
    /// Of single ports.
    pub(crate) ports: BTreeMap<Port, MtlsMode>,
}

impl WorkloadMtls {
    pub(crate) fn of(&self, port: Port) -> MtlsMode {
        self.ports.get(&port).copied().unwrap_or(self.mode)
    }
}

impl MtlsRules {
    pub(crate) fn new(library: &Library, options: &Options, findings: &mut Vec<Finding>) -> Self {
        let mut rules = Self::default();
        for document in library.iter() {
            let bartizan_config::Resource::PeerAuthentication(authentication) = &document.resource else {
                continue;
            };
            let Some(namespace) = document.namespace() else {
                continue;
            };
            let is_root = *namespace == options.settings.root_namespace;
            let entry = rules.namespaces.entry(namespace.clone()).or_default();
            if authentication.selector.is_empty() {
                if entry.has_whole {
                    findings.push(ignored(
                        document,
                        "metadata.name",
                        format!("namespace `{namespace}` has another PeerAuthentication without a selector, which counts"),
                        "merge the two",
                    ));
                } else {
                    entry.has_whole = true;
                    entry.whole = authentication.mode.map(mode);
                }
            } else if is_root {
                findings.push(ignored(
                    document,
                    "spec.selector",
                    format!("a PeerAuthentication with a selector in the root namespace `{namespace}` has no effect"),
                    "put it into the namespace of its workloads",
                ));
            } else {
                entry
                    .workloads
                    .push((document.name().clone(), authentication.clone()));
            }
        }
        rules
    }

    /// The modes of a workload (Istio `ComposePeerAuthentication`, with the profile's default where nothing speaks).
    pub(crate) fn of(&self, namespace: &Namespace, labels: &Labels, options: &Options) -> WorkloadMtls {
        let mut holds = options.settings.profile.mtls;
        let root = &options.settings.root_namespace;
        let own = self.namespaces.get(namespace);
        for rules in [self.namespaces.get(root), own].into_iter().flatten() {
            holds = rules.whole.unwrap_or(holds);
        }
        let chosen = own.and_then(|rules| {
            rules
                .workloads
                .iter()
                .find(|(_, rule)| rule.selector.matches(labels))
        });
        let Some((_, chosen)) = chosen else {
            return WorkloadMtls {
                mode: holds,
                ports: BTreeMap::new(),
            };
        };
        let holds = chosen.mode.map_or(holds, mode);
        WorkloadMtls {
            mode: holds,
            ports: chosen
                .ports
                .iter()
                .map(|(port, written)| (*port, written.map_or(holds, mode)))
                .collect(),
        }
    }

    /// The namespaces whose workloads may have other modes than under `other`; `None` is all of them.
    pub(crate) fn differing<'a>(&'a self, other: &'a Self, options: &Options) -> Option<Vec<&'a Namespace>> {
        let names = self.namespaces.keys().chain(other.namespaces.keys());
        let differing: Vec<_> = names
            .filter(|name| self.namespaces.get(*name) != other.namespaces.get(*name))
            .collect();
        if differing.contains(&&options.settings.root_namespace) {
            None
        } else {
            Some(differing)
        }
    }
}

pub(crate) fn mode(written: istio::MtlsMode) -> MtlsMode {
    match written {
        istio::MtlsMode::Disable => MtlsMode::Disable,
        istio::MtlsMode::Permissive => MtlsMode::Permissive,
        istio::MtlsMode::Strict => MtlsMode::Strict,
    }
}

fn ignored(document: &Document, path: &str, what: String, help: &str) -> Finding {
    document
        .finding(codes::IGNORED_PEER_AUTHENTICATION, Severity::Warning, path, what)
        .help(help)
}
