//! Refusals: why a request or a connection does not pass, and how that is answered and logged.

use std::fmt;
use std::sync::Arc;

use bartizan_mesh::PolicyName;
use bartizan_types::RuleId;

use crate::authenticate::challenge;
use crate::marks::{self, Marks};
use crate::path::Ambiguous;

/// A refusal: not an error, a result with a reason.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Denied {
    /// Why.
    pub reason: Reason,
    /// The policies that were looked at.
    pub policies: Arc<[PolicyName]>,
    pub(crate) marks: Option<Box<Marks>>,
}

/// Why a request or a connection is refused.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Reason {
    /// A rule of a DENY policy matched.
    #[error("denied by {0}")]
    PolicyDenied(RuleId),
    /// There are ALLOW policies, and no rule of theirs matched.
    #[error("no rule of an ALLOW policy matched")]
    NoAllowMatched,
    /// No ALLOW policy selects the workload, and the profile wants one.
    #[error("no ALLOW policy selects this workload, and the profile allows nothing that no policy allows")]
    NoAllowPolicy,
    /// No ALLOW policy selects the workload, and the profile lets in only its own namespace.
    #[error(
        "no ALLOW policy selects this workload, the profile lets in only its own namespace, and the caller is not of it"
    )]
    OtherNamespace,
    /// An ALLOW rule matched, but does not name the caller, who is of another namespace.
    #[error(
        "{0} allows it, but the profile lets a caller of another namespace in only by a rule that names it in full"
    )]
    NotNamed(RuleId),
    /// The profile wants a user's verified token here.
    #[error("no user credential: the profile wants a user's verified token here")]
    NoUser,
    /// No rule of an ALLOW policy matched, and one could if the request had a user's token.
    #[error("no rule of an ALLOW policy matched; {0} could, for a request with a user's token")]
    NeedsUser(RuleId),
    /// The authorizer said no.
    #[error("authorizer `{provider}`, which {rule} asks, refused it")]
    AuthorizerDenied {
        /// The first rule that wanted it asked.
        rule: RuleId,
        /// Its name.
        provider: Arc<str>,
    },
    /// The authorizer gave no answer, and is not `failOpen`.
    #[error("authorizer `{provider}`, which {rule} asks, gave no answer")]
    AuthorizerSilent {
        /// The first rule that wanted it asked.
        rule: RuleId,
        /// Its name.
        provider: Arc<str>,
        /// `statusOnError`.
        status: u16,
    },
    /// A CUSTOM rule matched whose authorizer is not known.
    #[error("{rule} asks authorizer `{provider}`, which is not known")]
    NoAuthorizer {
        /// The rule.
        rule: RuleId,
        /// The name that it has in the policy.
        provider: Arc<str>,
    },
    /// A request in flight: a changed policy asks an authorizer that it was not checked by.
    #[error("authorizer `{provider}`, which {rule} asks since the change, has not been asked about it")]
    AuthorizerNotAsked {
        /// The rule.
        rule: RuleId,
        /// The authorizer.
        provider: Arc<str>,
    },
    /// A request in flight: its token is no longer accepted.
    #[error("the user's token is no longer accepted: {0}")]
    TokenRefused(String),
    /// The effective mTLS mode is STRICT and the peer proved no identity.
    #[error("plaintext is refused: mutual TLS is STRICT here")]
    PlaintextRefused,
    /// The path has no single meaning.
    #[error("{0}")]
    AmbiguousPath(#[from] Ambiguous),
    /// The workload is not one that this proxy serves.
    #[error("this proxy has no configuration for the workload")]
    NoView,
}

impl Denied {
    /// The rule that denied, if one did.
    pub fn rule(&self) -> Option<&RuleId> {
        match &self.reason {
            Reason::PolicyDenied(rule)
            | Reason::AuthorizerDenied { rule, .. }
            | Reason::AuthorizerSilent { rule, .. }
            | Reason::NoAuthorizer { rule, .. }
            | Reason::AuthorizerNotAsked { rule, .. } => Some(rule),
            Reason::NoAllowMatched
            | Reason::NoAllowPolicy
            | Reason::OtherNamespace
            | Reason::NotNamed(_)
            | Reason::NoUser
            | Reason::NeedsUser(_)
            | Reason::TokenRefused(_)
            | Reason::PlaintextRefused
            | Reason::AmbiguousPath(_)
            | Reason::NoView => None,
        }
    }

    /// The status of an HTTP answer: 400 for a path without a single meaning, 401 where a user's token is wanted, what the
    /// authorizer's settings say where it gave no answer, else 403. An authorizer that refuses has its own.
    pub fn status(&self) -> u16 {
        match &self.reason {
            Reason::AmbiguousPath(_) => 400,
            Reason::NoUser | Reason::NeedsUser(_) | Reason::TokenRefused(_) => 401,
            Reason::AuthorizerSilent { status, .. } => *status,
            Reason::PolicyDenied(_)
            | Reason::NoAllowMatched
            | Reason::NoAllowPolicy
            | Reason::OtherNamespace
            | Reason::NotNamed(_)
            | Reason::AuthorizerDenied { .. }
            | Reason::NoAuthorizer { .. }
            | Reason::AuthorizerNotAsked { .. }
            | Reason::PlaintextRefused
            | Reason::NoView => 403,
        }
    }

    /// `www-authenticate` where a token would help (RFC 6750 §3). `realm` is the URI that was asked for.
    pub fn challenge(&self, realm: &str) -> Option<String> {
        matches!(self.reason, Reason::NoUser | Reason::NeedsUser(_)).then(|| challenge(realm))
    }

    /// What is noted beside the decision.
    pub fn marks(&self) -> &Marks {
        marks::or_none(self.marks.as_deref())
    }
}

impl fmt::Display for Denied {
    /// The access log's `response_code_details`, in the form that Istio's tools parse.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.reason {
            Reason::PolicyDenied(rule) => write!(f, "rbac_access_denied_matched_policy[{rule}]"),
            Reason::NoAllowMatched
            | Reason::NoAllowPolicy
            | Reason::OtherNamespace
            | Reason::NeedsUser(_)
            | Reason::NotNamed(_) => f.write_str("rbac_access_denied_matched_policy[none]"),
            Reason::NoUser => f.write_str("no_user_credential"),
            Reason::AuthorizerDenied { .. } | Reason::AuthorizerNotAsked { .. } => {
                f.write_str("ext_authz_denied")
            }
            Reason::AuthorizerSilent { .. } => f.write_str("ext_authz_error"),
            Reason::NoAuthorizer { rule, .. } => write!(
                f,
                "rbac_access_denied_matched_policy[{rule}-deny-due-to-bad-CUSTOM-action]"
            ),
            Reason::TokenRefused(_) => f.write_str("token_no_longer_accepted"),
            Reason::PlaintextRefused => f.write_str("plaintext_refused"),
            Reason::AmbiguousPath(_) => f.write_str("ambiguous_path"),
            Reason::NoView => f.write_str("no_configuration"),
        }
    }
}
