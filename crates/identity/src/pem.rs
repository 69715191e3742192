//! PEM (RFC 7468): how certificates and keys are kept in files, one's own and other people's.

use bartizan_types::{Secret, TrustDomain};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer};

use crate::bundle::{BundleError, TrustBundle};
use crate::key::{KeyError, PrivateKey};
use crate::svid::{Svid, SvidError};

/// Why a PEM text is of no use.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PemError {
    /// No certificate in it, or a block that cannot be read.
    #[error("no readable `CERTIFICATE` block")]
    Certificates,
    /// No key in it.
    #[error("no readable `PRIVATE KEY` block (PKCS#8)")]
    NoKey,
    /// A key that cannot be used.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// Certificates and key that are not an SVID.
    #[error(transparent)]
    Svid(#[from] SvidError),
    /// Certificates that are not roots.
    #[error(transparent)]
    Bundle(#[from] BundleError),
}

impl Svid {
    /// Reads a chain (leaf first) and the leaf's PKCS#8 key.
    ///
    /// # Errors
    /// [`PemError`] when a text is not readable or the parts are not an SVID.
    pub fn from_pem(chain: &str, private: &str) -> Result<Self, PemError> {
        Ok(Self::new(certificates(chain)?, key(private)?)?)
    }

    /// The chain, leaf first.
    pub fn chain_pem(&self) -> String {
        self.chain().iter().map(|der| text("CERTIFICATE", der)).collect()
    }

    /// The private key as PKCS#8, for a peer program that reads files; never for a file of a proxy.
    pub fn key_pem(&self) -> Secret<String> {
        Secret::new(text("PRIVATE KEY", self.key().pkcs8().expose()))
    }
}

impl TrustBundle {
    /// Reads the roots of one trust domain.
    ///
    /// # Errors
    /// [`PemError`] when the text is not readable or holds a certificate that is not a root.
    pub fn from_pem(domain: TrustDomain, roots: &str) -> Result<Self, PemError> {
        Ok(Self::new([(domain, certificates(roots)?)])?)
    }

    /// The roots of one trust domain; empty for a domain that is not trusted.
    pub fn to_pem(&self, domain: &TrustDomain) -> String {
        self.roots(domain)
            .iter()
            .map(|der| text("CERTIFICATE", der))
            .collect()
    }
}

/// Every certificate of a text, at least one.
pub(crate) fn certificates(pem: &str) -> Result<Vec<Vec<u8>>, PemError> {
    let ders = CertificateDer::pem_slice_iter(pem.as_bytes())
        .map(|der| der.map(|der| der.to_vec()))
        .collect::<Result<Vec<_>, _>>()
        .map_err(|_| PemError::Certificates)?;
    if ders.is_empty() {
        return Err(PemError::Certificates);
    }
    Ok(ders)
}

/// The first PKCS#8 key of a text.
pub(crate) fn key(pem: &str) -> Result<PrivateKey, PemError> {
    let der = PrivatePkcs8KeyDer::from_pem_slice(pem.as_bytes()).map_err(|_| PemError::NoKey)?;
    Ok(PrivateKey::from_pkcs8(der.secret_pkcs8_der())?)
}

/// One block.
pub(crate) fn text(label: &str, der: &[u8]) -> String {
    let body = STANDARD.encode(der);
    let mut block = format!("-----BEGIN {label}-----\n");
    let mut rest = body.as_str();
    while !rest.is_empty() {
        let (line, more) = rest.split_at(rest.len().min(64));
        block.push_str(line);
        block.push('\n');
        rest = more;
    }
    block + &format!("-----END {label}-----\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_text_gives_an_error_and_no_panic(text in "(-----BEGIN (CERTIFICATE|PRIVATE KEY)-----\n|-----END (CERTIFICATE|PRIVATE KEY)-----\n|[A-Za-z0-9+/=\n]{0,70}|\\PC){0,8}") {
            prop_assert!(Svid::from_pem(&text, &text).is_err());
            prop_assert!(TrustBundle::from_pem(TrustDomain::parse("a").unwrap(), &text).is_err());
        }

        #[test]
        fn any_bytes_survive(der in proptest::collection::vec(any::<u8>(), 0..200)) {
            prop_assert_eq!(certificates(&text("CERTIFICATE", &der)).unwrap(), vec![der]);
        }
    }
}
