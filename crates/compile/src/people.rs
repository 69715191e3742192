//! What is marked for people: with the profile's `userCredentials: WHERE_MARKED` a user's token is asked for there.
//!
//! The label `bartizan.dev/users` of a pod template says `required` or `not-required`. The annotation of the same name on an
//! HTTPRoute marks the route and the workloads behind its backends; a workload's own label has the last word about it.

use std::collections::BTreeSet;

use bartizan_types::{NamespacedName, PodSpec};

use crate::model::Model;
use crate::view;

/// The label and the annotation.
pub(crate) const MARK: &str = "bartizan.dev/users";

/// The services behind marked routes.
pub(crate) type MarkedServices = BTreeSet<NamespacedName>;

/// Whether a workload is marked.
pub(crate) fn is_for_people(model: &Model, pod: &PodSpec) -> bool {
    match pod.labels.get(MARK).map(String::as_str) {
        Some("required") => true,
        Some("not-required") => false,
        Some(_) | None => {
            view::services_of(model, pod).any(|entry| model.for_people.contains(&entry.service.name))
        }
    }
}
