//! Certificate requests, and proofs that whoever asks holds the key of a present SVID.

use std::time::SystemTime;

use bartizan_types::SpiffeId;
use rcgen::{CertificateParams, DistinguishedName, SubjectPublicKeyInfo};
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::FromDer as _;

use crate::bundle::TrustBundle;
use crate::ecdsa::{self, Curve};
use crate::key::{KeyError, PrivateKey};
use crate::leaf::Leaf;
use crate::refused::PeerRefused;
use crate::svid::Svid;
use crate::verify::verify_chain;

/// The largest request that is read, in bytes; an honest one has about 250.
pub const MAX_CSR: usize = 16 * 1024;

/// Why a request is not answered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CsrError {
    /// Not one PKCS#10 request.
    #[error("the certificate request is not readable PKCS#10")]
    Malformed,
    /// Neither P-256 nor P-384.
    #[error("the certificate request has a key that is not ECDSA on P-256 or P-384")]
    Key,
    /// The asker does not hold the key that it asks for.
    #[error("the certificate request is not signed by its own key")]
    Signature,
}

impl PrivateKey {
    /// A certificate request (PKCS#10, DER) for this key. It names nobody: who the asker is follows from its attestation.
    ///
    /// # Errors
    /// [`KeyError::Sign`] when the library refuses.
    pub fn csr(&self) -> Result<Vec<u8>, KeyError> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params
            .serialize_request(self)
            .map(|request| request.der().to_vec())
            .map_err(|_| KeyError::Sign)
    }
}

/// Checks a request and takes out the one thing that is believed of it: the public key.
pub(crate) fn checked_key(csr: &[u8]) -> Result<SubjectPublicKeyInfo, CsrError> {
    if csr.len() > MAX_CSR {
        return Err(CsrError::Malformed);
    }
    let (rest, request) = X509CertificationRequest::from_der(csr).map_err(|_| CsrError::Malformed)?;
    if !rest.is_empty() {
        return Err(CsrError::Malformed);
    }
    let info = &request.certification_request_info;
    let curve = Curve::of(&info.subject_pki).ok_or(CsrError::Key)?;
    let signed = request.signature_algorithm.algorithm == curve.signs_with()
        && ecdsa::verifies(&info.subject_pki, info.raw, request.signature_value.data.as_ref());
    if !signed {
        return Err(CsrError::Signature);
    }
    SubjectPublicKeyInfo::from_der(info.subject_pki.raw).map_err(|_| CsrError::Key)
}

/// What is signed to renew: the workload and the request, so that a proof cannot be used for another.
pub fn renewal_transcript(workload: &str, csr: &[u8]) -> Vec<u8> {
    transcript("bartizan renewal v1", workload, csr)
}

/// What is signed to be connected: the workload and the time of signing in seconds since 1970.
pub fn hello_transcript(workload: &str, signed_at: i64) -> Vec<u8> {
    transcript("bartizan hello v1", workload, &signed_at.to_be_bytes())
}

/// Parts with their lengths, so that no two different sets of parts give the same bytes.
fn transcript(purpose: &str, workload: &str, rest: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(purpose.len() + workload.len() + rest.len() + 24);
    for part in [purpose.as_bytes(), workload.as_bytes(), rest] {
        bytes.extend_from_slice(&(part.len() as u64).to_be_bytes());
        bytes.extend_from_slice(part);
    }
    bytes
}

/// A chain, and a signature by the key of its leaf (`Possession` on the wire).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proof {
    /// DER, leaf first.
    pub chain: Vec<Vec<u8>>,
    /// ECDSA, ASN.1, over the transcript.
    pub signature: Vec<u8>,
}

/// Why a proof proves nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProofRefused {
    /// The chain is not believed.
    #[error(transparent)]
    Chain(#[from] PeerRefused),
    /// The signature is not by the leaf's key over this transcript.
    #[error("the signature is not by the key of `{0}` over this request")]
    Signature(SpiffeId),
}

impl Proof {
    /// Signs `transcript` with the key of `svid`.
    ///
    /// # Errors
    /// [`KeyError::Sign`] when the library refuses.
    pub fn sign(svid: &Svid, transcript: &[u8]) -> Result<Self, KeyError> {
        Ok(Self {
            chain: svid.chain_der(),
            signature: svid.key().sign(transcript)?,
        })
    }

    /// Who has signed `transcript`, judged at `now`.
    ///
    /// # Errors
    /// [`ProofRefused`] when the chain is not believed or the signature is not its leaf's.
    pub fn verify(
        &self,
        bundle: &TrustBundle,
        transcript: &[u8],
        now: SystemTime,
    ) -> Result<SpiffeId, ProofRefused> {
        let id = verify_chain(bundle, &self.chain, now)?;
        let signed = self
            .chain
            .first()
            .and_then(|leaf| Leaf::read(leaf).ok())
            .is_some_and(|leaf| ecdsa::verifies(leaf.certificate.public_key(), transcript, &self.signature));
        if signed {
            Ok(id)
        } else {
            Err(ProofRefused::Signature(id))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_request_gives_its_key_and_a_changed_one_nothing() {
        let key = PrivateKey::generate().unwrap();
        let csr = key.csr().unwrap();
        let found = checked_key(&csr).unwrap();
        assert_eq!(rcgen::PublicKeyData::der_bytes(&found), key.public());
        let mut changed = csr.clone();
        *changed.last_mut().unwrap() ^= 1;
        assert!(checked_key(&changed).is_err());
        let mut longer = csr;
        longer.push(0);
        assert_eq!(checked_key(&longer).unwrap_err(), CsrError::Malformed);
        assert_eq!(
            checked_key(&vec![0; MAX_CSR + 1]).unwrap_err(),
            CsrError::Malformed
        );
    }

    #[test]
    fn a_request_signed_by_another_key_is_refused() {
        // The own request with the other's signature: both are well formed, only the pairing is wrong.
        let (one, two) = (
            PrivateKey::generate().unwrap().csr().unwrap(),
            PrivateKey::generate().unwrap().csr().unwrap(),
        );
        let parsed = |der: &[u8]| {
            let (_, request) = X509CertificationRequest::from_der(der).unwrap();
            (
                request.certification_request_info.raw.to_vec(),
                request.signature_value.data.to_vec(),
            )
        };
        let (body, _) = parsed(&one);
        let (_, signature) = parsed(&two);
        let spki = X509CertificationRequest::from_der(&one).unwrap().1;
        assert!(!ecdsa::verifies(
            &spki.certification_request_info.subject_pki,
            &body,
            &signature
        ));
    }

    #[test]
    fn no_changed_bit_of_a_request_gives_another_key() {
        let key = PrivateKey::generate().unwrap();
        let csr = key.csr().unwrap();
        let signed = {
            let (_, request) = X509CertificationRequest::from_der(&csr).unwrap();
            let raw = request.certification_request_info.raw;
            let start = csr.windows(raw.len()).position(|part| part == raw).unwrap();
            start..start + raw.len()
        };
        for at in 0..csr.len() {
            for bit in 0..8 {
                let mut changed = csr.clone();
                changed[at] ^= 1 << bit;
                // The reader is lenient about tags around what is signed, never within.
                if let Ok(found) = checked_key(&changed) {
                    assert!(!signed.contains(&at), "byte {at}, bit {bit}");
                    assert_eq!(rcgen::PublicKeyData::der_bytes(&found), key.public());
                }
            }
        }
    }

    proptest! {
        #[test]
        fn reading_anything_gives_an_error_and_no_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            prop_assert!(checked_key(&bytes).is_err());
        }

        #[test]
        fn different_workloads_or_requests_sign_different_bytes(a in ".{0,12}", b in ".{0,12}", x in proptest::collection::vec(any::<u8>(), 0..12), y in proptest::collection::vec(any::<u8>(), 0..12)) {
            prop_assert_eq!(renewal_transcript(&a, &x) == renewal_transcript(&b, &y), a == b && x == y);
        }
    }
}
