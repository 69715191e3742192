//! Volumes of a pod and where containers mount them.

use bartizan_types::Name;

use crate::field::{Fields, Value};
use crate::finding::codes;
use crate::names;

/// One of `volumes`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Volume {
    /// `name`, unique in the pod.
    pub name: Name,
    /// What is in it.
    pub source: VolumeSource,
}

/// What is in a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VolumeSource {
    /// `emptyDir`: an empty directory that lives as long as the pod.
    EmptyDir {
        /// `medium: Memory`.
        memory: bool,
    },
    /// `configMap`: files of a ConfigMap in the pod's namespace.
    ConfigMap {
        /// `name`.
        name: Name,
        /// `items`; all keys where there are none.
        items: Option<Vec<KeyToPath>>,
        /// `defaultMode`; 0644 where there is none.
        default_mode: Option<u32>,
        /// `optional`.
        optional: bool,
    },
    /// `secret`: files of a Secret in the pod's namespace.
    Secret {
        /// `secretName`.
        name: Name,
        /// `items`; all keys where there are none.
        items: Option<Vec<KeyToPath>>,
        /// `defaultMode`; 0644 where there is none.
        default_mode: Option<u32>,
        /// `optional`.
        optional: bool,
    },
}

/// One of `items`: a key and the file that it becomes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyToPath {
    /// `key`.
    pub key: String,
    /// `path`, relative to the mount, without `..`.
    pub path: String,
    /// `mode`, instead of the volume's default.
    pub mode: Option<u32>,
}

/// One of `volumeMounts`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumeMount {
    /// `name` of a volume of the pod.
    pub volume: Name,
    /// `mountPath`, absolute.
    pub path: String,
    /// `subPath`: one file or directory of the volume, relative and without `..`.
    pub sub_path: Option<String>,
    /// `readOnly`.
    pub read_only: bool,
}

/// Kinds of volumes that exist in Kubernetes and not here.
const OTHERS: &[&str] = &[
    "awsElasticBlockStore",
    "azureDisk",
    "azureFile",
    "cephfs",
    "cinder",
    "csi",
    "downwardAPI",
    "ephemeral",
    "fc",
    "flexVolume",
    "flocker",
    "gcePersistentDisk",
    "gitRepo",
    "glusterfs",
    "hostPath",
    "image",
    "iscsi",
    "nfs",
    "persistentVolumeClaim",
    "photonPersistentDisk",
    "portworxVolume",
    "projected",
    "quobyte",
    "rbd",
    "scaleIO",
    "storageos",
    "vsphereVolume",
];

pub(crate) fn read(value: Value<'_>) -> Option<Volume> {
    value.map(|fields| {
        let name = fields
            .required("name")
            .and_then(|value| value.parse(names::dns_label));
        let mut sources = 0;
        for &other in OTHERS {
            if let Some(value) = fields.get(other) {
                sources += 1;
                let what = format!("volumes of kind `{other}` are not supported");
                let help =
                    "`emptyDir`, `configMap` and `secret` are; `LocalRun` can open paths of this machine";
                value.error_help(codes::CHANGES_MEANING, what, help);
            }
        }
        let others = sources;
        let mut source = None;
        if let Some(value) = fields.get("emptyDir") {
            sources += 1;
            source = read_empty_dir(value);
        }
        if let Some(value) = fields.get("configMap") {
            sources += 1;
            source = value.map(|fields| {
                let name = fields
                    .required("name")
                    .and_then(|value| value.parse(names::dns_name));
                let (items, default_mode, optional) = read_files(fields);
                Some(VolumeSource::ConfigMap {
                    name: name?,
                    items,
                    default_mode,
                    optional,
                })
            });
        }
        if let Some(value) = fields.get("secret") {
            sources += 1;
            source = value.map(|fields| {
                let name = fields
                    .required("secretName")
                    .and_then(|value| value.parse(names::dns_name));
                let (items, default_mode, optional) = read_files(fields);
                Some(VolumeSource::Secret {
                    name: name?,
                    items,
                    default_mode,
                    optional,
                })
            });
        }
        if sources == 0 {
            // Kubernetes takes a volume without a source as an empty directory.
            source = Some(VolumeSource::EmptyDir { memory: false });
        }
        if sources > 1 {
            value.error(codes::CONFLICT, "a volume has one source");
        }
        if others > 0 {
            return None;
        }
        Some(Volume {
            name: name?,
            source: source?,
        })
    })
}

fn read_empty_dir(value: Value<'_>) -> Option<VolumeSource> {
    value.map(|fields| {
        fields.no_meaning(&["sizeLimit"]);
        let medium = fields.get("medium");
        let memory = medium.and_then(|value| value.choice(&[("", false), ("Memory", true)]));
        Some(VolumeSource::EmptyDir {
            memory: memory.unwrap_or(false),
        })
    })
}

fn read_files(fields: &Fields<'_>) -> (Option<Vec<KeyToPath>>, Option<u32>, bool) {
    let items = fields.get("items").map(|value| value.list(read_item));
    let default_mode = fields.get("defaultMode").and_then(read_mode);
    let optional = fields.boolean("optional").unwrap_or(false);
    (items, default_mode, optional)
}

fn read_item(value: Value<'_>) -> Option<KeyToPath> {
    value.map(|fields| {
        let key = fields
            .required("key")
            .and_then(|value| value.parse(names::data_key));
        let path = fields
            .required("path")
            .and_then(|value| value.parse(names::relative_path));
        let mode = fields.get("mode").and_then(read_mode);
        Some(KeyToPath {
            key: key?,
            path: path?,
            mode,
        })
    })
}

fn read_mode(value: Value<'_>) -> Option<u32> {
    value.u32(0..=0o777)
}

pub(crate) fn read_mount(value: Value<'_>) -> Option<VolumeMount> {
    value.map(|fields| {
        fields.no_meaning(&["mountPropagation", "recursiveReadOnly"]);
        fields.refuse("subPathExpr", &[""], "`subPath` is a plain path here");
        let volume = fields
            .required("name")
            .and_then(|value| value.parse(names::dns_label));
        let path = fields
            .required("mountPath")
            .and_then(|value| value.parse(names::absolute_path));
        let sub_path = fields
            .filled("subPath")
            .and_then(|value| value.parse(names::relative_path));
        let read_only = fields.boolean("readOnly").unwrap_or(false);
        Some(VolumeMount {
            volume: volume?,
            path: path?,
            sub_path,
            read_only,
        })
    })
}
