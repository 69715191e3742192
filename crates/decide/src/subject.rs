//! What rules are matched against: a connection and the request on it, with the caller's identity taken apart once.

use std::borrow::Cow;

use bartizan_mesh::{Snapshot, View};
use bartizan_types::{NamespacedName, Peer, StringMatch};

use crate::facts::ConnectionFacts;
use crate::user::User;

/// What is matched against: the connection, and the request where there is one.
pub(crate) struct Subject<'a, H: ?Sized> {
    pub(crate) connection: &'a ConnectionFacts<'a>,
    pub(crate) identity: Option<Identity<'a>>,
    pub(crate) http: Option<Http<'a, H>>,
    /// What the workload is.
    pub(crate) view: &'a View,
    /// Who everybody is.
    pub(crate) snapshot: &'a Snapshot,
    /// The profile lets the caller in only by a rule that names it in full: it is of another namespace.
    pub(crate) must_be_named: bool,
    /// Asks what would be if the best of all users had sent it.
    pub(crate) takes_any_user: bool,
}

impl<'a, H: ?Sized> Subject<'a, H> {
    /// The same, for whom no rule has to name it.
    pub(crate) fn as_if_named(&self) -> Self {
        Self {
            must_be_named: false,
            ..self.copy()
        }
    }

    /// The same, with a user whom every rule takes.
    pub(crate) fn with_any_user(&self) -> Self {
        Self {
            takes_any_user: true,
            ..self.copy()
        }
    }

    fn copy(&self) -> Self {
        Self {
            connection: self.connection,
            identity: self.identity,
            http: self.http.clone(),
            view: self.view,
            snapshot: self.snapshot,
            must_be_named: self.must_be_named,
            takes_any_user: self.takes_any_user,
        }
    }

    /// Whose token the request has.
    pub(crate) fn user(&self) -> Option<&'a User> {
        self.http.as_ref()?.user
    }
}

/// The parts of a request that rules look at.
pub(crate) struct Http<'a, H: ?Sized> {
    pub(crate) method: &'a str,
    pub(crate) authority: Option<Cow<'a, str>>,
    pub(crate) path: &'a str,
    pub(crate) headers: &'a H,
    pub(crate) target: &'a str,
    pub(crate) user: Option<&'a User>,
}

impl<H: ?Sized> Clone for Http<'_, H> {
    fn clone(&self) -> Self {
        Self {
            method: self.method,
            authority: self.authority.clone(),
            path: self.path,
            headers: self.headers,
            target: self.target,
            user: self.user,
        }
    }
}

/// A proven identity, taken apart once.
#[derive(Clone, Copy)]
pub(crate) struct Identity<'a> {
    /// Without `spiffe://`.
    pub(crate) principal: &'a str,
    /// Namespace and service account, where the path is exactly `/ns/NAMESPACE/sa/ACCOUNT`.
    pub(crate) workload: Option<(&'a str, &'a str)>,
}

impl<'a> Identity<'a> {
    pub(crate) fn of(peer: &'a Peer) -> Option<Self> {
        let principal = peer.identity()?.principal();
        let mut parts = principal.split('/').skip(1);
        let parts = [
            parts.next(),
            parts.next(),
            parts.next(),
            parts.next(),
            parts.next(),
        ];
        let workload = match parts {
            [Some("ns"), Some(namespace), Some("sa"), Some(account), None] => Some((namespace, account)),
            _ => None,
        };
        Some(Self { principal, workload })
    }

    /// Istio's regex `.*/ns/PATTERN/.*`, with `*` not reaching over a `/`.
    pub(crate) fn is_in_namespace(&self, pattern: &str) -> bool {
        if let Some((namespace, _)) = self.workload {
            return glob(pattern, namespace);
        }
        self.segments()
            .zip(self.segments().skip(1))
            .zip(self.segments().skip(2))
            .any(|((key, namespace), _)| key == "ns" && glob(pattern, namespace))
    }

    /// Istio's regex `spiffe://.+/ns/NAMESPACE/(.+/|)sa/ACCOUNT(/.+)?`, which tolerates more segments.
    pub(crate) fn has_account(&self, wanted: &NamespacedName) -> bool {
        let (namespace, account) = (wanted.namespace.as_str(), wanted.name.as_str());
        if let Some(workload) = self.workload {
            return workload == (namespace, account);
        }
        // The first matching namespace leaves most segments for the account.
        let Some(at) = self
            .segments()
            .zip(self.segments().skip(1))
            .position(|pair| pair == ("ns", namespace))
        else {
            return false;
        };
        self.segments()
            .skip(at + 2)
            .zip(self.segments().skip(at + 3))
            .any(|pair| pair == ("sa", account))
    }

    pub(crate) fn is_of_domain(&self, wanted: &StringMatch) -> bool {
        self.principal
            .split_once('/')
            .is_some_and(|(domain, _)| match wanted {
                StringMatch::Present => true, // Istio: `[^/]*`
                StringMatch::Exact(_) | StringMatch::Prefix(_) | StringMatch::Suffix(_) => {
                    wanted.matches(domain)
                }
            })
    }

    /// The path's segments; the trust domain is not one.
    fn segments(&self) -> impl Iterator<Item = &'a str> {
        self.principal.split('/').skip(1)
    }
}

/// `*` stands for any run of characters, anywhere and as often as it is written.
fn glob(pattern: &str, text: &str) -> bool {
    let Some((head, tail)) = pattern.split_once('*') else {
        return pattern == text;
    };
    let Some(mut rest) = text.strip_prefix(head) else {
        return false;
    };
    let mut pieces = tail.split('*').peekable();
    while let Some(piece) = pieces.next() {
        if pieces.peek().is_none() {
            return rest.ends_with(piece);
        }
        match rest.find(piece).and_then(|at| rest.get(at + piece.len()..)) {
            Some(after) => rest = after,
            None => return false,
        }
    }
    false // `split` gives at least one piece, and the last one returns
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_in_a_namespace_stands_for_any_run() {
        for (pattern, text, is_match) in [
            ("*", "a", true),
            ("*", "", true),
            ("a*", "abc", true),
            ("*c", "abc", true),
            ("a*c", "abc", true),
            ("a*c", "ac", true),
            ("a*b*c", "a-b-b-c", true),
            ("a*b", "ab-c", false),
            ("a*a", "a", false),
            ("a", "ab", false),
        ] {
            assert_eq!(glob(pattern, text), is_match, "{pattern} {text}");
        }
    }
}
