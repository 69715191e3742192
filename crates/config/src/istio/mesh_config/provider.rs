//! `extensionProviders`: the external authorizers that CUSTOM policies name.

use std::sync::Arc;
use std::time::Duration;

use bartizan_types::{Hostname, Namespace, Port, StringMatch};

use crate::field::{Fields, Value};
use crate::finding::{Severity, codes};
use crate::kube::container::read_port_number;
use crate::names;

/// One of `extensionProviders`: an external authorizer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExtensionProvider {
    /// `name`.
    pub name: Arc<str>,
    /// `service`: who answers.
    pub service: ProviderService,
    /// `port` of the service.
    pub port: Port,
    /// `timeout` of an answer; Istio waits 600 s where there is none.
    pub timeout: Option<Duration>,
    /// `failOpen`: the request passes when there is no answer; none is false.
    pub fail_open: Option<bool>,
    /// `statusOnError`, 400 to 599: the status when there is no answer and the request does not pass; none is 403.
    pub status_on_error: Option<u16>,
    /// `includeRequestBodyInCheck`; none sends no body.
    pub body: Option<BodyInCheck>,
    /// `clearRouteCache`: an answer that changes headers makes the route be chosen anew; none is false.
    pub clear_route_cache: Option<bool>,
    /// What is spoken: `envoyExtAuthzHttp` or `envoyExtAuthzGrpc`.
    pub authorizer: Authorizer,
}

/// `service`: `[NAMESPACE/]HOST`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProviderService {
    /// The namespace, where it is named.
    pub namespace: Option<Namespace>,
    /// The host, such as `opa.auth.svc.cluster.local`.
    pub host: Hostname,
}

/// `includeRequestBodyInCheck`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BodyInCheck {
    /// `maxRequestBytes`, 1 to 16 MiB.
    pub max_request_bytes: u32,
    /// `allowPartialMessage`: a longer body is cut; none is false, and it is answered with 413.
    pub allow_partial_message: Option<bool>,
    /// `packAsBytes`: gRPC only, raw bytes instead of text; none is false.
    pub pack_as_bytes: Option<bool>,
}

/// What an authorizer speaks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Authorizer {
    /// `envoyExtAuthzHttp`: a request like the one that is checked.
    Http(HttpAuthorizer),
    /// `envoyExtAuthzGrpc`: `envoy.service.auth.v3.Authorization`.
    Grpc,
}

/// What only `envoyExtAuthzHttp` has. Headers are matched by their lower-case name: exact, `prefix*` or `*suffix`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HttpAuthorizer {
    /// `pathPrefix`, which starts with `/`; none is no prefix.
    pub path_prefix: Option<String>,
    /// `includeRequestHeadersInCheck`, and the old `includeHeadersInCheck`.
    pub include_request_headers_in_check: Vec<StringMatch>,
    /// `includeAdditionalHeadersInCheck`: lower-case name and value.
    pub include_additional_headers_in_check: Vec<(String, String)>,
    /// `headersToUpstreamOnAllow`.
    pub headers_to_upstream_on_allow: Vec<StringMatch>,
    /// `headersToDownstreamOnAllow`.
    pub headers_to_downstream_on_allow: Vec<StringMatch>,
    /// `headersToDownstreamOnDeny`.
    pub headers_to_downstream_on_deny: Vec<StringMatch>,
}

/// Bytes of a body that a proxy holds while it asks.
const MOST_BODY_BYTES: u32 = 16 * 1024 * 1024;
const LONGEST_TIMEOUT: Duration = Duration::from_hours(1);

/// Providers of other things than authorization.
const LATER: &[&str] = &[
    "datadog",
    "envoyFileAccessLog",
    "envoyHttpAls",
    "envoyOtelAls",
    "envoyTcpAls",
    "lightstep",
    "opencensus",
    "opentelemetry",
    "prometheus",
    "sds",
    "skywalking",
    "stackdriver",
    "zipkin",
];

pub(super) fn read(value: Value<'_>) -> Option<ExtensionProvider> {
    value.map(|fields| {
        fields.not_supported(LATER);
        let name = fields
            .required("name")
            .and_then(|value| value.parse(names::provider_name));
        let http = fields.get("envoyExtAuthzHttp");
        let grpc = fields.get("envoyExtAuthzGrpc");
        if let (Some(_), Some(value)) = (http, grpc) {
            let what = "a provider is either `envoyExtAuthzHttp` or `envoyExtAuthzGrpc`";
            value.error(codes::CONFLICT, what);
        }
        if http.is_none() && grpc.is_none() && !LATER.iter().any(|name| fields.has(name)) {
            let what = "the provider has neither `envoyExtAuthzHttp` nor `envoyExtAuthzGrpc`";
            fields.sink.error(codes::MISSING_FIELD, fields.spot, what);
        }
        let name: Option<Arc<str>> = name.map(|name| name.as_str().into());
        let http = http.map(|value| value.map(|fields| read_authorizer(fields, name.clone(), true)));
        let grpc = grpc.map(|value| value.map(|fields| read_authorizer(fields, name, false)));
        http.or(grpc)?
    })
}

fn read_authorizer(fields: &Fields<'_>, name: Option<Arc<str>>, is_http: bool) -> Option<ExtensionProvider> {
    let service = fields
        .required("service")
        .and_then(|value| value.parse(parse_service));
    let port = fields.required("port").and_then(read_port_number);
    let timeout = fields.get("timeout").and_then(|value| {
        let timeout = value.parse(names::seconds)?;
        if !(Duration::from_millis(1)..=LONGEST_TIMEOUT).contains(&timeout) {
            value.error(codes::OUT_OF_RANGE, "`timeout` goes from 0.001s to 3600s");
        }
        Some(timeout)
    });
    let fail_open = fields.boolean("failOpen");
    if let Some(value) = fields.get("failOpen").filter(|_| fail_open == Some(true)) {
        value.sink.push(
            Severity::Note,
            codes::UNSAFE,
            value.spot,
            "with `failOpen`, who can keep the authorizer from answering is let in",
            None,
            Some("without it, a request without an answer is refused".to_owned()),
        );
    }
    let status_on_error = fields.filled("statusOnError").and_then(read_status);
    let body = fields
        .get("includeRequestBodyInCheck")
        .and_then(|value| read_body(value, is_http));
    let clear_route_cache = fields.boolean("clearRouteCache");
    let authorizer = if is_http {
        Authorizer::Http(read_http(fields))
    } else {
        Authorizer::Grpc
    };
    Some(ExtensionProvider {
        name: name?,
        service: service?,
        port: port?,
        timeout,
        fail_open,
        status_on_error,
        body,
        clear_route_cache,
        authorizer,
    })
}

fn parse_service(text: &str) -> Result<ProviderService, String> {
    let (namespace, host) = match text.split_once('/') {
        Some((namespace, host)) => (Some(names::dns_label(namespace)?), host),
        None => (None, text),
    };
    let host = Hostname::parse(host).map_err(|error| error.to_string())?;
    Ok(ProviderService { namespace, host })
}

/// Istio writes the status as a text.
fn read_status(value: Value<'_>) -> Option<u16> {
    value.parse(|text| match text.parse::<u16>() {
        Ok(status @ 400..=599) if text.len() == 3 => Ok(status),
        Ok(_) | Err(_) => Err(format!(
            "`{text}` is not a status of an error: \"400\" to \"599\""
        )),
    })
}

fn read_body(value: Value<'_>, is_http: bool) -> Option<BodyInCheck> {
    value.map(|fields| {
        let most = fields
            .required("maxRequestBytes")
            .and_then(|value| value.u32(1..=MOST_BODY_BYTES));
        let allow_partial_message = fields.boolean("allowPartialMessage");
        let pack_as_bytes = fields.boolean("packAsBytes");
        if let Some(value) = fields.get("packAsBytes").filter(|_| is_http && pack_as_bytes == Some(true)) {
            value.warn(
                codes::POINTLESS_RULE,
                "`packAsBytes` has an effect only with `envoyExtAuthzGrpc`: over HTTP the body is always sent as it is",
                "remove it",
            );
        }
        Some(BodyInCheck {
            max_request_bytes: most?,
            allow_partial_message,
            pack_as_bytes,
        })
    })
}

fn read_http(fields: &Fields<'_>) -> HttpAuthorizer {
    let path_prefix = fields.filled("pathPrefix").and_then(|value| {
        value.parse(|text| {
            let fine = text.starts_with('/')
                && text.bytes().all(|b| b.is_ascii_graphic())
                && !text.contains(['?', '#']);
            if fine {
                Ok(text.to_owned())
            } else {
                Err(format!(
                    "`{text}` is not a path: it starts with `/` and has no query"
                ))
            }
        })
    });
    let mut include = read_header_matches(fields, "includeRequestHeadersInCheck");
    include.extend(read_header_matches(fields, "includeHeadersInCheck"));
    let additional = fields
        .get("includeAdditionalHeadersInCheck")
        .map(read_additional)
        .unwrap_or_default();
    HttpAuthorizer {
        path_prefix,
        include_request_headers_in_check: include,
        include_additional_headers_in_check: additional,
        headers_to_upstream_on_allow: read_header_matches(fields, "headersToUpstreamOnAllow"),
        headers_to_downstream_on_allow: read_header_matches(fields, "headersToDownstreamOnAllow"),
        headers_to_downstream_on_deny: read_header_matches(fields, "headersToDownstreamOnDeny"),
    }
}

fn read_additional(value: Value<'_>) -> Vec<(String, String)> {
    let mut headers: Vec<(String, String)> = Vec::new();
    for (key, spot, value) in value.entries() {
        let name = match names::header_name(key) {
            Ok(name) => name,
            Err(what) => {
                value.sink.error(codes::INVALID_VALUE, spot, what);
                continue;
            }
        };
        if headers.iter().any(|(other, _)| *other == name) {
            let what = format!("the header `{name}` is there twice");
            value.sink.error(codes::CONFLICT, spot, what);
        }
        if let Some(text) = value.parse(names::header_value) {
            headers.push((name, text));
        }
    }
    headers
}

fn read_header_matches(fields: &Fields<'_>, name: &'static str) -> Vec<StringMatch> {
    let header = |value: Value<'_>| {
        value.parse(|text| {
            let inner = text
                .strip_prefix('*')
                .or_else(|| text.strip_suffix('*'))
                .unwrap_or(text);
            if inner.is_empty() {
                return Err(format!(
                    "`{text}` is not a header: a name, `prefix*` or `*suffix`, and not `*` alone"
                ));
            }
            names::header_name(inner).map(|_| StringMatch::parse(&text.to_ascii_lowercase()))
        })
    };
    fields
        .get(name)
        .map(|value| value.list(header))
        .unwrap_or_default()
}
