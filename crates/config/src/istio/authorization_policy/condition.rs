//! `when[]`: a key, and values that it must or must not have.

use std::sync::Arc;

use super::super::matcher::{
    Matcher, read_block, read_claim_value, read_matcher, read_namespace, read_port, read_principal,
    read_request_principal, read_service_account, read_string, read_trust_domain,
};
use super::Condition;
use crate::field::{Fields, Value};
use crate::finding::codes;
use crate::kinds::Owner;
use crate::{names, suggest};

const KEYS: &[&str] = &[
    "connection.sni",
    "destination.ip",
    "destination.port",
    "remote.ip",
    "request.auth.audiences",
    "request.auth.presenter",
    "request.auth.principal",
    "source.ip",
    "source.namespace",
    "source.principal",
    "source.serviceAccount",
    "source.trustDomain",
];

pub(super) fn read(value: Value<'_>, owner: &Owner<'_>) -> Option<Condition> {
    value.map(|fields| {
        if !fields.has("values") && !fields.has("notValues") {
            let what = "the condition has neither `values` nor `notValues`";
            fields.sink.error(codes::MISSING_FIELD, fields.spot, what);
        }
        let key_value = fields.required("key")?;
        let key = key_value.text()?;
        Some(match key {
            "source.ip" => Condition::SourceIp(values(fields, read_block)),
            "source.namespace" => Condition::SourceNamespace(values(fields, read_namespace)),
            "source.principal" => Condition::SourcePrincipal(values(fields, read_principal)),
            "source.serviceAccount" => {
                Condition::SourceServiceAccount(values(fields, |value| read_service_account(value, owner)))
            }
            "source.trustDomain" => Condition::SourceTrustDomain(values(fields, read_trust_domain)),
            "destination.ip" => Condition::DestinationIp(values(fields, read_block)),
            "destination.port" => Condition::DestinationPort(values(fields, read_port)),
            "connection.sni" => Condition::Sni(values(fields, read_string)),
            "remote.ip" => Condition::RemoteIp(values(fields, read_block)),
            "request.auth.principal" => Condition::RequestPrincipal(values(fields, read_request_principal)),
            "request.auth.audiences" => Condition::RequestAudiences(values(fields, read_string)),
            "request.auth.presenter" => Condition::RequestPresenter(values(fields, read_string)),
            _ if key.starts_with(CLAIMS) => {
                let matcher = values(fields, read_claim_value);
                Condition::RequestClaim(read_claim(key_value, key)?, matcher)
            }
            _ => {
                let matcher = values(fields, read_string);
                Condition::Header(read_header(key_value, key)?, matcher)
            }
        })
    })
}

fn values<'a, T>(fields: &Fields<'a>, read: impl Fn(Value<'a>) -> Option<T>) -> Matcher<T> {
    read_matcher(fields, "values", "notValues", read)
}

const CLAIMS: &str = "request.auth.claims";

/// `request.auth.claims[NAME]`, and `[NAME]` again for a claim within it.
fn read_claim(value: Value<'_>, key: &str) -> Option<Vec<Arc<str>>> {
    let names = key.strip_prefix(CLAIMS).and_then(claim_names);
    if names.is_none() {
        value.error_help(
            codes::INVALID_VALUE,
            format!("{} names no claim", value.sink.quoted(key)),
            "write `request.auth.claims[NAME]`, or `request.auth.claims[OUTER][INNER]`",
        );
    }
    names
}

/// The names in brackets, from the outside in. Where they are not simply one bracket after the other, everything between
/// the first and the last bracket is one name, as in Istio.
pub(crate) fn claim_names(text: &str) -> Option<Vec<Arc<str>>> {
    let inner = text.strip_prefix('[')?.strip_suffix(']')?;
    let parts: Vec<&str> = inner.split("][").collect();
    let names = if parts.iter().any(|part| part.contains(['[', ']'])) {
        vec![inner]
    } else {
        parts
    };
    if names.iter().any(|name| name.is_empty()) {
        return None;
    }
    Some(names.into_iter().map(Arc::from).collect())
}

/// `request.headers[NAME]`, or a finding about a key that is none of those that are read.
fn read_header(value: Value<'_>, key: &str) -> Option<Arc<str>> {
    if let Some(rest) = key.strip_prefix("request.headers") {
        let Some(name) = rest.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) else {
            let what = format!("{} names no header", value.sink.quoted(key));
            value.error_help(codes::INVALID_VALUE, what, "write `request.headers[NAME]`");
            return None;
        };
        return match names::header_name(name) {
            Ok(name) => Some(name.into()),
            Err(what) => {
                value.error(codes::INVALID_VALUE, what);
                None
            }
        };
    }
    if key.starts_with("experimental.envoy.filters.") {
        let what = format!(
            "the key {} reads what an Envoy filter left behind, and there are no such filters here",
            value.sink.quoted(key)
        );
        let help = "an AccessRule (`bartizan.dev/v1alpha1`) has conditions over the whole request";
        value.error_help(codes::NOT_SUPPORTED, what, help);
        return None;
    }
    let what = format!("{} is not a key of a condition", value.sink.quoted(key));
    match suggest::nearest(key, KEYS.iter().copied()) {
        Some(near) => value.error_help(codes::UNKNOWN_CHOICE, what, format!("did you mean `{near}`?")),
        None => value.error_help(
            codes::UNKNOWN_CHOICE,
            what,
            format!(
                "the keys are `request.headers[NAME]`, `request.auth.claims[NAME]`, `{}`",
                KEYS.join("`, `")
            ),
        ),
    }
    None
}

#[cfg(test)]
mod tests {
    use super::claim_names;

    #[test]
    fn claims_are_named_as_istio_names_them() {
        for (text, names) in [
            ("[iss]", Some(vec!["iss"])),
            ("[a][b]", Some(vec!["a", "b"])),
            ("[a.b][c]", Some(vec!["a.b", "c"])),
            // Brackets that do not pair up are part of one name.
            ("[a[b]]", Some(vec!["a[b]"])),
            ("[[a]]", Some(vec!["[a]"])),
            ("[a]b]", Some(vec!["a]b"])),
            ("[a] [b]", Some(vec!["a] [b"])),
            ("", None),
            ("[]", None),
            ("[a][]", None),
            ("[a", None),
            ("a]", None),
            (".a", None),
        ] {
            let found = claim_names(text);
            let found: Option<Vec<&str>> = found
                .as_ref()
                .map(|names| names.iter().map(|name| &**name).collect());
            assert_eq!(found, names, "{text}");
        }
    }
}
