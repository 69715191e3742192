//! The scenes: a sandbox with pods, and what is seen from inside and outside.

mod confinement;
mod files;
mod lifetime;
mod network;
mod processes;

use std::future::Future;
use std::pin::Pin;
use std::time::Instant;

use bartizan_sandbox::{Sandbox, SandboxError};

pub(crate) use lifetime::victim;

use crate::world::{options, runtime};

type Scene = fn() -> Pin<Box<dyn Future<Output = ()>>>;

/// Runs the scenes and says whether any failed.
pub(super) fn run_all(filter: &str) -> bool {
    let scenes: [(&str, Scene); 12] = [
        ("application_tcp_is_captured_with_its_destination", || {
            Box::pin(network::outbound())
        }),
        ("tcp_from_other_pods_arrives_at_the_proxy", || {
            Box::pin(network::inbound())
        }),
        ("dns_is_captured", || Box::pin(network::dns())),
        ("nothing_but_tcp_leaves_and_drops_are_counted", || {
            Box::pin(network::drops())
        }),
        (
            "an_application_cannot_escape",
            || Box::pin(confinement::escapes()),
        ),
        ("an_application_sees_only_its_own_world", || {
            Box::pin(confinement::view())
        }),
        ("volumes_and_declared_paths_are_where_they_should_be", || {
            Box::pin(files::files())
        }),
        ("processes_are_started_signalled_and_reported", || {
            Box::pin(processes::processes())
        }),
        ("a_proxy_has_its_descriptors_and_one_capability", || {
            Box::pin(processes::proxy())
        }),
        ("pods_are_made_and_deleted_without_trace", || {
            Box::pin(lifetime::lifecycle())
        }),
        ("many_pods_are_made_at_once", || Box::pin(lifetime::many())),
        ("a_killed_supervisor_leaves_nothing", || {
            Box::pin(lifetime::killed())
        }),
    ];
    if let Err(text) = possible() {
        println!("SKIPPED: no sandbox on this host: {text}");
        return std::env::var_os("CI").is_some_and(|value| value == "true");
    }
    let mut failed = false;
    for (name, scene) in scenes {
        if !name.contains(filter) {
            continue;
        }
        let started = Instant::now();
        let result = std::panic::catch_unwind(|| runtime().block_on(scene()));
        println!(
            "{} {name} ({} ms)",
            if result.is_ok() { "ok    " } else { "FAILED" },
            started.elapsed().as_millis()
        );
        failed |= result.is_err();
    }
    failed
}

fn possible() -> Result<(), String> {
    runtime().block_on(async {
        let directory = tempfile::tempdir().unwrap();
        match Sandbox::start(options(directory.path())).await {
            Ok(_) => Ok(()),
            Err(SandboxError::Host(problems)) => Err(format!("{problems:?}")),
            Err(error) => panic!("{error}"),
        }
    })
}
