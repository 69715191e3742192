//! ConfigMap: texts and bytes for environments and files.

use std::collections::{BTreeMap, BTreeSet};

use base64::Engine as _;

use crate::field::{Fields, Value};
use crate::finding::codes;
use crate::istio::mesh_config::{self, MeshConfig};
use crate::kinds::Owner;
use crate::names;

/// Kubernetes ConfigMap. No key is in both maps.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConfigMap {
    /// `data`.
    pub data: BTreeMap<String, String>,
    /// `binaryData`, decoded.
    pub binary_data: BTreeMap<String, Vec<u8>>,
    /// Of a ConfigMap named `istio`, the mesh configuration in `data.mesh`; it counts in the root namespace. Places of its
    /// fields are below `data.mesh`.
    pub mesh: Option<Box<MeshConfig>>,
}

pub(crate) fn read(fields: &Fields<'_>, owner: &Owner<'_>) -> ConfigMap {
    fields.no_meaning(&["immutable"]);
    let mut data = BTreeMap::new();
    let mut binary_data = BTreeMap::new();
    let mut keys = BTreeSet::new();
    if let Some(values) = fields.get("data") {
        each_key(values, &mut keys, |key, value| {
            data.insert(key, value.text()?.to_owned());
            Some(())
        });
    }
    if let Some(values) = fields.get("binaryData") {
        each_key(values, &mut keys, |key, value| {
            binary_data.insert(key, base64_bytes(value)?);
            Some(())
        });
    }
    let is_istio = fields
        .get("metadata")
        .and_then(|metadata| metadata.peek("name"))
        .is_some_and(|name| name.raw() == Some("istio"));
    let mesh = fields.get("data").filter(|_| is_istio);
    ConfigMap {
        data,
        binary_data,
        mesh: mesh.and_then(|data| mesh_config::read(data, owner)).map(Box::new),
    }
}

/// Reads each value under a key that is valid and new.
fn each_key<'a>(
    values: Value<'a>,
    keys: &mut BTreeSet<&'a str>,
    mut read: impl FnMut(String, Value<'a>) -> Option<()>,
) {
    for (key, spot, value) in values.entries() {
        if !keys.insert(key) {
            let what = format!("{} is in `data` and in `binaryData`", values.sink.quoted(key));
            values.sink.error(codes::CONFLICT, spot, what);
        }
        match names::data_key(key) {
            Ok(key) => {
                read(key, value);
            }
            Err(what) => values.sink.error(codes::INVALID_VALUE, spot, what),
        }
    }
}

/// Base64 of RFC 4648 §4; line breaks are left out, as Kubernetes does.
pub(crate) fn base64_bytes(value: Value<'_>) -> Option<Vec<u8>> {
    let text: String = value
        .text()?
        .chars()
        .filter(|c| !matches!(c, '\n' | '\r'))
        .collect();
    let bytes = base64::engine::general_purpose::STANDARD.decode(&text).ok();
    if bytes.is_none() {
        value.error(codes::INVALID_VALUE, format!("`{}` is not base64", value.name));
    }
    bytes
}
