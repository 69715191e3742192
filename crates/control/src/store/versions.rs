//! The versions that were accepted: `versions/head.json` (the number now) and one record for each change of documents.
//!
//! A record holds the documents' texts, so that the control plane can serve the last accepted state when it starts beside a
//! broken folder, and the places of rules, so that a decision of the past can be explained.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use bartizan_compile::Allocations;
use bartizan_config::SourceFile;
use bartizan_mesh::Digest;
use bartizan_types::Version;
use serde::{Deserialize, Serialize};

use super::{Flush, StoreError, private_folder, write_private};
use crate::status::unix_seconds;

/// How many records are kept.
const KEPT: usize = 20;
/// The largest record that is read back, in bytes.
const LARGEST: u64 = 256 * 1024 * 1024;

/// The number of the version now, and what it was made of.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Head {
    pub(crate) version: Version,
    /// Digest of documents, settings and pods, when all of them were known.
    pub(crate) inputs: Option<String>,
}

/// One accepted state of the documents.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Record {
    pub(crate) version: Version,
    /// Seconds since 1970.
    pub(crate) accepted_at: i64,
    /// Of the texts.
    pub(crate) digest: String,
    pub(crate) allocations: Allocations,
    /// Policies and rules to file and line.
    pub(crate) positions: serde_json::Value,
    pub(crate) files: Vec<KeptFile>,
}

/// One document file of a record.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct KeptFile {
    pub(crate) path: String,
    pub(crate) text: String,
}

impl Record {
    /// A record of what was just accepted.
    pub(crate) fn new(
        version: Version,
        files: &[SourceFile],
        allocations: Allocations,
        positions: serde_json::Value,
        now: SystemTime,
    ) -> Self {
        Self {
            version,
            accepted_at: unix_seconds(now),
            digest: digest_of(files).to_string(),
            allocations,
            positions,
            files: files
                .iter()
                .map(|file| KeptFile {
                    path: file.path.to_string(),
                    text: file.text.to_string(),
                })
                .collect(),
        }
    }

    /// The documents as they were read.
    pub(crate) fn sources(&self) -> Vec<SourceFile> {
        self.files
            .iter()
            .map(|file| SourceFile::new(file.path.as_str(), file.text.as_str()))
            .collect()
    }
}

/// One digest of all texts and their paths.
pub(crate) fn digest_of(files: &[SourceFile]) -> Digest {
    let mut bytes = Vec::new();
    for file in files {
        for part in [&file.path, &file.text] {
            bytes.extend_from_slice(&(part.len() as u64).to_be_bytes());
            bytes.extend_from_slice(&Digest::of(part.as_bytes()).to_bytes());
        }
    }
    Digest::of(&bytes)
}

/// The folder of versions.
#[derive(Debug)]
pub(crate) struct VersionStore {
    folder: PathBuf,
}

impl VersionStore {
    /// In this state directory.
    ///
    /// # Errors
    /// [`StoreError`] when the folder cannot be made.
    pub(crate) fn open(state_directory: &Path) -> Result<Self, StoreError> {
        let folder = state_directory.join("versions");
        private_folder(&folder)?;
        Ok(Self { folder })
    }

    /// The number of the last version, if one was kept and can be read.
    pub(crate) fn head(&self) -> Option<Head> {
        let text = std::fs::read(self.folder.join("head.json")).ok()?;
        serde_json::from_slice(&text)
            .inspect_err(|error| tracing::warn!(%error, "read the number of the last version"))
            .ok()
    }

    /// Keeps the number. It survives the process at once, and a power failure with the next record.
    pub(crate) fn set_head(&self, head: &Head) -> Result<(), StoreError> {
        write_private(&self.folder.join("head.json"), &to_json(head), Flush::Cache)
    }

    /// The newest record that can be read.
    pub(crate) fn newest(&self) -> Option<Record> {
        self.records().into_iter().rev().find_map(|path| {
            let fine = std::fs::metadata(&path).is_ok_and(|metadata| metadata.len() <= LARGEST);
            let read = std::fs::read(&path).map_err(|error| error.to_string());
            let record =
                read.and_then(|text| serde_json::from_slice(&text).map_err(|error| error.to_string()));
            match record {
                Ok(record) if fine => Some(record),
                Ok(_) => None,
                Err(error) => {
                    tracing::warn!(path = %path.display(), error, "read a kept version: it is passed over");
                    None
                }
            }
        })
    }

    /// Keeps a record and forgets the oldest.
    pub(crate) fn keep(&self, record: &Record) -> Result<(), StoreError> {
        let path = self.folder.join(format!("{:012}.json", record.version.0));
        write_private(&path, &to_json(record), Flush::Disk)?;
        let records = self.records();
        for old in records.iter().take(records.len().saturating_sub(KEPT)) {
            if let Err(error) = std::fs::remove_file(old) {
                tracing::warn!(path = %old.display(), %error, "forget an old version");
            }
        }
        Ok(())
    }

    /// Oldest first.
    fn records(&self) -> Vec<PathBuf> {
        let mut paths: Vec<_> = std::fs::read_dir(&self.folder)
            .into_iter()
            .flatten()
            .filter_map(|entry| {
                let entry = entry.ok()?;
                let name = entry.file_name();
                let number = name.to_str()?.strip_suffix(".json")?;
                number.parse::<u64>().ok().map(|number| (number, entry.path()))
            })
            .collect();
        paths.sort_unstable();
        paths.into_iter().map(|(_, path)| path).collect()
    }
}

fn to_json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec_pretty(value).expect("texts, numbers and maps with text keys can be written as JSON")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(version: u64) -> Record {
        Record::new(
            Version(version),
            &[SourceFile::new("a.yaml", "a: 1")],
            Allocations::default(),
            serde_json::Value::Null,
            SystemTime::UNIX_EPOCH,
        )
    }

    #[test]
    fn records_come_back_and_the_oldest_go() {
        let state = tempfile::tempdir().unwrap();
        let store = VersionStore::open(state.path()).unwrap();
        assert!(store.newest().is_none() && store.head().is_none());
        for version in 1..=25 {
            store.keep(&record(version)).unwrap();
        }
        let head = Head {
            version: Version(25),
            inputs: None,
        };
        store.set_head(&head).unwrap();
        assert_eq!(store.head(), Some(head));
        assert_eq!(store.records().len(), KEPT);
        let newest = store.newest().unwrap();
        assert_eq!(newest.version, Version(25));
        assert_eq!(newest.sources(), [SourceFile::new("a.yaml", "a: 1")]);
        std::fs::write(state.path().join("versions/000000000025.json"), "{").unwrap();
        assert_eq!(store.newest().unwrap().version, Version(24));
    }

    #[test]
    fn the_digest_tells_paths_and_texts_apart() {
        let one = |path: &str, text: &str| SourceFile::new(path, text);
        assert_ne!(digest_of(&[one("a", "b")]), digest_of(&[one("b", "a")]));
        assert_ne!(
            digest_of(&[one("a", ""), one("b", "")]),
            digest_of(&[one("a", "")])
        );
    }
}
