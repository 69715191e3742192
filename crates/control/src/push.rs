//! `Mesh.Connect`: one session for each proxy, from its greeting to the end of its stream.
//!
//! The session proves who greets, hands that to the owner of the world, and carries transactions and answers between the
//! two. What a proxy is owed is the owner's to know.

use std::sync::Arc;
use std::time::Duration;

use bartizan_identity::{ProofRefused, hello_transcript};
use bartizan_proto::v1alpha1::proxy_message::Kind;
use bartizan_proto::v1alpha1::{Hello, ProxyMessage, SignReply, SignRequest, Transaction};
use bartizan_types::{NameError, NamespacedName, SpiffeId, Version};
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status as Answer, Streaming};

use crate::issue::{Issuer, Outgoing, shortened, workload_name};
use crate::keys::KeysHandle;
use crate::rpc::mesh_server::Mesh;
use crate::state::{Message, Opened, Opening, OwnerGone, OwnerHandle, Refused};
use crate::status::unix_seconds;
use crate::tasks::{Tasks, drained};

/// The most open sessions.
const MOST_SESSIONS: usize = 4096;
/// A greeting must come within this time.
const GREETING: Duration = Duration::from_secs(10);
/// How old, or how far in the future, a greeting's signature may be, in seconds.
const FRESH_SECONDS: u64 = 60;
/// The most resources that a proxy may say it has.
const MOST_DIGESTS: usize = 500_000;
/// The longest chain of a proof.
const LONGEST_CHAIN: usize = 8;

/// Why a proxy is not told anything.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HelloRefused {
    #[error("the first message is not a greeting")]
    NoHello,
    #[error("no greeting came within {} s", GREETING.as_secs())]
    Late,
    #[error("`{text}` is not a workload's name: {source}")]
    Name { text: String, source: NameError },
    #[error("the greeting of `{0}` has no proof")]
    NoProof(NamespacedName),
    #[error(
        "the greeting of `{workload}` was signed {seconds} s away from now; at most {FRESH_SECONDS} s are accepted"
    )]
    Stale { workload: NamespacedName, seconds: u64 },
    #[error("the greeting of `{workload}` proves nothing: {source}")]
    Proof {
        workload: NamespacedName,
        source: ProofRefused,
    },
    #[error("the greeting of `{0}` is larger than what is read")]
    TooLarge(NamespacedName),
    #[error("the greeting of `{workload}` is signed by `{proven}`, but it runs as `{identity}`")]
    OtherIdentity {
        workload: NamespacedName,
        proven: SpiffeId,
        identity: SpiffeId,
    },
    #[error("workload `{0}` is not known")]
    Unknown(NamespacedName),
    #[error(transparent)]
    Ending(#[from] OwnerGone),
}

impl HelloRefused {
    /// The metric's label.
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Self::NoHello | Self::NoProof(_) => "no_proof",
            Self::Late => "late",
            Self::Name { .. } => "bad_name",
            Self::Stale { .. } => "stale",
            Self::Proof { .. } => "bad_proof",
            Self::TooLarge(_) => "too_large",
            Self::OtherIdentity { .. } => "other_identity",
            Self::Unknown(_) => "unknown_workload",
            Self::Ending(_) => "ending",
        }
    }

    fn answer(&self) -> Answer {
        let text = self.to_string();
        match self {
            Self::NoHello | Self::Name { .. } | Self::NoProof(_) | Self::TooLarge(_) => {
                Answer::invalid_argument(text)
            }
            Self::Late => Answer::deadline_exceeded(text),
            Self::Stale { .. } | Self::Proof { .. } | Self::OtherIdentity { .. } => {
                Answer::unauthenticated(text)
            }
            Self::Unknown(_) => Answer::not_found(text),
            Self::Ending(_) => Answer::unavailable(text),
        }
    }
}

/// The service that proxies speak to.
#[derive(Clone)]
pub(crate) struct MeshService {
    issuer: Arc<Issuer>,
    owner: OwnerHandle,
    keys: KeysHandle,
    tasks: Tasks,
    drain: watch::Receiver<bool>,
    sessions: Arc<Semaphore>,
}

impl MeshService {
    pub(crate) fn new(
        issuer: Arc<Issuer>,
        owner: OwnerHandle,
        keys: KeysHandle,
        tasks: Tasks,
        drain: watch::Receiver<bool>,
    ) -> Self {
        Self {
            issuer,
            owner,
            keys,
            tasks,
            drain,
            sessions: Arc::new(Semaphore::new(MOST_SESSIONS)),
        }
    }
}

#[tonic::async_trait]
impl Mesh for MeshService {
    type ConnectStream = ReceiverStream<Result<Transaction, Answer>>;

    async fn connect(
        &self,
        request: Request<Streaming<ProxyMessage>>,
    ) -> Result<Response<Self::ConnectStream>, Answer> {
        let place = Arc::clone(&self.sessions).try_acquire_owned().map_err(|_| {
            Answer::resource_exhausted(format!("{MOST_SESSIONS} proxies are connected already"))
        })?;
        let (outgoing, stream) = mpsc::channel(1);
        let service = self.clone();
        self.tasks.spawn(async move {
            let mut drain = service.drain.clone();
            tokio::select! {
                () = outgoing.closed() => {} // the proxy has gone away
                ended = service.session(request.into_inner(), &outgoing) => {
                    if let Err(answer) = ended {
                        let _ = outgoing.send(Err(answer)).await; // it may have gone away
                    }
                }
                () = drained(&mut drain) => {
                    let _ = outgoing.try_send(Err(Answer::unavailable("the control plane is ending")));
                }
            }
            drop(place);
        });
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    async fn sign(&self, request: Request<SignRequest>) -> Result<Response<SignReply>, Answer> {
        self.issuer.sign(request.into_inner()).await.map(Response::new)
    }
}

impl MeshService {
    async fn session(
        &self,
        mut incoming: Streaming<ProxyMessage>,
        outgoing: &Outgoing<Transaction>,
    ) -> Result<(), Answer> {
        let opened = match self.greeted(&mut incoming).await {
            Ok(opening) => opening,
            Err(refused) => {
                let reason = Refused::Hello(refused.reason());
                let _ = self.owner.messages.try_send(Message::Refused(reason)); // a count may be lost under overload
                return Err(logged(&refused));
            }
        };
        let Opened {
            session,
            mut transactions,
        } = match opened.await.unwrap_or(Err(HelloRefused::Ending(OwnerGone))) {
            Ok(opened) => opened,
            Err(refused) => return Err(logged(&refused)),
        };
        let ended = loop {
            tokio::select! {
                transaction = transactions.recv() => {
                    let Some(transaction) = transaction else {
                        break Err(Answer::aborted("the session was replaced, or the workload was made anew"));
                    };
                    if outgoing.send(Ok(transaction)).await.is_err() {
                        break Ok(());
                    }
                }
                message = incoming.message() => {
                    let Ok(Some(message)) = message else {
                        break Ok(());
                    };
                    let (version, refused) = match message.kind {
                        Some(Kind::Ack(ack)) => (ack.version, None),
                        Some(Kind::Nack(nack)) => (nack.version, Some(shortened(&nack.reason))),
                        Some(Kind::UnknownKey(unknown)) => {
                            self.keys.unknown_key(&unknown.key_set);
                            continue;
                        }
                        Some(Kind::Hello(_)) | None => {
                            break Err(Answer::invalid_argument("an answer was expected"));
                        }
                    };
                    let answer = Message::Answer { session, version: Version(version), refused };
                    if let Err(ending) = self.owner.tell(answer).await {
                        break Err(Answer::unavailable(ending.to_string()));
                    }
                }
            }
        };
        let _ = self.owner.tell(Message::Closed { session }).await; // when the owner has ended, so has the session
        ended
    }

    /// Reads and judges the greeting, and asks the owner for a session.
    async fn greeted(
        &self,
        incoming: &mut Streaming<ProxyMessage>,
    ) -> Result<oneshot::Receiver<Result<Opened, HelloRefused>>, HelloRefused> {
        let first = tokio::time::timeout(GREETING, incoming.message())
            .await
            .map_err(|_| HelloRefused::Late)?;
        let Ok(Some(ProxyMessage {
            kind: Some(Kind::Hello(hello)),
        })) = first
        else {
            return Err(HelloRefused::NoHello);
        };
        let (workload, identity) = self.proven(&hello)?;
        let (reply, opened) = oneshot::channel();
        let opening = Opening {
            workload,
            identity,
            version: Version(hello.version),
            digests: hello.digests,
            build: shortened(&hello.build),
            reply,
        };
        self.owner.tell(Message::Open(Box::new(opening))).await?;
        Ok(opened)
    }

    fn proven(&self, hello: &Hello) -> Result<(NamespacedName, SpiffeId), HelloRefused> {
        let workload = workload_name(&hello.workload).map_err(|source| HelloRefused::Name {
            text: shortened(&hello.workload),
            source,
        })?;
        let Some(proof) = &hello.proof else {
            return Err(HelloRefused::NoProof(workload));
        };
        if hello.digests.len() > MOST_DIGESTS || proof.chain.len() > LONGEST_CHAIN {
            return Err(HelloRefused::TooLarge(workload));
        }
        let seconds = unix_seconds(self.issuer.now()).abs_diff(hello.signed_at);
        if seconds > FRESH_SECONDS {
            return Err(HelloRefused::Stale { workload, seconds });
        }
        let transcript = hello_transcript(&hello.workload, hello.signed_at);
        match self.issuer.verify(proof, &transcript) {
            Ok(identity) => Ok((workload, identity)),
            Err(source) => Err(HelloRefused::Proof { workload, source }),
        }
    }
}

fn logged(refused: &HelloRefused) -> Answer {
    match refused {
        HelloRefused::Unknown(_) | HelloRefused::Ending(_) => {
            tracing::debug!(reason = refused.reason(), "refuse a proxy: {refused}");
        }
        HelloRefused::NoHello
        | HelloRefused::Late
        | HelloRefused::Name { .. }
        | HelloRefused::NoProof(_)
        | HelloRefused::Stale { .. }
        | HelloRefused::Proof { .. }
        | HelloRefused::TooLarge(_)
        | HelloRefused::OtherIdentity { .. } => {
            tracing::warn!(reason = refused.reason(), "refuse a proxy: {refused}");
        }
    }
    refused.answer()
}
