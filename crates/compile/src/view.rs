//! What a workload's own proxy is told about its workload, and who the workload is for others.

use std::collections::BTreeMap;
use std::sync::Arc;

use bartizan_mesh::{Condition, InboundPort, MtlsMode, Policy, View, Workload};
use bartizan_types::{Hostname, Labels, NamespacedName, PodReport, PodRole, PodSpec, Port, Protocol};

use crate::authentications::AuthenticationEntry;
use crate::model::Model;
use crate::names::in_namespace;
use crate::options::Options;
use crate::people;
use crate::policies::PolicyEntry;
use crate::services::{ServiceEntry, ports_of};

/// The policies that are for a workload: AuthorizationPolicies before AccessRules, those of the root namespace first, by name.
pub(crate) fn policies_of<'a>(
    model: &'a Model,
    pod: &'a PodSpec,
    options: &'a Options,
) -> impl Iterator<Item = &'a PolicyEntry> {
    attachable(&model.policies, pod, options)
        .chain(attachable(&model.access_rules, pod, options))
        .filter(|entry| entry.attachment.selects(pod))
}

/// The RequestAuthentications that are for a workload.
pub(crate) fn authentications_of<'a>(
    model: &'a Model,
    pod: &'a PodSpec,
    options: &'a Options,
) -> impl Iterator<Item = &'a AuthenticationEntry> {
    attachable(&model.authentications, pod, options).filter(|entry| entry.attachment.selects(pod))
}

/// The entries of the root namespace and of the pod's own.
fn attachable<'a, T>(
    entries: &'a BTreeMap<NamespacedName, Arc<T>>,
    pod: &'a PodSpec,
    options: &'a Options,
) -> impl Iterator<Item = &'a T> {
    let root = &options.settings.root_namespace;
    let own = &pod.name.namespace;
    in_namespace(entries, root)
        .filter(move |_| root != own)
        .chain(in_namespace(entries, own))
        .map(|(_, entry)| &**entry)
}

/// The services that select a workload, by name.
pub(crate) fn services_of<'a>(model: &'a Model, pod: &'a PodSpec) -> impl Iterator<Item = &'a ServiceEntry> {
    in_namespace(&model.services, &pod.name.namespace)
        .map(|(_, entry)| &**entry)
        .filter(|entry| entry.selects(&pod.labels))
}

/// The view of a workload.
pub(crate) fn view(model: &Model, pod: &PodSpec, options: &Options) -> View {
    let mut view = view_without_policies(model, pod, options);
    let mtls = model.mtls.of(&pod.name.namespace, &pod.labels, options);
    for entry in policies_of(model, pod, options) {
        view.policies.push(entry.policy.id());
        for port in ports_in(&entry.policy) {
            if view.inbound_port(port).is_none() {
                view.inbound.push(InboundPort {
                    port,
                    mtls: mtls.of(port),
                    protocol: Protocol::Detect,
                    service: None,
                });
            }
        }
    }
    view.policies.sort();
    view.authentications = authentications_of(model, pod, options)
        .map(|entry| entry.authentication.name.clone())
        .collect();
    view.authentications.sort();
    view.inbound.sort_by_key(|inbound| inbound.port);
    view
}

/// The view of a workload as if it had no policies: its inbound ports are those that it, a service or a
/// PeerAuthentication names.
pub(crate) fn view_without_policies(model: &Model, pod: &PodSpec, options: &Options) -> View {
    let modes = model.mtls.of(&pod.name.namespace, &pod.labels, options);
    let mut inbound = BTreeMap::<Port, InboundPort>::new();
    let open = |port: Port| InboundPort {
        port,
        mtls: modes.of(port),
        protocol: Protocol::Detect,
        service: None,
    };
    for service in services_of(model, pod) {
        for target in &service.ports {
            if let Some(port) = target.at(pod) {
                let inbound = inbound.entry(port).or_insert_with(|| open(port));
                inbound
                    .service
                    .get_or_insert_with(|| service.service.name.clone());
                if inbound.protocol == Protocol::Detect {
                    inbound.protocol = target.protocol;
                }
            }
        }
    }
    let named = ports_of(pod)
        .map(|port| port.port)
        .chain(modes.ports.keys().copied());
    for port in named.collect::<Vec<_>>() {
        inbound.entry(port).or_insert_with(|| open(port));
    }
    let gateway = match &pod.role {
        PodRole::Application => None,
        PodRole::Gateway { gateway, listen } => {
            // Clients from outside have no identity of the mesh: a listener's port takes what the listener says.
            for place in listen {
                let port = InboundPort {
                    port: place.port,
                    mtls: MtlsMode::Disable,
                    protocol: Protocol::Http,
                    service: None,
                };
                inbound.insert(place.port, port);
            }
            Some(gateway.clone())
        }
    };
    View {
        workload: pod.name.clone(),
        identity: pod.identity.clone(),
        labels: pod.labels.clone(),
        policies: Vec::new(),
        authentications: Vec::new(),
        is_for_people: people::is_for_people(model, pod),
        remote: model.remote_of(pod),
        mtls: modes.mode,
        inbound: inbound.into_values().collect(),
        gateway,
    }
}

/// The ports that a policy speaks of.
pub(crate) fn ports_in(policy: &Policy) -> Vec<Port> {
    let mut ports = Vec::new();
    for rule in &policy.rules {
        for operation in &rule.to {
            ports.extend(&operation.ports.any);
            ports.extend(&operation.ports.none);
        }
        for condition in &rule.when {
            if let Condition::DestinationPort(values) = condition {
                ports.extend(&values.any);
                ports.extend(&values.none);
            }
        }
    }
    ports.sort_unstable();
    ports.dedup();
    ports
}

/// Who an address is. Names follow Istio's injection: a label of its own, else `app.kubernetes.io`'s, else `app` and
/// `version`, else the controller's name and `latest`.
pub(crate) fn workload(model: &Model, report: &PodReport, options: &Options) -> Workload {
    let pod = &report.spec;
    let label = |key: &str| pod.labels.get(key).filter(|value| !value.is_empty()).cloned();
    Workload {
        name: pod.name.clone(),
        addresses: vec![report.address],
        identity: pod.identity.clone(),
        workload_name: pod.workload.clone(),
        canonical_service: label("service.istio.io/canonical-name")
            .or_else(|| label("app.kubernetes.io/name"))
            .or_else(|| label("app"))
            .unwrap_or_else(|| pod.workload.to_string()),
        canonical_revision: label("service.istio.io/canonical-revision")
            .or_else(|| label("app.kubernetes.io/version"))
            .or_else(|| label("version"))
            .unwrap_or_else(|| "latest".to_owned()),
        app: label("app"),
        version: label("version"),
        hostname: own_hostname(model, pod, options),
        labels: if model.tells_labels {
            pod.labels.clone()
        } else {
            Labels::new()
        },
    }
}

/// `db-0.db.shop.svc.cluster.local`: where the pod names a headless service of its namespace that selects it.
fn own_hostname(model: &Model, pod: &PodSpec, options: &Options) -> Option<Hostname> {
    let subdomain = pod.subdomain.clone()?;
    let name = NamespacedName::new(pod.name.namespace.clone(), subdomain);
    let service = model.services.get(&name)?;
    if !service.service.headless || !service.selects(&pod.labels) {
        return None;
    }
    let domain = &options.settings.cluster_domain;
    Hostname::parse(&format!(
        "{}.{}.{}.svc.{domain}",
        pod.hostname, name.name, name.namespace
    ))
    .ok()
}
