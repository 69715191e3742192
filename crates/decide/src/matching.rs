//! Whether one rule matches: the only code that does, for live decisions and for explanations.
//!
//! The recorder is told the first field that failed of each source, operation or condition; the one for live decisions
//! is empty and compiles to nothing.

use std::borrow::Cow;

use bartizan_mesh::{Action, Condition, Matcher, Operation, PathMatch, Rule, Source};
use bartizan_types::{NamespacedName, Peer, StringMatch};

use crate::facts::{ConnectionFacts, Headers};

/// What is matched against: the connection, and the request where there is one.
pub(crate) struct Subject<'a, H: ?Sized> {
    pub(crate) connection: &'a ConnectionFacts<'a>,
    pub(crate) identity: Option<Identity<'a>>,
    pub(crate) http: Option<Http<'a, H>>,
}

/// The parts of a request that rules look at.
pub(crate) struct Http<'a, H: ?Sized> {
    pub(crate) method: &'a str,
    pub(crate) authority: Option<Cow<'a, str>>,
    pub(crate) path: &'a str,
    pub(crate) headers: &'a H,
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
    fn is_in_namespace(&self, pattern: &str) -> bool {
        if let Some((namespace, _)) = self.workload {
            return glob(pattern, namespace);
        }
        self.segments()
            .zip(self.segments().skip(1))
            .zip(self.segments().skip(2))
            .any(|((key, namespace), _)| key == "ns" && glob(pattern, namespace))
    }

    /// Istio's regex `spiffe://.+/ns/NAMESPACE/(.+/|)sa/ACCOUNT(/.+)?`, which tolerates more segments.
    fn has_account(&self, wanted: &NamespacedName) -> bool {
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

    fn is_of_domain(&self, wanted: &StringMatch) -> bool {
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

/// Whether a rule asks for something that only HTTP has.
pub(crate) fn asks_for_http(rule: &Rule) -> bool {
    rule.to.iter().any(|operation| {
        !(operation.hosts.is_empty() && operation.methods.is_empty() && operation.paths.is_empty())
    }) || rule
        .when
        .iter()
        .any(|condition| matches!(condition, Condition::Header(..)))
}

/// Whether a rule matches. On TCP a rule that asks for HTTP never matches if it allows, and if it denies the HTTP
/// fields are ignored and the rest still applies (Istio; see `docs/policy.md`).
pub(crate) fn rule_matches<H: Headers + ?Sized, R: Recorder>(
    rule: &Rule,
    action: Action,
    subject: &Subject<'_, H>,
    recorder: &mut R,
) -> bool {
    let mut check = Check { subject, recorder };
    if subject.http.is_none() && action == Action::Allow && asks_for_http(rule) {
        check.find_http(rule);
        return false;
    }
    check.from(&rule.from) && check.to(&rule.to) && check.when(&rule.when)
}

struct Check<'c, 'a, H: ?Sized, R> {
    subject: &'c Subject<'a, H>,
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
        } = source;
        let address = self.subject.connection.source;
        let field = |name| Field::Source(at, name);
        self.identity(field("principals"), principals, |id, wanted| {
            principal(id, wanted)
        }) && self.identity(field("namespaces"), namespaces, |id, wanted| {
            id.is_in_namespace(wanted)
        }) && self.identity(field("serviceAccounts"), service_accounts, Identity::has_account)
            && self.identity(field("trustDomains"), trust_domains, Identity::is_of_domain)
            && self.holds(field("ipBlocks"), ip_blocks, |block| block.contains(address))
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
                Some(http) => {
                    let value = joined(http.headers, name);
                    self.holds(field, values, |wanted| {
                        value.as_deref().is_some_and(|value| header(wanted, value))
                    })
                }
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
        }
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
            if matches!(condition, Condition::Header(..)) {
                self.recorder.failed(Field::When(at), Half::OnlyHttp);
            }
        }
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
