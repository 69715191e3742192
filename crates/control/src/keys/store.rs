//! The last keys of every issuer, below the state directory: a control plane that starts while an issuer is away has them.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bartizan_identity::jwt::{KeySet, LARGEST_KEY_SET};
use bartizan_mesh::Digest;
use serde::{Deserialize, Serialize};

use super::fetch::Validator;
use super::schedule::KeyTimes;
use crate::store::{Flush, StoreError, private_folder, write_private};

/// A file is its key set and a little more.
const LARGEST_FILE: u64 = 2 * LARGEST_KEY_SET as u64 + 64 * 1024;

/// The folder. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct KeyStore {
    folder: Arc<Path>,
    times: KeyTimes,
}

/// The keys of an issuer as they were fetched last.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct KeptKeys {
    /// The key set's name.
    pub(crate) name: Arc<str>,
    /// Public parts only.
    pub(crate) jwks: Arc<str>,
    /// What proxies are told, in seconds since 1970.
    pub(crate) fetched_at: i64,
    /// When the issuer has said last that these are its keys.
    pub(crate) checked_at: i64,
    /// How the issuer is asked whether they still are.
    pub(crate) validator: Option<Validator>,
}

impl KeyStore {
    /// Makes the folder `keys` and forgets what is too old to be believed at `now`, in seconds since 1970.
    pub(crate) fn open(state_directory: &Path, times: KeyTimes, now: i64) -> Result<Self, StoreError> {
        let folder = state_directory.join("keys");
        private_folder(&folder)?;
        let store = Self {
            folder: folder.into(),
            times,
        };
        for entry in std::fs::read_dir(&store.folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if store.read_file(&path, now).is_none() {
                let _ = std::fs::remove_file(path); // what stays is not read either
            }
        }
        Ok(store)
    }

    /// The keys that are still believed; none when there are none, or what is there cannot be read.
    pub(crate) fn read(&self, name: &str, now: i64) -> Option<KeptKeys> {
        self.read_file(&self.path(name), now)
            .filter(|kept| *kept.name == *name)
    }

    pub(crate) fn write(&self, kept: &KeptKeys) -> Result<(), StoreError> {
        let bytes = serde_json::to_vec(kept).unwrap_or_default();
        write_private(&self.path(&kept.name), &bytes, Flush::Disk)
    }

    pub(crate) fn remove(&self, name: &str) {
        let _ = std::fs::remove_file(self.path(name)); // it may never have been written; too old, it is not read either
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{}.json", Digest::of(name.as_bytes())))
    }

    fn read_file(&self, path: &Path, now: i64) -> Option<KeptKeys> {
        if std::fs::metadata(path).ok()?.len() > LARGEST_FILE {
            return None;
        }
        let kept: KeptKeys = serde_json::from_slice(&std::fs::read(path).ok()?).ok()?;
        let is_good = !self.times.left(kept.checked_at, now).is_zero() && KeySet::parse(&kept.jwks).is_ok();
        is_good.then_some(kept)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(name: &str, checked_at: i64) -> KeptKeys {
        KeptKeys {
            name: name.into(),
            jwks: r#"{"keys":[]}"#.into(),
            fetched_at: checked_at,
            checked_at,
            validator: None,
        }
    }

    #[test]
    fn keys_are_kept_until_they_are_too_old() {
        let folder = tempfile::tempdir().unwrap();
        let (day, now) = (24 * 3600, 100 * 24 * 3600);
        let store = KeyStore::open(folder.path(), KeyTimes::default(), now).unwrap();
        let [old, young] = [
            kept("jwks/http://a/../b", now - 7 * day),
            kept("jwks/http://b", now - 6 * day),
        ];
        store.write(&old).unwrap();
        store.write(&young).unwrap();
        assert_eq!(store.read(&young.name, now), Some(young.clone()));
        assert_eq!(store.read(&old.name, now), None);
        assert_eq!(store.read("jwks/http://c", now), None);
        let files = || std::fs::read_dir(folder.path().join("keys")).unwrap().count();
        assert_eq!(files(), 2);
        let store = KeyStore::open(folder.path(), KeyTimes::default(), now).unwrap();
        assert_eq!(files(), 1);
        store.remove(&young.name);
        assert_eq!((files(), store.read(&young.name, now)), (0, None));
    }

    #[test]
    fn what_cannot_be_read_is_not_there() {
        let folder = tempfile::tempdir().unwrap();
        let store = KeyStore::open(folder.path(), KeyTimes::default(), 1000).unwrap();
        let good = kept("a", 1000);
        for text in [
            "",
            "{",
            r#"{"name":"a","jwks":"no keys","fetchedAt":1000,"checkedAt":1000,"validator":null}"#,
        ] {
            std::fs::write(store.path("a"), text).unwrap();
            assert_eq!(store.read("a", 1000), None);
        }
        // A file of another key set, moved to this one's place.
        store.write(&good).unwrap();
        std::fs::rename(store.path("a"), store.path("b")).unwrap();
        assert_eq!(store.read("b", 1000), None);
    }
}
