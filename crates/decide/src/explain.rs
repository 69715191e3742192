//! Why a decision is what it is: every policy and rule that was looked at, and for each the first fields that failed.
//!
//! Rules are matched by the same code as live decisions, with a recorder that listens; the verdict itself is that of
//! [`authorize_http`] and [`authorize_tcp`].

use std::fmt;

use bartizan_mesh::{Action, Condition, Matcher, MtlsMode, Policy, Rule, View};
use bartizan_types::{Peer, RuleId};
use serde::Serialize;

use crate::authorize::{Denied, Reason, Verdict, authorize_http, authorize_tcp, http_subject, tcp_subject};
use crate::engine::{Engine, Local};
use crate::facts::{ConnectionFacts, Headers, HttpFacts};
use crate::matching::{Field, Half, Recorder, Subject, rule_matches};
use crate::path::canonical_path;
use crate::user::claim;

/// Why a request or a connection is allowed or refused.
#[derive(Clone, PartialEq, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Explanation {
    /// Whether it passes.
    pub allowed: bool,
    /// Why, in a sentence.
    pub reason: String,
    /// The rule that decided, if one did.
    pub decided_by: Option<RuleId>,
    /// The path as policies see it.
    pub canonical_path: Option<String>,
    /// Every policy that selects the workload, in the order of evaluation: DENY, then ALLOW.
    pub policies: Vec<ExplainedPolicy>,
    /// The smallest change that would let it pass, as a document or a sentence in a YAML comment.
    pub change: Option<String>,
}

/// What a policy said.
#[derive(Clone, PartialEq, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ExplainedPolicy {
    /// `namespace/name`.
    pub policy: String,
    /// `ALLOW` or `DENY`.
    pub action: &'static str,
    /// All of its rules.
    pub rules: Vec<ExplainedRule>,
}

/// What a rule said.
#[derive(Clone, PartialEq, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ExplainedRule {
    /// The index, from 0.
    pub rule: usize,
    /// Whether it matched.
    pub matched: bool,
    /// Where it did not: the first field that failed of each alternative, in the order that they were looked at.
    pub failed: Vec<FailedField>,
}

/// A field that did not match.
#[derive(Clone, PartialEq, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct FailedField {
    /// Where it is in the policy's `spec`, such as `rules[0].from[0].source.principals`.
    pub field: String,
    /// What it asks for.
    pub wanted: Vec<String>,
    /// What was there; `None` when there was nothing.
    pub found: Option<String>,
    /// Why it failed, in words.
    pub why: &'static str,
}

/// Explains the decision about an HTTP request.
pub fn explain_http<H: Headers + ?Sized>(engine: &Engine, facts: &HttpFacts<'_, H>) -> Explanation {
    let result = authorize_http(engine, facts);
    let path = canonical_path(facts.target, engine.path_rule()).ok();
    let local = engine.local(facts.connection.local);
    let policies = local
        .zip(path.as_ref())
        .map_or_else(Vec::new, |((_, local), path)| {
            policies(local, &http_subject(engine, local, facts, path.as_str()))
        });
    let path = path.map(|path| path.as_str().to_owned());
    let operation = path.as_deref().map(|path| (facts.method, path));
    let change = change(engine, &facts.connection, operation, &result);
    explanation(engine, &result, path, policies, change)
}

/// Explains the decision about a connection of bytes.
pub fn explain_tcp(engine: &Engine, facts: &ConnectionFacts<'_>) -> Explanation {
    let result = authorize_tcp(engine, facts);
    let policies = engine.local(facts.local).map_or_else(Vec::new, |(_, local)| {
        policies(local, &tcp_subject(engine, local, facts))
    });
    let change = change(engine, facts, None, &result);
    explanation(engine, &result, None, policies, change)
}

fn explanation(
    engine: &Engine,
    result: &Result<Verdict, Denied>,
    canonical_path: Option<String>,
    policies: Vec<ExplainedPolicy>,
    change: Option<String>,
) -> Explanation {
    let (reason, decided_by) = match result {
        Ok(verdict) => match verdict.allowed_by(engine) {
            Some(rule) => (format!("allowed by {rule}"), Some(rule.clone())),
            None => (
                "no policy selects this workload for ALLOW, and the profile allows what nothing denies"
                    .to_owned(),
                None,
            ),
        },
        Err(denied) => (denied.reason.to_string(), denied.rule().cloned()),
    };
    Explanation {
        allowed: result.is_ok(),
        reason,
        decided_by,
        canonical_path,
        policies,
        change,
    }
}

fn policies<H: Headers + ?Sized>(local: &Local, subject: &Subject<'_, H>) -> Vec<ExplainedPolicy> {
    [Action::Custom, Action::Audit, Action::Deny, Action::Allow]
        .into_iter()
        .flat_map(|action| {
            local
                .set
                .policies()
                .filter(move |(_, policy)| policy.action == action)
        })
        .map(|(first, policy)| explained(local, first, policy, subject))
        .collect()
}

fn explained<H: Headers + ?Sized>(
    local: &Local,
    first: u32,
    policy: &Policy,
    subject: &Subject<'_, H>,
) -> ExplainedPolicy {
    let rules = policy.rules.iter().enumerate().map(|(at, rule)| {
        let mut listening = Listening { failed: Vec::new() };
        let number = first.saturating_add(u32::try_from(at).unwrap_or(u32::MAX));
        let expression = local.set.expression(number);
        let matched = rule_matches(rule, expression, policy.action, subject, &mut listening);
        ExplainedRule {
            rule: at,
            matched,
            failed: if matched {
                Vec::new() // another alternative matched
            } else {
                listening
                    .failed
                    .into_iter()
                    .map(|(field, half)| failed_field(at, rule, subject, field, half))
                    .collect()
            },
        }
    });
    ExplainedPolicy {
        policy: policy.name.to_string(),
        action: match policy.action {
            Action::Allow => "ALLOW",
            Action::Deny => "DENY",
            Action::Audit => "AUDIT",
            Action::Custom => "CUSTOM",
        },
        rules: rules.collect(),
    }
}

struct Listening {
    failed: Vec<(Field, Half)>,
}

impl Recorder for Listening {
    fn failed(&mut self, field: Field, half: Half) {
        self.failed.push((field, half));
    }
}

fn failed_field<H: Headers + ?Sized>(
    at: usize,
    rule: &Rule,
    subject: &Subject<'_, H>,
    field: Field,
    half: Half,
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
            None,
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
        wanted,
        found,
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

/// The smallest change that would let a refused request pass.
fn change(
    engine: &Engine,
    facts: &ConnectionFacts<'_>,
    operation: Option<(&str, &str)>,
    result: &Result<Verdict, Denied>,
) -> Option<String> {
    let denied = result.as_ref().err()?;
    match &denied.reason {
        Reason::PolicyDenied(rule) => Some(format!(
            "# narrow or remove rules[{}] of AuthorizationPolicy `{}/{}`\n",
            rule.rule, rule.namespace, rule.policy
        )),
        Reason::NoAllowMatched | Reason::NoAllowPolicy => {
            let (_, local) = engine.local(facts.local)?;
            Some(allow_policy(&local.view, facts, operation))
        }
        Reason::PlaintextRefused => Some(plaintext_change(engine, facts)),
        Reason::AmbiguousPath(_) => Some(
            "# send the path in its plain form: no encoded slashes, dot segments, `//`, `;` or double escapes\n"
                .to_owned(),
        ),
        Reason::NotNamed(_) | Reason::OtherNamespace => {
            let (_, local) = engine.local(facts.local)?;
            Some(allow_policy(&local.view, facts, operation))
        }
        Reason::NoUser | Reason::NeedsUser(_) | Reason::TokenRefused(_) => Some(
            "# send a token of an issuer that a RequestAuthentication of this workload accepts\n".to_owned(),
        ),
        Reason::AuthorizerDenied { provider, .. }
        | Reason::AuthorizerSilent { provider, .. }
        | Reason::AuthorizerNotAsked { provider, .. } => {
            Some(format!("# the authorizer {} decides this\n", quoted(provider)))
        }
        Reason::NoAuthorizer { provider, .. } => Some(format!(
            "# declare {} in the mesh's extensionProviders, or name one that is there\n",
            quoted(provider)
        )),
        Reason::NoView => None,
    }
}

fn allow_policy(view: &View, facts: &ConnectionFacts<'_>, operation: Option<(&str, &str)>) -> String {
    let source = match facts.peer {
        Peer::Authenticated(id) => format!("principals: [{}]", quoted(id.principal())),
        Peer::Plaintext => format!("ipBlocks: [{}]", quoted(&facts.source.to_string())),
    };
    let port = facts.destination.port();
    let is_literal = |path: &str| !path.starts_with('*') && !path.ends_with('*') && !path.contains('{');
    let operation = match operation {
        // A path that a policy would read as a pattern must not become one by being copied.
        Some((_, path)) if !path.is_empty() && !is_literal(path) => {
            return format!("# no policy can allow exactly the path {}\n", quoted(path));
        }
        Some((method, path)) if !path.is_empty() => format!(
            "ports: [\"{port}\"], methods: [{}], paths: [{}]",
            quoted(method),
            quoted(path)
        ),
        Some((method, _)) => format!("ports: [\"{port}\"], methods: [{}]", quoted(method)),
        None => format!("ports: [\"{port}\"]"),
    };
    format!(
        "apiVersion: security.istio.io/v1\n\
         kind: AuthorizationPolicy\n\
         metadata: {{ name: allow-{}, namespace: {} }}\n\
         spec:\n{}  action: ALLOW\n  rules:\n  - from:\n    - source: {{ {source} }}\n    to:\n    - operation: {{ {operation} }}\n",
        view.workload.name,
        view.workload.namespace,
        selector(view),
    )
}

fn plaintext_change(engine: &Engine, facts: &ConnectionFacts<'_>) -> String {
    let advice = "# call from a workload of the mesh, which proves an identity; or, while migrating, accept plaintext:\n";
    let Some((_, local)) = engine.local(facts.local) else {
        return advice.to_owned();
    };
    let view = &local.view;
    let selector = selector(view);
    let mode = match view.mtls {
        // A mode for one port needs a selector.
        MtlsMode::Permissive | MtlsMode::Disable if !selector.is_empty() => format!(
            "  portLevelMtls:\n    {}: {{ mode: PERMISSIVE }}\n",
            facts.destination.port()
        ),
        MtlsMode::Permissive | MtlsMode::Disable | MtlsMode::Strict => {
            "  mtls: { mode: PERMISSIVE }\n".to_owned()
        }
    };
    format!(
        "{advice}apiVersion: security.istio.io/v1\n\
         kind: PeerAuthentication\n\
         metadata: {{ name: permissive-{}, namespace: {} }}\n\
         spec:\n{selector}{mode}",
        view.workload.name, view.workload.namespace,
    )
}

/// By the label `app` where there is one, else by all labels.
fn selector(view: &View) -> String {
    let pairs: Vec<String> = match view.labels.get("app") {
        Some(app) => vec![format!("app: {}", quoted(app))],
        None => view
            .labels
            .iter()
            .map(|(key, value)| format!("{}: {}", quoted(key), quoted(value)))
            .collect(),
    };
    if pairs.is_empty() {
        return String::new();
    }
    format!("  selector: {{ matchLabels: {{ {} }} }}\n", pairs.join(", "))
}

/// A double-quoted YAML scalar, for text that came from a request.
fn quoted(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for character in text.chars() {
        match character {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            character if character.is_control() => {
                quoted.push_str(&format!("\\u{:04x}", u32::from(character)));
            }
            character => quoted.push(character),
        }
    }
    quoted.push('"');
    quoted
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = if self.allowed { "allowed" } else { "denied" };
        writeln!(f, "{word}: {}", self.reason)?;
        if let Some(path) = &self.canonical_path {
            writeln!(f, "path as policies see it: {path}")?;
        }
        for policy in &self.policies {
            writeln!(f, "{} {}", policy.action, policy.policy)?;
            if policy.rules.is_empty() {
                writeln!(f, "  no rules: never matches")?;
            }
            for rule in &policy.rules {
                let word = if rule.matched { "matches" } else { "does not match" };
                writeln!(f, "  rules[{}] {word}", rule.rule)?;
                for failed in &rule.failed {
                    let found = failed.found.as_deref().unwrap_or("nothing");
                    writeln!(
                        f,
                        "    {}: {}: wanted [{}], found {found}",
                        failed.field,
                        failed.why,
                        failed.wanted.join(", ")
                    )?;
                }
            }
        }
        if let Some(change) = &self.change {
            write!(f, "what would let it pass:\n{change}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "explain_tests.rs"]
mod tests;
