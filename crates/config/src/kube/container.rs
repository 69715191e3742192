//! Containers: a command, its environment, ports, mounts and probes.

use bartizan_types::{Name, Port};

use super::probe::{self, Probe};
use super::volume::{self, VolumeMount};
use crate::field::{Fields, Value};
use crate::finding::codes;
use crate::names;

/// A container of a pod. `$(NAME)` in `command`, `args` and environment values is not expanded yet.
#[derive(Clone, Debug, PartialEq)]
pub struct Container {
    /// `name`, unique in the pod.
    pub name: Name,
    /// `image`, the key by which a `LocalRun` finds what to run.
    pub image: Option<String>,
    /// `command`; it replaces the image's entry point.
    pub command: Option<Vec<String>>,
    /// `args`; they replace the image's arguments.
    pub args: Option<Vec<String>>,
    /// `workingDir`.
    pub working_directory: Option<String>,
    /// `env`, in order; a later variable may refer to an earlier one.
    pub environment: Vec<EnvironmentVariable>,
    /// `envFrom`, in order; `env` wins over it.
    pub environment_from: Vec<EnvironmentFrom>,
    /// `ports`, for information and for names.
    pub ports: Vec<ContainerPort>,
    /// `volumeMounts`; each names a volume of the pod.
    pub volume_mounts: Vec<VolumeMount>,
    /// `readinessProbe`.
    pub readiness: Option<Probe>,
    /// `livenessProbe`.
    pub liveness: Option<Probe>,
    /// `startupProbe`.
    pub startup: Option<Probe>,
    /// `securityContext`.
    pub security_context: SecurityContext,
}

/// The parts of a `securityContext` that have a meaning here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SecurityContext {
    /// `runAsUser`.
    pub run_as_user: Option<u32>,
    /// `runAsNonRoot`.
    pub run_as_non_root: Option<bool>,
    /// `readOnlyRootFilesystem` (containers only).
    pub read_only_root_filesystem: Option<bool>,
}

/// One variable of `env`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EnvironmentVariable {
    /// The variable's name.
    pub name: String,
    /// Where its value comes from.
    pub value: EnvironmentValue,
}

/// Where the value of a variable comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EnvironmentValue {
    /// `value`, before `$(NAME)` is expanded.
    Literal(String),
    /// `valueFrom.fieldRef`.
    Field(FieldReference),
    /// `valueFrom.configMapKeyRef`.
    ConfigMapKey(KeyReference),
    /// `valueFrom.secretKeyRef`.
    SecretKey(KeyReference),
}

/// A field of the pod, as `fieldRef.fieldPath` names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FieldReference {
    /// `metadata.name`.
    Name,
    /// `metadata.namespace`.
    Namespace,
    /// `metadata.uid`.
    Uid,
    /// `metadata.labels['KEY']`.
    Label(String),
    /// `metadata.annotations['KEY']`.
    Annotation(String),
    /// `spec.serviceAccountName`.
    ServiceAccountName,
    /// `spec.nodeName`.
    NodeName,
    /// `status.hostIP` or `status.hostIPs`.
    HostIp,
    /// `status.podIP` or `status.podIPs`.
    PodIp,
}

/// One key of a ConfigMap or Secret in the pod's namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyReference {
    /// The object's name.
    pub name: Name,
    /// The key.
    pub key: String,
    /// `optional`: the variable is left out when the object or the key is missing.
    pub optional: bool,
}

/// One entry of `envFrom`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EnvironmentFrom {
    /// `prefix`, put before each key.
    pub prefix: Option<String>,
    /// The object whose keys become variables.
    pub source: ObjectReference,
    /// `optional`: nothing happens when the object is missing.
    pub optional: bool,
}

/// A ConfigMap or a Secret in the pod's namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ObjectReference {
    /// `configMapRef`.
    ConfigMap(Name),
    /// `secretRef`.
    Secret(Name),
}

/// One of `ports`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerPort {
    /// `name`, which services and probes may use.
    pub name: Option<String>,
    /// `containerPort`.
    pub port: Port,
}

pub(crate) fn read(value: Value<'_>) -> Option<Container> {
    value.map(|fields| {
        fields.refuse(
            "restartPolicy",
            &[],
            "containers restart as the pod's `restartPolicy` says",
        );
        read_fields(fields)
    })
}

/// An init container: it runs to its end before the next one starts.
pub(crate) fn read_init(value: Value<'_>) -> Option<Container> {
    value.map(|fields| {
        if let Some(policy) = fields.get("restartPolicy") {
            policy.not_supported("an init container with a `restartPolicy` (a sidecar) is not supported yet");
        }
        for name in ["livenessProbe", "readinessProbe", "startupProbe"] {
            if let Some(probe) = fields.get(name) {
                probe.error(codes::CONFLICT, format!("an init container has no `{name}`"));
            }
        }
        read_fields(fields)
    })
}

fn read_fields(fields: &Fields<'_>) -> Option<Container> {
    fields.no_meaning(&[
        "imagePullPolicy",
        "resizePolicy",
        "resources",
        "terminationMessagePath",
        "terminationMessagePolicy",
    ]);
    let terminal = "containers have no terminal and an empty standard input";
    fields.refuse("stdin", &["false"], terminal);
    fields.refuse("stdinOnce", &["false"], terminal);
    fields.refuse("tty", &["false"], terminal);
    fields.refuse("volumeDevices", &[], "there are no block devices");
    fields.refuse(
        "restartPolicyRules",
        &[],
        "containers restart as the pod's `restartPolicy` says",
    );
    if let Some(lifecycle) = fields.get("lifecycle").filter(|value| !value.is_empty_map()) {
        lifecycle.not_supported("`lifecycle` hooks are not supported yet");
    }
    let name = fields
        .required("name")
        .and_then(|value| value.parse(names::dns_label));
    let image = fields.text("image");
    let texts = |value: Value<'_>| value.list(|item| item.parse(names::argument));
    let command = fields.get("command").map(texts);
    let args = fields.get("args").map(texts);
    let working_directory = fields
        .filled("workingDir")
        .and_then(|value| value.parse(names::absolute_path));
    let environment = fields
        .get("env")
        .map(|value| value.list(read_variable))
        .unwrap_or_default();
    let environment_from = fields
        .get("envFrom")
        .map(|value| value.list(read_from))
        .unwrap_or_default();
    let ports_value = fields.get("ports");
    let ports = ports_value.map(|value| value.list(read_port)).unwrap_or_default();
    let mounts = fields.get("volumeMounts");
    let volume_mounts = mounts
        .map(|value| value.list(volume::read_mount))
        .unwrap_or_default();
    let readiness = fields
        .get("readinessProbe")
        .and_then(|value| probe::read(value, &ports));
    let liveness = fields
        .get("livenessProbe")
        .and_then(|value| probe::read(value, &ports));
    let startup = fields
        .get("startupProbe")
        .and_then(|value| probe::read(value, &ports));
    let security_context = fields.get("securityContext").and_then(read_security_context);
    Some(Container {
        name: name?,
        image,
        command,
        args,
        working_directory,
        environment,
        environment_from,
        ports,
        volume_mounts,
        readiness,
        liveness,
        startup,
        security_context: security_context.unwrap_or_default(),
    })
}

fn read_port(value: Value<'_>) -> Option<ContainerPort> {
    value.map(|fields| {
        fields.refuse("hostPort", &["0"], "only gateways listen on the host");
        fields.refuse("hostIP", &[], "only gateways listen on the host");
        refuse_udp(fields);
        let name = fields
            .filled("name")
            .and_then(|value| value.parse(names::port_name));
        let port = fields.required("containerPort").and_then(read_port_number)?;
        Some(ContainerPort { name, port })
    })
}

/// `protocol`: TCP, or a finding.
pub(crate) fn refuse_udp(fields: &Fields<'_>) {
    let Some(value) = fields.filled("protocol") else {
        return;
    };
    match value.choice(&[("TCP", true), ("UDP", false), ("SCTP", false)]) {
        Some(true) | None => {}
        Some(false) => {
            let protocol = value.raw().unwrap_or_default();
            fields.sink.push(
                crate::Severity::Error,
                codes::CHANGES_MEANING,
                value.spot,
                format!("{protocol} is not carried by the mesh"),
                Some(
                    "only TCP can be authenticated and authorized; other UDP than DNS is dropped".to_owned(),
                ),
                None,
            );
        }
    }
}

/// A port as a number.
pub(crate) fn read_port_number(value: Value<'_>) -> Option<Port> {
    let number = value.u32(1..=65_535)?;
    Port::new(number).ok()
}

fn read_variable(value: Value<'_>) -> Option<EnvironmentVariable> {
    value.map(|fields| {
        let name = fields
            .required("name")
            .and_then(|value| value.parse(names::variable_name));
        let literal = fields.get("value");
        let from = fields.get("valueFrom");
        if let (Some(literal), Some(_)) = (literal, from)
            && literal.raw() != Some("")
        {
            literal.error(codes::CONFLICT, "`value` and `valueFrom` exclude each other");
        }
        let value = match from {
            Some(from) => read_value_from(from),
            None => match literal {
                Some(literal) => literal.parse(names::argument).map(EnvironmentValue::Literal),
                None => Some(EnvironmentValue::Literal(String::new())),
            },
        };
        Some(EnvironmentVariable {
            name: name?,
            value: value?,
        })
    })
}

fn read_value_from(value: Value<'_>) -> Option<EnvironmentValue> {
    value.map(|fields| {
        fields.refuse("resourceFieldRef", &[], "containers have no resource limits here");
        fields.refuse(
            "fileKeyRef",
            &[],
            "variables do not come from files of volumes here",
        );
        let field = fields.get("fieldRef");
        let config_map = fields.get("configMapKeyRef");
        let secret = fields.get("secretKeyRef");
        if [field, config_map, secret].iter().flatten().count() != 1
            && !fields.has("resourceFieldRef")
            && !fields.has("fileKeyRef")
        {
            let what = "`valueFrom` takes one of `fieldRef`, `configMapKeyRef` and `secretKeyRef`";
            value.error(codes::CONFLICT, what);
        }
        if let Some(field) = field {
            return read_field_reference(field).map(EnvironmentValue::Field);
        }
        if let Some(key) = config_map {
            return read_key_reference(key).map(EnvironmentValue::ConfigMapKey);
        }
        read_key_reference(secret?).map(EnvironmentValue::SecretKey)
    })
}

fn read_field_reference(value: Value<'_>) -> Option<FieldReference> {
    value.map(|fields| {
        if let Some(version) = fields.get("apiVersion") {
            version.choice(&[("v1", ())])?;
        }
        fields.required("fieldPath")?.parse(|path| {
            let key = |prefix: &str| {
                let inside = path
                    .strip_prefix(prefix)?
                    .strip_prefix("['")?
                    .strip_suffix("']")?;
                Some(inside.to_owned())
            };
            Ok(match path {
                "metadata.name" => FieldReference::Name,
                "metadata.namespace" => FieldReference::Namespace,
                "metadata.uid" => FieldReference::Uid,
                "spec.serviceAccountName" => FieldReference::ServiceAccountName,
                "spec.nodeName" => FieldReference::NodeName,
                "status.hostIP" | "status.hostIPs" => FieldReference::HostIp,
                "status.podIP" | "status.podIPs" => FieldReference::PodIp,
                _ => match (key("metadata.labels"), key("metadata.annotations")) {
                    (Some(key), _) => FieldReference::Label(key),
                    (None, Some(key)) => FieldReference::Annotation(key),
                    (None, None) => {
                        return Err(format!("a pod has no field `{path}` that a variable can take"));
                    }
                },
            })
        })
    })
}

fn read_key_reference(value: Value<'_>) -> Option<KeyReference> {
    value.map(|fields| {
        let name = fields
            .required("name")
            .and_then(|value| value.parse(names::dns_name));
        let key = fields
            .required("key")
            .and_then(|value| value.parse(names::data_key));
        let optional = fields.boolean("optional").unwrap_or(false);
        Some(KeyReference {
            name: name?,
            key: key?,
            optional,
        })
    })
}

fn read_from(value: Value<'_>) -> Option<EnvironmentFrom> {
    value.map(|fields| {
        let prefix = fields.filled("prefix").and_then(Value::text).map(str::to_owned);
        let config_map = fields.get("configMapRef");
        let secret = fields.get("secretRef");
        let ((Some(reference), None) | (None, Some(reference))) = (config_map, secret) else {
            let what = "`envFrom` takes one of `configMapRef` and `secretRef`";
            value.error(codes::CONFLICT, what);
            return None;
        };
        let (name, optional) = reference.map(|fields| {
            let name = fields
                .required("name")
                .and_then(|value| value.parse(names::dns_name));
            let optional = fields.boolean("optional").unwrap_or(false);
            Some((name?, optional))
        })?;
        let source = if secret.is_some() {
            ObjectReference::Secret(name)
        } else {
            ObjectReference::ConfigMap(name)
        };
        Some(EnvironmentFrom {
            prefix,
            source,
            optional,
        })
    })
}

pub(crate) fn read_pod_security_context(value: Value<'_>) -> Option<SecurityContext> {
    value.map(|fields| {
        fields.no_meaning(&[
            "appArmorProfile",
            "fsGroup",
            "fsGroupChangePolicy",
            "runAsGroup",
            "seLinuxChangePolicy",
            "seLinuxOptions",
            "seccompProfile",
            "supplementalGroups",
            "supplementalGroupsPolicy",
        ]);
        fields.refuse("sysctls", &[], "kernel settings of a pod are the mesh's");
        fields.refuse("windowsOptions", &[], "this is not Windows");
        Some(SecurityContext {
            run_as_user: fields
                .get("runAsUser")
                .and_then(|value| value.u32(0..=2_147_483_647)),
            run_as_non_root: fields.boolean("runAsNonRoot"),
            read_only_root_filesystem: None,
        })
    })
}

fn read_security_context(value: Value<'_>) -> Option<SecurityContext> {
    value.map(|fields| {
        // Always as if false: an application cannot gain what its parent has not.
        fields.boolean("allowPrivilegeEscalation");
        fields.no_meaning(&[
            "appArmorProfile",
            "procMount",
            "runAsGroup",
            "seLinuxOptions",
            "seccompProfile",
        ]);
        let powers =
            "an application in the mesh never has capabilities: they would let it go around its proxy";
        fields.refuse("privileged", &["false"], powers);
        fields.refuse("windowsOptions", &[], "this is not Windows");
        if let Some(capabilities) = fields.get("capabilities") {
            capabilities.map(|fields| {
                // An application never has any, so whatever is dropped is not there.
                fields.get("drop");
                for capability in fields.get("add").map(Value::items).unwrap_or_default() {
                    // Ports below 1024 are open to everybody in a pod, so this one is not missed.
                    if capability.text()? != "NET_BIND_SERVICE" {
                        fields.sink.push(
                            crate::Severity::Error,
                            codes::CHANGES_MEANING,
                            capability.spot,
                            "the capability cannot be added",
                            Some(powers.to_owned()),
                            None,
                        );
                    }
                }
                Some(())
            });
        }
        Some(SecurityContext {
            run_as_user: fields
                .get("runAsUser")
                .and_then(|value| value.u32(0..=2_147_483_647)),
            run_as_non_root: fields.boolean("runAsNonRoot"),
            read_only_root_filesystem: fields.boolean("readOnlyRootFilesystem"),
        })
    })
}
