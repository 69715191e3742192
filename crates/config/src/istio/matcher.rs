//! Values of policies: texts that match exactly or in part, principals, namespaces, service accounts, address blocks, ports.

use std::sync::Arc;

use bartizan_types::{Cidr, NamespacedName, Port, StringMatch};

use crate::field::{Fields, Value};
use crate::finding::codes;
use crate::kinds::Owner;
use crate::names;

/// A list of values with its negation (`principals` and `notPrincipals`). Indices are those of the document.
#[derive(Clone, Debug, PartialEq)]
pub struct Matcher<T> {
    /// Values, any of which may match; empty asks for nothing.
    pub any: Vec<T>,
    /// Values, none of which may match.
    pub none: Vec<T>,
}

impl<T> Default for Matcher<T> {
    fn default() -> Self {
        Self {
            any: Vec::new(),
            none: Vec::new(),
        }
    }
}

impl<T> Matcher<T> {
    /// Whether nothing is asked for.
    pub fn is_empty(&self) -> bool {
        self.any.is_empty() && self.none.is_empty()
    }
}

/// `name` and `notName`: at least one value where they are written.
pub(crate) fn read_matcher<'a, T>(
    fields: &Fields<'a>,
    name: &'static str,
    not_name: &'static str,
    read: impl Fn(Value<'a>) -> Option<T>,
) -> Matcher<T> {
    let values = |name: &'static str| {
        let Some(value) = fields.get(name) else {
            return Vec::new();
        };
        if value.is_list() && value.items().is_empty() {
            value.error_help(
                codes::EMPTY,
                format!("`{name}` is empty, which would ask for nothing"),
                format!("remove `{name}`, or name at least one value"),
            );
        }
        value.list(&read)
    };
    Matcher {
        any: values(name),
        none: values(not_name),
    }
}

/// Any of Istio's four string forms; an empty text matches nothing and is refused by Istio's webhook.
pub(crate) fn read_string(value: Value<'_>) -> Option<StringMatch> {
    let text = read_present(value)?;
    if text.len() > 2 && text.starts_with('*') && text.ends_with('*') {
        value.warn(
            codes::POINTLESS_RULE,
            format!(
                "{} is a suffix that ends in a literal `*`",
                value.sink.quoted(text)
            ),
            "only one `*` works, at the start (suffix) or at the end (prefix)",
        );
    }
    Some(StringMatch::parse(text))
}

pub(crate) fn read_present(value: Value<'_>) -> Option<&str> {
    let text = value.text()?;
    if text.is_empty() {
        value.error(codes::EMPTY, format!("`{}` has an empty text", value.name));
        return None;
    }
    Some(text)
}

/// A principal, which policies write without its scheme.
pub(crate) fn read_principal(value: Value<'_>) -> Option<StringMatch> {
    let text = read_present(value)?;
    if let Some(rest) = text.strip_prefix("spiffe://") {
        value.error_help(
            codes::POINTLESS_RULE,
            "a principal is written without `spiffe://`; with it, it never matches",
            format!("write {}", value.sink.quoted(rest)),
        );
        return None;
    }
    let text_match = read_string(value)?;
    if let StringMatch::Exact(exact) = &text_match
        && bartizan_types::SpiffeId::parse(&format!("spiffe://{exact}")).is_err()
    {
        value.warn(
            codes::POINTLESS_RULE,
            format!(
                "{} is not an identity, so it never matches",
                value.sink.quoted(exact)
            ),
            "an identity reads `cluster.local/ns/NAMESPACE/sa/SERVICEACCOUNT`",
        );
    }
    Some(text_match)
}

/// A namespace, in which `*` stands for any run of characters.
pub(crate) fn read_namespace(value: Value<'_>) -> Option<Arc<str>> {
    let text = read_present(value)?;
    let fine = text
        .bytes()
        .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'.' | b'*'));
    if !fine {
        let what = format!(
            "{} is not a namespace, with or without `*`",
            value.sink.quoted(text)
        );
        value.error(codes::INVALID_VALUE, what);
        return None;
    }
    Some(text.into())
}

/// `namespace/service-account`, or a service account of the policy's own namespace.
pub(crate) fn read_service_account(value: Value<'_>, owner: &Owner<'_>) -> Option<NamespacedName> {
    value.parse(|text| {
        if text.contains('*') {
            return Err(format!("`{text}` has a `*`; service accounts are named in full"));
        }
        let (namespace, account) = match text.split_once('/') {
            Some((namespace, account)) => (names::dns_label(namespace)?, account),
            None => (owner.namespace.clone(), text),
        };
        Ok(NamespacedName::new(namespace, names::dns_name(account)?))
    })
}

/// A trust domain, with `*` at one end at most.
pub(crate) fn read_trust_domain(value: Value<'_>) -> Option<StringMatch> {
    let text = read_present(value)?;
    let inner = text
        .strip_prefix('*')
        .or_else(|| text.strip_suffix('*'))
        .unwrap_or(text);
    if !inner.is_empty() && bartizan_types::TrustDomain::parse(inner).is_err() {
        let what = format!(
            "{} is not a trust domain: a-z, 0-9, `.`, `-`, `_`",
            value.sink.quoted(text)
        );
        value.error(codes::INVALID_VALUE, what);
        return None;
    }
    Some(StringMatch::parse(text))
}

pub(crate) fn read_block(value: Value<'_>) -> Option<Cidr> {
    value.parse(Cidr::parse)
}

/// A port as Istio wants it: a text.
pub(crate) fn read_port(value: Value<'_>) -> Option<Port> {
    value.parse(Port::parse)
}

/// `issuer/subject` of a token; what stands after the last `/` is the subject.
pub(crate) fn read_request_principal(value: Value<'_>) -> Option<StringMatch> {
    let principal = read_string(value)?;
    if let StringMatch::Exact(text) = &principal
        && text
            .rsplit_once('/')
            .is_none_or(|(issuer, subject)| issuer.is_empty() || subject.is_empty())
    {
        value.warn(
            codes::POINTLESS_RULE,
            format!(
                "{} is not the principal of a token, so it never matches",
                value.sink.quoted(text)
            ),
            "it reads `ISSUER/SUBJECT`; `ISSUER/*` is every subject of an issuer",
        );
    }
    Some(principal)
}

/// A claim's value: only texts, and texts in lists, are compared.
pub(crate) fn read_claim_value(value: Value<'_>) -> Option<StringMatch> {
    let claim = read_string(value)?;
    if let StringMatch::Exact(text) = &claim
        && (matches!(&**text, "true" | "false") || text.parse::<f64>().is_ok_and(f64::is_finite))
    {
        value.warn(
            codes::POINTLESS_RULE,
            format!(
                "{} matches only a claim that is a text: numbers and booleans of a token are never compared",
                value.sink.quoted(text)
            ),
            "an AccessRule (`bartizan.dev/v1alpha1`) compares them: `auth.claims[\"level\"] >= 3`",
        );
    }
    Some(claim)
}
