//! Volumes: empty directories, and the files of ConfigMaps and Secrets.

use std::collections::BTreeMap;
use std::path::PathBuf;

use bartizan_config::Finding;
use bartizan_config::kube::{KeyToPath, Volume, VolumeSource as Written};
use bartizan_types::{Name, VolumeFile, VolumeSource, VolumeSpec};

use super::{Context, Replica};

impl Context<'_> {
    pub(super) fn volumes(
        &self,
        replica: &Replica<'_>,
        path: &str,
        findings: &mut Vec<Finding>,
    ) -> Vec<VolumeSpec> {
        replica
            .volumes
            .iter()
            .enumerate()
            .map(|(index, volume)| VolumeSpec {
                name: volume.name.clone(),
                source: self.source(replica, volume, &format!("{path}.volumes[{index}]"), findings),
            })
            .collect()
    }

    fn source(
        &self,
        replica: &Replica<'_>,
        volume: &Volume,
        path: &str,
        findings: &mut Vec<Finding>,
    ) -> VolumeSource {
        match &volume.source {
            Written::EmptyDir { .. } => VolumeSource::Empty,
            Written::ConfigMap {
                name,
                items,
                default_mode,
                optional,
            } => {
                let contents = self.library.config_map(&replica.object(name)).map(|map| {
                    let texts = map.data.iter().map(|(key, text)| (key.as_str(), text.as_bytes()));
                    let bytes = map
                        .binary_data
                        .iter()
                        .map(|(key, bytes)| (key.as_str(), bytes.as_slice()));
                    texts.chain(bytes).collect()
                });
                let asked = Asked {
                    kind: "ConfigMap",
                    name,
                    items: items.as_deref(),
                    mode: default_mode.unwrap_or(0o644),
                    optional: *optional,
                    path: &format!("{path}.configMap"),
                };
                VolumeSource::Files(self.files(&asked, contents, findings))
            }
            Written::Secret {
                name,
                items,
                default_mode,
                optional,
            } => {
                let contents = self.library.secret(&replica.object(name)).map(|secret| {
                    let values = secret.data.iter();
                    values
                        .map(|(key, value)| (key.as_str(), value.expose().as_slice()))
                        .collect()
                });
                let asked = Asked {
                    kind: "Secret",
                    name,
                    items: items.as_deref(),
                    mode: default_mode.unwrap_or(0o644),
                    optional: *optional,
                    path: &format!("{path}.secret"),
                };
                VolumeSource::Files(self.files(&asked, contents, findings))
            }
        }
    }

    fn files(
        &self,
        asked: &Asked<'_>,
        contents: Option<BTreeMap<&str, &[u8]>>,
        findings: &mut Vec<Finding>,
    ) -> Vec<VolumeFile> {
        let Some(contents) = contents else {
            if !asked.optional {
                findings.push(self.missing(asked.kind, asked.name, None, asked.path));
            }
            return Vec::new();
        };
        let Some(items) = asked.items else {
            return contents
                .iter()
                .map(|(key, bytes)| file(key, asked.mode, bytes))
                .collect();
        };
        let mut files = Vec::new();
        for (index, item) in items.iter().enumerate() {
            match contents.get(item.key.as_str()) {
                Some(bytes) => files.push(file(&item.path, item.mode.unwrap_or(asked.mode), bytes)),
                None if asked.optional => {}
                None => {
                    let path = format!("{}.items[{index}].key", asked.path);
                    findings.push(self.missing(asked.kind, asked.name, Some(&item.key), &path));
                }
            }
        }
        files
    }
}

/// Which files of which object a volume asks for.
struct Asked<'a> {
    kind: &'a str,
    name: &'a Name,
    items: Option<&'a [KeyToPath]>,
    mode: u32,
    optional: bool,
    path: &'a str,
}

fn file(path: &str, mode: u32, content: &[u8]) -> VolumeFile {
    VolumeFile {
        path: PathBuf::from(path),
        mode,
        content: content.to_vec(),
    }
}
