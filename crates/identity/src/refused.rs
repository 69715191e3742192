//! Why a peer was refused, as a value that survives the way through a failed handshake to the metric and the log.

use std::sync::Arc;
use std::time::Duration;

use bartizan_types::SpiffeId;
use rustls::{CertificateError, OtherError};
use rustls_pki_types::UnixTime;

use crate::leaf::SvidDefect;
use crate::verify::ExpectedPeers;

/// Why a peer's certificate was not believed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PeerRefused {
    /// A certificate of the chain is past its end.
    #[error("the peer's certificate expired {} s ago", by.as_secs())]
    Expired {
        /// How long ago.
        by: Duration,
    },
    /// A certificate of the chain is not valid yet.
    #[error("the peer's certificate becomes valid only in {} s", by.as_secs())]
    NotYetValid {
        /// How far ahead.
        by: Duration,
    },
    /// No root is known for the peer's trust domain.
    #[error("trust domain `{0}` is not trusted")]
    UnknownTrustDomain(String),
    /// The peer proved another identity than the destination has.
    #[error("the peer is {found}, expected was {expected}")]
    WrongIdentity {
        /// Who may answer.
        expected: ExpectedPeers,
        /// Who did.
        found: SpiffeId,
    },
    /// The peer's certificate vouches for itself.
    #[error("the peer's certificate is self-signed")]
    SelfSigned,
    /// The chain does not lead to a root of the peer's own trust domain.
    #[error("the peer's chain does not lead to a root of its trust domain: {0}")]
    UntrustedChain(String),
    /// The leaf breaks a rule of X509-SVID.
    #[error("the peer's certificate is not an SVID: {0}")]
    NotAnSvid(SvidDefect),
    /// The peer showed no certificate.
    #[error("the peer showed no certificate")]
    NoCertificate,
}

impl PeerRefused {
    /// A short constant word, for metrics.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Expired { .. } => "expired",
            Self::NotYetValid { .. } => "not_yet_valid",
            Self::UnknownTrustDomain(_) => "unknown_trust_domain",
            Self::WrongIdentity { .. } => "wrong_identity",
            Self::SelfSigned => "self_signed",
            Self::UntrustedChain(_) => "untrusted_chain",
            Self::NotAnSvid(_) => "not_an_svid",
            Self::NoCertificate => "no_certificate",
        }
    }

    /// As rustls carries it. Validity goes in rustls' own words, so that the peer is sent the alert that says so.
    pub(crate) fn into_tls(self, now: UnixTime) -> rustls::Error {
        let at = |seconds: u64| UnixTime::since_unix_epoch(Duration::from_secs(seconds));
        rustls::Error::InvalidCertificate(match self {
            Self::Expired { by } => CertificateError::ExpiredContext {
                time: now,
                not_after: at(now.as_secs().saturating_sub(by.as_secs())),
            },
            Self::NotYetValid { by } => CertificateError::NotValidYetContext {
                time: now,
                not_before: at(now.as_secs().saturating_add(by.as_secs())),
            },
            Self::NoCertificate => return rustls::Error::NoCertificatesPresented,
            other @ (Self::UnknownTrustDomain(_)
            | Self::WrongIdentity { .. }
            | Self::SelfSigned
            | Self::UntrustedChain(_)
            | Self::NotAnSvid(_)) => CertificateError::Other(OtherError(Arc::new(other))),
        })
    }

    /// Finds the refusal in the error of a failed handshake; none when it failed for another reason.
    pub fn from_tls(error: &rustls::Error) -> Option<Self> {
        #[expect(clippy::wildcard_enum_match_arm, reason = "rustls' errors are non-exhaustive")]
        match error {
            rustls::Error::NoCertificatesPresented => Some(Self::NoCertificate),
            rustls::Error::InvalidCertificate(error) => match error {
                CertificateError::Other(OtherError(inner)) => inner.downcast_ref::<Self>().cloned(),
                CertificateError::ExpiredContext { time, not_after } => Some(Self::Expired {
                    by: Duration::from_secs(time.as_secs().saturating_sub(not_after.as_secs())),
                }),
                CertificateError::NotValidYetContext { time, not_before } => Some(Self::NotYetValid {
                    by: Duration::from_secs(not_before.as_secs().saturating_sub(time.as_secs())),
                }),
                other => Some(Self::UntrustedChain(other.to_string())),
            },
            _ => None,
        }
    }
}

/// Why a handshake failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HandshakeFailure {
    /// This side did not believe the peer.
    #[error("{0}")]
    Refused(PeerRefused),
    /// The peer did not believe this side, or wanted something else; the alert's name.
    #[error("the peer refused this side with alert `{0}`")]
    RefusedByPeer(String),
    /// The bytes were not the TLS that is spoken here.
    #[error("TLS: {0}")]
    Protocol(String),
    /// The connection ended or timed out.
    #[error("the connection failed during the handshake: {0}")]
    Connection(std::io::ErrorKind),
}

impl HandshakeFailure {
    /// Reads the error of a stream such as tokio-rustls', where rustls' error is the inner one.
    pub fn of(error: &std::io::Error) -> Self {
        match error
            .get_ref()
            .and_then(|inner| inner.downcast_ref::<rustls::Error>())
        {
            Some(inner) => Self::of_tls(inner),
            None => Self::Connection(error.kind()),
        }
    }

    /// Reads rustls' own error.
    pub fn of_tls(error: &rustls::Error) -> Self {
        if let Some(refused) = PeerRefused::from_tls(error) {
            return Self::Refused(refused);
        }
        if let rustls::Error::AlertReceived(alert) = error {
            Self::RefusedByPeer(format!("{alert:?}"))
        } else {
            Self::Protocol(error.to_string())
        }
    }

    /// The refusal, where this side refused.
    pub fn refused(&self) -> Option<&PeerRefused> {
        match self {
            Self::Refused(refused) => Some(refused),
            Self::RefusedByPeer(_) | Self::Protocol(_) | Self::Connection(_) => None,
        }
    }

    /// A short constant word, for metrics.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Refused(refused) => refused.reason(),
            Self::RefusedByPeer(_) => "refused_by_peer",
            Self::Protocol(_) => "protocol",
            Self::Connection(_) => "connection",
        }
    }
}
