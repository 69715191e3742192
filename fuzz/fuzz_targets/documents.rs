//! What people write. Input: the text of a YAML or JSON file. Findings are drawn, and what was read is compiled, planned and
//! asked about.
#![no_main]

use std::sync::Arc;

use bartizan_compile::{Options, World, check, compile_static};
use bartizan_config::finding::{Paint, render, render_all, summary, to_json};
use bartizan_config::{Finding, SourceFile, read};
use bartizan_decide::Engine;
use bartizan_fuzz::{ask, json};
use bartizan_mesh::wire_format::{decode, encode};
use bartizan_mesh::{PathRule, Profile, Resource, Settings, Snapshot, Store, Transaction};
use bartizan_types::{Hostname, Name, TrustDomain, Version};
use libfuzzer_sys::{fuzz_mutator, fuzz_target, fuzzer_mutate};

fuzz_target!(|text: &str| {
    let file = SourceFile::new("fuzz.yaml", text);
    let reading = read(&file);
    draw(&reading.findings, text);
    let profile = if text.len().is_multiple_of(2) {
        Profile::zero_trust()
    } else {
        Profile::istio()
    };
    let options = options(profile);
    let findings = check(reading.documents.clone(), &options);
    draw(&findings, text);
    if let Err(findings) = compile_static(reading.documents.clone(), &options) {
        assert!(findings.iter().any(Finding::is_error), "refused without an error");
        draw(&findings, text);
    }
    let mut world = World::new(options);
    match world.set_documents(reading.documents) {
        Ok(update) => assert_eq!(update.findings, findings),
        Err(refused) => {
            assert_eq!(refused, findings);
            assert!(findings.iter().any(Finding::is_error), "refused without an error");
            return;
        }
    }
    assert!(!findings.iter().any(Finding::is_error), "accepted with an error");
    for (at, origin) in world.key_sources().iter().enumerate() {
        world.report_keys(
            &origin.name,
            "{\"keys\":[]}".into(),
            i64::try_from(at).unwrap_or(0),
        );
    }
    let plan = world.plan();
    let proxies: Vec<_> = world.proxies().cloned().collect();
    assert!(proxies.len() >= plan.len());
    for proxy in proxies.iter().take(4) {
        let resources = world.resources_for(proxy);
        let upserts: Vec<Resource> = resources
            .iter()
            .map(|(key, resource)| {
                let encoded = encode(resource);
                assert_eq!(encoded.key, *key);
                let decoded = decode(key, &encoded.body).expect("what is sent can be read");
                assert_eq!(decoded, **resource);
                decoded
            })
            .collect();
        let mut store = Store::new();
        store.apply(&Transaction {
            version: Version(1),
            upserts,
            removals: Vec::new(),
        });
        let engine = Engine::build(Arc::new(Snapshot::build(&store)));
        assert!(
            engine.problems().is_empty(),
            "not compiled: {:?}",
            engine.problems()
        );
        ask::everything(&engine);
    }
});

fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    match seed % 2 {
        0 => json::mutate(data, size, max_size, seed),
        _ => None,
    }
    .unwrap_or_else(|| fuzzer_mutate(data, size, max_size))
});

fn draw(findings: &[Finding], text: &str) {
    // A lone carriage return ends a line of YAML as well.
    let lines = 1 + text.matches(['\n', '\r']).count();
    for finding in findings {
        assert!(
            finding.position.line as usize <= lines + 1,
            "{finding:?} is beyond {lines} lines"
        );
        let drawn = render(finding, Paint::Plain);
        assert!(drawn.ends_with('\n') && drawn.contains(finding.code.id));
        assert!(
            drawn.chars().all(|letter| letter == '\n' || !letter.is_control()),
            "control characters reach the terminal: {drawn:?}"
        );
        assert!(!finding.what.is_empty());
    }
    render_all(findings, Paint::Ansi);
    summary(findings);
    assert!(to_json(findings).is_array());
}

fn options(profile: Profile) -> Options {
    Options::new(Settings {
        trust_domain: TrustDomain::parse("cluster.local").expect("a literal"),
        root_namespace: Name::parse("istio-system").expect("a literal"),
        cluster_domain: Hostname::parse("cluster.local").expect("a literal"),
        paths: if profile == Profile::istio() {
            PathRule::Base
        } else {
            PathRule::RefuseAmbiguous
        },
        profile,
    })
}
