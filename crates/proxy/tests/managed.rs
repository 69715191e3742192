//! A proxy as its supervisor runs it, against a control plane of the test's own: credentials, configuration, name service,
//! its own endpoint, the drain, and a successor that starts while the control plane is away.
//!
//! A test program of its own, with one test: the proxy ends by a signal to the process.
#![expect(
    clippy::pedantic,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "tests"
)]

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd as _, IntoRawFd as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use bartizan_identity::jwt::{Algorithm, SigningKey, generate_key};
use bartizan_identity::{Authority, Proof, TrustBundle, hello_transcript};
use bartizan_mesh::{
    JwtRule, KeySet, KeySource, MtlsMode, PathRule, Policy, PolicyKind, PolicyName, Profile, RemoteAddress,
    RequestAuthentication, Resource, Service, ServicePort, Settings, TokenLocation, View, wire_format,
};
use bartizan_proto::v1alpha1 as proto;
use bartizan_proxy::{Bootstrap, Descriptors, GatewayDescriptor, OneTimeSecret, run};
use bartizan_types::{Hostname, Name, NamespacedName, Port, Protocol, SpiffeId, TrustDomain};
use bytes::{BufMut as _, Bytes, BytesMut};
use hickory_proto::op::{Message, Query, ResponseCode};
use hickory_proto::rr::{Name as DnsName, RData, RecordType};
use tokio::sync::mpsc;

const PATIENCE: Duration = Duration::from_secs(20);

fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The control plane's side, as much as a proxy sees of it.
struct Control {
    said: Arc<Mutex<Vec<proto::ProxyMessage>>>,
    signed: Arc<Mutex<Vec<&'static str>>>,
    send: mpsc::UnboundedSender<proto::Transaction>,
    stop: tokio::sync::oneshot::Sender<()>,
    thread: std::thread::JoinHandle<()>,
}

fn framed(message: &impl prost::Message) -> Bytes {
    let body = message.encode_to_vec();
    let mut bytes = BytesMut::new();
    bytes.put_u8(0);
    bytes.put_u32(u32::try_from(body.len()).unwrap());
    bytes.put_slice(&body);
    bytes.freeze()
}

/// The next gRPC message of a body.
async fn read<M: prost::Message + Default>(body: &mut h2::RecvStream, buffer: &mut BytesMut) -> Option<M> {
    loop {
        if buffer.len() >= 5 {
            let length = u32::from_be_bytes(buffer[1..5].try_into().unwrap()) as usize;
            if buffer.len() >= 5 + length {
                let message = buffer.split_to(5 + length);
                return Some(M::decode(&message[5..]).unwrap());
            }
        }
        let data = body.data().await?.ok()?;
        body.flow_control().release_capacity(data.len()).unwrap();
        buffer.extend_from_slice(&data);
    }
}

impl Control {
    fn start(socket: &Path, authority: Arc<Authority>) -> Self {
        let (said, signed) = (Arc::default(), Arc::default());
        let (send, transactions) = mpsc::unbounded_channel();
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let transactions = Arc::new(tokio::sync::Mutex::new(transactions));
        let shared = (Arc::clone(&said), Arc::clone(&signed));
        let _ = std::fs::remove_file(socket);
        let listener = std::os::unix::net::UnixListener::bind(socket).unwrap();
        listener.set_nonblocking(true).unwrap();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async move {
                let listener = tokio::net::UnixListener::from_std(listener).unwrap();
                let serving = async {
                    loop {
                        let (stream, _) = listener.accept().await.unwrap();
                        let (said, signed) = shared.clone();
                        let (authority, transactions) = (Arc::clone(&authority), Arc::clone(&transactions));
                        tokio::spawn(async move {
                            let mut connection = h2::server::handshake(stream).await.unwrap();
                            while let Some(Ok((request, respond))) = connection.accept().await {
                                tokio::spawn(answer(
                                    request,
                                    respond,
                                    Arc::clone(&said),
                                    Arc::clone(&signed),
                                    Arc::clone(&authority),
                                    Arc::clone(&transactions),
                                ));
                            }
                        });
                    }
                };
                tokio::select! {
                    () = serving => {}
                    _ = stopped => {}
                }
            });
        });
        Self {
            said,
            signed,
            send,
            stop,
            thread,
        }
    }

    fn acknowledged(&self, version: u64) -> bool {
        let ack = proto::proxy_message::Kind::Ack(proto::Ack { version });
        self.said
            .lock()
            .unwrap()
            .iter()
            .any(|said| said.kind.as_ref() == Some(&ack))
    }

    fn end(self) {
        self.stop.send(()).unwrap();
        self.thread.join().unwrap();
    }
}

async fn answer(
    request: http::Request<h2::RecvStream>,
    mut respond: h2::server::SendResponse<Bytes>,
    said: Arc<Mutex<Vec<proto::ProxyMessage>>>,
    signed: Arc<Mutex<Vec<&'static str>>>,
    authority: Arc<Authority>,
    transactions: Arc<tokio::sync::Mutex<mpsc::UnboundedReceiver<proto::Transaction>>>,
) {
    let path = request.uri().path().to_owned();
    let mut body = request.into_body();
    let mut buffer = BytesMut::new();
    let head = http::Response::builder()
        .header("content-type", "application/grpc")
        .body(())
        .unwrap();
    let mut send = respond.send_response(head, false).unwrap();
    let mut trailers = http::HeaderMap::new();
    trailers.insert("grpc-status", "0".parse().unwrap());
    match path.as_str() {
        "/bartizan.v1alpha1.Mesh/Sign" => {
            let request: proto::SignRequest = read(&mut body, &mut buffer).await.unwrap();
            let proof = match request.proof.unwrap() {
                proto::sign_request::Proof::Bootstrap(secret) => {
                    assert_eq!(&secret[..], b"once");
                    "bootstrap"
                }
                proto::sign_request::Proof::Possession(_) => "possession",
            };
            signed.lock().unwrap().push(proof);
            let id = SpiffeId::parse("spiffe://cluster.local/ns/edge/sa/gate").unwrap();
            let ttl = Duration::from_secs(request.ttl_seconds.into());
            let issued = authority
                .issue(&request.csr, &id, ttl, SystemTime::now())
                .unwrap();
            let bundle = authority.trust_bundle().unwrap();
            let reply = proto::SignReply {
                chain: issued.chain.into_iter().map(Bytes::from).collect(),
                bundles: bundle
                    .iter()
                    .map(|(domain, roots)| proto::Bundle {
                        trust_domain: domain.to_string(),
                        roots: roots.into_iter().map(Bytes::from).collect(),
                    })
                    .collect(),
            };
            send.send_data(framed(&reply), false).unwrap();
            send.send_trailers(trailers).unwrap();
        }
        "/bartizan.v1alpha1.Mesh/Connect" => {
            let mut transactions = transactions.lock().await;
            loop {
                tokio::select! {
                    message = read::<proto::ProxyMessage>(&mut body, &mut buffer) => match message {
                        Some(message) => said.lock().unwrap().push(message),
                        None => return,
                    },
                    Some(transaction) = transactions.recv() => {
                        send.send_data(framed(&transaction), false).unwrap();
                    }
                }
            }
        }
        other => panic!("{other}"),
    }
}

fn transaction(version: u64, resources: &[Resource]) -> proto::Transaction {
    proto::Transaction {
        version,
        upserts: resources
            .iter()
            .map(|resource| {
                let encoded = wire_format::encode(resource);
                proto::Upsert {
                    key: encoded.key.to_string(),
                    body: Bytes::copy_from_slice(&encoded.body),
                    digest: encoded.digest.to_string(),
                }
            })
            .collect(),
        removals: Vec::new(),
    }
}

fn resources() -> Vec<Resource> {
    vec![
        Resource::Settings(Settings {
            trust_domain: TrustDomain::parse("cluster.local").unwrap(),
            root_namespace: Name::parse("istio-system").unwrap(),
            cluster_domain: Hostname::parse("cluster.local").unwrap(),
            profile: Profile::zero_trust(),
            paths: PathRule::RefuseAmbiguous,
        }),
        Resource::Service(Service {
            name: NamespacedName::parse("shop/cart").unwrap(),
            hostname: Hostname::parse("cart.shop.svc.cluster.local").unwrap(),
            addresses: vec!["10.67.0.9".parse().unwrap()],
            headless: false,
            alias_of: None,
            ports: vec![ServicePort {
                port: Port::new(80).unwrap(),
                name: None,
                protocol: Protocol::Http,
            }],
        }),
        Resource::View(View {
            workload: NamespacedName::parse("edge/gate-0").unwrap(),
            identity: SpiffeId::parse("spiffe://cluster.local/ns/edge/sa/gate").unwrap(),
            labels: BTreeMap::default(),
            policies: vec![policy_name()],
            authentications: Vec::new(),
            is_for_people: false,
            remote: RemoteAddress::default(),
            mtls: MtlsMode::Strict,
            inbound: Vec::new(),
            gateway: Some(NamespacedName::parse("edge/gate").unwrap()),
        }),
        Resource::Policy(Policy::deny_everything(policy_name())),
    ]
}

fn policy_name() -> PolicyName {
    PolicyName {
        kind: PolicyKind::AuthorizationPolicy,
        name: NamespacedName::parse("edge/gate").unwrap(),
    }
}

const KEYS: &str = "jwks/https://issuer.example/keys";

/// The gateway takes tokens of one issuer.
fn with_users() -> Vec<Resource> {
    let mut resources = resources();
    for resource in &mut resources {
        if let Resource::View(view) = resource {
            view.authentications = vec![NamespacedName::parse("edge/users").unwrap()];
        }
    }
    resources.push(Resource::RequestAuthentication(RequestAuthentication {
        name: NamespacedName::parse("edge/users").unwrap(),
        rules: vec![JwtRule {
            issuer: Some("https://issuer.example".into()),
            audiences: Vec::new(),
            keys: KeySource::Fetched(KEYS.into()),
            locations: vec![TokenLocation::Header {
                name: "authorization".into(),
                prefix: "Bearer ".into(),
            }],
            forward_original_token: false,
            output_payload_to_header: None,
            output_claims: Vec::new(),
            space_delimited_claims: Vec::new(),
        }],
        is_unreadable: false,
    }));
    resources
}

fn keys(key: &SigningKey, fetched_at: i64) -> Resource {
    Resource::KeySet(KeySet {
        name: KEYS.into(),
        source: "https://issuer.example/keys".into(),
        jwks: Some(key.to_public_jwks().unwrap().into()),
        fetched_at,
    })
}

fn token(key: &SigningKey) -> String {
    let claims = serde_json::json!({
        "iss": "https://issuer.example",
        "sub": "anna",
        "exp": SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs() + 600,
    });
    key.sign(&serde_json::Map::new(), &claims).unwrap()
}

/// What the supervisor keeps.
struct Kept {
    directory: PathBuf,
    gateway: TcpListener,
    dns_udp: UdpSocket,
    dns_tcp: TcpListener,
    credentials: File,
}

impl Kept {
    fn bootstrap(&self, secret: Option<&[u8]>) -> Bootstrap {
        let give = |descriptor: i32| Some(descriptor);
        Bootstrap {
            workload: NamespacedName::parse("edge/gate-0").unwrap(),
            address: "10.66.0.1".parse().unwrap(),
            control: self.directory.join("control.sock"),
            admin: self.directory.join("admin.sock"),
            snapshot: self.directory.join("snapshots/edge/gate-0.json"),
            access_log: self.directory.join("logs/edge/access.jsonl"),
            secret: secret.map(OneTimeSecret::new),
            workers: 2,
            svid_ttl_seconds: 6,
            drain_seconds: 5,
            descriptors: Descriptors {
                outbound: None,
                inbound: None,
                dns_udp: give(self.dns_udp.try_clone().unwrap().into_raw_fd()),
                dns_tcp: give(self.dns_tcp.try_clone().unwrap().into_raw_fd()),
                credentials: give(self.credentials.try_clone().unwrap().into_raw_fd()),
                gateway: vec![GatewayDescriptor {
                    port: Port::new(80).unwrap(),
                    descriptor: self.gateway.try_clone().unwrap().into_raw_fd(),
                }],
            },
        }
    }

    /// An answer of the proxy's own endpoint; `None` while it is not there.
    fn ask(&self, method: &str, path: &str) -> Option<String> {
        let mut stream = UnixStream::connect(self.directory.join("admin.sock")).ok()?;
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nhost: proxy\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).ok()?;
        let mut text = String::new();
        stream.read_to_string(&mut text).ok()?;
        Some(text)
    }

    fn is_ready(&self) -> bool {
        self.ask("GET", "/healthz")
            .is_some_and(|text| text.starts_with("HTTP/1.1 200 "))
    }

    fn resolve(&self, name: &str, kind: RecordType) -> Message {
        let mut question = Message::query();
        question.add_query(Query::query(DnsName::from_ascii(name).unwrap(), kind));
        let question = question.to_vec().unwrap();
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket
            .send_to(&question, self.dns_udp.local_addr().unwrap())
            .unwrap();
        let mut reply = [0; 2000];
        let length = socket.recv(&mut reply).unwrap();
        // TCP says the same.
        let mut stream = TcpStream::connect(self.dns_tcp.local_addr().unwrap()).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut framed = u16::try_from(question.len()).unwrap().to_be_bytes().to_vec();
        framed.extend_from_slice(&question);
        stream.write_all(&framed).unwrap();
        let mut prefix = [0; 2];
        stream.read_exact(&mut prefix).unwrap();
        let mut over_tcp = vec![0; usize::from(u16::from_be_bytes(prefix))];
        stream.read_exact(&mut over_tcp).unwrap();
        let (udp, tcp) = (
            Message::from_vec(&reply[..length]).unwrap(),
            Message::from_vec(&over_tcp).unwrap(),
        );
        assert_eq!(udp.answers, tcp.answers);
        udp
    }

    /// The status that somebody outside gets.
    fn knock(&self) -> String {
        self.knock_with("")
    }

    fn knock_with(&self, fields: &str) -> String {
        let mut stream = TcpStream::connect(self.gateway.local_addr().unwrap()).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let request = format!("GET / HTTP/1.1\r\nhost: shop\r\n{fields}connection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        text.lines().next().unwrap_or_default().to_owned()
    }
}

fn terminate(proxy: std::thread::JoinHandle<()>) {
    nix::sys::signal::kill(nix::unistd::Pid::this(), nix::sys::signal::Signal::SIGTERM).unwrap();
    proxy.join().unwrap();
}

#[test]
fn a_proxy_lives_and_its_successor_needs_no_control_plane() {
    let directory = tempfile::tempdir().unwrap();
    let kept = Kept {
        directory: directory.path().to_owned(),
        gateway: TcpListener::bind("127.0.0.1:0").unwrap(),
        dns_udp: UdpSocket::bind("127.0.0.1:0").unwrap(),
        dns_tcp: TcpListener::bind("127.0.0.1:0").unwrap(),
        credentials: tempfile::tempfile().unwrap(),
    };
    assert!(kept.credentials.as_raw_fd() > 2);
    let domain = TrustDomain::parse("cluster.local").unwrap();
    let authority = Arc::new(Authority::create(domain, SystemTime::now()).unwrap());
    let control = Control::start(&kept.directory.join("control.sock"), Arc::clone(&authority));

    // It proves itself by the one-time secret, and waits for its configuration.
    let bootstrap = kept.bootstrap(Some(b"once"));
    let proxy = std::thread::spawn(move || run(bootstrap).unwrap());
    until("it says hello", || !control.said.lock().unwrap().is_empty());
    assert_eq!(*control.signed.lock().unwrap(), ["bootstrap"]);
    let proto::proxy_message::Kind::Hello(hello) = control.said.lock().unwrap()[0].kind.clone().unwrap()
    else {
        panic!("not a hello");
    };
    assert_eq!(
        (hello.workload.as_str(), hello.version, hello.digests.len()),
        ("edge/gate-0", 0, 0)
    );
    verify(&hello, &authority.trust_bundle().unwrap());
    assert!(
        kept.ask("GET", "/healthz")
            .unwrap()
            .contains("no configuration yet")
    );
    assert_eq!(
        kept.resolve("cart.shop.svc.cluster.local.", RecordType::A)
            .metadata
            .response_code,
        ResponseCode::ServFail
    );

    // A transaction makes it ready, is acknowledged and kept on disk.
    control.send.send(transaction(7, &resources())).unwrap();
    until("it acknowledges", || control.acknowledged(7));
    until("it is ready", || kept.is_ready());
    assert_eq!(kept.knock(), "HTTP/1.1 403 Forbidden");
    let reply = kept.resolve("cart.shop.svc.cluster.local.", RecordType::A);
    assert!(matches!(&reply.answers[0].data, RData::A(address) if address.0.octets() == [10, 67, 0, 9]));
    let unknown = kept.resolve("example.org.", RecordType::A);
    assert_eq!(unknown.metadata.response_code, ResponseCode::NXDomain);
    let config = kept.ask("GET", "/config").unwrap();
    assert!(
        config.contains("\"version\":7") && config.contains("shop/cart") || config.contains("cart.shop"),
        "{config}"
    );
    let metrics = kept.ask("GET", "/metrics").unwrap();
    assert!(metrics.contains("bartizan_config_version 7"), "{metrics}");
    assert!(
        metrics.contains("bartizan_dns_queries_total{type=\"A\",result=\"NXDOMAIN\"} 2"),
        "{metrics}"
    );
    until("it is kept", || {
        kept.directory.join("snapshots/edge/gate-0.json").exists()
    });

    // What cannot be applied is refused, and the last good stays.
    let mut bad = transaction(8, &resources());
    bad.upserts[1].body = Bytes::from_static(b"{\"kind\":\"service\",\"new\":1}");
    control.send.send(bad).unwrap();
    until("it refuses", || {
        let said = control.said.lock().unwrap();
        said.iter().any(
            |said| matches!(&said.kind, Some(proto::proxy_message::Kind::Nack(nack)) if nack.version == 8),
        )
    });
    assert!(kept.ask("GET", "/config").unwrap().contains("\"version\":7"));

    // A small change is kept beside the whole.
    let mut more = resources().swap_remove(1);
    if let Resource::Service(service) = &mut more {
        service.name = NamespacedName::parse("shop/desk").unwrap();
        service.hostname = Hostname::parse("desk.shop.svc.cluster.local").unwrap();
        service.addresses = vec!["10.67.0.10".parse().unwrap()];
    }
    control.send.send(transaction(9, &[more])).unwrap();
    until("it acknowledges", || control.acknowledged(9));
    let changes = kept.directory.join("snapshots/edge/gate-0.changes");
    until("it is kept", || {
        std::fs::read_to_string(&changes).is_ok_and(|text| text.contains("\"version\":9"))
    });
    let whole = std::fs::read_to_string(kept.directory.join("snapshots/edge/gate-0.json")).unwrap();
    assert!(whole.contains("\"version\":7"), "{whole}");

    a_new_key_is_asked_for(&kept, &control);

    // Its SVID lives six seconds: it is renewed with a proof of the present one.
    until("it renews", || {
        control.signed.lock().unwrap().contains(&"possession")
    });
    assert!(
        control.signed.lock().unwrap().len() <= 3,
        "not more often than its life asks for"
    );
    let idle = TcpStream::connect(kept.gateway.local_addr().unwrap()).unwrap();
    until("the connection is there", || {
        kept.ask("GET", "/connections")
            .is_some_and(|text| text.contains("\"doing\""))
    });
    drop(idle);
    terminate(proxy);

    // The successor has neither a secret nor a control plane, and serves.
    control.end();
    let bootstrap = kept.bootstrap(None);
    let waiting = std::thread::spawn({
        let address = kept.gateway.local_addr().unwrap();
        move || {
            let mut stream = TcpStream::connect(address).unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            stream
                .write_all(b"GET / HTTP/1.1\r\nhost: shop\r\nconnection: close\r\n\r\n")
                .unwrap();
            let mut text = String::new();
            stream.read_to_string(&mut text).unwrap();
            text
        }
    });
    let proxy = std::thread::spawn(move || run(bootstrap).unwrap());
    until("the successor is ready", || kept.is_ready());
    assert!(
        waiting.join().unwrap().starts_with("HTTP/1.1 403 "),
        "what came in between is served"
    );
    assert!(kept.ask("GET", "/config").unwrap().contains("\"version\":9"));
    assert_eq!(
        kept.resolve("desk.shop.svc.cluster.local.", RecordType::A)
            .answers
            .len(),
        1
    );
    terminate(proxy);
    let log = std::fs::read_to_string(kept.directory.join("logs/edge/access.jsonl")).unwrap();
    assert_eq!(log.lines().count(), 2 + 14, "{log}");
    // No token is kept anywhere: neither its header nor its claims.
    let kept_files = ["snapshots/edge/gate-0.json", "snapshots/edge/gate-0.changes"]
        .map(|file| std::fs::read_to_string(kept.directory.join(file)).unwrap_or_default());
    for text in [&log, &kept_files[0], &kept_files[1]] {
        assert!(!text.contains("eyJhbGci") && !text.contains("eyJleHAi"), "{text}");
    }
}

/// A token of a key that the issuer has only begun to use waits until the control plane has told of it; with a key that
/// nobody has, it is refused.
fn a_new_key_is_asked_for(kept: &Kept, control: &Control) {
    let (old, new) = (
        generate_key(Algorithm::Es256).unwrap(),
        generate_key(Algorithm::Es256).unwrap(),
    );
    let mut users = with_users();
    users.push(keys(&old, 100));
    control.send.send(transaction(10, &users)).unwrap();
    until("it acknowledges", || control.acknowledged(10));
    let bearer = |key| format!("authorization: Bearer {}\r\n", token(key));
    assert_eq!(kept.knock_with(&bearer(&old)), "HTTP/1.1 403 Forbidden");
    std::thread::scope(|threads| {
        let waiting: Vec<_> = (0..3)
            .map(|_| threads.spawn(|| kept.knock_with(&bearer(&new))))
            .collect();
        until("it asks", || !asked(control).is_empty());
        control.send.send(transaction(11, &[keys(&new, 101)])).unwrap();
        for waiting in waiting {
            assert_eq!(waiting.join().unwrap(), "HTTP/1.1 403 Forbidden");
        }
    });
    assert_eq!(
        asked(control),
        [new.key_id().unwrap()],
        "all waited for one answer"
    );
    // The old key is gone, and fetching again does not bring it back.
    std::thread::scope(|threads| {
        let refused = threads.spawn(|| kept.knock_with(&bearer(&old)));
        until("it asks", || asked(control).len() == 2);
        control.send.send(transaction(12, &[keys(&new, 102)])).unwrap();
        assert_eq!(refused.join().unwrap(), "HTTP/1.1 401 Unauthorized");
    });
    // Whoever makes up keys while the answer is owed causes no more questions.
    let made_up: Vec<_> = (0..8).map(|_| generate_key(Algorithm::Es256).unwrap()).collect();
    std::thread::scope(|threads| {
        for key in &made_up {
            threads.spawn(|| assert_eq!(kept.knock_with(&bearer(key)), "HTTP/1.1 401 Unauthorized"));
        }
    });
    assert!(asked(control).len() <= 3, "{:?}", asked(control));
    assert_eq!(kept.knock_with(&bearer(&new)), "HTTP/1.1 403 Forbidden");
    control.send.send(transaction(9, &resources())).unwrap();
    until("it has the old version again", || {
        kept.ask("GET", "/config").unwrap().contains("\"version\":9")
    });
}

/// The keys that the proxy has asked for.
fn asked(control: &Control) -> Vec<String> {
    let said = control.said.lock().unwrap();
    said.iter()
        .filter_map(|said| match &said.kind {
            Some(proto::proxy_message::Kind::UnknownKey(unknown)) => {
                assert_eq!(unknown.key_set, KEYS);
                Some(unknown.kid.clone())
            }
            _ => None,
        })
        .collect()
}

fn verify(hello: &proto::Hello, bundle: &TrustBundle) {
    let possession = hello.proof.clone().unwrap();
    let proof = Proof {
        chain: possession.chain.iter().map(|der| der.to_vec()).collect(),
        signature: possession.signature.to_vec(),
    };
    let transcript = hello_transcript(&hello.workload, hello.signed_at);
    let id = proof.verify(bundle, &transcript, SystemTime::now()).unwrap();
    assert_eq!(id.as_str(), "spiffe://cluster.local/ns/edge/sa/gate");
}
