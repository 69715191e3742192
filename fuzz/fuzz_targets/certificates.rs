//! Certificates of peers and requests for certificates. Input: what is tried, then DER, or changes to a good certificate:
//! two bytes for where, one for what.
#![no_main]

use std::sync::OnceLock;
use std::time::{Duration, SystemTime};

use bartizan_fuzz::choices;
use bartizan_identity::{Authority, PrivateKey, Proof, Svid, TrustBundle, verify_chain};
use bartizan_types::{SpiffeId, TrustDomain};
use libfuzzer_sys::fuzz_target;

/// A mesh with one workload.
struct Mesh {
    authority: Authority,
    bundle: TrustBundle,
    svid: Svid,
    now: SystemTime,
}

fuzz_target!(|data: &[u8]| {
    let mesh = mesh();
    let ([how], rest) = choices::<1>(data);
    match how % 3 {
        0 => request(mesh, rest),
        1 => stranger(mesh, rest),
        _ => forgery(mesh, rest),
    }
});

/// Whatever a request says, what is issued names the workload that was vouched for.
fn request(mesh: &Mesh, csr: &[u8]) {
    let id = SpiffeId::parse("spiffe://cluster.local/ns/shop/sa/web").expect("a literal");
    let Ok(issued) = mesh.authority.issue(csr, &id, Duration::from_secs(60), mesh.now) else {
        return;
    };
    assert_eq!(
        verify_chain(&mesh.bundle, &issued.chain, mesh.now).expect("what was issued is good"),
        id
    );
}

/// Nobody outside is let in, alone or with the mesh's own intermediate beside.
fn stranger(mesh: &Mesh, leaf: &[u8]) {
    let intermediate = mesh.svid.chain_der().pop().expect("a chain has two");
    for chain in [vec![leaf.to_vec()], vec![leaf.to_vec(), intermediate]] {
        assert!(
            verify_chain(&mesh.bundle, &chain, mesh.now).is_err(),
            "let in: {leaf:x?}"
        );
        let proof = Proof {
            chain,
            signature: leaf.to_vec(),
        };
        assert!(
            proof.verify(&mesh.bundle, b"transcript", mesh.now).is_err(),
            "let in: {leaf:x?}"
        );
    }
}

/// A good chain of which a byte is changed is not good.
fn forgery(mesh: &Mesh, changes: &[u8]) {
    let mut chain = mesh.svid.chain_der();
    for change in changes.chunks_exact(3).take(8) {
        let at = usize::from(u16::from_be_bytes([change[0], change[1]]));
        let which = at % chain.len();
        let length = chain[which].len();
        chain[which][at % length] ^= change[2];
    }
    let verified = verify_chain(&mesh.bundle, &chain, mesh.now);
    if chain == mesh.svid.chain_der() {
        assert_eq!(&verified.expect("unchanged"), mesh.svid.id());
    } else {
        assert!(verified.is_err(), "a forgery is let in");
    }
}

fn mesh() -> &'static Mesh {
    static MESH: OnceLock<Mesh> = OnceLock::new();
    MESH.get_or_init(|| {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        let domain = TrustDomain::parse("cluster.local").expect("a literal");
        let authority = Authority::create(domain, now).expect("keys can be made");
        let id = SpiffeId::parse("spiffe://cluster.local/ns/shop/sa/cart").expect("a literal");
        let key = PrivateKey::generate().expect("keys can be made");
        let csr = key.csr().expect("a request can be made");
        let issued = authority
            .issue(&csr, &id, Duration::from_secs(3600), now)
            .expect("a good request");
        Mesh {
            bundle: authority.trust_bundle().expect("an authority has a root"),
            svid: Svid::new(issued.chain, key).expect("what was issued is good"),
            authority,
            now,
        }
    })
}
