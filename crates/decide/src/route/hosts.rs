//! A table by host pattern: exact before the longest wildcard before `*`.

use std::borrow::Cow;
use std::collections::HashMap;

use bartizan_mesh::FieldHashing;
use bartizan_types::HostPattern;

/// Values by host pattern.
#[derive(Debug)]
pub(super) struct Hosts<T> {
    exact: HashMap<String, T, FieldHashing>,
    suffix: HashMap<String, T, FieldHashing>,
    any: Option<T>,
}

impl<T> Default for Hosts<T> {
    fn default() -> Self {
        Self {
            exact: HashMap::default(),
            suffix: HashMap::default(),
            any: None,
        }
    }
}

impl<T: Default> Hosts<T> {
    /// The value of exactly this pattern; made when it is not there.
    pub(super) fn entry(&mut self, pattern: &HostPattern) -> &mut T {
        match pattern {
            HostPattern::Any => self.any.get_or_insert_default(),
            HostPattern::Exact(name) => self.exact.entry(name.as_str().to_owned()).or_default(),
            HostPattern::Suffix(name) => self.suffix.entry(name.as_str().to_owned()).or_default(),
        }
    }

    /// The value of the most specific pattern that covers `host` (without a port, any case).
    pub(super) fn find(&self, host: &str) -> Option<&T> {
        let host = host.strip_suffix('.').unwrap_or(host);
        let host = if host.bytes().any(|byte| byte.is_ascii_uppercase()) {
            Cow::Owned(host.to_ascii_lowercase())
        } else {
            Cow::Borrowed(host)
        };
        if let Some(value) = self.exact.get(&*host) {
            return Some(value);
        }
        if !self.suffix.is_empty() && host.len() <= 253 {
            let mut rest = &*host;
            while let Some((_, parent)) = rest.split_once('.').filter(|(label, _)| !label.is_empty()) {
                if let Some(value) = self.suffix.get(parent) {
                    return Some(value);
                }
                rest = parent;
            }
        }
        self.any.as_ref()
    }

    pub(super) fn values_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.exact
            .values_mut()
            .chain(self.suffix.values_mut())
            .chain(&mut self.any)
    }
}

/// The hosts that both patterns cover, which is one of the two or nothing.
pub(super) fn intersection(one: &HostPattern, other: &HostPattern) -> Option<HostPattern> {
    if covers(one, other) {
        Some(other.clone())
    } else if covers(other, one) {
        Some(one.clone())
    } else {
        None
    }
}

fn covers(wide: &HostPattern, narrow: &HostPattern) -> bool {
    match (wide, narrow) {
        (HostPattern::Any, _) => true,
        (HostPattern::Exact(_) | HostPattern::Suffix(_), HostPattern::Any)
        | (HostPattern::Exact(_), HostPattern::Suffix(_)) => false,
        (HostPattern::Exact(wide), HostPattern::Exact(narrow)) => wide == narrow,
        (HostPattern::Suffix(suffix), HostPattern::Suffix(narrow)) => {
            suffix == narrow || wide.matches(narrow.as_str())
        }
        (HostPattern::Suffix(_), HostPattern::Exact(narrow)) => wide.matches(narrow.as_str()),
    }
}
