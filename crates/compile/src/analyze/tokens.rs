//! Users and their tokens: where one is asked for, and where one is looked at.

use std::collections::BTreeSet;

use bartizan_config::istio::{Jwks, RequestAuthentication};
use bartizan_config::{Document, Finding, Resource, Severity};
use bartizan_mesh::{Action, PolicyKind, UserCredentials, WithoutPolicy};
use bartizan_types::{NamespacedName, PodRole, PodSpec};

use super::Analysis;
use crate::target::Attachment;
use crate::{codes, people, view};

impl Analysis<'_> {
    pub(super) fn request_authentication(
        &self,
        document: &Document,
        authentication: &RequestAuthentication,
        findings: &mut Vec<Finding>,
    ) {
        let Some(entry) = document
            .namespaced_name()
            .and_then(|name| self.model.authentications.get(&name))
        else {
            return;
        };
        let selected: Vec<_> = self.pods().filter(|pod| entry.attachment.selects(pod)).collect();
        self.selects_nothing(
            document,
            &entry.attachment,
            &authentication.target,
            &selected,
            findings,
        );
        self.keys_without_tls(document, authentication, findings);
        self.other_keys(document, authentication, &selected, findings);
        if authentication.rules.is_empty() {
            return;
        }
        if let Some(pod) = selected
            .iter()
            .find(|pod| self.lets_in(pod) && !self.asks_for_a_user(pod))
        {
            let what = format!(
                "a request without a token passes: no policy asks workload `{}` for one",
                pod.workload
            );
            let finding = document.finding(codes::TOKEN_NOT_REQUIRED, Severity::Note, "spec.jwtRules", what);
            findings.push(finding.help(require_a_token(document, pod)));
        }
    }

    /// Whether anybody at all may be let in at a workload.
    fn lets_in(&self, pod: &PodSpec) -> bool {
        self.options.settings.profile.without_policy != WithoutPolicy::Deny
            || view::policies_of(self.model, pod, self.options)
                .any(|entry| entry.policy.action == Action::Allow && !entry.policy.dry_run)
    }

    /// Whether some policy of a workload, or the profile, speaks of a verified user.
    fn asks_for_a_user(&self, pod: &PodSpec) -> bool {
        self.profile_asks(pod)
            || view::policies_of(self.model, pod, self.options)
                .any(|entry| !entry.policy.dry_run && entry.asks_for_users)
    }

    /// Whether the profile asks for a user's token at a workload, or on some route of a gateway.
    fn profile_asks(&self, pod: &PodSpec) -> bool {
        match self.options.settings.profile.user_credentials {
            UserCredentials::Optional => false,
            UserCredentials::Everywhere => true,
            UserCredentials::WhereMarked => {
                people::is_for_people(self.model, pod)
                    || match &pod.role {
                        PodRole::Application => false,
                        PodRole::Gateway { gateway, .. } => self.has_marked_route(gateway),
                    }
            }
        }
    }

    fn has_marked_route(&self, gateway: &NamespacedName) -> bool {
        self.model.routes.values().any(|entry| {
            matches!(&*entry.resource, bartizan_mesh::Resource::Route(route) if route.is_for_people)
                && entry.gateways.contains(gateway)
        })
    }

    /// A service or gateway where the profile asks for a token and none is looked at.
    pub(super) fn nobody_verified(
        &self,
        document: &Document,
        what: &str,
        pods: &[&PodSpec],
        findings: &mut Vec<Finding>,
    ) {
        let is_refused = |pod: &&&PodSpec| self.profile_asks(pod) && !self.has_tokens(pod);
        let Some(pod) = pods.iter().find(is_refused) else {
            return;
        };
        let what = format!(
            "profile `{}` asks for a user's token at {what}, and no RequestAuthentication is for workload `{}`: every request is refused",
            self.options.settings.profile.name, pod.workload
        );
        let finding = document.finding(
            codes::PEOPLE_WITHOUT_TOKENS,
            Severity::Warning,
            "metadata.name",
            what,
        );
        findings.push(finding.help(format!(
            "add a RequestAuthentication that selects it, or write `{}: not-required` on it where no people come",
            people::MARK
        )));
    }

    fn has_tokens(&self, pod: &PodSpec) -> bool {
        view::authentications_of(self.model, pod, self.options)
            .any(|entry| !entry.authentication.rules.is_empty())
    }

    /// Fields that speak of a verified user where nobody is verified.
    pub(super) fn user_without_tokens(
        &self,
        document: &Document,
        attachment: &Attachment,
        fields: &[String],
        selected: &[&PodSpec],
        findings: &mut Vec<Finding>,
    ) {
        let Some(path) = fields.first() else { return };
        let mut without = selected.iter().filter(|pod| !self.has_tokens(pod)).peekable();
        let Some(first) = without.peek().map(|pod| &pod.workload) else {
            return;
        };
        // A policy for a whole namespace is often meant for those of its workloads that know users.
        if !attachment.is_selective() && without.count() < selected.len() {
            return;
        }
        let what = format!(
            "the rule asks for a user, and no RequestAuthentication is for workload `{first}`: nobody is verified there"
        );
        let finding = document.finding(codes::USER_WITHOUT_TOKENS, Severity::Warning, path, what);
        findings.push(finding.help("add a RequestAuthentication that selects the same workloads"));
    }

    fn keys_without_tls(
        &self,
        document: &Document,
        authentication: &RequestAuthentication,
        findings: &mut Vec<Finding>,
    ) {
        if self.options.settings.profile.user_credentials == UserCredentials::Optional {
            return;
        }
        for (index, rule) in authentication.rules.iter().enumerate() {
            let (uri, field) = match &rule.jwks {
                Jwks::Inline(_) => continue,
                Jwks::Uri(uri) => (uri, "jwksUri"),
                Jwks::Discovery(uri) => (uri, "issuer"),
            };
            if is_plain(uri) {
                let what = format!(
                    "profile `{}` takes no keys that come without TLS, such as from `{uri}`",
                    self.options.settings.profile.name
                );
                let path = format!("spec.jwtRules[{index}].{field}");
                let finding = document.finding(codes::KEYS_WITHOUT_TLS, Severity::Error, &path, what);
                findings.push(finding.help("use `https://`, or write the keys as `jwks`"));
            }
        }
    }

    /// The same issuer in another document for the same workload, with other keys.
    fn other_keys(
        &self,
        document: &Document,
        authentication: &RequestAuthentication,
        selected: &[&PodSpec],
        findings: &mut Vec<Finding>,
    ) {
        let Some(own) = document.namespaced_name() else {
            return;
        };
        let mut told = BTreeSet::new();
        for pod in selected {
            for other in view::authentications_of(self.model, pod, self.options) {
                let other = &other.authentication.name;
                // Of two documents the second by name is told.
                if *other >= own || !told.insert(other) {
                    continue;
                }
                let Some(theirs) = self.written_authentication(other) else {
                    continue;
                };
                let clash = authentication.rules.iter().enumerate().find(|(_, rule)| {
                    rule.issuer.is_some()
                        && theirs
                            .rules
                            .iter()
                            .any(|their| their.issuer == rule.issuer && their.jwks != rule.jwks)
                });
                if let Some((index, rule)) = clash {
                    let issuer = rule.issuer.as_deref().unwrap_or_default();
                    let what = format!(
                        "`{other}` takes tokens of issuer `{issuer}` with other keys, also for workload `{}`",
                        pod.workload
                    );
                    let path = format!("spec.jwtRules[{index}].issuer");
                    let finding =
                        document.finding(codes::ISSUER_WITH_OTHER_KEYS, Severity::Warning, &path, what);
                    findings.push(finding.help("keep one of the two, or name the same keys in both"));
                }
            }
        }
    }

    fn written_authentication(&self, name: &NamespacedName) -> Option<&RequestAuthentication> {
        self.library.iter().find_map(|document| {
            if let Resource::RequestAuthentication(written) = &document.resource
                && document.namespaced_name().as_ref() == Some(name)
            {
                Some(written)
            } else {
                None
            }
        })
    }
}

/// A policy that asks for a token, for people to copy.
fn require_a_token(document: &Document, pod: &PodSpec) -> String {
    let labels: Vec<String> = [
        "app",
        "app.kubernetes.io/name",
        "gateway.networking.k8s.io/gateway-name",
    ]
    .into_iter()
    .filter_map(|key| Some(format!("{key}: {}", pod.labels.get(key)?)))
    .take(1)
    .collect();
    let selector = if labels.is_empty() {
        String::new()
    } else {
        format!("\n    selector: {{ matchLabels: {{ {} }} }}", labels.join(", "))
    };
    format!(
        "ask for one:\n  apiVersion: security.istio.io/v1\n  kind: {}\n  metadata: {{ name: {}-required, namespace: {} }}\n  spec:{selector}\n    action: ALLOW\n    rules: [{{ from: [{{ source: {{ requestPrincipals: [\"*\"] }} }}] }}]",
        PolicyKind::AuthorizationPolicy,
        document.name(),
        pod.name.namespace,
    )
}

/// Whether a URI is fetched without TLS from somewhere else than this machine.
fn is_plain(uri: &str) -> bool {
    let Some(rest) = uri.strip_prefix("http://") else {
        return false;
    };
    let host = rest.split(['/', '?', ':']).next().unwrap_or_default();
    !(rest.starts_with("[::1]") || host == "localhost" || host.starts_with("127."))
}

#[cfg(test)]
mod tests {
    use super::is_plain;

    #[test]
    fn only_this_machine_may_do_without_tls() {
        assert!(is_plain("http://issuer.example/keys"));
        assert!(is_plain("http://localhost.example/keys"));
        for near in [
            "https://issuer.example/keys",
            "http://localhost:8080/k",
            "http://127.0.0.1/k",
            "http://[::1]:1/k",
        ] {
            assert!(!is_plain(near), "{near}");
        }
    }
}
