//! Findings about documents that are right by themselves and probably not what was meant together.

use std::collections::BTreeSet;

use bartizan_config::istio::{AuthorizationPolicy, Condition, Matcher, PeerAuthentication, Rule};
use bartizan_config::kube::ServiceKind;
use bartizan_config::{Document, Finding, Resource, Severity};
use bartizan_mesh::{Action, WithoutPolicy};
use bartizan_types::{Name, NamespacedName, PodRole, PodSpec, Port, Protocol, StringMatch};

use crate::codes;
use crate::library::Library;
use crate::model::Model;
use crate::options::Options;
use crate::policies::PolicyEntry;
use crate::services::ports_of;
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
            view::policies_of(self.model, pod, self.options).any(|entry| entry.policy.action == Action::Allow)
        };
        if self.options.settings.profile.without_policy == WithoutPolicy::Allow
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

    fn policy(&self, document: &Document, policy: &AuthorizationPolicy, findings: &mut Vec<Finding>) {
        let Some(entry) = document
            .namespaced_name()
            .and_then(|name| self.model.policies.get(&name))
        else {
            return;
        };
        let selected: Vec<_> = self.pods().filter(|pod| entry.attachment.selects(pod)).collect();
        if selected.is_empty() && entry.attachment.is_selective() {
            let place = entry.attachment.place();
            let what = format!("policy `{}` selects no workload {place}", entry.policy.name);
            let finding = document.finding(
                codes::SELECTS_NOTHING,
                Severity::Warning,
                entry.attachment.path(),
                what,
            );
            findings
                .push(finding.help("compare it with the labels of the pod template (not of the Deployment)"));
        }
        let names = PolicyNames {
            analysis: self,
            document,
        };
        for (index, rule) in policy.rules.iter().enumerate() {
            let path = format!("spec.rules[{index}]");
            names.rule(rule, &path, findings);
            if !selected.is_empty() {
                self.ports(document, rule, &path, &selected, findings);
                self.http_on_tcp(document, entry, rule, &path, &selected, findings);
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

    /// Ports that no selected workload serves.
    fn ports(
        &self,
        document: &Document,
        rule: &Rule,
        path: &str,
        selected: &[&PodSpec],
        findings: &mut Vec<Finding>,
    ) {
        let served: BTreeSet<Port> = selected
            .iter()
            .flat_map(|pod| self.served(pod))
            .map(|(port, _)| port)
            .collect();
        let mut tell = |values: &Matcher<Port>, path: &str, any: &str, none: &str| {
            for (field, ports) in [(any, &values.any), (none, &values.none)] {
                for (index, port) in ports
                    .iter()
                    .enumerate()
                    .filter(|(_, port)| !served.contains(port))
                {
                    let what = format!(
                        "port {port} is served by no service and no container of the selected workloads"
                    );
                    let path = format!("{path}.{field}[{index}]");
                    let finding =
                        document.finding(codes::UNKNOWN_PORT_IN_POLICY, Severity::Note, &path, what);
                    findings
                        .push(finding.help(
                            "a policy names the workload's own port (`targetPort`), not the service's",
                        ));
                }
            }
        };
        for (index, operation) in rule.to.iter().enumerate() {
            tell(
                &operation.ports,
                &format!("{path}.to[{index}].operation"),
                "ports",
                "notPorts",
            );
        }
        for (index, condition) in rule.when.iter().enumerate() {
            if let Condition::DestinationPort(values) = condition {
                tell(values, &format!("{path}.when[{index}]"), "values", "notValues");
            }
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

    /// A rule that speaks of HTTP and reaches a port that is declared as something else.
    fn http_on_tcp(
        &self,
        document: &Document,
        entry: &PolicyEntry,
        rule: &Rule,
        path: &str,
        selected: &[&PodSpec],
        findings: &mut Vec<Finding>,
    ) {
        let in_when = rule
            .when
            .iter()
            .any(|condition| matches!(condition, Condition::Header(..)));
        let only_ports = rule.when.iter().find_map(|condition| match condition {
            Condition::DestinationPort(values) => Some(values),
            Condition::Header(..)
            | Condition::SourceIp(_)
            | Condition::SourceNamespace(_)
            | Condition::SourcePrincipal(_)
            | Condition::SourceServiceAccount(_)
            | Condition::SourceTrustDomain(_)
            | Condition::DestinationIp(_)
            | Condition::Sni(_)
            | Condition::RemoteIp(_)
            | Condition::RequestPrincipal(_)
            | Condition::RequestAudiences(_)
            | Condition::RequestPresenter(_)
            | Condition::RequestClaim(..) => None,
        });
        let is_http = |index: usize| {
            rule.to.get(index).is_some_and(|operation| {
                !operation.hosts.is_empty() || !operation.methods.is_empty() || !operation.paths.is_empty()
            })
        };
        let reached = |port: Port| {
            only_ports.is_none_or(|values| covers(values, port))
                && if rule.to.is_empty() {
                    in_when
                } else {
                    (0..rule.to.len()).any(|index| {
                        (in_when || is_http(index))
                            && rule
                                .to
                                .get(index)
                                .is_some_and(|operation| covers(&operation.ports, port))
                    })
                }
        };
        for pod in selected {
            let tcp = self
                .served(pod)
                .into_iter()
                .find(|(port, protocol)| matches!(protocol, Protocol::Tcp | Protocol::Tls) && reached(*port));
            if let Some((port, protocol)) = tcp {
                let effect = match entry.policy.action {
                    Action::Allow => "never matches there",
                    Action::Deny => "is applied there without them, and may deny every connection",
                    Action::Audit | Action::Custom => {
                        "is applied there without them, and may match every connection"
                    }
                };
                let what = format!(
                    "port {port} of workload `{}` is declared as {}: a rule with HTTP fields {effect}",
                    pod.workload,
                    word(protocol)
                );
                let finding = document.finding(codes::HTTP_RULE_ON_TCP, Severity::Warning, path, what);
                findings.push(
                    finding.help(
                        "name the HTTP ports in `operation.ports`, and write a rule of its own for TCP",
                    ),
                );
                return;
            }
        }
    }
}

/// Whether a matcher of ports lets this one pass.
fn covers(values: &Matcher<Port>, port: Port) -> bool {
    (values.any.is_empty() || values.any.contains(&port)) && !values.none.contains(&port)
}

/// The namespaces and identities that a policy names.
struct PolicyNames<'a> {
    analysis: &'a Analysis<'a>,
    document: &'a Document,
}

impl PolicyNames<'_> {
    fn rule(&self, rule: &Rule, path: &str, findings: &mut Vec<Finding>) {
        for (index, source) in rule.from.iter().enumerate() {
            let path = format!("{path}.from[{index}].source");
            let at = |field: &'static str| {
                let path = path.clone();
                move |index: usize| format!("{path}.{field}[{index}]")
            };
            self.namespaces(&source.namespaces.any, at("namespaces"), findings);
            self.namespaces(&source.namespaces.none, at("notNamespaces"), findings);
            self.principals(&source.principals.any, at("principals"), findings);
            self.principals(&source.principals.none, at("notPrincipals"), findings);
            self.accounts(&source.service_accounts.any, at("serviceAccounts"), findings);
            self.accounts(&source.service_accounts.none, at("notServiceAccounts"), findings);
        }
        for (index, condition) in rule.when.iter().enumerate() {
            let values = |place: usize| format!("{path}.when[{index}].values[{place}]");
            let not_values = |place: usize| format!("{path}.when[{index}].notValues[{place}]");
            match condition {
                Condition::SourceNamespace(matcher) => {
                    self.namespaces(&matcher.any, values, findings);
                    self.namespaces(&matcher.none, not_values, findings);
                }
                Condition::SourcePrincipal(matcher) => {
                    self.principals(&matcher.any, values, findings);
                    self.principals(&matcher.none, not_values, findings);
                }
                Condition::SourceServiceAccount(matcher) => {
                    self.accounts(&matcher.any, values, findings);
                    self.accounts(&matcher.none, not_values, findings);
                }
                Condition::Header(..)
                | Condition::SourceIp(_)
                | Condition::SourceTrustDomain(_)
                | Condition::DestinationIp(_)
                | Condition::DestinationPort(_)
                | Condition::Sni(_)
                | Condition::RemoteIp(_)
                | Condition::RequestPrincipal(_)
                | Condition::RequestAudiences(_)
                | Condition::RequestPresenter(_)
                | Condition::RequestClaim(..) => {}
            }
        }
    }

    fn namespaces(
        &self,
        values: &[std::sync::Arc<str>],
        path: impl Fn(usize) -> String,
        findings: &mut Vec<Finding>,
    ) {
        for (index, value) in values.iter().enumerate() {
            if !value.contains('*') && !self.analysis.library.namespaces.contains_key(&**value) {
                let what = format!("namespace `{value}` does not exist");
                let finding = self.document.finding(
                    codes::UNKNOWN_NAMESPACE_IN_POLICY,
                    Severity::Warning,
                    &path(index),
                    what,
                );
                findings.push(finding.help(self.namespace_help()));
            }
        }
    }

    fn namespace_help(&self) -> String {
        let names: Vec<_> = self
            .analysis
            .library
            .namespaces
            .keys()
            .map(|name| format!("`{name}`"))
            .collect();
        format!("namespaces are {}", names.join(", "))
    }

    fn principals(
        &self,
        values: &[StringMatch],
        path: impl Fn(usize) -> String,
        findings: &mut Vec<Finding>,
    ) {
        let settings = &self.analysis.options.settings;
        for (index, value) in values.iter().enumerate() {
            let StringMatch::Exact(text) = value else {
                continue;
            };
            let parts: Vec<_> = text.split('/').collect();
            let [domain, "ns", namespace, "sa", account] = parts.as_slice() else {
                continue;
            };
            let own = *domain == settings.trust_domain.as_str()
                || *domain == "cluster.local"
                || self
                    .analysis
                    .options
                    .trust_domain_aliases
                    .iter()
                    .any(|alias| alias.as_str() == *domain);
            let known = NamespacedName::parse(&format!("{namespace}/{account}"))
                .is_ok_and(|name| self.is_account(&name));
            if own && !known {
                self.unknown(
                    &format!("nobody has the identity `{text}`"),
                    &path(index),
                    findings,
                );
            }
        }
    }

    fn accounts(
        &self,
        values: &[NamespacedName],
        path: impl Fn(usize) -> String,
        findings: &mut Vec<Finding>,
    ) {
        for (index, value) in values.iter().enumerate() {
            if !self.is_account(value) {
                self.unknown(
                    &format!("service account `{value}` does not exist"),
                    &path(index),
                    findings,
                );
            }
        }
    }

    fn is_account(&self, name: &NamespacedName) -> bool {
        let of_gateway = |(gateway, account): (&NamespacedName, &Name)| {
            gateway.namespace == name.namespace && *account == name.name
        };
        let gateways = &self.analysis.model.gateways;
        (self.analysis.library.namespaces.contains_key(&name.namespace)
            && self.analysis.library.has_service_account(name))
            || gateways
                .iter()
                .map(|(gateway, entry)| (gateway, &entry.account))
                .any(of_gateway)
    }

    fn unknown(&self, what: &str, path: &str, findings: &mut Vec<Finding>) {
        let finding = self
            .document
            .finding(codes::UNKNOWN_PRINCIPAL, Severity::Warning, path, what);
        findings.push(finding.help(
            "compare namespace and name with the ServiceAccount documents and the pods' `serviceAccountName`",
        ));
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
