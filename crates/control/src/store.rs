//! What survives the control plane: the CA and the versions that were accepted, below the state directory.
//!
//! Every file is written beside its place, flushed, and renamed over it; folders are 0700, files 0600. A file that cannot be
//! written whole is not there at all.

pub(crate) mod ca;
pub(crate) mod versions;

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

/// Why something cannot be kept or read back.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The disk or its permissions.
    #[error("{doing} `{path}`: {cause}{advice}", cause = describe(.source), advice = advice(.source))]
    Io {
        /// What was attempted: `write`, `read`, `make`.
        doing: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system answered.
        source: io::Error,
    },
    /// A file with a secret that others could have read.
    #[error(
        "`{path}` has mode {mode:04o}, so others may have read the CA's key; if they have not, `chmod 600` it, else remove \
         `{folder}` and start again: every workload gets a new certificate"
    )]
    Exposed {
        /// The file.
        path: PathBuf,
        /// The folder to remove.
        folder: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// A file of somebody else.
    #[error("`{path}` belongs to user {owner}, and this is user {own}; choose another state directory")]
    Owner {
        /// The file or folder.
        path: PathBuf,
        /// Its owner's user id.
        owner: u32,
        /// Ours.
        own: u32,
    },
    /// The CA's files are not a CA of this mesh.
    #[error(
        "the CA in `{folder}`: {reason}; choose another state directory, or remove it to start with a new CA"
    )]
    Authority {
        /// The CA's folder.
        folder: PathBuf,
        /// What is wrong.
        reason: String,
    },
}

impl StoreError {
    pub(crate) fn io(doing: &'static str, path: &Path, source: io::Error) -> Self {
        Self::Io {
            doing,
            path: path.to_owned(),
            source,
        }
    }
}

/// What the system answered, in plain words where there are better ones.
pub(crate) fn describe(error: &io::Error) -> String {
    let kind = error.kind();
    if kind == io::ErrorKind::StorageFull {
        "no space is left on the device".to_owned()
    } else if kind == io::ErrorKind::PermissionDenied {
        "permission denied".to_owned()
    } else if kind == io::ErrorKind::ReadOnlyFilesystem {
        "the file system is read-only".to_owned()
    } else if kind == io::ErrorKind::NotFound {
        "it does not exist".to_owned()
    } else {
        error.to_string()
    }
}

fn advice(error: &io::Error) -> &'static str {
    let kind = error.kind();
    if matches!(kind, io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) {
        "; free space there, or choose another state directory"
    } else if matches!(
        kind,
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem
    ) {
        "; make it writable for this user, or choose another state directory"
    } else {
        ""
    }
}

/// Makes a folder that only we can enter, and takes others' permissions from one that exists.
pub(crate) fn private_folder(path: &Path) -> Result<(), StoreError> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|error| StoreError::io("make", path, error))?;
    let metadata = std::fs::metadata(path).map_err(|error| StoreError::io("read", path, error))?;
    let own = nix::unistd::geteuid().as_raw();
    if metadata.uid() != own {
        return Err(StoreError::Owner {
            path: path.to_owned(),
            owner: metadata.uid(),
            own,
        });
    }
    if metadata.mode() & 0o077 != 0 {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o700))
            .map_err(|error| StoreError::io("change the mode of", path, error))?;
    }
    Ok(())
}

/// Whether a file is put on the disk before the call returns.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Flush {
    /// Survives a power failure.
    Disk,
    /// Survives the process.
    Cache,
}

/// Writes a file of ours whole: beside its place, then renamed over it. On any error the old file, or none, is there.
pub(crate) fn write_private(path: &Path, bytes: &[u8], flush: Flush) -> Result<(), StoreError> {
    let folder = path.parent().unwrap_or(Path::new("/"));
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let beside = folder.join(format!(".{name}.new"));
    let written = (|| {
        match std::fs::remove_file(&beside) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&beside)?;
        file.write_all(bytes)?;
        if flush == Flush::Disk {
            file.sync_all()?;
        }
        std::fs::rename(&beside, path)?;
        if flush == Flush::Disk {
            File::open(folder)?.sync_all()?;
        }
        Ok(())
    })();
    written.map_err(|error| {
        let _ = std::fs::remove_file(&beside); // it may not exist; the error that matters is the first
        StoreError::io("write", path, error)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_private_and_replaced_whole() {
        let folder = tempfile::tempdir().unwrap();
        let inner = folder.path().join("a/b");
        private_folder(&inner).unwrap();
        assert_eq!(std::fs::metadata(&inner).unwrap().mode() & 0o777, 0o700);
        std::fs::set_permissions(&inner, std::fs::Permissions::from_mode(0o755)).unwrap();
        private_folder(&inner).unwrap();
        assert_eq!(std::fs::metadata(&inner).unwrap().mode() & 0o777, 0o700);
        let path = inner.join("file");
        for text in ["one", "two"] {
            write_private(&path, text.as_bytes(), Flush::Disk).unwrap();
            assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
        }
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(std::fs::read_dir(&inner).unwrap().count(), 1);
    }

    #[test]
    fn a_full_disk_leaves_the_old_file_and_says_what_to_do() {
        let error = StoreError::io(
            "write",
            Path::new("/state/versions/head.json"),
            io::Error::from(io::ErrorKind::StorageFull),
        );
        assert_eq!(
            error.to_string(),
            "write `/state/versions/head.json`: no space is left on the device; free space there, or choose another state directory"
        );
        let folder = tempfile::tempdir().unwrap();
        let missing = folder.path().join("missing/file");
        assert!(write_private(&missing, b"x", Flush::Disk).is_err());
        assert!(!missing.exists());
    }
}
