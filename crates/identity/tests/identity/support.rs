//! A small mesh, certificates that no authority of ours would issue, and handshakes without sockets.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bartizan_identity::{
    Authority, ClientAlpn, ClientKey, ClientTls, Clock, ClockHand, Credentials, ExpectedPeers, PrivateKey,
    ServerAlpn, ServerTls, Svid, TlsVersions, TrustBundle, mesh_sni,
};
use bartizan_types::{SpiffeId, TrustDomain};
use rcgen::{
    CertificateParams, DistinguishedName, ExtendedKeyUsagePurpose, Issuer, KeyUsagePurpose, SanType,
};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, ServerConfig, ServerConnection, SignatureScheme,
};

/// Some whole second.
pub(crate) fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_hours(500_000)
}

pub(crate) const HOUR: Duration = Duration::from_hours(1);

pub(crate) fn domain(text: &str) -> TrustDomain {
    TrustDomain::parse(text).unwrap()
}

pub(crate) fn id(text: &str) -> SpiffeId {
    SpiffeId::parse(&format!("spiffe://{text}")).unwrap()
}

/// One trust domain with its authority and a clock that can be moved.
pub(crate) struct Mesh {
    pub(crate) authority: Authority,
    pub(crate) clock: Clock,
    pub(crate) hand: ClockHand,
}

impl Mesh {
    pub(crate) fn new(trust_domain: &str) -> Self {
        let (clock, hand) = Clock::fixed(now());
        Self {
            authority: Authority::create(domain(trust_domain), now()).unwrap(),
            clock,
            hand,
        }
    }

    pub(crate) fn bundle(&self) -> TrustBundle {
        self.authority.trust_bundle().unwrap()
    }

    pub(crate) fn svid(&self, who: &str) -> Svid {
        self.svid_at(who, now())
    }

    pub(crate) fn svid_at(&self, who: &str, at: SystemTime) -> Svid {
        let key = PrivateKey::generate().unwrap();
        let issued = self
            .authority
            .issue(&key.csr().unwrap(), &id(who), HOUR, at)
            .unwrap();
        Svid::new(issued.chain, key).unwrap()
    }

    pub(crate) fn credentials(&self, who: &str) -> Arc<Credentials> {
        Credentials::new(self.svid(who), self.bundle()).unwrap()
    }

    pub(crate) fn server(&self, credentials: &Arc<Credentials>) -> Arc<ServerConfig> {
        ServerTls::new(credentials, &self.clock, TlsVersions::Only13)
            .unwrap()
            .config(ServerAlpn::Any)
    }

    pub(crate) fn client(&self, credentials: &Arc<Credentials>, expected: &str) -> Arc<ClientConfig> {
        ClientTls::new(credentials, &self.clock, TlsVersions::Only13)
            .config(&ClientKey {
                expected: ExpectedPeers::one(id(expected)),
                alpn: ClientAlpn::Http1,
            })
            .unwrap()
    }

    /// A leaf that is signed by this mesh's intermediate and changed by `change` from what an SVID is.
    pub(crate) fn forged(&self, who: &str, change: impl FnOnce(&mut CertificateParams)) -> Shown {
        let pem = self.authority.to_pem();
        let key = rcgen::KeyPair::from_pem(pem.intermediate_key.expose()).unwrap();
        let issuer = Issuer::from_ca_cert_pem(&pem.intermediate_cert, key).unwrap();
        let params = leaf(who, change);
        let key = PrivateKey::generate().unwrap();
        let certificate = params.signed_by(&key, &issuer).unwrap();
        let intermediate = self
            .svid(&format!("{}/ns/a/sa/any", self.authority.trust_domain()))
            .chain_der()
            .remove(1);
        Shown {
            chain: vec![certificate.der().to_vec(), intermediate],
            key,
        }
    }
}

/// The parameters of a good leaf, changed.
pub(crate) fn leaf(who: &str, change: impl FnOnce(&mut CertificateParams)) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = vec![uri(&format!("spiffe://{who}"))];
    let since = now().duration_since(UNIX_EPOCH).unwrap();
    params.not_before = rcgen::date_time_ymd(1970, 1, 1) + since - HOUR;
    params.not_after = rcgen::date_time_ymd(1970, 1, 1) + since + HOUR;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ];
    change(&mut params);
    params
}

pub(crate) fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().unwrap())
}

/// A chain and key as they are shown in a handshake, whether they are an SVID or not.
pub(crate) struct Shown {
    pub(crate) chain: Vec<Vec<u8>>,
    pub(crate) key: PrivateKey,
}

impl Shown {
    pub(crate) fn of(svid: &Svid) -> Self {
        Self {
            chain: svid.chain_der(),
            key: svid.key().clone(),
        }
    }

    pub(crate) fn self_signed(who: &str) -> Self {
        let key = PrivateKey::generate().unwrap();
        let certificate = leaf(who, |_| ()).self_signed(&key).unwrap();
        Self {
            chain: vec![certificate.der().to_vec()],
            key,
        }
    }

    fn parts(&self) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
        (
            self.chain.iter().cloned().map(CertificateDer::from).collect(),
            PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.key.pkcs8().expose().clone())),
        )
    }

    /// A server that shows this and believes everybody.
    pub(crate) fn server(&self) -> Arc<ServerConfig> {
        let (chain, key) = self.parts();
        Arc::new(
            ServerConfig::builder_with_provider(bartizan_identity::crypto::provider())
                .with_safe_default_protocol_versions()
                .unwrap()
                .with_no_client_auth()
                .with_single_cert(chain, key)
                .unwrap(),
        )
    }

    /// A client that shows this and believes everybody.
    pub(crate) fn client(&self) -> Arc<ClientConfig> {
        let (chain, key) = self.parts();
        Arc::new(
            ClientConfig::builder_with_provider(bartizan_identity::crypto::provider())
                .with_safe_default_protocol_versions()
                .unwrap()
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(Credulous))
                .with_client_auth_cert(chain, key)
                .unwrap(),
        )
    }
}

/// A client without a certificate that believes everybody.
pub(crate) fn anonymous() -> Arc<ClientConfig> {
    Arc::new(
        ClientConfig::builder_with_provider(bartizan_identity::crypto::provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Credulous))
            .with_no_client_auth(),
    )
}

#[derive(Debug)]
struct Credulous;

impl ServerCertVerifier for Credulous {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ECDSA_NISTP256_SHA256]
    }
}

/// Both ends of a connection, and what each of them failed with.
pub(crate) struct Ends {
    pub(crate) client: ClientConnection,
    pub(crate) server: ServerConnection,
    pub(crate) client_error: Option<rustls::Error>,
    pub(crate) server_error: Option<rustls::Error>,
}

impl Ends {
    /// Carries bytes both ways until neither end has anything to say.
    pub(crate) fn carry(&mut self) {
        loop {
            let mut moved = false;
            let mut bytes = Vec::new();
            while self.client.wants_write() {
                self.client.write_tls(&mut bytes).unwrap();
            }
            let mut rest = bytes.as_slice();
            while !rest.is_empty() && self.server_error.is_none() {
                moved = true;
                self.server.read_tls(&mut rest).unwrap();
                self.server_error = self.server.process_new_packets().err();
            }
            let mut bytes = Vec::new();
            while self.server.wants_write() {
                self.server.write_tls(&mut bytes).unwrap();
            }
            let mut rest = bytes.as_slice();
            while !rest.is_empty() && self.client_error.is_none() {
                moved = true;
                self.client.read_tls(&mut rest).unwrap();
                self.client_error = self.client.process_new_packets().err();
            }
            if !moved {
                return;
            }
        }
    }

    pub(crate) fn succeeded(&self) -> bool {
        self.client_error.is_none()
            && self.server_error.is_none()
            && !self.client.is_handshaking()
            && !self.server.is_handshaking()
    }

    /// Whether bytes that the client writes arrive at the server.
    pub(crate) fn carries(&mut self, bytes: &[u8]) -> bool {
        use std::io::{Read as _, Write as _};
        self.client.writer().write_all(bytes).unwrap();
        self.carry();
        let mut read = vec![0; bytes.len()];
        self.server.reader().read_exact(&mut read).is_ok() && read == bytes
    }
}

pub(crate) fn shake(client: Arc<ClientConfig>, server: Arc<ServerConfig>) -> Ends {
    let name = mesh_sni(8080, "telemetry-ingest.mission-services.svc.cluster.local").unwrap();
    let mut ends = Ends {
        client: ClientConnection::new(client, name).unwrap(),
        server: ServerConnection::new(server).unwrap(),
        client_error: None,
        server_error: None,
    };
    ends.carry();
    ends
}
