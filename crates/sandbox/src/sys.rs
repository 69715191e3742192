//! The system calls that need `unsafe`, each behind a safe function.
#![expect(
    unsafe_code,
    reason = "mount, capability, fork and descriptor calls have no safe binding"
)]

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};

use nix::unistd::{ForkResult, Pid};

/// Owns a descriptor that was just received from the kernel.
pub(crate) fn own(descriptor: RawFd) -> OwnedFd {
    // SAFETY: callers pass numbers that the kernel has just put into this process's table for them alone.
    unsafe { OwnedFd::from_raw_fd(descriptor) }
}

/// Starts `command` with `descriptor` open at its present number, which is appended to the arguments.
pub(crate) fn spawn_inheriting(command: &mut Command, descriptor: BorrowedFd<'_>) -> io::Result<Child> {
    let number = descriptor.as_raw_fd();
    command.arg(number.to_string());
    // SAFETY: the closure only makes one async-signal-safe system call.
    unsafe {
        command.pre_exec(move || {
            if libc::fcntl(number, libc::F_SETFD, 0) == -1 {
                return Err(io::Error::last_os_error());
            }
            Ok(())
        });
    }
    command.spawn()
}

/// Forks a process that has one thread. In the child `body` runs and its result is the exit code.
///
/// # Errors
/// The kernel's.
pub(crate) fn fork_single_threaded(body: impl FnOnce() -> i32) -> io::Result<Pid> {
    // SAFETY: callers are the sandbox's first process and its children, which never start a thread (their entry point
    // runs before any exists), so the child may do what the parent may.
    match unsafe { nix::unistd::fork() }? {
        ForkResult::Parent { child } => Ok(child),
        ForkResult::Child => exit_now(body()),
    }
}

/// Ends this process without running destructors or exit handlers of its parent's copy.
pub(crate) fn exit_now(code: i32) -> ! {
    // SAFETY: always allowed.
    unsafe { libc::_exit(code) }
}

/// What `mount_setattr(2)` adds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct MountAttributes(pub(crate) u64);

impl MountAttributes {
    pub(crate) const READ_ONLY: u64 = 0x1;
    pub(crate) const NO_SUID: u64 = 0x2;
    pub(crate) const NO_DEVICES: u64 = 0x4;
}

/// A detached copy of the mount tree at `path` (`open_tree(2)`); the last component is not followed.
pub(crate) fn clone_tree(path: &CStr) -> io::Result<OwnedFd> {
    const OPEN_TREE_CLONE: libc::c_uint = 1;
    const AT_RECURSIVE: libc::c_uint = 0x8000;
    const AT_SYMLINK_NOFOLLOW: libc::c_uint = 0x100;
    let flags = OPEN_TREE_CLONE | libc::O_CLOEXEC.unsigned_abs() | AT_RECURSIVE | AT_SYMLINK_NOFOLLOW;
    // SAFETY: `path` is a valid C string for the call.
    let result = unsafe { libc::syscall(libc::SYS_open_tree, libc::AT_FDCWD, path.as_ptr(), flags) };
    descriptor(result)
}

/// A detached copy of the mount tree at what `place` (opened in this mount namespace) refers to.
pub(crate) fn clone_tree_at(place: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    const OPEN_TREE_CLONE: libc::c_uint = 1;
    const AT_RECURSIVE: libc::c_uint = 0x8000;
    const AT_EMPTY_PATH: libc::c_uint = 0x1000;
    let flags = OPEN_TREE_CLONE | libc::O_CLOEXEC.unsigned_abs() | AT_RECURSIVE | AT_EMPTY_PATH;
    // SAFETY: the path is a valid C string for the call.
    let result = unsafe { libc::syscall(libc::SYS_open_tree, place.as_raw_fd(), c"".as_ptr(), flags) };
    descriptor(result)
}

/// Attaches a detached mount at `path` (`move_mount(2)`), following symbolic links in it.
pub(crate) fn attach_tree(tree: BorrowedFd<'_>, path: &CStr) -> io::Result<()> {
    const MOVE_MOUNT_F_EMPTY_PATH: libc::c_uint = 4;
    const MOVE_MOUNT_T_SYMLINKS: libc::c_uint = 0x10;
    // SAFETY: both strings are valid C strings for the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_move_mount,
            tree.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_FDCWD,
            path.as_ptr(),
            MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_SYMLINKS,
        )
    };
    nothing(result)
}

/// Adds attributes to a whole detached tree (`mount_setattr(2)`, Linux 5.12).
pub(crate) fn restrict_tree(tree: BorrowedFd<'_>, attributes: MountAttributes) -> io::Result<()> {
    const AT_EMPTY_PATH: libc::c_uint = 0x1000;
    const AT_RECURSIVE: libc::c_uint = 0x8000;
    set_attributes(tree.as_raw_fd(), c"", AT_EMPTY_PATH | AT_RECURSIVE, attributes)
}

/// Adds attributes to the one mount at `path`.
pub(crate) fn restrict_mount(path: &CStr, attributes: MountAttributes) -> io::Result<()> {
    set_attributes(libc::AT_FDCWD, path, 0, attributes)
}

fn set_attributes(
    at: RawFd,
    path: &CStr,
    flags: libc::c_uint,
    attributes: MountAttributes,
) -> io::Result<()> {
    #[repr(C)]
    struct MountAttr {
        set: u64,
        clear: u64,
        propagation: u64,
        user_namespace: u64,
    }
    let attr = MountAttr {
        set: attributes.0,
        clear: 0,
        propagation: 0,
        user_namespace: 0,
    };
    // SAFETY: `attr` is the kernel's `struct mount_attr`, version 0, and its size is passed.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            at,
            path.as_ptr(),
            flags,
            std::ptr::from_ref(&attr),
            size_of::<MountAttr>(),
        )
    };
    nothing(result)
}

/// Closes every descriptor from `first` on, except those in `keep`.
pub(crate) fn close_from(first: RawFd, keep: &[RawFd]) -> io::Result<()> {
    let mut keep: Vec<RawFd> = keep.iter().copied().filter(|number| *number >= first).collect();
    keep.sort_unstable();
    let mut start = first;
    for number in keep {
        if number > start {
            close_range(start, number - 1)?;
        }
        start = number + 1;
    }
    close_range(start, RawFd::MAX)
}

fn close_range(first: RawFd, last: RawFd) -> io::Result<()> {
    // SAFETY: closing descriptors that Rust values still own is sound here only because callers are about to execute
    // another program or never touch those values again (documented at each call).
    let result = unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
    nothing(result)
}

/// Makes `from` also number `to`, open across exec.
pub(crate) fn duplicate_to(from: BorrowedFd<'_>, to: RawFd) -> io::Result<()> {
    // SAFETY: the numbers are only handed to the kernel.
    let result = if from.as_raw_fd() == to {
        unsafe { libc::fcntl(to, libc::F_SETFD, 0) }
    } else {
        unsafe { libc::dup2(from.as_raw_fd(), to) }
    };
    nothing(result.into())
}

/// A duplicate of `from` whose number is at least `least`, closed on exec.
pub(crate) fn duplicate_above(from: BorrowedFd<'_>, least: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: the numbers are only handed to the kernel.
    descriptor(unsafe { libc::fcntl(from.as_raw_fd(), libc::F_DUPFD_CLOEXEC, least) }.into())
}

/// Replaces this process's program. Returns only the error.
pub(crate) fn execute(program: &CStr, argv: &[CString], env: &[CString]) -> io::Error {
    match nix::unistd::execve(program, argv, env) {
        Ok(never) => match never {},
        Err(error) => error.into(),
    }
}

/// Lets a broken pipe end this process again, as programs expect (the Rust runtime ignores the signal).
pub(crate) fn restore_broken_pipe() -> io::Result<()> {
    use nix::sys::signal::{SigHandler, Signal, signal};
    // SAFETY: the default action runs no code of ours.
    unsafe { signal(Signal::SIGPIPE, SigHandler::SigDfl) }?;
    Ok(())
}

/// Makes standard input the controlling terminal of this session.
pub(crate) fn take_terminal() -> io::Result<()> {
    // SAFETY: TIOCSCTTY takes an integer.
    nothing(unsafe { libc::ioctl(0, libc::TIOCSCTTY, 0) }.into())
}

/// Sends SIGKILL to this process when its parent ends.
pub(crate) fn die_with_parent() -> io::Result<()> {
    prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL.unsigned_abs().into())
}

/// Hides this process's memory and descriptors from others of its user until it executes a program.
pub(crate) fn hide() -> io::Result<()> {
    prctl(libc::PR_SET_DUMPABLE, 0)
}

/// Forbids gaining privilege by executing programs.
pub(crate) fn no_new_privileges() -> io::Result<()> {
    prctl(libc::PR_SET_NO_NEW_PRIVS, 1)
}

fn prctl(option: libc::c_int, value: libc::c_ulong) -> io::Result<()> {
    let zero: libc::c_ulong = 0;
    // SAFETY: these options take integers.
    nothing(unsafe { libc::prctl(option, value, zero, zero, zero) }.into())
}

/// `CAP_NET_ADMIN`, the right to set a socket mark.
pub(crate) const CAP_NET_ADMIN: u32 = 12;

/// Makes it impossible to gain any capability but `keep` again (the bounding set).
pub(crate) fn bound_capabilities(keep: &[u32]) -> io::Result<()> {
    for capability in 0_u32..64 {
        if keep.contains(&capability) {
            continue;
        }
        match prctl(libc::PR_CAPBSET_DROP, capability.into()) {
            Ok(()) => {}
            // The kernel knows no capability of this number: there are no more.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => break,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Gives up every capability but `keep`; what is kept survives exec (ambient).
pub(crate) fn keep_capabilities(keep: &[u32]) -> io::Result<()> {
    #[repr(C)]
    struct Header {
        version: u32,
        pid: i32,
    }
    #[repr(C)]
    #[derive(Clone, Copy)]
    struct Data {
        effective: u32,
        permitted: u32,
        inheritable: u32,
    }
    const VERSION_3: u32 = 0x2008_0522;
    prctl(
        libc::PR_CAP_AMBIENT,
        libc::PR_CAP_AMBIENT_CLEAR_ALL as libc::c_ulong,
    )?;
    let mut words = [0_u32; 2];
    for capability in keep {
        if let Some(word) = words.get_mut((capability / 32) as usize) {
            *word |= 1 << (capability % 32);
        }
    }
    let header = Header {
        version: VERSION_3,
        pid: 0,
    };
    let data = words.map(|word| Data {
        effective: word,
        permitted: word,
        inheritable: word,
    });
    // SAFETY: header and data are the kernel's version 3 layout, two words.
    let result = unsafe { libc::syscall(libc::SYS_capset, std::ptr::from_ref(&header), data.as_ptr()) };
    nothing(result)?;
    for capability in keep {
        let zero: libc::c_ulong = 0;
        // SAFETY: integers only.
        nothing(
            unsafe {
                libc::prctl(
                    libc::PR_CAP_AMBIENT,
                    libc::PR_CAP_AMBIENT_RAISE as libc::c_ulong,
                    libc::c_ulong::from(*capability),
                    zero,
                    zero,
                )
            }
            .into(),
        )?;
    }
    Ok(())
}

fn descriptor(result: libc::c_long) -> io::Result<OwnedFd> {
    match RawFd::try_from(result) {
        Ok(number) if number >= 0 => Ok(own(number)),
        _ => Err(io::Error::last_os_error()),
    }
}

fn nothing(result: libc::c_long) -> io::Result<()> {
    if result == -1 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}
