//! Labels and annotations that mean something to the mesh: `istio.io/dry-run`, `proxy.istio.io/config` and `bartizan.dev/users`.

use crate::field::{Fields, Value};
use crate::finding::codes;
use crate::istio::gateway_topology::{GatewayTopology, read_proxy_config};
use crate::kinds::Known;
use crate::suggest;

/// Whether what is marked is for people, who prove who they are with a token (`bartizan.dev/users`: a label of pods, an
/// annotation of an HTTPRoute). What follows from it is the profile's `userCredentials`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Users {
    /// `required`.
    Required,
    /// `not-required`, also where a route marks the workload.
    NotRequired,
}

/// What the labels and annotations of a pod say to the mesh.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PodMarks {
    /// The label `bartizan.dev/users`.
    pub users: Option<Users>,
    /// `gatewayTopology` of the annotation `proxy.istio.io/config`; wins over the mesh's.
    pub topology: Option<GatewayTopology>,
}

const USERS: &str = "bartizan.dev/users";
const DRY_RUN: &str = "istio.io/dry-run";
const PROXY_CONFIG: &str = "proxy.istio.io/config";

/// The annotation `istio.io/dry-run` of a policy.
pub(crate) fn read_dry_run(document: &Fields<'_>) -> bool {
    let value = metadata(document).and_then(|metadata| {
        // A policy that was meant to be tried only would count.
        for near in [
            "istio.io/dryrun",
            "istio.io/dry_run",
            "istio.io/dryRun",
            "istio.io/Dry-Run",
            "dry-run",
        ] {
            if let Some(value) = entry(metadata, "annotations", near) {
                let what = format!("`{near}` means nothing, so the policy counts");
                value.error_help(codes::UNKNOWN_FIELD, what, format!("write `{DRY_RUN}`"));
            }
        }
        entry(metadata, "annotations", DRY_RUN)
    });
    let value = value.and_then(|value| match value.raw()? {
        "true" => Some(true),
        "false" => Some(false),
        text => {
            let what = format!("`{DRY_RUN}` is {}", value.sink.quoted(text));
            value.error_help(codes::UNKNOWN_CHOICE, what, "write \"true\" or \"false\"");
            None
        }
    });
    value.unwrap_or_default()
}

/// The annotation `bartizan.dev/users` of an HTTPRoute.
pub(crate) fn read_route_users(document: &Fields<'_>) -> Option<Users> {
    read_users(entry(metadata(document)?, "annotations", USERS)?)
}

/// The annotation `proxy.istio.io/config` of a Gateway.
pub(crate) fn read_topology(document: &Fields<'_>) -> Option<GatewayTopology> {
    read_proxy_config(entry(metadata(document)?, "annotations", PROXY_CONFIG)?)
}

/// The marks in `metadata` of a pod or of a pod's template.
pub(crate) fn read_pod(metadata: Value<'_>) -> PodMarks {
    PodMarks {
        users: entry(metadata, "labels", USERS).and_then(read_users),
        topology: entry(metadata, "annotations", PROXY_CONFIG).and_then(read_proxy_config),
    }
}

fn read_users(value: Value<'_>) -> Option<Users> {
    value.choice(&[
        ("required", Users::Required),
        ("not-required", Users::NotRequired),
    ])
}

fn metadata<'a>(document: &Fields<'a>) -> Option<Value<'a>> {
    document.get("metadata").filter(|value| value.is_map())
}

/// A label or annotation; that it is a text is checked with the others.
fn entry<'a>(metadata: Value<'a>, list: &'static str, name: &'static str) -> Option<Value<'a>> {
    metadata.peek(list)?.peek(name).filter(|value| value.is_text())
}

/// Where `metadata` belongs to.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// The document itself.
    Document(Known),
    /// A pod's template.
    Template,
}

impl Place {
    fn knows(self, list: &str, key: &str) -> bool {
        let is_pod = matches!(self, Self::Template | Self::Document(Known::Pod));
        match (list, key) {
            // The label of pods that `bartizan run` makes.
            ("labels", "bartizan.dev/run") => true,
            ("labels", USERS) => is_pod,
            ("annotations", USERS) => self == Self::Document(Known::HttpRoute),
            ("annotations", DRY_RUN) => matches!(
                self,
                Self::Document(Known::AuthorizationPolicy | Known::AccessRule)
            ),
            ("annotations", PROXY_CONFIG) => is_pod || self == Self::Document(Known::Gateway),
            _ => false,
        }
    }
}

/// Marks that would have no effect where they stand: of the mesh's own prefix all that are not known, and those of Istio
/// that are read elsewhere.
pub(crate) fn report_misplaced(metadata: Value<'_>, place: Place) {
    for list in ["labels", "annotations"] {
        let Some(marks) = metadata.peek(list).filter(|value| value.is_map()) else {
            continue;
        };
        for (key, spot, _) in marks.entries() {
            let is_mark = key.starts_with("bartizan.dev/") || matches!(key, DRY_RUN | PROXY_CONFIG);
            if !is_mark || place.knows(list, key) || marks.sink.is_full() {
                continue;
            }
            let word = list.trim_end_matches('s');
            let what = format!("the {word} {} has no meaning here", marks.sink.quoted(key));
            let help = match key {
                USERS => "it is a label of pods (in a template's `metadata.labels`) and an annotation of an HTTPRoute".to_owned(),
                DRY_RUN => "it is an annotation of an AuthorizationPolicy or an AccessRule".to_owned(),
                PROXY_CONFIG => "it is an annotation of a Gateway or of pods (in a template's `metadata.annotations`)".to_owned(),
                _ => match suggest::nearest(key, [USERS]) {
                    Some(near) => format!("did you mean `{near}`?"),
                    None => format!("the one that is read is `{USERS}`"),
                },
            };
            marks.sink.error_help(codes::UNKNOWN_FIELD, spot, what, help);
        }
    }
}
