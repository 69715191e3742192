//! The control plane of a local mesh: reads documents, owns the world, tells proxies, issues SVIDs, orders pods, reports.
//!
//! [`run`] is the whole of it. Inside, one thread owns the world (`state`); sources, node, proxies, commands and the admin
//! page are tasks that send it messages. What a change means is decided in `compile`, and who is who in `identity`.

mod admin;
pub mod codes;
mod issue;
mod keys;
mod node;
mod options;
mod push;
mod rpc;
mod run;
pub mod source;
mod state;
pub mod status;
mod store;
mod tasks;
mod web;

pub use codes::CODES;
pub use keys::KeyTimes;
pub use options::{ControlError, Options, settings};
pub use run::run;
pub use status::Status;
pub use store::StoreError;
pub use web::metrics_reference;
