//! `from[].source`: who asks.

use super::super::matcher::{
    read_block, read_matcher, read_namespace, read_principal, read_request_principal, read_service_account,
    read_trust_domain,
};
use super::Source;
use crate::field::Value;
use crate::finding::codes;
use crate::kinds::Owner;

/// The most entries of `serviceAccounts` (Istio's CRD).
const MOST_SERVICE_ACCOUNTS: usize = 16;

pub(super) fn read(value: Value<'_>, owner: &Owner<'_>) -> Option<Source> {
    value.map(|from| {
        from.required("source")?.map(|fields| {
            if fields.is_empty() {
                fields.sink.error_help(
                    codes::EMPTY,
                    fields.spot,
                    "`source` asks for nothing, which would let everybody match",
                    "leave `from` out to mean everybody, or say who",
                );
            }
            let principals = read_matcher(fields, "principals", "notPrincipals", read_principal);
            let namespaces = read_matcher(fields, "namespaces", "notNamespaces", read_namespace);
            let service_accounts = read_matcher(fields, "serviceAccounts", "notServiceAccounts", |value| {
                read_service_account(value, owner)
            });
            let trust_domains = read_matcher(fields, "trustDomains", "notTrustDomains", read_trust_domain);
            let ip_blocks = read_matcher(fields, "ipBlocks", "notIpBlocks", read_block);
            let remote_ip_blocks = read_matcher(fields, "remoteIpBlocks", "notRemoteIpBlocks", read_block);
            let request_principals = read_matcher(
                fields,
                "requestPrincipals",
                "notRequestPrincipals",
                read_request_principal,
            );
            for (name, values) in [
                ("serviceAccounts", &service_accounts.any),
                ("notServiceAccounts", &service_accounts.none),
            ] {
                if let Some(value) = fields.get(name) {
                    if values.len() > MOST_SERVICE_ACCOUNTS {
                        let what = format!("`{name}` has more than {MOST_SERVICE_ACCOUNTS} items");
                        value.error(codes::OUT_OF_RANGE, what);
                    }
                    let others = ["principals", "notPrincipals", "namespaces", "notNamespaces"];
                    if others.iter().any(|other| fields.has(other)) {
                        value.error_help(
                            codes::CONFLICT,
                            format!("`{name}` excludes `principals` and `namespaces` in the same source"),
                            "write a second entry of `from`, or use `principals` alone",
                        );
                    }
                }
            }
            Some(Source {
                principals,
                namespaces,
                service_accounts,
                trust_domains,
                ip_blocks,
                remote_ip_blocks,
                request_principals,
            })
        })
    })
}
