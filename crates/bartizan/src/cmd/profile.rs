//! `bartizan profile`: what holds where no policy speaks, as documents.

use std::process::ExitCode;

use bartizan_compile::profile::{BUILT_IN, built_in};

use crate::args::{ProfileArgs, ProfileCommand};
use crate::exit::{Exit, USAGE};

/// Prints the names, or one document.
///
/// # Errors
/// When no profile has this name.
pub(crate) fn run(args: &ProfileArgs) -> anyhow::Result<ExitCode> {
    match &args.command {
        ProfileCommand::List => {
            for (name, document) in BUILT_IN {
                println!("{name:<12}{}", first_sentence(document));
            }
        }
        ProfileCommand::Show { name } => {
            let Some(document) = built_in(name) else {
                return Err(Exit::error(
                    USAGE,
                    format!("there is no profile `{name}`; there are {}", names()),
                ));
            };
            print!("{document}");
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// The names of the profiles that come with the binary.
pub(crate) fn names() -> String {
    BUILT_IN.map(|(name, _)| format!("`{name}`")).join(", ")
}

/// What the comment at the top of the document says first.
fn first_sentence(document: &str) -> String {
    let comment: Vec<&str> = document
        .lines()
        .map_while(|line| line.strip_prefix('#'))
        .map(str::trim)
        .take_while(|line| !line.is_empty())
        .collect();
    let comment = comment.join(" ");
    comment
        .split_inclusive(". ")
        .next()
        .unwrap_or_default()
        .trim()
        .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_profile_says_first_what_it_is() {
        for (name, document) in BUILT_IN {
            let sentence = first_sentence(document);
            assert!(
                sentence.len() > 10 && sentence.ends_with(['.', ':']),
                "{name}: {sentence}"
            );
        }
    }
}
