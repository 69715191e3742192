//! Probes, with Kubernetes' defaults and named ports resolved.

use std::time::Duration;

use bartizan_config::kube::{self, Container, PortReference, ProbeCheck};
use bartizan_config::{Finding, Severity};
use bartizan_types::{Port, Probe, ProbeAction};

use super::Context;
use crate::codes;

impl Context<'_> {
    pub(super) fn probe(
        &self,
        container: &Container,
        probe: Option<&kube::Probe>,
        path: &str,
        findings: &mut Vec<Finding>,
    ) -> Option<Probe> {
        let probe = probe?;
        if probe.termination_grace_period.is_some() {
            let path = format!("{path}.terminationGracePeriodSeconds");
            let finding = self.cannot_run(&path, "a probe's own grace period is not supported");
            findings.push(finding.help("set `terminationGracePeriodSeconds` of the pod"));
        }
        let action = match &probe.check {
            ProbeCheck::HttpGet(get) => {
                if get.https {
                    let path = format!("{path}.httpGet.scheme");
                    let finding = self.cannot_run(&path, "an HTTPS probe is not supported");
                    findings.push(finding.help("use `tcpSocket` or `exec`"));
                }
                ProbeAction::HttpGet {
                    port: number(container, &get.port)?,
                    path: get.path.clone().unwrap_or_else(|| "/".to_owned()),
                    headers: get.headers.clone(),
                }
            }
            ProbeCheck::TcpSocket { port } => ProbeAction::TcpSocket {
                port: number(container, port)?,
            },
            ProbeCheck::Grpc { port, service } => ProbeAction::Grpc {
                port: *port,
                service: service.clone().unwrap_or_default(),
            },
            ProbeCheck::Exec(command) => ProbeAction::Exec {
                command: command.clone(),
            },
        };
        Some(Probe {
            action,
            initial_delay_seconds: seconds(probe.initial_delay, 0, 0),
            period_seconds: seconds(probe.period, 10, 1),
            timeout_seconds: seconds(probe.timeout, 1, 1),
            success_threshold: probe.success_threshold.unwrap_or(1).max(1),
            failure_threshold: probe.failure_threshold.unwrap_or(3).max(1),
        })
    }

    fn cannot_run(&self, path: &str, what: &str) -> Finding {
        self.document
            .finding(codes::CANNOT_RUN, Severity::Error, path, what)
    }
}

/// The port's number. INVARIANT: `config` reads no probe that names a port which its container has not.
fn number(container: &Container, port: &PortReference) -> Option<Port> {
    match port {
        PortReference::Number(port) => Some(*port),
        PortReference::Name(name) => container
            .ports
            .iter()
            .find(|port| port.name.as_ref() == Some(name))
            .map(|port| port.port),
    }
}

fn seconds(duration: Option<Duration>, default: u64, least: u64) -> u32 {
    let seconds = duration.map_or(default, |duration| duration.as_secs()).max(least);
    u32::try_from(seconds).unwrap_or(u32::MAX)
}
