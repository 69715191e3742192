//! What a decision leaves for log and counters beside its outcome: AUDIT rules that matched, and what policies in dry run
//! would have done.

use bartizan_decide::{Engine, Marks};
use bartizan_mesh::{Action, PolicyKind, PolicyName};
use bartizan_telemetry::{DryRun, families};
use bartizan_types::{NamespacedName, RuleId};

use crate::worker::Worker;

/// What a decision leaves.
#[derive(Debug)]
pub(crate) struct Noted {
    /// The AUDIT rules.
    pub(crate) audited: Vec<String>,
    shadow: Option<Shadow>,
}

/// What policies in dry run would have done.
#[derive(Debug)]
struct Shadow {
    /// Whether it is DENY policies that decide.
    denies: bool,
    rule: Option<String>,
    allowed: bool,
}

impl Noted {
    /// Counts what is there; `None` in the common case that nothing is.
    pub(crate) fn of(worker: &Worker, engine: &Engine, marks: &Marks) -> Option<Box<Self>> {
        if marks.audited.is_empty() && marks.shadow.is_none() {
            return None;
        }
        for rule in &marks.audited {
            worker.count(
                &families::POLICY_AUDITED,
                &[
                    rule.namespace.as_str(),
                    rule.policy.as_str(),
                    &rule.rule.to_string(),
                ],
            );
        }
        let shadow = marks.shadow.as_ref().map(|shadow| {
            let denies = match &shadow.rule {
                Some(rule) => is_deny(engine, rule),
                // Without a rule, no DENY rule has matched and nothing else is asked for, or no ALLOW rule has.
                None => shadow.allowed,
            };
            let action = if denies { "deny" } else { "allow" };
            let result = if shadow.allowed { "allowed" } else { "denied" };
            worker.count(&families::POLICY_SHADOW, &[action, result]);
            Shadow {
                denies,
                rule: shadow.rule.as_ref().map(ToString::to_string),
                allowed: shadow.allowed,
            }
        });
        Some(Box::new(Self {
            audited: marks.audited.iter().map(ToString::to_string).collect(),
            shadow,
        }))
    }

    /// What ALLOW policies in dry run would have done.
    pub(crate) fn dry_run_allow(&self) -> Option<DryRun<'_>> {
        self.dry_run(false)
    }

    /// What DENY policies in dry run would have done.
    pub(crate) fn dry_run_deny(&self) -> Option<DryRun<'_>> {
        self.dry_run(true)
    }

    fn dry_run(&self, denies: bool) -> Option<DryRun<'_>> {
        let shadow = self.shadow.as_ref().filter(|shadow| shadow.denies == denies)?;
        Some(DryRun {
            policy: shadow.rule.as_deref(),
            allowed: shadow.allowed,
        })
    }
}

/// Whether the policy of a rule denies.
fn is_deny(engine: &Engine, rule: &RuleId) -> bool {
    let name = NamespacedName {
        namespace: rule.namespace.clone(),
        name: rule.policy.clone(),
    };
    [PolicyKind::AuthorizationPolicy, PolicyKind::AccessRule]
        .into_iter()
        .find(|kind| *rule.kind == *kind.as_str())
        .and_then(|kind| engine.snapshot().policy(&PolicyName { kind, name }))
        .is_some_and(|policy| policy.action == Action::Deny)
}
