//! The cell that holds a proxy's present SVID and bundle, read at every handshake and replaced by rotation.

use std::sync::{Arc, PoisonError, RwLock};

use rustls::client::ResolvesClientCert;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use crate::bundle::TrustBundle;
use crate::svid::Svid;

/// The present SVID and trust bundle. TLS configurations hold the cell, not its content, so that a rotation neither
/// rebuilds a configuration nor touches an open connection.
#[derive(Debug)]
pub struct Credentials(RwLock<Arc<Current>>);

/// One state of the cell.
#[derive(Debug)]
pub struct Current {
    svid: Svid,
    bundle: TrustBundle,
    generation: u64,
}

/// Why an SVID and a bundle do not go together.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CredentialsError {
    /// The own trust domain has no root: nobody of the own mesh could be verified.
    #[error("the bundle has no root for the own trust domain `{0}`")]
    OwnTrustDomain(String),
    /// Rotation never changes who a proxy is.
    #[error("an SVID of `{found}` does not replace one of `{present}`")]
    Identity {
        /// Who the proxy is.
        present: bartizan_types::SpiffeId,
        /// Who the new SVID speaks for.
        found: bartizan_types::SpiffeId,
    },
}

impl Current {
    /// The SVID.
    pub fn svid(&self) -> &Svid {
        &self.svid
    }

    /// The roots.
    pub fn bundle(&self) -> &TrustBundle {
        &self.bundle
    }

    /// Counts replacements, from 1.
    pub fn generation(&self) -> u64 {
        self.generation
    }
}

impl Credentials {
    /// A cell with its first content.
    ///
    /// # Errors
    /// [`CredentialsError::OwnTrustDomain`] when the bundle lacks the SVID's own trust domain.
    pub fn new(svid: Svid, bundle: TrustBundle) -> Result<Arc<Self>, CredentialsError> {
        let first = Current::checked(svid, bundle, 1)?;
        Ok(Arc::new(Self(RwLock::new(Arc::new(first)))))
    }

    /// The present content.
    pub fn current(&self) -> Arc<Current> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Puts a new SVID and bundle in place of the present ones, and says the new generation. Handshakes that start from now on use them;
    /// open connections stay.
    ///
    /// # Errors
    /// When they speak for somebody else or cannot verify the own trust domain; the present ones stay then.
    pub fn replace(&self, svid: Svid, bundle: TrustBundle) -> Result<u64, CredentialsError> {
        let mut cell = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if cell.svid.id() != svid.id() {
            return Err(CredentialsError::Identity {
                present: cell.svid.id().clone(),
                found: svid.id().clone(),
            });
        }
        let next = Current::checked(svid, bundle, cell.generation + 1)?;
        let generation = next.generation;
        *cell = Arc::new(next);
        Ok(generation)
    }
}

impl Current {
    fn checked(svid: Svid, bundle: TrustBundle, generation: u64) -> Result<Self, CredentialsError> {
        if bundle.trusts(svid.id().trust_domain()) {
            Ok(Self {
                svid,
                bundle,
                generation,
            })
        } else {
            Err(CredentialsError::OwnTrustDomain(
                svid.id().trust_domain().to_owned(),
            ))
        }
    }
}

/// Hands the present SVID to rustls, on either side.
#[derive(Debug)]
pub(crate) struct PresentSvid(pub(crate) Arc<Credentials>);

impl ResolvesServerCert for PresentSvid {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(self.0.current().svid.certified()))
    }
}

impl ResolvesClientCert for PresentSvid {
    fn resolve(&self, _: &[&[u8]], _: &[rustls::SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(self.0.current().svid.certified()))
    }

    fn has_certs(&self) -> bool {
        true
    }
}
