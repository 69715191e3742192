//! Trust bundles: which roots vouch for which trust domain.

use std::collections::BTreeMap;

use bartizan_types::TrustDomain;
use rustls_pki_types::{CertificateDer, TrustAnchor};
use x509_parser::prelude::FromDer as _;

/// The roots of every trust domain that is trusted. A root vouches for its own trust domain only; the domains are never
/// thrown together, so that a foreign authority cannot issue a name of ours (SPIFFE Trust Domain and Bundle §4).
#[derive(Clone, Debug, Default)]
pub struct TrustBundle(BTreeMap<TrustDomain, Roots>);

#[derive(Clone, Debug, Default)]
struct Roots {
    certificates: Vec<CertificateDer<'static>>,
    anchors: Vec<TrustAnchor<'static>>,
}

/// Why roots are not a bundle.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BundleError {
    /// A root is not a DER certificate.
    #[error("a root of trust domain `{0}` is not a readable certificate")]
    Malformed(TrustDomain),
    /// A root is not marked as one that may sign.
    #[error("a root of trust domain `{0}` is not a signing certificate")]
    NotAnAuthority(TrustDomain),
    /// A trust domain has no root: it would refuse everybody without saying so.
    #[error("trust domain `{0}` has no root")]
    Empty(TrustDomain),
}

impl TrustBundle {
    /// Joins the roots (DER) of each trust domain.
    ///
    /// # Errors
    /// [`BundleError`] names the first trust domain that cannot be trusted like this.
    pub fn new(roots: impl IntoIterator<Item = (TrustDomain, Vec<Vec<u8>>)>) -> Result<Self, BundleError> {
        let mut domains: BTreeMap<TrustDomain, Roots> = BTreeMap::new();
        for (domain, ders) in roots {
            let known = domains.entry(domain.clone()).or_default();
            for der in ders {
                let malformed = || BundleError::Malformed(domain.clone());
                let (rest, parsed) =
                    x509_parser::certificate::X509Certificate::from_der(&der).map_err(|_| malformed())?;
                if !rest.is_empty() {
                    return Err(malformed());
                }
                if !parsed.is_ca() {
                    return Err(BundleError::NotAnAuthority(domain));
                }
                let certificate = CertificateDer::from(der);
                if known.certificates.contains(&certificate) {
                    continue;
                }
                let anchor = webpki::anchor_from_trusted_cert(&certificate)
                    .map_err(|_| malformed())?
                    .to_owned();
                known.anchors.push(anchor);
                known.certificates.push(certificate);
            }
            if known.certificates.is_empty() {
                return Err(BundleError::Empty(domain));
            }
        }
        Ok(Self(domains))
    }

    /// The roots of one trust domain, as certificates; none for a domain that is not trusted.
    pub fn roots(&self, domain: &TrustDomain) -> &[CertificateDer<'static>] {
        self.0
            .get(domain)
            .map(|roots| roots.certificates.as_slice())
            .unwrap_or_default()
    }

    /// Whether the trust domain of this name is trusted.
    pub fn trusts(&self, domain: &str) -> bool {
        self.anchors(domain).is_some()
    }

    /// Every trust domain with its roots as DER, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&TrustDomain, Vec<Vec<u8>>)> {
        self.0.iter().map(|(domain, roots)| {
            (
                domain,
                roots.certificates.iter().map(|root| root.to_vec()).collect(),
            )
        })
    }

    pub(crate) fn anchors(&self, domain: &str) -> Option<&[TrustAnchor<'static>]> {
        let domain = TrustDomain::parse(domain).ok()?;
        self.0.get(&domain).map(|roots| roots.anchors.as_slice())
    }
}

impl PartialEq for TrustBundle {
    fn eq(&self, other: &Self) -> bool {
        self.0.len() == other.0.len()
            && self
                .0
                .iter()
                .zip(&other.0)
                .all(|(a, b)| a.0 == b.0 && a.1.certificates == b.1.certificates)
    }
}

impl Eq for TrustBundle {}
