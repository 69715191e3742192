//! What an unquoted word means.
//!
//! Kubernetes reads YAML 1.1, this parser YAML 1.2. Where both agree the word has its meaning; `yes`, `no`, `on`, `off`,
//! `y` and `n`, which are booleans only in 1.1, are [`ScalarKind::Ambiguous`] and refused wherever they would matter.
//! Integers with a leading zero are octal, as Kubernetes reads `defaultMode: 0644`.

/// A word, a number, or a text.
#[derive(Clone, Debug)]
pub(crate) struct Scalar {
    pub(crate) text: Box<str>,
    pub(crate) kind: ScalarKind,
    pub(crate) quotes: Quotes,
}

/// What stands around the text in the file. Its characters are written in another way between quotes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Quotes {
    /// Plain, or a block.
    None,
    Single,
    Double,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum ScalarKind {
    Text,
    Null,
    Boolean(bool),
    Integer(i64),
    /// A fraction, an exponent, infinity, or an integer that does not fit 64 bits.
    Number,
    Ambiguous,
}

impl ScalarKind {
    /// What the unquoted `text` means.
    pub(crate) fn of_plain(text: &str) -> Self {
        match text {
            "" | "~" | "null" | "Null" | "NULL" => return Self::Null,
            "true" | "True" | "TRUE" => return Self::Boolean(true),
            "false" | "False" | "FALSE" => return Self::Boolean(false),
            "y" | "Y" | "yes" | "Yes" | "YES" | "n" | "N" | "no" | "No" | "NO" | "on" | "On" | "ON"
            | "off" | "Off" | "OFF" => return Self::Ambiguous,
            ".inf" | ".Inf" | ".INF" | "+.inf" | "+.Inf" | "+.INF" | "-.inf" | "-.Inf" | "-.INF" | ".nan"
            | ".NaN" | ".NAN" => return Self::Number,
            _ => {}
        }
        integer(text).unwrap_or_else(|| {
            if is_fraction(text) {
                Self::Number
            } else {
                Self::Text
            }
        })
    }
}

fn integer(text: &str) -> Option<ScalarKind> {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let (radix, digits) = if let Some(rest) = digits.strip_prefix("0x") {
        (16, rest)
    } else if let Some(rest) = digits.strip_prefix("0o") {
        (8, rest)
    } else if let Some(rest) = digits.strip_prefix("0b") {
        (2, rest)
    } else if digits.len() > 1 && digits.starts_with('0') && digits.bytes().all(|b| matches!(b, b'0'..=b'7'))
    {
        (8, digits)
    } else {
        (10, digits)
    };
    let starts_right = digits.starts_with(|c: char| c.is_digit(radix));
    if !starts_right || !digits.chars().all(|c| c == '_' || c.is_digit(radix)) {
        return None;
    }
    let digits: String = digits.chars().filter(|c| *c != '_').collect();
    let Ok(number) = i64::from_str_radix(&digits, radix) else {
        return Some(ScalarKind::Number);
    };
    Some(ScalarKind::Integer(if negative { -number } else { number }))
}

/// `[-+]? ( \. [0-9]+ | [0-9]+ ( \. [0-9]* )? ) ( [eE] [-+]? [0-9]+ )?` (YAML 1.2 §10.3.2).
fn is_fraction(text: &str) -> bool {
    let rest = text.strip_prefix(['-', '+']).unwrap_or(text);
    let whole = rest.trim_start_matches(|c: char| c.is_ascii_digit());
    let has_whole = whole.len() < rest.len();
    let (rest, has_digits) = match whole.strip_prefix('.') {
        Some(after) => {
            let end = after.trim_start_matches(|c: char| c.is_ascii_digit());
            (end, has_whole || end.len() < after.len())
        }
        None => (whole, has_whole),
    };
    if !has_digits {
        return false;
    }
    match rest.strip_prefix(['e', 'E']) {
        Some(exponent) => {
            let digits = exponent.strip_prefix(['-', '+']).unwrap_or(exponent);
            !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit())
        }
        None => rest.is_empty(),
    }
}

#[cfg(test)]
mod tests {
    use super::ScalarKind::{self, Ambiguous, Boolean, Integer, Null, Number, Text};

    #[test]
    fn plain_words_mean_what_kubernetes_reads() {
        for (text, kind) in [
            ("", Null),
            ("~", Null),
            ("true", Boolean(true)),
            ("False", Boolean(false)),
            ("tRue", Text),
            ("yes", Ambiguous),
            ("off", Ambiguous),
            ("n", Ambiguous),
            ("8080", Integer(8080)),
            ("-1", Integer(-1)),
            ("0644", Integer(0o644)),
            ("0o644", Integer(0o644)),
            ("0x1F", Integer(31)),
            ("1_000", Integer(1000)),
            ("089", Integer(89)),
            ("99999999999999999999", Number),
            ("1.5", Number),
            ("1e3", Number),
            (".5", Number),
            ("1.", Number),
            (".", Text),
            ("1.2.3", Text),
            ("10.0.0.0/8", Text),
            ("12:30", Text),
            ("_1", Text),
            ("-", Text),
            ("e3", Text),
            ("0x", Text),
        ] {
            assert_eq!(ScalarKind::of_plain(text), kind, "{text:?}");
        }
    }
}
