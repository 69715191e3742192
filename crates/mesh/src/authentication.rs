//! How users prove who they are: the rules of `RequestAuthentication` as a proxy holds them, and the keys of their issuers.
//!
//! The meaning is Istio's (`RequestAuthentication.jwtRules`); `decide::authenticate` has it. Keys come apart from rules,
//! because they change without a document changing: the control plane fetches them and tells every proxy that needs them.

use std::sync::Arc;

use bartizan_types::NamespacedName;
use serde::{Deserialize, Serialize};

/// One `RequestAuthentication`, resolved.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RequestAuthentication {
    /// Namespace and name as written.
    pub name: NamespacedName,
    /// The rules in the order of the document.
    pub rules: Vec<JwtRule>,
    /// Stands for a document that could not be decoded: every request is refused.
    pub is_unreadable: bool,
}

impl RequestAuthentication {
    /// What stands for one that is missing or cannot be decoded: it refuses every request.
    pub fn refuse_everything(name: NamespacedName) -> Self {
        Self {
            name,
            rules: Vec::new(),
            is_unreadable: true,
        }
    }
}

/// One accepted issuer of tokens.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct JwtRule {
    /// `issuer`: what `iss` must be, exactly; `None` where the document names none, and any is taken.
    pub issuer: Option<Arc<str>>,
    /// `audiences`: `aud` must have one of them; empty asks for nothing.
    pub audiences: Vec<Arc<str>>,
    /// Where the issuer's keys are.
    pub keys: KeySource,
    /// Where tokens are looked for, in this order; Istio's defaults are filled in.
    pub locations: Vec<TokenLocation>,
    /// `forwardOriginalToken`: the token stays in the request.
    pub forward_original_token: bool,
    /// `outputPayloadToHeader`, lower case: gets the payload in base64url.
    pub output_payload_to_header: Option<Arc<str>>,
    /// `outputClaimToHeaders`.
    pub output_claims: Vec<ClaimHeader>,
    /// `spaceDelimitedClaims`, beside `scope` and `permission`.
    pub space_delimited_claims: Vec<Arc<str>>,
}

/// Where the keys of an issuer are.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum KeySource {
    /// `jwks`: the JSON of the document.
    Inline(Arc<str>),
    /// A [`KeySet`] of this name, which the control plane fetches.
    Fetched(Arc<str>),
}

/// A place where a token may be.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum TokenLocation {
    /// A header, its name in lower case, whose value begins with the prefix (case-sensitive; may be empty).
    Header {
        /// The header's name.
        name: Arc<str>,
        /// What stands before the token.
        prefix: Arc<str>,
    },
    /// A query parameter.
    Param(Arc<str>),
    /// A cookie.
    Cookie(Arc<str>),
}

/// A claim that is handed on as a header.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ClaimHeader {
    /// The header's name, in lower case.
    pub header: Arc<str>,
    /// The claim's name and those within it, from the outside in.
    pub claim: Vec<Arc<str>>,
}

/// The public keys of an issuer, as the control plane fetched them.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct KeySet {
    /// Stands for where they come from; see [`KeySource::Fetched`].
    pub name: Arc<str>,
    /// Where they come from: the URI of a JWKS, or that of an issuer's discovery document.
    pub source: Arc<str>,
    /// The JWKS, private parts taken out; `None` until it was fetched once, and every token is refused.
    pub jwks: Option<Arc<str>>,
    /// When it was fetched, in seconds since 1970; 0 for never.
    pub fetched_at: i64,
}
