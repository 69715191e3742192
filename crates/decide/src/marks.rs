//! What a decision leaves for the log beside its outcome: AUDIT policies that matched, and what dry-run policies would do.

use bartizan_types::RuleId;
use serde::Serialize;

/// What is noted of a decision.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Marks {
    /// The first matching rule of each AUDIT policy, in the order of the policies.
    pub audited: Vec<RuleId>,
    /// What the policies with `istio.io/dry-run` would have said; `None` where there are none.
    pub shadow: Option<ShadowResult>,
}

/// What dry-run policies, taken by themselves, say.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ShadowResult {
    /// Whether they would let it pass.
    pub allowed: bool,
    /// The rule that decides, if one does.
    pub rule: Option<RuleId>,
    /// The rule of a CUSTOM policy that would ask its authorizer. It is not asked.
    pub would_ask: Option<RuleId>,
}

static NONE: Marks = Marks {
    audited: Vec::new(),
    shadow: None,
};

/// The marks, where there are any.
pub(crate) fn or_none(marks: Option<&Marks>) -> &Marks {
    marks.unwrap_or(&NONE)
}
