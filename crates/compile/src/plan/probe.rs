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
            let what = "a probe's own grace period is not supported";
            findings.push(
                self.cannot_run(&format!("{path}.terminationGracePeriodSeconds"), what)
                    .help("set `terminationGracePeriodSeconds` of the pod"),
            );
        }
        let action = match &probe.check {
            ProbeCheck::HttpGet(get) => {
                if get.https {
                    let what = "an HTTPS probe is not supported";
                    findings.push(
                        self.cannot_run(&format!("{path}.httpGet.scheme"), what)
                            .help("use `tcpSocket` or `exec`"),
                    );
                }
                ProbeAction::HttpGet {
                    port: self.port(container, &get.port, &format!("{path}.httpGet.port"), findings)?,
                    path: get.path.clone().unwrap_or_else(|| "/".to_owned()),
                    headers: get.headers.clone(),
                }
            }
            ProbeCheck::TcpSocket { port } => ProbeAction::TcpSocket {
                port: self.port(container, port, &format!("{path}.tcpSocket.port"), findings)?,
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

    fn port(
        &self,
        container: &Container,
        port: &PortReference,
        path: &str,
        findings: &mut Vec<Finding>,
    ) -> Option<Port> {
        let name = match port {
            PortReference::Number(port) => return Some(*port),
            PortReference::Name(name) => name,
        };
        let found = container
            .ports
            .iter()
            .find(|port| port.name.as_ref() == Some(name));
        if found.is_none() {
            let names: Vec<_> = container
                .ports
                .iter()
                .filter_map(|port| port.name.as_deref())
                .collect();
            let what = format!("container `{}` has no port named `{name}`", container.name);
            let help = if names.is_empty() {
                "name one of the container's `ports`, or use the number".to_owned()
            } else {
                format!("its ports are named `{}`", names.join("`, `"))
            };
            let finding = self
                .document
                .finding(codes::MISSING_PORT_NAME, Severity::Error, path, what);
            findings.push(finding.help(help));
        }
        found.map(|port| port.port)
    }

    fn cannot_run(&self, path: &str, what: &str) -> Finding {
        self.document
            .finding(codes::CANNOT_RUN, Severity::Error, path, what)
    }
}

fn seconds(duration: Option<Duration>, default: u64, least: u64) -> u32 {
    let seconds = duration.map_or(default, |duration| duration.as_secs()).max(least);
    u32::try_from(seconds).unwrap_or(u32::MAX)
}
