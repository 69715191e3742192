//! `cases/authn`: rules for tokens, requests with tokens, and who the user is. Signatures are not at stake here: a token is
//! its name, and what the table says of it is what a verification finds.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;

use bartizan_decide::{
    Authenticated, ConnectionFacts, Engine, HttpFacts, Keys, RefusedKind, TokenRefused, TokenRule,
    Unauthenticated, User, authenticate,
};
use bartizan_mesh::{
    ClaimHeader, JwtRule, KeySet, KeySource, MtlsMode, PathRule, Profile, RemoteAddress,
    RequestAuthentication, Resource, Settings, Snapshot, TokenLocation, Transaction, View,
};
use bartizan_types::{Hostname, Labels, Name, NamespacedName, Peer, SpiffeId, TrustDomain, Version};
use serde::Deserialize;

type Failure = Box<dyn std::error::Error>;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Table {
    /// The profile is Istio's.
    #[serde(default)]
    istio: bool,
    /// `RequestAuthentication`s by their name.
    documents: BTreeMap<String, Vec<WrittenRule>>,
    /// Documents that the view names and that are not there.
    #[serde(default)]
    missing: Vec<String>,
    /// Fetched key sets by their name; one without keys was never fetched.
    #[serde(default)]
    key_sets: BTreeMap<String, Option<String>>,
    tokens: BTreeMap<String, Token>,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct WrittenRule {
    issuer: Option<String>,
    #[serde(default)]
    audiences: Vec<String>,
    /// The key that verifies, inline,
    key: Option<String>,
    /// or the key set.
    key_set: Option<String>,
    #[serde(default)]
    from_headers: Vec<(String, String)>,
    #[serde(default)]
    from_params: Vec<String>,
    #[serde(default)]
    from_cookies: Vec<String>,
    #[serde(default)]
    forward_original_token: bool,
    output_payload_to_header: Option<String>,
    #[serde(default)]
    output_claim_to_headers: BTreeMap<String, String>,
    #[serde(default)]
    space_delimited_claims: Vec<String>,
}

/// What a verification finds in a token.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Token {
    key: String,
    claims: serde_json::Map<String, serde_json::Value>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Case {
    name: String,
    #[serde(default = "get")]
    method: String,
    #[serde(default = "root")]
    target: String,
    #[serde(default)]
    headers: Vec<(String, String)>,
    #[serde(default)]
    now: i64,
    /// The principal of the user, `none`,
    user: Option<String>,
    /// or what the client is told.
    refused: Option<String>,
    status: Option<u16>,
    /// What is forwarded, where it is not what was sent: the headers in their order, and the target.
    forwarded: Option<Vec<(String, String)>>,
    forwarded_target: Option<String>,
    /// A claim as policies see it.
    #[serde(default)]
    claims: BTreeMap<String, serde_json::Value>,
}

fn get() -> String {
    "GET".to_owned()
}

fn root() -> String {
    "/".to_owned()
}

pub(crate) fn run(file: &Path) -> datatest_stable::Result<()> {
    let table: Table = crate::read(file)?;
    let local = NamespacedName::parse("here/app-0")?;
    let engine = engine(&table, &local)?;
    let mut failures = Vec::new();
    for case in &table.cases {
        if let Err(failure) = check(&engine, &table, &local, case) {
            failures.push(format!("{}: {failure}", case.name));
        }
    }
    crate::verdict(&failures)
}

fn check(engine: &Engine, table: &Table, local: &NamespacedName, case: &Case) -> Result<(), Failure> {
    let facts = HttpFacts {
        connection: ConnectionFacts {
            local,
            peer: &Peer::Plaintext,
            source: IpAddr::from([10, 66, 0, 1]),
            remote: IpAddr::from([10, 66, 0, 1]),
            destination: SocketAddr::from(([10, 66, 0, 9], 8080)),
            sni: None,
            tls: None,
            now: case.now,
        },
        method: &case.method,
        authority: Some("app.here"),
        target: &case.target,
        headers: &case.headers,
        user: None,
        route_is_for_people: false,
    };
    let result = authenticate(engine, &facts, |rule, token| {
        verify(&table.tokens, rule, token, case.now)
    });
    let found = match &result {
        Ok(authenticated) => (Some(principal(authenticated)), None, None),
        Err(refused) => (None, Some(refused.says().to_owned()), Some(refused.status())),
    };
    if found.0 != case.user || found.1 != case.refused || (case.status.is_some() && found.2 != case.status) {
        let why = result.as_ref().err().map(Unauthenticated::why);
        return Err(format!("gives {found:?} {why:?}").into());
    }
    let Ok(authenticated) = result else {
        return Ok(());
    };
    let (headers, target) = applied(case, &authenticated)?;
    let wanted = case.forwarded.as_ref().unwrap_or(&case.headers);
    if headers != *wanted {
        return Err(format!("forwards the headers {headers:?}").into());
    }
    if target != *case.forwarded_target.as_ref().unwrap_or(&case.target) {
        return Err(format!("forwards the target `{target}`").into());
    }
    for (name, wanted) in &case.claims {
        let claim = authenticated
            .user
            .as_ref()
            .and_then(|user| user.claims().get(name));
        if claim != Some(wanted) {
            return Err(format!("claim `{name}` is {claim:?}").into());
        }
    }
    Ok(())
}

fn principal(authenticated: &Authenticated) -> String {
    let user = authenticated.user.as_ref();
    match user {
        None => "none".to_owned(),
        Some(user) => user.principal().unwrap_or("without principal").to_owned(),
    }
}

/// The request as a proxy would forward it.
fn applied(case: &Case, authenticated: &Authenticated) -> Result<(Vec<(String, String)>, String), Failure> {
    let changes = &authenticated.changes;
    let is_gone = |name: &str| {
        let all = changes.forged.iter().chain(&changes.remove);
        all.into_iter().any(|gone| gone.eq_ignore_ascii_case(name))
    };
    let mut headers: Vec<(String, String)> = case
        .headers
        .iter()
        .filter(|(name, _)| !is_gone(name))
        .cloned()
        .collect();
    for (name, value) in &changes.set {
        headers.push((name.to_string(), String::from_utf8(value.to_vec())?));
    }
    let target = changes.target.clone().unwrap_or_else(|| case.target.clone());
    Ok((headers, target))
}

/// As `identity` verifies: issuer, times, audience, then the key.
fn verify(
    tokens: &BTreeMap<String, Token>,
    rule: &Arc<TokenRule>,
    text: &str,
    now: i64,
) -> Result<Arc<User>, TokenRefused> {
    let refused = |kind, says| Err(TokenRefused::new(kind, says, format!("token `{text}`")));
    let name = text.split('.').next().unwrap_or_default();
    let Some(token) = tokens.get(name) else {
        return refused(RefusedKind::Other, "Jwt is not in the form");
    };
    let issuer = token.claims.get("iss").and_then(serde_json::Value::as_str);
    if rule.rule.issuer.is_some() && rule.rule.issuer.as_deref() != issuer {
        return refused(RefusedKind::OtherIssuer, "Jwt issuer is not configured");
    }
    let expires = token.claims.get("exp").and_then(serde_json::Value::as_i64);
    if expires.is_some_and(|at| at + 60 <= now) {
        return refused(RefusedKind::Other, "Jwt is expired");
    }
    let audience = token.claims.get("aud").and_then(serde_json::Value::as_str);
    let is_for = |wanted: &Arc<str>| Some(&**wanted) == audience;
    if !rule.rule.audiences.is_empty() && !rule.rule.audiences.iter().any(is_for) {
        return refused(RefusedKind::Audience, "Audiences in Jwt are not allowed");
    }
    match &rule.keys {
        Keys::Text { jwks, .. } if **jwks == *token.key => Ok(Arc::new(User::new(
            rule,
            text,
            token.claims.clone(),
            Some(&token.key),
        ))),
        Keys::Text { .. } => refused(RefusedKind::Other, "Jwt verification fails"),
        Keys::Missing { .. } => Err(TokenRefused::new(
            RefusedKind::Other,
            "nobody may ask without keys",
            String::new(),
        )),
    }
}

fn engine(table: &Table, local: &NamespacedName) -> Result<Engine, Failure> {
    let trust_domain = TrustDomain::parse("cluster.local")?;
    let mut upserts = vec![Resource::Settings(Settings {
        trust_domain: trust_domain.clone(),
        root_namespace: Name::parse("istio-system")?,
        cluster_domain: Hostname::parse("cluster.local")?,
        profile: if table.istio {
            Profile::istio()
        } else {
            Profile::zero_trust()
        },
        paths: PathRule::RefuseAmbiguous,
    })];
    let mut authentications = Vec::new();
    for (name, rules) in &table.documents {
        let name = NamespacedName::parse(name)?;
        authentications.push(name.clone());
        upserts.push(Resource::RequestAuthentication(RequestAuthentication {
            name,
            rules: rules.iter().map(WrittenRule::to_rule).collect(),
            is_unreadable: false,
        }));
    }
    for name in &table.missing {
        authentications.push(NamespacedName::parse(name)?);
    }
    for (name, keys) in &table.key_sets {
        upserts.push(Resource::KeySet(KeySet {
            name: name.as_str().into(),
            source: name.as_str().into(),
            jwks: keys.as_deref().map(Into::into),
            fetched_at: 0,
        }));
    }
    upserts.push(Resource::View(View {
        workload: local.clone(),
        identity: SpiffeId::workload(&trust_domain, &local.namespace, &Name::parse("app")?),
        labels: Labels::new(),
        policies: Vec::new(),
        authentications,
        is_for_people: false,
        remote: RemoteAddress::default(),
        mtls: MtlsMode::Permissive,
        inbound: Vec::new(),
        gateway: None,
    }));
    Ok(Engine::build(Arc::new(Snapshot::default().apply(&Transaction {
        version: Version(1),
        upserts,
        removals: Vec::new(),
    }))))
}

impl WrittenRule {
    /// As `compile` makes it: with Istio's default places where there are none.
    fn to_rule(&self) -> JwtRule {
        let headers = self
            .from_headers
            .iter()
            .map(|(name, prefix)| TokenLocation::Header {
                name: name.to_ascii_lowercase().into(),
                prefix: prefix.as_str().into(),
            });
        let params = self
            .from_params
            .iter()
            .map(|name| TokenLocation::Param(name.as_str().into()));
        let cookies = self
            .from_cookies
            .iter()
            .map(|name| TokenLocation::Cookie(name.as_str().into()));
        let mut locations: Vec<TokenLocation> = headers.chain(params).chain(cookies).collect();
        if locations.is_empty() {
            locations = vec![
                TokenLocation::Header {
                    name: "authorization".into(),
                    prefix: "Bearer ".into(),
                },
                TokenLocation::Param("access_token".into()),
            ];
        }
        JwtRule {
            issuer: self.issuer.as_deref().map(Into::into),
            audiences: self
                .audiences
                .iter()
                .map(|audience| audience.as_str().into())
                .collect(),
            keys: match (&self.key, &self.key_set) {
                (Some(key), _) => KeySource::Inline(key.as_str().into()),
                (None, name) => KeySource::Fetched(name.as_deref().unwrap_or("nowhere").into()),
            },
            locations,
            forward_original_token: self.forward_original_token,
            output_payload_to_header: self.output_payload_to_header.as_deref().map(Into::into),
            output_claims: self
                .output_claim_to_headers
                .iter()
                .map(|(header, claim)| ClaimHeader {
                    header: header.as_str().into(),
                    claim: claim.split('.').map(Into::into).collect(),
                })
                .collect(),
            space_delimited_claims: self
                .space_delimited_claims
                .iter()
                .map(|name| name.as_str().into())
                .collect(),
        }
    }
}
