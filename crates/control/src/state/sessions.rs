//! Who is told what: one session for each connected proxy, one transaction in flight in each.
//!
//! A slow proxy is owed the newest body of each resource, not every body in between, so what is owed is never more than the
//! mesh is large.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use bartizan_compile::{Change, Update};
use bartizan_mesh::wire_format::encode;
use bartizan_mesh::{Key, Resource};
use bartizan_proto::v1alpha1::{Transaction, Upsert};
use bartizan_types::{NamespacedName, Version};
use bytes::Bytes;
use tokio::sync::mpsc;

use super::{Opened, Opening, Owner, Refused};
use crate::push::HelloRefused;
use crate::status::{Counts, ProxyStatus};

/// Key to the new body; `None`: it is gone.
type Changes = BTreeMap<Key, Option<Arc<Upsert>>>;

/// All sessions, and what is known of each proxy.
#[derive(Default)]
pub(super) struct Sessions {
    next: u64,
    open: BTreeMap<u64, Session>,
    by_workload: BTreeMap<NamespacedName, u64>,
    /// They have greeted before there was anything to tell.
    waiting: Vec<Opening>,
    proxies: BTreeMap<NamespacedName, ProxyStatus>,
    encoded: Encoded,
    /// Whether a change was absorbed that no version holds yet.
    dirty: bool,
}

struct Session {
    workload: NamespacedName,
    transactions: mpsc::Sender<Transaction>,
    owed: Changes,
    in_flight: Option<(Version, Changes)>,
    /// The version that was sent last.
    sent: Option<Version>,
    /// After a refusal nothing is sent until there is something new.
    held: bool,
}

/// Bodies, encoded once for all proxies.
#[derive(Default)]
struct Encoded(HashMap<Key, (Arc<Resource>, Arc<Upsert>)>);

impl Encoded {
    fn of(&mut self, key: &Key, resource: &Arc<Resource>) -> Arc<Upsert> {
        if let Some((known, upsert)) = self.0.get(key)
            && (Arc::ptr_eq(known, resource) || known == resource)
        {
            return Arc::clone(upsert);
        }
        let encoded = encode(resource);
        let upsert = Arc::new(Upsert {
            key: key.to_string(),
            body: Bytes::from_owner(encoded.body),
            digest: encoded.digest.to_string(),
        });
        self.0
            .insert(key.clone(), (Arc::clone(resource), Arc::clone(&upsert)));
        upsert
    }

    /// Forgets what nobody else holds any more.
    fn sweep(&mut self) {
        self.0.retain(|_, (resource, _)| Arc::strong_count(resource) > 1);
    }
}

impl Sessions {
    /// What is known of a workload's proxy, to be changed.
    pub(super) fn proxy(&mut self, workload: &NamespacedName) -> &mut ProxyStatus {
        self.proxies.entry(workload.clone()).or_default()
    }

    /// What is known of a workload's proxy.
    pub(super) fn status_of(&self, workload: &NamespacedName) -> Option<ProxyStatus> {
        let mut status = self.proxies.get(workload)?.clone();
        status.connected = self
            .by_workload
            .get(workload)
            .and_then(|session| self.open.get(session))
            .is_some_and(|session| !session.transactions.is_closed());
        Some(status)
    }

    /// The body of a resource as it is sent.
    pub(super) fn upsert_of(&mut self, key: &Key, resource: &Arc<Resource>) -> Upsert {
        self.encoded.of(key, resource).as_ref().clone()
    }

    pub(super) fn is_dirty(&self) -> bool {
        self.dirty
    }

    pub(super) fn clean(&mut self) {
        self.dirty = false;
        self.encoded.sweep();
    }

    /// Notes what each proxy is owed because of a change.
    pub(super) fn absorb(&mut self, update: &Update) {
        self.dirty = true;
        for workload in update.removed.iter().chain(&update.added) {
            self.end(workload);
        }
        for workload in &update.removed {
            self.proxies.remove(workload);
        }
        if self.open.is_empty() {
            return;
        }
        let everyone = self.changes(&update.everyone);
        let own: BTreeMap<_, _> = update
            .proxies
            .iter()
            .filter(|(workload, _)| self.by_workload.contains_key(*workload))
            .map(|(workload, change)| (workload.clone(), change))
            .collect::<Vec<_>>()
            .into_iter()
            .map(|(workload, change)| (workload, self.changes(change)))
            .collect();
        for session in self.open.values_mut() {
            session.owe(&everyone);
            if let Some(own) = own.get(&session.workload) {
                session.owe(own);
            }
        }
    }

    /// Sends what is owed to every proxy that has answered.
    pub(super) fn send(&mut self, version: Version, counts: &mut Counts) {
        let mut ended = Vec::new();
        for (id, session) in &mut self.open {
            if !session.send(version, counts) {
                ended.push(*id);
            }
        }
        for id in ended {
            self.close(id);
        }
    }

    /// Takes a proxy's answer. What it refused is owed again, and sent with the next change.
    pub(super) fn answer(&mut self, id: u64, version: Version, refused: Option<String>, counts: &mut Counts) {
        let Some(session) = self.open.get_mut(&id) else {
            return;
        };
        let Some((_, changes)) = session.in_flight.take_if(|(sent, _)| *sent == version) else {
            tracing::debug!(workload = %session.workload, %version, "an answer to nothing that was asked is passed over");
            return;
        };
        let status = self.proxies.entry(session.workload.clone()).or_default();
        if let Some(reason) = refused {
            counts.nacks += 1;
            tracing::warn!(workload = %session.workload, %version, reason, "a proxy refuses a version");
            status.refused = Some(format!("version {version}: {reason}"));
            session.held = session.owed.is_empty();
            for (key, change) in changes {
                session.owed.entry(key).or_insert(change);
            }
        } else {
            counts.acknowledged += 1;
            status.acknowledged = Some(version);
            status.refused = None;
        }
    }

    /// Ends a session.
    pub(super) fn close(&mut self, id: u64) {
        if let Some(session) = self.open.remove(&id)
            && self.by_workload.get(&session.workload) == Some(&id)
        {
            self.by_workload.remove(&session.workload);
        }
    }

    /// Forgets a proxy whose pod is gone.
    pub(super) fn forget(&mut self, workload: &NamespacedName) {
        self.end(workload);
        self.proxies.remove(workload);
    }

    fn end(&mut self, workload: &NamespacedName) {
        if let Some(id) = self.by_workload.get(workload).copied() {
            self.close(id);
        }
    }

    fn changes(&mut self, change: &Change) -> Changes {
        let gone = change.removals.iter().map(|key| (key.clone(), None));
        let mut changes: Changes = gone.collect();
        for (key, resource) in &change.upserts {
            changes.insert(key.clone(), Some(self.encoded.of(key, resource)));
        }
        changes
    }
}

impl Session {
    fn owe(&mut self, changes: &Changes) {
        if changes.is_empty() {
            return;
        }
        self.held = false;
        for (key, change) in changes {
            self.owed.insert(key.clone(), change.clone());
        }
    }

    /// Whether the session goes on.
    fn send(&mut self, version: Version, counts: &mut Counts) -> bool {
        if self.transactions.is_closed() {
            return false;
        }
        let nothing_new = self.sent == Some(version) && self.owed.is_empty();
        if self.in_flight.is_some() || self.held || nothing_new {
            return true;
        }
        let changes = std::mem::take(&mut self.owed);
        let mut transaction = Transaction {
            version: version.0,
            ..Transaction::default()
        };
        for (key, change) in &changes {
            match change {
                Some(upsert) => transaction.upserts.push(upsert.as_ref().clone()),
                None => transaction.removals.push(key.to_string()),
            }
        }
        counts.transactions += 1;
        counts.resources += changes.len() as u64;
        self.in_flight = Some((version, changes));
        self.sent = Some(version);
        self.transactions.try_send(transaction).is_ok() // there is room for the one in flight
    }
}

impl Owner {
    /// A proxy greets: it is admitted once there is something to tell.
    pub(super) fn open(&mut self, opening: Opening) {
        self.sessions.waiting.retain(|other| !other.reply.is_closed());
        self.sessions.waiting.push(opening);
    }

    /// Admits those who have greeted.
    pub(super) fn admit(&mut self) {
        for opening in std::mem::take(&mut self.sessions.waiting) {
            if let Err((reply, refused)) = self.admit_one(opening) {
                self.count_refused(&Refused::Hello(refused.reason()));
                let _ = reply.send(Err(refused)); // it may have gone away
            }
        }
    }

    fn admit_one(
        &mut self,
        opening: Opening,
    ) -> Result<
        (),
        (
            tokio::sync::oneshot::Sender<Result<Opened, HelloRefused>>,
            HelloRefused,
        ),
    > {
        let Opening {
            workload,
            identity: proven,
            version,
            digests,
            build,
            reply,
        } = opening;
        let Some(identity) = self.identity_of(&workload) else {
            return Err((reply, HelloRefused::Unknown(workload)));
        };
        if proven != identity {
            let refused = HelloRefused::OtherIdentity {
                workload,
                proven,
                identity,
            };
            return Err((reply, refused));
        }
        let resources = self.world.resources_for(&workload);
        if resources.is_empty() {
            return Err((reply, HelloRefused::Unknown(workload)));
        }
        let sessions = &mut self.sessions;
        let mut owed = Changes::new();
        for (key, resource) in &resources {
            let upsert = sessions.encoded.of(key, resource);
            if digests.get(&*key.0) != Some(&upsert.digest) {
                owed.insert(key.clone(), Some(upsert));
            }
        }
        let known: BTreeSet<&str> = resources.keys().map(|key| &*key.0).collect();
        for key in digests.keys().filter(|key| !known.contains(key.as_str())) {
            owed.insert(Key(key.as_str().into()), None);
        }
        tracing::debug!(%workload, has = %version, differs = owed.len(), "a proxy connects");
        sessions.end(&workload);
        sessions.next += 1;
        let id = sessions.next;
        let (transactions, receiver) = mpsc::channel(1);
        sessions.proxy(&workload).build = build;
        sessions.by_workload.insert(workload.clone(), id);
        sessions.open.insert(
            id,
            Session {
                workload,
                transactions,
                owed,
                in_flight: None,
                sent: None,
                held: false,
            },
        );
        let opened = Opened {
            session: id,
            transactions: receiver,
        };
        let _ = reply.send(Ok(opened)); // if it has gone away, the next send notices
        Ok(())
    }
}
