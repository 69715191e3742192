//! Starts processes: a proxy in a pod's network, a container in namespaces of its own, a command in a container.
//!
//! Each is forked twice. The middle process joins namespaces (a PID namespace is only for children) and ends; the
//! process itself is then a child of PID 1, which hears of its end. Until the program is executed, a pipe that closes on
//! exec carries the process's number and what went wrong.

use std::convert::Infallible;
use std::ffi::CString;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::stat::{Mode, umask};
use nix::sys::wait::waitpid;
use nix::unistd::{Gid, Pid, Uid, chdir, getegid, geteuid, pipe2, setgroups, setresgid, setresuid, setsid};

use super::pod::{Container, Inside, Pod};
use super::root::{self, Plan};
use super::{Init, confine, map_user, private_mounts};
use crate::message::{Command, ContainerAsk};
use crate::sys;

/// How long a process may take from fork to exec: assembling a root is milliseconds, a slow disk more.
const START_LIMIT: Duration = Duration::from_secs(20);

/// Descriptor numbers that a proxy can inherit.
const INHERITABLE: std::ops::RangeInclusive<RawFd> = 3..=200;

/// Starts a proxy: this binary, in the pod's network and the mesh's user namespace, with the right to set marks only.
pub(super) fn proxy(
    init: &mut Init<'_>,
    pod: &str,
    argv: &[String],
    env: &[(String, String)],
    numbers: &[RawFd],
    descriptors: &[OwnedFd],
) -> Result<Pid, String> {
    let binary = init.scratch.join("bin/bartizan");
    let pod = init
        .pods
        .get_mut(pod)
        .ok_or_else(|| format!("there is no pod `{pod}`"))?;
    let [stdout, stderr, inherited @ ..] = descriptors else {
        return Err("a proxy needs standard output and error".into());
    };
    let unique = numbers
        .iter()
        .enumerate()
        .all(|(at, number)| !numbers.iter().skip(at + 1).any(|n| n == number));
    if numbers.len() != inherited.len() || !unique || !numbers.iter().all(|n| INHERITABLE.contains(n)) {
        return Err("a proxy's descriptors need one number each, from 3 to 200".into());
    }
    let argv = c_strings(argv)?;
    let env = c_environment(env)?;
    let network = &pod.network;
    let pid = fork_into(
        || setns(network, CloneFlags::CLONE_NEWNET).map_err(|e| format!("enter the pod's network: {e}")),
        |status| {
            step("pass its descriptors", || {
                let above: Vec<OwnedFd> = inherited
                    .iter()
                    .map(|descriptor| sys::duplicate_above(descriptor.as_fd(), INHERITABLE.end() + 1))
                    .collect::<io::Result<_>>()?;
                status_above(status)?;
                take_stdio(None, stdout.as_fd(), stderr.as_fd())?;
                for (number, descriptor) in numbers.iter().zip(&above) {
                    sys::duplicate_to(descriptor.as_fd(), *number)?;
                }
                let mut keep = numbers.to_vec();
                keep.push(status.number());
                // Never dropped: their numbers are closed by the next line.
                std::mem::forget(above);
                sys::close_from(3, &keep)
            })?;
            step("give up privileges", || {
                sys::no_new_privileges()?;
                sys::bound_capabilities(&[sys::CAP_NET_ADMIN])?;
                sys::keep_capabilities(&[sys::CAP_NET_ADMIN])
            })?;
            confine::apply()?;
            let program = root::c_path(&binary).map_err(|e| e.to_string())?;
            Err(format!(
                "execute the proxy: {}",
                sys::execute(&program, &argv, &env)
            ))
        },
    )
    .map_err(|text| format!("start the proxy of pod `{}`: {text}", pod.spec.name))?;
    pod.proxies.push(pid);
    Ok(pid)
}

/// Starts a container.
pub(super) fn container(
    init: &mut Init<'_>,
    ask: &ContainerAsk,
    descriptors: &[OwnedFd],
) -> Result<Pid, String> {
    let context = |text: String| format!("start container `{}` of pod `{}`: {text}", ask.name, ask.pod);
    let direct = init.direct;
    let [stdout, stderr] = descriptors else {
        return Err(context("it needs standard output and error".into()));
    };
    let pod = init
        .pods
        .get_mut(&ask.pod)
        .ok_or_else(|| format!("there is no pod `{}`", ask.pod))?;
    if pod.containers.contains_key(&ask.name) {
        return Err(context("it runs already".into()));
    }
    pod.inside().map_err(context)?;
    let plan = Plan::new(&init.scratch, &init.masked, direct, pod, ask).map_err(context)?;
    let command = Prepared::new(&ask.command).map_err(context)?;
    let inside = pod
        .existing()
        .ok_or_else(|| context("its pod has no first process".into()))?;
    let (user, group) = (geteuid().as_raw(), getegid().as_raw());
    let pid = fork_into(
        || join(pod, inside),
        |status| {
            step("take its standard streams", || {
                take_stdio(None, stdout.as_fd(), stderr.as_fd())?;
                sys::close_from(3, &[status.number()])
            })?;
            step("make its mount namespace", || {
                unshare(CloneFlags::CLONE_NEWNS)?;
                private_mounts()
            })?;
            root::assemble(&plan)?;
            if direct {
                return command.run(Some((ask.run_as_user, ask.run_as_group)));
            }
            step("make its user namespace", || {
                unshare(CloneFlags::CLONE_NEWUSER)?;
                map_user(ask.run_as_user, user, ask.run_as_group, group)?;
                sys::hide()
            })?;
            command.run(None)
        },
    )
    .map_err(context)?;
    let namespace = |kind: &str| File::open(format!("/proc/{pid}/ns/{kind}")).map(OwnedFd::from);
    // A process that has ended already has no namespaces; its end is reported in a moment.
    if let (Ok(user), Ok(mounts)) = (namespace("user"), namespace("mnt")) {
        let ids = (ask.run_as_user, ask.run_as_group);
        let container = Container {
            pid,
            user,
            ids,
            mounts,
        };
        pod.containers.insert(ask.name.clone(), container);
    }
    Ok(pid)
}

/// Starts a command in a running container.
pub(super) fn exec(
    init: &mut Init<'_>,
    pod: &str,
    container: &str,
    command: &Command,
    terminal: bool,
    descriptors: &[OwnedFd],
) -> Result<Pid, String> {
    let context = |text: String| format!("execute in container `{container}` of pod `{pod}`: {text}");
    let [stdin, stdout, stderr] = descriptors else {
        return Err(context("it needs standard input, output and error".into()));
    };
    let direct = init.direct;
    let pod = init.pod(pod)?;
    let running = pod
        .containers
        .get(container)
        .ok_or_else(|| context("it does not run".into()))?;
    let inside = pod.existing().ok_or_else(|| context("it does not run".into()))?;
    let command = Prepared::new(command).map_err(context)?;
    fork_into(
        || join(pod, inside),
        |status| {
            step("take its standard streams", || {
                take_stdio(Some(stdin.as_fd()), stdout.as_fd(), stderr.as_fd())?;
                if terminal {
                    sys::take_terminal()?;
                }
                // Before the container can see this process: nothing of ours is left in it to take.
                let user = sys::duplicate_above(running.user.as_fd(), 3)?;
                let mounts = sys::duplicate_above(running.mounts.as_fd(), 3)?;
                sys::close_from(3, &[status.number(), user.as_raw_fd(), mounts.as_raw_fd()])?;
                sys::hide()?;
                setns(&mounts, CloneFlags::CLONE_NEWNS)?;
                if !direct {
                    setns(&user, CloneFlags::CLONE_NEWUSER)?;
                }
                Ok(())
            })?;
            command.run(direct.then_some(running.ids))
        },
    )
    .map_err(context)
}

/// Whether a user namespace can be made inside the sandbox's.
pub(super) fn prove_nested() -> io::Result<()> {
    let (user, group) = (geteuid().as_raw(), getegid().as_raw());
    let result = fork_into(
        || Ok(()),
        |_| {
            step("make a nested user namespace", || {
                unshare(CloneFlags::CLONE_NEWUSER)?;
                map_user(65532, user, 65532, group)
            })?;
            sys::exit_now(0)
        },
    );
    result.map(|_| ()).map_err(io::Error::other)
}

/// The namespaces that a pod's containers share.
fn join(pod: &Pod, inside: &Inside) -> Result<(), String> {
    let enter =
        |what, namespace, kind| setns(namespace, kind).map_err(|e| format!("enter the pod's {what}: {e}"));
    enter("network", &pod.network, CloneFlags::CLONE_NEWNET)?;
    enter("host name", &inside.hostname, CloneFlags::CLONE_NEWUTS)?;
    enter("message queues", &inside.messages, CloneFlags::CLONE_NEWIPC)?;
    enter("processes", &inside.processes, CloneFlags::CLONE_NEWPID)
}

/// A new session with these standard streams and default signals.
fn take_stdio(
    stdin: Option<BorrowedFd<'_>>,
    stdout: BorrowedFd<'_>,
    stderr: BorrowedFd<'_>,
) -> io::Result<()> {
    setsid()?;
    match stdin {
        Some(stdin) => sys::duplicate_to(stdin, 0)?,
        None => sys::duplicate_to(File::open("/dev/null")?.as_fd(), 0)?,
    }
    sys::duplicate_to(stdout, 1)?;
    sys::duplicate_to(stderr, 2)?;
    sys::restore_broken_pipe()?;
    SigSet::empty().thread_set_mask()?;
    umask(Mode::from_bits_truncate(0o022));
    setrlimit(Resource::RLIMIT_CORE, 0, 0)?;
    Ok(())
}

/// A command whose strings are ready for exec, so that a bad one is refused before anything is made.
struct Prepared {
    argv: Vec<CString>,
    env: Vec<CString>,
    program: String,
    search: String,
    working_directory: PathBuf,
}

impl Prepared {
    fn new(command: &Command) -> Result<Self, String> {
        let program = command
            .argv
            .first()
            .filter(|name| !name.is_empty())
            .ok_or("it has no command")?;
        let search = command
            .env
            .iter()
            .find(|(name, _)| name == "PATH")
            .map(|(_, value)| value.clone());
        Ok(Self {
            argv: c_strings(&command.argv)?,
            env: c_environment(&command.env)?,
            program: program.clone(),
            search: search.unwrap_or_else(|| crate::CONTAINER_PATH.to_owned()),
            working_directory: command.working_directory.clone(),
        })
    }

    /// Gives up everything and becomes the program. `ids` are the host's user and group to become, where no user
    /// namespace has made them up.
    fn run(&self, ids: Option<(u32, u32)>) -> Result<Infallible, String> {
        let directory = self.working_directory.display();
        chdir(&self.working_directory).map_err(|e| format!("working directory `{directory}`: {e}"))?;
        let program = self.find()?;
        step("give up privileges", || {
            sys::no_new_privileges()?;
            sys::bound_capabilities(&[])?;
            if let Some((user, group)) = ids {
                let (user, group) = (Uid::from_raw(user), Gid::from_raw(group));
                setgroups(&[])?;
                setresgid(group, group, group)?;
                setresuid(user, user, user)?;
            }
            sys::keep_capabilities(&[])?;
            sys::hide()
        })?;
        confine::apply()?;
        let path = root::c_path(&program).map_err(|e| e.to_string())?;
        Err(format!(
            "execute `{}`: {}",
            program.display(),
            sys::execute(&path, &self.argv, &self.env)
        ))
    }

    fn find(&self) -> Result<PathBuf, String> {
        if self.program.contains('/') {
            return Ok(PathBuf::from(&self.program));
        }
        let executable = |path: &Path| {
            path.metadata()
                .is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
        };
        self.search
            .split(':')
            .filter(|directory| !directory.is_empty())
            .map(|directory| Path::new(directory).join(&self.program))
            .find(|path| executable(path))
            .ok_or_else(|| format!("command `{}` is not in PATH ({})", self.program, self.search))
    }
}

/// Where a process that is being started says its number and what went wrong.
pub(super) struct Status {
    pipe: std::cell::RefCell<OwnedFd>,
}

impl Status {
    fn number(&self) -> RawFd {
        self.pipe.borrow().as_raw_fd()
    }

    fn line(&self, word: &str, text: &str) {
        let line = format!("{word} {}\n", text.replace('\n', " "));
        // Nobody listens only when the sandbox is ending.
        let _ = nix::unistd::write(self.pipe.borrow().as_fd(), line.as_bytes());
    }
}

/// Does one step of a start; its error says which.
fn step<T>(what: &str, work: impl FnOnce() -> io::Result<T>) -> Result<T, String> {
    work().map_err(|error| format!("{what}: {error}"))
}

/// Moves the status pipe out of the way of inherited descriptors.
fn status_above(status: &Status) -> io::Result<()> {
    let above = sys::duplicate_above(status.pipe.borrow().as_fd(), INHERITABLE.end() + 1)?;
    *status.pipe.borrow_mut() = above;
    Ok(())
}

/// Forks a middle process that does `join`, whose child does `body` until it executes or ends.
pub(super) fn fork_into(
    join: impl FnOnce() -> Result<(), String>,
    body: impl FnOnce(&Status) -> Result<Infallible, String>,
) -> Result<Pid, String> {
    let (reader, writer) = pipe2(OFlag::O_CLOEXEC).map_err(|e| format!("make a pipe: {e}"))?;
    let status = Status { pipe: writer.into() };
    let middle = sys::fork_single_threaded(|| {
        if let Err(text) = join() {
            status.line("error", &text);
            return 1;
        }
        let child = sys::fork_single_threaded(|| {
            let Err(text) = body(&status);
            status.line("error", &text);
            127
        });
        match child {
            Ok(pid) => status.line("pid", &pid.to_string()),
            Err(error) => status.line("error", &format!("fork: {error}")),
        }
        0
    })
    .map_err(|e| format!("fork: {e}"))?;
    drop(status);
    let said = read_until_closed(reader);
    if said.is_err() {
        let _ = kill(middle, Signal::SIGKILL);
    }
    let _ = waitpid(middle, None);
    let (text, complete) = match said {
        Ok(text) => (text, true),
        Err(text) => (text, false),
    };
    let line = |word: &str| {
        text.lines()
            .find_map(|line| line.strip_prefix(word)?.strip_prefix(' '))
    };
    let pid = line("pid")
        .and_then(|number| number.parse().ok())
        .map(Pid::from_raw);
    match (pid, line("error"), complete) {
        (_, Some(error), _) => Err(error.to_owned()),
        (Some(pid), None, true) => Ok(pid),
        (Some(pid), None, false) => {
            let _ = kill(pid, Signal::SIGKILL);
            Err(format!(
                "it took longer than {} s to start",
                START_LIMIT.as_secs()
            ))
        }
        (None, None, _) => Err("it ended before it started".into()),
    }
}

/// Everything until the other ends are closed; what came so far when that takes too long.
fn read_until_closed(reader: OwnedFd) -> Result<String, String> {
    let deadline = Instant::now() + START_LIMIT;
    let mut reader = File::from(reader);
    let mut text = Vec::new();
    loop {
        let left = deadline.saturating_duration_since(Instant::now()).as_millis();
        let mut watched = [PollFd::new(reader.as_fd(), PollFlags::POLLIN)];
        match poll(
            &mut watched,
            PollTimeout::try_from(left).unwrap_or(PollTimeout::ZERO),
        ) {
            Ok(0) => return Err(String::from_utf8_lossy(&text).into_owned()),
            Ok(_) => {}
            Err(nix::Error::EINTR) => continue,
            Err(_) => break,
        }
        let mut chunk = [0; 4096];
        match reader.read(&mut chunk) {
            Ok(0) | Err(_) => break,
            Ok(length) => {
                let _ = text.write_all(chunk.get(..length).unwrap_or_default());
            }
        }
    }
    Ok(String::from_utf8_lossy(&text).into_owned())
}

fn c_strings(texts: &[String]) -> Result<Vec<CString>, String> {
    texts
        .iter()
        .map(|text| {
            CString::new(text.as_bytes()).map_err(|_| format!("`{}` holds a zero byte", text.escape_debug()))
        })
        .collect()
}

fn c_environment(env: &[(String, String)]) -> Result<Vec<CString>, String> {
    env.iter()
        .map(|(name, value)| {
            if name.is_empty() || name.contains('=') {
                return Err(format!("`{name}` is not a name for an environment variable"));
            }
            let text = std::ffi::OsString::from(format!("{name}={value}"));
            CString::new(text.as_bytes())
                .map_err(|_| format!("environment variable `{name}` holds a zero byte"))
        })
        .collect()
}
