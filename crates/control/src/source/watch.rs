//! Notices changes of the sources and hands over what stands there once it stands still.
//!
//! inotify tells of changes at once; every two seconds the files are also looked at from outside, for file systems and
//! links of which inotify tells nothing. A change counts when nothing has happened for 50 ms and nobody who wrote has the
//! file still open (for at most two seconds after the last write), so that half a save is not read.

use std::collections::HashMap;
use std::ffi::OsString;
use std::io::{self, PipeReader, PipeWriter};
use std::os::fd::AsFd as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, InotifyEvent};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::file::{Fingerprint, Listing, Scan, Unsteady, is_document};
use crate::state::Message;

/// Without a change for this long, a save is over.
const QUIET: Duration = Duration::from_millis(50);
/// A file that somebody holds open for writing is waited for this long after the last write.
const OPEN: Duration = Duration::from_secs(2);
/// A file that was made and not written yet is waited for this long.
const MADE: Duration = Duration::from_millis(300);
/// However busy the folder is, it is read after this time.
const LONGEST: Duration = Duration::from_secs(5);
/// What is written to without end is taken as it is after this many reads.
const MOST_DISCARDED: u32 = 3;
/// Between two looks from outside.
const LOOK: Duration = Duration::from_secs(2);
/// How many reads of events wait; the kernel keeps more, and says so when it had to drop some.
const EVENTS: usize = 64;

/// Sends every new state of the sources to the owner, until the owner is gone.
pub(crate) async fn watch(sources: Vec<PathBuf>, owner: mpsc::Sender<Message>) {
    let mut watcher = Watcher {
        sources: sources.into(),
        events: Events::open(),
        fingerprint: Fingerprint::default(),
    };
    let mut sent: Option<Scan> = None;
    let mut discarded = 0;
    loop {
        match watcher.read().await {
            // Whoever began to write meanwhile is waited for, so that half of it is not taken for the whole.
            Some(Ok(_)) if discarded < MOST_DISCARDED && watcher.is_saving().await => discarded += 1,
            Some(Ok(scan)) => {
                discarded = 0;
                if sent.as_ref() != Some(&scan) {
                    if owner
                        .send(Message::Scanned(Box::new(scan.clone())))
                        .await
                        .is_err()
                    {
                        return;
                    }
                    sent = Some(scan);
                }
                watcher.changed().await;
            }
            Some(Err(Unsteady(path))) => {
                tracing::debug!(path = %path.display(), "a document changes while it is read");
                tokio::time::sleep(QUIET).await;
            }
            None => return,
        }
    }
}

struct Watcher {
    sources: Arc<[PathBuf]>,
    events: Option<Events>,
    fingerprint: Fingerprint,
}

impl Watcher {
    /// Reads the sources. Watches are in place before anything is read, so that no change falls between. `None` when the
    /// runtime ends.
    async fn read(&mut self) -> Option<Result<Scan, Unsteady>> {
        let sources = Arc::clone(&self.sources);
        let inotify = self.events.as_ref().map(|events| Arc::clone(&events.inotify));
        let read = tokio::task::spawn_blocking(move || {
            let mut listing = Listing::of(&sources);
            if let Some(inotify) = inotify {
                add_watches(&inotify, &listing);
                listing = Listing::of(&sources); // a folder may have been filled before its watch was there
                add_watches(&inotify, &listing);
            }
            (listing.read(), listing.fingerprint)
        });
        let (scan, fingerprint) = read.await.ok()?;
        self.fingerprint = fingerprint;
        Some(scan)
    }

    /// Whether something was written while it was read; then the save is waited for.
    async fn is_saving(&mut self) -> bool {
        let Some(events) = &mut self.events else {
            return false;
        };
        let mut saving = Saving::default();
        while let Ok(read) = events.received.try_recv() {
            saving.note(read);
        }
        if saving.relevant {
            events.settle(saving).await;
            return true;
        }
        false
    }

    /// Waits until something has changed and stands still again.
    async fn changed(&mut self) {
        loop {
            let looked = if let Some(events) = &mut self.events {
                let Ok(saving) = tokio::time::timeout(LOOK, events.next()).await else {
                    if self.looks_changed().await {
                        return tokio::time::sleep(QUIET).await;
                    }
                    continue;
                };
                saving
            } else {
                tokio::time::sleep(LOOK).await;
                if self.looks_changed().await {
                    return tokio::time::sleep(QUIET).await;
                }
                continue;
            };
            match (looked, &mut self.events) {
                (Next::Ended, _) => self.events = None, // looks alone from now on
                (Next::Saving(saving), Some(events)) if saving.relevant => {
                    return events.settle(saving).await;
                }
                (Next::Saving(_), _) => {}
            }
        }
    }

    async fn looks_changed(&self) -> bool {
        let sources = Arc::clone(&self.sources);
        let listed = tokio::task::spawn_blocking(move || Listing::of(&sources).fingerprint).await;
        listed.is_ok_and(|fingerprint| fingerprint != self.fingerprint)
    }
}

/// The kernel's events of the watched folders.
struct Events {
    inotify: Arc<Inotify>,
    received: mpsc::Receiver<Vec<InotifyEvent>>,
    /// Ends the thread that reads events when it is dropped.
    _stop: PipeWriter,
}

/// What a save looks like so far: files that are open for writing, and until when each is waited for.
#[derive(Default)]
struct Saving {
    relevant: bool,
    open: HashMap<(i32, OsString), Instant>,
}

enum Next {
    Saving(Saving),
    Ended,
}

impl Events {
    fn open() -> Option<Self> {
        let opened = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)
            .map_err(io::Error::from)
            .and_then(|inotify| Ok((Arc::new(inotify), io::pipe()?)));
        match opened {
            Ok((inotify, (stop, stopper))) => {
                let (sender, received) = mpsc::channel(EVENTS);
                let reader = Arc::clone(&inotify);
                tokio::task::spawn_blocking(move || read_events(&reader, &stop, &sender));
                Some(Self {
                    inotify,
                    received,
                    _stop: stopper,
                })
            }
            Err(error) => {
                tracing::warn!(%error, "watch folders: inotify is not available, changes are looked for every 2 s");
                None
            }
        }
    }

    /// The next events. Cancel safe.
    async fn next(&mut self) -> Next {
        let mut saving = Saving::default();
        match self.received.recv().await {
            Some(events) => {
                saving.note(events);
                Next::Saving(saving)
            }
            None => Next::Ended,
        }
    }

    /// Waits until the save is over.
    async fn settle(&mut self, mut saving: Saving) {
        let longest = Instant::now() + LONGEST;
        loop {
            let now = Instant::now();
            saving.open.retain(|_, until| *until > now);
            let open = saving.open.values().min().copied();
            let until = open.unwrap_or(now + QUIET).min(longest);
            match tokio::time::timeout_at(until, self.received.recv()).await {
                Ok(Some(events)) => saving.note(events),
                Ok(None) => return,
                Err(_) if open.is_none() => return,
                Err(_) => {}
            }
            if Instant::now() >= longest {
                return;
            }
        }
    }
}

impl Saving {
    fn note(&mut self, events: Vec<InotifyEvent>) {
        for event in events {
            let Some(name) = event.name else {
                self.relevant = true; // the folder itself, or an overflow
                continue;
            };
            let folder = event.mask.contains(AddWatchFlags::IN_ISDIR);
            // `..data` is the link that a mounted ConfigMap or Secret is switched by.
            if !folder
                && !name
                    .to_str()
                    .is_some_and(|name| is_document(name) || name == "..data")
            {
                continue;
            }
            self.relevant = true;
            let key = (event.wd.as_raw(), name);
            if event.mask.contains(AddWatchFlags::IN_MODIFY) {
                self.open.insert(key, Instant::now() + OPEN);
            } else if event.mask.contains(AddWatchFlags::IN_CREATE) && !folder {
                self.open.insert(key, Instant::now() + MADE);
            } else if !event.mask.contains(AddWatchFlags::IN_ATTRIB) {
                self.open.remove(&key);
            }
        }
    }
}

/// Hands events over until the other end of `stop`, or of the channel, is gone. Blocks its thread.
fn read_events(inotify: &Inotify, stop: &PipeReader, events: &mpsc::Sender<Vec<InotifyEvent>>) {
    loop {
        let mut ready = [
            PollFd::new(inotify.as_fd(), PollFlags::POLLIN),
            PollFd::new(stop.as_fd(), PollFlags::POLLIN),
        ];
        match poll(&mut ready, PollTimeout::NONE) {
            Err(Errno::EINTR) => continue,
            Err(error) => {
                tracing::warn!(%error, "wait for changes of folders");
                return;
            }
            Ok(_) => {}
        }
        let [_, stopped] = ready;
        if stopped.any().unwrap_or(true) {
            return;
        }
        match inotify.read_events() {
            Ok(read) => {
                if events.blocking_send(read).is_err() {
                    return;
                }
            }
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            Err(error) => {
                tracing::warn!(%error, "read changes of folders");
                return;
            }
        }
    }
}

fn add_watches(inotify: &Inotify, listing: &Listing) {
    let mask = AddWatchFlags::IN_MODIFY
        | AddWatchFlags::IN_CLOSE_WRITE
        | AddWatchFlags::IN_CREATE
        | AddWatchFlags::IN_DELETE
        | AddWatchFlags::IN_MOVED_FROM
        | AddWatchFlags::IN_MOVED_TO
        | AddWatchFlags::IN_DELETE_SELF
        | AddWatchFlags::IN_MOVE_SELF
        | AddWatchFlags::IN_ATTRIB
        | AddWatchFlags::IN_ONLYDIR;
    for folder in &listing.folders {
        if let Err(error) = inotify.add_watch(folder, mask) {
            tracing::debug!(folder = %folder.display(), %error, "watch a folder: it is only looked at every 2 s");
        }
    }
}
