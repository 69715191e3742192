//! The key sets of issuers: which must be fetched, and what was fetched of them.
//!
//! A key set is named by where it comes from (`jwks/URI` or `discovery/URI`), so that every document that speaks of the same
//! place shares it, and nobody can write a document whose key set is taken for another's.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// A key set that the control plane should fetch and keep fresh.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyOrigin {
    /// The key set's name in [`World::report_keys`](crate::World::report_keys) and in the mesh.
    pub name: Arc<str>,
    /// Where it is.
    pub location: KeyLocation,
    /// How long one fetch may take; the longest that a document gives.
    pub timeout: Duration,
}

/// Where the keys of an issuer are found.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum KeyLocation {
    /// `jwksUri`: the URI of a JWKS.
    Jwks(Arc<str>),
    /// The URI of an issuer's discovery document (OpenID Connect Discovery §4), whose `jwks_uri` says where the JWKS is.
    Discovery(Arc<str>),
}

impl KeyLocation {
    /// The name of the key set that is found there.
    pub fn key_set(&self) -> Arc<str> {
        match self {
            Self::Jwks(uri) => format!("jwks/{uri}").into(),
            Self::Discovery(uri) => format!("discovery/{uri}").into(),
        }
    }

    /// The URI.
    pub fn uri(&self) -> &Arc<str> {
        match self {
            Self::Jwks(uri) | Self::Discovery(uri) => uri,
        }
    }
}

/// Every key set once; where documents disagree on the timeout, the longest holds.
pub(crate) fn sources<'a>(origins: impl Iterator<Item = &'a KeyOrigin>) -> BTreeMap<Arc<str>, KeyOrigin> {
    let mut sources: BTreeMap<Arc<str>, KeyOrigin> = BTreeMap::new();
    for origin in origins {
        let known = sources
            .entry(origin.name.clone())
            .or_insert_with(|| origin.clone());
        known.timeout = known.timeout.max(origin.timeout);
    }
    sources
}

/// What was fetched of a key set last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FetchedKeys {
    pub(crate) jwks: Arc<str>,
    pub(crate) fetched_at: i64,
}

/// By the key set's name.
pub(crate) type Fetched = BTreeMap<Arc<str>, FetchedKeys>;
