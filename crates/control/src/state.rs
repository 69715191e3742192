//! The one owner of the world: a thread of its own that takes messages, one after the other.
//!
//! Everybody else holds an [`OwnerHandle`] and never the world itself, so nothing here is locked. What happened since the
//! last look is joined into one version. Compiling, encoding and writing versions block only this thread.

mod documents;
mod keys;
mod node;
mod numbering;
mod report;
mod sessions;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use bartizan_compile::{KeyOrigin, Options as CompileOptions, Update, World};
use bartizan_identity::BootstrapSecret;
use bartizan_mesh::Digest;
use bartizan_proto::v1alpha1::{DumpReply, Transaction};
use bartizan_types::{NamespacedName, PodReport, PodSpec, SpiffeId, Version};
use bytes::Bytes;
use tokio::sync::{mpsc, oneshot, watch};

use crate::issue::SignRefused;
use crate::keys::store::KeyStore;
use crate::push::HelloRefused;
use crate::source::file::Scan;
use crate::status::{Counts, Status, unix_seconds};
use crate::store::versions::VersionStore;
use documents::Documents;
use keys::Keys;
use numbering::Numbering;
use sessions::Sessions;

/// How many messages wait; senders wait when there are more.
const QUEUE: usize = 1024;
/// How many messages are joined into one version.
const BATCH: usize = 256;

/// What the owner is told and asked.
pub(crate) enum Message {
    /// What stands on disk now.
    Scanned(Box<Scan>),
    /// A node's first words. It replaces the node before.
    NodeHello(NodeHello),
    /// A pod's state.
    Pod(Box<PodReport>),
    /// A pod is gone.
    Gone(NamespacedName),
    /// A workload's one-time secret.
    Vouch(NamespacedName, BootstrapSecret),
    /// A node's stream has ended.
    NodeLost {
        /// As it was told.
        connection: u64,
    },
    /// A proxy whose possession is proven wants to be told things.
    Open(Box<Opening>),
    /// A proxy's answer to a transaction.
    Answer {
        /// Which session.
        session: u64,
        /// Which version.
        version: Version,
        /// Why it was refused, if it was.
        refused: Option<String>,
    },
    /// A session has ended.
    Closed {
        /// Which.
        session: u64,
    },
    /// May this workload have an SVID, and in which name?
    Attest {
        /// Who asks.
        workload: NamespacedName,
        /// How it proves that.
        claim: Claim,
        /// The identity to issue.
        reply: oneshot::Sender<Result<SpiffeId, SignRefused>>,
    },
    /// An SVID was issued.
    Issued {
        /// To whom.
        workload: NamespacedName,
        /// Until when.
        not_after: SystemTime,
        /// Whether for possession of the one before.
        renewal: bool,
    },
    /// The keys of an issuer were fetched, or are not believed any more.
    Keys {
        /// The key set's name.
        name: Arc<str>,
        /// Public parts only.
        jwks: Arc<str>,
        /// In seconds since 1970.
        fetched_at: i64,
    },
    /// Something was refused before the owner was asked.
    Refused(Refused),
    /// What runs?
    Status(oneshot::Sender<Status>),
    /// Finish what was told before, and end.
    End,
    /// What is this proxy told? `None`: what is any proxy told?
    Dump(Option<NamespacedName>, oneshot::Sender<Option<DumpReply>>),
}

/// A node's first words.
pub(crate) struct NodeHello {
    pub(crate) connection: u64,
    pub(crate) node: String,
    pub(crate) pods: Vec<PodReport>,
    pub(crate) vouches: Vec<(NamespacedName, BootstrapSecret)>,
}

/// A proxy that wants to be told things, with what it has.
pub(crate) struct Opening {
    pub(crate) workload: NamespacedName,
    /// Proven.
    pub(crate) identity: SpiffeId,
    pub(crate) version: Version,
    pub(crate) digests: std::collections::HashMap<String, String>,
    pub(crate) build: String,
    /// Answered when the node has reported.
    pub(crate) reply: oneshot::Sender<Result<Opened, HelloRefused>>,
}

/// An open session.
pub(crate) struct Opened {
    pub(crate) session: u64,
    /// One transaction at a time, the next one after the answer. Ends when the session is over.
    pub(crate) transactions: mpsc::Receiver<Transaction>,
}

/// How a workload proves who it is when it asks for an SVID.
pub(crate) enum Claim {
    /// The one-time secret.
    Bootstrap(Bytes),
    /// The identity of a present SVID whose key has signed.
    Possession(SpiffeId),
}

/// What was refused without the owner.
pub(crate) enum Refused {
    /// A request for an SVID.
    Sign(&'static str),
    /// A proxy's greeting.
    Hello(&'static str),
}

/// What a node should run.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) version: Version,
    pub(crate) pods: Vec<Bytes>,
}

/// How everybody else speaks to the owner.
#[derive(Clone)]
pub(crate) struct OwnerHandle {
    pub(crate) messages: mpsc::Sender<Message>,
    /// `None` until there is something to run and the node has reported.
    pub(crate) plan: watch::Receiver<Option<Arc<Plan>>>,
    /// Which key sets the documents speak of.
    pub(crate) origins: watch::Receiver<Arc<[KeyOrigin]>>,
}

/// The owner has ended: the control plane is going down.
#[derive(Debug, thiserror::Error)]
#[error("the control plane is ending")]
pub(crate) struct OwnerGone;

impl OwnerHandle {
    /// Tells; waits while the queue is full.
    pub(crate) async fn tell(&self, message: Message) -> Result<(), OwnerGone> {
        self.messages.send(message).await.map_err(|_| OwnerGone)
    }

    /// Asks and waits for the answer.
    pub(crate) async fn ask<T>(
        &self,
        question: impl FnOnce(oneshot::Sender<T>) -> Message,
    ) -> Result<T, OwnerGone> {
        let (reply, answer) = oneshot::channel();
        self.tell(question(reply)).await?;
        answer.await.map_err(|_| OwnerGone)
    }
}

/// What the owner needs to know from its start.
pub(crate) struct Setup {
    /// Without `base` and `allocations`, which follow from sources and store.
    pub(crate) compile: CompileOptions,
    pub(crate) strict: bool,
    pub(crate) versions: VersionStore,
    pub(crate) keys: KeyStore,
    pub(crate) now: fn() -> SystemTime,
}

/// Owns documents, pods and all that follows from them.
pub(crate) struct Owner {
    world: World,
    numbering: Numbering,
    documents: Documents,
    compile: CompileOptions,
    node: Option<Node>,
    pods: BTreeMap<NamespacedName, PodReport>,
    vouches: BTreeMap<NamespacedName, BootstrapSecret>,
    /// The secret that each workload used last: announced again, it stays used.
    used: BTreeMap<NamespacedName, BootstrapSecret>,
    sessions: Sessions,
    keys: Keys,
    plan: watch::Sender<Option<Arc<Plan>>>,
    plan_dirty: bool,
    inputs_dirty: bool,
    counts: Counts,
    started: SystemTime,
    now: fn() -> SystemTime,
}

struct Node {
    connection: u64,
    name: String,
    connected: bool,
}

impl Owner {
    /// Builds the world from what stands on disk, or from what was accepted last, and gives the handle to it.
    pub(crate) fn new(setup: Setup, scan: Scan) -> (Self, OwnerHandle, mpsc::Receiver<Message>) {
        let Setup {
            mut compile,
            strict,
            versions,
            keys,
            now,
        } = setup;
        let kept = versions.newest();
        compile.base.clone_from(&scan.base);
        if let Some(kept) = &kept {
            compile.allocations = kept.allocations.clone();
        }
        let (plan, plan_seen) = watch::channel(None);
        let (keys, origins) = Keys::new(keys);
        let mut owner = Self {
            world: World::new(compile.clone()),
            numbering: Numbering::new(versions, kept.as_ref()),
            documents: Documents::new(strict),
            compile,
            node: None,
            pods: BTreeMap::new(),
            vouches: BTreeMap::new(),
            used: BTreeMap::new(),
            sessions: Sessions::default(),
            keys,
            plan,
            plan_dirty: false,
            inputs_dirty: false,
            counts: Counts::default(),
            started: now(),
            now,
        };
        owner.start_with(scan, kept);
        let (sender, messages) = mpsc::channel(QUEUE);
        let handle = OwnerHandle {
            messages: sender,
            plan: plan_seen,
            origins,
        };
        (owner, handle, messages)
    }

    /// Works until it is told to end or every handle is gone. Blocks its thread.
    pub(crate) fn work(mut self, mut messages: mpsc::Receiver<Message>) {
        let mut goes_on = true;
        while goes_on && let Some(message) = messages.blocking_recv() {
            goes_on = self.take(message);
            for _ in 1..BATCH {
                let Ok(message) = messages.try_recv() else { break };
                goes_on &= self.take(message);
            }
            self.publish();
        }
    }

    /// Whether there is more to come.
    fn take(&mut self, message: Message) -> bool {
        match message {
            Message::End => return false,
            Message::Scanned(scan) => self.scanned(*scan),
            Message::NodeHello(hello) => self.node_hello(hello),
            Message::Pod(report) => self.pod(*report),
            Message::Gone(name) => self.gone(&name),
            Message::Vouch(name, secret) => self.vouch(name, secret),
            Message::NodeLost { connection } => self.node_lost(connection),
            Message::Open(opening) => self.open(*opening),
            Message::Answer {
                session,
                version,
                refused,
            } => self.sessions.answer(session, version, refused, &mut self.counts),
            Message::Closed { session } => self.sessions.close(session),
            Message::Attest {
                workload,
                claim,
                reply,
            } => {
                let verdict = self.attest(&workload, claim);
                if let Err(refused) = &verdict {
                    self.count_refused(&Refused::Sign(refused.reason()));
                }
                let _ = reply.send(verdict); // whoever asked may have gone away
            }
            Message::Issued {
                workload,
                not_after,
                renewal,
            } => {
                let counter = if renewal {
                    &mut self.counts.issued_renewal
                } else {
                    &mut self.counts.issued_bootstrap
                };
                *counter += 1;
                self.sessions.proxy(&workload).certificate_not_after = Some(unix_seconds(not_after));
            }
            Message::Keys {
                name,
                jwks,
                fetched_at,
            } => self.report_keys(&name, jwks, fetched_at),
            Message::Refused(refused) => self.count_refused(&refused),
            Message::Status(reply) => {
                self.publish(); // an answer holds all that was said before the question
                let _ = reply.send(self.status());
            }
            Message::Dump(workload, reply) => {
                self.publish();
                let _ = reply.send(self.dump(workload.as_ref()));
            }
        }
        true
    }

    fn count_refused(&mut self, refused: &Refused) {
        let (counter, reason) = match *refused {
            Refused::Sign(reason) => (&mut self.counts.sign_refused, reason),
            Refused::Hello(reason) => (&mut self.counts.hello_refused, reason),
        };
        *counter.entry(reason.to_owned()).or_default() += 1;
    }

    /// Takes in what a change of the world means; sent with the next [`Owner::publish`].
    fn absorb(&mut self, update: &Update) {
        self.inputs_dirty = true;
        self.plan_dirty |= update.plan_changed;
        if update.is_empty() {
            return;
        }
        self.sessions.absorb(update);
    }

    /// Makes a version of what was absorbed, if it changes anything, and sends it on its way.
    fn publish(&mut self) {
        if self.is_telling() {
            if !self.numbering.is_settled() {
                let inputs = self.inputs();
                self.numbering.settle(inputs.as_ref());
                self.inputs_dirty = true;
            }
            if self.sessions.is_dirty() || self.plan_dirty {
                self.numbering.change();
                self.inputs_dirty = true;
                self.sessions.clean();
            }
            self.numbering.sent();
            if self.plan_dirty || self.plan.borrow().is_none() {
                self.plan_dirty = false;
                self.publish_plan();
            }
            self.admit();
            self.sessions.send(self.numbering.version(), &mut self.counts);
        }
        if std::mem::take(&mut self.inputs_dirty) {
            let inputs = self.inputs();
            self.numbering.keep_head(inputs);
        }
    }

    /// Whether there is anything to tell: documents were accepted, and the node has said what runs.
    fn is_telling(&self) -> bool {
        self.node.is_some() && self.documents.is_accepted()
    }

    /// A digest of all that the world is made of; `None` while the node has not reported.
    fn inputs(&self) -> Option<String> {
        self.node.as_ref()?;
        let mut bytes = self.documents.digest()?.to_bytes().to_vec();
        let settings = format!("{:?} {}", self.compile.settings, self.compile.profile_is_chosen);
        bytes.extend_from_slice(&Digest::of(settings.as_bytes()).to_bytes());
        for (name, pod) in &self.pods {
            let spec = &pod.spec;
            let seen = format!(
                "{name} {} {} {} {:?} {} {:?}",
                spec.identity, spec.template_hash, pod.address, pod.phase, pod.ready, spec.labels
            );
            bytes.extend_from_slice(&Digest::of(seen.as_bytes()).to_bytes());
        }
        bytes.extend_from_slice(&self.keys.digest().to_bytes());
        Some(Digest::of(&bytes).to_string())
    }

    fn publish_plan(&mut self) {
        let pods = self.world.plan();
        let pods: Vec<Bytes> = pods.iter().map(to_json).collect();
        let plan = Plan {
            version: self.numbering.version(),
            pods,
        };
        self.plan.send_if_modified(|published| {
            let same = published
                .as_ref()
                .is_some_and(|published| published.pods == plan.pods);
            if !same {
                *published = Some(Arc::new(plan));
            }
            !same
        });
    }
}

fn to_json(spec: &PodSpec) -> Bytes {
    serde_json::to_vec(spec)
        .expect("a pod's maps have text keys")
        .into()
}
