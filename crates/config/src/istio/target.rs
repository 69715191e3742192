//! Which workloads a policy is for: `selector`, `targetRef` and `targetRefs` (Istio `PolicyTargetReference`).

use bartizan_types::{Name, Selector};

use crate::field::{Fields, Value};
use crate::finding::codes;
use crate::names;

/// Which workloads a policy is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PolicyTarget {
    /// `selector.matchLabels`; empty is the whole namespace, or the mesh in the root namespace.
    Selector(Selector),
    /// `targetRefs` in the policy's own namespace, at least one; the policy is for all of them. Indices are those of the
    /// document; a `targetRef` is the only one.
    References(Vec<TargetReference>),
}

impl Default for PolicyTarget {
    fn default() -> Self {
        Self::Selector(Selector::default())
    }
}

/// One of `targetRefs`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TargetReference {
    /// A Gateway (group `gateway.networking.k8s.io`): its proxies.
    Gateway(Name),
    /// A Service (group `""` or `core`): the workloads that it selects.
    Service(Name),
}

impl TargetReference {
    /// The name of the target, in the policy's own namespace.
    pub fn name(&self) -> &Name {
        match self {
            Self::Gateway(name) | Self::Service(name) => name,
        }
    }
}

/// The most entries of `targetRefs` (Istio's CRD).
const MOST_TARGETS: usize = 16;

pub(crate) fn read_target(spec: &Fields<'_>) -> Option<PolicyTarget> {
    let selector = spec.get("selector");
    let one = spec.get("targetRef");
    let several = spec.get("targetRefs");
    if [selector, one, several].iter().flatten().count() > 1 {
        let what = "`selector`, `targetRef` and `targetRefs` exclude each other";
        spec.sink.error(codes::CONFLICT, spec.spot, what);
    }
    let selector = selector.map(Value::selector);
    let mut references: Option<Vec<TargetReference>> = None;
    if let Some(value) = one {
        references = Some(read_reference(value).into_iter().collect());
    }
    if let Some(value) = several {
        if value.is_list() && value.items().is_empty() {
            value.error(codes::EMPTY, "`targetRefs` is empty");
        }
        references = Some(value.list_of_at_most(MOST_TARGETS, read_reference));
    }
    match (references, selector) {
        (Some(references), _) => Some(PolicyTarget::References(references)),
        (None, Some(selector)) => Some(PolicyTarget::Selector(selector?)),
        (None, None) => Some(PolicyTarget::default()),
    }
}

fn read_reference(value: Value<'_>) -> Option<TargetReference> {
    value.map(|fields| {
        let group = fields.get("group").and_then(Value::text).unwrap_or_default();
        let kind_value = fields.required("kind");
        let kind = kind_value.and_then(Value::text);
        if let Some(namespace) = fields.get("namespace").filter(|value| value.raw() != Some("")) {
            namespace.error_help(
                codes::CONFLICT,
                "a target is in the policy's own namespace",
                "remove `namespace`",
            );
        }
        let name = fields
            .required("name")
            .and_then(|value| value.parse(names::dns_name));
        let (value, kind) = (kind_value?, kind?);
        let help = match (group, kind) {
            ("gateway.networking.k8s.io", "Gateway") => return name.map(TargetReference::Gateway),
            ("" | "core", "Service") => return name.map(TargetReference::Service),
            ("gateway.networking.k8s.io", "GatewayClass") => {
                "a GatewayClass stands for waypoints, which this mesh does not have; name the Gateway, or pick workloads with `selector`"
            }
            ("networking.istio.io", "ServiceEntry") => {
                "what is outside of the mesh has no proxy that could judge; pick the workloads that call it with `selector`"
            }
            (_, "Gateway") => "the group of `Gateway` is `gateway.networking.k8s.io`",
            (_, "Service") => "the group of `Service` is `\"\"`: leave `group` out",
            _ => {
                "`Gateway` in group `gateway.networking.k8s.io` and `Service` are; workloads are picked with `selector`"
            }
        };
        let what = format!(
            "a target of kind {} in group {} is not supported",
            fields.sink.quoted(kind),
            fields.sink.quoted(group)
        );
        value.error_help(codes::NOT_SUPPORTED, what, help);
        None
    })
}
