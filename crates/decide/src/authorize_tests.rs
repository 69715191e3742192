//! The indexed engine against a slow model that is written straight from the text of Istio's semantics.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use bartizan_mesh::{
    AcrossNamespaces, Action, Condition, JwtRule, KeySource, Matcher, MtlsMode, Operation, PathMatch,
    PathRule, Policy, PolicyKind, Profile, RemoteAddress, Resource, Rule, Settings, Snapshot, Source,
    Transaction, View, WithoutPolicy,
};
use bartizan_types::{
    Cidr, Hostname, Name, NamespacedName, Peer, Port, SpiffeId, StringMatch, TrustDomain, Version,
};
use proptest::prelude::*;
use proptest::sample::select;
use regex::Regex;
use serde_json::json;

use crate::{
    ConnectionFacts, Engine, HttpFacts, Keys, Reason, TokenRule, User, authorize_http, authorize_tcp,
    explain_http, explain_tcp,
};

/// The model: regular expressions on whole texts, every rule in turn.
mod model {
    use super::*;

    pub(super) struct Asked<'a> {
        pub(super) peer: &'a Peer,
        pub(super) source: IpAddr,
        pub(super) remote: IpAddr,
        pub(super) destination: SocketAddr,
        pub(super) sni: Option<&'a str>,
        pub(super) http: Option<Request<'a>>,
        pub(super) claims: Option<&'a serde_json::Value>,
    }

    /// Method, host, path, headers.
    type Request<'a> = (&'a str, Option<&'a str>, &'a str, &'a [(String, String)]);

    /// The first rule of each policy that matches, by policy and index.
    pub(super) fn audited(
        policies: &[Policy],
        profile: &Profile,
        asked: &Asked<'_>,
    ) -> Vec<(NamespacedName, usize)> {
        policies
            .iter()
            .filter(|policy| policy.action == Action::Audit && !policy.dry_run)
            .filter_map(|policy| {
                let at = policy
                    .rules
                    .iter()
                    .position(|rule| matches(rule, Action::Audit, profile, asked))?;
                Some((policy.name.clone(), at))
            })
            .collect()
    }

    #[derive(PartialEq, Debug)]
    pub(super) enum Decision {
        Denied(NamespacedName, usize),
        Allowed(Vec<(NamespacedName, usize)>),
        AllowedWithoutPolicy,
        Refused,
    }

    pub(super) fn decide(
        policies: &[Policy],
        dry_run: bool,
        profile: &Profile,
        asked: &Asked<'_>,
    ) -> Decision {
        let policies: Vec<&Policy> = policies
            .iter()
            .filter(|policy| policy.dry_run == dry_run)
            .collect();
        let matching = |action| {
            let mut found = Vec::new();
            for policy in policies.iter().filter(|policy| policy.action == action) {
                for (at, rule) in policy.rules.iter().enumerate() {
                    if matches(rule, action, profile, asked) {
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
            let passes = match profile.without_policy {
                WithoutPolicy::Allow => true,
                WithoutPolicy::Deny => false,
                WithoutPolicy::OwnNamespace => identity(asked, "spiffe://cluster.local/ns/here/sa/[^/]*"),
            };
            return if passes {
                Decision::AllowedWithoutPolicy
            } else {
                Decision::Refused
            };
        }
        match matching(Action::Allow) {
            found if found.is_empty() => Decision::Refused,
            found => Decision::Allowed(found),
        }
    }

    /// `None` of a field is "there is nothing to ask": on TCP a field of HTTP.
    fn matches(rule: &Rule, action: Action, profile: &Profile, asked: &Asked<'_>) -> bool {
        let is_tcp = asked.http.is_none();
        let http_fields = rule
            .to
            .iter()
            .any(|to| !to.hosts.is_empty() || !to.methods.is_empty() || !to.paths.is_empty())
            || rule.from.iter().any(|from| !from.request_principals.is_empty())
            || rule.when.iter().any(|when| {
                matches!(
                    when,
                    Condition::Header(..)
                        | Condition::RequestPrincipal(_)
                        | Condition::RequestAudiences(_)
                        | Condition::RequestPresenter(_)
                        | Condition::RequestClaim(..)
                )
            });
        if is_tcp && action == Action::Allow && http_fields {
            return false;
        }
        (rule.from.is_empty() || rule.from.iter().any(|source| from(source, asked)))
            && (rule.to.is_empty() || rule.to.iter().any(|operation| to(operation, asked)))
            && rule.when.iter().all(|condition| when(condition, action, asked))
            && (action != Action::Allow
                || profile.across_namespaces == AcrossNamespaces::AsWritten
                || asked.peer.identity().is_none()
                || identity(asked, "spiffe://cluster.local/ns/here/sa/[^/]*")
                || names(rule, asked))
    }

    /// A source that matches, or a condition, has the caller in full.
    fn names(rule: &Rule, asked: &Asked<'_>) -> bool {
        let principals = |values: &Matcher<StringMatch>| {
            let exact = values
                .any
                .iter()
                .filter(|value| matches!(value, StringMatch::Exact(_)));
            exact.into_iter().any(|value| identity(asked, &principal(value)))
        };
        let namespaces = |values: &Matcher<Arc<str>>| {
            let exact = values.any.iter().filter(|value| !value.contains('*'));
            exact.into_iter().any(|value| identity(asked, &namespace(value)))
        };
        let accounts = |values: &Matcher<NamespacedName>| {
            values.any.iter().any(|value| identity(asked, &account(value)))
        };
        rule.from.iter().any(|source| {
            from(source, asked)
                && (principals(&source.principals)
                    || namespaces(&source.namespaces)
                    || accounts(&source.service_accounts))
        }) || rule.when.iter().any(|condition| {
            matches!(condition, Condition::SourcePrincipal(values) if principals(values))
                || matches!(condition, Condition::SourceNamespace(values) if namespaces(values))
                || matches!(condition, Condition::SourceServiceAccount(values) if accounts(values))
        })
    }

    /// On TCP a field of HTTP is as if it were not there.
    fn user<T>(
        asked: &Asked<'_>,
        matcher: &Matcher<T>,
        matches: impl Fn(&serde_json::Value, &T) -> bool,
    ) -> bool {
        asked.http.is_none()
            || list(matcher, |wanted| {
                asked.claims.is_some_and(|claims| matches(claims, wanted))
            })
    }

    /// The four forms, as the text of the semantics has them.
    fn request_principal(claims: &serde_json::Value, wanted: &StringMatch) -> bool {
        let (Some(issuer), Some(subject)) = (claims["iss"].as_str(), claims["sub"].as_str()) else {
            return false;
        };
        let written = wanted.to_string();
        let slash = written.rfind('/');
        match (written.as_str(), slash) {
            ("*", _) => true,
            (text, Some(at)) if text.starts_with('*') => {
                issuer.ends_with(&text[1..at]) && subject == &text[at + 1..]
            }
            (text, None) if text.starts_with('*') => subject.ends_with(&text[1..]),
            (text, Some(at)) if text.ends_with('*') => {
                issuer == &text[..at] && subject.starts_with(&text[at + 1..text.len() - 1])
            }
            (text, None) if text.ends_with('*') => issuer.starts_with(&text[..text.len() - 1]),
            (text, Some(at)) => issuer == &text[..at] && subject == &text[at + 1..],
            (_, None) => false,
        }
    }

    fn claim(value: &serde_json::Value, wanted: &StringMatch) -> bool {
        let regex = text_regex(wanted);
        match value {
            serde_json::Value::Array(values) => values
                .iter()
                .any(|value| value.as_str().is_some_and(|text| whole(&regex, text))),
            serde_json::Value::String(text) => whole(&regex, text),
            serde_json::Value::Null
            | serde_json::Value::Bool(_)
            | serde_json::Value::Number(_)
            | serde_json::Value::Object(_) => false,
        }
    }

    fn from(source: &Source, asked: &Asked<'_>) -> bool {
        list(&source.principals, |value| identity(asked, &principal(value)))
            && list(&source.namespaces, |value| identity(asked, &namespace(value)))
            && list(&source.service_accounts, |value| identity(asked, &account(value)))
            && list(&source.trust_domains, |value| identity(asked, &domain(value)))
            && list(&source.ip_blocks, |block| block.contains(asked.source))
            && list(&source.remote_ip_blocks, |block| block.contains(asked.remote))
            && user(asked, &source.request_principals, request_principal)
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

    fn when(condition: &Condition, action: Action, asked: &Asked<'_>) -> bool {
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
                // Every reading: line by line, and joined.
                let whole = found.join(",");
                let one_of = |texts: &[StringMatch], line: &str| {
                    texts.iter().any(|wanted| present_or(wanted, Some(line)))
                };
                let lines =
                    |texts: &[StringMatch]| found.iter().map(|line| one_of(texts, line)).collect::<Vec<_>>();
                let (any, none) = (lines(&values.any), lines(&values.none));
                let (matches, excluded) = match (found.is_empty(), action) {
                    (true, _) => (false, false),
                    (false, Action::Allow) => (
                        any.iter().all(|is| *is),
                        none.iter().any(|is| *is) || one_of(&values.none, &whole),
                    ),
                    (false, _) => (
                        any.iter().any(|is| *is) || one_of(&values.any, &whole),
                        none.iter().all(|is| *is),
                    ),
                };
                (values.any.is_empty() || matches) && !excluded
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
            Condition::RemoteIp(blocks) => list(blocks, |block| block.contains(asked.remote)),
            Condition::RequestPrincipal(values) => user(asked, values, request_principal),
            Condition::RequestAudiences(values) => {
                user(asked, values, |claims, value| claim(&claims["aud"], value))
            }
            Condition::RequestPresenter(values) => {
                user(asked, values, |claims, value| claim(&claims["azp"], value))
            }
            Condition::RequestClaim(path, values) => user(asked, values, |claims, value| {
                let found = path.iter().fold(claims, |claims, name| &claims[&**name]);
                claim(found, value)
            }),
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
    "cluster.local/ns/here/sa/z",
    "other.org/ns/here/sa/z",
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

const CLAIMS: &[&str] = &["aud", "tenant", "nested.role", "number"];

fn claim_values() -> BoxedStrategy<StringMatch> {
    texts(&["a", "b", "a*", "*b", "*", "7", "true"]).boxed()
}

fn request_principals() -> BoxedStrategy<StringMatch> {
    texts(&[
        "https://i.example/alice",
        "https://i.example/*",
        "https://i*",
        "i*",
        "*",
        "*alice",
        "*.example/alice",
        "*/bob/x",
        "i/*",
        "i/bo*",
        "i/bob/x",
        "i",
        "",
    ])
    .boxed()
}

/// Payloads of tokens.
fn claims() -> impl Strategy<Value = serde_json::Value> {
    let issuer = prop::option::weighted(0.9, select(&["https://i.example", "i", "i/bob"][..]));
    let subject = prop::option::weighted(0.9, select(&["alice", "x", "bob/x", ""][..]));
    let value = || {
        prop::option::of(prop_oneof![
            select(&["a", "b", "ab", ""][..]).prop_map(|text| json!(text)),
            prop::collection::vec(select(&["a", "b"][..]), 0..3).prop_map(|texts| json!(texts)),
            Just(json!(7)),
            Just(json!(true)),
            Just(json!([7, "b"])),
        ])
    };
    (issuer, subject, value(), value(), value(), value()).prop_map(
        |(issuer, subject, audience, presenter, tenant, role)| {
            let mut claims = serde_json::Map::new();
            let mut set = |name: &str, value: Option<serde_json::Value>| {
                if let Some(value) = value {
                    claims.insert(name.to_owned(), value);
                }
            };
            set("iss", issuer.map(|text| json!(text)));
            set("sub", subject.map(|text| json!(text)));
            set("aud", audience);
            // A presenter is one text.
            set("azp", presenter.filter(serde_json::Value::is_string));
            set("tenant", tenant);
            set("nested", role.map(|role| json!({ "role": role })));
            set("number", Some(json!(7)));
            claims.into()
        },
    )
}

fn user(claims: &serde_json::Value) -> User {
    let rule = TokenRule {
        policy: NamespacedName::parse("here/users").unwrap(),
        index: 0,
        rule: JwtRule {
            issuer: None,
            audiences: Vec::new(),
            keys: KeySource::Fetched("keys".into()),
            locations: Vec::new(),
            forward_original_token: false,
            output_payload_to_header: None,
            output_claims: Vec::new(),
            space_delimited_claims: Vec::new(),
        },
        keys: Keys::Missing { set: "keys".into() },
    };
    User::new(&rule, "a.b.c", claims.as_object().cloned().unwrap(), None)
}

fn profiles() -> impl Strategy<Value = Profile> {
    (
        select(
            &[
                WithoutPolicy::Allow,
                WithoutPolicy::Deny,
                WithoutPolicy::OwnNamespace,
            ][..],
        ),
        select(&[AcrossNamespaces::AsWritten, AcrossNamespaces::Named][..]),
    )
        .prop_map(|(without_policy, across_namespaces)| Profile {
            without_policy,
            across_namespaces,
            ..Profile::zero_trust()
        })
}

fn source() -> impl Strategy<Value = Source> {
    (
        matcher(principals()),
        matcher(namespaces()),
        matcher(accounts()),
        matcher(domains()),
        (
            matcher(blocks()),
            matcher(blocks()),
            matcher(request_principals()),
        ),
    )
        .prop_map(
            |(
                principals,
                namespaces,
                service_accounts,
                trust_domains,
                (ip_blocks, remote_ip_blocks, request_principals),
            )| Source {
                principals,
                namespaces,
                service_accounts,
                trust_domains,
                ip_blocks,
                remote_ip_blocks,
                request_principals,
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
        matcher(blocks()).prop_map(Condition::RemoteIp),
        matcher(request_principals()).prop_map(Condition::RequestPrincipal),
        matcher(claim_values()).prop_map(Condition::RequestAudiences),
        matcher(claim_values()).prop_map(Condition::RequestPresenter),
        (select(CLAIMS), matcher(claim_values())).prop_map(|(path, values)| {
            Condition::RequestClaim(path.split('.').map(Into::into).collect(), values)
        }),
    ]
}

fn rule() -> impl Strategy<Value = Rule> {
    (
        prop::collection::vec(source(), 0..3),
        prop::collection::vec(operation(), 0..3),
        prop::collection::vec(condition(), 0..2),
    )
        .prop_map(|(from, to, when)| Rule {
            from,
            to,
            when,
            expression: None,
        })
}

fn policies() -> impl Strategy<Value = Vec<Policy>> {
    let action = prop_oneof![
        3 => Just(Action::Allow),
        2 => Just(Action::Deny),
        1 => Just(Action::Audit),
    ];
    let policy = (
        action,
        prop::bool::weighted(0.2),
        prop::collection::vec(rule(), 0..8),
    );
    prop::collection::vec(policy, 0..4).prop_map(|policies| {
        policies
            .into_iter()
            .enumerate()
            .map(|(at, (action, dry_run, rules))| Policy {
                kind: PolicyKind::AuthorizationPolicy,
                name: NamespacedName::parse(&format!("here/p{at}")).unwrap(),
                action,
                provider: None,
                dry_run,
                rules,
            })
            .collect()
    })
}

#[derive(Clone, Debug)]
struct Asked {
    peer: Peer,
    source: IpAddr,
    remote: IpAddr,
    claims: Option<serde_json::Value>,
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
        (
            select(&["10.0.0.1", "10.1.0.1", "192.0.2.1"][..]),
            select(&["10.0.0.1", "10.1.0.1", "192.0.2.1"][..]),
            prop::option::of(claims()),
        ),
        (select(&["10.1.0.9", "192.0.2.1"][..]), select(&[80_u16, 8080, 9][..])),
        prop::option::of(select(&["s", "st", ""][..])),
        prop::bool::weighted(0.7),
        (select(METHODS), prop::option::of(select(HOSTS)), select(PATHS)),
        prop::collection::vec((select(&["x", "X", "y"][..]), select(&["1", "2", "", "12"][..])), 0..3),
    )
        .prop_map(|(peer, (source, remote, claims), (ip, port), sni, is_http, (method, host, path), headers)| Asked {
            peer,
            source: source.parse().unwrap(),
            remote: remote.parse().unwrap(),
            claims,
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

fn snapshot(policies: &[Policy], profile: &Profile) -> Arc<Snapshot> {
    let mut upserts: Vec<Resource> = policies.iter().cloned().map(Resource::Policy).collect();
    upserts.push(Resource::Settings(Settings {
        trust_domain: TrustDomain::parse("cluster.local").unwrap(),
        root_namespace: Name::parse("istio-system").unwrap(),
        cluster_domain: Hostname::parse("cluster.local").unwrap(),
        profile: profile.clone(),
        paths: PathRule::RefuseAmbiguous,
    }));
    upserts.push(Resource::View(View {
        workload: NamespacedName::parse("here/app-0").unwrap(),
        identity: SpiffeId::parse("spiffe://cluster.local/ns/here/sa/app").unwrap(),
        labels: std::collections::BTreeMap::new(),
        policies: policies.iter().map(Policy::id).collect(),
        authentications: Vec::new(),
        is_for_people: false,
        remote: RemoteAddress::default(),
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
        profile in profiles(),
        requests in prop::collection::vec(asked(), 1..16),
    ) {
        // Also as a change of another set of policies: what is kept must not be stale.
        let old = snapshot(&before, &profile);
        let change = old.store().difference(&snapshot(&policies, &profile).store());
        let engine = Engine::build(Arc::clone(&old)).next(Arc::new(old.apply(&change)));
        let local = NamespacedName::parse("here/app-0").unwrap();
        for asked in &requests {
            let question = model::Asked {
                peer: &asked.peer,
                source: asked.source,
                remote: asked.remote,
                destination: asked.destination,
                sni: asked.sni.as_deref(),
                http: asked.is_http.then_some((asked.method, asked.host, asked.path, &asked.headers)),
                claims: asked.claims.as_ref(),
            };
            let model = model::decide(&policies, false, &profile, &question);
            let user = asked.claims.as_ref().map(user);
            let connection = ConnectionFacts {
                local: &local,
                peer: &asked.peer,
                source: asked.source,
                remote: asked.remote,
                destination: asked.destination,
                sni: asked.sni.as_deref(),
                tls: None,
                now: 0,
            };
            let http = HttpFacts {
                connection,
                method: asked.method,
                authority: asked.host,
                target: asked.path,
                headers: &asked.headers,
                user: user.as_ref(),
                route_is_for_people: false,
            };
            let (verdict, explanation) = if asked.is_http {
                (authorize_http(&engine, &http), explain_http(&engine, &http))
            } else {
                (authorize_tcp(&engine, &connection), explain_tcp(&engine, &connection))
            };
            let result = verdict.map(|verdict| verdict.permit().expect("no policy asks an authorizer"));
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
                    prop_assert!(matches!(
                        denied.reason,
                        Reason::NoAllowMatched | Reason::NoAllowPolicy | Reason::OtherNamespace | Reason::NotNamed(_) | Reason::NeedsUser(_)
                    ));
                }
                _ => prop_assert!(false, "{:?} but the model says {:?}\n{:#?}", result, model, asked),
            }
            let marks = match &result {
                Ok(permit) => permit.marks(),
                Err(denied) => denied.marks(),
            };
            let place = |id: &bartizan_types::RuleId| {
                (NamespacedName::new(id.namespace.clone(), id.policy.clone()), id.rule as usize)
            };
            let audited: Vec<_> = marks.audited.iter().map(place).collect();
            prop_assert_eq!(audited, model::audited(&policies, &profile, &question));
            prop_assert_eq!(marks.shadow.is_some(), policies.iter().any(|policy| policy.dry_run));
            if let Some(shadow) = &marks.shadow {
                let by = shadow.rule.as_ref().map(place);
                let istio = Profile { without_policy: WithoutPolicy::Allow, ..profile.clone() };
                match (model::decide(&policies, true, &istio, &question), by) {
                    (model::Decision::Denied(name, rule), by) => prop_assert_eq!(by, Some((name, rule))),
                    (model::Decision::Allowed(rules), Some(by)) => prop_assert!(shadow.allowed && rules.contains(&by)),
                    (model::Decision::AllowedWithoutPolicy, None) => prop_assert!(shadow.allowed),
                    (model::Decision::Refused, None) => prop_assert!(!shadow.allowed),
                    (model, by) => prop_assert!(false, "dry run: {:?} but the model says {:?}", by, model),
                }
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
