//! `bartizan diff OLD NEW`: what a change of documents opens and closes, over all requests, in words and with an example each.

mod meshes;

use std::process::ExitCode;

use bartizan_prove::{Callers, Change, Responsible};
use bartizan_types::RuleId;
use serde_json::{Value, json};

use super::prove::example::{self, Example, rule_words};
use crate::args::{DiffArgs, FailOn, Output};
use crate::evaluate::Picture;
use crate::exit::{CLAIM_UNDECIDED, CLOSES, OPENS};
use crate::folder::Folder;

/// Everything that differs for one group of workloads.
struct Differing {
    /// Namespace and controller.
    callee: String,
    /// What becomes of it as a whole, where it is new or gone.
    whole: Option<&'static str>,
    changes: Vec<Judged>,
    /// Why it could not be compared.
    problem: Option<String>,
}

/// A change with what `decide` says of its example before and after.
struct Judged {
    change: Change,
    before: Option<Example>,
    after: Option<Example>,
}

/// Compares.
///
/// # Errors
/// When the documents of one side have errors.
pub(crate) fn run(args: &DiffArgs) -> anyhow::Result<ExitCode> {
    let read = |source: &std::path::PathBuf| {
        Picture::of_folder(
            Folder::read(std::slice::from_ref(source), &args.documents)?,
            args.documents.strict,
        )
    };
    let (old, new) = (read(&args.old)?, read(&args.new)?);
    let notes = meshes::notes(old.snapshot(), new.snapshot());
    let differing = meshes::compare(&old, &new);
    let judged_in = |source| example::judged_in(std::slice::from_ref(source), &args.documents);
    let sources = (judged_in(&args.old), judged_in(&args.new));
    let has = |opens: bool| {
        differing
            .iter()
            .flat_map(|one| &one.changes)
            .any(|judged| judged.change.opens == opens)
    };
    let (opens, closes) = (has(true), has(false));
    let is_undecided = differing.iter().any(|one| one.problem.is_some());
    match args.output {
        Output::Json => println!(
            "{}",
            json!({
                "opens": opens,
                "closes": closes,
                "notes": notes,
                "workloads": differing.iter().map(|one| to_json(one, &old, &new, &sources)).collect::<Vec<_>>(),
            })
        ),
        Output::Text => {
            for note in &notes {
                println!("{note}");
            }
            for one in &differing {
                print!("{}", drawn(one, &old, &new, &sources));
            }
            println!(
                "{}",
                match (opens, closes) {
                    (true, true) => "the change opens something and closes something",
                    (true, false) => "the change opens something",
                    (false, true) => "the change only closes something",
                    (false, false) if is_undecided =>
                        "what could be compared lets in the same requests as before",
                    (false, false) => "the same requests are let in as before",
                }
            );
        }
    }
    let fails = match args.fail_on {
        FailOn::Opens => opens,
        FailOn::Closes => closes,
        FailOn::Any => opens || closes,
    };
    Ok(if fails && opens {
        ExitCode::from(OPENS)
    } else if fails {
        ExitCode::from(CLOSES)
    } else if is_undecided {
        ExitCode::from(CLAIM_UNDECIDED)
    } else {
        ExitCode::SUCCESS
    })
}

fn drawn(one: &Differing, old: &Picture, new: &Picture, sources: &(Vec<String>, Vec<String>)) -> String {
    let mut out = match one.whole {
        Some(whole) => format!("{} ({whole})\n", one.callee),
        None => format!("{}\n", one.callee),
    };
    if let Some(problem) = &one.problem {
        out += &format!("  not decided: {problem}\n");
    }
    if one.changes.is_empty() && one.problem.is_none() {
        out += "  lets nobody in\n";
    }
    for judged in &one.changes {
        let change = &judged.change;
        let (word, may) = if change.opens {
            ("opens ", "may now call")
        } else {
            ("closes", "may no longer call")
        };
        out += &format!("  {word}  {} {may}", in_words(&change.callers).join(", "));
        for (at, (thing, values)) in change.words.iter().enumerate() {
            let join = if at == 0 { ": " } else { "; " };
            out += &format!("{join}{} {}", thing.trim_start_matches("the "), values.join(", "));
        }
        out.push('\n');
        if let Some(rule) = responsible(&change.rule, old, new) {
            out += &format!("          {rule}\n");
        }
        for text in &change.unless {
            out += &format!("          depends on `{text}`, which is not looked into\n");
        }
        out += &format!("          such as {}\n", sample(judged));
        let shown = if change.opens { &sources.1 } else { &sources.0 };
        if let Some(example) = judged.after.as_ref().or(judged.before.as_ref()) {
            out += &format!("          see {}\n", example.command(shown));
        }
    }
    out
}

/// The example in one line, with what the other side says of it.
fn sample(judged: &Judged) -> String {
    let (has, other, when) = if judged.change.opens {
        (&judged.after, &judged.before, "before")
    } else {
        (&judged.before, &judged.after, "now")
    };
    let Some(example) = has else {
        return "nothing that could be shown".to_owned();
    };
    let request = &example.request;
    let what = match &request.http {
        Some(http) => format!("{} {}", http.method, http.target),
        None => "a TCP connection".to_owned(),
    };
    let mut line = format!("{what} to port {} from {}", request.port, example.from());
    match other {
        None => {}
        Some(other) => match (other.allowed, other.ruled()) {
            (true, _) => line += &format!("; {when}: let in"),
            (false, Some(rule)) => line += &format!("; {when}: refused by {rule}"),
            (false, None) => line += &format!("; {when}: {}", other.reason),
        },
    }
    if !example.allowed {
        line += " (not confirmed)";
    }
    line
}

fn responsible(rule: &Responsible, old: &Picture, new: &Picture) -> Option<String> {
    let written = |picture: &Picture, rule: &RuleId| {
        picture
            .positions
            .rule(rule)
            .map_or_else(String::new, |place| format!(" ({place})"))
    };
    match rule {
        Responsible::New(rule) => Some(format!(
            "by {}{} of the new",
            rule_words(rule),
            written(new, rule)
        )),
        Responsible::Old(rule) => Some(format!(
            "was let in by {}{} of the old",
            rule_words(rule),
            written(old, rule)
        )),
        Responsible::NoRule => None,
    }
}

fn in_words(callers: &Callers) -> Vec<String> {
    if callers.everybody {
        return vec!["anybody who can call at all".to_owned()];
    }
    let mut words: Vec<String> = Vec::new();
    if callers.plaintext {
        words.push("anybody in plaintext (outside)".to_owned());
    }
    words.extend(callers.known.iter().map(|principal| short(principal)));
    words.extend(
        callers
            .unknown
            .iter()
            .map(|principal| format!("{} (no workload has it)", short(principal))),
    );
    if callers.others {
        words.push(match &callers.other {
            Some(other) => format!("other identities such as {}", short(other)),
            None => "other identities".to_owned(),
        });
    }
    words
}

/// `NAMESPACE/SERVICEACCOUNT` of a principal.
fn short(principal: &str) -> String {
    let parts: Vec<&str> = principal.split('/').collect();
    match parts.as_slice() {
        [_, "ns", namespace, "sa", account] => format!("{namespace}/{account}"),
        _ => principal.to_owned(),
    }
}

fn to_json(one: &Differing, old: &Picture, new: &Picture, sources: &(Vec<String>, Vec<String>)) -> Value {
    let changes: Vec<Value> = one
        .changes
        .iter()
        .map(|judged| {
            let change = &judged.change;
            json!({
                "opens": change.opens,
                "callers": {
                    "plaintext": change.callers.plaintext,
                    "workloads": change.callers.known,
                    "named": change.callers.unknown,
                    "others": change.callers.others,
                    "everybody": change.callers.everybody,
                },
                "requests": change
                    .words
                    .iter()
                    .map(|(thing, values)| json!({ "of": thing, "values": values }))
                    .collect::<Vec<_>>(),
                "rule": responsible(&change.rule, old, new),
                "dependsOn": change.unless,
                "before": judged.before.as_ref().map(|example| example.to_json(&sources.0)),
                "after": judged.after.as_ref().map(|example| example.to_json(&sources.1)),
            })
        })
        .collect();
    json!({ "workload": one.callee, "whole": one.whole, "changes": changes, "problem": one.problem })
}
