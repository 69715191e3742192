//! The authority: what it issues, what it refuses, and that it survives being written down.

use std::time::Duration;

use bartizan_identity::ca::{INTERMEDIATE_LIFE, ROOT_LIFE, SKEW};
use bartizan_identity::{
    Authority, AuthorityError, AuthorityPem, IssueError, PrivateKey, Svid, SvidError, TrustBundle, open,
    seal, verify_chain,
};
use bartizan_types::Secret;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::support::{HOUR, Mesh, domain, id, leaf, now};

const WHO: &str = "cluster.local/ns/shop/sa/cart";

fn csr() -> Vec<u8> {
    PrivateKey::generate().unwrap().csr().unwrap()
}

#[test]
fn an_issued_leaf_keeps_every_rule() {
    let mesh = Mesh::new("cluster.local");
    let issued = mesh.authority.issue(&csr(), &id(WHO), HOUR, now()).unwrap();
    assert_eq!(
        (issued.not_before, issued.not_after),
        (now() - SKEW, now() + HOUR)
    );
    assert_eq!(issued.chain.len(), 2, "leaf and intermediate, no root");
    let (_, leaf) = X509Certificate::from_der(&issued.chain[0]).unwrap();
    assert_eq!(leaf.subject().iter().count(), 0);
    let san = leaf.subject_alternative_name().unwrap().unwrap();
    assert!(san.critical, "with an empty subject the name must be critical");
    assert_eq!(san.value.general_names.len(), 1);
    let usage = leaf.key_usage().unwrap().unwrap();
    assert!(usage.critical && usage.value.digital_signature());
    assert_eq!(usage.value.flags, 1, "nothing but digital signature");
    let purposes = leaf.extended_key_usage().unwrap().unwrap().value;
    assert!(purposes.server_auth && purposes.client_auth && !purposes.any);
    assert!(
        !leaf
            .basic_constraints()
            .unwrap()
            .is_some_and(|found| found.value.ca)
    );
    assert_eq!(leaf.raw_serial().len(), 16);
    let other = mesh.authority.issue(&csr(), &id(WHO), HOUR, now()).unwrap();
    assert_ne!(issued.serial, other.serial);
    assert_eq!(verify_chain(&mesh.bundle(), &issued.chain, now()), Ok(id(WHO)));
}

#[test]
fn nothing_of_a_request_is_believed_but_its_key() {
    let mesh = Mesh::new("cluster.local");
    let key = PrivateKey::generate().unwrap();
    let greedy = leaf("cluster.local/ns/kube-system/sa/admin", |_| ())
        .serialize_request(&key)
        .unwrap();
    let issued = mesh.authority.issue(greedy.der(), &id(WHO), HOUR, now()).unwrap();
    let svid = Svid::new(issued.chain, key).unwrap();
    assert_eq!(svid.id(), &id(WHO));
}

#[test]
fn what_is_not_in_order_is_not_issued() {
    let mesh = Mesh::new("cluster.local");
    let issue = |csr: &[u8], who: &str, ttl, at| mesh.authority.issue(csr, &id(who), ttl, at).unwrap_err();
    assert!(matches!(
        issue(b"no request", WHO, HOUR, now()),
        IssueError::Csr(_)
    ));
    assert!(matches!(
        issue(&csr(), "other.example/ns/a/sa/b", HOUR, now()),
        IssueError::TrustDomain { .. }
    ));
    assert!(matches!(
        issue(&csr(), "cluster.local", HOUR, now()),
        IssueError::TrustDomain { .. }
    ));
    assert_eq!(issue(&csr(), WHO, Duration::ZERO, now()), IssueError::NoLifetime);
    assert_eq!(
        issue(&csr(), WHO, HOUR, now() + INTERMEDIATE_LIFE),
        IssueError::IssuerNotValid
    );
    assert_eq!(
        issue(&csr(), WHO, HOUR, now() - 2 * SKEW),
        IssueError::IssuerNotValid
    );
    // A key of a kind that is not taken: RSA would need another library, Ed25519 is at hand.
    let ed25519 = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    let request = leaf(WHO, |_| ()).serialize_request(&ed25519).unwrap();
    assert!(matches!(
        issue(request.der(), WHO, HOUR, now()),
        IssueError::Csr(_)
    ));
    let p384 = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
    let request = leaf(WHO, |_| ()).serialize_request(&p384).unwrap();
    mesh.authority
        .issue(request.der(), &id(WHO), HOUR, now())
        .unwrap();
}

#[test]
fn a_life_is_cut_to_the_intermediates() {
    let mesh = Mesh::new("cluster.local");
    let late = now() + INTERMEDIATE_LIFE - HOUR / 2;
    let issued = mesh.authority.issue(&csr(), &id(WHO), HOUR, late).unwrap();
    assert_eq!(issued.not_after, mesh.authority.intermediate_not_after());
    let huge = mesh
        .authority
        .issue(&csr(), &id(WHO), Duration::MAX, now())
        .unwrap();
    assert_eq!(huge.not_after, mesh.authority.intermediate_not_after());
}

#[test]
fn the_intermediate_is_replaced_and_its_leaves_stay_good() {
    let mut mesh = Mesh::new("cluster.local");
    assert_eq!(mesh.authority.root_not_after(), now() + ROOT_LIFE);
    assert_eq!(mesh.authority.intermediate_not_after(), now() + INTERMEDIATE_LIFE);
    assert!(!mesh.authority.intermediate_due(now()));
    let late = now() + INTERMEDIATE_LIFE - HOUR;
    assert!(mesh.authority.intermediate_due(late));
    let old = mesh.authority.issue(&csr(), &id(WHO), HOUR, late).unwrap();
    mesh.authority.renew_intermediate(late).unwrap();
    assert!(!mesh.authority.intermediate_due(late));
    let new = mesh.authority.issue(&csr(), &id(WHO), HOUR, late).unwrap();
    assert_ne!(old.chain[1], new.chain[1]);
    for issued in [old, new] {
        assert_eq!(verify_chain(&mesh.bundle(), &issued.chain, late), Ok(id(WHO)));
    }
    // Close to its own end the root cuts the intermediate short, and past it signs nothing.
    let last = now() + ROOT_LIFE - HOUR;
    mesh.authority.renew_intermediate(last).unwrap();
    assert_eq!(
        mesh.authority.intermediate_not_after(),
        mesh.authority.root_not_after()
    );
    assert_eq!(
        mesh.authority.renew_intermediate(now() + ROOT_LIFE + HOUR),
        Err(AuthorityError::RootExpired)
    );
}

#[test]
fn an_authority_survives_pem_and_parts_that_do_not_belong_together_are_refused() {
    let mesh = Mesh::new("cluster.local");
    let pem = mesh.authority.to_pem();
    let again = Authority::from_pem(domain("cluster.local"), &pem).unwrap();
    let issued = again.issue(&csr(), &id(WHO), HOUR, now()).unwrap();
    assert_eq!(verify_chain(&mesh.bundle(), &issued.chain, now()), Ok(id(WHO)));
    assert_eq!(again.trust_bundle().unwrap(), mesh.bundle());
    assert_eq!(
        again.intermediate_not_after(),
        mesh.authority.intermediate_not_after()
    );

    let other = Mesh::new("cluster.local").authority.to_pem();
    let read = |pem: &AuthorityPem| Authority::from_pem(domain("cluster.local"), pem).unwrap_err();
    assert_eq!(
        read(&AuthorityPem {
            root_key: other.root_key.clone(),
            ..pem.clone()
        }),
        AuthorityError::KeyMismatch("root")
    );
    assert_eq!(
        read(&AuthorityPem {
            intermediate_cert: other.intermediate_cert.clone(),
            intermediate_key: other.intermediate_key.clone(),
            ..pem.clone()
        }),
        AuthorityError::Chain
    );
    assert_eq!(
        read(&AuthorityPem {
            root_cert: "nothing".to_owned(),
            ..pem.clone()
        }),
        AuthorityError::Pem("root")
    );
    assert_eq!(
        read(&AuthorityPem {
            intermediate_key: Secret::new(String::new()),
            ..pem.clone()
        }),
        AuthorityError::Pem("intermediate")
    );
    assert_eq!(
        Authority::from_pem(domain("other.example"), &pem).unwrap_err(),
        AuthorityError::TrustDomain(domain("other.example"))
    );
    assert!(!format!("{pem:?}").contains("PRIVATE KEY"));
}

#[test]
fn sealed_credentials_come_back_whole_or_not_at_all() {
    let mesh = Mesh::new("cluster.local");
    let svid = mesh.svid(WHO);
    let sealed = seal(&svid, &mesh.bundle());
    let (again, bundle) = open(sealed.expose()).unwrap();
    assert_eq!((again.id(), again.serial()), (svid.id(), svid.serial()));
    assert_eq!(again.chain_der(), svid.chain_der());
    assert_eq!(again.key().pkcs8().expose(), svid.key().pkcs8().expose());
    assert_eq!(bundle, mesh.bundle());
    for cut in 0..sealed.expose().len() {
        assert!(open(&sealed.expose()[..cut]).is_err());
    }
}

#[test]
fn an_svid_and_a_bundle_survive_pem() {
    let mesh = Mesh::new("cluster.local");
    let svid = mesh.svid(WHO);
    let again = Svid::from_pem(&svid.chain_pem(), svid.key_pem().expose()).unwrap();
    assert_eq!((again.id(), again.chain_der()), (svid.id(), svid.chain_der()));
    let bundle = mesh.bundle();
    let roots = bundle.to_pem(&domain("cluster.local"));
    assert_eq!(
        TrustBundle::from_pem(domain("cluster.local"), &roots).unwrap(),
        bundle
    );
    assert!(TrustBundle::from_pem(domain("cluster.local"), "").is_err());
    assert!(
        TrustBundle::from_pem(domain("cluster.local"), &svid.chain_pem()).is_err(),
        "a leaf is no root"
    );
    assert!(Svid::from_pem("", svid.key_pem().expose()).is_err());
    assert!(Svid::from_pem(&svid.chain_pem(), "").is_err());
}

#[test]
fn a_leaf_with_any_bit_changed_proves_nothing() {
    let mesh = Mesh::new("cluster.local");
    let chain = mesh.svid(WHO).chain_der();
    for at in 0..chain[0].len() {
        let mut changed = chain.clone();
        changed[0][at] ^= 1 << (at % 8);
        assert!(
            verify_chain(&mesh.bundle(), &changed, now()).is_err(),
            "byte {at}"
        );
    }
}

#[test]
fn a_chain_with_another_key_is_no_svid() {
    let mesh = Mesh::new("cluster.local");
    let error = Svid::new(mesh.svid(WHO).chain_der(), PrivateKey::generate().unwrap()).unwrap_err();
    assert_eq!(error, SvidError::Key(id(WHO)));
    assert_eq!(
        Svid::new(Vec::new(), PrivateKey::generate().unwrap()).unwrap_err(),
        SvidError::Empty
    );
}
