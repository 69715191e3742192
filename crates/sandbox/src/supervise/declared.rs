//! Declared paths below a directory that some program of the mesh may write: what is there may be that program's doing, so
//! a path that leads out of the directory is refused, or one program could show another a place of the host.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// Every path that any container was declared to write; the lock is held for one look.
#[derive(Debug, Default)]
pub(super) struct Declared(Mutex<BTreeSet<PathBuf>>);

impl Declared {
    /// Remembers what a container may write, and looks at everything that it is to see.
    pub(super) fn check(&self, read: &[PathBuf], write: &[PathBuf]) -> Result<(), String> {
        let mut writable = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        writable.extend(write.iter().cloned());
        for path in read.iter().chain(write) {
            for above in writable
                .iter()
                .filter(|above| path.starts_with(above) && *above != path)
            {
                stays(path, above)?;
            }
        }
        Ok(())
    }
}

fn stays(path: &Path, above: &Path) -> Result<(), String> {
    let real = |path: &Path| {
        std::fs::canonicalize(path).map_err(|error| format!("declared path `{}`: {error}", path.display()))
    };
    let (inner, outer) = (real(path)?, real(above)?);
    if inner.starts_with(&outer) {
        return Ok(());
    }
    Err(format!(
        "declared path `{}` leads to `{}`, out of `{}`, which a program of the mesh may write",
        path.display(),
        inner.display(),
        outer.display()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_out_of_a_writable_directory_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let (shared, home) = (folder.path().join("shared"), folder.path().join("home"));
        std::fs::create_dir_all(shared.join("inside")).unwrap();
        std::fs::create_dir(&home).unwrap();
        let declared = Declared::default();
        declared.check(&[], std::slice::from_ref(&shared)).unwrap();
        declared.check(&[shared.join("inside")], &[]).unwrap();
        std::os::unix::fs::symlink(&home, shared.join("sub")).unwrap();
        let refused = declared.check(&[shared.join("sub")], &[]).unwrap_err();
        assert!(refused.contains("leads to"), "{refused}");
        declared.check(&[home], &[]).unwrap();
    }
}
