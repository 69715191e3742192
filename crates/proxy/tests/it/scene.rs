//! A small mesh in one process: a client's proxy and a server's, with certificates of a test authority and applications of
//! the test's own on loopback.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use bartizan_identity::{Authority, PrivateKey, Svid, TrustBundle};
use bartizan_mesh::{
    Action, Endpoint, Endpoints, InboundPort, Matcher, MtlsMode, Operation, PathRule, Policy, PolicyKind,
    PolicyName, Profile, RemoteAddress, Resource, Rule, Service, ServicePort, Settings, Source, Transaction,
    View, Workload,
};
use bartizan_proxy::{Running, StaticConfig, StaticListener, StaticRole};
use bartizan_types::{
    Hostname, Name, NamespacedName, Port, Protocol, SpiffeId, StringMatch, TrustDomain, Version,
};

/// How long anything may take in a test.
pub const PATIENCE: Duration = Duration::from_secs(10);

pub fn name(text: &str) -> NamespacedName {
    NamespacedName::parse(text).unwrap()
}

pub fn id(account: &str) -> SpiffeId {
    SpiffeId::parse(&format!("spiffe://cluster.local/ns/shop/sa/{account}")).unwrap()
}

pub fn port(number: u16) -> Port {
    Port::new(u32::from(number)).unwrap()
}

/// An address that nobody has now and no other test gets; outside the ports that clients come from.
pub fn free() -> SocketAddr {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let first = 10_000 + u16::try_from(std::process::id() % 15_000).unwrap();
    loop {
        let address = SocketAddr::from(([127, 0, 0, 1], first + NEXT.fetch_add(1, Ordering::SeqCst)));
        if TcpListener::bind(address).is_ok() {
            return address;
        }
    }
}

/// Waits until `condition` holds.
pub fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

pub struct Ca(Authority);

impl Ca {
    pub fn new() -> Self {
        Self::of("cluster.local")
    }

    pub fn of(domain: &str) -> Self {
        let domain = TrustDomain::parse(domain).unwrap();
        Self(Authority::create(domain, SystemTime::now()).unwrap())
    }

    /// What vouches for both trust domains.
    pub fn with(&self, other: &Self) -> TrustBundle {
        let bundles = [self.0.trust_bundle().unwrap(), other.0.trust_bundle().unwrap()];
        let roots = bundles.iter().flat_map(TrustBundle::iter);
        TrustBundle::new(roots.map(|(domain, roots)| (domain.clone(), roots))).unwrap()
    }

    pub fn svid(&self, account: &str) -> (Svid, TrustBundle) {
        let id = SpiffeId::workload(
            self.0.trust_domain(),
            &Name::parse("shop").unwrap(),
            &Name::parse(account).unwrap(),
        );
        let key = PrivateKey::generate().unwrap();
        let issued = self
            .0
            .issue(
                &key.csr().unwrap(),
                &id,
                Duration::from_secs(3600),
                SystemTime::now(),
            )
            .unwrap();
        (
            Svid::new(issued.chain, key).unwrap(),
            self.0.trust_bundle().unwrap(),
        )
    }
}

/// What the server's application gets and gives.
#[derive(Clone)]
pub struct App {
    pub address: SocketAddr,
    pub requests: Arc<AtomicU64>,
}

/// An HTTP/1.1 application that answers each request with the request line, its fields and its body.
pub fn echo_app() -> App {
    app_at(TcpListener::bind("127.0.0.1:0").unwrap())
}

pub fn app_at(listener: TcpListener) -> App {
    let address = listener.local_addr().unwrap();
    let requests = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&requests);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(stream) = stream else { return };
            let counted = Arc::clone(&counted);
            std::thread::spawn(move || echo(stream, &counted));
        }
    });
    App { address, requests }
}

fn echo(mut stream: TcpStream, counted: &AtomicU64) {
    let mut read = Vec::new();
    loop {
        let Some(message) = read_message(&mut stream, &mut read) else {
            return;
        };
        counted.fetch_add(1, Ordering::SeqCst);
        let text = String::from_utf8_lossy(&message).into_owned();
        if text.starts_with("GET /slow") {
            std::thread::sleep(Duration::from_millis(300));
        }
        if text.to_ascii_lowercase().contains("\r\nupgrade: websocket") {
            let answer =
                "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n";
            stream.write_all(answer.as_bytes()).unwrap();
            let mut buffer = [0; 1024];
            while let Ok(length @ 1..) = stream.read(&mut buffer) {
                if stream.write_all(&buffer[..length]).is_err() {
                    return;
                }
            }
            return;
        }
        let answer = format!(
            "HTTP/1.1 200 OK\r\nx-app: echo\r\ncontent-length: {}\r\n\r\n{text}",
            text.len()
        );
        if stream.write_all(answer.as_bytes()).is_err() {
            return;
        }
    }
}

/// One message with a `content-length` body (none is empty).
pub fn read_message(stream: &mut TcpStream, read: &mut Vec<u8>) -> Option<Vec<u8>> {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    loop {
        if let Some(end) = read.windows(4).position(|window| window == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&read[..end]).to_ascii_lowercase();
            let length: usize = head
                .lines()
                .find_map(|line| line.strip_prefix("content-length:"))
                .map_or(0, |value| value.trim().parse().unwrap());
            let whole = end + 4 + length;
            while read.len() < whole {
                more(stream, read)?;
            }
            return Some(read.drain(..whole).collect());
        }
        more(stream, read)?;
    }
}

fn more(stream: &mut TcpStream, read: &mut Vec<u8>) -> Option<()> {
    let mut buffer = [0; 16 * 1024];
    match stream.read(&mut buffer) {
        Ok(length @ 1..) => {
            read.extend_from_slice(&buffer[..length]);
            Some(())
        }
        _ => None,
    }
}

/// Whether a read says that the connection has ended; that nothing came in time is no end.
pub fn is_end(read: &std::io::Result<usize>) -> bool {
    use std::io::ErrorKind::{TimedOut, WouldBlock};
    match read {
        Ok(length) => *length == 0,
        Err(error) => !matches!(error.kind(), TimedOut | WouldBlock),
    }
}

/// A client's connection.
pub struct Client {
    pub stream: TcpStream,
    read: Vec<u8>,
}

impl From<TcpStream> for Client {
    fn from(stream: TcpStream) -> Self {
        Self {
            stream,
            read: Vec::new(),
        }
    }
}

impl Client {
    pub fn new(to: SocketAddr) -> Self {
        TcpStream::connect(to).unwrap().into()
    }

    pub fn send(&mut self, text: &str) {
        self.stream.write_all(text.as_bytes()).unwrap();
    }

    /// The next response, `None` when the connection ended.
    pub fn receive(&mut self) -> Option<String> {
        read_message(&mut self.stream, &mut self.read).map(|message| String::from_utf8(message).unwrap())
    }

    pub fn ask(&mut self, text: &str) -> String {
        self.send(text);
        self.receive().expect("an answer")
    }
}

pub fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nhost: cart\r\n\r\n")
}

/// An ALLOW rule.
pub fn allow(account: &str, methods: &[&str]) -> Rule {
    Rule {
        from: vec![Source {
            principals: Matcher {
                any: vec![StringMatch::Exact(id(account).principal().into())],
                none: Vec::new(),
            },
            ..Source::default()
        }],
        to: if methods.is_empty() {
            Vec::new()
        } else {
            vec![Operation {
                methods: Matcher {
                    any: methods
                        .iter()
                        .map(|method| StringMatch::Exact((*method).into()))
                        .collect(),
                    none: Vec::new(),
                },
                ..Operation::default()
            }]
        },
        ..Rule::default()
    }
}

pub fn policy(rules: Vec<Rule>) -> Resource {
    policy_of("shop/cart", Action::Allow, rules)
}

pub fn policy_of(named: &str, action: Action, rules: Vec<Rule>) -> Resource {
    Resource::Policy(Policy {
        kind: PolicyKind::AuthorizationPolicy,
        name: name(named),
        action,
        provider: None,
        dry_run: false,
        rules,
    })
}

pub fn policy_name(named: &str) -> PolicyName {
    PolicyName {
        kind: PolicyKind::AuthorizationPolicy,
        name: name(named),
    }
}

/// What a scene is made of.
pub struct Plan {
    pub protocol: Protocol,
    pub mtls: MtlsMode,
    pub rules: Vec<Rule>,
    pub server_account: &'static str,
    /// Endpoints before the real one, where nobody listens.
    pub dead_endpoints: usize,
    pub app: SocketAddr,
    /// Whether the client is told where the service is served.
    pub reachable: bool,
    pub workers: u32,
}

impl Plan {
    pub fn new(app: SocketAddr) -> Self {
        Self {
            protocol: Protocol::Http,
            mtls: MtlsMode::Strict,
            rules: vec![allow("web", &["GET", "POST"])],
            server_account: "cart",
            dead_endpoints: 0,
            app,
            reachable: true,
            workers: 1,
        }
    }
}

/// The two proxies.
pub struct Scene {
    pub ca: Ca,
    pub client: Running,
    pub server: Running,
    /// Where the client's application calls.
    pub outbound: SocketAddr,
    /// Where the client's proxy has nothing behind.
    pub nowhere: SocketAddr,
    /// Where the server's proxy listens.
    pub inbound: SocketAddr,
    pub directory: tempfile::TempDir,
    pub version: AtomicU64,
}

impl Scene {
    pub fn new(plan: &Plan) -> Self {
        let ca = Ca::new();
        let directory = tempfile::tempdir().unwrap();
        let (outbound, nowhere, inbound) = (free(), free(), free());
        let server = Running::start(StaticConfig {
            workload: name("shop/cart-0"),
            resources: everything(plan, "cart-0", outbound, inbound),
            listeners: vec![StaticListener {
                address: inbound,
                role: StaticRole::Inbound { to: plan.app },
            }],
            svid: ca.svid(plan.server_account),
            access_log: Some(directory.path().join("server.jsonl")),
            metrics: None,
            workers: plan.workers,
            drain: PATIENCE,
        })
        .unwrap();
        let client = Running::start(StaticConfig {
            workload: name("shop/web-0"),
            resources: everything(plan, "web-0", outbound, inbound),
            listeners: [outbound, nowhere]
                .map(|address| StaticListener {
                    address,
                    role: StaticRole::Outbound,
                })
                .to_vec(),
            svid: ca.svid("web"),
            access_log: Some(directory.path().join("client.jsonl")),
            metrics: None,
            workers: plan.workers,
            drain: PATIENCE,
        })
        .unwrap();
        Self {
            ca,
            client,
            server,
            outbound,
            nowhere,
            inbound,
            directory,
            version: AtomicU64::new(1),
        }
    }

    /// Changes what the server's proxy serves from.
    pub fn change_server(&self, upserts: Vec<Resource>) {
        let version = self.version.fetch_add(1, Ordering::SeqCst) + 1;
        self.server.apply(&Transaction {
            version: Version(version),
            upserts,
            removals: Vec::new(),
        });
    }

    /// The server's log when it has this many lines: a request is counted and logged after its answer was sent.
    pub fn server_log(&self, lines: usize) -> Vec<serde_json::Value> {
        self.log(&self.server, "server.jsonl", lines)
    }

    /// The client's, likewise.
    pub fn client_log(&self, lines: usize) -> Vec<serde_json::Value> {
        self.log(&self.client, "client.jsonl", lines)
    }

    fn log(&self, proxy: &Running, file: &str, lines: usize) -> Vec<serde_json::Value> {
        let path: PathBuf = self.directory.path().join(file);
        let mut log = Vec::new();
        until("the log has its lines", || {
            proxy.flush_log();
            log = std::fs::read_to_string(&path)
                .unwrap_or_default()
                .lines()
                .map(|line| serde_json::from_str(line).unwrap())
                .collect();
            log.len() >= lines
        });
        assert_eq!(log.len(), lines, "{log:?}");
        log
    }
}

/// The sum of a metric's series that have all of these labels.
pub fn metric(text: &str, name: &str, labels: &[&str]) -> f64 {
    text.lines()
        .filter(|line| line.starts_with(name) && line[name.len()..].starts_with(['{', ' ']))
        .filter(|line| labels.iter().all(|label| line.contains(label)))
        .map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap())
        .sum()
}

pub fn everything(plan: &Plan, local: &str, outbound: SocketAddr, inbound: SocketAddr) -> Vec<Arc<Resource>> {
    let is_server = local == "cart-0";
    let service = Service {
        name: name("shop/cart"),
        hostname: Hostname::parse("cart.shop.svc.cluster.local").unwrap(),
        addresses: vec![outbound.ip()],
        headless: false,
        alias_of: None,
        ports: vec![ServicePort {
            port: port(outbound.port()),
            name: None,
            protocol: plan.protocol,
        }],
    };
    let mut resources = vec![
        Resource::Settings(Settings {
            trust_domain: TrustDomain::parse("cluster.local").unwrap(),
            root_namespace: Name::parse("istio-system").unwrap(),
            cluster_domain: Hostname::parse("cluster.local").unwrap(),
            profile: Profile::zero_trust(),
            paths: PathRule::RefuseAmbiguous,
        }),
        Resource::Service(service),
        workload("web-0", "web", "127.0.0.1"),
        workload("cart-0", "cart", "127.0.0.2"),
        view(plan, local, inbound),
    ];
    if is_server {
        resources.push(policy(plan.rules.clone()));
    } else if plan.reachable {
        let mut endpoints: Vec<_> = (0..plan.dead_endpoints)
            .map(|at| endpoint(&format!("cart-dead-{at}"), free(), outbound))
            .collect();
        endpoints.push(endpoint("cart-0", inbound, outbound));
        resources.push(Resource::Endpoints(Endpoints {
            service: name("shop/cart"),
            endpoints,
        }));
    }
    resources.into_iter().map(Arc::new).collect()
}

fn endpoint(workload: &str, address: SocketAddr, service: SocketAddr) -> Endpoint {
    Endpoint {
        workload: name(&format!("shop/{workload}")),
        address: address.ip(),
        ports: BTreeMap::from([(port(service.port()), port(address.port()))]),
        identity: Some(id("cart")),
        ready: true,
    }
}

pub fn view(plan: &Plan, local: &str, inbound: SocketAddr) -> Resource {
    let account = local.split('-').next().unwrap();
    Resource::View(View {
        workload: name(&format!("shop/{local}")),
        identity: id(account),
        labels: BTreeMap::default(),
        policies: if account == "cart" {
            vec![policy_name("shop/cart")]
        } else {
            Vec::new()
        },
        authentications: Vec::new(),
        is_for_people: false,
        remote: RemoteAddress::default(),
        mtls: plan.mtls,
        inbound: vec![InboundPort {
            port: port(inbound.port()),
            mtls: plan.mtls,
            protocol: plan.protocol,
            service: Some(name("shop/cart")),
        }],
        gateway: None,
    })
}

fn workload(instance: &str, account: &str, address: &str) -> Resource {
    Resource::Workload(Workload {
        name: name(&format!("shop/{instance}")),
        addresses: vec![address.parse().unwrap()],
        identity: id(account),
        workload_name: Name::parse(account).unwrap(),
        canonical_service: account.to_owned(),
        canonical_revision: "latest".to_owned(),
        app: Some(account.to_owned()),
        version: None,
        hostname: None,
        labels: BTreeMap::default(),
    })
}
