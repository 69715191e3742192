//! Finds the rules that can match, so that a decision costs what those cost and not what all rules cost.
//!
//! A tree over exact values (and prefixes) that rules ask for. Each rule is filed under the field that tells it best
//! apart from the others, and within a crowded place again under another field. A place may be shared by accident (keys
//! are hashes); that only adds a candidate, because every candidate is matched in full afterwards.

use std::collections::{BTreeSet, HashMap};
use std::hash::Hasher;
use std::sync::Arc;

use bartizan_mesh::{Condition, FieldHasher, FieldHashing, Matcher, PathMatch, Rule};
use bartizan_types::{NamespacedName, StringMatch};
use serde_json::Value;

use crate::facts::Headers;
use crate::matching::template_prefix;
use crate::subject::Subject;
use crate::user::{User, claim};

/// A field whose values rules are filed under.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Dimension {
    Principal,
    Account,
    Namespace,
    Path,
    Host,
    Port,
    Method,
    User,
    Claim,
}

const DIMENSIONS: [Dimension; 9] = [
    Dimension::Principal,
    Dimension::Account,
    Dimension::Namespace,
    Dimension::Path,
    Dimension::Host,
    Dimension::Port,
    Dimension::Method,
    Dimension::User,
    Dimension::Claim,
];

/// What the requests have that an index is for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Has {
    /// A method, a host and a path.
    pub(crate) http: bool,
    /// A user, where one is presented.
    pub(crate) user: bool,
}

/// A place with this many rules is not divided any more.
const SMALL: usize = 4;

/// The rules that can match, by their numbers.
#[derive(Debug, Default)]
pub(crate) struct RuleIndex {
    /// Candidates of every request that comes here.
    always: Vec<u32>,
    branches: Vec<Branch>,
}

#[derive(Debug)]
struct Branch {
    dimension: Dimension,
    children: HashMap<u64, RuleIndex, FieldHashing>,
    /// The lengths of the prefixes among the keys, in bytes, ascending.
    prefix_lengths: Vec<usize>,
    /// The claims that the keys are values of.
    claims: BTreeSet<ClaimPath>,
}

/// The names of a claim from the outside in.
type ClaimPath = Vec<Arc<str>>;

/// A value that a rule is filed under.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct FiledKey {
    hash: u64,
    prefix_length: Option<usize>,
}

impl RuleIndex {
    /// Files rules under their numbers.
    pub(crate) fn build<'r>(rules: impl IntoIterator<Item = (u32, &'r Rule)>, has: Has) -> Self {
        let rules: Vec<_> = rules.into_iter().collect();
        let dimensions: Vec<Dimension> = DIMENSIONS
            .into_iter()
            .filter(|dimension| match dimension {
                Dimension::Principal | Dimension::Account | Dimension::Namespace | Dimension::Port => true,
                Dimension::Path | Dimension::Host | Dimension::Method => has.http,
                Dimension::User | Dimension::Claim => has.user,
            })
            .collect();
        // Rules with many values in many fields would be copied for every combination: that ends at twice of what they say.
        let values = |rule| {
            dimensions
                .iter()
                .filter_map(move |dimension| keys(rule, *dimension))
        };
        let all: usize = rules
            .iter()
            .flat_map(|(_, rule)| values(rule))
            .map(|keys| keys.len())
            .sum();
        let mut copies_left = 2 * all + 1_000;
        divide(&rules, &dimensions, &mut copies_left)
    }

    /// Calls `candidate` with the number of each rule that can match until it gives `true`. A number may come twice.
    pub(crate) fn find<H: Headers + ?Sized>(
        &self,
        subject: &Subject<'_, H>,
        candidate: &mut impl FnMut(u32) -> bool,
    ) -> bool {
        self.always.iter().any(|rule| candidate(*rule))
            || self.branches.iter().any(|branch| branch.find(subject, candidate))
    }
}

#[cfg(test)]
impl RuleIndex {
    /// Every copy of every rule that is filed here.
    pub(crate) fn each(&self, copy: &mut impl FnMut(u32)) {
        self.always.iter().copied().for_each(&mut *copy);
        for child in self.branches.iter().flat_map(|branch| branch.children.values()) {
            child.each(copy);
        }
    }
}

impl Branch {
    fn find<H: Headers + ?Sized>(
        &self,
        subject: &Subject<'_, H>,
        candidate: &mut impl FnMut(u32) -> bool,
    ) -> bool {
        let mut visit = |key: u64| {
            self.children
                .get(&key)
                .is_some_and(|child| child.find(subject, candidate))
        };
        match self.dimension {
            Dimension::Principal => subject
                .identity
                .is_some_and(|identity| self.visit_text(identity.principal, false, &mut visit)),
            Dimension::Path => subject
                .http
                .as_ref()
                .is_some_and(|http| self.visit_text(http.path, false, &mut visit)),
            Dimension::Host => subject
                .http
                .as_ref()
                .and_then(|http| http.authority.as_deref())
                .is_some_and(|host| self.visit_text(host, true, &mut visit)),
            Dimension::Method => subject
                .http
                .as_ref()
                .is_some_and(|http| visit(text_key(http.method))),
            Dimension::User => subject
                .user()
                .and_then(User::principal)
                .is_some_and(|principal| self.visit_text(principal, false, &mut visit)),
            Dimension::Claim => subject.user().is_some_and(|user| {
                self.claims.iter().any(|path| match claim(user.claims(), path) {
                    Some(Value::String(text)) => visit(claim_key(path, text)),
                    Some(Value::Array(values)) => values
                        .iter()
                        .filter_map(Value::as_str)
                        .any(|text| visit(claim_key(path, text))),
                    Some(Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_)) | None => false,
                })
            }),
            Dimension::Port => visit(u64::from(subject.connection.destination.port())),
            Dimension::Account | Dimension::Namespace => match subject.identity {
                None => false,
                Some(identity) => match identity.workload {
                    Some((namespace, account)) if self.dimension == Dimension::Account => {
                        visit(account_key(namespace, account))
                    }
                    Some((namespace, _)) => visit(text_key(namespace)),
                    // A foreign form of identity may hold several: all places are candidates.
                    None => self.children.values().any(|child| child.find(subject, candidate)),
                },
            },
        }
    }

    /// The places of a text: of its prefixes that rules ask for, then of the whole.
    fn visit_text(&self, text: &str, ignores_case: bool, visit: &mut impl FnMut(u64) -> bool) -> bool {
        let mut lengths = self.prefix_lengths.iter().copied().peekable();
        let mut hasher = FieldHasher::default();
        for (at, byte) in text.bytes().enumerate() {
            if lengths.next_if_eq(&at).is_some() && visit(!hasher.finish()) {
                return true;
            }
            hasher.write_u8(if ignores_case {
                byte.to_ascii_lowercase()
            } else {
                byte
            });
        }
        let whole = hasher.finish();
        (lengths.next_if_eq(&text.len()).is_some() && visit(!whole)) || visit(whole)
    }
}

/// Rules by the values that they are filed under.
type Places<'r> = HashMap<FiledKey, Vec<(u32, &'r Rule)>, FieldHashing>;

fn divide(rules: &[(u32, &Rule)], dimensions: &[Dimension], copies_left: &mut usize) -> RuleIndex {
    if rules.len() <= SMALL || dimensions.is_empty() {
        return leaf(rules);
    }
    let filed: Vec<Vec<(Dimension, BTreeSet<FiledKey>)>> = rules
        .iter()
        .map(|(_, rule)| {
            dimensions
                .iter()
                .filter_map(|dimension| Some((*dimension, keys(rule, *dimension)?)))
                .collect()
        })
        .collect();
    let mut crowd: HashMap<(u8, u64), usize> = HashMap::new();
    for (dimension, keys) in filed.iter().flatten() {
        for key in keys {
            *crowd.entry((*dimension as u8, key.hash)).or_default() += 1;
        }
    }
    let mut always = Vec::new();
    let mut places: Vec<(Dimension, Places<'_>)> = dimensions
        .iter()
        .map(|dimension| (*dimension, HashMap::default()))
        .collect();
    for (rule, choices) in rules.iter().zip(&filed) {
        let least_crowded = choices
            .iter()
            .filter(|(_, keys)| keys.len() <= *copies_left)
            .min_by_key(|(dimension, keys)| {
                let crowd_of = |key: &FiledKey| crowd.get(&(*dimension as u8, key.hash)).copied();
                (keys.iter().filter_map(crowd_of).max(), keys.len())
            });
        let place = least_crowded.and_then(|(dimension, keys)| {
            let place = places.iter_mut().find(|(place, _)| place == dimension)?;
            Some((&mut place.1, keys))
        });
        match place {
            Some((children, keys)) => {
                *copies_left -= keys.len();
                for key in keys {
                    children.entry(*key).or_default().push(*rule);
                }
            }
            None => always.push(rule.0),
        }
    }
    let branches = places
        .into_iter()
        .filter(|(_, children)| !children.is_empty())
        .map(|(dimension, children)| {
            let others: Vec<Dimension> = dimensions
                .iter()
                .copied()
                .filter(|other| *other != dimension)
                .collect();
            let filed_rules = children.values().flatten().map(|(_, rule)| *rule);
            let claims = match dimension {
                Dimension::Claim => claims_of(filed_rules),
                Dimension::Principal
                | Dimension::Account
                | Dimension::Namespace
                | Dimension::Path
                | Dimension::Host
                | Dimension::Port
                | Dimension::Method
                | Dimension::User => BTreeSet::new(),
            };
            let lengths: BTreeSet<usize> = children.keys().filter_map(|key| key.prefix_length).collect();
            let mut merged: HashMap<u64, Vec<(u32, &Rule)>, FieldHashing> = HashMap::default();
            for (key, rules) in children {
                merged.entry(key.hash).or_default().extend(rules);
            }
            Branch {
                dimension,
                children: merged
                    .into_iter()
                    .map(|(key, rules)| (key, divide(&rules, &others, copies_left)))
                    .collect(),
                prefix_lengths: lengths.into_iter().collect(),
                claims,
            }
        })
        .collect();
    RuleIndex { always, branches }
}

/// The claims that these rules ask for.
fn claims_of<'r>(rules: impl Iterator<Item = &'r Rule>) -> BTreeSet<ClaimPath> {
    rules
        .flat_map(|rule| &rule.when)
        .filter_map(|condition| {
            let Condition::RequestClaim(path, _) = condition else {
                return None;
            };
            Some(path.clone())
        })
        .collect()
}

fn leaf(rules: &[(u32, &Rule)]) -> RuleIndex {
    RuleIndex {
        always: rules.iter().map(|(number, _)| *number).collect(),
        branches: Vec::new(),
    }
}

/// The values of a field, one of which a request must have for the rule to match; `None` where the rule would also
/// match without any of them.
fn keys(rule: &Rule, dimension: Dimension) -> Option<BTreeSet<FiledKey>> {
    let from = || {
        of_all(rule.from.iter().map(|source| match dimension {
            Dimension::Principal => text_keys(&source.principals, false),
            Dimension::Account => account_keys(&source.service_accounts),
            Dimension::Namespace => namespace_keys(&source.namespaces),
            // Every form but `*` and `*x` says how `issuer/subject` begins.
            Dimension::User => text_keys(&source.request_principals, false),
            Dimension::Path | Dimension::Host | Dimension::Port | Dimension::Method | Dimension::Claim => {
                None
            }
        }))
    };
    let to = || {
        of_all(rule.to.iter().map(|operation| match dimension {
            Dimension::Path => of_values(&operation.paths, |path| match path {
                PathMatch::Text(text) => text_key_of(text, false),
                PathMatch::Template(pattern) => prefix_key(template_prefix(pattern), false),
            }),
            Dimension::Host => text_keys(&operation.hosts, true),
            Dimension::Port => of_values(&operation.ports, |port| exact(u64::from(port.get()))),
            Dimension::Method => of_values(&operation.methods, |method| match method {
                StringMatch::Exact(text) => exact(text_key(text)),
                StringMatch::Present | StringMatch::Prefix(_) | StringMatch::Suffix(_) => None,
            }),
            Dimension::Principal
            | Dimension::Account
            | Dimension::Namespace
            | Dimension::User
            | Dimension::Claim => None,
        }))
    };
    let when = rule.when.iter().map(|condition| match (condition, dimension) {
        (Condition::SourcePrincipal(values), Dimension::Principal)
        | (Condition::RequestPrincipal(values), Dimension::User) => text_keys(values, false),
        (Condition::SourceServiceAccount(values), Dimension::Account) => account_keys(values),
        (Condition::SourceNamespace(values), Dimension::Namespace) => namespace_keys(values),
        (Condition::DestinationPort(ports), Dimension::Port) => {
            of_values(ports, |port| exact(u64::from(port.get())))
        }
        (Condition::RequestClaim(path, values), Dimension::Claim) => of_values(values, |value| match value {
            StringMatch::Exact(text) => exact(claim_key(path, text)),
            StringMatch::Present | StringMatch::Prefix(_) | StringMatch::Suffix(_) => None,
        }),
        _ => None,
    });
    [from(), to()]
        .into_iter()
        .chain(when)
        .flatten()
        .min_by_key(BTreeSet::len)
}

/// The keys of several alternatives; `None` when there are no alternatives or one of them has no keys.
fn of_all(alternatives: impl Iterator<Item = Option<BTreeSet<FiledKey>>>) -> Option<BTreeSet<FiledKey>> {
    let mut all = BTreeSet::new();
    for keys in alternatives {
        all.extend(keys?);
    }
    Some(all).filter(|keys| !keys.is_empty())
}

fn of_values<T>(matcher: &Matcher<T>, key: impl Fn(&T) -> Option<FiledKey>) -> Option<BTreeSet<FiledKey>> {
    let keys: BTreeSet<FiledKey> = matcher.any.iter().map(key).collect::<Option<_>>()?;
    Some(keys).filter(|keys| !keys.is_empty())
}

fn text_keys(matcher: &Matcher<StringMatch>, ignores_case: bool) -> Option<BTreeSet<FiledKey>> {
    of_values(matcher, |text| text_key_of(text, ignores_case))
}

fn account_keys(matcher: &Matcher<NamespacedName>) -> Option<BTreeSet<FiledKey>> {
    of_values(matcher, |account| {
        exact(account_key(account.namespace.as_str(), account.name.as_str()))
    })
}

fn namespace_keys(matcher: &Matcher<std::sync::Arc<str>>) -> Option<BTreeSet<FiledKey>> {
    of_values(matcher, |namespace| {
        if namespace.contains('*') {
            None
        } else {
            exact(text_key(namespace))
        }
    })
}

fn text_key_of(text: &StringMatch, ignores_case: bool) -> Option<FiledKey> {
    match text {
        StringMatch::Exact(text) if ignores_case => exact(text_key(&text.to_ascii_lowercase())),
        StringMatch::Exact(text) => exact(text_key(text)),
        StringMatch::Prefix(text) => prefix_key(text, ignores_case),
        StringMatch::Present | StringMatch::Suffix(_) => None,
    }
}

fn prefix_key(text: &str, ignores_case: bool) -> Option<FiledKey> {
    let hash = if ignores_case {
        text_key(&text.to_ascii_lowercase())
    } else {
        text_key(text)
    };
    (!text.is_empty()).then_some(FiledKey {
        hash: !hash, // told apart from the same text as a whole
        prefix_length: Some(text.len()),
    })
}

#[expect(
    clippy::unnecessary_wraps,
    reason = "reads as one of the values that a field may or may not be filed under"
)]
fn exact(hash: u64) -> Option<FiledKey> {
    Some(FiledKey {
        hash,
        prefix_length: None,
    })
}

fn text_key(text: &str) -> u64 {
    let mut hasher = FieldHasher::default();
    hasher.write(text.as_bytes());
    hasher.finish()
}

fn claim_key(path: &[Arc<str>], value: &str) -> u64 {
    let mut hasher = FieldHasher::default();
    for name in path {
        hasher.write(name.as_bytes());
        hasher.write_u8(0);
    }
    hasher.write_u8(0);
    hasher.write(value.as_bytes());
    hasher.finish()
}

fn account_key(namespace: &str, account: &str) -> u64 {
    let mut hasher = FieldHasher::default();
    hasher.write(namespace.as_bytes());
    hasher.write_u8(b'/');
    hasher.write(account.as_bytes());
    hasher.finish()
}
