//! The environment of a container: `envFrom`, then `env`, then LocalRun's; later values win.

use bartizan_config::kube::{
    Container, EnvironmentFrom, EnvironmentValue as Written, FieldReference, KeyReference, ObjectReference,
};
use bartizan_config::{Finding, Severity};
use bartizan_types::{EnvironmentValue, EnvironmentVariable, Name, NamespacedName};

use super::local_run::LocalMatch;
use super::{Context, Replica};
use crate::codes;

impl Context<'_> {
    pub(super) fn environment(
        &self,
        replica: &Replica<'_>,
        container: &Container,
        local: Option<&LocalMatch<'_>>,
        path: &str,
        findings: &mut Vec<Finding>,
    ) -> Vec<EnvironmentVariable> {
        let mut variables = Vec::new();
        for (index, from) in container.environment_from.iter().enumerate() {
            let path = format!("{path}.envFrom[{index}]");
            self.variables_from(replica, from, &path, &mut variables, findings);
        }
        for (index, variable) in container.environment.iter().enumerate() {
            let path = format!("{path}.env[{index}]");
            if let Some(value) = self.value(replica, &variable.value, &path, findings) {
                variables.push(EnvironmentVariable {
                    name: variable.name.clone(),
                    value,
                });
            }
        }
        let local = local.into_iter().flat_map(|local| &local.entry.environment);
        variables.extend(local.map(|(name, value)| EnvironmentVariable {
            name: name.clone(),
            value: EnvironmentValue::Text(value.clone()),
        }));
        variables
    }

    /// Every key of a ConfigMap or Secret that can be the name of a variable.
    fn variables_from(
        &self,
        replica: &Replica<'_>,
        from: &EnvironmentFrom,
        path: &str,
        variables: &mut Vec<EnvironmentVariable>,
        findings: &mut Vec<Finding>,
    ) {
        let prefix = from.prefix.as_deref().unwrap_or_default();
        let (kind, name, found) = match &from.source {
            ObjectReference::ConfigMap(name) => {
                let map = self.library.config_map(&replica.object(name));
                let found = map.map(|map| {
                    map.data
                        .iter()
                        .map(|(key, value)| (key.as_str(), Some(value.as_str())))
                        .collect::<Vec<_>>()
                });
                ("ConfigMap", name, found)
            }
            ObjectReference::Secret(name) => {
                let secret = self.library.secret(&replica.object(name));
                let found = secret.map(|secret| {
                    secret
                        .data
                        .iter()
                        .map(|(key, value)| (key.as_str(), std::str::from_utf8(value.expose()).ok()))
                        .collect::<Vec<_>>()
                });
                ("Secret", name, found)
            }
        };
        let Some(found) = found else {
            if !from.optional {
                findings.push(self.missing(kind, name, None, path));
            }
            return;
        };
        for (key, value) in found {
            let variable = format!("{prefix}{key}");
            let Some(value) = value.filter(|value| !value.contains('\0')) else {
                findings.push(self.not_text(kind, name, key, path));
                continue;
            };
            if is_variable_name(&variable) {
                variables.push(text(&variable, value));
            } else {
                let what = format!(
                    "key `{key}` of {kind} `{name}` cannot be the name of a variable and is left out"
                );
                findings.push(
                    self.document
                        .finding(codes::MISSING_CONFIG, Severity::Note, path, what),
                );
            }
        }
    }

    fn value(
        &self,
        replica: &Replica<'_>,
        value: &Written,
        path: &str,
        findings: &mut Vec<Finding>,
    ) -> Option<EnvironmentValue> {
        let text = match value {
            Written::Literal(text) => text.clone(),
            Written::Field(FieldReference::PodIp) => return Some(EnvironmentValue::PodAddress),
            Written::Field(field) => self.field(replica, field),
            Written::ConfigMapKey(reference) => {
                let path = format!("{path}.valueFrom.configMapKeyRef");
                let map = self.library.config_map(&replica.object(&reference.name));
                let value = map.and_then(|map| map.data.get(&reference.key));
                let found = Found::of(map.is_some(), value.map(String::as_bytes));
                self.key("ConfigMap", reference, &found, &path, findings)?
            }
            Written::SecretKey(reference) => {
                let path = format!("{path}.valueFrom.secretKeyRef");
                let secret = self.library.secret(&replica.object(&reference.name));
                let value = secret.and_then(|secret| secret.data.get(&reference.key));
                let found = Found::of(secret.is_some(), value.map(|value| value.expose().as_slice()));
                self.key("Secret", reference, &found, &path, findings)?
            }
        };
        // A `$` from a document's own value is expanded later; one from a ConfigMap or a field is literal in Kubernetes.
        let literal = matches!(value, Written::Literal(_));
        Some(EnvironmentValue::Text(if literal {
            text
        } else {
            escaped(&text)
        }))
    }

    /// The key's value, where it is text.
    fn key(
        &self,
        kind: &str,
        reference: &KeyReference,
        found: &Found<'_>,
        path: &str,
        findings: &mut Vec<Finding>,
    ) -> Option<String> {
        let missing = match found {
            Found::Value(bytes) => {
                let text = std::str::from_utf8(bytes)
                    .ok()
                    .filter(|text| !text.contains('\0'));
                if text.is_none() {
                    findings.push(self.not_text(kind, &reference.name, &reference.key, path));
                }
                return text.map(str::to_owned);
            }
            Found::NoKey => self.missing(
                kind,
                &reference.name,
                Some(&reference.key),
                &format!("{path}.key"),
            ),
            Found::NoObject => self.missing(kind, &reference.name, None, &format!("{path}.name")),
        };
        if !reference.optional {
            findings.push(missing);
        }
        None
    }

    fn field(&self, replica: &Replica<'_>, field: &FieldReference) -> String {
        match field {
            FieldReference::Name => replica.name.name.to_string(),
            FieldReference::Namespace => replica.name.namespace.to_string(),
            FieldReference::Uid => replica.uid(),
            FieldReference::Label(key) => replica.labels.get(key).cloned().unwrap_or_default(),
            FieldReference::Annotation(key) => replica.annotations.get(key).cloned().unwrap_or_default(),
            FieldReference::ServiceAccountName => replica.service_account.to_string(),
            FieldReference::NodeName => self.options.node_name.clone(),
            // `PodIp` is known only when the pod is made; `value` has dealt with it.
            FieldReference::HostIp | FieldReference::PodIp => self.options.node_address.to_string(),
        }
    }

    /// A ConfigMap, a Secret or a key in it that is not there.
    pub(super) fn missing(&self, kind: &str, name: &Name, key: Option<&str>, path: &str) -> Finding {
        let namespace = self
            .document
            .namespace()
            .map(ToString::to_string)
            .unwrap_or_default();
        let what = match key {
            Some(key) => format!("{kind} `{namespace}/{name}` has no key `{key}`"),
            None => format!("{kind} `{namespace}/{name}` does not exist"),
        };
        self.document
            .finding(codes::MISSING_CONFIG, Severity::Error, path, what)
            .help("add it, or say `optional: true` where the container can do without")
    }

    fn not_text(&self, kind: &str, name: &Name, key: &str, path: &str) -> Finding {
        let what = format!("key `{key}` of {kind} `{name}` is not text and cannot be a variable's value");
        self.document
            .finding(codes::MISSING_CONFIG, Severity::Error, path, what)
            .help("mount it as a file instead")
    }
}

/// What was found of a key of an object.
enum Found<'a> {
    NoObject,
    NoKey,
    Value(&'a [u8]),
}

impl<'a> Found<'a> {
    fn of(object_exists: bool, value: Option<&'a [u8]>) -> Self {
        match value {
            Some(value) => Self::Value(value),
            None if object_exists => Self::NoKey,
            None => Self::NoObject,
        }
    }
}

impl Replica<'_> {
    /// An object in the pod's namespace.
    pub(super) fn object(&self, name: &Name) -> NamespacedName {
        NamespacedName::new(self.name.namespace.clone(), name.clone())
    }
}

fn text(name: &str, value: &str) -> EnvironmentVariable {
    EnvironmentVariable {
        name: name.to_owned(),
        value: EnvironmentValue::Text(escaped(value)),
    }
}

/// The text that Kubernetes' expansion of `$(NAME)` turns into `text`: `$$` stands for `$`.
fn escaped(text: &str) -> String {
    if text.contains("$(") || text.contains("$$") {
        text.replace('$', "$$")
    } else {
        text.to_owned()
    }
}

/// Kubernetes: printable ASCII without `=`.
fn is_variable_name(name: &str) -> bool {
    !name.is_empty()
        && name
            .bytes()
            .all(|byte| (0x20..0x7f).contains(&byte) && byte != b'=')
}
