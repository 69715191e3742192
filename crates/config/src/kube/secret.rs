//! Secret: bytes for environments and files that are never printed.

use std::collections::BTreeMap;

use bartizan_types::Secret;

use super::config_map::base64_bytes;
use crate::field::Fields;
use crate::finding::codes;
use crate::names;

/// Kubernetes Secret, with `stringData` written over `data` as the API server does.
#[derive(Clone, Debug, Default)]
pub struct SecretData {
    /// `type`, such as `kubernetes.io/tls`.
    pub kind: Option<String>,
    /// The values, decoded.
    pub data: BTreeMap<String, Secret<Vec<u8>>>,
}

impl PartialEq for SecretData {
    fn eq(&self, other: &Self) -> bool {
        self.kind == other.kind
            && self.data.len() == other.data.len()
            && self.data.iter().all(|(key, value)| {
                other
                    .data
                    .get(key)
                    .is_some_and(|theirs| value.matches(theirs.expose()))
            })
    }
}

pub(crate) fn read(fields: &Fields<'_>) -> SecretData {
    fields.no_meaning(&["immutable"]);
    let kind = fields.text("type");
    let mut data = BTreeMap::new();
    for (name, encoded) in [("data", true), ("stringData", false)] {
        for (key, spot, value) in fields
            .get(name)
            .map(crate::field::Value::entries)
            .unwrap_or_default()
        {
            let bytes = if value.is_null() {
                Some(Vec::new())
            } else if encoded {
                base64_bytes(value)
            } else {
                value.text().map(|text| text.as_bytes().to_vec())
            };
            match names::data_key(key) {
                Ok(key) => {
                    data.insert(key, Secret::new(bytes.unwrap_or_default()));
                }
                Err(what) => fields.sink.error(codes::INVALID_VALUE, spot, what),
            }
        }
    }
    SecretData { kind, data }
}
