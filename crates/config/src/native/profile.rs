//! Profile: what holds where no policy speaks. A readable document instead of code.

use crate::field::{Fields, Value};
use crate::istio::MtlsMode;

/// `bartizan.dev/v1alpha1` Profile. Every field is written out, so that a reader sees all of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Profile {
    /// `mtls`: the mode where no PeerAuthentication says one.
    pub mtls: MtlsMode,
    /// `withoutPolicy`: what becomes of a request to a workload that no ALLOW policy selects.
    pub without_policy: WithoutPolicy,
    /// `acrossNamespaces`: from which namespaces an ALLOW rule lets in.
    pub across_namespaces: AcrossNamespaces,
    /// `userCredentials`: where a user's verified token is asked for beside the caller's identity.
    pub user_credentials: UserCredentials,
    /// `wayOut`: where a workload may go that is not in the mesh.
    pub way_out: WayOut,
    /// `paths`: what a path means to policies and routes, where MeshConfig does not say.
    pub paths: PathRule,
    /// `reach`: whom the control plane tells where a service is served.
    pub reach: Reach,
}

/// What becomes of a request to a workload that no ALLOW policy selects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WithoutPolicy {
    /// `ALLOW`: it passes unless a DENY policy matches (Istio).
    Allow,
    /// `DENY`: it is refused.
    Deny,
    /// `OWN_NAMESPACE`: it passes when the caller proves an identity of the workload's own namespace.
    OwnNamespace,
}

/// From which namespaces an ALLOW rule lets in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AcrossNamespaces {
    /// `AS_WRITTEN`: as the rule says.
    AsWritten,
    /// `NAMED`: a caller of another namespace only where the rule names its principal, service account or namespace in full.
    Named,
}

/// Where a user's verified token is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UserCredentials {
    /// `OPTIONAL`: where policies ask for it.
    Optional,
    /// `WHERE_MARKED`: also where `bartizan.dev/users` is `required`.
    WhereMarked,
    /// `EVERYWHERE`: on every HTTP request.
    Everywhere,
}

/// Where a workload may go that is not in the mesh.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WayOut {
    /// `DECLARED`: only where a document says so.
    Declared,
}

/// What a path means to policies and routes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PathRule {
    /// `REFUSE_AMBIGUOUS`: a path that two parsers could read differently is refused with 400.
    RefuseAmbiguous,
    /// `NONE`: as sent (Istio `pathNormalization`, and so are those that follow).
    None,
    /// `BASE`.
    Base,
    /// `MERGE_SLASHES`.
    MergeSlashes,
    /// `DECODE_AND_MERGE_SLASHES`.
    DecodeAndMergeSlashes,
}

/// Whom the control plane tells where a service is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// `ALLOWED`: those whom policy could let in.
    Allowed,
    /// `EVERYTHING`: everybody.
    Everything,
}

pub(crate) fn read(fields: &Fields<'_>) -> Option<Profile> {
    fields.required("spec")?.map(|spec| {
        let mtls = choice(
            spec,
            "mtls",
            &[
                ("STRICT", MtlsMode::Strict),
                ("PERMISSIVE", MtlsMode::Permissive),
                ("DISABLE", MtlsMode::Disable),
            ],
        );
        let without_policy = choice(
            spec,
            "withoutPolicy",
            &[
                ("ALLOW", WithoutPolicy::Allow),
                ("DENY", WithoutPolicy::Deny),
                ("OWN_NAMESPACE", WithoutPolicy::OwnNamespace),
            ],
        );
        let across_namespaces = choice(
            spec,
            "acrossNamespaces",
            &[
                ("AS_WRITTEN", AcrossNamespaces::AsWritten),
                ("NAMED", AcrossNamespaces::Named),
            ],
        );
        let user_credentials = choice(
            spec,
            "userCredentials",
            &[
                ("OPTIONAL", UserCredentials::Optional),
                ("WHERE_MARKED", UserCredentials::WhereMarked),
                ("EVERYWHERE", UserCredentials::Everywhere),
            ],
        );
        let way_out = spec.required("wayOut").and_then(read_way_out);
        let paths = choice(
            spec,
            "paths",
            &[
                ("REFUSE_AMBIGUOUS", PathRule::RefuseAmbiguous),
                ("NONE", PathRule::None),
                ("BASE", PathRule::Base),
                ("MERGE_SLASHES", PathRule::MergeSlashes),
                ("DECODE_AND_MERGE_SLASHES", PathRule::DecodeAndMergeSlashes),
            ],
        );
        let reach = choice(
            spec,
            "reach",
            &[("ALLOWED", Reach::Allowed), ("EVERYTHING", Reach::Everything)],
        );
        Some(Profile {
            mtls: mtls?,
            without_policy: without_policy?,
            across_namespaces: across_namespaces?,
            user_credentials: user_credentials?,
            way_out: way_out?,
            paths: paths?,
            reach: reach?,
        })
    })
}

fn choice<T: Clone>(spec: &Fields<'_>, name: &'static str, choices: &[(&str, T)]) -> Option<T> {
    spec.required(name)?.choice(choices)
}

fn read_way_out(value: Value<'_>) -> Option<WayOut> {
    match value.choice(&[("DECLARED", Some(WayOut::Declared)), ("ANYWHERE", None)])? {
        Some(way_out) => Some(way_out),
        None => {
            value.not_supported(
                "`wayOut: ANYWHERE` is not supported yet: what no document names cannot be reached",
            );
            None
        }
    }
}
