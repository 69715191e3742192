//! Every way from a caller to a callee that policy leaves open, with the rule that opens it: over all requests, by the same
//! symbolic evaluation as `prove` and `diff`.

use std::collections::BTreeMap;

use bartizan_mesh::{Condition, Matcher, PolicyKind, PolicyName, View};
use bartizan_prove::{Change, Responsible, Ways, compare, is_alike};
use bartizan_types::{NamespacedName, RuleId, StringMatch};
use serde_json::{Value, json};

use crate::evaluate::Picture;

/// The name of callers without an identity.
pub(super) const OUTSIDE: &str = "outside";
/// The name of identities that no workload has.
pub(super) const ANYBODY_ELSE: &str = "any other identity";

/// What one rule lets one caller ask of one callee.
#[derive(Clone, Debug)]
pub(super) struct Way {
    /// `NAMESPACE/SERVICEACCOUNT`, `outside`, or another word for who calls.
    pub(super) from: String,
    /// `NAMESPACE/CONTROLLER`.
    pub(super) to: String,
    /// What may be asked, as policy limits it; empty for everything.
    pub(super) what: Vec<(String, Vec<String>)>,
    /// What the rule asks of the user's token, and its expression.
    pub(super) conditions: Vec<String>,
    /// The rule; none where the profile lets it pass.
    pub(super) rule: Option<RuleId>,
    /// Its file and line.
    pub(super) place: Option<String>,
    /// Parts of expressions on which it depends and that are not looked into.
    pub(super) unless: Vec<String>,
}

impl Way {
    /// `POST /v1/ingest/* on port 8080`.
    pub(super) fn asked(&self) -> String {
        let mut asked = self.operations();
        for condition in &self.conditions {
            asked += &format!(" if {condition}");
        }
        asked
    }

    fn operations(&self) -> String {
        if self.what.is_empty() {
            return "anything".to_owned();
        }
        let parts = self.what.iter().map(|(thing, values)| {
            let values = values.join(", ");
            match thing.trim_start_matches("the ") {
                "method" | "path" => values,
                thing => format!("{thing} {values}"),
            }
        });
        parts.collect::<Vec<_>>().join(" ")
    }

    /// `AuthorizationPolicy shop/cart rules[0] (policies.yaml:3)`.
    pub(super) fn ruled(&self) -> String {
        match (&self.rule, &self.place) {
            (Some(rule), Some(place)) => {
                format!("{} ({place})", crate::cmd::prove::example::rule_words(rule))
            }
            (Some(rule), None) => crate::cmd::prove::example::rule_words(rule),
            (None, _) => "the profile".to_owned(),
        }
    }

    pub(super) fn to_json(&self) -> Value {
        let what: BTreeMap<_, _> = self
            .what
            .iter()
            .map(|(thing, values)| (thing.trim_start_matches("the "), values))
            .collect();
        json!({
            "from": self.from,
            "to": self.to,
            "what": what,
            "conditions": self.conditions,
            "rule": self.rule.as_ref().map(crate::cmd::prove::example::rule_words),
            "place": self.place,
            "dependsOn": self.unless,
        })
    }
}

/// What is known of who can call whom.
pub(super) struct Map {
    /// Callers: what runs, `outside`, and whom policies name.
    pub(super) callers: Vec<String>,
    /// Callees.
    pub(super) callees: Vec<Callee>,
    /// Every way.
    pub(super) ways: Vec<Way>,
    /// Callees whose policies are too large to be looked through whole, and why.
    pub(super) problems: Vec<String>,
}

/// A group of replicas.
pub(super) struct Callee {
    /// `NAMESPACE/CONTROLLER`.
    pub(super) name: String,
    /// Who it is when it calls: `NAMESPACE/SERVICEACCOUNT`.
    pub(super) identity: String,
    /// Whether it is a way in from outside.
    pub(super) is_gateway: bool,
    /// How many policies select it.
    pub(super) policies: usize,
}

impl Map {
    /// Looks through all workloads of a picture.
    pub(super) fn of(picture: &Picture) -> Self {
        let snapshot = picture.snapshot();
        let mut map = Self {
            callers: vec![OUTSIDE.to_owned()],
            callees: Vec::new(),
            ways: Vec::new(),
            problems: Vec::new(),
        };
        let mut looked_at: BTreeMap<String, Vec<&View>> = BTreeMap::new();
        for view in snapshot.views() {
            let name = controller(picture, &view.workload);
            let alike = looked_at.entry(name.clone()).or_default();
            if alike.iter().any(|other| is_alike(snapshot, other, view)) {
                continue;
            }
            // Replicas in the middle of a change may differ: each of them counts.
            let is_first = alike.is_empty();
            alike.push(view);
            let identity = caller(view.identity.principal());
            map.callers.push(identity.clone());
            if is_first {
                map.callees.push(Callee {
                    name: name.clone(),
                    identity,
                    is_gateway: view.gateway.is_some(),
                    policies: view.policies.len(),
                });
            }
            match compare(None, Some(Ways { snapshot, view })) {
                Ok(changes) => {
                    for change in &changes {
                        map.add(picture, &name, change);
                    }
                }
                Err(problem) => map.problems.push(format!("{name}: {problem}")),
            }
        }
        map.callers.extend(map.ways.iter().map(|way| way.from.clone()));
        map.callers.sort_by_key(|name| (rank(name), name.clone()));
        map.callers.dedup();
        map.callees.sort_by(|a, b| a.name.cmp(&b.name));
        map.ways
            .sort_by(|a, b| (&a.from, &a.to, &a.place).cmp(&(&b.from, &b.to, &b.place)));
        map
    }

    fn add(&mut self, picture: &Picture, to: &str, change: &Change) {
        if !change.opens {
            return;
        }
        let rule = match &change.rule {
            Responsible::New(rule) | Responsible::Old(rule) => Some(rule.clone()),
            Responsible::NoRule => None,
        };
        let place = rule.as_ref().and_then(|rule| picture.positions.rule(rule));
        let callers = &change.callers;
        let named = callers
            .known
            .iter()
            .chain(&callers.unknown)
            .map(|name| caller(name));
        let more = [
            callers.plaintext.then(|| OUTSIDE.to_owned()),
            callers.others.then(|| ANYBODY_ELSE.to_owned()),
        ];
        for from in named.chain(more.into_iter().flatten()) {
            self.ways.push(Way {
                from,
                to: to.to_owned(),
                what: change.words.clone(),
                conditions: rule
                    .as_ref()
                    .map_or_else(Vec::new, |rule| conditions(picture, rule)),
                rule: rule.clone(),
                place: place.as_ref().map(ToString::to_string),
                unless: change.unless.iter().map(ToString::to_string).collect(),
            });
        }
    }

    /// The ways from one to another.
    pub(super) fn between<'m>(&'m self, from: &'m str, to: &'m str) -> impl Iterator<Item = &'m Way> {
        self.ways
            .iter()
            .filter(move |way| way.from == from && way.to == to)
    }
}

/// What a rule asks of the user's token, and its expression, in words.
fn conditions(picture: &Picture, id: &RuleId) -> Vec<String> {
    let kind = match &*id.kind {
        "AccessRule" => PolicyKind::AccessRule,
        _ => PolicyKind::AuthorizationPolicy,
    };
    let name = PolicyName {
        kind,
        name: NamespacedName::new(id.namespace.clone(), id.policy.clone()),
    };
    let at = usize::try_from(id.rule).unwrap_or(usize::MAX);
    let Some(rule) = picture
        .snapshot()
        .policy(&name)
        .and_then(|policy| policy.rules.get(at))
    else {
        return Vec::new();
    };
    let mut all: Vec<String> = rule
        .from
        .iter()
        .filter_map(|source| said("the user", &source.request_principals))
        .collect();
    all.extend(rule.when.iter().filter_map(|condition| match condition {
        Condition::RequestPrincipal(values) => said("the user", values),
        Condition::RequestAudiences(values) => said("the token's audience", values),
        Condition::RequestPresenter(values) => said("the token's presenter", values),
        Condition::RequestClaim(path, values) => said(&format!("claim {}", path.join(".")), values),
        Condition::Header(..)
        | Condition::SourceIp(_)
        | Condition::SourceNamespace(_)
        | Condition::SourcePrincipal(_)
        | Condition::SourceServiceAccount(_)
        | Condition::SourceTrustDomain(_)
        | Condition::DestinationIp(_)
        | Condition::DestinationPort(_)
        | Condition::Sni(_)
        | Condition::RemoteIp(_) => None,
    }));
    all.extend(rule.expression.as_ref().map(|text| format!("`{text}`")));
    all
}

fn said(thing: &str, values: &Matcher<StringMatch>) -> Option<String> {
    let texts = |values: &[StringMatch]| {
        values
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join(", ")
    };
    match (values.any.is_empty(), values.none.is_empty()) {
        (true, true) => None,
        (false, true) => Some(format!("{thing} is {}", texts(&values.any))),
        (true, false) => Some(format!("{thing} is not {}", texts(&values.none))),
        (false, false) => Some(format!(
            "{thing} is {} and not {}",
            texts(&values.any),
            texts(&values.none)
        )),
    }
}

fn rank(name: &str) -> u8 {
    match name {
        OUTSIDE => 0,
        ANYBODY_ELSE => 2,
        _ => 1,
    }
}

/// `NAMESPACE/CONTROLLER` of a replica.
pub(super) fn controller(picture: &Picture, workload: &NamespacedName) -> String {
    let named = picture.snapshot().workload(workload);
    let name = named.map_or(&workload.name, |workload| &workload.workload_name);
    format!("{}/{name}", workload.namespace)
}

/// `NAMESPACE/SERVICEACCOUNT` of a principal of that form, else the principal.
pub(super) fn caller(principal: &str) -> String {
    let parts: Vec<&str> = principal.split('/').collect();
    match parts.as_slice() {
        [_, "ns", namespace, "sa", account] => format!("{namespace}/{account}"),
        _ => principal.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::{Map, caller};
    use crate::args::{Arguments, Command};
    use crate::evaluate::Picture;
    use crate::folder::Folder;

    const MESH: &str = r"
apiVersion: v1
kind: Namespace
metadata: {name: payments}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: ledger, namespace: payments}
---
apiVersion: v1
kind: Service
metadata: {name: ledger, namespace: payments}
spec:
  selector: {app: ledger}
  ports: [{name: http, port: 8080}]
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: ledger, namespace: payments}
spec:
  selector: {matchLabels: {app: ledger}}
  template:
    metadata: {labels: {app: ledger}}
    spec:
      serviceAccountName: ledger
      containers: [{name: app, image: ledger, command: [/bin/true]}]
---
";

    fn asked(policies: &str) -> Vec<String> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("mesh.yaml");
        std::fs::write(&file, format!("{MESH}{policies}")).unwrap();
        let words = ["bartizan", "can", "--matrix", "--in"].map(std::ffi::OsStr::new);
        let arguments = Arguments::parse_from(words.into_iter().chain([file.as_os_str()]));
        let Command::Can(args) = arguments.command else {
            panic!("not can");
        };
        let folder = Folder::read(&args.folder, &args.documents).unwrap();
        let map = Map::of(&Picture::of_folder(folder, false).unwrap());
        map.ways
            .iter()
            .map(|way| format!("{}: {}", way.from, way.asked()))
            .collect()
    }

    #[test]
    fn what_a_method_may_ask_is_not_said_of_another() {
        let ways = asked(
            r#"
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: closed, namespace: payments}
spec:
  action: DENY
  rules: [{to: [{operation: {notMethods: [GET], notPaths: ["/open/*"]}}]}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: opened, namespace: payments}
spec:
  rules: [{from: [{source: {serviceAccounts: [ledger]}}], to: [{operation: {ports: ["8080"]}}]}]
"#,
        );
        assert_eq!(
            ways,
            [
                "payments/ledger: port 8080 GET",
                "payments/ledger: port 8080 all but GET /open/*"
            ]
        );
    }

    #[test]
    fn what_a_caller_may_ask_is_not_said_of_another() {
        let ways = asked(
            r#"
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: closed, namespace: payments}
spec:
  action: DENY
  rules:
    - from: [{source: {serviceAccounts: [one]}}]
      to: [{operation: {notPaths: ["/one"]}}]
    - from: [{source: {serviceAccounts: [two]}}]
      to: [{operation: {notPaths: ["/two"]}}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: opened, namespace: payments}
spec:
  rules: [{from: [{source: {principals: [cluster.local/ns/payments/sa/one, cluster.local/ns/payments/sa/two]}}], to: [{operation: {methods: [GET]}}]}]
"#,
        );
        let ends: Vec<bool> = ways
            .iter()
            .map(|way| match way.split_once(": ") {
                Some(("payments/one", asked)) => asked.ends_with("GET /one"),
                Some(("payments/two", asked)) => asked.ends_with("GET /two"),
                _ => false,
            })
            .collect();
        assert_eq!(ends, [true, true], "{ways:?}");
    }

    #[test]
    fn what_does_not_come_apart_says_that_it_is_less() {
        let ways = asked(
            r#"
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: closed, namespace: payments}
spec:
  action: DENY
  rules: [{to: [{operation: {paths: ["/a"]}}], when: [{key: "request.headers[x]", values: [b]}]}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: opened, namespace: payments}
spec:
  rules: [{from: [{source: {serviceAccounts: [ledger]}}], to: [{operation: {methods: [GET]}}]}]
"#,
        );
        assert!(
            matches!(ways.as_slice(), [only] if only.ends_with("GET only some combinations of these")),
            "{ways:?}"
        );
    }

    #[test]
    fn a_caller_is_named_as_commands_take_it() {
        assert_eq!(caller("cluster.local/ns/shop/sa/cart"), "shop/cart");
        assert_eq!(caller("other.example/spire/agent"), "other.example/spire/agent");
    }
}
