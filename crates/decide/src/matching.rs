//! Whether one rule matches: the only code that does, for live decisions and for explanations.
//!
//! The recorder is told the first field that failed of each source, operation or condition; the one for live decisions
//! is empty and compiles to nothing.

use std::borrow::Cow;

use bartizan_mesh::{Action, Condition, Matcher, Operation, PathMatch, Rule, Source};
use bartizan_types::StringMatch;
use serde_json::Value;

use crate::expression::Expression;
use crate::facts::Headers;
use crate::subject::{Http, Identity, Subject};
use crate::user::{User, claim};

/// A path template: `{*}` is one non-empty segment, `{**}` any run of characters that may stand in a path.
pub(crate) fn template(pattern: &str, path: &str) -> bool {
    let mut rest = path;
    let mut pattern = pattern;
    while let Some((literal, after)) = pattern.split_once('{') {
        let Some(after_literal) = rest.strip_prefix(literal) else {
            return false;
        };
        rest = after_literal;
        if let Some(tail) = after.strip_prefix("**}") {
            return rest.ends_with(tail); // it is the last operator; what follows is literal
        }
        let Some(tail) = after.strip_prefix("*}") else {
            return false;
        };
        let end = rest.find('/').unwrap_or(rest.len());
        if end == 0 {
            return false;
        }
        rest = rest.get(end..).unwrap_or_default();
        pattern = tail;
    }
    rest == pattern
}

/// The literal text that every path of a template begins with.
pub(crate) fn template_prefix(pattern: &str) -> &str {
    pattern.split('{').next().unwrap_or_default()
}

/// A field of a rule, by the document's own words.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Field {
    /// `from[i].source.NAME`.
    Source(usize, &'static str),
    /// `to[i].operation.NAME`.
    Operation(usize, &'static str),
    /// `when[i]`.
    When(usize),
    /// The expression of an AccessRule.
    Expression,
    /// The whole rule: it does not name a caller whom the profile wants named.
    Unnamed,
}

/// Which half of a matcher failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Half {
    /// None of the wanted values matched.
    Wanted,
    /// One of the excluded values matched.
    Excluded,
    /// The field exists only in HTTP, and this is not HTTP.
    OnlyHttp,
}

/// Is told why a rule did not match.
pub(crate) trait Recorder {
    fn failed(&mut self, field: Field, half: Half);
}

/// Records nothing.
pub(crate) struct Quiet;

impl Recorder for Quiet {
    #[inline]
    fn failed(&mut self, _field: Field, _half: Half) {}
}

/// Whether a rule asks for something that only a user's token has.
pub(crate) fn asks_for_user(rule: &Rule, expression: Option<&Expression>) -> bool {
    rule.from
        .iter()
        .any(|source| !source.request_principals.is_empty())
        || rule.when.iter().any(Condition::asks_for_user)
        || expression.is_some_and(|expression| expression.reads("auth"))
}

/// Whether a rule matches. On TCP a rule that asks for HTTP never matches if it allows, and else the HTTP fields are
/// ignored and the rest still applies (Istio; see `docs/policy.md`). `expression` is the rule's own, compiled.
pub(crate) fn rule_matches<H: Headers + ?Sized, R: Recorder>(
    rule: &Rule,
    expression: Option<&Expression>,
    action: Action,
    subject: &Subject<'_, H>,
    recorder: &mut R,
) -> bool {
    let mut check = Check {
        subject,
        action,
        recorder,
    };
    if subject.http.is_none() && action == Action::Allow && rule.asks_for_http() {
        check.find_http(rule);
        return false;
    }
    check.from(&rule.from)
        && check.to(&rule.to)
        && check.when(&rule.when)
        && check.expression(expression, action)
        && (action != Action::Allow || !subject.must_be_named || check.is_named(rule))
}

struct Check<'c, 'a, H: ?Sized, R> {
    subject: &'c Subject<'a, H>,
    action: Action,
    recorder: &'c mut R,
}

impl<'a, H: Headers + ?Sized, R: Recorder> Check<'_, 'a, H, R> {
    fn from(&mut self, sources: &[Source]) -> bool {
        sources.is_empty()
            || sources
                .iter()
                .enumerate()
                .any(|(at, source)| self.source(at, source))
    }

    fn source(&mut self, at: usize, source: &Source) -> bool {
        let Source {
            principals,
            namespaces,
            service_accounts,
            trust_domains,
            ip_blocks,
            remote_ip_blocks,
            request_principals,
        } = source;
        let (address, remote) = (self.subject.connection.source, self.subject.connection.remote);
        let field = |name| Field::Source(at, name);
        self.identity(field("principals"), principals, |id, wanted| {
            principal(id, wanted)
        }) && self.identity(field("namespaces"), namespaces, |id, wanted| {
            id.is_in_namespace(wanted)
        }) && self.identity(field("serviceAccounts"), service_accounts, Identity::has_account)
            && self.identity(field("trustDomains"), trust_domains, Identity::is_of_domain)
            && self.holds(field("ipBlocks"), ip_blocks, |block| block.contains(address))
            && self.holds(field("remoteIpBlocks"), remote_ip_blocks, |block| {
                block.contains(remote)
            })
            && self.user(field("requestPrincipals"), request_principals, request_principal)
    }

    fn to(&mut self, operations: &[Operation]) -> bool {
        operations.is_empty()
            || operations
                .iter()
                .enumerate()
                .any(|(at, operation)| self.operation(at, operation))
    }

    fn operation(&mut self, at: usize, operation: &Operation) -> bool {
        let Operation {
            hosts,
            ports,
            methods,
            paths,
        } = operation;
        let field = |name| Field::Operation(at, name);
        let port = self.subject.connection.destination.port();
        if !self.holds(field("ports"), ports, |wanted| wanted.get() == port) {
            return false;
        }
        // On TCP what asks for HTTP is ignored; a rule that allows by it has not come this far.
        let Some(http) = &self.subject.http else {
            return true;
        };
        let (method, authority, path) = (http.method, http.authority.as_deref(), http.path);
        self.holds(field("methods"), methods, |wanted| {
            text_or_present(wanted, method)
        }) && self.holds(field("hosts"), hosts, |wanted| {
            authority.is_some_and(|host| match wanted {
                StringMatch::Present => true,
                StringMatch::Exact(_) | StringMatch::Prefix(_) | StringMatch::Suffix(_) => {
                    wanted.matches_ignore_case(host)
                }
            })
        }) && self.holds(field("paths"), paths, |wanted| match wanted {
            PathMatch::Text(text) => text.matches(path),
            PathMatch::Template(pattern) => template(pattern, path),
        })
    }

    fn when(&mut self, conditions: &[Condition]) -> bool {
        conditions
            .iter()
            .enumerate()
            .all(|(at, condition)| self.condition(Field::When(at), condition))
    }

    fn condition(&mut self, field: Field, condition: &Condition) -> bool {
        let connection = self.subject.connection;
        match condition {
            Condition::Header(name, values) => match &self.subject.http {
                Some(http) => self.header(field, http, name, values),
                None => true, // ignored, as in an operation
            },
            Condition::SourceIp(blocks) => {
                self.holds(field, blocks, |block| block.contains(connection.source))
            }
            Condition::DestinationIp(blocks) => {
                self.holds(field, blocks, |block| block.contains(connection.destination.ip()))
            }
            Condition::DestinationPort(ports) => {
                self.holds(field, ports, |port| port.get() == connection.destination.port())
            }
            Condition::Sni(names) => self.holds(field, names, |wanted| {
                connection.sni.is_some_and(|sni| wanted.matches(sni))
            }),
            Condition::SourcePrincipal(values) => self.identity(field, values, principal),
            Condition::SourceNamespace(values) => {
                self.identity(field, values, |id, wanted| id.is_in_namespace(wanted))
            }
            Condition::SourceServiceAccount(values) => self.identity(field, values, Identity::has_account),
            Condition::SourceTrustDomain(values) => self.identity(field, values, Identity::is_of_domain),
            Condition::RemoteIp(blocks) => {
                self.holds(field, blocks, |block| block.contains(connection.remote))
            }
            Condition::RequestPrincipal(values) => self.user(field, values, request_principal),
            Condition::RequestAudiences(values) => self.user(field, values, |user, wanted| {
                user.audiences().iter().any(|audience| wanted.matches(audience))
            }),
            Condition::RequestPresenter(values) => self.user(field, values, |user, wanted| {
                user.presenter()
                    .is_some_and(|presenter| wanted.matches(presenter))
            }),
            Condition::RequestClaim(path, values) => self.user(field, values, |user, wanted| {
                claim(user.claims(), path).is_some_and(|value| claim_matches(value, wanted))
            }),
        }
    }

    /// A header in one line is that line. Several lines can be read one by one or joined with `,`, so a rule counts for the
    /// worse reading: one that allows wants every line to match and none to be excluded, any other is content with one
    /// reading that matches and excluded only when every line is.
    fn header(
        &mut self,
        field: Field,
        http: &Http<'_, H>,
        name: &str,
        values: &Matcher<StringMatch>,
    ) -> bool {
        let is_one_of = |texts: &[StringMatch], line: &[u8]| texts.iter().any(|wanted| header(wanted, line));
        let mut lines = http.headers.values(name);
        let (first, second) = (lines.next(), lines.next());
        drop(lines);
        let Some(first) = first else {
            return self.holds(field, values, |_| false);
        };
        if second.is_none() {
            return self.holds(field, values, |wanted| header(wanted, first));
        }
        let all = || http.headers.values(name);
        let whole = joined(http.headers, name).unwrap_or_default();
        let (matches, is_excluded) = if self.action == Action::Allow {
            (
                all().all(|line| is_one_of(&values.any, line)),
                all().any(|line| is_one_of(&values.none, line)) || is_one_of(&values.none, &whole),
            )
        } else {
            (
                all().any(|line| is_one_of(&values.any, line)) || is_one_of(&values.any, &whole),
                all().all(|line| is_one_of(&values.none, line)),
            )
        };
        if !values.any.is_empty() && !matches {
            self.recorder.failed(field, Half::Wanted);
            return false;
        }
        if is_excluded {
            self.recorder.failed(field, Half::Excluded);
            return false;
        }
        true
    }

    /// Without a verified token a wanted value never matches, and an excluded one never excludes. On TCP, where there are
    /// no tokens, the field is ignored; a rule that allows by it has not come this far.
    fn user<T>(&mut self, field: Field, matcher: &Matcher<T>, matches: impl Fn(&User, &T) -> bool) -> bool {
        let Some(http) = &self.subject.http else {
            return true;
        };
        if self.subject.takes_any_user {
            return true;
        }
        let user = http.user;
        self.holds(field, matcher, |wanted| {
            user.is_some_and(|user| matches(user, wanted))
        })
    }

    fn expression(&mut self, expression: Option<&Expression>, action: Action) -> bool {
        let holds = expression.is_none_or(|expression| {
            (self.subject.takes_any_user && expression.reads("auth"))
                || expression.holds(action, self.subject)
        });
        if !holds {
            self.recorder.failed(Field::Expression, Half::Wanted);
        }
        holds
    }

    /// Whether the rule names the caller in full: a source that matches does, or a condition.
    fn is_named(&mut self, rule: &Rule) -> bool {
        let names = self.subject.identity.is_some_and(|identity| {
            let by_source = rule.from.iter().enumerate().any(|(at, source)| {
                source_names(source, &identity)
                    && Check {
                        subject: self.subject,
                        action: self.action,
                        recorder: &mut Quiet,
                    }
                    .source(at, source)
            });
            by_source
                || rule
                    .when
                    .iter()
                    .any(|condition| condition_names(condition, &identity))
        });
        if !names {
            self.recorder.failed(Field::Unnamed, Half::Wanted);
        }
        names
    }

    /// Without a proven identity a wanted value never matches, and an excluded one never excludes.
    fn identity<T>(
        &mut self,
        field: Field,
        matcher: &Matcher<T>,
        matches: impl Fn(&Identity<'a>, &T) -> bool,
    ) -> bool {
        let identity = self.subject.identity;
        self.holds(field, matcher, |wanted| {
            identity.as_ref().is_some_and(|id| matches(id, wanted))
        })
    }

    fn holds<T>(&mut self, field: Field, matcher: &Matcher<T>, matches: impl Fn(&T) -> bool) -> bool {
        if !matcher.any.is_empty() && !matcher.any.iter().any(&matches) {
            self.recorder.failed(field, Half::Wanted);
            return false;
        }
        if matcher.none.iter().any(&matches) {
            self.recorder.failed(field, Half::Excluded);
            return false;
        }
        true
    }

    /// Names the fields for which a rule that allows counts for nothing on TCP.
    fn find_http(&mut self, rule: &Rule) {
        for (at, source) in rule.from.iter().enumerate() {
            if !source.request_principals.is_empty() {
                let field = Field::Source(at, "requestPrincipals");
                self.recorder.failed(field, Half::OnlyHttp);
            }
        }
        for (at, operation) in rule.to.iter().enumerate() {
            for (name, is_empty) in [
                ("methods", operation.methods.is_empty()),
                ("hosts", operation.hosts.is_empty()),
                ("paths", operation.paths.is_empty()),
            ] {
                if !is_empty {
                    self.recorder.failed(Field::Operation(at, name), Half::OnlyHttp);
                }
            }
        }
        for (at, condition) in rule.when.iter().enumerate() {
            if condition.asks_for_http() {
                self.recorder.failed(Field::When(at), Half::OnlyHttp);
            }
        }
    }
}

/// Whether a source names this caller by one value without a wildcard.
fn source_names(source: &Source, identity: &Identity<'_>) -> bool {
    principals_name(&source.principals, identity)
        || namespaces_name(&source.namespaces, identity)
        || source
            .service_accounts
            .any
            .iter()
            .any(|account| identity.has_account(account))
}

fn condition_names(condition: &Condition, identity: &Identity<'_>) -> bool {
    match condition {
        Condition::SourcePrincipal(values) => principals_name(values, identity),
        Condition::SourceNamespace(values) => namespaces_name(values, identity),
        Condition::SourceServiceAccount(values) => {
            values.any.iter().any(|account| identity.has_account(account))
        }
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
        | Condition::RequestClaim(..) => false,
    }
}

fn principals_name(values: &Matcher<StringMatch>, identity: &Identity<'_>) -> bool {
    values
        .any
        .iter()
        .any(|wanted| matches!(wanted, StringMatch::Exact(text) if **text == *identity.principal))
}

fn namespaces_name(values: &Matcher<std::sync::Arc<str>>, identity: &Identity<'_>) -> bool {
    values
        .any
        .iter()
        .any(|namespace| !namespace.contains('*') && identity.is_in_namespace(namespace))
}

/// Istio's forms of `ISSUER/SUBJECT`, split at the last `/`: `*` is both present; `*x` without a slash a subject's end, with
/// one an issuer's end and a whole subject; `x*` without a slash an issuer's beginning, with one a whole issuer and a
/// subject's beginning. A token without issuer or subject has no principal.
pub(crate) fn request_principal(user: &User, wanted: &StringMatch) -> bool {
    let (Some(issuer), Some(subject)) = (user.issuer(), user.subject()) else {
        return false;
    };
    match wanted {
        StringMatch::Present => true,
        StringMatch::Exact(text) => text.rsplit_once('/') == Some((issuer, subject)),
        StringMatch::Suffix(text) => match text.rsplit_once('/') {
            Some((issuer_end, whole)) => subject == whole && issuer.ends_with(issuer_end),
            None => subject.ends_with(&**text),
        },
        StringMatch::Prefix(text) => match text.rsplit_once('/') {
            Some((whole, subject_start)) => issuer == whole && subject.starts_with(subject_start),
            None => issuer.starts_with(&**text),
        },
    }
}

/// A text, or a list with a text that matches; numbers and booleans never do (Istio).
fn claim_matches(value: &Value, wanted: &StringMatch) -> bool {
    match value {
        Value::String(text) => wanted.matches(text),
        Value::Array(values) => values
            .iter()
            .any(|value| value.as_str().is_some_and(|text| wanted.matches(text))),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_) => false,
    }
}

fn principal(identity: &Identity<'_>, wanted: &StringMatch) -> bool {
    wanted.matches(identity.principal)
}

/// For fields where a value that is there but empty counts as present.
fn text_or_present(wanted: &StringMatch, value: &str) -> bool {
    *wanted == StringMatch::Present || wanted.matches(value)
}

fn header(wanted: &StringMatch, value: &[u8]) -> bool {
    match wanted {
        StringMatch::Present => true,
        StringMatch::Exact(text) => value == text.as_bytes(),
        StringMatch::Prefix(text) => value.starts_with(text.as_bytes()),
        StringMatch::Suffix(text) => value.ends_with(text.as_bytes()),
    }
}

/// The values of a header, joined with `,` where there are several (Envoy).
pub(crate) fn joined<'h, H: Headers + ?Sized>(headers: &'h H, name: &'h str) -> Option<Cow<'h, [u8]>> {
    let mut values = headers.values(name);
    let first = values.next()?;
    let mut all = Cow::Borrowed(first);
    for value in values {
        let all = all.to_mut();
        all.push(b',');
        all.extend_from_slice(value);
    }
    Some(all)
}
