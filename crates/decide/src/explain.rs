//! Why a decision is what it is: every policy and rule that was looked at, and for each the first fields that failed.
//!
//! Rules are matched by the same code as live decisions, with a recorder that listens; the verdict itself is that of
//! [`authorize_http`] and [`authorize_tcp`].

mod change;
mod fields;

use std::fmt;

use bartizan_mesh::{
    AcrossNamespaces, Action, MtlsMode, Policy, ProviderProtocol, UserCredentials, WithoutPolicy,
};
use bartizan_types::RuleId;
use serde::Serialize;

use self::change::{Request, change};
use self::fields::failed_field;
use crate::authorize::{
    Ask, AuthorizerSays, Verdict, authorize_after, authorize_http, authorize_tcp, authorize_tcp_after,
    http_subject, tcp_subject,
};
use crate::denied::Denied;
use crate::engine::{Engine, Local};
use crate::facts::{ConnectionFacts, Headers, HttpFacts};
use crate::marks::Marks;
use crate::matching::{Field, Half, Recorder, rule_matches};
use crate::path::canonical_path;
use crate::subject::Subject;
use crate::user::User;

/// Why a request or a connection is allowed or refused.
#[derive(Clone, PartialEq, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Explanation {
    /// Whether it passes, when every authorizer in `asks` says yes.
    pub allowed: bool,
    /// Why, in a sentence.
    pub reason: String,
    /// The rule that decided, if one did.
    pub decided_by: Option<RuleId>,
    /// The path as policies see it.
    pub canonical_path: Option<String>,
    /// Whose verified token it has.
    pub user: Option<ExplainedUser>,
    /// The authorizers that are asked first, in their order.
    pub asks: Vec<ExplainedAsk>,
    /// What the profile says about it beside the policies, in sentences.
    pub profile: Vec<String>,
    /// What is noted beside the decision.
    pub marks: Marks,
    /// Every policy that selects the workload, in the order of evaluation: CUSTOM, AUDIT, DENY, then ALLOW.
    pub policies: Vec<ExplainedPolicy>,
    /// The smallest change that would let it pass, as a document or a sentence in a YAML comment.
    pub change: Option<String>,
}

/// A user, as far as a token's facts explain a decision.
#[derive(Clone, PartialEq, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ExplainedUser {
    /// Claim `iss`.
    pub issuer: Option<String>,
    /// Claim `sub`.
    pub subject: Option<String>,
    /// Claim `aud`.
    pub audiences: Vec<String>,
    /// The `kid` of the key that verified the token.
    pub key_id: Option<String>,
    /// Claim `exp`, in seconds since 1970.
    pub expires_at: Option<i64>,
    /// The rule that accepted the token, such as `RequestAuthentication shop/users jwtRules[0]`.
    pub accepted_by: String,
}

impl ExplainedUser {
    /// The facts of a user's token.
    pub fn of(user: &User) -> Self {
        let (document, index) = user.accepted_by();
        Self {
            issuer: user.issuer().map(str::to_owned),
            subject: user.subject().map(str::to_owned),
            audiences: user.audiences().to_vec(),
            key_id: user.key_id().map(str::to_owned),
            expires_at: user.expires_at(),
            accepted_by: format!("RequestAuthentication {document} jwtRules[{index}]"),
        }
    }
}

/// An authorizer that is asked.
#[derive(Clone, PartialEq, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ExplainedAsk {
    /// Its name.
    pub provider: String,
    /// The first rule that wants it.
    pub rule: RuleId,
}

/// What a policy said.
#[derive(Clone, PartialEq, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ExplainedPolicy {
    /// `AuthorizationPolicy` or `AccessRule`.
    pub kind: &'static str,
    /// `namespace/name`.
    pub policy: String,
    /// `ALLOW`, `DENY`, `AUDIT` or `CUSTOM`.
    pub action: &'static str,
    /// It only says what it would do.
    pub dry_run: bool,
    /// The authorizer of a CUSTOM policy.
    pub provider: Option<String>,
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
    /// What its expression said, if it has one.
    pub expression: Option<ExplainedExpression>,
}

/// What an expression said.
#[derive(Clone, PartialEq, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ExplainedExpression {
    /// As written.
    pub text: String,
    /// Its value; `None` where it has none.
    pub value: Option<bool>,
    /// Why it has no value: such a rule does not allow, and it does deny.
    pub error: Option<String>,
    /// What it read: attribute, with its key, and value.
    pub read: Vec<(String, String)>,
}

/// A field that did not match.
#[derive(Clone, PartialEq, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct FailedField {
    /// Where it is in the policy's `spec`, such as `rules[0].from[0].source.principals`.
    pub field: String,
    /// The key of a condition of `when`, such as `request.auth.claims[level]`.
    pub key: Option<String>,
    /// What it asks for.
    pub wanted: Vec<String>,
    /// What was there; `None` when there was nothing.
    pub found: Option<String>,
    /// Why it failed, in words.
    pub why: &'static str,
}

/// Explains the decision about an HTTP request.
pub fn explain_http<H: Headers + ?Sized>(engine: &Engine, facts: &HttpFacts<'_, H>) -> Explanation {
    let (result, asks) = settled(authorize_http(engine, facts), |ask| {
        authorize_after(engine, facts, ask, AuthorizerSays::Allowed)
    });
    let path = canonical_path(facts.target, engine.path_rule()).ok();
    let mut explanation = explanation(engine, &result, asks);
    let mut wants_user = None;
    if let (Some((_, local)), Some(path)) = (engine.local(facts.connection.local), &path) {
        let subject = http_subject(engine, local, facts, path.as_str());
        explanation.policies = policies(local, &subject);
        explanation.profile = profile(engine, local, &subject, facts.route_is_for_people);
        if facts.user.is_none() {
            let rule = local.set.wants_user(&subject.with_any_user());
            wants_user = rule.and_then(|rule| local.set.id(rule));
        }
    }
    let request = path.as_ref().map(|path| Request {
        method: facts.method,
        path: path.as_str(),
        user: facts.user,
        wants_user,
    });
    explanation.change = result
        .err()
        .and_then(|denied| change(engine, &facts.connection, request, &denied));
    explanation.canonical_path = path.map(|path| path.as_str().to_owned());
    explanation.user = facts.user.map(ExplainedUser::of);
    explanation
}

/// Explains the decision about a connection of bytes.
pub fn explain_tcp(engine: &Engine, facts: &ConnectionFacts<'_>) -> Explanation {
    let (result, asks) = settled(authorize_tcp(engine, facts), |ask| {
        authorize_tcp_after(engine, facts, ask, AuthorizerSays::Allowed)
    });
    let mut explanation = explanation(engine, &result, asks);
    if let Some((_, local)) = engine.local(facts.local) {
        let subject = tcp_subject(engine, local, facts);
        explanation.policies = policies(local, &subject);
        explanation.profile = profile(engine, local, &subject, false);
        explanation.profile.extend(unasked(engine, local, &subject));
    }
    explanation.change = result
        .err()
        .and_then(|denied| change(engine, facts, None, &denied));
    explanation
}

/// What comes out when every authorizer says yes, and who they are.
fn settled(
    first: Result<Verdict, Denied>,
    go_on: impl Fn(Ask) -> Result<Verdict, Denied>,
) -> (Result<Verdict, Denied>, Vec<ExplainedAsk>) {
    let mut asks = Vec::new();
    let mut verdict = first;
    while let Ok(Verdict::Ask(ask)) = verdict {
        asks.push(ExplainedAsk {
            provider: ask.provider.name.to_string(),
            rule: ask.rule.clone(),
        });
        verdict = go_on(ask);
    }
    (verdict, asks)
}

fn explanation(engine: &Engine, result: &Result<Verdict, Denied>, asks: Vec<ExplainedAsk>) -> Explanation {
    let (reason, decided_by, marks) = match result {
        Ok(Verdict::Permit(permit)) => {
            let rule = engine.allowed_by(permit);
            let reason = match (rule, engine.profile().without_policy) {
                (Some(rule), _) => format!("allowed by {rule}"),
                (None, WithoutPolicy::OwnNamespace) => {
                    "no policy selects this workload for ALLOW, and the profile lets in its own namespace"
                        .to_owned()
                }
                (None, WithoutPolicy::Allow | WithoutPolicy::Deny) => {
                    "no policy selects this workload for ALLOW, and the profile allows what nothing denies"
                        .to_owned()
                }
            };
            (reason, rule.cloned(), permit.marks().clone())
        }
        Ok(Verdict::Ask(ask)) => (
            format!("authorizer `{}` is asked first", ask.provider.name),
            None,
            Marks::default(),
        ),
        Err(denied) => (
            denied.reason.to_string(),
            denied.rule().cloned(),
            denied.marks().clone(),
        ),
    };
    Explanation {
        allowed: matches!(result, Ok(Verdict::Permit(_))),
        reason,
        decided_by,
        asks,
        marks,
        ..Explanation::default()
    }
}

/// What the profile wants of this request beside the policies.
fn profile<H: Headers + ?Sized>(
    engine: &Engine,
    local: &Local,
    subject: &Subject<'_, H>,
    route_is_for_people: bool,
) -> Vec<String> {
    let profile = engine.profile();
    let mut says = Vec::new();
    let has_allow = local
        .set
        .policies()
        .any(|(_, policy)| policy.action == Action::Allow && !policy.dry_run);
    match profile.without_policy {
        _ if has_allow => {}
        WithoutPolicy::Allow => says.push("no ALLOW policy selects the workload: what nothing denies passes"),
        WithoutPolicy::Deny => says.push("no ALLOW policy selects the workload: nothing passes"),
        WithoutPolicy::OwnNamespace => {
            says.push("no ALLOW policy selects the workload: callers of its own namespace pass");
        }
    }
    match profile.across_namespaces {
        AcrossNamespaces::Named if subject.must_be_named => says.push(
            "the caller is of another namespace: only a rule counts that names its principal, service account or namespace in full",
        ),
        AcrossNamespaces::Named | AcrossNamespaces::AsWritten => {}
    }
    let wants_user = match profile.user_credentials {
        UserCredentials::WhereMarked | UserCredentials::Everywhere if local.view.is_for_people => {
            Some("the workload is marked for people: a user's verified token is wanted")
        }
        UserCredentials::WhereMarked | UserCredentials::Everywhere if route_is_for_people => {
            Some("the route is marked for people: a user's verified token is wanted")
        }
        UserCredentials::Everywhere if subject.http.is_some() => {
            Some("a user's verified token is wanted on every request")
        }
        UserCredentials::Optional | UserCredentials::WhereMarked | UserCredentials::Everywhere => None,
    };
    says.extend(wants_user);
    if local.view.mtls == MtlsMode::Strict && local.view.gateway.is_none() && subject.identity.is_none() {
        says.push("mutual TLS is STRICT: a caller proves an identity");
    }
    says.into_iter()
        .map(|text| format!("{}: {text}", profile.name))
        .collect()
}

/// Authorizers that are not asked about a connection of bytes, because they speak of requests.
fn unasked<H: Headers + ?Sized>(engine: &Engine, local: &Local, subject: &Subject<'_, H>) -> Vec<String> {
    let mut says = Vec::new();
    let mut after = None;
    while let Some((place, _)) = local.set.asks(subject, after) {
        after = Some(place);
        let provider = local
            .set
            .provider(place)
            .and_then(|name| engine.snapshot().provider(name));
        if let Some(provider) = provider
            && matches!(provider.protocol, ProviderProtocol::Http(_))
        {
            says.push(format!(
                "authorizer `{}` speaks HTTP and is not asked about a connection of bytes",
                provider.name
            ));
        }
    }
    says
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
        let expression = expression
            .zip(rule.expression.as_ref())
            .map(|(expression, text)| {
                let read = expression.explain(subject);
                ExplainedExpression {
                    text: text.to_string(),
                    value: read.value.as_ref().ok().copied(),
                    error: read.value.err(),
                    read: read.values,
                }
            });
        ExplainedRule {
            rule: at,
            matched,
            failed: if matched {
                Vec::new() // another alternative matched
            } else {
                listening
                    .failed
                    .into_iter()
                    .map(|failed| failed_field(at, rule, subject, failed, expression.as_ref()))
                    .collect()
            },
            expression,
        }
    });
    ExplainedPolicy {
        kind: policy.kind.as_str(),
        dry_run: policy.dry_run,
        provider: policy.provider.as_ref().map(ToString::to_string),
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

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = if self.allowed { "allowed" } else { "denied" };
        writeln!(f, "{word}: {}", self.reason)?;
        if let Some(path) = &self.canonical_path {
            writeln!(f, "path as policies see it: {path}")?;
        }
        if let Some(user) = &self.user {
            let or_none = |text: &Option<String>| text.clone().unwrap_or_else(|| "none".to_owned());
            writeln!(
                f,
                "user: issuer {}, subject {}, key {}, accepted by {}",
                or_none(&user.issuer),
                or_none(&user.subject),
                or_none(&user.key_id),
                user.accepted_by
            )?;
        }
        for ask in &self.asks {
            writeln!(f, "asked first: authorizer `{}` by {}", ask.provider, ask.rule)?;
        }
        for says in &self.profile {
            writeln!(f, "{says}")?;
        }
        for policy in &self.policies {
            let dry_run = if policy.dry_run { " (dry run)" } else { "" };
            writeln!(f, "{} {}{dry_run}", policy.action, policy.policy)?;
            if policy.rules.is_empty() {
                writeln!(f, "  no rules: never matches")?;
            }
            for rule in &policy.rules {
                let word = if rule.matched { "matches" } else { "does not match" };
                writeln!(f, "  rules[{}] {word}", rule.rule)?;
                if let Some(expression) = rule.expression.as_ref().filter(|_| rule.matched) {
                    let read = expression
                        .read
                        .iter()
                        .map(|(name, value)| format!("{name} = {value}"));
                    let read: Vec<String> = read.chain(expression.error.clone()).collect();
                    writeln!(f, "    {}: {}", expression.text, read.join(", "))?;
                }
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
