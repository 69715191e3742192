//! StatefulSet: replicas of a pod with names of their own.

use bartizan_types::{Name, Selector};

use super::deployment::{MOST_REPLICAS, read_selector_and_template};
use super::pod::PodTemplate;
use crate::field::{Fields, Value};
use crate::names;

/// Kubernetes StatefulSet.
#[derive(Clone, Debug, PartialEq)]
pub struct StatefulSet {
    /// `spec.replicas`.
    pub replicas: Option<u32>,
    /// `spec.serviceName`: the headless service that gives replicas their host names.
    pub service_name: Option<Name>,
    /// `spec.selector`; it matches the template's labels.
    pub selector: Selector,
    /// `spec.podManagementPolicy` is `Parallel`; otherwise replicas start and stop one after the other.
    pub parallel: bool,
    /// `spec.ordinals.start`.
    pub first_ordinal: Option<u32>,
    /// `spec.template`.
    pub template: PodTemplate,
}

pub(crate) fn read(fields: &Fields<'_>) -> Option<StatefulSet> {
    fields.required("spec")?.map(|spec| {
        spec.no_meaning(&[
            "minReadySeconds",
            "persistentVolumeClaimRetentionPolicy",
            "revisionHistoryLimit",
            "updateStrategy",
        ]);
        let claims = spec.get("volumeClaimTemplates");
        let claim_items = claims.filter(|claims| claims.is_list()).map(Value::items);
        if let Some(claims) = claims
            && claim_items.as_ref().is_none_or(|items| !items.is_empty())
        {
            claims.not_supported(
                "`volumeClaimTemplates` are not supported yet: replicas have no lasting volumes",
            );
        }
        let claimed: Vec<&str> = claim_items.into_iter().flatten().filter_map(claim_name).collect();
        let replicas = spec
            .get("replicas")
            .and_then(|value| value.u32(0..=MOST_REPLICAS));
        let service_name = spec
            .filled("serviceName")
            .and_then(|value| value.parse(names::dns_name));
        let parallel = spec
            .filled("podManagementPolicy")
            .and_then(|value| value.choice(&[("OrderedReady", false), ("Parallel", true)]))
            .unwrap_or(false);
        let first_ordinal = spec.get("ordinals").and_then(|value| {
            value.map(|ordinals| ordinals.get("start").and_then(|value| value.u32(0..=1_000_000)))
        });
        let (selector, template) = read_selector_and_template(spec, &claimed);
        Some(StatefulSet {
            replicas,
            service_name,
            selector: selector?,
            parallel,
            first_ordinal,
            template: template?,
        })
    })
}

fn claim_name(claim: Value<'_>) -> Option<&str> {
    claim.peek("metadata")?.peek("name")?.raw()
}
