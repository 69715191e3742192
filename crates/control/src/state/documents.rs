//! What stands on disk, judged and applied whole or not at all.

use bartizan_compile::check;
use bartizan_config::{Document, Finding, Severity, SourceFile, Spot, read};
use bartizan_mesh::Digest;

use super::Owner;
use crate::codes::{NOT_KEPT, SERVES_KEPT};
use crate::source::file::Scan;
use crate::store::versions::{Record, digest_of};

/// The documents that are served, and what is wrong with those that stand on disk now.
pub(super) struct Documents {
    strict: bool,
    /// Texts of the served documents.
    served: Option<Vec<SourceFile>>,
    /// How many documents are served.
    pub(super) count: usize,
    /// When they were accepted, in seconds since 1970.
    pub(super) accepted_at: Option<i64>,
    /// The last scan that was judged, so that the same is not judged twice.
    judged: Option<Scan>,
    /// Findings about what stands on disk.
    pub(super) findings: Vec<Finding>,
    /// Whether that was refused.
    pub(super) refused: bool,
    /// A finding about the store, until it works again.
    not_kept: Option<Finding>,
}

impl Documents {
    pub(super) fn new(strict: bool) -> Self {
        Self {
            strict,
            served: None,
            count: 0,
            accepted_at: None,
            judged: None,
            findings: Vec::new(),
            refused: false,
            not_kept: None,
        }
    }

    /// Whether any documents are served.
    pub(super) fn is_accepted(&self) -> bool {
        self.served.is_some()
    }

    /// Of the served texts.
    pub(super) fn digest(&self) -> Option<Digest> {
        self.served.as_deref().map(digest_of)
    }

    /// All findings that a person should see.
    pub(super) fn all_findings(&self) -> impl Iterator<Item = &Finding> {
        self.findings.iter().chain(&self.not_kept)
    }

    /// Reads all files; the documents, or all findings when one of them is an error.
    fn read(&self, scan: &Scan) -> Result<(Vec<Document>, Vec<Finding>), Vec<Finding>> {
        let mut documents = Vec::new();
        let mut findings = scan.findings.clone();
        for file in &scan.files {
            let mut reading = read(file);
            if self.strict {
                reading = reading.strict();
            }
            documents.extend(reading.documents);
            findings.extend(reading.findings);
        }
        if findings.iter().any(Finding::is_error) {
            Err(findings)
        } else {
            Ok((documents, findings))
        }
    }
}

impl Owner {
    /// Starts with what stands on disk, or, where that is refused, with what was accepted last.
    pub(super) fn start_with(&mut self, scan: Scan, kept: Option<Record>) {
        let kept_digest = kept.as_ref().map(|kept| kept.digest.clone());
        let accepted_at = kept.as_ref().map(|kept| kept.accepted_at);
        let Err(refused) = self.accept(&scan, kept_digest.as_deref()) else {
            if self.documents.digest().map(|digest| digest.to_string()) == kept_digest {
                self.documents.accepted_at = accepted_at;
            }
            self.documents.judged = Some(scan);
            return;
        };
        self.refuse(&scan, refused);
        if let Some(kept) = kept {
            let old = Scan {
                base: scan.base.clone(),
                files: kept.sources(),
                findings: Vec::new(),
            };
            let (findings, judged) = (std::mem::take(&mut self.documents.findings), scan.clone());
            match self.accept(&old, kept_digest.as_deref()) {
                Ok(()) => {
                    let what = format!(
                        "the documents of version {} are served, because those on disk are refused",
                        kept.version
                    );
                    tracing::warn!(version = %kept.version, "serve the last accepted version: the documents are refused");
                    self.documents.findings = findings;
                    self.documents
                        .findings
                        .push(about_sources(&scan, Severity::Warning, what));
                    self.documents.accepted_at = Some(kept.accepted_at);
                }
                Err(error) => {
                    tracing::error!(version = %kept.version, findings = error.len(), "the last accepted version is refused, too");
                    self.documents.findings = findings;
                }
            }
            self.documents.refused = true;
            self.documents.judged = Some(judged);
        }
    }

    /// Takes a new state of the sources.
    pub(super) fn scanned(&mut self, scan: Scan) {
        if self.documents.judged.as_ref() == Some(&scan) {
            return;
        }
        match self.accept(&scan, None) {
            Ok(()) => self.counts.states_accepted += 1,
            Err(findings) => {
                self.counts.states_refused += 1;
                self.refuse(&scan, findings);
            }
        }
        self.documents.judged = Some(scan);
    }

    fn refuse(&mut self, scan: &Scan, findings: Vec<Finding>) {
        let errors = findings.iter().filter(|finding| finding.is_error()).count();
        if let Some(first) = findings.iter().find(|finding| finding.is_error()) {
            tracing::warn!(
                errors,
                first = format!("{}:{}: {}: {}", first.file, first.position, first.code, first.what),
                served = %self.numbering.version(),
                "refuse the documents in `{}`",
                scan.base.display()
            );
        }
        self.documents.findings = findings;
        self.documents.refused = true;
    }

    /// Applies a state of the sources, whole. `kept` is the digest of texts that are on disk as a version already.
    fn accept(&mut self, scan: &Scan, kept: Option<&str>) -> Result<(), Vec<Finding>> {
        let (documents, mut findings) = self.documents.read(scan)?;
        if self.documents.strict {
            let strict: Vec<_> = check(documents.clone(), &self.compile)
                .into_iter()
                .map(Finding::strict)
                .collect();
            if strict.iter().any(Finding::is_error) {
                findings.extend(strict);
                return Err(findings);
            }
        }
        let count = documents.len();
        let update = match self.world.set_documents(documents) {
            Ok(update) => update,
            Err(refused) => {
                findings.extend(refused);
                return Err(findings);
            }
        };
        findings.extend(update.findings.iter().cloned());
        let changed = !update.is_empty();
        self.absorb(&update);
        self.follow_keys();
        let now = (self.now)();
        let texts_changed = self.documents.served.as_deref() != Some(&scan.files);
        self.documents.served = Some(scan.files.clone());
        self.documents.count = count;
        self.documents.findings = findings;
        self.documents.refused = false;
        if !texts_changed
            || self
                .documents
                .digest()
                .map(|digest| digest.to_string())
                .as_deref()
                == kept
        {
            return Ok(());
        }
        self.documents.accepted_at = Some(crate::status::unix_seconds(now));
        if changed {
            self.numbering.change();
        }
        let positions = serde_json::to_value(self.world.positions()).unwrap_or_default();
        let record = Record::new(
            self.numbering.version(),
            &scan.files,
            self.world.allocations().clone(),
            positions,
            now,
        );
        self.documents.not_kept = match self.numbering.keep(&record) {
            Ok(()) => None,
            Err(error) => {
                tracing::warn!(version = %self.numbering.version(), %error, "keep an accepted version");
                let mut finding = about_sources(scan, Severity::Warning, error.to_string());
                finding.code = NOT_KEPT;
                Some(finding)
            }
        };
        tracing::info!(version = %self.numbering.version(), documents = count, "accept the documents");
        Ok(())
    }
}

fn about_sources(scan: &Scan, severity: Severity, what: String) -> Finding {
    let file = SourceFile::new(scan.base.display().to_string(), "");
    let mut finding = Finding::new(SERVES_KEPT, severity, &file, Spot::START, what);
    finding.source_line = None;
    finding.length = None;
    finding
}
