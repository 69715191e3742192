//! The content of the sealed memory file by which a proxy leaves its credentials to its successor: key, chain and bundle as JSON.

use std::collections::BTreeMap;

use bartizan_types::{Secret, TrustDomain};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use zeroize::Zeroize as _;

use crate::bundle::{BundleError, TrustBundle};
use crate::key::{KeyError, PrivateKey};
use crate::svid::{Svid, SvidError};

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Content {
    version: u32,
    key: String,
    chain: Vec<String>,
    bundle: BTreeMap<TrustDomain, Vec<String>>,
}

impl Drop for Content {
    fn drop(&mut self) {
        self.key.zeroize();
    }
}

/// Why a memory file cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SealedError {
    /// Not the JSON that this version writes.
    #[error("the sealed credentials are not readable")]
    Format,
    /// The key.
    #[error("the sealed credentials: {0}")]
    Key(#[from] KeyError),
    /// The SVID.
    #[error("the sealed credentials: {0}")]
    Svid(#[from] SvidError),
    /// The bundle.
    #[error("the sealed credentials: {0}")]
    Bundle(#[from] BundleError),
}

/// Writes the credentials out.
pub fn seal(svid: &Svid, bundle: &TrustBundle) -> Secret<Vec<u8>> {
    let encode = |ders: Vec<Vec<u8>>| ders.iter().map(|der| STANDARD.encode(der)).collect();
    let content = Content {
        version: 1,
        key: STANDARD.encode(svid.key().pkcs8().expose()),
        chain: encode(svid.chain_der()),
        bundle: bundle
            .iter()
            .map(|(domain, roots)| (domain.clone(), encode(roots)))
            .collect(),
    };
    // Strings and a map of strings always serialize; room for all of it, so that no copy is left behind by growing.
    let size = content.key.len()
        + content.chain.iter().map(String::len).sum::<usize>()
        + content.bundle.values().flatten().map(String::len).sum::<usize>();
    let mut bytes = Vec::with_capacity(2 * size + 1024);
    let _ = serde_json::to_writer(&mut bytes, &content);
    Secret::new(bytes)
}

/// Reads what [`seal`] wrote.
///
/// # Errors
/// [`SealedError`] when the file is not whole or its parts do not belong together.
pub fn open(bytes: &[u8]) -> Result<(Svid, TrustBundle), SealedError> {
    let content: Content = serde_json::from_slice(bytes).map_err(|_| SealedError::Format)?;
    if content.version != 1 {
        return Err(SealedError::Format);
    }
    let decode = |texts: &[String]| -> Result<Vec<Vec<u8>>, SealedError> {
        texts
            .iter()
            .map(|text| STANDARD.decode(text).map_err(|_| SealedError::Format))
            .collect()
    };
    let mut key = STANDARD.decode(&content.key).map_err(|_| SealedError::Format)?;
    let private = PrivateKey::from_pkcs8(&key);
    key.zeroize();
    let svid = Svid::new(decode(&content.chain)?, private?)?;
    let roots = content
        .bundle
        .iter()
        .map(|(domain, roots)| Ok((domain.clone(), decode(roots)?)))
        .collect::<Result<Vec<_>, SealedError>>()?;
    Ok((svid, TrustBundle::new(roots)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn anything_else_is_refused_without_panic(
            bytes in proptest::collection::vec(any::<u8>(), 0..100),
            key in "[A-Za-z0-9+/=]{0,40}",
            chain in proptest::collection::vec("[A-Za-z0-9+/=]{0,40}", 0..3),
        ) {
            prop_assert!(open(&bytes).is_err());
            let chain = serde_json::to_string(&chain).unwrap();
            let text = format!("{{\"version\":1,\"key\":\"{key}\",\"chain\":{chain},\"bundle\":{{}}}}");
            prop_assert!(open(text.as_bytes()).is_err());
        }
    }
}
