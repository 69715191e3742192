//! Least knowledge: who is told where a service is served.
//!
//! Where the profile says `reach: ALLOWED`, only identities that some ALLOW policy could let in (or the profile, where none
//! speaks), judged by the parts of its rules that speak of the source's identity; whatever else a rule asks for (a user's
//! token, an address, an expression) is taken as fulfilled, and DENY policies are left out. So rather too many are told than
//! too few. With `reach: EVERYTHING` everybody is told, and of a service that no workload stands behind, too.

use std::collections::BTreeSet;
use std::sync::Arc;

use bartizan_mesh::{
    AcrossNamespaces, Action, Condition, Matcher, Policy, Profile, Rule, Source, WithoutPolicy,
};
use bartizan_types::{Namespace, NamespacedName, SpiffeId, StringMatch};

/// A workload that serves, as far as it matters who is let in.
#[derive(Clone, Debug)]
pub(crate) struct Door<'a> {
    pub(crate) namespace: &'a Namespace,
    pub(crate) policies: Vec<&'a Policy>,
}

/// The identities among `identities` that could be let in at one of these doors.
pub(crate) fn audience<'a>(
    doors: &[Door<'_>],
    profile: &Profile,
    identities: impl Iterator<Item = &'a SpiffeId>,
) -> BTreeSet<SpiffeId> {
    identities
        .filter(|identity| doors.iter().any(|door| door.could_admit(profile, identity)))
        .cloned()
        .collect()
}

impl Door<'_> {
    /// Whether this identity could be let in here.
    pub(crate) fn could_admit(&self, profile: &Profile, identity: &SpiffeId) -> bool {
        let is_neighbour = identity.namespace() == Some(self.namespace.as_str());
        let mut rules = self
            .policies
            .iter()
            .filter(|policy| policy.action == Action::Allow && !policy.dry_run)
            .peekable();
        if rules.peek().is_none() {
            return match profile.without_policy {
                WithoutPolicy::Allow => true,
                WithoutPolicy::Deny => false,
                WithoutPolicy::OwnNamespace => is_neighbour,
            };
        }
        let as_written = profile.across_namespaces == AcrossNamespaces::AsWritten || is_neighbour;
        rules
            .flat_map(|policy| &policy.rules)
            .any(|rule| could_match(rule, identity) && (as_written || could_name(rule, identity)))
    }
}

fn could_match(rule: &Rule, identity: &SpiffeId) -> bool {
    let from = rule.from.is_empty() || rule.from.iter().any(|source| source_matches(source, identity));
    from && rule.when.iter().all(|condition| match condition {
        Condition::SourceNamespace(values) => asks(values, |value| namespace_matches(value, identity)),
        Condition::SourcePrincipal(values) => asks(values, |value| principal_matches(value, identity)),
        Condition::SourceServiceAccount(values) => asks(values, |value| account_matches(value, identity)),
        Condition::SourceTrustDomain(values) => asks(values, |value| value.matches(identity.trust_domain())),
        Condition::Header(..)
        | Condition::SourceIp(_)
        | Condition::DestinationIp(_)
        | Condition::DestinationPort(_)
        | Condition::Sni(_)
        | Condition::RemoteIp(_)
        | Condition::RequestPrincipal(_)
        | Condition::RequestAudiences(_)
        | Condition::RequestPresenter(_)
        | Condition::RequestClaim(..) => true,
    })
}

/// Whether a rule could name this identity in full (`acrossNamespaces: NAMED`): its principal, service account or namespace
/// without a `*`. What an expression says is not looked into.
fn could_name(rule: &Rule, identity: &SpiffeId) -> bool {
    let principal =
        |value: &StringMatch| matches!(value, StringMatch::Exact(_)) && principal_matches(value, identity);
    let namespace = |value: &Arc<str>| !value.contains('*') && namespace_matches(value, identity);
    let account = |value: &NamespacedName| account_matches(value, identity);
    rule.expression.is_some()
        || rule.from.iter().any(|source| {
            source.principals.any.iter().any(principal)
                || source.namespaces.any.iter().any(namespace)
                || source.service_accounts.any.iter().any(account)
        })
        || rule.when.iter().any(|condition| match condition {
            Condition::SourceNamespace(values) => values.any.iter().any(namespace),
            Condition::SourcePrincipal(values) => values.any.iter().any(principal),
            Condition::SourceServiceAccount(values) => values.any.iter().any(account),
            Condition::SourceTrustDomain(_)
            | Condition::Header(..)
            | Condition::SourceIp(_)
            | Condition::DestinationIp(_)
            | Condition::DestinationPort(_)
            | Condition::Sni(_)
            | Condition::RemoteIp(_)
            | Condition::RequestPrincipal(_)
            | Condition::RequestAudiences(_)
            | Condition::RequestPresenter(_)
            | Condition::RequestClaim(..) => false,
        })
}

fn source_matches(source: &Source, identity: &SpiffeId) -> bool {
    asks(&source.principals, |value| principal_matches(value, identity))
        && asks(&source.namespaces, |value| namespace_matches(value, identity))
        && asks(&source.service_accounts, |value| account_matches(value, identity))
        && asks(&source.trust_domains, |value| {
            value.matches(identity.trust_domain())
        })
}

fn asks<T>(matcher: &Matcher<T>, matches: impl Fn(&T) -> bool) -> bool {
    (matcher.any.is_empty() || matcher.any.iter().any(&matches)) && !matcher.none.iter().any(matches)
}

pub(crate) fn principal_matches(value: &StringMatch, identity: &SpiffeId) -> bool {
    value.matches(identity.principal())
}

/// Istio's service account match tolerates further path segments; identities of this mesh have none.
fn account_matches(value: &NamespacedName, identity: &SpiffeId) -> bool {
    identity.namespace() == Some(value.namespace.as_str())
        && identity.service_account() == Some(value.name.as_str())
}

fn namespace_matches(pattern: &Arc<str>, identity: &SpiffeId) -> bool {
    identity
        .namespace()
        .is_some_and(|namespace| glob_matches(pattern, namespace))
}

/// `*` stands for any run of characters.
pub(crate) fn glob_matches(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = text.strip_prefix(first) else {
        return false;
    };
    let mut parts = parts.peekable();
    if parts.peek().is_none() {
        return rest.is_empty();
    }
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            return rest.ends_with(part);
        }
        match rest.find(part) {
            Some(at) => rest = rest.get(at + part.len()..).unwrap_or_default(),
            None => return false,
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The slow and obvious version.
    fn slow(pattern: &[u8], text: &[u8]) -> bool {
        match (pattern.split_first(), text.split_first()) {
            (None, None) => true,
            (Some((b'*', rest)), _) => {
                slow(rest, text) || text.split_first().is_some_and(|(_, text)| slow(pattern, text))
            }
            (Some((a, pattern)), Some((b, text))) => a == b && slow(pattern, text),
            _ => false,
        }
    }

    proptest! {
        #[test]
        fn the_glob_is_what_it_says(pattern in "[ab*]{0,6}", text in "[ab]{0,8}") {
            prop_assert_eq!(glob_matches(&pattern, &text), slow(pattern.as_bytes(), text.as_bytes()));
        }
    }
}
