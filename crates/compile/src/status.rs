//! What `bartizan status` shows of services and workloads.

use std::collections::BTreeMap;
use std::net::IpAddr;

use bartizan_mesh::{Action, MtlsMode, ServicePort};
use bartizan_types::{
    ContainerReport, GatewayListen, Hostname, Name, NamespacedName, PodPhase, PodRole, PodSpec, Port,
    SpiffeId,
};
use serde::Serialize;

use crate::names::in_namespace;
use crate::view;
use crate::world::World;

/// A service.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceStatus {
    /// Namespace and name.
    pub name: NamespacedName,
    /// The full name.
    pub hostname: Hostname,
    /// Its virtual addresses.
    pub addresses: Vec<IpAddr>,
    /// The name that it stands for, if it is only a name.
    pub alias_of: Option<Hostname>,
    /// The ports that clients call.
    pub ports: Vec<ServicePort>,
    /// How many pods stand behind it.
    pub endpoints: usize,
    /// How many of them take requests.
    pub ready: usize,
}

/// A replica that runs or should run.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct WorkloadStatus {
    /// Namespace and instance name.
    pub name: NamespacedName,
    /// The controller's name.
    pub workload: Name,
    /// Its identity.
    pub identity: SpiffeId,
    /// Its address; none while no node has it.
    pub address: Option<IpAddr>,
    /// How far it is; none while no node has it.
    pub phase: Option<PodPhase>,
    /// Whether it takes requests.
    pub ready: bool,
    /// What a person should know when it is not ready.
    pub message: Option<String>,
    /// Its containers.
    pub containers: Vec<ContainerReport>,
    /// How often its proxy was started again.
    pub proxy_restarts: u32,
    /// UDP packets that left the pod for nowhere.
    pub udp_dropped: u64,
    /// What plaintext may do on ports that are not listed below.
    pub mtls: MtlsMode,
    /// Ports whose mode differs.
    pub port_mtls: BTreeMap<Port, MtlsMode>,
    /// How many policies are for it.
    pub policies: PolicyCount,
    /// The services that select it.
    pub services: Vec<NamespacedName>,
    /// The gateway that it serves, if it is one.
    pub gateway: Option<NamespacedName>,
    /// Where the host listens for a gateway.
    pub listen: Vec<GatewayListen>,
    /// Whether the documents plan it; not so for what `bartizan run` started and for what is about to end.
    pub planned: bool,
}

/// How many policies are for a workload.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PolicyCount {
    /// With action ALLOW.
    pub allow: usize,
    /// With action DENY.
    pub deny: usize,
    /// With action AUDIT.
    pub audit: usize,
    /// With action CUSTOM.
    pub custom: usize,
}

impl World {
    /// Every service account that a workload may have, by namespace and name.
    pub fn service_accounts(&self) -> Vec<NamespacedName> {
        self.model.service_accounts.clone()
    }

    /// Every service, by namespace and name.
    pub fn services(&self) -> Vec<ServiceStatus> {
        self.model
            .services
            .values()
            .map(|entry| {
                let namespace = &entry.service.name.namespace;
                let pods: Vec<_> = in_namespace(&self.reports, namespace)
                    .map(|(_, report)| report)
                    .filter(|report| entry.selects(&report.spec.labels))
                    .filter(|report| !matches!(report.phase, PodPhase::Succeeded | PodPhase::Failed))
                    .collect();
                ServiceStatus {
                    name: entry.service.name.clone(),
                    hostname: entry.service.hostname.clone(),
                    addresses: entry.service.addresses.clone(),
                    alias_of: entry.service.alias_of.clone(),
                    ports: entry.service.ports.clone(),
                    endpoints: pods.len(),
                    ready: pods.iter().filter(|report| report.ready).count(),
                }
            })
            .collect()
    }

    /// Every replica that runs or should run, by namespace and name.
    pub fn workloads(&self) -> Vec<WorkloadStatus> {
        self.specs().map(|spec| self.workload(spec)).collect()
    }

    fn workload(&self, spec: &PodSpec) -> WorkloadStatus {
        let report = self.reports.get(&spec.name);
        let modes = self
            .model
            .mtls
            .of(&spec.name.namespace, &spec.labels, &self.options);
        let mut policies = PolicyCount::default();
        for entry in view::policies_of(&self.model, spec, &self.options) {
            match entry.policy.action {
                Action::Allow => policies.allow += 1,
                Action::Deny => policies.deny += 1,
                Action::Audit => policies.audit += 1,
                Action::Custom => policies.custom += 1,
            }
        }
        let (gateway, listen) = match &spec.role {
            PodRole::Application => (None, Vec::new()),
            PodRole::Gateway { gateway, listen } => (Some(gateway.clone()), listen.clone()),
        };
        WorkloadStatus {
            name: spec.name.clone(),
            workload: spec.workload.clone(),
            identity: spec.identity.clone(),
            address: report.map(|report| report.address),
            phase: report.map(|report| report.phase),
            ready: report.is_some_and(|report| report.ready),
            message: report.and_then(|report| report.message.clone()),
            containers: report.map(|report| report.containers.clone()).unwrap_or_default(),
            proxy_restarts: report.map_or(0, |report| report.proxy_restarts),
            udp_dropped: report.map_or(0, |report| report.udp_dropped),
            mtls: modes.mode,
            port_mtls: modes
                .ports
                .into_iter()
                .filter(|(_, mode)| *mode != modes.mode)
                .collect(),
            policies,
            services: view::services_of(&self.model, spec)
                .map(|entry| entry.service.name.clone())
                .collect(),
            gateway,
            listen,
            planned: self.model.plan.contains_key(&spec.name),
        }
    }
}
