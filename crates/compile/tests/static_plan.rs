//! A folder for a proxy without a control plane becomes what its store holds.

use std::path::PathBuf;

use bartizan_compile::{Options, StaticPlan, StaticRole, codes, compile_static};
use bartizan_config::{Finding, SourceFile, read};
use bartizan_mesh::{MtlsMode, PathRule, Profile, Resource, Settings, Snapshot, Store, Transaction};
use bartizan_types::{Hostname, Name, Port, Protocol, TrustDomain, Version};

const PROXY: &str = r#"
apiVersion: bartizan.dev/v1alpha1
kind: StaticProxy
metadata: { name: front, namespace: shop, labels: { app: front } }
spec:
  identity: spiffe://bench.example/ns/shop/sa/front
  certificate: certs/front.pem
  key: certs/front.key
  trustBundle: /etc/roots.pem
  accessLog: access.jsonl
  inbound:
    - { listen: "127.0.0.1:8443", protocol: HTTP, to: "127.0.0.1:8080" }
    - { listen: "127.0.0.1:8444", mtls: PERMISSIVE, to: "127.0.0.1:8081" }
  outbound:
    - { listen: "127.0.0.1:9001", protocol: HTTP, endpoints: [{ address: "127.0.0.1:8443", identity: spiffe://bench.example/ns/shop/sa/back }] }
    - { listen: "127.0.0.1:9002", endpoints: [{ address: "10.0.0.1:80" }, { address: "10.0.0.2:80" }] }
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: { name: front, namespace: shop }
spec:
  selector: { matchLabels: { app: front } }
  rules: [{ from: [{ source: { principals: [cluster.local/ns/shop/sa/other] } }], to: [{ operation: { ports: ["8443"] } }] }]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: { name: elsewhere, namespace: shop }
spec: { selector: { matchLabels: { app: back } }, rules: [{}] }
"#;

fn compile(text: &str) -> Result<StaticPlan, Vec<Finding>> {
    let mut options = Options::new(Settings {
        trust_domain: TrustDomain::parse("cluster.local").expect("a literal"),
        root_namespace: Name::parse("istio-system").expect("a literal"),
        cluster_domain: Hostname::parse("cluster.local").expect("a literal"),
        profile: Profile::zero_trust(),
        paths: PathRule::RefuseAmbiguous,
    });
    options.base = PathBuf::from("/bench");
    let reading = read(&SourceFile::new("proxy.yaml", text));
    assert!(!reading.has_errors(), "{:#?}", reading.findings);
    compile_static(reading.documents, &options)
}

fn port(number: u32) -> Port {
    Port::new(number).expect("a literal port")
}

#[test]
fn the_ordinary_ways_find_what_they_look_for() {
    let plan = compile(PROXY).expect("the folder is right");
    assert_eq!(plan.workload.to_string(), "shop/front");
    assert_eq!(plan.certificate, PathBuf::from("/bench/certs/front.pem"));
    assert_eq!(plan.trust_bundle, PathBuf::from("/etc/roots.pem"));
    assert_eq!(plan.workers.get(), 1);
    assert_eq!(plan.listeners.len(), 4);
    let mut store = Store::new();
    store.apply(&Transaction {
        version: Version(1),
        upserts: plan.resources,
        removals: Vec::new(),
    });
    let snapshot = Snapshot::build(&store);
    assert_eq!(
        snapshot.settings().expect("settings").trust_domain.as_str(),
        "bench.example"
    );

    let view = snapshot.view(&plan.workload).expect("the workload has a view");
    assert_eq!(view.mtls_of(port(8443)), MtlsMode::Strict);
    assert_eq!(view.mtls_of(port(8444)), MtlsMode::Permissive);
    assert_eq!(
        view.inbound_port(port(8443)).map(|port| port.protocol),
        Some(Protocol::Http)
    );
    assert_eq!(
        view.policies.len(),
        1,
        "a policy for other labels is not for this proxy"
    );
    let policy = snapshot.policy(&view.policies[0]).expect("the policy is there");
    let principal = &policy.rules[0].from[0].principals.any[0];
    assert_eq!(principal.to_string(), "bench.example/ns/shop/sa/other");

    for listener in &plan.listeners {
        match listener.role {
            StaticRole::Inbound { to } => assert!(to.port() == 8080 || to.port() == 8081),
            StaticRole::Outbound => {
                let own = port(listener.listen.port().into());
                let (service, service_port) = snapshot
                    .service_port_at(listener.listen.ip(), own)
                    .expect("a service has the listen address");
                let endpoints = snapshot
                    .endpoints(&service.name)
                    .expect("the service has endpoints");
                let serving = endpoints
                    .endpoints
                    .iter()
                    .filter(|endpoint| endpoint.ports.contains_key(&own));
                assert_eq!(serving.count(), if own == port(9001) { 1 } else { 2 });
                assert_eq!(service_port.is_declared(), own == port(9001));
            }
        }
    }
}

#[test]
fn an_address_used_twice_and_foreign_kinds_are_refused() {
    let twice = PROXY.replace("127.0.0.1:9002", "127.0.0.1:8443");
    let findings = compile(&twice).expect_err("8443 is used twice");
    assert!(
        findings.iter().all(|finding| finding.code == codes::NOT_STATIC),
        "{findings:#?}"
    );

    let same_port = PROXY.replace("127.0.0.1:8444", "127.0.0.2:8443");
    assert!(compile(&same_port).is_err());

    let foreign = format!(
        "{PROXY}\n---\napiVersion: v1\nkind: ServiceAccount\nmetadata: {{ name: a, namespace: shop }}\n"
    );
    assert!(compile(&foreign).is_err());
    assert!(
        compile(&format!(
            "{PROXY}\n---{}",
            PROXY.replace("name: front", "name: second")
        ))
        .is_err()
    );
    assert!(compile("").is_err());
}

#[test]
fn every_key_is_unique() {
    let plan = compile(PROXY).expect("the folder is right");
    let mut keys: Vec<_> = plan.resources.iter().map(Resource::key).collect();
    keys.sort();
    assert!(keys.windows(2).all(|pair| pair[0] != pair[1]), "{keys:?}");
}

const USERS: &str = r#"---
apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: { name: users, namespace: shop }
spec:
  selector: { matchLabels: { app: front } }
  jwtRules: [{ issuer: me, jwks: '{"keys":[]}' }]
---
apiVersion: bartizan.dev/v1alpha1
kind: AccessRule
metadata: { name: users, namespace: shop }
spec: { action: DENY, rules: [{ when: "!auth.authenticated" }] }
---
apiVersion: v1
kind: ConfigMap
metadata: { name: istio, namespace: istio-system }
data:
  mesh: |
    trustDomainAliases: [old.example]
    defaultConfig: { gatewayTopology: { numTrustedProxies: 1 } }
"#;

#[test]
fn users_and_the_mesh_configuration_are_read() {
    let profile = bartizan_compile::profile::built_in("nist").expect("it comes with the binary");
    let plan = compile(&format!("{PROXY}\n{USERS}\n---\n{profile}")).expect("the folder is right");
    let mut store = Store::new();
    store.apply(&Transaction {
        version: Version(1),
        upserts: plan.resources,
        removals: Vec::new(),
    });
    let snapshot = Snapshot::build(&store);
    let settings = snapshot.settings().expect("settings");
    assert_eq!(settings.profile.name.as_str(), "nist");
    let view = snapshot.view(&plan.workload).expect("the workload has a view");
    assert_eq!(view.remote.trusted_proxies, 1);
    assert_eq!(view.authentications.len(), 1);
    let users = snapshot
        .authentication(&view.authentications[0])
        .expect("it is there");
    assert_eq!(users.rules.len(), 1);
    assert_eq!(view.policies.len(), 2);
    let policy = snapshot.policy(&view.policies[0]).expect("the policy is there");
    let principals: Vec<_> = policy.rules[0].from[0]
        .principals
        .any
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(
        principals,
        ["bench.example/ns/shop/sa/other", "old.example/ns/shop/sa/other"]
    );
}

#[test]
fn what_nobody_fetches_and_nobody_answers_is_refused() {
    for (part, with) in [
        ("jwks: '{\"keys\":[]}'", "jwksUri: \"https://a.example/keys\""),
        ("action: DENY, rules: [{ when: \"!auth.authenticated\" }]", ""),
    ] {
        let users = if with.is_empty() {
            USERS
                .replace("bartizan.dev/v1alpha1", "security.istio.io/v1")
                .replace("kind: AccessRule", "kind: AuthorizationPolicy")
                .replace(part, "action: CUSTOM, provider: { name: opa }, rules: [{}]")
        } else {
            USERS.replace(part, with)
        };
        assert_ne!(users, USERS);
        let findings = compile(&format!("{PROXY}\n{users}")).expect_err("it cannot be served");
        assert!(
            findings.iter().any(|finding| finding.code == codes::NOT_STATIC),
            "{findings:#?}"
        );
    }
}
