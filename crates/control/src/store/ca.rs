//! The CA's keys and certificates on disk: `ca/{root.pem,root.key,intermediate.pem}`, 0700 and 0600.
//!
//! The folder is made under another name and renamed, so that there is never half a CA. The intermediate's certificate and
//! key are one file, so that a renewal replaces both or neither.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use bartizan_identity::{Authority, AuthorityPem};
use bartizan_types::{Secret, TrustDomain};

use super::{Flush, StoreError, private_folder, write_private};

const ROOT_CERTIFICATE: &str = "root.pem";
const ROOT_KEY: &str = "root.key";
const INTERMEDIATE: &str = "intermediate.pem";

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
        if self.folder.exists() {
            private_folder(&self.folder)?;
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

    fn create(&self, pem: &AuthorityPem) -> Result<(), StoreError> {
        let making = self.folder.with_extension("new");
        match std::fs::remove_dir_all(&making) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(StoreError::io("remove", &making, error));
            }
            Ok(()) | Err(_) => {}
        }
        let made = (|| {
            private_folder(&making)?;
            write_private(
                &making.join(ROOT_CERTIFICATE),
                pem.root_cert.as_bytes(),
                Flush::Disk,
            )?;
            write_private(
                &making.join(ROOT_KEY),
                pem.root_key.expose().as_bytes(),
                Flush::Disk,
            )?;
            write_private(
                &making.join(INTERMEDIATE),
                intermediate(pem).expose().as_bytes(),
                Flush::Disk,
            )?;
            std::fs::rename(&making, &self.folder)
                .map_err(|error| StoreError::io("make", &self.folder, error))
        })();
        if made.is_err() {
            let _ = std::fs::remove_dir_all(&making); // what matters is the first error
        }
        made
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
