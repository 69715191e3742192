//! `filters[]` of a rule or a backend.

use std::collections::BTreeSet;

use super::{HeaderChange, HeaderFilter};
use crate::field::{Fields, Value};
use crate::finding::codes;
use crate::names;

/// The most headers that a filter changes in one way (Gateway API's CRD).
const MOST_HEADERS: usize = 16;

/// All filters; each kind at most once.
pub(super) fn read_all(value: Value<'_>, most: usize) -> Vec<HeaderFilter> {
    let mut seen = BTreeSet::new();
    value.list_of_at_most(most, |item| {
        let filter = read(item)?;
        if !seen.insert(matches!(filter, HeaderFilter::Request(_))) {
            item.error(codes::CONFLICT, "the same type of filter is written twice");
        }
        Some(filter)
    })
}

/// Settings of the types that come later; with such a type, the finding is at the type.
const LATER: &[&str] = &[
    "cors",
    "extensionRef",
    "externalAuth",
    "requestMirror",
    "requestRedirect",
    "urlRewrite",
];

#[derive(Clone, Copy)]
enum Type {
    Request,
    Response,
    Later,
}

fn read(value: Value<'_>) -> Option<HeaderFilter> {
    value.map(|fields| {
        let request = fields.get("requestHeaderModifier");
        let response = fields.get("responseHeaderModifier");
        let later: Vec<Value<'_>> = LATER.iter().filter_map(|name| fields.get(name)).collect();
        let kind = fields.required("type")?;
        let read = kind.choice(&[
            ("RequestHeaderModifier", Type::Request),
            ("ResponseHeaderModifier", Type::Response),
            ("RequestMirror", Type::Later),
            ("RequestRedirect", Type::Later),
            ("URLRewrite", Type::Later),
            ("CORS", Type::Later),
            ("ExternalAuth", Type::Later),
            ("ExtensionRef", Type::Later),
        ])?;
        let (right, wrong) = match read {
            Type::Request => (request, response),
            Type::Response => (response, request),
            Type::Later => {
                let name = kind.raw().unwrap_or_default();
                kind.not_supported(format!("the filter `{name}` is not supported yet"));
                return None;
            }
        };
        for wrong in wrong.into_iter().chain(later) {
            wrong.error(
                codes::CONFLICT,
                format!("`{}` does not belong to this type of filter", wrong.name),
            );
        }
        let change = match (right, read) {
            (Some(value), _) => read_change(value)?,
            (None, Type::Request) => {
                fields.required("requestHeaderModifier");
                return None;
            }
            (None, Type::Response | Type::Later) => {
                fields.required("responseHeaderModifier");
                return None;
            }
        };
        Some(match read {
            Type::Request => HeaderFilter::Request(change),
            Type::Response | Type::Later => HeaderFilter::Response(change),
        })
    })
}

fn read_change(value: Value<'_>) -> Option<HeaderChange> {
    value.map(|fields| {
        let mut seen = BTreeSet::new();
        let set = read_headers(fields, "set", &mut seen);
        let add = read_headers(fields, "add", &mut seen);
        let remove = fields.get("remove").map(|value| {
            value.list_of_at_most(MOST_HEADERS, |item| {
                let name = item.parse(names::header_name)?;
                check_name(item, &name, &mut seen);
                Some(name)
            })
        });
        Some(HeaderChange {
            set,
            add,
            remove: remove.unwrap_or_default(),
        })
    })
}

fn read_headers(
    fields: &Fields<'_>,
    name: &'static str,
    seen: &mut BTreeSet<String>,
) -> Vec<(String, String)> {
    let Some(value) = fields.get(name) else {
        return Vec::new();
    };
    value.list_of_at_most(MOST_HEADERS, |item| {
        item.map(|fields| {
            let name_value = fields.required("name");
            let name = name_value.and_then(|value| value.parse(names::header_name));
            let text = fields
                .required("value")
                .and_then(|value| value.parse(names::header_value));
            if let (Some(value), Some(name)) = (name_value, &name) {
                check_name(value, name, seen);
            }
            Some((name?, text?))
        })
    })
}

/// Headers that frame a message or route it are the proxy's own.
const PROTECTED: &[&str] = &[
    "connection",
    "content-length",
    "host",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// Whether the header frames or routes a message.
pub(crate) fn is_protected_header(name: &str) -> bool {
    PROTECTED.contains(&name)
}

fn check_name(value: Value<'_>, name: &str, seen: &mut BTreeSet<String>) {
    if is_protected_header(name) {
        let what = format!("`{name}` frames or routes the message, so a filter cannot change it");
        value.error(codes::INVALID_VALUE, what);
    }
    if !seen.insert(name.to_owned()) {
        value.error(
            codes::CONFLICT,
            format!("`{name}` is changed twice in one filter"),
        );
    }
}
