//! Whether a request or a connection may pass. CUSTOM before DENY before ALLOW; under zero trust nothing passes that no
//! policy allows.

use std::borrow::Cow;
use std::sync::Arc;

use bartizan_mesh::{AcrossNamespaces, MtlsMode, Provider, ProviderProtocol, UserCredentials, WithoutPolicy};
use bartizan_types::{NamespacedName, Peer, Port, RuleId, SpiffeId, Version};

use crate::denied::{Denied, Reason};
use crate::engine::{Engine, Local};
use crate::facts::{ConnectionFacts, Headers, HttpFacts, NoHeaders};
use crate::marks::{self, Marks};
use crate::path::canonical_path;
use crate::policy_set::Said;
use crate::subject::{Http, Identity, Subject};

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
