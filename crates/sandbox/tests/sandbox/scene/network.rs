//! Scenes: captures, drops and what reaches a pod.

use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::time::Duration;

use crate::world::{PATIENCE, World, answer_one, read};

pub(crate) async fn outbound() {
    let mut world = World::new(&[("a", 5)]).await;
    for to in [
        "10.66.0.9:8080",
        "10.67.1.2:80",
        "10.66.0.5:7777",
        "93.184.216.34:443",
        "10.66.0.1:53",
    ] {
        let listener = if to.ends_with(":53") {
            &world.sockets["a"].dns_tcp
        } else {
            &world.sockets["a"].outbound
        };
        let answer = answer_one(listener);
        assert_eq!(
            world.attack("a", &["connect", to]).await,
            format!("10.66.0.5 wanted {to}")
        );
        answer.await.unwrap();
    }
    assert_eq!(world.attack("a", &["loopback"]).await, "connected");
    assert_eq!(world.attack("a", &["loopback6"]).await, "connected");
    let refused = world.attack("a", &["connect6"]).await;
    assert!(refused.starts_with("refused E"), "{refused}");
}

pub(crate) async fn inbound() {
    let mut world = World::new(&[("a", 5), ("b", 6)]).await;
    world.server("a", "8080").await;
    world.server("b", "8080").await;
    // From pod a, past its rules as its proxy is, to pod b: b's proxy hears of it, not the application.
    let answer = answer_one(&world.sockets["b"].inbound);
    let to = SocketAddrV4::new(Ipv4Addr::new(10, 66, 0, 6), 8080);
    let stream = world.sandbox.open_socket("a", to, PATIENCE).await.unwrap();
    assert_eq!(read(stream).await, "10.66.0.5 wanted 10.66.0.6:8080");
    answer.await.unwrap();
    // To its own application, by both addresses.
    for address in [Ipv4Addr::new(10, 66, 0, 6), Ipv4Addr::LOCALHOST] {
        let stream = world
            .sandbox
            .open_socket("b", SocketAddrV4::new(address, 8080), PATIENCE)
            .await
            .unwrap();
        assert!(read(stream).await.starts_with("application"));
    }
    // Not beyond the pods, even with the mark.
    let outside = SocketAddrV4::new(Ipv4Addr::new(10, 67, 0, 1), 80);
    assert!(
        world
            .sandbox
            .open_socket("a", outside, Duration::from_millis(300))
            .await
            .is_err()
    );
    // A closed port of the pod itself is refused at once.
    let closed = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 81);
    let error = world
        .sandbox
        .open_socket("a", closed, PATIENCE)
        .await
        .unwrap_err()
        .to_string();
    assert_eq!(
        error,
        "connect to 127.0.0.1:81 in pod `a`: Connection refused (os error 111)"
    );
}

pub(crate) async fn dns() {
    let mut world = World::new(&[("a", 5)]).await;
    for to in ["10.66.0.1:53", "8.8.8.8:53"] {
        let server: UdpSocket = world.sockets["a"].dns_udp.try_clone().unwrap();
        let answer = tokio::spawn(async move {
            let server = tokio::net::UdpSocket::from_std(server).unwrap();
            let mut question = [0; 64];
            let (length, from) = server.recv_from(&mut question).await.unwrap();
            assert_eq!(&question[..length], b"question");
            server.send_to(b"answer", from).await.unwrap();
        });
        assert_eq!(world.attack("a", &["dns", to]).await, "answer");
        answer.await.unwrap();
    }
}

pub(crate) async fn drops() {
    let mut world = World::new(&[("a", 5), ("b", 6)]).await;
    let before = world.sandbox.pod_counters("a").await.unwrap();
    assert_eq!((before.udp_out, before.other_out), (0, 0));
    for to in ["10.66.0.6:9999", "8.8.8.8:443", "10.66.255.255:1"] {
        let outcome = world.attack("a", &["udp", to]).await;
        assert!(outcome.starts_with("refused E"), "{to}: {outcome}");
    }
    let after = world.sandbox.pod_counters("a").await.unwrap();
    assert!(after.udp_out >= 2, "{after:?}");
    // A socket bound to the interface gets "loopback" onto the bridge, where rules by address alone would let it.
    for (kind, to) in [
        ("udp", "127.0.0.1:9"),
        ("tcp", "10.66.0.6:80"),
        ("tcp", "127.0.0.1:80"),
    ] {
        let before = world.sandbox.pod_counters("a").await.unwrap().other_out;
        let outcome = world.attack("a", &["device", kind, to]).await;
        assert!(
            outcome == "nothing" || outcome.starts_with("refused E"),
            "{kind} {to}: {outcome}"
        );
        let after = world.sandbox.pod_counters("a").await.unwrap().other_out;
        assert!(
            after > before || outcome == "refused ECONNREFUSED",
            "{kind} {to}: {outcome}"
        );
    }
    // ICMP and raw sockets cannot even be made.
    for (kind, protocol) in [("2", "1"), ("3", "1"), ("3", "255"), ("3", "17")] {
        assert!(
            world
                .attack("a", &["socket", "2", kind, protocol])
                .await
                .starts_with("refused E")
        );
    }
    // The proxy's own kind of socket cannot be made by the application, and its UDP would not pass either.
    assert_eq!(world.attack("a", &["udp", "127.0.0.1:9"]).await, "sent");
}
