//! The last good snapshot on disk: a proxy that starts without the control plane serves from it. No secrets are in it.
//!
//! Two files: a whole snapshot, and beside it the transactions since, a line each, so that a small change costs little in a
//! large mesh. The second names the first by its hash: after a kill between the two writes it does not count.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bartizan_mesh::wire_format::{DecodeError, decode_or_deny, store_from_json, store_to_json};
use bartizan_mesh::{Key, Snapshot, Store, Transaction};
use bartizan_proto::v1alpha1 as proto;
use bartizan_types::Version;
use serde::{Deserialize, Serialize};

/// Changes are kept up to this many bytes, or as many as the whole has, before the whole is written anew.
const LEAST_CHANGES_BYTES: u64 = 1024 * 1024;

/// The files.
#[derive(Debug)]
pub(crate) struct LastGood {
    whole: PathBuf,
    open: Option<Open>,
}

/// The file of changes, while it goes with the whole.
#[derive(Debug)]
struct Open {
    changes: File,
    bytes: u64,
    most: u64,
}

/// One line of changes.
#[derive(Serialize, Deserialize)]
struct Line {
    version: u64,
    upserts: Vec<(Arc<str>, serde_json::Value)>,
    removals: Vec<Arc<str>>,
}

impl LastGood {
    /// The file at `whole`, which need not be there, and the changes beside it.
    pub(crate) fn new(whole: PathBuf) -> Self {
        Self { whole, open: None }
    }

    /// What a predecessor has left; nothing when there is none or it cannot be read, which the log says.
    pub(crate) fn read(&self) -> Option<Snapshot> {
        let unusable = |error: &dyn std::fmt::Display| {
            tracing::warn!(
                "the last good snapshot `{}` is not used: {error}",
                self.whole.display()
            );
        };
        let text = match fs::read_to_string(&self.whole) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            Err(error) => {
                unusable(&error);
                return None;
            }
        };
        let (store, replaced) = store_from_json(&text).map_err(|error| unusable(&error)).ok()?;
        for error in replaced {
            tracing::error!("a policy of the last good snapshot denies everything: {error}");
        }
        let mut snapshot = Snapshot::build(&store);
        let changes = fs::read_to_string(self.changes()).unwrap_or_default();
        let mut lines = changes.split_inclusive('\n').filter(|line| line.ends_with('\n'));
        if lines.next().map(str::trim_end) == Some(&*hash(&text)) {
            for line in lines {
                match decode(line) {
                    Ok(transaction) => snapshot = snapshot.apply(&transaction),
                    Err(error) => {
                        // What follows builds on it.
                        tracing::warn!(
                            "the last good snapshot ends at version {}: {error}",
                            snapshot.version()
                        );
                        break;
                    }
                }
            }
        }
        Some(snapshot)
    }

    /// Adds a transaction; `false` when the whole has to be written first. Blocks on the disk.
    ///
    /// # Errors
    /// What the file system says; the whole has to be written then.
    pub(crate) fn add(&mut self, transaction: &proto::Transaction) -> io::Result<bool> {
        let line = encode(transaction)?;
        let Some(open) = self.open.as_mut().filter(|open| open.bytes < open.most) else {
            return Ok(false);
        };
        let written = open.changes.write_all(&line);
        open.bytes += line.len() as u64;
        if written.is_err() {
            self.open = None;
        }
        written.map(|()| true)
    }

    /// Puts `store` in place of everything: whole or not at all. Blocks on the disk.
    ///
    /// # Errors
    /// What the file system says; the files are then as they were.
    pub(crate) fn write(&mut self, store: &Store) -> io::Result<()> {
        self.open = None;
        let directory = self.whole.parent().unwrap_or(Path::new("."));
        DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
        let text = store_to_json(store);
        replace(&self.whole, text.as_bytes())?;
        let changes = replace(&self.changes(), format!("{}\n", hash(&text)).as_bytes())?;
        self.open = Some(Open {
            changes,
            bytes: 0,
            most: LEAST_CHANGES_BYTES.max(text.len() as u64),
        });
        Ok(())
    }

    fn changes(&self) -> PathBuf {
        self.whole.with_extension("changes")
    }
}

/// Writes a file beside `path` and moves it there; it stays open.
fn replace(path: &Path, content: &[u8]) -> io::Result<File> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    let write = || {
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&beside)?;
        file.write_all(content)?;
        fs::rename(&beside, path)?;
        Ok(file)
    };
    let written = write();
    if written.is_err() {
        let _ = fs::remove_file(&beside);
    }
    written
}

fn encode(transaction: &proto::Transaction) -> io::Result<Vec<u8>> {
    let upserts = transaction
        .upserts
        .iter()
        .map(|upsert| Ok((Arc::from(&*upsert.key), serde_json::from_slice(&upsert.body)?)))
        .collect::<serde_json::Result<_>>()?;
    let mut line = serde_json::to_vec(&Line {
        version: transaction.version,
        upserts,
        removals: transaction.removals.iter().map(|key| Arc::from(&**key)).collect(),
    })?;
    line.push(b'\n');
    Ok(line)
}

fn decode(line: &str) -> Result<Transaction, Box<dyn std::error::Error>> {
    let line: Line = serde_json::from_str(line)?;
    let upserts = line.upserts.into_iter().map(|(key, body)| {
        let body = serde_json::to_vec(&body)?;
        let (resource, replaced): (_, Option<DecodeError>) = decode_or_deny(&Key(key), &body)?;
        if let Some(error) = replaced {
            tracing::error!("a policy of the last good snapshot denies everything: {error}");
        }
        Ok(resource)
    });
    Ok(Transaction {
        version: Version(line.version),
        upserts: upserts.collect::<Result<_, Box<dyn std::error::Error>>>()?,
        removals: line.removals.into_iter().map(Key).collect(),
    })
}

/// Tells two writes apart.
fn hash(text: &str) -> String {
    format!("{:016x}", bartizan_types::fnv1a(text.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use bartizan_mesh::{Policy, PolicyKind, PolicyName, Resource, wire_format};
    use bartizan_types::NamespacedName;

    fn change(version: u64, policy: &str) -> proto::Transaction {
        let policy = Policy::deny_everything(PolicyName {
            kind: PolicyKind::AuthorizationPolicy,
            name: NamespacedName::parse(policy).unwrap(),
        });
        let encoded = wire_format::encode(&Resource::Policy(policy));
        proto::Transaction {
            version,
            upserts: vec![proto::Upsert {
                key: encoded.key.to_string(),
                body: encoded.body.to_vec().into(),
                digest: encoded.digest.to_string(),
            }],
            removals: Vec::new(),
        }
    }

    fn versions(file: &LastGood) -> (u64, usize) {
        let snapshot = file.read().unwrap();
        (snapshot.version().0, snapshot.store().len())
    }

    #[test]
    fn the_whole_and_its_changes_are_read() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("shop/cart.json");
        let mut file = LastGood::new(path.clone());
        assert!(file.read().is_none());
        assert!(!file.add(&change(1, "shop/a")).unwrap(), "there is no whole yet");
        file.write(&Store::new()).unwrap();
        assert_eq!(versions(&file), (0, 0));
        assert!(file.add(&change(2, "shop/a")).unwrap());
        assert!(file.add(&change(3, "shop/b")).unwrap());
        let mut removal = change(4, "shop/a");
        removal.removals = vec![removal.upserts.remove(0).key];
        assert!(file.add(&removal).unwrap());
        assert_eq!(versions(&LastGood::new(path.clone())), (4, 1));

        // A line that was cut does not count, nor do changes of another whole.
        let changes = path.with_extension("changes");
        let text = fs::read_to_string(&changes).unwrap();
        fs::write(&changes, &text[..text.len() - 3]).unwrap();
        assert_eq!(versions(&file), (3, 2));
        fs::write(&changes, text.replacen('\n', "0\n", 1)).unwrap();
        assert_eq!(versions(&file), (0, 0));
        fs::write(&path, "{").unwrap();
        assert!(file.read().is_none());
    }
}
