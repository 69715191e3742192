//! Rules for names that are stricter than [`Name`]'s own, and small texts that several kinds share.

use std::time::Duration;

use bartizan_types::{Name, NameError};

/// A DNS label: at most 63 of a-z, 0-9 and `-` (RFC 1123 §2.1), as namespaces and containers are named.
pub(crate) fn dns_label(text: &str) -> Result<Name, String> {
    if text.len() > 63 {
        return Err(format!("a name has {} bytes, at most 63 are allowed", text.len()));
    }
    if text.contains('.') {
        return Err(format!(
            "name `{text}` has a `.`; only a-z, 0-9 and `-` are allowed here"
        ));
    }
    dns_name(text)
}

/// A DNS label that starts with a letter (RFC 1035 §2.3.1), as services are named.
pub(crate) fn service_name(text: &str) -> Result<Name, String> {
    if text.starts_with(|c: char| c.is_ascii_digit()) {
        return Err(format!(
            "name `{text}` starts with a digit; a service's name starts with a letter"
        ));
    }
    dns_label(text)
}

/// A DNS subdomain, as most resources are named.
pub(crate) fn dns_name(text: &str) -> Result<Name, String> {
    Name::parse(text).map_err(|error: NameError| error.to_string())
}

/// The name of a port: 1 to 15 of a-z, 0-9 and `-`, with a letter, no `-` at the ends or twice (RFC 6335 §5.1).
pub(crate) fn port_name(text: &str) -> Result<String, String> {
    let fine = (1..=15).contains(&text.len())
        && text
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && text.bytes().any(|b| b.is_ascii_lowercase())
        && !text.starts_with('-')
        && !text.ends_with('-')
        && !text.contains("--");
    if fine {
        Ok(text.to_owned())
    } else {
        Err(format!(
            "`{text}` is not a port name: 1 to 15 of a-z, 0-9 and single `-` inside, at least one letter"
        ))
    }
}

/// The key of a ConfigMap or Secret: 1 to 253 of A-Z, a-z, 0-9, `-`, `_`, `.`, and not a path.
pub(crate) fn data_key(text: &str) -> Result<String, String> {
    let fine = (1..=253).contains(&text.len())
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
        && text != "."
        && !text.starts_with("..");
    if fine {
        Ok(text.to_owned())
    } else {
        Err(format!(
            "`{text}` is not a key: 1 to 253 of A-Z a-z 0-9 `-` `_` `.`"
        ))
    }
}

/// A path below something: not absolute, not empty, no `..`.
pub(crate) fn relative_path(text: &str) -> Result<String, String> {
    if text.is_empty()
        || text.starts_with('/')
        || text.split('/').any(|part| part == "..")
        || text.contains('\0')
    {
        return Err(format!("`{text}` is not a relative path without `..`"));
    }
    Ok(text.to_owned())
}

/// An absolute path.
pub(crate) fn absolute_path(text: &str) -> Result<String, String> {
    if text.starts_with('/') && !text.contains('\0') {
        Ok(text.to_owned())
    } else {
        Err(format!("`{text}` is not an absolute path"))
    }
}

/// Any path of the host, without NUL.
pub(crate) fn host_path(text: &str) -> Result<String, String> {
    if text.is_empty() || text.contains('\0') {
        Err("a path is not empty".to_owned())
    } else {
        Ok(text.to_owned())
    }
}

/// A text that the system takes as an argument or a variable: without NUL.
pub(crate) fn argument(text: &str) -> Result<String, String> {
    if text.contains('\0') {
        Err("a text for a command has no NUL character".to_owned())
    } else {
        Ok(text.to_owned())
    }
}

/// The name of an environment variable: printable, not empty, without `=`.
pub(crate) fn variable_name(text: &str) -> Result<String, String> {
    let fine = !text.is_empty() && text.chars().all(|c| c.is_ascii_graphic() && c != '=');
    if fine {
        Ok(text.to_owned())
    } else {
        Err(format!(
            "`{text}` is not the name of a variable: printable characters without `=`"
        ))
    }
}

/// The name of an HTTP header field in lower case (RFC 9110 §5.6.2).
pub(crate) fn header_name(text: &str) -> Result<String, String> {
    let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    if (1..=256).contains(&text.len()) && text.bytes().all(token) {
        Ok(text.to_ascii_lowercase())
    } else {
        Err(format!(
            "`{text}` is not a header name: letters, digits and !#$%&'*+-.^_`|~"
        ))
    }
}

/// The value of an HTTP header field (RFC 9110 §5.5).
pub(crate) fn header_value(text: &str) -> Result<String, String> {
    let fine = text.bytes().all(|b| b == b'\t' || (b >= 0x20 && b != 0x7f));
    if fine && text.trim_matches([' ', '\t']) == text {
        Ok(text.to_owned())
    } else {
        Err("a header value has no control characters and no blanks at its ends".to_owned())
    }
}

/// A Gateway API duration such as `1h2m3s4ms` (GEP-2257).
pub(crate) fn gateway_duration(text: &str) -> Result<Duration, String> {
    let error = || format!("`{text}` is not a duration such as `10s`, `1m30s` or `500ms`");
    let mut total = Duration::ZERO;
    let mut rest = text;
    let mut parts = 0;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(error)?;
        let (digits, tail) = rest.split_at(end);
        if digits.is_empty() || digits.len() > 5 {
            return Err(error());
        }
        let number: u64 = digits.parse().map_err(|_| error())?;
        let (part, tail) = if let Some(tail) = tail.strip_prefix("ms") {
            (Duration::from_millis(number), tail)
        } else if let Some(tail) = tail.strip_prefix('h') {
            (Duration::from_secs(number * 3600), tail)
        } else if let Some(tail) = tail.strip_prefix('m') {
            (Duration::from_secs(number * 60), tail)
        } else if let Some(tail) = tail.strip_prefix('s') {
            (Duration::from_secs(number), tail)
        } else {
            return Err(error());
        };
        total += part;
        rest = tail;
        parts += 1;
    }
    if (1..=4).contains(&parts) {
        Ok(total)
    } else {
        Err(error())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::gateway_duration;

    #[test]
    fn gateway_durations_follow_gep_2257() {
        assert_eq!(
            gateway_duration("1h2m3s4ms"),
            Ok(Duration::from_millis(3_723_004))
        );
        assert_eq!(gateway_duration("0s"), Ok(Duration::ZERO));
        for text in ["", "1", "s", "1.5s", "-1s", "100000s", "1s1s1s1s1s", "1d", "1 s"] {
            assert!(gateway_duration(text).is_err(), "{text}");
        }
    }
}
