//! The example folders are as right as `bartizan check` can see.

use std::path::{Path, PathBuf};

use bartizan_compile::{Options, check};
use bartizan_config::finding::{Paint, render_all};
use bartizan_config::{Finding, Severity, SourceFile, read};
use bartizan_mesh::{PathRule, Profile, Settings};
use bartizan_types::{Hostname, Name, TrustDomain};

/// The files of an example that are documents.
fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).expect("the folder can be read");
    let mut files: Vec<_> = entries
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|ext| ext == "yaml"))
        .collect();
    files.sort();
    files
}

fn findings(folder: &Path) -> Vec<Finding> {
    let mut options = Options::new(Settings {
        trust_domain: TrustDomain::parse("cluster.local").expect("a literal"),
        root_namespace: Name::parse("istio-system").expect("a literal"),
        cluster_domain: Hostname::parse("cluster.local").expect("a literal"),
        profile: Profile::zero_trust(),
        paths: PathRule::RefuseAmbiguous,
    });
    options.base = folder.to_path_buf();
    let mut documents = Vec::new();
    let mut findings = Vec::new();
    for path in files(folder) {
        let text = std::fs::read_to_string(&path).expect("the file can be read");
        let name = path.file_name().expect("a file").to_string_lossy().into_owned();
        let reading = read(&SourceFile::new(name, text));
        documents.extend(reading.documents);
        findings.extend(reading.findings);
    }
    assert!(!documents.is_empty(), "{} has no documents", folder.display());
    findings.extend(check(documents, &options));
    findings.retain(|finding| finding.severity != Severity::Note);
    findings
}

#[test]
fn examples_have_neither_errors_nor_warnings() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples");
    let mut seen = 0;
    for entry in std::fs::read_dir(&root).expect("the examples are there") {
        let folder = entry.expect("an entry").path();
        if !folder.is_dir() || files(&folder).is_empty() {
            continue;
        }
        let findings = findings(&folder);
        assert!(
            findings.is_empty(),
            "{}:\n{}",
            folder.display(),
            render_all(&findings, Paint::Plain)
        );
        seen += 1;
    }
    assert!(seen > 0, "no example was found");
}
