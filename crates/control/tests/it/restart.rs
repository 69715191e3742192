//! What survives a control plane, and how one ends.

use std::os::unix::fs::MetadataExt as _;
use std::time::Duration;

use bartizan_control::ControlError;
use tonic::Code;

use crate::plane::{Node, Place, Proxy, SOON, policy, renewal_request, running};

#[tokio::test]
async fn a_restart_restores_version_addresses_and_authority_and_empties_nothing() {
    let place = Place::shop();
    let (plane, node, pods) = running(&place).await;
    let mut web = Proxy::start(&plane, &node, "shop/web-0").await;
    let mut session = web.connect(&plane).await;
    web.take(&mut session).await;
    let before = plane.status().await;
    let service = before.services[0].addresses.clone();
    plane.stop().await.unwrap();
    drop((node, session));

    let plane = place.start();
    let mut session = web.connect(&plane).await;
    assert_eq!(plane.status().await.version, before.version);
    // Whatever is asked before the node has reported waits or is refused; nothing is told.
    let (request, _) = renewal_request("shop/web-0", &web.svid);
    assert_eq!(plane.sign(request).await.unwrap_err().code(), Code::Unavailable);
    let early = tokio::time::timeout(Duration::from_millis(300), session.next()).await;
    assert!(early.is_err(), "told before the node has reported: {early:?}");

    let mut node = Node::connect(&plane, &pods).await;
    let (version, plan) = node.order().await.unwrap();
    assert_eq!((version, plan.len()), (before.version.0, 2));
    let first = web.take(&mut session).await;
    assert_eq!(
        (first.version, first.upserts.len(), first.removals.len()),
        (before.version.0, 0, 0)
    );
    let after = plane.status().await;
    assert_eq!(after.version, before.version);
    assert_eq!(after.services[0].addresses, service);
    assert_eq!(after.authority.root_not_after, before.authority.root_not_after);
    assert_eq!(after.accepted_at, before.accepted_at);
    let (request, _) = renewal_request("shop/web-0", &web.svid);
    plane.sign(request).await.unwrap();

    // The next change goes on from there.
    place.write("policy.yaml", &policy("POST"));
    let next = plane
        .status_when("the change is there", |status| status.version > before.version)
        .await;
    assert_eq!(next.version.0, before.version.0 + 1);
}

#[tokio::test]
async fn a_changed_folder_or_pod_makes_a_new_version_after_a_restart() {
    let place = Place::shop();
    let (plane, _node, pods) = running(&place).await;
    let before = plane.status().await.version;
    plane.stop().await.unwrap();

    let plane = place.start();
    let mut changed = pods.clone();
    changed[0].ready = false;
    let mut node = Node::connect(&plane, &changed).await;
    assert_eq!(node.order().await.unwrap().0, before.0 + 1);
    plane.stop().await.unwrap();

    place.write("policy.yaml", &policy("POST"));
    let plane = place.start();
    let mut node = Node::connect(&plane, &changed).await;
    assert_eq!(node.order().await.unwrap().0, before.0 + 2);
}

#[tokio::test]
async fn beside_a_broken_folder_the_last_accepted_version_is_served() {
    let place = Place::shop();
    let (plane, _node, pods) = running(&place).await;
    let before = plane.status().await;
    plane.stop().await.unwrap();

    place.write("policy.yaml", &policy("POST").replace("principals", "principal"));
    let plane = place.start();
    let mut node = Node::connect(&plane, &pods).await;
    assert_eq!(node.order().await.unwrap().1.len(), 2);
    let status = plane.status().await;
    assert_eq!((status.version, status.refused), (before.version, true));
    assert!(
        status
            .findings
            .iter()
            .any(|finding| finding.is_error() && finding.file == "policy.yaml")
    );
    assert!(
        status.findings.iter().any(|finding| finding.code == "BZ0404"),
        "{:?}",
        status.findings
    );
    let dump = plane.dump("shop/cart-0").await.unwrap();
    let policy_body = dump
        .resources
        .iter()
        .find(|upsert| upsert.key == "policy/shop/cart")
        .unwrap();
    assert!(String::from_utf8_lossy(&policy_body.body).contains("GET"));
    assert_eq!(
        plane.dump("shop/nobody").await.unwrap_err().code(),
        Code::NotFound
    );

    place.write("policy.yaml", &policy("POST"));
    let fixed = plane
        .status_when("the fixed folder applies", |status| !status.refused)
        .await;
    assert_eq!(fixed.version.0, before.version.0 + 1);
}

#[tokio::test]
async fn without_anything_to_serve_nothing_is_ordered() {
    let place = Place::new();
    place.write("broken.yaml", "kind: [");
    let plane = place.start();
    let mut node = Node::connect(&plane, &[]).await;
    let status = plane
        .status_when("the node has reported", |status| status.node.is_some())
        .await;
    assert!(status.refused);
    assert!(
        tokio::time::timeout(Duration::from_millis(300), node.order())
            .await
            .is_err()
    );
    place.write("broken.yaml", crate::plane::SHOP);
    assert_eq!(node.order().await.unwrap().1.len(), 2);
}

#[tokio::test]
async fn a_drain_ends_every_stream_and_the_control_plane() {
    let place = Place::shop();
    let (plane, mut node, _) = running(&place).await;
    let mut web = Proxy::start(&plane, &node, "shop/web-0").await;
    let mut session = web.connect(&plane).await;
    web.take(&mut session).await;
    tokio::time::timeout(SOON, plane.stop()).await.unwrap().unwrap();
    assert_eq!(session.refused().await, Code::Unavailable);
    let ended = loop {
        if let Err(answer) = node.order().await {
            break answer.code();
        }
    };
    assert_eq!(ended, Code::Unavailable);
}

#[tokio::test]
async fn a_state_directory_that_cannot_be_used_is_named() {
    let place = Place::shop();
    std::fs::write(place.state(), "a file").unwrap();
    let error = place.start().end().await.unwrap_err();
    assert!(matches!(error, ControlError::Store(_)), "{error:?}");
    assert!(
        error.to_string().contains(&place.state().display().to_string()),
        "{error}"
    );

    let other = Place::shop();
    let plane = other.start();
    plane.status().await;
    plane.stop().await.unwrap();
    for folder in [
        other.state(),
        other.state().join("ca"),
        other.state().join("versions"),
    ] {
        assert_eq!(
            std::fs::metadata(&folder).unwrap().mode() & 0o777,
            0o700,
            "{}",
            folder.display()
        );
    }
    std::fs::write(other.state().join("ca/root.key"), "nonsense").unwrap();
    let error = other.start().end().await.unwrap_err().to_string();
    assert!(error.contains("remove it to start with a new CA"), "{error}");
    let short = other.start_with(|options| options.svid_ttl = Duration::from_secs(1));
    assert!(matches!(short.end().await, Err(ControlError::ShortLife(_))));
}

#[tokio::test]
async fn a_version_that_cannot_be_kept_is_served_and_named() {
    let place = Place::shop();
    let (plane, _node, _) = running(&place).await;
    let before = plane.status().await.version;
    let versions = place.state().join("versions");
    std::fs::rename(&versions, place.state().join("away")).unwrap();
    std::fs::write(&versions, "in the way").unwrap();
    place.write("policy.yaml", &policy("POST"));
    let status = plane
        .status_when("the change is there", |status| status.version > before)
        .await;
    let finding = status.findings.iter().find(|finding| finding.code == "BZ0405");
    assert!(
        finding.is_some_and(|finding| finding.severity == "warning"),
        "{status:#?}"
    );
    assert!(!status.refused);

    std::fs::remove_file(&versions).unwrap();
    std::fs::rename(place.state().join("away"), &versions).unwrap();
    place.write("policy.yaml", &policy("PUT"));
    plane
        .status_when("it is kept again", |status| {
            status.version.0 > before.0 + 1 && status.findings.is_empty()
        })
        .await;
}
