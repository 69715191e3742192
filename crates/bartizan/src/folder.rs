//! A folder of documents, read and checked at the door as the control plane does it.

use std::path::PathBuf;

use bartizan_compile::Options;
use bartizan_config::{Document, Finding, Severity};
use bartizan_mesh::Profile;
use bartizan_types::TrustDomain;

use crate::args::{DocumentArgs, ProfileName};

/// A folder that was read.
pub(crate) struct Folder {
    /// Its documents, those without errors of their own.
    pub(crate) documents: Vec<Document>,
    /// What is wrong with single documents.
    pub(crate) findings: Vec<Finding>,
    /// How they are compiled.
    pub(crate) options: Options,
}

impl Folder {
    /// Reads everything below `sources`.
    ///
    /// # Errors
    /// When the trust domain is not one.
    pub(crate) fn read(sources: &[PathBuf], args: &DocumentArgs) -> anyhow::Result<Self> {
        let settings =
            bartizan_control::settings(profile(args.profile), TrustDomain::parse(&args.trust_domain)?);
        let scan = bartizan_control::source::file::read_folder(sources);
        let mut options = Options::new(settings);
        options.base = scan.base;
        let mut findings = scan.findings;
        let mut documents = Vec::new();
        for file in &scan.files {
            let reading = bartizan_config::read(file);
            let reading = if args.strict { reading.strict() } else { reading };
            findings.extend(reading.findings);
            documents.extend(reading.documents);
        }
        Ok(Self {
            documents,
            findings,
            options,
        })
    }

    /// All findings: of single documents, and where those are without errors, of all of them together.
    pub(crate) fn check(&self, strict: bool) -> Vec<Finding> {
        let mut findings = self.findings.clone();
        if !has_errors(&findings) {
            findings.extend(bartizan_compile::check(self.documents.clone(), &self.options));
        }
        if strict {
            for finding in &mut findings {
                if finding.severity == Severity::Warning {
                    finding.severity = Severity::Error;
                }
            }
        }
        findings
    }
}

/// Whether any is an error.
pub(crate) fn has_errors(findings: &[Finding]) -> bool {
    findings.iter().any(|finding| finding.severity == Severity::Error)
}

/// The mesh's word for the profile of the command line.
pub(crate) fn profile(name: ProfileName) -> Profile {
    match name {
        ProfileName::ZeroTrust => Profile::zero_trust(),
        ProfileName::Istio => Profile::istio(),
    }
}
