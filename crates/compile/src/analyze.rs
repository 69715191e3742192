//! Findings about documents that are right by themselves and probably not what was meant together.

mod access_rules;
mod authorizers;
mod policies;
mod questions;
mod tokens;

use std::collections::BTreeSet;

use bartizan_config::istio::{PeerAuthentication, PolicyTarget, TargetReference};
use bartizan_config::kube::ServiceKind;
use bartizan_config::{Document, Finding, Resource, Severity};
use bartizan_mesh::{Action, WithoutPolicy};
use bartizan_types::{NamespacedName, PodRole, PodSpec, Port, Protocol};

use crate::codes;
use crate::library::Library;
use crate::model::Model;
use crate::options::Options;
use crate::services::ports_of;
use crate::target::Attachment;
use crate::view;

/// Looks at every service and policy.
pub(crate) fn findings(library: &Library, model: &Model, options: &Options, findings: &mut Vec<Finding>) {
    let analysis = Analysis {
        library,
        model,
        options,
    };
    for document in library.iter() {
        if let Resource::Service(service) = &document.resource {
            if let ServiceKind::ExternalName(_) = service.kind {
                continue;
            }
            analysis.service(document, findings);
        } else if let Resource::AuthorizationPolicy(policy) = &document.resource {
            analysis.policy(document, policy, findings);
        } else if let Resource::Gateway(_) = &document.resource {
            analysis.gateway(document, findings);
        } else if let Resource::PeerAuthentication(authentication) = &document.resource {
            analysis.peer_authentication(document, authentication, findings);
        } else if let Resource::RequestAuthentication(authentication) = &document.resource {
            analysis.request_authentication(document, authentication, findings);
        } else if let Resource::AccessRule(rule) = &document.resource {
            analysis.access_rule(document, rule, findings);
        } else if let Resource::PolicyTest(test) = &document.resource {
            analysis.policy_test(document, test, findings);
        } else if let Resource::PolicyClaim(claim) = &document.resource {
            analysis.policy_claim(document, claim, findings);
        } else if let Resource::ConfigMap(map) = &document.resource
            && map.mesh.is_some()
        {
            analysis.providers(document, findings);
        }
    }
}

struct Analysis<'a> {
    library: &'a Library,
    model: &'a Model,
    options: &'a Options,
}

impl<'a> Analysis<'a> {
    fn pods(&self) -> impl Iterator<Item = &'a PodSpec> + use<'a> {
        self.model.plan.values().map(|pod| &*pod.spec)
    }

    fn service(&self, document: &Document, findings: &mut Vec<Finding>) {
        let Some(entry) = document
            .namespaced_name()
            .and_then(|name| self.model.services.get(&name))
        else {
            return;
        };
        let name = &entry.service.name;
        let pods: Vec<_> = self
            .pods()
            .filter(|pod| pod.name.namespace == name.namespace && entry.selects(&pod.labels))
            .collect();
        if pods.is_empty() {
            let (path, what) = if entry.has_selector() {
                (
                    "spec.selector",
                    format!(
                        "service `{name}` selects no workload of namespace `{}`",
                        name.namespace
                    ),
                )
            } else {
                (
                    "spec",
                    format!("service `{name}` has no selector, so that nothing stands behind it"),
                )
            };
            let finding = document.finding(codes::SERVICE_WITHOUT_PODS, Severity::Warning, path, what);
            findings
                .push(finding.help(
                    "compare the selector with the labels of the pod template (not of the Deployment)",
                ));
            return;
        }
        self.nobody_allowed(document, &format!("service `{name}`"), &pods, findings);
        let speaks_http = entry
            .ports
            .iter()
            .any(|target| !matches!(target.protocol, Protocol::Tcp | Protocol::Tls));
        if speaks_http {
            self.nobody_verified(document, &format!("service `{name}`"), &pods, findings);
        }
        for (index, target) in entry.ports.iter().enumerate() {
            let path = format!("spec.ports[{index}].targetPort");
            if let Some(port_name) = target.target_name()
                && let Some(pod) = pods.iter().find(|pod| target.at(pod).is_none())
            {
                let names: BTreeSet<_> = ports_of(pod).filter_map(|port| port.name.as_deref()).collect();
                let what = format!("workload `{}` has no port named `{port_name}`", pod.workload);
                let help = if names.is_empty() {
                    "name the port in the container's `ports`, or target its number".to_owned()
                } else {
                    format!(
                        "its ports are named `{}`",
                        names.into_iter().collect::<Vec<_>>().join("`, `")
                    )
                };
                let finding = document.finding(codes::MISSING_PORT_NAME, Severity::Warning, &path, what);
                findings.push(finding.help(help));
            }
            self.protocol(
                document,
                name,
                target.protocol,
                &path,
                &pods,
                |pod| target.at(pod),
                findings,
            );
        }
    }

    fn gateway(&self, document: &Document, findings: &mut Vec<Finding>) {
        let Some(name) = document.namespaced_name() else {
            return;
        };
        let serves =
            |pod: &&PodSpec| matches!(&pod.role, PodRole::Gateway { gateway, .. } if *gateway == name);
        let pods: Vec<_> = self.pods().filter(serves).collect();
        self.nobody_allowed(document, &format!("gateway `{name}`"), &pods, findings);
        self.nobody_verified(document, &format!("gateway `{name}`"), &pods, findings);
    }

    /// A document that is for no workload, or for a Gateway or Service that does not exist.
    fn selects_nothing(
        &self,
        document: &Document,
        attachment: &Attachment,
        target: &PolicyTarget,
        selected: &[&PodSpec],
        findings: &mut Vec<Finding>,
    ) {
        let reference = &document.reference;
        if let (PolicyTarget::References(references), Some(namespace)) = (target, document.namespace()) {
            for (index, written) in references.iter().enumerate() {
                let name = NamespacedName::new(namespace.clone(), written.name().clone());
                let (kind, is_there) = match written {
                    TargetReference::Gateway(_) => ("Gateway", self.model.gateways.contains_key(&name)),
                    TargetReference::Service(_) => ("Service", self.model.services.contains_key(&name)),
                };
                if !is_there {
                    let what = format!("{reference} is for the {kind} `{name}`, which does not exist");
                    let path = format!("spec.targetRefs[{index}].name");
                    let finding = document.finding(codes::SELECTS_NOTHING, Severity::Warning, &path, what);
                    findings
                        .push(finding.help("a target is in the document's own namespace; correct the name"));
                    return;
                }
            }
        }
        if selected.is_empty() && attachment.is_selective() {
            let what = format!("{reference} selects no workload {}", attachment.place());
            let finding =
                document.finding(codes::SELECTS_NOTHING, Severity::Warning, attachment.path(), what);
            findings
                .push(finding.help("compare it with the labels of the pod template (not of the Deployment)"));
        }
    }

    /// A policy that only looks.
    fn dry_run(document: &Document, findings: &mut Vec<Finding>) {
        let what = format!(
            "{} only looks: what it would do is logged and changes nothing",
            document.reference
        );
        let path = "metadata.annotations.istio.io/dry-run";
        let finding = document.finding(codes::DRY_RUN, Severity::Note, path, what);
        findings.push(finding.help("remove the annotation `istio.io/dry-run` to enforce it"));
    }

    /// With zero trust, workloads for which there is no ALLOW policy.
    fn nobody_allowed(
        &self,
        document: &Document,
        what: &str,
        pods: &[&PodSpec],
        findings: &mut Vec<Finding>,
    ) {
        let is_allowed = |pod: &&PodSpec| {
            view::policies_of(self.model, pod, self.options)
                .any(|entry| entry.policy.action == Action::Allow && !entry.policy.dry_run)
        };
        if self.options.settings.profile.without_policy != WithoutPolicy::Deny
            || pods.is_empty()
            || pods.iter().any(is_allowed)
        {
            return;
        }
        let what = format!("no ALLOW policy is for the workloads of {what}: nobody may call it");
        let finding = document.finding(codes::NOBODY_ALLOWED, Severity::Note, "metadata.name", what);
        findings.push(finding.help(
            "add an AuthorizationPolicy whose selector matches their labels, with a rule for each caller",
        ));
    }

    /// Another service, before this one by name, that declares another protocol for the same port of a workload.
    #[expect(
        clippy::too_many_arguments,
        reason = "one call; a struct would only name them again"
    )]
    fn protocol(
        &self,
        document: &Document,
        name: &NamespacedName,
        protocol: Protocol,
        path: &str,
        pods: &[&PodSpec],
        port_at: impl Fn(&PodSpec) -> Option<Port>,
        findings: &mut Vec<Finding>,
    ) {
        if protocol == Protocol::Detect {
            return;
        }
        for pod in pods {
            let Some(port) = port_at(pod) else { continue };
            let first = view::services_of(self.model, pod)
                .take_while(|other| other.service.name < *name)
                .find_map(|other| {
                    let target = other
                        .ports
                        .iter()
                        .find(|target| target.at(pod) == Some(port) && target.protocol != Protocol::Detect)?;
                    Some((&other.service.name, target.protocol))
                });
            if let Some((other, theirs)) = first
                && theirs != protocol
            {
                let what = format!(
                    "port {port} of workload `{}` is {} for service `{other}` and {} for `{name}`",
                    pod.workload,
                    word(theirs),
                    word(protocol)
                );
                let finding = document.finding(codes::PORT_CONFLICT, Severity::Warning, path, what);
                findings.push(finding.help("declare the same protocol in both"));
                return;
            }
        }
    }

    fn peer_authentication(
        &self,
        document: &Document,
        authentication: &PeerAuthentication,
        findings: &mut Vec<Finding>,
    ) {
        let Some(namespace) = document.namespace() else {
            return;
        };
        if authentication.selector.is_empty() || *namespace == self.options.settings.root_namespace {
            return;
        }
        let selects =
            |pod: &PodSpec| pod.name.namespace == *namespace && authentication.selector.matches(&pod.labels);
        if !self.pods().any(selects) {
            let what = format!(
                "PeerAuthentication `{namespace}/{}` selects no workload",
                document.name()
            );
            let finding = document.finding(
                codes::SELECTS_NOTHING,
                Severity::Warning,
                "spec.selector.matchLabels",
                what,
            );
            findings
                .push(finding.help("compare it with the labels of the pod template (not of the Deployment)"));
        }
    }

    /// The ports of a workload that something names, with the protocol that a service declares.
    fn served(&self, pod: &PodSpec) -> Vec<(Port, Protocol)> {
        let view = view::view_without_policies(self.model, pod, self.options);
        view.inbound
            .iter()
            .map(|port| (port.port, port.protocol))
            .collect()
    }
}

fn word(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Http => "HTTP",
        Protocol::Http2 => "HTTP/2",
        Protocol::Grpc => "gRPC",
        Protocol::Tls => "TLS",
        Protocol::Tcp => "TCP",
        Protocol::Detect => "not declared",
    }
}
