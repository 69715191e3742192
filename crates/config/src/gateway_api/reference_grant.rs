//! ReferenceGrant: a namespace lets others point at what it holds.

use bartizan_types::{Name, Namespace};

use crate::field::{Fields, Value};
use crate::finding::codes;
use crate::names;

/// The most entries of `from` and of `to` (Gateway API's CRD).
const MOST_ENTRIES: usize = 16;

/// Gateway API ReferenceGrant; it is for targets in its own namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReferenceGrant {
    /// `spec.from`: who may point.
    pub from: Vec<GrantFrom>,
    /// `spec.to`: at what.
    pub to: Vec<GrantTo>,
}

/// Who may point.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GrantFrom {
    /// `group`; empty is core Kubernetes.
    pub group: String,
    /// `kind`.
    pub kind: String,
    /// `namespace`.
    pub namespace: Namespace,
}

/// At what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GrantTo {
    /// `group`; empty is core Kubernetes.
    pub group: String,
    /// `kind`.
    pub kind: String,
    /// `name`; none is every one of the kind.
    pub name: Option<Name>,
}

impl ReferenceGrant {
    /// Whether `from` of this group, kind and namespace may point at `to` of this group, kind and name.
    pub fn allows(&self, from: (&str, &str, &Namespace), to: (&str, &str, &Name)) -> bool {
        self.from
            .iter()
            .any(|grant| (grant.group.as_str(), grant.kind.as_str(), &grant.namespace) == from)
            && self.to.iter().any(|grant| {
                (grant.group.as_str(), grant.kind.as_str()) == (to.0, to.1)
                    && grant.name.as_ref().is_none_or(|name| name == to.2)
            })
    }
}

pub(crate) fn read(fields: &Fields<'_>) -> Option<ReferenceGrant> {
    fields.required("spec")?.map(|spec| {
        let from = read_entries(spec, "from", |entry| {
            let (group, kind) = read_kind(entry);
            let namespace = entry
                .required("namespace")
                .and_then(|value| value.parse(names::dns_label));
            Some(GrantFrom {
                group: group?,
                kind: kind?,
                namespace: namespace?,
            })
        });
        let to = read_entries(spec, "to", |entry| {
            let (group, kind) = read_kind(entry);
            let name = entry.get("name").filter(|value| value.raw() != Some(""));
            let name = name.and_then(|value| value.parse(names::dns_name));
            Some(GrantTo {
                group: group?,
                kind: kind?,
                name,
            })
        });
        Some(ReferenceGrant { from, to })
    })
}

fn read_entries<T>(spec: &Fields<'_>, name: &'static str, read: impl Fn(&Fields<'_>) -> Option<T>) -> Vec<T> {
    let Some(value) = spec.required(name) else {
        return Vec::new();
    };
    if value.is_list() && value.items().is_empty() {
        value.error(
            codes::EMPTY,
            format!("`{name}` is empty, so the grant allows nothing"),
        );
    }
    value.list_of_at_most(MOST_ENTRIES, |entry| entry.map(&read))
}

/// `group`, where empty is core Kubernetes, and `kind`.
fn read_kind(entry: &Fields<'_>) -> (Option<String>, Option<String>) {
    let group = entry.required("group").and_then(Value::text).map(str::to_owned);
    (group, entry.required_text("kind"))
}
