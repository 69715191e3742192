//! An example request: judged by the code that decides, in words, and as the command that shows it.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use bartizan_decide::{ConnectionFacts, HttpFacts, Plan, TlsFacts, Verdict, route};
use bartizan_prove::{HttpRequest, Request};
use bartizan_types::{NamespacedName, RuleId};
use serde_json::{Value, json};

use crate::args::DocumentArgs;
use crate::evaluate::Picture;

/// Time of an example for which the time makes no difference: 2026-01-05, a Monday, at noon (UTC).
const NOON: i64 = 1_767_614_400;

/// A request with what `decide` says of it.
pub(crate) struct Example {
    /// The workload that is asked.
    pub(crate) callee: NamespacedName,
    /// As `can` takes it: the controller's name instead of the pod's.
    to: String,
    /// The request.
    pub(crate) request: Request,
    /// Whether it passes when every authorizer that is asked agrees.
    pub(crate) allowed: bool,
    /// An authorizer is asked first.
    pub(crate) asks: bool,
    /// Why it is refused.
    pub(crate) reason: String,
    /// The rule that decides, if one does.
    pub(crate) rule: Option<RuleId>,
    /// Where that rule stands.
    place: Option<String>,
}

impl Example {
    /// Asks `decide` about a request.
    pub(crate) fn judged(picture: &Picture, callee: &NamespacedName, request: Request) -> Self {
        let workload = picture.snapshot().workload(callee);
        let to = workload.map_or_else(
            || callee.to_string(),
            |workload| format!("{}/{}", callee.namespace, workload.workload_name),
        );
        let (allowed, asks, reason, rule) = decided(picture, callee, &request);
        let place = rule
            .as_ref()
            .and_then(|rule| picture.positions.rule(rule))
            .map(|place| place.to_string());
        Self {
            callee: callee.clone(),
            to,
            request,
            allowed,
            asks,
            reason,
            rule,
            place,
        }
    }

    /// Whether a gateway sends it on to one of these services.
    pub(crate) fn goes_on_to(&self, picture: &Picture, services: &[NamespacedName]) -> bool {
        let (Some(http), Some(gateway)) = (
            &self.request.http,
            picture
                .snapshot()
                .view(&self.callee)
                .and_then(|view| view.gateway.as_ref()),
        ) else {
            return false;
        };
        let facts = HttpFacts {
            connection: connection(picture, &self.callee, &self.request),
            method: &http.method,
            authority: http.authority.as_deref(),
            target: &http.target,
            headers: &http.headers,
            user: None,
            route_is_for_people: false,
        };
        match route(picture.engine(), gateway, self.request.port, &facts, 0) {
            Plan::Forward(forward) => services.contains(forward.service),
            Plan::Reply(_) => false,
        }
    }

    /// Who asks, as commands take it.
    pub(crate) fn from(&self) -> String {
        match self.request.peer.identity() {
            None => "outside".to_owned(),
            Some(id) => match (id.namespace(), id.service_account()) {
                (Some(namespace), Some(account)) => format!("{namespace}/{account}"),
                _ => id.as_str().to_owned(),
            },
        }
    }

    /// The rule with its file and line.
    pub(crate) fn ruled(&self) -> Option<String> {
        let rule = self.rule.as_ref()?;
        let name = rule_words(rule);
        Some(match &self.place {
            Some(place) => format!("{name} ({place})"),
            None => name,
        })
    }

    /// In words, the rule, and the command.
    pub(crate) fn lines(&self, sources: &[String]) -> Vec<String> {
        let who = match self.request.peer.identity() {
            Some(id) => id.as_str().to_owned(),
            None => "anybody, in plaintext (outside)".to_owned(),
        };
        let mut lines = vec![
            format!("from   {who}"),
            format!("to     {} port {}", self.callee, self.request.port),
        ];
        match &self.request.http {
            Some(http) => {
                lines.push(format!("asks   {} {}", http.method, http.target));
                if let Some(host) = &http.authority {
                    lines.push(format!("       host: {host}"));
                }
                for (name, value) in &http.headers {
                    lines.push(format!("       {name}: {value}"));
                }
                if let Some(claims) = &http.claims {
                    lines.push(format!("       token: {}", Value::Object(claims.clone())));
                }
            }
            None => lines.push("asks   for a TCP connection".to_owned()),
        }
        if let Some(source) = self.request.source {
            lines.push(format!("       from address {source}"));
        }
        if let Some(remote) = self.request.remote {
            lines.push(format!("       for a client at {remote}"));
        }
        if let Some(sni) = &self.request.sni {
            lines.push(format!("       server name {sni}"));
        }
        if let Some(at) = self.request.at {
            lines.push(format!("       at {}", timestamp(at)));
        }
        let verdict = match (self.allowed, self.ruled()) {
            (true, Some(rule)) => format!("is let in by {rule}"),
            (true, None) => "is let in: no policy refuses it, and the profile asks for none".to_owned(),
            (false, Some(rule)) => format!("is refused by {rule}: {}", self.reason),
            (false, None) => format!("is refused: {}", self.reason),
        };
        lines.push(verdict);
        lines.push(format!("see    {}", self.command(sources)));
        lines
    }

    /// The `can` command that shows it.
    pub(crate) fn command(&self, sources: &[String]) -> String {
        let mut words = vec![
            "bartizan".to_owned(),
            "can".to_owned(),
            quoted(&self.from()),
            quoted(&format!("{}:{}", self.to, self.request.port)),
        ];
        if let Some(http) = &self.request.http {
            words.push(quoted(&http.method));
            words.push(quoted(&http.target));
            for (name, value) in &http.headers {
                words.push("-H".to_owned());
                words.push(quoted(&format!("{name}: {value}")));
            }
        }
        if let Some(http) = &self.request.http {
            for (name, value) in http.claims.iter().flatten() {
                words.push("--claim".to_owned());
                words.push(match value.as_str() {
                    Some(text) => quoted(&format!("{name}={text}")),
                    None => quoted(&format!("{name}:={value}")),
                });
            }
        }
        if let Some(address) = self.request.source {
            words.push(format!("--source-ip {address}"));
        }
        if let Some(address) = self.request.remote {
            words.push(format!("--remote-ip {address}"));
        }
        if let Some(at) = self.request.at {
            words.push(format!("--at {}", timestamp(at)));
        }
        words.extend(sources.iter().cloned());
        words.join(" ")
    }

    /// For programs.
    pub(crate) fn to_json(&self, sources: &[String]) -> Value {
        json!({
            "from": self.from(),
            "identity": self.request.peer.identity().map(ToString::to_string),
            "to": self.callee.to_string(),
            "port": self.request.port,
            "sourceIp": self.request.source,
            "remoteIp": self.request.remote,
            "sni": self.request.sni,
            "at": self.request.at.map(timestamp),
            "request": self.request.http.as_ref().map(http_json),
            "allowed": self.allowed,
            "asksAuthorizer": self.asks,
            "reason": (!self.allowed).then_some(&self.reason),
            "rule": self.rule.as_ref().map(rule_words),
            "place": self.place,
            "command": self.command(sources),
        })
    }
}

/// How commands are told to judge these documents in this way.
pub(crate) fn judged_in(sources: &[PathBuf], documents: &DocumentArgs) -> Vec<String> {
    let mut words: Vec<String> = sources
        .iter()
        .map(|source| format!("--in {}", quoted(&source.display().to_string())))
        .collect();
    if let Some(profile) = &documents.profile {
        words.push(format!("--profile {}", quoted(profile)));
    }
    if documents.trust_domain != "cluster.local" {
        words.push(format!("--trust-domain {}", quoted(&documents.trust_domain)));
    }
    words
}

/// `AuthorizationPolicy payments/ledger rules[0]`.
pub(crate) fn rule_words(rule: &RuleId) -> String {
    format!(
        "{} {}/{} rules[{}]",
        rule.kind, rule.namespace, rule.policy, rule.rule
    )
}

fn http_json(http: &HttpRequest) -> Value {
    json!({
        "method": http.method,
        "host": http.authority,
        "path": http.target,
        "headers": http.headers.iter().map(|(name, value)| json!([name, value])).collect::<Vec<_>>(),
        "claims": http.claims,
    })
}

fn timestamp(seconds: i64) -> String {
    let time = bartizan_types::DateTime::from_unix(seconds, 0);
    format!(
        "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}Z",
        time.year, time.month, time.day, time.hour, time.minute, time.second
    )
}

/// For a shell.
fn quoted(word: &str) -> String {
    let is_plain = !word.is_empty()
        && word
            .chars()
            .all(|character| character.is_ascii_alphanumeric() || "-._/:=@%+,".contains(character));
    if is_plain {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', "'\\''"))
    }
}

fn connection<'a>(
    picture: &Picture,
    callee: &'a NamespacedName,
    request: &'a Request,
) -> ConnectionFacts<'a> {
    let any = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
    let address = picture
        .snapshot()
        .workload(callee)
        .and_then(|workload| workload.addresses.first().copied());
    let source = request
        .source
        .or_else(|| picture.address_of(request.peer.identity()))
        .unwrap_or(any);
    ConnectionFacts {
        local: callee,
        peer: &request.peer,
        source,
        remote: request.remote.unwrap_or(source),
        destination: SocketAddr::new(request.destination.or(address).unwrap_or(any), request.port.get()),
        sni: request.sni.as_deref(),
        tls: request.tls.as_ref().map(|(version, cipher, group)| TlsFacts {
            version,
            cipher,
            group,
        }),
        now: request.at.unwrap_or(NOON),
    }
}

/// Whether it is allowed, whether an authorizer is asked, why it is refused, and by which rule.
fn decided(
    picture: &Picture,
    callee: &NamespacedName,
    request: &Request,
) -> (bool, bool, String, Option<RuleId>) {
    let engine = picture.engine();
    let connection = connection(picture, callee, request);
    let (verdict, asks) = match &request.http {
        None => picture.agreed_tcp(&connection),
        Some(http) => {
            let user = http
                .claims
                .as_ref()
                .and_then(|claims| picture.user_of(callee, claims));
            let sees_tokens = picture.token_rules(callee).next().is_some();
            if http.claims.is_some() && user.is_none() && sees_tokens {
                return (false, false, "no rule accepts such a token".to_owned(), None);
            }
            let mut facts = HttpFacts {
                connection,
                method: &http.method,
                authority: http.authority.as_deref(),
                target: &http.target,
                headers: &http.headers,
                user: user.as_deref(),
                route_is_for_people: false,
            };
            facts.route_is_for_people = picture.route_is_for_people(&facts, request.port);
            picture.agreed_http(&facts)
        }
    };
    match verdict {
        Ok(Verdict::Permit(permit)) => (true, asks, String::new(), engine.allowed_by(&permit).cloned()),
        Ok(Verdict::Ask(_)) => (false, true, "an authorizer is asked".to_owned(), None),
        Err(denied) => (false, asks, denied.reason.to_string(), denied.rule().cloned()),
    }
}
