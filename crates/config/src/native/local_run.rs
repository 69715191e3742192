//! LocalRun: what runs on this machine in place of an image, and where gateways listen on the host.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use bartizan_types::{Name, Namespace, NamespacedName, Port};

use crate::field::{Fields, Value};
use crate::finding::codes;
use crate::kube::container::read_port_number;
use crate::names;

/// `bartizan.dev/v1alpha1` LocalRun.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LocalRun {
    /// `spec.workloads`.
    pub workloads: Vec<LocalWorkload>,
    /// `spec.gateways`.
    pub gateways: Vec<LocalGateway>,
}

/// One of `workloads`. Relative paths are relative to the document's folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalWorkload {
    /// Which containers it is for.
    pub target: LocalTarget,
    /// `command`; it takes the place of the image's entry point and of the container's own `command`.
    pub command: Option<Vec<String>>,
    /// `args`; they take the place of the container's own; where there are none, those stay.
    pub args: Option<Vec<String>>,
    /// `workingDirectory`.
    pub working_directory: Option<String>,
    /// `environment`; it is added to the container's own and wins over it.
    pub environment: BTreeMap<String, String>,
    /// `read`: paths of the host that the container sees.
    pub read: Vec<String>,
    /// `write`: paths of the host that the container may change.
    pub write: Vec<String>,
}

/// Which containers an entry is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LocalTarget {
    /// `image`: every container of this image, compared as text.
    Image(String),
    /// `container: NAMESPACE/WORKLOAD/CONTAINER`; it wins over `image`.
    Container {
        /// The workload's namespace.
        namespace: Namespace,
        /// The name of the Deployment, StatefulSet or Pod.
        workload: Name,
        /// The container's name.
        container: Name,
    },
}

/// One of `gateways`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalGateway {
    /// `gateway: NAMESPACE/NAME`.
    pub gateway: NamespacedName,
    /// `listen`: one entry without a port (a single text), or entries of distinct ports.
    pub listen: Vec<LocalListen>,
}

/// Where the host listens for a gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LocalListen {
    /// `port` of the gateway's listener; none where the gateway has only one.
    pub port: Option<Port>,
    /// `address` of the host; port 0 is any free port.
    pub address: SocketAddr,
}

pub(crate) fn read(fields: &Fields<'_>) -> Option<LocalRun> {
    fields.required("spec")?.map(|spec| {
        let workloads = spec.get("workloads");
        let gateways = spec.get("gateways");
        Some(LocalRun {
            workloads: workloads
                .map(|value| value.list(read_workload))
                .unwrap_or_default(),
            gateways: gateways.map(|value| value.list(read_gateway)).unwrap_or_default(),
        })
    })
}

fn read_workload(value: Value<'_>) -> Option<LocalWorkload> {
    value.map(|fields| {
        let target = read_target(fields);
        let texts = |value: Value<'_>| value.list(|item| item.parse(names::argument));
        let paths = |value: Value<'_>| value.list(|item| item.parse(names::host_path));
        let command_value = fields.get("command");
        if let Some(value) = command_value.filter(|value| value.is_list() && value.items().is_empty()) {
            value.error(codes::EMPTY, "the command is empty");
        }
        let mut environment = BTreeMap::new();
        for (key, spot, value) in fields.get("environment").map(Value::entries).unwrap_or_default() {
            match names::variable_name(key) {
                Ok(name) => {
                    environment.insert(name, value.parse(names::argument).unwrap_or_default());
                }
                Err(what) => fields.sink.error(codes::INVALID_VALUE, spot, what),
            }
        }
        let entry = LocalWorkload {
            command: command_value.map(texts),
            args: fields.get("args").map(texts),
            working_directory: fields
                .get("workingDirectory")
                .and_then(|value| value.parse(names::host_path)),
            environment,
            read: fields.get("read").map(paths).unwrap_or_default(),
            write: fields.get("write").map(paths).unwrap_or_default(),
            target: target?,
        };
        Some(entry)
    })
}

fn read_target(fields: &Fields<'_>) -> Option<LocalTarget> {
    let image = fields.get("image");
    let container = fields.get("container");
    match (image, container) {
        (Some(image), None) => {
            let text = image.text()?;
            if text.is_empty() {
                image.error(codes::EMPTY, "`image` is empty");
            }
            Some(LocalTarget::Image(text.to_owned()))
        }
        (None, Some(container)) => container.parse(|text| {
            let mut parts = text.split('/');
            match (parts.next(), parts.next(), parts.next(), parts.next()) {
                (Some(namespace), Some(workload), Some(container), None) => Ok(LocalTarget::Container {
                    namespace: names::dns_label(namespace)?,
                    workload: names::dns_name(workload)?,
                    container: names::dns_label(container)?,
                }),
                _ => Err(format!("`{text}` is not NAMESPACE/WORKLOAD/CONTAINER")),
            }
        }),
        (Some(_), Some(_)) | (None, None) => {
            let what = "an entry has one of `image` and `container`";
            fields.sink.error(codes::CONFLICT, fields.spot, what);
            None
        }
    }
}

fn read_gateway(value: Value<'_>) -> Option<LocalGateway> {
    value.map(|fields| {
        let gateway = fields
            .required("gateway")
            .and_then(|value| value.parse(NamespacedName::parse));
        let listen_value = fields.required("listen")?;
        let listen = if listen_value.is_list() {
            let listen = listen_value.list(read_listen);
            let mut ports: Vec<_> = listen.iter().map(|entry| entry.port).collect();
            ports.sort();
            if listen_value.items().is_empty() {
                listen_value.error(codes::EMPTY, "the gateway listens nowhere");
            }
            if ports
                .windows(2)
                .any(|pair| matches!(pair, [one, other] if one == other))
            {
                listen_value.error(codes::CONFLICT, "a port is written twice");
            }
            if listen.len() > 1 && listen.iter().any(|entry| entry.port.is_none()) {
                listen_value.error(codes::MISSING_FIELD, "each of several entries needs a `port`");
            }
            listen
        } else {
            let address = listen_value.parse(read_address)?;
            vec![LocalListen { port: None, address }]
        };
        Some(LocalGateway {
            gateway: gateway?,
            listen,
        })
    })
}

fn read_listen(value: Value<'_>) -> Option<LocalListen> {
    value.map(|fields| {
        let port = fields.get("port").and_then(read_port_number);
        let address = fields.required("address")?.parse(read_address)?;
        Some(LocalListen { port, address })
    })
}

/// An address and a port such as `127.0.0.1:8080` or `[::1]:8080`.
pub(super) fn read_address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| {
        format!("`{text}` is not an address with a port, such as `127.0.0.1:8080` or `[::1]:8080`")
    })
}
