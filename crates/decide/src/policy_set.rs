//! The policies of one local workload, compiled: rules with their ids, and indexes for HTTP and TCP.

use std::sync::Arc;

use bartizan_mesh::{Action, PathMatch, PathRule, Policy, Rule};
use bartizan_types::{NamespacedName, RuleId, StringMatch};

use crate::facts::Headers;
use crate::matching::{Quiet, Subject, asks_for_http, rule_matches};
use crate::path::canonical_value;
use crate::rule_index::RuleIndex;

/// The rules of a workload's policies.
#[derive(Debug)]
pub(crate) struct PolicySet {
    policies: Vec<Arc<Policy>>,
    names: Arc<[NamespacedName]>,
    /// Policy and rule by number: in the order of the policies, then of the rules.
    rules: Vec<(usize, usize)>,
    ids: Vec<RuleId>,
    has_allow: bool,
    http: Indexes,
    tcp: Indexes,
}

#[derive(Debug, Default)]
struct Indexes {
    deny: RuleIndex,
    allow: RuleIndex,
}

/// What the policies say.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Verdict {
    /// A DENY rule matched; the first by number.
    Denied(u32),
    /// No DENY rule matched, and this ALLOW rule did.
    Allowed(u32),
    /// No rule matched, and there is an ALLOW policy.
    NoAllowMatched,
    /// No DENY rule matched, and there is no ALLOW policy.
    NoAllowPolicy,
}

impl PolicySet {
    pub(crate) fn build(policies: &[Arc<Policy>], paths: PathRule) -> Self {
        let policies: Vec<Arc<Policy>> = policies
            .iter()
            .map(|policy| with_canonical_paths(policy, paths))
            .collect();
        let mut rules = Vec::new();
        let mut ids = Vec::new();
        for (at, policy) in policies.iter().enumerate() {
            for rule in 0..policy.rules.len() {
                rules.push((at, rule));
                ids.push(RuleId {
                    kind: "AuthorizationPolicy".into(),
                    namespace: policy.name.namespace.clone(),
                    policy: policy.name.name.clone(),
                    rule: u32::try_from(rule).unwrap_or(u32::MAX),
                });
            }
        }
        let mut set = Self {
            names: policies.iter().map(|policy| policy.name.clone()).collect(),
            has_allow: policies.iter().any(|policy| policy.action == Action::Allow),
            policies,
            rules,
            ids,
            http: Indexes::default(),
            tcp: Indexes::default(),
        };
        set.http = set.indexes(true);
        set.tcp = set.indexes(false);
        set
    }

    /// DENY before ALLOW; between policies there is no precedence.
    pub(crate) fn verdict<H: Headers + ?Sized>(&self, subject: &Subject<'_, H>) -> Verdict {
        let indexes = if subject.http.is_some() {
            &self.http
        } else {
            &self.tcp
        };
        let mut denied: Option<u32> = None;
        indexes.deny.find(subject, &mut |number| {
            if denied.is_none_or(|first| number < first) && self.matches(number, subject) {
                denied = Some(number);
            }
            false
        });
        if let Some(number) = denied {
            return Verdict::Denied(number);
        }
        if !self.has_allow {
            return Verdict::NoAllowPolicy;
        }
        let mut allowed = None;
        indexes.allow.find(subject, &mut |number| {
            if self.matches(number, subject) {
                allowed = Some(number);
            }
            allowed.is_some()
        });
        allowed.map_or(Verdict::NoAllowMatched, Verdict::Allowed)
    }

    /// The policies in the order that rules are numbered in, with the number of their first rule.
    pub(crate) fn policies(&self) -> impl Iterator<Item = (u32, &Arc<Policy>)> {
        let mut first = 0;
        self.policies.iter().map(move |policy| {
            let number = first;
            first += u32::try_from(policy.rules.len()).unwrap_or(u32::MAX);
            (number, policy)
        })
    }

    pub(crate) fn names(&self) -> &Arc<[NamespacedName]> {
        &self.names
    }

    pub(crate) fn id(&self, number: u32) -> Option<&RuleId> {
        self.ids.get(usize::try_from(number).ok()?)
    }

    fn rule(&self, number: u32) -> Option<(&Policy, &Rule)> {
        let (policy, rule) = self.rules.get(usize::try_from(number).ok()?)?;
        let policy = self.policies.get(*policy)?;
        Some((policy, policy.rules.get(*rule)?))
    }

    fn matches<H: Headers + ?Sized>(&self, number: u32, subject: &Subject<'_, H>) -> bool {
        self.rule(number)
            .is_some_and(|(policy, rule)| rule_matches(rule, policy.action, subject, &mut Quiet))
    }

    fn indexes(&self, has_http: bool) -> Indexes {
        let of = |action| {
            let rules = (0..).map_while(|number| Some((number, self.rule(number)?)));
            RuleIndex::build(
                rules
                    .filter(|(_, (policy, rule))| {
                        // On TCP an ALLOW rule that asks for HTTP never matches.
                        policy.action == action
                            && (has_http || action == Action::Deny || !asks_for_http(rule))
                    })
                    .map(|(number, (_, rule))| (number, rule)),
                has_http,
            )
        };
        Indexes {
            deny: of(Action::Deny),
            allow: of(Action::Allow),
        }
    }
}

/// The policy with its path values in the form that request paths are compared in.
fn with_canonical_paths(policy: &Arc<Policy>, paths: PathRule) -> Arc<Policy> {
    let canonical = |path: &PathMatch| match path {
        PathMatch::Text(text) => {
            canonical_value(&text.to_string(), paths).map(|value| PathMatch::Text(with_text(text, &value)))
        }
        PathMatch::Template(pattern) => {
            canonical_value(pattern, paths).map(|pattern| PathMatch::Template(pattern.into()))
        }
    };
    let is_canonical = policy
        .rules
        .iter()
        .flat_map(|rule| &rule.to)
        .flat_map(|operation| operation.paths.any.iter().chain(&operation.paths.none))
        .all(|path| canonical(path).is_none());
    if is_canonical {
        return Arc::clone(policy);
    }
    let mut policy = Policy::clone(policy);
    for operation in policy.rules.iter_mut().flat_map(|rule| &mut rule.to) {
        let values = operation.paths.any.iter_mut().chain(&mut operation.paths.none);
        for value in values {
            if let Some(canonical) = canonical(value) {
                *value = canonical;
            }
        }
    }
    Arc::new(policy)
}

/// The same form of match with another text; `written` has the star of the form.
fn with_text(form: &StringMatch, written: &str) -> StringMatch {
    match form {
        StringMatch::Present => StringMatch::Present,
        StringMatch::Exact(_) => StringMatch::Exact(written.into()),
        StringMatch::Prefix(_) => StringMatch::Prefix(written.strip_suffix('*').unwrap_or(written).into()),
        StringMatch::Suffix(_) => StringMatch::Suffix(written.strip_prefix('*').unwrap_or(written).into()),
    }
}

#[cfg(test)]
#[path = "policy_set_tests.rs"]
mod tests;
