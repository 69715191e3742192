//! Two meshes side by side: which workloads belong together, and what differs beside the requests that pass.

use std::collections::{BTreeMap, BTreeSet};

use bartizan_mesh::{MtlsMode, Snapshot, View};
use bartizan_prove::Ways;
use serde_json::Value;

use super::super::prove::example::Example;
use super::{Differing, Judged};
use crate::evaluate::Picture;

/// What requests become different, for each group of workloads in which something does.
pub(super) fn compare(old: &Picture, new: &Picture) -> Vec<Differing> {
    let (before, after) = (groups(old.snapshot()), groups(new.snapshot()));
    let names: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    let mut all = Vec::new();
    for name in names {
        let (mine, theirs) = (before.get(name), after.get(name));
        let mut differing = Differing {
            callee: name.clone(),
            whole: match (mine, theirs) {
                (None, Some(_)) => Some("new"),
                (Some(_), None) => Some("gone"),
                (Some(_), Some(_)) | (None, None) => None,
            },
            changes: Vec::new(),
            problem: None,
        };
        for (mine, theirs) in pairs(old.snapshot(), new.snapshot(), mine, theirs) {
            match bartizan_prove::compare(ways(old, mine), ways(new, theirs)) {
                Ok(changes) => differing.changes.extend(changes.into_iter().map(|change| {
                    let judge = |picture, view: Option<&View>| {
                        view.map(|view| Example::judged(picture, &view.workload, change.example.clone()))
                    };
                    Judged {
                        before: judge(old, mine),
                        after: judge(new, theirs),
                        change,
                    }
                })),
                Err(error) => differing.problem = Some(error.to_string()),
            }
        }
        if differing.whole.is_some() || !differing.changes.is_empty() || differing.problem.is_some() {
            all.push(differing);
        }
    }
    all
}

fn ways<'p>(picture: &'p Picture, view: Option<&'p View>) -> Option<Ways<'p>> {
    let snapshot = picture.snapshot();
    view.map(|view| Ways { snapshot, view })
}

/// Workloads by namespace and controller.
fn groups(snapshot: &Snapshot) -> BTreeMap<String, Vec<&View>> {
    let mut groups: BTreeMap<String, Vec<&View>> = BTreeMap::new();
    for view in snapshot.views() {
        let owner = snapshot.workload(&view.workload).map_or_else(
            || view.workload.name.clone(),
            |workload| workload.workload_name.clone(),
        );
        groups
            .entry(format!("{}/{owner}", view.workload.namespace))
            .or_default()
            .push(view);
    }
    groups
}

/// Which replicas to compare: one pair where all are alike, else those of the same name.
fn pairs<'p>(
    old: &Snapshot,
    new: &Snapshot,
    mine: Option<&Vec<&'p View>>,
    theirs: Option<&Vec<&'p View>>,
) -> Vec<(Option<&'p View>, Option<&'p View>)> {
    let mine: &[&View] = mine.map(Vec::as_slice).unwrap_or_default();
    let theirs: &[&View] = theirs.map(Vec::as_slice).unwrap_or_default();
    let are_alike = |snapshot: &Snapshot, views: &[&View]| {
        views.split_first().is_none_or(|(first, rest)| {
            rest.iter()
                .all(|view| bartizan_prove::is_alike(snapshot, first, view))
        })
    };
    if are_alike(old, mine) && are_alike(new, theirs) {
        return vec![(mine.first().copied(), theirs.first().copied())];
    }
    let mut pairs: Vec<_> = mine
        .iter()
        .map(|view| {
            let same = theirs.iter().find(|other| other.workload == view.workload);
            (Some(*view), same.copied())
        })
        .collect();
    pairs.extend(
        theirs
            .iter()
            .filter(|view| !mine.iter().any(|other| other.workload == view.workload))
            .map(|view| (None, Some(*view))),
    );
    pairs
}

/// What differs beside requests: the profile, mTLS modes, tokens, services and workloads.
pub(super) fn notes(old: &Snapshot, new: &Snapshot) -> Vec<String> {
    let mut notes = Vec::new();
    if let (Some(before), Some(after)) = (old.settings(), new.settings()) {
        let fields = |settings: &bartizan_mesh::Settings| {
            let mut fields = match serde_json::to_value(&settings.profile) {
                Ok(Value::Object(fields)) => fields,
                _ => serde_json::Map::new(),
            };
            fields.insert(
                "paths".to_owned(),
                serde_json::to_value(settings.paths).unwrap_or_default(),
            );
            fields.insert("trustDomain".to_owned(), settings.trust_domain.as_str().into());
            fields
        };
        let (before, after) = (fields(before), fields(after));
        for (name, value) in &after {
            if let Some(was) = before.get(name).filter(|was| *was != value) {
                notes.push(format!(
                    "profile: `{name}` is {} (was {})",
                    plain(value),
                    plain(was)
                ));
            }
        }
    }
    let services = |snapshot: &Snapshot| -> BTreeSet<String> {
        snapshot
            .services()
            .map(|service| service.name.to_string())
            .collect()
    };
    let (before, after) = (services(old), services(new));
    notes.extend(
        after
            .difference(&before)
            .map(|name| format!("service {name}: new")),
    );
    notes.extend(
        before
            .difference(&after)
            .map(|name| format!("service {name}: gone")),
    );
    let (before, after) = (groups(old), groups(new));
    for (name, views) in &after {
        let Some(was) = before.get(name) else {
            continue;
        };
        if let (Some(view), Some(was)) = (views.first(), was.first()) {
            modes(&mut notes, name, was, view);
        }
    }
    tokens(&mut notes, old, new);
    notes
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn modes(notes: &mut Vec<String>, name: &str, was: &View, view: &View) {
    let word = |mode: MtlsMode| match mode {
        MtlsMode::Disable => "DISABLE",
        MtlsMode::Permissive => "PERMISSIVE",
        MtlsMode::Strict => "STRICT",
    };
    if was.mtls != view.mtls {
        notes.push(format!(
            "{name}: mTLS mode is {} (was {})",
            word(view.mtls),
            word(was.mtls)
        ));
    }
    for inbound in &view.inbound {
        let before = was.mtls_of(inbound.port);
        let is_own = inbound.mtls != view.mtls || before != was.mtls;
        if before != inbound.mtls && is_own {
            notes.push(format!(
                "{name} port {}: mTLS mode is {} (was {})",
                inbound.port,
                word(inbound.mtls),
                word(before)
            ));
        }
    }
}

fn tokens(notes: &mut Vec<String>, old: &Snapshot, new: &Snapshot) {
    let all = |snapshot: &Snapshot| -> BTreeMap<String, Value> {
        snapshot
            .authentications()
            .map(|one| {
                (
                    one.name.to_string(),
                    serde_json::to_value(&**one).unwrap_or_default(),
                )
            })
            .collect()
    };
    let (before, after) = (all(old), all(new));
    for (name, value) in &after {
        match before.get(name) {
            None => notes.push(format!("RequestAuthentication {name}: new")),
            Some(was) if was != value => notes.push(format!("RequestAuthentication {name}: changed")),
            Some(_) => {}
        }
    }
    notes.extend(
        before
            .keys()
            .filter(|name| !after.contains_key(*name))
            .map(|name| format!("RequestAuthentication {name}: gone")),
    );
}
