//! Asks an engine about everything that its snapshot names, so that whatever compiled is also evaluated.

use std::net::{IpAddr, SocketAddr};

use bartizan_decide::{
    ConnectionFacts, Engine, HttpFacts, InFlight, TlsFacts, Verdict, authorize_http, authorize_tcp, choose,
    explain_http, explain_tcp, outbound, resolve_name, route,
};
use bartizan_mesh::{Condition, Endpoint, Matcher, PathMatch, Rule};
use bartizan_types::{Name, NamespacedName, Peer, Port, SpiffeId, StringMatch};

/// Of each kind so many are asked about, so that one input takes milliseconds.
const MOST: usize = 6;

/// All answers, as text that can be compared. What `explain` says of a decision must be the decision.
pub fn everything(engine: &Engine) -> Vec<String> {
    let mut answers = Vec::new();
    names_and_ways(engine, &mut answers);
    decisions(engine, &mut answers);
    answers
}

fn decisions(engine: &Engine, answers: &mut Vec<String>) {
    let snapshot = engine.snapshot();
    let mut views: Vec<_> = snapshot.views().collect();
    views.sort_unstable_by(|one, other| one.workload.cmp(&other.workload));
    let mut listeners: Vec<_> = snapshot.listeners().collect();
    listeners
        .sort_unstable_by(|one, other| (&one.gateway, &one.section).cmp(&(&other.gateway, &other.section)));
    for view in views.into_iter().take(MOST) {
        let mut questions = vec![
            Question::new(Peer::Plaintext, "GET", "/a/b?q=1"),
            Question::new(Peer::Authenticated(view.identity.clone()), "GET", "/%61dmin/../x"),
        ];
        let policies = view.policies.iter().filter_map(|name| snapshot.policy(name));
        let rules = policies.flat_map(|policy| policy.rules.iter());
        questions.extend(rules.take(MOST).map(|rule| Question::of(rule, &view.identity)));
        for question in &questions {
            answer(engine, &view.workload, question, answers);
            for listener in listeners.iter().take(MOST) {
                let facts = question.facts(&listener.gateway);
                let plan = route(engine, &listener.gateway, listener.port, &facts, 1 << 40);
                answers.push(format!("{} {} {plan:?}", listener.gateway, listener.section));
            }
        }
    }
}

fn answer(engine: &Engine, local: &NamespacedName, question: &Question, answers: &mut Vec<String>) {
    let facts = question.facts(local);
    let tcp = authorize_tcp(engine, &facts.connection);
    let explained = explain_tcp(engine, &facts.connection);
    assert_eq!(
        explained.allowed,
        tcp.is_ok(),
        "explain says otherwise: {explained:?}"
    );
    answers.push(format!("{local} {question:?} {:?}", tcp.as_ref().err()));
    let http = authorize_http(engine, &facts);
    let explained = explain_http(engine, &facts);
    assert_eq!(
        explained.allowed,
        http.is_ok(),
        "explain says otherwise: {explained:?}"
    );
    if let Some(rule) = http.as_ref().err().and_then(|denied| denied.rule()) {
        assert_eq!(
            explained.decided_by.as_ref(),
            Some(rule),
            "explain names another rule"
        );
    }
    let rule = match &http {
        Ok(Verdict::Permit(permit)) => engine.allowed_by(permit),
        Ok(Verdict::Ask(_)) | Err(_) => None,
    };
    answers.push(format!("{rule:?} {:?}", http.as_ref().err()));
}

/// A request to be judged.
#[derive(Debug)]
struct Question {
    peer: Peer,
    method: String,
    target: String,
    authority: String,
    port: u16,
    headers: Vec<(String, String)>,
}

impl Question {
    fn new(peer: Peer, method: &str, target: &str) -> Self {
        Self {
            peer,
            method: method.to_owned(),
            target: target.to_owned(),
            authority: "cart.shop.svc.cluster.local:80".to_owned(),
            port: 80,
            headers: vec![
                ("x-user".to_owned(), "ann".to_owned()),
                ("x-user".to_owned(), "b".to_owned()),
            ],
        }
    }

    /// The request that a rule speaks of: the first value of each field, with something in the place of `*`.
    fn of(rule: &Rule, other: &SpiffeId) -> Self {
        let text = |matcher: &Matcher<StringMatch>| {
            matcher.any.first().map(|text| text.to_string().replace('*', "x"))
        };
        let principal = rule.from.first().and_then(|source| {
            let named = text(&source.principals);
            let account = source.service_accounts.any.first();
            named.or_else(|| {
                account.map(|name| format!("cluster.local/ns/{}/sa/{}", name.namespace, name.name))
            })
        });
        let id = principal.and_then(|text| SpiffeId::parse(&format!("spiffe://{text}")).ok());
        let mut question = Self::new(
            Peer::Authenticated(id.unwrap_or_else(|| other.clone())),
            "GET",
            "/",
        );
        if let Some(operation) = rule.to.first() {
            question.method = text(&operation.methods).unwrap_or(question.method);
            question.authority = text(&operation.hosts).unwrap_or(question.authority);
            question.port = operation.ports.any.first().map_or(80, |port| port.get());
            if let Some(path) = operation.paths.any.first() {
                question.target = match path {
                    PathMatch::Text(text) => text.to_string().replace('*', "x"),
                    PathMatch::Template(text) => text.replace("{**}", "x/y").replace("{*}", "x"),
                };
            }
        }
        for condition in &rule.when {
            if let Condition::Header(name, values) = condition {
                question
                    .headers
                    .push((name.to_string(), text(values).unwrap_or_default()));
            }
        }
        question
    }

    fn facts<'q>(&'q self, local: &'q NamespacedName) -> HttpFacts<'q, [(String, String)]> {
        HttpFacts {
            connection: ConnectionFacts {
                local,
                peer: &self.peer,
                source: IpAddr::from([10, 66, 0, 9]),
                destination: SocketAddr::from(([10, 66, 0, 2], self.port)),
                remote: IpAddr::from([203, 0, 113, 7]),
                sni: Some("outbound_.80_._.cart.shop.svc.cluster.local"),
                tls: Some(TlsFacts {
                    version: "TLSv1.3",
                    cipher: "TLS_AES_256_GCM_SHA384",
                    group: "X25519MLKEM768",
                }),
                now: 1_800_000_000,
            },
            method: &self.method,
            authority: Some(&self.authority),
            target: &self.target,
            headers: self.headers.as_slice(),
            user: None,
            route_is_for_people: false,
        }
    }
}

fn names_and_ways(engine: &Engine, answers: &mut Vec<String>) {
    let snapshot = engine.snapshot();
    let namespace = Name::parse("shop").expect("a literal");
    let mut services: Vec<_> = snapshot.services().collect();
    services.sort_unstable_by(|one, other| one.name.cmp(&other.name));
    for service in services.into_iter().take(MOST) {
        let port = service.ports.first().map_or(80, |port| port.port.get());
        for address in service.addresses.iter().take(2) {
            answers.push(format!(
                "{:?}",
                outbound(snapshot, SocketAddr::new(*address, port))
            ));
        }
        for name in [service.hostname.as_str(), service.name.name.as_str()] {
            answers.push(format!("{:?}", resolve_name(snapshot, &namespace, name)));
        }
        if let (Some(endpoints), Ok(port)) = (snapshot.endpoints(&service.name), Port::new(u32::from(port))) {
            let chosen = choose(endpoints, port, &Idle, &[], 7);
            answers.push(format!("{chosen:?}"));
        }
    }
    let mut workloads: Vec<_> = snapshot.workloads().collect();
    workloads.sort_unstable_by(|one, other| one.name.cmp(&other.name));
    for workload in workloads.into_iter().take(MOST) {
        for address in workload.addresses.iter().take(2) {
            answers.push(format!("{:?}", outbound(snapshot, SocketAddr::new(*address, 80))));
        }
        answers.push(format!(
            "{:?}",
            resolve_name(snapshot, &namespace, workload.name.name.as_str())
        ));
    }
}

/// Nobody has anything to do.
struct Idle;

impl InFlight for Idle {
    fn in_flight(&self, _: &Endpoint) -> u32 {
        0
    }
}
