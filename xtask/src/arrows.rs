//! The imports between rooms against the table in `ARCHITECTURE.md`, what pure rooms may reach, and links between pages.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use crate::run;

/// A pure room's normal dependencies reach none of these.
const NOT_PURE: [&str; 9] = [
    "tokio", "hyper", "h2", "rustls", "socket2", "mio", "tonic", "kube", "nix",
];
const PURE: [&str; 8] = [
    "types", "proto", "config", "mesh", "compile", "decide", "prove", "cel",
];
/// Only these rooms name a TLS or certificate crate.
const TLS: [(&str, &[&str]); 4] = [
    ("rustls", &["identity", "wire"]),
    ("tokio-rustls", &["wire", "control"]),
    ("rcgen", &["identity"]),
    ("aws-lc-rs", &["identity"]),
];

/// Fails on an arrow that the table does not have, on one that it has and nobody uses, and on a pure room that reaches IO.
pub(crate) fn check() -> Result<(), String> {
    let table = table()?;
    let mut problems = Vec::new();
    for (room, allowed) in &table {
        let manifest = run::read(&format!("crates/{room}/Cargo.toml"))?;
        let named = normal_dependencies(&manifest);
        let rooms: BTreeSet<String> = named
            .iter()
            .filter_map(|name| name.strip_prefix("bartizan-"))
            .map(str::to_owned)
            .collect();
        for room_used in rooms.difference(allowed) {
            problems.push(format!(
                "{room} -> {room_used} is not in the table of ARCHITECTURE.md"
            ));
        }
        for (name, wardens) in TLS {
            if named.contains(name) && !wardens.contains(&room.as_str()) {
                problems.push(format!(
                    "{room} names {name}, which only {} may",
                    wardens.join(" and ")
                ));
            }
        }
    }
    for entry in
        std::fs::read_dir(run::root().join("crates")).map_err(|error| format!("read crates/: {error}"))?
    {
        let name = entry
            .map_err(|error| error.to_string())?
            .file_name()
            .to_string_lossy()
            .into_owned();
        if !table.contains_key(&name) {
            problems.push(format!("room {name} is not in the table of ARCHITECTURE.md"));
        }
    }
    for room in PURE {
        let tree = run::output(
            &run::cargo_path(),
            &[
                "tree",
                "--locked",
                "-e",
                "normal",
                "--prefix",
                "none",
                "-p",
                &format!("bartizan-{room}"),
            ],
        )?;
        let reached: BTreeSet<&str> = tree.lines().filter_map(|line| line.split(' ').next()).collect();
        for name in NOT_PURE {
            if reached.contains(name) {
                problems.push(format!("{room} is pure, but its dependencies reach {name}"));
            }
        }
    }
    if problems.is_empty() {
        Ok(())
    } else {
        Err(problems.join("\n  "))
    }
}

/// Fails on a link between pages that leads nowhere.
pub(crate) fn links() -> Result<(), String> {
    let root = run::root();
    let mut pages = vec![
        "README.md".to_owned(),
        "ARCHITECTURE.md".to_owned(),
        "CONTRIBUTING.md".to_owned(),
        "CHANGELOG.md".to_owned(),
        "SECURITY.md".to_owned(),
    ];
    for folder in ["docs", "docs/decisions"] {
        for entry in std::fs::read_dir(root.join(folder))
            .into_iter()
            .flatten()
            .flatten()
        {
            let name = entry.file_name().to_string_lossy().into_owned();
            if Path::new(&name)
                .extension()
                .is_some_and(|extension| extension == "md")
            {
                pages.push(format!("{folder}/{name}"));
            }
        }
    }
    let mut problems = Vec::new();
    for page in pages {
        let text = run::read(&page)?;
        let folder = root.join(&page).parent().unwrap_or(&root).to_owned();
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let target = link.split('#').next().unwrap_or_default();
            if !target.is_empty() && !target.contains("://") && !folder.join(target).exists() {
                problems.push(format!("{page} links to {target}, which does not exist"));
            }
        }
    }
    if problems.is_empty() {
        Ok(())
    } else {
        Err(problems.join("\n  "))
    }
}

fn table() -> Result<BTreeMap<String, BTreeSet<String>>, String> {
    let text = run::read("ARCHITECTURE.md")?;
    let block = text
        .split("```arrows\n")
        .nth(1)
        .and_then(|rest| rest.split("```").next())
        .ok_or("ARCHITECTURE.md has no ```arrows block")?;
    block
        .lines()
        .filter(|line| !line.trim().is_empty())
        .map(|line| {
            let (room, uses) = line
                .split_once("->")
                .ok_or_else(|| format!("`{line}` has no arrow"))?;
            Ok((
                room.trim().to_owned(),
                uses.split_whitespace().map(str::to_owned).collect(),
            ))
        })
        .collect()
}

fn normal_dependencies(manifest: &str) -> BTreeSet<String> {
    manifest
        .lines()
        .skip_while(|line| line.trim() != "[dependencies]")
        .skip(1)
        .take_while(|line| !line.starts_with('['))
        .filter_map(|line| line.split(['.', '=', ' ']).next())
        .filter(|name| !name.is_empty() && !name.starts_with('#'))
        .map(str::to_owned)
        .collect()
}
