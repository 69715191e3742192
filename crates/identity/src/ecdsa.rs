//! Checks ECDSA signatures by a key that a certificate or a request carries: P-256 with SHA-256 and P-384 with SHA-384, nothing else.

use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1, ECDSA_P384_SHA384_ASN1, ParsedPublicKey};
use x509_parser::der_parser::oid::Oid;
use x509_parser::oid_registry::{
    OID_EC_P256, OID_KEY_TYPE_EC_PUBLIC_KEY, OID_NIST_EC_P384, OID_SIG_ECDSA_WITH_SHA256,
    OID_SIG_ECDSA_WITH_SHA384,
};
use x509_parser::x509::SubjectPublicKeyInfo;

/// The curves that a workload's key may lie on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Curve {
    P256,
    P384,
}

impl Curve {
    /// The curve of a public key; none for other kinds of key.
    pub(crate) fn of(key: &SubjectPublicKeyInfo<'_>) -> Option<Self> {
        if key.algorithm.algorithm != OID_KEY_TYPE_EC_PUBLIC_KEY {
            return None;
        }
        let curve = key.algorithm.parameters.as_ref()?.as_oid().ok()?;
        if curve == OID_EC_P256 {
            Some(Self::P256)
        } else if curve == OID_NIST_EC_P384 {
            Some(Self::P384)
        } else {
            None
        }
    }

    /// The signature algorithm that goes with the curve, so that neither hash nor key can be exchanged for a weaker one.
    pub(crate) fn signs_with(self) -> Oid<'static> {
        match self {
            Self::P256 => OID_SIG_ECDSA_WITH_SHA256,
            Self::P384 => OID_SIG_ECDSA_WITH_SHA384,
        }
    }
}

/// Whether `signature` over `message` was made by the private half of `key`.
pub(crate) fn verifies(key: &SubjectPublicKeyInfo<'_>, message: &[u8], signature: &[u8]) -> bool {
    let algorithm = match Curve::of(key) {
        Some(Curve::P256) => &ECDSA_P256_SHA256_ASN1,
        Some(Curve::P384) => &ECDSA_P384_SHA384_ASN1,
        None => return false,
    };
    ParsedPublicKey::new(algorithm, key.subject_public_key.data.as_ref())
        .is_ok_and(|key| key.verify_sig(message, signature).is_ok())
}
