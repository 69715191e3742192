//! AuthorizationPolicies that name what does not exist, or what their workloads do not speak.

use std::collections::BTreeSet;

use bartizan_config::istio::{AuthorizationPolicy, Condition, Matcher, Rule};
use bartizan_config::{Document, Finding, Severity};
use bartizan_mesh::Action;
use bartizan_types::{Name, NamespacedName, PodSpec, Port, Protocol, StringMatch};

use super::{Analysis, word};
use crate::codes;
use crate::policies::PolicyEntry;

impl Analysis<'_> {
    pub(super) fn policy(
        &self,
        document: &Document,
        policy: &AuthorizationPolicy,
        findings: &mut Vec<Finding>,
    ) {
        let Some(entry) = document
            .namespaced_name()
            .and_then(|name| self.model.policies.get(&name))
        else {
            return;
        };
        let selected: Vec<_> = self.pods().filter(|pod| entry.attachment.selects(pod)).collect();
        self.selects_nothing(document, &entry.attachment, &policy.target, &selected, findings);
        if policy.dry_run {
            Self::dry_run(document, findings);
        }
        self.authorizer(document, entry, &selected, findings);
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
                self.user_without_tokens(
                    document,
                    &entry.attachment,
                    &user_fields(rule, &path),
                    &selected,
                    findings,
                );
            }
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
        let in_from = rule
            .from
            .iter()
            .any(|source| !source.request_principals.is_empty());
        let in_when = in_from
            || rule.when.iter().any(|condition| match condition {
                Condition::Header(..)
                | Condition::RequestPrincipal(_)
                | Condition::RequestAudiences(_)
                | Condition::RequestPresenter(_)
                | Condition::RequestClaim(..) => true,
                Condition::SourceIp(_)
                | Condition::SourceNamespace(_)
                | Condition::SourcePrincipal(_)
                | Condition::SourceServiceAccount(_)
                | Condition::SourceTrustDomain(_)
                | Condition::DestinationIp(_)
                | Condition::DestinationPort(_)
                | Condition::Sni(_)
                | Condition::RemoteIp(_) => false,
            });
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

/// The fields of a rule that speak of a verified user.
fn user_fields(rule: &Rule, path: &str) -> Vec<String> {
    let sources = rule.from.iter().enumerate().filter_map(|(index, source)| {
        let field = if !source.request_principals.any.is_empty() {
            "requestPrincipals"
        } else if !source.request_principals.none.is_empty() {
            "notRequestPrincipals"
        } else {
            return None;
        };
        Some(format!("{path}.from[{index}].source.{field}"))
    });
    let conditions = rule
        .when
        .iter()
        .enumerate()
        .filter_map(|(index, condition)| match condition {
            Condition::RequestPrincipal(_)
            | Condition::RequestAudiences(_)
            | Condition::RequestPresenter(_)
            | Condition::RequestClaim(..) => Some(format!("{path}.when[{index}].key")),
            Condition::Header(..)
            | Condition::SourceIp(_)
            | Condition::SourceNamespace(_)
            | Condition::SourcePrincipal(_)
            | Condition::SourceServiceAccount(_)
            | Condition::SourceTrustDomain(_)
            | Condition::DestinationIp(_)
            | Condition::DestinationPort(_)
            | Condition::Sni(_)
            | Condition::RemoteIp(_) => None,
        });
    sources.chain(conditions).collect()
}

/// Whether a matcher of ports lets this one pass.
pub(super) fn covers(values: &Matcher<Port>, port: Port) -> bool {
    (values.any.is_empty() || values.any.contains(&port)) && !values.none.contains(&port)
}

/// The namespaces and identities that a policy names.
pub(super) struct PolicyNames<'a> {
    pub(super) analysis: &'a Analysis<'a>,
    pub(super) document: &'a Document,
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

    pub(super) fn is_account(&self, name: &NamespacedName) -> bool {
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
