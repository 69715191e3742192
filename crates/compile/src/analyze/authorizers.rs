//! External authorizers: whether CUSTOM policies name one that can be asked.

use std::sync::Arc;

use bartizan_config::{Document, Finding, Severity};
use bartizan_mesh::{Action, MtlsMode, ProviderProtocol};
use bartizan_types::{PodSpec, Protocol};

use super::{Analysis, word};
use crate::policies::PolicyEntry;
use crate::providers::ProviderEntry;
use crate::scope::Door;
use crate::{codes, view};

impl Analysis<'_> {
    /// The authorizer of a CUSTOM policy, and those of others for the same workloads.
    pub(super) fn authorizer(
        &self,
        document: &Document,
        entry: &PolicyEntry,
        selected: &[&PodSpec],
        findings: &mut Vec<Finding>,
    ) {
        let Some(name) = &entry.policy.provider else {
            return;
        };
        let Some(provider) = self.model.providers.get(name) else {
            self.unknown_provider(document, name, findings);
            return;
        };
        self.other_provider(document, entry, name, selected, findings);
        self.provider_not_allowed(document, provider, selected, findings);
        if let ProviderProtocol::Http(_) = provider.provider.protocol {
            self.custom_on_tcp(document, selected, findings);
        }
    }

    fn unknown_provider(&self, document: &Document, name: &Arc<str>, findings: &mut Vec<Finding>) {
        let what = format!("there is no authorizer `{name}`");
        let finding = document.finding(
            codes::UNKNOWN_PROVIDER,
            Severity::Error,
            "spec.provider.name",
            what,
        );
        let names: Vec<_> = self
            .model
            .providers
            .keys()
            .map(|name| format!("`{name}`"))
            .collect();
        let root = &self.options.settings.root_namespace;
        findings.push(finding.help(if names.is_empty() {
            format!(
                "name it in the mesh's configuration:\n  apiVersion: v1\n  kind: ConfigMap\n  metadata: {{ name: istio, namespace: {root} }}\n  data:\n    mesh: |\n      extensionProviders:\n        - name: {name}\n          envoyExtAuthzGrpc: {{ service: NAME.NAMESPACE.svc.{}, port: 9191 }}",
                self.options.settings.cluster_domain
            )
        } else {
            format!("authorizers are {}", names.join(", "))
        }));
    }

    /// Another authorizer for a workload, in a policy before this one by name.
    fn other_provider(
        &self,
        document: &Document,
        entry: &PolicyEntry,
        name: &Arc<str>,
        selected: &[&PodSpec],
        findings: &mut Vec<Finding>,
    ) {
        for pod in selected {
            let other = view::policies_of(self.model, pod, self.options).find(|other| {
                other.policy.action == Action::Custom
                    && other.policy.name < entry.policy.name
                    && other.policy.provider.as_ref() != Some(name)
            });
            if let Some(other) = other {
                let what = format!(
                    "workload `{}` would ask two authorizers: `{name}`, and `{}` by policy `{}`",
                    pod.workload,
                    other.policy.provider.as_deref().unwrap_or_default(),
                    other.policy.name
                );
                let path = "spec.provider.name";
                let finding = document.finding(codes::SEVERAL_PROVIDERS, Severity::Error, path, what);
                findings.push(finding.help("let one authorizer decide for a workload, or select others"));
                return;
            }
        }
    }

    /// A workload that must ask an authorizer whose policies do not let it in.
    fn provider_not_allowed(
        &self,
        document: &Document,
        provider: &ProviderEntry,
        selected: &[&PodSpec],
        findings: &mut Vec<Finding>,
    ) {
        let service = &provider.provider.service;
        let Some(entry) = self.model.services.get(service) else {
            return;
        };
        let doors: Vec<_> = self
            .pods()
            .filter(|pod| pod.name.namespace == service.namespace && entry.selects(&pod.labels))
            .map(|pod| Door {
                namespace: &pod.name.namespace,
                policies: view::policies_of(self.model, pod, self.options)
                    .map(|entry| &entry.policy)
                    .collect(),
            })
            .collect();
        let profile = &self.options.settings.profile;
        let is_refused = |pod: &&&PodSpec| !doors.iter().any(|door| door.could_admit(profile, &pod.identity));
        if doors.is_empty() {
            return;
        }
        if let Some(pod) = selected.iter().find(is_refused) {
            let what = format!(
                "workload `{}` must ask service `{service}`, whose policies do not let it in",
                pod.workload
            );
            let path = "spec.provider.name";
            let finding = document.finding(codes::PROVIDER_NOT_ALLOWED, Severity::Warning, path, what);
            findings.push(finding.help(format!(
                "let it in, in namespace `{}`:\n  rules: [{{ from: [{{ source: {{ principals: [{}] }} }}] }}]",
                service.namespace,
                pod.identity.principal()
            )));
        }
    }

    /// An HTTP authorizer for a workload with ports that are no HTTP.
    fn custom_on_tcp(&self, document: &Document, selected: &[&PodSpec], findings: &mut Vec<Finding>) {
        for pod in selected {
            let tcp = self
                .served(pod)
                .into_iter()
                .find(|(_, protocol)| matches!(protocol, Protocol::Tcp | Protocol::Tls));
            if let Some((port, protocol)) = tcp {
                let what = format!(
                    "port {port} of workload `{}` is declared as {}: an HTTP authorizer is not asked there",
                    pod.workload,
                    word(protocol)
                );
                let finding = document.finding(
                    codes::CUSTOM_ON_TCP,
                    Severity::Warning,
                    "spec.provider.name",
                    what,
                );
                findings.push(
                    finding.help("use `envoyExtAuthzGrpc`, or judge that port with ALLOW and DENY policies"),
                );
                return;
            }
        }
    }

    /// Authorizers whose port takes no mTLS, at the mesh's configuration.
    pub(super) fn providers(&self, document: &Document, findings: &mut Vec<Finding>) {
        if document.namespace() != Some(&self.options.settings.root_namespace) {
            return;
        }
        for provider in self.model.providers.values() {
            let service = &provider.provider.service;
            let Some(entry) = self.model.services.get(service) else {
                continue;
            };
            let Some(target) = entry
                .ports
                .iter()
                .find(|target| target.port == provider.provider.port)
            else {
                continue;
            };
            let is_plain = |pod: &&PodSpec| {
                let modes = self.model.mtls.of(&pod.name.namespace, &pod.labels, self.options);
                target
                    .at(pod)
                    .is_some_and(|port| modes.of(port) == MtlsMode::Disable)
            };
            let plain = self
                .pods()
                .filter(|pod| pod.name.namespace == service.namespace && entry.selects(&pod.labels))
                .find(is_plain);
            let Some(pod) = plain else { continue };
            let severity = if self.options.settings.profile.mtls == MtlsMode::Strict {
                Severity::Error
            } else {
                Severity::Warning
            };
            let what = format!(
                "authorizer `{}` would be asked over plaintext: its workload `{}` takes no mTLS",
                provider.provider.name, pod.workload
            );
            let path = format!("{}.service", provider.path);
            let finding = document.finding(codes::PROVIDER_WITHOUT_MTLS, severity, &path, what);
            findings.push(finding.help("remove the PeerAuthentication with mode DISABLE there"));
        }
    }
}
