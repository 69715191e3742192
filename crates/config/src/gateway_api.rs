//! Gateway API kinds, as far as the simple way in goes. Every unknown field is an error.

pub mod gateway;
pub mod gateway_class;
pub mod http_route;
pub mod reference_grant;

pub use gateway::{Gateway, Listener, RouteNamespaces};
pub use gateway_class::GatewayClass;
pub(crate) use http_route::is_protected_header;
pub use http_route::{
    BackendRef, HeaderChange, HeaderFilter, HttpRoute, HttpRouteMatch, HttpRouteRule, NamedMatch, ParentRef,
    PathPattern, Timeouts, ValuePattern,
};
pub use reference_grant::{GrantFrom, GrantTo, ReferenceGrant};
