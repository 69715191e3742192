//! Private keys: ECDSA on P-256, made in memory, zeroed when dropped.

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair};
use bartizan_types::Secret;
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

/// A private key for an SVID or an authority. Cheap to clone: clones share the one key.
#[derive(Clone)]
pub struct PrivateKey(Arc<Parts>);

struct Parts {
    pkcs8: Secret<Vec<u8>>,
    pair: EcdsaKeyPair,
    tls: Arc<dyn rustls::sign::SigningKey>,
}

/// Why a key cannot be made, read or used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// The library made none.
    #[error("making a P-256 key failed")]
    Generate,
    /// Not PKCS#8, or not P-256.
    #[error("the key is not a PKCS#8 private key on P-256")]
    Format,
    /// The library did not sign.
    #[error("signing with the key failed")]
    Sign,
}

impl PrivateKey {
    /// A fresh key.
    ///
    /// # Errors
    /// [`KeyError::Generate`] when the library refuses.
    pub fn generate() -> Result<Self, KeyError> {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).map_err(|_| KeyError::Generate)?;
        let pkcs8 = pair.to_pkcs8v1().map_err(|_| KeyError::Generate)?;
        Self::from_pkcs8(pkcs8.as_ref())
    }

    /// Reads PKCS#8 (RFC 5958).
    ///
    /// # Errors
    /// [`KeyError::Format`] when it is not a P-256 key.
    pub fn from_pkcs8(der: &[u8]) -> Result<Self, KeyError> {
        let pair =
            EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, der).map_err(|_| KeyError::Format)?;
        let tls = rustls::crypto::aws_lc_rs::sign::any_ecdsa_type(&PrivateKeyDer::Pkcs8(
            PrivatePkcs8KeyDer::from(der),
        ))
        .map_err(|_| KeyError::Format)?;
        Ok(Self(Arc::new(Parts {
            pkcs8: Secret::new(der.to_vec()),
            pair,
            tls,
        })))
    }

    /// The key as PKCS#8, for a sealed memory file or the authority's own directory.
    pub fn pkcs8(&self) -> &Secret<Vec<u8>> {
        &self.0.pkcs8
    }

    /// Signs with ECDSA and SHA-256; the signature is ASN.1.
    ///
    /// # Errors
    /// [`KeyError::Sign`] when the library refuses.
    pub fn sign(&self, message: &[u8]) -> Result<Vec<u8>, KeyError> {
        self.0
            .pair
            .sign(&aws_lc_rs::rand::SystemRandom::new(), message)
            .map(|signature| signature.as_ref().to_vec())
            .map_err(|_| KeyError::Sign)
    }

    /// The public key as an uncompressed point (SEC 1 §2.3.3).
    pub fn public(&self) -> &[u8] {
        self.0.pair.public_key().as_ref()
    }

    pub(crate) fn for_tls(&self) -> Arc<dyn rustls::sign::SigningKey> {
        Arc::clone(&self.0.tls)
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PrivateKey([secret])")
    }
}

impl rcgen::PublicKeyData for PrivateKey {
    fn der_bytes(&self) -> &[u8] {
        self.public()
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        &rcgen::PKCS_ECDSA_P256_SHA256
    }
}

impl rcgen::SigningKey for PrivateKey {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        Self::sign(self, message).map_err(|_| rcgen::Error::RemoteKeyError)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_survives_pkcs8_and_does_not_show_itself() {
        let key = PrivateKey::generate().unwrap();
        let again = PrivateKey::from_pkcs8(key.pkcs8().expose()).unwrap();
        assert_eq!(again.public(), key.public());
        assert_eq!(format!("{key:?}"), "PrivateKey([secret])");
        assert_eq!(PrivateKey::from_pkcs8(b"no key").unwrap_err(), KeyError::Format);
    }
}
