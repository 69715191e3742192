//! Keeps the pods of one machine as the plan says: makes them, starts and restarts what runs in them, asks their probes,
//! ends them with grace, and says how they are.
//!
//! The plan comes from the control plane and may stay away for any time: what runs goes on running. Each pod has a task of
//! its own that owns everything of it; the state that all of them publish together is one value that readers watch.

mod addresses;
mod back_off;
mod container;
mod declared;
mod environment;
mod exits;
mod join;
mod logs;
mod pod;
mod probe;
mod proxy;
mod state;

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bartizan_types::{NamespacedName, PodSpec, VolumeSource};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;

pub use environment::expand;
pub use logs::{CONTAINER_LOG_SUFFIX, container_log};
pub use state::{State, Vouch};

use crate::{Event, ExitStatus, Sandbox, SandboxError};
use addresses::Addresses;
use declared::Declared;
use exits::Exits;
use state::Publisher;

/// More orders than this wait in the sender.
const MOST_WAITING_ORDERS: usize = 64;

/// What a supervisor needs to know of its surroundings.
pub struct SupervisorOptions {
    /// Where each proxy's own socket is made.
    pub run_directory: PathBuf,
    /// `NAMESPACE/POD/CONTAINER.log` and the proxies' logs are written below it.
    pub log_directory: PathBuf,
    /// The proxy's arguments, its name first.
    pub proxy_arguments: Vec<String>,
    /// The proxy's environment.
    pub proxy_environment: Vec<(String, String)>,
    /// Makes what a proxy reads from its first descriptor.
    pub bootstrap: Bootstrap,
    /// How long a proxy may take to finish what is open when it is told to end.
    pub drain: Duration,
}

/// Makes what a proxy reads from its first descriptor; the proxy's room has the form.
pub type Bootstrap = Box<dyn Fn(&ProxyStart<'_>) -> Vec<u8> + Send + Sync>;

/// The facts of one start of a proxy.
#[derive(Debug)]
pub struct ProxyStart<'a> {
    /// The pod that it serves.
    pub pod: &'a PodSpec,
    /// The pod's address.
    pub address: Ipv4Addr,
    /// Its own socket.
    pub admin_socket: PathBuf,
    /// The one-time secret; `None` when the credentials' file holds what a predecessor had.
    pub bootstrap_secret: Option<&'a [u8]>,
    /// The numbers of the descriptors that it inherits.
    pub descriptors: Descriptors,
}

/// Descriptor numbers in a proxy.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Descriptors {
    /// What [`SupervisorOptions::bootstrap`] made.
    pub bootstrap: i32,
    /// TCP, captured outbound connections.
    pub outbound: i32,
    /// TCP, captured inbound connections.
    pub inbound: i32,
    /// UDP, name service.
    pub dns_udp: i32,
    /// TCP, name service.
    pub dns_tcp: i32,
    /// A memory file that outlives the proxy: key, SVID and bundle for its successor.
    pub credentials: i32,
    /// A gateway's listeners on the host: the `Gateway`'s port, the number.
    pub gateway: Vec<(u16, i32)>,
}

/// One more process in a running pod.
#[derive(Debug)]
pub struct Execution {
    /// The pod.
    pub pod: NamespacedName,
    /// The container; the first one when absent.
    pub container: Option<String>,
    /// Program and arguments.
    pub command: Vec<String>,
    /// Variables in addition to the container's own.
    pub environment: Vec<(String, String)>,
    /// Its standard input, output and error output.
    pub streams: [OwnedFd; 3],
    /// Whether standard input is a terminal that it shall control.
    pub terminal: bool,
}

/// A started [`Execution`].
#[derive(Debug)]
pub struct Running {
    /// Ends with how the process ended.
    pub ended: oneshot::Receiver<ExitStatus>,
    /// Signals for it.
    pub signals: mpsc::Sender<i32>,
}

enum Order {
    Plan(Vec<PodSpec>),
    Extra(Box<PodSpec>, oneshot::Sender<Result<(), SandboxError>>),
    EndExtra(NamespacedName),
    Execute(Execution, oneshot::Sender<Result<Running, SandboxError>>),
    End,
}

/// The handle to the supervising task; cheap to clone.
#[derive(Clone, Debug)]
pub struct Supervisor {
    orders: mpsc::Sender<Order>,
    state: watch::Receiver<Arc<State>>,
}

impl std::fmt::Debug for Order {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Plan(_) => "Plan",
            Self::Extra(..) => "Extra",
            Self::EndExtra(_) => "EndExtra",
            Self::Execute(..) => "Execute",
            Self::End => "End",
        })
    }
}

impl Supervisor {
    /// Starts supervising in `sandbox`. The returned future must be driven; it ends after [`Supervisor::end`], when every
    /// pod is gone, or with an error when the sandbox itself died.
    pub fn start(
        sandbox: Sandbox,
        events: mpsc::UnboundedReceiver<Event>,
        options: SupervisorOptions,
    ) -> (Self, impl Future<Output = Result<(), SandboxError>> + Send) {
        let (orders, received) = mpsc::channel(MOST_WAITING_ORDERS);
        let (publisher, state) = Publisher::new();
        let task = Task {
            shared: Arc::new(Shared {
                sandbox,
                exits: Exits::default(),
                declared: Declared::default(),
                publisher,
                options,
            }),
            addresses: Addresses::default(),
            pods: BTreeMap::new(),
            lives: JoinSet::new(),
            executions: JoinSet::new(),
            planned: BTreeMap::new(),
            ending: false,
        };
        (Self { orders, state }, task.run(received, events))
    }

    /// What should run; whatever is not in it is ended. Pods that were started with [`Supervisor::run_extra`] stay.
    pub async fn plan(&self, pods: Vec<PodSpec>) {
        self.orders.send(Order::Plan(pods)).await.ok();
    }

    /// Runs one more pod that no plan knows of, until [`Supervisor::end_extra`].
    ///
    /// # Errors
    /// When a pod of this name runs already, or the supervisor is ending.
    pub async fn run_extra(&self, pod: PodSpec) -> Result<(), SandboxError> {
        let (reply, answer) = oneshot::channel();
        self.orders.send(Order::Extra(Box::new(pod), reply)).await.ok();
        answer.await.unwrap_or_else(|_| Err(ending()))
    }

    /// Ends a pod that was started with [`Supervisor::run_extra`].
    pub async fn end_extra(&self, pod: NamespacedName) {
        self.orders.send(Order::EndExtra(pod)).await.ok();
    }

    /// Starts one more process in a container.
    ///
    /// # Errors
    /// When there is no such pod or container, or the process cannot be started.
    pub async fn execute(&self, execution: Execution) -> Result<Running, SandboxError> {
        let (reply, answer) = oneshot::channel();
        self.orders.send(Order::Execute(execution, reply)).await.ok();
        answer.await.unwrap_or_else(|_| Err(ending()))
    }

    /// Ends every pod with its grace.
    pub async fn end(&self) {
        self.orders.send(Order::End).await.ok();
    }

    /// All pods as they are now, and the secrets of proxies that have not used theirs.
    pub fn state(&self) -> watch::Receiver<Arc<State>> {
        self.state.clone()
    }
}

fn ending() -> SandboxError {
    SandboxError::Refused("the mesh is ending".to_owned())
}

/// What every pod's task uses.
pub(crate) struct Shared {
    sandbox: Sandbox,
    exits: Exits,
    publisher: Publisher,
    declared: Declared,
    options: SupervisorOptions,
}

struct Task {
    shared: Arc<Shared>,
    addresses: Addresses,
    pods: BTreeMap<NamespacedName, Held>,
    lives: JoinSet<()>,
    executions: JoinSet<()>,
    planned: BTreeMap<NamespacedName, PodSpec>,
    ending: bool,
}

/// A pod that has a task.
struct Held {
    spec: PodSpec,
    address: Ipv4Addr,
    end: watch::Sender<bool>,
    task: tokio::task::Id,
    /// Not of the plan, and not ended by it.
    extra: bool,
}

impl Task {
    async fn run(
        mut self,
        mut orders: mpsc::Receiver<Order>,
        mut events: mpsc::UnboundedReceiver<Event>,
    ) -> Result<(), SandboxError> {
        loop {
            if self.ending && self.pods.is_empty() {
                self.executions.shutdown().await;
                return Ok(());
            }
            tokio::select! {
                event = events.recv() => match event {
                    Some(Event::Exited { process, status }) => self.shared.exits.ended(process, status),
                    Some(Event::Ended) | None => {
                        self.lives.shutdown().await;
                        self.executions.shutdown().await;
                        return Err(SandboxError::Refused("the sandbox's first process was killed".to_owned()));
                    }
                },
                Some(finished) = self.lives.join_next_with_id(), if !self.lives.is_empty() => {
                    let task = match finished {
                        Ok((task, ())) => task,
                        Err(error) => {
                            tracing::error!(%error, "a pod's task broke");
                            error.id()
                        }
                    };
                    self.gone(task).await;
                }
                Some(_) = self.executions.join_next(), if !self.executions.is_empty() => {}
                order = orders.recv() => {
                    let order = order.unwrap_or(Order::End);
                    let is_plan = matches!(order, Order::Plan(_));
                    self.carry_out(order);
                    if is_plan {
                        self.refresh_volumes().await;
                    }
                }
            }
        }
    }

    fn carry_out(&mut self, order: Order) {
        match order {
            Order::Plan(pods) => {
                self.planned = pods.into_iter().map(|pod| (pod.name.clone(), pod)).collect();
                self.reconcile();
            }
            Order::Extra(pod, reply) => {
                let result = if self.ending {
                    Err(ending())
                } else if self.pods.contains_key(&pod.name) {
                    Err(SandboxError::Refused(format!("pod `{}` runs already", pod.name)))
                } else {
                    self.start(*pod, true);
                    Ok(())
                };
                reply.send(result).ok();
            }
            Order::EndExtra(name) => {
                if let Some(held) = self.pods.get(&name).filter(|held| held.extra) {
                    held.end.send_replace(true);
                }
            }
            Order::Execute(execution, reply) => match self.pods.get(&execution.pod) {
                Some(held) => {
                    let (shared, spec, address) = (Arc::clone(&self.shared), held.spec.clone(), held.address);
                    self.executions.spawn(async move {
                        container::execute(&shared, &spec, address, execution, reply).await;
                    });
                }
                None => {
                    let missing = SandboxError::Refused(format!("no pod `{}` runs", execution.pod));
                    reply.send(Err(missing)).ok();
                }
            },
            Order::End => {
                self.ending = true;
                self.planned.clear();
                for held in self.pods.values() {
                    held.end.send_replace(true);
                }
            }
        }
    }

    /// Ends what the plan does not have any more or has otherwise, and starts what is new.
    fn reconcile(&mut self) {
        if self.ending {
            return;
        }
        for (name, held) in self.pods.iter().filter(|(_, held)| !held.extra) {
            let same = self.planned.get(name).is_some_and(|planned| {
                planned.template_hash == held.spec.template_hash && planned.identity == held.spec.identity
            });
            if !same {
                held.end.send_replace(true);
            }
        }
        let new: Vec<PodSpec> = self
            .planned
            .values()
            .filter(|planned| !self.pods.contains_key(&planned.name))
            .cloned()
            .collect();
        for pod in new {
            self.start(pod, false);
        }
    }

    /// Gives pods that stay the files that the plan has for them now. Where that does not work the pod is replaced.
    async fn refresh_volumes(&mut self) {
        for (name, held) in &mut self.pods {
            let Some(planned) = self.planned.get(name).filter(|planned| {
                !held.extra
                    && planned.template_hash == held.spec.template_hash
                    && planned.volumes != held.spec.volumes
            }) else {
                continue;
            };
            let mut written = Ok(());
            for volume in planned
                .volumes
                .iter()
                .filter(|volume| !held.spec.volumes.contains(volume))
            {
                if let VolumeSource::Files(files) = &volume.source {
                    let files = pod::files(files);
                    let (pod, volume) = (name.to_string(), volume.name.as_str());
                    written = written.and(self.shared.sandbox.write_volume(&pod, volume, files).await);
                }
            }
            match written {
                Ok(()) => held.spec.volumes.clone_from(&planned.volumes),
                Err(error) => {
                    tracing::warn!(pod = %name, %error, "change the files of a volume; the pod is replaced");
                    held.end.send_replace(true);
                }
            }
        }
    }

    fn start(&mut self, spec: PodSpec, extra: bool) {
        let Some(address) = self.addresses.take() else {
            tracing::error!(pod = %spec.name, "no address is left in 10.66.0.0/16");
            return;
        };
        let (end, ended) = watch::channel(false);
        let (shared, life) = (Arc::clone(&self.shared), spec.clone());
        let task = self
            .lives
            .spawn(async move { pod::live(&shared, life, address, ended).await })
            .id();
        let held = Held {
            spec,
            address,
            end,
            task,
            extra,
        };
        self.pods.insert(held.spec.name.clone(), held);
    }

    /// A pod's task has ended, well or not: nothing of the pod may stay, and what the plan wants in its place can start.
    async fn gone(&mut self, task: tokio::task::Id) {
        let Some(name) = self
            .pods
            .iter()
            .find_map(|(name, held)| (held.task == task).then(|| name.clone()))
        else {
            return;
        };
        if let Err(error) = self.shared.sandbox.delete_pod(&name.to_string()).await {
            tracing::warn!(pod = %name, %error, "remove the pod");
        }
        self.shared.publisher.remove(&name);
        if let Some(held) = self.pods.remove(&name) {
            self.addresses.give_back(held.address);
        }
        self.reconcile();
    }
}
