//! What a newcomer can try on this mesh: something that its own routes and policies allow, and something that they do not.

use std::path::PathBuf;

use bartizan_control::Status;
use bartizan_mesh::{
    Action, Condition, Key, PathMatch, PathSelector, Policy, RequestAuthentication, Resource, Route, View,
    wire_format,
};
use bartizan_proto::v1alpha1::DumpReply;
use bartizan_types::StringMatch;

use crate::place::Place;

/// Commands to copy.
pub(super) fn commands(
    place: &Place,
    sources: &[PathBuf],
    status: &Status,
    dump: Option<&DumpReply>,
) -> Vec<String> {
    let told = Told::of(dump);
    let bartizan = named(place);
    let mut commands = Vec::new();
    if let Some(address) = status
        .gateways
        .iter()
        .flat_map(|gateway| &gateway.addresses)
        .next()
    {
        let token = told.token(sources);
        let header = if token.is_some() {
            "-H \"Authorization: Bearer $TOKEN\" "
        } else {
            ""
        };
        commands.extend(token.map(|token| format!("TOKEN=$({bartizan} {token})")));
        for method in ["POST", "GET"] {
            if let Some(path) = told.routes.iter().find_map(|route| routed(route, method)) {
                let data = if method == "POST" {
                    "-d '{\"sensor\":\"s1\",\"value\":21.5}' "
                } else {
                    ""
                };
                commands.push(format!("curl -i {header}{data}http://{address}{path}"));
            }
        }
        commands.push(format!("curl -i {header}http://{address}/not-allowed"));
        commands.push(format!("{bartizan} explain --last-denied"));
    }
    if let Some(call) = told.policies.iter().find_map(|policy| told.allowed(policy)) {
        commands.push(format!(
            "{bartizan} can {} {} {} {}",
            call.caller, call.service, call.method, call.path
        ));
        let body = if call.method == "GET" { "" } else { "-d '{}' " };
        commands.push(format!(
            "{bartizan} call --as {} {body}http://{}{}",
            call.caller, call.service, call.path
        ));
        commands.push(format!("{bartizan} run --as {} -- sh", call.caller));
    } else if let Some(workload) = status
        .workloads
        .iter()
        .find(|workload| workload.gateway.is_none())
    {
        // ns/NAMESPACE/sa/NAME behind the trust domain.
        let principal = workload.identity.principal();
        let mut parts = principal.split('/').skip(2);
        if let (Some(namespace), Some(account)) = (parts.next(), parts.nth(1)) {
            commands.push(format!("{bartizan} run --as {namespace}/{account} -- sh"));
        }
    }
    commands.push(format!("{bartizan} status"));
    commands.push(format!("{bartizan} logs --access --follow"));
    commands
}

/// The command with what it needs to find this mesh.
pub(crate) fn named(place: &Place) -> String {
    let mut name = program();
    if place.mesh != "default" {
        name += &format!(" --mesh {}", place.mesh);
    }
    if place.given {
        name += &format!(" --state {}", place.state.display());
    }
    name
}

/// `bartizan` where that is found and is this program, else the whole path of its file: it is copied to other terminals.
fn program() -> String {
    let plain = "bartizan".to_owned();
    let Ok(file) = std::env::current_exe() else {
        return plain;
    };
    let found = std::env::var_os("PATH").is_some_and(|path| {
        std::env::split_paths(&path)
            .map(|folder| folder.join(&plain))
            .find(|file| file.is_file())
            .and_then(|found| found.canonicalize().ok())
            .is_some_and(|found| found == file)
    });
    if found {
        return plain;
    }
    file.display().to_string()
}

#[derive(Default)]
struct Told {
    routes: Vec<Route>,
    policies: Vec<Policy>,
    views: Vec<View>,
    services: Vec<bartizan_mesh::Service>,
    authentications: Vec<RequestAuthentication>,
}

struct Call {
    caller: String,
    service: String,
    method: String,
    path: String,
}

impl Told {
    fn of(dump: Option<&DumpReply>) -> Self {
        let mut told = Self::default();
        for resource in dump.iter().flat_map(|dump| &dump.resources) {
            let key = Key(resource.key.as_str().into());
            match wire_format::decode(&key, &resource.body) {
                Ok(Resource::Route(route)) => told.routes.push(route),
                Ok(Resource::Policy(policy)) => told.policies.push(policy),
                Ok(Resource::View(view)) => told.views.push(view),
                Ok(Resource::Service(service)) => told.services.push(service),
                Ok(Resource::RequestAuthentication(one)) => told.authentications.push(one),
                Ok(
                    Resource::Settings(_)
                    | Resource::Endpoints(_)
                    | Resource::Workload(_)
                    | Resource::Listener(_)
                    | Resource::KeySet(_)
                    | Resource::Provider(_),
                )
                | Err(_) => {}
            }
        }
        told
    }

    /// How a token for the first gateway is made, where a private key lies beside the documents: one that says what the
    /// gateway's policies ask for.
    fn token(&self, sources: &[PathBuf]) -> Option<String> {
        let view = self.views.iter().find(|view| view.gateway.is_some())?;
        let document = self
            .authentications
            .iter()
            .find(|document| view.authentications.contains(&document.name))?;
        let rule = document.rules.first()?;
        let key = sources
            .iter()
            .filter_map(|source| std::fs::read_dir(source).ok())
            .flat_map(Iterator::flatten)
            .map(|entry| entry.path())
            .find(|path| path.extension().is_some_and(|extension| extension == "jwk"))?;
        let mut command = format!(
            "token sign {} --issuer {} --subject me",
            key.display(),
            rule.issuer.as_deref()?
        );
        if let Some(audience) = rule.audiences.first() {
            command += &format!(" --audience {audience}");
        }
        let rules = self
            .policies
            .iter()
            .filter(|policy| policy.action == Action::Allow && view.policies.contains(&policy.id()))
            .flat_map(|policy| &policy.rules);
        for condition in rules.flat_map(|rule| &rule.when) {
            if let Condition::RequestClaim(path, values) = condition
                && let ([name], Some(value)) = (path.as_slice(), values.any.iter().find_map(exact))
            {
                command += &format!(" --claim {name}={value}");
            }
        }
        Some(command)
    }

    /// A call that the first plain rule of this policy lets through.
    fn allowed(&self, policy: &Policy) -> Option<Call> {
        if policy.action != Action::Allow {
            return None;
        }
        policy.rules.iter().find_map(|rule| {
            let principal = rule
                .from
                .iter()
                .flat_map(|source| &source.principals.any)
                .find_map(exact)?;
            let mut parts = principal.split('/').skip(2);
            let (namespace, account) = (parts.next()?, parts.nth(1)?);
            let operation = rule.to.iter().find(|operation| !operation.paths.any.is_empty())?;
            let path = operation.paths.any.iter().find_map(|path| match path {
                PathMatch::Text(StringMatch::Exact(text)) => Some(text.to_string()),
                PathMatch::Text(StringMatch::Prefix(text)) => Some(format!("{text}x")),
                PathMatch::Text(StringMatch::Present | StringMatch::Suffix(_)) | PathMatch::Template(_) => {
                    None
                }
            })?;
            let method = operation.methods.any.iter().find_map(exact).unwrap_or("GET");
            let view = self
                .views
                .iter()
                .find(|view| view.policies.contains(&policy.id()))?;
            let name = view.inbound.iter().find_map(|inbound| inbound.service.as_ref())?;
            let service = self.services.iter().find(|service| service.name == *name)?;
            let port = service.ports.first()?;
            // `call` speaks HTTP/1.1 to what it knows nothing of.
            matches!(
                port.protocol,
                bartizan_types::Protocol::Http | bartizan_types::Protocol::Detect
            )
            .then(|| Call {
                caller: format!("{namespace}/{account}"),
                service: format!("{}.{}:{}", name.name, name.namespace, port.port),
                method: method.to_owned(),
                path,
            })
        })
    }
}

/// The path of a plain match with this method.
fn routed(route: &Route, method: &str) -> Option<String> {
    route
        .rules
        .iter()
        .flat_map(|rule| &rule.matches)
        .filter(|found| found.headers.is_empty() && found.query.is_empty())
        .filter(|found| found.method.as_deref().unwrap_or("GET") == method)
        .find_map(|found| match &found.path {
            PathSelector::Exact(path) | PathSelector::Prefix(path) => Some(path.clone()),
            PathSelector::Regex(_) => None,
        })
}

fn exact(text: &StringMatch) -> Option<&str> {
    match text {
        StringMatch::Exact(text) => Some(text),
        StringMatch::Present | StringMatch::Prefix(_) | StringMatch::Suffix(_) => None,
    }
}
