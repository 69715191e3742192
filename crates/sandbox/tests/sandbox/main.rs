//! The sandbox on the real kernel: what a pod can do and what an application in it cannot.
//!
//! This program is its own sandbox init, its own application (bound into each container as the mesh's binary is) and its
//! own victim for `kill -9`. As root it runs everything three times: as root, as a user without privilege, and as a
//! root that cannot make user namespaces.
#![expect(
    unsafe_code,
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test program that attacks from inside"
)]

mod attack;
mod scene;
mod world;

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    match arguments
        .iter()
        .skip(1)
        .map(String::as_str)
        .collect::<Vec<_>>()
        .as_slice()
    {
        ["sandbox-init", control] => bartizan_sandbox::sandbox_init_main(control.parse().unwrap()),
        ["attack", rest @ ..] => attack::run(rest),
        ["victim", directory] => scene::victim(directory),
        ["without-user-namespaces", rest @ ..] => without_user_namespaces(rest),
        ["--list", ..] => ExitCode::SUCCESS,
        rest => all(rest),
    }
}

/// Runs every scene whose name holds the first argument that is not an option, as this user and, where it is root, as another.
fn all(arguments: &[&str]) -> ExitCode {
    let filter = arguments
        .iter()
        .find(|argument| !argument.starts_with('-'))
        .copied()
        .unwrap_or_default();
    let root = nix::unistd::geteuid().is_root();
    let mut failed = scene::run_all(filter);
    if root {
        println!("\nthe same as user 4242");
        std::io::stdout().flush().unwrap();
        // The test binary's own place, and /tmp, may be closed to others.
        let place = open_to_all();
        let directory = tempfile::Builder::new().prefix("bz").tempdir_in(place).unwrap();
        let copy = directory.path().join("sandbox-test");
        std::fs::copy("/proc/self/exe", &copy).unwrap();
        for (path, mode) in [(directory.path(), 0o777), (copy.as_path(), 0o755)] {
            std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
        }
        let mut again = Command::new(&copy);
        again
            .args(arguments)
            .current_dir("/")
            .env("TMPDIR", directory.path())
            .env_remove("HOME");
        let status = again.uid(4242).gid(4242).status().unwrap();
        failed |= !status.success();
    }
    if root {
        println!("\nthe same as a root that cannot make user namespaces");
        std::io::stdout().flush().unwrap();
        let mut again = Command::new("/proc/self/exe");
        let status = again
            .arg("without-user-namespaces")
            .args(arguments)
            .status()
            .unwrap();
        failed |= !status.success();
    }
    if failed {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    }
}

/// A directory into which every user can look, and on which programs can be executed.
fn open_to_all() -> PathBuf {
    let candidates = [
        std::env::temp_dir(),
        "/var/tmp".into(),
        "/srv".into(),
        "/opt".into(),
    ];
    let open = |path: &PathBuf| {
        path.ancestors().all(|part| {
            part.metadata()
                .is_ok_and(|meta| meta.permissions().mode() & 0o001 != 0)
        })
    };
    candidates
        .into_iter()
        .find(open)
        .expect("a directory that is open to all users")
}

/// Runs every scene in a user namespace that has all ids and forbids further ones: the nearest to a root on a host that
/// forbids them which leaves the host as it is.
fn without_user_namespaces(arguments: &[&str]) -> ExitCode {
    use nix::unistd::{ForkResult, fork, getpid};
    let (go, hold) = nix::unistd::pipe().unwrap();
    let me = getpid();
    // SAFETY: this program has one thread.
    let helper = match unsafe { fork() }.unwrap() {
        ForkResult::Parent { child } => child,
        ForkResult::Child => {
            nix::unistd::read(&go, &mut [0]).unwrap();
            for map in ["uid_map", "gid_map"] {
                std::fs::write(format!("/proc/{me}/{map}"), "0 0 4294967295\n").unwrap();
            }
            std::process::exit(0);
        }
    };
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWUSER).unwrap();
    nix::unistd::write(&hold, b"x").unwrap();
    nix::sys::wait::waitpid(helper, None).unwrap();
    std::fs::write("/proc/sys/user/max_user_namespaces", "0").unwrap();
    let filter = arguments
        .iter()
        .find(|argument| !argument.starts_with('-'))
        .copied()
        .unwrap_or_default();
    if scene::run_all(filter) {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    }
}
