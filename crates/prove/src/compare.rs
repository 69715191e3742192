//! What a change of documents opens and closes, over all requests to one workload, by the rules that are responsible.

use std::sync::Arc;

use bartizan_mesh::{Snapshot, View};
use bartizan_types::RuleId;

use crate::claim::example;
use crate::diagram::{EMPTY, FULL, Set};
use crate::formula::Formula;
use crate::problem::{Problem, TooLarge};
use crate::request::Request;
use crate::sealed::Sealed;
use crate::side::Side;
use crate::speaker::{Ground, Speaker};
use crate::words::Callers;

/// Requests that one rule opens or closes; several of one rule where they have little in common.
#[derive(Clone, PartialEq, Debug)]
pub struct Change {
    /// They pass after the change and did not before; else the other way round.
    pub opens: bool,
    /// The rule that makes the difference.
    pub rule: Responsible,
    /// Who can make them.
    pub callers: Callers,
    /// What they have in common, where they are not all: the thing and its values, in words. The last is `only` where not
    /// every combination of the values is among them.
    pub words: Vec<(String, Vec<String>)>,
    /// One of them.
    pub example: Request,
    /// Parts of expressions that are not looked into and on which the difference depends.
    pub unless: Vec<Arc<str>>,
}

/// The rule that makes a difference.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Responsible {
    /// A rule of the new documents: it allows what is opened, or denies what is closed.
    New(RuleId),
    /// A rule of the old documents: it allowed what is closed.
    Old(RuleId),
    /// None: the profile, the mTLS mode, or which tokens are accepted.
    NoRule,
}

/// One side of a comparison.
#[derive(Clone, Copy, Debug)]
pub struct Ways<'a> {
    /// The mesh.
    pub snapshot: &'a Snapshot,
    /// The workload in it.
    pub view: &'a View,
}

/// What becomes different for a workload; `None` is a workload that is not there. Paths are compared as the new documents
/// read them.
///
/// # Errors
/// When the policies cannot be compared within the budget.
pub fn compare(old: Option<Ways<'_>>, new: Option<Ways<'_>>) -> Result<Vec<Change>, TooLarge> {
    let Some(ground) = ground(old, new) else {
        return Ok(Vec::new());
    };
    let mut problem = Problem::default();
    let mut read = |ways: Option<Ways<'_>>| {
        ways.map(|ways| {
            let mut speaker = Speaker::new(&mut problem, &ground, ways.view);
            Side::of(&mut speaker, ways.snapshot, ways.view)
        })
    };
    let (old_side, new_side) = (read(old), read(new));
    let mut sealed = problem.seal()?;
    let laws = sealed.laws()?;
    let mut passing = |ways: Option<Ways<'_>>, side: &Option<Side>| -> Result<Set, TooLarge> {
        let Some(side) = side else {
            return Ok(EMPTY);
        };
        let set = sealed.set(&side.allowed())?;
        let set = sealed.diagrams.and(set, laws)?;
        let set = if ways.is_some_and(|ways| sees_tokens(&ways)) {
            set
        } else {
            sealed.blind_to_tokens(set)?
        };
        Ok(sealed.diagrams.and(set, laws)?)
    };
    let before = passing(old, &old_side)?;
    let after = passing(new, &new_side)?;
    let opened = sealed.diagrams.minus(after, before)?;
    let closed = sealed.diagrams.minus(before, after)?;
    let mut all = EMPTY;
    for side in [&old_side, &new_side].into_iter().flatten() {
        let possible = sealed.set(&side.possible)?;
        all = sealed.diagrams.or(all, possible)?;
    }
    let all = sealed.diagrams.and(all, laws)?;

    let mut found = Found {
        sealed,
        ground,
        laws,
        all,
        changes: Vec::new(),
    };
    let sees = |ways: Option<Ways<'_>>| ways.is_some_and(|ways| sees_tokens(&ways));
    let (old_sees, new_sees) = (sees(old), sees(new));
    let mut rest = opened;
    for rule in new_side.iter().flat_map(|side| &side.allows) {
        let matched = Some((&rule.formula, new_sees));
        rest = found.take(rest, matched, true, &Responsible::New(rule.id.clone()))?;
    }
    found.take(rest, None, true, &Responsible::NoRule)?;
    let mut rest = closed;
    for rule in new_side.iter().flat_map(|side| &side.denies) {
        let matched = Some((&rule.formula, new_sees));
        rest = found.take(rest, matched, false, &Responsible::New(rule.id.clone()))?;
    }
    for rule in old_side.iter().flat_map(|side| &side.allows) {
        let matched = Some((&rule.formula, old_sees));
        rest = found.take(rest, matched, false, &Responsible::Old(rule.id.clone()))?;
    }
    found.take(rest, None, false, &Responsible::NoRule)?;
    Ok(found.changes)
}

/// Whether tokens are looked at; where they are not, what is sent as one is a header like any other.
fn sees_tokens(ways: &Ways<'_>) -> bool {
    !ways.view.authentications.is_empty()
}

/// Who and what is known on either side.
fn ground(old: Option<Ways<'_>>, new: Option<Ways<'_>>) -> Option<Ground> {
    let of = |ways: Ways<'_>| Ground::of(ways.snapshot, ways.view);
    let mut ground = of(new.or(old)?);
    if let (Some(old), Some(_)) = (old, new) {
        let before = of(old);
        for identity in before.identities {
            if !ground.identities.contains(&identity) {
                ground.identities.push(identity);
            }
        }
        for port in before.ports {
            if !ground.ports.contains(&port) {
                ground.ports.push(port);
            }
        }
        ground.destinations = match (ground.destinations, before.destinations) {
            (Some(mut all), Some(more)) => {
                for address in more {
                    if !all.contains(&address) {
                        all.push(address);
                    }
                }
                Some(all)
            }
            (_, None) | (None, _) => None,
        };
    }
    Some(ground)
}

struct Found {
    sealed: Sealed,
    ground: Ground,
    laws: Set,
    all: Set,
    changes: Vec<Change>,
}

impl Found {
    /// Notes the part of a difference that a rule is responsible for; gives what is left.
    fn take(
        &mut self,
        rest: Set,
        formula: Option<(&Formula, bool)>,
        opens: bool,
        rule: &Responsible,
    ) -> Result<Set, TooLarge> {
        if rest == EMPTY {
            return Ok(EMPTY);
        }
        let matched = match formula {
            Some((formula, sees_tokens)) => {
                let set = self.sealed.set(formula)?;
                let set = self.sealed.diagrams.and(set, self.laws)?;
                if sees_tokens {
                    set
                } else {
                    self.sealed.blind_to_tokens(set)?
                }
            }
            None => FULL,
        };
        let part = self.sealed.diagrams.and(rest, matched)?;
        if example(&mut self.sealed, &self.ground, part)?.is_none() {
            return Ok(rest);
        }
        let identities = self.ground.identities.clone();
        for (one, words) in self.sealed.apart(part, self.all)? {
            let Some((example, unless)) = example(&mut self.sealed, &self.ground, one)? else {
                continue;
            };
            self.changes.push(Change {
                opens,
                rule: rule.clone(),
                callers: self.sealed.callers(one, self.all, &identities)?,
                words,
                example,
                unless,
            });
        }
        Ok(self.sealed.diagrams.minus(rest, part)?)
    }
}
