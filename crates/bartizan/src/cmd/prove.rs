//! `bartizan prove DIR`: claims about a folder, decided over all requests, each false one with a request that `decide` lets in.

pub(crate) mod example;
mod judge;

use std::process::ExitCode;

use bartizan_config::native::PolicyClaim;
use bartizan_config::{Document, Resource};
use serde_json::{Value, json};

use self::example::Example;
use self::judge::Outcome;
use crate::args::{Output, ProveArgs};
use crate::evaluate::Picture;
use crate::exit::{CLAIM_FALSE, CLAIM_UNDECIDED, Exit, FINDINGS, USAGE};
use crate::folder::{Folder, has_errors};
use crate::text;

/// One claim, with where it is written.
struct Claim {
    name: String,
    place: String,
    says: PolicyClaim,
}

/// Judges every claim of the folder and of `--claim`.
///
/// # Errors
/// When the documents have errors, or there is no claim.
pub(crate) fn run(args: &ProveArgs) -> anyhow::Result<ExitCode> {
    let folder = Folder::read(&args.sources, &args.documents)?;
    let mut claims = claims_of(&folder.documents);
    if !args.claims.is_empty() {
        let other = Folder::read(&args.claims, &args.documents)?;
        if has_errors(&other.findings) {
            eprint!(
                "{}",
                bartizan_config::finding::render_all(&other.findings, text::paint())
            );
            return Err(Exit::error(
                FINDINGS,
                bartizan_config::finding::summary(&other.findings),
            ));
        }
        let known: Vec<String> = claims.iter().map(|claim| claim.place.clone()).collect();
        claims.extend(
            claims_of(&other.documents)
                .into_iter()
                .filter(|claim| !known.contains(&claim.place)),
        );
    }
    if claims.is_empty() {
        return Err(Exit::error(
            USAGE,
            "there is no claim: write a PolicyClaim document into the folder, or name its file with --claim",
        ));
    }
    let picture = Picture::of_folder(folder, args.documents.strict)?;
    let judged: Vec<(Claim, Outcome)> = claims
        .into_iter()
        .map(|claim| {
            let outcome = judge::judge(&picture, &claim.says);
            (claim, outcome)
        })
        .collect();
    let sources = example::judged_in(&args.sources, &args.documents);
    match args.output {
        Output::Json => println!(
            "{}",
            json!({ "claims": judged.iter().map(|(claim, outcome)| to_json(claim, outcome, &sources)).collect::<Vec<_>>() })
        ),
        Output::Text => {
            for (claim, outcome) in &judged {
                print!("{}", drawn(claim, outcome, &sources));
            }
        }
    }
    Ok(if judged.iter().any(|(_, outcome)| outcome.is_false()) {
        ExitCode::from(CLAIM_FALSE)
    } else if judged.iter().all(|(_, outcome)| outcome.holds()) {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(CLAIM_UNDECIDED)
    })
}

fn claims_of(documents: &[Document]) -> Vec<Claim> {
    documents
        .iter()
        .filter_map(|document| {
            if let Resource::PolicyClaim(claim) = &document.resource {
                Some(Claim {
                    name: document.reference.name.to_string(),
                    place: format!("{}:{}", document.file, document.position.line),
                    says: claim.clone(),
                })
            } else {
                None
            }
        })
        .collect()
}

fn drawn(claim: &Claim, outcome: &Outcome, sources: &[String]) -> String {
    let (name, place) = (&claim.name, &claim.place);
    let mut out = String::new();
    match outcome {
        Outcome::Holds { over, notes } => {
            out += &format!("holds      {name} ({place})\n");
            out += &format!("           for every request to {over}\n");
            for note in notes {
                out += &format!("           {note}\n");
            }
        }
        Outcome::False { example, notes } => {
            out += &format!("FALSE      {name} ({place})\n");
            out += &example_lines(example, sources);
            for note in notes {
                out += &format!("           {note}\n");
            }
        }
        Outcome::Plain { ports, notes } => {
            out += &format!("FALSE      {name} ({place})\n");
            for port in ports {
                out += &format!("           {port}\n");
            }
            for note in notes {
                out += &format!("           {note}\n");
            }
        }
        Outcome::Undecided { reasons, example } => {
            out += &format!("undecided  {name} ({place})\n");
            for reason in reasons {
                out += &format!("           {reason}\n");
            }
            if let Some(example) = example {
                out += "           it could be broken by\n";
                out += &example_lines(example, sources);
            }
        }
    }
    out
}

fn example_lines(example: &Example, sources: &[String]) -> String {
    let mut out = String::new();
    for line in example.lines(sources) {
        out += &format!(
            "           {line}
"
        );
    }
    out
}

fn to_json(claim: &Claim, outcome: &Outcome, sources: &[String]) -> Value {
    let (answer, example, notes) = match outcome {
        Outcome::Holds { over, notes } => {
            let mut all = vec![format!("for every request to {over}")];
            all.extend(notes.iter().cloned());
            ("holds", None, all)
        }
        Outcome::False { example, notes } => ("false", Some(&**example), notes.clone()),
        Outcome::Plain { ports, notes } => {
            let mut all = ports.clone();
            all.extend(notes.iter().cloned());
            ("false", None, all)
        }
        Outcome::Undecided { reasons, example } => ("undecided", example.as_deref(), reasons.clone()),
    };
    json!({
        "name": claim.name,
        "place": claim.place,
        "answer": answer,
        "notes": notes,
        "example": example.map(|example| example.to_json(sources)),
    })
}
