//! `bartizan check`: the findings of a folder, without running anything.

use std::process::ExitCode;

use bartizan_config::finding;

use crate::args::{CheckArgs, Output};
use crate::exit;
use crate::folder::{Folder, has_errors};
use crate::text;

/// Prints the findings.
///
/// # Errors
/// When the trust domain is not one.
pub(crate) fn run(args: &CheckArgs) -> anyhow::Result<ExitCode> {
    let folder = Folder::read(&args.sources, &args.documents)?;
    let findings = folder.check(args.documents.strict);
    match args.output {
        Output::Json => println!("{}", finding::to_json(&findings)),
        Output::Text => {
            eprint!("{}", finding::render_all(&findings, text::paint()));
            let documents = folder.documents.len();
            if findings.is_empty() {
                println!("{documents} documents, no findings");
            } else {
                println!("{documents} documents, {}", finding::summary(&findings));
            }
        }
    }
    Ok(if has_errors(&findings) {
        ExitCode::from(exit::FINDINGS)
    } else {
        ExitCode::SUCCESS
    })
}
