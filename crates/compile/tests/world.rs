//! What callers rely on besides the law: positions, kept addresses, shared values, and what replaces a pod.

use std::sync::Arc;

use bartizan_compile::{Allocations, Options, Positions, Update, World};
use bartizan_config::{Document, SourceFile, read};
use bartizan_mesh::{Key, PathRule, PolicyKind, PolicyName, Profile, Resource, Settings};
use bartizan_types::{Hostname, Name, NamespacedName, PodPhase, PodReport, PodSpec, RuleId, TrustDomain};

const FOLDER: &str = r"apiVersion: v1
kind: ConfigMap
metadata: { name: settings }
data: { LEVEL: info }
---
apiVersion: apps/v1
kind: Deployment
metadata: { name: cart }
spec:
  replicas: 2
  selector: { matchLabels: { app: cart } }
  template:
    metadata: { labels: { app: cart } }
    spec:
      containers:
        - { name: app, command: [cart], envFrom: [{ configMapRef: { name: settings } }] }
---
apiVersion: v1
kind: Service
metadata: { name: cart }
spec: { selector: { app: cart }, ports: [{ name: http, port: 80 }] }
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: { name: cart }
spec:
  rules:
    - to: [{ operation: { methods: [GET] } }]
    - to:
        - operation: { methods: [POST] }
";

fn documents(text: &str) -> Vec<Document> {
    let reading = read(&SourceFile::new("shop.yaml", text));
    assert!(!reading.has_errors(), "{:#?}", reading.findings);
    reading.documents
}

fn options() -> Options {
    Options::new(Settings {
        trust_domain: TrustDomain::parse("cluster.local").expect("a literal"),
        root_namespace: Name::parse("istio-system").expect("a literal"),
        cluster_domain: Hostname::parse("cluster.local").expect("a literal"),
        profile: Profile::zero_trust(),
        paths: PathRule::RefuseAmbiguous,
    })
}

fn name(text: &str) -> NamespacedName {
    NamespacedName::parse(text).expect("a literal")
}

fn world() -> World {
    let mut world = World::new(options());
    world
        .set_documents(documents(FOLDER))
        .expect("the folder is right");
    world
}

#[test]
fn rules_have_their_file_and_line_also_after_a_round_trip() {
    let json = serde_json::to_string(world().positions()).expect("positions are JSON");
    let positions: Positions = serde_json::from_str(&json).expect("and come back");
    let rule = |rule| RuleId {
        kind: "AuthorizationPolicy".into(),
        namespace: Name::parse("default").expect("a literal"),
        policy: Name::parse("cart").expect("a literal"),
        rule,
    };
    let line = |index| positions.rule(&rule(index)).map(|place| place.to_string());
    assert_eq!(line(0).as_deref(), Some("shop.yaml:28"));
    assert_eq!(line(1).as_deref(), Some("shop.yaml:29"));
    assert_eq!(line(2), None);
    let policy = positions
        .resource("AuthorizationPolicy", &name("default/cart"))
        .expect("the policy has a place");
    assert_eq!(policy.line, 23);
}

#[test]
fn a_comment_pushes_nothing_and_moves_positions() {
    let mut world = world();
    let update = world
        .set_documents(documents(&format!("# why\n{FOLDER}")))
        .expect("right as before");
    assert_eq!(
        Update {
            findings: Vec::new(),
            ..update
        },
        Update::default()
    );
    let policy = world
        .positions()
        .resource("AuthorizationPolicy", &name("default/cart"))
        .expect("the policy has a place");
    assert_eq!(policy.line, 24);
}

#[test]
fn an_address_stays_over_a_restart_and_is_free_when_its_service_goes() {
    let mut first = world();
    let cart = name("default/cart");
    let address = first
        .allocations()
        .get(&cart)
        .expect("the service has an address");
    let json = serde_json::to_string(first.allocations()).expect("allocations are JSON");
    let mut options = options();
    options.allocations =
        serde_json::from_str::<Allocations>(&json.replace(&address.to_string(), "10.67.1.2"))
            .expect("and come back");
    let mut second = World::new(options);
    second
        .set_documents(documents(FOLDER))
        .expect("the folder is right");
    assert_eq!(
        second
            .allocations()
            .get(&cart)
            .map(|address| address.to_string())
            .as_deref(),
        Some("10.67.1.2")
    );
    first.set_documents(Vec::new()).expect("an empty folder is right");
    assert_eq!(first.allocations().get(&cart), None);
}

#[test]
fn what_a_pod_was_given_replaces_it() {
    let mut world = world();
    let before = world.plan();
    let update = world
        .set_documents(documents(&FOLDER.replace("info", "debug")))
        .expect("right");
    assert!(update.plan_changed);
    let after = world.plan();
    assert_eq!(after.len(), 2);
    for (before, after) in before.iter().zip(&after) {
        assert_eq!(before.name, after.name);
        assert_ne!(before.template_hash, after.template_hash);
    }
}

#[test]
fn files_of_a_volume_change_without_replacing_the_pod() {
    let folder = FOLDER.replace(
        "envFrom: [{ configMapRef: { name: settings } }] }",
        "volumeMounts: [{ name: settings, mountPath: /etc/settings }] }\n      volumes: [{ name: settings, configMap: { name: settings } }]",
    );
    let mut world = world();
    world.set_documents(documents(&folder)).expect("right");
    let before = world.plan();
    let update = world
        .set_documents(documents(&folder.replace("info", "debug")))
        .expect("right");
    assert!(update.plan_changed);
    let after = world.plan();
    assert_eq!(after.len(), 2);
    for (before, after) in before.iter().zip(&after) {
        assert_eq!(before.template_hash, after.template_hash);
        assert_ne!(before.volumes, after.volumes);
    }
}

fn report(spec: &PodSpec, ready: bool) -> PodReport {
    PodReport {
        spec: spec.clone(),
        address: [10, 66, 0, 2].into(),
        phase: PodPhase::Running,
        ready,
        message: None,
        containers: Vec::new(),
        proxy_restarts: 0,
        udp_dropped: 0,
    }
}

/// For each replica of the plan whether it is the old one.
fn old_ones(world: &World, old: &[PodSpec]) -> Vec<bool> {
    world.plan().iter().map(|pod| old.contains(pod)).collect()
}

#[test]
fn replicas_are_replaced_one_at_a_time() {
    let mut world = world();
    let old = world.plan();
    for spec in &old {
        world.report_pod(report(spec, true));
    }
    world
        .set_documents(documents(&FOLDER.replace("info", "debug")))
        .expect("right");
    assert_eq!(old_ones(&world, &old), [false, true], "the first makes room");
    let new = world.plan().remove(0);
    world.report_pod(report(&old[0], false));
    assert_eq!(old_ones(&world, &old), [false, true], "it is ending");
    world.pod_gone(&new.name);
    assert_eq!(
        old_ones(&world, &old),
        [false, true],
        "nothing is in its place yet"
    );
    world.report_pod(report(&new, false));
    assert_eq!(
        old_ones(&world, &old),
        [false, true],
        "its successor is not ready"
    );
    let update = world.report_pod(report(&new, true));
    assert!(update.plan_changed);
    assert_eq!(old_ones(&world, &old), [false, false], "the second makes room");
}

#[test]
fn what_is_not_ready_is_replaced_at_once() {
    let mut world = world();
    let old = world.plan();
    for spec in &old {
        world.report_pod(report(spec, false));
    }
    world
        .set_documents(documents(&FOLDER.replace("info", "debug")))
        .expect("right");
    assert_eq!(old_ones(&world, &old), [false, false]);
}

#[test]
fn proxies_share_what_they_are_told_alike() {
    let mut world = world();
    let (one, other) = (name("default/cart-0"), name("default/cart-1"));
    let key = Key::new("policy", &name("default/cart"));
    let policy_of = |world: &World, proxy| {
        world
            .resources_for(proxy)
            .remove(&key)
            .expect("the policy is for it")
    };
    let first = policy_of(&world, &one);
    assert!(Arc::ptr_eq(&first, &policy_of(&world, &other)));
    // A change of something else leaves it the same allocation.
    world
        .set_documents(documents(&FOLDER.replace("info", "debug")))
        .expect("right");
    assert!(Arc::ptr_eq(&first, &policy_of(&world, &one)));
}

#[test]
fn a_change_reaches_only_whom_it_concerns() {
    let mut world = world();
    let other = "---\napiVersion: v1\nkind: Pod\nmetadata: { name: web, labels: { app: web } }\nspec: { containers: [{ name: app, command: [web] }] }\n---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: { name: web }\nspec: { selector: { matchLabels: { app: web } }, rules: [{}] }\n";
    let update = world
        .set_documents(documents(&format!("{FOLDER}{other}")))
        .expect("right");
    assert_eq!(
        update.added.iter().map(ToString::to_string).collect::<Vec<_>>(),
        ["default/web"]
    );
    assert!(
        update.change_for(&name("default/cart-0")).is_empty(),
        "nothing changed for it"
    );
    let web = update.change_for(&name("default/web"));
    assert_eq!(web.upserts, world.resources_for(&name("default/web")));
}

const TOKENS: &str = r#"---
apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: { name: cart }
spec:
  selector: { matchLabels: { app: cart } }
  jwtRules:
    - { issuer: a, jwks: '{"keys":[]}' }
    - { issuer: b, jwksUri: "https://b.example/keys" }
---
apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: { name: more }
spec: { jwtRules: [{ issuer: b, jwksUri: "https://b.example/keys", timeout: 20s }] }
---
apiVersion: bartizan.dev/v1alpha1
kind: AccessRule
metadata: { name: hours }
spec:
  action: DENY
  rules:
    - when: 'now.getHours("UTC") < 6'
---
apiVersion: v1
kind: Pod
metadata: { name: web, labels: { app: web } }
spec: { containers: [{ name: app, command: [web] }] }
"#;

#[test]
fn keys_reach_those_who_check_with_them_and_are_forgotten_with_their_documents() {
    let mut world = world();
    let with_tokens = documents(&format!(
        "{FOLDER}{}",
        TOKENS.replace(
            "metadata: { name: more }\nspec: { jwt",
            "metadata: { name: more }\nspec: { selector: { matchLabels: { app: cart } }, jwt"
        )
    ));
    world.set_documents(with_tokens.clone()).expect("right");
    let sources = world.key_sources();
    let [origin] = sources.as_slice() else {
        panic!("one key set for one place: {sources:?}");
    };
    assert_eq!(origin.timeout.as_secs(), 20, "the longest holds");
    let key = Key(format!("key-set/{}", origin.name).into());
    let told = |world: &World, proxy: &str| world.resources_for(&name(proxy)).get(&key).cloned();
    let keys_of = |world: &World| {
        let told = told(world, "default/cart-0").expect("it is told");
        let Resource::KeySet(set) = &*told else {
            panic!("no key set: {told:?}");
        };
        (set.jwks.clone(), set.fetched_at)
    };
    assert_eq!(keys_of(&world), (None, 0));
    assert!(told(&world, "default/web").is_none());

    let update = world.report_keys(&origin.name, "{}".into(), 5);
    assert_eq!(
        update.proxies.keys().map(ToString::to_string).collect::<Vec<_>>(),
        ["default/cart-0", "default/cart-1"]
    );
    assert_eq!(keys_of(&world), (Some("{}".into()), 5));
    assert!(
        world.report_keys(&origin.name, "{}".into(), 5).is_empty(),
        "nothing is new"
    );
    assert!(
        !world.report_keys(&origin.name, "{}".into(), 6).is_empty(),
        "it was fetched again"
    );
    assert!(world.report_keys("jwks/elsewhere", "{}".into(), 6).is_empty());

    world.set_documents(documents(FOLDER)).expect("right");
    assert_eq!(world.key_sources(), []);
    assert!(told(&world, "default/cart-0").is_none());
    world.set_documents(with_tokens).expect("right");
    assert_eq!(keys_of(&world), (None, 0), "what nobody speaks of is forgotten");
}

#[test]
fn token_rules_and_expressions_have_their_lines() {
    let mut world = world();
    world
        .set_documents(documents(&format!("{FOLDER}{TOKENS}")))
        .expect("right");
    let rule = |kind: &str, policy: &str, rule| RuleId {
        kind: kind.into(),
        namespace: Name::parse("default").expect("a literal"),
        policy: Name::parse(policy).expect("a literal"),
        rule,
    };
    let text = format!("{FOLDER}{TOKENS}");
    let line_of = |part: &str| {
        1 + text
            .lines()
            .position(|line| line.contains(part))
            .expect("it is there")
    };
    for (rule, part) in [
        (rule("RequestAuthentication", "cart", 0), "issuer: a,"),
        (rule("RequestAuthentication", "cart", 1), "issuer: b,"),
        (rule("AccessRule", "hours", 0), "now.getHours"),
    ] {
        let place = world.positions().rule(&rule).expect("it has a place");
        assert_eq!(usize::try_from(place.line), Ok(line_of(part)), "{rule:?}");
    }
    let hours = PolicyName {
        kind: PolicyKind::AccessRule,
        name: name("default/hours"),
    };
    assert!(world.positions().document(&hours).is_some());
}

#[test]
fn a_profile_among_the_documents_holds_as_long_as_it_is_there() {
    let mut world = world();
    let profile = bartizan_compile::profile::built_in("nist").expect("it comes with the binary");
    let update = world
        .set_documents(documents(&format!("{FOLDER}---\n{profile}")))
        .expect("right");
    assert_eq!(world.settings().profile.name.as_str(), "nist");
    assert!(update.everyone.upserts.contains_key(&Key("settings".into())));
    world.set_documents(documents(FOLDER)).expect("right");
    assert_eq!(world.settings().profile.name.as_str(), "zero-trust");
}
