//! Tests judged by a folder alone, by the same code that decides in a proxy.

use std::collections::BTreeMap;

use bartizan_config::Resource;
use bartizan_config::native::{Expectation, PolicyTestCase, TestRequest, TestRule};
use bartizan_decide::Explanation;

use super::{Outcome, Test};
use crate::cmd::can::{Callee, caller, now};
use crate::evaluate::{HttpQuestion, Judged, Picture, Question};

/// A folder's decisions.
pub(super) struct Folder {
    picture: Picture,
    /// Where each PeerAuthentication is written: `NAMESPACE/NAME` and the place.
    mtls: BTreeMap<String, String>,
}

impl Folder {
    /// # Errors
    /// When the documents have errors, which are drawn on standard error.
    pub(super) fn of(folder: crate::folder::Folder, strict: bool) -> anyhow::Result<Self> {
        let mtls = folder
            .documents
            .iter()
            .filter(|document| matches!(document.resource, Resource::PeerAuthentication(_)))
            .filter_map(|document| {
                let place = format!("{}:{}", document.file, document.position.line);
                Some((document.namespaced_name()?.to_string(), place))
            })
            .collect();
        Ok(Self {
            picture: Picture::of_folder(folder, strict)?,
            mtls,
        })
    }

    /// What comes of a test; one that cannot be judged has failed.
    pub(super) fn run(&self, test: &Test) -> Outcome {
        self.judged(&test.case).unwrap_or_else(|error| Outcome::Failed {
            got: "no decision".to_owned(),
            why: format!("{error:#}"),
            change: None,
        })
    }

    fn judged(&self, case: &PolicyTestCase) -> anyhow::Result<Outcome> {
        let peer = caller(&case.from, self.picture.trust_domain())?;
        let callee = Callee::find(&self.picture, &case.to)?;
        let request = case.request.as_ref();
        let of = |get: fn(&TestRequest) -> Option<&str>| request.and_then(get);
        let http = request.map(|request| HttpQuestion {
            method: of(|request| request.method.as_deref()).unwrap_or("GET"),
            authority: Some(of(|request| request.host.as_deref()).unwrap_or(&callee.authority)),
            target: of(|request| request.path.as_deref()).unwrap_or("/"),
            headers: &request.headers,
            claims: request.claims.as_ref(),
        });
        let judged = self.picture.judge(&Question {
            peer: &peer,
            source: request.and_then(|request| request.source_ip),
            remote: request.and_then(|request| request.remote_ip),
            at: request.and_then(|request| request.at).unwrap_or_else(now),
            callee: &callee.workload,
            port: callee.port,
            http,
        })?;
        let got = verdict(&judged);
        let by = self.decided_by(&judged.explanation);
        let is_right = got == case.expect
            && case
                .by
                .as_ref()
                .is_none_or(|wanted| self.is_by(wanted, &judged, &callee));
        if is_right {
            return Ok(Outcome::Passed { by });
        }
        Ok(Outcome::Failed {
            got: got.to_string(),
            why: by,
            change: judged.explanation.change,
        })
    }

    /// The rule that decided, with file and line, or why in a sentence.
    fn decided_by(&self, explanation: &Explanation) -> String {
        match &explanation.decided_by {
            Some(rule) => {
                let place = self.picture.positions.rule(rule);
                let place = place.map_or_else(String::new, |place| format!(" ({place})"));
                format!(
                    "decided by {} {}/{} rules[{}]{place}: {}",
                    rule.kind, rule.namespace, rule.policy, rule.rule, explanation.reason
                )
            }
            None => explanation.reason.clone(),
        }
    }

    /// Whether it was this that decided. Of tokens: the rule that accepted the user's, or one of the document that refused
    /// it. Of mutual TLS: that it was plaintext, and there is such a document.
    fn is_by(&self, wanted: &TestRule, judged: &Judged, callee: &Callee) -> bool {
        match &*wanted.kind {
            "RequestAuthentication" => match &judged.user {
                Some(user) => {
                    let (document, index) = user.accepted_by();
                    *document == wanted.policy
                        && wanted.rule.is_none_or(|rule| usize::try_from(rule) == Ok(index))
                }
                None => {
                    judged.status == 401
                        && self
                            .picture
                            .token_rules(&callee.workload)
                            .any(|(document, ..)| *document == wanted.policy)
                }
            },
            "PeerAuthentication" => {
                judged.explanation.reason.starts_with("plaintext is refused")
                    && self.mtls.contains_key(&wanted.policy.to_string())
            }
            kind => judged.explanation.decided_by.as_ref().is_some_and(|rule| {
                *rule.kind == *kind
                    && rule.namespace == wanted.policy.namespace
                    && rule.policy == wanted.policy.name
                    && wanted.rule.is_none_or(|index| index == rule.rule)
            }),
        }
    }
}

fn verdict(judged: &Judged) -> Expectation {
    match (judged.explanation.allowed, judged.status) {
        (true, _) => Expectation::Allow,
        (false, 401) => Expectation::Unauthenticated,
        (false, _) => Expectation::Deny,
    }
}
