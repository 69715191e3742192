//! The indexed engine against a slow model that is written straight from the text of Istio's semantics.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use bartizan_mesh::{
    Action, Condition, Matcher, MtlsMode, Operation, PathMatch, PathRule, Policy, Profile, Resource, Rule,
    Settings, Snapshot, Source, Transaction, View,
};
use bartizan_types::{
    Cidr, Hostname, Name, NamespacedName, Peer, Port, SpiffeId, StringMatch, TrustDomain, Version,
};
use proptest::prelude::*;
use proptest::sample::select;
use regex::Regex;

use crate::{
    ConnectionFacts, Engine, HttpFacts, Reason, authorize_http, authorize_tcp, explain_http, explain_tcp,
};

/// The model: regular expressions on whole texts, every rule in turn.
mod model {
    use super::*;

    pub(super) struct Asked<'a> {
        pub(super) peer: &'a Peer,
        pub(super) source: IpAddr,
        pub(super) destination: SocketAddr,
        pub(super) sni: Option<&'a str>,
        pub(super) http: Option<Request<'a>>,
    }

    /// Method, host, path, headers.
    type Request<'a> = (&'a str, Option<&'a str>, &'a str, &'a [(String, String)]);

    #[derive(PartialEq, Debug)]
    pub(super) enum Decision {
        Denied(NamespacedName, usize),
        Allowed(Vec<(NamespacedName, usize)>),
        AllowedWithoutPolicy,
        Refused,
    }

    pub(super) fn decide(policies: &[Policy], profile: Profile, asked: &Asked<'_>) -> Decision {
        let matching = |action| {
            let mut found = Vec::new();
            for policy in policies.iter().filter(|policy| policy.action == action) {
                for (at, rule) in policy.rules.iter().enumerate() {
                    if matches(rule, action, asked) {
                        found.push((policy.name.clone(), at));
                    }
                }
            }
            found
        };
        if let Some((name, rule)) = matching(Action::Deny).into_iter().next() {
            return Decision::Denied(name, rule);
        }
        if !policies.iter().any(|policy| policy.action == Action::Allow) {
            return match profile {
                Profile::Istio => Decision::AllowedWithoutPolicy,
                Profile::ZeroTrust => Decision::Refused,
            };
        }
        match matching(Action::Allow) {
            found if found.is_empty() => Decision::Refused,
            found => Decision::Allowed(found),
        }
    }

    /// `None` of a field is "there is nothing to ask": on TCP a field of HTTP.
    fn matches(rule: &Rule, action: Action, asked: &Asked<'_>) -> bool {
        let is_tcp = asked.http.is_none();
        let http_fields = rule
            .to
            .iter()
            .any(|to| !to.hosts.is_empty() || !to.methods.is_empty() || !to.paths.is_empty())
            || rule.when.iter().any(|when| matches!(when, Condition::Header(..)));
        if is_tcp && action == Action::Allow && http_fields {
            return false;
        }
        (rule.from.is_empty() || rule.from.iter().any(|source| from(source, asked)))
            && (rule.to.is_empty() || rule.to.iter().any(|operation| to(operation, asked)))
            && rule.when.iter().all(|condition| when(condition, asked))
    }

    fn from(source: &Source, asked: &Asked<'_>) -> bool {
        list(&source.principals, |value| identity(asked, &principal(value)))
            && list(&source.namespaces, |value| identity(asked, &namespace(value)))
            && list(&source.service_accounts, |value| identity(asked, &account(value)))
            && list(&source.trust_domains, |value| identity(asked, &domain(value)))
            && list(&source.ip_blocks, |block| block.contains(asked.source))
    }

    fn to(operation: &Operation, asked: &Asked<'_>) -> bool {
        let ports = list(&operation.ports, |port| port.get() == asked.destination.port());
        let Some((method, host, path, _)) = asked.http else {
            return ports;
        };
        ports
            && list(&operation.methods, |value| present_or(value, Some(method)))
            && list(&operation.hosts, |value| {
                let lower = StringMatch::parse(&value.to_string().to_lowercase());
                present_or(&lower, host.map(str::to_lowercase).as_deref())
            })
            && list(&operation.paths, |value| match value {
                PathMatch::Text(text) => whole(&text_regex(text), path),
                PathMatch::Template(template) => {
                    let literal = regex::escape(template);
                    let one = literal.replace(r"\{\*\}", "[^/]+").replace(r"\{\*\*\}", ".*");
                    whole(&one, path)
                }
            })
    }

    fn when(condition: &Condition, asked: &Asked<'_>) -> bool {
        match condition {
            Condition::Header(name, values) => {
                let Some((_, _, _, headers)) = asked.http else {
                    return true;
                };
                let found: Vec<&str> = headers
                    .iter()
                    .filter(|(key, _)| key.to_lowercase() == **name)
                    .map(|(_, value)| value.as_str())
                    .collect();
                let value = (!found.is_empty()).then(|| found.join(","));
                list(values, |wanted| present_or(wanted, value.as_deref()))
            }
            Condition::SourceIp(blocks) => list(blocks, |block| block.contains(asked.source)),
            Condition::DestinationIp(blocks) => list(blocks, |block| block.contains(asked.destination.ip())),
            Condition::DestinationPort(ports) => list(ports, |port| port.get() == asked.destination.port()),
            Condition::Sni(names) => list(names, |name| {
                asked.sni.is_some_and(|sni| whole(&text_regex(name), sni))
            }),
            Condition::SourcePrincipal(values) => list(values, |value| identity(asked, &principal(value))),
            Condition::SourceNamespace(values) => list(values, |value| identity(asked, &namespace(value))),
            Condition::SourceServiceAccount(values) => list(values, |value| identity(asked, &account(value))),
            Condition::SourceTrustDomain(values) => list(values, |value| identity(asked, &domain(value))),
        }
    }

    fn list<T>(matcher: &Matcher<T>, matches: impl Fn(&T) -> bool) -> bool {
        (matcher.any.is_empty() || matcher.any.iter().any(&matches)) && !matcher.none.iter().any(&matches)
    }

    fn identity(asked: &Asked<'_>, regex: &str) -> bool {
        asked.peer.identity().is_some_and(|id| whole(regex, id.as_str()))
    }

    fn principal(value: &StringMatch) -> String {
        match value {
            StringMatch::Present => ".+".to_owned(),
            StringMatch::Exact(text) => format!("spiffe://{}", regex::escape(text)),
            StringMatch::Prefix(text) => format!("spiffe://{}.*", regex::escape(text)),
            StringMatch::Suffix(text) => format!("spiffe://.*{}", regex::escape(text)),
        }
    }

    fn namespace(value: &str) -> String {
        // Istio lets `*` reach over `/`; here it stays in the segment.
        format!(".*/ns/{}/.*", regex::escape(value).replace(r"\*", "[^/]*"))
    }

    fn account(value: &NamespacedName) -> String {
        format!(
            "spiffe://.+/ns/{}/(.+/|)sa/{}(/.+)?",
            regex::escape(value.namespace.as_str()),
            regex::escape(value.name.as_str())
        )
    }

    fn domain(value: &StringMatch) -> String {
        match value {
            StringMatch::Present => "spiffe://[^/]*/.*".to_owned(),
            StringMatch::Exact(text) => format!("spiffe://{}/.*", regex::escape(text)),
            StringMatch::Prefix(text) => format!("spiffe://{}[^/]*/.*", regex::escape(text)),
            StringMatch::Suffix(text) => format!("spiffe://[^/]*{}/.*", regex::escape(text)),
        }
    }

    fn present_or(wanted: &StringMatch, found: Option<&str>) -> bool {
        match wanted {
            StringMatch::Present => found.is_some(),
            StringMatch::Exact(_) | StringMatch::Prefix(_) | StringMatch::Suffix(_) => {
                found.is_some_and(|found| whole(&text_regex(wanted), found))
            }
        }
    }

    fn text_regex(value: &StringMatch) -> String {
        match value {
            StringMatch::Present => ".+".to_owned(),
            StringMatch::Exact(text) => regex::escape(text),
            StringMatch::Prefix(text) => format!("{}.*", regex::escape(text)),
            StringMatch::Suffix(text) => format!(".*{}", regex::escape(text)),
        }
    }

    fn whole(regex: &str, text: &str) -> bool {
        Regex::new(&format!("^(?s:{regex})$")).is_ok_and(|regex| regex.is_match(text))
    }
}

const IDENTITIES: &[&str] = &[
    "cluster.local/ns/a/sa/x",
    "cluster.local/ns/a/sa/y",
    "cluster.local/ns/ab/sa/x",
    "other.org/ns/a/sa/x",
    "other.org/web",
    "other.org/r/ns/a/t/sa/x/v",
    "other.org/ns/a/ns/ab/sa/y",
];
const PATHS: &[&str] = &["/", "/a", "/a/b", "/a/b/c", "/b", "/ab", "/a/c/b"];
const HOSTS: &[&str] = &["h", "H", "h:80", "i.h", ""];
const METHODS: &[&str] = &["GET", "POST", "get"];

fn texts(values: &'static [&'static str]) -> impl Strategy<Value = StringMatch> {
    select(values).prop_map(StringMatch::parse)
}

fn matcher<T: std::fmt::Debug + Clone>(
    value: impl Strategy<Value = T> + Clone + 'static,
) -> impl Strategy<Value = Matcher<T>> {
    let none = || Just(Vec::new());
    prop_oneof![
        4 => Just(Matcher::default()),
        4 => (prop::collection::vec(value.clone(), 1..3), none()).prop_map(|(any, none)| Matcher { any, none }),
        1 => (none(), prop::collection::vec(value.clone(), 1..3)).prop_map(|(any, none)| Matcher { any, none }),
        1 => (prop::collection::vec(value.clone(), 1..3), prop::collection::vec(value, 1..2))
            .prop_map(|(any, none)| Matcher { any, none }),
    ]
}

fn principals() -> impl Strategy<Value = StringMatch> + Clone {
    select(
        &[
            "cluster.local/ns/a/sa/x",
            "cluster.local/ns/a/sa/y",
            "other.org/web",
            "cluster.local/ns/a/*",
            "cluster.local/ns/a*",
            "*/sa/x",
            "*",
        ][..],
    )
    .prop_map(StringMatch::parse)
}

fn namespaces() -> impl Strategy<Value = Arc<str>> + Clone {
    select(&["a", "ab", "a*", "*b", "*", "r"][..]).prop_map(Arc::from)
}

fn accounts() -> impl Strategy<Value = NamespacedName> + Clone {
    select(&["a/x", "a/y", "ab/x", "ab/y"][..]).prop_map(|text| NamespacedName::parse(text).unwrap())
}

fn domains() -> impl Strategy<Value = StringMatch> + Clone {
    select(&["cluster.local", "other.org", "cl*", "*.org", "*"][..]).prop_map(StringMatch::parse)
}

fn blocks() -> impl Strategy<Value = Cidr> + Clone {
    select(&["10.0.0.0/8", "10.1.0.0/16", "192.0.2.1"][..]).prop_map(|text| Cidr::parse(text).unwrap())
}

fn ports() -> impl Strategy<Value = Port> + Clone {
    select(&[80_u32, 8080][..]).prop_map(|port| Port::new(port).unwrap())
}

fn paths() -> impl Strategy<Value = PathMatch> + Clone {
    prop_oneof![
        select(&["/", "/a", "/a/b", "/a*", "/a/b*", "*b", "*", "/*"][..])
            .prop_map(|text| PathMatch::Text(StringMatch::parse(text))),
        select(&["/a/{*}", "/{*}/b", "/a/{**}", "/{**}", "/{*}/{**}/b"][..])
            .prop_map(|text| PathMatch::Template(text.into())),
    ]
}

fn source() -> impl Strategy<Value = Source> {
    (
        matcher(principals()),
        matcher(namespaces()),
        matcher(accounts()),
        matcher(domains()),
        matcher(blocks()),
    )
        .prop_map(
            |(principals, namespaces, service_accounts, trust_domains, ip_blocks)| Source {
                principals,
                namespaces,
                service_accounts,
                trust_domains,
                ip_blocks,
            },
        )
}

fn operation() -> impl Strategy<Value = Operation> {
    (
        matcher(select(&["h", "H:80", "h*", "*.h", "*"][..]).prop_map(StringMatch::parse)),
        matcher(ports()),
        matcher(select(&["GET", "POST", "P*", "*T", "*"][..]).prop_map(StringMatch::parse)),
        matcher(paths()),
    )
        .prop_map(|(hosts, ports, methods, paths)| Operation {
            hosts,
            ports,
            methods,
            paths,
        })
}

fn condition() -> impl Strategy<Value = Condition> {
    let values = || select(&["1", "2", "1*", "*2", "*", "1,2"][..]).prop_map(StringMatch::parse);
    prop_oneof![
        matcher(values()).prop_map(|values| Condition::Header("x".into(), values)),
        matcher(blocks()).prop_map(Condition::SourceIp),
        matcher(blocks()).prop_map(Condition::DestinationIp),
        matcher(ports()).prop_map(Condition::DestinationPort),
        matcher(texts(&["s", "s*", "*"]).boxed()).prop_map(Condition::Sni),
        matcher(principals()).prop_map(Condition::SourcePrincipal),
        matcher(namespaces()).prop_map(Condition::SourceNamespace),
        matcher(accounts()).prop_map(Condition::SourceServiceAccount),
        matcher(domains()).prop_map(Condition::SourceTrustDomain),
    ]
}

fn rule() -> impl Strategy<Value = Rule> {
    (
        prop::collection::vec(source(), 0..3),
        prop::collection::vec(operation(), 0..3),
        prop::collection::vec(condition(), 0..2),
    )
        .prop_map(|(from, to, when)| Rule { from, to, when })
}

fn policies() -> impl Strategy<Value = Vec<Policy>> {
    let policy = (prop::bool::weighted(0.3), prop::collection::vec(rule(), 0..8));
    prop::collection::vec(policy, 0..4).prop_map(|policies| {
        policies
            .into_iter()
            .enumerate()
            .map(|(at, (is_deny, rules))| Policy {
                name: NamespacedName::parse(&format!("here/p{at}")).unwrap(),
                action: if is_deny { Action::Deny } else { Action::Allow },
                rules,
            })
            .collect()
    })
}

#[derive(Clone, Debug)]
struct Asked {
    peer: Peer,
    source: IpAddr,
    destination: SocketAddr,
    sni: Option<String>,
    is_http: bool,
    method: &'static str,
    host: Option<&'static str>,
    path: &'static str,
    headers: Vec<(String, String)>,
}

fn asked() -> impl Strategy<Value = Asked> {
    (
        prop_oneof![
            4 => select(IDENTITIES).prop_map(|id| Peer::Authenticated(SpiffeId::parse(&format!("spiffe://{id}")).unwrap())),
            1 => Just(Peer::Plaintext),
        ],
        select(&["10.0.0.1", "10.1.0.1", "192.0.2.1"][..]),
        (select(&["10.1.0.9", "192.0.2.1"][..]), select(&[80_u16, 8080, 9][..])),
        prop::option::of(select(&["s", "st", ""][..])),
        prop::bool::weighted(0.7),
        (select(METHODS), prop::option::of(select(HOSTS)), select(PATHS)),
        prop::collection::vec((select(&["x", "X", "y"][..]), select(&["1", "2", "", "12"][..])), 0..3),
    )
        .prop_map(|(peer, source, (ip, port), sni, is_http, (method, host, path), headers)| Asked {
            peer,
            source: source.parse().unwrap(),
            destination: SocketAddr::new(ip.parse().unwrap(), port),
            sni: sni.map(str::to_owned),
            is_http,
            method,
            host,
            path,
            headers: headers
                .into_iter()
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .collect(),
        })
}

fn snapshot(policies: &[Policy], profile: Profile) -> Arc<Snapshot> {
    let mut upserts: Vec<Resource> = policies.iter().cloned().map(Resource::Policy).collect();
    upserts.push(Resource::Settings(Settings {
        trust_domain: TrustDomain::parse("cluster.local").unwrap(),
        root_namespace: Name::parse("istio-system").unwrap(),
        cluster_domain: Hostname::parse("cluster.local").unwrap(),
        profile,
        paths: PathRule::RefuseAmbiguous,
    }));
    upserts.push(Resource::View(View {
        workload: NamespacedName::parse("here/app-0").unwrap(),
        identity: SpiffeId::parse("spiffe://cluster.local/ns/here/sa/app").unwrap(),
        labels: std::collections::BTreeMap::new(),
        policies: policies.iter().map(|policy| policy.name.clone()).collect(),
        mtls: MtlsMode::Permissive,
        inbound: Vec::new(),
        gateway: None,
    }));
    Arc::new(Snapshot::default().apply(&Transaction {
        version: Version(1),
        upserts,
        removals: Vec::new(),
    }))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn the_index_decides_like_the_model(
        policies in policies(),
        before in policies(),
        profile in select(&[Profile::ZeroTrust, Profile::Istio][..]),
        requests in prop::collection::vec(asked(), 1..16),
    ) {
        // Also as a change of another set of policies: what is kept must not be stale.
        let old = snapshot(&before, profile);
        let change = old.store().difference(&snapshot(&policies, profile).store());
        let engine = Engine::build(Arc::clone(&old)).next(Arc::new(old.apply(&change)));
        let local = NamespacedName::parse("here/app-0").unwrap();
        for asked in &requests {
            let model = model::decide(&policies, profile, &model::Asked {
                peer: &asked.peer,
                source: asked.source,
                destination: asked.destination,
                sni: asked.sni.as_deref(),
                http: asked.is_http.then_some((asked.method, asked.host, asked.path, &asked.headers)),
            });
            let connection = ConnectionFacts {
                local: &local,
                peer: &asked.peer,
                source: asked.source,
                destination: asked.destination,
                sni: asked.sni.as_deref(),
            };
            let http = HttpFacts {
                connection,
                method: asked.method,
                authority: asked.host,
                target: asked.path,
                headers: &asked.headers,
            };
            let (result, explanation) = if asked.is_http {
                (authorize_http(&engine, &http), explain_http(&engine, &http))
            } else {
                (authorize_tcp(&engine, &connection), explain_tcp(&engine, &connection))
            };
            match (&result, &model) {
                (Ok(permit), model::Decision::Allowed(rules)) => {
                    let by = engine.allowed_by(permit).expect("an ALLOW rule");
                    let by = (NamespacedName::new(by.namespace.clone(), by.policy.clone()), by.rule as usize);
                    prop_assert!(rules.contains(&by), "{:?} not in {:?}", by, rules);
                }
                (Ok(permit), model::Decision::AllowedWithoutPolicy) => {
                    prop_assert!(engine.allowed_by(permit).is_none());
                }
                (Err(denied), model::Decision::Denied(name, rule)) => {
                    let by = denied.rule().expect("a DENY rule");
                    prop_assert_eq!((&by.namespace, &by.policy, by.rule as usize), (&name.namespace, &name.name, *rule));
                }
                (Err(denied), model::Decision::Refused) => {
                    prop_assert!(matches!(denied.reason, Reason::NoAllowMatched | Reason::NoAllowPolicy));
                }
                _ => prop_assert!(false, "{:?} but the model says {:?}\n{:#?}", result, model, asked),
            }
            // The explanation is made of the same rules.
            prop_assert_eq!(explanation.allowed, result.is_ok());
            for policy in &explanation.policies {
                for rule in &policy.rules {
                    prop_assert_eq!(rule.matched, rule.failed.is_empty(), "{}", &explanation);
                }
            }
        }
    }
}
