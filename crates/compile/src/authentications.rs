//! RequestAuthentications: which workloads they are for, and what they say, resolved.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bartizan_config::istio::{self, Jwks};
use bartizan_mesh::{ClaimHeader, JwtRule, KeySource, RequestAuthentication, Resource, TokenLocation};
use bartizan_types::NamespacedName;
use serde_json::Value;

use crate::keys::{KeyLocation, KeyOrigin};
use crate::library::Library;
use crate::options::Options;
use crate::services::Services;
use crate::target::Attachment;

/// A RequestAuthentication and the workloads that it is for.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct AuthenticationEntry {
    pub(crate) authentication: RequestAuthentication,
    pub(crate) resource: Arc<Resource>,
    pub(crate) attachment: Attachment,
    /// The key sets that its rules use.
    pub(crate) keys: Vec<KeyOrigin>,
}

pub(crate) type Authentications = BTreeMap<NamespacedName, Arc<AuthenticationEntry>>;

/// Istio's, where a rule has no `timeout`.
const TIMEOUT: Duration = Duration::from_secs(5);

/// All RequestAuthentications.
pub(crate) fn build(library: &Library, services: &Services, options: &Options) -> Authentications {
    let mut authentications = Authentications::new();
    for document in library.iter() {
        let bartizan_config::Resource::RequestAuthentication(written) = &document.resource else {
            continue;
        };
        let Some(name) = document.namespaced_name() else {
            continue;
        };
        let authentication = RequestAuthentication {
            name: name.clone(),
            rules: written.rules.iter().map(rule).collect(),
            is_unreadable: false,
        };
        let entry = AuthenticationEntry {
            resource: Arc::new(Resource::RequestAuthentication(authentication.clone())),
            authentication,
            attachment: Attachment::new(&name, &written.target, services, options),
            keys: written.rules.iter().filter_map(origin).collect(),
        };
        authentications.insert(name, Arc::new(entry));
    }
    authentications
}

fn rule(written: &istio::JwtRule) -> JwtRule {
    JwtRule {
        issuer: written.issuer.clone(),
        audiences: written.audiences.clone(),
        keys: match location(&written.jwks) {
            Ok(location) => KeySource::Fetched(location.key_set()),
            Err(inline) => KeySource::Inline(public_only(inline)),
        },
        locations: locations(written),
        forward_original_token: written.forward_original_token.unwrap_or(false),
        output_payload_to_header: written.output_payload_to_header.clone(),
        output_claims: written
            .output_claim_to_headers
            .iter()
            .map(|output| ClaimHeader {
                header: output.header.clone(),
                claim: output.claim.clone(),
            })
            .collect(),
        space_delimited_claims: written.space_delimited_claims.clone(),
    }
}

/// Where the keys must be fetched from; the text of those that are in the document itself.
fn location(jwks: &Jwks) -> Result<KeyLocation, &str> {
    match jwks {
        Jwks::Inline(text) => Err(text),
        Jwks::Uri(uri) => Ok(KeyLocation::Jwks(uri.clone())),
        Jwks::Discovery(uri) => Ok(KeyLocation::Discovery(uri.clone())),
    }
}

fn origin(written: &istio::JwtRule) -> Option<KeyOrigin> {
    let location = location(&written.jwks).ok()?;
    Some(KeyOrigin {
        name: location.key_set(),
        location,
        timeout: written.timeout.unwrap_or(TIMEOUT),
    })
}

/// Istio's order: headers, parameters, cookies; its defaults where the rule names no place.
fn locations(written: &istio::JwtRule) -> Vec<TokenLocation> {
    if written.has_default_locations() {
        return vec![
            TokenLocation::Header {
                name: "authorization".into(),
                prefix: "Bearer ".into(),
            },
            TokenLocation::Param("access_token".into()),
        ];
    }
    let headers = written.from_headers.iter().map(|header| TokenLocation::Header {
        name: header.name.clone(),
        prefix: header.prefix.clone(),
    });
    let params = written.from_params.iter().cloned().map(TokenLocation::Param);
    let cookies = written.from_cookies.iter().cloned().map(TokenLocation::Cookie);
    headers.chain(params).chain(cookies).collect()
}

/// The members of a JSON Web Key that only its owner may know (RFC 7518 §6.2.2, §6.3.2, §6.4.1; RFC 8037 §2).
const PRIVATE: [&str; 8] = ["d", "p", "q", "dp", "dq", "qi", "oth", "k"];

/// A key set without what a proxy must not hold. What is no key set has no keys, and every token is refused.
fn public_only(jwks: &str) -> Arc<str> {
    let Ok(Value::Object(mut set)) = serde_json::from_str(jwks) else {
        return r#"{"keys":[]}"#.into();
    };
    for key in set
        .get_mut("keys")
        .and_then(Value::as_array_mut)
        .into_iter()
        .flatten()
    {
        if let Some(key) = key.as_object_mut() {
            key.retain(|member, _| !PRIVATE.contains(&member.as_str()));
        }
    }
    Value::Object(set).to_string().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proxy_is_not_told_private_parts() {
        let told = public_only(
            r#"{"keys":[{"kty":"EC","d":"secret","x":"1","kid":"a"},{"kty":"oct","k":"secret"}]}"#,
        );
        assert_eq!(
            &*told,
            r#"{"keys":[{"kid":"a","kty":"EC","x":"1"},{"kty":"oct"}]}"#
        );
        assert_eq!(&*public_only("nothing"), r#"{"keys":[]}"#);
    }
}
