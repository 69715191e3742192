//! Where tokens are in a request, and how they are taken out of it.

use std::borrow::Cow;
use std::sync::Arc;

use bartizan_mesh::TokenLocation;

use super::{Changes, RefusedKind, TokenRefused};
use crate::facts::{Headers, HttpFacts};
use crate::path::{escape, query_of};

/// A token at a place.
pub(super) struct Presented<'a> {
    pub(super) location: &'a TokenLocation,
    /// `None` where the place has several, or bytes that no token has.
    token: Option<Cow<'a, str>>,
}

impl Presented<'_> {
    pub(super) fn token(&self) -> Result<&str, TokenRefused> {
        self.token.as_deref().ok_or_else(|| {
            TokenRefused::new(
                RefusedKind::Other,
                "Jwt is presented more than once or is not text",
                format!(
                    "the {} has several tokens or one that is not text, which two readers would not take for the same",
                    place(self.location)
                ),
            )
        })
    }
}

/// A place, in words.
pub(crate) fn place(location: &TokenLocation) -> String {
    match location {
        TokenLocation::Header { name, .. } => format!("header `{name}`"),
        TokenLocation::Param(name) => format!("query parameter `{name}`"),
        TokenLocation::Cookie(name) => format!("cookie `{name}`"),
    }
}

/// The tokens at these places, in their order.
pub(super) fn presented<'a, H: Headers + ?Sized>(
    locations: &'a [TokenLocation],
    facts: &HttpFacts<'a, H>,
) -> Vec<Presented<'a>> {
    let mut found = Vec::new();
    for location in locations {
        let mut add = |token: Option<Cow<'a, str>>| found.push(Presented { location, token });
        let text = |bytes: &'a [u8]| std::str::from_utf8(bytes).ok().map(Cow::Borrowed);
        match location {
            TokenLocation::Header { name, prefix } => only(
                facts
                    .headers
                    .values(name)
                    .filter_map(|line| line.strip_prefix(prefix.as_bytes()))
                    .map(text),
                &mut add,
            ),
            TokenLocation::Param(name) => only(
                query_of(facts.target)
                    .into_iter()
                    .flat_map(|query| query.split('&'))
                    .filter(|pair| is_param(pair, name))
                    .map(|pair| match pair.split_once('=') {
                        Some((_, value)) => unescaped(value),
                        None => Some(Cow::Borrowed("")),
                    }),
                &mut add,
            ),
            TokenLocation::Cookie(name) => only(
                facts
                    .headers
                    .values("cookie")
                    .flat_map(cookies)
                    .filter_map(|cookie| cookie_value(cookie, name))
                    .map(text),
                &mut add,
            ),
        }
    }
    found
}

/// The header places among `locations` where a line has a token only for some readers.
pub(super) fn alike<'l, H: Headers + ?Sized>(
    locations: &'l [TokenLocation],
    facts: &HttpFacts<'_, H>,
) -> Vec<&'l TokenLocation> {
    let has_one = |location: &&TokenLocation| match location {
        TokenLocation::Header { name, prefix } => {
            facts.headers.values(name).any(|line| is_alike(line, prefix))
        }
        TokenLocation::Param(_) | TokenLocation::Cookie(_) => false,
    };
    locations.iter().filter(has_one).collect()
}

/// Whether a line that does not begin with the prefix does for a reader to whom `bearer` and a tab are as good as `Bearer` and
/// a space (RFC 9110 §11.1: schemes have no case).
fn is_alike(line: &[u8], prefix: &str) -> bool {
    let scheme = prefix.trim_ascii_end().as_bytes();
    let is_scheme = !scheme.is_empty() && scheme.len() < prefix.len();
    is_scheme
        && !line.starts_with(prefix.as_bytes())
        && line.split_at_checked(scheme.len()).is_some_and(|(start, rest)| {
            start.eq_ignore_ascii_case(scheme) && rest.first().is_some_and(u8::is_ascii_whitespace)
        })
}

/// Adds the only value; two are as bad as none that can be read.
fn only<'a>(
    mut values: impl Iterator<Item = Option<Cow<'a, str>>>,
    add: &mut impl FnMut(Option<Cow<'a, str>>),
) {
    if let Some(first) = values.next() {
        add(first.filter(|_| values.next().is_none()));
    }
}

/// Takes tokens out: of the header lines that have them, of the target, of the cookies. At places of `alike`, the lines go
/// that have one only for some readers.
pub(super) fn take_out<H: Headers + ?Sized>(
    gone: &[&TokenLocation],
    alike: &[&TokenLocation],
    facts: &HttpFacts<'_, H>,
    changes: &mut Changes,
) {
    let is_param_gone = |pair: &str| {
        gone.iter().any(|location| match location {
            TokenLocation::Param(name) => is_param(pair, name),
            TokenLocation::Header { .. } | TokenLocation::Cookie(_) => false,
        })
    };
    if let Some((path, query)) = facts.target.split_once('?')
        && query.split('&').any(is_param_gone)
    {
        let kept: Vec<&str> = query.split('&').filter(|pair| !is_param_gone(pair)).collect();
        changes.target = Some(if kept.is_empty() {
            path.to_owned()
        } else {
            format!("{path}?{}", kept.join("&"))
        });
    }
    for location in gone.iter().chain(alike) {
        let name: Arc<str> = match location {
            TokenLocation::Header { name, .. } => Arc::clone(name),
            TokenLocation::Cookie(_) => "cookie".into(),
            TokenLocation::Param(_) => continue,
        };
        if changes.remove.contains(&name) {
            continue;
        }
        let has_token = |line: &[u8]| {
            let is_here = |location: &&TokenLocation, is_token: fn(&[u8], &str) -> bool| match location {
                TokenLocation::Header { name: header, prefix } => *header == name && is_token(line, prefix),
                TokenLocation::Param(_) | TokenLocation::Cookie(_) => false,
            };
            gone.iter()
                .any(|location| is_here(location, |line, prefix| line.starts_with(prefix.as_bytes())))
                || alike.iter().any(|location| is_here(location, is_alike))
        };
        for line in facts.headers.values(&name) {
            // What only this proxy may write is not put back either.
            if has_token(line) || changes.forged.contains(&name) {
                continue;
            }
            let kept = if &*name == "cookie" {
                without_cookies(line, gone)
            } else {
                Cow::Borrowed(line)
            };
            if !kept.is_empty() {
                changes.set.push((Arc::clone(&name), kept.as_ref().into()));
            }
        }
        changes.remove.push(name);
    }
}

/// A cookie line without the cookies at these places; as it is where it has none of them.
fn without_cookies<'l>(line: &'l [u8], gone: &[&TokenLocation]) -> Cow<'l, [u8]> {
    let is_gone = |cookie: &[u8]| {
        gone.iter().any(|location| match location {
            TokenLocation::Cookie(name) => cookie_value(cookie, name).is_some(),
            TokenLocation::Header { .. } | TokenLocation::Param(_) => false,
        })
    };
    if !cookies(line).any(is_gone) {
        return Cow::Borrowed(line);
    }
    let kept: Vec<&[u8]> = cookies(line).filter(|cookie| !is_gone(cookie)).collect();
    Cow::Owned(kept.join(&b"; "[..]))
}

/// The pairs of a `Cookie` line (RFC 6265 §4.2.1).
fn cookies(line: &[u8]) -> impl Iterator<Item = &[u8]> {
    line.split(|byte| *byte == b';')
        .map(<[u8]>::trim_ascii)
        .filter(|cookie| !cookie.is_empty())
}

/// The value of a pair of this name, without the quotes that it may have.
fn cookie_value<'c>(cookie: &'c [u8], name: &str) -> Option<&'c [u8]> {
    let at = cookie.iter().position(|byte| *byte == b'=')?;
    let (key, value) = cookie.split_at(at);
    if key.trim_ascii_end() != name.as_bytes() {
        return None;
    }
    let value = value.strip_prefix(b"=")?.trim_ascii();
    Some(
        value
            .strip_prefix(b"\"")
            .and_then(|value| value.strip_suffix(b"\""))
            .unwrap_or(value),
    )
}

/// Whether a parameter has this name, however it is escaped.
fn is_param(pair: &str, name: &str) -> bool {
    let key = pair.split_once('=').map_or(pair, |(key, _)| key);
    unescaped(key).is_some_and(|key| key == name)
}

/// A part of a query with its escapes decoded, as Envoy does: `+` is a plus. `None` where that is not text.
fn unescaped(text: &str) -> Option<Cow<'_, str>> {
    if !text.contains('%') {
        return Some(Cow::Borrowed(text));
    }
    let mut plain = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        rest = tail;
        match (byte, escape(rest)) {
            (b'%', Some((value, tail))) => {
                plain.push(value);
                rest = tail;
            }
            _ => plain.push(byte),
        }
    }
    String::from_utf8(plain).ok().map(Cow::Owned)
}
