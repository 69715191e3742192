//! Deployment: replicas of a pod that are alike.

use bartizan_types::Selector;

use super::pod::{self, PodTemplate, RestartPolicy};
use crate::field::{Fields, Value};
use crate::finding::codes;

/// Kubernetes Deployment.
#[derive(Clone, Debug, PartialEq)]
pub struct Deployment {
    /// `spec.replicas`.
    pub replicas: Option<u32>,
    /// `spec.selector`; it matches the template's labels.
    pub selector: Selector,
    /// `spec.template`.
    pub template: PodTemplate,
}

/// The largest number of replicas; each is a set of processes on this machine.
pub(crate) const MOST_REPLICAS: u32 = 1_000;

pub(crate) fn read(fields: &Fields<'_>) -> Option<Deployment> {
    fields.required("spec")?.map(|spec| {
        spec.no_meaning(&[
            "minReadySeconds",
            "progressDeadlineSeconds",
            "revisionHistoryLimit",
            "strategy",
        ]);
        spec.refuse("paused", &["false"], "a paused deployment would not run");
        let replicas = spec
            .get("replicas")
            .and_then(|value| value.u32(0..=MOST_REPLICAS));
        let (selector, template) = read_selector_and_template(spec, &[]);
        Some(Deployment {
            replicas,
            selector: selector?,
            template: template?,
        })
    })
}

/// `selector` and `template`, which must fit (Kubernetes validates the same). `claimed` are volumes that the workload
/// itself brings.
pub(crate) fn read_selector_and_template(
    spec: &Fields<'_>,
    claimed: &[&str],
) -> (Option<Selector>, Option<PodTemplate>) {
    let selector_value = spec.required("selector");
    let selector = selector_value.and_then(Value::selector);
    let template_value = spec.required("template");
    let template = template_value.and_then(|value| pod::read_template(value, claimed));
    if let (Some(value), Some(selector)) = (selector_value, &selector)
        && selector.is_empty()
    {
        value.error(
            codes::EMPTY,
            "the selector is empty; it must match the template's labels",
        );
    }
    if let (Some(value), Some(selector), Some(template)) = (selector_value, &selector, &template)
        && !selector.matches(&template.labels)
    {
        value.error_help(
            codes::CONFLICT,
            "the selector does not match the labels of the template",
            "give `template.metadata.labels` every pair of `selector.matchLabels`",
        );
    }
    if let (Some(value), Some(template)) = (template_value, &template)
        && !matches!(template.spec.restart_policy, None | Some(RestartPolicy::Always))
    {
        value.error(
            codes::CONFLICT,
            "the `restartPolicy` of a workload's template is `Always`",
        );
    }
    (selector, template)
}
