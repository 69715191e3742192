//! Istio's string matcher: exact, prefix, suffix or presence, derived from the literal value.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize};

/// How a value must look (`../istio` security reference, "String matching").
///
/// `*` alone is presence, `*abc` a suffix, `abc*` a prefix, anything else exact. A `*` in the middle is literal, and
/// with `*abc*` the leading star wins: the suffix `abc*`, literally.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum StringMatch {
    /// Present; whether an empty value counts is the field's own rule, see [`StringMatch::matches`].
    Present,
    /// Equal.
    Exact(Arc<str>),
    /// Starts with.
    Prefix(Arc<str>),
    /// Ends with.
    Suffix(Arc<str>),
}

impl StringMatch {
    /// Every text is one of the four forms.
    pub fn parse(text: &str) -> Self {
        if text == "*" {
            Self::Present
        } else if let Some(suffix) = text.strip_prefix('*') {
            Self::Suffix(suffix.into())
        } else if let Some(prefix) = text.strip_suffix('*') {
            Self::Prefix(prefix.into())
        } else {
            Self::Exact(text.into())
        }
    }

    /// Case-sensitive match. `Present` asks for at least one byte (Istio: `.+`); fields for which an existing but empty
    /// value counts as present check that themselves.
    pub fn matches(&self, value: &str) -> bool {
        match self {
            Self::Present => !value.is_empty(),
            Self::Exact(text) => **text == *value,
            Self::Prefix(text) => value.starts_with(&**text),
            Self::Suffix(text) => value.ends_with(&**text),
        }
    }

    /// ASCII case-insensitive match, for hosts.
    pub fn matches_ignore_case(&self, value: &str) -> bool {
        match self {
            Self::Present => !value.is_empty(),
            Self::Exact(text) => text.eq_ignore_ascii_case(value),
            Self::Prefix(text) => value
                .as_bytes()
                .get(..text.len())
                .is_some_and(|head| head.eq_ignore_ascii_case(text.as_bytes())),
            Self::Suffix(text) => value
                .len()
                .checked_sub(text.len())
                .and_then(|at| value.as_bytes().get(at..))
                .is_some_and(|tail| tail.eq_ignore_ascii_case(text.as_bytes())),
        }
    }
}

impl fmt::Display for StringMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Present => f.write_str("*"),
            Self::Exact(text) => f.write_str(text),
            Self::Prefix(text) => write!(f, "{text}*"),
            Self::Suffix(text) => write!(f, "*{text}"),
        }
    }
}

impl fmt::Debug for StringMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{self}`")
    }
}

impl Serialize for StringMatch {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for StringMatch {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self::parse(&<std::borrow::Cow<'de, str>>::deserialize(
            deserializer,
        )?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_form_follows_from_the_literal() {
        assert_eq!(StringMatch::parse("*"), StringMatch::Present);
        assert_eq!(StringMatch::parse("*abc"), StringMatch::Suffix("abc".into()));
        assert_eq!(StringMatch::parse("abc*"), StringMatch::Prefix("abc".into()));
        assert_eq!(StringMatch::parse("a*c"), StringMatch::Exact("a*c".into()));
        assert_eq!(StringMatch::parse("*abc*"), StringMatch::Suffix("abc*".into()));
    }

    proptest! {
        #[test]
        fn parse_and_print_agree(text in ".{0,20}") {
            prop_assert_eq!(StringMatch::parse(&text).to_string(), text);
        }
    }
}
