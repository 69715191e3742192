//! `cases/authz`: policies as people write them, requests and connections, and what must come out; the explanation must
//! say the same as the decision.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;

use bartizan_decide::{
    AuthorizerSays, ConnectionFacts, Denied, Engine, Explanation, HttpFacts, Keys, Permit, TlsFacts,
    TokenRule, User, Verdict, authorize_after, authorize_http, authorize_tcp, authorize_tcp_after,
    explain_http, explain_tcp,
};
use bartizan_mesh::{
    AcrossNamespaces, Action, Condition, HttpProvider, JwtRule, KeySource, Matcher, MtlsMode, Operation,
    PathMatch, PathRule, Policy, PolicyKind, PolicyName, Profile, Provider, ProviderProtocol, RemoteAddress,
    Resource, Rule, Settings, Snapshot, Source, Transaction, UserCredentials, View, WithoutPolicy, Workload,
};
use bartizan_types::{
    Cidr, Hostname, Labels, Name, NamespacedName, Peer, Port, SpiffeId, StringMatch, TrustDomain, Version,
};
use serde::Deserialize;

type Failure = Box<dyn std::error::Error>;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Table {
    /// Where the table comes from.
    #[serde(default, rename = "why")]
    _why: String,
    #[serde(default)]
    profile: WrittenProfile,
    #[serde(default = "permissive")]
    mtls: MtlsMode,
    /// The paths' rule; by default that of the profile.
    paths: Option<PathRule>,
    /// The workload is marked for people.
    #[serde(default)]
    is_for_people: bool,
    /// The workload's labels, beside `app`.
    #[serde(default)]
    labels: Labels,
    /// Who else is known.
    #[serde(default)]
    workloads: Vec<WrittenWorkload>,
    #[serde(default)]
    providers: Vec<WrittenProvider>,
    #[serde(default)]
    policies: Vec<WrittenPolicy>,
    /// Policies that the view names and that are not there.
    #[serde(default)]
    missing: Vec<String>,
    cases: Vec<Case>,
}

/// A profile's name, or what it says where that differs from `zero-trust`.
#[derive(Deserialize)]
#[serde(untagged)]
enum WrittenProfile {
    Name(String),
    Fields(ProfileFields),
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ProfileFields {
    without_policy: Option<WithoutPolicy>,
    across_namespaces: Option<AcrossNamespaces>,
    user_credentials: Option<UserCredentials>,
}

impl Default for WrittenProfile {
    fn default() -> Self {
        Self::Fields(ProfileFields::default())
    }
}

impl WrittenProfile {
    fn to_profile(&self) -> Result<Profile, Failure> {
        let zero_trust = Profile::zero_trust();
        Ok(match self {
            Self::Name(name) => match name.as_str() {
                "zero-trust" => zero_trust,
                "istio" => Profile::istio(),
                "nist" => Profile {
                    name: Name::parse("nist")?,
                    without_policy: WithoutPolicy::OwnNamespace,
                    across_namespaces: AcrossNamespaces::Named,
                    user_credentials: UserCredentials::WhereMarked,
                    ..zero_trust
                },
                name => return Err(format!("no profile `{name}`").into()),
            },
            Self::Fields(fields) => Profile {
                without_policy: fields.without_policy.unwrap_or(zero_trust.without_policy),
                across_namespaces: fields.across_namespaces.unwrap_or(zero_trust.across_namespaces),
                user_credentials: fields.user_credentials.unwrap_or(zero_trust.user_credentials),
                ..zero_trust
            },
        })
    }
}

fn permissive() -> MtlsMode {
    MtlsMode::Permissive
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenWorkload {
    name: String,
    address: IpAddr,
    /// Without `spiffe://`.
    identity: String,
    #[serde(default)]
    labels: Labels,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct WrittenProvider {
    name: String,
    #[serde(default)]
    fail_open: bool,
    #[serde(default = "forbidden")]
    status_on_error: u16,
    #[serde(default)]
    http: bool,
}

fn forbidden() -> u16 {
    403
}

/// An `AuthorizationPolicy` or an `AccessRule`, shortened: `namespace/name` and its spec.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct WrittenPolicy {
    name: String,
    #[serde(default)]
    action: WrittenAction,
    provider: Option<String>,
    #[serde(default)]
    dry_run: bool,
    #[serde(default)]
    rules: Vec<WrittenRule>,
    /// Makes it an `AccessRule`: the expressions of its rules.
    #[serde(default)]
    expressions: Vec<String>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
enum WrittenAction {
    #[default]
    Allow,
    Deny,
    Audit,
    Custom,
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
    remote_ip_blocks: Vec<String>,
    not_remote_ip_blocks: Vec<String>,
    request_principals: Vec<String>,
    not_request_principals: Vec<String>,
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
    /// The status of the refusal.
    status: Option<u16>,
    /// Fields that the explanation names as failed.
    #[serde(default)]
    failed: Vec<String>,
    /// The authorizers that are asked, in their order, with what they say.
    #[serde(default)]
    asks: Vec<Asked>,
    /// The rules of AUDIT policies that are noted.
    audited: Option<Vec<String>>,
    /// What dry-run policies would do: `allow RULE`, `deny RULE`, or one of both alone.
    shadow: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    provider: String,
    says: Says,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Says {
    Yes,
    No,
    Nothing,
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
    /// The client's address; that of the connection where it is not told.
    remote: Option<IpAddr>,
    to: SocketAddr,
    sni: Option<String>,
    /// Version, cipher and group.
    tls: Option<(String, String, String)>,
    /// In seconds since 1970.
    now: i64,
    method: String,
    host: Option<String>,
    path: String,
    headers: BTreeMap<String, Vec<String>>,
    /// The payload of the verified token.
    claims: Option<serde_json::Map<String, serde_json::Value>>,
    /// The route is marked for people.
    for_people: bool,
}

impl Default for Request {
    fn default() -> Self {
        Self {
            from: None,
            ip: IpAddr::from([10, 66, 0, 1]),
            to: SocketAddr::from(([10, 66, 0, 9], 8080)),
            remote: None,
            sni: None,
            tls: None,
            now: 0,
            method: "GET".to_owned(),
            host: Some("app.here".to_owned()),
            path: "/".to_owned(),
            headers: BTreeMap::new(),
            claims: None,
            for_people: false,
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
        remote: request.remote.unwrap_or(request.ip),
        destination: request.to,
        sni: request.sni.as_deref(),
        tls: request.tls.as_ref().map(|(version, cipher, group)| TlsFacts {
            version,
            cipher,
            group,
        }),
        now: request.now,
    };
    let user = request.claims.clone().map(|claims| user(local, claims));
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
        user: user.as_ref(),
        route_is_for_people: request.for_people,
    };
    let (verdict, explanation): (_, Explanation) = if case.http.is_some() {
        (authorize_http(engine, &http), explain_http(engine, &http))
    } else {
        (
            authorize_tcp(engine, &connection),
            explain_tcp(engine, &connection),
        )
    };
    let result = asked(engine, &http, case, verdict)?;
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
    check_marks(case, &result)?;
    // An explanation is what comes out when every authorizer says yes.
    let says_yes = case.asks.iter().all(|asked| matches!(asked.says, Says::Yes));
    let explained_by = explanation.decided_by.as_ref().map(ToString::to_string);
    if says_yes && (explanation.allowed != result.is_ok() || explained_by != by) {
        return Err(format!("the explanation says something else than the decision\n{explanation}").into());
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

/// What comes out after all authorizers were asked; they are asked in the order of the case, and no others.
fn asked(
    engine: &Engine,
    http: &HttpFacts<'_, Vec<(String, String)>>,
    case: &Case,
    verdict: Result<Verdict, Denied>,
) -> Result<Result<Permit, Denied>, Failure> {
    let mut verdict = verdict;
    let mut asks = case.asks.iter();
    loop {
        match verdict {
            Ok(Verdict::Permit(permit)) => {
                return match asks.next() {
                    None => Ok(Ok(permit)),
                    Some(asked) => Err(format!("`{}` was not asked", asked.provider).into()),
                };
            }
            Err(denied) => {
                return match asks.next() {
                    None => Ok(Err(denied)),
                    Some(asked) => Err(format!("{denied:?} before `{}` was asked", asked.provider).into()),
                };
            }
            Ok(Verdict::Ask(ask)) => {
                let asked = asks
                    .next()
                    .filter(|asked| *asked.provider == *ask.provider.name)
                    .ok_or_else(|| format!("`{}` is asked by {}", ask.provider.name, ask.rule))?;
                let says = match asked.says {
                    Says::Yes => AuthorizerSays::Allowed,
                    Says::No => AuthorizerSays::Denied,
                    Says::Nothing => AuthorizerSays::NoAnswer,
                };
                verdict = if case.http.is_some() {
                    authorize_after(engine, http, ask, says)
                } else {
                    authorize_tcp_after(engine, &http.connection, ask, says)
                };
            }
        }
    }
}

fn check_marks(case: &Case, result: &Result<Permit, Denied>) -> Result<(), Failure> {
    let marks = match result {
        Ok(permit) => permit.marks(),
        Err(denied) => denied.marks(),
    };
    let audited: Vec<String> = marks.audited.iter().map(ToString::to_string).collect();
    if case.audited.as_ref().is_some_and(|wanted| *wanted != audited) {
        return Err(format!("audited by {audited:?}").into());
    }
    let shadow = marks.shadow.as_ref().map(|shadow| {
        let word = if shadow.allowed { "allow" } else { "deny" };
        match &shadow.rule {
            Some(rule) => format!("{word} {rule}"),
            None => word.to_owned(),
        }
    });
    if case.shadow.is_some() && shadow != case.shadow {
        return Err(format!("dry-run policies say {shadow:?}").into());
    }
    let status = result.as_ref().err().map(Denied::status);
    if case.status.is_some() && status != case.status {
        return Err(format!("answered with {status:?}").into());
    }
    Ok(())
}

fn user(local: &NamespacedName, claims: serde_json::Map<String, serde_json::Value>) -> User {
    let rule = TokenRule {
        policy: local.clone(),
        index: 0,
        rule: JwtRule {
            issuer: None,
            audiences: Vec::new(),
            keys: KeySource::Inline("{}".into()),
            locations: Vec::new(),
            forward_original_token: false,
            output_payload_to_header: None,
            output_claims: Vec::new(),
            space_delimited_claims: vec!["groups".into()],
        },
        keys: Keys::Text {
            jwks: "{}".into(),
            set: None,
        },
    };
    User::new(&rule, "header.payload.signature", claims, Some("key-1"))
}

fn engine(table: &Table, local: &NamespacedName) -> Result<Engine, Failure> {
    let trust_domain = TrustDomain::parse("cluster.local")?;
    let profile = table.profile.to_profile()?;
    let mut upserts = vec![Resource::Settings(Settings {
        trust_domain: trust_domain.clone(),
        root_namespace: Name::parse("istio-system")?,
        cluster_domain: Hostname::parse("cluster.local")?,
        paths: table.paths.unwrap_or(match profile.without_policy {
            WithoutPolicy::Deny | WithoutPolicy::OwnNamespace => PathRule::RefuseAmbiguous,
            WithoutPolicy::Allow => PathRule::Base,
        }),
        profile,
    })];
    for workload in &table.workloads {
        upserts.push(Resource::Workload(workload.to_workload()?));
    }
    for provider in &table.providers {
        upserts.push(Resource::Provider(provider.to_provider()?));
    }
    let mut names = Vec::new();
    for policy in &table.policies {
        let policy = policy.to_policy()?;
        names.push(policy.id());
        upserts.push(Resource::Policy(policy));
    }
    for name in &table.missing {
        names.push(PolicyName {
            kind: PolicyKind::AuthorizationPolicy,
            name: NamespacedName::parse(name)?,
        });
    }
    upserts.push(Resource::View(View {
        workload: local.clone(),
        identity: SpiffeId::workload(&trust_domain, &local.namespace, &Name::parse("app")?),
        labels: table
            .labels
            .clone()
            .into_iter()
            .chain([("app".to_owned(), "app".to_owned())])
            .collect(),
        policies: names,
        authentications: Vec::new(),
        is_for_people: table.is_for_people,
        remote: RemoteAddress::default(),
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
        let rules: Result<Vec<Rule>, Failure> = self
            .rules
            .iter()
            .map(|rule| rule.to_rule(&name.namespace))
            .collect();
        let expressions = self.expressions.iter().map(|text| Rule {
            expression: Some(text.as_str().into()),
            ..Rule::default()
        });
        Ok(Policy {
            kind: if self.expressions.is_empty() {
                PolicyKind::AuthorizationPolicy
            } else {
                PolicyKind::AccessRule
            },
            action: match self.action {
                WrittenAction::Allow => Action::Allow,
                WrittenAction::Deny => Action::Deny,
                WrittenAction::Audit => Action::Audit,
                WrittenAction::Custom => Action::Custom,
            },
            provider: self.provider.as_deref().map(Into::into),
            dry_run: self.dry_run,
            rules: rules?.into_iter().chain(expressions).collect(),
            name,
        })
    }
}

impl WrittenWorkload {
    fn to_workload(&self) -> Result<Workload, Failure> {
        let name = NamespacedName::parse(&self.name)?;
        Ok(Workload {
            addresses: vec![self.address],
            identity: SpiffeId::parse(&format!("spiffe://{}", self.identity))?,
            workload_name: name.name.clone(),
            canonical_service: name.name.to_string(),
            canonical_revision: "latest".to_owned(),
            app: None,
            version: self.labels.get("version").cloned(),
            hostname: None,
            labels: self.labels.clone(),
            name,
        })
    }
}

impl WrittenProvider {
    fn to_provider(&self) -> Result<Provider, Failure> {
        Ok(Provider {
            name: self.name.as_str().into(),
            service: NamespacedName::parse("auth/opa")?,
            port: Port::new(9191)?,
            timeout_ms: 1_000,
            fail_open: self.fail_open,
            status_on_error: self.status_on_error,
            body: None,
            clear_route_cache: false,
            protocol: if self.http {
                ProviderProtocol::Http(HttpProvider::default())
            } else {
                ProviderProtocol::Grpc
            },
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
            expression: None,
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
            remote_ip_blocks: matcher(&self.remote_ip_blocks, &self.not_remote_ip_blocks, block)?,
            request_principals: matcher(&self.request_principals, &self.not_request_principals, text)?,
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
            "remote.ip" => Condition::RemoteIp(matcher(values, none, block)?),
            "request.auth.principal" => Condition::RequestPrincipal(matcher(values, none, text)?),
            "request.auth.audiences" => Condition::RequestAudiences(matcher(values, none, text)?),
            "request.auth.presenter" => Condition::RequestPresenter(matcher(values, none, text)?),
            key if key.starts_with("request.auth.claims[") => {
                let path = key
                    .strip_prefix("request.auth.claims[")
                    .and_then(|rest| rest.strip_suffix(']'))
                    .ok_or_else(|| format!("unknown key `{key}`"))?;
                let path = path.split("][").map(Into::into).collect();
                Condition::RequestClaim(path, matcher(values, none, text)?)
            }
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
