//! Volumes of a pod: memory file systems below the scratch directory.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Component, Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};

use crate::spec::{Volume, VolumeContent, VolumeFile};

/// Makes a volume at `place`, which does not exist yet.
pub(super) fn create(place: &Path, volume: &Volume) -> Result<(), String> {
    let failed = |error: io::Error| format!("make volume `{}`: {error}", volume.name);
    fs::create_dir(place).map_err(failed)?;
    let options = match volume.content {
        VolumeContent::Empty {
            size_bytes: Some(size),
        } => format!("mode=0777,size={}", size.max(4096)),
        VolumeContent::Empty { size_bytes: None } => "mode=0777".to_owned(),
        VolumeContent::Files(_) => "mode=0755".to_owned(),
    };
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(
        Some("bartizan"),
        place,
        Some("tmpfs"),
        flags,
        Some(options.as_str()),
    )
    .map_err(|e| failed(e.into()))?;
    match &volume.content {
        VolumeContent::Empty { .. } => Ok(()),
        VolumeContent::Files(files) => write(place, files),
    }
}

/// Removes a volume.
pub(super) fn remove(place: &Path) {
    // Containers that still hold it keep it until they are gone.
    let _ = umount2(place, MntFlags::MNT_DETACH);
    let _ = fs::remove_dir(place);
}

/// Makes the files of a volume exactly `files`; each is replaced at once.
pub(super) fn write(place: &Path, files: &[VolumeFile]) -> Result<(), String> {
    let mut kept: Vec<PathBuf> = Vec::new();
    for file in files {
        let failed = |error: io::Error| format!("write `{}` in a volume: {error}", file.path.display());
        if !is_inside(&file.path) {
            return Err(format!("`{}` is not a path inside a volume", file.path.display()));
        }
        let path = place.join(&file.path);
        let parent = path.parent().unwrap_or(place);
        fs::create_dir_all(parent).map_err(failed)?;
        let fresh = parent.join(".bartizan-new");
        fs::write(&fresh, &file.content).map_err(failed)?;
        fs::set_permissions(&fresh, fs::Permissions::from_mode(file.mode & 0o777)).map_err(failed)?;
        fs::rename(&fresh, &path).map_err(failed)?;
        kept.push(path);
    }
    prune(place, &kept).map_err(|error| format!("remove old files from a volume: {error}"))
}

/// Whether a path only goes down.
pub(super) fn is_inside(path: &Path) -> bool {
    path.components().next().is_some() && path.components().all(|part| matches!(part, Component::Normal(_)))
}

fn prune(directory: &Path, kept: &[PathBuf]) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if kept.contains(&path) {
            continue;
        }
        if path.is_dir() {
            prune(&path, kept)?;
            if !kept.iter().any(|file| file.starts_with(&path)) {
                fs::remove_dir(&path)?;
            }
        } else {
            fs::remove_file(&path)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str, content: &str) -> VolumeFile {
        VolumeFile {
            path: path.into(),
            mode: 0o640,
            content: content.into(),
        }
    }

    #[test]
    fn a_volume_holds_exactly_its_files() {
        let place = tempfile::tempdir().unwrap();
        write(
            place.path(),
            &[file("a", "1"), file("d/b", "2"), file("e/c", "3")],
        )
        .unwrap();
        write(place.path(), &[file("a", "4"), file("d/b", "2")]).unwrap();
        assert_eq!(fs::read_to_string(place.path().join("a")).unwrap(), "4");
        assert_eq!(
            fs::metadata(place.path().join("a")).unwrap().permissions().mode() & 0o777,
            0o640
        );
        assert!(place.path().join("d/b").exists());
        assert!(!place.path().join("e").exists());
    }

    #[test]
    fn a_file_cannot_leave_its_volume() {
        let place = tempfile::tempdir().unwrap();
        for path in ["../x", "/x", "a/../../x", "", "."] {
            assert!(write(place.path(), &[file(path, "1")]).is_err(), "{path}");
        }
    }
}
