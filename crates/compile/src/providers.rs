//! External authorizers that CUSTOM policies name (`MeshConfig.extensionProviders`).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bartizan_config::istio::{Authorizer, ExtensionProvider, HttpAuthorizer, ProviderService};
use bartizan_config::{Document, Finding, Severity};
use bartizan_mesh::{BodyInCheck, HttpProvider, Key, Provider, ProviderProtocol, Resource};
use bartizan_types::NamespacedName;

use crate::codes;
use crate::options::Options;
use crate::services::{ServiceEntry, Services};

/// An authorizer.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ProviderEntry {
    pub(crate) provider: Provider,
    pub(crate) key: Key,
    pub(crate) resource: Arc<Resource>,
    /// The field of the mesh's configuration that names it, for findings.
    pub(crate) path: String,
}

/// By the provider's name.
pub(crate) type Providers = BTreeMap<Arc<str>, Arc<ProviderEntry>>;

/// Istio's, where a provider has no `timeout`.
const TIMEOUT: Duration = Duration::from_mins(10);
/// Istio's, where a provider has no `statusOnError`.
const STATUS_ON_ERROR: u16 = 403;

/// All authorizers. One whose service does not exist is an error.
pub(crate) fn build(
    document: &Document,
    written: &[ExtensionProvider],
    services: &Services,
    options: &Options,
    findings: &mut Vec<Finding>,
) -> Providers {
    let mut providers = Providers::new();
    for (index, written) in written.iter().enumerate() {
        let kind = match &written.authorizer {
            Authorizer::Http(_) => "envoyExtAuthzHttp",
            Authorizer::Grpc => "envoyExtAuthzGrpc",
        };
        let path = format!("data.mesh.extensionProviders[{index}].{kind}");
        let Some(entry) = find(&written.service, services, options) else {
            let what = format!(
                "authorizer `{}` is no service of the mesh: `{}` does not exist",
                written.name, written.service.host
            );
            let path = format!("{path}.service");
            let finding = document.finding(codes::PROVIDER_SERVICE, Severity::Error, &path, what);
            findings.push(finding.help(format!(
                "name a Service of the documents in full: `NAME.NAMESPACE.svc.{}`",
                options.settings.cluster_domain
            )));
            continue;
        };
        let service = &entry.service;
        if service.port(written.port).is_none() {
            let ports: Vec<_> = service.ports.iter().map(|port| port.port.to_string()).collect();
            let what = format!(
                "authorizer `{}`: service `{}` has no port {}",
                written.name, service.name, written.port
            );
            let path = format!("{path}.port");
            let finding = document.finding(codes::PROVIDER_SERVICE, Severity::Error, &path, what);
            findings.push(finding.help(format!("its ports are {}", ports.join(", "))));
            continue;
        }
        let provider = resolve(written, service.name.clone());
        let resource = Resource::Provider(provider.clone());
        let entry = ProviderEntry {
            key: resource.key(),
            resource: Arc::new(resource),
            provider,
            path,
        };
        providers.insert(written.name.clone(), Arc::new(entry));
    }
    providers
}

/// The service of this name: in full, or short as far as its namespace is known (`name.namespace`, `namespace/name`). A name
/// that stands for another service is followed.
fn find<'a>(
    written: &ProviderService,
    services: &'a Services,
    options: &Options,
) -> Option<&'a ServiceEntry> {
    let host = written.host.as_str();
    let domain = &options.settings.cluster_domain;
    let is_it = |entry: &&Arc<ServiceEntry>| {
        let NamespacedName { namespace, name } = &entry.service.name;
        let is_there = written
            .namespace
            .as_ref()
            .is_none_or(|written| written == namespace);
        is_there
            && (host == entry.service.hostname.as_str()
                || host == format!("{name}.{namespace}.svc")
                || host == format!("{name}.{namespace}")
                || (written.namespace.is_some() && host == name.as_str())
                || host == format!("{name}.{namespace}.svc.{domain}"))
    };
    let mut entry = services.values().find(is_it)?;
    // `alias_of` is the end of its chain.
    if let Some(other) = &entry.service.alias_of {
        entry = services.values().find(|entry| entry.service.hostname == *other)?;
    }
    Some(entry)
}

fn resolve(written: &ExtensionProvider, service: NamespacedName) -> Provider {
    Provider {
        name: written.name.clone(),
        service,
        port: written.port,
        timeout_ms: u64::try_from(written.timeout.unwrap_or(TIMEOUT).as_millis()).unwrap_or(u64::MAX),
        fail_open: written.fail_open.unwrap_or(false),
        status_on_error: written.status_on_error.unwrap_or(STATUS_ON_ERROR),
        body: written.body.map(|body| BodyInCheck {
            max_bytes: body.max_request_bytes,
            allow_partial: body.allow_partial_message.unwrap_or(false),
            pack_as_bytes: body.pack_as_bytes.unwrap_or(false),
        }),
        clear_route_cache: written.clear_route_cache.unwrap_or(false),
        protocol: match &written.authorizer {
            Authorizer::Grpc => ProviderProtocol::Grpc,
            Authorizer::Http(http) => ProviderProtocol::Http(resolve_http(http)),
        },
    }
}

fn resolve_http(written: &HttpAuthorizer) -> HttpProvider {
    HttpProvider {
        path_prefix: written.path_prefix.as_deref().unwrap_or_default().into(),
        include_request_headers: written.include_request_headers_in_check.clone(),
        additional_headers: written
            .include_additional_headers_in_check
            .iter()
            .map(|(name, value)| (name.as_str().into(), value.as_str().into()))
            .collect(),
        headers_to_upstream_on_allow: written.headers_to_upstream_on_allow.clone(),
        headers_to_downstream_on_allow: written.headers_to_downstream_on_allow.clone(),
        headers_to_downstream_on_deny: written.headers_to_downstream_on_deny.clone(),
    }
}
