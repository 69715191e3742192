//! `when[]`: a key, and values that it must or must not have.

use super::{
    Condition, read_block, read_matcher, read_namespace, read_port, read_principal, read_service_account,
    read_string, read_trust_domain,
};
use crate::field::{Fields, Value};
use crate::finding::codes;
use crate::kinds::Owner;
use crate::{names, suggest};

const KEYS: &[&str] = &[
    "connection.sni",
    "destination.ip",
    "destination.port",
    "source.ip",
    "source.namespace",
    "source.principal",
    "source.serviceAccount",
    "source.trustDomain",
];

pub(super) fn read(value: Value<'_>, owner: &Owner) -> Option<Condition> {
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
            _ => {
                let matcher = values(fields, read_string);
                Condition::Header(read_header(key_value, key)?, matcher)
            }
        })
    })
}

fn values<'a, T>(fields: &Fields<'a>, read: impl Fn(Value<'a>) -> Option<T>) -> super::Matcher<T> {
    read_matcher(fields, "values", "notValues", read)
}

/// `request.headers[NAME]`, or a finding about a key that is none of those that are read.
fn read_header(value: Value<'_>, key: &str) -> Option<std::sync::Arc<str>> {
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
    let later = key.starts_with("request.auth.") || key == "remote.ip" || key.starts_with("experimental.");
    if later {
        value.not_supported(format!("the key {} is not supported yet", value.sink.quoted(key)));
        return None;
    }
    let what = format!("{} is not a key of a condition", value.sink.quoted(key));
    match suggest::nearest(key, KEYS.iter().copied()) {
        Some(near) => value.error_help(codes::UNKNOWN_CHOICE, what, format!("did you mean `{near}`?")),
        None => value.error_help(
            codes::UNKNOWN_CHOICE,
            what,
            format!("the keys are `request.headers[NAME]`, `{}`", KEYS.join("`, `")),
        ),
    }
    None
}
