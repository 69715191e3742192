//! A proxy without a control plane: what it serves from, out of a folder with one `StaticProxy`.
//!
//! The proxy uses its ordinary ways in and out. A listen address stands for the original destination of a captured
//! connection: an outbound one is the virtual address and port of a service, an inbound one a port of the workload.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU32;
use std::path::PathBuf;

use bartizan_config::native::{StaticOutbound, StaticProxy};
use bartizan_config::{Document, Finding, Severity};
use bartizan_mesh::{
    Endpoint, Endpoints, InboundPort, JwtRule, KeySource, Policy, RemoteAddress, Resource, Service,
    ServicePort, View, Workload,
};
use bartizan_types::{
    Hostname, Labels, Name, NamespacedName, PodRole, PodSpec, Port, Protocol, RestartPolicy, SpiffeId,
};

use crate::library::Library;
use crate::mesh_config::{self, Effective};
use crate::mtls::{self, MtlsRules};
use crate::options::Options;
use crate::positions::Positions;
use crate::services::Services;
use crate::view::ports_in;
use crate::{authentications, codes, policies};

/// What `bartizan proxy --static DIR` serves.
#[derive(Clone, Debug)]
pub struct StaticPlan {
    /// The proxy's workload: the name of its view.
    pub workload: NamespacedName,
    /// What its certificate proves.
    pub identity: SpiffeId,
    /// PEM file with the chain, absolute.
    pub certificate: PathBuf,
    /// PEM file with the key, absolute.
    pub key: PathBuf,
    /// PEM file with the roots, absolute.
    pub trust_bundle: PathBuf,
    /// Worker threads.
    pub workers: NonZeroU32,
    /// The access log, absolute; none is no log.
    pub access_log: Option<PathBuf>,
    /// Where the proxy's own endpoint listens; none is nowhere.
    pub metrics: Option<SocketAddr>,
    /// Everything that is listened on.
    pub listeners: Vec<StaticListener>,
    /// What the proxy's store holds.
    pub resources: Vec<Resource>,
    /// Where policies and their rules stand.
    pub positions: Positions,
    /// Warnings and notes.
    pub findings: Vec<Finding>,
}

/// One address that is listened on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StaticListener {
    /// The address; it is taken as the original destination of every connection.
    pub listen: SocketAddr,
    /// Which way it goes.
    pub role: StaticRole,
}

/// Which way a static listener goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StaticRole {
    /// From the network to the application.
    Inbound {
        /// The application.
        to: SocketAddr,
    },
    /// From the application to the endpoints of the service that has the listen address.
    Outbound,
}

/// Compiles a folder for a proxy without a control plane.
///
/// # Errors
/// All findings when one of them is an error: another kind of document, no StaticProxy or several, an address used twice.
pub fn compile_static(documents: Vec<Document>, options: &Options) -> Result<StaticPlan, Vec<Finding>> {
    let mut options = options.clone();
    let mut findings = Vec::new();
    let mut proxies = Vec::new();
    for document in &documents {
        if let bartizan_config::Resource::StaticProxy(proxy) = &document.resource {
            proxies.push((document.clone(), proxy.clone()));
            continue;
        }
        let is_read = matches!(
            document.resource,
            bartizan_config::Resource::AuthorizationPolicy(_)
                | bartizan_config::Resource::AccessRule(_)
                | bartizan_config::Resource::RequestAuthentication(_)
                | bartizan_config::Resource::PeerAuthentication(_)
                | bartizan_config::Resource::Profile(_)
                | bartizan_config::Resource::PolicyTest(_)
                | bartizan_config::Resource::PolicyClaim(_)
                | bartizan_config::Resource::Namespace
        ) || is_mesh_config(document, &options);
        if !is_read {
            let what = format!(
                "{} has no meaning for a proxy without a control plane",
                document.reference
            );
            findings.push(document.finding(codes::NOT_STATIC, Severity::Error, "kind", what));
        }
    }
    if let Some((second, _)) = proxies.get(1) {
        let what = "a folder has one StaticProxy";
        findings.push(second.finding(codes::NOT_STATIC, Severity::Error, "kind", what));
    }
    let Some((document, proxy)) = proxies.first().cloned() else {
        findings.push(no_proxy(documents.first()));
        return Err(findings);
    };
    if let Ok(domain) = bartizan_types::TrustDomain::parse(proxy.identity.trust_domain()) {
        options.settings.trust_domain = domain;
    }
    let mut ignored = Vec::new();
    let library = Library::new(documents, &options, &mut ignored);
    // Namespaces need no documents here: policies are for the one workload that there is.
    findings.extend(
        ignored
            .into_iter()
            .filter(|finding| finding.code != codes::MISSING_NAMESPACE),
    );
    let Effective {
        options,
        remote,
        mesh,
    } = mesh_config::effective(&library, &options, &mut findings);
    if let Some((document, _)) = mesh.filter(|(_, mesh)| !mesh.extension_providers.is_empty()) {
        let what = "a proxy without a control plane has no service that it could ask";
        let path = "data.mesh.extensionProviders";
        findings.push(document.finding(codes::NOT_STATIC, Severity::Error, path, what));
    }
    let compiler = Compiler {
        document: &document,
        proxy: &proxy,
        options: &options,
        remote,
    };
    let plan = compiler.plan(&library, findings)?;
    Ok(plan)
}

fn no_proxy(document: Option<&Document>) -> Finding {
    let what = "no document is a StaticProxy";
    match document {
        Some(document) => document.finding(codes::NOT_STATIC, Severity::Error, "kind", what),
        None => Finding::new(
            codes::NOT_STATIC,
            Severity::Error,
            &bartizan_config::SourceFile::new(".", ""),
            bartizan_config::Spot::START,
            what,
        ),
    }
    .help("add a document:\n  apiVersion: bartizan.dev/v1alpha1\n  kind: StaticProxy")
}

struct Compiler<'a> {
    document: &'a Document,
    proxy: &'a StaticProxy,
    options: &'a Options,
    remote: RemoteAddress,
}

impl Compiler<'_> {
    fn plan(&self, library: &Library, mut findings: Vec<Finding>) -> Result<StaticPlan, Vec<Finding>> {
        let workload = self.workload();
        let mut listeners = Vec::new();
        let mut taken = BTreeMap::new();
        let mut take = |listen: SocketAddr, path: String, findings: &mut Vec<Finding>| {
            if let Some(other) = taken.insert(listen, path.clone()) {
                let what = format!("`{listen}` is also the address of `{other}`");
                findings.push(
                    self.document
                        .finding(codes::NOT_STATIC, Severity::Error, &path, what),
                );
            }
        };
        let mut ports = BTreeSet::new();
        for (index, inbound) in self.proxy.inbound.iter().enumerate() {
            if !ports.insert(inbound.listen.port()) {
                // Policies and modes know the workload's ports by their number.
                let what = format!("two inbound listeners have port {}", inbound.listen.port());
                let path = format!("spec.inbound[{index}].listen");
                findings.push(
                    self.document
                        .finding(codes::NOT_STATIC, Severity::Error, &path, what),
                );
            }
            take(
                inbound.listen,
                format!("spec.inbound[{index}].listen"),
                &mut findings,
            );
            listeners.push(StaticListener {
                listen: inbound.listen,
                role: StaticRole::Inbound { to: inbound.to },
            });
        }
        for (index, outbound) in self.proxy.outbound.iter().enumerate() {
            take(
                outbound.listen,
                format!("spec.outbound[{index}].listen"),
                &mut findings,
            );
            listeners.push(StaticListener {
                listen: outbound.listen,
                role: StaticRole::Outbound,
            });
        }
        let mut resources = vec![Resource::Settings(self.options.settings.clone())];
        resources.extend(self.inbound(&workload, library, &mut findings));
        resources.extend(self.outbound(&workload));
        let file = &self.document.file;
        let plan = StaticPlan {
            workload,
            identity: self.proxy.identity.clone(),
            certificate: self.options.resolve(file, &self.proxy.certificate),
            key: self.options.resolve(file, &self.proxy.key),
            trust_bundle: self.options.resolve(file, &self.proxy.trust_bundle),
            workers: self.proxy.workers.unwrap_or(NonZeroU32::MIN),
            access_log: self
                .proxy
                .access_log
                .as_ref()
                .map(|path| self.options.resolve(file, path)),
            metrics: self.proxy.metrics,
            listeners,
            resources,
            positions: Positions::of(library.iter().map(|document| &**document)),
            findings: Vec::new(),
        };
        if findings.iter().any(Finding::is_error) {
            return Err(findings);
        }
        Ok(StaticPlan { findings, ..plan })
    }

    /// The workload is named like the document, in the namespace of the identity.
    fn workload(&self) -> NamespacedName {
        let namespace = self
            .proxy
            .identity
            .namespace()
            .and_then(|text| Name::parse(text).ok());
        let namespace = namespace.or_else(|| self.document.namespace().cloned());
        let name = self.document.name().clone();
        NamespacedName::new(namespace.unwrap_or_else(|| name.clone()), name)
    }

    /// The view, the policies and the workload itself.
    fn inbound(
        &self,
        workload: &NamespacedName,
        library: &Library,
        findings: &mut Vec<Finding>,
    ) -> Vec<Resource> {
        let pod = self.pod(workload);
        let rules = MtlsRules::new(library, self.options, findings);
        let modes = rules.of(&workload.namespace, &pod.labels, self.options);
        let mut inbound = BTreeMap::new();
        for written in &self.proxy.inbound {
            if let Ok(port) = Port::new(written.listen.port().into()) {
                let open = InboundPort {
                    port,
                    mtls: written.mtls.map_or(modes.of(port), mtls::mode),
                    protocol: written.protocol.unwrap_or(Protocol::Detect),
                    service: None,
                };
                inbound.insert(port, open);
            }
        }
        let mut resources = Vec::new();
        let mut names = Vec::new();
        let services = Services::new();
        let policies = policies::build(library, &services, self.options).into_values();
        let access_rules = policies::build_access_rules(library, &services, self.options).into_values();
        for entry in policies.chain(access_rules) {
            if !entry.attachment.selects(&pod) {
                continue;
            }
            if let Some(provider) = &entry.policy.provider {
                findings.push(self.nobody_to_ask(library, &entry.policy, provider));
            }
            for port in ports_in(&entry.policy) {
                inbound.entry(port).or_insert_with(|| InboundPort {
                    port,
                    mtls: modes.of(port),
                    protocol: Protocol::Detect,
                    service: None,
                });
            }
            names.push(entry.policy.id());
            resources.push(Resource::Policy(entry.policy.clone()));
        }
        let authentications = self.authentications(library, &pod, &mut resources, findings);
        resources.push(Resource::View(View {
            workload: workload.clone(),
            identity: self.proxy.identity.clone(),
            labels: pod.labels.clone(),
            policies: names,
            authentications,
            is_for_people: false,
            remote: self.remote,
            mtls: modes.mode,
            inbound: inbound.into_values().collect(),
            gateway: None,
        }));
        resources.push(Resource::Workload(described(
            workload,
            &self.proxy.identity,
            Vec::new(),
        )));
        resources
    }

    /// The RequestAuthentications that are for the workload; their keys must be in them.
    fn authentications(
        &self,
        library: &Library,
        pod: &PodSpec,
        resources: &mut Vec<Resource>,
        findings: &mut Vec<Finding>,
    ) -> Vec<NamespacedName> {
        let mut names = Vec::new();
        for entry in authentications::build(library, &Services::new(), self.options).into_values() {
            if !entry.attachment.selects(pod) {
                continue;
            }
            let name = entry.authentication.name.clone();
            let fetched = |rule: &JwtRule| matches!(rule.keys, KeySource::Fetched(_));
            if let Some(index) = entry.authentication.rules.iter().position(fetched) {
                let what = format!(
                    "nobody fetches keys for a proxy without a control plane, and rule {index} of `{name}` has none"
                );
                let documents = library.iter().find(|document| {
                    matches!(
                        document.resource,
                        bartizan_config::Resource::RequestAuthentication(_)
                    ) && document.namespaced_name().as_ref() == Some(&name)
                });
                let document = documents.map_or(self.document, |document| document);
                let path = format!("spec.jwtRules[{index}]");
                let finding = document.finding(codes::NOT_STATIC, Severity::Error, &path, what);
                findings.push(finding.help("write the keys as `jwks`"));
            }
            resources.push(Resource::RequestAuthentication(entry.authentication.clone()));
            names.push(name);
        }
        names.sort();
        names
    }

    fn nobody_to_ask(&self, library: &Library, policy: &Policy, provider: &str) -> Finding {
        let documents = library.iter().find(|document| {
            matches!(
                document.resource,
                bartizan_config::Resource::AuthorizationPolicy(_)
            ) && document.namespaced_name().as_ref() == Some(&policy.name)
        });
        let document = documents.map_or(self.document, |document| document);
        let what =
            format!("a proxy without a control plane has no authorizer `{provider}` that it could ask");
        document.finding(codes::NOT_STATIC, Severity::Error, "spec.provider", what)
    }

    /// One service for each address that is listened on, with a port for each listener.
    fn outbound(&self, workload: &NamespacedName) -> Vec<Resource> {
        let mut by_address: BTreeMap<IpAddr, Vec<&StaticOutbound>> = BTreeMap::new();
        for outbound in &self.proxy.outbound {
            by_address.entry(outbound.listen.ip()).or_default().push(outbound);
        }
        let mut resources = Vec::new();
        let mut described_addresses = BTreeSet::new();
        for (address, listeners) in by_address {
            let Some((service, hostname)) = service_name(workload, address, self.options) else {
                continue;
            };
            let mut ports = Vec::new();
            let mut endpoints = Vec::new();
            for outbound in listeners {
                let Ok(port) = Port::new(outbound.listen.port().into()) else {
                    continue;
                };
                ports.push(ServicePort {
                    port,
                    name: None,
                    protocol: outbound.protocol.unwrap_or(Protocol::Detect),
                });
                for (index, written) in outbound.endpoints.iter().enumerate() {
                    let name = Name::parse(&format!("{}-{port}-{index}", service.name));
                    let (Ok(target), Ok(name)) = (Port::new(written.address.port().into()), name) else {
                        continue;
                    };
                    let name = NamespacedName::new(service.namespace.clone(), name);
                    if let Some(identity) = &written.identity {
                        let own = described_addresses.insert(written.address.ip());
                        let addresses = own.then_some(written.address.ip()).into_iter().collect();
                        resources.push(Resource::Workload(described(&name, identity, addresses)));
                    }
                    endpoints.push(Endpoint {
                        workload: name,
                        address: written.address.ip(),
                        ports: [(port, target)].into(),
                        identity: written.identity.clone(),
                        ready: true,
                    });
                }
            }
            resources.push(Resource::Service(Service {
                name: service.clone(),
                hostname,
                addresses: vec![address],
                headless: false,
                alias_of: None,
                ports,
            }));
            resources.push(Resource::Endpoints(Endpoints { service, endpoints }));
        }
        resources
    }

    /// The workload as policies select it: by the labels of the document.
    fn pod(&self, workload: &NamespacedName) -> PodSpec {
        let account = self
            .proxy
            .identity
            .service_account()
            .and_then(|text| Name::parse(text).ok());
        PodSpec {
            name: workload.clone(),
            workload: workload.name.clone(),
            service_account: account.unwrap_or_else(|| workload.name.clone()),
            identity: self.proxy.identity.clone(),
            labels: self.document.metadata.labels.clone(),
            annotations: Labels::new(),
            hostname: workload.name.to_string(),
            subdomain: None,
            role: PodRole::Application,
            init_containers: Vec::new(),
            containers: Vec::new(),
            volumes: Vec::new(),
            restart: RestartPolicy::Always,
            termination_grace_seconds: 0,
            template_hash: String::new(),
        }
    }
}

/// Whether a document is Istio's mesh configuration.
fn is_mesh_config(document: &Document, options: &Options) -> bool {
    matches!(document.resource, bartizan_config::Resource::ConfigMap(_))
        && document.name().as_str() == "istio"
        && document.namespace() == Some(&options.settings.root_namespace)
}

/// The name of the service that stands for a listen address: `to-127-0-0-1` beside the workload.
fn service_name(
    workload: &NamespacedName,
    address: IpAddr,
    options: &Options,
) -> Option<(NamespacedName, Hostname)> {
    let text = match address {
        IpAddr::V4(address) => address.to_string().replace('.', "-"),
        IpAddr::V6(address) => address.segments().map(|segment| format!("{segment:x}")).join("-"),
    };
    let name = Name::parse(&format!("to-{text}")).ok()?;
    let name = NamespacedName::new(workload.namespace.clone(), name);
    let hostname = crate::services::full_name(&name, options)?;
    Some((name, hostname))
}

/// A workload of which only the identity is known.
fn described(name: &NamespacedName, identity: &SpiffeId, addresses: Vec<IpAddr>) -> Workload {
    let account = identity.service_account().unwrap_or_else(|| name.name.as_str());
    Workload {
        name: name.clone(),
        addresses,
        identity: identity.clone(),
        workload_name: Name::parse(account).unwrap_or_else(|_| name.name.clone()),
        canonical_service: account.to_owned(),
        canonical_revision: "latest".to_owned(),
        app: None,
        version: None,
        hostname: None,
        labels: Labels::new(),
    }
}
