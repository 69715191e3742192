//! Bytes through the pair: server-first protocols, half close, denial by reset, judged again.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};

use bartizan_mesh::MtlsMode;
use bartizan_types::Protocol;

use crate::scene::{PATIENCE, Plan, Scene, allow, is_end, metric, policy, until};

/// Greets each client, then gives back what comes in until the client ends its side, then says goodbye.
fn greeter() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            std::thread::spawn(move || {
                if stream.write_all(b"220 hello\r\n").is_err() {
                    return;
                }
                let mut buffer = [0; 64 * 1024];
                while let Ok(length @ 1..) = stream.read(&mut buffer) {
                    if stream.write_all(&buffer[..length]).is_err() {
                        return;
                    }
                }
                let _ = stream.write_all(b"bye");
            });
        }
    });
    address
}

fn plan(protocol: Protocol) -> Plan {
    Plan {
        protocol,
        rules: vec![allow("web", &[])],
        ..Plan::new(greeter())
    }
}

fn connect(to: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(to).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

fn greeted(stream: &mut TcpStream) {
    let mut greeting = [0; 11];
    stream.read_exact(&mut greeting).unwrap();
    assert_eq!(&greeting, b"220 hello\r\n");
}

#[test]
fn a_server_may_speak_first_and_half_close_is_kept() {
    for protocol in [Protocol::Tcp, Protocol::Detect] {
        let scene = Scene::new(&plan(protocol));
        let mut client = connect(scene.outbound);
        greeted(&mut client);
        let sent: Vec<u8> = (0..1_000_000_u32).map(|at| at.to_le_bytes()[0]).collect();
        let mut writing = client.try_clone().unwrap();
        let bytes = sent.clone();
        let writer = std::thread::spawn(move || {
            writing.write_all(&bytes).unwrap();
            writing.shutdown(Shutdown::Write).unwrap();
        });
        let mut back = Vec::new();
        client.read_to_end(&mut back).unwrap();
        writer.join().unwrap();
        assert_eq!(back.len(), sent.len() + 3);
        assert!(back.starts_with(&sent) && back.ends_with(b"bye"));
        let log = scene.server_log(1);
        assert_eq!(log[0]["bytes_received"], 1_000_000, "{protocol:?} {log:?}");
        assert_eq!(log[0]["bytes_sent"], 1_000_014);
        assert_eq!(log[0]["decision"], "allow");
        assert_eq!(
            log[0]["source_principal"],
            "spiffe://cluster.local/ns/shop/sa/web"
        );
        scene.client_log(1);
        for proxy in [&scene.client, &scene.server] {
            let text = proxy.metrics();
            for (name, value) in [
                ("istio_tcp_connections_opened_total", 1.0),
                ("istio_tcp_connections_closed_total", 1.0),
                ("istio_tcp_received_bytes_total", 1_000_000.0),
                ("istio_tcp_sent_bytes_total", 1_000_014.0),
            ] {
                assert_eq!(
                    metric(&text, name, &["source_workload=\"web\""]),
                    value,
                    "{name}\n{text}"
                );
            }
        }
    }
}

#[test]
fn a_denied_connection_is_reset_and_logged() {
    let scene = Scene::new(&Plan {
        rules: vec![allow("other", &[])],
        ..plan(Protocol::Tcp)
    });
    let mut client = connect(scene.outbound);
    let mut byte = [0];
    assert!(!matches!(client.read(&mut byte), Ok(1)));
    let log = scene.server_log(1);
    assert_eq!(
        log[0]["connection_termination_details"],
        "rbac_access_denied_matched_policy[none]"
    );
    assert_eq!(log[0]["decision"], "deny");
    assert!(log[0]["decision_id"].is_string());
    let text = scene.server.metrics();
    assert_eq!(
        metric(&text, "bartizan_policy_denied_total", &["layer=\"tcp\""]),
        1.0,
        "{text}"
    );
}

#[test]
fn a_rule_about_http_does_not_let_bytes_in() {
    let scene = Scene::new(&Plan {
        rules: vec![allow("web", &["GET"])],
        ..plan(Protocol::Tcp)
    });
    let mut client = connect(scene.outbound);
    let mut byte = [0];
    assert!(!matches!(client.read(&mut byte), Ok(1)));
}

#[test]
fn an_open_connection_that_a_change_denies_is_closed() {
    let scene = Scene::new(&plan(Protocol::Tcp));
    let mut client = connect(scene.outbound);
    greeted(&mut client);
    // What does not concern it leaves it alone.
    scene.change_server(vec![policy(vec![allow("other", &[]), allow("web", &[])])]);
    client.write_all(b"x").unwrap();
    let mut byte = [0];
    client.read_exact(&mut byte).unwrap();
    let begin = std::time::Instant::now();
    scene.change_server(vec![policy(vec![allow("other", &[])])]);
    assert!(!matches!(client.read(&mut byte), Ok(1)));
    assert!(begin.elapsed() < std::time::Duration::from_secs(1));
    let log = scene.server_log(1);
    assert_eq!(log[0]["decision"], "deny");
    let text = scene.server.metrics();
    assert_eq!(
        metric(&text, "bartizan_connections_judged_closed_total", &[]),
        1.0,
        "{text}"
    );
}

#[test]
fn nowhere_is_reset() {
    let scene = Scene::new(&plan(Protocol::Tcp));
    let mut client = connect(scene.nowhere);
    let mut byte = [0];
    assert!(!matches!(client.read(&mut byte), Ok(1)));
    let log = scene.client_log(1);
    assert_eq!(log[0]["response_flags"], "NR");
    assert!(
        log[0]["connection_termination_details"]
            .as_str()
            .unwrap()
            .starts_with("no_way_out")
    );
}

#[test]
fn http_on_an_undeclared_port_is_found_by_both_sides() {
    let app = crate::scene::echo_app();
    let scene = Scene::new(&Plan {
        protocol: Protocol::Detect,
        ..Plan::new(app.address)
    });
    let mut client = crate::scene::Client::new(scene.outbound);
    assert!(client.ask(&crate::scene::get("/")).starts_with("HTTP/1.1 200 "));
    assert!(
        client
            .ask("DELETE / HTTP/1.1\r\nhost: a\r\n\r\n")
            .starts_with("HTTP/1.1 403 ")
    );
}

#[test]
fn the_servers_reset_reaches_the_client() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let scene = Scene::new(&Plan {
        protocol: Protocol::Tcp,
        rules: vec![allow("web", &[])],
        ..Plan::new(address)
    });
    let mut client = connect(scene.outbound);
    client.write_all(b"hello").unwrap();
    let (mut server, _) = listener.accept().unwrap();
    let mut buffer = [0; 5];
    server.read_exact(&mut buffer).unwrap();
    drop(server);
    assert_eq!(client.read(&mut buffer).unwrap(), 0);
}

#[test]
fn plaintext_bytes_pass_where_mtls_is_disabled() {
    let mut open = allow("web", &[]);
    open.from.clear();
    let scene = Scene::new(&Plan {
        mtls: MtlsMode::Disable,
        rules: vec![open],
        ..plan(Protocol::Tcp)
    });
    let mut client = connect(scene.inbound);
    greeted(&mut client);
    drop(client);
    until("it is closed", || {
        metric(&scene.server.metrics(), "istio_tcp_connections_closed_total", &[]) >= 1.0
    });
}

#[tokio::test]
async fn a_change_while_the_application_is_being_connected_is_not_missed() {
    use bartizan_wire::socket::{Bind, bind};
    let bound = Bind {
        backlog: 0,
        ..Bind::default()
    };
    let listener = bind(SocketAddr::from(([127, 0, 0, 1], 0)), bound).unwrap();
    let app = listener.local_addr().unwrap();
    let scene = Scene::new(&Plan {
        protocol: Protocol::Tcp,
        rules: vec![allow("web", &[])],
        ..Plan::new(app)
    });
    // Its queue is full: whoever comes now is tried again by the kernel a second later.
    let mut waiting = Vec::new();
    while let Ok(stream) = TcpStream::connect_timeout(&app, std::time::Duration::from_millis(100)) {
        waiting.push(stream);
    }
    let mut client = connect(scene.outbound);
    until("the server's proxy has authorized it", || {
        let open = metric(
            &scene.server.metrics(),
            "bartizan_connections_open",
            &["direction=\"inbound\""],
        );
        open >= 1.0
    });
    scene.change_server(vec![policy(vec![allow("nobody", &[])])]);
    let serving = tokio::spawn(async move {
        drop(waiting);
        while let Ok((mut stream, _)) = listener.accept().await {
            // The ones that filled the queue are gone.
            let _ = tokio::io::AsyncWriteExt::write_all(&mut stream, b"secret").await;
        }
    });
    let heard = tokio::task::spawn_blocking(move || client.read(&mut [0; 6]));
    let heard = heard.await.unwrap();
    assert!(is_end(&heard), "{heard:?}");
    let log = scene.server_log(1);
    assert_eq!(log[0]["decision"], "deny", "{log:?}");
    serving.abort();
}
