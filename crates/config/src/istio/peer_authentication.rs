//! PeerAuthentication: which ports ask for mutual TLS.

use std::collections::BTreeMap;

use bartizan_types::{Port, Selector};

use crate::field::{Fields, Value};
use crate::finding::codes;

/// Istio PeerAuthentication. How several combine is `compile`'s.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PeerAuthentication {
    /// `selector.matchLabels`; empty is the whole namespace, or the mesh in the root namespace.
    pub selector: Selector,
    /// `mtls.mode`; none is UNSET, which inherits.
    pub mode: Option<MtlsMode>,
    /// `portLevelMtls`, by the workload's port; none is UNSET.
    pub ports: BTreeMap<Port, Option<MtlsMode>>,
}

/// What a port does about mutual TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum MtlsMode {
    /// Plaintext; TLS is the application's.
    Disable,
    /// Both.
    Permissive,
    /// Mutual TLS only.
    Strict,
}

/// `DISABLE`, `PERMISSIVE`, `STRICT`, and `UNSET`.
pub(crate) const MODES: &[(&str, Option<MtlsMode>)] = &[
    ("STRICT", Some(MtlsMode::Strict)),
    ("PERMISSIVE", Some(MtlsMode::Permissive)),
    ("DISABLE", Some(MtlsMode::Disable)),
    ("UNSET", None),
];

pub(crate) fn read(fields: &Fields<'_>) -> Option<PeerAuthentication> {
    let Some(spec) = fields.get("spec") else {
        return Some(PeerAuthentication::default());
    };
    spec.map(|spec| {
        let selector = spec.get("selector").and_then(Value::selector).unwrap_or_default();
        let mode = spec.get("mtls").and_then(read_mode);
        let mut ports = BTreeMap::new();
        if let Some(value) = spec.get("portLevelMtls") {
            if selector.is_empty() {
                value.error_help(
                    codes::CONFLICT,
                    "`portLevelMtls` needs a `selector`",
                    "ports belong to workloads: select them with `selector.matchLabels`",
                );
            }
            let entries = value.entries();
            if entries.is_empty() && value.is_map() {
                value.error(codes::EMPTY, "`portLevelMtls` has no port");
            }
            for (key, spot, value) in entries {
                match Port::parse(key) {
                    Ok(port) => {
                        ports.insert(port, read_mode(value));
                    }
                    Err(error) => fields.sink.error(codes::INVALID_VALUE, spot, error.to_string()),
                }
            }
        }
        Some(PeerAuthentication {
            selector,
            mode,
            ports,
        })
    })
}

fn read_mode(value: Value<'_>) -> Option<MtlsMode> {
    value.map(|fields| fields.get("mode")?.choice(MODES)?)
}
