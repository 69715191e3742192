//! A container's `/dev` and `/proc`: what programs expect, nothing that reaches the host.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use nix::mount::{MsFlags, mount};

use super::root::{attach, c_path, memory, memory_with, on_host, read_only_tree};
use crate::sys::{self, MountAttributes};

/// `/dev` with the devices that every program expects and terminals of its own.
pub(super) fn devices() -> io::Result<()> {
    memory_with(
        Path::new("/dev"),
        "mode=0755",
        MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC,
    )?;
    for name in ["null", "zero", "full", "random", "urandom", "tty"] {
        let target = Path::new("/dev").join(name);
        let tree = sys::clone_tree(&c_path(&on_host(&target))?)?;
        File::create(&target)?;
        attach(&tree, &target)?;
    }
    for (link, target) in [
        ("fd", "/proc/self/fd"),
        ("stdin", "/proc/self/fd/0"),
        ("stdout", "/proc/self/fd/1"),
        ("stderr", "/proc/self/fd/2"),
        ("ptmx", "pts/ptmx"),
    ] {
        symlink(target, Path::new("/dev").join(link))?;
    }
    for directory in ["/dev/pts", "/dev/shm", "/dev/mqueue"] {
        fs::create_dir(directory)?;
    }
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC;
    mount(
        Some("devpts"),
        "/dev/pts",
        Some("devpts"),
        flags,
        Some("newinstance,ptmxmode=0666,mode=0620"),
    )?;
    memory(Path::new("/dev/shm"), "mode=1777")
}

/// `/proc` of the pod's PID namespace, without what reaches the host.
pub(super) fn processes() -> io::Result<()> {
    let proc = Path::new("/proc");
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("proc"), proc, Some("proc"), flags, None::<&str>)?;
    for entry in fs::read_dir(proc)? {
        let path = entry?.path();
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else {
            continue;
        };
        if name.parse::<u32>().is_ok() || PROC_MASKED.contains(&name) {
            continue;
        }
        // Of what is not a process's, nothing is written: with a real root the host's user id alone would permit it.
        let kind = fs::symlink_metadata(&path)?;
        if kind.is_dir() || (kind.is_file() && kind.permissions().mode() & 0o222 != 0) {
            attach(&read_only_tree(&path)?, &path)?;
        }
    }
    for name in PROC_MASKED {
        let path = proc.join(name);
        if path.exists() {
            let null = sys::clone_tree(&c_path(Path::new("/dev/null"))?)?;
            sys::restrict_tree(null.as_fd(), MountAttributes(MountAttributes::READ_ONLY))?;
            attach(&null, &path)?;
        }
    }
    Ok(())
}

/// Files of `/proc` that tell about the host or act on it.
const PROC_MASKED: [&str; 16] = [
    "kcore",
    "keys",
    "key-users",
    "kallsyms",
    "kmsg",
    "sysrq-trigger",
    "timer_list",
    "sched_debug",
    "latency_stats",
    "config.gz",
    "kpagecount",
    "kpageflags",
    "kpagecgroup",
    "slabinfo",
    "vmallocinfo",
    "modules",
];
