//! The verifier: decides whether a chain proves a SPIFFE identity of a trusted domain, and whether it is one that is expected.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bartizan_types::SpiffeId;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use webpki::{EndEntityCert, KeyUsage};

use crate::clock::unix_time;
use crate::credentials::Credentials;
use crate::crypto;
use crate::leaf::Leaf;
use crate::refused::PeerRefused;

/// The identities that a destination may prove: an exact set, compared whole. The empty set refuses everybody.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ExpectedPeers(Arc<BTreeSet<SpiffeId>>);

impl ExpectedPeers {
    /// One identity.
    pub fn one(id: SpiffeId) -> Self {
        Self::any_of([id])
    }

    /// Any of these identities.
    pub fn any_of(ids: impl IntoIterator<Item = SpiffeId>) -> Self {
        Self(Arc::new(ids.into_iter().collect()))
    }

    /// Whether `id` is one of them.
    pub fn allow(&self, id: &SpiffeId) -> bool {
        self.0.contains(id)
    }

    /// The identities, in order.
    pub fn iter(&self) -> impl Iterator<Item = &SpiffeId> {
        self.0.iter()
    }
}

impl fmt::Display for ExpectedPeers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("nobody");
        }
        for (at, id) in self.0.iter().enumerate() {
            if at > 0 {
                f.write_str(" or ")?;
            }
            write!(f, "{id}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for ExpectedPeers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The role that a chain is shown in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Role {
    Server,
    Client,
}

/// Verifies a chain (DER, leaf first) at `now` outside of a handshake, as the control plane does when an SVID is shown to it.
///
/// # Errors
/// [`PeerRefused`] says why the chain proves nothing.
pub fn verify_chain(
    bundle: &crate::bundle::TrustBundle,
    chain: &[Vec<u8>],
    now: SystemTime,
) -> Result<SpiffeId, PeerRefused> {
    let mut certificates = chain.iter().map(|der| CertificateDer::from(der.as_slice()));
    let leaf = certificates.next().ok_or(PeerRefused::NoCertificate)?;
    let intermediates: Vec<_> = certificates.collect();
    verify(bundle, &leaf, &intermediates, Role::Client, unix_time(now))
}

/// The whole judgement: leaf rules, then the roots of the leaf's own trust domain, then the chain at `now`.
pub(crate) fn verify(
    bundle: &crate::bundle::TrustBundle,
    leaf: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    role: Role,
    now: UnixTime,
) -> Result<SpiffeId, PeerRefused> {
    let read = Leaf::read(leaf).map_err(PeerRefused::NotAnSvid)?;
    let anchors = bundle
        .anchors(read.id.trust_domain())
        .ok_or_else(|| PeerRefused::UnknownTrustDomain(read.id.trust_domain().to_owned()))?;
    let certificate =
        EndEntityCert::try_from(leaf).map_err(|error| PeerRefused::UntrustedChain(error.to_string()))?;
    let usage = match role {
        Role::Server => KeyUsage::server_auth(),
        Role::Client => KeyUsage::client_auth(),
    };
    let seconds =
        |from: UnixTime, to: UnixTime| Duration::from_secs(to.as_secs().saturating_sub(from.as_secs()));
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "webpki's errors are non-exhaustive"
    )]
    certificate
        .verify_for_usage(algorithms().all, anchors, intermediates, now, usage, None, None)
        .map(|_| ())
        .map_err(|error| match error {
            webpki::Error::CertExpired { time, not_after } => PeerRefused::Expired {
                by: seconds(not_after, time),
            },
            webpki::Error::CertNotValidYet { time, not_before } => PeerRefused::NotYetValid {
                by: seconds(time, not_before),
            },
            _ if read.certificate.issuer().as_raw() == read.certificate.subject().as_raw() => {
                PeerRefused::SelfSigned
            }
            error => PeerRefused::UntrustedChain(error.to_string()),
        })?;
    Ok(read.id)
}

fn algorithms() -> WebPkiSupportedAlgorithms {
    crypto::provider().signature_verification_algorithms
}

/// Believes servers: their chain against the present bundle, their identity against the destination's.
#[derive(Debug)]
pub(crate) struct VerifyServer {
    pub(crate) credentials: Arc<Credentials>,
    pub(crate) expected: ExpectedPeers,
}

impl ServerCertVerifier for VerifyServer {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let current = self.credentials.current();
        verify(current.bundle(), leaf, intermediates, Role::Server, now)
            .and_then(|found| {
                if self.expected.allow(&found) {
                    Ok(ServerCertVerified::assertion())
                } else {
                    Err(PeerRefused::WrongIdentity {
                        expected: self.expected.clone(),
                        found,
                    })
                }
            })
            .map_err(|refused| refused.into_tls(now))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, certificate, signature, &algorithms())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, certificate, signature, &algorithms())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        algorithms().supported_schemes()
    }
}

/// Believes clients: their chain against the present bundle. What each of them may do is policy.
#[derive(Debug)]
pub(crate) struct VerifyClient(pub(crate) Arc<Credentials>);

impl ClientCertVerifier for VerifyClient {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let current = self.0.current();
        verify(current.bundle(), leaf, intermediates, Role::Client, now)
            .map(|_| ClientCertVerified::assertion())
            .map_err(|refused| refused.into_tls(now))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, certificate, signature, &algorithms())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, certificate, signature, &algorithms())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        algorithms().supported_schemes()
    }
}
