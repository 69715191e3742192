//! Random meshes of one workload, and random requests to it near the borders that policies draw.

use std::net::IpAddr;
use std::sync::Arc;

use bartizan_mesh::{
    AcrossNamespaces, Action, Condition, InboundPort, JwtRule, KeySource, Matcher, MtlsMode, Operation,
    PathMatch, PathRule, Policy, PolicyKind, Profile, RemoteAddress, RequestAuthentication, Resource, Rule,
    Settings, Snapshot, Source, Store, Transaction, UserCredentials, View, WithoutPolicy, Workload,
};
use bartizan_types::{
    Cidr, Hostname, Labels, Name, NamespacedName, Peer, Port, Protocol, SpiffeId, StringMatch, TrustDomain,
    Version,
};
use serde_json::{Map, Value as Json, json};

use crate::request::{HttpRequest, Request};

/// Numbers that are the same each run.
pub(super) struct Dice(u64);

impl Dice {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(super) fn roll(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11
    }

    pub(super) fn below(&mut self, most: usize) -> usize {
        usize::try_from(self.roll() % u64::try_from(most).unwrap()).unwrap()
    }

    pub(super) fn one_in(&mut self, most: usize) -> bool {
        self.below(most) == 0
    }

    pub(super) fn of<'t>(&mut self, texts: &[&'t str]) -> &'t str {
        texts[self.below(texts.len())]
    }
}

pub(super) fn named(text: &str) -> NamespacedName {
    NamespacedName::parse(text).unwrap()
}

pub(super) fn port(number: u16) -> Port {
    Port::new(u32::from(number)).unwrap()
}

pub(super) const PRINCIPALS: &[&str] = &[
    "*",
    "td/ns/a/sa/x",
    "td/ns/a/*",
    "td/ns/a*",
    "*/sa/x",
    "*x",
    "td/ns/ab/sa/y",
    "other/ns/a/sa/x",
];
pub(super) const NAMESPACES: &[&str] = &["a", "ab", "b", "a*", "*b", "a*b", "*"];
pub(super) const ACCOUNTS: &[&str] = &["a/x", "a/y", "ab/x", "b/x"];
pub(super) const DOMAINS: &[&str] = &["td", "*", "t*", "other", "*d"];
pub(super) const BLOCKS: &[&str] = &[
    "10.0.0.0/8",
    "10.1.0.0/16",
    "10.1.2.3",
    "0.0.0.0/0",
    "fd00::/8",
    "::/0",
];
pub(super) const METHODS: &[&str] = &["GET", "POST", "*", "P*", "*T", "CONNECT"];
pub(super) const PATHS: &[&str] = &[
    "/", "/a", "/a/", "/a*", "/a/*", "*", "*/b", "*b", "/a/b", "/a%20b", "/%41*", "/a;b", "",
];
pub(super) const TEMPLATES: &[&str] = &[
    "/{*}",
    "/a/{*}",
    "/{*}/b",
    "/a/{**}",
    "/{**}/b",
    "/a/{*}/{**}",
    "/{*}/a/{**}/b",
];
pub(super) const HOSTS: &[&str] = &["h", "h:80", "H*", "*.h", "*", "*:80", "h."];
pub(super) const VALUES: &[&str] = &["*", "*", "*", "v", "v*", "*v", "vv", "", "a,b"];
pub(super) const SNIS: &[&str] = &["*", "s", "s*", "*.s"];
pub(super) const ISSUERS: &[&str] = &["https://i", "i"];
pub(super) const USERS: &[&str] = &[
    "*",
    "https://i/s",
    "i/s",
    "*s",
    "https://i/*",
    "i*",
    "*i/s",
    "s",
    "*/s",
];
pub(super) const AUDIENCES: &[&str] = &["api", "ap*", "*", "web"];
pub(super) const LEVELS: &[&str] = &["SECRET", "TOP*", "*", "*SECRET", "TOP_SECRET"];

pub(super) fn texts(dice: &mut Dice, pool: &[&str]) -> Matcher<StringMatch> {
    values(dice, pool, StringMatch::parse)
}

pub(super) fn values<T>(dice: &mut Dice, pool: &[&str], parse: impl Fn(&str) -> T) -> Matcher<T> {
    let mut all = Matcher {
        any: Vec::new(),
        none: Vec::new(),
    };
    if dice.one_in(2) {
        return all;
    }
    for _ in 0..=dice.below(2) {
        let value = parse(dice.of(pool));
        if dice.one_in(3) {
            all.none.push(value);
        } else {
            all.any.push(value);
        }
    }
    all
}

pub(super) fn rarely<T>(dice: &mut Dice, pool: &[&str], parse: impl Fn(&str) -> T) -> Matcher<T> {
    if dice.one_in(3) {
        values(dice, pool, parse)
    } else {
        Matcher {
            any: Vec::new(),
            none: Vec::new(),
        }
    }
}

pub(super) fn block(text: &str) -> Cidr {
    Cidr::parse(text).unwrap()
}

pub(super) fn a_port(text: &str) -> Port {
    Port::parse(text).unwrap()
}

pub(super) fn source(dice: &mut Dice) -> Source {
    Source {
        principals: texts(dice, PRINCIPALS),
        namespaces: rarely(dice, NAMESPACES, |text| Arc::from(text)),
        service_accounts: rarely(dice, ACCOUNTS, named),
        trust_domains: rarely(dice, DOMAINS, StringMatch::parse),
        ip_blocks: rarely(dice, BLOCKS, block),
        remote_ip_blocks: rarely(dice, BLOCKS, block),
        request_principals: rarely(dice, USERS, StringMatch::parse),
    }
}

pub(super) fn operation(dice: &mut Dice) -> Operation {
    let mut paths = values(dice, PATHS, |text| PathMatch::Text(StringMatch::parse(text)));
    if dice.one_in(3) {
        let template = PathMatch::Template(dice.of(TEMPLATES).into());
        if dice.one_in(3) {
            paths.none.push(template);
        } else {
            paths.any.push(template);
        }
    }
    Operation {
        hosts: rarely(dice, HOSTS, StringMatch::parse),
        ports: rarely(dice, &["80", "81", "90"], a_port),
        methods: rarely(dice, METHODS, StringMatch::parse),
        paths,
    }
}

pub(super) fn condition(dice: &mut Dice) -> Condition {
    let claim = |path: &[&str]| path.iter().map(|name| Arc::from(*name)).collect::<Vec<_>>();
    match dice.below(18) {
        0 | 16 | 17 => Condition::Header(dice.of(&["x-a", "x-b"]).into(), texts(dice, VALUES)),
        1 => Condition::SourceIp(values(dice, BLOCKS, block)),
        2 => Condition::SourceNamespace(values(dice, NAMESPACES, |text| Arc::from(text))),
        3 => Condition::SourcePrincipal(texts(dice, PRINCIPALS)),
        4 => Condition::SourceServiceAccount(values(dice, ACCOUNTS, named)),
        5 => Condition::SourceTrustDomain(texts(dice, DOMAINS)),
        6 => Condition::DestinationIp(values(dice, BLOCKS, block)),
        7 => Condition::DestinationPort(values(dice, &["80", "81", "90", "91"], a_port)),
        8 => Condition::Sni(texts(dice, SNIS)),
        9 => Condition::RemoteIp(values(dice, BLOCKS, block)),
        10 => Condition::RequestPrincipal(texts(dice, USERS)),
        11 => Condition::RequestAudiences(texts(dice, AUDIENCES)),
        12 => Condition::RequestPresenter(texts(dice, VALUES)),
        13 => Condition::RequestClaim(claim(&["level"]), texts(dice, LEVELS)),
        14 => Condition::RequestClaim(claim(&["org", "level"]), texts(dice, LEVELS)),
        _ => Condition::RequestClaim(
            claim(&[dice.of(&["org", "sub", "iss", "scope"])]),
            texts(dice, VALUES),
        ),
    }
}

pub(super) fn rule(dice: &mut Dice) -> Rule {
    let some = |dice: &mut Dice| dice.below(4).saturating_sub(1);
    Rule {
        from: (0..some(dice)).map(|_| source(dice)).collect(),
        to: (0..some(dice)).map(|_| operation(dice)).collect(),
        when: (0..some(dice)).map(|_| condition(dice)).collect(),
        expression: None,
    }
}

/// Conditions in words that can be put into dimensions.
pub(super) const EXPRESSIONS: &[&str] = &[
    "source.namespace == 'a'",
    "source.namespace.startsWith('a') && source.serviceAccount != 'y'",
    "source.serviceAccount.endsWith('x') || request.path == '/a'",
    "source.principal in ['td/ns/a/sa/x', 'td/ns/b/sa/x']",
    "!(source.identity.startsWith('spiffe://td/ns/ab/'))",
    "source.identity.endsWith('//td/ns/a/sa/x')",
    "source.trustDomain == 'td'",
    "source.namespace.contains('b')",
    "source.labels['tier'] == 'gold'",
    "has(source.labels.tier) && source.version != 'v2'",
    "source.workload == 'w'",
    "destination.labels['app'] == 'w' && destination.port != 80",
    "destination.port < 90",
    "destination.namespace == source.namespace || request.method == 'GET'",
    "request.method in ['GET', 'PUT'] && request.path.startsWith('/a')",
    "request.path.contains('b') && request.path.endsWith('/b')",
    "request.host == 'h' || request.host.lowerAscii() == 'h:80'",
    "request.host == 'H:80'",
    "request.headers['x-a'] == 'v'",
    "request.headers['x-a'].lowerAscii().startsWith('v') ? request.path == '/a' : request.path != '/a'",
    "has(request.headers.x) || 'x-b' in request.headers",
    "request.query['q'] == 'v'",
    "auth.authenticated && auth.issuer == 'i'",
    "!auth.authenticated",
    "auth.principal == 'https://i/s' || auth.principal.endsWith('i/s')",
    "auth.principal.startsWith('https://i/')",
    "'api' in auth.audiences",
    "auth.claims.level == 'SECRET'",
    "auth.claims.level in ['SECRET', 'TOP_SECRET']",
    "auth.claims.level.startsWith('TOP')",
    "'TOP_SECRET' in auth.claims.level || auth.presenter == 'v'",
    "auth.claims.org.level != 'SECRET'",
    "has(auth.claims.level) && auth.claims['sub'] == 's'",
    "auth.claims.org == 'v'",
    "inBlock(source.ip, '10.0.0.0/8') && !source.remoteIp.inBlock('10.1.0.0/16')",
    "source.ip == '10.1.2.3' || destination.ip == '10.1.2.3'",
    "now.getHours() < 6 || now.getDayOfWeek() == 0",
    "now.getHours('+02:00') >= 22",
    "now < timestamp('2026-01-01T00:00:00Z')",
    "connection.tls && connection.tlsVersion == 'TLSv1.3'",
    "connection.sni.endsWith('.s') || !connection.tls",
    "source.authenticated == true",
    "true",
];

pub(super) fn policy(dice: &mut Dice, at: usize) -> Policy {
    if dice.one_in(3) {
        return Policy {
            kind: PolicyKind::AccessRule,
            name: named(&format!("a/r{at}")),
            action: if dice.one_in(2) {
                Action::Deny
            } else {
                Action::Allow
            },
            provider: None,
            dry_run: false,
            rules: (0..=dice.below(2))
                .map(|_| Rule {
                    expression: Some(dice.of(EXPRESSIONS).into()),
                    ..Rule::default()
                })
                .collect(),
        };
    }
    Policy {
        kind: PolicyKind::AuthorizationPolicy,
        name: named(&format!("a/p{at}")),
        action: match dice.below(8) {
            0..=2 => Action::Deny,
            3 => Action::Audit,
            _ => Action::Allow,
        },
        provider: None,
        dry_run: dice.one_in(8),
        rules: (0..dice.below(4)).map(|_| rule(dice)).collect(),
    }
}

pub(super) fn authentication(dice: &mut Dice, at: usize) -> RequestAuthentication {
    RequestAuthentication {
        name: named(&format!("a/t{at}")),
        rules: (0..=dice.below(2))
            .map(|_| JwtRule {
                issuer: (!dice.one_in(5)).then(|| dice.of(ISSUERS).into()),
                audiences: if dice.one_in(2) {
                    vec![dice.of(&["api", "web"]).into()]
                } else {
                    Vec::new()
                },
                keys: KeySource::Inline("{}".into()),
                locations: Vec::new(),
                forward_original_token: false,
                output_payload_to_header: None,
                output_claims: Vec::new(),
                space_delimited_claims: Vec::new(),
            })
            .collect(),
        is_unreadable: false,
    }
}

pub(super) fn mode(dice: &mut Dice) -> MtlsMode {
    match dice.below(4) {
        0 => MtlsMode::Permissive,
        1 => MtlsMode::Disable,
        _ => MtlsMode::Strict,
    }
}

pub(super) fn callee() -> NamespacedName {
    named("a/w")
}

/// A mesh of one workload, a client, and random policies.
pub(super) fn mesh(dice: &mut Dice) -> Arc<Snapshot> {
    let policies: Vec<Policy> = (0..dice.below(5)).map(|at| policy(dice, at)).collect();
    let authentications: Vec<RequestAuthentication> =
        (0..dice.below(3)).map(|at| authentication(dice, at)).collect();
    let profile = Profile {
        without_policy: match dice.below(3) {
            0 => WithoutPolicy::Allow,
            1 => WithoutPolicy::Deny,
            _ => WithoutPolicy::OwnNamespace,
        },
        across_namespaces: if dice.one_in(3) {
            AcrossNamespaces::Named
        } else {
            AcrossNamespaces::AsWritten
        },
        user_credentials: match dice.below(6) {
            0 => UserCredentials::Everywhere,
            1 => UserCredentials::WhereMarked,
            _ => UserCredentials::Optional,
        },
        ..Profile::zero_trust()
    };
    let settings = Settings {
        trust_domain: TrustDomain::parse("td").unwrap(),
        root_namespace: Name::parse("root").unwrap(),
        cluster_domain: Hostname::parse("cluster.local").unwrap(),
        profile,
        paths: match dice.below(6) {
            0 => PathRule::None,
            1 => PathRule::Base,
            2 => PathRule::MergeSlashes,
            3 => PathRule::DecodeAndMergeSlashes,
            _ => PathRule::RefuseAmbiguous,
        },
    };
    let inbound = [(80, Protocol::Http), (81, Protocol::Tcp), (90, Protocol::Detect)]
        .map(|(number, protocol)| InboundPort {
            port: port(number),
            mtls: mode(dice),
            protocol,
            service: None,
        })
        .to_vec();
    let mut names: Vec<_> = policies.iter().map(Policy::id).collect();
    if dice.one_in(20) {
        names.push(policy(dice, 99).id()); // one that is missing denies
    }
    let view = View {
        workload: callee(),
        identity: SpiffeId::parse("spiffe://td/ns/a/sa/w").unwrap(),
        labels: Labels::from([("app".to_owned(), "w".to_owned())]),
        policies: names,
        authentications: authentications.iter().map(|one| one.name.clone()).collect(),
        is_for_people: dice.one_in(4),
        remote: RemoteAddress {
            trusted_proxies: u32::from(dice.one_in(2)),
            proxy_protocol: false,
        },
        mtls: mode(dice),
        inbound,
        gateway: None,
    };
    let workload = |name: &str, address: [u8; 4], identity: &str| {
        Resource::Workload(Workload {
            name: named(name),
            addresses: vec![IpAddr::from(address)],
            identity: SpiffeId::parse(identity).unwrap(),
            workload_name: Name::parse("w").unwrap(),
            canonical_service: String::new(),
            canonical_revision: String::new(),
            app: None,
            version: Some("v1".to_owned()),
            hostname: None,
            labels: if name == "ab/c" {
                Labels::from([("tier".to_owned(), "gold".to_owned())])
            } else {
                Labels::new()
            },
        })
    };
    let mut upserts = vec![
        Resource::Settings(settings),
        Resource::View(view),
        workload("a/w", [10, 1, 2, 3], "spiffe://td/ns/a/sa/w"),
        workload("ab/c", [10, 2, 0, 1], "spiffe://td/ns/ab/sa/x"),
    ];
    upserts.extend(policies.into_iter().map(Resource::Policy));
    upserts.extend(authentications.into_iter().map(Resource::RequestAuthentication));
    let mut store = Store::new();
    store.apply(&Transaction {
        version: Version(1),
        upserts,
        removals: Vec::new(),
    });
    Arc::new(Snapshot::build(&store))
}

pub(super) fn address(dice: &mut Dice) -> IpAddr {
    dice.of(&[
        "10.1.2.3",
        "10.1.9.9",
        "10.9.9.9",
        "192.0.2.1",
        "fd00::1",
        "2001:db8::1",
        "10.2.0.1",
    ])
    .parse()
    .unwrap()
}

pub(super) fn claims(dice: &mut Dice) -> Map<String, Json> {
    let mut claims = Map::new();
    if !dice.one_in(6) {
        claims.insert("iss".to_owned(), json!(dice.of(ISSUERS)));
    }
    if !dice.one_in(4) {
        claims.insert("sub".to_owned(), json!(dice.of(&["s", "ts", "", "x/s"])));
    }
    match dice.below(4) {
        0 => {
            claims.insert("aud".to_owned(), json!(["web", "other"]));
        }
        1 => {}
        _ => {
            claims.insert("aud".to_owned(), json!("api"));
        }
    }
    if dice.one_in(2) {
        claims.insert("azp".to_owned(), json!(dice.of(&["v", "vv", "", "z"])));
    }
    let level = |dice: &mut Dice| match dice.below(6) {
        0 => json!("SECRET"),
        1 => json!(["x", "TOP_SECRET"]),
        2 => json!([]),
        3 => json!(7),
        4 => json!(""),
        _ => json!("TOP_SECRET"),
    };
    if dice.one_in(2) {
        claims.insert("level".to_owned(), level(dice));
    }
    match dice.below(4) {
        0 => {
            claims.insert("org".to_owned(), json!({ "level": level(dice) }));
        }
        1 => {
            claims.insert("org".to_owned(), json!("v"));
        }
        _ => {}
    }
    if dice.one_in(3) {
        claims.insert("scope".to_owned(), json!("a v vv"));
    }
    claims
}

/// A random request, near the borders that policies draw.
pub(super) fn request(dice: &mut Dice) -> Request {
    let peer = match dice.of(&[
        "td/ns/a/sa/x",
        "td/ns/ab/sa/x",
        "td/ns/ab/sa/y",
        "td/ns/b/sa/x",
        "td/ns/acb/sa/xx",
        "",
    ]) {
        "" => Peer::Plaintext,
        principal => Peer::Authenticated(SpiffeId::parse(&format!("spiffe://{principal}")).unwrap()),
    };
    let has_tls = peer.identity().is_some() || dice.one_in(4);
    let source = address(dice);
    let http = (!dice.one_in(4)).then(|| {
        let method = dice.of(&["GET", "POST", "PUT", "PT", "CONNECT", "OPTIONS"]);
        let target = match method {
            "CONNECT" => "h:80",
            "OPTIONS" if dice.one_in(2) => "*",
            _ => dice.of(&[
                "/", "/a", "/a/", "/a/b", "/a/b/", "/a/c/b", "/b", "/a/c", "/A", "/%61", "/a%20b", "/ab",
                "/a/b/c/b", "/a//b", "/a/./b", "/a/../b", "/a%2fb", "/x/a/b", "/x/a/y/b", "/a;b", "/%41x",
                "/a?q=v", "/b?q=w",
            ]),
        };
        let mut headers = Vec::new();
        for name in ["x-a", "x-b"] {
            match dice.below(5) {
                0 => {}
                1 => headers.extend([
                    (name.to_owned(), "a".to_owned()),
                    (name.to_owned(), "b".to_owned()),
                ]),
                _ => headers.push((name.to_owned(), dice.of(&["v", "vv", "", "w", "wv"]).to_owned())),
            }
        }
        HttpRequest {
            method: method.to_owned(),
            authority: (!dice.one_in(5)).then(|| {
                dice.of(&["h", "H:80", "h.", "h.:80", "x.h", "other", "h:8080", "h.."])
                    .to_owned()
            }),
            target: target.to_owned(),
            headers,
            claims: dice.one_in(3).then(|| claims(dice)),
        }
    });
    Request {
        peer,
        source: Some(source),
        remote: Some(address(dice)),
        destination: Some(IpAddr::from([10, 1, 2, 3])),
        port: port([80, 81, 90, 91][dice.below(4)]),
        sni: (has_tls && dice.one_in(2)).then(|| dice.of(&["s", "x.s", "t"]).to_owned()),
        tls: has_tls.then(|| ("TLSv1.3".to_owned(), "c".to_owned(), "g".to_owned())),
        at: Some(1_767_200_000 + i64::try_from(dice.below(1_000_000)).unwrap()),
        http,
    }
}
