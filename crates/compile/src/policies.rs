//! Authorization policies: which workloads they select, and what they say, resolved.

use std::collections::BTreeMap;
use std::sync::Arc;

use bartizan_config::istio::{self, AuthorizationPolicy};
use bartizan_config::native::AccessRule;
use bartizan_mesh::{
    Action, Condition, Matcher, Operation, PathMatch, Policy, PolicyKind, Resource, Rule, Source,
};
use bartizan_types::{NamespacedName, StringMatch};

use crate::library::Library;
use crate::options::Options;
use crate::services::Services;
use crate::target::Attachment;

/// A policy and the workloads that it is for.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct PolicyEntry {
    pub(crate) policy: Policy,
    pub(crate) resource: Arc<Resource>,
    pub(crate) attachment: Attachment,
    /// Whether some rule asks for a verified user.
    pub(crate) asks_for_users: bool,
}

pub(crate) type Policies = BTreeMap<NamespacedName, Arc<PolicyEntry>>;

impl PolicyEntry {
    fn new(policy: Policy, attachment: Attachment, asks_for_users: bool) -> Arc<Self> {
        Arc::new(Self {
            asks_for_users,
            resource: Arc::new(Resource::Policy(policy.clone())),
            policy,
            attachment,
        })
    }
}

/// All AuthorizationPolicies.
pub(crate) fn build(library: &Library, services: &Services, options: &Options) -> Policies {
    let mut policies = Policies::new();
    for document in library.iter() {
        if let bartizan_config::Resource::AuthorizationPolicy(written) = &document.resource
            && let Some(name) = document.namespaced_name()
        {
            let policy = resolve(name.clone(), written, options);
            let attachment = Attachment::new(&name, &written.target, services, options);
            let users = policy.rules.iter().any(asks_for_users);
            policies.insert(name, PolicyEntry::new(policy, attachment, users));
        }
    }
    policies
}

/// All AccessRules.
pub(crate) fn build_access_rules(library: &Library, services: &Services, options: &Options) -> Policies {
    let mut rules = Policies::new();
    for document in library.iter() {
        if let bartizan_config::Resource::AccessRule(written) = &document.resource
            && let Some(name) = document.namespaced_name()
        {
            let policy = resolve_access_rule(name.clone(), written);
            let attachment = Attachment::new(&name, &written.target, services, options);
            let users = written.rules.iter().any(|rule| rule.uses("auth"));
            rules.insert(name, PolicyEntry::new(policy, attachment, users));
        }
    }
    rules
}

/// Whether a rule asks for a verified user, or for something of one.
fn asks_for_users(rule: &Rule) -> bool {
    rule.from
        .iter()
        .any(|source| !source.request_principals.is_empty())
        || rule.when.iter().any(|condition| match condition {
            Condition::RequestPrincipal(_)
            | Condition::RequestAudiences(_)
            | Condition::RequestPresenter(_)
            | Condition::RequestClaim(..) => true,
            Condition::Header(..)
            | Condition::SourceIp(_)
            | Condition::SourceNamespace(_)
            | Condition::SourcePrincipal(_)
            | Condition::SourceServiceAccount(_)
            | Condition::SourceTrustDomain(_)
            | Condition::DestinationIp(_)
            | Condition::DestinationPort(_)
            | Condition::Sni(_)
            | Condition::RemoteIp(_) => false,
        })
}

/// An AccessRule as proxies hold it: the text of each rule's expression.
fn resolve_access_rule(name: NamespacedName, written: &AccessRule) -> Policy {
    Policy {
        kind: PolicyKind::AccessRule,
        name,
        action: action(Some(written.action)),
        provider: None,
        dry_run: written.dry_run,
        rules: written
            .rules
            .iter()
            .map(|rule| Rule {
                expression: Some(rule.when.clone()),
                ..Rule::default()
            })
            .collect(),
    }
}

fn action(written: Option<istio::Action>) -> Action {
    match written {
        None | Some(istio::Action::Allow) => Action::Allow,
        Some(istio::Action::Deny) => Action::Deny,
        Some(istio::Action::Audit) => Action::Audit,
        Some(istio::Action::Custom) => Action::Custom,
    }
}

/// The policy as proxies hold it: trust-domain names expanded, everything else as written.
pub(crate) fn resolve(name: NamespacedName, written: &AuthorizationPolicy, options: &Options) -> Policy {
    let aliases = TrustDomainNames::new(options);
    Policy {
        kind: PolicyKind::AuthorizationPolicy,
        name,
        action: action(written.action),
        provider: written.provider.clone(),
        dry_run: written.dry_run,
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
            remote_ip_blocks: same(&source.remote_ip_blocks),
            request_principals: same(&source.request_principals),
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
            istio::Condition::RemoteIp(values) => Condition::RemoteIp(same(values)),
            istio::Condition::RequestPrincipal(values) => Condition::RequestPrincipal(same(values)),
            istio::Condition::RequestAudiences(values) => Condition::RequestAudiences(same(values)),
            istio::Condition::RequestPresenter(values) => Condition::RequestPresenter(same(values)),
            istio::Condition::RequestClaim(path, values) => {
                Condition::RequestClaim(path.clone(), same(values))
            }
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
