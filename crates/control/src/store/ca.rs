//! The CA's keys and certificates on disk: `ca/{root.pem,root.key,intermediate.pem}`, 0700 and 0600.
//!
//! The folder itself stays the same directory from the first moment: the sandbox hides it, and a directory that is renamed
//! over takes the hiding away. A marker stands in it while a CA is made, so that half a CA is never taken for one. The
//! intermediate's certificate and key are one file, so that a renewal replaces both or neither.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use bartizan_identity::{Authority, AuthorityPem};
use bartizan_types::{Secret, TrustDomain};

use super::{Flush, StoreError, private_folder, write_private};

const ROOT_CERTIFICATE: &str = "root.pem";
const ROOT_KEY: &str = "root.key";
const INTERMEDIATE: &str = "intermediate.pem";
/// Nothing was issued by a CA while this is there.
const MAKING: &str = ".making";

/// Where the CA is kept.
#[derive(Clone, Debug)]
pub(crate) struct AuthorityStore {
    folder: PathBuf,
}

impl AuthorityStore {
    /// In this state directory, which must exist.
    pub(crate) fn new(state_directory: &Path) -> Self {
        Self {
            folder: state_directory.join("ca"),
        }
    }

    /// Reads the CA, or makes one where there is none.
    ///
    /// # Errors
    /// [`StoreError`] when it can neither be read nor made; an unreadable CA is never replaced.
    pub(crate) fn open(&self, trust_domain: &TrustDomain, now: SystemTime) -> Result<Authority, StoreError> {
        private_folder(&self.folder)?;
        if self.is_made() {
            let authority = Authority::from_pem(trust_domain.clone(), &self.read()?)
                .map_err(|error| self.wrong(error.to_string()))?;
            if authority.root_not_after() <= now {
                return Err(self.wrong("its root has expired".to_owned()));
            }
            return Ok(authority);
        }
        let authority =
            Authority::create(trust_domain.clone(), now).map_err(|error| self.wrong(error.to_string()))?;
        self.create(&authority.to_pem())?;
        tracing::warn!(
            folder = %self.folder.display(),
            "made a lab CA: its keys are plain files in the state directory; do not use it for production"
        );
        Ok(authority)
    }

    /// Puts a fresh intermediate in the old one's place.
    pub(crate) fn replace_intermediate(&self, authority: &Authority) -> Result<(), StoreError> {
        write_private(
            &self.folder.join(INTERMEDIATE),
            intermediate(&authority.to_pem()).expose().as_bytes(),
            Flush::Disk,
        )
    }

    /// Whether anything of a finished CA is there, be it whole or not.
    fn is_made(&self) -> bool {
        let there = |name| self.folder.join(name).symlink_metadata().is_ok();
        !there(MAKING) && [ROOT_CERTIFICATE, ROOT_KEY, INTERMEDIATE].into_iter().any(there)
    }

    fn create(&self, pem: &AuthorityPem) -> Result<(), StoreError> {
        let intermediate = intermediate(pem);
        let files: [(&str, &[u8]); 4] = [
            (MAKING, b""),
            (ROOT_CERTIFICATE, pem.root_cert.as_bytes()),
            (ROOT_KEY, pem.root_key.expose().as_bytes()),
            (INTERMEDIATE, intermediate.expose().as_bytes()),
        ];
        for (name, content) in files {
            write_private(&self.folder.join(name), content, Flush::Disk)?;
        }
        let making = self.folder.join(MAKING);
        std::fs::remove_file(&making).map_err(|error| StoreError::io("remove", &making, error))
    }

    fn read(&self) -> Result<AuthorityPem, StoreError> {
        let intermediate = self.read_secret(INTERMEDIATE)?;
        Ok(AuthorityPem {
            root_cert: self.read_secret(ROOT_CERTIFICATE)?.expose().clone(),
            root_key: self.read_secret(ROOT_KEY)?,
            intermediate_cert: section(intermediate.expose(), "CERTIFICATE")
                .unwrap_or_default()
                .to_owned(),
            intermediate_key: Secret::new(
                section(intermediate.expose(), "PRIVATE KEY")
                    .unwrap_or_default()
                    .to_owned(),
            ),
        })
    }

    fn read_secret(&self, name: &str) -> Result<Secret<String>, StoreError> {
        let path = self.folder.join(name);
        let metadata = std::fs::metadata(&path).map_err(|error| StoreError::io("read", &path, error))?;
        let own = nix::unistd::geteuid().as_raw();
        if metadata.uid() != own {
            let owner = metadata.uid();
            return Err(StoreError::Owner { path, owner, own });
        }
        if metadata.mode() & 0o077 != 0 && name != ROOT_CERTIFICATE {
            return Err(StoreError::Exposed {
                path,
                folder: self.folder.clone(),
                mode: metadata.mode() & 0o7777,
            });
        }
        if metadata.len() > 64 * 1024 {
            return Err(self.wrong(format!("`{name}` has {} bytes", metadata.len())));
        }
        std::fs::read_to_string(&path)
            .map(Secret::new)
            .map_err(|error| StoreError::io("read", &path, error))
    }

    fn wrong(&self, reason: String) -> StoreError {
        StoreError::Authority {
            folder: self.folder.clone(),
            reason,
        }
    }
}

fn intermediate(pem: &AuthorityPem) -> Secret<String> {
    Secret::new(format!(
        "{}{}",
        pem.intermediate_cert,
        pem.intermediate_key.expose()
    ))
}

/// The first section of this kind, with its armour.
fn section<'a>(text: &'a str, kind: &str) -> Option<&'a str> {
    let (begin, end) = (format!("-----BEGIN {kind}-----"), format!("-----END {kind}-----"));
    let from = text.find(&begin)?;
    let rest = text.get(from..)?;
    let to = rest.find(&end)? + end.len();
    rest.get(..to)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn domain() -> TrustDomain {
        TrustDomain::parse("cluster.local").unwrap()
    }

    #[test]
    fn the_same_ca_comes_back_and_its_files_are_private() {
        let state = tempfile::tempdir().unwrap();
        let store = AuthorityStore::new(state.path());
        let now = SystemTime::now();
        let mut first = store.open(&domain(), now).unwrap();
        let second = store.open(&domain(), now).unwrap();
        assert_eq!(first.trust_bundle().unwrap(), second.trust_bundle().unwrap());
        for name in [ROOT_CERTIFICATE, ROOT_KEY, INTERMEDIATE] {
            let mode = std::fs::metadata(state.path().join("ca").join(name))
                .unwrap()
                .mode();
            assert_eq!(mode & 0o777, 0o600, "{name}");
        }
        first
            .renew_intermediate(now + std::time::Duration::from_hours(1))
            .unwrap();
        store.replace_intermediate(&first).unwrap();
        let third = store.open(&domain(), now).unwrap();
        assert_eq!(third.intermediate_not_after(), first.intermediate_not_after());
        assert_ne!(third.intermediate_not_after(), second.intermediate_not_after());
    }

    #[test]
    fn a_ca_is_made_in_the_folder_that_is_there_and_half_of_one_is_made_anew() {
        let state = tempfile::tempdir().unwrap();
        let store = AuthorityStore::new(state.path());
        let folder = state.path().join("ca");
        std::fs::create_dir(&folder).unwrap();
        let same = || std::fs::metadata(&folder).unwrap().ino();
        let before = same();
        // As a process leaves it that was killed, or that had no space left, in the middle.
        for name in [MAKING, ROOT_KEY] {
            std::fs::write(folder.join(name), "").unwrap();
        }
        let first = store.open(&domain(), SystemTime::now()).unwrap();
        assert_eq!(same(), before);
        let second = store.open(&domain(), SystemTime::now()).unwrap();
        assert_eq!(first.trust_bundle().unwrap(), second.trust_bundle().unwrap());
        assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 3);
    }

    #[test]
    fn a_ca_that_is_not_in_order_is_refused_and_stays() {
        let state = tempfile::tempdir().unwrap();
        let store = AuthorityStore::new(state.path());
        let now = SystemTime::now();
        store.open(&domain(), now).unwrap();
        let other = TrustDomain::parse("other.example").unwrap();
        assert!(
            store
                .open(&other, now)
                .unwrap_err()
                .to_string()
                .contains("trust domain `other.example`")
        );
        let key = state.path().join("ca").join(ROOT_KEY);
        std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(
            store.open(&domain(), now),
            Err(StoreError::Exposed { mode: 0o640, .. })
        ));
        std::fs::remove_file(&key).unwrap();
        assert!(
            store
                .open(&domain(), now)
                .unwrap_err()
                .to_string()
                .contains("root.key")
        );
        assert!(!key.exists());
    }
}
