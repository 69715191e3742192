//! `docs/commands.md`: every command, argument and option as clap knows them.

use std::fmt::Write as _;

use clap::{Arg, ArgAction, Command, CommandFactory as _};

use crate::args::Arguments;

/// The page.
pub(super) fn page() -> String {
    let mut root = Arguments::command();
    root.build();
    let mut page = super::head("Commands");
    if let Some(about) = root.get_about() {
        write!(page, "\n{about}.\n").unwrap_or_default();
    }
    let visible: Vec<&Command> = root
        .get_subcommands()
        .filter(|command| !command.is_hide_set() && command.get_name() != "help")
        .collect();
    page.push_str("\n| command | what it does |\n|---|---|\n");
    for command in &visible {
        let name = command.get_name();
        writeln!(
            page,
            "| [`{name}`](#bartizan-{name}) | {} |",
            text(command.get_about())
        )
        .unwrap_or_default();
    }
    page.push_str("\nEvery command takes these:\n");
    arguments(&mut page, root.get_arguments().filter(|arg| arg.is_global_set()));
    if let Some(after) = root.get_after_help() {
        write!(page, "\n{after}.\n").unwrap_or_default();
    }
    for command in visible {
        one(&mut page, "##", "", command);
        for inner in command
            .get_subcommands()
            .filter(|inner| inner.get_name() != "help")
        {
            one(&mut page, "###", &format!("{} ", command.get_name()), inner);
        }
    }
    page
}

/// A command below its own head; `outer` is the command that it belongs to, with a blank behind it.
fn one(page: &mut String, head: &str, outer: &str, command: &Command) {
    let usage = command.clone().render_usage().to_string();
    write!(
        page,
        "\n{head} bartizan {outer}{}\n\n{}.\n\n```text\n{}\n```\n",
        command.get_name(),
        text(command.get_about()),
        usage.trim_start_matches("Usage: ").trim_end()
    )
    .unwrap_or_default();
    arguments(page, command.get_arguments().filter(|arg| !arg.is_global_set()));
}

fn arguments<'a>(page: &mut String, arguments: impl Iterator<Item = &'a Arg>) {
    let listed: Vec<&Arg> = arguments
        .filter(|arg| !arg.is_hide_set() && !matches!(arg.get_id().as_str(), "help" | "version"))
        .collect();
    if listed.is_empty() {
        return;
    }
    page.push_str("\n| argument | default | what it says |\n|---|---|---|\n");
    for arg in listed {
        let default = arg
            .get_default_values()
            .iter()
            .map(|value| format!("`{}`", value.to_string_lossy()))
            .collect::<Vec<_>>()
            .join(", ");
        let takes_value = arg.get_action().takes_values();
        let default = if takes_value { default } else { String::new() };
        let mut says = text(arg.get_help());
        let values: Vec<String> = arg
            .get_possible_values()
            .iter()
            .filter(|value| takes_value && !value.is_hide_set())
            .map(|value| match value.get_help() {
                Some(help) => format!("`{}` ({help})", value.get_name()),
                None => format!("`{}`", value.get_name()),
            })
            .collect();
        if !values.is_empty() {
            write!(says, ": {}", values.join(", ")).unwrap_or_default();
        }
        if let Some(variable) = arg.get_env() {
            write!(says, "; also `{}`", variable.to_string_lossy()).unwrap_or_default();
        }
        writeln!(page, "| `{}` | {default} | {says} |", spelling(arg)).unwrap_or_default();
    }
}

/// How it is written on the command line.
fn spelling(arg: &Arg) -> String {
    let value = arg
        .get_value_names()
        .and_then(|names| names.first())
        .map_or_else(|| arg.get_id().as_str().to_ascii_uppercase(), ToString::to_string);
    let many = if matches!(arg.get_action(), ArgAction::Append) {
        "…"
    } else {
        ""
    };
    if arg.is_positional() {
        let name = if arg.is_last_set() {
            format!("-- {value}")
        } else {
            value
        };
        return if arg.is_required_set() {
            format!("{name}{many}")
        } else {
            format!("[{name}]{many}")
        };
    }
    let short = arg.get_short().map(|short| format!("-{short}"));
    let long = arg.get_long().map(|long| format!("--{long}"));
    let name = [short, long].into_iter().flatten().collect::<Vec<_>>().join(", ");
    if arg.get_action().takes_values() {
        format!("{name} {value}{many}")
    } else {
        name
    }
}

/// One line that is safe in a table.
fn text(styled: Option<&clap::builder::StyledStr>) -> String {
    styled
        .map(ToString::to_string)
        .unwrap_or_default()
        .replace('|', "\\|")
        .replace('\n', " ")
}
