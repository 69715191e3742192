//! TLS towards servers outside the mesh, such as an issuer of tokens: names are verified as browsers do (RFC 9525), against
//! roots that are handed in. No client certificate is shown: a mesh identity means nothing there.

use std::sync::Arc;

use rustls::client::Resumption;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::{CertificateDer, ServerName};

use crate::pem::{PemError, certificates};
use crate::{crypto, tls::TlsVersions};

/// Why there is no such client.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WebError {
    /// The roots that were named are no certificates.
    #[error(transparent)]
    Pem(#[from] PemError),
    /// One of the roots that were named cannot be used.
    #[error("a certificate in it cannot be a root")]
    Root,
    /// Nobody could be verified.
    #[error("there is no root certificate to verify with")]
    NoRoots,
    /// The library refused.
    #[error("the TLS settings are refused: {0}")]
    Settings(String),
}

/// A TLS client configuration for HTTPS over HTTP/1.1, TLS 1.2 and 1.3.
///
/// `system` are the system's roots: what cannot be used of them is passed over, as stores have odd ones. `named` is a PEM text
/// that somebody has chosen: all of it must be usable.
///
/// # Errors
/// [`WebError`] when the roots are none.
pub fn web_client(
    system: impl IntoIterator<Item = CertificateDer<'static>>,
    named: Option<&str>,
) -> Result<Arc<ClientConfig>, WebError> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(system);
    for der in named.map(certificates).transpose()?.unwrap_or_default() {
        roots.add(CertificateDer::from(der)).map_err(|_| WebError::Root)?;
    }
    if roots.is_empty() {
        return Err(WebError::NoRoots);
    }
    let mut config = ClientConfig::builder_with_provider(crypto::provider())
        .with_protocol_versions(TlsVersions::From12.list())
        .map_err(|error| WebError::Settings(error.to_string()))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

/// The name that a server must prove: a DNS name or an address, as in a URI but without brackets. `None` when it is neither.
pub fn web_server_name(host: &str) -> Option<ServerName<'static>> {
    ServerName::try_from(host.to_owned()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ca::Authority;
    use bartizan_types::TrustDomain;

    #[test]
    fn without_roots_nobody_is_verified() {
        assert_eq!(web_client([], None).unwrap_err(), WebError::NoRoots);
        let odd = CertificateDer::from(vec![1, 2, 3]);
        assert_eq!(web_client([odd], None).unwrap_err(), WebError::NoRoots);
        assert_eq!(
            web_client([], Some("nothing")).unwrap_err(),
            WebError::Pem(PemError::Certificates)
        );
        let odd = crate::pem::text("CERTIFICATE", &[1, 2, 3]);
        assert_eq!(web_client([], Some(&odd)).unwrap_err(), WebError::Root);
    }

    #[test]
    fn a_named_root_is_enough() {
        let domain = TrustDomain::parse("cluster.local").unwrap();
        let authority = Authority::create(domain.clone(), std::time::SystemTime::now()).unwrap();
        let pem = authority.trust_bundle().unwrap().to_pem(&domain);
        let config = web_client([], Some(&pem)).unwrap();
        assert_eq!(config.alpn_protocols, [b"http/1.1"]);
        assert_eq!(config.fips(), crypto::fips());
    }

    #[test]
    fn names_and_addresses_can_be_proven() {
        assert!(web_server_name("issuer.example").is_some());
        assert!(web_server_name("192.0.2.1").is_some());
        assert!(web_server_name("::1").is_some());
        assert!(web_server_name("[::1]").is_none());
        assert!(web_server_name("a b").is_none());
    }
}
