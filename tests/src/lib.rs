//! What end-to-end tests share: the real binary, run as a user without privileges, in its own folders.
//!
//! One mesh runs at a time: the machine is small, and examples name ports of the host.
#![expect(
    clippy::indexing_slicing,
    clippy::missing_panics_doc,
    clippy::panic,
    reason = "a test fails by a panic"
)]

pub mod h2;
pub mod http;
pub mod load;
mod processes;
mod tool;

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use serde_json::Value;

pub use processes::{arguments, descendants, is_alive, kill, processes_of};
pub use tool::{Ended, peers, run, skip};

/// The user that meshes run as when the tests run as root.
pub const USER: u32 = 64_001;

/// Which privileges the binary gets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Privilege {
    /// None: another user than root, without capabilities.
    None,
    /// Those of the tests themselves.
    Own,
}

/// A running mesh; it is ended when this is dropped.
pub struct Mesh {
    /// Its documents; a copy that tests may change.
    pub documents: PathBuf,
    /// What `up --output json` said.
    pub summary: Value,
    folder: tempfile::TempDir,
    privilege: Privilege,
    _turn: MutexGuard<'static, ()>,
}

/// How a mesh is started.
#[derive(Clone, Debug)]
pub struct Start {
    /// The folder of documents to copy.
    pub documents: PathBuf,
    /// More arguments of `up`.
    pub arguments: Vec<String>,
    /// Which privileges it gets.
    pub privilege: Privilege,
}

impl Start {
    /// A folder below `examples/`.
    pub fn example(name: &str) -> Self {
        Self {
            documents: repository().join("examples").join(name),
            arguments: Vec::new(),
            privilege: Privilege::None,
        }
    }

    /// A folder below `tests/scenes/`.
    pub fn scene(name: &str) -> Self {
        Self {
            documents: repository().join("tests/scenes").join(name),
            arguments: Vec::new(),
            privilege: Privilege::None,
        }
    }

    /// Adds arguments of `up`.
    #[must_use]
    pub fn with(mut self, arguments: &[&str]) -> Self {
        self.arguments
            .extend(arguments.iter().map(|argument| (*argument).to_owned()));
        self
    }
}

impl Mesh {
    /// Starts a mesh and waits until everything is ready.
    pub fn up(start: &Start) -> Self {
        let mut mesh = Self::prepare(start);
        mesh.start(&start.arguments);
        mesh
    }

    /// Starts a mesh that may not come up; what `up --detach` came to.
    pub fn try_up(start: &Start) -> (Self, Ended) {
        let mesh = Self::prepare(start);
        let documents = mesh.documents.display().to_string();
        let mut arguments = vec!["up", "--detach"];
        arguments.extend(start.arguments.iter().map(String::as_str));
        arguments.push(&documents);
        let ended = mesh.bartizan(&arguments);
        (mesh, ended)
    }

    fn prepare(start: &Start) -> Self {
        static TURN: Mutex<()> = Mutex::new(());
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let folder = tempfile::Builder::new()
            .prefix("bz")
            .tempdir()
            .expect("a temporary folder");
        let documents = folder.path().join("documents");
        copy_folder(&start.documents, &documents);
        own(folder.path(), start.privilege);
        Self {
            documents,
            summary: Value::Null,
            folder,
            privilege: start.privilege,
            _turn: turn,
        }
    }

    /// Ends it and starts it again, from the same documents and state.
    #[must_use]
    pub fn again(mut self) -> Self {
        let ended = self.down();
        assert_eq!(ended.code, 0, "{}", ended.stderr);
        self.start(&[]);
        self
    }

    fn start(&mut self, more: &[String]) {
        let documents = self.documents.display().to_string();
        let mut arguments = vec!["up", "--detach", "--output", "json"];
        arguments.extend(more.iter().map(String::as_str));
        arguments.push(&documents);
        let ended = self.bartizan(&arguments);
        assert!(
            ended.code == 0,
            "up ended with {}:\n{}\n{}\n{}",
            ended.code,
            ended.stdout,
            ended.stderr,
            self.last_words()
        );
        self.summary = serde_json::from_str(&ended.stdout).expect("up prints JSON");
    }

    /// Runs a command of the binary against this mesh.
    pub fn bartizan(&self, arguments: &[&str]) -> Ended {
        run(self.command(arguments), Duration::from_mins(2))
    }

    /// The command without running it.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = unprivileged(self.privilege, binary());
        command
            .args(["--state", &self.state().display().to_string()])
            .args(arguments)
            .env("HOME", self.folder.path())
            .current_dir(&self.documents);
        command
    }

    /// Runs a command as a workload.
    pub fn run_as(&self, identity: &str, command: &[&str]) -> Ended {
        self.bartizan(&[&["run", "--as", identity, "--"], command].concat())
    }

    /// `bartizan status`.
    pub fn status(&self) -> Value {
        let ended = self.bartizan(&["status", "--output", "json"]);
        assert!(ended.code == 0, "status: {}", ended.stderr);
        serde_json::from_str(&ended.stdout).expect("status prints JSON")
    }

    /// Waits until every proxy serves the newest version.
    pub fn settle(&self) {
        let ended = self.bartizan(&["status", "--wait", "30s"]);
        assert!(ended.code == 0, "{}\n{}", ended.stderr, self.last_words());
    }

    /// One replica as `status` has it.
    ///
    /// # Panics
    /// When there is none of this name.
    pub fn workload(&self, namespace: &str, name: &str) -> Value {
        self.status()["workloads"]
            .as_array()
            .and_then(|workloads| {
                workloads.iter().find(|workload| {
                    workload["name"]["namespace"] == namespace && workload["name"]["name"] == name
                })
            })
            .unwrap_or_else(|| panic!("no workload {namespace}/{name}"))
            .clone()
    }

    /// What a proxy's own endpoint counts; empty while it does not answer.
    pub fn metrics(&self, namespace: &str, name: &str) -> String {
        let socket = self.state().join(format!("run/proxy-{namespace}-{name}.sock"));
        http::get_unix(&socket, "/metrics").map_or_else(|_| String::new(), |answer| answer.text())
    }

    /// The processes of the mesh whose arguments begin with these, the oldest first.
    pub fn processes(&self, arguments: &[&str]) -> Vec<i32> {
        let mut found: Vec<i32> = descendants(self.supervisor())
            .into_iter()
            .filter(|process| {
                let line = processes::arguments(*process);
                line.len() >= arguments.len()
                    && line.iter().zip(arguments).enumerate().all(|(at, (one, other))| {
                        // The program may be written with its folder.
                        if at == 0 {
                            one.rsplit('/').next() == Some(other)
                        } else {
                            one == other
                        }
                    })
            })
            .collect();
        found.sort_unstable();
        found
    }

    /// The control plane's process.
    pub fn control_plane(&self) -> i32 {
        let mut found = None;
        eventually("the control plane runs", Duration::from_secs(10), || {
            found = self.processes(&["bartizan", "internal", "control"]).pop();
            found.is_some()
        });
        found.unwrap_or_default()
    }

    /// The proxy of a replica: the one that holds its log's name and its socket.
    pub fn proxy_of(&self, namespace: &str, name: &str) -> i32 {
        let log = self.state().join(format!("logs/{namespace}/{name}/access.jsonl"));
        self.processes(&["bartizan", "internal", "proxy"])
            .into_iter()
            .find(|process| {
                std::fs::read_dir(format!("/proc/{process}/fd"))
                    .into_iter()
                    .flatten()
                    .flatten()
                    .any(|entry| std::fs::read_link(entry.path()).is_ok_and(|path| path == log))
            })
            .unwrap_or_else(|| panic!("no proxy of {namespace}/{name} runs"))
    }

    /// A command that stands on the mesh's wire: in the network of its bridge, where no capture and no proxy is.
    pub fn on_the_wire(&self, program: &str) -> Command {
        let found = self.processes(&["bartizan", "internal", "sandbox-init"]);
        let outer = *found.first().expect("the sandbox runs");
        let enter = |target: i32, program: &str| {
            let mut command = Command::new("nsenter");
            command.args(["--target", &target.to_string(), "--net"]);
            if !nix::unistd::geteuid().is_root() {
                command.args(["--user", "--preserve-credentials"]);
            }
            command.arg(program);
            command
        };
        // Its child is the first process of the sandbox's own namespaces; a process that has just begun may not be there yet.
        let mut target = None;
        eventually("a process stands at the bridge", Duration::from_secs(10), || {
            target = descendants(outer).into_iter().find(|process| {
                let mut look = enter(*process, "ip");
                look.args(["link", "show", "mesh0"]);
                run(look, Duration::from_secs(10)).code == 0
            });
            target.is_some()
        });
        let target = target.unwrap_or_default();
        // The bridge itself has no address: whoever stands on the wire takes one. Its link address must be a fixed one, for
        // it changes with the ports otherwise.
        let mut address = enter(target, "sh");
        address.args([
            "-c",
            "ip link set mesh0 address 02:00:00:00:00:fe && ip address replace 10.66.250.1/16 dev mesh0",
        ]);
        let ended = run(address, Duration::from_secs(10));
        assert_eq!(ended.code, 0, "{}", ended.stderr);
        enter(target, program)
    }

    /// A token by the example's issuer, for its service and for a user `ana`, with more arguments of `bartizan token sign`.
    pub fn token(&self, more: &[&str]) -> String {
        let mut arguments = vec!["token", "sign", "demo-issuer.jwk"];
        for (name, value) in [
            ("--issuer", "https://identity.mission.example"),
            ("--subject", "ana"),
            ("--audience", "mission-service-api"),
        ] {
            if !more.contains(&name) {
                arguments.extend([name, value]);
            }
        }
        arguments.extend(more);
        let ended = self.bartizan(&arguments);
        assert!(ended.code == 0, "{}", ended.stderr);
        ended.stdout.trim().to_owned()
    }

    /// The header that lets into the example's gateway.
    pub fn cleared(&self) -> String {
        format!(
            "Authorization: Bearer {}",
            self.token(&["--claim", "clearance_level=SECRET"])
        )
    }

    /// Where the example's gateway listens.
    pub fn gateway(&self) -> String {
        self.summary["status"]["gateways"][0]["addresses"][0]
            .as_str()
            .expect("the example has a gateway")
            .to_owned()
    }

    /// The mesh's state directory.
    pub fn state(&self) -> PathBuf {
        self.folder.path().join("state")
    }

    /// All lines of all access logs.
    pub fn access_log(&self) -> Vec<Value> {
        let ended = self.bartizan(&["logs", "--access", "--tail", "100000"]);
        ended
            .stdout
            .lines()
            .map(|line| serde_json::from_str(line).expect("access logs are JSON"))
            .collect()
    }

    /// Writes one of the documents, as an editor does: whole, by rename.
    pub fn write_document(&self, name: &str, text: &str) {
        let path = self.documents.join(name);
        let next = self.documents.join(format!(".{name}.next"));
        std::fs::write(&next, text).expect("write a document");
        own(&next, self.privilege);
        std::fs::rename(&next, &path).expect("rename a document");
    }

    /// Changes one of the documents.
    pub fn edit_document(&self, name: &str, from: &str, to: &str) {
        let text = std::fs::read_to_string(self.documents.join(name)).expect("read a document");
        assert!(text.contains(from), "{name} has no `{from}`");
        self.write_document(name, &text.replace(from, to));
    }

    /// Ends the mesh as a user does.
    pub fn down(&self) -> Ended {
        self.bartizan(&["down"])
    }

    /// The process id of the supervisor.
    pub fn supervisor(&self) -> i32 {
        let state = self.state().display().to_string();
        processes_of("--detached-child")
            .into_iter()
            .find(|(_, arguments)| arguments.contains(&state))
            .map(|(process, _)| process)
            .expect("the supervisor runs")
    }

    /// What the supervisor, the control plane and all proxies logged, for a failed assertion.
    pub fn last_words(&self) -> String {
        let mut out = String::new();
        let mut folders = vec![self.state().join("logs")];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
                let path = entry.path();
                if path.is_dir() {
                    folders.push(path);
                } else if path.extension().is_some_and(|extension| extension == "log") {
                    let text = std::fs::read_to_string(&path).unwrap_or_default();
                    let lines: Vec<&str> = text.lines().rev().take(15).collect();
                    out += &format!("--- {}\n", path.display());
                    for line in lines.iter().rev() {
                        out += &format!("{line}\n");
                    }
                }
            }
        }
        out
    }
}

impl Drop for Mesh {
    fn drop(&mut self) {
        self.down();
    }
}

/// Waits until `condition` holds.
///
/// # Panics
/// When it does not within the time.
pub fn eventually(what: &str, within: Duration, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + within;
    while !condition() {
        assert!(Instant::now() < deadline, "not within {within:?}: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The binary under test, where a user without privileges can reach it.
pub fn binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| {
        let built = std::env::var_os("BARTIZAN_BINARY").map_or_else(
            || {
                // target/debug/deps/it-… -> target/debug/bartizan
                let test = std::env::current_exe().expect("this program has a path");
                test.parent()
                    .and_then(Path::parent)
                    .expect("a target folder")
                    .join("bartizan")
            },
            PathBuf::from,
        );
        assert!(
            built.exists(),
            "{} is not built: cargo build -p bartizan",
            built.display()
        );
        let folder = std::env::temp_dir().join(format!("bartizan-tests-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a folder for the binary");
        std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o755))
            .expect("a folder for everybody");
        let copy = folder.join("bartizan");
        std::fs::copy(&built, &copy).expect("copy the binary");
        std::fs::set_permissions(&copy, std::fs::Permissions::from_mode(0o755))
            .expect("a binary for everybody");
        copy
    })
}

/// The top of the repository.
pub fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("tests/ has a parent")
        .to_owned()
}

/// A command without privileges, also where the tests run as root.
pub fn unprivileged(privilege: Privilege, program: &Path) -> Command {
    if privilege == Privilege::Own || !nix::unistd::geteuid().is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    let user = USER.to_string();
    command
        .args([
            "--reuid",
            &user,
            "--regid",
            &user,
            "--clear-groups",
            "--bounding-set",
            "-all",
            "--",
        ])
        .arg(program);
    command
}

fn own(path: &Path, privilege: Privilege) {
    if privilege == Privilege::Own || !nix::unistd::geteuid().is_root() {
        return;
    }
    let user = Some(nix::unistd::Uid::from_raw(USER));
    let group = Some(nix::unistd::Gid::from_raw(USER));
    nix::unistd::chown(path, user, group).expect("give a file away");
    if path.is_dir() {
        for entry in std::fs::read_dir(path).expect("read a folder").flatten() {
            own(&entry.path(), privilege);
        }
    }
}

fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("make a folder");
    for entry in std::fs::read_dir(from)
        .unwrap_or_else(|error| panic!("{}: {error}", from.display()))
        .flatten()
    {
        let (path, target) = (entry.path(), to.join(entry.file_name()));
        if path.is_symlink() || entry.file_name() == ".venv" {
            // Straight to where it leads: what is between may be out of a pod's sight.
            let place = path.canonicalize().expect("a link that leads somewhere");
            std::os::unix::fs::symlink(place, &target).expect("link a folder");
        } else if path.is_dir() {
            copy_folder(&path, &target);
        } else {
            std::fs::copy(&path, &target).expect("copy a file");
        }
    }
}
