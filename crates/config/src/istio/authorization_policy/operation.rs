//! `to[].operation`: what is asked.

use bartizan_types::StringMatch;

use super::super::matcher::{read_matcher, read_port, read_present, read_string};
use super::{Operation, PathMatch};
use crate::field::{Fields, Value};
use crate::finding::codes;

pub(super) fn read(value: Value<'_>) -> Option<Operation> {
    value.map(|to| {
        to.required("operation")?.map(|fields| {
            if fields.is_empty() {
                fields.sink.error_help(
                    codes::EMPTY,
                    fields.spot,
                    "`operation` asks for nothing, which would match everything",
                    "leave `to` out to mean every operation, or say which",
                );
            }
            let hosts = read_matcher(fields, "hosts", "notHosts", read_string);
            warn_of_ports(fields, "hosts");
            warn_of_ports(fields, "notHosts");
            Some(Operation {
                hosts,
                ports: read_matcher(fields, "ports", "notPorts", read_port),
                methods: read_matcher(fields, "methods", "notMethods", read_method),
                paths: read_matcher(fields, "paths", "notPaths", read_path),
            })
        })
    })
}

/// A host is compared with its port text, so `example.com` alone lets `example.com:8080` through.
fn warn_of_ports(fields: &Fields<'_>, name: &'static str) {
    let values = fields.get(name).filter(|value| value.is_list());
    let values = values.map(Value::items).unwrap_or_default();
    let hosts: Vec<(Value<'_>, String)> = values
        .into_iter()
        .filter_map(|value| Some((value, value.raw()?.to_ascii_lowercase())))
        .collect();
    for (value, host) in &hosts {
        let is_exact = !host.starts_with('*') && !host.ends_with('*') && !host.is_empty();
        let names_port = host.rsplit_once(':').is_some_and(|(name, port)| {
            port.bytes().all(|b| b.is_ascii_digit()) && !name.ends_with(':') && !port.is_empty()
        });
        let with_port = format!("{host}:");
        let is_paired = hosts.iter().any(|(_, other)| {
            other.starts_with(&with_port)
                || other
                    .strip_suffix('*')
                    .is_some_and(|prefix| host.starts_with(prefix))
        });
        if !is_exact || names_port || is_paired || value.sink.is_full() {
            continue;
        }
        let shown = value.sink.quoted(host);
        let shown = shown.trim_matches('`');
        value.warn(
            codes::POINTLESS_RULE,
            format!("`{shown}` does not match a request that names its port, such as `{shown}:8080`"),
            format!("write both: [\"{shown}\", \"{shown}:*\"]"),
        );
    }
}

pub(crate) fn read_method(value: Value<'_>) -> Option<StringMatch> {
    let method = read_string(value)?;
    let text = value.raw().unwrap_or_default();
    if text.bytes().any(|b| b.is_ascii_lowercase()) {
        let upper = text.to_ascii_uppercase();
        value.warn(
            codes::POINTLESS_RULE,
            format!(
                "{} matches no usual method: methods are compared in their own case",
                value.sink.quoted(text)
            ),
            format!("write `{upper}`"),
        );
    }
    Some(method)
}

pub(crate) fn read_path(value: Value<'_>) -> Option<PathMatch> {
    let text = read_present(value)?;
    if text.contains("{*}") || text.contains("{**}") {
        return match template_problem(text) {
            None => Some(PathMatch::Template(text.into())),
            Some(problem) => {
                let what = format!("{} is not a path template: {problem}", value.sink.quoted(text));
                value.error_help(
                    codes::INVALID_VALUE,
                    what,
                    "`{*}` stands for one whole segment, `{**}` for zero or more at the end: `/v1/{*}/items/{**}`",
                );
                None
            }
        };
    }
    let path = read_string(value)?;
    if text.contains(['{', '}']) {
        value.warn(
            codes::POINTLESS_RULE,
            format!("{} has literal braces", value.sink.quoted(text)),
            "the operators of templates are `{*}` and `{**}`",
        );
    } else if text.contains(['?', '#']) {
        value.warn(
            codes::POINTLESS_RULE,
            format!(
                "{} never matches: paths are compared without query and fragment",
                value.sink.quoted(text)
            ),
            "write the part before `?`",
        );
    } else if let StringMatch::Exact(start) | StringMatch::Prefix(start) = &path
        && !start.starts_with('/')
    {
        value.warn(
            codes::POINTLESS_RULE,
            format!(
                "{} never matches: a path starts with `/`",
                value.sink.quoted(text)
            ),
            format!("write {}", value.sink.quoted(&format!("/{text}"))),
        );
    }
    Some(PathMatch::Text(path))
}

/// Why the text is not a template, by Istio's rules (security reference, paths).
fn template_problem(text: &str) -> Option<&'static str> {
    let Some(path) = text.strip_prefix('/') else {
        return Some("it starts with `/`");
    };
    let mut ended = false;
    for segment in path.split('/') {
        match segment {
            "{*}" | "{**}" if ended => return Some("`{**}` is the last operator"),
            "{*}" => {}
            "{**}" => ended = true,
            _ if segment.contains(['{', '}', '*']) => {
                return Some("`{*}` and `{**}` stand for whole segments, and there are no other operators");
            }
            _ if !is_literal(segment) => return Some("a segment has a character that a path has not"),
            _ => {}
        }
    }
    None
}

/// `pchar` of RFC 3986 §3.3, percent escapes whole.
fn is_literal(segment: &str) -> bool {
    let mut rest = segment.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        rest = match (byte, tail) {
            (b'%', [a, b, tail @ ..]) if a.is_ascii_hexdigit() && b.is_ascii_hexdigit() => tail,
            (b, tail) if b.is_ascii_alphanumeric() || b"-._~!$&'()+,;=:@".contains(&b) => tail,
            _ => return false,
        };
    }
    true
}

#[cfg(test)]
mod tests {
    use super::template_problem;

    #[test]
    fn templates_have_whole_segment_operators_and_one_open_end() {
        for fine in [
            "/{*}",
            "/{**}",
            "/foo/{*}/bar",
            "/foo/{**}/",
            "/{*}/{*}/x/{**}",
            "/a%20b/{*}",
            "/foo/{**}/end",
        ] {
            assert_eq!(template_problem(fine), None, "{fine}");
        }
        for broken in [
            "foo/{*}",
            "/foo{*}",
            "/{**}/{*}",
            "/{**}/{**}",
            "/{*}/*",
            "/{id}/{*}",
            "/a b/{*}",
            "/%2/{*}",
        ] {
            assert!(template_problem(broken).is_some(), "{broken}");
        }
    }
}
