//! Whether the addresses of the gateways are free, before anything is started.

use std::io::ErrorKind;
use std::net::{IpAddr, TcpListener};

use bartizan_types::PodRole;

use crate::exit::Exit;
use crate::folder::Folder;

/// Tries to listen on every address of a gateway, and lets go of it again.
///
/// # Errors
/// For the first one that cannot be had, with what to do.
pub(super) fn must_be_free(folder: &Folder, gateway_address: IpAddr) -> anyhow::Result<()> {
    let mut options = folder.options.clone();
    options.gateway_address = gateway_address;
    let mut world = bartizan_compile::World::new(options);
    if world.set_documents(folder.documents.clone()).is_err() {
        return Ok(()); // the findings say it
    }
    for pod in world.plan() {
        let PodRole::Gateway { gateway, listen } = &pod.role else {
            continue;
        };
        for listen in listen {
            if let Err(error) = TcpListener::bind(listen.address) {
                let remedy = if error.kind() == ErrorKind::AddrInUse {
                    "another program listens there (`ss -ltnp` says which): end it, or choose another address"
                } else if error.kind() == ErrorKind::PermissionDenied {
                    "ports below 1024 need a privilege: choose another address"
                } else {
                    "choose another address"
                };
                return Err(Exit::error(
                    1,
                    format!(
                        "listen on {} for gateway `{gateway}`: {error}; {remedy} with `spec.gateways` of a LocalRun document; nothing was started",
                        listen.address
                    ),
                ));
            }
        }
    }
    Ok(())
}
