//! Who is given a certificate, and who is told things.

use std::time::Duration;

use bartizan_identity::{Authority, BootstrapSecret, PrivateKey, Proof, Svid, hello_transcript};
use bartizan_proto::v1alpha1::sign_request;
use bartizan_types::{SpiffeId, TrustDomain};
use tonic::Code;

use crate::plane::{
    Node, Place, Proxy, SOON, Session, bootstrap_request, now, possession, renewal_request, report, running,
    svid,
};

#[tokio::test]
async fn a_bootstrap_secret_gives_one_certificate_in_the_workloads_name() {
    let place = Place::shop();
    let (plane, node, _) = running(&place).await;
    let secret = BootstrapSecret::generate();
    node.vouch("shop/cart-0", &secret).await;
    let proxy = Proxy::start(&plane, &node, "shop/web-0").await; // its announcement comes after the other
    assert_eq!(proxy.svid.id().as_str(), "spiffe://cluster.local/ns/shop/sa/web");

    let wrong = BootstrapSecret::generate();
    let refused = plane
        .sign(bootstrap_request("shop/cart-0", &wrong).0)
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated);
    let refused = plane
        .sign(bootstrap_request("shop/web-0", &secret).0)
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated);

    let (request, key) = bootstrap_request("shop/cart-0", &secret);
    let reply = plane.sign(request).await.unwrap();
    let issued = svid(&reply, key);
    assert_eq!(issued.id().as_str(), "spiffe://cluster.local/ns/shop/sa/cart");
    assert_eq!(reply.bundles[0].trust_domain, "cluster.local");
    let life = issued
        .not_after()
        .duration_since(std::time::SystemTime::now())
        .unwrap();
    assert!(
        life > Duration::from_secs(3500) && life <= Duration::from_hours(1),
        "{life:?}"
    );

    let refused = plane
        .sign(bootstrap_request("shop/cart-0", &secret).0)
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated);
    // Announced again, as by a node that connects again, it stays used.
    node.vouch("shop/cart-0", &secret).await;
    Proxy::start(&plane, &node, "shop/web-0").await;
    let refused = plane
        .sign(bootstrap_request("shop/cart-0", &secret).0)
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated);
    let status = plane.status().await;
    assert_eq!(status.counts.issued_bootstrap, 3);
    assert_eq!(status.counts.sign_refused["wrong_secret"], 1);
    assert!(status.counts.sign_refused["no_secret"] >= 2);
    let cart = status
        .workloads
        .iter()
        .find(|workload| workload.name.name.as_str() == "cart-0")
        .unwrap();
    assert!(cart.proxy.as_ref().unwrap().certificate_not_after.is_some());
}

#[tokio::test]
async fn possession_renews_for_the_same_workload_only_while_it_runs() {
    let place = Place::shop();
    let (plane, node, pods) = running(&place).await;
    let proxy = Proxy::start(&plane, &node, "shop/web-0").await;

    let (mut request, key) = renewal_request("shop/web-0", &proxy.svid);
    request.ttl_seconds = 60;
    let reply = plane.sign(request).await.unwrap();
    let renewed = svid(&reply, key);
    assert_eq!(renewed.id(), proxy.svid.id());
    let life = renewed
        .not_after()
        .duration_since(std::time::SystemTime::now())
        .unwrap();
    assert!(life <= Duration::from_mins(1), "{life:?}");

    // For another workload, or with the proof of another request.
    let (request, _) = renewal_request("shop/cart-0", &renewed);
    assert_eq!(
        plane.sign(request).await.unwrap_err().code(),
        Code::Unauthenticated
    );
    let (mut request, _) = renewal_request("shop/web-0", &renewed);
    request.csr = PrivateKey::generate().unwrap().csr().unwrap().into();
    assert_eq!(
        plane.sign(request).await.unwrap_err().code(),
        Code::Unauthenticated
    );

    // By a certificate of somebody else's authority.
    let domain = TrustDomain::parse("cluster.local").unwrap();
    let stranger = Authority::create(domain, std::time::SystemTime::now()).unwrap();
    let key = PrivateKey::generate().unwrap();
    let id = SpiffeId::parse("spiffe://cluster.local/ns/shop/sa/web").unwrap();
    let issued = stranger
        .issue(
            &key.csr().unwrap(),
            &id,
            Duration::from_mins(10),
            std::time::SystemTime::now(),
        )
        .unwrap();
    let forged = Svid::new(issued.chain, key).unwrap();
    let (request, _) = renewal_request("shop/web-0", &forged);
    assert_eq!(
        plane.sign(request).await.unwrap_err().code(),
        Code::Unauthenticated
    );

    // Without any proof, with an unreadable request, or for no workload at all.
    let (mut request, _) = renewal_request("shop/web-0", &renewed);
    request.proof = None;
    assert_eq!(
        plane.sign(request).await.unwrap_err().code(),
        Code::InvalidArgument
    );
    let (mut request, _) = renewal_request("shop/web-0", &renewed);
    request.workload = "../../etc".to_owned();
    assert_eq!(
        plane.sign(request).await.unwrap_err().code(),
        Code::InvalidArgument
    );
    let (mut request, _) = renewal_request("shop/web-0", &renewed);
    if let Some(sign_request::Proof::Possession(proof)) = &mut request.proof {
        proof.chain = vec![vec![0x30; 70_000].into(); 9];
    }
    assert_eq!(
        plane.sign(request).await.unwrap_err().code(),
        Code::Unauthenticated
    );

    // When the pod is gone, so is the vouching.
    let web = pods
        .iter()
        .find(|pod| pod.spec.name.name.as_str() == "web-0")
        .unwrap();
    node.gone(&web.spec.name.to_string()).await;
    plane
        .status_when("web-0 is gone", |status| {
            status
                .workloads
                .iter()
                .filter(|workload| workload.address.is_some())
                .count()
                == 1
        })
        .await;
    let (request, _) = renewal_request("shop/web-0", &renewed);
    assert_eq!(plane.sign(request).await.unwrap_err().code(), Code::Unavailable);
}

#[tokio::test]
async fn nobody_is_told_anything_without_a_fresh_proof_of_that_workload() {
    let place = Place::shop();
    let (plane, node, _) = running(&place).await;
    let proxy = Proxy::start(&plane, &node, "shop/web-0").await;

    let mut other = proxy.hello();
    other.workload = "shop/cart-0".to_owned();
    assert_eq!(
        Session::open(&plane, other).await.refused().await,
        Code::Unauthenticated
    );

    // Well signed, but for a workload with another identity.
    let mut other = proxy.hello();
    other.workload = "shop/cart-0".to_owned();
    let proof = Proof::sign(&proxy.svid, &hello_transcript("shop/cart-0", other.signed_at)).unwrap();
    other.proof = Some(possession(&proof));
    assert_eq!(
        Session::open(&plane, other).await.refused().await,
        Code::Unauthenticated
    );

    for signed_at in [now() - 120, now() + 120] {
        let mut stale = proxy.hello();
        let proof = Proof::sign(&proxy.svid, &hello_transcript("shop/web-0", signed_at)).unwrap();
        (stale.signed_at, stale.proof) = (signed_at, Some(possession(&proof)));
        assert_eq!(
            Session::open(&plane, stale).await.refused().await,
            Code::Unauthenticated
        );
    }

    let mut bare = proxy.hello();
    bare.proof = None;
    assert_eq!(
        Session::open(&plane, bare).await.refused().await,
        Code::InvalidArgument
    );

    let mut unknown = proxy.hello();
    unknown.workload = "shop/nobody-0".to_owned();
    let proof = Proof::sign(&proxy.svid, &hello_transcript("shop/nobody-0", unknown.signed_at)).unwrap();
    unknown.proof = Some(possession(&proof));
    assert_eq!(
        Session::open(&plane, unknown).await.refused().await,
        Code::NotFound
    );

    let refused = plane.status().await.counts.hello_refused;
    assert_eq!(refused["stale"], 2);
    assert_eq!(refused["bad_proof"], 1);
    assert_eq!(refused["other_identity"], 1);
    assert_eq!(refused["unknown_workload"], 1);
}

#[tokio::test]
async fn only_the_supervisor_speaks_as_the_node() {
    let place = Place::shop();
    let plane = place.start_with(|options| options.supervisor = Some(1));
    let refused = Node::connect_vouching(&plane, &[], &[]).await.err().unwrap();
    assert_eq!(refused.code(), Code::PermissionDenied);
    assert!(plane.status().await.node.is_none());
    plane.stop().await.unwrap();

    let own = i32::try_from(std::process::id()).unwrap();
    let plane = place.start_with(|options| options.supervisor = Some(own));
    let mut node = Node::connect(&plane, &[]).await;
    assert_eq!(node.order().await.unwrap().1.len(), 2);
}

#[tokio::test]
async fn a_node_that_connects_again_replaces_its_old_stream() {
    let place = Place::shop();
    let (plane, mut node, mut pods) = running(&place).await;
    pods.retain(|pod| pod.spec.name.name.as_str() == "cart-0");
    let mut again = Node::connect(&plane, &pods).await;
    let (_, plan) = again.order().await.unwrap();
    assert_eq!(plan.len(), 2);
    let ended = tokio::time::timeout(SOON, async {
        loop {
            if let Err(answer) = node.order().await {
                return answer.code();
            }
        }
    });
    assert_eq!(ended.await.unwrap(), Code::Aborted);
    let status = plane
        .status_when("the node is connected", |status| {
            status.node.as_ref().is_some_and(|node| node.connected)
        })
        .await;
    let there = status
        .workloads
        .iter()
        .filter(|workload| workload.address.is_some())
        .count();
    assert_eq!(there, 1, "what was not reported again is gone");
    again.pod(&report(&plan["shop/web-0"], 9, false)).await;
    plane
        .status_when("web-0 is back", |status| {
            status
                .workloads
                .iter()
                .filter(|workload| workload.address.is_some())
                .count()
                == 2
        })
        .await;
}
