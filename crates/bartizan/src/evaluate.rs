//! Decisions at the door, by the same code that makes them in a proxy: on what a workload's proxy is told, or on a folder.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use anyhow::{Context as _, bail};
use bartizan_compile::{Positions, World};
use bartizan_decide::{
    AuthorizerSays, ConnectionFacts, Denied, Destination, Engine, Explanation, HttpFacts, Keys, Plan,
    TokenRule, User, Verdict, authorize_after, authorize_http, authorize_tcp, authorize_tcp_after,
    explain_http, explain_tcp, outbound, route,
};
use bartizan_mesh::{JwtRule, Key, Resource, Snapshot, Store, Transaction, wire_format};
use bartizan_proto::v1alpha1::DumpReply;
use bartizan_types::{
    ContainerReport, NamespacedName, Peer, PodPhase, PodReport, Port, SpiffeId, TrustDomain, Version,
};

use serde_json::{Map, Value};

use crate::folder::{Folder, has_errors};
use crate::text;

/// What can be asked: everything that any proxy is told, and where rules are written.
pub(crate) struct Picture {
    engine: Engine,
    /// File and line of policies and rules.
    pub(crate) positions: Positions,
}

/// A request to judge.
pub(crate) struct Question<'a> {
    /// Who asks.
    pub(crate) peer: &'a Peer,
    /// Its address; any when absent.
    pub(crate) source: Option<IpAddr>,
    /// The client's address as trusted proxies tell it; the caller's own when absent.
    pub(crate) remote: Option<IpAddr>,
    /// When, in seconds since 1970.
    pub(crate) at: i64,
    /// The workload that is asked.
    pub(crate) callee: &'a NamespacedName,
    /// Its port.
    pub(crate) port: Port,
    /// Method, authority, target and headers; the connection is judged without.
    pub(crate) http: Option<HttpQuestion<'a>>,
}

/// The request's own part.
pub(crate) struct HttpQuestion<'a> {
    /// The method.
    pub(crate) method: &'a str,
    /// Host, with its port where the client sends one.
    pub(crate) authority: Option<&'a str>,
    /// Path with query.
    pub(crate) target: &'a str,
    /// Headers, names in lower case.
    pub(crate) headers: &'a Vec<(String, String)>,
    /// The claims of a token that is in order; no token when absent.
    pub(crate) claims: Option<&'a Map<String, Value>>,
}

/// What is judged of a question.
pub(crate) struct Judged {
    /// The decision, explained.
    pub(crate) explanation: Explanation,
    /// The status of the answer: 200 for what passes.
    pub(crate) status: u16,
    /// The user, where there is one.
    pub(crate) user: Option<Arc<User>>,
    /// An external authorizer is asked first, and taken to agree.
    pub(crate) asks: bool,
    /// No rule accepts the token, so that no policy is looked at.
    pub(crate) is_token_refused: bool,
}

impl Picture {
    /// From the running mesh.
    ///
    /// # Errors
    /// When the control plane sent something that this program cannot read.
    pub(crate) fn of_dump(dump: &DumpReply) -> anyhow::Result<Self> {
        let mut upserts = Vec::new();
        for resource in &dump.resources {
            let key = Key(resource.key.as_str().into());
            upserts.push(
                wire_format::decode(&key, &resource.body)
                    .with_context(|| format!("read resource `{key}`"))?,
            );
        }
        let positions = if dump.positions.is_empty() {
            Positions::default()
        } else {
            serde_json::from_slice(&dump.positions).context("read the positions of rules")?
        };
        Ok(Self {
            engine: engine(Version(dump.version), upserts),
            positions,
        })
    }

    /// From a folder: as if every planned pod ran and were ready.
    ///
    /// # Errors
    /// When the documents have errors, which are drawn on standard error.
    pub(crate) fn of_folder(folder: Folder, strict: bool) -> anyhow::Result<Self> {
        let findings = folder.check(strict);
        if has_errors(&findings) {
            eprint!(
                "{}",
                bartizan_config::finding::render_all(&findings, text::paint())
            );
            return Err(crate::exit::Exit::error(
                crate::exit::FINDINGS,
                bartizan_config::finding::summary(&findings),
            ));
        }
        let mut world = World::new(folder.options);
        if world.set_documents(folder.documents).is_err() {
            bail!("the documents have errors");
        }
        // A StatefulSet's plan grows as its replicas become ready.
        let mut reported = BTreeMap::new();
        loop {
            let new: Vec<_> = world
                .plan()
                .into_iter()
                .filter(|pod| !reported.contains_key(&pod.name))
                .collect();
            if new.is_empty() {
                break;
            }
            for pod in new {
                let number = u32::try_from(reported.len()).unwrap_or(u32::MAX);
                let address = Ipv4Addr::from(u32::from_be_bytes([10, 66, 0, 10]).saturating_add(number));
                reported.insert(pod.name.clone(), address);
                world.report_pod(as_if_ready(pod, address.into()));
            }
        }
        let proxies: Vec<NamespacedName> = world.proxies().cloned().collect();
        // That nobody may call a service is an answer, so it has to be found.
        let mut all: BTreeMap<Key, Arc<Resource>> = world.endpoints().collect();
        for proxy in &proxies {
            all.extend(world.resources_for(proxy));
        }
        let upserts = all.into_values().map(|resource| (*resource).clone()).collect();
        Ok(Self {
            engine: engine(Version(1), upserts),
            positions: world.positions().clone(),
        })
    }

    /// The trust domain of this mesh.
    pub(crate) fn trust_domain(&self) -> Option<&TrustDomain> {
        self.snapshot().settings().map(|settings| &settings.trust_domain)
    }

    /// What decides.
    pub(crate) fn engine(&self) -> &Engine {
        &self.engine
    }

    /// What it is made of.
    pub(crate) fn snapshot(&self) -> &Snapshot {
        self.engine.snapshot()
    }

    /// Judges, and tells every rule that was looked at.
    ///
    /// # Errors
    /// When the callee is not known.
    pub(crate) fn judge(&self, question: &Question<'_>) -> anyhow::Result<Judged> {
        let snapshot = self.snapshot();
        let Some(workload) = snapshot.workload(question.callee) else {
            bail!("no workload `{}` is known", question.callee);
        };
        let any = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
        let address = workload.addresses.first().copied().unwrap_or(any);
        let source = question
            .source
            .or_else(|| self.address_of(question.peer.identity()))
            .unwrap_or(any);
        let connection = ConnectionFacts {
            local: question.callee,
            peer: question.peer,
            source,
            remote: question.remote.unwrap_or(source),
            destination: SocketAddr::new(address, question.port.get()),
            sni: None,
            tls: None,
            now: question.at,
        };
        let Some(http) = &question.http else {
            let (verdict, asks) = self.agreed_tcp(&connection);
            return Ok(Judged {
                explanation: explain_tcp(&self.engine, &connection),
                status: verdict.map_or_else(|denied| denied.status(), |_| 200),
                user: None,
                asks,
                is_token_refused: false,
            });
        };
        // Where no rule speaks of tokens, one counts for nothing and is not looked at.
        let sees_tokens = self.token_rules(question.callee).next().is_some();
        let user = match http.claims.filter(|_| sees_tokens) {
            Some(claims) => match self.user_of(question.callee, claims) {
                Some(user) => Some(user),
                None => return Ok(self.nobody_accepts(question.callee, claims)),
            },
            None => None,
        };
        let mut facts = HttpFacts {
            connection,
            method: http.method,
            authority: http.authority,
            target: http.target,
            headers: http.headers,
            user: user.as_deref(),
            route_is_for_people: false,
        };
        facts.route_is_for_people = self.route_is_for_people(&facts, question.port);
        let explanation = explain_http(&self.engine, &facts);
        let (verdict, asks) = self.agreed_http(&facts);
        Ok(Judged {
            explanation,
            status: verdict.map_or_else(|denied| denied.status(), |_| 200),
            user,
            asks,
            is_token_refused: false,
        })
    }

    /// What becomes of a request when every authorizer that is asked agrees, and whether one is asked.
    pub(crate) fn agreed_http(
        &self,
        facts: &HttpFacts<'_, Vec<(String, String)>>,
    ) -> (Result<Verdict, Denied>, bool) {
        let mut asks = false;
        let mut verdict = authorize_http(&self.engine, facts);
        while let Ok(Verdict::Ask(ask)) = verdict {
            asks = true;
            verdict = authorize_after(&self.engine, facts, ask, AuthorizerSays::Allowed);
        }
        (verdict, asks)
    }

    /// The same of a connection of bytes.
    pub(crate) fn agreed_tcp(&self, facts: &ConnectionFacts<'_>) -> (Result<Verdict, Denied>, bool) {
        let mut asks = false;
        let mut verdict = authorize_tcp(&self.engine, facts);
        while let Ok(Verdict::Ask(ask)) = verdict {
            asks = true;
            verdict = authorize_tcp_after(&self.engine, facts, ask, AuthorizerSays::Allowed);
        }
        (verdict, asks)
    }

    /// The user of a token with these claims: by the first rule of the workload that takes its issuer and audience.
    pub(crate) fn user_of(&self, callee: &NamespacedName, claims: &Map<String, Value>) -> Option<Arc<User>> {
        let issuer = claims.get("iss").and_then(Value::as_str);
        let audiences: Vec<&str> = match claims.get("aud") {
            Some(Value::String(text)) => vec![text],
            Some(Value::Array(all)) => all.iter().filter_map(Value::as_str).collect(),
            _ => Vec::new(),
        };
        let accepts = |rule: &JwtRule| {
            rule.issuer.as_deref().is_none_or(|wanted| issuer == Some(wanted))
                && (rule.audiences.is_empty()
                    || rule.audiences.iter().any(|wanted| audiences.contains(&&**wanted)))
        };
        let (policy, index, rule) = self.token_rules(callee).find(|(_, _, rule)| accepts(rule))?;
        let set = Arc::from("");
        let rule = TokenRule {
            policy: policy.clone(),
            index,
            rule: rule.clone(),
            keys: Keys::Missing { set },
        };
        Some(Arc::new(User::new(&rule, "", claims.clone(), None)))
    }

    /// Every rule for tokens that counts for a workload: its document, its index there, and itself.
    pub(crate) fn token_rules(
        &self,
        callee: &NamespacedName,
    ) -> impl Iterator<Item = (&NamespacedName, usize, &JwtRule)> {
        let names = self
            .snapshot()
            .view(callee)
            .map(|view| view.authentications.as_slice());
        names
            .unwrap_or_default()
            .iter()
            .filter_map(|name| self.snapshot().authentication(name))
            .flat_map(|document| {
                let rules = document.rules.iter().enumerate();
                rules.map(|(index, rule)| (&document.name, index, rule))
            })
    }

    fn nobody_accepts(&self, callee: &NamespacedName, claims: &Map<String, Value>) -> Judged {
        let text = |name: &str| {
            claims
                .get(name)
                .map_or_else(|| "none".to_owned(), ToString::to_string)
        };
        let accepted: Vec<String> = self
            .token_rules(callee)
            .map(|(document, index, rule)| {
                let issuer = rule.issuer.as_deref().unwrap_or("any issuer");
                let audiences = rule.audiences.join(", ");
                let place = self
                    .positions
                    .resource("RequestAuthentication", document)
                    .map(|place| format!(" ({place})"));
                format!(
                    "RequestAuthentication {document} jwtRules[{index}]{}: {issuer}, for [{audiences}]",
                    place.unwrap_or_default()
                )
            })
            .collect();
        let reason = format!(
            "no rule accepts a token of issuer {} for {}; accepted are {}",
            text("iss"),
            text("aud"),
            accepted.join("; ")
        );
        Judged {
            explanation: Explanation {
                allowed: false,
                reason,
                ..Explanation::default()
            },
            status: 401,
            user: None,
            asks: false,
            is_token_refused: true,
        }
    }

    /// Whether the route that a gateway sends it on is marked for people.
    pub(crate) fn route_is_for_people(
        &self,
        facts: &HttpFacts<'_, Vec<(String, String)>>,
        port: Port,
    ) -> bool {
        let view = self.snapshot().view(facts.connection.local);
        let Some(gateway) = view.and_then(|view| view.gateway.as_ref()) else {
            return false;
        };
        match route(&self.engine, gateway, port, facts, 0) {
            Plan::Forward(forward) => forward.is_for_people,
            Plan::Reply(_) => false,
        }
    }

    /// The workload and its port that stand behind an address which was called: a service's, or a workload's own.
    pub(crate) fn behind(&self, called: SocketAddr) -> Option<(NamespacedName, Port)> {
        match outbound(self.snapshot(), called) {
            Destination::Service { port, endpoints, .. } => {
                let endpoint = endpoints.endpoints.iter().max_by_key(|endpoint| endpoint.ready)?;
                let target = endpoint.ports.get(&port.port).copied().unwrap_or(port.port);
                Some((endpoint.workload.clone(), target))
            }
            Destination::Workload { workload, port, .. } => Some((workload.name.clone(), port)),
            Destination::Refused(_) => None,
        }
    }

    /// The address of the one workload that has this identity.
    pub(crate) fn address_of(&self, identity: Option<&SpiffeId>) -> Option<IpAddr> {
        let identity = identity?;
        let mut having = self
            .snapshot()
            .workloads()
            .filter(|workload| workload.identity == *identity);
        let address = having.next()?.addresses.first().copied();
        if having.next().is_some() { None } else { address }
    }
}

fn engine(version: Version, upserts: Vec<Resource>) -> Engine {
    let mut store = Store::new();
    store.apply(&Transaction {
        version,
        upserts,
        removals: Vec::new(),
    });
    Engine::build(Arc::new(Snapshot::build(&store)))
}

fn as_if_ready(spec: bartizan_types::PodSpec, address: IpAddr) -> PodReport {
    let containers = spec
        .containers
        .iter()
        .map(|container| ContainerReport {
            name: container.name.clone(),
            running: true,
            ready: true,
            restarts: 0,
            last_end: None,
        })
        .collect();
    PodReport {
        address,
        phase: PodPhase::Running,
        ready: true,
        message: None,
        containers,
        proxy_restarts: 0,
        udp_dropped: 0,
        spec,
    }
}
