//! Where a service is served: the reported pods that it selects.

use std::collections::BTreeMap;

use bartizan_mesh::{Endpoint, Endpoints, MtlsMode};
use bartizan_types::{PodPhase, PodReport, Port};

use crate::mtls::MtlsRules;
use crate::options::Options;
use crate::services::ServiceEntry;

/// The endpoints of a service among the reported pods of its namespace, which come in the order of their names.
///
/// A pod whose ports differ in that some of them take no mTLS at all is listed twice: with its identity for the ports that
/// prove it, and without for the others.
pub(crate) fn endpoints<'a>(
    service: &ServiceEntry,
    reports: impl Iterator<Item = &'a PodReport>,
    mtls: &MtlsRules,
    options: &Options,
) -> Endpoints {
    let mut endpoints = Vec::new();
    for report in reports.filter(|report| service.selects(&report.spec.labels)) {
        let Some(ready) = readiness(service, report) else {
            continue;
        };
        let pod = &report.spec;
        let modes = mtls.of(&pod.name.namespace, &pod.labels, options);
        let mut proven = BTreeMap::<Port, Port>::new();
        let mut plaintext = BTreeMap::<Port, Port>::new();
        for target in &service.ports {
            if let Some(port) = target.at(pod) {
                let ports = if modes.of(port) == MtlsMode::Disable {
                    &mut plaintext
                } else {
                    &mut proven
                };
                ports.insert(target.port, port);
            }
        }
        let endpoint = |ports, identity| Endpoint {
            workload: pod.name.clone(),
            address: report.address,
            ports,
            identity,
            ready,
        };
        // A headless service may have no ports at all: its name still resolves to the pods.
        if !proven.is_empty() || plaintext.is_empty() {
            endpoints.push(endpoint(proven, Some(pod.identity.clone())));
        }
        if !plaintext.is_empty() {
            endpoints.push(endpoint(plaintext, None));
        }
    }
    Endpoints {
        service: service.service.name.clone(),
        endpoints,
    }
}

/// Whether the pod takes requests for the service; `None` for a pod that has ended.
fn readiness(service: &ServiceEntry, report: &PodReport) -> Option<bool> {
    match report.phase {
        PodPhase::Succeeded | PodPhase::Failed => None,
        PodPhase::Terminating => Some(false),
        PodPhase::Pending | PodPhase::Running => Some(report.ready || service.publish_not_ready),
    }
}
