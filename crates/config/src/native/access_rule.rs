//! AccessRule: who may do what, where Istio's words are not enough. Its conditions are expressions.

use std::sync::Arc;

use crate::field::{Fields, Value};
use crate::finding::{Severity, codes};
use crate::istio::Action;
use crate::istio::authorization_policy::MOST_RULES;
use crate::istio::target::{PolicyTarget, read_target};
use crate::marks;

/// `bartizan.dev/v1alpha1` AccessRule. It stands beside AuthorizationPolicies and means the same as one with this action:
/// any DENY that matches refuses, and one ALLOW must match.
#[derive(Clone, Debug, PartialEq)]
pub struct AccessRule {
    /// Which workloads it is for, as for an AuthorizationPolicy.
    pub target: PolicyTarget,
    /// `action`: ALLOW or DENY.
    pub action: Action,
    /// The annotation `istio.io/dry-run` is `"true"`: what it would do is recorded and changes nothing.
    pub dry_run: bool,
    /// `rules` in order, any of which may match. At least one.
    pub rules: Vec<AccessRuleRule>,
}

/// One of `rules`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccessRuleRule {
    /// `when`: an expression (Common Expression Language) that is true or false; it parses and its types are right.
    pub when: Arc<str>,
    /// The attributes that the expression names, by their dotted names (`source.labels`), in order.
    pub attributes: Vec<Arc<str>>,
}

impl AccessRuleRule {
    /// Whether the expression names this attribute, or one of this object: `uses("request")`, `uses("source.labels")`.
    pub fn uses(&self, path: &str) -> bool {
        self.attributes.iter().any(|used| {
            used.strip_prefix(path)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        })
    }
}

pub(crate) fn read(fields: &Fields<'_>) -> Option<AccessRule> {
    let dry_run = marks::read_dry_run(fields);
    fields.required("spec")?.map(|spec| {
        let target = read_target(spec);
        let action = spec
            .required("action")
            .and_then(|value| value.choice(&[("ALLOW", Action::Allow), ("DENY", Action::Deny)]));
        let rules_value = spec.required("rules");
        if let Some(value) = rules_value.filter(|value| value.is_list() && value.items().is_empty()) {
            value.error_help(
                codes::EMPTY,
                "an AccessRule needs at least one rule",
                "`rules: [{when: \"true\"}]` matches everything",
            );
        }
        let rules = rules_value.map(|value| value.list_of_at_most(MOST_RULES, read_rule));
        Some(AccessRule {
            target: target?,
            action: action?,
            dry_run,
            rules: rules?,
        })
    })
}

/// What is told about one expression.
const MOST_PROBLEMS: usize = 20;

fn read_rule(value: Value<'_>) -> Option<AccessRuleRule> {
    value.map(|fields| {
        let when = fields.required("when")?;
        let text = when.text()?;
        if text.trim().is_empty() {
            when.error(codes::EMPTY, "`when` has no expression");
            return None;
        }
        match bartizan_cel::check(text, bartizan_cel::Environment::access_rule()) {
            Ok(program) => Some(AccessRuleRule {
                when: text.into(),
                attributes: program.attributes().map(Arc::from).collect(),
            }),
            Err(problems) => {
                let inner = when.inner();
                for problem in problems.into_iter().take(MOST_PROBLEMS) {
                    let spot = inner.spot(problem.range);
                    when.sink.push(
                        Severity::Error,
                        codes::EXPRESSION,
                        spot,
                        problem.what,
                        None,
                        problem.help,
                    );
                }
                None
            }
        }
    })
}
