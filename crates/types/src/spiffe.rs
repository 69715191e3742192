//! SPIFFE identities: who a workload is.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize};

use crate::name::{Name, Namespace};

/// A trust domain name such as `cluster.local` (SPIFFE-ID §2.1): lower-case letters, digits, `.`, `-`, `_`, 1–255 bytes.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct TrustDomain(Arc<str>);

/// Why a text is not a [`TrustDomain`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a trust domain name: 1 to 255 of a-z, 0-9, `.`, `-`, `_`")]
pub struct TrustDomainError(String);

impl TrustDomain {
    /// # Errors
    /// When `text` breaks SPIFFE-ID §2.1.
    pub fn parse(text: &str) -> Result<Self, TrustDomainError> {
        let fine = (1..=255).contains(&text.len())
            && text
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'-' | b'_'));
        if fine {
            Ok(Self(text.into()))
        } else {
            Err(TrustDomainError(text.to_owned()))
        }
    }

    /// The text, without a scheme.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}`", self.0)
    }
}

impl<'de> Deserialize<'de> for TrustDomain {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        Self::parse(&text).map_err(serde::de::Error::custom)
    }
}

/// A SPIFFE ID such as `spiffe://example.org/ns/shop/sa/cart`.
///
/// Always valid by the SPIFFE-ID standard, §2: lower-case trust domain, no port,
/// query or fragment, no empty or dot path segment, at most 2048 bytes.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct SpiffeId(Arc<str>);

/// The first rule of SPIFFE-ID §2 that a text breaks.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SpiffeIdError {
    /// The scheme is not `spiffe://`.
    #[error("`{0}` does not start with `spiffe://`")]
    Scheme(String),
    /// More than 2048 bytes.
    #[error("SPIFFE ID has {0} bytes, at most 2048 are allowed")]
    TooLong(usize),
    /// The trust domain breaks its own rule.
    #[error(transparent)]
    TrustDomain(#[from] TrustDomainError),
    /// An empty, `.` or `..` segment, or a character outside `[A-Za-z0-9._-]`.
    #[error(
        "SPIFFE ID has a path segment `{0}`: segments are non-empty, not `.` or `..`, of A-Z a-z 0-9 `.` `-` `_`"
    )]
    Segment(String),
}

impl SpiffeId {
    /// # Errors
    /// [`SpiffeIdError`] names the first rule of SPIFFE-ID §2 that `text` breaks.
    pub fn parse(text: &str) -> Result<Self, SpiffeIdError> {
        if text.len() > 2048 {
            return Err(SpiffeIdError::TooLong(text.len()));
        }
        let rest = text
            .strip_prefix("spiffe://")
            .ok_or_else(|| SpiffeIdError::Scheme(text.to_owned()))?;
        let (domain, path) = match rest.split_once('/') {
            Some((domain, path)) => (domain, Some(path)),
            None => (rest, None),
        };
        TrustDomain::parse(domain)?;
        for segment in path.into_iter().flat_map(|path| path.split('/')) {
            let fine = !matches!(segment, "" | "." | "..")
                && segment
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'));
            if !fine {
                return Err(SpiffeIdError::Segment(segment.to_owned()));
            }
        }
        Ok(Self(text.into()))
    }

    /// `spiffe://<domain>/ns/<namespace>/sa/<service account>`, Istio's form.
    pub fn workload(domain: &TrustDomain, namespace: &Namespace, service_account: &Name) -> Self {
        Self(format!("spiffe://{domain}/ns/{namespace}/sa/{service_account}").into())
    }

    /// The whole text with its scheme.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The text without `spiffe://`, as Istio policies write a principal.
    pub fn principal(&self) -> &str {
        self.0.get("spiffe://".len()..).unwrap_or_default()
    }

    /// The trust domain's name.
    pub fn trust_domain(&self) -> &str {
        self.principal().split('/').next().unwrap_or_default()
    }

    /// The namespace, where the path has Istio's form `/ns/<namespace>/sa/<service account>`.
    pub fn namespace(&self) -> Option<&str> {
        self.istio_parts().map(|(namespace, _)| namespace)
    }

    /// The service account, where the path has Istio's form.
    pub fn service_account(&self) -> Option<&str> {
        self.istio_parts().map(|(_, account)| account)
    }

    fn istio_parts(&self) -> Option<(&str, &str)> {
        let mut parts = self.principal().split('/').skip(1);
        match (
            parts.next(),
            parts.next(),
            parts.next(),
            parts.next(),
            parts.next(),
        ) {
            (Some("ns"), Some(namespace), Some("sa"), Some(account), None) => Some((namespace, account)),
            _ => None,
        }
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}`", self.0)
    }
}

impl<'de> Deserialize<'de> for SpiffeId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        Self::parse(&text).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn istio_form_has_namespace_and_service_account() {
        let id = SpiffeId::parse("spiffe://cluster.local/ns/shop/sa/cart").unwrap();
        assert_eq!(
            (id.trust_domain(), id.namespace(), id.service_account()),
            ("cluster.local", Some("shop"), Some("cart"))
        );
        assert_eq!(id.principal(), "cluster.local/ns/shop/sa/cart");
        let other = SpiffeId::parse("spiffe://example.org/web").unwrap();
        assert_eq!((other.namespace(), other.service_account()), (None, None));
    }

    #[test]
    fn each_broken_rule_is_refused() {
        for bad in [
            "",
            "https://a/b",
            "spiffe://",
            "spiffe://A/b",
            "spiffe://a:8/b",
            "spiffe://a//b",
            "spiffe://a/./b",
            "spiffe://a/../b",
            "spiffe://a/b/",
            "spiffe://a/b?c",
            "spiffe://a/b#c",
            "spiffe://a/%41",
        ] {
            assert!(SpiffeId::parse(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn parsing_never_panics_and_keeps_the_text(text in ".{0,80}") {
            if let Ok(id) = SpiffeId::parse(&text) {
                prop_assert_eq!(id.as_str(), text.as_str());
            }
        }
    }
}
