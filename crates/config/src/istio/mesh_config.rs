//! MeshConfig: what Istio keeps in the ConfigMap `istio` of its root namespace, as YAML in `data.mesh`. Read is what policies
//! depend on; every other field is an error.

use std::collections::BTreeSet;

use bartizan_types::TrustDomain;

mod provider;

pub use provider::{Authorizer, BodyInCheck, ExtensionProvider, HttpAuthorizer, ProviderService};

use super::gateway_topology::{self, GatewayTopology};
use crate::field::{Fields, Value};
use crate::finding::codes;
use crate::kinds::Owner;

/// Istio MeshConfig.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MeshConfig {
    /// `trustDomain`.
    pub trust_domain: Option<TrustDomain>,
    /// `trustDomainAliases`, each once.
    pub trust_domain_aliases: Vec<TrustDomain>,
    /// `pathNormalization.normalization`; none, and `DEFAULT`, leave it to the profile.
    pub path_normalization: Option<PathNormalization>,
    /// `extensionProviders`, with names of their own. Indices are those of the document.
    pub extension_providers: Vec<ExtensionProvider>,
    /// `defaultConfig.gatewayTopology`.
    pub gateway_topology: Option<GatewayTopology>,
}

/// How a path is changed before policies and routes see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PathNormalization {
    /// `NONE`: not at all.
    None,
    /// `BASE`: RFC 3986 §6, and `\` is `/`.
    Base,
    /// `MERGE_SLASHES`: `BASE`, and `//` is `/`.
    MergeSlashes,
    /// `DECODE_AND_MERGE_SLASHES`: `%2F` and `%5C` are slashes, then as `MERGE_SLASHES`.
    DecodeAndMergeSlashes,
}

/// The keys of the ConfigMap that lead to the configuration.
const PATH: &[&str] = &["data", "mesh"];

/// Reads `mesh` of a ConfigMap's `data`; that its values are texts is checked with the other keys.
pub(crate) fn read(data: Value<'_>, owner: &Owner<'_>) -> Option<MeshConfig> {
    if let Some(networks) = data.peek("meshNetworks").filter(|value| value.is_text()) {
        let node = networks.inner_yaml();
        let is_empty = node.as_ref().is_none_or(|node| {
            Value::below(node, networks)
                .peek("networks")
                .is_some_and(Value::is_empty_map)
        });
        if !is_empty {
            networks.not_supported("`meshNetworks` is not supported yet: a mesh is one network");
        }
    }
    let text = data.peek("mesh").filter(|value| value.is_text())?;
    let Some(node) = text.inner_yaml() else {
        return Some(MeshConfig::default());
    };
    let mesh = Value::below(&node, text).map(|fields| Some(read_mesh(fields)));
    owner.inner.borrow_mut().push((PATH, node));
    mesh
}

fn read_mesh(fields: &Fields<'_>) -> MeshConfig {
    fields.not_supported(LATER);
    let mut aliases = BTreeSet::new();
    let mut names = BTreeSet::new();
    MeshConfig {
        trust_domain: fields
            .filled("trustDomain")
            .and_then(|value| value.parse(TrustDomain::parse)),
        trust_domain_aliases: fields
            .get("trustDomainAliases")
            .map(|value| {
                value.list(|value| {
                    let alias = value.parse(TrustDomain::parse)?;
                    if !aliases.insert(alias.as_str().to_owned()) {
                        value.warn(
                            codes::POINTLESS_RULE,
                            format!("`trustDomainAliases` has `{alias}` twice"),
                            "keep one of the two",
                        );
                        return None;
                    }
                    Some(alias)
                })
            })
            .unwrap_or_default(),
        path_normalization: fields.get("pathNormalization").and_then(|value| {
            value.map(|fields| {
                fields.get("normalization")?.choice(&[
                    ("DEFAULT", None),
                    ("NONE", Some(PathNormalization::None)),
                    ("BASE", Some(PathNormalization::Base)),
                    ("MERGE_SLASHES", Some(PathNormalization::MergeSlashes)),
                    (
                        "DECODE_AND_MERGE_SLASHES",
                        Some(PathNormalization::DecodeAndMergeSlashes),
                    ),
                ])?
            })
        }),
        extension_providers: fields
            .get("extensionProviders")
            .map(|value| {
                value.list(|value| {
                    let provider = provider::read(value)?;
                    if !names.insert(provider.name.clone()) {
                        let what = format!("two providers are named `{}`", provider.name);
                        value.error(codes::CONFLICT, what);
                    }
                    Some(provider)
                })
            })
            .unwrap_or_default(),
        gateway_topology: fields
            .get("defaultConfig")
            .and_then(gateway_topology::read_fields),
    }
}

/// Of MeshConfig, everything else that Istio knows.
const LATER: &[&str] = &[
    "accessLogEncoding",
    "accessLogFile",
    "accessLogFormat",
    "ca",
    "caCertificates",
    "certificates",
    "configSources",
    "connectTimeout",
    "defaultDestinationRuleExportTo",
    "defaultHttpRetryPolicy",
    "defaultProviders",
    "defaultServiceExportTo",
    "defaultVirtualServiceExportTo",
    "disableEnvoyListenerLog",
    "discoverySelectors",
    "dnsRefreshRate",
    "enableAutoMtls",
    "enableEnvoyAccessLogService",
    "enablePrometheusMerge",
    "enableTracing",
    "h2UpgradePolicy",
    "hboneIdleTimeout",
    "inboundClusterStatName",
    "inboundTrafficPolicy",
    "ingressClass",
    "ingressControllerMode",
    "ingressSelector",
    "ingressService",
    "localityLbSetting",
    "meshMTLS",
    "mixerCheckServer",
    "outboundClusterStatName",
    "outboundTrafficPolicy",
    "protocolDetectionTimeout",
    "proxyHttpPort",
    "proxyInboundListenPort",
    "proxyListenPort",
    "rootNamespace",
    "serviceScopeConfigs",
    "serviceSettings",
    "tcpKeepalive",
    "tlsDefaults",
    "verifyCertificateAtClient",
];
