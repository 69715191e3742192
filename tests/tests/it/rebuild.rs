//! A mesh outlives the file of its own binary: a rebuild or an upgrade puts another in its place.

use std::time::Duration;

use bartizan_tests::{Mesh, Start, binary, eventually, kill};
use nix::sys::signal::Signal;

#[test]
fn everything_can_be_started_again_after_the_binary_was_replaced() {
    let mesh = Mesh::up(&Start::scene("lab"));
    let beside = binary().with_extension("new");
    std::fs::copy(binary(), &beside).unwrap();
    std::fs::rename(&beside, binary()).unwrap();

    // A new container, which runs the binary.
    let ran = mesh.run_as("lab/caller", &["bartizan", "--version"]);
    assert_eq!(ran.code, 0, "{} {}", ran.stdout, ran.stderr);
    // And all that comes back by itself: a proxy, an application, the control plane.
    let proxy = mesh.proxy_of("lab", "web-0");
    let application = mesh.processes(&["bartizan", "echo", "--name", "web"])[0];
    let control = mesh.control_plane();
    for process in [proxy, application, control] {
        kill(process, Signal::SIGKILL);
    }
    eventually("another application runs", Duration::from_secs(30), || {
        let now = mesh.processes(&["bartizan", "echo", "--name", "web"]);
        now.len() == 2 && !now.contains(&application)
    });
    mesh.settle();
    assert_ne!(mesh.proxy_of("lab", "web-0"), proxy);
    assert_ne!(mesh.control_plane(), control);
}
