//! The plan: every replica that should run, with everything resolved but its own address.

mod command;
mod container;
mod environment;
mod local_run;
mod probe;
mod rollout;
mod volume;

use std::collections::BTreeMap;
use std::sync::Arc;

use bartizan_config::istio::GatewayTopology;
use bartizan_config::kube::{self, PodTemplate};
use bartizan_config::{Document, Finding, Resource, Severity};
use bartizan_types::{Labels, Name, NamespacedName, PodRole, PodSpec, RestartPolicy, SpiffeId, VolumeSource};

pub(crate) use local_run::LocalRuns;
pub(crate) use rollout::runnable;

use crate::codes;
use crate::hash::fnv1a_128;
use crate::library::Library;
use crate::options::Options;

/// One replica of the plan.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct PlannedPod {
    pub(crate) spec: Arc<PodSpec>,
    /// The replica that must be ready before this one is started (StatefulSet, `OrderedReady`).
    pub(crate) after: Option<NamespacedName>,
    /// What its annotation `proxy.istio.io/config` says of the proxies before it.
    pub(crate) topology: Option<GatewayTopology>,
}

/// All replicas by name.
pub(crate) type Plan = BTreeMap<NamespacedName, Arc<PlannedPod>>;

/// Plans the pods of all workloads.
pub(crate) fn build(
    library: &Library,
    options: &Options,
    local: &LocalRuns<'_>,
    findings: &mut Vec<Finding>,
) -> Plan {
    let mut plan = Plan::new();
    for document in library.iter() {
        let context = Context {
            document,
            library,
            options,
            local,
        };
        if let Resource::Deployment(deployment) = &document.resource {
            let replicas = 0..deployment.replicas.unwrap_or(1);
            context.add_replicas(
                &mut plan,
                &deployment.template,
                replicas,
                Kind::Deployment,
                findings,
            );
        } else if let Resource::StatefulSet(set) = &document.resource {
            let first = set.first_ordinal.unwrap_or(0);
            let replicas = first..first.saturating_add(set.replicas.unwrap_or(1));
            let kind = Kind::StatefulSet {
                service: set.service_name.as_ref(),
                ordered: !set.parallel,
            };
            context.add_replicas(&mut plan, &set.template, replicas, kind, findings);
        } else if let Resource::Pod(pod) = &document.resource {
            context.add_pod(&mut plan, pod, findings);
        }
    }
    plan
}

/// What a workload's pods are built from.
struct Context<'a> {
    document: &'a Document,
    library: &'a Library,
    options: &'a Options,
    local: &'a LocalRuns<'a>,
}

/// What differs between kinds of workload.
#[derive(Clone, Copy)]
enum Kind<'a> {
    Deployment,
    StatefulSet {
        service: Option<&'a Name>,
        ordered: bool,
    },
}

impl Context<'_> {
    fn add_replicas(
        &self,
        plan: &mut Plan,
        template: &PodTemplate,
        replicas: std::ops::Range<u32>,
        kind: Kind<'_>,
        findings: &mut Vec<Finding>,
    ) {
        let Some(workload) = self.document.namespaced_name() else {
            return;
        };
        if replicas.is_empty() {
            // What is wrong with a template is worth knowing also while nothing runs.
            self.build(&workload, template, "spec.template.spec", findings);
        }
        let mut before = None;
        let mut scratch = Vec::new();
        for (turn, ordinal) in replicas.enumerate() {
            let Ok(name) = Name::parse(&format!("{}-{ordinal}", workload.name)) else {
                findings.push(self.bad_replica_name(&format!("{}-{ordinal}", workload.name)));
                return;
            };
            let name = NamespacedName::new(workload.namespace.clone(), name);
            let mut template = template.clone();
            let mut after = None;
            if let Kind::StatefulSet { service, ordered } = kind {
                let labels = &mut template.labels;
                labels.insert(
                    "statefulset.kubernetes.io/pod-name".to_owned(),
                    name.name.to_string(),
                );
                labels.insert("apps.kubernetes.io/pod-index".to_owned(), ordinal.to_string());
                template.spec.subdomain = template.spec.subdomain.or_else(|| service.cloned());
                template.spec.hostname = None;
                after = before.take().filter(|_| ordered);
            }
            // The replicas of a workload have the same findings: the first one's are told.
            let told = if turn == 0 { &mut *findings } else { &mut scratch };
            let spec = self.build(&name, &template, "spec.template.spec", told);
            before = Some(name.clone());
            self.add(
                plan,
                name,
                PlannedPod {
                    spec: Arc::new(spec),
                    after,
                    topology: template.marks.topology,
                },
                findings,
            );
        }
    }

    fn add_pod(&self, plan: &mut Plan, pod: &kube::Pod, findings: &mut Vec<Finding>) {
        let Some(name) = self.document.namespaced_name() else {
            return;
        };
        let template = PodTemplate {
            labels: self.document.metadata.labels.clone(),
            annotations: self.document.metadata.annotations.clone(),
            marks: pod.marks,
            spec: pod.spec.clone(),
        };
        let spec = self.build(&name, &template, "spec", findings);
        self.add(
            plan,
            name,
            PlannedPod {
                spec: Arc::new(spec),
                after: None,
                topology: pod.marks.topology,
            },
            findings,
        );
    }

    fn add(&self, plan: &mut Plan, name: NamespacedName, pod: PlannedPod, findings: &mut Vec<Finding>) {
        if name.name.as_str().len() > 63 {
            findings.push(self.bad_replica_name(name.name.as_str()));
            return;
        }
        if let Some(other) = plan.get(&name) {
            let what = format!(
                "replica `{name}` of {} is already one of `{}`",
                self.document.reference, other.spec.workload
            );
            let finding = self
                .document
                .finding(codes::NAME_TAKEN, Severity::Error, "metadata.name", what);
            findings.push(finding.help("give one of the two workloads another name"));
            return;
        }
        plan.insert(name, Arc::new(pod));
    }

    fn bad_replica_name(&self, name: &str) -> Finding {
        let what = format!(
            "replica `{name}` has a name of {} characters, a host name has at most 63",
            name.len()
        );
        self.document
            .finding(codes::NAME_TAKEN, Severity::Error, "metadata.name", what)
            .help("shorten the workload's name")
    }

    /// One replica. Parts that are in error are left out: the state is refused anyway.
    fn build(
        &self,
        name: &NamespacedName,
        template: &PodTemplate,
        path: &str,
        findings: &mut Vec<Finding>,
    ) -> PodSpec {
        let spec = &template.spec;
        let account = spec
            .service_account
            .clone()
            .or_else(|| Name::parse("default").ok());
        let account = account.unwrap_or_else(|| self.document.name().clone());
        self.check_service_account(&account, path, findings);
        if spec.service_links == Some(true) {
            let what = "variables such as `NAME_SERVICE_HOST` are not set";
            let path = format!("{path}.enableServiceLinks");
            let finding = self
                .document
                .finding(codes::CANNOT_RUN, Severity::Warning, &path, what);
            findings.push(finding.help("use the service's DNS name"));
        }
        let replica = Replica {
            name,
            labels: &template.labels,
            annotations: &template.annotations,
            service_account: &account,
            pod_security: spec.security_context,
            volumes: &spec.volumes,
        };
        let init_containers =
            self.containers(&replica, &spec.init_containers, path, "initContainers", findings);
        let containers = self.containers(&replica, &spec.containers, path, "containers", findings);
        let volumes = self.volumes(&replica, path, findings);
        let grace = spec.termination_grace_period.map_or(30, |grace| grace.as_secs());
        sealed(PodSpec {
            name: name.clone(),
            workload: self.document.name().clone(),
            identity: SpiffeId::workload(&self.options.settings.trust_domain, &name.namespace, &account),
            service_account: account,
            labels: template.labels.clone(),
            annotations: template.annotations.clone(),
            hostname: spec.hostname.as_ref().unwrap_or(&name.name).to_string(),
            subdomain: spec.subdomain.clone(),
            role: PodRole::Application,
            init_containers,
            containers,
            volumes,
            restart: match spec.restart_policy {
                None | Some(kube::RestartPolicy::Always) => RestartPolicy::Always,
                Some(kube::RestartPolicy::OnFailure) => RestartPolicy::OnFailure,
                Some(kube::RestartPolicy::Never) => RestartPolicy::Never,
            },
            termination_grace_seconds: u32::try_from(grace).unwrap_or(u32::MAX),
            template_hash: String::new(),
        })
    }

    fn check_service_account(&self, account: &Name, path: &str, findings: &mut Vec<Finding>) {
        let Some(namespace) = self.document.namespace() else {
            return;
        };
        let name = NamespacedName::new(namespace.clone(), account.clone());
        if self.library.has_service_account(&name) {
            return;
        }
        let what = format!("service account `{name}` does not exist");
        findings.push(
            self.document
                .finding(
                    codes::MISSING_SERVICE_ACCOUNT,
                    Severity::Error,
                    &format!("{path}.serviceAccountName"),
                    what,
                )
                .help(format!(
                    "add a document:\n  apiVersion: v1\n  kind: ServiceAccount\n  metadata: {{ name: {account}, namespace: {namespace} }}"
                )),
        );
    }
}

/// The parts of a replica that its containers refer to.
struct Replica<'a> {
    name: &'a NamespacedName,
    labels: &'a Labels,
    annotations: &'a Labels,
    service_account: &'a Name,
    pod_security: kube::SecurityContext,
    volumes: &'a [kube::Volume],
}

impl Replica<'_> {
    /// A uid that stays the same as long as the name does.
    fn uid(&self) -> String {
        let hash = fnv1a_128(self.name.to_string().as_bytes());
        let text = format!("{hash:032x}");
        let part = |from: usize, to: usize| text.get(from..to).unwrap_or_default();
        format!(
            "{}-{}-{}-{}-{}",
            part(0, 8),
            part(8, 12),
            part(12, 16),
            part(16, 20),
            part(20, 32)
        )
    }
}

/// The pod with the hash of its contents. A pod with another hash than the plan's is replaced: everything counts, also
/// what its environment took from ConfigMaps and Secrets. Only the files of volumes do not: those change while it runs, as
/// in Kubernetes.
pub(crate) fn sealed(mut spec: PodSpec) -> PodSpec {
    spec.template_hash = String::new();
    let mut counted = spec.clone();
    for volume in &mut counted.volumes {
        if let VolumeSource::Files(files) = &mut volume.source {
            files.clear();
        }
    }
    // INVARIANT: a pod is plain data, which always has a JSON form; the empty text would only replace pods too often.
    let text = serde_json::to_vec(&counted).unwrap_or_default();
    spec.template_hash = format!("{:032x}", fnv1a_128(&text));
    spec
}
