//! Who is at the other end of a connection.

use crate::spiffe::SpiffeId;

/// The other end of a connection. What plaintext may do is policy, never a missing value.
#[derive(Clone, PartialEq, Eq, Debug, Hash)]
pub enum Peer {
    /// Proved this identity in a mutual TLS handshake whose chain was verified.
    Authenticated(SpiffeId),
    /// No TLS, or TLS that is not the mesh's own.
    Plaintext,
}

impl Peer {
    /// The proven identity, if there is one.
    pub fn identity(&self) -> Option<&SpiffeId> {
        match self {
            Self::Authenticated(id) => Some(id),
            Self::Plaintext => None,
        }
    }
}
