//! Who may call a callee, and what a caller may reach: at once, and through whom it reaches.

use std::collections::{BTreeSet, VecDeque};

use anyhow::bail;
use serde_json::{Value, json};

use super::ways::{Map, Way};

/// One callee that can be reached, and through whom.
struct Reached<'m> {
    to: &'m str,
    /// The callees on the way, the first one first; empty where it is called directly.
    through: Vec<&'m str>,
    ways: Vec<&'m Way>,
}

/// Text and JSON of who may call `to` (`NAMESPACE/CONTROLLER`).
pub(super) fn who(map: &Map, to: &str) -> (String, Value) {
    let ways: Vec<&Way> = map.ways.iter().filter(|way| way.to == to).collect();
    let mut text = String::new();
    if ways.is_empty() {
        text += &format!("nobody may call {to}\n");
    }
    for way in &ways {
        text += &format!("{} may call {to}: {}\n", way.from, way.asked());
        text += &told(way);
    }
    (
        text,
        json!({ "to": to, "ways": ways.iter().map(|way| way.to_json()).collect::<Vec<_>>() }),
    )
}

/// Text and JSON of what `from` may reach: directly, or also as each of the workloads that it reaches.
///
/// # Errors
/// When the caller is not known.
pub(super) fn reach(map: &Map, from: &str, is_transitive: bool) -> anyhow::Result<(String, Value)> {
    if !map.callers.iter().any(|caller| caller == from) {
        bail!("no caller `{from}` is known: {}", map.callers.join(", "));
    }
    let reached = reached(map, from, is_transitive);
    let mut text = String::new();
    if reached.is_empty() {
        text += &format!("{from} may call nothing\n");
    }
    for one in &reached {
        for way in &one.ways {
            if one.through.is_empty() {
                text += &format!("{from} may call {}: {}\n", one.to, way.asked());
            } else {
                text += &format!(
                    "{from} reaches {} through {}: {}\n",
                    one.to,
                    one.through.join(", "),
                    way.asked()
                );
            }
            text += &told(way);
        }
    }
    if is_transitive {
        text += &format!(
            "{} of {} callees can be reached, {} of them directly\n",
            reached.len(),
            map.callees.len(),
            reached.iter().filter(|one| one.through.is_empty()).count()
        );
    }
    let all: Vec<Value> = reached
        .iter()
        .map(|one| {
            json!({
                "to": one.to,
                "through": one.through,
                "ways": one.ways.iter().map(|way| way.to_json()).collect::<Vec<_>>(),
            })
        })
        .collect();
    Ok((
        text,
        json!({ "from": from, "transitive": is_transitive, "reached": all, "callees": map.callees.len() }),
    ))
}

fn told(way: &Way) -> String {
    let mut text = format!("    by {}\n", way.ruled());
    for part in &way.unless {
        text += &format!("    depends on `{part}`, which is not looked into\n");
    }
    text
}

/// The shortest way to each callee, the nearest first.
fn reached<'m>(map: &'m Map, from: &'m str, is_transitive: bool) -> Vec<Reached<'m>> {
    let mut found: BTreeSet<&str> = BTreeSet::new();
    let mut all: Vec<Reached<'m>> = Vec::new();
    let mut waiting: VecDeque<(&str, Vec<&str>)> = VecDeque::from([(from, Vec::new())]);
    while let Some((as_whom, through)) = waiting.pop_front() {
        for callee in &map.callees {
            let ways: Vec<&Way> = map.between(as_whom, &callee.name).collect();
            if ways.is_empty() || !found.insert(&callee.name) {
                continue;
            }
            if is_transitive {
                let mut further = through.clone();
                further.push(callee.name.as_str());
                waiting.push_back((&callee.identity, further));
            }
            all.push(Reached {
                to: &callee.name,
                through: through.clone(),
                ways,
            });
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::super::ways::Callee;
    use super::*;

    fn map() -> Map {
        let callee = |name: &str| Callee {
            name: format!("a/{name}"),
            identity: format!("a/{name}"),
            is_gateway: false,
            policies: 1,
        };
        let way = |from: &str, to: &str| Way {
            from: from.to_owned(),
            to: format!("a/{to}"),
            what: Vec::new(),
            conditions: Vec::new(),
            rule: None,
            place: None,
            unless: Vec::new(),
        };
        Map {
            callers: ["outside", "a/edge", "a/cart", "a/store", "a/idle"]
                .map(str::to_owned)
                .into(),
            callees: ["edge", "cart", "store", "idle"].map(callee).into(),
            ways: vec![
                way("outside", "edge"),
                way("a/edge", "cart"),
                way("a/cart", "store"),
                way("a/store", "cart"),
            ],
            problems: Vec::new(),
        }
    }

    #[test]
    fn the_blast_radius_is_what_is_reached_step_by_step() {
        let map = map();
        let names = |is_transitive| -> Vec<(&str, usize)> {
            let all = reached(&map, "outside", is_transitive);
            all.iter().map(|one| (one.to, one.through.len())).collect()
        };
        assert_eq!(names(false), [("a/edge", 0)]);
        assert_eq!(names(true), [("a/edge", 0), ("a/cart", 1), ("a/store", 2)]);
        assert!(reached(&map, "a/idle", true).is_empty());
        assert!(reach(&map, "a/nobody", true).is_err());
    }
}
