//! Can this host house a sandbox? What is missing, and the one line that allows it.
//!
//! Abilities are tried by doing: the sandbox's first process makes its namespaces and then a pod that nobody uses,
//! before it says that it is ready. The first thing that fails becomes a [`Problem`].

use std::fmt;
use std::fs;
use std::io;

use serde::{Deserialize, Serialize};

/// One ability that the host withholds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// Its stable code, `BZ0301` and on.
    pub code: String,
    /// The ability, for example `user namespace`.
    pub ability: String,
    /// How the attempt failed.
    pub what: String,
    /// The command or setting that allows it on this host.
    pub remedy: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "[{}] {}: {}; remedy: {}",
            self.code, self.ability, self.what, self.remedy
        )
    }
}

impl Problem {
    /// Every code with its ability, for the reference of findings.
    pub fn table() -> Vec<(&'static str, &'static str)> {
        Ability::ALL
            .iter()
            .map(|ability| (ability.code(), ability.name()))
            .collect()
    }
}

/// What a sandbox needs from the kernel, in the order in which it is tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ability {
    UserNamespace,
    UserMapping,
    MountNamespace,
    NetworkNamespace,
    PidNamespace,
    Mount,
    Proc,
    Bridge,
    Veth,
    Nftables,
    NestedUserNamespace,
}

impl Ability {
    const ALL: [Self; 11] = [
        Self::UserNamespace,
        Self::UserMapping,
        Self::MountNamespace,
        Self::NetworkNamespace,
        Self::PidNamespace,
        Self::Mount,
        Self::Proc,
        Self::Bridge,
        Self::Veth,
        Self::Nftables,
        Self::NestedUserNamespace,
    ];

    fn code(self) -> &'static str {
        match self {
            Self::UserNamespace => "BZ0301",
            Self::UserMapping => "BZ0302",
            Self::MountNamespace => "BZ0303",
            Self::NetworkNamespace => "BZ0304",
            Self::PidNamespace => "BZ0305",
            Self::Mount => "BZ0306",
            Self::Proc => "BZ0307",
            Self::Bridge => "BZ0308",
            Self::Veth => "BZ0309",
            Self::Nftables => "BZ0310",
            Self::NestedUserNamespace => "BZ0311",
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::UserNamespace => "user namespace",
            Self::UserMapping => "user namespace with an id map",
            Self::MountNamespace => "mount namespace",
            Self::NetworkNamespace => "network namespace",
            Self::PidNamespace => "PID namespace",
            Self::Mount => "mounts in a user namespace",
            Self::Proc => "a /proc of its own",
            Self::Bridge => "network bridge",
            Self::Veth => "virtual Ethernet pair",
            Self::Nftables => "nftables with redirection",
            Self::NestedUserNamespace => "user namespace inside a user namespace",
        }
    }
}

/// What the failure of an ability means on this host.
pub(crate) fn problem(ability: Ability, error: &io::Error) -> Problem {
    let switches = Switches::read();
    Problem {
        code: ability.code().into(),
        ability: ability.name().into(),
        what: error.to_string(),
        remedy: remedy(ability, error, &switches),
    }
}

/// The host's switches that decide about user namespaces.
#[derive(Debug, Clone, Default)]
struct Switches {
    /// `kernel.unprivileged_userns_clone` (Debian).
    unprivileged: Option<u64>,
    /// `kernel.apparmor_restrict_unprivileged_userns` (Ubuntu).
    apparmor: Option<u64>,
    /// `user.max_user_namespaces`.
    user_namespaces: Option<u64>,
    /// `user.max_net_namespaces`.
    net_namespaces: Option<u64>,
    /// `Seccomp` of `/proc/self/status` is 2.
    filtered: bool,
}

impl Switches {
    fn read() -> Self {
        let switch = |name: &str| {
            fs::read_to_string(format!("/proc/sys/{name}"))
                .ok()
                .and_then(|text| text.trim().parse().ok())
        };
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        Self {
            unprivileged: switch("kernel/unprivileged_userns_clone"),
            apparmor: switch("kernel/apparmor_restrict_unprivileged_userns"),
            user_namespaces: switch("user/max_user_namespaces"),
            net_namespaces: switch("user/max_net_namespaces"),
            filtered: status
                .lines()
                .any(|line| line.split_whitespace().eq(["Seccomp:", "2"])),
        }
    }
}

fn remedy(ability: Ability, error: &io::Error, switches: &Switches) -> String {
    let unknown = matches!(
        error.raw_os_error(),
        Some(libc::EOPNOTSUPP | libc::ENOENT | libc::EPROTONOSUPPORT)
    );
    let module = |names: &str| format!("sudo modprobe -a {names}");
    let container = "run the container with `--security-opt seccomp=unconfined --security-opt apparmor=unconfined --security-opt systempaths=unconfined`";
    match ability {
        Ability::UserNamespace
        | Ability::UserMapping
        | Ability::MountNamespace
        | Ability::PidNamespace
        | Ability::NestedUserNamespace
        | Ability::Mount
            if switches.unprivileged == Some(0) =>
        {
            "sudo sysctl -w kernel.unprivileged_userns_clone=1".into()
        }
        Ability::UserNamespace | Ability::NestedUserNamespace if switches.user_namespaces.is_some_and(|n| n < 64) => {
            "sudo sysctl -w user.max_user_namespaces=15000".into()
        }
        Ability::UserNamespace
        | Ability::UserMapping
        | Ability::MountNamespace
        | Ability::NetworkNamespace
        | Ability::PidNamespace
        | Ability::NestedUserNamespace
        | Ability::Mount
        | Ability::Bridge
            if switches.apparmor == Some(1) =>
        {
            "sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0".into()
        }
        Ability::NetworkNamespace if switches.net_namespaces.is_some_and(|n| n < 64) => {
            "sudo sysctl -w user.max_net_namespaces=15000".into()
        }
        Ability::Bridge if unknown => module("bridge"),
        Ability::Veth if unknown => module("veth"),
        Ability::Nftables => module("nf_tables nft_redir nft_nat nft_ct nf_conntrack"),
        Ability::Proc | Ability::Mount => container.into(),
        Ability::UserNamespace
        | Ability::UserMapping
        | Ability::MountNamespace
        | Ability::NetworkNamespace
        | Ability::PidNamespace
        | Ability::NestedUserNamespace
            if switches.filtered =>
        {
            container.into()
        }
        Ability::UserNamespace
        | Ability::UserMapping
        | Ability::MountNamespace
        | Ability::NetworkNamespace
        | Ability::PidNamespace
        | Ability::NestedUserNamespace => {
            "use a kernel with CONFIG_USER_NS, CONFIG_NET_NS and CONFIG_PID_NS, outside of a sandbox that forbids namespaces".into()
        }
        Ability::Bridge | Ability::Veth => module("bridge veth"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_remedy_names_the_switch_that_is_off() {
        let denied = io::Error::from_raw_os_error(libc::EPERM);
        let debian = Switches {
            unprivileged: Some(0),
            ..Switches::default()
        };
        assert_eq!(
            remedy(Ability::UserNamespace, &denied, &debian),
            "sudo sysctl -w kernel.unprivileged_userns_clone=1"
        );
        let ubuntu = Switches {
            unprivileged: Some(1),
            apparmor: Some(1),
            ..Switches::default()
        };
        assert_eq!(
            remedy(Ability::NetworkNamespace, &denied, &ubuntu),
            "sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0"
        );
        let none = Switches {
            user_namespaces: Some(0),
            ..Switches::default()
        };
        let full = io::Error::from_raw_os_error(libc::ENOSPC);
        assert_eq!(
            remedy(Ability::UserNamespace, &full, &none),
            "sudo sysctl -w user.max_user_namespaces=15000"
        );
        let docker = Switches {
            filtered: true,
            ..Switches::default()
        };
        assert!(remedy(Ability::UserNamespace, &denied, &docker).contains("seccomp=unconfined"));
        let missing = io::Error::from_raw_os_error(libc::EOPNOTSUPP);
        assert_eq!(
            remedy(Ability::Bridge, &missing, &Switches::default()),
            "sudo modprobe -a bridge"
        );
    }
}
