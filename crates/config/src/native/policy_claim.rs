//! PolicyClaim: what must hold for every request, to be proven (`bartizan prove`). It has no effect on the mesh.

use std::sync::Arc;

use bartizan_types::{NamespacedName, StringMatch};

use crate::field::{Fields, Value};
use crate::finding::codes;
use crate::istio::PathMatch;
use crate::istio::authorization_policy::{claim_names, read_method, read_path};
use crate::istio::matcher::{
    Matcher, read_claim_value, read_matcher, read_namespace, read_principal, read_service_account,
};
use crate::kinds::Owner;
use crate::names;

/// `bartizan.dev/v1alpha1` PolicyClaim: exactly one of the three.
#[derive(Clone, Debug, PartialEq)]
pub enum PolicyClaim {
    /// `never`: no such request is let through.
    Never(Never),
    /// `everyWay`: everything that is let through has what is needed.
    EveryWay(EveryWay),
    /// `noPlaintext`: nothing is let through without mutual TLS, anywhere.
    NoPlaintext,
}

/// `never`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Never {
    /// `from`; where it is left out, anybody, with or without an identity.
    pub from: ClaimCallers,
    /// `to`; where it is left out, every workload.
    pub to: ClaimCallees,
    /// `request`; none is every request and every connection.
    pub request: Option<ClaimRequest>,
}

/// `everyWay`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct EveryWay {
    /// `to`; where it is left out, every workload.
    pub to: ClaimCallees,
    /// `needs`: all of what is set.
    pub needs: ClaimNeeds,
}

/// Who asks; all fields that are set must match. Nothing set is anybody. A caller without an identity is in no namespace: it
/// never matches a positive value and always matches a negative one, as in an AuthorizationPolicy.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ClaimCallers {
    /// `principals` and `notPrincipals`, without `spiffe://`.
    pub principals: Matcher<StringMatch>,
    /// `namespaces` and `notNamespaces`; `*` stands for any run of characters.
    pub namespaces: Matcher<Arc<str>>,
    /// `serviceAccounts` and `notServiceAccounts`: `NAMESPACE/NAME`.
    pub service_accounts: Matcher<NamespacedName>,
}

/// Who is asked: any of what is named. Nothing set is every workload.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClaimCallees {
    /// `services`: `NAME.NAMESPACE`.
    pub services: Vec<NamespacedName>,
    /// `namespaces`, in full.
    pub namespaces: Vec<Arc<str>>,
}

/// `request`: HTTP requests; all fields that are set must match.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ClaimRequest {
    /// `methods`, any of which may match; empty is every method.
    pub methods: Vec<StringMatch>,
    /// `paths`, any of which may match; empty is every path.
    pub paths: Vec<PathMatch>,
}

/// `needs`; at least one is set.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ClaimNeeds {
    /// `claims` of the user's token: the names from the outside in (`NAME`, or `OUTER[INNER]`), and the values of which it
    /// has one.
    pub claims: Vec<(Vec<Arc<str>>, Vec<StringMatch>)>,
    /// `principals`: the caller has one of them.
    pub principals: Vec<StringMatch>,
    /// `namespaces`: the caller is in one of them.
    pub namespaces: Vec<Arc<str>>,
    /// `mtls: true`: the caller has proven an identity.
    pub mtls: bool,
}

pub(crate) fn read(fields: &Fields<'_>, owner: &Owner<'_>) -> Option<PolicyClaim> {
    fields.required("spec")?.map(|spec| {
        let never = spec.get("never");
        let every_way = spec.get("everyWay");
        let no_plaintext = spec.get("noPlaintext");
        let claims = [never, every_way, no_plaintext];
        if claims.iter().flatten().count() != 1 {
            spec.sink.error_help(
                codes::CONFLICT,
                spec.spot,
                "a claim is exactly one of `never`, `everyWay` and `noPlaintext`",
                "write a document for each",
            );
        }
        if let Some(value) = never {
            return value
                .map(|fields| read_never(fields, owner))
                .map(PolicyClaim::Never);
        }
        if let Some(value) = every_way {
            return value.map(read_every_way).map(PolicyClaim::EveryWay);
        }
        no_plaintext?.map(|_| Some(PolicyClaim::NoPlaintext))
    })
}

fn read_never(fields: &Fields<'_>, owner: &Owner<'_>) -> Option<Never> {
    let from = fields
        .get("from")
        .map(|value| value.map(|from| Some(read_callers(from, owner))));
    let to = fields.get("to").map(read_callees);
    let request = fields.get("request").map(read_request);
    if from.is_none() && to.is_none() && request.is_none() {
        fields.sink.error_help(
            codes::EMPTY,
            fields.spot,
            "`never` says nothing: no request at all would be let through",
            "say `from` whom, `to` whom, or which `request`",
        );
    }
    Some(Never {
        from: from.unwrap_or_else(|| Some(ClaimCallers::default()))?,
        to: to.unwrap_or_else(|| Some(ClaimCallees::default()))?,
        request: match request {
            Some(request) => Some(request?),
            None => None,
        },
    })
}

fn read_callers(fields: &Fields<'_>, owner: &Owner<'_>) -> ClaimCallers {
    ClaimCallers {
        principals: read_matcher(fields, "principals", "notPrincipals", read_principal),
        namespaces: read_matcher(fields, "namespaces", "notNamespaces", read_namespace),
        service_accounts: read_matcher(fields, "serviceAccounts", "notServiceAccounts", |value| {
            if value.raw().is_some_and(|text| !text.contains('/')) {
                let what = format!(
                    "{} has no namespace, and a claim is in none",
                    value.sink.quoted(value.raw().unwrap_or_default())
                );
                value.error_help(codes::INVALID_VALUE, what, "write `NAMESPACE/SERVICEACCOUNT`");
                return None;
            }
            read_service_account(value, owner)
        }),
    }
}

fn read_callees(value: Value<'_>) -> Option<ClaimCallees> {
    value.map(|fields| {
        let services = values(fields, "services", |value| value.parse(parse_service));
        let namespaces = values(fields, "namespaces", |value| {
            value
                .parse(names::dns_label)
                .map(|name| Arc::<str>::from(name.as_str()))
        });
        Some(ClaimCallees { services, namespaces })
    })
}

/// `NAME.NAMESPACE`.
fn parse_service(text: &str) -> Result<NamespacedName, String> {
    let Some((name, namespace)) = text.split_once('.') else {
        return Err(format!("`{text}` is not a service: NAME.NAMESPACE"));
    };
    Ok(NamespacedName::new(
        names::dns_label(namespace).map_err(|_| format!("`{text}` is not a service: NAME.NAMESPACE"))?,
        names::service_name(name)?,
    ))
}

fn read_request(value: Value<'_>) -> Option<ClaimRequest> {
    value.map(|fields| {
        Some(ClaimRequest {
            methods: values(fields, "methods", read_method),
            paths: values(fields, "paths", read_path),
        })
    })
}

fn read_every_way(fields: &Fields<'_>) -> Option<EveryWay> {
    let to = fields.get("to").map(read_callees);
    let needs = fields.required("needs").and_then(read_needs);
    Some(EveryWay {
        to: to.unwrap_or_else(|| Some(ClaimCallees::default()))?,
        needs: needs?,
    })
}

fn read_needs(value: Value<'_>) -> Option<ClaimNeeds> {
    value.map(|fields| {
        let claims = fields.get("claims").map(read_claims).unwrap_or_default();
        let principals = values(fields, "principals", read_principal);
        let namespaces = values(fields, "namespaces", read_namespace);
        let mtls = fields.get("mtls");
        let needs_mtls = mtls.and_then(Value::boolean);
        if let (Some(value), Some(false)) = (mtls, needs_mtls) {
            value.error_help(
                codes::POINTLESS_RULE,
                "`mtls: false` needs nothing",
                "write `mtls: true`, or remove it",
            );
        }
        if !["claims", "principals", "namespaces", "mtls"]
            .iter()
            .any(|name| fields.has(name))
        {
            fields.sink.error_help(
                codes::EMPTY,
                fields.spot,
                "`needs` asks for nothing, which always holds",
                "set one of `claims`, `principals`, `namespaces`, `mtls`",
            );
        }
        Some(ClaimNeeds {
            claims,
            principals,
            namespaces,
            mtls: needs_mtls.unwrap_or_default(),
        })
    })
}

fn read_claims(value: Value<'_>) -> Vec<(Vec<Arc<str>>, Vec<StringMatch>)> {
    if value.is_empty_map() {
        value.error(codes::EMPTY, "`claims` names no claim");
    }
    let mut claims = Vec::new();
    for (key, spot, value) in value.entries() {
        if value.is_list() && value.items().is_empty() {
            value.error(
                codes::EMPTY,
                format!("{} has no value that would do", value.sink.quoted(key)),
            );
        }
        let wanted = value.list(read_claim_value);
        match parse_claim(key) {
            Some(names) => claims.push((names, wanted)),
            None => value.sink.error(
                codes::INVALID_VALUE,
                spot,
                format!("{} is not a claim: NAME, or OUTER[INNER]", value.sink.quoted(key)),
            ),
        }
    }
    claims
}

/// `NAME`, or `OUTER[INNER]`.
fn parse_claim(key: &str) -> Option<Vec<Arc<str>>> {
    let outer = key.split('[').next().filter(|outer| !outer.is_empty())?;
    let mut names = vec![Arc::from(outer)];
    if let Some(inner) = key.get(outer.len()..).filter(|inner| !inner.is_empty()) {
        names.extend(claim_names(inner)?);
    }
    Some(names)
}

/// A list that must not be empty where it is written.
fn values<'a, T>(
    fields: &Fields<'a>,
    name: &'static str,
    read: impl FnMut(Value<'a>) -> Option<T>,
) -> Vec<T> {
    let Some(value) = fields.get(name) else {
        return Vec::new();
    };
    if value.is_list() && value.items().is_empty() {
        value.error_help(
            codes::EMPTY,
            format!("`{name}` is empty, which would ask for nothing"),
            format!("remove `{name}`, or name at least one value"),
        );
    }
    value.list(read)
}
