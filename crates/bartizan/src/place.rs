//! Where a mesh keeps its things: the state directory (0700) and the run directory with its sockets.

use std::fs::{DirBuilder, File, OpenOptions};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use nix::fcntl::{Flock, FlockArg};

use crate::args::MeshArgs;
use crate::exit::{Exit, NOT_RUNNING};

/// A socket's path has at most 107 bytes; our longest file name below the run directory has 60.
const LONGEST_RUN_DIRECTORY: usize = 46;

/// A first start writes a tenth of it.
const LEAST_SPACE: u64 = 4 * 1024 * 1024;

/// The directories of one mesh.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    /// Its name.
    pub(crate) mesh: String,
    /// CA, versions, snapshots, logs.
    pub(crate) state: PathBuf,
    /// Sockets.
    pub(crate) run: PathBuf,
    /// Whether the state directory was named on the command line, so that other commands need it too.
    pub(crate) given: bool,
}

impl Place {
    /// Works out the directories; makes nothing.
    ///
    /// # Errors
    /// When the name is not one, or there is no home to put the state in.
    pub(crate) fn of(args: &MeshArgs) -> anyhow::Result<Self> {
        let name =
            bartizan_types::Name::parse(&args.mesh).with_context(|| format!("--mesh `{}`", args.mesh))?;
        let state = match &args.state {
            Some(state) => {
                std::path::absolute(state).with_context(|| format!("--state {}", state.display()))?
            }
            None => state_home()?.join("bartizan").join(name.as_str()),
        };
        let run = state.join("run");
        let run = if run.as_os_str().len() <= LONGEST_RUN_DIRECTORY {
            run
        } else {
            short_run_directory(&state)
        };
        Ok(Self {
            mesh: args.mesh.clone(),
            given: args.state.is_some() && std::env::var_os("BARTIZAN_STATE").is_none(),
            state,
            run,
        })
    }

    /// The control plane's socket.
    pub(crate) fn control_socket(&self) -> PathBuf {
        self.run.join("control.sock")
    }

    /// The supervisor's socket.
    pub(crate) fn supervisor_socket(&self) -> PathBuf {
        self.run.join("supervisor.sock")
    }

    /// The address of the admin page with the token of this run.
    pub(crate) fn admin_file(&self) -> PathBuf {
        self.run.join("admin.url")
    }

    /// What containers and proxies print.
    pub(crate) fn logs(&self) -> PathBuf {
        self.state.join("logs")
    }

    /// Last good snapshots.
    pub(crate) fn snapshots(&self) -> PathBuf {
        self.state.join("snapshots")
    }

    /// An empty directory for the sandbox.
    pub(crate) fn scratch(&self) -> PathBuf {
        self.state.join("sandbox")
    }

    /// Makes the directories and takes the mesh's lock, which is held as long as the returned file.
    ///
    /// # Errors
    /// When they cannot be made, belong to somebody else, or a mesh of this name runs.
    pub(crate) fn occupy(&self) -> anyhow::Result<Flock<File>> {
        for directory in [
            &self.state,
            &self.run,
            &self.logs(),
            &self.snapshots(),
            &self.scratch(),
        ] {
            private_directory(directory)?;
        }
        enough_space(&self.state)?;
        let path = self.state.join("lock");
        let file = OpenOptions::new()
            .create(true)
            .write(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .with_context(|| format!("open {}", path.display()))?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => Ok(lock),
            Err((_, nix::errno::Errno::EWOULDBLOCK)) => bail!(
                "a mesh `{}` runs already; see it with `bartizan status`, end it with `bartizan down`, or give this one another name with `--mesh NAME`",
                self.mesh
            ),
            Err((_, error)) => Err(error).with_context(|| format!("lock {}", path.display())),
        }
    }

    /// Whether a mesh of this name holds the lock.
    pub(crate) fn is_occupied(&self) -> bool {
        let Ok(file) = File::open(self.state.join("lock")) else {
            return false;
        };
        matches!(
            Flock::lock(file, FlockArg::LockSharedNonblock),
            Err((_, nix::errno::Errno::EWOULDBLOCK))
        )
    }

    /// # Errors
    /// With the exit code for it, when no mesh of this name runs.
    pub(crate) fn must_run(&self) -> anyhow::Result<()> {
        if self.is_occupied() {
            return Ok(());
        }
        let name = if self.mesh == "default" {
            "no mesh runs".to_owned()
        } else {
            format!("no mesh `{}` runs", self.mesh)
        };
        Err(Exit::error(
            NOT_RUNNING,
            format!("{name}; start one with `bartizan up DIR`"),
        ))
    }
}

fn state_home() -> anyhow::Result<PathBuf> {
    let absolute = |name: &str| {
        std::env::var_os(name)
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
    };
    absolute("XDG_STATE_HOME")
        .or_else(|| absolute("HOME").map(|home| home.join(".local/state")))
        .context(
            "neither XDG_STATE_HOME nor HOME is set: say where to keep the mesh's state with --state DIR",
        )
}

/// Below /tmp, named after the user and a hash of the state directory's path.
fn short_run_directory(state: &Path) -> PathBuf {
    let hash = bartizan_types::fnv1a(state.as_os_str().as_encoded_bytes());
    PathBuf::from(format!("/tmp/bartizan-{}-{hash:016x}", nix::unistd::geteuid()))
}

/// A mesh that cannot keep its CA, its versions and its logs from the first moment is not begun.
fn enough_space(directory: &Path) -> anyhow::Result<()> {
    let Ok(numbers) = nix::sys::statvfs::statvfs(directory) else {
        return Ok(()); // what cannot be asked is tried
    };
    let free = numbers.blocks_available().saturating_mul(numbers.fragment_size());
    if free < LEAST_SPACE {
        bail!(
            "only {} KiB are free in {}: its keys, versions and logs would not fit; free some space there, or keep the mesh's state elsewhere with --state DIR",
            free / 1024,
            directory.display()
        );
    }
    Ok(())
}

/// Makes a directory that only we can enter; an existing one must be ours.
fn private_directory(path: &Path) -> anyhow::Result<()> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .with_context(|| {
            format!(
                "make {} (--state DIR keeps the mesh's state elsewhere)",
                path.display()
            )
        })?;
    let metadata = std::fs::symlink_metadata(path).with_context(|| format!("look at {}", path.display()))?;
    if !metadata.is_dir() || metadata.uid() != nix::unistd::geteuid().as_raw() {
        bail!(
            "{} is not a directory of ours: choose another with --state DIR",
            path.display()
        );
    }
    if metadata.permissions().mode() & 0o077 != 0 {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o700))
            .with_context(|| format!("make {} private", path.display()))?;
    }
    Ok(())
}
