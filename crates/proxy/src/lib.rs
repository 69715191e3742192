//! The data plane: sidecar and gateway are one engine with different front doors.
//!
//! [`run()`] serves a workload under a supervisor and a control plane, [`run_static`] from documents alone. Reading order:
//! `request` (one request, top to bottom), `upstream`, then the doors `inbound`, `outbound` and `gateway` with `http` and
//! `tcp`, which they end in; `worker` is what a thread owns, `shared` what all threads share. `sync`, `credentials`, `dns`
//! and `admin` live beside the workers on a runtime of their own.

mod admin;
mod back_off;
mod bootstrap;
mod connection;
mod control_plane;
mod credentials;
mod dns;
mod drain;
mod gateway;
mod http;
mod inbound;
mod labels;
mod listen;
mod noted;
mod outbound;
mod request;
mod run;
mod shared;
mod snapshot_cell;
mod sync;
mod tcp;
mod tokens;
mod upstream;
mod worker;
mod workers;

/// The client's half of the control plane's gRPC.
mod proto {
    #![expect(
        clippy::allow_attributes_without_reason,
        unreachable_pub,
        reason = "generated"
    )]
    include!("gen/bartizan.v1alpha1.rs");
}

pub use bootstrap::{
    Bootstrap, BootstrapError, Descriptors, GatewayDescriptor, OneTimeSecret, StaticConfig, StaticListener,
    StaticRole,
};
/// What external authorizers' answers mean; public for the fuzz target alone.
#[doc(hidden)]
pub use request::ask::says as authorizer;
pub use run::{ProxyError, Running, run, run_static};
