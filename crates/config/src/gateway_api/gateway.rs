//! Gateway: the way in.

use std::collections::BTreeSet;

use bartizan_types::{HostPattern, Hostname, Name, Port, Selector};

use crate::field::{Fields, Value};
use crate::finding::codes;
use crate::istio::GatewayTopology;
use crate::kube::container::read_port_number;
use crate::{marks, names};

/// Gateway API Gateway with HTTP listeners.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gateway {
    /// `spec.gatewayClassName`.
    pub class: Name,
    /// `spec.listeners`, at least one, with names of their own.
    pub listeners: Vec<Listener>,
    /// `gatewayTopology` of the annotation `proxy.istio.io/config`; wins over the mesh's.
    pub topology: Option<GatewayTopology>,
}

/// One of `listeners`; its protocol is HTTP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    /// `name`.
    pub name: Name,
    /// `port`.
    pub port: Port,
    /// `hostname`; none is every host.
    pub hostname: Option<HostPattern>,
    /// `allowedRoutes.namespaces`; none is `Same`.
    pub routes_from: Option<RouteNamespaces>,
}

/// From which namespaces routes may attach to a listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RouteNamespaces {
    /// `Same`: the gateway's own.
    Same,
    /// `All`.
    All,
    /// `Selector`: those whose labels match.
    Selector(Selector),
}

/// The most listeners of a gateway (Gateway API's CRD).
const MOST_LISTENERS: usize = 64;

pub(crate) fn read(fields: &Fields<'_>) -> Option<Gateway> {
    let topology = marks::read_topology(fields);
    fields.required("spec")?.map(|spec| {
        spec.not_supported(&["allowedListeners", "defaultScope", "tls"]);
        spec.no_meaning(&["addresses", "infrastructure"]);
        let class = spec
            .required("gatewayClassName")
            .and_then(|value| value.parse(names::dns_name));
        let listeners_value = spec.required("listeners");
        let mut listeners = Vec::new();
        if let Some(value) = listeners_value {
            if value.is_list() && value.items().is_empty() {
                value.error(codes::EMPTY, "a gateway needs at least one listener");
            }
            let mut seen_names = BTreeSet::new();
            let mut seen = BTreeSet::new();
            listeners = value.list_of_at_most(MOST_LISTENERS, |item| {
                let listener = read_listener(item)?;
                if !seen_names.insert(listener.name.clone()) {
                    item.error(
                        codes::CONFLICT,
                        format!("two listeners are named `{}`", listener.name),
                    );
                }
                if !seen.insert((listener.port, listener.hostname.clone())) {
                    item.error(
                        codes::CONFLICT,
                        format!("two listeners have port {} and the same host", listener.port),
                    );
                }
                Some(listener)
            });
        }
        Some(Gateway {
            class: class?,
            listeners,
            topology,
        })
    })
}

fn read_listener(value: Value<'_>) -> Option<Listener> {
    value.map(|fields| {
        fields.not_supported(&["tls"]);
        let name = fields
            .required("name")
            .and_then(|value| value.parse(names::dns_name));
        let port = fields.required("port").and_then(read_port_number);
        if let Some(protocol) = fields.required("protocol") {
            let known = [
                ("HTTP", true),
                ("HTTPS", false),
                ("TLS", false),
                ("TCP", false),
                ("UDP", false),
            ];
            if protocol.choice(&known) == Some(false) {
                let what = format!(
                    "listeners of protocol {} are not supported yet",
                    protocol.raw().unwrap_or_default()
                );
                protocol.not_supported(what);
            }
        }
        let hostname = match fields.get("hostname").filter(|value| value.raw() != Some("")) {
            Some(value) => read_host(value).map(Some),
            None => Some(None),
        };
        let routes_from = fields
            .get("allowedRoutes")
            .and_then(|value| value.map(|routes| read_routes(routes)));
        Some(Listener {
            name: name?,
            port: port?,
            hostname: hostname?,
            routes_from,
        })
    })
}

/// A host name, or `*.` before one.
pub(super) fn read_host(value: Value<'_>) -> Option<HostPattern> {
    value.parse(|text| {
        if text == "*" || text.parse::<std::net::IpAddr>().is_ok() {
            return Err(format!(
                "`{text}` is not a host name; leave it out for every host"
            ));
        }
        match text.strip_prefix("*.") {
            Some(name) => Hostname::parse(name).map(HostPattern::Suffix),
            None => Hostname::parse(text).map(HostPattern::Exact),
        }
        .map_err(|error| error.to_string())
    })
}

#[derive(Clone, Copy)]
enum From {
    Same,
    All,
    Selector,
    None,
}

fn read_routes(routes: &Fields<'_>) -> Option<RouteNamespaces> {
    for kind in routes.get("kinds").map(Value::items).unwrap_or_default() {
        kind.map(|fields| {
            let group = fields.get("group").and_then(Value::text);
            let value = fields.required("kind")?;
            let kind = value.text()?;
            if kind != "HTTPRoute" || !matches!(group, None | Some("gateway.networking.k8s.io")) {
                value.not_supported(format!(
                    "routes of kind {} are not supported yet",
                    fields.sink.quoted(kind)
                ));
            }
            Some(())
        });
    }
    routes.get("namespaces")?.map(|fields| {
        let selector = fields.get("selector");
        let from = fields.get("from").and_then(|value| {
            value.choice(&[
                ("Same", From::Same),
                ("All", From::All),
                ("Selector", From::Selector),
                ("None", From::None),
            ])
        });
        match (from?, selector) {
            (From::Selector, Some(selector)) => selector.selector().map(RouteNamespaces::Selector),
            (From::Selector, None) => {
                fields.required("selector");
                None
            }
            (From::None, _) => {
                fields
                    .get("from")?
                    .not_supported("`from: None` is not supported yet");
                None
            }
            (From::Same | From::All, Some(selector)) => {
                selector.error(codes::CONFLICT, "`selector` needs `from: Selector`");
                None
            }
            (From::Same, None) => Some(RouteNamespaces::Same),
            (From::All, None) => Some(RouteNamespaces::All),
        }
    })
}
