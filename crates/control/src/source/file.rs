//! Reads every document file below the named folders, all or nothing.
//!
//! A [`Scan`] is what stood on disk at one moment: a file that changes or vanishes while it is read makes the whole scan
//! unsteady, and it is tried again. Hidden files, editors' backups and other endings are skipped; links are followed, and
//! what can be reached twice is read once. Blocking; for the control plane and for `bartizan check`.

use std::collections::BTreeSet;
use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use bartizan_config::{Code, Finding, LARGEST_FILE_BYTES, Severity, SourceFile, Spot};

use crate::codes::{EMPTY, TOO_MUCH, UNREADABLE};
use crate::store::describe;

/// The most files of one scan.
const MOST_FILES: usize = 10_000;
/// The most bytes of text of one scan.
const MOST_BYTES: usize = 64 * 1024 * 1024;
/// The deepest folder.
const DEEPEST: usize = 32;

/// All document files of one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scan {
    /// The folder that paths in findings are relative to: the first source, or its folder when it is a file. Absolute.
    pub base: PathBuf,
    /// The files in the order of their paths.
    pub files: Vec<SourceFile>,
    /// What cannot be read. With any error here the scan must not be applied.
    pub findings: Vec<Finding>,
}

/// Something changed while it was read; the path that did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unsteady(pub PathBuf);

/// What the files looked like from outside: compared to notice changes without reading.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Fingerprint(Vec<(PathBuf, [u64; 5])>);

/// The folders and files that make a scan, before anything is read.
#[derive(Debug, Default)]
pub(crate) struct Listing {
    base: PathBuf,
    files: Vec<PathBuf>,
    /// Every folder whose changes matter.
    pub(crate) folders: BTreeSet<PathBuf>,
    pub(crate) fingerprint: Fingerprint,
    findings: Vec<Finding>,
    seen: BTreeSet<(u64, u64)>,
}

/// Reads all sources, trying again for a second while something changes. What is unsteady even then is a finding.
pub fn read_folder(sources: &[PathBuf]) -> Scan {
    const TRIES: u32 = 20;
    let mut last = None;
    for _ in 0..TRIES {
        let listing = Listing::of(sources);
        match listing.read() {
            Ok(scan) => return scan,
            Err(unsteady) => last = Some((listing.base, unsteady)),
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    let (base, Unsteady(path)) = last.unwrap_or_else(|| (base_of(sources), Unsteady(PathBuf::new())));
    let finding = unreadable(&base, &path, "it changes while it is read");
    Scan {
        base,
        files: Vec::new(),
        findings: vec![finding],
    }
}

impl Listing {
    /// Lists the sources without reading them.
    pub(crate) fn of(sources: &[PathBuf]) -> Self {
        let mut listing = Self {
            base: base_of(sources),
            ..Self::default()
        };
        for source in sources {
            let source = absolute(source);
            match std::fs::metadata(&source) {
                Ok(metadata) if metadata.is_dir() => listing.folder(&source, &metadata, 0),
                Ok(metadata) => {
                    if let Some(folder) = source.parent() {
                        listing.folders.insert(folder.to_owned());
                    }
                    listing.file(source, &metadata);
                }
                Err(error) => listing.unreadable(&source, &error),
            }
        }
        if listing.files.is_empty() && listing.findings.is_empty() {
            let base = listing.base.clone();
            let finding = finding(
                EMPTY,
                &base,
                &base,
                format!("there are no documents in `{}`", base.display()),
            )
            .help("put `.yaml`, `.yml` or `.json` documents there");
            listing.findings.push(finding);
        }
        listing
    }

    /// Reads what was listed.
    ///
    /// # Errors
    /// [`Unsteady`] when a file changed or vanished meanwhile.
    pub(crate) fn read(&self) -> Result<Scan, Unsteady> {
        let mut scan = Scan {
            base: self.base.clone(),
            files: Vec::with_capacity(self.files.len()),
            findings: self.findings.clone(),
        };
        let mut bytes = 0;
        for path in &self.files {
            match read_steady(path) {
                Ok(text) => {
                    bytes += text.len();
                    if bytes > MOST_BYTES {
                        let what = format!("the documents have more than {MOST_BYTES} bytes");
                        scan.findings.push(finding(TOO_MUCH, &self.base, path, what));
                        break;
                    }
                    scan.files.push(SourceFile::new(shown(&self.base, path), text));
                }
                Err(ReadError::Unsteady) => return Err(Unsteady(path.clone())),
                Err(ReadError::Io(error)) => {
                    scan.findings
                        .push(unreadable(&self.base, path, &describe(&error)));
                }
                Err(ReadError::TooLarge(size)) => {
                    let what = format!("the file has {size} bytes; at most {LARGEST_FILE_BYTES} are read");
                    scan.findings.push(finding(TOO_MUCH, &self.base, path, what));
                }
                Err(ReadError::NotText(at)) => {
                    let what = format!("it is not UTF-8 at byte {at}");
                    scan.findings.push(unreadable(&self.base, path, &what));
                }
                Err(ReadError::NotAFile) => {
                    scan.findings
                        .push(unreadable(&self.base, path, "it is not a regular file"));
                }
            }
        }
        Ok(scan)
    }

    fn folder(&mut self, path: &Path, metadata: &Metadata, depth: usize) {
        if !self.seen.insert((metadata.dev(), metadata.ino())) {
            return;
        }
        self.folders.insert(path.to_owned());
        // Not when it was changed: editors come and go in it.
        let place = [metadata.dev(), metadata.ino(), 0, 0, 0];
        self.fingerprint.0.push((path.to_owned(), place));
        if depth > DEEPEST {
            let what = format!("`{}` is more than {DEEPEST} folders deep", path.display());
            self.findings.push(finding(TOO_MUCH, &self.base, path, what));
            return;
        }
        let mut names = Vec::new();
        match std::fs::read_dir(path) {
            Ok(entries) => {
                for entry in entries.take(MOST_FILES * 4) {
                    match entry {
                        Ok(entry) => names.push(entry.file_name()),
                        Err(error) => self.unreadable(path, &error),
                    }
                }
            }
            Err(error) => self.unreadable(path, &error),
        }
        names.sort_unstable();
        for name in names {
            let Some(text) = name.to_str() else { continue };
            if text.starts_with('.') {
                continue;
            }
            let inner = path.join(&name);
            match std::fs::metadata(&inner) {
                Ok(metadata) if metadata.is_dir() => self.folder(&inner, &metadata, depth + 1),
                Ok(metadata) if is_document(text) => self.file(inner, &metadata),
                Err(error) if is_document(text) && error.kind() != io::ErrorKind::NotFound => {
                    self.unreadable(&inner, &error);
                }
                // A link that leads nowhere.
                Err(_) if is_document(text) && inner.is_symlink() => {
                    self.findings
                        .push(unreadable(&self.base, &inner, "the link leads nowhere"));
                }
                Ok(_) | Err(_) => {}
            }
        }
    }

    fn file(&mut self, path: PathBuf, metadata: &Metadata) {
        if !self.seen.insert((metadata.dev(), metadata.ino())) {
            return;
        }
        if self.files.len() == MOST_FILES {
            let what = format!("there are more than {MOST_FILES} documents' files");
            self.findings.push(finding(TOO_MUCH, &self.base, &path, what));
        }
        if self.files.len() > MOST_FILES {
            return;
        }
        if path.is_symlink()
            && let Ok(target) = path.canonicalize()
            && let Some(folder) = target.parent()
        {
            self.folders.insert(folder.to_owned());
        }
        self.fingerprint.0.push((path.clone(), stamp(metadata)));
        self.files.push(path);
    }

    fn unreadable(&mut self, path: &Path, error: &io::Error) {
        self.findings.push(unreadable(&self.base, path, &describe(error)));
    }
}

/// Whether a file of this name is a document and not an editor's.
pub(crate) fn is_document(name: &str) -> bool {
    let ending = name.rsplit_once('.').map(|(_, ending)| ending);
    matches!(ending, Some("yaml" | "yml" | "json")) && !name.starts_with(['.', '#', '~'])
}

enum ReadError {
    Unsteady,
    TooLarge(u64),
    NotText(usize),
    NotAFile,
    Io(io::Error),
}

/// Reads a file that is the same before and after.
fn read_steady(path: &Path) -> Result<String, ReadError> {
    let open = OpenOptions::new()
        .read(true)
        .custom_flags(nix::fcntl::OFlag::O_NONBLOCK.bits()) // a FIFO with this name must not hold us up
        .open(path);
    let mut file: File = match open {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(ReadError::Unsteady),
        Err(error) => return Err(ReadError::Io(error)),
    };
    let before = file.metadata().map_err(ReadError::Io)?;
    if !before.is_file() {
        return Err(ReadError::NotAFile);
    }
    let most = u64::try_from(LARGEST_FILE_BYTES).unwrap_or(u64::MAX);
    if before.len() > most {
        return Err(ReadError::TooLarge(before.len()));
    }
    let mut bytes = Vec::with_capacity(usize::try_from(before.len()).unwrap_or(0));
    file.by_ref()
        .take(most + 1)
        .read_to_end(&mut bytes)
        .map_err(ReadError::Io)?;
    let after = file.metadata().map_err(ReadError::Io)?;
    // The name may stand for another file by now.
    let named = match std::fs::metadata(path) {
        Ok(named) => named,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(ReadError::Unsteady),
        Err(error) => return Err(ReadError::Io(error)),
    };
    if stamp(&before) != stamp(&after) || stamp(&after) != stamp(&named) || after.len() != bytes.len() as u64
    {
        return Err(ReadError::Unsteady);
    }
    String::from_utf8(bytes).map_err(|error| ReadError::NotText(error.utf8_error().valid_up_to()))
}

fn stamp(metadata: &Metadata) -> [u64; 5] {
    [
        metadata.dev(),
        metadata.ino(),
        metadata.len(),
        metadata.mtime().cast_unsigned(),
        metadata.mtime_nsec().cast_unsigned(),
    ]
}

fn base_of(sources: &[PathBuf]) -> PathBuf {
    let Some(first) = sources.first() else {
        return PathBuf::from("/");
    };
    let first = absolute(first);
    if first.is_file() {
        first.parent().map_or_else(|| PathBuf::from("/"), Path::to_owned)
    } else {
        first
    }
}

fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

fn shown(base: &Path, path: &Path) -> String {
    match path.strip_prefix(base) {
        Ok(inner) if !inner.as_os_str().is_empty() => inner.display().to_string(),
        Ok(_) | Err(_) => path.display().to_string(),
    }
}

fn unreadable(base: &Path, path: &Path, reason: &str) -> Finding {
    finding(
        UNREADABLE,
        base,
        path,
        format!("read `{}`: {reason}", path.display()),
    )
}

fn finding(code: Code, base: &Path, path: &Path, what: String) -> Finding {
    let file = SourceFile::new(shown(base, path), "");
    let mut finding = Finding::new(code, Severity::Error, &file, Spot::START, what);
    finding.source_line = None;
    finding.length = None;
    finding
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(scan: &Scan) -> Vec<&str> {
        scan.files.iter().map(|file| &*file.path).collect()
    }

    #[test]
    fn documents_are_read_and_editors_files_are_not() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        std::fs::create_dir_all(root.join("b/.git")).unwrap();
        for name in [
            "a.yaml",
            "b/c.yml",
            "b/d.json",
            "b/.git/x.yaml",
            ".a.yaml.swp",
            "a.yaml~",
            "#a.yaml#",
            ".hidden.yaml",
            "4913",
            "README.md",
            "~a.yaml",
        ] {
            std::fs::write(root.join(name), "x: 1\n").unwrap();
        }
        let scan = read_folder(&[root.to_owned()]);
        assert_eq!(names(&scan), ["a.yaml", "b/c.yml", "b/d.json"]);
        assert_eq!(scan.findings, []);
        assert_eq!(scan.base, root);
    }

    #[test]
    fn links_are_followed_and_nothing_is_read_twice() {
        let folder = tempfile::tempdir().unwrap();
        let outside = tempfile::tempdir().unwrap();
        let root = folder.path();
        std::fs::create_dir(root.join("inner")).unwrap();
        std::fs::write(root.join("inner/a.yaml"), "").unwrap();
        std::fs::write(outside.path().join("z.yaml"), "").unwrap();
        std::os::unix::fs::symlink(root, root.join("inner/loop")).unwrap();
        std::os::unix::fs::symlink(root.join("inner/a.yaml"), root.join("same.yaml")).unwrap();
        std::os::unix::fs::symlink(outside.path(), root.join("other")).unwrap();
        let scan = read_folder(&[root.to_owned()]);
        assert_eq!(names(&scan), ["inner/a.yaml", "other/z.yaml"]);
    }

    #[test]
    fn what_cannot_be_read_is_an_error_finding() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        let missing = read_folder(&[root.join("missing")]);
        assert_eq!(missing.findings[0].code, UNREADABLE);
        let empty = read_folder(&[root.to_owned()]);
        assert_eq!(empty.findings[0].code, EMPTY);
        assert!(empty.findings[0].is_error());
        std::fs::write(root.join("latin.yaml"), b"a: \xff\n").unwrap();
        std::os::unix::fs::symlink("nowhere", root.join("link.yaml")).unwrap();
        nix::unistd::mkfifo(&root.join("pipe.yaml"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        let broken = read_folder(&[root.to_owned()]);
        let what: Vec<_> = broken
            .findings
            .iter()
            .map(|finding| (&*finding.file, finding.what.as_str()))
            .collect();
        assert_eq!(what.len(), 3, "{what:?}");
        assert!(
            what.iter()
                .any(|(file, what)| *file == "latin.yaml" && what.contains("UTF-8 at byte 3"))
        );
        assert!(
            what.iter()
                .any(|(file, what)| *file == "link.yaml" && what.contains("leads nowhere"))
        );
        assert!(
            what.iter()
                .any(|(file, what)| *file == "pipe.yaml" && what.contains("not a regular file"))
        );
    }

    #[test]
    fn one_file_is_a_source_of_its_own() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("mesh.yaml");
        std::fs::write(&path, "a: 1").unwrap();
        let scan = read_folder(&[path]);
        assert_eq!(names(&scan), ["mesh.yaml"]);
        assert_eq!(scan.base, folder.path());
    }
}
