//! One pod's life: made, its proxy first, then its containers, told to end, gone.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use bartizan_types::{ContainerReport, PodPhase, PodReport, PodRole, PodSpec, RestartPolicy, VolumeSource};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::Shared;
use super::container::{self, Over, Place};
use super::proxy::{self, Kept};
use crate::{Volume, VolumeContent, VolumeFile};

/// A pod that cannot be made is tried again after this.
const MAKE_AGAIN: Duration = Duration::from_secs(1);
/// From "takes no new requests" to the first signal, so that every balancer has heard of it and its callers move on.
const SETTLE: Duration = Duration::from_millis(300);
/// A proxy that ended and serves again within this time was not missed: its listening sockets are kept, so that whoever
/// connects meanwhile waits for the successor. Taking the pod out of its services would fail what only has to wait.
const PROXY_AWAY: Duration = Duration::from_secs(1);
/// Between two looks at a pod's counters.
const COUNT_EVERY: Duration = Duration::from_secs(2);

enum Change {
    Proxy(proxy::Change),
    Container(usize, container::Change),
    /// Init containers are through, the others start.
    Running,
    UdpDropped(u64),
}

/// Lives a pod's life until `ended` turns true; what is left of it in the sandbox is the caller's to remove.
pub(super) async fn live(
    shared: &Shared,
    spec: PodSpec,
    address: Ipv4Addr,
    mut ended: watch::Receiver<bool>,
) {
    let mut face = Face::new(spec.clone(), address);
    shared.publisher.report(face.report.clone());
    let kept = loop {
        match make(shared, &spec, address).await {
            Ok(kept) => break kept,
            Err(error) => {
                tracing::warn!(pod = %spec.name, %error, "make a pod");
                face.report.message = Some(error.to_string());
                shared.publisher.report(face.report.clone());
                shared.sandbox.delete_pod(&spec.name.to_string()).await.ok();
            }
        }
        tokio::select! {
            () = tokio::time::sleep(MAKE_AGAIN) => {}
            _ = ended.wait_for(|ended| *ended) => return,
        }
    };
    kept.note_addresses(&mut face.report.spec.role);
    let (changes, mut changed) = mpsc::unbounded_channel();
    let (stop_containers, containers_stopped) = watch::channel(false);
    let (stop_proxy, proxy_stopped) = watch::channel(false);
    let (proxy_ready, mut proxy_is_ready) = watch::channel(false);

    let said = changes.clone();
    let proxy = proxy::keep(shared, &spec, address, &kept, proxy_stopped, move |change| {
        if let proxy::Change::Ready(true) = change {
            proxy_ready.send_replace(true);
        }
        said.send(Change::Proxy(change)).ok();
    });
    let containers = async {
        let mut stopped = containers_stopped.clone();
        tokio::select! {
            _ = proxy_is_ready.wait_for(|ready| *ready) => {}
            _ = stopped.wait_for(|stop| *stop) => return Over::Stopped,
        }
        run_containers(shared, &spec, address, &containers_stopped, &changes).await
    };
    let counters = count(shared, &spec, &changes);
    tokio::pin!(proxy, containers, counters);

    let mut containers_over = false;
    loop {
        tokio::select! {
            biased;
            Some(change) = changed.recv() => {
                face.take(change);
                shared.publisher.report(face.report.clone());
            }
            _ = ended.wait_for(|ended| *ended) => break,
            over = &mut containers, if !containers_over => {
                containers_over = true;
                face.over(over);
                shared.publisher.report(face.report.clone());
            }
            () = &mut proxy => {}
            () = &mut counters => {}
            () = missed(face.proxy_away) => {
                face.proxy_missed();
                shared.publisher.report(face.report.clone());
            }
        }
    }

    face.report.phase = PodPhase::Terminating;
    face.refresh();
    shared.publisher.report(face.report.clone());
    kept.ask("POST", "/drain").await.ok();
    let ending = async {
        tokio::time::sleep(SETTLE).await;
        stop_containers.send_replace(true);
        if !containers_over {
            containers.await;
        }
        stop_proxy.send_replace(true);
        std::future::pending::<()>().await;
    };
    tokio::pin!(ending);
    loop {
        tokio::select! {
            Some(change) = changed.recv() => {
                face.take(change);
                shared.publisher.report(face.report.clone());
            }
            () = &mut proxy => return,
            () = &mut ending => {}
        }
    }
}

/// The files of a plan's volume, as the sandbox takes them.
pub(super) fn files(planned: &[bartizan_types::VolumeFile]) -> Vec<VolumeFile> {
    planned
        .iter()
        .map(|file| VolumeFile {
            path: file.path.clone(),
            mode: file.mode,
            content: file.content.clone(),
        })
        .collect()
}

async fn make(shared: &Shared, spec: &PodSpec, address: Ipv4Addr) -> Result<Kept, crate::SandboxError> {
    let volumes = spec
        .volumes
        .iter()
        .map(|volume| Volume {
            name: volume.name.as_str().to_owned(),
            content: match &volume.source {
                VolumeSource::Empty => VolumeContent::Empty { size_bytes: None },
                VolumeSource::Files(planned) => VolumeContent::Files(files(planned)),
            },
        })
        .collect();
    let full = spec.subdomain.as_ref().map(|subdomain| {
        let (hostname, namespace) = (&spec.hostname, &spec.name.namespace);
        format!("{hostname}.{subdomain}.{namespace}.svc.cluster.local")
    });
    let pod = crate::PodSpec {
        name: spec.name.to_string(),
        address,
        hostname: spec.hostname.clone(),
        resolv_conf: crate::resolv_conf(spec.name.namespace.as_str()),
        hosts: crate::hosts(address, &spec.hostname, full.as_deref()),
        volumes,
    };
    let sockets = shared.sandbox.create_pod(pod).await?;
    Kept::new(shared, spec, sockets)
}

/// Init containers one after the other, then all the others at once.
async fn run_containers(
    shared: &Shared,
    spec: &PodSpec,
    address: Ipv4Addr,
    stop: &watch::Receiver<bool>,
    changes: &mpsc::UnboundedSender<Change>,
) -> Over {
    let place = |container| Place {
        pod: spec,
        pod_key: spec.name.to_string(),
        address,
        container,
    };
    let say = |index: usize| {
        let changes = changes.clone();
        move |change| {
            changes.send(Change::Container(index, change)).ok();
        }
    };
    for (index, container) in spec.init_containers.iter().enumerate() {
        let restart = match spec.restart {
            RestartPolicy::Always | RestartPolicy::OnFailure => RestartPolicy::OnFailure,
            RestartPolicy::Never => RestartPolicy::Never,
        };
        match container::keep(shared, &place(container), restart, stop.clone(), say(index)).await {
            Over::Succeeded => {}
            over @ (Over::Failed | Over::Stopped) => return over,
        }
    }
    changes.send(Change::Running).ok();
    if spec.role != PodRole::Application {
        stop.clone().wait_for(|stop| *stop).await.ok();
        return Over::Stopped;
    }
    let places: Vec<Place<'_>> = spec.containers.iter().map(place).collect();
    let first = spec.init_containers.len();
    let all = places
        .iter()
        .enumerate()
        .map(|(index, place)| container::keep(shared, place, spec.restart, stop.clone(), say(first + index)));
    let mut whole = Over::Succeeded;
    for over in super::join::all(all.map(Box::pin).collect()).await {
        whole = match (whole, over) {
            (Over::Stopped, _) | (_, Over::Stopped) => Over::Stopped,
            (Over::Failed, _) | (_, Over::Failed) => Over::Failed,
            (Over::Succeeded, Over::Succeeded) => Over::Succeeded,
        };
    }
    whole
}

/// Ends when a proxy that is away has been away for too long.
async fn missed(away: Option<Instant>) {
    match away {
        Some(since) => tokio::time::sleep_until(since + PROXY_AWAY).await,
        None => std::future::pending().await,
    }
}

/// Says how many packets of the pod were dropped; never returns.
async fn count(shared: &Shared, spec: &PodSpec, changes: &mpsc::UnboundedSender<Change>) {
    loop {
        tokio::time::sleep(COUNT_EVERY).await;
        if let Ok(counters) = shared.sandbox.pod_counters(&spec.name.to_string()).await {
            changes.send(Change::UdpDropped(counters.udp_out)).ok();
        }
    }
}

/// The pod as others see it.
struct Face {
    report: PodReport,
    proxy_ready: bool,
    /// Since when a proxy that served is gone.
    proxy_away: Option<Instant>,
    first_container: usize,
}

impl Face {
    fn new(spec: PodSpec, address: Ipv4Addr) -> Self {
        let containers = spec
            .init_containers
            .iter()
            .chain(&spec.containers)
            .map(|container| ContainerReport {
                name: container.name.clone(),
                running: false,
                ready: false,
                restarts: 0,
                last_end: None,
            })
            .collect();
        Self {
            proxy_ready: false,
            proxy_away: None,
            first_container: spec.init_containers.len(),
            report: PodReport {
                spec,
                address: IpAddr::V4(address),
                phase: PodPhase::Pending,
                ready: false,
                message: None,
                containers,
                proxy_restarts: 0,
                udp_dropped: 0,
            },
        }
    }

    fn take(&mut self, change: Change) {
        match change {
            Change::Proxy(proxy::Change::Started) => {}
            Change::Proxy(proxy::Change::Ready(ready)) => {
                self.proxy_ready = ready;
                self.proxy_away = None;
            }
            Change::Proxy(proxy::Change::Ended(how)) => {
                if self.proxy_ready {
                    self.proxy_away.get_or_insert_with(Instant::now);
                }
                self.report.proxy_restarts += 1;
                self.report.message = Some(format!("proxy: {how}"));
            }
            Change::Container(index, change) => {
                if let Some(container) = self.report.containers.get_mut(index) {
                    match change {
                        container::Change::Started => container.running = true,
                        container::Change::Ready(ready) => container.ready = ready,
                        container::Change::Ended { how, again } => {
                            container.running = false;
                            container.ready = false;
                            container.last_end = Some(how);
                            container.restarts += u32::from(again);
                        }
                        container::Change::Message(message) => self.report.message = message,
                    }
                }
            }
            Change::Running => {
                if self.report.phase == PodPhase::Pending {
                    self.report.phase = PodPhase::Running;
                }
            }
            Change::UdpDropped(count) => self.report.udp_dropped = count,
        }
        self.refresh();
    }

    fn proxy_missed(&mut self) {
        self.proxy_ready = false;
        self.proxy_away = None;
        self.refresh();
    }

    fn over(&mut self, over: Over) {
        match over {
            Over::Succeeded => self.report.phase = PodPhase::Succeeded,
            Over::Failed => self.report.phase = PodPhase::Failed,
            Over::Stopped => {}
        }
        self.refresh();
    }

    fn refresh(&mut self) {
        let containers = self
            .report
            .containers
            .get(self.first_container..)
            .unwrap_or_default();
        self.report.ready = self.report.phase == PodPhase::Running
            && self.proxy_ready
            && containers
                .iter()
                .all(|container| container.running && container.ready);
        if self.report.ready {
            self.report.message = None;
        }
    }
}
