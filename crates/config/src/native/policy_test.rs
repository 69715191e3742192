//! PolicyTest: what policies must decide, written beside them (`bartizan test`). It has no effect on the mesh.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use bartizan_types::{Name, NamespacedName, Port, SpiffeId};

use crate::field::Fields;
use crate::field::Value;
use crate::finding::codes;
use crate::names;

/// `bartizan.dev/v1alpha1` PolicyTest.
#[derive(Clone, Debug, PartialEq)]
pub struct PolicyTest {
    /// `tests` in order, each with a name of its own. At least one.
    pub tests: Vec<PolicyTestCase>,
}

/// One of `tests`.
#[derive(Clone, Debug, PartialEq)]
pub struct PolicyTestCase {
    /// `name`.
    pub name: String,
    /// `from`, in one of the forms that `bartizan can` takes: `NAMESPACE/SERVICEACCOUNT`, `spiffe://…`, `outside`.
    pub from: String,
    /// `to`, in one of the forms that `bartizan can` takes: `NAME.NAMESPACE[:PORT]` of a service (any of its DNS names), or
    /// `NAMESPACE/WORKLOAD[:PORT]`.
    pub to: String,
    /// `request`; none is a TCP connection.
    pub request: Option<TestRequest>,
    /// `expect`.
    pub expect: Expectation,
    /// `by`: what must have decided.
    pub by: Option<TestRule>,
}

/// `request`: what is not said is left to the runner (`GET`, `/`, the host of `to`, no token, an address of the caller's
/// workload, now).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TestRequest {
    /// `method`.
    pub method: Option<String>,
    /// `path`, with its query.
    pub path: Option<String>,
    /// `host`.
    pub host: Option<String>,
    /// `headers` in the order of the document; names in lower case.
    pub headers: Vec<(String, String)>,
    /// `claims` of a verified token; none is no token.
    pub claims: Option<serde_json::Map<String, serde_json::Value>>,
    /// `sourceIp`: the address of the connection.
    pub source_ip: Option<IpAddr>,
    /// `remoteIp`: the client's address as trusted proxies tell it.
    pub remote_ip: Option<IpAddr>,
    /// `at`: when it is asked, in seconds since 1970.
    pub at: Option<i64>,
    /// `token` or `tokenFile`: what a live test sends for `claims`.
    pub token: Option<TestToken>,
}

/// The token of a live test.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TestToken {
    /// `token`: the token itself.
    Text(String),
    /// `tokenFile`: a file that holds it, from the document's folder.
    File(String),
}

/// `expect`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expectation {
    /// `ALLOW`.
    Allow,
    /// `DENY`.
    Deny,
    /// `401`: refused because of its token.
    Unauthenticated,
}

impl fmt::Display for Expectation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Allow => "ALLOW",
            Self::Deny => "DENY",
            Self::Unauthenticated => "401",
        })
    }
}

/// `by`: `KIND NAMESPACE/NAME` or `KIND NAMESPACE/NAME rules[INDEX]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TestRule {
    /// `AuthorizationPolicy`, `AccessRule`, `RequestAuthentication` or `PeerAuthentication`.
    pub kind: Arc<str>,
    /// The document's namespace and name.
    pub policy: NamespacedName,
    /// The index in its `rules`, from 0.
    pub rule: Option<u32>,
}

impl fmt::Display for TestRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind, self.policy)?;
        match self.rule {
            Some(rule) => write!(f, " rules[{rule}]"),
            None => Ok(()),
        }
    }
}

const MOST_TESTS: usize = 10_000;

pub(crate) fn read(fields: &Fields<'_>) -> Option<PolicyTest> {
    fields.required("spec")?.map(|spec| {
        let value = spec.required("tests")?;
        if value.is_list() && value.items().is_empty() {
            value.error(codes::EMPTY, "there is no test");
        }
        let mut seen = BTreeSet::new();
        let tests = value.list_of_at_most(MOST_TESTS, |item| {
            let test = read_case(item)?;
            if !seen.insert(test.name.clone()) {
                let what = format!("two tests are named {}", item.sink.quoted(&test.name));
                item.error(codes::CONFLICT, what);
            }
            Some(test)
        });
        Some(PolicyTest { tests })
    })
}

fn read_case(value: Value<'_>) -> Option<PolicyTestCase> {
    value.map(|fields| {
        let name = fields
            .required("name")
            .and_then(crate::istio::matcher::read_present);
        let from = fields
            .required("from")
            .and_then(|value| value.parse(parse_caller));
        let to = fields.required("to").and_then(|value| value.parse(parse_callee));
        let request = fields.get("request").and_then(read_request);
        let expect = fields.required("expect").and_then(read_expectation);
        let by = fields.get("by").and_then(|value| value.parse(parse_rule));
        if let (Some(value), None, Some(Expectation::Unauthenticated)) =
            (fields.get("expect"), fields.get("request"), expect)
        {
            let what = "a TCP connection is never answered with 401";
            value.error_help(codes::CONFLICT, what, "say which `request` it is");
        }
        Some(PolicyTestCase {
            name: name?.to_owned(),
            from: from?,
            to: to?,
            request,
            expect: expect?,
            by,
        })
    })
}

/// As `bartizan can` takes a caller.
fn parse_caller(text: &str) -> Result<String, String> {
    if text.starts_with("spiffe://") {
        SpiffeId::parse(text).map_err(|error| error.to_string())?;
    } else if text != "outside" {
        let Some((namespace, account)) = text.split_once('/') else {
            return Err(format!(
                "`{text}` is not a caller: NAMESPACE/SERVICEACCOUNT, spiffe://…, or `outside`"
            ));
        };
        names::dns_label(namespace)?;
        names::dns_name(account)?;
    }
    Ok(text.to_owned())
}

/// As `bartizan can` takes a callee.
fn parse_callee(text: &str) -> Result<String, String> {
    let name = match text.rsplit_once(':') {
        Some((name, port)) => {
            Port::parse(port).map_err(|error| error.to_string())?;
            name
        }
        None => text,
    };
    let problem = match name.split_once('/') {
        Some((namespace, workload)) => names::dns_label(namespace)
            .and_then(|_| names::dns_name(workload))
            .err(),
        None => bartizan_types::Hostname::parse(name)
            .err()
            .map(|error| error.to_string()),
    };
    match problem {
        None => Ok(text.to_owned()),
        Some(problem) => Err(format!(
            "`{text}` is not a callee (NAME.NAMESPACE[:PORT] of a service, or NAMESPACE/WORKLOAD[:PORT]): {problem}"
        )),
    }
}

fn read_request(value: Value<'_>) -> Option<TestRequest> {
    value.map(|fields| {
        let method = fields.get("method").and_then(|value| {
            value.parse(|text| {
                // RFC 9110 §9.1: a method is a token, in its own case.
                names::header_name(text)
                    .map(|_| text.to_owned())
                    .map_err(|_| format!("`{text}` is not a method"))
            })
        });
        let path = fields.get("path").and_then(|value| {
            value.parse(|text| {
                if text.starts_with('/') && text.bytes().all(|b| b > b' ' && b != 0x7f) || text == "*" {
                    Ok(text.to_owned())
                } else {
                    Err(format!("`{text}` is not a path: it starts with `/`"))
                }
            })
        });
        let host = fields
            .get("host")
            .and_then(|value| value.parse(names::header_value));
        let headers = fields.get("headers").map(read_headers).unwrap_or_default();
        let claims = fields.get("claims").and_then(|value| {
            let claims = value.json()?;
            if let serde_json::Value::Object(claims) = claims {
                return Some(claims);
            }
            value.error(codes::WRONG_TYPE, "`claims` is a mapping of claims to values");
            None
        });
        let address = |name: &'static str| {
            fields.get(name).and_then(|value| {
                value.parse(|text| {
                    text.parse::<IpAddr>()
                        .map_err(|_| format!("`{text}` is not an address"))
                })
            })
        };
        let source_ip = address("sourceIp");
        let remote_ip = address("remoteIp");
        let at = fields.get("at").and_then(|value| value.parse(names::timestamp));
        let token = read_token(fields, claims.is_some());
        Some(TestRequest {
            method,
            path,
            host,
            headers,
            claims,
            source_ip,
            remote_ip,
            at,
            token,
        })
    })
}

fn read_token(fields: &Fields<'_>, has_claims: bool) -> Option<TestToken> {
    let text = fields
        .get("token")
        .and_then(|value| value.parse(names::header_value));
    let file = fields
        .get("tokenFile")
        .and_then(crate::istio::matcher::read_present);
    let given = fields.get("token").or_else(|| fields.get("tokenFile"))?;
    if text.is_some() && file.is_some() {
        given.error_help(
            codes::CONFLICT,
            "a request has one token",
            "leave `token` or `tokenFile` out",
        );
    } else if !has_claims {
        let help = "say in `claims` what the token says: that is what is judged without the mesh";
        given.error_help(codes::CONFLICT, "a token stands beside its claims", help);
    }
    match (text, file) {
        (Some(text), _) => Some(TestToken::Text(text)),
        (None, file) => Some(TestToken::File(file?.to_owned())),
    }
}

fn read_headers(value: Value<'_>) -> Vec<(String, String)> {
    let mut headers = Vec::new();
    for (key, spot, value) in value.entries() {
        match names::header_name(key) {
            Ok(name) => headers.extend(value.parse(names::header_value).map(|text| (name, text))),
            Err(what) => value.sink.error(codes::INVALID_VALUE, spot, what),
        }
    }
    headers
}

fn read_expectation(value: Value<'_>) -> Option<Expectation> {
    if value.as_integer() == Some(401) {
        return Some(Expectation::Unauthenticated);
    }
    value.choice(&[
        ("ALLOW", Expectation::Allow),
        ("DENY", Expectation::Deny),
        ("401", Expectation::Unauthenticated),
    ])
}

const DECIDING: &[&str] = &[
    "AuthorizationPolicy",
    "AccessRule",
    "RequestAuthentication",
    "PeerAuthentication",
];

fn parse_rule(text: &str) -> Result<TestRule, String> {
    let form = || format!("`{text}` is not a rule: `AuthorizationPolicy NAMESPACE/NAME rules[0]`");
    let mut words = text.split(' ');
    let (Some(kind), Some(policy)) = (words.next(), words.next()) else {
        return Err(form());
    };
    if !DECIDING.contains(&kind) {
        return Err(format!(
            "`{kind}` is not a kind that decides: `{}`",
            DECIDING.join("`, `")
        ));
    }
    let (namespace, name) = policy.split_once('/').ok_or_else(form)?;
    let policy = NamespacedName::new(
        names::dns_label(namespace)?,
        Name::parse(name).map_err(|e| e.to_string())?,
    );
    let rule = match words.next() {
        None => None,
        Some(rule) => {
            let index = rule
                .strip_prefix("rules[")
                .or_else(|| rule.strip_prefix("jwtRules["))
                .and_then(|rest| rest.strip_suffix(']'))
                .ok_or_else(form)?;
            Some(index.parse().map_err(|_| form())?)
        }
    };
    if words.next().is_some() {
        return Err(form());
    }
    Ok(TestRule {
        kind: kind.into(),
        policy,
        rule,
    })
}
