//! A folder of documents, read and checked at the door as the control plane does it.

use std::path::PathBuf;

use bartizan_compile::Options;
use bartizan_compile::profile::{built_in, read_profile};
use bartizan_config::{Document, Finding, Severity, SourceFile, finding};
use bartizan_mesh::{PathRule, Profile};
use bartizan_types::TrustDomain;

use crate::args::DocumentArgs;
use crate::exit::{Exit, FINDINGS, USAGE};
use crate::text;

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
    /// When the trust domain is not one, or there is no such profile.
    pub(crate) fn read(sources: &[PathBuf], args: &DocumentArgs) -> anyhow::Result<Self> {
        let chosen = profile(args.profile.as_deref())?;
        let trust_domain = TrustDomain::parse(&args.trust_domain)?;
        let settings = bartizan_control::settings(chosen.profile, chosen.paths, trust_domain);
        let scan = bartizan_control::source::file::read_folder(sources);
        let mut options = Options::new(settings);
        options.base = scan.base;
        options.profile_is_chosen = chosen.is_named;
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

/// What holds where no policy speaks, as the command line has it.
#[derive(Debug, Clone)]
pub(crate) struct Chosen {
    pub(crate) profile: Profile,
    pub(crate) paths: PathRule,
    /// Whether the command line names it; a Profile among the documents then has no effect.
    pub(crate) is_named: bool,
}

/// The profile that `--profile` names: one that comes with the binary, or a file with a Profile; `zero-trust` without it.
///
/// # Errors
/// When there is neither such a profile nor such a file, or the file is not one Profile.
pub(crate) fn profile(named: Option<&str>) -> anyhow::Result<Chosen> {
    let name = named.unwrap_or("zero-trust");
    let file = match built_in(name) {
        Some(text) => SourceFile::new(name, text),
        None => SourceFile::new(name, file(name)?),
    };
    let (profile, paths) = read_profile(&file).map_err(|findings| {
        let text = if findings.is_empty() {
            format!("`{name}` is not a file with one document of kind Profile")
        } else {
            let drawn = finding::render_all(&findings, text::paint());
            format!("the profile `{name}` has errors\n{drawn}")
        };
        Exit::error(FINDINGS, text)
    })?;
    Ok(Chosen {
        profile,
        paths,
        is_named: named.is_some(),
    })
}

fn file(name: &str) -> anyhow::Result<String> {
    let looks_like_a_file = name.contains(['/', '.']);
    std::fs::read_to_string(name).map_err(|error| {
        let names = crate::cmd::profile::names();
        let text = if looks_like_a_file {
            format!("read the profile `{name}`: {error}")
        } else {
            format!("there is no profile `{name}` and no such file; there are {names}")
        };
        Exit::error(USAGE, text)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_profile_is_named_or_written() {
        let unnamed = profile(None).expect("the default");
        assert_eq!(
            (unnamed.profile, unnamed.is_named),
            (Profile::zero_trust(), false)
        );
        let istio = profile(Some("istio")).expect("it comes with the binary");
        assert_eq!(
            (istio.profile, istio.paths, istio.is_named),
            (Profile::istio(), PathRule::Base, true)
        );

        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("ours.yaml");
        let text = built_in("nist")
            .unwrap_or_default()
            .replace("name: nist", "name: ours");
        std::fs::write(&path, text).expect("a file");
        let path = path.to_str().expect("a path of letters").to_owned();
        let ours = profile(Some(&path)).expect("a file with one Profile");
        assert_eq!(ours.profile.name.as_str(), "ours");

        std::fs::write(&path, "apiVersion: v1\nkind: Namespace\nmetadata: { name: a }\n").expect("a file");
        for (named, says) in [
            ("zero", "there is no profile `zero` and no such file"),
            ("./nothing.yaml", "read the profile `./nothing.yaml`"),
            (&*path, "not a file with one document of kind Profile"),
        ] {
            let error = profile(Some(named)).expect_err("it is no profile").to_string();
            assert!(error.contains(says), "{error}");
        }
    }
}
