//! What the owner says of itself: status, and what a proxy is told.

use std::collections::BTreeMap;
use std::sync::Arc;

use bartizan_compile::{ServiceStatus as Service, WorkloadStatus as Workload};
use bartizan_mesh::{Key, Resource};
use bartizan_proto::v1alpha1::DumpReply;
use bartizan_types::NamespacedName;

use super::Owner;
use crate::status::{
    AuthorityStatus, FindingStatus, GatewayStatus, NodeStatus, ServiceStatus, Status, WorkloadStatus,
    unix_seconds,
};

/// The most findings of a status; nobody reads more at once.
const MOST_FINDINGS: usize = 500;

impl Owner {
    /// What runs. The parts of the authority and of issuers' keys are filled in by whoever
    /// holds them.
    pub(super) fn status(&self) -> Status {
        let now = (self.now)();
        let workloads = self.world.workloads();
        let mut findings: Vec<_> = self.documents.all_findings().collect();
        findings.sort_by_key(|finding| std::cmp::Reverse(finding.severity)); // stable: the order of the files stays
        Status {
            build: env!("CARGO_PKG_VERSION").to_owned(),
            started_at: unix_seconds(self.started),
            uptime_seconds: now.duration_since(self.started).unwrap_or_default().as_secs(),
            version: self.numbering.version(),
            accepted_at: self.documents.accepted_at,
            profile: self.world.settings().profile.name.clone(),
            trust_domain: self.compile.settings.trust_domain.clone(),
            authority: AuthorityStatus::default(),
            node: self.node.as_ref().map(|node| NodeStatus {
                name: node.name.clone(),
                connected: node.connected,
            }),
            gateways: gateways(&workloads),
            workloads: workloads
                .into_iter()
                .map(|workload| self.workload(workload))
                .collect(),
            services: self.world.services().into_iter().map(service).collect(),
            service_accounts: self.world.service_accounts(),
            key_sets: Vec::new(),
            documents: self.documents.count,
            refused: self.documents.refused,
            findings: findings
                .iter()
                .take(MOST_FINDINGS)
                .map(|finding| FindingStatus::from(*finding))
                .collect(),
            findings_left_out: findings.len().saturating_sub(MOST_FINDINGS),
            counts: self.counts.clone(),
        }
    }

    /// What this proxy is told, or any; `None` for a proxy that is not known.
    pub(super) fn dump(&mut self, workload: Option<&NamespacedName>) -> Option<DumpReply> {
        let resources = match workload {
            Some(workload) => self.world.resources_for(workload),
            None => self.everything(),
        };
        if resources.is_empty() && workload.is_some() {
            return None;
        }
        let resources = resources
            .iter()
            .map(|(key, resource)| self.sessions.upsert_of(key, resource))
            .collect();
        Some(DumpReply {
            version: self.numbering.version().0,
            resources,
            positions: serde_json::to_vec(self.world.positions())
                .unwrap_or_default()
                .into(),
        })
    }

    /// Everything that any proxy is told, and where services are served that nobody is told about.
    fn everything(&self) -> BTreeMap<Key, Arc<Resource>> {
        let proxies = self.world.proxies();
        let told = proxies.flat_map(|proxy| self.world.resources_for(proxy));
        self.world.endpoints().chain(told).collect()
    }

    fn workload(&self, workload: Workload) -> WorkloadStatus {
        WorkloadStatus {
            app: self
                .pods
                .get(&workload.name)
                .and_then(|pod| pod.spec.labels.get("app").cloned()),
            proxy: self.sessions.status_of(&workload.name),
            name: workload.name,
            workload: workload.workload.to_string(),
            identity: workload.identity,
            address: workload.address,
            phase: workload.phase,
            ready: workload.ready,
            gateway: workload.gateway,
            planned: workload.planned,
            message: workload.message,
            mtls: workload.mtls,
            port_mtls: workload.port_mtls,
            allow: workload.policies.allow,
            deny: workload.policies.deny,
            services: workload.services,
            containers: workload.containers,
            proxy_restarts: workload.proxy_restarts,
            udp_dropped: workload.udp_dropped,
        }
    }
}

fn service(service: Service) -> ServiceStatus {
    ServiceStatus {
        name: service.name,
        hostname: service.hostname.to_string(),
        addresses: service.addresses,
        alias_of: service.alias_of.map(|name| name.to_string()),
        ports: service.ports,
        ready: service.ready,
        endpoints: service.endpoints,
    }
}

fn gateways(workloads: &[Workload]) -> Vec<GatewayStatus> {
    let mut gateways: BTreeMap<&NamespacedName, GatewayStatus> = BTreeMap::new();
    for workload in workloads {
        let Some(name) = &workload.gateway else { continue };
        let status = gateways.entry(name).or_insert_with(|| GatewayStatus {
            name: name.clone(),
            addresses: Vec::new(),
            listeners: Vec::new(),
            ready: false,
        });
        status
            .addresses
            .extend(workload.listen.iter().map(|listen| listen.address));
        for listen in &workload.listen {
            if !status.listeners.contains(listen) {
                status.listeners.push(listen.clone());
            }
        }
        status.addresses.sort_unstable();
        status.addresses.dedup();
        status.ready |= workload.ready;
    }
    gateways.into_values().collect()
}
