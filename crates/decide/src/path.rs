//! One meaning of a path: the canonical form that policies and routes match.
//!
//! Under [`PathRule::RefuseAmbiguous`] the canonical form is the path with every escape decoded, a path that two parsers
//! would read differently has none and is refused, and what is forwarded is what was sent. Under Istio's four rules the
//! form is that of Envoy's normalization, and it is also what is forwarded ([`forwarded_target`]), so that the application
//! reads what policy read.

use std::borrow::Cow;
use std::fmt;

use bartizan_mesh::PathRule;

/// A path without query in its one form. Only [`canonical_path`] makes it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CanonicalPath<'a>(Cow<'a, str>);

impl CanonicalPath<'_> {
    /// The text; empty for a target that has no path (`CONNECT host:port`), `*` for the whole server.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for CanonicalPath<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Why a path has no single meaning.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, thiserror::Error)]
pub enum Ambiguous {
    /// Neither `/path`, an absolute URI, `*` nor `host:port` (RFC 9112 §3.2).
    #[error("the request target has none of the four forms of RFC 9112")]
    Form,
    /// `%` without two hexadecimal digits.
    #[error("the path has a `%` without two hexadecimal digits")]
    Escape,
    /// Decoding once leaves an escape (`%2541`), or normalizing once what normalizes further (`%2%65`, `%2e%2e;`).
    #[error("the path is escaped twice")]
    DoubleEscape,
    /// `%2f`, `%5c`, or a plain `\`.
    #[error("the path has an escaped slash or a backslash")]
    Slash,
    /// `//`.
    #[error("the path has an empty segment (`//`)")]
    EmptySegment,
    /// `.` or `..` as a segment, escaped or not.
    #[error("the path has a dot segment")]
    DotSegment,
    /// `;`, escaped or not.
    #[error("the path has a parameter (`;`)")]
    Parameter,
    /// A control character (NUL included), escaped or not, or a plain space.
    #[error("the path has a control character or a space")]
    Control,
    /// Escapes that are not UTF-8 (overlong forms included).
    #[error("the path's escapes are not UTF-8")]
    NotUtf8,
    /// A character outside of ASCII that is not escaped, under Istio's rules.
    #[error("the path has a character outside of ASCII that is not escaped")]
    NotAscii,
    /// `#` in a request target.
    #[error("the request target has a fragment")]
    Fragment,
}

/// The canonical form of a request target's path.
///
/// # Errors
/// [`Ambiguous`] where the rule refuses what two parsers would read differently, and in every rule for a target that has
/// none of the forms of RFC 9112 §3.2, has a fragment, or has what Envoy cannot normalize.
pub fn canonical_path(target: &str, rule: PathRule) -> Result<CanonicalPath<'_>, Ambiguous> {
    let path = path_of(target)?;
    if path.is_empty() || path == "*" {
        return Ok(CanonicalPath(Cow::Borrowed(path)));
    }
    if target.contains('#') {
        return Err(Ambiguous::Fragment);
    }
    if rule != PathRule::RefuseAmbiguous && !path.is_ascii() {
        return Err(Ambiguous::NotAscii); // as Envoy
    }
    let canonical = match rule {
        PathRule::RefuseAmbiguous => only_meaning(path)?,
        PathRule::None => Cow::Borrowed(path),
        PathRule::Base | PathRule::MergeSlashes | PathRule::DecodeAndMergeSlashes => {
            settled_form(path, rule)?
        }
    };
    Ok(CanonicalPath(canonical))
}

/// The form of one of Istio's rules that normalize. One that normalizes further has no single meaning, since the next hop's
/// policy would read another path: `/a/%2%65%2%65/b` becomes `/a/%2e%2e/b`, and that `/b`. (Envoy takes it.)
fn settled_form(path: &str, rule: PathRule) -> Result<Cow<'_, str>, Ambiguous> {
    fn form(path: &str, rule: PathRule) -> Result<Cow<'_, str>, Ambiguous> {
        match rule {
            PathRule::DecodeAndMergeSlashes => with_plain_slashes(path).map(with_merged_slashes),
            PathRule::MergeSlashes => normalized(path).map(with_merged_slashes),
            PathRule::Base | PathRule::None | PathRule::RefuseAmbiguous => normalized(path),
        }
    }
    let once = form(path, rule)?;
    // What nothing was changed in is settled.
    let is_settled = match &once {
        Cow::Borrowed(_) => true,
        Cow::Owned(text) => form(text, rule)? == *text,
    };
    if is_settled {
        Ok(once)
    } else {
        Err(Ambiguous::DoubleEscape)
    }
}

/// The target that is forwarded in the place of this one: with the canonical path and the query as sent. `None` where it is
/// forwarded as it is: always under [`PathRule::RefuseAmbiguous`], whose canonical form is for reading only.
pub fn forwarded_target(target: &str, rule: PathRule) -> Option<String> {
    match rule {
        PathRule::RefuseAmbiguous | PathRule::None => return None,
        PathRule::Base | PathRule::MergeSlashes | PathRule::DecodeAndMergeSlashes => {}
    }
    let path = canonical_path(target, rule).ok()?;
    if path.as_str() == path_of(target).ok()? {
        return None;
    }
    Some(match query_of(target) {
        Some(query) => format!("{path}?{query}"),
        None => path.as_str().to_owned(),
    })
}

/// The query of a request target, without its `?`.
pub fn query_of(target: &str) -> Option<&str> {
    target.split_once('?').map(|(_, query)| query)
}

/// The path of a target as sent: `/a` of `/a?b` and of `http://host/a?b`, empty of `host:port`.
fn path_of(target: &str) -> Result<&str, Ambiguous> {
    let end = target
        .bytes()
        .position(|byte| byte == b'?')
        .unwrap_or(target.len());
    let (path, _) = target.split_at(end);
    if path.starts_with('/') || path == "*" || target.is_empty() {
        return Ok(path);
    }
    if let Some((scheme, rest)) = path.split_once("://") {
        let fine = scheme.starts_with(|first: char| first.is_ascii_alphabetic())
            && scheme
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.'));
        let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        return match (fine && !host.is_empty(), path) {
            (false, _) => Err(Ambiguous::Form),
            (true, "") => Ok("/"),
            (true, path) => Ok(path),
        };
    }
    let is_authority = end == target.len()
        && target.rsplit_once(':').is_some_and(|(host, port)| {
            !host.is_empty()
                && !host.contains(['/', '@', '\\', '#'])
                && port.parse::<u16>().is_ok()
                && !port.starts_with('+')
        });
    if is_authority {
        Ok("")
    } else {
        Err(Ambiguous::Form)
    }
}

/// What a byte of a path asks for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    /// Means itself.
    Plain,
    Slash,
    Dot,
    Percent,
    Backslash,
    Semicolon,
    Hash,
    Control,
    /// A part of UTF-8, which a `str` has right.
    Wide,
}

fn class(byte: u8) -> Class {
    match byte {
        b'/' => Class::Slash,
        b'.' => Class::Dot,
        b'%' => Class::Percent,
        b'\\' => Class::Backslash,
        b';' => Class::Semicolon,
        b'#' => Class::Hash,
        0..=0x20 | 0x7f => Class::Control,
        0x80..=0xff => Class::Wide,
        _ => Class::Plain,
    }
}

/// The path with its escapes decoded, or the reason why parsers would not agree on it.
fn only_meaning(path: &str) -> Result<Cow<'_, str>, Ambiguous> {
    let mut before = 0_u8;
    let mut has_escape = false;
    for byte in path.bytes() {
        match class(byte) {
            Class::Slash if before == b'/' => return Err(Ambiguous::EmptySegment),
            Class::Plain | Class::Wide | Class::Dot | Class::Slash => {}
            Class::Percent => has_escape = true,
            Class::Backslash => return Err(Ambiguous::Slash),
            Class::Semicolon => return Err(Ambiguous::Parameter),
            Class::Hash => return Err(Ambiguous::Fragment),
            Class::Control => return Err(Ambiguous::Control),
        }
        before = byte;
    }
    let decoded = if has_escape {
        Cow::Owned(decoded(path)?)
    } else {
        Cow::Borrowed(path)
    };
    if has_dot_segment(&decoded) {
        return Err(Ambiguous::DotSegment);
    }
    Ok(decoded)
}

fn decoded(path: &str) -> Result<String, Ambiguous> {
    let mut plain = Vec::with_capacity(path.len());
    let mut rest = path.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        rest = tail;
        if byte != b'%' {
            plain.push(byte);
            continue;
        }
        let (value, tail) = escape(rest).ok_or(Ambiguous::Escape)?;
        rest = tail;
        match class(value) {
            Class::Slash | Class::Backslash => return Err(Ambiguous::Slash),
            Class::Semicolon => return Err(Ambiguous::Parameter),
            Class::Control if value != b' ' => return Err(Ambiguous::Control),
            Class::Percent | Class::Plain | Class::Dot | Class::Hash | Class::Control | Class::Wide => {
                plain.push(value);
            }
        }
    }
    // On the result, because `%25%34%31` becomes an escape only piece by piece.
    let mut tails = plain.split(|byte| *byte == b'%').skip(1);
    if tails.any(|tail| escape(tail).is_some()) {
        return Err(Ambiguous::DoubleEscape);
    }
    String::from_utf8(plain).map_err(|_| Ambiguous::NotUtf8)
}

/// The value of the two hexadecimal digits at the front, and what follows.
pub(crate) fn escape(digits: &[u8]) -> Option<(u8, &[u8])> {
    let hex = |byte: u8| {
        char::from(byte)
            .to_digit(16)
            .and_then(|digit| u8::try_from(digit).ok())
    };
    match digits {
        [high, low, rest @ ..] => Some((hex(*high)? * 16 + hex(*low)?, rest)),
        _ => None,
    }
}

fn has_dot_segment(path: &str) -> bool {
    // Cheap for the many paths without a segment that begins with a dot.
    let mut at_start = true;
    let mut dots = 0_u8;
    for byte in path.bytes() {
        match byte {
            b'/' => {
                if at_start && (dots == 1 || dots == 2) {
                    return true;
                }
                at_start = true;
                dots = 0;
            }
            b'.' if at_start => dots = dots.saturating_add(1),
            _ => at_start = false,
        }
    }
    at_start && (dots == 1 || dots == 2)
}

/// Istio `BASE`, as Envoy's `normalize_path` does it (Chromium's `CanonicalizePath`): `\` to `/`, escapes of unreserved
/// characters decoded, what a path may not have escaped, dot segments resolved; everything else as sent. A segment that is
/// written `..;x` or `.;x` is a dot segment, because some applications take it for one.
fn normalized(path: &str) -> Result<Cow<'_, str>, Ambiguous> {
    let has_dots = has_dot_segment(path) || path.contains("/.;") || path.contains("/..;");
    if !has_dots && path.bytes().all(is_settled) {
        return Ok(Cow::Borrowed(path));
    }
    let mut segments = Vec::new();
    for segment in path.split(['/', '\\']).skip(1) {
        segments.push(if segment.starts_with("..;") {
            Cow::Borrowed("..")
        } else if segment.starts_with(".;") {
            Cow::Borrowed(".")
        } else {
            settled(segment)?
        });
    }
    Ok(Cow::Owned(without_dot_segments(&segments)))
}

/// A segment with its unreserved characters plain and what a path may not have escaped.
fn settled(segment: &str) -> Result<Cow<'_, str>, Ambiguous> {
    if segment.bytes().all(is_settled) {
        return Ok(Cow::Borrowed(segment));
    }
    let mut plain = String::with_capacity(segment.len());
    let mut rest = segment.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        rest = tail;
        match (byte, escape(rest)) {
            (b'%', Some((0, _))) => return Err(Ambiguous::Control),
            (b'%', Some((value, tail)))
                if value.is_ascii_alphanumeric() || matches!(value, b'-' | b'.' | b'_' | b'~') =>
            {
                plain.push(char::from(value));
                rest = tail;
            }
            (b'%', _) => plain.push('%'),
            _ if is_settled(byte) => plain.push(char::from(byte)),
            _ => plain.push_str(&format!("%{byte:02X}")),
        }
    }
    Ok(Cow::Owned(plain))
}

/// Whether normalization leaves a byte as it is, wherever it stands.
fn is_settled(byte: u8) -> bool {
    match byte {
        b'%' | b'\\' | b'"' | b'<' | b'>' | b'^' | b'`' | b'{' | b'|' | b'}' => false,
        _ => byte.is_ascii_graphic(),
    }
}

/// Istio `DECODE_AND_MERGE_SLASHES`: `%2f` and `%5c` are slashes before anything else is read (Envoy
/// `UNESCAPE_AND_FORWARD`).
fn with_plain_slashes(path: &str) -> Result<Cow<'_, str>, Ambiguous> {
    if !path.contains('%') {
        return normalized(path);
    }
    let mut plain = String::with_capacity(path.len());
    let mut rest = path;
    while let Some((before, after)) = rest.split_once('%') {
        plain.push_str(before);
        match after.get(..2).map(str::to_ascii_lowercase).as_deref() {
            Some("2f") => plain.push('/'),
            Some("5c") => plain.push('\\'),
            _ => {
                plain.push('%');
                rest = after;
                continue;
            }
        }
        rest = after.get(2..).unwrap_or_default();
    }
    plain.push_str(rest);
    Ok(Cow::Owned(normalized(&plain)?.into_owned()))
}

/// `//` is `/` (Envoy `merge_slashes`, after normalization). A path of nothing but slashes stays `//`, as there.
fn with_merged_slashes(path: Cow<'_, str>) -> Cow<'_, str> {
    if !path.contains("//") {
        return path;
    }
    let mut merged = String::with_capacity(path.len());
    for segment in path.split('/').filter(|segment| !segment.is_empty()) {
        merged.push('/');
        merged.push_str(segment);
    }
    if merged.is_empty() {
        merged.push('/');
    }
    if path.ends_with('/') {
        merged.push('/');
    }
    Cow::Owned(merged)
}

/// RFC 3986 §5.2.4, on the segments of a path.
fn without_dot_segments(segments: &[Cow<'_, str>]) -> String {
    let mut kept: Vec<&str> = Vec::new();
    for (at, segment) in segments.iter().enumerate() {
        let is_last = at + 1 == segments.len();
        match segment.as_ref() {
            dots @ ("." | "..") => {
                if dots == ".." {
                    kept.pop();
                }
                if is_last {
                    kept.push("");
                }
            }
            segment => kept.push(segment),
        }
    }
    let mut plain = String::new();
    for segment in kept {
        plain.push('/');
        plain.push_str(segment);
    }
    if plain.is_empty() {
        plain.push('/');
    }
    plain
}

/// A path value of a policy in the form that it is compared in: under [`PathRule::RefuseAmbiguous`] its escapes are
/// decoded as those of requests are. `None` when that changes nothing.
pub(crate) fn canonical_value(text: &str, rule: PathRule) -> Option<String> {
    match rule {
        PathRule::RefuseAmbiguous if text.contains('%') => decoded(text).ok(),
        PathRule::RefuseAmbiguous
        | PathRule::None
        | PathRule::Base
        | PathRule::MergeSlashes
        | PathRule::DecodeAndMergeSlashes => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn istio_rule() -> impl Strategy<Value = PathRule> {
        proptest::sample::select(
            &[
                PathRule::None,
                PathRule::Base,
                PathRule::MergeSlashes,
                PathRule::DecodeAndMergeSlashes,
            ][..],
        )
    }

    proptest! {
        #[test]
        fn a_canonical_path_means_itself(path in "/[a-c%./;?25eEfF\\\\ é*-]{0,24}") {
            if let Ok(once) = canonical_path(&path, PathRule::RefuseAmbiguous) {
                let text = once.as_str();
                prop_assert!(!text.contains("//") && !text.contains('\\') && !text.contains(';') && !has_dot_segment(text));
                // What is decoded once does not change when an application decodes it again.
                prop_assert!(text.split('%').skip(1).all(|tail| escape(tail.as_bytes()).is_none()));
            }
        }

        #[test]
        fn base_has_no_dot_segments(path in "/[a-c%./25eE\\\\]{0,24}") {
            let once = canonical_path(&path, PathRule::Base).unwrap();
            prop_assert!(!has_dot_segment(once.as_str()));
            prop_assert!(once.as_str().starts_with('/'));
        }

        #[test]
        fn what_is_forwarded_is_what_policy_read(target in "/[a-c%./;?25fFeEcC|\\\\]{0,24}", rule in istio_rule()) {
            let Ok(path) = canonical_path(&target, rule) else {
                prop_assert_eq!(forwarded_target(&target, rule), None);
                return Ok(());
            };
            let forwarded = forwarded_target(&target, rule).unwrap_or_else(|| target.clone());
            let (read, query) = forwarded.split_once('?').map_or((&*forwarded, None), |(path, query)| (path, Some(query)));
            prop_assert_eq!(read, path.as_str());
            prop_assert_eq!(query, query_of(&target));
            if rule != PathRule::None {
                prop_assert!(!has_dot_segment(path.as_str()) && !path.as_str().contains('\\'));
            }
            if matches!(rule, PathRule::MergeSlashes | PathRule::DecodeAndMergeSlashes) {
                prop_assert!(!path.as_str().contains("//") || path.as_str() == "//");
            }
            if rule == PathRule::DecodeAndMergeSlashes && !target.contains("%25") {
                let lower = path.as_str().to_ascii_lowercase();
                prop_assert!(!lower.contains("%2f") && !lower.contains("%5c"), "{}", path);
            }
        }

        #[test]
        fn what_is_forwarded_is_read_alike_by_who_normalizes_it_again(
            target in "/(%|%2|%%32|%65|%66|%63|%35|e|f|c|[a./;?25]|\\\\){0,12}", rule in istio_rule()
        ) {
            if let Ok(once) = canonical_path(&target, rule) {
                let twice = canonical_path(once.as_str(), rule);
                prop_assert_eq!(twice.as_ref().map(CanonicalPath::as_str), Ok(once.as_str()), "{}", target);
            }
        }

        #[test]
        fn nothing_panics(target in "\\PC{0,40}") {
            let _ = canonical_path(&target, PathRule::RefuseAmbiguous);
            for rule in [PathRule::None, PathRule::Base, PathRule::MergeSlashes, PathRule::DecodeAndMergeSlashes] {
                let _ = canonical_path(&target, rule);
                let _ = forwarded_target(&target, rule);
            }
        }

        #[test]
        fn plain_paths_are_borrowed_as_they_are(path in "(/[a-z0-9_~-]{1,5}){1,5}") {
            prop_assert_eq!(canonical_path(&path, PathRule::RefuseAmbiguous).unwrap(), CanonicalPath(Cow::Borrowed(&*path)));
            prop_assert_eq!(canonical_path(&path, PathRule::Base).unwrap(), CanonicalPath(Cow::Borrowed(&*path)));
        }
    }
}
