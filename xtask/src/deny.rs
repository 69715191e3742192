//! What must not be built in: a second TLS stack, crates under licences that we may not ship, code from outside the registry.

use std::collections::BTreeSet;

use crate::run;

/// Crates that bring a second TLS or crypto stack, or are abandoned.
const BANNED: [&str; 7] = [
    "ring",
    "openssl",
    "openssl-sys",
    "native-tls",
    "serde_yaml",
    "async-std",
    "rustls-pemfile",
];
/// Licences of which each crate must offer at least one (or be a combination of them).
const LICENCES: [&str; 12] = [
    "MIT",
    "Apache-2.0",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "ISC",
    "Zlib",
    "Unicode-3.0",
    "CC0-1.0",
    "0BSD",
    "MIT-0",
    "OpenSSL",
    "Unlicense",
];

/// Checks the packages of a Linux build against the lists, and the lock file's sources.
pub(crate) fn check() -> Result<(), String> {
    let tree = run::output(
        &run::cargo_path(),
        &[
            "tree",
            "--locked",
            "--workspace",
            "-e",
            "normal,build",
            "--prefix",
            "none",
            "-f",
            "{p}\t{l}",
        ],
    )?;
    let mut problems = BTreeSet::new();
    for line in tree.lines() {
        let (package, licence) = line.split_once('\t').unwrap_or((line, ""));
        let licence = licence.trim_end_matches(" (*)");
        let name = package.split(' ').next().unwrap_or_default();
        if name.is_empty() {
            continue;
        }
        if BANNED.contains(&name) {
            problems.insert(format!(
                "{name} is banned, and something brings it: cargo tree -i {name}"
            ));
        }
        if !permitted(licence) {
            problems.insert(format!("{name} is under `{licence}`, which is not on the list"));
        }
    }
    for line in run::read("Cargo.lock")?.lines() {
        if let Some(source) = line.strip_prefix("source = ")
            && source != "\"registry+https://github.com/rust-lang/crates.io-index\""
        {
            problems.insert(format!(
                "Cargo.lock has a source that is not the registry: {source}"
            ));
        }
    }
    if problems.is_empty() {
        Ok(())
    } else {
        Err(problems.into_iter().collect::<Vec<_>>().join("\n  "))
    }
}

/// SPDX with `OR`, `AND`, `/` and parentheses: one side of an OR must be permitted, each side of an AND.
fn permitted(expression: &str) -> bool {
    let flat = expression.replace('/', " OR ");
    let flat = flat.trim();
    if let Some(inner) = flat.strip_prefix('(').and_then(|rest| rest.strip_suffix(')'))
        && !inner.contains(['(', ')'])
    {
        return permitted(inner);
    }
    let split = |word: &str| -> Option<(String, String)> {
        let mut depth = 0i32;
        for (at, character) in flat.char_indices() {
            match character {
                '(' => depth += 1,
                ')' => depth -= 1,
                _ => {}
            }
            if depth == 0 && flat.get(at..).is_some_and(|rest| rest.starts_with(word)) {
                return Some((
                    flat.get(..at)?.to_owned(),
                    flat.get(at + word.len()..)?.to_owned(),
                ));
            }
        }
        None
    };
    if let Some((left, right)) = split(" OR ") {
        return permitted(&left) || permitted(&right);
    }
    if let Some((left, right)) = split(" AND ") {
        return permitted(&left) && permitted(&right);
    }
    LICENCES.contains(&flat.split(" WITH ").next().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::permitted;

    #[test]
    fn one_side_of_an_or_and_each_side_of_an_and() {
        for good in [
            "MIT",
            "MIT OR Apache-2.0",
            "GPL-3.0 OR MIT",
            "ISC AND (Apache-2.0 OR ISC)",
            "MIT/Apache-2.0",
            "(MIT OR Apache-2.0) AND Unicode-3.0",
            "Apache-2.0 WITH LLVM-exception",
        ] {
            assert!(permitted(good), "{good}");
        }
        for bad in [
            "GPL-3.0",
            "MIT AND GPL-3.0",
            "",
            "(MIT OR Apache-2.0) AND GPL-2.0",
        ] {
            assert!(!permitted(bad), "{bad}");
        }
    }
}
