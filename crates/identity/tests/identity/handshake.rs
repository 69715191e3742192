//! Mutual TLS between two proxies: who is let in, who is refused and with which reason.

use std::time::Duration;

use bartizan_identity::{
    ClientAlpn, ClientKey, ClientTls, Credentials, ExpectedPeers, HandshakeFailure, Negotiated, PeerRefused,
    ServerAlpn, ServerTls, SvidDefect, TlsVersions, TrustBundle, peer_of,
};
use bartizan_types::Peer;
use rcgen::{BasicConstraints, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose, SanType};
use rustls::{HandshakeKind, NamedGroup, ProtocolVersion};

use crate::support::{HOUR, Mesh, Shown, anonymous, domain, id, now, shake, uri};

const SERVER: &str = "cluster.local/ns/mission-services/sa/telemetry-ingest";
const CLIENT: &str = "cluster.local/ns/mission-services/sa/data-processor";

#[test]
fn two_proxies_prove_themselves_to_each_other_with_the_hybrid_group() {
    let mesh = Mesh::new("cluster.local");
    let (server, client) = (mesh.credentials(SERVER), mesh.credentials(CLIENT));
    let mut ends = shake(mesh.client(&client, SERVER), mesh.server(&server));
    assert!(ends.succeeded());
    assert_eq!(
        peer_of(ends.server.peer_certificates()),
        Peer::Authenticated(id(CLIENT))
    );
    assert_eq!(
        peer_of(ends.client.peer_certificates()),
        Peer::Authenticated(id(SERVER))
    );
    for group in [
        ends.client.negotiated_key_exchange_group(),
        ends.server.negotiated_key_exchange_group(),
    ] {
        assert_eq!(group.unwrap().name(), NamedGroup::X25519MLKEM768);
    }
    assert_eq!(ends.server.protocol_version(), Some(ProtocolVersion::TLSv1_3));
    assert_eq!(ends.server.alpn_protocol(), Some(b"istio-http/1.1".as_slice()));
    assert_eq!(
        ends.server.server_name(),
        Some("outbound_.8080_._.telemetry-ingest.mission-services.svc.cluster.local")
    );
    assert!(ends.carries(b"bytes"));
}

/// What the mesh refuses, as it is shown by either side.
fn refused(mesh: &Mesh) -> Vec<(&'static str, Shown, PeerRefused)> {
    let forged = |who: &str, change: fn(&mut rcgen::CertificateParams)| mesh.forged(who, change);
    let not_an_svid = PeerRefused::NotAnSvid;
    vec![
        ("self-signed", Shown::self_signed(SERVER), PeerRefused::SelfSigned),
        (
            "a trust domain that is not trusted, from an authority that is",
            forged("other.example/ns/a/sa/b", |_| ()),
            PeerRefused::UnknownTrustDomain("other.example".to_owned()),
        ),
        (
            "a trust domain that is not trusted, from its own authority",
            Shown::of(&Mesh::new("other.example").svid("other.example/ns/a/sa/b")),
            PeerRefused::UnknownTrustDomain("other.example".to_owned()),
        ),
        (
            "our own trust domain from a foreign authority that calls itself the same",
            Shown::of(&Mesh::new("cluster.local").svid(SERVER)),
            PeerRefused::UntrustedChain("UnknownIssuer".to_owned()),
        ),
        (
            "a leaf that may sign",
            forged(SERVER, |leaf| {
                leaf.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            }),
            not_an_svid(SvidDefect::Authority),
        ),
        (
            "a leaf whose key may sign certificates",
            forged(SERVER, |leaf| leaf.key_usages.push(KeyUsagePurpose::KeyCertSign)),
            not_an_svid(SvidDefect::Authority),
        ),
        (
            "a leaf whose key may sign revocation lists",
            forged(SERVER, |leaf| leaf.key_usages.push(KeyUsagePurpose::CrlSign)),
            not_an_svid(SvidDefect::Authority),
        ),
        (
            "a leaf without key usage",
            forged(SERVER, |leaf| leaf.key_usages.clear()),
            not_an_svid(SvidDefect::KeyUsage),
        ),
        (
            "a leaf that may only agree on keys",
            forged(SERVER, |leaf| {
                leaf.key_usages = vec![KeyUsagePurpose::KeyAgreement];
            }),
            not_an_svid(SvidDefect::KeyUsage),
        ),
        (
            "two URIs",
            forged(SERVER, |leaf| {
                leaf.subject_alt_names.push(uri("spiffe://cluster.local/other"));
            }),
            not_an_svid(SvidDefect::SeveralUris(2)),
        ),
        (
            "the same URI twice",
            forged(SERVER, |leaf| {
                leaf.subject_alt_names.extend(leaf.subject_alt_names.clone());
            }),
            not_an_svid(SvidDefect::SeveralUris(2)),
        ),
        (
            "only a DNS name",
            forged(SERVER, |leaf| {
                leaf.subject_alt_names = vec![SanType::DnsName("telemetry-ingest".try_into().unwrap())];
            }),
            not_an_svid(SvidDefect::NoUri),
        ),
        (
            "no name",
            forged(SERVER, |leaf| leaf.subject_alt_names.clear()),
            not_an_svid(SvidDefect::NoUri),
        ),
        (
            "a trust domain's name without a workload",
            forged("cluster.local", |_| ()),
            not_an_svid(SvidDefect::NoPath(id("cluster.local"))),
        ),
        (
            "expired",
            forged(SERVER, |leaf| leaf.not_after -= HOUR + Duration::from_secs(5)),
            PeerRefused::Expired {
                by: Duration::from_secs(5),
            },
        ),
        (
            "not yet valid",
            forged(SERVER, |leaf| leaf.not_before += HOUR + Duration::from_secs(7)),
            PeerRefused::NotYetValid {
                by: Duration::from_secs(7),
            },
        ),
    ]
}

#[test]
fn a_client_refuses_each_bad_server_with_its_reason() {
    let mesh = Mesh::new("cluster.local");
    let client = mesh.credentials(CLIENT);
    for (what, shown, reason) in refused(&mesh) {
        let ends = shake(mesh.client(&client, SERVER), shown.server());
        let error = ends.client_error.expect(what);
        assert_eq!(
            HandshakeFailure::of_tls(&error),
            HandshakeFailure::Refused(reason),
            "{what}"
        );
        assert!(matches!(
            HandshakeFailure::of_tls(&ends.server_error.expect(what)),
            HandshakeFailure::RefusedByPeer(_)
        ));
    }
}

#[test]
fn a_server_refuses_each_bad_client_with_its_reason() {
    let mesh = Mesh::new("cluster.local");
    let server = mesh.credentials(SERVER);
    for (what, shown, reason) in refused(&mesh) {
        let ends = shake(shown.client(), mesh.server(&server));
        let error = ends.server_error.expect(what);
        assert_eq!(
            HandshakeFailure::of_tls(&error),
            HandshakeFailure::Refused(reason),
            "{what}"
        );
        // In TLS 1.3 the client has finished by then, and is told when it reads.
        assert!(matches!(
            HandshakeFailure::of_tls(&ends.client_error.expect(what)),
            HandshakeFailure::RefusedByPeer(_)
        ));
    }
}

#[test]
fn a_good_leaf_of_the_same_making_is_let_in() {
    // The tables above change one thing each: unchanged, the same leaf must pass.
    let mesh = Mesh::new("cluster.local");
    let shown = mesh.forged(CLIENT, |_| ());
    assert!(shake(shown.client(), mesh.server(&mesh.credentials(SERVER))).succeeded());
    let with_dns = mesh.forged(SERVER, |leaf| {
        leaf.subject_alt_names
            .push(SanType::DnsName("more".try_into().unwrap()));
    });
    let client = mesh.client(&mesh.credentials(CLIENT), SERVER);
    assert!(shake(client, with_dns.server()).succeeded());
}

#[test]
fn a_leaf_for_the_other_role_only_is_refused() {
    let mesh = Mesh::new("cluster.local");
    let shown = mesh.forged(SERVER, |leaf| {
        leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    });
    let client = mesh.client(&mesh.credentials(CLIENT), SERVER);
    let error = shake(client, shown.server()).client_error.unwrap();
    assert!(matches!(
        PeerRefused::from_tls(&error),
        Some(PeerRefused::UntrustedChain(_))
    ));
}

#[test]
fn a_server_with_another_identity_is_refused() {
    let mesh = Mesh::new("cluster.local");
    let other = "cluster.local/ns/mission-services/sa/query";
    let ends = shake(
        mesh.client(&mesh.credentials(CLIENT), SERVER),
        mesh.server(&mesh.credentials(other)),
    );
    let failure = HandshakeFailure::of_tls(&ends.client_error.unwrap());
    assert_eq!(
        failure,
        HandshakeFailure::Refused(PeerRefused::WrongIdentity {
            expected: ExpectedPeers::one(id(SERVER)),
            found: id(other),
        })
    );
    assert_eq!(failure.reason(), "wrong_identity");
    assert_eq!(
        failure.to_string(),
        format!("the peer is spiffe://{other}, expected was spiffe://{SERVER}")
    );
}

#[test]
fn nobody_is_expected_means_nobody_is_believed() {
    let mesh = Mesh::new("cluster.local");
    let client = ClientTls::new(&mesh.credentials(CLIENT), &mesh.clock, TlsVersions::Only13)
        .config(&ClientKey {
            expected: ExpectedPeers::any_of([]),
            alpn: ClientAlpn::Tcp,
        })
        .unwrap();
    let ends = shake(client, mesh.server(&mesh.credentials(SERVER)));
    assert_eq!(
        HandshakeFailure::of_tls(&ends.client_error.unwrap()).reason(),
        "wrong_identity"
    );
}

#[test]
fn a_client_without_a_certificate_is_refused() {
    let mesh = Mesh::new("cluster.local");
    let ends = shake(anonymous(), mesh.server(&mesh.credentials(SERVER)));
    let failure = HandshakeFailure::of_tls(&ends.server_error.unwrap());
    assert_eq!(failure, HandshakeFailure::Refused(PeerRefused::NoCertificate));
    assert_eq!(
        HandshakeFailure::of_tls(&ends.client_error.unwrap()),
        HandshakeFailure::RefusedByPeer("CertificateRequired".to_owned())
    );
}

#[test]
fn a_root_vouches_only_for_its_own_trust_domain() {
    // Both domains are trusted. An authority of one issues a name of the other, properly signed.
    let (ours, theirs) = (Mesh::new("cluster.local"), Mesh::new("partner.example"));
    let both = TrustBundle::new(
        ours.bundle()
            .iter()
            .chain(theirs.bundle().iter())
            .map(|(domain, roots)| (domain.clone(), roots)),
    )
    .unwrap();
    let server = Credentials::new(ours.svid(SERVER), both).unwrap();

    let honest = Shown::of(&theirs.svid("partner.example/ns/a/sa/b"));
    assert!(shake(honest.client(), ours.server(&server)).succeeded());

    let forged = theirs.forged(CLIENT, |_| ());
    let error = shake(forged.client(), ours.server(&server)).server_error.unwrap();
    assert_eq!(
        PeerRefused::from_tls(&error),
        Some(PeerRefused::UntrustedChain("UnknownIssuer".to_owned()))
    );
}

#[test]
fn time_is_the_settable_clocks() {
    let mesh = Mesh::new("cluster.local");
    let (server, client) = (mesh.credentials(SERVER), mesh.credentials(CLIENT));
    let again = || shake(mesh.client(&client, SERVER), mesh.server(&server));
    assert!(again().succeeded());
    mesh.hand.set(now() + HOUR + Duration::from_secs(90));
    let ends = again();
    assert_eq!(
        PeerRefused::from_tls(&ends.client_error.unwrap()),
        Some(PeerRefused::Expired {
            by: Duration::from_secs(90)
        })
    );
    assert_eq!(
        HandshakeFailure::of_tls(&ends.server_error.unwrap()),
        HandshakeFailure::RefusedByPeer("CertificateExpired".to_owned()),
        "the peer is told that its certificate expired"
    );
    mesh.hand.set(now() - Duration::from_secs(59));
    assert!(
        again().succeeded(),
        "a clock that is a minute behind is allowed for"
    );
    mesh.hand.set(now() - Duration::from_secs(61));
    assert_eq!(
        PeerRefused::from_tls(&again().client_error.unwrap()),
        Some(PeerRefused::NotYetValid {
            by: Duration::from_secs(1)
        })
    );
}

#[test]
fn rotation_keeps_open_connections_and_changes_new_ones() {
    let mesh = Mesh::new("cluster.local");
    let (server, client) = (mesh.credentials(SERVER), mesh.credentials(CLIENT));
    let (server_config, client_config) = (mesh.server(&server), mesh.client(&client, SERVER));
    let mut open = shake(client_config.clone(), server_config.clone());
    let shown_before = open.client.peer_certificates().unwrap()[0].clone();

    // Past half of the life both renew; past its end the old ones would be refused.
    let later = now() + HOUR / 2;
    assert_eq!(server.replace(mesh.svid_at(SERVER, later), mesh.bundle()), Ok(2));
    assert_eq!(client.replace(mesh.svid_at(CLIENT, later), mesh.bundle()), Ok(2));
    mesh.hand.set(now() + HOUR + Duration::from_mins(5));

    assert!(open.carries(b"still here"));
    let fresh = shake(client_config, server_config);
    assert!(
        fresh.succeeded(),
        "the configurations made before follow the cell"
    );
    assert_ne!(fresh.client.peer_certificates().unwrap()[0], shown_before);
}

#[test]
fn a_rotation_to_somebody_else_or_without_own_roots_is_refused() {
    let mesh = Mesh::new("cluster.local");
    let server = mesh.credentials(SERVER);
    assert!(server.replace(mesh.svid(CLIENT), mesh.bundle()).is_err());
    let foreign = Mesh::new("other.example").bundle();
    assert!(server.replace(mesh.svid(SERVER), foreign).is_err());
    assert_eq!(server.current().generation(), 1);
    assert_eq!(server.current().svid().id(), &id(SERVER));
}

#[test]
fn a_withdrawn_root_ends_new_handshakes() {
    let (ours, theirs) = (Mesh::new("cluster.local"), Mesh::new("partner.example"));
    let roots = |mesh: &Mesh, name: &str| {
        let bundle = mesh.bundle();
        let roots = bundle
            .roots(&domain(name))
            .iter()
            .map(|root| root.to_vec())
            .collect();
        (domain(name), roots)
    };
    let both = TrustBundle::new([roots(&ours, "cluster.local"), roots(&theirs, "partner.example")]).unwrap();
    let server = Credentials::new(ours.svid(SERVER), both).unwrap();
    let config = ours.server(&server);
    let partner = Shown::of(&theirs.svid("partner.example/ns/a/sa/b"));
    assert!(shake(partner.client(), config.clone()).succeeded());
    server.replace(ours.svid(SERVER), ours.bundle()).unwrap();
    let error = shake(partner.client(), config).server_error.unwrap();
    assert_eq!(
        PeerRefused::from_tls(&error),
        Some(PeerRefused::UnknownTrustDomain("partner.example".to_owned()))
    );
}

#[test]
fn sessions_are_never_resumed() {
    let mesh = Mesh::new("cluster.local");
    let (server, client) = (mesh.credentials(SERVER), mesh.credentials(CLIENT));
    let (server_config, client_config) = (mesh.server(&server), mesh.client(&client, SERVER));
    for _ in 0..3 {
        let ends = shake(client_config.clone(), server_config.clone());
        assert_eq!(ends.client.handshake_kind(), Some(HandshakeKind::Full));
        assert_eq!(ends.client.tls13_tickets_received(), 0);
    }
}

#[test]
fn both_sides_agree_on_what_is_spoken() {
    let mesh = Mesh::new("cluster.local");
    let (server, client) = (mesh.credentials(SERVER), mesh.credentials(CLIENT));
    let server = ServerTls::new(&server, &mesh.clock, TlsVersions::Only13).unwrap();
    let client = ClientTls::new(&client, &mesh.clock, TlsVersions::Only13);
    let agreed = |offer: ClientAlpn, accept: ServerAlpn| {
        let key = ClientKey {
            expected: ExpectedPeers::one(id(SERVER)),
            alpn: offer,
        };
        let ends = shake(client.config(&key).unwrap(), server.config(accept));
        ends.succeeded().then(|| {
            ends.server
                .alpn_protocol()
                .map(<[u8]>::to_vec)
                .unwrap_or_default()
        })
    };
    for (offer, accept, protocol, means) in [
        (
            ClientAlpn::Http1,
            ServerAlpn::Any,
            "istio-http/1.1",
            Negotiated::Http1,
        ),
        (ClientAlpn::Http2, ServerAlpn::Any, "istio-h2", Negotiated::Http2),
        (ClientAlpn::Tcp, ServerAlpn::Any, "istio", Negotiated::Unsaid),
        (ClientAlpn::Tcp, ServerAlpn::Tcp, "istio", Negotiated::Unsaid),
        (ClientAlpn::Http1, ServerAlpn::Tcp, "istio", Negotiated::Unsaid),
    ] {
        let found = agreed(offer, accept);
        assert_eq!(
            found.as_deref(),
            Some(protocol.as_bytes()),
            "{offer:?} {accept:?}"
        );
        assert_eq!(Negotiated::of(found.as_deref()), means);
    }
    assert_eq!(Negotiated::of(None), Negotiated::Unsaid);
}

#[test]
fn a_client_configuration_is_made_once_for_a_key() {
    let mesh = Mesh::new("cluster.local");
    let client = ClientTls::new(&mesh.credentials(CLIENT), &mesh.clock, TlsVersions::Only13);
    let key = |who: &[&str], alpn| ClientKey {
        expected: ExpectedPeers::any_of(who.iter().map(|who| id(who))),
        alpn,
    };
    let one = client.config(&key(&[SERVER, CLIENT], ClientAlpn::Http1)).unwrap();
    let same = client.config(&key(&[CLIENT, SERVER], ClientAlpn::Http1)).unwrap();
    assert!(std::sync::Arc::ptr_eq(&one, &same));
    for other in [
        key(&[SERVER], ClientAlpn::Http1),
        key(&[SERVER, CLIENT], ClientAlpn::Http2),
    ] {
        assert!(!std::sync::Arc::ptr_eq(&one, &client.config(&other).unwrap()));
    }
}

#[test]
fn tls_1_2_is_spoken_only_where_it_is_allowed() {
    let mesh = Mesh::new("cluster.local");
    let server = mesh.credentials(SERVER);
    let both = ClientTls::new(&mesh.credentials(CLIENT), &mesh.clock, TlsVersions::From12)
        .config(&ClientKey {
            expected: ExpectedPeers::one(id(SERVER)),
            alpn: ClientAlpn::Http1,
        })
        .unwrap();
    let only12 = std::sync::Arc::new(
        rustls::ClientConfig::builder_with_provider(bartizan_identity::crypto::provider())
            .with_protocol_versions(&[&rustls::version::TLS12])
            .unwrap()
            .with_root_certificates(rustls::RootCertStore::empty())
            .with_no_client_auth(),
    );
    let only13 = ServerTls::new(&server, &mesh.clock, TlsVersions::Only13).unwrap();
    let from12 = ServerTls::new(&server, &mesh.clock, TlsVersions::From12).unwrap();
    // A client that has both speaks 1.3 with either.
    for server in [&only13, &from12] {
        let ends = shake(both.clone(), server.config(ServerAlpn::Any));
        assert_eq!(ends.server.protocol_version(), Some(ProtocolVersion::TLSv1_3));
    }
    // A client of 1.2 is refused by the version here, and gets as far as distrusting the server there.
    let ends = shake(only12.clone(), only13.config(ServerAlpn::Any));
    assert_eq!(
        HandshakeFailure::of_tls(&ends.server_error.unwrap()).reason(),
        "protocol"
    );
    let ends = shake(only12, from12.config(ServerAlpn::Any));
    assert!(matches!(
        ends.client_error,
        Some(rustls::Error::InvalidCertificate(_))
    ));
}

#[test]
fn a_failure_is_found_inside_an_io_error() {
    let mesh = Mesh::new("cluster.local");
    let ends = shake(anonymous(), mesh.server(&mesh.credentials(SERVER)));
    let wrapped = std::io::Error::new(std::io::ErrorKind::InvalidData, ends.server_error.unwrap());
    assert_eq!(
        HandshakeFailure::of(&wrapped).refused(),
        Some(&PeerRefused::NoCertificate)
    );
    let closed = std::io::Error::from(std::io::ErrorKind::UnexpectedEof);
    assert_eq!(
        HandshakeFailure::of(&closed),
        HandshakeFailure::Connection(std::io::ErrorKind::UnexpectedEof)
    );
}
