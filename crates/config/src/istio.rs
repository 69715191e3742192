//! Istio's security kinds, as far as this version goes. Every unknown field is an error.

pub mod authorization_policy;
pub mod peer_authentication;

pub use authorization_policy::{
    Action, AuthorizationPolicy, Condition, Matcher, Operation, PathMatch, PolicyTarget, Rule, Source,
};
pub use peer_authentication::{MtlsMode, PeerAuthentication};
