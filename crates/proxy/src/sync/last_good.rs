//! The last good snapshot on disk: a proxy that starts without the control plane serves from it. No secrets are in it.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use bartizan_mesh::wire_format::{store_from_json, store_to_json};
use bartizan_mesh::{Snapshot, Store};

/// The file.
#[derive(Clone, Debug)]
pub(crate) struct LastGood(PathBuf);

impl LastGood {
    /// The file at `path`, which need not be there.
    pub(crate) fn new(path: PathBuf) -> Self {
        Self(path)
    }

    /// What a predecessor has left; nothing when there is none or it cannot be read, which the log says.
    pub(crate) fn read(&self) -> Option<Snapshot> {
        let text = match fs::read_to_string(&self.0) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            Err(error) => {
                tracing::warn!("read the last good snapshot `{}`: {error}", self.0.display());
                return None;
            }
        };
        match store_from_json(&text) {
            Ok((store, replaced)) => {
                for error in replaced {
                    tracing::error!("a policy of the last good snapshot denies everything: {error}");
                }
                Some(Snapshot::build(&store))
            }
            Err(error) => {
                tracing::warn!(
                    "the last good snapshot `{}` is not used: {error}",
                    self.0.display()
                );
                None
            }
        }
    }

    /// Puts `store` in place of what is there: whole or not at all. Blocks on the disk.
    ///
    /// # Errors
    /// What the file system says; the file is then as it was.
    pub(crate) fn write(&self, store: &Store) -> io::Result<()> {
        let directory = self.0.parent().unwrap_or(Path::new("."));
        DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
        let beside = self.0.with_extension("new");
        let text = store_to_json(store);
        let written = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&beside)
            .and_then(|mut file| file.write_all(text.as_bytes()))
            .and_then(|()| fs::rename(&beside, &self.0));
        if written.is_err() {
            let _ = fs::remove_file(&beside);
        }
        written
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read_and_broken_files_are_not() {
        let directory = tempfile::tempdir().unwrap();
        let file = LastGood::new(directory.path().join("shop/cart.json"));
        assert!(file.read().is_none());
        file.write(&Store::new()).unwrap();
        assert_eq!(file.read().unwrap().store().len(), 0);
        fs::write(directory.path().join("shop/cart.json"), "{").unwrap();
        assert!(file.read().is_none());
    }
}
