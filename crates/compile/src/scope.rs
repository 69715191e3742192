//! Least knowledge: who is told where a service is served.
//!
//! With the zero-trust profile only identities that some ALLOW policy could let in, judged by the parts of its rules that
//! speak of the source's identity; whatever else a rule asks for is taken as fulfilled, and DENY policies are left out.
//! So rather too many are told than too few. With the Istio profile everybody is told, and of a service that no workload
//! stands behind, too.

use std::collections::BTreeSet;
use std::sync::Arc;

use bartizan_mesh::{Action, Condition, Matcher, Policy, Rule, Source};
use bartizan_types::{NamespacedName, SpiffeId, StringMatch};

/// The identities among `identities` that one of these policies could let in.
pub(crate) fn audience<'a>(
    policies: &[&Policy],
    identities: impl Iterator<Item = &'a SpiffeId>,
) -> BTreeSet<SpiffeId> {
    identities
        .filter(|identity| policies.iter().any(|policy| could_admit(policy, identity)))
        .cloned()
        .collect()
}

/// Whether an ALLOW policy could let this identity in.
pub(crate) fn could_admit(policy: &Policy, identity: &SpiffeId) -> bool {
    policy.action == Action::Allow && policy.rules.iter().any(|rule| could_match(rule, identity))
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
