//! The one-time secret by which a supervisor vouches for a proxy that it has just started.

use bartizan_types::Secret;

use crate::crypto;

/// 32 random bytes, known to the supervisor, the control plane (from the supervisor) and the new proxy (by an inherited descriptor).
/// The control plane forgets it when it has been used.
#[derive(Clone, Debug)]
pub struct BootstrapSecret(Secret<Vec<u8>>);

impl BootstrapSecret {
    /// How many bytes a secret has.
    pub const LENGTH: usize = 32;

    /// A fresh one.
    pub fn generate() -> Self {
        Self(Secret::new(crypto::random::<{ Self::LENGTH }>().to_vec()))
    }

    /// Takes the bytes that were announced or inherited; none when their number is wrong.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        (bytes.len() == Self::LENGTH).then(|| Self(Secret::new(bytes.to_vec())))
    }

    /// The bytes, to be handed on.
    pub fn expose(&self) -> &[u8] {
        self.0.expose()
    }

    /// Whether `shown` is this secret, in constant time.
    pub fn matches(&self, shown: &[u8]) -> bool {
        self.0.matches(shown)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_secret_itself_matches() {
        let secret = BootstrapSecret::generate();
        assert!(secret.matches(BootstrapSecret::from_bytes(secret.expose()).unwrap().expose()));
        assert!(!secret.matches(BootstrapSecret::generate().expose()));
        assert!(!secret.matches(&[]));
        assert!(BootstrapSecret::from_bytes(&[0; 31]).is_none());
        assert!(!format!("{secret:?}").contains(&format!("{:?}", secret.expose())));
    }
}
