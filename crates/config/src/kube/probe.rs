//! Probes: how a container says that it started, lives and is ready.

use std::time::Duration;

use bartizan_types::Port;

use super::container::{ContainerPort, read_port_number};
use super::service::{PortReference, read_port_reference};
use crate::field::{Fields, Value};
use crate::finding::codes;
use crate::names;

/// A probe. Kubernetes' defaults where a field is not set: delay 0 s, period 10 s, timeout 1 s, success 1, failure 3.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probe {
    /// What is tried.
    pub check: ProbeCheck,
    /// `initialDelaySeconds`.
    pub initial_delay: Option<Duration>,
    /// `periodSeconds`.
    pub period: Option<Duration>,
    /// `timeoutSeconds`.
    pub timeout: Option<Duration>,
    /// `successThreshold`.
    pub success_threshold: Option<u32>,
    /// `failureThreshold`.
    pub failure_threshold: Option<u32>,
    /// `terminationGracePeriodSeconds` (liveness and startup only).
    pub termination_grace_period: Option<Duration>,
}

/// What a probe tries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProbeCheck {
    /// `httpGet`: a status from 200 to 399 is success.
    HttpGet(HttpGet),
    /// `tcpSocket`: a connection is success.
    TcpSocket {
        /// `port`.
        port: PortReference,
    },
    /// `grpc`: `grpc.health.v1.Health/Check` that answers SERVING is success.
    Grpc {
        /// `port`.
        port: Port,
        /// `service`; empty where there is none.
        service: Option<String>,
    },
    /// `exec.command`: exit code 0 is success.
    Exec(Vec<String>),
}

/// `httpGet` of a probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpGet {
    /// `path`; `/` where there is none.
    pub path: Option<String>,
    /// `port`.
    pub port: PortReference,
    /// `scheme: HTTPS`: TLS whose certificate is not checked.
    pub https: bool,
    /// `httpHeaders`, in order; `Host` among them replaces the pod's address.
    pub headers: Vec<(String, String)>,
}

/// Reads a probe; a named port must be one of the container's.
pub(crate) fn read(value: Value<'_>, ports: &[ContainerPort]) -> Option<Probe> {
    value.map(|fields| {
        let checks = [
            fields.get("httpGet").map(|value| read_http_get(value, ports)),
            fields.get("tcpSocket").map(|value| read_tcp_socket(value, ports)),
            fields.get("grpc").map(read_grpc),
            fields.get("exec").map(read_exec),
        ];
        let mut checks = checks.into_iter().flatten();
        let (first, second) = (checks.next(), checks.next());
        if first.is_none() || second.is_some() {
            let what = format!(
                "`{}` takes one of `httpGet`, `tcpSocket`, `grpc` and `exec`",
                value.name
            );
            value.error(codes::CONFLICT, what);
        }
        let seconds = |name: &'static str, least: u32| {
            let number = fields.get(name).and_then(|value| value.u32(least..=86_400))?;
            Some(Duration::from_secs(number.into()))
        };
        let initial_delay = seconds("initialDelaySeconds", 0);
        let period = seconds("periodSeconds", 1);
        let timeout = seconds("timeoutSeconds", 1);
        let termination_grace_period = seconds("terminationGracePeriodSeconds", 1);
        let success = fields.get("successThreshold");
        let success_threshold = success.and_then(|value| value.u32(1..=1_000));
        if let Some(success) = success
            && value.name != "readinessProbe"
            && success_threshold.is_some_and(|threshold| threshold != 1)
        {
            success.error(
                codes::OUT_OF_RANGE,
                "`successThreshold` of liveness and startup probes is 1",
            );
        }
        let failure_threshold = fields
            .get("failureThreshold")
            .and_then(|value| value.u32(1..=100_000));
        Some(Probe {
            check: first??,
            initial_delay,
            period,
            timeout,
            success_threshold,
            failure_threshold,
            termination_grace_period,
        })
    })
}

fn read_port(fields: &Fields<'_>, ports: &[ContainerPort]) -> Option<PortReference> {
    let value = fields.required("port")?;
    let port = read_port_reference(value)?;
    if let PortReference::Name(name) = &port
        && !ports.iter().any(|port| port.name.as_ref() == Some(name))
    {
        let what = format!("the container has no port named `{name}`");
        value.error_help(
            codes::CONFLICT,
            what,
            "name one of the container's `ports` so, or write a number",
        );
    }
    Some(port)
}

/// A probe goes to its own pod; another host would be outside.
fn refuse_host(fields: &Fields<'_>) {
    fields.refuse("host", &[""], "probes go to the container's own pod");
}

fn read_http_get(value: Value<'_>, ports: &[ContainerPort]) -> Option<ProbeCheck> {
    value.map(|fields| {
        refuse_host(fields);
        let port = read_port(fields, ports);
        let path = fields.filled("path").and_then(|value| value.parse(request_path));
        let scheme = fields.filled("scheme");
        let https = scheme.and_then(|value| value.choice(&[("HTTP", false), ("HTTPS", true)]));
        let headers = fields
            .get("httpHeaders")
            .map(|value| value.list(read_header))
            .unwrap_or_default();
        Some(ProbeCheck::HttpGet(HttpGet {
            path,
            port: port?,
            https: https.unwrap_or(false),
            headers,
        }))
    })
}

fn request_path(text: &str) -> Result<String, String> {
    if text.chars().all(|c| c.is_ascii_graphic()) {
        Ok(text.to_owned())
    } else {
        Err(format!(
            "`{text}` is not a request path: printable ASCII without blanks"
        ))
    }
}

fn read_header(value: Value<'_>) -> Option<(String, String)> {
    value.map(|fields| {
        let name = fields
            .required("name")
            .and_then(|value| value.parse(names::header_name));
        let value = fields
            .required("value")
            .and_then(|value| value.parse(names::header_value));
        Some((name?, value?))
    })
}

fn read_tcp_socket(value: Value<'_>, ports: &[ContainerPort]) -> Option<ProbeCheck> {
    value.map(|fields| {
        refuse_host(fields);
        let port = read_port(fields, ports)?;
        Some(ProbeCheck::TcpSocket { port })
    })
}

fn read_grpc(value: Value<'_>) -> Option<ProbeCheck> {
    value.map(|fields| {
        let service = fields.text("service");
        let port = fields.required("port").and_then(read_port_number)?;
        Some(ProbeCheck::Grpc { port, service })
    })
}

fn read_exec(value: Value<'_>) -> Option<ProbeCheck> {
    value.map(|fields| {
        let value = fields.required("command")?;
        let command = value.list(|item| item.parse(names::argument));
        if value.is_list() && value.items().is_empty() {
            value.error(codes::EMPTY, "the command of a probe is empty");
        }
        Some(ProbeCheck::Exec(command))
    })
}
