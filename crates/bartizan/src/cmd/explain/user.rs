//! What a line of the access log says of the user: by which the decision is made again, and told.

use bartizan_decide::User;
use bartizan_types::NamespacedName;
use serde_json::{Map, Value};

use crate::evaluate::Picture;
use crate::hops::Hop;

/// The claims that were written down: who the user is, and what policies speak of.
pub(super) fn claims(hop: &Hop) -> Option<Map<String, Value>> {
    let told = hop.record.get("request_auth")?.as_object()?;
    let mut claims = told
        .get("claims")
        .and_then(Value::as_object)
        .cloned()
        .unwrap_or_default();
    for (from, to) in [
        ("issuer", "iss"),
        ("subject", "sub"),
        ("audiences", "aud"),
        ("presenter", "azp"),
        ("expires_at", "exp"),
    ] {
        if let Some(value) = told.get(from).filter(|value| !value.is_null()) {
            claims.insert(to.to_owned(), value.clone());
        }
    }
    Some(claims)
}

/// When the request began, in seconds since 1970.
pub(super) fn time(hop: &Hop) -> i64 {
    crate::text::parse_time(&hop.text("start_time")).unwrap_or_default()
}

/// Lines about the user: whose token by which key, or why there is none.
pub(super) fn drawn(
    picture: &Picture,
    callee: &NamespacedName,
    user: Option<&User>,
    hop: Option<&Hop>,
) -> String {
    let mut out = String::new();
    let refused = hop.map(|hop| hop.text("request_auth_error")).unwrap_or_default();
    if !refused.is_empty() {
        out += &format!("its token was refused: {refused}\n");
    }
    let mut rules = picture.token_rules(callee).peekable();
    if let Some(user) = user {
        out += &format!(
            "user {}, by a token of {}",
            user.subject().unwrap_or("without a subject"),
            user.issuer().unwrap_or("an issuer without a name")
        );
        let key = hop.and_then(|hop| hop.record.pointer("/request_auth/key_id")?.as_str());
        if let Some(key) = key {
            out += &format!(", key `{key}`");
        }
        if !user.audiences().is_empty() {
            out += &format!(", for {}", user.audiences().join(", "));
        }
        out += "\n";
    } else if refused.is_empty() && rules.peek().is_some() {
        out += "no user: the request has no token\n";
    }
    for (document, index, rule) in rules {
        let place = picture.positions.resource("RequestAuthentication", document);
        out += &format!(
            "RequestAuthentication {document} jwtRules[{index}] takes tokens of {}{}\n",
            rule.issuer.as_deref().unwrap_or("any issuer"),
            place.map_or_else(String::new, |place| format!("  ({place})"))
        );
    }
    out
}
