//! One fetch of an issuer's keys: the JWKS, or the discovery document (OpenID Connect Discovery §4) and then the JWKS.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bartizan_compile::{KeyLocation, KeyOrigin};
use bartizan_identity::jwt::{KeySet, KeySetError};
use http::Uri;
use http::uri::Scheme;
use serde::{Deserialize, Serialize};

use super::client::{Answer, get, parse_uri, shown};

/// However long a document lets a fetch take.
const LONGEST: Duration = Duration::from_mins(1);
/// What stands behind an issuer's name in the URI of its discovery document.
const WELL_KNOWN: &str = "/.well-known/openid-configuration";
/// How many keys that are not used are told.
const MOST_SKIPPED: usize = 16;

/// How an issuer is asked whether the keys that are known are still its own.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Validator {
    /// Of the JWKS; another URI's keys cannot be unchanged.
    pub(super) uri: String,
    /// As the issuer said it.
    pub(super) etag: String,
}

/// What was fetched.
#[derive(Debug)]
pub(super) enum Fetched {
    New(NewKeys),
    /// What is known is still right.
    Same {
        lifetime: Option<Duration>,
    },
}

#[derive(Debug)]
pub(super) struct NewKeys {
    /// Public parts only.
    pub(super) jwks: Arc<str>,
    /// Which keys are not used, and why.
    pub(super) skipped: Vec<String>,
    pub(super) validator: Option<Validator>,
    pub(super) lifetime: Option<Duration>,
}

impl Fetched {
    /// How long the issuer lets the answer be used, if it says.
    pub(super) fn lifetime(&self) -> Option<Duration> {
        match self {
            Self::New(NewKeys { lifetime, .. }) | Self::Same { lifetime } => *lifetime,
        }
    }
}

/// Why keys cannot be fetched.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub(super) enum FetchError {
    #[error("`{0}` is not an HTTP URI without user and password")]
    Uri(String),
    #[error("find the address of `{host}`: {reason}")]
    Resolve { host: String, reason: String },
    #[error("`{0}` is no address that keys are fetched from: link-local, or a cloud's metadata service")]
    Address(IpAddr),
    #[error("connect to `{address}`: {reason}")]
    Connect { address: SocketAddr, reason: String },
    #[error("the root certificates: {0}")]
    Roots(String),
    #[error("the TLS handshake: {0}")]
    Tls(String),
    #[error("the HTTP exchange: {0}")]
    Http(String),
    #[error("no answer within {} s", .0.as_secs_f32())]
    Timeout(Duration),
    #[error("the answer has status {0}")]
    Status(u16),
    #[error("the answer leads to `{0}`; only a few redirects on the same host are followed")]
    Redirect(String),
    #[error("the answer has more than {0} bytes")]
    TooLarge(usize),
    #[error("the discovery document {0}")]
    Discovery(&'static str),
    #[error("the discovery document is that of issuer `{0}`")]
    Issuer(String),
    #[error("the discovery document came over HTTPS, and names the keys at `{0}`")]
    Downgrade(String),
    #[error(transparent)]
    Keys(#[from] KeySetError),
    #[error("the fetch broke off")]
    Broken,
}

impl FetchError {
    /// The metric's label.
    pub(super) fn reason(&self) -> &'static str {
        match self {
            Self::Uri(_) => "uri",
            Self::Resolve { .. } => "resolve",
            Self::Address(_) => "address",
            Self::Connect { .. } => "connect",
            Self::Roots(_) => "roots",
            Self::Tls(_) => "tls",
            Self::Http(_) => "http",
            Self::Timeout(_) => "timeout",
            Self::Status(_) => "status",
            Self::Redirect(_) => "redirect",
            Self::TooLarge(_) => "too_large",
            Self::Discovery(_) | Self::Issuer(_) | Self::Downgrade(_) => "discovery",
            Self::Keys(_) => "keys",
            Self::Broken => "broken",
        }
    }

    pub(super) fn roots(path: &Path, error: &std::io::Error) -> Self {
        Self::Roots(format!("read `{}`: {error}", path.display()))
    }
}

/// Fetches a key set, all of it within the document's time.
pub(super) async fn fetch(
    origin: KeyOrigin,
    known: Option<Validator>,
    roots: Option<PathBuf>,
) -> Result<Fetched, FetchError> {
    let limit = origin.timeout.min(LONGEST);
    let roots = roots.map(Into::into);
    match tokio::time::timeout(limit, unlimited(&origin.location, known, roots)).await {
        Ok(fetched) => fetched,
        Err(_) => Err(FetchError::Timeout(limit)),
    }
}

async fn unlimited(
    location: &KeyLocation,
    known: Option<Validator>,
    roots: Option<Arc<Path>>,
) -> Result<Fetched, FetchError> {
    let uri = match location {
        KeyLocation::Jwks(uri) => parse_uri(uri)?,
        KeyLocation::Discovery(at) => {
            let uri = parse_uri(at)?;
            match get(&uri, None, roots.clone()).await? {
                Answer::Body { bytes, .. } => keys_of(at, &uri, &bytes)?,
                Answer::Unchanged { .. } => return Err(FetchError::Status(304)),
            }
        }
    };
    let text = uri.to_string();
    let known = known.filter(|known| known.uri == text);
    let answer = get(&uri, known.as_ref().map(|known| known.etag.as_str()), roots).await?;
    let (bytes, etag, lifetime) = match answer {
        Answer::Unchanged { lifetime } => return Ok(Fetched::Same { lifetime }),
        Answer::Body {
            bytes,
            etag,
            lifetime,
        } => (bytes, etag, lifetime),
    };
    let jwks = std::str::from_utf8(&bytes).map_err(|_| KeySetError::Json)?;
    let keys = KeySet::parse(jwks)?;
    Ok(Fetched::New(NewKeys {
        jwks: keys.to_public_json().into(),
        skipped: keys
            .skipped()
            .iter()
            .take(MOST_SKIPPED)
            .map(|key| match &key.id {
                Some(id) => format!("key `{}`: {}", shown(id), key.why),
                None => format!("keys[{}]: {}", key.index, key.why),
            })
            .collect(),
        validator: etag.map(|etag| Validator { uri: text, etag }),
        lifetime,
    }))
}

/// Where a discovery document says that the issuer's keys are. It must be the document of the issuer whose name led to it
/// (OpenID Connect Discovery §4.3), or one issuer could bring the keys of another.
fn keys_of(at: &str, uri: &Uri, document: &[u8]) -> Result<Uri, FetchError> {
    #[derive(Deserialize)]
    struct Document {
        issuer: Option<String>,
        jwks_uri: Option<String>,
    }
    let document: Document = serde_json::from_slice(document)
        .map_err(|_| FetchError::Discovery("is not a JSON object of its kind"))?;
    let issuer = document
        .issuer
        .ok_or(FetchError::Discovery("names no `issuer`"))?;
    // The URI of the document is the issuer's without a slash at its end, with this behind it.
    let asked = at.strip_suffix(WELL_KNOWN).unwrap_or(at);
    if issuer != asked && issuer.strip_suffix('/') != Some(asked) {
        return Err(FetchError::Issuer(shown(&issuer)));
    }
    let keys = document
        .jwks_uri
        .ok_or(FetchError::Discovery("names no `jwks_uri`"))?;
    let keys = parse_uri(&keys)?;
    if uri.scheme() == Some(&Scheme::HTTPS) && keys.scheme() != Some(&Scheme::HTTPS) {
        return Err(FetchError::Downgrade(shown(&keys.to_string())));
    }
    Ok(keys)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys_of(issuer: &str, document: &str) -> Result<String, String> {
        let at = format!("{issuer}{WELL_KNOWN}");
        let uri = parse_uri(&at).unwrap();
        super::keys_of(&at, &uri, document.as_bytes())
            .map(|uri| uri.to_string())
            .map_err(|error| error.to_string())
    }

    #[test]
    fn a_discovery_document_is_its_issuers_own() {
        let document = |issuer: &str| {
            format!(r#"{{"issuer":"{issuer}","jwks_uri":"https://keys.example/jwks","more":[1]}}"#)
        };
        for issuer in ["https://a.example", "https://a.example/"] {
            assert_eq!(
                keys_of("https://a.example", &document(issuer)).as_deref(),
                Ok("https://keys.example/jwks")
            );
        }
        for issuer in [
            "https://b.example",
            "https://a.example//",
            "https://A.example",
            "http://a.example",
            "https://a.example/x",
            "",
        ] {
            let refused = keys_of("https://a.example", &document(issuer)).unwrap_err();
            assert_eq!(
                refused,
                format!("the discovery document is that of issuer `{issuer}`")
            );
        }
    }

    #[test]
    fn a_discovery_document_leads_to_keys_over_https_unless_it_came_over_http() {
        let document = |issuer: &str, keys: &str| format!(r#"{{"issuer":"{issuer}","jwks_uri":"{keys}"}}"#);
        let refused = keys_of(
            "https://a.example",
            &document("https://a.example", "http://a.example/jwks"),
        )
        .unwrap_err();
        assert!(refused.contains("came over HTTPS"), "{refused}");
        assert!(
            keys_of(
                "http://a.example",
                &document("http://a.example", "http://a.example/jwks")
            )
            .is_ok()
        );
        for keys in ["file:///etc/passwd", "jwks", "", "https://u:p@a.example/"] {
            let refused = keys_of("https://a.example", &document("https://a.example", keys)).unwrap_err();
            assert!(refused.contains("is not an HTTP URI"), "{refused}");
        }
        for (text, why) in [
            ("", "is not a JSON object of its kind"),
            ("[]", "is not a JSON object of its kind"),
            (r#"{"issuer":1}"#, "is not a JSON object of its kind"),
            ("{}", "names no `issuer`"),
            (r#"{"issuer":"https://a.example"}"#, "names no `jwks_uri`"),
        ] {
            assert_eq!(
                keys_of("https://a.example", text),
                Err(format!("the discovery document {why}")),
                "{text}"
            );
        }
    }
}
