//! Proofs that whoever renews holds the key of the present SVID.

use bartizan_identity::{PeerRefused, PrivateKey, Proof, ProofRefused, hello_transcript, renewal_transcript};

use crate::support::{HOUR, Mesh, id, now};

const WHO: &str = "cluster.local/ns/shop/sa/cart";

#[test]
fn the_holder_of_the_key_proves_it_for_one_workload_and_request() {
    let mesh = Mesh::new("cluster.local");
    let svid = mesh.svid(WHO);
    let csr = PrivateKey::generate().unwrap().csr().unwrap();
    let transcript = renewal_transcript("shop/cart-0", &csr);
    let proof = Proof::sign(&svid, &transcript).unwrap();
    assert_eq!(proof.verify(&mesh.bundle(), &transcript, now()), Ok(id(WHO)));

    let refused = Err(ProofRefused::Signature(id(WHO)));
    let other_csr = PrivateKey::generate().unwrap().csr().unwrap();
    for other in [
        renewal_transcript("shop/cart-1", &csr),
        renewal_transcript("shop/cart-0", &other_csr),
        hello_transcript("shop/cart-0", 0),
    ] {
        assert_eq!(proof.verify(&mesh.bundle(), &other, now()), refused);
    }
}

#[test]
fn whoever_only_saw_the_chain_proves_nothing() {
    let mesh = Mesh::new("cluster.local");
    let (svid, thief) = (mesh.svid(WHO), mesh.svid("cluster.local/ns/shop/sa/thief"));
    let transcript = hello_transcript("shop/cart-0", 1_800_000_000);
    let stolen = Proof {
        chain: svid.chain_der(),
        ..Proof::sign(&thief, &transcript).unwrap()
    };
    assert_eq!(
        stolen.verify(&mesh.bundle(), &transcript, now()),
        Err(ProofRefused::Signature(id(WHO)))
    );
    let empty = Proof {
        chain: Vec::new(),
        signature: Vec::new(),
    };
    assert_eq!(
        empty.verify(&mesh.bundle(), &transcript, now()),
        Err(ProofRefused::Chain(PeerRefused::NoCertificate))
    );
}

#[test]
fn an_expired_svid_does_not_renew_itself() {
    let mesh = Mesh::new("cluster.local");
    let transcript = renewal_transcript("shop/cart-0", b"request");
    let proof = Proof::sign(&mesh.svid(WHO), &transcript).unwrap();
    assert!(matches!(
        proof.verify(&mesh.bundle(), &transcript, now() + 2 * HOUR),
        Err(ProofRefused::Chain(PeerRefused::Expired { .. }))
    ));
    let foreign = Mesh::new("cluster.local").bundle();
    assert!(matches!(
        proof.verify(&foreign, &transcript, now()),
        Err(ProofRefused::Chain(PeerRefused::UntrustedChain(_)))
    ));
}
