//! CUSTOM: the authorizer that is asked, and what its rules may not use.

use std::sync::Arc;

use super::Action;
use crate::field::{Fields, Value};
use crate::finding::codes;
use crate::names;

/// `provider.name`, with action CUSTOM and only with it.
pub(super) fn read_provider(spec: &Fields<'_>, action: Option<Action>) -> Option<Arc<str>> {
    let is_custom = action == Some(Action::Custom);
    let Some(value) = spec.get("provider") else {
        if is_custom {
            let at = spec.get("action").map_or(spec.spot, |value| value.spot);
            spec.sink.error_help(
                codes::MISSING_FIELD,
                at,
                "action CUSTOM has no `provider` to ask",
                "write `provider: {name: NAME}`, a name of `extensionProviders` in the ConfigMap `istio`",
            );
        }
        return None;
    };
    let name = value.map(|fields| fields.required("name")?.parse(names::provider_name))?;
    if !is_custom {
        value.error_help(
            codes::CONFLICT,
            "`provider` is asked only by action CUSTOM",
            "write `action: CUSTOM`, or remove `provider`",
        );
        return None;
    }
    Some(name.as_str().into())
}

const SOURCE: &[&str] = &[
    "namespaces",
    "notNamespaces",
    "principals",
    "notPrincipals",
    "requestPrincipals",
    "notRequestPrincipals",
    "serviceAccounts",
    "notServiceAccounts",
    "trustDomains",
    "notTrustDomains",
];
const KEYS: &[&str] = &[
    "source.namespace",
    "source.principal",
    "source.serviceAccount",
    "source.trustDomain",
];

/// Rules of a CUSTOM policy choose by what the connection and the request look like; who asks is the authorizer's (Istio's
/// webhook).
pub(super) fn refuse_identities(spec: &Fields<'_>) {
    let rules = spec.get("rules").filter(|value| value.is_list());
    for rule in rules.map(Value::items).unwrap_or_default() {
        for source in rule
            .peek_items("from")
            .into_iter()
            .filter_map(|from| from.peek("source"))
        {
            for name in SOURCE {
                if let Some(value) = source.peek(name).filter(|value| !value.is_null()) {
                    refuse(value, name);
                }
            }
        }
        for key in rule
            .peek_items("when")
            .into_iter()
            .filter_map(|when| when.peek("key"))
        {
            if let Some(text) = key.raw()
                && (KEYS.contains(&text) || text.starts_with("request.auth."))
            {
                refuse(key, text);
            }
        }
    }
}

fn refuse(value: Value<'_>, name: &str) {
    let what = format!("a CUSTOM policy cannot ask for {}", value.sink.quoted(name));
    value.error_help(
        codes::CONFLICT,
        what,
        "the authorizer is told who asks; rules of a CUSTOM policy choose by address, port, host, method, path and headers",
    );
}
