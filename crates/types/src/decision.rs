//! Names for decisions, and for the rules that make them.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::name::{Name, Namespace};

/// The id of one decision: what a denied client can show, and `explain` finds. Sixteen hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct DecisionId(pub u64);

impl DecisionId {
    /// Parses the sixteen digits.
    pub fn parse(text: &str) -> Option<Self> {
        if text.len() == 16 {
            u64::from_str_radix(text, 16).ok().map(Self)
        } else {
            None
        }
    }
}

impl fmt::Display for DecisionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// The stable id of a policy rule. Prints in the form that Istio's tools parse:
/// `ns[mission-services]-policy[telemetry-ingest-policy]-rule[0]`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct RuleId {
    /// The policy's kind, such as `AuthorizationPolicy`.
    pub kind: Arc<str>,
    /// The policy's namespace.
    pub namespace: Namespace,
    /// The policy's name.
    pub policy: Name,
    /// The rule's index in the policy, from 0.
    pub rule: u32,
}

impl fmt::Display for RuleId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "ns[{}]-policy[{}]-rule[{}]",
            self.namespace, self.policy, self.rule
        )
    }
}
