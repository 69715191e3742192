//! The proxy's own credentials: a key made in memory, an SVID from the authority, renewed near half of its life, and left
//! to a successor through a memory file. A renewal touches no open connection.

mod memory_file;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bartizan_identity::crypto::random_unit;
use bartizan_identity::rotation::{nap, renew_at, retry_after};
use bartizan_identity::{
    BundleError, CredentialsError, KeyError, PrivateKey, Proof, Svid, SvidError, TrustBundle, open,
    renewal_transcript, seal,
};
use bartizan_proto::v1alpha1::{Possession, SignReply, SignRequest, sign_request};
use bartizan_telemetry::families;
use bartizan_types::{TrustDomain, TrustDomainError};
use bytes::Bytes;

pub(crate) use memory_file::MemoryFile;

use crate::back_off::wait_after;
use crate::bootstrap::OneTimeSecret;
use crate::control_plane;
use crate::shared::Shared;

/// How long the authority may take to answer.
const ANSWER: Duration = Duration::from_secs(10);

/// Where credentials come from and where they are left.
#[derive(Debug)]
pub(crate) struct Keeper {
    pub(crate) shared: Arc<Shared>,
    pub(crate) control: PathBuf,
    pub(crate) ttl_seconds: u32,
    pub(crate) secret: Option<OneTimeSecret>,
    pub(crate) file: Option<MemoryFile>,
}

/// Why no credentials were got.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SignError {
    #[error("connect to the control plane: {0}")]
    Connect(#[from] tonic::transport::Error),
    #[error("the authority did not answer within {ANSWER:?}")]
    Silent,
    #[error("the authority refused: {}", .0.message())]
    Refused(Box<tonic::Status>),
    #[error("the authority cannot be asked: {}", .0.message())]
    Call(Box<tonic::Status>),
    #[error(transparent)]
    Key(#[from] KeyError),
    #[error("the authority's answer: {0}")]
    Svid(#[from] SvidError),
    #[error("the authority's answer: {0}")]
    TrustDomain(#[from] TrustDomainError),
    #[error("the authority's answer: {0}")]
    Bundle(#[from] BundleError),
    #[error("the authority's answer: {0}")]
    Credentials(#[from] CredentialsError),
    #[error("neither a one-time secret nor a predecessor's credentials were handed over")]
    NoProof,
}

/// The credentials have ended and the authority does not renew them: the proxy has to prove itself anew.
#[derive(Debug, thiserror::Error)]
#[error("the SVID has expired and is not renewed: {0}")]
pub(crate) struct Expired(SignError);

impl Keeper {
    /// Takes a predecessor's credentials over, or asks until the authority issues some. Says since when they are held.
    ///
    /// # Errors
    /// [`SignError::NoProof`] when there is nothing to ask with.
    pub(crate) async fn begin(&self) -> Result<SystemTime, SignError> {
        if let Some((svid, bundle)) = self.adopt() {
            let since = svid.not_before();
            self.put(svid, bundle)?;
            return Ok(since);
        }
        let Some(secret) = &self.secret else {
            return Err(SignError::NoProof);
        };
        let secret = Bytes::copy_from_slice(secret.expose());
        let mut failures = 0;
        loop {
            let asked = self
                .ask(|_| Ok(sign_request::Proof::Bootstrap(secret.clone())))
                .await;
            match asked.and_then(|(svid, bundle)| self.put(svid, bundle)) {
                Ok(()) => return Ok(self.shared.clock.now()),
                Err(error) => {
                    failures += 1;
                    tracing::warn!("no SVID yet: {error}");
                    tokio::time::sleep(wait_after(failures, random_unit())).await;
                }
            }
        }
    }

    /// Renews for as long as the proxy lives. An SVID is dated back against clocks that differ, so that the half of its life
    /// is counted from when it came: `since`.
    ///
    /// # Errors
    /// [`Expired`]; the memory file is empty then.
    pub(crate) async fn renew(&self, mut since: SystemTime) -> Result<std::convert::Infallible, Expired> {
        let renewals = |result: &str| {
            self.shared
                .registry
                .counter(&families::CERTIFICATE_RENEWALS, &[result])
        };
        loop {
            self.sleep_until(renew_at(since, self.end(), random_unit())).await;
            let mut failures = 0;
            loop {
                let error = match self.renew_once().await {
                    Ok(()) => {
                        renewals("ok").add(1);
                        since = self.shared.clock.now();
                        break;
                    }
                    Err(error) => error,
                };
                renewals("failed").add(1);
                failures += 1;
                tracing::warn!("the SVID is not renewed: {error}");
                if self.shared.clock.now() >= self.end() && matches!(error, SignError::Refused(_)) {
                    if let Some(Err(error)) = self.file.as_ref().map(MemoryFile::clear) {
                        tracing::error!("empty the credentials' file: {error}");
                    }
                    return Err(Expired(error));
                }
                tokio::time::sleep(retry_after(failures, random_unit())).await;
            }
        }
    }

    async fn sleep_until(&self, due: SystemTime) {
        loop {
            let rest = nap(self.shared.clock.now(), due);
            if rest.is_zero() {
                return;
            }
            tokio::time::sleep(rest).await;
        }
    }

    /// When the present SVID ends.
    fn end(&self) -> SystemTime {
        self.shared
            .identity
            .get()
            .map_or(SystemTime::UNIX_EPOCH, |identity| {
                identity.credentials.current().svid().not_after()
            })
    }

    async fn renew_once(&self) -> Result<(), SignError> {
        let Some(identity) = self.shared.identity.get() else {
            return Err(SignError::NoProof);
        };
        let present = identity.credentials.current();
        let workload = self.shared.workload.to_string();
        let (svid, bundle) = self
            .ask(|csr| {
                let proof = Proof::sign(present.svid(), &renewal_transcript(&workload, csr))?;
                Ok(sign_request::Proof::Possession(possession(proof)))
            })
            .await?;
        self.put(svid, bundle)
    }

    async fn ask(
        &self,
        proof: impl FnOnce(&[u8]) -> Result<sign_request::Proof, KeyError>,
    ) -> Result<(Svid, TrustBundle), SignError> {
        let key = PrivateKey::generate()?;
        let csr = key.csr()?;
        let proof = proof(&csr)?;
        let request = SignRequest {
            workload: self.shared.workload.to_string(),
            csr: csr.into(),
            ttl_seconds: self.ttl_seconds,
            proof: Some(proof),
        };
        let answer = tokio::time::timeout(ANSWER, async {
            let mut client = control_plane::connect(&self.control).await?;
            client.sign(request).await.map_err(|status| {
                use tonic::Code::{InvalidArgument, PermissionDenied, Unauthenticated};
                if matches!(
                    status.code(),
                    PermissionDenied | Unauthenticated | InvalidArgument
                ) {
                    SignError::Refused(Box::new(status))
                } else {
                    SignError::Call(Box::new(status))
                }
            })
        });
        let reply: SignReply = answer.await.map_err(|_| SignError::Silent)??.into_inner();
        let chain = reply.chain.iter().map(|der| der.to_vec()).collect();
        let svid = Svid::new(chain, key)?;
        let roots = reply
            .bundles
            .iter()
            .map(|bundle| {
                let roots = bundle.roots.iter().map(|der| der.to_vec()).collect();
                Ok((TrustDomain::parse(&bundle.trust_domain)?, roots))
            })
            .collect::<Result<Vec<_>, TrustDomainError>>()?;
        Ok((svid, TrustBundle::new(roots)?))
    }

    /// A predecessor's credentials, when they are whole and have not ended.
    fn adopt(&self) -> Option<(Svid, TrustBundle)> {
        let content = self.file.as_ref()?.read()?;
        match open(content.expose()) {
            Ok((svid, bundle)) if svid.not_after() > self.shared.clock.now() || self.secret.is_none() => {
                Some((svid, bundle))
            }
            Ok(_) => None,
            Err(error) => {
                tracing::warn!("{error}");
                None
            }
        }
    }

    /// Uses the credentials from now on and leaves them to a successor.
    fn put(&self, svid: Svid, bundle: TrustBundle) -> Result<(), SignError> {
        let sealed = seal(&svid, &bundle);
        self.shared.put_credentials(svid, bundle)?;
        if let Some(Err(error)) = self.file.as_ref().map(|file| file.write(&sealed)) {
            tracing::error!("leave the credentials to a successor: {error}");
        }
        Ok(())
    }
}

/// A proof as it is sent.
pub(crate) fn possession(proof: Proof) -> Possession {
    Possession {
        chain: proof.chain.into_iter().map(Bytes::from).collect(),
        signature: proof.signature.into(),
    }
}
