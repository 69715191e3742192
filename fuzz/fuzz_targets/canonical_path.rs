//! The one meaning of a path. Input: a request target.
#![no_main]

use bartizan_decide::{canonical_path, forwarded_target};
use bartizan_mesh::PathRule;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|target: &str| {
    if let Ok(canonical) = canonical_path(target, PathRule::RefuseAmbiguous) {
        strict(target, canonical.as_str());
    }
    for rule in [
        PathRule::None,
        PathRule::Base,
        PathRule::MergeSlashes,
        PathRule::DecodeAndMergeSlashes,
    ] {
        istio(target, rule);
    }
});

/// What an application reads is what policy read: the target that is forwarded has the canonical path and the same query.
fn istio(target: &str, rule: PathRule) {
    let Ok(canonical) = canonical_path(target, rule) else {
        assert_eq!(
            forwarded_target(target, rule),
            None,
            "what is refused is not forwarded"
        );
        return;
    };
    if canonical.as_str().is_empty() || canonical.as_str() == "*" {
        return;
    }
    assert!(
        canonical.as_str().starts_with('/'),
        "{canonical} of {target:?} is not absolute"
    );
    assert!(
        canonical.as_str().is_ascii(),
        "{canonical} of {target:?} is not ASCII"
    );
    if rule != PathRule::None {
        base(canonical.as_str(), rule);
    }
    let forwarded = forwarded_target(target, rule);
    let forwarded = forwarded.as_deref().unwrap_or(target);
    if forwarded.starts_with('/') {
        let (path, query) = match forwarded.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (forwarded, None),
        };
        assert_eq!(
            path,
            canonical.as_str(),
            "{target:?} is forwarded with another path"
        );
        assert_eq!(query, target.split_once('?').map(|(_, query)| query));
    }
}

/// What is accepted in the zero-trust profile has no second reading.
fn strict(target: &str, canonical: &str) {
    if canonical.is_empty() || canonical == "*" {
        return;
    }
    assert!(
        canonical.starts_with('/'),
        "{canonical:?} of {target:?} is not absolute"
    );
    for segment in canonical.split('/') {
        assert!(segment != "." && segment != "..", "{target:?} has a dot segment");
    }
    assert!(!canonical.contains("//"), "{target:?} has an empty segment");
    assert!(
        !canonical.contains(['\\', ';', '\0']),
        "{target:?} has a separator of somebody"
    );
    // A second decoding changes nothing, so no escaped slash or dot is left for an application to find.
    assert_eq!(
        decode(canonical),
        canonical.as_bytes(),
        "{target:?} is escaped twice"
    );
    // The canonical form, escaped again in full, means itself.
    let escaped: String = canonical
        .bytes()
        .map(|byte| match byte {
            b'/' => "/".to_owned(),
            byte => format!("%{byte:02x}"),
        })
        .collect();
    let again = canonical_path(&escaped, PathRule::RefuseAmbiguous).expect("what is canonical is accepted");
    assert_eq!(again.as_str(), canonical);
    // And so it does as it is, where it can be written without an escape.
    if canonical
        .bytes()
        .all(|byte| byte > 0x20 && byte != 0x7f && !b"%?#".contains(&byte))
    {
        let again =
            canonical_path(canonical, PathRule::RefuseAmbiguous).expect("what is canonical is accepted");
        assert_eq!(again.as_str(), canonical);
    }
    // Nothing but escapes was touched: the path of the target, decoded once by the book.
    let path = target.split('?').next().unwrap_or_default();
    let path = match path.split_once("://") {
        Some((_, rest)) if !path.starts_with('/') => rest.find('/').map_or("/", |at| &rest[at..]),
        _ => path,
    };
    assert_eq!(decode(path), canonical.as_bytes(), "{target:?} was changed");
}

/// Istio's normalization gives a path that has been normalized.
fn base(canonical: &str, rule: PathRule) {
    assert!(!canonical.contains('\\'));
    assert!(
        canonical
            .split('/')
            .all(|segment| segment != "." && segment != "..")
    );
    if rule != PathRule::Base && !canonical.bytes().all(|byte| byte == b'/') {
        assert!(!canonical.contains("//"), "{canonical:?} has an empty segment");
    }
    // An escape may decode to the beginning of another, and `%2e%2e;` to what is a dot segment only when it is written.
    if !canonical.contains('%') && !canonical.contains(".;") {
        let again = canonical_path(canonical, rule).expect("what is canonical is accepted");
        assert_eq!(again.as_str(), canonical);
    }
}

/// RFC 3986 §2.1, leaving alone what is no escape.
fn decode(text: &str) -> Vec<u8> {
    let bytes = text.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let escaped = bytes
            .get(at + 1..at + 3)
            .filter(|digits| bytes[at] == b'%' && digits.iter().all(u8::is_ascii_hexdigit))
            .and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok());
        decoded.push(escaped.unwrap_or(bytes[at]));
        at += if escaped.is_some() { 3 } else { 1 };
    }
    decoded
}
