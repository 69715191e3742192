//! Authorization policies: which workloads they select, and what they say, resolved.

use std::collections::BTreeMap;
use std::sync::Arc;

use bartizan_config::istio::{self, AuthorizationPolicy, PolicyTarget};
use bartizan_mesh::{
    Action, Condition, Matcher, Operation, PathMatch, Policy, PolicyKind, Resource, Rule, Source,
};
use bartizan_types::{NamespacedName, PodRole, PodSpec, StringMatch};

use crate::library::Library;
use crate::options::Options;

/// A policy and the workloads that it is for.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct PolicyEntry {
    pub(crate) policy: Policy,
    pub(crate) resource: Arc<Resource>,
    target: PolicyTarget,
    /// Whether it lives in the root namespace, where a selector reaches every namespace.
    pub(crate) is_root: bool,
}

pub(crate) type Policies = BTreeMap<NamespacedName, Arc<PolicyEntry>>;

impl PolicyEntry {
    /// Whether the policy is for this workload (Istio `ShouldAttachPolicy`): by selector in the policy's own namespace, or
    /// everywhere from the root namespace; by target only for gateways of the policy's own namespace.
    pub(crate) fn selects(&self, pod: &PodSpec) -> bool {
        let namespace = &pod.name.namespace;
        let own = self.policy.name.namespace == *namespace;
        match &self.target {
            PolicyTarget::Selector(selector) => (own || self.is_root) && selector.matches(&pod.labels),
            PolicyTarget::Gateways(names) => match &pod.role {
                PodRole::Application => false,
                PodRole::Gateway { gateway, .. } => own && names.contains(&gateway.name),
            },
        }
    }

    /// Whether it asks for some workloads and not for a whole namespace or mesh.
    pub(crate) fn is_selective(&self) -> bool {
        match &self.target {
            PolicyTarget::Selector(selector) => !selector.is_empty(),
            PolicyTarget::Gateways(_) => true,
        }
    }

    /// The field that says for whom it is.
    pub(crate) fn target_path(&self) -> &'static str {
        match &self.target {
            PolicyTarget::Selector(_) => "spec.selector.matchLabels",
            PolicyTarget::Gateways(_) => "spec.targetRefs",
        }
    }
}

/// All policies.
pub(crate) fn build(library: &Library, options: &Options) -> Policies {
    let mut policies = Policies::new();
    for document in library.iter() {
        if let bartizan_config::Resource::AuthorizationPolicy(written) = &document.resource
            && let Some(name) = document.namespaced_name()
        {
            let policy = resolve(name.clone(), written, options);
            let entry = PolicyEntry {
                resource: Arc::new(Resource::Policy(policy.clone())),
                is_root: name.namespace == options.settings.root_namespace,
                target: written.target.clone(),
                policy,
            };
            policies.insert(name, Arc::new(entry));
        }
    }
    policies
}

/// The policy as proxies hold it: trust-domain names expanded, everything else as written.
pub(crate) fn resolve(name: NamespacedName, written: &AuthorizationPolicy, options: &Options) -> Policy {
    let aliases = TrustDomainNames::new(options);
    Policy {
        kind: PolicyKind::AuthorizationPolicy,
        name,
        provider: None,
        dry_run: false,
        action: match written.action {
            None | Some(istio::Action::Allow) => Action::Allow,
            Some(istio::Action::Deny) => Action::Deny,
        },
        rules: written
            .rules
            .iter()
            .map(|rule| Rule {
                from: rule.from.iter().map(|source| aliases.source(source)).collect(),
                to: rule.to.iter().map(operation).collect(),
                when: rule
                    .when
                    .iter()
                    .map(|condition| aliases.condition(condition))
                    .collect(),
                expression: None,
            })
            .collect(),
    }
}

/// All names of this mesh's trust domain.
struct TrustDomainNames {
    /// The mesh's own first, then the aliases.
    names: Vec<String>,
}

impl TrustDomainNames {
    fn new(options: &Options) -> Self {
        let own = options.settings.trust_domain.to_string();
        let mut names = vec![own];
        for alias in &options.trust_domain_aliases {
            if !names.iter().any(|name| *name == alias.as_str()) {
                names.push(alias.to_string());
            }
        }
        Self { names }
    }

    /// Whether a text in a policy stands for this mesh: its trust domain, an alias, or `cluster.local`.
    fn is_own(&self, text: &str) -> bool {
        text == "cluster.local" || self.names.iter().any(|name| name == text)
    }

    fn source(&self, source: &istio::Source) -> Source {
        Source {
            principals: self.principals(&source.principals),
            namespaces: same(&source.namespaces),
            service_accounts: same(&source.service_accounts),
            trust_domains: self.trust_domains(&source.trust_domains),
            ip_blocks: same(&source.ip_blocks),
            ..Source::default()
        }
    }

    fn condition(&self, condition: &istio::Condition) -> Condition {
        match condition {
            istio::Condition::Header(name, values) => Condition::Header(name.clone(), same(values)),
            istio::Condition::SourceIp(values) => Condition::SourceIp(same(values)),
            istio::Condition::SourceNamespace(values) => Condition::SourceNamespace(same(values)),
            istio::Condition::SourcePrincipal(values) => Condition::SourcePrincipal(self.principals(values)),
            istio::Condition::SourceServiceAccount(values) => Condition::SourceServiceAccount(same(values)),
            istio::Condition::SourceTrustDomain(values) => {
                Condition::SourceTrustDomain(self.trust_domains(values))
            }
            istio::Condition::DestinationIp(values) => Condition::DestinationIp(same(values)),
            istio::Condition::DestinationPort(values) => Condition::DestinationPort(same(values)),
            istio::Condition::Sni(values) => Condition::Sni(same(values)),
        }
    }

    fn principals(&self, written: &istio::Matcher<StringMatch>) -> Matcher<StringMatch> {
        self.expand(written, |text| {
            let mut parts = text.splitn(2, '/');
            let (domain, rest) = (parts.next()?, parts.next()?);
            // Only the five-part form is understood (Istio's trust domain aliases).
            (self.is_own(domain) && rest.matches('/').count() == 3).then(|| format!("/{rest}"))
        })
    }

    fn trust_domains(&self, written: &istio::Matcher<StringMatch>) -> Matcher<StringMatch> {
        self.expand(written, |text| self.is_own(text).then(String::new))
    }

    /// Each value for which `rest` finds what follows the trust domain, once for each of the trust domain's names.
    fn expand(
        &self,
        written: &istio::Matcher<StringMatch>,
        rest: impl Fn(&str) -> Option<String>,
    ) -> Matcher<StringMatch> {
        let all = |values: &[StringMatch]| {
            let mut expanded: Vec<StringMatch> = Vec::new();
            for value in values {
                let text = value.to_string();
                let several = match rest(&text) {
                    Some(rest) => {
                        let names = self.names.iter();
                        names
                            .map(|name| StringMatch::parse(&format!("{name}{rest}")))
                            .collect()
                    }
                    None => vec![value.clone()],
                };
                for value in several {
                    if !expanded.contains(&value) {
                        expanded.push(value);
                    }
                }
            }
            expanded
        };
        Matcher {
            any: all(&written.any),
            none: all(&written.none),
        }
    }
}

fn operation(operation: &istio::Operation) -> Operation {
    let paths = |paths: &[istio::PathMatch]| paths.iter().map(path).collect();
    Operation {
        hosts: same(&operation.hosts),
        ports: same(&operation.ports),
        methods: same(&operation.methods),
        paths: Matcher {
            any: paths(&operation.paths.any),
            none: paths(&operation.paths.none),
        },
    }
}

fn path(path: &istio::PathMatch) -> PathMatch {
    match path {
        istio::PathMatch::Text(text) => PathMatch::Text(text.clone()),
        istio::PathMatch::Template(template) => PathMatch::Template(template.clone()),
    }
}

fn same<T: Clone>(written: &istio::Matcher<T>) -> Matcher<T> {
    Matcher {
        any: written.any.clone(),
        none: written.none.clone(),
    }
}
