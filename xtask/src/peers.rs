//! Installs the programs of other people that the tests speak with, by their ordinary package clients, once.

use std::path::PathBuf;

use crate::run;

/// Debian packages and the program that shows that one is there.
const PACKAGES: [(&str, &str); 6] = [
    ("curl", "curl"),
    ("nginx-light", "nginx"),
    ("postgresql", "pg_ctlcluster"),
    ("postgresql-client", "psql"),
    ("python3-venv", "python3"),
    ("util-linux", "setpriv"),
];
const GRPC: &str = "grpcio==1.76.0";
const H2SPEC: &str = "github.com/summerwind/h2spec/cmd/h2spec@v2.2.1+incompatible";

/// Where peers are kept between runs: `BARTIZAN_PEERS`, else below the cache directory of this user.
pub(crate) fn folder() -> PathBuf {
    if let Some(folder) = std::env::var_os("BARTIZAN_PEERS") {
        return folder.into();
    }
    let cache = std::env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache")));
    cache
        .unwrap_or_else(|| PathBuf::from("/tmp"))
        .join("bartizan-peers")
}

/// Installs what is missing. What cannot be installed is said; a test that needs it then says that it was skipped, and fails in CI.
pub(crate) fn install() -> Result<(), String> {
    let folder = folder();
    std::fs::create_dir_all(&folder).map_err(|error| format!("make {}: {error}", folder.display()))?;
    let missing: Vec<&str> = PACKAGES
        .iter()
        .filter(|(_, program)| !on_path(program))
        .map(|(package, _)| *package)
        .collect();
    if !missing.is_empty() {
        if running_as_root() {
            // Installed servers must not be started by the package manager: the tests start their own.
            let policy = std::path::Path::new("/usr/sbin/policy-rc.d");
            let ours = !policy.exists();
            if ours {
                std::fs::write(policy, "#!/bin/sh\nexit 101\n")
                    .map_err(|error| format!("write {}: {error}", policy.display()))?;
                run::program("chmod", &["755", "/usr/sbin/policy-rc.d"])?;
            }
            let installed = run::program("apt-get", &["update", "-qq"]).and_then(|()| {
                let arguments = [
                    &[
                        "install",
                        "-y",
                        "-qq",
                        "--no-install-recommends",
                        "-o",
                        "Dpkg::Use-Pty=0",
                    ],
                    &missing[..],
                ]
                .concat();
                run::program("apt-get", &arguments)
            });
            if ours {
                std::fs::remove_file(policy).ok();
            }
            installed?;
        } else {
            eprintln!(
                "these packages are missing, and this user cannot install them: {}",
                missing.join(" ")
            );
        }
    }
    let venv = folder.join("python");
    if !venv.join("bin/python3").exists() {
        run::program("python3", &["-m", "venv", &venv.display().to_string()])?;
    }
    if !venv.join("grpc-installed").exists() {
        run::program(
            &venv.join("bin/pip").display().to_string(),
            &["install", "--quiet", "--disable-pip-version-check", GRPC],
        )?;
        std::fs::write(venv.join("grpc-installed"), GRPC).map_err(|error| error.to_string())?;
    }
    if on_path("go") && !folder.join("h2spec").exists() {
        let mut command = run::command("go", &["install", H2SPEC]);
        command.env("GOBIN", &folder);
        eprintln!("$ go install {H2SPEC}");
        let status = command.status().map_err(|error| format!("start go: {error}"))?;
        if !status.success() {
            return Err(format!("go install {H2SPEC}: {status}"));
        }
    }
    Ok(())
}

fn on_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin", "/usr/bin"].map(PathBuf::from))
        .any(|folder| folder.join(program).is_file())
}

fn running_as_root() -> bool {
    run::output("id", &["-u"]).is_ok_and(|uid| uid.trim() == "0")
}
