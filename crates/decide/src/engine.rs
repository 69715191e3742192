//! A snapshot, compiled for decisions: off the request path, and again only where it changed.

use std::collections::HashMap;
use std::sync::Arc;

use bartizan_mesh::{FieldHashing, PathRule, Policy, Profile, Provider, Snapshot, View, WithoutPolicy};
use bartizan_types::{NamespacedName, RuleId};

use crate::authenticate::TokenRules;
use crate::authorize::Permit;
use crate::policy_set::PolicySet;
use crate::route::WaysIn;

/// A snapshot, compiled for decisions.
#[derive(Debug)]
pub struct Engine {
    snapshot: Arc<Snapshot>,
    profile: Profile,
    path_rule: PathRule,
    locals: Vec<Arc<Local>>,
    by_name: HashMap<NamespacedName, usize, FieldHashing>,
    ways_in: Arc<WaysIn>,
    problems: Vec<String>,
}

/// A local workload with its policies.
#[derive(Debug)]
pub(crate) struct Local {
    pub(crate) view: Arc<View>,
    /// As they are in the snapshot; what is missing there is a policy that denies.
    policies: Vec<Arc<Policy>>,
    pub(crate) set: Arc<PolicySet>,
    pub(crate) tokens: TokenRules,
    /// The authorizers that its policies name, as they are in the snapshot.
    providers: Vec<Option<Arc<Provider>>>,
}

impl Engine {
    /// Compiles everything in a snapshot.
    pub fn build(snapshot: Arc<Snapshot>) -> Self {
        Self::compile(snapshot, None)
    }

    /// Compiles the snapshot after this one's; keeps what did not change.
    #[must_use]
    pub fn next(&self, snapshot: Arc<Snapshot>) -> Self {
        Self::compile(snapshot, Some(self))
    }

    /// The snapshot that decisions are made from.
    pub fn snapshot(&self) -> &Arc<Snapshot> {
        &self.snapshot
    }

    /// What happens to a path that two parsers could read differently.
    pub fn path_rule(&self) -> PathRule {
        self.path_rule
    }

    /// What could not be compiled; the routes and policies concerned match nothing or deny.
    pub fn problems(&self) -> &[String] {
        &self.problems
    }

    /// The ALLOW rule that a permit stands on; `None` where no policy was needed, and for a permit of another engine.
    pub fn allowed_by(&self, permit: &Permit) -> Option<&RuleId> {
        let (local, rule) = permit.rule(self.snapshot.version())?;
        self.locals.get(local)?.set.id(rule)
    }

    /// Whether refusals look as Istio's do: under a profile that, as Istio, allows what no policy speaks of.
    pub(crate) fn answers_as_istio(&self) -> bool {
        self.profile.without_policy == WithoutPolicy::Allow
    }

    pub(crate) fn profile(&self) -> &Profile {
        &self.profile
    }

    pub(crate) fn local(&self, name: &NamespacedName) -> Option<(usize, &Local)> {
        // A sidecar has one.
        let at = match self.locals.as_slice() {
            [only] => (only.view.workload == *name).then_some(0)?,
            _ => *self.by_name.get(name)?,
        };
        Some((at, self.locals.get(at)?))
    }

    /// Whether a workload's view and policies are the same in both, so that no decision about it differs.
    pub(crate) fn decides_alike(&self, other: &Self, name: &NamespacedName) -> bool {
        match (self.local_arc(name), other.local_arc(name)) {
            (Some(mine), Some(theirs)) => {
                Arc::ptr_eq(mine, theirs)
                    // What an expression reads is not in the policy: labels of others, the time.
                    && !mine.set.has_expressions()
                    && self.profile == other.profile
                    && self.path_rule == other.path_rule
                    && self.snapshot.same_ways_in(&other.snapshot)
            }
            (None, None) => true,
            (Some(_), None) | (None, Some(_)) => false,
        }
    }

    pub(crate) fn ways_in(&self) -> &WaysIn {
        &self.ways_in
    }

    fn local_arc(&self, name: &NamespacedName) -> Option<&Arc<Local>> {
        self.locals.get(*self.by_name.get(name)?)
    }

    fn compile(snapshot: Arc<Snapshot>, before: Option<&Self>) -> Self {
        // Until the control plane has spoken, nothing is allowed.
        let settings = snapshot.settings();
        let profile = settings.map_or_else(Profile::zero_trust, |settings| settings.profile.clone());
        let path_rule = settings.map_or(PathRule::RefuseAmbiguous, |settings| settings.paths);
        let locals: Vec<Arc<Local>> = snapshot
            .views()
            .map(|view| {
                let kept = before.and_then(|before| before.local_arc(&view.workload));
                let policies = policies_of(&snapshot, view, kept);
                let set = kept
                    .filter(|kept| {
                        before.is_some_and(|before| before.path_rule == path_rule)
                            && kept.is_made_of(&policies)
                    })
                    .map_or_else(
                        || Arc::new(PolicySet::build(&policies, path_rule)),
                        |kept| Arc::clone(&kept.set),
                    );
                let tokens = TokenRules::build(&snapshot, view, kept.map(|kept| &kept.tokens));
                let local = Local {
                    view: Arc::clone(view),
                    policies,
                    providers: providers_of(&snapshot, &set),
                    set,
                    tokens,
                };
                kept.filter(|kept| kept.is_same(&local))
                    .cloned()
                    .unwrap_or_else(|| Arc::new(local))
            })
            .collect();
        let by_name = locals
            .iter()
            .enumerate()
            .map(|(at, local)| (local.view.workload.clone(), at))
            .collect();
        let ways_in = before
            .filter(|before| before.path_rule == path_rule && before.snapshot.same_ways_in(&snapshot))
            .map_or_else(
                || Arc::new(WaysIn::build(&snapshot, path_rule)),
                |before| Arc::clone(&before.ways_in),
            );
        let problems = locals
            .iter()
            .flat_map(|local| local.set.problems())
            .chain(ways_in.problems().iter().cloned())
            .collect();
        Self {
            snapshot,
            profile,
            path_rule,
            locals,
            by_name,
            ways_in,
            problems,
        }
    }
}

impl Local {
    fn is_made_of(&self, policies: &[Arc<Policy>]) -> bool {
        self.policies.len() == policies.len()
            && self
                .policies
                .iter()
                .zip(policies)
                .all(|(mine, theirs)| Arc::ptr_eq(mine, theirs))
    }

    fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.view, &other.view)
            && Arc::ptr_eq(&self.set, &other.set)
            && self.tokens.is_same(&other.tokens)
            && self.providers == other.providers
    }
}

/// The policies of a view. One that is named but not there denies everything.
fn policies_of(snapshot: &Snapshot, view: &View, kept: Option<&Arc<Local>>) -> Vec<Arc<Policy>> {
    view.policies
        .iter()
        .map(|name| {
            snapshot.policy(name).cloned().unwrap_or_else(|| {
                let missing = Policy::deny_everything(name.clone());
                kept.and_then(|local| local.policies.iter().find(|policy| ***policy == missing))
                    .cloned()
                    .unwrap_or_else(|| Arc::new(missing))
            })
        })
        .collect()
}

fn providers_of(snapshot: &Snapshot, set: &PolicySet) -> Vec<Option<Arc<Provider>>> {
    set.providers()
        .iter()
        .map(|name| snapshot.provider(name).cloned())
        .collect()
}
