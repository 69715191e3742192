//! Who a workload is, and how it proves it: keys, SVIDs, trust bundles, the authority that issues, the verifier that
//! believes, and the TLS configurations made of these.
//!
//! No IO and no clock of its own: bytes and times in, bytes out. The only room that names aws-lc-rs, rcgen and
//! x509-parser; rustls is named here and in `wire`.

pub mod bootstrap;
pub mod bundle;
pub mod ca;
pub mod clock;
pub mod credentials;
pub mod crypto;
pub mod csr;
mod ecdsa;
pub mod jwt;
pub mod key;
pub mod leaf;
pub mod pem;
pub mod refused;
pub mod rotation;
pub mod sealed;
pub mod svid;
pub mod tls;
pub mod verify;
pub mod web;

pub use bootstrap::BootstrapSecret;
pub use bundle::{BundleError, TrustBundle};
pub use ca::{Authority, AuthorityError, AuthorityPem, IssueError, Issued};
pub use clock::{Clock, ClockHand};
pub use credentials::{Credentials, CredentialsError, Current};
pub use crypto::warm_up;
pub use csr::{Proof, ProofRefused, hello_transcript, renewal_transcript};
pub use key::{KeyError, PrivateKey};
pub use leaf::SvidDefect;
pub use pem::PemError;
pub use refused::{HandshakeFailure, PeerRefused};
pub use sealed::{SealedError, open, seal};
pub use svid::{Svid, SvidError};
pub use tls::{
    ClientAlpn, ClientKey, ClientTls, Negotiated, ServerAlpn, ServerTls, TlsVersions, mesh_sni, peer_of,
};
pub use verify::{ExpectedPeers, verify_chain};
pub use web::{WebError, web_client, web_server_name};
