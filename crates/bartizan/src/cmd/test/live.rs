//! Tests as real requests in the running mesh, each by a workload of its caller's identity.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use bartizan_config::native::{Expectation, TestRequest, TestToken};
use bartizan_types::Peer;
use serde_json::Value;

use super::{Outcome, Test};
use crate::cmd::can::{Callee, caller};
use crate::evaluate::Picture;
use crate::place::Place;
use crate::{admin, with_runtime};

/// The running mesh.
pub(super) struct Mesh {
    /// Where the documents are: names of files are shown without it.
    sources: Vec<PathBuf>,
    place: Place,
    picture: Picture,
    status: bartizan_control::Status,
}

/// A test as a call.
struct Call {
    /// `NAMESPACE/SERVICEACCOUNT`; from the host where there is none.
    identity: Option<String>,
    url: String,
    method: String,
    headers: Vec<String>,
}

impl Mesh {
    /// # Errors
    /// When no mesh runs here, or it cannot be asked.
    pub(super) fn of(place: Place, sources: &[PathBuf]) -> anyhow::Result<Self> {
        place.must_run()?;
        let picture = Picture::of_dump(&with_runtime(admin::dump(&place, ""))?)?;
        let status = with_runtime(admin::status(&place))?;
        Ok(Self {
            sources: sources.to_vec(),
            place,
            picture,
            status,
        })
    }

    /// The token, or what its file holds: beside the document, else in the working directory.
    fn text_of(&self, token: &TestToken, document: &str) -> anyhow::Result<String> {
        let file = match token {
            TestToken::Text(text) => return Ok(text.clone()),
            TestToken::File(file) => file,
        };
        let beside = self
            .sources
            .iter()
            .map(|source| source.join(document))
            .chain(std::iter::once(PathBuf::from(document)))
            .find(|path| path.is_file());
        let folder = beside.as_deref().and_then(Path::parent).unwrap_or(Path::new(""));
        let path = folder.join(file);
        let text = std::fs::read_to_string(&path)
            .with_context(|| format!("read the token in `{}`", path.display()))?;
        Ok(text.trim().to_owned())
    }

    /// What comes of a test; one that cannot be asked has failed, and one that cannot be asked in a real mesh is skipped.
    pub(super) fn run(&self, test: &Test) -> Outcome {
        let request = test.case.request.as_ref();
        if let Some(why) = request.and_then(cannot_be_real) {
            return Outcome::Skipped { why };
        }
        match self.asked(test) {
            Ok(outcome) => outcome,
            Err(error) => Outcome::Failed {
                got: "no decision".to_owned(),
                why: format!("{error:#}"),
                change: None,
            },
        }
    }

    fn asked(&self, test: &Test) -> anyhow::Result<Outcome> {
        let call = match self.call(test)? {
            Ok(call) => call,
            Err(why) => return Ok(Outcome::Skipped { why }),
        };
        let answer = self.made(&call)?;
        let (got, why) = match decision(&answer, test.case.request.is_some()) {
            Ok(found) => found,
            Err(why) => {
                return Ok(Outcome::Failed {
                    got: "no decision".to_owned(),
                    why,
                    change: None,
                });
            }
        };
        let is_by = test.case.by.as_ref().is_none_or(|wanted| match wanted.rule {
            Some(rule) if is_policy(&wanted.kind) => {
                let id = format!(
                    "ns[{}]-policy[{}]-rule[{rule}]",
                    wanted.policy.namespace, wanted.policy.name
                );
                decider(&answer) == id
            }
            None if is_policy(&wanted.kind) => {
                let start = format!(
                    "ns[{}]-policy[{}]-rule[",
                    wanted.policy.namespace, wanted.policy.name
                );
                decider(&answer).starts_with(&start)
            }
            // The access log names no document for these; the folder's own run judges it.
            _ => true,
        });
        if got == test.case.expect && is_by {
            return Ok(Outcome::Passed { by: why });
        }
        Ok(Outcome::Failed {
            got: got.to_string(),
            why,
            change: None,
        })
    }

    /// The call, or why there is none in a real mesh.
    fn call(&self, test: &Test) -> anyhow::Result<Result<Call, String>> {
        let callee = Callee::find(&self.picture, &test.case.to)?;
        let snapshot = self.picture.snapshot();
        let gateway = snapshot
            .view(&callee.workload)
            .and_then(|view| view.gateway.clone());
        let trust_domain = self.picture.trust_domain();
        let identity = match caller(&test.case.from, trust_domain)? {
            Peer::Plaintext => None,
            Peer::Authenticated(identity) => match (identity.namespace(), identity.service_account()) {
                (Some(namespace), Some(account))
                    if Some(identity.trust_domain())
                        == trust_domain.map(bartizan_types::TrustDomain::as_str) =>
                {
                    Some(format!("{namespace}/{account}"))
                }
                _ => {
                    return Ok(Err(format!(
                        "`{}` is no workload's identity in this mesh",
                        test.case.from
                    )));
                }
            },
        };
        let authority = match (&identity, &gateway) {
            (None, None) => {
                return Ok(Err("from outside only a gateway can be called".to_owned()));
            }
            (None, Some(name)) => {
                let gateway = self.status.gateways.iter().find(|gateway| gateway.name == *name);
                let listener = gateway.and_then(|gateway| {
                    gateway
                        .listeners
                        .iter()
                        .find(|listener| listener.port == callee.port)
                });
                match listener {
                    Some(listener) => listener.address.to_string(),
                    None => return Ok(Err(format!("gateway `{name}` listens for nobody outside"))),
                }
            }
            (Some(_), _) if test.case.to.contains('/') => {
                let address = snapshot
                    .workload(&callee.workload)
                    .and_then(|workload| workload.addresses.first())
                    .with_context(|| format!("workload `{}` has no address", callee.workload))?;
                std::net::SocketAddr::new(*address, callee.port.get()).to_string()
            }
            (Some(_), _) => callee.authority,
        };
        let Some(request) = &test.case.request else {
            return Ok(Ok(Call {
                identity,
                url: format!("tcp://{authority}"),
                method: "GET".to_owned(),
                headers: Vec::new(),
            }));
        };
        let mut headers: Vec<String> = request
            .headers
            .iter()
            .map(|(name, value)| format!("{name}: {value}"))
            .collect();
        headers.extend(request.host.as_ref().map(|host| format!("host: {host}")));
        if let Some(token) = &request.token {
            headers.push(format!(
                "authorization: Bearer {}",
                self.text_of(token, &test.file)?
            ));
        }
        Ok(Ok(Call {
            identity,
            url: format!("http://{authority}{}", request.path.as_deref().unwrap_or("/")),
            method: request.method.clone().unwrap_or_else(|| "GET".to_owned()),
            headers,
        }))
    }

    /// This program again, as `bartizan call --output json`.
    fn made(&self, call: &Call) -> anyhow::Result<Value> {
        let mut command = std::process::Command::new(std::env::current_exe().context("find this program")?);
        command
            .args(["--mesh", &self.place.mesh, "--state"])
            .arg(&self.place.state)
            .args(["call", "--output", "json", "-X", &call.method]);
        if let Some(identity) = &call.identity {
            command.args(["--as", identity]);
        }
        for header in &call.headers {
            command.args(["-H", header]);
        }
        let output = command
            .arg(&call.url)
            .stdin(std::process::Stdio::null())
            .output()
            .context("run this program as a workload")?;
        match serde_json::from_slice(&output.stdout) {
            Ok(answer) => Ok(answer),
            Err(_) => {
                let words = String::from_utf8_lossy(&output.stderr);
                bail!("{}", words.trim().trim_start_matches("error: "))
            }
        }
    }
}

/// Why a real request cannot be what a test says.
fn cannot_be_real(request: &TestRequest) -> Option<String> {
    let chosen = [
        (request.at.is_some(), "`at`: a real request is made now"),
        (
            request.source_ip.is_some(),
            "`sourceIp`: a real request comes from its workload's own address",
        ),
        (
            request.remote_ip.is_some(),
            "`remoteIp`: a real request comes from its workload's own address",
        ),
        (request.path.as_deref() == Some("*"), "a path `*` has no URL"),
        (
            request.claims.is_some() && request.token.is_none(),
            "needs a token: write `token` or `tokenFile` beside the claims",
        ),
    ];
    chosen
        .into_iter()
        .find(|(applies, _)| *applies)
        .map(|(_, why)| why.to_owned())
}

fn is_policy(kind: &str) -> bool {
    matches!(kind, "AuthorizationPolicy" | "AccessRule")
}

/// The lines of the hops' logs.
fn records(answer: &Value) -> impl DoubleEndedIterator<Item = &Value> {
    let hops = answer.get("hops").and_then(Value::as_array);
    hops.into_iter().flatten().filter_map(|hop| hop.get("record"))
}

fn text<'v>(value: &'v Value, field: &str) -> Option<&'v str> {
    value.get(field).and_then(Value::as_str)
}

/// The rule in the log of the hop that refused, or of the last one that decided.
fn decider(answer: &Value) -> &str {
    records(answer)
        .find(|record| text(record, "decision") == Some("deny"))
        .or_else(|| records(answer).rfind(|record| text(record, "decision") == Some("allow")))
        .and_then(|record| text(record, "policy"))
        .unwrap_or_default()
}

/// What the mesh decided, and the words for it; `Err` when the call tells nothing about policy.
fn decision(answer: &Value, is_http: bool) -> Result<(Expectation, String), String> {
    let result = answer.get("result").unwrap_or(&Value::Null);
    let status = result.get("status").and_then(Value::as_u64);
    let is_decided = |word: &str| records(answer).any(|record| text(record, "decision") == Some(word));
    let by = match decider(answer) {
        "" => String::new(),
        rule => format!(", by {rule}"),
    };
    let id = text(answer, "requestId").unwrap_or("-");
    let told = |what: String| format!("{what}{by} (request {id})");
    let closed = "the connection was closed";
    if status == Some(401) {
        return Ok((Expectation::Unauthenticated, told("status 401".to_owned())));
    }
    if status == Some(403) || is_decided("deny") {
        let what = status.map_or_else(|| closed.to_owned(), |status| format!("status {status}"));
        return Ok((Expectation::Deny, told(what)));
    }
    if let Some(error) = text(result, "error") {
        // Where a name was not known or nobody listened, there was no connection and no decision.
        if !is_http && text(result, "local").is_some() {
            return Ok((Expectation::Deny, told(format!("{closed}: {error}"))));
        }
        return Err(error.to_owned());
    }
    if let Some(status @ 502..=504) = status
        && !is_decided("allow")
    {
        return Err(told(format!("status {status}, and no proxy asked its policy")));
    }
    let what = status.map_or_else(|| "answered".to_owned(), |status| format!("status {status}"));
    Ok((Expectation::Allow, told(what)))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_answer_is_read_for_what_policy_said() {
        let hop = |decision: &str| json!({ "record": { "decision": decision, "policy": "ns[a]-policy[b]-rule[0]" } });
        for (answer, is_http, expected) in [
            (
                json!({ "result": { "status": 200 }, "hops": [hop("allow")] }),
                true,
                Some(Expectation::Allow),
            ),
            (
                json!({ "result": { "status": 404 }, "hops": [hop("allow")] }),
                true,
                Some(Expectation::Allow),
            ),
            (
                json!({ "result": { "status": 403 }, "hops": [] }),
                true,
                Some(Expectation::Deny),
            ),
            (
                json!({ "result": { "status": 401 }, "hops": [hop("deny")] }),
                true,
                Some(Expectation::Unauthenticated),
            ),
            (
                json!({ "result": { "status": 400 }, "hops": [hop("deny")] }),
                true,
                Some(Expectation::Deny),
            ),
            (json!({ "result": { "status": 503 }, "hops": [] }), true, None),
            (
                json!({ "result": { "status": 503 }, "hops": [hop("allow")] }),
                true,
                Some(Expectation::Allow),
            ),
            (
                json!({ "result": { "error": "reset", "local": "127.0.0.1:1" }, "hops": [] }),
                true,
                None,
            ),
            (
                json!({ "result": { "error": "closed", "local": "127.0.0.1:1" }, "hops": [] }),
                false,
                Some(Expectation::Deny),
            ),
            (
                json!({ "result": { "error": "no such name", "local": null }, "hops": [] }),
                false,
                None,
            ),
            (
                json!({ "result": { "status": null }, "hops": [hop("allow")] }),
                false,
                Some(Expectation::Allow),
            ),
        ] {
            let found = decision(&answer, is_http).ok().map(|(found, _)| found);
            assert_eq!(found, expected, "{answer}");
        }
    }

    #[test]
    fn what_no_real_request_can_be_is_said() {
        let claims = serde_json::Map::new();
        let with = |change: fn(&mut TestRequest)| {
            let mut request = TestRequest::default();
            change(&mut request);
            request
        };
        assert_eq!(cannot_be_real(&TestRequest::default()), None);
        let mut token = TestRequest {
            claims: Some(claims),
            ..TestRequest::default()
        };
        assert!(cannot_be_real(&token).is_some_and(|why| why.contains("needs a token")));
        token.token = Some(TestToken::Text("a.b.c".to_owned()));
        assert_eq!(cannot_be_real(&token), None);
        assert!(cannot_be_real(&with(|request| request.at = Some(0))).is_some());
        assert!(cannot_be_real(&with(|request| request.path = Some("*".to_owned()))).is_some());
    }
}
