//! The system calls that neither an application nor a proxy may make (seccomp).
//!
//! Namespaces and capabilities already refuse what matters; the filter takes away the kernel's rarely used doors, and
//! the few that no namespace covers: `AF_VSOCK`, `io_uring` (which opens sockets past a filter), terminal injection.

use std::collections::BTreeMap;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch, apply_filter, sock_filter,
};

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

/// Applies the filters to this process, for good. Needs `no_new_privs`.
pub(super) fn apply() -> Result<(), String> {
    for program in programs()? {
        apply_filter(&program).map_err(|error| format!("apply its system call filter: {error}"))?;
    }
    Ok(())
}

fn programs() -> Result<Vec<BpfProgram>, String> {
    let filters = forbidden()
        .and_then(|forbidden| {
            Ok(vec![
                (forbidden, libc::EPERM),
                (absent(), libc::ENOSYS),
                (sockets()?, libc::EAFNOSUPPORT),
            ])
        })
        .map_err(|error| format!("make its system call filter: {error}"))?;
    let architecture = TargetArch::try_from(std::env::consts::ARCH)
        .map_err(|e| format!("make its system call filter: {e}"))?;
    let mut programs = vec![other_numbering()];
    for (rules, errno) in filters {
        let action = SeccompAction::Errno(errno.unsigned_abs());
        let program = SeccompFilter::new(rules, SeccompAction::Allow, action, architecture)
            .and_then(BpfProgram::try_from)
            .map_err(|error| format!("make its system call filter: {error}"))?;
        programs.push(program);
    }
    Ok(programs)
}

/// Refuses system calls in the x32 numbering of `x86_64`, which would pass filters by number.
fn other_numbering() -> BpfProgram {
    const LOAD_WORD: u16 = 0x20;
    const JUMP_IF_AT_LEAST: u16 = 0x35;
    const RETURN: u16 = 0x06;
    const X32_BIT: u32 = 0x4000_0000;
    const ALLOW: u32 = 0x7fff_0000;
    const ERRNO: u32 = 0x0005_0000;
    vec![
        sock_filter {
            code: LOAD_WORD,
            jt: 0,
            jf: 0,
            k: 0,
        },
        sock_filter {
            code: JUMP_IF_AT_LEAST,
            jt: 0,
            jf: 1,
            k: X32_BIT,
        },
        sock_filter {
            code: RETURN,
            jt: 0,
            jf: 0,
            k: ERRNO | libc::ENOSYS.unsigned_abs(),
        },
        sock_filter {
            code: RETURN,
            jt: 0,
            jf: 0,
            k: ALLOW,
        },
    ]
}

/// What is answered with "not permitted".
fn forbidden() -> Result<Rules, seccompiler::BackendError> {
    let mut rules = Rules::new();
    for number in [
        libc::SYS_unshare,
        libc::SYS_setns,
        libc::SYS_mount,
        libc::SYS_umount2,
        libc::SYS_pivot_root,
        libc::SYS_chroot,
        libc::SYS_move_mount,
        libc::SYS_open_tree,
        libc::SYS_fsopen,
        libc::SYS_fsmount,
        libc::SYS_fsconfig,
        libc::SYS_fspick,
        libc::SYS_mount_setattr,
        libc::SYS_ptrace,
        libc::SYS_process_vm_readv,
        libc::SYS_process_vm_writev,
        libc::SYS_process_madvise,
        libc::SYS_pidfd_getfd,
        libc::SYS_kcmp,
        libc::SYS_keyctl,
        libc::SYS_add_key,
        libc::SYS_request_key,
        libc::SYS_bpf,
        libc::SYS_perf_event_open,
        libc::SYS_userfaultfd,
        libc::SYS_fanotify_init,
        libc::SYS_name_to_handle_at,
        libc::SYS_open_by_handle_at,
        libc::SYS_init_module,
        libc::SYS_finit_module,
        libc::SYS_delete_module,
        libc::SYS_kexec_load,
        libc::SYS_reboot,
        libc::SYS_swapon,
        libc::SYS_swapoff,
        libc::SYS_acct,
        libc::SYS_quotactl,
        libc::SYS_syslog,
        libc::SYS_vhangup,
        libc::SYS_settimeofday,
        libc::SYS_clock_settime,
        libc::SYS_adjtimex,
        libc::SYS_clock_adjtime,
        libc::SYS_lookup_dcookie,
        libc::SYS_nfsservctl,
        #[cfg(target_arch = "x86_64")]
        libc::SYS_kexec_file_load,
        #[cfg(target_arch = "x86_64")]
        libc::SYS_iopl,
        #[cfg(target_arch = "x86_64")]
        libc::SYS_ioperm,
        #[cfg(target_arch = "x86_64")]
        libc::SYS_uselib,
    ] {
        rules.insert(number, Vec::new());
    }
    let namespaces = [
        libc::CLONE_NEWNS,
        libc::CLONE_NEWCGROUP,
        libc::CLONE_NEWUTS,
        libc::CLONE_NEWIPC,
        libc::CLONE_NEWUSER,
        libc::CLONE_NEWPID,
        libc::CLONE_NEWNET,
    ];
    let mut clone = Vec::new();
    for flag in namespaces {
        let flag = u64::from(flag.unsigned_abs());
        let set = SeccompCondition::new(0, SeccompCmpArgLen::Qword, SeccompCmpOp::MaskedEq(flag), flag)?;
        clone.push(SeccompRule::new(vec![set])?);
    }
    rules.insert(libc::SYS_clone, clone);
    let mut ioctl = Vec::new();
    for request in [libc::TIOCSTI, libc::TIOCLINUX] {
        let same = SeccompCondition::new(1, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, request)?;
        ioctl.push(SeccompRule::new(vec![same])?);
    }
    rules.insert(libc::SYS_ioctl, ioctl);
    Ok(rules)
}

/// What is answered as by an older kernel, so that programs take another way. `clone3` passes its flags where no filter can see them.
fn absent() -> Rules {
    [
        libc::SYS_clone3,
        libc::SYS_io_uring_setup,
        libc::SYS_io_uring_enter,
        libc::SYS_io_uring_register,
    ]
    .into_iter()
    .map(|number| (number, Vec::new()))
    .collect()
}

/// Sockets other than unix, IPv4, IPv6 and routing netlink.
fn sockets() -> Result<Rules, seccompiler::BackendError> {
    let compare = |argument, operator, value: libc::c_int| {
        SeccompCondition::new(
            argument,
            SeccompCmpArgLen::Dword,
            operator,
            u64::from(value.unsigned_abs()),
        )
    };
    let mut foreign = Vec::new();
    for family in [libc::AF_UNIX, libc::AF_INET, libc::AF_INET6, libc::AF_NETLINK] {
        foreign.push(compare(0, SeccompCmpOp::Ne, family)?);
    }
    let netlink = vec![
        compare(0, SeccompCmpOp::Eq, libc::AF_NETLINK)?,
        compare(2, SeccompCmpOp::Ne, libc::NETLINK_ROUTE)?,
    ];
    let rules = vec![SeccompRule::new(foreign)?, SeccompRule::new(netlink)?];
    Ok(Rules::from([(libc::SYS_socket, rules)]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_filter_compiles_for_this_machine() {
        let programs = programs().unwrap();
        assert_eq!(programs.len(), 4);
        assert!(programs.iter().all(|program| program.len() < 4096));
    }
}
