//! The policies of one local workload, compiled: rules with their ids, and indexes for HTTP and TCP.

use std::collections::HashMap;
use std::sync::Arc;

use bartizan_mesh::{Action, Condition, FieldHashing, PathMatch, PathRule, Policy, PolicyName, Rule};
use bartizan_types::{RuleId, StringMatch};

use crate::expression::Expression;
use crate::facts::Headers;
use crate::marks::{Marks, ShadowResult};
use crate::matching::{Quiet, asks_for_user, rule_matches};
use crate::path::canonical_value;
use crate::rule_index::{Has, RuleIndex};
use crate::subject::Subject;

/// The rules of a workload's policies.
#[derive(Debug)]
pub(crate) struct PolicySet {
    policies: Vec<Arc<Policy>>,
    names: Arc<[PolicyName]>,
    /// Policy and rule by number: in the order of the policies, then of the rules.
    rules: Vec<(usize, usize)>,
    ids: Vec<RuleId>,
    /// By the number of their rule.
    expressions: HashMap<u32, Expression, FieldHashing>,
    /// The authorizers that CUSTOM policies name, in the order of the policies, each once.
    providers: Vec<Arc<str>>,
    /// A DENY or ALLOW rule looks at headers or the query, which an authorizer may change.
    reads_headers: bool,
    enforced: Enforced,
    /// ALLOW rules that ask for a user's token, for finding those that would match with one.
    of_users: RuleIndex,
    /// Policies that only say what they would do; `None` where there are none.
    shadow: Option<Box<Enforced>>,
}

/// Policies that are evaluated together.
#[derive(Debug, Default)]
struct Enforced {
    has_allow: bool,
    http: Indexes,
    tcp: Indexes,
}

#[derive(Debug, Default)]
struct Indexes {
    deny: RuleIndex,
    allow: RuleIndex,
    audit: RuleIndex,
    custom: RuleIndex,
}

/// What the policies say.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Said {
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
        let mut expressions: HashMap<u32, Expression, FieldHashing> = HashMap::default();
        let mut providers: Vec<Arc<str>> = Vec::new();
        let mut reads_headers = false;
        for (at, policy) in policies.iter().enumerate() {
            for (index, rule) in policy.rules.iter().enumerate() {
                if let Some(text) = &rule.expression {
                    let number = u32::try_from(rules.len()).unwrap_or(u32::MAX);
                    let expression = Expression::compile(text);
                    reads_headers |= !policy.dry_run
                        && (expression.reads("request.headers") || expression.reads("request.query"));
                    expressions.insert(number, expression);
                }
                rules.push((at, index));
                ids.push(RuleId {
                    kind: policy.kind.as_str().into(),
                    namespace: policy.name.namespace.clone(),
                    policy: policy.name.name.clone(),
                    rule: u32::try_from(index).unwrap_or(u32::MAX),
                });
            }
            if let Some(provider) = asked_of(policy)
                && !policy.dry_run
                && !providers.contains(provider)
            {
                providers.push(Arc::clone(provider));
            }
            reads_headers |= !policy.dry_run
                && matches!(policy.action, Action::Allow | Action::Deny)
                && policy.rules.iter().any(rule_reads_headers);
        }
        let mut set = Self {
            names: policies.iter().map(|policy| policy.id()).collect(),
            policies,
            rules,
            ids,
            expressions,
            providers,
            reads_headers,
            enforced: Enforced::default(),
            of_users: RuleIndex::default(),
            shadow: None,
        };
        set.enforced = set.together(false);
        set.of_users = set.rules_of_users();
        if set.policies.iter().any(|policy| policy.dry_run) {
            set.shadow = Some(Box::new(set.together(true)));
        }
        set
    }

    /// DENY before ALLOW; between policies there is no precedence.
    pub(crate) fn said<H: Headers + ?Sized>(&self, subject: &Subject<'_, H>) -> Said {
        self.said_by(&self.enforced, subject)
    }

    fn said_by<H: Headers + ?Sized>(&self, enforced: &Enforced, subject: &Subject<'_, H>) -> Said {
        let indexes = enforced.indexes(subject);
        if let Some(number) = self.first(&indexes.deny, subject) {
            return Said::Denied(number);
        }
        if !enforced.has_allow {
            return Said::NoAllowPolicy;
        }
        let mut allowed = None;
        indexes.allow.find(subject, &mut |number| {
            if self.matches(number, subject) {
                allowed = Some(number);
            }
            allowed.is_some()
        });
        allowed.map_or(Said::NoAllowMatched, Said::Allowed)
    }

    /// The first ALLOW rule that asks for a user's token and matches with `subject`'s, whom every rule takes.
    pub(crate) fn wants_user<H: Headers + ?Sized>(&self, subject: &Subject<'_, H>) -> Option<u32> {
        self.first(&self.of_users, subject)
    }

    /// The next authorizer that is to be asked, after the one at this place: its place and the first rule that asks it.
    pub(crate) fn asks<H: Headers + ?Sized>(
        &self,
        subject: &Subject<'_, H>,
        after: Option<usize>,
    ) -> Option<(usize, u32)> {
        if self.providers.is_empty() {
            return None;
        }
        let mut next: Option<(usize, u32)> = None;
        self.enforced
            .indexes(subject)
            .custom
            .find(subject, &mut |number| {
                let place = self
                    .rule(number)
                    .and_then(|(policy, _)| asked_of(policy))
                    .and_then(|provider| self.providers.iter().position(|name| name == provider))
                    .filter(|place| after.is_none_or(|after| *place > after));
                if let Some(place) = place
                    && next.is_none_or(|before| (place, number) < before)
                    && self.matches(number, subject)
                {
                    next = Some((place, number));
                }
                false
            });
        next
    }

    /// The name of the authorizer at this place.
    pub(crate) fn provider(&self, place: usize) -> Option<&Arc<str>> {
        self.providers.get(place)
    }

    pub(crate) fn providers(&self) -> &[Arc<str>] {
        &self.providers
    }

    /// What AUDIT policies mark, and what dry-run policies would do; `None` in the common case.
    pub(crate) fn marks<H: Headers + ?Sized>(&self, subject: &Subject<'_, H>) -> Option<Box<Marks>> {
        let mut audited: Vec<u32> = Vec::new();
        self.enforced.indexes(subject).audit.find(subject, &mut |number| {
            if !audited.contains(&number) && self.matches(number, subject) {
                audited.push(number);
            }
            false
        });
        audited.sort_unstable();
        audited.dedup_by_key(|number| self.rule(*number).map(|(policy, _)| policy.id())); // one rule a policy
        let shadow = self.shadow.as_ref().map(|shadow| {
            let (allowed, rule) = match self.said_by(shadow, subject) {
                Said::Denied(rule) => (false, Some(rule)),
                Said::Allowed(rule) => (true, Some(rule)),
                Said::NoAllowMatched => (false, None),
                Said::NoAllowPolicy => (true, None),
            };
            let would_ask = self.first(&shadow.indexes(subject).custom, subject);
            let id = |rule: Option<u32>| rule.and_then(|rule| self.id(rule)).cloned();
            ShadowResult {
                allowed,
                rule: id(rule),
                would_ask: id(would_ask),
            }
        });
        if audited.is_empty() && shadow.is_none() {
            return None;
        }
        Some(Box::new(Marks {
            audited: audited
                .into_iter()
                .filter_map(|rule| self.id(rule))
                .cloned()
                .collect(),
            shadow,
        }))
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

    pub(crate) fn names(&self) -> &Arc<[PolicyName]> {
        &self.names
    }

    pub(crate) fn id(&self, number: u32) -> Option<&RuleId> {
        self.ids.get(usize::try_from(number).ok()?)
    }

    /// The compiled expression of a rule, if it has one.
    pub(crate) fn expression(&self, number: u32) -> Option<&Expression> {
        self.expressions.get(&number)
    }

    pub(crate) fn has_expressions(&self) -> bool {
        !self.expressions.is_empty()
    }

    /// What could not be compiled.
    pub(crate) fn problems(&self) -> impl Iterator<Item = String> {
        self.expressions.iter().filter_map(|(number, expression)| {
            let (rule, problem) = (self.id(*number)?, expression.problem()?);
            Some(format!(
                "the expression of {} {rule} fails closed: {problem}",
                rule.kind
            ))
        })
    }

    /// Whether what a request's headers say can change what DENY and ALLOW rules say.
    pub(crate) fn reads_headers(&self) -> bool {
        self.reads_headers
    }

    /// The first rule that matches, by number.
    fn first<H: Headers + ?Sized>(&self, index: &RuleIndex, subject: &Subject<'_, H>) -> Option<u32> {
        let mut first: Option<u32> = None;
        index.find(subject, &mut |number| {
            if first.is_none_or(|first| number < first) && self.matches(number, subject) {
                first = Some(number);
            }
            false
        });
        first
    }

    fn rule(&self, number: u32) -> Option<(&Policy, &Rule)> {
        let (policy, rule) = self.rules.get(usize::try_from(number).ok()?)?;
        let policy = self.policies.get(*policy)?;
        Some((policy, policy.rules.get(*rule)?))
    }

    fn matches<H: Headers + ?Sized>(&self, number: u32, subject: &Subject<'_, H>) -> bool {
        self.rule(number).is_some_and(|(policy, rule)| {
            rule_matches(rule, self.expression(number), policy.action, subject, &mut Quiet)
        })
    }

    fn rules_of_users(&self) -> RuleIndex {
        let rules = (0..).map_while(|number| Some((number, self.rule(number)?)));
        let has = Has {
            http: true,
            user: false,
        };
        RuleIndex::build(
            rules
                .filter(|(number, (policy, rule))| {
                    policy.action == Action::Allow
                        && !policy.dry_run
                        && asks_for_user(rule, self.expression(*number))
                })
                .map(|(number, (_, rule))| (number, rule)),
            has,
        )
    }

    fn together(&self, dry_run: bool) -> Enforced {
        Enforced {
            has_allow: self
                .policies
                .iter()
                .any(|policy| policy.action == Action::Allow && policy.dry_run == dry_run),
            http: self.indexes(dry_run, true),
            tcp: self.indexes(dry_run, false),
        }
    }

    fn indexes(&self, dry_run: bool, has_http: bool) -> Indexes {
        let of = |action| {
            let rules = (0..).map_while(|number| Some((number, self.rule(number)?)));
            RuleIndex::build(
                rules
                    .filter(|(_, (policy, rule))| {
                        // On TCP an ALLOW rule that asks for HTTP never matches.
                        policy.action == action
                            && policy.dry_run == dry_run
                            && (has_http || action != Action::Allow || !rule.asks_for_http())
                    })
                    .map(|(number, (_, rule))| (number, rule)),
                Has {
                    http: has_http,
                    user: has_http,
                },
            )
        };
        Indexes {
            deny: of(Action::Deny),
            allow: of(Action::Allow),
            audit: of(Action::Audit),
            custom: of(Action::Custom),
        }
    }
}

impl Enforced {
    fn indexes<H: ?Sized>(&self, subject: &Subject<'_, H>) -> &Indexes {
        if subject.http.is_some() {
            &self.http
        } else {
            &self.tcp
        }
    }
}

/// The authorizer that a policy asks. A CUSTOM policy without one asks one that nobody knows, which refuses.
fn asked_of(policy: &Policy) -> Option<&Arc<str>> {
    static NOBODY: std::sync::LazyLock<Arc<str>> = std::sync::LazyLock::new(Arc::default);
    (policy.action == Action::Custom).then(|| policy.provider.as_ref().unwrap_or(&NOBODY))
}

fn rule_reads_headers(rule: &Rule) -> bool {
    rule.when
        .iter()
        .any(|condition| matches!(condition, Condition::Header(..)))
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
