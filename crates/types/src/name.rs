//! Kubernetes object names: the DNS-1123 subdomain that every name and namespace in a document is.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize};

/// The name of a resource: lower-case letters, digits, `-` and `.`, starting and ending with a
/// letter or digit, at most 253 bytes (Kubernetes "DNS subdomain names", RFC 1123).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Name(Arc<str>);

/// A namespace's name; the same alphabet as [`Name`].
pub type Namespace = Name;

/// Why a text is not a [`Name`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// No characters at all.
    #[error("a name is empty")]
    Empty,
    /// Longer than 253 bytes.
    #[error("name has {0} bytes, at most 253 are allowed")]
    TooLong(usize),
    /// A character outside the alphabet, with its byte offset.
    #[error(
        "name `{name}` has `{found}` at byte {at}; only a-z, 0-9, `-` and `.` are allowed, and it starts and ends with a letter or digit"
    )]
    Character {
        /// The whole text.
        name: String,
        /// The offending character.
        found: char,
        /// Its byte offset.
        at: usize,
    },
}

impl Name {
    /// # Errors
    /// [`NameError`] names the first rule that `text` breaks.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        if text.is_empty() {
            return Err(NameError::Empty);
        }
        if text.len() > 253 {
            return Err(NameError::TooLong(text.len()));
        }
        let last = text.len() - 1;
        for (at, found) in text.char_indices() {
            let inner = at != 0 && at != last;
            let fine = found.is_ascii_lowercase()
                || found.is_ascii_digit()
                || (inner && (found == '-' || found == '.'));
            if !fine {
                return Err(NameError::Character {
                    name: text.to_owned(),
                    found,
                    at,
                });
            }
        }
        Ok(Self(text.into()))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}`", self.0)
    }
}

impl std::borrow::Borrow<str> for Name {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl std::str::FromStr for Name {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, NameError> {
        Self::parse(text)
    }
}

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        Self::parse(&text).map_err(serde::de::Error::custom)
    }
}

/// `namespace/name`: what points at a namespaced resource whose kind is known from the context.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct NamespacedName {
    /// The namespace.
    pub namespace: Namespace,
    /// The name.
    pub name: Name,
}

impl NamespacedName {
    /// Joins the two.
    pub fn new(namespace: Namespace, name: Name) -> Self {
        Self { namespace, name }
    }

    /// Parses `namespace/name`.
    ///
    /// # Errors
    /// [`NameError`] when either part breaks a rule or the `/` is missing.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        let (namespace, name) = text.split_once('/').unwrap_or(("", text));
        Ok(Self {
            namespace: Name::parse(namespace)?,
            name: Name::parse(name)?,
        })
    }
}

impl fmt::Display for NamespacedName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_names_and_refuses_what_breaks_a_rule() {
        for good in ["a", "mission-services", "a.b", "0x"] {
            assert!(Name::parse(good).is_ok(), "{good}");
        }
        for bad in ["", "-a", "a-", "A", "a_b", "ä", ".a", &"a".repeat(254)] {
            assert!(Name::parse(bad).is_err(), "{bad}");
        }
    }
}
