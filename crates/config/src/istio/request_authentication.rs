//! RequestAuthentication: whose tokens prove a user, and where they are looked for (Istio `security.istio.io`
//! RequestAuthentication).

use std::collections::BTreeSet;
use std::fmt::Display;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

mod jwks;

use super::target::{PolicyTarget, read_target};
use crate::field::{Fields, Value};
use crate::finding::{Severity, codes};
use crate::gateway_api::is_protected_header;
use crate::names;

/// Istio RequestAuthentication. A token that is there must be good; that there is one is asked by an AuthorizationPolicy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RequestAuthentication {
    /// Which workloads it is for.
    pub target: PolicyTarget,
    /// `jwtRules` in order.
    pub rules: Vec<JwtRule>,
}

/// One of `jwtRules`: an issuer whose tokens are taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JwtRule {
    /// `issuer`: what `iss` must be, exactly. None only with `jwksUri`; then any is taken.
    pub issuer: Option<Arc<str>>,
    /// `audiences`: `aud` must have one of them; empty asks for nothing.
    pub audiences: Vec<Arc<str>>,
    /// `jwks`, `jwksUri`, or where neither is set the issuer's discovery document.
    pub jwks: Jwks,
    /// `fromHeaders`.
    pub from_headers: Vec<JwtHeader>,
    /// `fromParams`: query parameters.
    pub from_params: Vec<Arc<str>>,
    /// `fromCookies`.
    pub from_cookies: Vec<Arc<str>>,
    /// `outputPayloadToHeader`, in lower case.
    pub output_payload_to_header: Option<Arc<str>>,
    /// `outputClaimToHeaders`; each header once.
    pub output_claim_to_headers: Vec<ClaimToHeader>,
    /// `forwardOriginalToken`; none is false.
    pub forward_original_token: Option<bool>,
    /// `timeout` of fetching keys; Istio's default is 5 s.
    pub timeout: Option<Duration>,
    /// `spaceDelimitedClaims`, beside `scope` and `permission`.
    pub space_delimited_claims: Vec<Arc<str>>,
}

impl JwtRule {
    /// Whether no location is named, so that Istio's defaults hold: the header `Authorization` with `Bearer `, and the query
    /// parameter `access_token`.
    pub fn has_default_locations(&self) -> bool {
        self.from_headers.is_empty() && self.from_params.is_empty() && self.from_cookies.is_empty()
    }
}

/// Where the keys of an issuer are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Jwks {
    /// `jwks`: the JSON of a JSON Web Key Set (RFC 7517 §5).
    Inline(Arc<str>),
    /// `jwksUri`: an `http` or `https` URI of one.
    Uri(Arc<str>),
    /// Neither: the URI of the issuer's discovery document, `ISSUER/.well-known/openid-configuration` (OpenID Connect
    /// Discovery 1.0 §4), which names the URI of the keys.
    Discovery(Arc<str>),
}

/// One of `fromHeaders`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct JwtHeader {
    /// `name`, in lower case.
    pub name: Arc<str>,
    /// `prefix`, compared exactly; empty where it is left out.
    pub prefix: Arc<str>,
}

/// One of `outputClaimToHeaders`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClaimToHeader {
    /// `header`, in lower case.
    pub header: Arc<str>,
    /// `claim`: the names from the outside in, which the document separates by `.`.
    pub claim: Vec<Arc<str>>,
}

// The bounds of Istio's CRD.
const MOST_RULES: usize = 4096;
const MOST_SPACE_DELIMITED: usize = 64;

pub(crate) fn read(fields: &Fields<'_>) -> Option<RequestAuthentication> {
    let Some(spec) = fields.get("spec") else {
        warn_of_no_rules(fields);
        return Some(RequestAuthentication::default());
    };
    spec.map(|spec| {
        let target = read_target(spec);
        let rules = spec
            .get("jwtRules")
            .map(|value| value.list_of_at_most(MOST_RULES, read_rule));
        if rules.is_none() {
            warn_of_no_rules(spec);
        }
        Some(RequestAuthentication {
            target: target?,
            rules: rules.unwrap_or_default(),
        })
    })
}

fn warn_of_no_rules(fields: &Fields<'_>) {
    fields.sink.push(
        Severity::Warning,
        codes::POINTLESS_RULE,
        fields.spot,
        "there are no `jwtRules`, so no token is looked at",
        None,
        Some(
            "name an issuer; to ask for a token write an AuthorizationPolicy with `requestPrincipals`"
                .to_owned(),
        ),
    );
}

fn read_rule(value: Value<'_>) -> Option<JwtRule> {
    value.map(|fields| {
        let issuer_value = fields.get("issuer");
        let issuer = issuer_value.and_then(read_word);
        let audiences = read_words(fields, "audiences");
        if audiences.is_empty() {
            fields.sink.push(
                Severity::Note,
                codes::UNSAFE,
                issuer_value.map_or(fields.spot, |value| value.spot),
                "a token that the issuer made for another service is taken too",
                None,
                Some("name what tokens for this service have as `aud` in `audiences`".to_owned()),
            );
        }
        let jwks = read_jwks(fields, issuer_value, issuer.as_ref());
        let from_headers = read_headers(fields);
        let from_params = read_words(fields, "fromParams");
        let from_cookies = read_cookies(fields);
        let output_payload_to_header = fields.get("outputPayloadToHeader").and_then(read_output);
        let output_claim_to_headers = read_claims(fields, output_payload_to_header.as_ref());
        let timeout = fields.get("timeout").and_then(|value| {
            let timeout = value.parse(names::seconds)?;
            if timeout < Duration::from_millis(1) {
                value.error(codes::OUT_OF_RANGE, "`timeout` is at least 0.001s");
            }
            Some(timeout)
        });
        let space_delimited_claims = read_words(fields, "spaceDelimitedClaims");
        if space_delimited_claims.len() > MOST_SPACE_DELIMITED
            && let Some(value) = fields.get("spaceDelimitedClaims")
        {
            let what = format!("`spaceDelimitedClaims` has more than {MOST_SPACE_DELIMITED} items");
            value.error(codes::OUT_OF_RANGE, what);
        }
        Some(JwtRule {
            issuer,
            audiences,
            from_headers,
            from_params,
            from_cookies,
            output_payload_to_header,
            output_claim_to_headers,
            forward_original_token: fields.boolean("forwardOriginalToken"),
            timeout,
            space_delimited_claims,
            jwks: jwks?,
        })
    })
}

/// A text that is not empty.
fn read_word(value: Value<'_>) -> Option<Arc<str>> {
    super::matcher::read_present(value).map(Arc::from)
}

/// A list of texts that are not empty, where it is written.
fn read_words(fields: &Fields<'_>, name: &'static str) -> Vec<Arc<str>> {
    let mut seen = BTreeSet::new();
    let word = |value| once(value, read_word(value)?, &mut seen);
    fields.get(name).map(|value| value.list(word)).unwrap_or_default()
}

/// The word, with a warning where the list has it already.
fn once<T: Clone + Ord + Display>(value: Value<'_>, word: T, seen: &mut BTreeSet<T>) -> Option<T> {
    if !seen.insert(word.clone()) {
        value.warn(
            codes::POINTLESS_RULE,
            format!(
                "`{}` has {} twice",
                value.name,
                value.sink.quoted(&word.to_string())
            ),
            "keep one of the two",
        );
        return None;
    }
    Some(word)
}

fn read_jwks(
    fields: &Fields<'_>,
    issuer_value: Option<Value<'_>>,
    issuer: Option<&Arc<str>>,
) -> Option<Jwks> {
    let inline = fields.get("jwks");
    // The CRD names the snake-case form too.
    let uris = [fields.get("jwksUri"), fields.get("jwks_uri")];
    let written: Vec<Value<'_>> = inline.into_iter().chain(uris.into_iter().flatten()).collect();
    if let [_, second, ..] = written.as_slice() {
        second.error_help(
            codes::CONFLICT,
            "only one of `jwks` and `jwksUri` may be set",
            "keep the one where the keys are",
        );
        return None;
    }
    if let Some(value) = inline {
        if issuer_value.is_none() {
            let what = "the rule has neither `issuer` nor `jwksUri`";
            fields.sink.error(codes::MISSING_FIELD, fields.spot, what);
        }
        return jwks::read(value).map(Jwks::Inline);
    }
    if let Some(value) = uris.into_iter().flatten().next() {
        let uri = value.parse(names::http_uri)?;
        warn_of_plain_http(value, &uri);
        return Some(Jwks::Uri(uri.into()));
    }
    let Some(value) = issuer_value else {
        let what = "the rule has neither `issuer` nor `jwksUri`";
        fields.sink.error(codes::MISSING_FIELD, fields.spot, what);
        return None;
    };
    let issuer = issuer?;
    let uri = format!(
        "{}/.well-known/openid-configuration",
        issuer.strip_suffix('/').unwrap_or(issuer)
    );
    if names::http_uri(&uri).is_err() {
        value.error_help(
            codes::MISSING_FIELD,
            format!(
                "the keys of {} cannot be found: it is not a URI with a discovery document, and there is neither `jwks` nor `jwksUri`",
                value.sink.quoted(issuer)
            ),
            "add `jwksUri`, or the keys themselves as `jwks`",
        );
        return None;
    }
    warn_of_plain_http(value, &uri);
    Some(Jwks::Discovery(uri.into()))
}

/// Keys that come without TLS are whoever's who stands in between.
fn warn_of_plain_http(value: Value<'_>, uri: &str) {
    let Some(rest) = uri.strip_prefix("http://") else {
        return;
    };
    let host = rest.split(['/', '?', ':']).next().unwrap_or_default();
    let is_near = rest.starts_with("[::1]")
        || host == "localhost"
        || host
            .parse::<Ipv4Addr>()
            .is_ok_and(|address| address.is_loopback());
    if !is_near {
        value.warn(
            codes::UNSAFE,
            format!(
                "the keys come from {} without TLS, so who stands in between can make tokens",
                value.sink.quoted(uri)
            ),
            "use `https://`",
        );
    }
}

fn read_headers(fields: &Fields<'_>) -> Vec<JwtHeader> {
    let mut seen = BTreeSet::new();
    let header = |item: Value<'_>| {
        item.map(|fields| {
            let name = fields
                .required("name")
                .and_then(|value| value.parse(names::header_name));
            let prefix_value = fields.get("prefix");
            let prefix = prefix_value.map_or(Some(""), Value::text);
            if let (Some(value), Some(prefix)) = (prefix_value, prefix)
                && prefix.ends_with(|c: char| c.is_ascii_alphanumeric())
            {
                value.warn(
                    codes::POINTLESS_RULE,
                    format!(
                        "{} is compared exactly, so the blank behind it would be a part of the token",
                        value.sink.quoted(prefix)
                    ),
                    format!("write \"{} \"", value.sink.quoted(prefix).trim_matches('`')),
                );
            }
            let header = JwtHeader {
                name: name?.into(),
                prefix: prefix?.into(),
            };
            if !seen.insert(header.clone()) {
                item.warn(
                    codes::POINTLESS_RULE,
                    "`fromHeaders` has the same header twice",
                    "keep one of the two",
                );
                return None;
            }
            Some(header)
        })
    };
    let list = fields.get("fromHeaders");
    list.map(|value| value.list(header)).unwrap_or_default()
}

fn read_cookies(fields: &Fields<'_>) -> Vec<Arc<str>> {
    let mut seen = BTreeSet::new();
    let cookie = |value: Value<'_>| {
        // RFC 6265 §4.1.1: the name of a cookie is a token, in its own case.
        let name = value.parse(|text| match names::header_name(text) {
            Ok(_) => Ok(Arc::<str>::from(text)),
            Err(_) => Err(format!(
                "`{text}` is not the name of a cookie: letters, digits and !#$%&'*+-.^_`|~"
            )),
        })?;
        once(value, name, &mut seen)
    };
    let list = fields.get("fromCookies");
    list.map(|value| value.list(cookie)).unwrap_or_default()
}

/// A header that the proxy writes into the request.
fn read_output(value: Value<'_>) -> Option<Arc<str>> {
    let name = value.parse(|text| {
        // Istio's CRD.
        let fine = !text.is_empty()
            && text
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'));
        if fine {
            names::header_name(text)
        } else {
            Err(format!(
                "`{text}` is not a header name: letters, digits, `-`, `_`"
            ))
        }
    })?;
    if is_protected_header(&name) {
        let what = format!("`{name}` frames or routes the message, so a token cannot write it");
        value.error(codes::INVALID_VALUE, what);
        return None;
    }
    Some(name.into())
}

fn read_claims(fields: &Fields<'_>, payload: Option<&Arc<str>>) -> Vec<ClaimToHeader> {
    let mut seen: BTreeSet<Arc<str>> = payload.into_iter().cloned().collect();
    let output = |item: Value<'_>| {
        item.map(|fields| {
            let header_value = fields.required("header");
            let header = header_value.and_then(read_output);
            let claim = fields.required("claim").and_then(|value| {
                value.parse(|text| {
                    if text.is_empty() || text.split('.').any(str::is_empty) {
                        return Err(format!("`{text}` is not a claim: NAME, or OUTER.INNER"));
                    }
                    Ok(text.split('.').map(Arc::from).collect())
                })
            });
            if let (Some(value), Some(header)) = (header_value, &header)
                && !seen.insert(header.clone())
            {
                let what = format!("the header `{header}` is written twice");
                value.error(codes::CONFLICT, what);
            }
            Some(ClaimToHeader {
                header: header?,
                claim: claim?,
            })
        })
    };
    let list = fields.get("outputClaimToHeaders");
    list.map(|value| value.list(output)).unwrap_or_default()
}
