//! `Mesh.Sign`: SVIDs for workloads that the node vouches for.
//!
//! A workload proves itself by the one-time secret that its supervisor announced, or by possession of its present SVID. Whose
//! SVID it gets is never in the request: it follows from what the node runs.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bartizan_identity::{Authority, Clock, Proof, ProofRefused, TrustBundle, renewal_transcript};
use bartizan_proto::v1alpha1::sign_request;
use bartizan_proto::v1alpha1::{Bundle, Possession, SignReply, SignRequest};
use bartizan_types::{NameError, NamespacedName, SpiffeId};
use bytes::Bytes;
use tokio::sync::{mpsc, watch};
use tonic::Status as Answer;

use crate::options::{ControlError, SHORTEST_TTL};
use crate::state::{Claim, Message, OwnerGone, OwnerHandle, Refused};
use crate::status::{AuthorityStatus, unix_seconds};
use crate::store::ca::AuthorityStore;

/// The longest chain of a proof.
const LONGEST_CHAIN: usize = 8;
/// How often the intermediate's age is looked at.
const LOOK: Duration = Duration::from_hours(1);

/// Why no SVID is issued.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SignRefused {
    #[error("`{text}` is not a workload's name: {source}")]
    Name { text: String, source: NameError },
    #[error("the request for `{0}` has no proof")]
    NoProof(NamespacedName),
    #[error("the node has not reported yet")]
    NodeUnknown,
    #[error("the node does not vouch for `{0}`")]
    NotVouched(NamespacedName),
    #[error("no one-time secret waits for `{0}`: it was used, or was never announced")]
    NoSecret(NamespacedName),
    #[error("the one-time secret for `{0}` is another one")]
    WrongSecret(NamespacedName),
    #[error("the proof for `{workload}` is one of `{proven}`, but it runs as `{identity}`")]
    OtherIdentity {
        workload: NamespacedName,
        proven: SpiffeId,
        identity: SpiffeId,
    },
    #[error("the proof for `{workload}` proves nothing: {source}")]
    Proof {
        workload: NamespacedName,
        source: ProofRefused,
    },
    #[error(
        "the proof for `{workload}` has a chain of {length} certificates; at most {LONGEST_CHAIN} are read"
    )]
    Chain { workload: NamespacedName, length: usize },
    #[error("issue to `{workload}`: {source}")]
    Issue {
        workload: NamespacedName,
        source: bartizan_identity::IssueError,
    },
    #[error(transparent)]
    Ending(#[from] OwnerGone),
}

impl SignRefused {
    /// The metric's label.
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Self::Name { .. } => "bad_name",
            Self::NoProof(_) => "no_proof",
            Self::NodeUnknown => "node_unknown",
            Self::NotVouched(_) => "not_vouched",
            Self::NoSecret(_) => "no_secret",
            Self::WrongSecret(_) => "wrong_secret",
            Self::OtherIdentity { .. } => "other_identity",
            Self::Proof { .. } | Self::Chain { .. } => "bad_proof",
            Self::Issue { .. } => "not_issued",
            Self::Ending(_) => "ending",
        }
    }

    fn answer(&self) -> Answer {
        let text = self.to_string();
        match self {
            Self::Name { .. } | Self::NoProof(_) | Self::Issue { .. } => Answer::invalid_argument(text),
            Self::NodeUnknown | Self::NotVouched(_) | Self::Ending(_) => Answer::unavailable(text),
            Self::NoSecret(_)
            | Self::WrongSecret(_)
            | Self::OtherIdentity { .. }
            | Self::Proof { .. }
            | Self::Chain { .. } => Answer::unauthenticated(text),
        }
    }
}

/// Issues, and knows who is believed.
pub(crate) struct Issuer {
    authority: watch::Receiver<Arc<Authority>>,
    /// The root never changes while the control plane runs, so neither does this.
    bundle: Arc<TrustBundle>,
    longest: Duration,
    clock: Clock,
    owner: OwnerHandle,
}

impl Issuer {
    /// Issues with the newest authority of `authority`.
    pub(crate) fn new(
        authority: watch::Receiver<Arc<Authority>>,
        longest: Duration,
        clock: Clock,
        owner: OwnerHandle,
    ) -> Result<Self, ControlError> {
        let bundle = authority
            .borrow()
            .trust_bundle()
            .map_err(|error| ControlError::Bundle(error.to_string()))?;
        Ok(Self {
            authority,
            bundle: Arc::new(bundle),
            longest,
            clock,
            owner,
        })
    }

    /// Who has signed this transcript.
    pub(crate) fn verify(&self, proof: &Possession, transcript: &[u8]) -> Result<SpiffeId, ProofRefused> {
        let proof = Proof {
            chain: proof
                .chain
                .iter()
                .map(|certificate| certificate.to_vec())
                .collect(),
            signature: proof.signature.to_vec(),
        };
        proof.verify(&self.bundle, transcript, self.clock.now())
    }

    /// The time by which certificates and proofs are judged.
    pub(crate) fn now(&self) -> SystemTime {
        self.clock.now()
    }

    /// The authority, for people.
    pub(crate) fn status(&self) -> AuthorityStatus {
        let authority = self.authority.borrow();
        AuthorityStatus {
            kind: "lab CA".to_owned(),
            notice: "its keys are plain files in the state directory: for a laboratory, not for production"
                .to_owned(),
            root_not_after: unix_seconds(authority.root_not_after()),
            intermediate_not_after: unix_seconds(authority.intermediate_not_after()),
            svid_ttl_seconds: self.longest.as_secs(),
        }
    }

    /// Answers one request.
    pub(crate) async fn sign(&self, request: SignRequest) -> Result<SignReply, Answer> {
        let (verdict, asked_owner) = self.judge(request).await;
        verdict.map_err(|refused| {
            tracing::warn!(reason = refused.reason(), "refuse a certificate: {refused}");
            let answer = refused.answer();
            if !asked_owner {
                let reason = Refused::Sign(refused.reason());
                let _ = self.owner.messages.try_send(Message::Refused(reason)); // a count may be lost under overload
            }
            answer
        })
    }

    /// The verdict, and whether the owner gave (and counted) it.
    async fn judge(&self, request: SignRequest) -> (Result<SignReply, SignRefused>, bool) {
        let (workload, claim, renewal) = match self.claim(&request) {
            Ok(claimed) => claimed,
            Err(refused) => return (Err(refused), false),
        };
        let attested = self
            .owner
            .ask(|reply| Message::Attest {
                workload: workload.clone(),
                claim,
                reply,
            })
            .await;
        let identity = match attested {
            Ok(Ok(identity)) => identity,
            Ok(Err(refused)) => return (Err(refused), true),
            Err(ending) => return (Err(ending.into()), false),
        };
        let asked = Duration::from_secs(request.ttl_seconds.into());
        let life = if asked.is_zero() {
            self.longest
        } else {
            asked.clamp(SHORTEST_TTL.min(self.longest), self.longest)
        };
        let authority = Arc::clone(&self.authority.borrow());
        let issued = match authority.issue(&request.csr, &identity, life, self.clock.now()) {
            Ok(issued) => issued,
            Err(source) => return (Err(SignRefused::Issue { workload, source }), false),
        };
        tracing::info!(%workload, %identity, serial = issued.serial, renewal, "issue a certificate");
        let message = Message::Issued {
            workload,
            not_after: issued.not_after,
            renewal,
        };
        if let Err(ending) = self.owner.tell(message).await {
            return (Err(ending.into()), false);
        }
        let bundles = self.bundle.iter().map(|(domain, roots)| Bundle {
            trust_domain: domain.to_string(),
            roots: roots.into_iter().map(Bytes::from).collect(),
        });
        let reply = SignReply {
            chain: issued.chain.into_iter().map(Bytes::from).collect(),
            bundles: bundles.collect(),
        };
        (Ok(reply), false)
    }

    fn claim(&self, request: &SignRequest) -> Result<(NamespacedName, Claim, bool), SignRefused> {
        let workload = workload_name(&request.workload).map_err(|source| SignRefused::Name {
            text: shortened(&request.workload),
            source,
        })?;
        match &request.proof {
            None => Err(SignRefused::NoProof(workload)),
            Some(sign_request::Proof::Bootstrap(secret)) => {
                Ok((workload, Claim::Bootstrap(secret.clone()), false))
            }
            Some(sign_request::Proof::Possession(proof)) => {
                if proof.chain.len() > LONGEST_CHAIN {
                    let length = proof.chain.len();
                    return Err(SignRefused::Chain { workload, length });
                }
                let transcript = renewal_transcript(&request.workload, &request.csr);
                match self.verify(proof, &transcript) {
                    Ok(proven) => Ok((workload, Claim::Possession(proven), true)),
                    Err(source) => Err(SignRefused::Proof { workload, source }),
                }
            }
        }
    }
}

/// A workload's name from a message.
pub(crate) fn workload_name(text: &str) -> Result<NamespacedName, NameError> {
    NamespacedName::parse(text)
}

/// What is repeated of a text that somebody sent.
pub(crate) fn shortened(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(100).collect()
}

/// Replaces the intermediate in time, until nobody issues any more.
pub(crate) async fn renew_intermediate(
    store: AuthorityStore,
    authority: watch::Sender<Arc<Authority>>,
    clock: Clock,
) {
    loop {
        let current = Arc::clone(&authority.borrow());
        if current.intermediate_due(clock.now()) {
            let (store, now) = (store.clone(), clock.now());
            let renewed = tokio::task::spawn_blocking(move || renewed(&current, &store, now)).await;
            match renewed {
                Ok(Ok(renewed)) => {
                    tracing::info!("renewed the CA's intermediate");
                    authority.send_replace(Arc::new(renewed));
                }
                Ok(Err(error)) => tracing::error!(error, "renew the CA's intermediate"),
                Err(error) => tracing::error!(%error, "renew the CA's intermediate"),
            }
        }
        tokio::select! {
            () = tokio::time::sleep(LOOK) => {}
            () = authority.closed() => return,
        }
    }
}

fn renewed(current: &Authority, store: &AuthorityStore, now: SystemTime) -> Result<Authority, String> {
    let mut renewed = Authority::from_pem(current.trust_domain().clone(), &current.to_pem())
        .map_err(|error| error.to_string())?;
    renewed
        .renew_intermediate(now)
        .map_err(|error| error.to_string())?;
    store
        .replace_intermediate(&renewed)
        .map_err(|error| error.to_string())?;
    Ok(renewed)
}

/// The answer's channel of a stream.
pub(crate) type Outgoing<T> = mpsc::Sender<Result<T, Answer>>;
