//! Values that must not be printed, kept or compared in the open.

use std::fmt;

use zeroize::{Zeroize, Zeroizing};

/// A value that has no `Debug` of its own, is zeroed on drop and is compared in constant time.
#[derive(Clone)]
pub struct Secret<T: Zeroize>(Zeroizing<T>);

impl<T: Zeroize> Secret<T> {
    /// Takes the value in.
    pub fn new(value: T) -> Self {
        Self(Zeroizing::new(value))
    }

    /// The value, at a place that a reader can find by this name.
    pub fn expose(&self) -> &T {
        &self.0
    }
}

impl<T: Zeroize + AsRef<[u8]>> Secret<T> {
    /// Compares with `other` in time that depends only on the lengths.
    pub fn matches(&self, other: &[u8]) -> bool {
        let own = self.0.as_ref();
        own.len() == other.len() && own.iter().zip(other).fold(0u8, |acc, (a, b)| acc | (a ^ b)) == 0
    }
}

impl<T: Zeroize> fmt::Debug for Secret<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[secret]")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_does_not_show_itself() {
        let secret = Secret::new(b"token".to_vec());
        assert_eq!(format!("{secret:?}"), "[secret]");
        assert!(secret.matches(b"token") && !secret.matches(b"tokem") && !secret.matches(b"toke"));
    }
}
