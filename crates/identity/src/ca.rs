//! The authority: a self-signed root, an intermediate below it, and the leaves that the intermediate issues.

use std::time::{Duration, SystemTime};

use bartizan_types::{Secret, SpiffeId, TrustDomain};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyUsagePurpose, SanType, SerialNumber, date_time_ymd,
};
use rustls_pki_types::CertificateDer;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer as _;

use crate::bundle::{BundleError, TrustBundle};
use crate::clock::{from_unix, unix};
use crate::crypto;
use crate::csr::{self, CsrError};
use crate::ecdsa;
use crate::key::{KeyError, PrivateKey};
use crate::pem;
use crate::svid::hex;

/// How long a root is valid.
pub const ROOT_LIFE: Duration = Duration::from_hours(3650 * 24);
/// How long an intermediate is valid.
pub const INTERMEDIATE_LIFE: Duration = Duration::from_hours(365 * 24);
/// How long before its end an intermediate is replaced.
const INTERMEDIATE_REST: Duration = Duration::from_hours(30 * 24);
/// How far back a certificate's start is dated, for machines whose clocks are behind.
pub const SKEW: Duration = Duration::from_mins(1);

/// Issues SVIDs for one trust domain.
#[derive(Debug)]
pub struct Authority {
    trust_domain: TrustDomain,
    root: Signer,
    intermediate: Signer,
}

/// A signing certificate with its key.
#[derive(Debug)]
struct Signer {
    certificate: CertificateDer<'static>,
    key: PrivateKey,
    issuer: Issuer<'static, PrivateKey>,
    not_before: SystemTime,
    not_after: SystemTime,
}

/// An authority as PEM texts, to be kept in files that only the control plane can read.
#[derive(Clone, Debug)]
pub struct AuthorityPem {
    /// The root's certificate.
    pub root_cert: String,
    /// The root's key, PKCS#8.
    pub root_key: Secret<String>,
    /// The intermediate's certificate.
    pub intermediate_cert: String,
    /// The intermediate's key, PKCS#8.
    pub intermediate_key: Secret<String>,
}

/// Why there is no authority.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AuthorityError {
    /// Text that is not PEM of the kind that belongs there.
    #[error("the authority's {0} is not readable PEM")]
    Pem(&'static str),
    /// A certificate and a key that do not belong together.
    #[error("the authority's {0} key does not belong to its certificate")]
    KeyMismatch(&'static str),
    /// A certificate that may not sign.
    #[error("the authority's {0} certificate is not a signing certificate")]
    NotAnAuthority(&'static str),
    /// An intermediate that this root has not signed.
    #[error("the authority's intermediate certificate is not signed by its root")]
    Chain,
    /// The root is another trust domain's.
    #[error("the authority's root is not one of trust domain `{0}`")]
    TrustDomain(TrustDomain),
    /// A key could not be made or used.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The root cannot be a trust bundle.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// The library did not sign.
    #[error("signing an authority's certificate failed: {0}")]
    Sign(String),
    /// The root cannot sign any more.
    #[error("the authority's root has expired")]
    RootExpired,
}

/// Why an SVID is not issued.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IssueError {
    /// The request is not in order.
    #[error(transparent)]
    Csr(#[from] CsrError),
    /// The identity is of a trust domain that this authority does not speak for.
    #[error("this authority issues for trust domain `{own}`, not for `{asked}`")]
    TrustDomain {
        /// The authority's own.
        own: TrustDomain,
        /// The one asked for.
        asked: SpiffeId,
    },
    /// No lifetime.
    #[error("a lifetime of no seconds was asked for")]
    NoLifetime,
    /// The intermediate or the root has ended, or has not begun.
    #[error("the authority's own certificate is not valid at this time")]
    IssuerNotValid,
    /// The library did not sign.
    #[error("signing a certificate for `{id}` failed: {reason}")]
    Sign {
        /// For whom.
        id: SpiffeId,
        /// The library's words.
        reason: String,
    },
}

/// A fresh SVID, without its key, which the authority never sees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issued {
    /// DER, leaf first, without the root.
    pub chain: Vec<Vec<u8>>,
    /// From when on it is valid.
    pub not_before: SystemTime,
    /// Until when it is valid.
    pub not_after: SystemTime,
    /// The leaf's serial number in hexadecimal digits.
    pub serial: String,
}

impl Authority {
    /// Makes keys, root and intermediate.
    ///
    /// # Errors
    /// When the library makes no key or signs nothing.
    pub fn create(trust_domain: TrustDomain, now: SystemTime) -> Result<Self, AuthorityError> {
        let key = PrivateKey::generate()?;
        let params = signer_params(&trust_domain, "root", 1, now, now + ROOT_LIFE)?;
        let certificate = params
            .self_signed(&key)
            .map_err(|error| AuthorityError::Sign(error.to_string()))?;
        let root = Signer::new("root", certificate.der().clone(), key)?;
        let intermediate = root.sign_intermediate(&trust_domain, now)?;
        Ok(Self {
            trust_domain,
            root,
            intermediate,
        })
    }

    /// Reads an authority back and checks that its four parts belong together and to `trust_domain`.
    ///
    /// # Errors
    /// [`AuthorityError`] names the part that is wrong. Expiry is not looked at here.
    pub fn from_pem(trust_domain: TrustDomain, pem: &AuthorityPem) -> Result<Self, AuthorityError> {
        let root = Signer::from_pem("root", &pem.root_cert, &pem.root_key)?;
        let intermediate = Signer::from_pem("intermediate", &pem.intermediate_cert, &pem.intermediate_key)?;
        let parsed = |der: &CertificateDer<'static>| -> Option<bool> {
            let (_, below) = X509Certificate::from_der(der).ok()?;
            let (_, above) = X509Certificate::from_der(&root.certificate).ok()?;
            Some(
                below.issuer().as_raw() == above.subject().as_raw()
                    && ecdsa::verifies(
                        above.public_key(),
                        below.tbs_certificate.as_ref(),
                        below.signature_value.data.as_ref(),
                    ),
            )
        };
        if parsed(&intermediate.certificate) != Some(true) {
            return Err(AuthorityError::Chain);
        }
        if root.trust_domain() != Some(trust_domain.clone()) {
            return Err(AuthorityError::TrustDomain(trust_domain));
        }
        Ok(Self {
            trust_domain,
            root,
            intermediate,
        })
    }

    /// Writes the authority out.
    pub fn to_pem(&self) -> AuthorityPem {
        AuthorityPem {
            root_cert: pem::text("CERTIFICATE", &self.root.certificate),
            root_key: Secret::new(pem::text("PRIVATE KEY", self.root.key.pkcs8().expose())),
            intermediate_cert: pem::text("CERTIFICATE", &self.intermediate.certificate),
            intermediate_key: Secret::new(pem::text("PRIVATE KEY", self.intermediate.key.pkcs8().expose())),
        }
    }

    /// The trust domain that this authority speaks for.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// The bundle that believes this authority.
    ///
    /// # Errors
    /// When the root is not readable, which [`Authority::from_pem`] has excluded.
    pub fn trust_bundle(&self) -> Result<TrustBundle, BundleError> {
        TrustBundle::new([(self.trust_domain.clone(), vec![self.root.certificate.to_vec()])])
    }

    /// When the root ends.
    pub fn root_not_after(&self) -> SystemTime {
        self.root.not_after
    }

    /// When the intermediate ends.
    pub fn intermediate_not_after(&self) -> SystemTime {
        self.intermediate.not_after
    }

    /// Whether the intermediate should be replaced: less than 30 days are left.
    pub fn intermediate_due(&self, now: SystemTime) -> bool {
        now + INTERMEDIATE_REST >= self.intermediate.not_after
    }

    /// Replaces the intermediate by a fresh one below the same root. Leaves of the old one stay valid: they carry it.
    ///
    /// # Errors
    /// When the root has ended or the library fails; the old one stays then.
    pub fn renew_intermediate(&mut self, now: SystemTime) -> Result<(), AuthorityError> {
        if now > self.root.not_after {
            return Err(AuthorityError::RootExpired);
        }
        self.intermediate = self.root.sign_intermediate(&self.trust_domain, now)?;
        Ok(())
    }

    /// Issues an SVID for the key of `csr` (PKCS#10, DER) in the name of `id`, which the caller has attested: nothing of the request
    /// but its key is believed. The lifetime is cut to the intermediate's.
    ///
    /// # Errors
    /// [`IssueError`] says what is not in order.
    pub fn issue(
        &self,
        csr: &[u8],
        id: &SpiffeId,
        ttl: Duration,
        now: SystemTime,
    ) -> Result<Issued, IssueError> {
        let key = csr::checked_key(csr)?;
        if id.trust_domain() != self.trust_domain.as_str() || !id.principal().contains('/') {
            return Err(IssueError::TrustDomain {
                own: self.trust_domain.clone(),
                asked: id.clone(),
            });
        }
        if ttl.is_zero() {
            return Err(IssueError::NoLifetime);
        }
        let valid = |signer: &Signer| signer.not_before <= now && now < signer.not_after;
        if !valid(&self.intermediate) || !valid(&self.root) {
            return Err(IssueError::IssuerNotValid);
        }
        let sign_error = |error: rcgen::Error| IssueError::Sign {
            id: id.clone(),
            reason: error.to_string(),
        };
        let not_before = whole(now - SKEW).max(self.intermediate.not_before);
        let not_after = whole(now.checked_add(ttl).unwrap_or(self.intermediate.not_after))
            .min(self.intermediate.not_after);
        let serial = serial();
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new(); // empty, so that the SAN is critical (RFC 5280 §4.2.1.6)
        params.subject_alt_names = vec![SanType::URI(id.as_str().try_into().map_err(sign_error)?)];
        set_validity(&mut params, not_before, not_after);
        params.serial_number = Some(SerialNumber::from_slice(&serial));
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        params.use_authority_key_identifier_extension = true;
        let leaf = params
            .signed_by(&key, &self.intermediate.issuer)
            .map_err(sign_error)?;
        Ok(Issued {
            chain: vec![leaf.der().to_vec(), self.intermediate.certificate.to_vec()],
            not_before,
            not_after,
            serial: hex(&serial),
        })
    }
}

impl Signer {
    fn new(
        part: &'static str,
        certificate: CertificateDer<'static>,
        key: PrivateKey,
    ) -> Result<Self, AuthorityError> {
        let (_, parsed) = X509Certificate::from_der(&certificate).map_err(|_| AuthorityError::Pem(part))?;
        if parsed.public_key().subject_public_key.data.as_ref() != key.public() {
            return Err(AuthorityError::KeyMismatch(part));
        }
        let signs = parsed
            .key_usage()
            .ok()
            .flatten()
            .is_some_and(|usage| usage.value.key_cert_sign());
        if !parsed.is_ca() || !signs {
            return Err(AuthorityError::NotAnAuthority(part));
        }
        let time = |at: i64| from_unix(u64::try_from(at).unwrap_or(0));
        let (not_before, not_after) = (
            time(parsed.validity().not_before.timestamp()),
            time(parsed.validity().not_after.timestamp()),
        );
        let issuer = Issuer::from_ca_cert_der(&certificate, key.clone())
            .map_err(|_| AuthorityError::NotAnAuthority(part))?;
        Ok(Self {
            certificate,
            key,
            issuer,
            not_before,
            not_after,
        })
    }

    fn from_pem(part: &'static str, certificate: &str, key: &Secret<String>) -> Result<Self, AuthorityError> {
        let mut certificates = pem::certificates(certificate).map_err(|_| AuthorityError::Pem(part))?;
        let certificate = match (certificates.pop(), certificates.is_empty()) {
            (Some(only), true) => CertificateDer::from(only),
            _ => return Err(AuthorityError::Pem(part)),
        };
        Self::new(
            part,
            certificate,
            pem::key(key.expose()).map_err(|_| AuthorityError::Pem(part))?,
        )
    }

    fn sign_intermediate(&self, trust_domain: &TrustDomain, now: SystemTime) -> Result<Self, AuthorityError> {
        let key = PrivateKey::generate()?;
        let until = (now + INTERMEDIATE_LIFE).min(self.not_after);
        let params = signer_params(trust_domain, "intermediate", 0, now, until)?;
        let certificate = params
            .signed_by(&key, &self.issuer)
            .map_err(|error| AuthorityError::Sign(error.to_string()))?;
        Self::new("intermediate", certificate.der().clone(), key)
    }

    /// The trust domain that the certificate's own SPIFFE ID names.
    fn trust_domain(&self) -> Option<TrustDomain> {
        let (_, parsed) = X509Certificate::from_der(&self.certificate).ok()?;
        let names = parsed.subject_alternative_name().ok()??;
        names.value.general_names.iter().find_map(|name| {
            if let x509_parser::extensions::GeneralName::URI(uri) = name {
                let id = SpiffeId::parse(uri).ok()?;
                TrustDomain::parse(id.trust_domain()).ok()
            } else {
                None
            }
        })
    }
}

fn signer_params(
    trust_domain: &TrustDomain,
    part: &str,
    below: u8,
    now: SystemTime,
    until: SystemTime,
) -> Result<CertificateParams, AuthorityError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params
        .distinguished_name
        .push(DnType::OrganizationName, trust_domain.as_str());
    params.distinguished_name.push(
        DnType::CommonName,
        format!("bartizan {part} {}", hex(&crypto::random::<4>())),
    );
    params.subject_alt_names = vec![SanType::URI(
        format!("spiffe://{trust_domain}")
            .try_into()
            .map_err(|error: rcgen::Error| AuthorityError::Sign(error.to_string()))?,
    )];
    set_validity(&mut params, whole(now - SKEW), whole(until));
    params.serial_number = Some(SerialNumber::from_slice(&serial()));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(below));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

/// Sixteen random bytes that read as a positive number of full length (RFC 5280 §4.1.2.2).
fn serial() -> [u8; 16] {
    let mut bytes: [u8; 16] = crypto::random();
    if let Some(first) = bytes.first_mut() {
        *first = (*first & 0x7f) | 0x40;
    }
    bytes
}

/// Cuts to the whole seconds that X.509 can write.
fn whole(time: SystemTime) -> SystemTime {
    from_unix(unix(time).as_secs())
}

/// Writes both ends in the type that rcgen takes.
fn set_validity(params: &mut CertificateParams, not_before: SystemTime, not_after: SystemTime) {
    let epoch = date_time_ymd(1970, 1, 1);
    params.not_before = epoch + unix(not_before);
    params.not_after = epoch + unix(not_after);
}
