//! Labels and the selectors that pick workloads by them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Key-value labels of a workload or a resource.
pub type Labels = BTreeMap<String, String>;

/// `matchLabels`: every pair must be present and equal. Empty selects everything, as in Istio and Kubernetes services
/// with their own rule for emptiness (`compile` decides what an absent selector means for a kind).
#[derive(Clone, PartialEq, Eq, Debug, Default, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Selector {
    /// The pairs that must all be present.
    pub match_labels: BTreeMap<String, String>,
}

impl Selector {
    /// Whether nothing is asked for.
    pub fn is_empty(&self) -> bool {
        self.match_labels.is_empty()
    }

    /// Whether every pair is present in `labels`.
    pub fn matches(&self, labels: &Labels) -> bool {
        self.match_labels
            .iter()
            .all(|(key, value)| labels.get(key) == Some(value))
    }
}
