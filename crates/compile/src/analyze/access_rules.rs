//! AccessRules whose expressions speak of what their workloads do not have.

use bartizan_config::istio::Action;
use bartizan_config::native::{AccessRule, AccessRuleRule};
use bartizan_config::{Document, Finding, Severity};
use bartizan_types::{PodSpec, Protocol};

use super::Analysis;
use crate::codes;

impl Analysis<'_> {
    pub(super) fn access_rule(&self, document: &Document, rule: &AccessRule, findings: &mut Vec<Finding>) {
        let Some(entry) = document
            .namespaced_name()
            .and_then(|name| self.model.access_rules.get(&name))
        else {
            return;
        };
        let selected: Vec<_> = self.pods().filter(|pod| entry.attachment.selects(pod)).collect();
        self.selects_nothing(document, &entry.attachment, &rule.target, &selected, findings);
        if rule.dry_run {
            Self::dry_run(document, findings);
        }
        for (index, written) in rule.rules.iter().enumerate() {
            let path = format!("spec.rules[{index}].when");
            if written.uses("request") || written.uses("auth") {
                self.expression_on_tcp(document, rule.action, written, &path, &selected, findings);
            }
            if written.uses("auth") {
                self.user_without_tokens(document, &entry.attachment, &[path], &selected, findings);
            }
        }
    }

    /// An expression about requests where only connections are judged.
    fn expression_on_tcp(
        &self,
        document: &Document,
        action: Action,
        rule: &AccessRuleRule,
        path: &str,
        selected: &[&PodSpec],
        findings: &mut Vec<Finding>,
    ) {
        let is_tcp = |protocol: &Protocol| matches!(protocol, Protocol::Tcp | Protocol::Tls);
        for pod in selected {
            let served = self.served(pod);
            let tcp = served.iter().filter(|(_, protocol)| is_tcp(protocol)).count();
            let is_only_tcp = tcp > 0 && tcp == served.len();
            let (severity, effect) = match action {
                Action::Deny if is_only_tcp => (Severity::Error, "it refuses every connection"),
                // An expression that looks at the port may mean the others.
                Action::Deny if tcp > 0 && !rule.uses("destination.port") => {
                    (Severity::Warning, "on its TCP ports it refuses every connection")
                }
                Action::Allow if is_only_tcp => (Severity::Warning, "it never matches"),
                Action::Allow | Action::Deny | Action::Audit | Action::Custom => continue,
            };
            let what = format!(
                "the expression speaks of requests, and workload `{}` is declared as TCP: {effect}",
                pod.workload
            );
            let finding = document.finding(codes::EXPRESSION_ON_TCP, severity, path, what);
            findings.push(finding.help(
                "write a rule of its own for TCP, with `source`, `destination` and `connection` only; or declare the port as HTTP",
            ));
            return;
        }
    }
}
