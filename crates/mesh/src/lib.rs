//! The resolved picture that a proxy serves from: immutable, indexed, cheap to share.
//!
//! `compile` makes [`Resource`]s out of documents, `control` sends them as [`Transaction`]s in their [`wire_format`], a
//! proxy keeps them in a [`Store`] and serves from a [`Snapshot`], which `decide` reads. Nothing here does IO or reads a
//! clock.

pub mod authentication;
pub mod digest;
pub mod policy;
pub mod provider;
pub mod resource;
pub mod route;
mod shared_map;
pub mod snapshot;
pub mod store;
pub mod wire_format;

pub use authentication::{ClaimHeader, JwtRule, KeySet, KeySource, RequestAuthentication, TokenLocation};
pub use digest::{Digest, FieldHasher, FieldHashing};
pub use policy::{
    Action, Condition, Matcher, Operation, PathMatch, Policy, PolicyKind, PolicyName, Rule, Source,
};
pub use provider::{BodyInCheck, HttpProvider, Provider, ProviderProtocol};
pub use resource::{
    AcrossNamespaces, Endpoint, Endpoints, InboundPort, Key, MtlsMode, PathRule, Profile, Reach,
    RemoteAddress, Resource, Service, ServicePort, Settings, Transaction, UserCredentials, View,
    WithoutPolicy, Workload,
};
pub use route::{
    Backend, HeaderEdit, HeaderMatch, Listener, PathSelector, QueryMatch, Route, RouteFilter, RouteMatch,
    RouteRule,
};
pub use snapshot::Snapshot;
pub use store::Store;
