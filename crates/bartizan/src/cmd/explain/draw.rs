//! An explanation for people, with file and line of every policy and rule; and those places for programs.

use bartizan_compile::{Place, Positions};
use bartizan_decide::Explanation;
use bartizan_decide::explain::{ExplainedPolicy, ExplainedRule};
use bartizan_types::{NamespacedName, RuleId};
use serde_json::json;

/// The explanation with file and line of each policy and rule.
pub(crate) fn drawn(explanation: &Explanation, positions: &Positions) -> String {
    let mut out = String::new();
    let word = if explanation.allowed { "allowed" } else { "denied" };
    out += &format!("{word}: {}\n", explanation.reason);
    if let Some(rule) = &explanation.decided_by {
        out += &format!("decided by {}\n", ruled(rule, positions));
    }
    for ask in &explanation.asks {
        out += &format!(
            "the authorizer `{}` is asked first, by {}\n",
            ask.provider,
            ruled(&ask.rule, positions)
        );
    }
    for sentence in &explanation.profile {
        out += &format!("{sentence}\n");
    }
    for rule in &explanation.marks.audited {
        out += &format!("audited by {}\n", ruled(rule, positions));
    }
    if let Some(shadow) = &explanation.marks.shadow {
        let word = if shadow.allowed { "let it pass" } else { "deny it" };
        let by = shadow
            .rule
            .as_ref()
            .map_or_else(String::new, |rule| format!(", by {}", ruled(rule, positions)));
        out += &format!("what is in dry run would {word}{by}\n");
    }
    if let Some(path) = &explanation.canonical_path {
        out += &format!("path as policies see it: {path}\n");
    }
    if explanation.policies.is_empty() {
        out += "no policy was looked at\n";
    }
    for policy in &explanation.policies {
        out += &of_policy(policy, positions);
    }
    if let Some(change) = &explanation.change {
        out += &format!("\nwhat would let it pass:\n{}\n", change.trim_end());
    }
    out
}

fn of_policy(policy: &ExplainedPolicy, positions: &Positions) -> String {
    let name = NamespacedName::parse(&policy.policy).ok();
    let place = name
        .as_ref()
        .and_then(|name| positions.resource(policy.kind, name));
    let mut out = format!("{} {} {}", policy.action, policy.kind, policy.policy);
    if let Some(provider) = &policy.provider {
        out += &format!(" asks `{provider}`");
    }
    if policy.dry_run {
        out += " in dry run";
    }
    out += &in_brackets(place);
    out.push('\n');
    if policy.rules.is_empty() {
        out += "  it has no rules, so it never matches\n";
    }
    for rule in &policy.rules {
        let id = name
            .as_ref()
            .and_then(|name| rule_id(policy.kind, name, rule.rule));
        let place = id.and_then(|id| positions.rule(&id));
        let word = if rule.matched { "matches" } else { "does not match" };
        out += &format!("  rules[{}] {word}{}\n", rule.rule, in_brackets(place));
        out += &of_rule(rule);
    }
    out
}

fn of_rule(rule: &ExplainedRule) -> String {
    let mut out = String::new();
    for failed in &rule.failed {
        let key = failed
            .key
            .as_ref()
            .map_or_else(String::new, |key| format!(" of {key}"));
        out += &format!(
            "    {}{key}: {}; wanted {}, found {}\n",
            failed.field,
            failed.why,
            failed.wanted.join(" or "),
            failed.found.as_deref().unwrap_or("nothing")
        );
    }
    if let Some(expression) = &rule.expression {
        let value = match (expression.value, &expression.error) {
            (Some(value), _) => value.to_string(),
            (None, Some(error)) => format!("no value: {error}"),
            (None, None) => "no value".to_owned(),
        };
        out += &format!("    `{}` is {value}\n", expression.text.trim());
        for (attribute, value) in &expression.read {
            out += &format!("      {attribute} is {value}\n");
        }
    }
    out
}

fn in_brackets(place: Option<Place>) -> String {
    place.map_or_else(String::new, |place| format!(" ({place})"))
}

/// `AuthorizationPolicy shop/cart rules[0] (policies.yaml:3)`.
fn ruled(rule: &RuleId, positions: &Positions) -> String {
    let place = positions
        .rule(rule)
        .map_or_else(String::new, |place| format!(" ({place})"));
    format!("{}{place}", crate::cmd::prove::example::rule_words(rule))
}

/// File and line of everything in the explanation, for programs.
pub(crate) fn places(explanation: &Explanation, positions: &Positions) -> serde_json::Value {
    let at = |place: Option<Place>| place.map(|place| json!({ "file": place.file, "line": place.line }));
    json!({
        "decidedBy": explanation.decided_by.as_ref().and_then(|rule| at(positions.rule(rule))),
        "policies": explanation.policies.iter().map(|policy| {
            let name = NamespacedName::parse(&policy.policy).ok();
            json!({
                "policy": policy.policy,
                "kind": policy.kind,
                "at": name.as_ref().and_then(|name| at(positions.resource(policy.kind, name))),
                "rules": policy.rules.iter().map(|rule| name.as_ref()
                    .and_then(|name| rule_id(policy.kind, name, rule.rule))
                    .and_then(|id| at(positions.rule(&id)))).collect::<Vec<_>>(),
            })
        }).collect::<Vec<_>>(),
    })
}

fn rule_id(kind: &str, policy: &NamespacedName, rule: usize) -> Option<RuleId> {
    Some(RuleId {
        kind: kind.into(),
        namespace: policy.namespace.clone(),
        policy: policy.name.clone(),
        rule: u32::try_from(rule).ok()?,
    })
}
