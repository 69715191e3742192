//! A control plane in this process, and a node and proxies that are played by the test.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bartizan_control::{ControlError, Options, Status, run, settings};
use bartizan_identity::{BootstrapSecret, PrivateKey, Proof, Svid, hello_transcript, renewal_transcript};
use bartizan_mesh::{PathRule, Profile};
use bartizan_proto::v1alpha1::{
    Ack, DumpReply, DumpRequest, Hello, Nack, NodeHello, NodeOrder, NodeReport, Possession, ProxyMessage,
    SignReply, SignRequest, StatusRequest, Transaction, Vouch, node_report, proxy_message, sign_request,
};
use bartizan_types::{PodPhase, PodReport, PodSpec, Secret, TrustDomain};
use tempfile::TempDir;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status as Answer, Streaming};

use crate::stubs::admin_client::AdminClient;
use crate::stubs::mesh_client::MeshClient;
use crate::stubs::node_client::NodeClient;

/// Whatever is waited for comes within this time, or the test fails.
pub(crate) const SOON: Duration = Duration::from_secs(20);

pub(crate) const SHOP: &str = "
apiVersion: v1
kind: Namespace
metadata: { name: shop }
---
apiVersion: v1
kind: ServiceAccount
metadata: { name: cart, namespace: shop }
---
apiVersion: v1
kind: ServiceAccount
metadata: { name: web, namespace: shop }
---
apiVersion: apps/v1
kind: Deployment
metadata: { name: cart, namespace: shop }
spec:
  selector: { matchLabels: { app: cart } }
  template:
    metadata: { labels: { app: cart } }
    spec:
      serviceAccountName: cart
      containers: [{ name: app, command: [sleep, '1000'], ports: [{ containerPort: 8080 }] }]
---
apiVersion: apps/v1
kind: Deployment
metadata: { name: web, namespace: shop }
spec:
  selector: { matchLabels: { app: web } }
  template:
    metadata: { labels: { app: web } }
    spec:
      serviceAccountName: web
      containers: [{ name: app, command: [sleep, '1000'] }]
---
apiVersion: v1
kind: Service
metadata: { name: cart, namespace: shop }
spec:
  selector: { app: cart }
  ports: [{ name: http, port: 80, targetPort: 8080 }]
";

/// A policy that lets `web` use one method.
pub(crate) fn policy(method: &str) -> String {
    format!(
        "apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {{ name: cart, namespace: shop }}
spec:
  selector: {{ matchLabels: {{ app: cart }} }}
  action: ALLOW
  rules:
    - from: [{{ source: {{ principals: [cluster.local/ns/shop/sa/web] }} }}]
      to: [{{ operation: {{ methods: [{method}] }} }}]
"
    )
}

/// The folders of a mesh, which outlive control planes.
pub(crate) struct Place {
    folder: TempDir,
}

impl Place {
    pub(crate) fn new() -> Self {
        let place = Self {
            folder: tempfile::tempdir().unwrap(),
        };
        std::fs::create_dir(place.documents()).unwrap();
        std::fs::create_dir(place.run_directory()).unwrap();
        place
    }

    /// With two workloads, a service and a policy.
    pub(crate) fn shop() -> Self {
        let place = Self::new();
        place.write("shop.yaml", SHOP);
        place.write("policy.yaml", &policy("GET"));
        place
    }

    pub(crate) fn documents(&self) -> PathBuf {
        self.folder.path().join("documents")
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.folder.path().join("state")
    }

    pub(crate) fn run_directory(&self) -> PathBuf {
        self.folder.path().join("run")
    }

    pub(crate) fn write(&self, name: &str, text: &str) {
        std::fs::write(self.documents().join(name), text).unwrap();
    }

    pub(crate) fn start(&self) -> Plane {
        self.start_with(|_| {})
    }

    pub(crate) fn start_with(&self, change: impl FnOnce(&mut Options)) -> Plane {
        let socket = self.run_directory().join("control.sock");
        let _ = std::fs::remove_file(&socket);
        let admin = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = admin.local_addr().unwrap();
        let (drain, drained) = watch::channel(false);
        let domain = TrustDomain::parse("cluster.local").unwrap();
        let mut options = Options {
            sources: vec![self.documents()],
            state_directory: self.state(),
            run_directory: self.run_directory(),
            settings: settings(Profile::zero_trust(), PathRule::RefuseAmbiguous, domain),
            profile_is_chosen: false,
            svid_ttl: Duration::from_hours(1),
            gateway_address: IpAddr::V4(Ipv4Addr::LOCALHOST),
            control: UnixListener::bind(&socket).unwrap(),
            admin: Some(admin),
            jwks_ca: None,
            key_times: bartizan_control::KeyTimes::default(),
            admin_token: Secret::new("token-of-this-run".to_owned()),
            strict: false,
            supervisor: None,
            drain: drained,
        };
        change(&mut options);
        Plane {
            channel: channel(&socket),
            admin: address,
            drain,
            task: tokio::spawn(run(options)),
        }
    }
}

fn channel(socket: &Path) -> Channel {
    let socket = socket.to_owned();
    Endpoint::from_static("http://control").connect_with_connector_lazy(tower::service_fn(move |_| {
        let socket = socket.clone();
        async move {
            let stream = tokio::net::UnixStream::connect(socket).await?;
            Ok::<_, std::io::Error>(hyper_util::rt::TokioIo::new(stream))
        }
    }))
}

/// A running control plane.
pub(crate) struct Plane {
    pub(crate) channel: Channel,
    pub(crate) admin: SocketAddr,
    drain: watch::Sender<bool>,
    task: JoinHandle<Result<(), ControlError>>,
}

impl Plane {
    pub(crate) async fn status(&self) -> Status {
        let mut client = AdminClient::new(self.channel.clone());
        let reply = tokio::time::timeout(SOON, client.status(StatusRequest {}))
            .await
            .unwrap()
            .unwrap();
        serde_json::from_slice(&reply.into_inner().status).unwrap()
    }

    /// The first status of which `what` holds.
    pub(crate) async fn status_when(&self, name: &str, what: impl Fn(&Status) -> bool) -> Status {
        let until = tokio::time::Instant::now() + SOON;
        loop {
            let status = self.status().await;
            if what(&status) {
                return status;
            }
            assert!(tokio::time::Instant::now() < until, "{name}: {status:#?}");
            tokio::task::yield_now().await;
        }
    }

    pub(crate) async fn dump(&self, workload: &str) -> Result<DumpReply, Answer> {
        let workload = workload.to_owned();
        let reply = AdminClient::new(self.channel.clone())
            .dump(DumpRequest { workload })
            .await?;
        Ok(reply.into_inner())
    }

    pub(crate) async fn sign(&self, request: SignRequest) -> Result<SignReply, Answer> {
        let reply = MeshClient::new(self.channel.clone()).sign(request).await?;
        Ok(reply.into_inner())
    }

    /// Drains, and waits for the end.
    pub(crate) async fn stop(self) -> Result<(), ControlError> {
        self.drain.send_replace(true);
        drop(self.channel);
        tokio::time::timeout(SOON, self.task).await.unwrap().unwrap()
    }

    /// The end of a control plane that cannot start.
    pub(crate) async fn end(self) -> Result<(), ControlError> {
        tokio::time::timeout(SOON, self.task).await.unwrap().unwrap()
    }
}

/// A pod as the node reports it.
pub(crate) fn report(spec: &PodSpec, last: u8, ready: bool) -> PodReport {
    PodReport {
        spec: spec.clone(),
        address: IpAddr::V4(Ipv4Addr::new(10, 66, 0, last)),
        phase: PodPhase::Running,
        ready,
        message: None,
        containers: Vec::new(),
        proxy_restarts: 0,
        udp_dropped: 0,
    }
}

/// The node's supervisor.
pub(crate) struct Node {
    reports: mpsc::Sender<NodeReport>,
    orders: Streaming<NodeOrder>,
}

impl Node {
    pub(crate) async fn connect(plane: &Plane, pods: &[PodReport]) -> Self {
        Self::connect_vouching(plane, pods, &[]).await.unwrap()
    }

    pub(crate) async fn connect_vouching(
        plane: &Plane,
        pods: &[PodReport],
        vouches: &[(&str, &BootstrapSecret)],
    ) -> Result<Self, Answer> {
        let (reports, stream) = mpsc::channel(16);
        let hello = NodeHello {
            node: "test".to_owned(),
            pods: pods
                .iter()
                .map(|pod| serde_json::to_vec(pod).unwrap().into())
                .collect(),
            vouches: vouches
                .iter()
                .map(|(workload, secret)| vouch(workload, secret))
                .collect(),
        };
        let first = NodeReport {
            kind: Some(node_report::Kind::Hello(hello)),
        };
        reports.send(first).await.unwrap();
        let orders = NodeClient::new(plane.channel.clone())
            .max_decoding_message_size(64 * 1024 * 1024)
            .connect(ReceiverStream::new(stream))
            .await?
            .into_inner();
        Ok(Self { reports, orders })
    }

    pub(crate) async fn order(&mut self) -> Result<(u64, BTreeMap<String, PodSpec>), Answer> {
        let order = tokio::time::timeout(SOON, self.orders.message())
            .await
            .unwrap()?
            .unwrap();
        let pods = order.pods.iter().map(|pod| {
            let spec: PodSpec = serde_json::from_slice(pod).unwrap();
            (spec.name.to_string(), spec)
        });
        Ok((order.version, pods.collect()))
    }

    pub(crate) async fn pod(&self, pod: &PodReport) {
        self.send(node_report::Kind::Pod(serde_json::to_vec(pod).unwrap().into()))
            .await;
    }

    pub(crate) async fn gone(&self, workload: &str) {
        self.send(node_report::Kind::Gone(workload.to_owned())).await;
    }

    pub(crate) async fn vouch(&self, workload: &str, secret: &BootstrapSecret) {
        self.send(node_report::Kind::Vouch(vouch(workload, secret))).await;
    }

    async fn send(&self, kind: node_report::Kind) {
        self.reports.send(NodeReport { kind: Some(kind) }).await.unwrap();
    }
}

fn vouch(workload: &str, secret: &BootstrapSecret) -> Vouch {
    Vouch {
        workload: workload.to_owned(),
        bootstrap: secret.expose().to_vec().into(),
    }
}

/// A request for an SVID by one-time secret, and the key that it is for.
pub(crate) fn bootstrap_request(workload: &str, secret: &BootstrapSecret) -> (SignRequest, PrivateKey) {
    let key = PrivateKey::generate().unwrap();
    let request = SignRequest {
        workload: workload.to_owned(),
        csr: key.csr().unwrap().into(),
        ttl_seconds: 0,
        proof: Some(sign_request::Proof::Bootstrap(secret.expose().to_vec().into())),
    };
    (request, key)
}

/// A request for an SVID by possession of the present one, and the key that it is for.
pub(crate) fn renewal_request(workload: &str, present: &Svid) -> (SignRequest, PrivateKey) {
    let key = PrivateKey::generate().unwrap();
    let csr = key.csr().unwrap();
    let proof = Proof::sign(present, &renewal_transcript(workload, &csr)).unwrap();
    let request = SignRequest {
        workload: workload.to_owned(),
        csr: csr.into(),
        ttl_seconds: 0,
        proof: Some(sign_request::Proof::Possession(possession(&proof))),
    };
    (request, key)
}

pub(crate) fn svid(reply: &SignReply, key: PrivateKey) -> Svid {
    Svid::new(reply.chain.iter().map(|der| der.to_vec()).collect(), key).unwrap()
}

pub(crate) fn possession(proof: &Proof) -> Possession {
    Possession {
        chain: proof.chain.iter().map(|der| der.clone().into()).collect(),
        signature: proof.signature.clone().into(),
    }
}

pub(crate) fn now() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    i64::try_from(now).unwrap()
}

/// A workload's proxy.
pub(crate) struct Proxy {
    pub(crate) workload: String,
    pub(crate) svid: Svid,
    /// Key to body and digest.
    pub(crate) resources: BTreeMap<String, (String, String)>,
    pub(crate) version: u64,
}

/// A proxy's open stream.
pub(crate) struct Session {
    messages: mpsc::Sender<ProxyMessage>,
    pub(crate) transactions: Streaming<Transaction>,
}

impl Proxy {
    /// Announces a secret for a workload and signs it up.
    pub(crate) async fn start(plane: &Plane, node: &Node, workload: &str) -> Self {
        let secret = BootstrapSecret::generate();
        node.vouch(workload, &secret).await;
        let until = tokio::time::Instant::now() + SOON;
        loop {
            let (request, key) = bootstrap_request(workload, &secret);
            match plane.sign(request).await {
                Ok(reply) => {
                    return Self {
                        workload: workload.to_owned(),
                        svid: svid(&reply, key),
                        resources: BTreeMap::new(),
                        version: 0,
                    };
                }
                // The announcement is on another stream and may come later.
                Err(answer) => {
                    assert!(tokio::time::Instant::now() < until, "{answer}");
                    assert!(
                        matches!(answer.code(), Code::Unauthenticated | Code::Unavailable),
                        "{answer}"
                    );
                    tokio::task::yield_now().await;
                }
            }
        }
    }

    pub(crate) fn hello(&self) -> Hello {
        let signed_at = now();
        let proof = Proof::sign(&self.svid, &hello_transcript(&self.workload, signed_at)).unwrap();
        Hello {
            workload: self.workload.clone(),
            proof: Some(possession(&proof)),
            signed_at,
            version: self.version,
            digests: self
                .resources
                .iter()
                .map(|(key, (_, digest))| (key.clone(), digest.clone()))
                .collect::<HashMap<_, _>>(),
            build: "test".to_owned(),
        }
    }

    pub(crate) async fn connect(&self, plane: &Plane) -> Session {
        Session::open(plane, self.hello()).await
    }

    /// Takes the next transaction and acknowledges it.
    pub(crate) async fn take(&mut self, session: &mut Session) -> Transaction {
        let transaction = session.next().await.unwrap();
        for upsert in &transaction.upserts {
            let body = String::from_utf8(upsert.body.to_vec()).unwrap();
            self.resources
                .insert(upsert.key.clone(), (body, upsert.digest.clone()));
        }
        for key in &transaction.removals {
            self.resources.remove(key);
        }
        self.version = transaction.version;
        session.ack(transaction.version).await;
        transaction
    }

    /// Takes transactions until `what` holds of what the proxy has.
    pub(crate) async fn take_until(&mut self, session: &mut Session, what: impl Fn(&Self) -> bool) {
        while !what(self) {
            self.take(session).await;
        }
    }

    pub(crate) fn body(&self, key: &str) -> &str {
        self.resources.get(key).map_or("", |(body, _)| body)
    }
}

impl Session {
    pub(crate) async fn open(plane: &Plane, hello: Hello) -> Self {
        let (messages, stream) = mpsc::channel(16);
        let first = ProxyMessage {
            kind: Some(proxy_message::Kind::Hello(hello)),
        };
        messages.send(first).await.unwrap();
        let transactions = MeshClient::new(plane.channel.clone())
            .max_decoding_message_size(64 * 1024 * 1024)
            .connect(ReceiverStream::new(stream))
            .await
            .unwrap()
            .into_inner();
        Self {
            messages,
            transactions,
        }
    }

    pub(crate) async fn next(&mut self) -> Result<Transaction, Answer> {
        let next = tokio::time::timeout(SOON, self.transactions.message())
            .await
            .unwrap()?;
        Ok(next.unwrap_or_else(|| panic!("the stream has ended")))
    }

    /// The code of the error that the stream ends with.
    pub(crate) async fn refused(&mut self) -> Code {
        match self.next().await {
            Ok(transaction) => panic!("told: {transaction:?}"),
            Err(answer) => answer.code(),
        }
    }

    pub(crate) async fn ack(&self, version: u64) {
        self.send(proxy_message::Kind::Ack(Ack { version })).await;
    }

    pub(crate) async fn nack(&self, version: u64, reason: &str) {
        let reason = reason.to_owned();
        self.send(proxy_message::Kind::Nack(Nack { version, reason }))
            .await;
    }

    /// Says something else.
    pub(crate) async fn say(&self, message: ProxyMessage) {
        self.messages.send(message).await.unwrap();
    }

    async fn send(&self, kind: proxy_message::Kind) {
        let _ = self.messages.send(ProxyMessage { kind: Some(kind) }).await;
    }
}

/// A mesh with both workloads running and ready.
pub(crate) async fn running(place: &Place) -> (Plane, Node, Vec<PodReport>) {
    let plane = place.start();
    let mut node = Node::connect(&plane, &[]).await;
    let (_, plan) = node.order().await.unwrap();
    let pods: Vec<_> = plan
        .values()
        .zip(2..)
        .map(|(spec, last)| report(spec, last, true))
        .collect();
    for pod in &pods {
        node.pod(pod).await;
    }
    let ready = |status: &Status| status.workloads.iter().filter(|workload| workload.ready).count() == 2;
    plane.status_when("both workloads are ready", ready).await;
    (plane, node, pods)
}
