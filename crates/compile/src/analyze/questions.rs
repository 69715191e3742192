//! Documents of kind PolicyTest and PolicyClaim about what does not exist. They have no effect on the mesh; whether they hold is told by
//! `bartizan test` and `bartizan prove`.

use bartizan_config::native::{ClaimCallees, ClaimCallers, PolicyClaim, PolicyTest};
use bartizan_config::{Document, Finding, Severity};
use bartizan_types::{NamespacedName, SpiffeId};

use super::Analysis;
use super::policies::PolicyNames;
use crate::codes;

impl Analysis<'_> {
    pub(super) fn policy_test(&self, document: &Document, test: &PolicyTest, findings: &mut Vec<Finding>) {
        for (index, case) in test.tests.iter().enumerate() {
            let path = format!("spec.tests[{index}]");
            if !self.is_caller(document, &case.from) {
                let what = format!("nobody has the identity `{}`", case.from);
                unknown(document, &format!("{path}.from"), what, findings);
            }
            if !self.is_callee(&case.to) {
                let what = format!("there is neither a service nor a workload `{}`", case.to);
                unknown(document, &format!("{path}.to"), what, findings);
            }
        }
    }

    pub(super) fn policy_claim(&self, document: &Document, claim: &PolicyClaim, findings: &mut Vec<Finding>) {
        match claim {
            PolicyClaim::Never(never) => {
                self.callers(document, &never.from, "spec.never.from", findings);
                self.callees(document, &never.to, "spec.never.to", findings);
            }
            PolicyClaim::EveryWay(every_way) => {
                self.callees(document, &every_way.to, "spec.everyWay.to", findings);
            }
            PolicyClaim::NoPlaintext => {}
        }
    }

    fn callers(&self, document: &Document, callers: &ClaimCallers, path: &str, findings: &mut Vec<Finding>) {
        let lists = [
            ("namespaces", &callers.namespaces.any),
            ("notNamespaces", &callers.namespaces.none),
        ];
        for (field, namespaces) in lists {
            for (index, namespace) in namespaces.iter().enumerate() {
                if !namespace.contains('*') && !self.library.namespaces.contains_key(&**namespace) {
                    let what = format!("namespace `{namespace}` does not exist");
                    unknown(document, &format!("{path}.{field}[{index}]"), what, findings);
                }
            }
        }
        let names = PolicyNames {
            analysis: self,
            document,
        };
        let lists = [
            ("serviceAccounts", &callers.service_accounts.any),
            ("notServiceAccounts", &callers.service_accounts.none),
        ];
        for (field, accounts) in lists {
            for (index, account) in accounts.iter().enumerate() {
                if !names.is_account(account) {
                    let what = format!("service account `{account}` does not exist");
                    unknown(document, &format!("{path}.{field}[{index}]"), what, findings);
                }
            }
        }
    }

    fn callees(&self, document: &Document, callees: &ClaimCallees, path: &str, findings: &mut Vec<Finding>) {
        for (index, service) in callees.services.iter().enumerate() {
            if !self.model.services.contains_key(service) {
                let what = format!("service `{}.{}` does not exist", service.name, service.namespace);
                unknown(document, &format!("{path}.services[{index}]"), what, findings);
            }
        }
        for (index, namespace) in callees.namespaces.iter().enumerate() {
            if !self.library.namespaces.contains_key(&**namespace) {
                let what = format!("namespace `{namespace}` does not exist");
                unknown(document, &format!("{path}.namespaces[{index}]"), what, findings);
            }
        }
    }

    /// `outside`, a SPIFFE ID, or `NAMESPACE/SERVICEACCOUNT`. Identities of other meshes are fine.
    fn is_caller(&self, document: &Document, text: &str) -> bool {
        let account = match SpiffeId::parse(text) {
            Ok(id) if id.trust_domain() != self.options.settings.trust_domain.as_str() => return true,
            Ok(id) => match (id.namespace(), id.service_account()) {
                (Some(namespace), Some(account)) => format!("{namespace}/{account}"),
                _ => return false,
            },
            Err(_) if text == "outside" => return true,
            Err(_) => text.to_owned(),
        };
        let names = PolicyNames {
            analysis: self,
            document,
        };
        NamespacedName::parse(&account).is_ok_and(|account| names.is_account(&account))
    }

    /// A service by one of its DNS names, or `NAMESPACE/NAME` of a workload, replica or gateway; with or without `:PORT`.
    fn is_callee(&self, text: &str) -> bool {
        let text = text
            .rsplit_once(':')
            .filter(|(_, port)| port.bytes().all(|byte| byte.is_ascii_digit()))
            .map_or(text, |(text, _)| text);
        if let Ok(name) = NamespacedName::parse(text) {
            let is_workload = |pod: &bartizan_types::PodSpec| {
                pod.name.namespace == name.namespace && (pod.workload == name.name || pod.name == name)
            };
            return self.model.gateways.contains_key(&name)
                || self.model.services.contains_key(&name)
                || self.pods().any(is_workload);
        }
        let mut parts = text.splitn(3, '.');
        let (Some(name), Some(namespace)) = (parts.next(), parts.next()) else {
            return false;
        };
        let domain = format!("svc.{}", self.options.settings.cluster_domain);
        let is_name = parts.next().is_none_or(|rest| rest == "svc" || rest == domain);
        is_name
            && NamespacedName::parse(&format!("{namespace}/{name}"))
                .is_ok_and(|name| self.model.services.contains_key(&name))
    }
}

fn unknown(document: &Document, path: &str, what: String, findings: &mut Vec<Finding>) {
    let finding = document.finding(codes::UNKNOWN_IN_TEST, Severity::Warning, path, what);
    findings.push(finding.help("compare the name with the documents of the mesh"));
}
