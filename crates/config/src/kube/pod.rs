//! Pod, and the template of a pod that workloads share.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bartizan_types::{Labels, Name};

use super::container::{self, Container, SecurityContext};
use super::volume::{self, Volume};
use crate::field::{Fields, Value};
use crate::finding::codes;
use crate::marks::{self, PodMarks};
use crate::{names, suggest};

/// Kubernetes Pod; its labels are in the document's metadata.
#[derive(Clone, Debug, PartialEq)]
pub struct Pod {
    /// What its labels and annotations say to the mesh.
    pub marks: PodMarks,
    /// `spec`.
    pub spec: PodSpec,
}

/// The `template` of a workload.
#[derive(Clone, Debug, PartialEq)]
pub struct PodTemplate {
    /// `metadata.labels`.
    pub labels: Labels,
    /// `metadata.annotations`.
    pub annotations: BTreeMap<String, String>,
    /// What its labels and annotations say to the mesh.
    pub marks: PodMarks,
    /// `spec`.
    pub spec: PodSpec,
}

/// The `spec` of a pod.
#[derive(Clone, Debug, PartialEq)]
pub struct PodSpec {
    /// `serviceAccountName`; Kubernetes uses `default` where there is none.
    pub service_account: Option<Name>,
    /// `containers`, at least one.
    pub containers: Vec<Container>,
    /// `initContainers`, which run one after the other before the containers.
    pub init_containers: Vec<Container>,
    /// `volumes`.
    pub volumes: Vec<Volume>,
    /// `terminationGracePeriodSeconds`; Kubernetes waits 30 s where there is none.
    pub termination_grace_period: Option<Duration>,
    /// `hostname`.
    pub hostname: Option<Name>,
    /// `subdomain`.
    pub subdomain: Option<Name>,
    /// `restartPolicy`; workloads allow only `Always`.
    pub restart_policy: Option<RestartPolicy>,
    /// `securityContext`, for containers that do not say otherwise.
    pub security_context: SecurityContext,
    /// `enableServiceLinks` is false: no `NAME_SERVICE_HOST` variables.
    pub service_links: Option<bool>,
}

/// What happens when a container of a pod ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RestartPolicy {
    /// It is started again.
    Always,
    /// It is started again unless it succeeded.
    OnFailure,
    /// It stays ended.
    Never,
}

pub(crate) fn read(fields: &Fields<'_>) -> Option<Pod> {
    let spec = fields.required("spec").and_then(|value| read_spec(value, &[]))?;
    let marks = fields.get("metadata").map(marks::read_pod).unwrap_or_default();
    Some(Pod { marks, spec })
}

/// Reads a template. `claimed` are volumes that the workload itself brings, reported elsewhere.
pub(crate) fn read_template(value: Value<'_>, claimed: &[&str]) -> Option<PodTemplate> {
    value.map(|template| {
        let metadata = template.get("metadata").and_then(|value| {
            value.map(|metadata| {
                metadata.no_meaning(&["creationTimestamp", "name", "namespace"]);
                let labels = metadata.get("labels").map(Value::labels).unwrap_or_default();
                let annotations = metadata
                    .get("annotations")
                    .map(Value::text_map)
                    .unwrap_or_default();
                marks::report_misplaced(value, marks::Place::Template);
                Some((labels, annotations, marks::read_pod(value)))
            })
        });
        let (labels, annotations, marks) = metadata.unwrap_or_default();
        let spec = template
            .required("spec")
            .and_then(|value| read_spec(value, claimed))?;
        Some(PodTemplate {
            labels,
            annotations,
            marks,
            spec,
        })
    })
}

fn read_spec(value: Value<'_>, claimed: &[&str]) -> Option<PodSpec> {
    value.map(|spec| {
        spec.no_meaning(&[
            "affinity",
            "automountServiceAccountToken",
            "hostUsers",
            "imagePullSecrets",
            "nodeName",
            "nodeSelector",
            "os",
            "overhead",
            "preemptionPolicy",
            "priority",
            "priorityClassName",
            "resources",
            "runtimeClassName",
            "schedulerName",
            "tolerations",
            "topologySpreadConstraints",
        ]);
        refuse(spec);
        let account = spec
            .filled("serviceAccountName")
            .and_then(|value| value.parse(names::dns_name));
        let old_account = spec
            .filled("serviceAccount")
            .and_then(|value| value.parse(names::dns_name));
        if let (Some(one), Some(other), Some(value)) = (&account, &old_account, spec.filled("serviceAccount"))
            && one != other
        {
            let what = "`serviceAccount` and `serviceAccountName` differ";
            value.error_help(codes::CONFLICT, what, "keep `serviceAccountName`");
        }
        let containers_value = spec.required("containers");
        let containers = containers_value
            .map(|value| value.list(container::read))
            .unwrap_or_default();
        if let Some(value) = containers_value.filter(|value| value.is_list() && value.items().is_empty()) {
            value.error(codes::EMPTY, "a pod needs at least one container");
        }
        let init_containers = spec
            .get("initContainers")
            .map(|value| value.list(container::read_init))
            .unwrap_or_default();
        let volumes = spec
            .get("volumes")
            .map(|value| value.list(volume::read))
            .unwrap_or_default();
        check_names(value, claimed);
        let grace = spec.get("terminationGracePeriodSeconds");
        let grace = grace
            .and_then(|value| value.u32(0..=86_400))
            .map(|seconds| Duration::from_secs(seconds.into()));
        let restart_policy = spec.filled("restartPolicy").and_then(|value| {
            value.choice(&[
                ("Always", RestartPolicy::Always),
                ("OnFailure", RestartPolicy::OnFailure),
                ("Never", RestartPolicy::Never),
            ])
        });
        let security_context = spec
            .get("securityContext")
            .and_then(container::read_pod_security_context);
        Some(PodSpec {
            service_account: account.or(old_account),
            containers,
            init_containers,
            volumes,
            termination_grace_period: grace,
            hostname: spec
                .filled("hostname")
                .and_then(|value| value.parse(names::dns_label)),
            subdomain: spec
                .filled("subdomain")
                .and_then(|value| value.parse(names::dns_label)),
            restart_policy,
            security_context: security_context.unwrap_or_default(),
            service_links: spec.boolean("enableServiceLinks"),
        })
    })
}

/// Fields that would change what runs, or what is protected.
fn refuse(spec: &Fields<'_>) {
    let host = "a workload of the mesh has namespaces of its own; on the host's it would go around the mesh";
    spec.refuse("hostNetwork", &["false"], host);
    spec.refuse("hostPID", &["false"], host);
    spec.refuse("hostIPC", &["false"], host);
    spec.refuse(
        "shareProcessNamespace",
        &["false"],
        "containers of a pod do not see each other's processes here",
    );
    spec.refuse(
        "dnsPolicy",
        &["ClusterFirst", "ClusterFirstWithHostNet"],
        "names are always resolved by the mesh",
    );
    spec.refuse("dnsConfig", &[], "names are always resolved by the mesh");
    spec.refuse("hostAliases", &[], "the pod's hosts file is the mesh's");
    spec.refuse(
        "setHostnameAsFQDN",
        &["false"],
        "the host name of a pod is its short name",
    );
    spec.refuse("activeDeadlineSeconds", &[], "pods run until they are stopped");
    spec.refuse(
        "ephemeralContainers",
        &[],
        "`bartizan exec` enters a running workload instead",
    );
    spec.refuse(
        "readinessGates",
        &[],
        "nothing here sets the conditions that a gate waits for",
    );
    spec.refuse("resourceClaims", &[], "there are no devices to claim");
    spec.refuse("schedulingGates", &[], "nothing here lifts the gate");
    spec.refuse(
        "hostnameOverride",
        &[],
        "the host name of a pod is its short name",
    );
}

/// Names must be unique in the pod, and mounts must name a volume.
fn check_names<'a>(pod: Value<'a>, claimed: &[&'a str]) {
    let mut volumes = check_unique(pod.peek_items("volumes"), "volumes");
    volumes.extend(claimed);
    let mut containers = pod.peek_items("containers");
    containers.extend(pod.peek_items("initContainers"));
    for mount in containers
        .iter()
        .flat_map(|container| container.peek_items("volumeMounts"))
    {
        let Some(name) = mount.peek("name") else { continue };
        let Some(text) = name.raw() else { continue };
        if volumes.contains(text) || name.sink.is_full() {
            continue;
        }
        let what = format!("the pod has no volume {}", name.sink.quoted(text));
        let help = match suggest::nearest(text, volumes.iter().copied()) {
            Some(near) => format!("did you mean `{near}`?"),
            None => "add it to `volumes` of the pod".to_owned(),
        };
        name.error_help(codes::CONFLICT, what, help);
    }
    check_unique(containers, "containers");
}

/// The names of `items`, each once.
fn check_unique<'a>(items: Vec<Value<'a>>, what: &str) -> BTreeSet<&'a str> {
    let mut seen = BTreeSet::new();
    for name in items.into_iter().filter_map(|item| item.peek("name")) {
        if let Some(text) = name.raw()
            && !seen.insert(text)
        {
            let what = format!("the pod has two {what} named {}", name.sink.quoted(text));
            name.error(codes::CONFLICT, what);
        }
    }
    seen
}
