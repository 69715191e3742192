//! Service: a name and ports in front of pods.

use std::collections::BTreeSet;

use bartizan_types::{Hostname, Port, Protocol, Selector};

use super::container::{read_port_number, refuse_udp};
use crate::field::{Fields, Value};
use crate::finding::{Severity, codes};
use crate::names;

/// Kubernetes Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// What stands behind the name.
    pub kind: ServiceKind,
    /// `selector`; empty selects nothing.
    pub selector: Selector,
    /// `ports`, each number once.
    pub ports: Vec<ServicePort>,
    /// `publishNotReadyAddresses`.
    pub publish_not_ready_addresses: bool,
}

/// What stands behind a service's name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServiceKind {
    /// One virtual address (also `NodePort` and `LoadBalancer`, whose outer part has no meaning here).
    ClusterIp,
    /// `clusterIP: None`: the pods' own addresses.
    Headless,
    /// `externalName`: another name.
    ExternalName(Hostname),
}

/// One of a service's `ports`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePort {
    /// `name`; only a single port may have none.
    pub name: Option<String>,
    /// `port`.
    pub port: Port,
    /// `targetPort`; the port itself where there is none.
    pub target: Option<PortReference>,
    /// `appProtocol` as written.
    pub app_protocol: Option<String>,
}

impl ServicePort {
    /// What the port speaks: `appProtocol`, else the name's prefix, else what the first bytes tell (Istio protocol selection).
    pub fn protocol(&self) -> Protocol {
        let declared = self.app_protocol.as_deref().and_then(Protocol::from_name);
        let named = || self.name.as_deref().and_then(Protocol::from_name);
        declared.or_else(named).unwrap_or(Protocol::Detect)
    }
}

/// A port by its number, or by the name that a container gives it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PortReference {
    /// A number.
    Number(Port),
    /// A container port's name.
    Name(String),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Written {
    ClusterIp,
    NodePort,
    LoadBalancer,
    ExternalName,
}

pub(crate) fn read(fields: &Fields<'_>) -> Option<Service> {
    fields.required("spec")?.map(|spec| {
        spec.no_meaning(&[
            "allocateLoadBalancerNodePorts",
            "clusterIPs",
            "externalTrafficPolicy",
            "healthCheckNodePort",
            "internalTrafficPolicy",
            "ipFamilies",
            "ipFamilyPolicy",
            "loadBalancerClass",
            "loadBalancerIP",
            "loadBalancerSourceRanges",
            "trafficDistribution",
        ]);
        spec.refuse(
            "externalIPs",
            &[],
            "only gateways are reachable from outside of the mesh",
        );
        spec.refuse(
            "sessionAffinity",
            &["None"],
            "requests are balanced one by one; clients do not stick to an endpoint",
        );
        spec.refuse(
            "sessionAffinityConfig",
            &[],
            "requests are balanced one by one; clients do not stick to an endpoint",
        );
        let kind = read_kind(spec);
        let labels = spec.get("selector").map(Value::labels).unwrap_or_default();
        let publish = spec.boolean("publishNotReadyAddresses").unwrap_or(false);
        let ports = read_ports(spec, kind.as_ref());
        Some(Service {
            kind: kind?,
            selector: Selector { match_labels: labels },
            ports,
            publish_not_ready_addresses: publish,
        })
    })
}

fn read_kind(spec: &Fields<'_>) -> Option<ServiceKind> {
    let kind_value = spec.filled("type");
    let written = kind_value.map(|value| {
        value.choice(&[
            ("ClusterIP", Written::ClusterIp),
            ("NodePort", Written::NodePort),
            ("LoadBalancer", Written::LoadBalancer),
            ("ExternalName", Written::ExternalName),
        ])
    });
    let address = spec.filled("clusterIP");
    let external = spec.filled("externalName");
    let written = written.unwrap_or(Some(Written::ClusterIp))?;
    if written == Written::ExternalName {
        let name = spec.required("externalName")?.parse(Hostname::parse)?;
        return Some(ServiceKind::ExternalName(name));
    }
    if let Some(external) = external {
        external.error(codes::CONFLICT, "`externalName` needs `type: ExternalName`");
    }
    if let (Written::NodePort | Written::LoadBalancer, Some(value)) = (written, kind_value) {
        let what = format!(
            "{} is read as `ClusterIP`",
            spec.sink.quoted(value.raw().unwrap_or_default())
        );
        let why = "nothing listens on the host but gateways";
        spec.sink.push(
            Severity::Note,
            codes::NO_MEANING,
            value.spot,
            what,
            Some(why.to_owned()),
            None,
        );
    }
    match address.map(|value| (value, value.text())) {
        Some((_, Some("None"))) => return Some(ServiceKind::Headless),
        Some((value, Some(text))) if !text.is_empty() => {
            let what = "the address is chosen by the mesh; this one has no meaning here";
            if text.parse::<std::net::IpAddr>().is_err() {
                let what = format!("{} is neither `None` nor an address", spec.sink.quoted(text));
                value.error(codes::INVALID_VALUE, what);
            } else {
                spec.sink
                    .push(Severity::Note, codes::NO_MEANING, value.spot, what, None, None);
            }
        }
        Some(_) | None => {}
    }
    Some(ServiceKind::ClusterIp)
}

fn read_ports(spec: &Fields<'_>, kind: Option<&ServiceKind>) -> Vec<ServicePort> {
    let value = match kind {
        Some(ServiceKind::ClusterIp) => spec.required("ports"),
        Some(ServiceKind::Headless | ServiceKind::ExternalName(_)) | None => spec.get("ports"),
    };
    let Some(value) = value else { return Vec::new() };
    let items = if value.is_list() {
        value.items()
    } else {
        return value.list(read_port);
    };
    if items.is_empty() && kind == Some(&ServiceKind::ClusterIp) {
        value.error(codes::EMPTY, "a service with an address needs a port");
    }
    let several = items.len() > 1;
    let (mut numbers, mut port_names) = (BTreeSet::new(), BTreeSet::new());
    let mut ports = Vec::new();
    for item in items {
        let Some(port) = read_port(item) else { continue };
        if !numbers.insert(port.port) {
            item.error(codes::CONFLICT, format!("port {} is written twice", port.port));
        }
        match &port.name {
            Some(name) if !port_names.insert(name.clone()) => {
                item.error(codes::CONFLICT, format!("two ports are named `{name}`"));
            }
            None if several => item.error(codes::MISSING_FIELD, "each of several ports needs a `name`"),
            Some(_) | None => {}
        }
        ports.push(port);
    }
    ports
}

fn read_port(value: Value<'_>) -> Option<ServicePort> {
    value.map(|fields| {
        fields.no_meaning(&["nodePort"]);
        refuse_udp(fields);
        let name = fields.filled("name").and_then(|value| value.parse(port_label));
        let port = fields.required("port").and_then(read_port_number);
        let target = fields.filled("targetPort").and_then(read_port_reference);
        let app_protocol = fields.text("appProtocol");
        if let (Some(text), Some(value)) = (&app_protocol, fields.get("appProtocol"))
            && Protocol::from_name(text).is_none()
        {
            value.warn(
                codes::UNKNOWN_CHOICE,
                format!(
                    "{} is not a protocol that is known here, so the first bytes decide",
                    fields.sink.quoted(text)
                ),
                "`http`, `http2`, `grpc`, `tls`, `tcp`, `kubernetes.io/h2c` and `kubernetes.io/ws` are known",
            );
        }
        Some(ServicePort {
            name,
            port: port?,
            target,
            app_protocol,
        })
    })
}

/// The name of a service's port is a DNS label.
fn port_label(text: &str) -> Result<String, String> {
    names::dns_label(text).map(|name| name.as_str().to_owned())
}

/// A port's number, or the name that a container gives it.
pub(crate) fn read_port_reference(value: Value<'_>) -> Option<PortReference> {
    if value.as_integer().is_some() {
        return read_port_number(value).map(PortReference::Number);
    }
    value.parse(names::port_name).map(PortReference::Name)
}
