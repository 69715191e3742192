//! External authorizers (Istio `MeshConfig.extensionProviders`, `envoyExtAuthzHttp` and `envoyExtAuthzGrpc`) as a proxy
//! holds them.

use std::sync::Arc;

use bartizan_types::{NamespacedName, Port, StringMatch};
use serde::{Deserialize, Serialize};

/// An authorizer that CUSTOM policies name.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Provider {
    /// Its name in the mesh's configuration.
    pub name: Arc<str>,
    /// The service of this mesh that answers.
    pub service: NamespacedName,
    /// That service's port.
    pub port: Port,
    /// How long an answer is waited for, in milliseconds.
    pub timeout_ms: u64,
    /// `failOpen`: the request passes when there is no answer.
    pub fail_open: bool,
    /// `statusOnError`: the status when there is no answer and the request does not pass.
    pub status_on_error: u16,
    /// `includeRequestBodyInCheck`; `None` sends no body.
    pub body: Option<BodyInCheck>,
    /// `clearRouteCache`: an answer that changes headers makes the route be chosen anew.
    pub clear_route_cache: bool,
    /// What is spoken.
    pub protocol: ProviderProtocol,
}

/// `includeRequestBodyInCheck`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BodyInCheck {
    /// `maxRequestBytes`.
    pub max_bytes: u32,
    /// `allowPartialMessage`: a longer body is cut; else the request is answered 413.
    pub allow_partial: bool,
    /// `packAsBytes`: gRPC only, raw bytes instead of text.
    pub pack_as_bytes: bool,
}

/// What an authorizer speaks.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ProviderProtocol {
    /// `envoy.service.auth.v3.Authorization`.
    Grpc,
    /// A request like the one that is checked; 200 lets it pass.
    Http(HttpProvider),
}

/// `envoyExtAuthzHttp`. Header names are matched without regard to case: exact, `prefix*` or `*suffix`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct HttpProvider {
    /// `pathPrefix`, before the path of the request.
    pub path_prefix: Arc<str>,
    /// `includeRequestHeadersInCheck`, beside Host, Method, Path, Content-Length and Authorization.
    pub include_request_headers: Vec<StringMatch>,
    /// `includeAdditionalHeadersInCheck`: name and value.
    pub additional_headers: Vec<(Arc<str>, Arc<str>)>,
    /// `headersToUpstreamOnAllow`: of the answer, set on the request; none when empty.
    pub headers_to_upstream_on_allow: Vec<StringMatch>,
    /// `headersToDownstreamOnAllow`: of the answer, added to the response.
    pub headers_to_downstream_on_allow: Vec<StringMatch>,
    /// `headersToDownstreamOnDeny`: of the answer, in the refusal; all when empty.
    pub headers_to_downstream_on_deny: Vec<StringMatch>,
}
