//! What an inbound connection may be, by the effective mode of `PeerAuthentication` and its first bytes.

use bartizan_mesh::MtlsMode;

/// What the first bytes of a connection are.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum FirstBytes {
    /// A `ClientHello` whose ALPN has one of the mesh's names (`istio-http/1.0`, `istio-http/1.1`, `istio-h2`, `istio`,
    /// `istio-peer-exchange`).
    MeshTls,
    /// Any other `ClientHello`.
    OtherTls,
    /// Anything else, silence included.
    Plaintext,
}

/// What happens to the connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Admission {
    /// The proxy ends TLS and asks for a client certificate.
    EndTls,
    /// The application's own TLS: the bytes go to it as they are.
    PassThrough,
    /// It goes on in plaintext.
    Plaintext,
    /// It is reset.
    Refuse(Refused),
}

/// Why a connection is reset before anything is read from it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, thiserror::Error)]
pub enum Refused {
    /// The mode is STRICT.
    #[error("plaintext is refused: mutual TLS is STRICT here")]
    Plaintext,
}

/// Whether a connection may go on, and how (Istio "Server side wire behaviour").
///
/// STRICT ends any TLS, so that an application's own TLS fails in the handshake for want of a mesh certificate.
pub fn admit(mode: MtlsMode, first: FirstBytes) -> Admission {
    match (mode, first) {
        (MtlsMode::Strict, FirstBytes::MeshTls | FirstBytes::OtherTls)
        | (MtlsMode::Permissive, FirstBytes::MeshTls) => Admission::EndTls,
        (MtlsMode::Strict, FirstBytes::Plaintext) => Admission::Refuse(Refused::Plaintext),
        (MtlsMode::Permissive, FirstBytes::OtherTls)
        | (MtlsMode::Disable, FirstBytes::MeshTls | FirstBytes::OtherTls) => Admission::PassThrough,
        (MtlsMode::Permissive | MtlsMode::Disable, FirstBytes::Plaintext) => Admission::Plaintext,
    }
}
