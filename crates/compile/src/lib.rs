//! All documents in, the mesh for each proxy and the plan of pods out, incrementally; findings that need several documents.
//!
//! A [`World`] owns the documents and what a node reported of its pods. Each change yields an [`Update`]: exactly the
//! resources that each proxy must be sent so that it holds what a fresh `World` of the same state would give it.
//! Nothing here does IO, reads a clock or rolls dice.

pub mod allocations;
pub mod codes;
pub mod options;
pub mod positions;
pub mod profile;
pub mod static_plan;
pub mod status;
pub mod update;
pub mod world;

mod analyze;
mod authentications;
mod endpoints;
mod gateways;
mod hash;
mod keys;
mod library;
mod mesh_config;
mod model;
mod mtls;
mod names;
mod people;
mod plan;
mod policies;
mod providers;
mod routes;
mod scope;
mod services;
mod target;
mod view;

pub use allocations::Allocations;
pub use codes::CODES;
pub use keys::{KeyLocation, KeyOrigin};
pub use options::Options;
pub use positions::{Place, Positions};
pub use static_plan::{StaticListener, StaticPlan, StaticRole, compile_static};
pub use status::{PolicyCount, ServiceStatus, WorkloadStatus};
pub use update::{Change, Update};
pub use world::{World, check};
