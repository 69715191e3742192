//! Pods: a network of their own with its rules and sockets, and a first process that holds their other namespaces.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::PathBuf;

use nix::fcntl::OFlag;
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrIn, bind, connect, listen, setsockopt, socket,
    sockopt,
};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, pipe2, sethostname};

use super::{Init, launch, volume};
use crate::netlink::Links;
use crate::nft;
use crate::probe::{Ability, Problem, problem};
use crate::spec::{
    DNS_PORT, INBOUND_PORT, MARK, OUTBOUND_PORT, PodCounters, PodSpec, Volume, VolumeContent, VolumeFile,
};
use crate::sys;

/// The pod's interface, inside.
const INTERFACE: &str = "eth0";

/// A pod as the sandbox's first process knows it.
pub(super) struct Pod {
    pub(super) spec: PodSpec,
    pub(super) network: OwnedFd,
    /// Its interface on the bridge.
    interface: String,
    /// Where its volumes lie.
    pub(super) directory: PathBuf,
    /// Its first process and namespaces, while it has applications.
    inside: Option<Inside>,
    pub(super) containers: HashMap<String, Container>,
    pub(super) proxies: Vec<Pid>,
}

/// What the containers of a pod share.
pub(super) struct Inside {
    first: Pid,
    pub(super) processes: OwnedFd,
    pub(super) hostname: OwnedFd,
    pub(super) messages: OwnedFd,
}

/// A running container.
pub(super) struct Container {
    pub(super) pid: Pid,
    pub(super) user: OwnedFd,
    /// The user and group that it shows.
    pub(super) ids: (u32, u32),
    pub(super) mounts: OwnedFd,
}

impl Pod {
    /// A process has ended and was collected; its number may be used again.
    pub(super) fn forget(&mut self, pid: Pid) {
        self.containers.retain(|_, container| container.pid != pid);
        self.proxies.retain(|proxy| *proxy != pid);
        if self.inside.as_ref().is_some_and(|inside| inside.first == pid) {
            self.inside = None;
        }
    }

    /// What its containers share, made now if it is not there.
    pub(super) fn inside(&mut self) -> Result<&Inside, String> {
        if self.inside.is_none() {
            let hostname = self.spec.hostname.clone();
            self.inside = Some(
                start_first(&hostname).map_err(|e| failed(&self.spec.name, "start its first process", &e))?,
            );
        }
        self.inside
            .as_ref()
            .ok_or_else(|| "a pod lost its first process".to_owned())
    }

    pub(super) fn existing(&self) -> Option<&Inside> {
        self.inside.as_ref()
    }
}

/// Makes a pod and returns its sockets: outbound, inbound, DNS over TCP, DNS over UDP.
pub(super) fn create(init: &mut Init<'_>, spec: PodSpec) -> Result<Vec<OwnedFd>, String> {
    if init.pods.contains_key(&spec.name) {
        return Err(format!("pod `{}` exists already", spec.name));
    }
    let octets = spec.address.octets();
    if octets.get(..2) != Some(&[10, 66]) || matches!(octets, [_, _, 0, 0 | 1] | [_, _, 255, 255]) {
        return Err(format!(
            "pod `{}` cannot have address {}: it is not one of 10.66.0.0/16's for pods",
            spec.name, spec.address
        ));
    }
    if let Some(other) = init.pods.values().find(|pod| pod.spec.address == spec.address) {
        return Err(format!(
            "pod `{}` cannot have address {}: pod `{}` has it",
            spec.name, spec.address, other.spec.name
        ));
    }
    let number = init.next_pod;
    init.next_pod += 1;
    let interface = format!("pod{number}");
    let name = spec.name.clone();
    let (network, sockets) =
        make_network(init, &interface, spec.address).map_err(|(what, error)| failed(&name, what, &error))?;
    let directory = init.scratch.join("pods").join(number.to_string());
    let mut pod = Pod {
        network,
        interface,
        directory,
        inside: None,
        containers: HashMap::new(),
        proxies: Vec::new(),
        spec,
    };
    let made = make_volumes(&pod).and_then(|()| pod.inside().map(|_| ()));
    init.pods.insert(name.clone(), pod);
    if let Err(text) = made {
        delete(init, &name)?;
        return Err(text);
    }
    Ok(sockets)
}

/// Makes and removes a pod at an address that no other has, to see whether this host can.
pub(super) fn prove(init: &mut Init<'_>) -> Result<(), Problem> {
    let address = Ipv4Addr::new(10, 66, 255, 254);
    let made = make_network(init, "probe", address).map_err(|(what, error)| {
        let ability = match what {
            RULES => Ability::Nftables,
            PAIR => Ability::Veth,
            _ => Ability::NetworkNamespace,
        };
        problem(ability, &error)
    })?;
    drop(made);
    // The interface goes with its namespace, but later than now.
    let removed = Links::open().and_then(|mut links| links.remove("probe"));
    removed.map_err(|error| problem(Ability::Veth, &error))?;
    let inside = start_first("probe").map_err(|error| problem(Ability::PidNamespace, &error))?;
    let nested = if init.direct {
        Ok(())
    } else {
        launch::prove_nested()
    };
    let _ = kill(inside.first, Signal::SIGKILL);
    let _ = waitpid(inside.first, None);
    nested.map_err(|error| problem(Ability::NestedUserNamespace, &error))
}

const PAIR: &str = "connect its network to the bridge";
const RULES: &str = "write its nftables rules";

type Made = (OwnedFd, Vec<OwnedFd>);

fn make_network(
    init: &Init<'_>,
    interface: &str,
    address: Ipv4Addr,
) -> Result<Made, (&'static str, io::Error)> {
    let step = |what: &'static str| move |error: io::Error| (what, error);
    let network = new_network().map_err(step("make its network"))?;
    // From here on this process stands in the pod's network; whatever happens it goes back.
    let result = (|| {
        enter(&init.network).map_err(step("go back to the mesh's network"))?;
        let [a, b, c, d] = address.octets();
        let hardware = [0x02, 0x42, a, b, c, d];
        Links::open()
            .and_then(|mut links| {
                links.add_pair(interface, init.bridge, INTERFACE, hardware, network.as_fd())
            })
            .map_err(step(PAIR))?;
        enter(&network).map_err(step("enter its network"))?;
        // The rules first: no packet ever passes without them.
        nft::install(address, INTERFACE).map_err(step(RULES))?;
        set_kernel_switches().map_err(step("set its network's switches"))?;
        let links = || {
            let mut links = Links::open()?;
            let loopback = links.index("lo")?;
            links.set_up(loopback)?;
            let index = links.index(INTERFACE)?;
            links.add_address(index, address, 16)?;
            links.set_up(index)?;
            links.add_default_route(index)
        };
        links().map_err(step("set its address"))?;
        make_sockets(address).map_err(step("open its sockets"))
    })();
    let back = enter(&init.network);
    let sockets = result?;
    back.map_err(step("go back to the mesh's network"))?;
    Ok((network, sockets))
}

fn new_network() -> io::Result<OwnedFd> {
    unshare(CloneFlags::CLONE_NEWNET)?;
    Ok(File::open("/proc/thread-self/ns/net")?.into())
}

fn enter(network: &OwnedFd) -> io::Result<()> {
    Ok(setns(network, CloneFlags::CLONE_NEWNET)?)
}

/// Values of the pod's own network: IPv6 on loopback only, nothing forwarded, every port free to bind without privilege.
fn set_kernel_switches() -> io::Result<()> {
    const SWITCHES: [(&str, &str); 12] = [
        ("ipv6/conf/all/disable_ipv6", "1"),
        ("ipv6/conf/default/disable_ipv6", "1"),
        ("ipv6/conf/eth0/disable_ipv6", "1"),
        ("ipv6/conf/lo/disable_ipv6", "0"),
        ("ipv4/ip_forward", "0"),
        ("ipv4/conf/all/route_localnet", "0"),
        ("ipv4/ip_unprivileged_port_start", "0"),
        ("ipv4/tcp_fwmark_accept", "0"),
        // A connection that is over is forgotten soon: many short ones must not fill the table (seconds).
        ("netfilter/nf_conntrack_tcp_timeout_time_wait", "2"),
        ("netfilter/nf_conntrack_tcp_timeout_close", "2"),
        ("netfilter/nf_conntrack_tcp_timeout_fin_wait", "20"),
        ("netfilter/nf_conntrack_tcp_timeout_close_wait", "20"),
    ];
    for (name, value) in SWITCHES {
        match fs::write(format!("/proc/sys/net/{name}"), value) {
            // A kernel without IPv6 has nothing to switch off.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            other => other?,
        }
    }
    Ok(())
}

fn make_sockets(address: Ipv4Addr) -> io::Result<Vec<OwnedFd>> {
    Ok(vec![
        open(SockType::Stream, Ipv4Addr::LOCALHOST, OUTBOUND_PORT)?,
        open(SockType::Stream, address, INBOUND_PORT)?,
        open(SockType::Stream, Ipv4Addr::LOCALHOST, DNS_PORT)?,
        open(SockType::Datagram, Ipv4Addr::LOCALHOST, DNS_PORT)?,
    ])
}

/// A marked, bound socket of the present network; a stream socket listens. Not shared by `SO_REUSEPORT`, so that nobody joins it.
fn open(kind: SockType, address: Ipv4Addr, port: u16) -> io::Result<OwnedFd> {
    let socket = marked(kind)?;
    bind(
        socket.as_raw_fd(),
        &SockaddrIn::from(SocketAddrV4::new(address, port)),
    )?;
    if kind == SockType::Stream {
        listen(&socket, Backlog::new(4096)?)?;
    }
    Ok(socket)
}

fn marked(kind: SockType) -> io::Result<OwnedFd> {
    let socket = socket(
        AddressFamily::Inet,
        kind,
        SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
        None,
    )?;
    setsockopt(&socket, sockopt::Mark, &MARK)?;
    Ok(socket)
}

fn make_volumes(pod: &Pod) -> Result<(), String> {
    fs::create_dir(&pod.directory).map_err(|e| failed(&pod.spec.name, "make its directory", &e))?;
    for (number, volume) in pod.spec.volumes.iter().enumerate() {
        volume::create(&pod.directory.join(number.to_string()), volume)?;
    }
    Ok(())
}

/// Where a volume of a pod lies, and what it is.
pub(super) fn find_volume<'p>(pod: &'p Pod, name: &str) -> Result<(PathBuf, &'p Volume), String> {
    let found = pod
        .spec
        .volumes
        .iter()
        .enumerate()
        .find(|(_, volume)| volume.name == name);
    let (number, volume) = found.ok_or_else(|| format!("pod `{}` has no volume `{name}`", pod.spec.name))?;
    Ok((pod.directory.join(number.to_string()), volume))
}

/// Starts the process that is PID 1 for a pod's containers and owns their namespaces.
fn start_first(hostname: &str) -> io::Result<Inside> {
    let (go, hold) = pipe2(OFlag::O_CLOEXEC)?;
    let pid = launch::fork_into(
        || {
            let flags = CloneFlags::CLONE_NEWPID | CloneFlags::CLONE_NEWUTS | CloneFlags::CLONE_NEWIPC;
            unshare(flags).map_err(|e| format!("make its namespaces: {e}"))?;
            sethostname(hostname).map_err(|e| format!("set its host name: {e}"))
        },
        |_| {
            let step = |result: io::Result<()>| result.map_err(|e| format!("confine its first process: {e}"));
            step(sys::no_new_privileges())?;
            step(sys::bound_capabilities(&[]))?;
            step(sys::keep_capabilities(&[]))?;
            // For good: this process only collects orphans until it is killed. Its end of the status pipe goes too.
            step(sys::close_from(0, &[go.as_raw_fd()]))?;
            // Hidden as soon as its namespaces have been opened through /proc, which that would prevent.
            let _ = nix::unistd::read(&go, &mut [0]);
            let _ = sys::hide();
            step(sys::close_from(0, &[]))?;
            collect_orphans()
        },
    )
    .map_err(io::Error::other)?;
    let namespace = |kind: &str| File::open(format!("/proc/{pid}/ns/{kind}")).map(OwnedFd::from);
    let inside = Inside {
        first: pid,
        processes: namespace("pid")?,
        hostname: namespace("uts")?,
        messages: namespace("ipc")?,
    };
    drop(hold);
    Ok(inside)
}

/// Collects what ends until this process is killed. The signal stays blocked, as it was in the sandbox's first
/// process, so that no end is missed between looking and waiting.
fn collect_orphans() -> ! {
    let mut children = SigSet::empty();
    children.add(Signal::SIGCHLD);
    loop {
        while waitpid(None, Some(WaitPidFlag::WNOHANG)).is_ok_and(|status| status != WaitStatus::StillAlive) {
        }
        let _ = children.wait();
    }
}

/// Opens a marked socket in a pod that is connecting to `to`.
pub(super) fn open_socket(init: &Init<'_>, pod: &str, to: SocketAddrV4) -> Result<OwnedFd, String> {
    let pod = init.pod(pod)?;
    let result = enter(&pod.network).and_then(|()| {
        let socket = marked(SockType::Stream)?;
        match connect(socket.as_raw_fd(), &SockaddrIn::from(to)) {
            Ok(()) | Err(nix::Error::EINPROGRESS) => Ok(socket),
            Err(error) => Err(error.into()),
        }
    });
    enter(&init.network).map_err(|e| failed(&pod.spec.name, "leave its network", &e))?;
    result.map_err(|error| format!("connect to {to} in pod `{}`: {error}", pod.spec.name))
}

/// Reads what a pod's rules have dropped.
pub(super) fn counters(init: &Init<'_>, pod: &str) -> Result<PodCounters, String> {
    let pod = init.pod(pod)?;
    let result = enter(&pod.network).and_then(|()| nft::counters());
    enter(&init.network).map_err(|e| failed(&pod.spec.name, "leave its network", &e))?;
    result.map_err(|error| failed(&pod.spec.name, "read its counters", &error))
}

/// Replaces a volume's files.
pub(super) fn write_volume(
    init: &mut Init<'_>,
    pod: &str,
    name: &str,
    files: &[VolumeFile],
) -> Result<(), String> {
    let (place, volume) = find_volume(init.pod(pod)?, name)?;
    match volume.content {
        VolumeContent::Files(_) => volume::write(&place, files),
        VolumeContent::Empty { .. } => Err(format!(
            "volume `{name}` of pod `{pod}` holds what its containers put there"
        )),
    }
}

/// Kills every application process of a pod, by killing PID 1 of their namespace.
pub(super) fn kill_applications(init: &mut Init<'_>, name: &str) -> Result<(), String> {
    let pod = init
        .pods
        .get_mut(name)
        .ok_or_else(|| format!("there is no pod `{name}`"))?;
    pod.containers.clear();
    if let Some(inside) = pod.inside.take() {
        kill(inside.first, Signal::SIGKILL).map_err(|e| failed(name, "kill its processes", &e.into()))?;
    }
    Ok(())
}

/// Ends a pod and everything in it.
pub(super) fn delete(init: &mut Init<'_>, name: &str) -> Result<(), String> {
    kill_applications(init, name)?;
    let pod = init
        .pods
        .remove(name)
        .ok_or_else(|| format!("there is no pod `{name}`"))?;
    for proxy in &pod.proxies {
        let _ = kill(*proxy, Signal::SIGKILL);
    }
    for number in 0..pod.spec.volumes.len() {
        volume::remove(&pod.directory.join(number.to_string()));
    }
    let _ = fs::remove_dir(&pod.directory);
    Links::open()
        .and_then(|mut links| links.remove(&pod.interface))
        .map_err(|error| failed(name, "remove its interface", &error))
}

fn failed(pod: &str, what: &str, error: &io::Error) -> String {
    format!("pod `{pod}`: {what}: {error}")
}
