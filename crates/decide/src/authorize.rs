//! Whether a request or a connection may pass. CUSTOM before DENY before ALLOW; under zero trust nothing passes that no
//! policy allows.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use bartizan_mesh::{
    AcrossNamespaces, MtlsMode, PolicyName, Provider, ProviderProtocol, UserCredentials, WithoutPolicy,
};
use bartizan_types::{NamespacedName, Peer, Port, RuleId, SpiffeId, Version};

use crate::authenticate::challenge;
use crate::engine::{Engine, Local};
use crate::facts::{ConnectionFacts, Headers, HttpFacts, NoHeaders};
use crate::marks::{self, Marks};
use crate::matching::{Http, Identity, Subject};
use crate::path::{Ambiguous, canonical_path};
use crate::policy_set::Said;

/// What becomes of a request or a connection that is not refused.
#[derive(Debug)]
#[must_use = "a permit is for sending something, and an authorizer is there to be asked"]
pub enum Verdict {
    /// It passes.
    Permit(Permit),
    /// An authorizer is asked first.
    Ask(Ask),
}

impl Verdict {
    /// The permit, for questions where nobody can be asked.
    pub fn permit(self) -> Option<Permit> {
        match self {
            Self::Permit(permit) => Some(permit),
            Self::Ask(_) => None,
        }
    }
}

/// The proof that one request or connection was allowed. Only this module makes it, it cannot be copied, and whoever sends
/// something upstream takes it by value.
#[derive(Debug)]
#[must_use = "a permit is for sending something"]
pub struct Permit {
    version: Version,
    /// Local workload and number of the ALLOW rule.
    rule: Option<(usize, u32)>,
    marks: Option<Box<Marks>>,
}

impl Permit {
    pub(crate) fn rule(&self, version: Version) -> Option<(usize, u32)> {
        self.rule.filter(|_| self.version == version)
    }

    /// What is noted beside the decision.
    pub fn marks(&self) -> &Marks {
        marks::or_none(self.marks.as_deref())
    }
}

/// An authorizer that is to be asked (Istio `action: CUSTOM`).
#[derive(Debug)]
#[must_use = "nothing passes before its authorizer has been asked"]
pub struct Ask {
    /// Whom.
    pub provider: Arc<Provider>,
    /// The first rule that wants it.
    pub rule: RuleId,
    /// The authorizer's place among those of the workload.
    place: usize,
    version: Version,
}

/// What came of asking.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AuthorizerSays {
    /// It lets the request pass.
    Allowed,
    /// It refuses, in its own words.
    Denied,
    /// No answer came, or none that can be read.
    NoAnswer,
}

/// A refusal: not an error, a result with a reason.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Denied {
    /// Why.
    pub reason: Reason,
    /// The policies that were looked at.
    pub policies: Arc<[PolicyName]>,
    marks: Option<Box<Marks>>,
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

/// Whether an HTTP request may pass, and whom to ask first.
///
/// # Errors
/// [`Denied`] with the reason.
pub fn authorize_http<H: Headers + ?Sized>(
    engine: &Engine,
    facts: &HttpFacts<'_, H>,
) -> Result<Verdict, Denied> {
    http(engine, facts, None)
}

/// Whether a connection whose bytes are not looked into may pass, and whom to ask first.
///
/// # Errors
/// [`Denied`] with the reason.
pub fn authorize_tcp(engine: &Engine, facts: &ConnectionFacts<'_>) -> Result<Verdict, Denied> {
    tcp(engine, facts, None)
}

/// Goes on after an authorizer was asked about an HTTP request. `facts` has the headers as the authorizer changed them; it
/// cannot change method, authority, target and user.
///
/// # Errors
/// [`Denied`] with the reason.
pub fn authorize_after<H: Headers + ?Sized>(
    engine: &Engine,
    facts: &HttpFacts<'_, H>,
    ask: Ask,
    says: AuthorizerSays,
) -> Result<Verdict, Denied> {
    let after = answered(engine, &facts.connection, ask, says)?;
    http(engine, facts, after)
}

/// Goes on after an authorizer was asked about a connection of bytes.
///
/// # Errors
/// [`Denied`] with the reason.
pub fn authorize_tcp_after(
    engine: &Engine,
    facts: &ConnectionFacts<'_>,
    ask: Ask,
    says: AuthorizerSays,
) -> Result<Verdict, Denied> {
    let after = answered(engine, facts, ask, says)?;
    tcp(engine, facts, after)
}

/// Whether a connection may be open at all, whatever is asked on it later: whether plaintext is refused.
///
/// # Errors
/// [`Denied`] when the mTLS mode refuses it.
pub fn authorize_connection(engine: &Engine, facts: &ConnectionFacts<'_>) -> Result<(), Denied> {
    local_of(engine, facts)?.1.refuse_plaintext(engine, facts)
}

/// A refusal of this reason by the policies of a workload.
pub(crate) fn denied(engine: &Engine, local: &NamespacedName, reason: Reason) -> Denied {
    match engine.local(local) {
        Some((_, local)) => local.denied(reason),
        None => Denied {
            reason,
            policies: Arc::default(),
            marks: None,
        },
    }
}

/// Whether a request that `old` let pass, after whatever authorizers it asked, still passes. Those are not asked again; one
/// that was not asked refuses.
pub(crate) fn authorize_after_asked<H: Headers + ?Sized>(
    old: &Engine,
    new: &Engine,
    facts: &HttpFacts<'_, H>,
) -> Result<(), Denied> {
    let mut verdict = authorize_http(new, facts)?;
    while let Verdict::Ask(ask) = verdict {
        let path = canonical_path(facts.target, old.path_rule());
        let was_asked = old
            .local(facts.connection.local)
            .zip(path.as_ref().ok())
            .is_some_and(|((_, local), path)| {
                local.asks_whom(&http_subject(old, local, facts, path.as_str()), &ask)
            });
        refuse_unasked(new, &facts.connection, was_asked, &ask)?;
        verdict = authorize_after(new, facts, ask, AuthorizerSays::Allowed)?;
    }
    Ok(())
}

/// As [`authorize_after_asked`], for a connection of bytes.
pub(crate) fn authorize_tcp_after_asked(
    old: &Engine,
    new: &Engine,
    facts: &ConnectionFacts<'_>,
) -> Result<(), Denied> {
    let mut verdict = authorize_tcp(new, facts)?;
    while let Verdict::Ask(ask) = verdict {
        let was_asked = old
            .local(facts.local)
            .is_some_and(|(_, local)| local.asks_whom(&tcp_subject(old, local, facts), &ask));
        refuse_unasked(new, facts, was_asked, &ask)?;
        verdict = authorize_tcp_after(new, facts, ask, AuthorizerSays::Allowed)?;
    }
    Ok(())
}

fn refuse_unasked(
    engine: &Engine,
    facts: &ConnectionFacts<'_>,
    was_asked: bool,
    ask: &Ask,
) -> Result<(), Denied> {
    if was_asked {
        return Ok(());
    }
    let reason = Reason::AuthorizerNotAsked {
        rule: ask.rule.clone(),
        provider: Arc::clone(&ask.provider.name),
    };
    Err(denied(engine, facts.local, reason))
}

/// The place of the authorizer that has said yes. Where the policies changed meanwhile, everybody is asked anew.
fn answered(
    engine: &Engine,
    facts: &ConnectionFacts<'_>,
    ask: Ask,
    says: AuthorizerSays,
) -> Result<Option<usize>, Denied> {
    let (_, local) = local_of(engine, facts)?;
    let Ask {
        provider,
        rule,
        place,
        version,
    } = ask;
    let name = Arc::clone(&provider.name);
    match says {
        AuthorizerSays::Denied => {
            return Err(local.denied(Reason::AuthorizerDenied { rule, provider: name }));
        }
        AuthorizerSays::NoAnswer if !provider.fail_open => {
            return Err(local.denied(Reason::AuthorizerSilent {
                rule,
                provider: name,
                status: provider.status_on_error,
            }));
        }
        AuthorizerSays::Allowed | AuthorizerSays::NoAnswer => {}
    }
    Ok((version == engine.snapshot().version()).then_some(place))
}

fn http<H: Headers + ?Sized>(
    engine: &Engine,
    facts: &HttpFacts<'_, H>,
    after: Option<usize>,
) -> Result<Verdict, Denied> {
    let (at, local) = local_of(engine, &facts.connection)?;
    local.refuse_plaintext(engine, &facts.connection)?;
    let path = canonical_path(facts.target, engine.path_rule())
        .map_err(|ambiguous| local.denied(ambiguous.into()))?;
    local.refuse_nobody(engine, facts.route_is_for_people, Some(facts.user.is_some()))?;
    let subject = http_subject(engine, local, facts, path.as_str());
    verdict(engine, (at, local), &subject, after)
}

fn tcp(engine: &Engine, facts: &ConnectionFacts<'_>, after: Option<usize>) -> Result<Verdict, Denied> {
    let (at, local) = local_of(engine, facts)?;
    local.refuse_plaintext(engine, facts)?;
    local.refuse_nobody(engine, false, None)?;
    verdict(engine, (at, local), &tcp_subject(engine, local, facts), after)
}

pub(crate) fn http_subject<'a, H: ?Sized>(
    engine: &'a Engine,
    local: &'a Local,
    facts: &'a HttpFacts<'a, H>,
    path: &'a str,
) -> Subject<'a, H> {
    let tcp = tcp_subject(engine, local, &facts.connection);
    Subject {
        connection: tcp.connection,
        identity: tcp.identity,
        http: Some(Http {
            method: facts.method,
            authority: facts.authority.map(one_name),
            path,
            headers: facts.headers,
            target: facts.target,
            user: facts.user,
        }),
        view: tcp.view,
        snapshot: tcp.snapshot,
        must_be_named: tcp.must_be_named,
        takes_any_user: false,
    }
}

pub(crate) fn tcp_subject<'a>(
    engine: &'a Engine,
    local: &'a Local,
    facts: &'a ConnectionFacts<'a>,
) -> Subject<'a, NoHeaders> {
    let wants_names = match engine.profile().across_namespaces {
        AcrossNamespaces::AsWritten => false,
        AcrossNamespaces::Named => true,
    };
    let is_from_elsewhere = facts
        .peer
        .identity()
        .is_some_and(|peer| !is_of_one_namespace(peer, &local.view.identity));
    Subject {
        connection: facts,
        identity: Identity::of(facts.peer),
        http: None,
        view: &local.view,
        snapshot: engine.snapshot(),
        must_be_named: wants_names && is_from_elsewhere,
        takes_any_user: false,
    }
}

/// Whether both are workloads of one namespace of one trust domain.
fn is_of_one_namespace(one: &SpiffeId, other: &SpiffeId) -> bool {
    fn place(id: &SpiffeId) -> Option<(&str, &str)> {
        let mut parts = id.principal().split('/');
        let place = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        let is_workload = parts.next().is_some() && parts.next().is_none();
        match place {
            (domain, "ns", namespace, "sa") if is_workload => Some((domain, namespace)),
            _ => None,
        }
    }
    place(one).is_some_and(|one| place(other) == Some(one))
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

fn local_of<'e>(engine: &'e Engine, facts: &ConnectionFacts<'_>) -> Result<(usize, &'e Local), Denied> {
    engine.local(facts.local).ok_or_else(|| Denied {
        reason: Reason::NoView,
        policies: Arc::default(),
        marks: None,
    })
}

fn verdict<H: Headers + ?Sized>(
    engine: &Engine,
    (at, local): (usize, &Local),
    subject: &Subject<'_, H>,
    after: Option<usize>,
) -> Result<Verdict, Denied> {
    let mut asked = after;
    while let Some((place, rule)) = local.set.asks(subject, asked) {
        let rule = local.set.id(rule).cloned();
        let name = local.set.provider(place).cloned().unwrap_or_default();
        let Some((rule, provider)) = rule.clone().zip(engine.snapshot().provider(&name)) else {
            return Err(local.marked(
                subject,
                rule.map_or(Reason::NoAllowMatched, |rule| Reason::NoAuthorizer {
                    rule,
                    provider: name,
                }),
            ));
        };
        let speaks_of_http = match provider.protocol {
            ProviderProtocol::Http(_) => true,
            ProviderProtocol::Grpc => false,
        };
        if subject.http.is_none() && speaks_of_http {
            asked = Some(place); // Istio: an HTTP authorizer has no say about bytes
            continue;
        }
        // Nobody is asked about what would be refused whatever the answer.
        if !local.set.reads_headers() {
            drop(permit(engine, (at, local), subject)?);
        }
        return Ok(Verdict::Ask(Ask {
            provider: Arc::clone(provider),
            rule,
            place,
            version: engine.snapshot().version(),
        }));
    }
    permit(engine, (at, local), subject).map(Verdict::Permit)
}

/// What DENY and ALLOW say, and the profile where they say nothing.
fn permit<H: Headers + ?Sized>(
    engine: &Engine,
    (at, local): (usize, &Local),
    subject: &Subject<'_, H>,
) -> Result<Permit, Denied> {
    let set = &local.set;
    let rule = match set.said(subject) {
        Said::Allowed(rule) => Ok(Some((at, rule))),
        Said::NoAllowPolicy => match engine.profile().without_policy {
            WithoutPolicy::Allow => Ok(None),
            WithoutPolicy::Deny => Err(Reason::NoAllowPolicy),
            WithoutPolicy::OwnNamespace => subject
                .connection
                .peer
                .identity()
                .filter(|peer| is_of_one_namespace(peer, &local.view.identity))
                .map(|_| None)
                .ok_or(Reason::OtherNamespace),
        },
        Said::NoAllowMatched => Err(unnamed(local, subject)
            .or_else(|| wants_user(engine, local, subject))
            .unwrap_or(Reason::NoAllowMatched)),
        Said::Denied(rule) => Err(set
            .id(rule)
            .map_or(Reason::NoAllowMatched, |rule| Reason::PolicyDenied(rule.clone()))),
    };
    match rule {
        Ok(rule) => Ok(Permit {
            version: engine.snapshot().version(),
            rule,
            marks: set.marks(subject),
        }),
        Err(reason) => Err(local.marked(subject, reason)),
    }
}

/// The rule that would allow if the profile did not want the caller named.
fn unnamed<H: Headers + ?Sized>(local: &Local, subject: &Subject<'_, H>) -> Option<Reason> {
    if !subject.must_be_named {
        return None;
    }
    match local.set.said(&subject.as_if_named()) {
        Said::Allowed(rule) => local.set.id(rule).map(|rule| Reason::NotNamed(rule.clone())),
        Said::Denied(_) | Said::NoAllowMatched | Said::NoAllowPolicy => None,
    }
}

/// The rule that would allow if the request had a user's token: then a token is asked for, except where Istio's answers are
/// given, which say nothing of it.
fn wants_user<H: Headers + ?Sized>(
    engine: &Engine,
    local: &Local,
    subject: &Subject<'_, H>,
) -> Option<Reason> {
    if engine.answers_as_istio() || subject.http.is_none() || subject.user().is_some() {
        return None;
    }
    let rule = local.set.wants_user(&subject.with_any_user())?;
    local.set.id(rule).map(|rule| Reason::NeedsUser(rule.clone()))
}

impl Local {
    /// Whether these policies ask the same authorizer.
    fn asks_whom<H: Headers + ?Sized>(&self, subject: &Subject<'_, H>, ask: &Ask) -> bool {
        let mut after = None;
        while let Some((place, _)) = self.set.asks(subject, after) {
            if self.set.provider(place) == Some(&ask.provider.name) {
                return true;
            }
            after = Some(place);
        }
        false
    }

    fn denied(&self, reason: Reason) -> Denied {
        Denied {
            reason,
            policies: Arc::clone(self.set.names()),
            marks: None,
        }
    }

    fn marked<H: Headers + ?Sized>(&self, subject: &Subject<'_, H>, reason: Reason) -> Denied {
        Denied {
            marks: self.set.marks(subject),
            ..self.denied(reason)
        }
    }

    /// Refuses what shows no user's token where the profile wants one. `has_user` is `None` for a connection of bytes, which
    /// cannot show one: it is refused only where the workload itself is marked for people.
    fn refuse_nobody(
        &self,
        engine: &Engine,
        route_is_for_people: bool,
        has_user: Option<bool>,
    ) -> Result<(), Denied> {
        let is_for_people = self.view.is_for_people || route_is_for_people;
        let is_wanted = match engine.profile().user_credentials {
            UserCredentials::Optional => false,
            UserCredentials::WhereMarked => is_for_people,
            UserCredentials::Everywhere => is_for_people || has_user.is_some(),
        };
        if is_wanted && has_user != Some(true) {
            Err(self.denied(Reason::NoUser))
        } else {
            Ok(())
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
