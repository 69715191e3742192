//! Ways from outside: who can be reached without what is needed, hop by hop.
//!
//! A way begins with somebody who has no identity, so mostly at a gateway. What one hop needs, all that comes after it has
//! needed. A gateway sends on only what it let in, by its routes; every other workload, once reached, may make any call that
//! it is allowed. What a workload does on its own account is no way from outside: such callers are named beside the answer.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bartizan_mesh::View;
use bartizan_prove::{Answer, Callers, Needs, TooLarge};
use bartizan_types::NamespacedName;

use super::{Outcome, words};
use crate::cmd::prove::example::Example;
use crate::evaluate::Picture;

/// One hop: who calls (nothing is somebody outside), and who is called.
type Hop<'p> = (Option<&'p View>, &'p View);

/// Whether every way from outside to one of these workloads has a hop that needs it.
pub(super) fn from_outside(picture: &Picture, targets: &[&View], needs: &Needs) -> Outcome {
    match search(picture, targets, needs) {
        Ok(Found::Nothing { own_account }) => {
            let mut notes = vec!["every way from outside has a hop that needs it".to_owned()];
            if !own_account.is_empty() {
                notes.push(format!(
                    "without it, on their own account, may call: {}",
                    own_account.into_iter().collect::<Vec<_>>().join(", ")
                ));
            }
            Outcome::Holds {
                over: words(targets),
                notes,
            }
        }
        Ok(Found::Way(hops)) => told(picture, &hops, needs),
        Err(error) => Outcome::Undecided {
            reasons: vec![error.to_string()],
            example: None,
        },
    }
}

enum Found<'p> {
    /// No way; who may call a target on its own account.
    Nothing { own_account: BTreeSet<String> },
    /// The hops of the shortest way.
    Way(Vec<Hop<'p>>),
}

fn search<'p>(picture: &'p Picture, targets: &[&'p View], needs: &Needs) -> Result<Found<'p>, TooLarge> {
    let snapshot = picture.snapshot();
    let views: Vec<&View> = snapshot.views().map(|view| &**view).collect();
    let mut without: BTreeMap<&NamespacedName, Callers> = BTreeMap::new();
    for view in &views {
        let callers = bartizan_prove::callers_without(snapshot, view, needs)?;
        without.insert(&view.workload, callers);
    }
    let mut from: BTreeMap<&NamespacedName, Hop<'_>> = BTreeMap::new();
    let mut queue = VecDeque::new();
    for view in &views {
        if without
            .get(&view.workload)
            .is_some_and(|callers| callers.plaintext)
        {
            from.insert(&view.workload, (None, view));
            queue.push_back(*view);
        }
    }
    while let Some(reached) = queue.pop_front() {
        for view in &views {
            let is_let_in = without.get(&view.workload).is_some_and(|callers| {
                callers
                    .known
                    .iter()
                    .any(|one| one == reached.identity.principal())
            });
            if !is_let_in || from.contains_key(&view.workload) || !sends(picture, reached, view, needs)? {
                continue;
            }
            from.insert(&view.workload, (Some(reached), view));
            queue.push_back(view);
        }
    }
    if let Some(target) = targets.iter().find(|target| from.contains_key(&target.workload)) {
        let mut hops = Vec::new();
        let mut at = &target.workload;
        while let Some(hop) = from.get(at) {
            hops.push(*hop);
            match hop.0 {
                Some(caller) => at = &caller.workload,
                None => break,
            }
        }
        hops.reverse();
        return Ok(Found::Way(hops));
    }
    let gateways: BTreeSet<&str> = views
        .iter()
        .filter(|view| view.gateway.is_some())
        .map(|view| view.identity.principal())
        .collect();
    let mut own_account = BTreeSet::new();
    for callers in targets.iter().filter_map(|target| without.get(&target.workload)) {
        own_account.extend(
            callers
                .known
                .iter()
                .chain(&callers.unknown)
                .filter(|principal| !gateways.contains(principal.as_str()))
                .cloned(),
        );
        if callers.others {
            own_account.insert("any other identity of the mesh".to_owned());
        }
    }
    Ok(Found::Nothing { own_account })
}

/// Whether a workload that was reached may make the call: a gateway only where it sends on what came without.
fn sends(picture: &Picture, reached: &View, callee: &View, needs: &Needs) -> Result<bool, TooLarge> {
    if reached.gateway.is_none() {
        return Ok(true);
    }
    let services = services_of(picture, &callee.workload);
    let answer = bartizan_prove::every_way_on_to(picture.snapshot(), reached, needs, &services)?;
    Ok(answer != Answer::Holds)
}

/// A way with an example for each hop, each judged.
fn told(picture: &Picture, hops: &[Hop<'_>], needs: &Needs) -> Outcome {
    let snapshot = picture.snapshot();
    let mut examples = Vec::new();
    let mut reasons = Vec::new();
    for (at, (caller, callee)) in hops.iter().enumerate() {
        let next = hops.get(at + 1).map(|(_, next)| *next);
        let answer = match (callee.gateway.is_some(), next) {
            (true, Some(next)) => {
                let services = services_of(picture, &next.workload);
                bartizan_prove::every_way_on_to(snapshot, callee, needs, &services)
            }
            _ => {
                let principal = caller.map(|caller| caller.identity.principal());
                bartizan_prove::every_way_of(snapshot, callee, needs, principal)
            }
        };
        let Ok(Answer::Broken { request, unless, .. }) = answer else {
            reasons.push(format!("a hop to {} was not found again", callee.workload));
            continue;
        };
        let example = Example::judged(picture, &callee.workload, *request);
        let goes_on = match (callee.gateway.is_some(), next) {
            (true, Some(next)) => example.goes_on_to(picture, &services_of(picture, &next.workload)),
            _ => true,
        };
        if !example.allowed {
            reasons.push(format!(
                "not decided: the request that was found is refused at {} ({})",
                callee.workload, example.reason
            ));
        } else if !goes_on {
            reasons.push(format!(
                "not decided: the gateway {} may send it on, and no request that makes it do so was found",
                callee.workload
            ));
        }
        reasons.extend(
            unless
                .iter()
                .map(|text| format!("it depends on `{text}`, which is not looked into")),
        );
        examples.push(example);
    }
    let way: Vec<String> = std::iter::once("outside".to_owned())
        .chain(hops.iter().map(|(_, callee)| callee.workload.to_string()))
        .collect();
    let mut notes = vec![format!("the way: {}", way.join(" -> "))];
    let Some(last) = examples.pop() else {
        return Outcome::Undecided {
            reasons,
            example: None,
        };
    };
    notes.extend(examples.iter().map(|example| {
        let what = example.request.http.as_ref().map_or_else(
            || "a TCP connection".to_owned(),
            |http| format!("{} {}", http.method, http.target),
        );
        format!("before it, {what} from {} to {}", example.from(), example.callee)
    }));
    if reasons.is_empty() {
        Outcome::False {
            example: Box::new(last),
            notes,
        }
    } else {
        Outcome::Undecided {
            reasons,
            example: Some(Box::new(last)),
        }
    }
}

/// The services that a workload serves.
fn services_of(picture: &Picture, workload: &NamespacedName) -> Vec<NamespacedName> {
    let snapshot = picture.snapshot();
    let mut names: Vec<NamespacedName> = Vec::new();
    let mut hostnames = Vec::new();
    for service in snapshot.services() {
        let serves = snapshot.endpoints(&service.name).is_some_and(|endpoints| {
            endpoints
                .endpoints
                .iter()
                .any(|endpoint| endpoint.workload == *workload)
        });
        if serves {
            names.push(service.name.clone());
            hostnames.push(&service.hostname);
        }
    }
    // A name that stands for one of them leads there too; names of names are followed to the end.
    loop {
        let more: Vec<_> = snapshot
            .services()
            .filter(|service| {
                !names.contains(&service.name)
                    && service
                        .alias_of
                        .as_ref()
                        .is_some_and(|name| hostnames.contains(&name))
            })
            .collect();
        if more.is_empty() {
            return names;
        }
        for service in more {
            names.push(service.name.clone());
            hostnames.push(&service.hostname);
        }
    }
}
