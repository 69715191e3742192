//! The prover against `decide`, both ways, over random policies: what `decide` lets in is in the set, what is in the set is
//! let in, every example of a set is let in; claims are refuted by requests that break them, and where one is proven no
//! request does.

mod meshes;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use bartizan_decide::{
    AuthorizerSays, ConnectionFacts, Engine, HttpFacts, Keys, TlsFacts, TokenRule, User, Verdict,
    authorize_after, authorize_http, authorize_tcp, authorize_tcp_after, canonical_path,
};
use bartizan_mesh::{
    Action, MtlsMode, Operation, PathMatch, PathRule, Policy, PolicyKind, Profile, RemoteAddress, Resource,
    Rule, Snapshot, Source, Transaction,
};
use bartizan_types::{Peer, SpiffeId, StringMatch, Version};
use serde_json::{Value as Json, json};

use self::meshes::{
    ACCOUNTS, Dice, METHODS, NAMESPACES, PATHS, PRINCIPALS, authentication, callee, mesh, named, port,
    rarely, request, texts, values,
};
use crate::claim::example;
use crate::compare::{Ways, compare};
use crate::diagram::{EMPTY, FULL, Set};
use crate::problem::{Dimension, Problem, Shape};
use crate::request::{HttpRequest, Request};
use crate::sealed::{Sealed, Value};
use crate::side::Side;
use crate::speaker::{Ground, Speaker};

/// What `decide` says, with authorizers that agree.
fn decides(engine: &Engine, request: &Request) -> bool {
    let local = callee();
    let view = engine.snapshot().view(&local).unwrap();
    let source = request.source.unwrap_or(IpAddr::from([192, 0, 2, 9]));
    let remote = if view.remote == RemoteAddress::default() {
        source
    } else {
        request.remote.unwrap_or(source)
    };
    let connection = ConnectionFacts {
        local: &local,
        peer: &request.peer,
        source,
        remote,
        destination: SocketAddr::new(
            request.destination.unwrap_or(IpAddr::from([10, 1, 2, 3])),
            request.port.get(),
        ),
        sni: request.sni.as_deref(),
        tls: request.tls.as_ref().map(|(version, cipher, group)| TlsFacts {
            version,
            cipher,
            group,
        }),
        now: request.at.unwrap_or(0),
    };
    let Some(http) = &request.http else {
        let mut verdict = authorize_tcp(engine, &connection);
        while let Ok(Verdict::Ask(ask)) = verdict {
            verdict = authorize_tcp_after(engine, &connection, ask, AuthorizerSays::Allowed);
        }
        return verdict.is_ok();
    };
    let sees_tokens = !view.authentications.is_empty();
    let user = http.claims.as_ref().filter(|_| sees_tokens).map(|claims| {
        let rule = TokenRule {
            policy: local.clone(),
            index: 0,
            rule: authentication(&mut Dice::new(1), 0).rules[0].clone(),
            keys: Keys::Missing { set: "".into() },
        };
        User::new(&rule, "", claims.clone(), None)
    });
    let facts = HttpFacts {
        connection,
        method: &http.method,
        authority: http.authority.as_deref(),
        target: &http.target,
        headers: &http.headers,
        user: user.as_ref(),
        route_is_for_people: false,
    };
    let mut verdict = authorize_http(engine, &facts);
    while let Ok(Verdict::Ask(ask)) = verdict {
        verdict = authorize_after(engine, &facts, ask, AuthorizerSays::Allowed);
    }
    verdict.is_ok()
}

/// The values of a request in the dimensions of a problem; `None` where it is outside of what is looked at.
fn values_of(
    sealed: &Sealed,
    request: &Request,
    rule: PathRule,
    remote_is_source: bool,
) -> Option<BTreeMap<Dimension, Value>> {
    let text = |text: Option<String>| Value::Text(text);
    let http = request.http.as_ref();
    let token = http.and_then(|http| http.claims.as_ref());
    let string = |name: &str| token.and_then(|token| token.get(name)?.as_str().map(str::to_owned));
    let mut values = BTreeMap::new();
    for dimension in sealed.dimensions() {
        let value = match dimension {
            Dimension::Http => Value::Number(i64::from(http.is_some())),
            Dimension::Port => Value::Number(i64::from(request.port.get())),
            Dimension::Identity => text(request.peer.identity().map(|id| id.principal().to_owned())),
            Dimension::Source => Value::Address(request.source?),
            Dimension::Remote if remote_is_source => Value::Address(request.source?),
            Dimension::Remote => Value::Address(request.remote?),
            Dimension::Destination => Value::Address(request.destination?),
            Dimension::Sni => text(request.sni.clone()),
            Dimension::Method => text(Some(http.map_or("GET".to_owned(), |http| http.method.clone()))),
            Dimension::Path => text(Some(match http {
                Some(http) => canonical_path(&http.target, rule).ok()?.as_str().to_owned(),
                None => "/".to_owned(),
            })),
            Dimension::Host => text(http.and_then(|http| http.authority.as_deref()).map(|host| {
                let host = match (host.strip_suffix('.'), host.rsplit_once(".:")) {
                    (Some(host), _) => host.to_owned(),
                    (None, Some((host, port))) => format!("{host}:{port}"),
                    (None, None) => host.to_owned(),
                };
                host.to_ascii_lowercase()
            })),
            Dimension::Header(name) => {
                let all: Vec<&str> = http
                    .into_iter()
                    .flat_map(|http| &http.headers)
                    .filter(|(own, _)| **own == **name)
                    .map(|(_, value)| value.as_str())
                    .collect();
                text((!all.is_empty()).then(|| all.join(",")))
            }
            Dimension::User => Value::Number(i64::from(token.is_some())),
            Dimension::Issuer => text(string("iss")),
            Dimension::Subject => text(string("sub")),
            Dimension::Presenter => text(string("azp")),
            Dimension::Claim(path) => {
                let found = path
                    .iter()
                    .try_fold(token.map_or(Json::Null, |token| json!(token)), |json, name| {
                        json.get(&**name).cloned()
                    });
                Value::Elements(match found {
                    Some(Json::String(words)) if matches!(&**path, [only] if &**only == "scope") => {
                        words.split(' ').map(str::to_owned).collect()
                    }
                    Some(Json::String(one)) => vec![one],
                    Some(Json::Array(all)) => all
                        .iter()
                        .filter_map(|one| one.as_str().map(str::to_owned))
                        .collect(),
                    _ => Vec::new(),
                })
            }
            Dimension::Shape(path) => {
                let found = token.and_then(|token| {
                    path.iter()
                        .try_fold(json!(token), |json, name| json.get(&**name).cloned())
                });
                Value::Number(
                    match found {
                        None => Shape::Absent,
                        Some(Json::String(_)) => Shape::Text,
                        Some(Json::Array(_)) => Shape::List,
                        Some(_) => Shape::Other,
                    }
                    .number(),
                )
            }
            Dimension::Query(name) => text(http.and_then(|http| {
                let (_, query) = http.target.split_once('?')?;
                query.strip_prefix(&format!("{name}=")).map(str::to_owned)
            })),
            Dimension::Tls => Value::Number(i64::from(request.tls.is_some())),
            Dimension::TlsVersion => text(request.tls.as_ref().map(|tls| tls.0.clone())),
            Dimension::Cipher => text(request.tls.as_ref().map(|tls| tls.1.clone())),
            Dimension::Group => text(request.tls.as_ref().map(|tls| tls.2.clone())),
            Dimension::Now => Value::Number(request.at?),
            Dimension::Opaque(_) => return None,
        };
        values.insert(dimension.clone(), value);
    }
    Some(values)
}

fn sealed(snapshot: &Snapshot) -> (Sealed, Ground, Side) {
    let view = snapshot.view(&callee()).unwrap();
    let ground = Ground::of(snapshot, view);
    let mut problem = Problem::default();
    let mut speaker = Speaker::new(&mut problem, &ground, view);
    let side = Side::of(&mut speaker, snapshot, view);
    (problem.seal().unwrap(), ground, side)
}

fn set(sealed: &mut Sealed, formula: &crate::formula::Formula) -> Set {
    let laws = sealed.laws().unwrap();
    let set = sealed.set(formula).unwrap();
    sealed.diagrams.and(set, laws).unwrap()
}

/// A header in several lines: sets have those in one line, and what is proven of them holds of the others.
fn has_lines(request: &Request) -> bool {
    request.http.as_ref().is_some_and(|http| {
        http.headers
            .iter()
            .enumerate()
            .any(|(at, (name, _))| http.headers.iter().skip(at + 1).any(|(other, _)| other == name))
    })
}

/// What is left of an escape after Istio's normalization has no target that is surely read so.
fn has_left_escape(request: &Request, rule: PathRule) -> bool {
    rule != PathRule::RefuseAmbiguous
        && request
            .http
            .as_ref()
            .is_some_and(|http| http.target.contains('%'))
}

#[test]
fn the_prover_and_decide_agree() {
    let (mut allowed_in, mut refused, mut impossible, mut examples) = (0, 0, 0, 0);
    for seed in 1..=1500 {
        let mut dice = Dice::new(seed);
        let snapshot = mesh(&mut dice);
        let engine = Engine::build(Arc::clone(&snapshot));
        let view = Arc::clone(snapshot.view(&callee()).unwrap());
        let remote_is_source = view.remote == RemoteAddress::default();
        let (mut sealed, ground, side) = sealed(&snapshot);
        let allowed = set(&mut sealed, &side.allowed());
        let possible = set(&mut sealed, &side.possible);
        for _ in 0..40 {
            let request = request(&mut dice);
            if has_lines(&request) {
                continue;
            }
            let decided = decides(&engine, &request);
            let Some(values) = values_of(&sealed, &request, ground.path_rule, remote_is_source) else {
                impossible += 1;
                continue;
            };
            let Some(classes) = sealed.classes_of(&values) else {
                panic!("seed {seed}: {request:?} is of no class: {values:?}");
            };
            if !sealed.diagrams.contains(possible, &classes) {
                impossible += 1;
                continue;
            }
            let proven = sealed.diagrams.contains(allowed, &classes);
            assert_eq!(
                decided,
                proven,
                "seed {seed}: decide {decided}, prove {proven}: {request:?}\n{:?}\n{:?}",
                view,
                snapshot.policies().collect::<Vec<_>>()
            );
            if decided {
                allowed_in += 1;
            } else {
                refused += 1;
            }
        }
        // Examples: of everything, of what each rule alone would let in, and of each caller.
        let mut sets = vec![allowed];
        for rule in &side.allows {
            let matched = set(&mut sealed, &rule.formula);
            sets.push(sealed.diagrams.and(matched, allowed).unwrap());
        }
        sets.extend(
            sealed
                .split(allowed, &Dimension::Identity)
                .unwrap()
                .into_iter()
                .map(|(_, part)| part),
        );
        for (_, part) in sealed.split(allowed, &Dimension::Path).unwrap() {
            sets.push(part);
        }
        for set in sets {
            let Some((request, unless)) = example(&mut sealed, &ground, set).unwrap() else {
                assert_eq!(
                    set, EMPTY,
                    "seed {seed}: an example of every set that is not empty"
                );
                continue;
            };
            if !unless.is_empty() {
                continue;
            }
            if has_left_escape(&request, ground.path_rule) {
                continue;
            }
            assert!(
                decides(&engine, &request),
                "seed {seed}: an example is refused: {request:?}\n{view:?}\n{:?}",
                snapshot.policies().collect::<Vec<_>>()
            );
            examples += 1;
        }
        let rest = sealed.diagrams.minus(possible, allowed).unwrap();
        if let Some((request, unless)) = example(&mut sealed, &ground, rest).unwrap()
            && unless.is_empty()
            && !has_left_escape(&request, ground.path_rule)
        {
            assert!(
                !decides(&engine, &request),
                "seed {seed}: an example of what is refused is let in: {request:?}\n{:?}",
                snapshot.policies().collect::<Vec<_>>()
            );
            examples += 1;
        }
        assert_ne!(possible, FULL);
    }
    // A test that compares nothing would pass.
    assert!(
        allowed_in > 2_000 && refused > 6_000 && examples > 3_000,
        "{allowed_in} {refused} {impossible} {examples}"
    );
}

/// The same workload, open to whoever the claim is about: `decide` then says whether a request is one that the claim is about.
fn about(snapshot: &Snapshot, from: &Source, to: Option<&Operation>) -> Engine {
    let mut store = snapshot.store();
    let view = snapshot.view(&callee()).unwrap();
    let claim = Policy {
        kind: PolicyKind::AuthorizationPolicy,
        name: named("a/claim"),
        action: Action::Allow,
        provider: None,
        dry_run: false,
        rules: vec![Rule {
            from: vec![from.clone()],
            to: to.into_iter().cloned().collect(),
            ..Rule::default()
        }],
    };
    let mut settings = (**snapshot.settings().unwrap()).clone();
    settings.profile = Profile::istio();
    let mut open = (**view).clone();
    open.policies = vec![claim.id()];
    open.mtls = MtlsMode::Permissive;
    for inbound in &mut open.inbound {
        inbound.mtls = MtlsMode::Permissive;
    }
    store.apply(&Transaction {
        version: Version(2),
        upserts: vec![
            Resource::Settings(settings),
            Resource::View(open),
            Resource::Policy(claim),
        ],
        removals: Vec::new(),
    });
    Engine::build(Arc::new(Snapshot::build(&store)))
}

/// Every combination of a few callers, ports, methods and paths.
fn few_requests() -> Vec<Request> {
    let mut all = Vec::new();
    for principal in [
        "",
        "td/ns/a/sa/x",
        "td/ns/ab/sa/x",
        "td/ns/ab/sa/y",
        "td/ns/b/sa/x",
    ] {
        for number in [80, 81, 90, 91] {
            for method in ["", "GET", "POST"] {
                for path in ["/", "/a", "/a/b", "/b", "/x/y"] {
                    if method.is_empty() && path != "/" {
                        continue;
                    }
                    let peer = match principal {
                        "" => Peer::Plaintext,
                        _ => Peer::Authenticated(SpiffeId::parse(&format!("spiffe://{principal}")).unwrap()),
                    };
                    all.push(Request {
                        tls: peer
                            .identity()
                            .map(|_| ("TLSv1.3".to_owned(), "c".to_owned(), "g".to_owned())),
                        peer,
                        source: None,
                        remote: None,
                        destination: None,
                        port: port(number),
                        sni: None,
                        at: None,
                        http: (!method.is_empty()).then(|| HttpRequest {
                            method: method.to_owned(),
                            authority: None,
                            target: path.to_owned(),
                            headers: Vec::new(),
                            claims: None,
                        }),
                    });
                }
            }
        }
    }
    all
}

#[test]
fn claims_are_refuted_by_requests_that_break_them_and_hold_where_none_does() {
    let (mut holds, mut broken, mut tried) = (0, 0, 0);
    for seed in 1..=1000 {
        let mut dice = Dice::new(seed + 77_000);
        let snapshot = mesh(&mut dice);
        let view = Arc::clone(snapshot.view(&callee()).unwrap());
        let engine = Engine::build(Arc::clone(&snapshot));
        let from = Source {
            principals: texts(&mut dice, PRINCIPALS),
            namespaces: values(&mut dice, NAMESPACES, |text| Arc::from(text)),
            service_accounts: rarely(&mut dice, ACCOUNTS, named),
            ..Source::default()
        };
        let to = dice.one_in(2).then(|| Operation {
            methods: texts(&mut dice, METHODS),
            paths: values(&mut dice, PATHS, |text| PathMatch::Text(StringMatch::parse(text))),
            ..Operation::default()
        });
        let about = about(&snapshot, &from, to.as_ref());
        let is_about =
            |request: &Request| (to.is_none() || request.http.is_some()) && decides(&about, request);
        match crate::claim::never(&snapshot, &view, &from, to.as_ref()).unwrap() {
            crate::claim::Answer::Broken { request, unless, .. } => {
                if !unless.is_empty() || has_left_escape(&request, snapshot.settings().unwrap().paths) {
                    continue;
                }
                broken += 1;
                assert!(
                    decides(&engine, &request) && is_about(&request),
                    "seed {seed}: {request:?} breaks nothing: {from:?} {to:?}\n{view:?}\n{:?}",
                    snapshot.policies().collect::<Vec<_>>()
                );
            }
            crate::claim::Answer::Holds => {
                holds += 1;
                let possible = Possible::of(&snapshot);
                let mut requests = few_requests();
                requests.extend((0..100).map(|_| request(&mut dice)));
                for request in requests {
                    let breaks = decides(&engine, &request) && is_about(&request);
                    assert!(
                        !(breaks && possible.has(&request)),
                        "seed {seed}: {request:?} breaks what is proven: {from:?} {to:?}\n{view:?}\n{:?}",
                        snapshot.policies().collect::<Vec<_>>()
                    );
                    tried += 1;
                }
            }
        }
    }
    assert!(
        holds > 200 && broken > 300 && tried > 50_000,
        "{holds} {broken} {tried}"
    );
}

/// Which requests can be: on a port that takes them, with a token that is accepted.
struct Possible {
    sealed: Sealed,
    ground: Ground,
    set: Set,
    remote_is_source: bool,
}

impl Possible {
    fn of(snapshot: &Snapshot) -> Self {
        let (mut sealed, ground, side) = sealed(snapshot);
        let set = set(&mut sealed, &side.possible);
        Self {
            sealed,
            ground,
            set,
            remote_is_source: snapshot.view(&callee()).unwrap().remote == RemoteAddress::default(),
        }
    }

    fn has(&self, request: &Request) -> bool {
        let mut full = request.clone();
        full.source.get_or_insert(IpAddr::from([192, 0, 2, 9]));
        full.remote.get_or_insert(IpAddr::from([192, 0, 2, 9]));
        full.destination.get_or_insert(IpAddr::from([10, 1, 2, 3]));
        full.at.get_or_insert(0);
        let Some(values) = values_of(&self.sealed, &full, self.ground.path_rule, self.remote_is_source)
        else {
            return false; // it is about what is not looked into
        };
        self.sealed
            .classes_of(&values)
            .is_some_and(|classes| self.sealed.diagrams.contains(self.set, &classes))
    }
}

#[test]
fn what_a_change_opens_and_closes_is_what_decide_says_before_and_after() {
    let (mut opened, mut closed, mut same) = (0, 0, 0);
    for seed in 1..=400 {
        let mut dice = Dice::new(seed + 200_000);
        let old = mesh(&mut dice);
        let other = mesh(&mut dice);
        // The other mesh's policies in this mesh: ports, tokens and paths stay.
        let mut store = old.store();
        let mut view = (**old.view(&callee()).unwrap()).clone();
        view.policies.clone_from(&other.view(&callee()).unwrap().policies);
        // Where TLS is not ended nobody proves an identity, which `decide` does not ask about.
        let other_mode = other.view(&callee()).unwrap().mtls;
        if other_mode != MtlsMode::Disable && view.mtls != MtlsMode::Disable {
            view.mtls = other_mode;
        }
        let mut upserts = vec![Resource::View(view)];
        upserts.extend(
            other
                .policies()
                .map(|policy| Resource::Policy((**policy).clone())),
        );
        let removals = old
            .policies()
            .map(|policy| Resource::Policy((**policy).clone()).key())
            .collect();
        store.apply(&Transaction {
            version: Version(2),
            upserts,
            removals,
        });
        let new = Arc::new(Snapshot::build(&store));
        let of = |snapshot: &Arc<Snapshot>| Arc::clone(snapshot.view(&callee()).unwrap());
        let (old_view, new_view) = (of(&old), of(&new));
        let changes = compare(
            Some(Ways {
                snapshot: &old,
                view: &old_view,
            }),
            Some(Ways {
                snapshot: &new,
                view: &new_view,
            }),
        )
        .unwrap();
        let (before, after) = (Engine::build(Arc::clone(&old)), Engine::build(Arc::clone(&new)));
        let rule = old.settings().unwrap().paths;
        for change in &changes {
            if !change.unless.is_empty() || has_left_escape(&change.example, rule) {
                continue;
            }
            let (was, is) = (
                decides(&before, &change.example),
                decides(&after, &change.example),
            );
            assert_eq!(
                (was, is),
                (!change.opens, change.opens),
                "seed {seed}: {change:?}"
            );
        }
        let possible = [Possible::of(&old), Possible::of(&new)];
        for _ in 0..40 {
            let request = request(&mut dice);
            if has_lines(&request) {
                continue;
            }
            match (decides(&before, &request), decides(&after, &request)) {
                (false, true) if possible.iter().all(|one| one.has(&request)) => {
                    opened += 1;
                    assert!(
                        changes.iter().any(|change| change.opens),
                        "seed {seed}: {request:?}"
                    );
                }
                (true, false) if possible.iter().all(|one| one.has(&request)) => {
                    closed += 1;
                    assert!(
                        changes.iter().any(|change| !change.opens),
                        "seed {seed}: {request:?}"
                    );
                }
                _ => same += 1,
            }
        }
    }
    assert!(
        opened > 50 && closed > 50 && same > 2_000,
        "{opened} {closed} {same}"
    );
}
