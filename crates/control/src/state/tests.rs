//! The law of the sessions: whatever happens in whatever order, a proxy that has answered everything holds what it should.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::time::SystemTime;

use bartizan_config::SourceFile;
use bartizan_mesh::{PathRule, Profile};
use bartizan_types::{PodPhase, TrustDomain};
use proptest::prelude::*;

use super::*;
use crate::options::settings;

/// One thing that happens.
#[derive(Clone, Debug)]
enum Step {
    /// Documents: replicas of the one deployment, port of the service, method of the policy (none: no policy).
    Save {
        replicas: u8,
        port: u8,
        method: Option<u8>,
    },
    /// Documents that are refused.
    SaveBroken,
    Report {
        pod: u8,
        ready: bool,
    },
    Gone {
        pod: u8,
    },
    /// The proxy of a pod connects with what it has.
    Connect {
        pod: u8,
    },
    /// It takes what was sent, applies it or not, and answers.
    Answer {
        pod: u8,
        refuse: bool,
    },
    /// Messages so far become a version.
    Publish,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        3 => (0..4u8, 0..3u8, prop::option::of(0..3u8))
            .prop_map(|(replicas, port, method)| Step::Save { replicas, port, method }),
        1 => Just(Step::SaveBroken),
        3 => (0..5u8, any::<bool>()).prop_map(|(pod, ready)| Step::Report { pod, ready }),
        1 => (0..5u8).prop_map(|pod| Step::Gone { pod }),
        4 => (0..5u8).prop_map(|pod| Step::Connect { pod }),
        6 => (0..5u8, prop::bool::weighted(0.2)).prop_map(|(pod, refuse)| Step::Answer { pod, refuse }),
        4 => Just(Step::Publish),
    ];
    prop::collection::vec(step, 1..60)
}

fn documents(replicas: u8, port: u8, method: Option<u8>) -> String {
    let mut text = format!(
        "
apiVersion: v1
kind: Namespace
metadata: {{ name: shop }}
---
apiVersion: apps/v1
kind: Deployment
metadata: {{ name: cart, namespace: shop }}
spec:
  replicas: {replicas}
  selector: {{ matchLabels: {{ app: cart }} }}
  template:
    metadata: {{ labels: {{ app: cart }} }}
    spec:
      containers: [{{ name: app, command: [cart] }}]
---
apiVersion: v1
kind: Service
metadata: {{ name: cart, namespace: shop }}
spec:
  selector: {{ app: cart }}
  ports: [{{ name: http, port: {} }}]
",
        80 + u16::from(port)
    );
    if let Some(method) = method {
        let _ = write!(
            text,
            "---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {{ name: cart, namespace: shop }}
spec:
  rules: [{{ to: [{{ operation: {{ methods: [M{method}] }} }}] }}]
"
        );
    }
    text
}

fn scan(text: String) -> Scan {
    Scan {
        base: PathBuf::from("/mesh"),
        files: vec![SourceFile::new("mesh.yaml", text)],
        findings: Vec::new(),
    }
}

/// A pod's proxy, played by the test.
#[derive(Default)]
struct Proxy {
    resources: BTreeMap<String, (Bytes, String)>,
    version: u64,
    session: Option<Opened>,
    opening: Option<oneshot::Receiver<Result<Opened, HelloRefused>>>,
}

struct Play {
    owner: Owner,
    proxies: BTreeMap<u8, Proxy>,
    _state: tempfile::TempDir,
}

fn pod_name(pod: u8) -> NamespacedName {
    NamespacedName::parse(&format!("shop/cart-{pod}")).unwrap()
}

impl Play {
    fn new() -> Self {
        let state = tempfile::tempdir().unwrap();
        let domain = TrustDomain::parse("cluster.local").unwrap();
        let setup = Setup {
            compile: CompileOptions::new(settings(Profile::zero_trust(), PathRule::RefuseAmbiguous, domain)),
            strict: false,
            versions: VersionStore::open(state.path()).unwrap(),
            keys: KeyStore::open(state.path(), crate::keys::KeyTimes::default(), 0).unwrap(),
            now: || SystemTime::UNIX_EPOCH,
        };
        let (mut owner, _, _) = Owner::new(setup, scan(documents(2, 0, None)));
        owner.take(Message::NodeHello(NodeHello {
            connection: 1,
            node: "test".to_owned(),
            pods: Vec::new(),
            vouches: Vec::new(),
        }));
        owner.publish();
        Self {
            owner,
            proxies: BTreeMap::new(),
            _state: state,
        }
    }

    fn step(&mut self, step: &Step) {
        match *step {
            Step::Save {
                replicas,
                port,
                method,
            } => {
                let scan = scan(documents(replicas, port, method));
                self.owner.take(Message::Scanned(Box::new(scan)));
            }
            Step::SaveBroken => {
                self.owner
                    .take(Message::Scanned(Box::new(scan("kind: [".to_owned()))));
            }
            Step::Report { pod, ready } => {
                let name = pod_name(pod);
                let running = self.owner.pods.get(&name).map(|report| report.spec.clone());
                let planned = || self.owner.world.plan().into_iter().find(|spec| spec.name == name);
                let Some(spec) = running.or_else(planned) else {
                    return;
                };
                let report = PodReport {
                    spec,
                    address: IpAddr::V4(Ipv4Addr::new(10, 66, 0, 10 + pod)),
                    phase: PodPhase::Running,
                    ready,
                    message: None,
                    containers: Vec::new(),
                    proxy_restarts: 0,
                    udp_dropped: 0,
                };
                self.owner.take(Message::Pod(Box::new(report)));
            }
            Step::Gone { pod } => {
                self.owner.take(Message::Gone(pod_name(pod)));
            }
            Step::Connect { pod } => self.connect(pod),
            Step::Answer { pod, refuse } => {
                self.answer(pod, refuse);
            }
            Step::Publish => self.publish(),
        }
    }

    fn publish(&mut self) {
        self.owner.publish();
        for proxy in self.proxies.values_mut() {
            if let Some(opening) = &mut proxy.opening {
                match opening.try_recv() {
                    Ok(opened) => {
                        proxy.session = opened.ok();
                        proxy.opening = None;
                    }
                    Err(oneshot::error::TryRecvError::Empty) => {}
                    Err(oneshot::error::TryRecvError::Closed) => proxy.opening = None,
                }
            }
        }
    }

    fn connect(&mut self, pod: u8) {
        let name = pod_name(pod);
        let Some(identity) = self.owner.identity_of(&name) else {
            return;
        };
        let proxy = self.proxies.entry(pod).or_default();
        let (reply, opening) = oneshot::channel();
        proxy.session = None;
        proxy.opening = Some(opening);
        let digests: HashMap<_, _> = proxy
            .resources
            .iter()
            .map(|(key, (_, digest))| (key.clone(), digest.clone()))
            .collect();
        self.owner.take(Message::Open(Box::new(Opening {
            workload: name,
            identity,
            version: Version(proxy.version),
            digests,
            build: String::new(),
            reply,
        })));
    }

    /// Whether there was something to answer.
    fn answer(&mut self, pod: u8, refuse: bool) -> bool {
        let Some(proxy) = self.proxies.get_mut(&pod) else {
            return false;
        };
        let Some(session) = &mut proxy.session else {
            return false;
        };
        let transaction = match session.transactions.try_recv() {
            Ok(transaction) => transaction,
            Err(mpsc::error::TryRecvError::Empty) => return false,
            Err(mpsc::error::TryRecvError::Disconnected) => {
                proxy.session = None;
                return false;
            }
        };
        assert!(transaction.version >= proxy.version, "versions never go back");
        if !refuse {
            for key in &transaction.removals {
                proxy.resources.remove(key);
            }
            for upsert in transaction.upserts {
                proxy.resources.insert(upsert.key, (upsert.body, upsert.digest));
            }
            proxy.version = transaction.version;
        }
        self.owner.take(Message::Answer {
            session: session.session,
            version: Version(transaction.version),
            refused: refuse.then(|| "no".to_owned()),
        });
        true
    }

    /// Everybody connects (again where the session has ended) and answers everything; then everybody holds the dump.
    fn settle(&mut self) {
        self.publish();
        let pods: Vec<u8> = self.proxies.keys().copied().collect();
        for pod in &pods {
            while self.answer(*pod, false) {
                self.publish();
            }
            if self.proxies.get(pod).is_some_and(|proxy| proxy.session.is_none()) {
                self.connect(*pod);
                self.publish();
            }
        }
        // A proxy that has refused is sent again what it lacks with the next change: make one.
        self.step(&Step::Save {
            replicas: 3,
            port: 9,
            method: Some(9),
        });
        self.publish();
        for pod in &pods {
            while self.answer(*pod, false) {
                self.publish();
            }
        }
        for (pod, proxy) in &self.proxies {
            let Some(told) = self.owner.dump(Some(&pod_name(*pod))) else {
                continue;
            };
            if proxy.session.is_none() {
                continue; // its pod has gone and come in between: it would connect again
            }
            let told: BTreeMap<_, _> = told
                .resources
                .into_iter()
                .map(|upsert| (upsert.key, (upsert.body, upsert.digest)))
                .collect();
            assert_eq!(proxy.resources, told, "pod {pod}");
            assert_eq!(
                Version(proxy.version),
                self.owner.numbering.version(),
                "pod {pod}"
            );
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn a_proxy_that_has_answered_everything_holds_what_it_is_told(steps in steps()) {
        let mut play = Play::new();
        for step in &steps {
            play.step(step);
        }
        play.settle();
    }
}

#[test]
fn the_play_reaches_open_sessions() {
    let mut play = Play::new();
    for step in [
        Step::Report { pod: 0, ready: true },
        Step::Publish,
        Step::Connect { pod: 0 },
        Step::Publish,
        Step::Answer { pod: 0, refuse: true },
        Step::Save {
            replicas: 1,
            port: 1,
            method: Some(1),
        },
        Step::Publish,
    ] {
        play.step(&step);
    }
    play.settle();
    let proxy = &play.proxies[&0];
    assert!(proxy.session.is_some() && proxy.resources.contains_key("policy/shop/cart"));
}
