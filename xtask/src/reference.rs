//! Pages of `docs/` that are made of the code's own tables: findings, commands, metrics. The binary knows the tables
//! (`bartizan internal reference PAGE`); this compares what it prints with what is checked in.

use crate::run;

/// The pages, by the word that the binary knows them by.
const PAGES: [&str; 3] = ["findings", "commands", "metrics"];

/// Fails on a page that differs from the code.
pub(crate) fn check() -> Result<(), String> {
    let mut stale = Vec::new();
    for page in PAGES {
        let path = format!("docs/{page}.md");
        let made = make(page)?;
        let kept = run::read(&path).unwrap_or_default();
        if made != kept {
            let line = made
                .lines()
                .zip(kept.lines())
                .position(|(made, kept)| made != kept)
                .unwrap_or_else(|| made.lines().count().min(kept.lines().count()));
            stale.push(format!(
                "{path} is not what the code says, from line {}",
                line + 1
            ));
        }
    }
    if stale.is_empty() {
        Ok(())
    } else {
        Err(format!(
            "{}\n  write them: cargo xtask docs --write",
            stale.join("\n  ")
        ))
    }
}

/// Writes the pages.
pub(crate) fn write() -> Result<(), String> {
    for page in PAGES {
        let path = run::root().join(format!("docs/{page}.md"));
        std::fs::write(&path, make(page)?).map_err(|error| format!("write {}: {error}", path.display()))?;
    }
    Ok(())
}

fn make(page: &str) -> Result<String, String> {
    run::output(
        &run::cargo_path(),
        &[
            "run",
            "--quiet",
            "--locked",
            "--package",
            "bartizan",
            "--",
            "internal",
            "reference",
            page,
        ],
    )
}
