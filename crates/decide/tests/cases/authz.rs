//! `cases/authz`: policies as people write them, requests and connections, and what must come out; the explanation must
//! say the same as the decision.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;

use bartizan_decide::{
    ConnectionFacts, Engine, Explanation, HttpFacts, authorize_http, authorize_tcp, explain_http, explain_tcp,
};
use bartizan_mesh::{
    Action, Condition, Matcher, MtlsMode, Operation, PathMatch, PathRule, Policy, Profile, Resource, Rule,
    Settings, Snapshot, Source, Transaction, View,
};
use bartizan_types::{
    Cidr, Hostname, Name, NamespacedName, Peer, Port, SpiffeId, StringMatch, TrustDomain, Version,
};
use serde::Deserialize;

type Failure = Box<dyn std::error::Error>;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    #[serde(default = "zero_trust")]
    profile: Profile,
    #[serde(default = "permissive")]
    mtls: MtlsMode,
    /// The paths' rule; by default that of the profile.
    paths: Option<PathRule>,
    policies: Vec<WrittenPolicy>,
    /// Policies that the view names and that are not there.
    #[serde(default)]
    missing: Vec<String>,
    cases: Vec<Case>,
}

fn zero_trust() -> Profile {
    Profile::ZeroTrust
}

fn permissive() -> MtlsMode {
    MtlsMode::Permissive
}

/// An `AuthorizationPolicy`, shortened: `namespace/name` and its spec.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct WrittenPolicy {
    name: String,
    #[serde(default)]
    action: WrittenAction,
    #[serde(default)]
    rules: Vec<WrittenRule>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
enum WrittenAction {
    #[default]
    Allow,
    Deny,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenRule {
    #[serde(default)]
    from: Vec<WrittenFrom>,
    #[serde(default)]
    to: Vec<WrittenTo>,
    #[serde(default)]
    when: Vec<WrittenWhen>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenFrom {
    source: WrittenSource,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
#[derive(Default)]
struct WrittenSource {
    principals: Vec<String>,
    not_principals: Vec<String>,
    namespaces: Vec<String>,
    not_namespaces: Vec<String>,
    service_accounts: Vec<String>,
    not_service_accounts: Vec<String>,
    trust_domains: Vec<String>,
    not_trust_domains: Vec<String>,
    ip_blocks: Vec<String>,
    not_ip_blocks: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenTo {
    operation: WrittenOperation,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct WrittenOperation {
    hosts: Vec<String>,
    not_hosts: Vec<String>,
    ports: Vec<String>,
    not_ports: Vec<String>,
    methods: Vec<String>,
    not_methods: Vec<String>,
    paths: Vec<String>,
    not_paths: Vec<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct WrittenWhen {
    key: String,
    #[serde(default)]
    values: Vec<String>,
    #[serde(default)]
    not_values: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    name: String,
    /// An HTTP request,
    http: Option<Request>,
    /// or a connection of bytes.
    tcp: Option<Request>,
    expect: Expect,
    /// The rule that decides, as Istio's tools print it.
    by: Option<String>,
    /// The reason's name, where no rule decides.
    reason: Option<String>,
    /// Fields that the explanation names as failed.
    #[serde(default)]
    failed: Vec<String>,
}

#[derive(Clone, Copy, PartialEq, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Expect {
    Allow,
    Deny,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Request {
    /// The identity without `spiffe://`; none is plaintext.
    from: Option<String>,
    ip: IpAddr,
    to: SocketAddr,
    sni: Option<String>,
    method: String,
    host: Option<String>,
    path: String,
    headers: BTreeMap<String, Vec<String>>,
}

impl Default for Request {
    fn default() -> Self {
        Self {
            from: None,
            ip: IpAddr::from([10, 66, 0, 1]),
            to: SocketAddr::from(([10, 66, 0, 9], 8080)),
            sni: None,
            method: "GET".to_owned(),
            host: Some("app.here".to_owned()),
            path: "/".to_owned(),
            headers: BTreeMap::new(),
        }
    }
}

pub(crate) fn run(file: &Path) -> datatest_stable::Result<()> {
    let table: Table = crate::read(file)?;
    let local = NamespacedName::parse("here/app-0")?;
    let engine = engine(&table, &local)?;
    let mut failures = Vec::new();
    for case in &table.cases {
        if let Err(failure) = check(&engine, &local, case) {
            failures.push(format!("{}: {failure}", case.name));
        }
    }
    crate::verdict(&failures)
}

fn check(engine: &Engine, local: &NamespacedName, case: &Case) -> Result<(), Failure> {
    let ((Some(request), None) | (None, Some(request))) = (&case.http, &case.tcp) else {
        return Err("a case is `http` or `tcp`".into());
    };
    let peer = match &request.from {
        Some(id) => Peer::Authenticated(SpiffeId::parse(&format!("spiffe://{id}"))?),
        None => Peer::Plaintext,
    };
    let connection = ConnectionFacts {
        local,
        peer: &peer,
        source: request.ip,
        destination: request.to,
        sni: request.sni.as_deref(),
    };
    let headers: Vec<(String, String)> = request
        .headers
        .iter()
        .flat_map(|(name, values)| values.iter().map(|value| (name.clone(), value.clone())))
        .collect();
    let http = HttpFacts {
        connection,
        method: &request.method,
        authority: request.host.as_deref(),
        target: &request.path,
        headers: &headers,
    };
    let (result, explanation): (_, Explanation) = if case.http.is_some() {
        (authorize_http(engine, &http), explain_http(engine, &http))
    } else {
        (
            authorize_tcp(engine, &connection),
            explain_tcp(engine, &connection),
        )
    };
    let (found, by, reason) = match &result {
        Ok(permit) => (Expect::Allow, engine.allowed_by(permit), None),
        Err(denied) => {
            let reason = format!("{:?}", denied.reason);
            (Expect::Deny, denied.rule(), Some(reason))
        }
    };
    let by = by.map(ToString::to_string);
    if found != case.expect {
        return Err(format!("{found:?} by {by:?} {reason:?}\n{explanation}").into());
    }
    if case.by.is_some() && by != case.by {
        return Err(format!("decided by {by:?}, not {:?}", case.by).into());
    }
    if let Some(wanted) = &case.reason
        && reason
            .as_deref()
            .is_none_or(|reason| !reason.starts_with(wanted.as_str()))
    {
        return Err(format!("reason {reason:?}, not {wanted}").into());
    }
    if explanation.allowed != result.is_ok() || explanation.decided_by.map(|by| by.to_string()) != by {
        return Err("the explanation says something else than the decision".into());
    }
    let fields: Vec<&str> = explanation
        .policies
        .iter()
        .flat_map(|policy| &policy.rules)
        .flat_map(|rule| &rule.failed)
        .map(|failed| failed.field.as_str())
        .collect();
    for wanted in &case.failed {
        if !fields.contains(&wanted.as_str()) {
            return Err(format!("the explanation names {fields:?}, not {wanted}").into());
        }
    }
    Ok(())
}

fn engine(table: &Table, local: &NamespacedName) -> Result<Engine, Failure> {
    let trust_domain = TrustDomain::parse("cluster.local")?;
    let mut upserts = vec![Resource::Settings(Settings {
        trust_domain: trust_domain.clone(),
        root_namespace: Name::parse("istio-system")?,
        cluster_domain: Hostname::parse("cluster.local")?,
        profile: table.profile,
        paths: table.paths.unwrap_or(match table.profile {
            Profile::ZeroTrust => PathRule::RefuseAmbiguous,
            Profile::Istio => PathRule::Base,
        }),
    })];
    let mut names = Vec::new();
    for policy in &table.policies {
        let policy = policy.to_policy()?;
        names.push(policy.name.clone());
        upserts.push(Resource::Policy(policy));
    }
    for name in &table.missing {
        names.push(NamespacedName::parse(name)?);
    }
    upserts.push(Resource::View(View {
        workload: local.clone(),
        identity: SpiffeId::workload(&trust_domain, &local.namespace, &Name::parse("app")?),
        labels: BTreeMap::from([("app".to_owned(), "app".to_owned())]),
        policies: names,
        mtls: table.mtls,
        inbound: Vec::new(),
        gateway: None,
    }));
    let snapshot = Snapshot::default().apply(&Transaction {
        version: Version(1),
        upserts,
        removals: Vec::new(),
    });
    Ok(Engine::build(Arc::new(snapshot)))
}

impl WrittenPolicy {
    fn to_policy(&self) -> Result<Policy, Failure> {
        let name = NamespacedName::parse(&self.name)?;
        let rules: Result<_, Failure> = self
            .rules
            .iter()
            .map(|rule| rule.to_rule(&name.namespace))
            .collect();
        Ok(Policy {
            action: match self.action {
                WrittenAction::Allow => Action::Allow,
                WrittenAction::Deny => Action::Deny,
            },
            rules: rules?,
            name,
        })
    }
}

impl WrittenRule {
    fn to_rule(&self, namespace: &Name) -> Result<Rule, Failure> {
        Ok(Rule {
            from: self
                .from
                .iter()
                .map(|from| from.source.to_source(namespace))
                .collect::<Result<_, Failure>>()?,
            to: self
                .to
                .iter()
                .map(|to| to.operation.to_operation())
                .collect::<Result<_, Failure>>()?,
            when: self
                .when
                .iter()
                .map(|when| when.to_condition(namespace))
                .collect::<Result<_, Failure>>()?,
        })
    }
}

impl WrittenSource {
    fn to_source(&self, namespace: &Name) -> Result<Source, Failure> {
        let accounts = |text: &str| account(text, namespace);
        Ok(Source {
            principals: matcher(&self.principals, &self.not_principals, text)?,
            namespaces: matcher(&self.namespaces, &self.not_namespaces, |text| Ok(text.into()))?,
            service_accounts: matcher(&self.service_accounts, &self.not_service_accounts, accounts)?,
            trust_domains: matcher(&self.trust_domains, &self.not_trust_domains, text)?,
            ip_blocks: matcher(&self.ip_blocks, &self.not_ip_blocks, block)?,
        })
    }
}

impl WrittenOperation {
    fn to_operation(&self) -> Result<Operation, Failure> {
        Ok(Operation {
            hosts: matcher(&self.hosts, &self.not_hosts, text)?,
            ports: matcher(&self.ports, &self.not_ports, port)?,
            methods: matcher(&self.methods, &self.not_methods, text)?,
            paths: matcher(&self.paths, &self.not_paths, |path| {
                Ok(if path.contains('{') {
                    PathMatch::Template(path.into())
                } else {
                    PathMatch::Text(StringMatch::parse(path))
                })
            })?,
        })
    }
}

impl WrittenWhen {
    fn to_condition(&self, namespace: &Name) -> Result<Condition, Failure> {
        let (values, none) = (&self.values, &self.not_values);
        Ok(match self.key.as_str() {
            "source.ip" => Condition::SourceIp(matcher(values, none, block)?),
            "source.namespace" => Condition::SourceNamespace(matcher(values, none, |text| Ok(text.into()))?),
            "source.principal" => Condition::SourcePrincipal(matcher(values, none, text)?),
            "source.serviceAccount" => {
                Condition::SourceServiceAccount(matcher(values, none, |text| account(text, namespace))?)
            }
            "source.trustDomain" => Condition::SourceTrustDomain(matcher(values, none, text)?),
            "destination.ip" => Condition::DestinationIp(matcher(values, none, block)?),
            "destination.port" => Condition::DestinationPort(matcher(values, none, port)?),
            "connection.sni" => Condition::Sni(matcher(values, none, text)?),
            key => {
                let name = key
                    .strip_prefix("request.headers[")
                    .and_then(|rest| rest.strip_suffix(']'))
                    .ok_or_else(|| format!("unknown key `{key}`"))?;
                Condition::Header(name.to_ascii_lowercase().into(), matcher(values, none, text)?)
            }
        })
    }
}

fn matcher<T>(
    any: &[String],
    none: &[String],
    parse: impl Fn(&str) -> Result<T, Failure>,
) -> Result<Matcher<T>, Failure> {
    let parsed = |texts: &[String]| texts.iter().map(|text| parse(text)).collect::<Result<_, _>>();
    Ok(Matcher {
        any: parsed(any)?,
        none: parsed(none)?,
    })
}

#[expect(clippy::unnecessary_wraps, reason = "one of the parsers that a matcher takes")]
fn text(text: &str) -> Result<StringMatch, Failure> {
    Ok(StringMatch::parse(text))
}

fn block(text: &str) -> Result<Cidr, Failure> {
    Ok(Cidr::parse(text)?)
}

fn port(text: &str) -> Result<Port, Failure> {
    Ok(Port::parse(text)?)
}

fn account(text: &str, namespace: &Name) -> Result<NamespacedName, Failure> {
    Ok(match text.split_once('/') {
        Some(_) => NamespacedName::parse(text)?,
        None => NamespacedName::new(namespace.clone(), Name::parse(text)?),
    })
}
