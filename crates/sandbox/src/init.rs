//! The sandbox's first process: makes the namespaces, then pods and processes in them, until its supervisor is gone.
//!
//! It is two processes. The outer one made the user namespace and watches the control socket only for its end: then it
//! sees to it that the inner one ends, and unlinks what the host can see. The inner one is PID 1 of the sandbox's PID
//! namespace and does the work: one thread, no runtime, one request at a time. When it ends, the kernel kills
//! everything inside, which is what makes `kill -9` of the supervisor clean.

mod confine;
mod kernel_files;
mod launch;
mod pod;
mod root;
mod volume;

use std::collections::HashMap;
use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::mount::{MsFlags, mount};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, getegid, geteuid, setgroups, setsid};

use crate::channel;
use crate::message::{Answer, Ask, Refusal, Request, Say};
use crate::netlink::Links;
use crate::probe::{Ability, Problem, problem};
use crate::spec::{ExitStatus, ProcessId};
use crate::sys;

use pod::Pod;

/// The bridge that joins the pods. It has no address: nothing answers there.
const BRIDGE: &str = "mesh0";

/// The entry point of the sandbox's first process. The binary calls it, before it has made a thread, when it is
/// started with [`crate::Options::init_arguments`]; `control` is the number in the last argument.
pub fn sandbox_init_main(control: i32) -> ! {
    let code = match outer(control) {
        Ok(code) => code,
        Err(error) => {
            let _ = io::Write::write_all(&mut io::stderr(), format!("sandbox: {error}\n").as_bytes());
            1
        }
    };
    sys::exit_now(code)
}

/// Makes the namespaces, starts the inner process, watches.
fn outer(control: i32) -> io::Result<i32> {
    // Executed as /proc/self/exe, it would be called `exe`.
    nix::sys::prctl::set_name(c"sandbox")?;
    // A terminal's Ctrl-C is for the supervisor, which drains first.
    let _ = setsid();
    sys::close_from(3, &[control])?;
    let control = sys::duplicate_above(sys::own(control).as_fd(), 3)?;
    let Some((request, _)) = receive(control.as_fd())? else {
        return Ok(0);
    };
    let Ask::Start {
        scratch,
        unlink,
        masked,
    } = request.ask
    else {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "the first request must be to start",
        ));
    };
    let start = Start {
        id: request.id,
        scratch,
        masked,
    };
    let refuse = |refusal| {
        say(
            control.as_fd(),
            &Say::Answer {
                id: request.id,
                answer: Err(refusal),
            },
            &[],
        )
    };
    let direct = match enter_namespaces() {
        Ok(direct) => direct,
        Err(problem) => {
            refuse(Refusal::Host(vec![problem]))?;
            return Ok(1);
        }
    };
    let mut children = SigSet::empty();
    children.add(Signal::SIGCHLD);
    children.thread_block()?;
    let inner = match sys::fork_single_threaded(|| inner(&control, &start, direct)) {
        Ok(inner) => inner,
        Err(error) => {
            refuse(Refusal::Host(vec![problem(Ability::PidNamespace, &error)]))?;
            return Ok(1);
        }
    };
    watch(&control, &children, inner, &unlink)
}

struct Start {
    id: u64,
    scratch: PathBuf,
    masked: Vec<PathBuf>,
}

/// Enters a user namespace where this process is root over its one user id, and the other namespaces of the mesh.
/// Where user namespaces are forbidden, a real root makes the others directly; says whether it did.
fn enter_namespaces() -> Result<bool, Problem> {
    let (user, group) = (geteuid(), getegid());
    if user.is_root() {
        // Only a real root may; another user's groups stay, with what they could read before.
        let _ = setgroups(&[]);
    }
    let direct = match unshare(CloneFlags::CLONE_NEWUSER) {
        Ok(()) => {
            let mapped = map_user(0, user.as_raw(), 0, group.as_raw());
            mapped.map_err(|e| problem(Ability::UserMapping, &e))?;
            false
        }
        Err(_) if user.is_root() => true,
        Err(error) => return Err(problem(Ability::UserNamespace, &error.into())),
    };
    let flags = CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWUTS | CloneFlags::CLONE_NEWIPC;
    unshare(flags).map_err(|e| problem(Ability::MountNamespace, &e.into()))?;
    unshare(CloneFlags::CLONE_NEWNET).map_err(|e| problem(Ability::NetworkNamespace, &e.into()))?;
    unshare(CloneFlags::CLONE_NEWPID).map_err(|e| problem(Ability::PidNamespace, &e.into()))?;
    private_mounts().map_err(|e| problem(Ability::Mount, &e))?;
    Ok(direct)
}

/// Writes this process's own user and group map: one id each.
fn map_user(inside_user: u32, outside_user: u32, inside_group: u32, outside_group: u32) -> io::Result<()> {
    match fs::write("/proc/self/setgroups", "deny") {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    fs::write("/proc/self/uid_map", format!("{inside_user} {outside_user} 1\n"))?;
    fs::write(
        "/proc/self/gid_map",
        format!("{inside_group} {outside_group} 1\n"),
    )
}

/// Keeps mounts that are made from now on out of other mount namespaces, and theirs out of this one.
fn private_mounts() -> io::Result<()> {
    mount(
        None::<&str>,
        "/",
        None::<&str>,
        MsFlags::MS_REC | MsFlags::MS_PRIVATE,
        None::<&str>,
    )?;
    Ok(())
}

/// Waits for the supervisor's or the inner process's end. When the supervisor is gone, unlinks what the host can see.
fn watch(control: &OwnedFd, children: &SigSet, inner: Pid, unlink: &[PathBuf]) -> io::Result<i32> {
    const GRACE: Duration = Duration::from_secs(2);
    let signals = SignalFd::with_flags(children, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
    let mut deadline: Option<Instant> = None;
    loop {
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        let timeout = left.map_or(PollTimeout::NONE, |left| {
            PollTimeout::try_from(left.as_millis().saturating_add(1)).unwrap_or(PollTimeout::ZERO)
        });
        let mut watched = vec![PollFd::new(signals.as_fd(), PollFlags::POLLIN)];
        if deadline.is_none() {
            watched.push(PollFd::new(control.as_fd(), PollFlags::empty()));
        }
        match poll(&mut watched, timeout) {
            Ok(_) | Err(nix::Error::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        let hung_up = watched.get(1).and_then(PollFd::any).unwrap_or(false);
        if hung_up {
            deadline = Some(Instant::now() + GRACE);
        }
        while let Ok(Some(_)) = signals.read_signal() {}
        let ended = !matches!(
            waitpid(inner, Some(WaitPidFlag::WNOHANG)),
            Ok(WaitStatus::StillAlive)
        );
        if ended {
            break;
        }
        if deadline.is_some_and(|deadline| deadline <= Instant::now()) {
            kill(inner, Signal::SIGKILL)?;
            let _ = waitpid(inner, None);
            break;
        }
    }
    if deadline.is_some() || is_hung_up(control.as_fd()) {
        for path in unlink {
            remove_sockets(path);
        }
    }
    Ok(0)
}

fn is_hung_up(control: BorrowedFd<'_>) -> bool {
    let mut watched = [PollFd::new(control, PollFlags::empty())];
    poll(&mut watched, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
}

/// Unlinks a socket or symbolic link, or the sockets of a directory and then the directory if it is empty. What cannot be removed stays: nobody is left to tell.
fn remove_sockets(path: &Path) {
    let Ok(metadata) = fs::symlink_metadata(path) else {
        return;
    };
    if metadata.is_dir() {
        for entry in fs::read_dir(path).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_socket()) {
                let _ = fs::remove_file(entry.path());
            }
        }
        // Only when nothing else was in it.
        let _ = fs::remove_dir(path);
    } else {
        let _ = fs::remove_file(path);
    }
}

/// PID 1 of the sandbox.
fn inner(control: &OwnedFd, start: &Start, direct: bool) -> i32 {
    let refuse = |refusal| {
        let _ = say(
            control.as_fd(),
            &Say::Answer {
                id: start.id,
                answer: Err(refusal),
            },
            &[],
        );
        1
    };
    if let Err(error) = sys::die_with_parent() {
        return refuse(Refusal::Text(format!("tie the sandbox to its parent: {error}")));
    }
    let mut init = match Init::prepare(control.as_fd(), start, direct) {
        Ok(init) => init,
        Err(problem) => return refuse(Refusal::Host(vec![problem])),
    };
    if let Err(problem) = init.prove() {
        return refuse(Refusal::Host(vec![problem]));
    }
    match init.serve(start.id) {
        Ok(()) => 0,
        Err(error) => {
            let _ = io::Write::write_all(&mut io::stderr(), format!("sandbox: {error}\n").as_bytes());
            1
        }
    }
}

/// Everything that the inner process knows.
struct Init<'a> {
    control: BorrowedFd<'a>,
    /// Our private memory file system: `bin/bartizan`, `root` (where a container's root is put together), `pods/NUMBER/VOLUME`.
    scratch: PathBuf,
    masked: Vec<PathBuf>,
    /// There are no user namespaces here and this is a real root: applications become real users.
    direct: bool,
    network: OwnedFd,
    bridge: u32,
    pods: HashMap<String, Pod>,
    next_pod: u32,
    /// The processes whose end is reported, by their number in this PID namespace.
    processes: HashMap<Pid, ProcessId>,
    next_process: u64,
}

impl<'a> Init<'a> {
    /// Mounts, network and bridge of the mesh.
    fn prepare(control: BorrowedFd<'a>, start: &Start, direct: bool) -> Result<Self, Problem> {
        let binary = fs::read_link("/proc/self/exe").map_err(|e| problem(Ability::Proc, &e))?;
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
        mount(Some("proc"), "/proc", Some("proc"), flags, None::<&str>)
            .map_err(|e| problem(Ability::Proc, &e.into()))?;
        let scratch = prepare_scratch(&start.scratch, &binary).map_err(|e| problem(Ability::Mount, &e))?;
        let network =
            fs::File::open("/proc/self/ns/net").map_err(|e| problem(Ability::NetworkNamespace, &e))?;
        let bridge = || {
            let mut links = Links::open()?;
            links.add_bridge(BRIDGE)?;
            let index = links.index(BRIDGE)?;
            links.set_up(index)?;
            let loopback = links.index("lo")?;
            links.set_up(loopback)?;
            Ok(index)
        };
        let bridge = bridge().map_err(|e| problem(Ability::Bridge, &e))?;
        let masked = start
            .masked
            .iter()
            .filter_map(|path| fs::canonicalize(path).ok())
            .collect();
        Ok(Self {
            control,
            scratch,
            masked,
            direct,
            network: network.into(),
            bridge,
            pods: HashMap::new(),
            next_pod: 0,
            processes: HashMap::new(),
            next_process: 0,
        })
    }

    /// Makes and removes a pod, so that a host that cannot do it is known before anything starts.
    fn prove(&mut self) -> Result<(), Problem> {
        pod::prove(self)
    }

    /// Answers requests and reports exits until the supervisor is gone.
    fn serve(&mut self, start: u64) -> io::Result<()> {
        let mut children = SigSet::empty();
        children.add(Signal::SIGCHLD);
        let signals = SignalFd::with_flags(&children, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
        say(
            self.control,
            &Say::Answer {
                id: start,
                answer: Ok(Answer::Done),
            },
            &[],
        )?;
        loop {
            let mut watched = [
                PollFd::new(self.control, PollFlags::POLLIN),
                PollFd::new(signals.as_fd(), PollFlags::POLLIN),
            ];
            match poll(&mut watched, PollTimeout::NONE) {
                Ok(_) => {}
                Err(nix::Error::EINTR) => continue,
                Err(error) => return Err(error.into()),
            }
            let [asked, ended] = watched.map(|one| one.any().unwrap_or(false));
            if ended {
                while let Ok(Some(_)) = signals.read_signal() {}
                self.reap()?;
            }
            if asked {
                let Some((request, descriptors)) = receive(self.control)? else {
                    return Ok(());
                };
                let (answer, sockets) = match self.carry_out(request.ask, &descriptors) {
                    Ok((answer, sockets)) => (Ok(answer), sockets),
                    Err(text) => (Err(Refusal::Text(text)), Vec::new()),
                };
                say(
                    self.control,
                    &Say::Answer {
                        id: request.id,
                        answer,
                    },
                    &sockets,
                )?;
                // A process may have ended while its start was waited for, its signal taken together with others.
                self.reap()?;
            }
        }
    }

    /// Collects every process that has ended, ours and orphans.
    fn reap(&mut self) -> io::Result<()> {
        loop {
            let (pid, status) = match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(pid, code)) => (pid, ExitStatus::Code(code)),
                Ok(WaitStatus::Signaled(pid, signal, _)) => (pid, ExitStatus::Signal(signal as i32)),
                Ok(WaitStatus::StillAlive) | Err(nix::Error::ECHILD) => return Ok(()),
                Ok(_) | Err(nix::Error::EINTR) => continue,
                Err(error) => return Err(error.into()),
            };
            for pod in self.pods.values_mut() {
                pod.forget(pid);
            }
            if let Some(process) = self.processes.remove(&pid) {
                say(self.control, &Say::Exited { process, status }, &[])?;
            }
        }
    }

    fn carry_out(&mut self, ask: Ask, descriptors: &[OwnedFd]) -> Result<(Answer, Vec<OwnedFd>), String> {
        let done = |()| (Answer::Done, Vec::new());
        match ask {
            Ask::Start { .. } => Err("the sandbox has started already".into()),
            Ask::Hide { directory } => hide(&directory)
                .map(done)
                .map_err(|error| format!("hide `{}` from the sandbox: {error}", directory.display())),
            Ask::CreatePod(spec) => pod::create(self, spec).map(|sockets| (Answer::Done, sockets)),
            Ask::Proxy {
                pod,
                argv,
                env,
                numbers,
            } => {
                let pid = launch::proxy(self, &pod, &argv, &env, &numbers, descriptors)?;
                Ok((Answer::Process(self.register(pid)), Vec::new()))
            }
            Ask::Container(ask) => {
                let pid = launch::container(self, &ask, descriptors)?;
                Ok((Answer::Process(self.register(pid)), Vec::new()))
            }
            Ask::Exec {
                pod,
                container,
                command,
                terminal,
            } => {
                let pid = launch::exec(self, &pod, &container, &command, terminal, descriptors)?;
                Ok((Answer::Process(self.register(pid)), Vec::new()))
            }
            Ask::OpenSocket { pod, to } => {
                pod::open_socket(self, &pod, to).map(|socket| (Answer::Done, vec![socket]))
            }
            Ask::Signal { process, signal } => self.signal(process, signal).map(done),
            Ask::KillPod { pod } => pod::kill_applications(self, &pod).map(done),
            Ask::DeletePod { pod } => pod::delete(self, &pod).map(done),
            Ask::Counters { pod } => {
                pod::counters(self, &pod).map(|counters| (Answer::Counters(counters), Vec::new()))
            }
            Ask::WriteVolume { pod, volume, files } => {
                pod::write_volume(self, &pod, &volume, &files).map(done)
            }
        }
    }

    fn register(&mut self, pid: Pid) -> ProcessId {
        let process = ProcessId(self.next_process);
        self.next_process += 1;
        self.processes.insert(pid, process);
        process
    }

    fn signal(&self, process: ProcessId, signal: i32) -> Result<(), String> {
        let signal = Signal::try_from(signal).map_err(|_| format!("`{signal}` is not a signal"))?;
        let pid = self
            .processes
            .iter()
            .find(|(_, known)| **known == process)
            .map(|(pid, _)| *pid);
        let pid = pid.ok_or("the process has ended")?;
        kill(pid, signal).map_err(|error| format!("send {signal} to the process: {error}"))
    }

    fn pod(&self, name: &str) -> Result<&Pod, String> {
        self.pods
            .get(name)
            .ok_or_else(|| format!("there is no pod `{name}`"))
    }
}

/// Mounts the private memory file system and puts the binary into it, where a rebuild on the host cannot replace it.
fn prepare_scratch(scratch: &Path, binary: &Path) -> io::Result<PathBuf> {
    let scratch = fs::canonicalize(scratch)?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    // The clone is made first, as the binary may lie below the scratch directory.
    let tree = sys::clone_tree(&root::c_path(binary)?)?;
    mount(
        Some("bartizan"),
        &scratch,
        Some("tmpfs"),
        flags,
        Some("mode=0700"),
    )?;
    for directory in ["bin", "root", "pods"] {
        fs::create_dir(scratch.join(directory))?;
    }
    // Containers see this directory, whoever they run as.
    fs::set_permissions(scratch.join("bin"), fs::Permissions::from_mode(0o755))?;
    let place = scratch.join("bin/bartizan");
    fs::File::create(&place)?;
    sys::restrict_tree(
        tree.as_fd(),
        sys::MountAttributes(sys::MountAttributes::READ_ONLY),
    )?;
    sys::attach_tree(tree.as_fd(), &root::c_path(&place)?)?;
    Ok(scratch)
}

/// Mounts emptiness over a directory; the mount is the mesh's own, the host does not see it.
fn hide(directory: &Path) -> io::Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_RDONLY;
    mount(
        Some("bartizan"),
        directory,
        Some("tmpfs"),
        flags,
        Some("mode=0500,size=4k"),
    )?;
    Ok(())
}

fn receive(control: BorrowedFd<'_>) -> io::Result<Option<(Request, Vec<OwnedFd>)>> {
    let message = loop {
        match channel::receive(control) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            other => break other?,
        }
    };
    let Some((_, mut descriptors)) = message else {
        return Ok(None);
    };
    if descriptors.is_empty() {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "a request came without its body",
        ));
    }
    let body = channel::read_memory_file(descriptors.remove(0))?;
    Ok(Some((Request::decode(&body)?, descriptors)))
}

fn say(control: BorrowedFd<'_>, what: &Say, descriptors: &[OwnedFd]) -> io::Result<()> {
    match channel::send(control, &serde_json::to_vec(what)?, &channel::borrow(descriptors)) {
        // The supervisor is gone: the next look at the socket says so.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other,
    }
}
