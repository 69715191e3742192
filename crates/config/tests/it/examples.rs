//! Every document of every example is read without an error or a warning.

use std::path::{Path, PathBuf};

use bartizan_config::finding::{Paint, Severity, render_all};
use bartizan_config::{SourceFile, read};

fn documents_below(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).expect("the folder is part of the repository") {
        let path = entry.expect("an entry can be read").path();
        if path.is_dir() {
            documents_below(&path, found);
        } else if path
            .extension()
            .is_some_and(|extension| extension == "yaml" || extension == "yml")
        {
            found.push(path);
        }
    }
}

#[test]
fn examples_are_read_without_a_finding_that_matters() {
    let mut files = Vec::new();
    documents_below(
        &Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples"),
        &mut files,
    );
    assert!(!files.is_empty());
    for path in files {
        let text = std::fs::read_to_string(&path).expect("an example is text");
        let mut reading = read(&SourceFile::new(path.display().to_string(), text));
        reading
            .findings
            .retain(|finding| finding.severity != Severity::Note);
        assert!(
            reading.findings.is_empty(),
            "{}",
            render_all(&reading.findings, Paint::Plain)
        );
        assert!(!reading.documents.is_empty(), "{}", path.display());
    }
}

const DOCUMENTS: &str = include_str!("../../../../docs/documents.md");

#[test]
fn examples_of_the_reference_are_read_without_a_finding() {
    are_read("docs/documents.md", DOCUMENTS, 4);
}

#[test]
fn examples_of_users_and_tokens_are_read_without_a_finding() {
    let page = include_str!("../../../../docs/users.md");
    are_read("docs/users.md", page, 2);
}

/// Each example of a page is one document, and there are at least so many.
fn are_read(name: &str, page: &str, least: usize) {
    let blocks: Vec<&str> = page
        .split("```yaml\n")
        .skip(1)
        .filter_map(|rest| rest.split("```").next())
        .collect();
    assert!(blocks.len() >= least, "{}", blocks.len());
    for block in blocks {
        let reading = read(&SourceFile::new(name, block));
        assert!(
            reading.findings.is_empty(),
            "{}",
            render_all(&reading.findings, Paint::Plain)
        );
        assert_eq!(reading.documents.len(), 1, "{block}");
    }
}

#[test]
fn the_reference_names_every_variable_of_expressions() {
    for (path, _) in bartizan_cel::Environment::access_rule().attributes() {
        let (object, field) = path.split_once('.').unwrap_or((path, path));
        let row = DOCUMENTS
            .lines()
            .find(|line| line.starts_with(&format!("| `{object}`")));
        assert!(
            row.is_some_and(|row| row.contains(&format!("`{field}`"))),
            "`{path}` is not in the table of variables"
        );
    }
}
