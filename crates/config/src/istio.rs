//! Istio's security kinds, and of its mesh configuration what they depend on. Every unknown field is an error.

pub mod authorization_policy;
pub mod gateway_topology;
pub mod matcher;
pub mod mesh_config;
pub mod peer_authentication;
pub mod request_authentication;
pub mod target;

pub use authorization_policy::{Action, AuthorizationPolicy, Condition, Operation, PathMatch, Rule, Source};
pub use gateway_topology::GatewayTopology;
pub use matcher::Matcher;
pub use mesh_config::{
    Authorizer, BodyInCheck, ExtensionProvider, HttpAuthorizer, MeshConfig, PathNormalization,
    ProviderService,
};
pub use peer_authentication::{MtlsMode, PeerAuthentication};
pub use request_authentication::{ClaimToHeader, Jwks, JwtHeader, JwtRule, RequestAuthentication};
pub use target::{PolicyTarget, TargetReference};
