//! A container's root file system, put together in its own mount namespace.
//!
//! A memory file system holds the directories; the host's programs and libraries are bound into it read-only, `/etc`
//! entry by entry with what is the pod's own, then declared paths, then volumes. Volumes come last, when the host's tree
//! is already detached, because what an application put into one (a symbolic link, say) must not lead anywhere.
//! It is made in the mesh's user namespace, so the container's own can change none of it.

use std::ffi::CString;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, PermissionsExt, symlink};
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::stat::{Mode, mkdirat, umask};
use nix::unistd::{chdir, pivot_root};

use super::kernel_files::{devices, processes};
use super::pod::{Pod, find_volume};
use super::volume::is_inside;
use crate::message::ContainerAsk;
use crate::spec::VolumeContent;
use crate::sys::{self, MountAttributes};

/// Where the host's tree is while the new root is put together.
const HOST: &str = "/.host";

/// Directories of programs and libraries, bound whole where the host has them.
const SYSTEM: [&str; 9] = [
    "/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/opt", "/nix",
];

/// Entries of `/etc` that hold secrets or say what host this is.
const ETC_MASKED: [&str; 24] = [
    "shadow",
    "shadow-",
    "gshadow",
    "gshadow-",
    "passwd-",
    "group-",
    "sudoers",
    "sudoers.d",
    "ssh",
    "crypttab",
    "krb5.keytab",
    "wireguard",
    "NetworkManager",
    "docker",
    "containerd",
    "kubernetes",
    "rancher",
    "machine-id",
    "subuid",
    "subgid",
    "netplan",
    "polkit-1",
    "security",
    "letsencrypt",
];

/// Private, writable and empty.
const PRIVATE: [(&str, &str); 4] = [
    ("/tmp", "mode=1777"),
    ("/run", "mode=0755"),
    ("/var/tmp", "mode=1777"),
    ("/home/app", "mode=0700"),
];

/// Everything that a root is made of, resolved before anything is mounted.
pub(super) struct Plan {
    scratch: PathBuf,
    masked: Vec<PathBuf>,
    declared: Vec<Declared>,
    volumes: Vec<VolumePlan>,
    /// Whose the private directories are, where not everything is one user's anyway.
    owner: Option<(u32, u32)>,
    etc: Vec<(&'static str, String)>,
}

struct Declared {
    path: PathBuf,
    writable: bool,
}

struct VolumePlan {
    source: PathBuf,
    sub_path: Option<PathBuf>,
    target: PathBuf,
    read_only: bool,
}

impl Plan {
    /// # Errors
    /// A declared path that does not exist or must not be seen; a volume that the pod does not have.
    pub(super) fn new(
        scratch: &Path,
        masked: &[PathBuf],
        direct: bool,
        pod: &Pod,
        ask: &ContainerAsk,
    ) -> Result<Self, String> {
        let mut declared = Vec::new();
        let paths = ask
            .read
            .iter()
            .map(|path| (path, false))
            .chain(ask.write.iter().map(|path| (path, true)));
        for (path, writable) in paths {
            declared.push(Declared {
                path: declare(path, scratch, masked)?,
                writable,
            });
        }
        // A writable path below a readable one must come after it.
        declared.sort_by_key(|one| (one.path.components().count(), one.writable));
        let mut volumes = Vec::new();
        for wanted in &ask.volumes {
            let (source, volume) = find_volume(pod, &wanted.volume)?;
            let sub_path = wanted
                .sub_path
                .as_deref()
                .filter(|path| !path.is_empty())
                .map(PathBuf::from);
            if let Some(path) = sub_path.as_deref().filter(|path| !is_inside(path)) {
                return Err(format!(
                    "sub path `{}` leaves volume `{}`",
                    path.display(),
                    wanted.volume
                ));
            }
            let target = clean(&wanted.path)
                .filter(|target| target.parent().is_some())
                .ok_or_else(|| {
                    format!(
                        "volume `{}` cannot be mounted at `{}`",
                        wanted.volume,
                        wanted.path.display()
                    )
                })?;
            let read_only = wanted.read_only || matches!(volume.content, VolumeContent::Files(_));
            volumes.push(VolumePlan {
                source,
                sub_path,
                target,
                read_only,
            });
        }
        volumes.sort_by_key(|volume| volume.target.components().count());
        Ok(Self {
            scratch: scratch.to_owned(),
            masked: masked.to_vec(),
            declared,
            volumes,
            owner: direct.then_some((ask.run_as_user, ask.run_as_group)),
            etc: etc(pod, ask.run_as_user, ask.run_as_group),
        })
    }
}

fn declare(path: &Path, scratch: &Path, masked: &[PathBuf]) -> Result<PathBuf, String> {
    let shown = path.display();
    if !path.is_absolute() {
        return Err(format!("declared path `{shown}` is not absolute"));
    }
    let real = fs::canonicalize(path).map_err(|error| format!("declared path `{shown}`: {error}"))?;
    let within = |place: &Path| real.starts_with(place);
    if real.parent().is_none()
        || ["/proc", "/sys", "/dev"]
            .iter()
            .any(|place| within(Path::new(place)))
    {
        return Err(format!(
            "declared path `{shown}` cannot be shared with a container"
        ));
    }
    if within(scratch) || masked.iter().any(|place| within(place)) {
        return Err(format!(
            "declared path `{shown}` lies in the mesh's state directory"
        ));
    }
    if fs::metadata(&real).is_ok_and(|meta| meta.file_type().is_socket()) {
        return Err(format!(
            "declared path `{shown}` is a socket of the host: containers talk through the mesh only"
        ));
    }
    Ok(real)
}

/// The files of `/etc` that are the pod's own.
fn etc(pod: &Pod, user: u32, group: u32) -> Vec<(&'static str, String)> {
    let mut users = String::from("root:x:0:0:root:/root:/bin/sh\n");
    let mut groups = String::from("root:x:0:\n");
    if user != 0 && user != 65534 {
        users.push_str(&format!(
            "app:x:{user}:{group}:app:{}:/bin/sh\n",
            crate::CONTAINER_HOME
        ));
    }
    if group != 0 && group != 65534 {
        groups.push_str(&format!("app:x:{group}:\n"));
    }
    users.push_str("nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n");
    groups.push_str("nogroup:x:65534:\n");
    vec![
        ("resolv.conf", pod.spec.resolv_conf.clone()),
        ("hosts", pod.spec.hosts.clone()),
        ("hostname", format!("{}\n", pod.spec.hostname)),
        ("nsswitch.conf", "passwd: files\ngroup: files\nshadow: files\nhosts: files dns\nservices: files\nprotocols: files\n".into()),
        ("host.conf", "multi on\n".into()),
        ("passwd", users),
        ("group", groups),
    ]
}

/// Makes the root and enters it. The process must be in a mount namespace of its own and in the pod's PID namespace.
pub(super) fn assemble(plan: &Plan) -> Result<(), String> {
    let step = |what: &'static str| move |error: io::Error| format!("{what}: {error}");
    enter_root(&plan.scratch.join("root"), plan.owner).map_err(step("make its root"))?;
    let mut root = Root {
        exploded: Vec::new(),
        masked: plan.masked.clone(),
    };
    system().map_err(step("bind the system's directories"))?;
    root.etc(&plan.etc).map_err(step("make /etc"))?;
    devices().map_err(step("make /dev"))?;
    processes().map_err(step("make /proc"))?;
    binary(&plan.scratch).map_err(step("bind the mesh's binary"))?;
    for Declared { path, writable } in &plan.declared {
        root.bind(path, *writable)
            .map_err(|error| format!("bind declared path `{}`: {error}", path.display()))?;
    }
    let mut volumes = Vec::new();
    for volume in &plan.volumes {
        let at = |error: io::Error| format!("mount a volume at `{}`: {error}", volume.target.display());
        let tree = volume_tree(volume).map_err(at)?;
        let directory = is_directory(&tree).map_err(at)?;
        let nested = plan
            .volumes
            .iter()
            .any(|other| other.target != volume.target && volume.target.starts_with(&other.target));
        if !nested {
            root.place(&volume.target, directory).map_err(at)?;
        }
        volumes.push((volume, tree, directory, nested));
    }
    root.mask().map_err(step("mask the state directory"))?;
    leave_host().map_err(step("leave the host's file system"))?;
    for (volume, tree, directory, nested) in volumes {
        let at = |error: io::Error| format!("mount a volume at `{}`: {error}", volume.target.display());
        if nested {
            make_path(&volume.target, directory).map_err(at)?;
        }
        attach(&tree, &volume.target).map_err(at)?;
    }
    root.seal().map_err(step("make its root read-only"))
}

fn enter_root(place: &Path, owner: Option<(u32, u32)>) -> io::Result<()> {
    memory(place, "mode=0755")?;
    chdir(place)?;
    let host = place.join(HOST.trim_start_matches('/'));
    fs::create_dir(&host)?;
    pivot_root(place, &host)?;
    chdir("/")?;
    for directory in [
        "proc", "dev", "sys", "tmp", "run", "home", "home/app", "root", "var", "etc", "mnt", "srv",
    ] {
        fs::create_dir(Path::new("/").join(directory))?;
    }
    for directory in ["tmp", "log", "lib", "cache"] {
        fs::create_dir(Path::new("/var").join(directory))?;
    }
    symlink("/run", "/var/run")?;
    symlink("/run/lock", "/var/lock")?;
    for (path, options) in PRIVATE {
        match owner {
            Some((user, group)) => memory(Path::new(path), &format!("{options},uid={user},gid={group}"))?,
            None => memory(Path::new(path), options)?,
        }
    }
    fs::create_dir("/run/lock")?;
    fs::set_permissions("/run/lock", fs::Permissions::from_mode(0o1777))
}

/// The host's programs and libraries.
fn system() -> io::Result<()> {
    for path in SYSTEM {
        let path = Path::new(path);
        if fs::symlink_metadata(on_host(path)).is_ok() {
            bind_entry(&on_host(path), path)?;
        }
    }
    let cpus = Path::new("/sys/devices/system/cpu");
    if on_host(cpus).is_dir() {
        make_path(cpus, true)?;
        attach(&read_only_tree(&on_host(cpus))?, cpus)?;
    }
    Ok(())
}

/// The new root while it is put together.
struct Root {
    /// Directories that became memory file systems with the host's entries, to be sealed at the end.
    exploded: Vec<PathBuf>,
    masked: Vec<PathBuf>,
}

impl Root {
    /// `/etc` with the host's entries that are harmless and the pod's own files.
    fn etc(&mut self, own: &[(&'static str, String)]) -> io::Result<()> {
        let etc = Path::new("/etc");
        let skip = |name: &str| ETC_MASKED.contains(&name) || own.iter().any(|(file, _)| *file == name);
        self.explode(etc, &skip)?;
        for (name, content) in own {
            fs::write(etc.join(name), content)?;
        }
        let private = etc.join("ssl/private");
        if private.is_dir() {
            memory(&private, "mode=0555,size=4k")?;
        }
        Ok(())
    }

    /// Replaces a directory by one in memory that holds the host's entries, so that more can be added.
    fn explode(&mut self, directory: &Path, skip: &dyn Fn(&str) -> bool) -> io::Result<()> {
        memory(directory, "mode=0755")?;
        self.exploded.push(directory.to_owned());
        let host = on_host(directory);
        let entries = match fs::read_dir(&host) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        };
        for entry in entries {
            let entry = entry?;
            let target = directory.join(entry.file_name());
            if self.masked.contains(&target) || entry.file_name().to_str().is_some_and(skip) {
                continue;
            }
            bind_entry(&entry.path(), &target)?;
        }
        Ok(())
    }

    /// Binds a host path at the same place.
    fn bind(&mut self, path: &Path, writable: bool) -> io::Result<()> {
        let host = on_host(path);
        let tree = sys::clone_tree(&c_path(&host)?)?;
        let flags = MountAttributes::NO_SUID | MountAttributes::NO_DEVICES;
        let flags = if writable {
            flags
        } else {
            flags | MountAttributes::READ_ONLY
        };
        sys::restrict_tree(tree.as_fd(), MountAttributes(flags))?;
        self.place(path, host.is_dir())?;
        attach(&tree, path)
    }

    /// Makes a directory or file where something will be mounted, exploding a read-only directory where it must.
    fn place(&mut self, path: &Path, directory: bool) -> io::Result<()> {
        let mut at = PathBuf::from("/");
        let mut parts = path
            .components()
            .filter(|part| matches!(part, Component::Normal(_)))
            .peekable();
        while let Some(part) = parts.next() {
            let next = at.join(part);
            if fs::symlink_metadata(&next).is_ok() {
                at = if parts.peek().is_some() {
                    fs::canonicalize(&next)?
                } else {
                    next
                };
                continue;
            }
            let is_file = parts.peek().is_none() && !directory;
            let make = |path: &Path| {
                if is_file {
                    File::create(path).map(|_| ())
                } else {
                    fs::create_dir(path)
                }
            };
            match make(&next) {
                Err(error) if error.kind() == io::ErrorKind::ReadOnlyFilesystem => {
                    self.explode(&at, &|_| false)?;
                    make(&next)?;
                }
                other => other?,
            }
            at = next;
        }
        Ok(())
    }

    /// Hides what no container may see, wherever a declared path has brought it in.
    fn mask(&self) -> io::Result<()> {
        for path in &self.masked {
            match fs::symlink_metadata(path) {
                Ok(meta) if meta.is_dir() => {
                    memory(path, "mode=0555,size=4k")?;
                    sys::restrict_mount(&c_path(path)?, MountAttributes(MountAttributes::READ_ONLY))?;
                }
                Ok(_) => attach(
                    &sys::clone_tree(&c_path(&on_host(Path::new("/dev/null")))?)?,
                    path,
                )?,
                Err(_) => {}
            }
        }
        Ok(())
    }

    /// Makes everything of ours that is not meant for writing read-only.
    fn seal(&self) -> io::Result<()> {
        let own = [Path::new("/"), Path::new("/dev")];
        for path in own.into_iter().chain(self.exploded.iter().map(PathBuf::as_path)) {
            sys::restrict_mount(&c_path(path)?, MountAttributes(MountAttributes::READ_ONLY))?;
        }
        Ok(())
    }
}

/// Copies a symbolic link, binds a directory or file read-only; sockets, pipes and devices are left out, and what has
/// gone since its directory was listed.
fn bind_entry(host: &Path, target: &Path) -> io::Result<()> {
    match try_bind_entry(host, target) {
        Err(error) if error.kind() == io::ErrorKind::NotFound && fs::symlink_metadata(host).is_err() => {
            Ok(())
        }
        other => other,
    }
}

fn try_bind_entry(host: &Path, target: &Path) -> io::Result<()> {
    let kind = fs::symlink_metadata(host)?.file_type();
    if kind.is_symlink() {
        return symlink(fs::read_link(host)?, target);
    }
    if !kind.is_dir() && !kind.is_file() {
        return Ok(());
    }
    let tree = read_only_tree(host)?;
    if kind.is_dir() {
        fs::create_dir(target)?;
    } else {
        File::create(target)?;
    }
    attach(&tree, target)
}

/// By its directory: a file that the host has replaced since (a rebuild, an upgrade) can be mounted no second time by itself.
fn binary(scratch: &Path) -> io::Result<()> {
    let place = Path::new(crate::CONTAINER_BINARY)
        .parent()
        .unwrap_or(Path::new("/"));
    make_path(place, true)?;
    attach(&read_only_tree(&on_host(&scratch.join("bin")))?, place)
}

/// The part of a volume that is wanted, found without following any symbolic link, as the application may have made some.
fn volume_tree(volume: &VolumePlan) -> io::Result<OwnedFd> {
    let path_only = OFlag::O_PATH | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW;
    let mut place: OwnedFd = openat2(
        nix::fcntl::AT_FDCWD,
        &on_host(&volume.source),
        OpenHow::new().flags(path_only),
    )?;
    let strict = OpenHow::new()
        .flags(path_only)
        .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS);
    for part in volume.sub_path.iter().flat_map(|path| path.components()) {
        place = match openat2(&place, part.as_os_str(), strict) {
            // Kubernetes makes a sub path that is missing.
            Err(Errno::ENOENT) => {
                let mask = umask(Mode::empty());
                let made = mkdirat(&place, part.as_os_str(), Mode::from_bits_truncate(0o777));
                umask(mask);
                made?;
                openat2(&place, part.as_os_str(), strict)?
            }
            other => other?,
        };
    }
    let tree = sys::clone_tree_at(place.as_fd())?;
    let flags = MountAttributes::NO_SUID | MountAttributes::NO_DEVICES;
    let flags = if volume.read_only {
        flags | MountAttributes::READ_ONLY
    } else {
        flags
    };
    sys::restrict_tree(tree.as_fd(), MountAttributes(flags))?;
    Ok(tree)
}

fn is_directory(tree: &OwnedFd) -> io::Result<bool> {
    let meta = File::from(tree.try_clone()?).metadata()?;
    if meta.file_type().is_symlink() {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "it is a symbolic link",
        ));
    }
    Ok(meta.is_dir())
}

fn leave_host() -> io::Result<()> {
    umount2(HOST, MntFlags::MNT_DETACH)?;
    fs::remove_dir(HOST)
}

/// Makes a directory or an empty file with its parents.
fn make_path(path: &Path, directory: bool) -> io::Result<()> {
    if directory {
        return fs::create_dir_all(path);
    }
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    if !path.exists() {
        File::create(path)?;
    }
    Ok(())
}

pub(super) fn read_only_tree(path: &Path) -> io::Result<OwnedFd> {
    let tree = sys::clone_tree(&c_path(path)?)?;
    let flags = MountAttributes::READ_ONLY | MountAttributes::NO_SUID | MountAttributes::NO_DEVICES;
    sys::restrict_tree(tree.as_fd(), MountAttributes(flags))?;
    Ok(tree)
}

pub(super) fn attach(tree: &OwnedFd, path: &Path) -> io::Result<()> {
    sys::attach_tree(tree.as_fd(), &c_path(path)?)
}

pub(super) fn memory(path: &Path, options: &str) -> io::Result<()> {
    memory_with(path, options, MsFlags::MS_NOSUID | MsFlags::MS_NODEV)
}

pub(super) fn memory_with(path: &Path, options: &str, flags: MsFlags) -> io::Result<()> {
    mount(Some("bartizan"), path, Some("tmpfs"), flags, Some(options))?;
    Ok(())
}

pub(super) fn on_host(path: &Path) -> PathBuf {
    let mut host = PathBuf::from(HOST);
    host.extend(
        path.components()
            .filter(|part| matches!(part, Component::Normal(_))),
    );
    host
}

/// An absolute path without `.`; nothing when it has `..` or is relative.
fn clean(path: &Path) -> Option<PathBuf> {
    if !path.is_absolute() {
        return None;
    }
    let mut clean = PathBuf::from("/");
    for (at, part) in path.components().enumerate() {
        match (at, part) {
            (0, Component::RootDir) => {}
            (1.., Component::Normal(name)) => clean.push(name),
            _ => return None,
        }
    }
    Some(clean)
}

pub(super) fn c_path(path: &Path) -> io::Result<CString> {
    Ok(CString::new(path.as_os_str().as_bytes())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_absolute_paths_without_dots_are_targets() {
        assert_eq!(clean(Path::new("/etc//app/")), Some(PathBuf::from("/etc/app")));
        for path in ["etc", "/etc/../x", "", ".."] {
            assert_eq!(clean(Path::new(path)), None, "{path}");
        }
    }

    #[test]
    fn host_paths_lie_below_the_old_root() {
        assert_eq!(on_host(Path::new("/usr/bin")), PathBuf::from("/.host/usr/bin"));
    }
}
