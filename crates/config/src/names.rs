//! Rules for names that are stricter than [`Name`]'s own, and small texts that several kinds share.

use std::ops::RangeInclusive;
use std::time::Duration;

use bartizan_types::calendar::days_from_civil;
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

/// The name of an extension provider (Istio: a DNS label).
pub(crate) fn provider_name(text: &str) -> Result<Name, String> {
    dns_label(text)
}

/// A duration in the JSON form of protobuf: seconds with at most nine digits after the point, such as `5s` or `0.25s`.
pub(crate) fn seconds(text: &str) -> Result<Duration, String> {
    let error = || format!("`{text}` is not a duration such as `5s` or `0.25s`");
    let number = text.strip_suffix('s').ok_or_else(error)?;
    let (whole, part) = number.split_once('.').unwrap_or((number, "0"));
    let digits = |text: &str, most: usize| {
        (1..=most).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit())
    };
    if !digits(whole, 9) || !digits(part, 9) {
        return Err(error());
    }
    let seconds: u64 = whole.parse().map_err(|_| error())?;
    let nanoseconds: u32 = format!("{part:0<9}").parse().map_err(|_| error())?;
    Ok(Duration::new(seconds, nanoseconds))
}

/// A time of RFC 3339 §5.6 such as `2026-01-01T05:00:00Z`, in seconds since 1970; a fraction is left out.
pub(crate) fn timestamp(text: &str) -> Result<i64, String> {
    parse_timestamp(text).ok_or_else(|| format!("`{text}` is not a time such as `2026-01-01T05:00:00Z`"))
}

fn parse_timestamp(text: &str) -> Option<i64> {
    let (date, time) = text.split_once(['T', 't'])?;
    let number = |text: &str, digits: usize, range: RangeInclusive<i64>| {
        let fine = text.len() == digits && text.bytes().all(|b| b.is_ascii_digit());
        let number = text.parse().ok().filter(|_| fine)?;
        range.contains(&number).then_some(number)
    };
    let mut date = date.split('-');
    let (year, month, day) = (date.next()?, date.next()?, date.next()?);
    let (year, month) = (number(year, 4, 1..=9999)?, number(month, 2, 1..=12)?);
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let days = match month {
        2 => 28 + i64::from(leap),
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    };
    let day = number(day, 2, 1..=days)?;
    let at = time.find(['Z', 'z', '+', '-'])?;
    let (clock, zone) = time.split_at(at);
    let offset = match zone.split_at_checked(1)? {
        ("Z" | "z", "") => 0,
        (sign @ ("+" | "-"), zone) => {
            let (hours, minutes) = zone.split_once(':')?;
            let seconds = number(hours, 2, 0..=23)? * 3600 + number(minutes, 2, 0..=59)? * 60;
            if sign == "+" { seconds } else { -seconds }
        }
        _ => return None,
    };
    let clock = match clock.split_once('.') {
        Some((clock, part)) if !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit()) => clock,
        Some(_) => return None,
        None => clock,
    };
    let mut clock = clock.split(':');
    let (hour, minute, second) = (clock.next()?, clock.next()?, clock.next()?);
    if date.next().is_some() || clock.next().is_some() {
        return None;
    }
    let seconds =
        number(hour, 2, 0..=23)? * 3600 + number(minute, 2, 0..=59)? * 60 + number(second, 2, 0..=60)?;
    let days = days_from_civil(year, u8::try_from(month).ok()?, u8::try_from(day).ok()?);
    Some(days * 86_400 + seconds - offset)
}

/// An `http` or `https` URI with a host, without user info and fragment, of at most 2,048 bytes.
pub(crate) fn http_uri(text: &str) -> Result<String, String> {
    let error = |why: &str| Err(format!("`{text}` is not a URI that can be fetched: {why}"));
    if text.len() > 2048 {
        return Err(format!(
            "the URI has {} bytes; at most 2048 are allowed",
            text.len()
        ));
    }
    let Some(rest) = text
        .strip_prefix("https://")
        .or_else(|| text.strip_prefix("http://"))
    else {
        return error("it starts with `https://` or `http://`");
    };
    if !text.bytes().all(|b| b.is_ascii_graphic())
        || text.contains(['"', '<', '>', '\\', '^', '`', '{', '|', '}'])
    {
        return error("it has a character that a URI has not");
    }
    if text.contains('#') {
        return error("it has a fragment");
    }
    let authority = rest.split(['/', '?']).next().unwrap_or_default();
    if authority.contains('@') {
        return error("it has user info, which would be a secret in a document");
    }
    let (host, port) = match authority.strip_prefix('[') {
        Some(inside) => match inside.split_once(']') {
            Some((host, after)) if host.parse::<std::net::Ipv6Addr>().is_ok() => {
                (host, after.strip_prefix(':'))
            }
            _ => return error("its host is not an address"),
        },
        None => match authority.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (authority, None),
        },
    };
    if host.is_empty() || !host.contains(':') && bartizan_types::Hostname::parse(host).is_err() {
        return error("it has no host");
    }
    if port.is_some_and(|port| bartizan_types::Port::parse(port).is_err()) {
        return error("its port is not a number from 1 to 65535");
    }
    Ok(text.to_owned())
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

    use super::{gateway_duration, http_uri, seconds, timestamp};

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

    #[test]
    fn durations_of_istio_are_seconds() {
        assert_eq!(seconds("601s"), Ok(Duration::from_secs(601)));
        assert_eq!(seconds("0.25s"), Ok(Duration::from_millis(250)));
        for text in [
            "",
            "s",
            "1",
            "1m",
            "-1s",
            "1.s",
            ".5s",
            "1e3s",
            "1.0000000001s",
            "1 s",
        ] {
            assert!(seconds(text).is_err(), "{text}");
        }
    }

    #[test]
    fn times_follow_rfc_3339() {
        for (text, seconds) in [
            ("1970-01-01T00:00:00Z", 0),
            ("2026-01-01T05:00:00Z", 1_767_243_600),
            ("2024-02-29t23:59:60.25z", 1_709_251_200),
            ("2000-03-01T00:00:00+01:30", 951_863_400),
            ("1969-12-31T23:59:59-00:01", 59),
            ("9999-12-31T23:59:59Z", 253_402_300_799),
        ] {
            assert_eq!(timestamp(text), Ok(seconds), "{text}");
        }
        for text in [
            "",
            "2026-01-01",
            "2026-01-01T05:00:00",
            "2026-02-29T05:00:00Z",
            "2026-13-01T05:00:00Z",
            "2026-1-01T05:00:00Z",
            "2026-01-01 05:00:00Z",
            "2026-01-01T24:00:00Z",
            "2026-01-01T05:00:00.Z",
            "2026-01-01T05:00:00+0100",
            "2026-01-01T05:00:00Zx",
            "2026-01-01T05:00:00:00Z",
            "-026-01-01T05:00:00Z",
        ] {
            assert!(timestamp(text).is_err(), "{text}");
        }
    }

    #[test]
    fn uris_of_keys_have_a_host_and_no_secret() {
        for text in [
            "https://a.example/jwks",
            "http://127.0.0.1:8080",
            "https://[::1]:8443/x?y=z",
            "https://a",
        ] {
            assert_eq!(http_uri(text).as_deref(), Ok(text));
        }
        let long = format!("https://a/{}", "x".repeat(2048));
        for text in [
            "",
            "a.example/jwks",
            "ftp://a.example",
            "https://",
            "https:///x",
            "https://a b",
            "https://u:p@a",
            "https://a#f",
            "https://a:0",
            "https://a:x",
            "https://[::1",
            "https://[a]:1",
            "https://a/\"x",
            &long,
        ] {
            assert!(http_uri(text).is_err(), "{text}");
        }
    }
}
