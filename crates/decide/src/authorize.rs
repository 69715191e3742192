//! Whether a request or a connection may pass. DENY before ALLOW; under zero trust nothing passes that no policy allows.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use bartizan_mesh::{MtlsMode, Profile};
use bartizan_types::{NamespacedName, Peer, Port, RuleId, Version};

use crate::engine::{Engine, Local};
use crate::facts::{ConnectionFacts, Headers, HttpFacts, NoHeaders};
use crate::matching::{Http, Identity, Subject};
use crate::path::{Ambiguous, canonical_path};
use crate::policy_set::Verdict;

/// The proof that one request or connection was allowed. Only [`authorize_http`] and [`authorize_tcp`] make it, it
/// cannot be copied, and whoever sends something upstream takes it by value.
#[derive(Debug)]
#[must_use = "a permit is for sending something"]
pub struct Permit {
    version: Version,
    /// Local workload and number of the ALLOW rule.
    rule: Option<(usize, u32)>,
}

impl Permit {
    pub(crate) fn rule(&self, version: Version) -> Option<(usize, u32)> {
        self.rule.filter(|_| self.version == version)
    }
}

/// A refusal: not an error, a result with a reason.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Denied {
    /// Why.
    pub reason: Reason,
    /// The policies that were looked at.
    pub policies: Arc<[NamespacedName]>,
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
    /// The profile is zero trust and no ALLOW policy selects the workload.
    #[error("no ALLOW policy selects this workload, and the profile is zero-trust")]
    NoAllowPolicy,
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
            Reason::PolicyDenied(rule) => Some(rule),
            Reason::NoAllowMatched
            | Reason::NoAllowPolicy
            | Reason::PlaintextRefused
            | Reason::AmbiguousPath(_)
            | Reason::NoView => None,
        }
    }

    /// The status of an HTTP answer: 400 for a path without a single meaning, else 403.
    pub fn status(&self) -> u16 {
        match self.reason {
            Reason::AmbiguousPath(_) => 400,
            Reason::PolicyDenied(_)
            | Reason::NoAllowMatched
            | Reason::NoAllowPolicy
            | Reason::PlaintextRefused
            | Reason::NoView => 403,
        }
    }
}

impl fmt::Display for Denied {
    /// The access log's `response_code_details`, in the form that Istio's tools parse.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.reason {
            Reason::PolicyDenied(rule) => write!(f, "rbac_access_denied_matched_policy[{rule}]"),
            Reason::NoAllowMatched | Reason::NoAllowPolicy => {
                f.write_str("rbac_access_denied_matched_policy[none]")
            }
            Reason::PlaintextRefused => f.write_str("plaintext_refused"),
            Reason::AmbiguousPath(_) => f.write_str("ambiguous_path"),
            Reason::NoView => f.write_str("no_configuration"),
        }
    }
}

/// Whether an HTTP request may pass.
///
/// # Errors
/// [`Denied`] with the reason.
pub fn authorize_http<H: Headers + ?Sized>(
    engine: &Engine,
    facts: &HttpFacts<'_, H>,
) -> Result<Permit, Denied> {
    let (at, local) = local_of(engine, &facts.connection)?;
    local.refuse_plaintext(engine, &facts.connection)?;
    let path = canonical_path(facts.target, engine.path_rule())
        .map_err(|ambiguous| local.denied(ambiguous.into()))?;
    verdict(engine, (at, local), &http_subject(facts, path.as_str()))
}

/// Whether a connection whose bytes are not looked into may pass.
///
/// # Errors
/// [`Denied`] with the reason.
pub fn authorize_tcp(engine: &Engine, facts: &ConnectionFacts<'_>) -> Result<Permit, Denied> {
    let (at, local) = local_of(engine, facts)?;
    local.refuse_plaintext(engine, facts)?;
    verdict(engine, (at, local), &tcp_subject(facts))
}

/// Whether a connection may be open at all, whatever is asked on it later: whether plaintext is refused.
///
/// # Errors
/// [`Denied`] when the mTLS mode refuses it.
pub fn authorize_connection(engine: &Engine, facts: &ConnectionFacts<'_>) -> Result<(), Denied> {
    local_of(engine, facts)?.1.refuse_plaintext(engine, facts)
}

pub(crate) fn http_subject<'a, H: ?Sized>(facts: &'a HttpFacts<'a, H>, path: &'a str) -> Subject<'a, H> {
    Subject {
        connection: &facts.connection,
        identity: Identity::of(facts.connection.peer),
        http: Some(Http {
            method: facts.method,
            authority: facts.authority.map(one_name),
            path,
            headers: facts.headers,
        }),
    }
}

/// The authority without the dot that may end a full name: `a.example.` and `a.example` are one host to routes, resolvers
/// and applications, so they are to policy.
fn one_name(authority: &str) -> Cow<'_, str> {
    if let Some(host) = authority.strip_suffix('.') {
        return Cow::Borrowed(host);
    }
    match authority.rsplit_once(".:") {
        Some((host, port)) if !host.is_empty() => Cow::Owned(format!("{host}:{port}")),
        _ => Cow::Borrowed(authority),
    }
}

pub(crate) fn tcp_subject<'a>(facts: &'a ConnectionFacts<'a>) -> Subject<'a, NoHeaders> {
    Subject {
        connection: facts,
        identity: Identity::of(facts.peer),
        http: None,
    }
}

fn local_of<'e>(engine: &'e Engine, facts: &ConnectionFacts<'_>) -> Result<(usize, &'e Local), Denied> {
    engine.local(facts.local).ok_or_else(|| Denied {
        reason: Reason::NoView,
        policies: Arc::default(),
    })
}

fn verdict<H: Headers + ?Sized>(
    engine: &Engine,
    (at, local): (usize, &Local),
    subject: &Subject<'_, H>,
) -> Result<Permit, Denied> {
    let permit = |rule| Permit {
        version: engine.snapshot().version(),
        rule,
    };
    match local.set.verdict(subject) {
        Verdict::Allowed(rule) => Ok(permit(Some((at, rule)))),
        Verdict::NoAllowPolicy if engine.profile() == Profile::Istio => Ok(permit(None)),
        Verdict::NoAllowPolicy => Err(local.denied(Reason::NoAllowPolicy)),
        Verdict::NoAllowMatched => Err(local.denied(Reason::NoAllowMatched)),
        Verdict::Denied(rule) => Err(local.denied(
            local
                .set
                .id(rule)
                .map_or(Reason::NoAllowMatched, |rule| Reason::PolicyDenied(rule.clone())),
        )),
    }
}

impl Local {
    fn denied(&self, reason: Reason) -> Denied {
        Denied {
            reason,
            policies: Arc::clone(self.set.names()),
        }
    }

    /// Refuses a peer without an identity where the mode is STRICT. A gateway's listeners are for people outside, who
    /// have none; their listener says what TLS they speak.
    fn refuse_plaintext(&self, engine: &Engine, facts: &ConnectionFacts<'_>) -> Result<(), Denied> {
        if !matches!(facts.peer, Peer::Plaintext) {
            return Ok(());
        }
        let Ok(port) = Port::new(u32::from(facts.destination.port())) else {
            return Err(self.denied(Reason::PlaintextRefused));
        };
        let is_way_in = self
            .view
            .gateway
            .as_ref()
            .is_some_and(|gateway| engine.ways_in().has_listener(gateway, port));
        if is_way_in || self.view.mtls_of(port) != MtlsMode::Strict {
            Ok(())
        } else {
            Err(self.denied(Reason::PlaintextRefused))
        }
    }
}

#[cfg(test)]
#[path = "authorize_tests.rs"]
mod tests;
