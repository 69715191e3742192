//! The fields of rules that failed: what they ask for, and what was there.

use std::fmt;

use bartizan_mesh::{Condition, Matcher, Rule};
use bartizan_types::Peer;

use super::{ExplainedExpression, FailedField};
use crate::facts::Headers;
use crate::matching::{Field, Half};
use crate::subject::Subject;
use crate::user::claim;

pub(super) fn failed_field<H: Headers + ?Sized>(
    at: usize,
    rule: &Rule,
    subject: &Subject<'_, H>,
    (field, half): (Field, Half),
    expression: Option<&ExplainedExpression>,
) -> FailedField {
    let (path, wanted, found) = match field {
        Field::Source(from, name) => {
            let source = rule.from.get(from);
            let wanted = source.map_or_else(Vec::new, |source| match name {
                "principals" => texts(&source.principals, half),
                "namespaces" => texts(&source.namespaces, half),
                "serviceAccounts" => texts(&source.service_accounts, half),
                "trustDomains" => texts(&source.trust_domains, half),
                "remoteIpBlocks" => texts(&source.remote_ip_blocks, half),
                "requestPrincipals" => texts(&source.request_principals, half),
                _ => texts(&source.ip_blocks, half),
            });
            let found = match name {
                "ipBlocks" => Some(subject.connection.source.to_string()),
                "remoteIpBlocks" => Some(subject.connection.remote.to_string()),
                "requestPrincipals" => request_principal(subject),
                _ => identity(subject.connection.peer),
            };
            (
                format!("from[{from}].source.{}", negated(name, half)),
                wanted,
                found,
            )
        }
        Field::Operation(to, name) => {
            let operation = rule.to.get(to);
            let wanted = operation.map_or_else(Vec::new, |operation| match name {
                "hosts" => texts(&operation.hosts, half),
                "methods" => texts(&operation.methods, half),
                "ports" => texts(&operation.ports, half),
                _ => strings(half_of(&operation.paths, half).iter().map(|path| match path {
                    bartizan_mesh::PathMatch::Text(text) => text.to_string(),
                    bartizan_mesh::PathMatch::Template(pattern) => pattern.to_string(),
                })),
            });
            let http = subject.http.as_ref();
            let found = match name {
                "hosts" => http.and_then(|http| http.authority.as_deref().map(str::to_owned)),
                "methods" => http.map(|http| http.method.to_owned()),
                "ports" => Some(subject.connection.destination.port().to_string()),
                _ => http.map(|http| http.path.to_owned()),
            };
            (
                format!("to[{to}].operation.{}", negated(name, half)),
                wanted,
                found,
            )
        }
        Field::When(when) => {
            let (wanted, found) = rule.when.get(when).map_or_else(
                || (Vec::new(), None),
                |condition| condition_texts(condition, subject, half),
            );
            let list = match half {
                Half::Wanted | Half::OnlyHttp => "values",
                Half::Excluded => "notValues",
            };
            (format!("when[{when}].{list}"), wanted, found)
        }
        Field::Expression => (
            "when".to_owned(),
            rule.expression.iter().map(ToString::to_string).collect(),
            expression.map(found_by),
        ),
        Field::Unnamed => (String::new(), Vec::new(), identity(subject.connection.peer)),
    };
    FailedField {
        field: match path.as_str() {
            "" => format!("rules[{at}]"),
            path => format!("rules[{at}].{path}"),
        },
        why: match (half, &found) {
            _ if field == Field::Unnamed => {
                "the caller is of another namespace, and the profile wants the rule to name it in full"
            }
            _ if field == Field::Expression => "the expression is not true",
            (Half::OnlyHttp, _) => "exists only in HTTP: on TCP a rule that allows by it never matches",
            (Half::Excluded, _) => "an excluded value matches",
            (Half::Wanted, None) => "there is no value",
            (Half::Wanted, Some(_)) => "no wanted value matches",
        },
        key: match field {
            Field::When(when) => rule.when.get(when).map(key),
            Field::Source(..) | Field::Operation(..) | Field::Expression | Field::Unnamed => None,
        },
        wanted,
        found,
    }
}

/// The condition's `key` as documents write it.
fn key(condition: &Condition) -> String {
    match condition {
        Condition::Header(name, _) => format!("request.headers[{name}]"),
        Condition::SourceIp(_) => "source.ip".to_owned(),
        Condition::SourceNamespace(_) => "source.namespace".to_owned(),
        Condition::SourcePrincipal(_) => "source.principal".to_owned(),
        Condition::SourceServiceAccount(_) => "source.serviceAccount".to_owned(),
        Condition::SourceTrustDomain(_) => "source.trustDomain".to_owned(),
        Condition::DestinationIp(_) => "destination.ip".to_owned(),
        Condition::DestinationPort(_) => "destination.port".to_owned(),
        Condition::Sni(_) => "connection.sni".to_owned(),
        Condition::RemoteIp(_) => "remote.ip".to_owned(),
        Condition::RequestPrincipal(_) => "request.auth.principal".to_owned(),
        Condition::RequestAudiences(_) => "request.auth.audiences".to_owned(),
        Condition::RequestPresenter(_) => "request.auth.presenter".to_owned(),
        Condition::RequestClaim(path, _) => {
            let parts = path.join("][");
            format!("request.auth.claims[{parts}]")
        }
    }
}

fn condition_texts<H: Headers + ?Sized>(
    condition: &Condition,
    subject: &Subject<'_, H>,
    half: Half,
) -> (Vec<String>, Option<String>) {
    let connection = subject.connection;
    let peer = || identity(connection.peer);
    match condition {
        Condition::Header(name, values) => {
            let found = subject
                .http
                .as_ref()
                .and_then(|http| crate::matching::joined(http.headers, name));
            (
                texts(values, half),
                found.map(|value| String::from_utf8_lossy(&value).into_owned()),
            )
        }
        Condition::SourceIp(blocks) => (texts(blocks, half), Some(connection.source.to_string())),
        Condition::SourceNamespace(values) => (texts(values, half), peer()),
        Condition::SourcePrincipal(values) | Condition::SourceTrustDomain(values) => {
            (texts(values, half), peer())
        }
        Condition::SourceServiceAccount(values) => (texts(values, half), peer()),
        Condition::DestinationIp(blocks) => {
            (texts(blocks, half), Some(connection.destination.ip().to_string()))
        }
        Condition::DestinationPort(ports) => (
            texts(ports, half),
            Some(connection.destination.port().to_string()),
        ),
        Condition::Sni(names) => (texts(names, half), connection.sni.map(str::to_owned)),
        Condition::RemoteIp(blocks) => (texts(blocks, half), Some(connection.remote.to_string())),
        Condition::RequestPrincipal(values) => (texts(values, half), request_principal(subject)),
        Condition::RequestAudiences(values) => (
            texts(values, half),
            subject.user().map(|user| user.audiences().join(", ")),
        ),
        Condition::RequestPresenter(values) => (
            texts(values, half),
            subject
                .user()
                .and_then(|user| user.presenter().map(str::to_owned)),
        ),
        Condition::RequestClaim(path, values) => (
            texts(values, half),
            subject
                .user()
                .and_then(|user| claim(user.claims(), path))
                .map(ToString::to_string),
        ),
    }
}

fn half_of<T>(matcher: &Matcher<T>, half: Half) -> &[T] {
    match half {
        Half::OnlyHttp if matcher.any.is_empty() => &matcher.none,
        Half::Excluded => &matcher.none,
        Half::Wanted | Half::OnlyHttp => &matcher.any,
    }
}

fn texts<T: fmt::Display>(matcher: &Matcher<T>, half: Half) -> Vec<String> {
    strings(half_of(matcher, half).iter().map(T::to_string))
}

/// Long lists are cut: the field's name says where to read on.
fn strings(mut values: impl Iterator<Item = String>) -> Vec<String> {
    let mut some: Vec<String> = values.by_ref().take(16).collect();
    let more = values.count();
    if more > 0 {
        some.push(format!("and {more} more"));
    }
    some
}

fn request_principal<H: ?Sized>(subject: &Subject<'_, H>) -> Option<String> {
    subject.user()?.principal().map(str::to_owned)
}

fn identity(peer: &Peer) -> Option<String> {
    Some(peer.identity()?.principal().to_owned())
}

/// `notPrincipals` of `principals`, where the excluded half failed.
fn negated(name: &str, half: Half) -> String {
    match half {
        Half::Wanted | Half::OnlyHttp => name.to_owned(),
        Half::Excluded => {
            let (first, rest) = name.split_at(1);
            format!("not{}{rest}", first.to_ascii_uppercase())
        }
    }
}

/// What an expression read, or why it gives no answer.
fn found_by(expression: &ExplainedExpression) -> String {
    let read: Vec<String> = expression
        .read
        .iter()
        .map(|(name, value)| format!("{name} = {value}"))
        .collect();
    match &expression.error {
        Some(error) if read.is_empty() => error.clone(),
        Some(error) => format!("{} ({error})", read.join(", ")),
        None => read.join(", "),
    }
}
