//! SVIDs: the chain and key by which a workload proves its identity.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::SystemTime;

use bartizan_types::SpiffeId;
use rustls::sign::CertifiedKey;
use rustls_pki_types::CertificateDer;

use crate::key::PrivateKey;
use crate::leaf::{Leaf, SvidDefect};

/// An X509-SVID with its private key. Immutable; rotation makes another.
#[derive(Clone, Debug)]
pub struct Svid {
    id: SpiffeId,
    key: PrivateKey,
    not_before: SystemTime,
    not_after: SystemTime,
    serial: String,
    certified: Arc<CertifiedKey>,
}

/// Why a chain and a key are not an SVID.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SvidError {
    /// No certificate at all.
    #[error("the chain is empty")]
    Empty,
    /// The leaf breaks a rule.
    #[error("the leaf is not an SVID: {0}")]
    Leaf(#[from] SvidDefect),
    /// The key is not the leaf's.
    #[error("the private key does not belong to the leaf of `{0}`")]
    Key(SpiffeId),
}

impl Svid {
    /// Joins a chain (DER, leaf first, without the root) and the key of its leaf.
    ///
    /// # Errors
    /// [`SvidError`] when the leaf breaks a rule of X509-SVID or has another key. Trust and time are not looked at.
    pub fn new(chain: Vec<Vec<u8>>, key: PrivateKey) -> Result<Self, SvidError> {
        let chain: Vec<CertificateDer<'static>> = chain.into_iter().map(CertificateDer::from).collect();
        let leaf = Leaf::read(chain.first().ok_or(SvidError::Empty)?)?;
        if leaf.certificate.public_key().subject_public_key.data.as_ref() != key.public() {
            return Err(SvidError::Key(leaf.id));
        }
        let serial = hex(leaf.certificate.raw_serial());
        let (id, not_before, not_after) = (leaf.id, leaf.not_before, leaf.not_after);
        Ok(Self {
            id,
            not_before,
            not_after,
            serial,
            certified: Arc::new(CertifiedKey::new(chain, key.for_tls())),
            key,
        })
    }

    /// Who this is.
    pub fn id(&self) -> &SpiffeId {
        &self.id
    }

    /// The chain, leaf first.
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.certified.cert
    }

    /// The chain as plain bytes, leaf first, as messages carry it.
    pub fn chain_der(&self) -> Vec<Vec<u8>> {
        self.chain()
            .iter()
            .map(|certificate| certificate.to_vec())
            .collect()
    }

    /// The leaf's private key.
    pub fn key(&self) -> &PrivateKey {
        &self.key
    }

    /// From when on the leaf is valid.
    pub fn not_before(&self) -> SystemTime {
        self.not_before
    }

    /// Until when the leaf is valid.
    pub fn not_after(&self) -> SystemTime {
        self.not_after
    }

    /// The leaf's serial number in hexadecimal digits.
    pub fn serial(&self) -> &str {
        &self.serial
    }

    pub(crate) fn certified(&self) -> &Arc<CertifiedKey> {
        &self.certified
    }
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing into a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}
