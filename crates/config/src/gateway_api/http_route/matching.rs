//! `matches[]` of a rule.

use std::collections::BTreeSet;

use super::{HttpRouteMatch, NamedMatch, PathPattern, ValuePattern};
use crate::field::{Fields, Value};
use crate::finding::codes;
use crate::names;

const METHODS: &[&str] = &[
    "GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH",
];
/// The most headers or query parameters of a match (Gateway API's CRD).
const MOST_NAMES: usize = 16;
/// The size of a compiled expression, in bytes.
const LARGEST_EXPRESSION: usize = 256 * 1024;

pub(super) fn read(value: Value<'_>) -> Option<HttpRouteMatch> {
    value.map(|fields| {
        let method = fields.get("method").and_then(|value| {
            let choices: Vec<(&str, &str)> = METHODS.iter().map(|method| (*method, *method)).collect();
            value.choice(&choices).map(str::to_owned)
        });
        Some(HttpRouteMatch {
            path: fields.get("path").and_then(read_path),
            headers: read_named(fields, "headers", names::header_name),
            query: read_named(fields, "queryParams", parameter_name),
            method,
        })
    })
}

#[derive(Clone, Copy)]
enum PathType {
    Exact,
    Prefix,
    Regex,
}

fn read_path(value: Value<'_>) -> Option<PathPattern> {
    value.map(|fields| {
        let kind = fields.get("type").map(|value| {
            value.choice(&[
                ("PathPrefix", PathType::Prefix),
                ("Exact", PathType::Exact),
                ("RegularExpression", PathType::Regex),
            ])
        });
        let value = fields.get("value");
        match kind.unwrap_or(Some(PathType::Prefix))? {
            PathType::Prefix => match value {
                Some(value) => value.parse(absolute).map(PathPattern::Prefix),
                None => Some(PathPattern::Prefix("/".to_owned())),
            },
            PathType::Exact => match value {
                Some(value) => value.parse(absolute).map(PathPattern::Exact),
                None => Some(PathPattern::Exact("/".to_owned())),
            },
            PathType::Regex => match value {
                Some(value) => value.parse(expression).map(PathPattern::Regex),
                None => {
                    fields.required("value");
                    None
                }
            },
        }
    })
}

/// What Gateway API's CRD asks of `Exact` and `PathPrefix` values.
fn absolute(text: &str) -> Result<String, String> {
    if !text.starts_with('/') {
        return Err(format!("`{text}` does not start with `/`"));
    }
    let upper = text.to_ascii_uppercase();
    let broken = ["//", "/./", "/../", "%2F", "#"]
        .iter()
        .any(|part| upper.contains(part))
        || text.ends_with("/..")
        || text.ends_with("/.");
    if broken || text.len() > 1024 {
        return Err(format!(
            "`{text}` has `//`, a dot segment, `%2F` or `#`, or is longer than 1024 bytes"
        ));
    }
    Ok(text.to_owned())
}

/// A regular expression of linear time; look-around and back references do not exist.
fn expression(text: &str) -> Result<String, String> {
    if text.len() > 4096 {
        return Err("an expression has at most 4096 bytes".to_owned());
    }
    match regex::RegexBuilder::new(text)
        .size_limit(LARGEST_EXPRESSION)
        .build()
    {
        Ok(_) => Ok(text.to_owned()),
        Err(regex::Error::CompiledTooBig(_)) => Err("the expression is too big when compiled".to_owned()),
        Err(error) => {
            let text = error.to_string();
            let last = text.lines().last().unwrap_or_default();
            Err(format!(
                "not a regular expression: {}",
                last.trim_start_matches("error: ")
            ))
        }
    }
}

fn parameter_name(text: &str) -> Result<String, String> {
    if text.is_empty() || text.len() > 256 {
        Err("the name of a query parameter has 1 to 256 bytes".to_owned())
    } else {
        Ok(text.to_owned())
    }
}

/// `headers` or `queryParams`; of entries with the same name only the first counts.
fn read_named(
    fields: &Fields<'_>,
    name: &'static str,
    read_name: fn(&str) -> Result<String, String>,
) -> Vec<NamedMatch> {
    let Some(value) = fields.get(name) else {
        return Vec::new();
    };
    let mut seen = BTreeSet::new();
    value.list_of_at_most(MOST_NAMES, |item| {
        let entry = item.map(|fields| {
            let exact = match fields.get("type") {
                Some(value) => value.choice(&[("Exact", true), ("RegularExpression", false)]),
                None => Some(true),
            };
            let name = fields.required("name").and_then(|value| value.parse(read_name));
            let value = fields.required("value").and_then(|value| {
                if exact? {
                    value.text().map(|text| ValuePattern::Exact(text.to_owned()))
                } else {
                    value.parse(expression).map(ValuePattern::Regex)
                }
            });
            Some(NamedMatch {
                name: name?,
                value: value?,
            })
        })?;
        if !seen.insert(entry.name.clone()) {
            item.warn(
                codes::POINTLESS_RULE,
                format!(
                    "`{}` is written twice in `{name}`; only the first counts",
                    entry.name
                ),
                "write one entry for each name",
            );
            return None;
        }
        Some(entry)
    })
}
