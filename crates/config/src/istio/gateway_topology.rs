//! `gatewayTopology` of Istio's ProxyConfig: which proxies stand before a gateway, and so whose word about the client counts.

use crate::field::Value;
use crate::finding::codes;

/// Istio `ProxyConfig.gatewayTopology`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GatewayTopology {
    /// `numTrustedProxies`: that many addresses from the end of X-Forwarded-For are trusted; none is 0.
    pub trusted_proxies: Option<u32>,
    /// `proxyProtocol: {}`: a connection starts with a PROXY protocol header.
    pub proxy_protocol: bool,
}

/// More proxies one behind the other do not exist.
const MOST_PROXIES: u32 = 100;

pub(crate) fn read(value: Value<'_>) -> Option<GatewayTopology> {
    value.map(|fields| {
        fields.not_supported(&["forwardClientCertDetails"]);
        let proxies = fields.get("numTrustedProxies");
        let proxy_protocol = fields.get("proxyProtocol").map(|value| value.map(|_| Some(())));
        Some(GatewayTopology {
            trusted_proxies: proxies.and_then(|value| value.u32(0..=MOST_PROXIES)),
            proxy_protocol: proxy_protocol.is_some(),
        })
    })
}

/// Of ProxyConfig, what the start and end of Istio's proxy ask for and no decision depends on.
const NO_MEANING: &[&str] = &[
    "concurrency",
    "drainDuration",
    "holdApplicationUntilProxyStarts",
    "image",
    "parentShutdownDuration",
    "terminationDrainDuration",
];
/// Of ProxyConfig, everything else that Istio knows.
const LATER: &[&str] = &[
    "availabilityZone",
    "binaryPath",
    "caCertificatesPem",
    "configPath",
    "connectionSettings",
    "controlPlaneAuthPolicy",
    "customConfigFile",
    "discoveryAddress",
    "discoveryRefreshDelay",
    "envoyAccessLogService",
    "envoyMetricsService",
    "envoyMetricsServiceAddress",
    "extraStatTags",
    "fileFlushInterval",
    "fileFlushMinSizeKb",
    "interceptionMode",
    "meshId",
    "privateKeyProvider",
    "proxyAdminPort",
    "proxyBootstrapTemplatePath",
    "proxyHeaders",
    "proxyMetadata",
    "proxyStatsMatcher",
    "readinessProbe",
    "runtimeValues",
    "sds",
    "serviceCluster",
    "statNameLength",
    "statsdUdpAddress",
    "statusPort",
    "tracing",
    "tracingServiceName",
    "zipkinAddress",
];

/// `defaultConfig` of MeshConfig, and the text of the annotation `proxy.istio.io/config` once it is parsed.
pub(crate) fn read_fields(value: Value<'_>) -> Option<GatewayTopology> {
    value.map(|fields| {
        fields.no_meaning(NO_MEANING);
        fields.not_supported(LATER);
        fields.get("gatewayTopology").and_then(read)
    })
}

/// The annotation `proxy.istio.io/config`: YAML in a text.
pub(crate) fn read_proxy_config(value: Value<'_>) -> Option<GatewayTopology> {
    let Some(node) = value.inner_yaml() else {
        value.error(codes::EMPTY, "`proxy.istio.io/config` is empty");
        return None;
    };
    read_fields(Value::below(&node, value))
}
