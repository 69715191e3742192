//! Changes of documents and pods, as proxies see them.

use std::time::{Duration, Instant};

use tonic::Code;

use crate::plane::{Node, Place, Proxy, SHOP, policy, report, running};

const POLICY: &str = "policy/shop/cart";

#[tokio::test]
async fn the_first_plan_comes_after_the_node_has_greeted() {
    let place = Place::shop();
    let plane = place.start();
    assert!(plane.status().await.node.is_none());
    let mut node = Node::connect(&plane, &[]).await;
    let (version, plan) = node.order().await.unwrap();
    assert_eq!(version, 1);
    assert_eq!(plan.keys().collect::<Vec<_>>(), ["shop/cart-0", "shop/web-0"]);
    assert_eq!(
        plan["shop/cart-0"].identity.as_str(),
        "spiffe://cluster.local/ns/shop/sa/cart"
    );
    // A change of the documents changes the plan.
    place.write(
        "shop.yaml",
        &SHOP.replacen("spec:\n", "spec:\n  replicas: 2\n", 1),
    );
    let (later, plan) = node.order().await.unwrap();
    assert!(later > version);
    assert_eq!(
        plan.keys().collect::<Vec<_>>(),
        ["shop/cart-0", "shop/cart-1", "shop/web-0"]
    );
}

#[tokio::test]
async fn a_saved_file_reaches_its_proxies_within_a_second() {
    let place = Place::shop();
    let (plane, node, _) = running(&place).await;
    let mut cart = Proxy::start(&plane, &node, "shop/cart-0").await;
    let mut web = Proxy::start(&plane, &node, "shop/web-0").await;
    let (mut cart_session, mut web_session) = (cart.connect(&plane).await, web.connect(&plane).await);
    cart.take(&mut cart_session).await;
    web.take(&mut web_session).await;
    assert!(cart.body(POLICY).contains("GET"), "{}", cart.body(POLICY));
    assert!(
        !web.resources.contains_key(POLICY),
        "a proxy is told only of what concerns it"
    );
    assert!(
        web.body("endpoints/shop/cart").contains("10.66.0.2"),
        "{:?}",
        web.resources
    );

    let saved = Instant::now();
    place.write("policy.yaml", &policy("POST"));
    let change = cart.take(&mut cart_session).await;
    assert!(saved.elapsed() < Duration::from_secs(1), "{:?}", saved.elapsed());
    assert_eq!(
        change
            .upserts
            .iter()
            .map(|upsert| upsert.key.as_str())
            .collect::<Vec<_>>(),
        [POLICY]
    );
    assert!(cart.body(POLICY).contains("POST"));
    // The other proxy is told the version, too, and nothing else.
    let change_for_web = web.take(&mut web_session).await;
    assert_eq!(change_for_web.version, change.version);
    let status = plane
        .status_when("both proxies have acknowledged", |status| {
            status.workloads.iter().all(|workload| {
                workload.proxy.as_ref().and_then(|proxy| proxy.acknowledged) == Some(status.version)
            })
        })
        .await;
    assert_eq!(status.version.0, change.version);
    let proxy = status.workloads[0].proxy.as_ref().unwrap();
    assert!(proxy.connected && proxy.build == "test" && proxy.refused.is_none());
}

#[tokio::test]
async fn a_broken_file_is_refused_whole_with_its_place_and_the_fixed_one_applies() {
    let place = Place::shop();
    let (plane, node, _) = running(&place).await;
    let mut cart = Proxy::start(&plane, &node, "shop/cart-0").await;
    let mut session = cart.connect(&plane).await;
    cart.take(&mut session).await;
    let before = plane.status().await;
    assert!(!before.refused);

    // One file is good and would change something, the other is broken: neither counts.
    place.write("shop.yaml", &SHOP.replace("port: 80,", "port: 81,"));
    place.write("policy.yaml", &policy("POST").replace("principals", "principal"));
    let refused = plane
        .status_when("the broken file is seen", |status| status.refused)
        .await;
    assert_eq!(refused.version, before.version);
    let finding = refused
        .findings
        .iter()
        .find(|finding| finding.is_error())
        .unwrap();
    assert_eq!(
        (finding.file.as_str(), finding.line),
        ("policy.yaml", 8),
        "{finding:?}"
    );
    assert!(finding.text.contains("policy.yaml:8:"), "{}", finding.text);
    assert!(!cart.body(POLICY).contains("POST"));

    let fixed = Instant::now();
    place.write("policy.yaml", &policy("POST"));
    cart.take_until(&mut session, |cart| cart.body(POLICY).contains("POST"))
        .await;
    assert!(fixed.elapsed() < Duration::from_secs(1), "{:?}", fixed.elapsed());
    assert!(
        cart.body("service/shop/cart").contains("81"),
        "the other file's change came with it"
    );
    assert!(!plane.status().await.refused);
}

#[tokio::test]
async fn an_empty_or_missing_folder_changes_nothing() {
    let place = Place::shop();
    let (plane, _node, _) = running(&place).await;
    let before = plane.status().await;
    let away = place.documents().with_file_name("away");
    std::fs::rename(place.documents(), &away).unwrap();
    let missing = plane
        .status_when("the folder is missing", |status| status.refused)
        .await;
    assert_eq!(missing.findings[0].code, "BZ0401");
    std::fs::create_dir(place.documents()).unwrap();
    let empty = plane
        .status_when("the folder is empty", |status| {
            status.findings.iter().any(|finding| finding.code == "BZ0402")
        })
        .await;
    assert_eq!(
        (empty.version, empty.workloads.len()),
        (before.version, before.workloads.len())
    );
    std::fs::remove_dir(place.documents()).unwrap();
    std::fs::rename(&away, place.documents()).unwrap();
    let back = plane
        .status_when("the folder is back", |status| !status.refused)
        .await;
    assert_eq!(
        back.version, before.version,
        "nothing has changed, so there is no new version"
    );
}

#[tokio::test]
async fn a_file_that_is_still_being_written_is_waited_for() {
    use std::io::Write as _;
    let place = Place::shop();
    let (plane, _node, _) = running(&place).await;
    let before = plane.status().await;
    place.write(
        "policy.yaml",
        &format!("# the folder is watched from now on\n{}", policy("GET")),
    );
    plane
        .status_when("the folder is watched", |status| {
            status.counts.states_accepted > 0
        })
        .await;
    // The first half alone would be fine YAML without the second policy.
    let mut file = std::fs::File::create(place.documents().join("policy.yaml")).unwrap();
    file.write_all(policy("POST").as_bytes()).unwrap();
    tokio::time::sleep(Duration::from_millis(400)).await; // the writer is slow; this is what is tested
    let meanwhile = plane.status().await;
    assert_eq!(meanwhile.version, before.version);
    file.write_all(format!("---\n{}", policy("PUT").replace("name: cart", "name: second")).as_bytes())
        .unwrap();
    drop(file);
    plane
        .status_when("the whole file applies", |status| status.version > before.version)
        .await;
    let dump = plane.dump("shop/cart-0").await.unwrap();
    assert!(
        dump.resources
            .iter()
            .any(|upsert| upsert.key == "policy/shop/second")
    );
    assert_eq!(
        dump.version,
        before.version.0 + 1,
        "one version, not one for each half"
    );
}

#[tokio::test]
async fn an_edit_that_changes_no_meaning_makes_no_version_but_moves_the_places() {
    let place = Place::shop();
    let (plane, _node, _) = running(&place).await;
    let before = plane.status().await;
    place.write("policy.yaml", &format!("# why\n# it is so\n{}", policy("GET")));
    let after = plane
        .status_when("the edit is accepted", |status| {
            status.counts.states_accepted > before.counts.states_accepted
        })
        .await;
    assert_eq!(after.version, before.version);
    let positions = plane.dump("").await.unwrap().positions;
    let positions = String::from_utf8(positions.to_vec()).unwrap();
    assert!(positions.contains("\"line\":3"), "{positions}");
}

#[tokio::test]
async fn a_reconnecting_proxy_is_sent_only_what_differs() {
    let place = Place::shop();
    let (plane, node, pods) = running(&place).await;
    let mut cart = Proxy::start(&plane, &node, "shop/cart-0").await;
    let mut session = cart.connect(&plane).await;
    let first = cart.take(&mut session).await;
    assert!(first.upserts.len() > 3);
    drop(session);

    let mut session = cart.connect(&plane).await;
    let nothing = cart.take(&mut session).await;
    assert_eq!(
        (nothing.version, nothing.upserts.len(), nothing.removals.len()),
        (first.version, 0, 0)
    );
    drop(session);

    place.write("policy.yaml", &policy("DELETE"));
    plane
        .status_when("the change is there", |status| status.version.0 > first.version)
        .await;
    cart.resources
        .insert("policy/shop/old".to_owned(), (String::new(), "0".repeat(32)));
    let mut session = cart.connect(&plane).await;
    let change = cart.take(&mut session).await;
    assert_eq!(
        change
            .upserts
            .iter()
            .map(|upsert| upsert.key.as_str())
            .collect::<Vec<_>>(),
        [POLICY]
    );
    assert_eq!(change.removals, ["policy/shop/old"]);

    // A pod that becomes unready is told to those who reach it.
    let mut web = Proxy::start(&plane, &node, "shop/web-0").await;
    let mut web_session = web.connect(&plane).await;
    web.take(&mut web_session).await;
    let told = Instant::now();
    node.pod(&report(&pods[0].spec, 2, false)).await;
    web.take_until(&mut web_session, |web| {
        web.body("endpoints/shop/cart").contains("\"ready\":false")
    })
    .await;
    assert!(told.elapsed() < Duration::from_secs(1));
}

#[tokio::test]
async fn a_second_session_of_a_workload_replaces_the_first() {
    let place = Place::shop();
    let (plane, node, _) = running(&place).await;
    let mut cart = Proxy::start(&plane, &node, "shop/cart-0").await;
    let mut first = cart.connect(&plane).await;
    cart.take(&mut first).await;
    let mut second = cart.connect(&plane).await;
    cart.take(&mut second).await;
    assert_eq!(first.refused().await, Code::Aborted);
    node.gone("shop/cart-0").await;
    assert_eq!(second.refused().await, Code::Aborted);
}

#[tokio::test]
async fn a_slow_proxy_is_owed_the_newest_only() {
    let place = Place::shop();
    let (plane, node, _) = running(&place).await;
    let mut cart = Proxy::start(&plane, &node, "shop/cart-0").await;
    let mut session = cart.connect(&plane).await;
    let first = session.next().await.unwrap(); // not acknowledged
    let mut version = first.version;
    for method in ["POST", "PUT", "DELETE"] {
        place.write("policy.yaml", &policy(method));
        let status = plane
            .status_when("the change is there", |status| status.version.0 > version)
            .await;
        version = status.version.0;
    }
    session.ack(first.version).await;
    let merged = cart.take(&mut session).await;
    assert_eq!(merged.version, version);
    assert_eq!(merged.upserts.len(), 1);
    assert!(cart.body(POLICY).contains("DELETE"));
}

#[tokio::test]
async fn what_a_proxy_refuses_is_shown_and_comes_again_with_the_next_change() {
    let place = Place::shop();
    let (plane, node, _) = running(&place).await;
    let mut cart = Proxy::start(&plane, &node, "shop/cart-0").await;
    let mut session = cart.connect(&plane).await;
    cart.take(&mut session).await;
    place.write("policy.yaml", &policy("POST"));
    let refused = session.next().await.unwrap();
    session
        .nack(refused.version, "policy/shop/cart: no such method")
        .await;
    let status = plane
        .status_when("the refusal is seen", |status| status.counts.nacks == 1)
        .await;
    let proxy = status.workloads[0].proxy.clone().unwrap();
    assert!(proxy.refused.unwrap().contains("no such method"));
    assert!(proxy.acknowledged < Some(status.version));

    place.write("shop.yaml", &SHOP.replace("port: 80,", "port: 82,"));
    let again = cart.take(&mut session).await;
    assert!(again.version > refused.version);
    assert!(again.upserts.iter().any(|upsert| upsert.key == POLICY));
    assert!(
        again
            .upserts
            .iter()
            .any(|upsert| upsert.key == "service/shop/cart")
    );
    let status = plane.status_when("the answer is seen", |status| {
        status.workloads[0]
            .proxy
            .as_ref()
            .is_some_and(|proxy| proxy.acknowledged == Some(status.version))
    });
    assert_eq!(status.await.workloads[0].proxy.as_ref().unwrap().refused, None);
}

#[tokio::test]
async fn strict_turns_warnings_into_errors() {
    let place = Place::shop();
    place.write(
        "foreign.yaml",
        "apiVersion: example.com/v1\nkind: Thing\nmetadata: { name: x, namespace: shop }\n",
    );
    let plane = place.start();
    let status = plane.status().await;
    assert!(
        !status.refused
            && status
                .findings
                .iter()
                .any(|finding| finding.severity == "warning"),
        "{status:?}"
    );
    plane.stop().await.unwrap();
    let fresh = Place::shop();
    fresh.write(
        "foreign.yaml",
        "apiVersion: example.com/v1\nkind: Thing\nmetadata: { name: x, namespace: shop }\n",
    );
    let plane = fresh.start_with(|options| options.strict = true);
    assert!(plane.status().await.refused);
}

#[tokio::test]
async fn a_folder_that_is_switched_by_a_link_is_noticed() {
    let link = |to: &str, from: &std::path::Path| {
        let beside = from.with_file_name(".beside");
        std::os::unix::fs::symlink(to, &beside).unwrap();
        std::fs::rename(&beside, from).unwrap();
    };
    let place = Place::new();
    place.write("shop.yaml", SHOP);
    let (here, elsewhere) = (place.documents(), place.state().with_file_name("elsewhere"));
    for (folder, method) in [("..one", "GET"), ("..two", "POST")] {
        std::fs::create_dir(here.join(folder)).unwrap();
        std::fs::write(here.join(folder).join("policy.yaml"), policy(method)).unwrap();
    }
    for (folder, method) in [("one", "GET"), ("two", "POST")] {
        std::fs::create_dir_all(elsewhere.join(folder)).unwrap();
        let second = policy(method).replace("name: cart, namespace", "name: second, namespace");
        std::fs::write(elsewhere.join(folder).join("second.yaml"), second).unwrap();
    }
    // As a mounted ConfigMap does it, and where only a look from outside notices.
    link("..one", &here.join("..data"));
    link("one", &elsewhere.join("current"));
    link("..data/policy.yaml", &here.join("policy.yaml"));
    link(
        &elsewhere.join("current/second.yaml").display().to_string(),
        &here.join("second.yaml"),
    );
    let (plane, _node, _) = running(&place).await;
    let method_of = async |policy: &str| {
        let dump = plane.dump("shop/cart-0").await.unwrap();
        let upsert = dump
            .resources
            .into_iter()
            .find(|upsert| upsert.key == policy)
            .unwrap();
        String::from_utf8(upsert.body.to_vec()).unwrap()
    };
    assert!(method_of(POLICY).await.contains("GET"));
    assert!(method_of("policy/shop/second").await.contains("GET"));

    link("..two", &here.join("..data"));
    link("two", &elsewhere.join("current"));
    let until = Instant::now() + crate::plane::SOON;
    for policy in [POLICY, "policy/shop/second"] {
        while !method_of(policy).await.contains("POST") {
            assert!(Instant::now() < until, "{policy} has not changed");
            tokio::task::yield_now().await;
        }
    }
}
