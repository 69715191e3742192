//! What should run now: replicas of a StatefulSet start one after the other, and a change replaces a workload's replicas one
//! at a time, so that a workload of several keeps serving.
//!
//! As with Kubernetes' rolling updates: what is ready makes room only while all its siblings are ready, so that a template
//! that never gets ready stops after its first replica; what is not ready is replaced at once.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bartizan_types::{Name, Namespace, NamespacedName, PodReport, PodSpec};

use super::{Plan, PlannedPod};

/// The pods to run now, by namespace and name.
pub(crate) fn runnable(plan: &Plan, reports: &BTreeMap<NamespacedName, PodReport>) -> Vec<Arc<PodSpec>> {
    let mut workloads: BTreeMap<(&Namespace, &Name), Vec<&PlannedPod>> = BTreeMap::new();
    for pod in plan.values() {
        let key = (&pod.spec.name.namespace, &pod.spec.workload);
        workloads.entry(key).or_default().push(pod);
    }
    let mut run: Vec<Arc<PodSpec>> = Vec::new();
    for mut replicas in workloads.into_values() {
        // By ordinal: `db-9` before `db-10`.
        replicas.sort_by_key(|pod| (pod.spec.name.name.as_str().len(), &pod.spec.name));
        let open = whose_turn_has_come(&replicas, reports);
        run.extend(one_at_a_time(&open, reports));
    }
    run.sort_by(|one, other| one.name.cmp(&other.name));
    run
}

/// The replicas that run already, or whose predecessor is ready.
fn whose_turn_has_come<'a>(
    replicas: &[&'a PlannedPod],
    reports: &BTreeMap<NamespacedName, PodReport>,
) -> Vec<&'a PlannedPod> {
    let mut open: BTreeSet<&NamespacedName> = BTreeSet::new();
    let mut found = Vec::new();
    for pod in replicas {
        let turn = pod.after.as_ref().is_none_or(|before| {
            open.contains(before) && reports.get(before).is_some_and(|report| report.ready)
        });
        if turn || reports.contains_key(&pod.spec.name) {
            open.insert(&pod.spec.name);
            found.push(*pod);
        }
    }
    found
}

/// The replicas as planned, but for those that are to keep what they run until it is their turn to be replaced.
fn one_at_a_time(
    replicas: &[&PlannedPod],
    reports: &BTreeMap<NamespacedName, PodReport>,
) -> Vec<Arc<PodSpec>> {
    let report = |pod: &PlannedPod| reports.get(&pod.spec.name);
    let waits = |pod: &PlannedPod| {
        report(pod).is_some_and(|report| report.ready && report.spec.template_hash != pod.spec.template_hash)
    };
    let all_ready = replicas
        .iter()
        .all(|pod| report(pod).is_some_and(|report| report.ready));
    let mut waiting = replicas.iter().filter(|pod| waits(pod));
    // A StatefulSet is replaced from its last replica on.
    let is_ordered = replicas.iter().any(|pod| pod.after.is_some());
    let next = if is_ordered {
        waiting.next_back()
    } else {
        waiting.next()
    };
    let next = next.filter(|_| all_ready).map(|pod| &pod.spec.name);
    replicas
        .iter()
        .map(|pod| match report(pod) {
            Some(report) if waits(pod) && next != Some(&pod.spec.name) => Arc::new(report.spec.clone()),
            _ => pod.spec.clone(),
        })
        .collect()
}
