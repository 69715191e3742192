//! The requests that a rule matches, as `decide` has it: the same words, over all requests at once.

use std::sync::Arc;

use bartizan_mesh::{Action, Condition, Matcher, Operation, PathMatch, PathRule, Rule, Source};
use bartizan_types::StringMatch;

use crate::expression::{self, Meaning};
use crate::formula::Formula;
use crate::machine::{Piece, Set};
use crate::speaker::{Speaker, account_atom, present_atom, text_atom};
use crate::text::TextAtom;

/// The requests that a rule matches, HTTP and other ones. `named` asks that a caller of another namespace is named in full.
pub(crate) fn rule(
    speaker: &mut Speaker<'_>,
    rule: &Rule,
    action: Action,
    callee: &expression::Callee<'_>,
    named: Option<&Formula>,
) -> Formula {
    let is_http = speaker.is_http();
    let on_http = matched(speaker, rule, action, callee, named, true).and(is_http.clone());
    let on_tcp = if action == Action::Allow && rule.asks_for_http() {
        Formula::Never
    } else {
        matched(speaker, rule, action, callee, named, false).and(is_http.not())
    };
    on_http.or(on_tcp)
}

fn matched(
    speaker: &mut Speaker<'_>,
    rule: &Rule,
    action: Action,
    callee: &expression::Callee<'_>,
    named: Option<&Formula>,
    is_http: bool,
) -> Formula {
    let sources: Vec<Formula> = rule
        .from
        .iter()
        .map(|one| source(speaker, one, is_http))
        .collect();
    let from = if rule.from.is_empty() {
        Formula::Always
    } else {
        Formula::any(sources.clone())
    };
    let to = if rule.to.is_empty() {
        Formula::Always
    } else {
        Formula::any(
            rule.to
                .iter()
                .map(|one| operation(speaker, one, is_http))
                .collect::<Vec<_>>(),
        )
    };
    let when = Formula::all(
        rule.when
            .iter()
            .map(|one| condition(speaker, one, is_http))
            .collect::<Vec<_>>(),
    );
    let expression = match &rule.expression {
        None => Formula::Always,
        Some(text) => {
            let Meaning { is_true, is_false } = expression::meaning(speaker, text, callee, is_http);
            match action {
                Action::Allow => is_true,
                // What cannot be evaluated denies.
                Action::Deny | Action::Audit | Action::Custom => is_false.not(),
            }
        }
    };
    let matched = Formula::all([from, to, when, expression]);
    match named.filter(|_| action == Action::Allow) {
        None => matched,
        Some(is_of_this_namespace) => {
            let by_source: Vec<Formula> = rule
                .from
                .iter()
                .zip(sources)
                .map(|(one, matches)| names(speaker, one).and(matches))
                .collect();
            let by_condition: Vec<Formula> = rule
                .when
                .iter()
                .map(|one| condition_names(speaker, one))
                .collect();
            let has_identity = speaker.has_identity();
            let named = Formula::any(by_source).or(Formula::any(by_condition));
            matched.and(Formula::any([
                has_identity.not(),
                is_of_this_namespace.clone(),
                named,
            ]))
        }
    }
}

/// The requests of a source.
pub(crate) fn source(speaker: &mut Speaker<'_>, source: &Source, is_http: bool) -> Formula {
    let Source {
        principals,
        namespaces,
        service_accounts,
        trust_domains,
        ip_blocks,
        remote_ip_blocks,
        request_principals,
    } = source;
    Formula::all([
        speaker.matcher(principals, |speaker, wanted| principal(speaker, wanted)),
        speaker.matcher(namespaces, |speaker, wanted| namespace(speaker, wanted)),
        speaker.matcher(service_accounts, |speaker, wanted| {
            let atom = account_atom(speaker.ground, wanted);
            speaker.identity(atom)
        }),
        speaker.matcher(trust_domains, trust_domain),
        speaker.matcher(ip_blocks, |speaker, block| speaker.source(*block)),
        speaker.matcher(remote_ip_blocks, |speaker, block| speaker.remote(*block)),
        if is_http {
            speaker.matcher(request_principals, request_principal)
        } else {
            Formula::Always
        },
    ])
}

fn principal(speaker: &mut Speaker<'_>, wanted: &StringMatch) -> Formula {
    speaker.identity(text_atom(wanted))
}

/// A namespace, where `*` stands for any run of characters.
pub(crate) fn namespace(speaker: &mut Speaker<'_>, wanted: &str) -> Formula {
    let head = speaker.ground.head.clone();
    if !wanted.contains('*') {
        return speaker.identity(TextAtom::Prefix(format!("{head}{wanted}/sa/")));
    }
    let mut pieces: Vec<Piece> = literal(&head).collect();
    for character in wanted.chars() {
        pieces.push(match character {
            '*' => Piece::Run(Set::NotSlash),
            other => Piece::One(Set::Character(other)),
        });
    }
    pieces.extend(literal("/sa/"));
    pieces.push(Piece::Run(Set::Any));
    speaker.identity(TextAtom::Pattern(pieces))
}

fn literal(text: &str) -> impl Iterator<Item = Piece> {
    text.chars()
        .map(|character| Piece::One(Set::Character(character)))
}

/// Every identity that can be is of the mesh's own trust domain.
fn trust_domain(speaker: &mut Speaker<'_>, wanted: &StringMatch) -> Formula {
    let own = speaker.ground.trust_domain();
    let is_own = *wanted == StringMatch::Present || wanted.matches(own);
    if is_own {
        speaker.has_identity()
    } else {
        Formula::Never
    }
}

/// Istio's forms of `ISSUER/SUBJECT`.
pub(crate) fn request_principal(speaker: &mut Speaker<'_>, wanted: &StringMatch) -> Formula {
    let (issuer, subject) = match wanted {
        StringMatch::Present => (TextAtom::There, TextAtom::There),
        StringMatch::Exact(text) => match text.rsplit_once('/') {
            Some((issuer, subject)) => (
                TextAtom::Exact(issuer.to_owned()),
                TextAtom::Exact(subject.to_owned()),
            ),
            None => return Formula::Never,
        },
        StringMatch::Suffix(text) => match text.rsplit_once('/') {
            Some((end, whole)) => (
                TextAtom::Suffix(end.to_owned()),
                TextAtom::Exact(whole.to_owned()),
            ),
            None => (TextAtom::There, TextAtom::Suffix(text.to_string())),
        },
        StringMatch::Prefix(text) => match text.rsplit_once('/') {
            Some((whole, start)) => (
                TextAtom::Exact(whole.to_owned()),
                TextAtom::Prefix(start.to_owned()),
            ),
            None => (TextAtom::Prefix(text.to_string()), TextAtom::There),
        },
    };
    speaker.issuer(issuer).and(speaker.subject(subject))
}

/// The requests of an operation.
pub(crate) fn operation(speaker: &mut Speaker<'_>, operation: &Operation, is_http: bool) -> Formula {
    let Operation {
        hosts,
        ports,
        methods,
        paths,
    } = operation;
    let ports = speaker.matcher(ports, |speaker, port| speaker.port(port.get()));
    if !is_http {
        return ports;
    }
    Formula::all([
        ports,
        speaker.matcher(methods, |speaker, wanted| speaker.method(present_atom(wanted))),
        speaker.matcher(hosts, |speaker, wanted| {
            let lower = |text: &Arc<str>| -> Arc<str> { text.to_ascii_lowercase().into() };
            speaker.host(match wanted {
                StringMatch::Present => TextAtom::There,
                StringMatch::Exact(text) => text_atom(&StringMatch::Exact(lower(text))),
                StringMatch::Prefix(text) => text_atom(&StringMatch::Prefix(lower(text))),
                StringMatch::Suffix(text) => text_atom(&StringMatch::Suffix(lower(text))),
            })
        }),
        speaker.matcher(paths, path),
    ])
}

fn path(speaker: &mut Speaker<'_>, wanted: &PathMatch) -> Formula {
    let rule = speaker.ground.path_rule;
    match wanted {
        PathMatch::Text(text) => {
            let text = match canonical(&text.to_string(), rule) {
                None => text.clone(),
                Some(written) => with_text(text, &written),
            };
            speaker.path(text_atom(&text))
        }
        PathMatch::Template(pattern) => {
            let canonical = canonical(pattern, rule);
            match template(canonical.as_deref().unwrap_or(pattern)) {
                Some(pieces) => speaker.path(TextAtom::Pattern(pieces)),
                None => Formula::Never,
            }
        }
    }
}

/// The pieces of a template; `None` for one that matches nothing.
fn template(pattern: &str) -> Option<Vec<Piece>> {
    let mut pieces = Vec::new();
    let mut rest = pattern;
    while let Some((before, after)) = rest.split_once('{') {
        pieces.extend(literal(before));
        if let Some(tail) = after.strip_prefix("**}") {
            pieces.push(Piece::Run(Set::Any));
            pieces.extend(literal(tail));
            return Some(pieces);
        }
        rest = after.strip_prefix("*}")?;
        pieces.extend([Piece::One(Set::NotSlash), Piece::Run(Set::NotSlash)]);
        if !(rest.is_empty() || rest.starts_with('/')) {
            return None; // the segment takes all up to the next slash
        }
    }
    pieces.extend(literal(rest));
    Some(pieces)
}

/// A path value as requests are compared with it: with its escapes decoded where those of requests are.
pub(crate) fn canonical(text: &str, rule: PathRule) -> Option<String> {
    match rule {
        PathRule::RefuseAmbiguous if text.contains('%') => decoded(text),
        PathRule::RefuseAmbiguous
        | PathRule::None
        | PathRule::Base
        | PathRule::MergeSlashes
        | PathRule::DecodeAndMergeSlashes => None,
    }
}

/// A text with its escapes decoded once, where it then has one meaning.
fn decoded(text: &str) -> Option<String> {
    let mut plain = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        rest = tail;
        if byte != b'%' {
            plain.push(byte);
            continue;
        }
        let (value, tail) = escape(rest)?;
        rest = tail;
        if matches!(value, b'/' | b'\\' | b';' | 0..=0x1f | 0x7f) {
            return None;
        }
        plain.push(value);
    }
    let leaves_escape = plain
        .split(|byte| *byte == b'%')
        .skip(1)
        .any(|tail| escape(tail).is_some());
    if leaves_escape {
        return None;
    }
    String::from_utf8(plain).ok()
}

/// The value of the two hexadecimal digits at the front, and what follows.
fn escape(digits: &[u8]) -> Option<(u8, &[u8])> {
    let hex = |byte: &u8| {
        char::from(*byte)
            .to_digit(16)
            .and_then(|digit| u8::try_from(digit).ok())
    };
    match digits {
        [high, low, rest @ ..] => Some((hex(high)? * 16 + hex(low)?, rest)),
        _ => None,
    }
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

/// The requests of a condition.
pub(crate) fn condition(speaker: &mut Speaker<'_>, condition: &Condition, is_http: bool) -> Formula {
    match condition {
        Condition::Header(name, values) if is_http => speaker.matcher(values, |speaker, wanted| {
            speaker.header(name, present_atom(wanted))
        }),
        Condition::RequestPrincipal(values) if is_http => speaker.matcher(values, request_principal),
        Condition::RequestAudiences(values) if is_http => {
            let audience = [Arc::from("aud")];
            speaker.matcher(values, |speaker, wanted| {
                speaker.claim(&audience, text_atom(wanted))
            })
        }
        Condition::RequestPresenter(values) if is_http => {
            speaker.matcher(values, |speaker, wanted| speaker.presenter(text_atom(wanted)))
        }
        Condition::RequestClaim(path, values) if is_http => {
            speaker.matcher(values, |speaker, wanted| speaker.claim(path, text_atom(wanted)))
        }
        // Ignored where there is no request; a rule that allows by it does not match there at all.
        Condition::Header(..)
        | Condition::RequestPrincipal(_)
        | Condition::RequestAudiences(_)
        | Condition::RequestPresenter(_)
        | Condition::RequestClaim(..) => Formula::Always,
        Condition::SourceIp(blocks) => speaker.matcher(blocks, |speaker, block| speaker.source(*block)),
        Condition::RemoteIp(blocks) => speaker.matcher(blocks, |speaker, block| speaker.remote(*block)),
        Condition::DestinationIp(blocks) => {
            speaker.matcher(blocks, |speaker, block| speaker.destination(*block))
        }
        Condition::DestinationPort(ports) => speaker.matcher(ports, |speaker, port| speaker.port(port.get())),
        Condition::Sni(names) => speaker.matcher(names, |speaker, wanted| speaker.sni(text_atom(wanted))),
        Condition::SourcePrincipal(values) => speaker.matcher(values, principal),
        Condition::SourceNamespace(values) => {
            speaker.matcher(values, |speaker, wanted| namespace(speaker, wanted))
        }
        Condition::SourceServiceAccount(values) => speaker.matcher(values, |speaker, wanted| {
            let atom = account_atom(speaker.ground, wanted);
            speaker.identity(atom)
        }),
        Condition::SourceTrustDomain(values) => speaker.matcher(values, trust_domain),
    }
}

/// The callers that a source names by one value without a wildcard.
fn names(speaker: &mut Speaker<'_>, source: &Source) -> Formula {
    let accounts: Vec<Formula> = source
        .service_accounts
        .any
        .iter()
        .map(|account| {
            let atom = account_atom(speaker.ground, account);
            speaker.identity(atom)
        })
        .collect();
    Formula::any([
        principals_name(speaker, &source.principals),
        namespaces_name(speaker, &source.namespaces),
        Formula::any(accounts),
    ])
}

fn condition_names(speaker: &mut Speaker<'_>, condition: &Condition) -> Formula {
    match condition {
        Condition::SourcePrincipal(values) => principals_name(speaker, values),
        Condition::SourceNamespace(values) => namespaces_name(speaker, values),
        Condition::SourceServiceAccount(values) => Formula::any(
            values
                .any
                .iter()
                .map(|account| {
                    let atom = account_atom(speaker.ground, account);
                    speaker.identity(atom)
                })
                .collect::<Vec<_>>(),
        ),
        Condition::Header(..)
        | Condition::SourceIp(_)
        | Condition::SourceTrustDomain(_)
        | Condition::DestinationIp(_)
        | Condition::DestinationPort(_)
        | Condition::Sni(_)
        | Condition::RemoteIp(_)
        | Condition::RequestPrincipal(_)
        | Condition::RequestAudiences(_)
        | Condition::RequestPresenter(_)
        | Condition::RequestClaim(..) => Formula::Never,
    }
}

fn principals_name(speaker: &mut Speaker<'_>, values: &Matcher<StringMatch>) -> Formula {
    Formula::any(
        values
            .any
            .iter()
            .filter(|wanted| matches!(wanted, StringMatch::Exact(_)))
            .map(|wanted| speaker.identity(text_atom(wanted)))
            .collect::<Vec<_>>(),
    )
}

fn namespaces_name(speaker: &mut Speaker<'_>, values: &Matcher<Arc<str>>) -> Formula {
    Formula::any(
        values
            .any
            .iter()
            .filter(|wanted| !wanted.contains('*'))
            .map(|wanted| namespace(speaker, wanted))
            .collect::<Vec<_>>(),
    )
}
