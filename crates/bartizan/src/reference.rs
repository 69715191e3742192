//! The reference pages of `docs/`, made of the tables that the code itself uses: `bartizan internal reference PAGE`.
//! `cargo xtask docs` compares them with what is checked in.

mod commands;
mod metrics;

use std::fmt::Write as _;

use anyhow::bail;
use bartizan_config::Code;

/// Prints the page of this name.
///
/// # Errors
/// When there is no such page.
pub(crate) fn print(arguments: &[String]) -> anyhow::Result<()> {
    let page = match arguments {
        [page] if page == "findings" => findings(),
        [page] if page == "commands" => commands::page(),
        [page] if page == "metrics" => metrics::page(),
        _ => bail!("a page is one of findings, commands, metrics"),
    };
    print!("{page}");
    Ok(())
}

/// Says where a page comes from.
fn head(title: &str) -> String {
    format!(
        "# {title}\n\n<!-- Made of the code by `cargo xtask docs --write`; what is changed here is lost. -->\n"
    )
}

fn findings() -> String {
    let mut page = head("Findings");
    page.push_str(
        "\nA finding is about what somebody wrote: a code that stays the same over versions, a severity, a place, and how to fix it. An\n\
         error refuses the new state as a whole and the one before stays; a warning is an error with `--strict`; a note asks for\n\
         nothing. `bartizan check DIR` prints the findings of a folder and runs nothing.\n",
    );
    for (title, codes) in rooms() {
        write!(page, "\n## {title}\n").unwrap_or_default();
        for code in codes {
            write!(
                page,
                "\n### {}: {}\n\n{}\n",
                code.id, code.title, code.explanation
            )
            .unwrap_or_default();
        }
    }
    page.push_str(
        "\n## The host\n\nA host that does not permit a sandbox is told with one of these, and with the line that allows it: see\n\
         [sandbox.md](sandbox.md#what-the-host-must-permit).\n\n| code | what is missing |\n|---|---|\n",
    );
    for (code, ability) in bartizan_sandbox::Problem::table() {
        writeln!(page, "| {code} | {ability} |").unwrap_or_default();
    }
    page
}

/// Every code there is, by where it arises.
fn rooms() -> [(&'static str, &'static [Code]); 3] {
    [
        ("Reading a document", bartizan_config::finding::CODES),
        ("Documents together", bartizan_compile::CODES),
        ("Folders, and what is kept of them", bartizan_control::CODES),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_unique_in_order_and_explained() {
        let all: Vec<&Code> = rooms().iter().flat_map(|(_, codes)| codes.iter()).collect();
        assert!(all.len() > 20);
        for pair in all.windows(2) {
            assert!(pair[0].id < pair[1].id, "{} before {}", pair[0].id, pair[1].id);
        }
        for code in all {
            assert!(code.explanation.ends_with('.'), "{} ends in no sentence", code.id);
            assert!(
                !code.title.ends_with('.'),
                "the title of {} is no sentence",
                code.id
            );
        }
    }
}

#[cfg(test)]
#[path = "reference/pages_tests.rs"]
mod pages_tests;
