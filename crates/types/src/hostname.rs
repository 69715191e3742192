//! Host names, and the patterns that match them.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize};

/// A DNS host name in lower case, without a trailing dot (RFC 1035 §2.3.1, with `_` allowed as Kubernetes does).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Hostname(Arc<str>);

/// Why a text is not a host name or a host pattern.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a host name: {reason}")]
pub struct HostnameError {
    text: String,
    reason: &'static str,
}

impl Hostname {
    /// Parses and lower-cases; one trailing dot is dropped.
    ///
    /// # Errors
    /// When a label is empty, longer than 63 bytes, or has a character outside `[A-Za-z0-9_-]`.
    pub fn parse(text: &str) -> Result<Self, HostnameError> {
        let error = |reason| HostnameError {
            text: text.to_owned(),
            reason,
        };
        let name = text.strip_suffix('.').unwrap_or(text);
        if name.is_empty() || name.len() > 253 {
            return Err(error("it needs 1 to 253 characters"));
        }
        for label in name.split('.') {
            if label.is_empty() || label.len() > 63 {
                return Err(error("each label needs 1 to 63 characters"));
            }
            if label.starts_with('-') || label.ends_with('-') {
                return Err(error("a label does not start or end with `-`"));
            }
            if !label
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
            {
                return Err(error("only letters, digits, `-` and `_` are allowed in a label"));
            }
        }
        Ok(Self(name.to_ascii_lowercase().into()))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A host name, `*`, or a wildcard of whole leading labels such as `*.example.org`
/// (Gateway API `Hostname`: the wildcard stands for one or more labels, never for none).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum HostPattern {
    /// Every host.
    Any,
    /// Hosts that end in `.` and this name.
    Suffix(Hostname),
    /// This one host.
    Exact(Hostname),
}

impl HostPattern {
    /// # Errors
    /// When the text is neither `*`, `*.name` nor a host name.
    pub fn parse(text: &str) -> Result<Self, HostnameError> {
        match text.strip_prefix('*') {
            Some("") => Ok(Self::Any),
            Some(rest) => match rest.strip_prefix('.') {
                Some(name) => Ok(Self::Suffix(Hostname::parse(name)?)),
                None => Err(HostnameError {
                    text: text.to_owned(),
                    reason: "`*` stands for whole labels: `*.name`",
                }),
            },
            None => Ok(Self::Exact(Hostname::parse(text)?)),
        }
    }

    /// Whether `host` (without a port, any case) is covered.
    pub fn matches(&self, host: &str) -> bool {
        let host = host.strip_suffix('.').unwrap_or(host);
        match self {
            Self::Any => true,
            Self::Exact(name) => name.as_str().eq_ignore_ascii_case(host),
            Self::Suffix(name) => {
                let name = name.as_str();
                host.len() > name.len() + 1
                    && host.is_char_boundary(host.len() - name.len() - 1)
                    && host.get(host.len() - name.len() - 1..).is_some_and(|tail| {
                        tail.starts_with('.')
                            && tail.get(1..).is_some_and(|tail| tail.eq_ignore_ascii_case(name))
                    })
            }
        }
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("*"),
            Self::Suffix(name) => write!(f, "*.{name}"),
            Self::Exact(name) => write!(f, "{name}"),
        }
    }
}

impl Serialize for HostPattern {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for HostPattern {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        Self::parse(&text).map_err(serde::de::Error::custom)
    }
}

impl fmt::Display for Hostname {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Hostname {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}`", self.0)
    }
}

impl std::borrow::Borrow<str> for Hostname {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl<'de> Deserialize<'de> for Hostname {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        Self::parse(&text).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wildcard_stands_for_at_least_one_label() {
        let pattern = HostPattern::parse("*.foo.com").unwrap();
        assert!(pattern.matches("a.foo.com") && pattern.matches("a.b.FOO.com"));
        assert!(
            !pattern.matches("foo.com") && !pattern.matches("afoo.com") && !pattern.matches(".foo.com.evil")
        );
        assert!(HostPattern::parse("*foo.com").is_err());
    }

    #[test]
    fn names_are_lower_case_and_have_no_trailing_dot() {
        assert_eq!(Hostname::parse("Shop.Example.").unwrap().as_str(), "shop.example");
        for bad in ["", ".", "a..b", "-a", "a-", "a b", "ä.b"] {
            assert!(Hostname::parse(bad).is_err(), "{bad}");
        }
    }
}
