//! Texts that expressions ask about: which dimension each is, and what a question about it means there.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use bartizan_cel::{Expression, Kind, Literal};
use bartizan_mesh::Workload;
use bartizan_types::Cidr;

use super::Reader;
use crate::formula::Formula;
use crate::machine::{Piece, Set};
use crate::problem::{Dimension, Shape};
use crate::text::TextAtom;

/// Where a text comes from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum TextOf {
    /// `spiffe://` and the principal.
    Identity,
    Principal,
    TrustDomain,
    Namespace,
    ServiceAccount,
    Method,
    Path,
    Host,
    Header(Arc<str>),
    Query(Arc<str>),
    /// `issuer/subject`.
    UserPrincipal,
    Issuer,
    Subject,
    Presenter,
    /// A claim that may be something else than a text.
    Claim(Vec<Arc<str>>),
    Sni,
    TlsVersion,
    Cipher,
    Group,
    /// Known only of the workload at the source's address.
    SourceLabel(Arc<str>),
    SourceVersion,
    SourceWorkload,
    /// Of the callee, so the same for every request.
    DestinationLabel(Arc<str>),
    DestinationField(&'static str),
}

/// What is asked of a text.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Asked {
    Exact(String),
    Prefix(String),
    Suffix(String),
    Part(String),
    /// Of the text in lower case.
    Lower(Box<Asked>),
}

impl Asked {
    pub(super) fn exact(text: &str) -> Self {
        Self::Exact(text.to_owned())
    }

    pub(super) fn prefix(text: &str) -> Self {
        Self::Prefix(text.to_owned())
    }

    pub(super) fn suffix(text: &str) -> Self {
        Self::Suffix(text.to_owned())
    }

    pub(super) fn part(text: &str) -> Self {
        Self::Part(text.to_owned())
    }

    pub(super) fn lower(&self) -> Self {
        Self::Lower(Box::new(self.clone()))
    }

    fn holds(&self, text: &str) -> bool {
        match self {
            Self::Exact(own) => text == own,
            Self::Prefix(own) => text.starts_with(own.as_str()),
            Self::Suffix(own) => text.ends_with(own.as_str()),
            Self::Part(own) => text.contains(own.as_str()),
            Self::Lower(inner) => inner.holds(&text.to_ascii_lowercase()),
        }
    }

    fn text(&self) -> &str {
        match self {
            Self::Exact(own) | Self::Prefix(own) | Self::Suffix(own) | Self::Part(own) => own,
            Self::Lower(inner) => inner.text(),
        }
    }

    /// As an atom; `None` for what no text can be.
    fn atom(&self) -> Option<TextAtom> {
        Some(match self {
            Self::Exact(own) => TextAtom::Exact(own.clone()),
            Self::Prefix(own) => TextAtom::Prefix(own.clone()),
            Self::Suffix(own) => TextAtom::Suffix(own.clone()),
            Self::Part(own) => {
                let mut pieces = vec![Piece::Run(Set::Any)];
                pieces.extend(literal(own));
                pieces.push(Piece::Run(Set::Any));
                TextAtom::Pattern(pieces)
            }
            Self::Lower(inner) => {
                if inner.text().bytes().any(|byte| byte.is_ascii_uppercase()) {
                    return None;
                }
                TextAtom::AnyCase(Box::new(inner.atom()?))
            }
        })
    }

    /// The same of a text that has no upper case.
    fn plain(&self) -> Self {
        match self {
            Self::Lower(inner) => inner.plain(),
            Self::Exact(_) | Self::Prefix(_) | Self::Suffix(_) | Self::Part(_) => self.clone(),
        }
    }
}

fn literal(text: &str) -> impl Iterator<Item = Piece> {
    text.chars()
        .map(|character| Piece::One(Set::Character(character)))
}

/// The text that an expression reads, if it reads one.
#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "every other kind is no text that is looked into"
)]
pub(super) fn asks(kind: &Kind) -> Option<TextOf> {
    match kind {
        Kind::Attribute(path) => Some(match &**path {
            "source.identity" => TextOf::Identity,
            "source.principal" => TextOf::Principal,
            "source.trustDomain" => TextOf::TrustDomain,
            "source.namespace" => TextOf::Namespace,
            "source.serviceAccount" => TextOf::ServiceAccount,
            "source.version" => TextOf::SourceVersion,
            "source.workload" => TextOf::SourceWorkload,
            "destination.namespace" => TextOf::DestinationField("namespace"),
            "destination.serviceAccount" => TextOf::DestinationField("serviceAccount"),
            "destination.workload" => TextOf::DestinationField("workload"),
            "destination.version" => TextOf::DestinationField("version"),
            "request.method" => TextOf::Method,
            "request.path" => TextOf::Path,
            "request.host" => TextOf::Host,
            "auth.principal" => TextOf::UserPrincipal,
            "auth.issuer" => TextOf::Issuer,
            "auth.subject" => TextOf::Subject,
            "auth.presenter" => TextOf::Presenter,
            "connection.tlsVersion" => TextOf::TlsVersion,
            "connection.cipher" => TextOf::Cipher,
            "connection.group" => TextOf::Group,
            "connection.sni" => TextOf::Sni,
            _ => return None,
        }),
        Kind::Index { of, key } => {
            let Kind::Literal(Literal::String(name)) = &key.kind else {
                return None;
            };
            if let Kind::Attribute(path) = &of.kind {
                match &**path {
                    "request.headers" => return Some(TextOf::Header(Arc::clone(name))),
                    "request.query" => return Some(TextOf::Query(Arc::clone(name))),
                    "source.labels" => return Some(TextOf::SourceLabel(Arc::clone(name))),
                    "destination.labels" => return Some(TextOf::DestinationLabel(Arc::clone(name))),
                    _ => {}
                }
            }
            let mut claim = claim_path_of(of)?;
            claim.push(Arc::clone(name));
            Some(of_claim(claim))
        }
        _ => None,
    }
}

/// The claim that an expression reads.
pub(super) fn claim_path(expression: &Expression) -> Option<Vec<Arc<str>>> {
    claim_path_of(expression).filter(|path| !path.is_empty())
}

#[expect(clippy::wildcard_enum_match_arm, reason = "every other kind is no claim")]
fn claim_path_of(expression: &Expression) -> Option<Vec<Arc<str>>> {
    match &expression.kind {
        Kind::Attribute(path) if &**path == "auth.claims" => Some(Vec::new()),
        Kind::Index { of, key } => {
            let Kind::Literal(Literal::String(name)) = &key.kind else {
                return None;
            };
            let mut path = claim_path_of(of)?;
            path.push(Arc::clone(name));
            Some(path)
        }
        _ => None,
    }
}

/// A claim; those that a token has as one text, if it has them, are told apart.
pub(super) fn of_claim(path: Vec<Arc<str>>) -> TextOf {
    match path.as_slice() {
        [only] if &**only == "iss" => TextOf::Issuer,
        [only] if &**only == "sub" => TextOf::Subject,
        [only] if &**only == "azp" => TextOf::Presenter,
        _ => TextOf::Claim(path),
    }
}

pub(super) fn is_always_text(path: &[Arc<str>]) -> bool {
    !matches!(of_claim(path.to_vec()), TextOf::Claim(_))
}

impl Reader<'_, '_> {
    /// The requests that have the text, and of which what is asked holds.
    pub(super) fn asked(&mut self, of: &TextOf, asked: &Asked) -> Option<Formula> {
        let Some(atom) = asked.atom() else {
            return Some(Formula::Never);
        };
        let speaker = &mut *self.speaker;
        Some(match of {
            TextOf::Principal => speaker.identity(atom),
            TextOf::Identity => return self.identity(&asked.plain()),
            TextOf::TrustDomain => {
                if asked.holds(speaker.ground.trust_domain()) {
                    speaker.has_identity()
                } else {
                    Formula::Never
                }
            }
            TextOf::Namespace | TextOf::ServiceAccount => {
                // Names are in lower case, and have no slash.
                let asked = asked.plain();
                if asked.text().contains('/') {
                    return Some(Formula::Never);
                }
                let atom = if *of == TextOf::Namespace {
                    self.of_namespace(&asked)
                } else {
                    self.of_account(&asked)
                };
                self.speaker.identity(atom)
            }
            TextOf::Method => speaker.method(atom),
            TextOf::Path => speaker.path(atom),
            TextOf::Host => speaker.host_as_it_is(atom),
            TextOf::Header(name) => speaker.header(name, atom),
            TextOf::Query(name) => speaker.query(name, atom),
            TextOf::UserPrincipal => return self.user_principal(asked),
            TextOf::Issuer => speaker.issuer(atom),
            TextOf::Subject => speaker.subject(atom),
            TextOf::Presenter => speaker.presenter(atom),
            TextOf::Claim(path) => speaker.claim(path, atom),
            TextOf::Sni => speaker.sni(atom),
            TextOf::TlsVersion => speaker.tls_fact(Dimension::TlsVersion, atom),
            TextOf::Cipher => speaker.tls_fact(Dimension::Cipher, atom),
            TextOf::Group => speaker.tls_fact(Dimension::Group, atom),
            TextOf::SourceLabel(_) | TextOf::SourceVersion | TextOf::SourceWorkload => {
                return Some(self.of_source(of, |text| text.is_some_and(|text| asked.holds(text))));
            }
            TextOf::DestinationLabel(_) | TextOf::DestinationField(_) => {
                if self.of_destination(of).is_some_and(|text| asked.holds(&text)) {
                    Formula::Always
                } else {
                    Formula::Never
                }
            }
        })
    }

    /// The requests that have the text.
    pub(super) fn is_there(&mut self, of: &TextOf) -> Formula {
        let speaker = &mut *self.speaker;
        match of {
            TextOf::Identity
            | TextOf::Principal
            | TextOf::TrustDomain
            | TextOf::Namespace
            | TextOf::ServiceAccount => speaker.has_identity(),
            TextOf::Method | TextOf::Path => Formula::Always,
            TextOf::Host => speaker.host_as_it_is(TextAtom::There),
            // Names are in lower case, so another spelling names none.
            TextOf::Header(name) if name.bytes().any(|byte| byte.is_ascii_uppercase()) => Formula::Never,
            TextOf::Header(name) => speaker.header(name, TextAtom::There),
            TextOf::Query(name) => speaker.query(name, TextAtom::There),
            TextOf::UserPrincipal => {
                let issuer = speaker.issuer(TextAtom::There);
                issuer.and(speaker.subject(TextAtom::There))
            }
            TextOf::Issuer => speaker.issuer(TextAtom::There),
            TextOf::Subject => speaker.subject(TextAtom::There),
            TextOf::Presenter => speaker.presenter(TextAtom::There),
            TextOf::Claim(path) => speaker.shape(path, Shape::Absent).not(),
            TextOf::Sni => speaker.sni(TextAtom::There),
            TextOf::TlsVersion | TextOf::Cipher | TextOf::Group => speaker.has_tls(),
            TextOf::SourceLabel(_) | TextOf::SourceVersion | TextOf::SourceWorkload => {
                self.of_source(of, |text| text.is_some())
            }
            TextOf::DestinationLabel(_) | TextOf::DestinationField(_) => {
                if self.of_destination(of).is_some() {
                    Formula::Always
                } else {
                    Formula::Never
                }
            }
        }
    }

    /// The requests of which it is known whether they have the text.
    pub(super) fn is_known(&mut self, of: &TextOf) -> Formula {
        match of {
            TextOf::SourceLabel(_) | TextOf::SourceVersion | TextOf::SourceWorkload => {
                self.of_source(of, |_| true)
            }
            TextOf::Identity
            | TextOf::Principal
            | TextOf::TrustDomain
            | TextOf::Namespace
            | TextOf::ServiceAccount
            | TextOf::Method
            | TextOf::Path
            | TextOf::Host
            | TextOf::Header(_)
            | TextOf::Query(_)
            | TextOf::UserPrincipal
            | TextOf::Issuer
            | TextOf::Subject
            | TextOf::Presenter
            | TextOf::Claim(_)
            | TextOf::Sni
            | TextOf::TlsVersion
            | TextOf::Cipher
            | TextOf::Group
            | TextOf::DestinationLabel(_)
            | TextOf::DestinationField(_) => Formula::Always,
        }
    }

    /// The requests from a workload's own address with its own identity, of those whose text does.
    fn of_source(&mut self, of: &TextOf, does: impl Fn(Option<&str>) -> bool) -> Formula {
        let snapshot = self.callee.snapshot;
        let addresses: BTreeSet<_> = snapshot
            .workloads()
            .flat_map(|workload| workload.addresses.iter().map(IpAddr::to_canonical))
            .collect();
        let mut parts = Vec::new();
        for address in addresses {
            let Some(workload) = snapshot.workload_at(address) else {
                continue;
            };
            if does(text_of_workload(workload, of)) {
                let at = self.speaker.source(Cidr::new(address, 128));
                let is = self
                    .speaker
                    .identity(TextAtom::Exact(workload.identity.principal().to_owned()));
                parts.push(at.and(is));
            }
        }
        Formula::any(parts)
    }

    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "every other text is of the request"
    )]
    fn of_destination(&self, of: &TextOf) -> Option<String> {
        let view = self.callee.view;
        match of {
            TextOf::DestinationLabel(name) => view.labels.get(&**name).cloned(),
            TextOf::DestinationField("namespace") => Some(view.workload.namespace.to_string()),
            TextOf::DestinationField("serviceAccount") => {
                view.identity.principal().rsplit('/').next().map(str::to_owned)
            }
            TextOf::DestinationField("workload") => self
                .callee
                .snapshot
                .workload(&view.workload)
                .map(|workload| workload.workload_name.to_string()),
            TextOf::DestinationField("version") => view.labels.get("version").cloned(),
            _ => None,
        }
    }

    fn of_namespace(&self, asked: &Asked) -> TextAtom {
        let head = &self.speaker.ground.head;
        let mut pieces: Vec<Piece> = literal(head).collect();
        match asked {
            Asked::Exact(own) => return TextAtom::Prefix(format!("{head}{own}/sa/")),
            Asked::Prefix(own) => return TextAtom::Prefix(format!("{head}{own}")),
            Asked::Suffix(own) => {
                pieces.push(Piece::Run(Set::NotSlash));
                pieces.extend(literal(own));
            }
            Asked::Part(own) => {
                pieces.push(Piece::Run(Set::NotSlash));
                pieces.extend(literal(own));
                pieces.push(Piece::Run(Set::NotSlash));
            }
            Asked::Lower(inner) => return self.of_namespace(inner),
        }
        pieces.extend(literal("/sa/"));
        pieces.push(Piece::Run(Set::Any));
        TextAtom::Pattern(pieces)
    }

    fn of_account(&self, asked: &Asked) -> TextAtom {
        let mut pieces: Vec<Piece> = literal(&self.speaker.ground.head).collect();
        pieces.push(Piece::Run(Set::NotSlash));
        pieces.extend(literal("/sa/"));
        match asked {
            Asked::Exact(own) => pieces.extend(literal(own)),
            Asked::Prefix(own) => {
                pieces.extend(literal(own));
                pieces.push(Piece::Run(Set::NotSlash));
            }
            Asked::Suffix(own) => {
                pieces.push(Piece::Run(Set::NotSlash));
                pieces.extend(literal(own));
            }
            Asked::Part(own) => {
                pieces.push(Piece::Run(Set::NotSlash));
                pieces.extend(literal(own));
                pieces.push(Piece::Run(Set::NotSlash));
            }
            Asked::Lower(inner) => return self.of_account(inner),
        }
        TextAtom::Pattern(pieces)
    }

    /// Of `spiffe://` and the principal.
    fn identity(&mut self, asked: &Asked) -> Option<Formula> {
        const SCHEME: &str = "spiffe://";
        Some(match asked {
            Asked::Exact(own) => match own.strip_prefix(SCHEME) {
                Some(principal) => self.speaker.identity(TextAtom::Exact(principal.to_owned())),
                None => Formula::Never,
            },
            Asked::Prefix(own) => match own.strip_prefix(SCHEME) {
                Some(start) => self.speaker.identity(TextAtom::Prefix(start.to_owned())),
                None if SCHEME.starts_with(own.as_str()) => self.speaker.has_identity(),
                None => Formula::Never,
            },
            Asked::Suffix(own) => {
                let mut parts = vec![self.speaker.identity(TextAtom::Suffix(own.clone()))];
                for at in 0..SCHEME.len() {
                    if let Some(principal) = SCHEME.get(at..).and_then(|end| own.strip_prefix(end)) {
                        parts.push(self.speaker.identity(TextAtom::Exact(principal.to_owned())));
                    }
                }
                Formula::any(parts)
            }
            Asked::Part(_) | Asked::Lower(_) => return None,
        })
    }

    /// Of `issuer/subject`, wherever the slash between them is.
    fn user_principal(&mut self, asked: &Asked) -> Option<Formula> {
        let split = |own: &str| -> Vec<(String, String)> {
            own.match_indices('/')
                .filter_map(|(at, _)| {
                    let (issuer, rest) = own.split_at_checked(at)?;
                    Some((issuer.to_owned(), rest.get(1..)?.to_owned()))
                })
                .collect()
        };
        let speaker = &mut *self.speaker;
        let mut parts = Vec::new();
        match asked {
            Asked::Exact(own) => {
                for (issuer, subject) in split(own) {
                    let issuer = speaker.issuer(TextAtom::Exact(issuer));
                    parts.push(issuer.and(speaker.subject(TextAtom::Exact(subject))));
                }
            }
            Asked::Prefix(own) => {
                let issuer = speaker.issuer(TextAtom::Prefix(own.clone()));
                parts.push(issuer.and(speaker.subject(TextAtom::There)));
                for (issuer, start) in split(own) {
                    let issuer = speaker.issuer(TextAtom::Exact(issuer));
                    parts.push(issuer.and(speaker.subject(TextAtom::Prefix(start))));
                }
            }
            Asked::Suffix(own) => {
                let issuer = speaker.issuer(TextAtom::There);
                parts.push(issuer.and(speaker.subject(TextAtom::Suffix(own.clone()))));
                for (end, subject) in split(own) {
                    let issuer = speaker.issuer(TextAtom::Suffix(end));
                    parts.push(issuer.and(speaker.subject(TextAtom::Exact(subject))));
                }
            }
            Asked::Part(_) | Asked::Lower(_) => return None,
        }
        Some(Formula::any(parts))
    }
}

#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "every other text is of the request"
)]
fn text_of_workload<'w>(workload: &'w Workload, of: &TextOf) -> Option<&'w str> {
    match of {
        TextOf::SourceLabel(name) => workload.labels.get(&**name).map(String::as_str),
        TextOf::SourceVersion => workload.version.as_deref(),
        TextOf::SourceWorkload => Some(workload.workload_name.as_str()),
        _ => None,
    }
}
