//! Asks an engine about everything that its snapshot names, so that whatever compiled is also evaluated.

use std::net::{IpAddr, SocketAddr};

use bartizan_decide::{
    ConnectionFacts, Engine, HttpFacts, InFlight, authorize_http, authorize_tcp, choose, explain_http,
    explain_tcp, outbound, resolve_name, route,
};
use bartizan_mesh::Endpoint;
use bartizan_types::{Name, Peer, Port, SpiffeId};

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
    let headers = vec![
        ("x-user".to_owned(), "ann".to_owned()),
        ("x-user".to_owned(), "b".to_owned()),
    ];
    let stranger = SpiffeId::parse("spiffe://cluster.local/ns/shop/sa/web").expect("a literal");
    for view in views.into_iter().take(MOST) {
        let peers = [
            Peer::Plaintext,
            Peer::Authenticated(view.identity.clone()),
            Peer::Authenticated(stranger.clone()),
        ];
        let port = view.inbound.first().map_or(80, |inbound| inbound.port.get());
        for peer in &peers {
            let connection = ConnectionFacts {
                local: &view.workload,
                peer,
                source: IpAddr::from([10, 66, 0, 9]),
                destination: SocketAddr::from(([10, 66, 0, 2], port)),
                sni: Some("outbound_.80_._.cart.shop.svc.cluster.local"),
            };
            let tcp = authorize_tcp(engine, &connection);
            let explained = explain_tcp(engine, &connection);
            assert_eq!(
                explained.allowed,
                tcp.is_ok(),
                "explain says otherwise: {explained:?}"
            );
            answers.push(format!("{} {peer:?} tcp {:?}", view.workload, tcp.as_ref().err()));
            for (method, target) in [("GET", "/a/b?q=1"), ("POST", "/"), ("GET", "/%61dmin/../x")] {
                let facts = HttpFacts {
                    connection,
                    method,
                    authority: Some("cart.shop.svc.cluster.local:80"),
                    target,
                    headers: &headers,
                };
                let http = authorize_http(engine, &facts);
                let explained = explain_http(engine, &facts);
                assert_eq!(
                    explained.allowed,
                    http.is_ok(),
                    "explain says otherwise: {explained:?}"
                );
                let rule = http.as_ref().ok().and_then(|permit| engine.allowed_by(permit));
                answers.push(format!(
                    "{} {peer:?} {method} {target} {rule:?} {:?}",
                    view.workload,
                    http.as_ref().err().map(ToString::to_string)
                ));
                for listener in listeners.iter().take(MOST) {
                    let plan = route(engine, &listener.gateway, listener.port, &facts, 1 << 40);
                    answers.push(format!("{} {} {plan:?}", listener.gateway, listener.section));
                }
            }
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
