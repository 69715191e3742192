//! Ends: a drain loses nothing, an idle client is let go, what does not end is stopped at the deadline.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bartizan_proxy::{Running, StaticConfig, StaticListener, StaticRole};

use crate::scene::{
    Ca, Client, PATIENCE, Plan, Scene, allow, echo_app, everything, free, get, metric, name, until,
};

#[test]
fn a_drain_finishes_what_is_open_and_says_goodbye() {
    let app = echo_app();
    let scene = Scene::new(&Plan::new(app.address));
    let mut slow = Client::new(scene.outbound);
    slow.send(&get("/slow"));
    until("the request is there", || {
        app.requests.load(Ordering::SeqCst) == 1
    });
    let Scene { server, client, .. } = scene;
    let draining = std::thread::spawn(move || server.drain(PATIENCE));
    let answer = slow.receive().expect("the answer of an open request");
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert!(draining.join().unwrap(), "everything ended by itself");
    drop(client);
}

#[test]
fn clients_that_come_again_lose_nothing_in_a_drain_of_their_own_proxy() {
    let app = echo_app();
    let scene = Scene::new(&Plan::new(app.address));
    let (answered, stop) = (AtomicU64::new(0), AtomicBool::new(false));
    let outbound = scene.outbound;
    std::thread::scope(|threads| {
        for _ in 0..2 {
            threads.spawn(|| {
                while !stop.load(Ordering::SeqCst) {
                    let Ok(stream) = std::net::TcpStream::connect(outbound) else {
                        return;
                    };
                    let mut client = Client::from(stream);
                    loop {
                        client.send(&get("/"));
                        let answer = client.receive().expect("a request that was sent is answered");
                        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
                        answered.fetch_add(1, Ordering::SeqCst);
                        if answer.to_ascii_lowercase().contains("connection: close") {
                            stop.store(true, Ordering::SeqCst);
                            break;
                        }
                    }
                }
            });
        }
        until("requests pass", || answered.load(Ordering::SeqCst) > 20);
        let Scene { client, .. } = scene;
        assert!(client.drain(PATIENCE));
    });
}

#[test]
fn what_does_not_end_is_stopped_at_the_deadline() {
    let app = echo_app();
    let scene = Scene::new(&Plan::new(app.address));
    let mut client = Client::new(scene.outbound);
    let answer =
        client.ask("GET /ws HTTP/1.1\r\nhost: cart\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
    let begin = Instant::now();
    let Scene { client: proxy, .. } = scene;
    assert!(!proxy.drain(Duration::from_millis(300)));
    assert!(begin.elapsed() < PATIENCE);
    assert_eq!(client.receive(), None);
}

#[test]
fn a_trust_domain_that_is_taken_out_closes_what_it_opened() {
    let app = echo_app();
    let mut rule = allow("web", &["GET"]);
    rule.from.clear();
    let plan = Plan {
        rules: vec![rule],
        ..Plan::new(app.address)
    };
    let scene = Scene::new(&plan);
    let other = Ca::of("other.local");
    let both = scene.ca.with(&other);
    scene
        .server
        .replace_credentials(scene.ca.svid("cart").0, both.clone())
        .unwrap();
    let outbound = free();
    let _foreigner = Running::start(StaticConfig {
        workload: name("shop/web-0"),
        resources: everything(&plan, "web-0", outbound, scene.inbound),
        listeners: vec![StaticListener {
            address: outbound,
            role: StaticRole::Outbound,
        }],
        svid: (other.svid("web").0, both),
        access_log: None,
        metrics: None,
        workers: 1,
        drain: PATIENCE,
    })
    .unwrap();
    let mut client = Client::new(outbound);
    let upgrade = "GET /ws HTTP/1.1\r\nhost: cart\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n";
    assert!(client.ask(upgrade).starts_with("HTTP/1.1 101 "));
    let mut idle = Client::new(outbound);
    assert!(idle.ask(&get("/")).starts_with("HTTP/1.1 200 "));
    let (svid, bundle) = scene.ca.svid("cart");
    scene.server.replace_credentials(svid, bundle).unwrap();
    assert_eq!(client.receive(), None);
    assert!(idle.ask(&get("/")).starts_with("HTTP/1.1 503 "));
    until("both are counted", || {
        let text = scene.server.metrics();
        metric(
            &text,
            "bartizan_connections_judged_closed_total",
            &["reason=\"trust\""],
        ) == 2.0
    });
}
