//! Runs every table of `cases/compile`: documents and pod reports in; findings, plan and resources out.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};

use bartizan_compile::profile::{built_in, read_profile};
use bartizan_compile::{Options, World, check};
use bartizan_config::finding::{Paint, render_all};
use bartizan_config::{Document, Finding, Severity, SourceFile, read};
use bartizan_mesh::Settings;
use bartizan_types::{Hostname, Name, NamespacedName, PodPhase, PodReport, PodSpec, TrustDomain};
use serde::Deserialize;
use serde_json::Value;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    /// What the table is about.
    #[expect(dead_code, reason = "for readers of the table")]
    why: String,
    /// Where the rule comes from.
    #[expect(dead_code, reason = "for readers of the table")]
    source: String,
    /// Documents of every case (`given.yaml`).
    #[serde(default)]
    given: String,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    name: String,
    /// The case's own documents (`case.yaml`).
    #[serde(default)]
    documents: String,
    /// One that comes with the binary; `zero-trust` when absent.
    #[serde(default)]
    profile: Option<String>,
    /// Whether the command line names it.
    #[serde(default)]
    is_chosen: bool,
    #[serde(default)]
    trust_domain: Option<TrustDomain>,
    /// Of every planned pod what differs from "running and ready, at 10.66.0.2 and following in the order of names".
    #[serde(default)]
    pods: BTreeMap<String, Reported>,
    /// Planned pods that no node has.
    #[serde(default)]
    unreported: Vec<String>,
    /// The key sets that must be fetched, where that matters.
    #[serde(default)]
    key_sources: Option<Vec<String>>,
    /// What was fetched of them at second 7.
    #[serde(default)]
    keys: BTreeMap<String, String>,
    /// `SEVERITY CODE FILE:LINE`, in the order of the files; notes are listed only where the case has some.
    #[serde(default)]
    findings: Vec<String>,
    /// Parts of the drawn findings that must be there.
    #[serde(default)]
    says: Vec<String>,
    /// The pods to run now, where that matters.
    #[serde(default)]
    planned: Option<Vec<String>>,
    /// Parts of pods of the plan.
    #[serde(default)]
    plan: BTreeMap<String, Value>,
    /// What single proxies hold.
    #[serde(default)]
    proxies: BTreeMap<String, Expected>,
    /// Parts of resources that every proxy holds.
    #[serde(default)]
    everyone: BTreeMap<String, Value>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct Reported {
    address: Option<IpAddr>,
    phase: Option<PodPhase>,
    ready: Option<bool>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Expected {
    #[serde(default)]
    has: Vec<String>,
    #[serde(default)]
    lacks: Vec<String>,
    /// Parts of resources.
    #[serde(default)]
    resources: BTreeMap<String, Value>,
}

fn options(case: &Case) -> Options {
    let name = case.profile.as_deref().unwrap_or("zero-trust");
    let text = built_in(name).expect("the case names a profile that comes with the binary");
    let file = SourceFile::new("profile.yaml", text);
    let (profile, paths) = read_profile(&file).expect("which is right");
    let parse = |text| Name::parse(text).expect("a literal name");
    let mut options = Options::new(Settings {
        trust_domain: case
            .trust_domain
            .clone()
            .unwrap_or_else(|| TrustDomain::parse("cluster.local").expect("a literal domain")),
        root_namespace: parse("istio-system"),
        cluster_domain: Hostname::parse("cluster.local").expect("a literal host"),
        profile,
        paths,
    });
    options.base = PathBuf::from("/mesh");
    options.profile_is_chosen = case.is_chosen;
    options
}

fn documents(name: &str, text: &str) -> Vec<Document> {
    let reading = read(&SourceFile::new(name, text));
    let errors: Vec<Finding> = reading.findings.into_iter().filter(Finding::is_error).collect();
    assert!(
        errors.is_empty(),
        "documents with errors of their own:\n{}",
        render_all(&errors, Paint::Plain)
    );
    reading.documents
}

fn report(spec: PodSpec, index: u8, reported: Option<&Reported>) -> PodReport {
    PodReport {
        address: reported
            .and_then(|reported| reported.address)
            .unwrap_or(IpAddr::V4(Ipv4Addr::new(10, 66, 0, 2 + index))),
        phase: reported
            .and_then(|reported| reported.phase)
            .unwrap_or(PodPhase::Running),
        ready: reported.and_then(|reported| reported.ready).unwrap_or(true),
        message: None,
        containers: Vec::new(),
        proxy_restarts: 0,
        udp_dropped: 0,
        spec,
    }
}

/// Whether every part of `expected` is in `found`: mappings may have more keys, lists are compared item by item.
fn holds(expected: &Value, found: &Value) -> bool {
    match (expected, found) {
        (Value::Object(expected), Value::Object(found)) => expected
            .iter()
            .all(|(key, value)| holds(value, found.get(key).unwrap_or(&Value::Null))),
        (Value::Array(expected), Value::Array(found)) => {
            expected.len() == found.len() && expected.iter().zip(found).all(|(one, other)| holds(one, other))
        }
        (Value::Number(one), Value::Number(other)) => one.as_f64() == other.as_f64(),
        _ => expected == found,
    }
}

fn compare_findings(case: &Case, findings: &[Finding]) -> Vec<String> {
    let mut problems = Vec::new();
    let wants_notes = case.findings.iter().any(|line| line.starts_with("note"));
    let short: Vec<String> = findings
        .iter()
        .filter(|finding| wants_notes || finding.severity != Severity::Note)
        .map(|finding| {
            let at = format!("{}:{}", finding.file, finding.position.line);
            format!("{} {} {at}", finding.severity.as_str(), finding.code)
        })
        .collect();
    let drawn = render_all(findings, Paint::Plain);
    if short != case.findings {
        problems.push(format!(
            "expected findings {:#?}\nfound {short:#?}\n{drawn}",
            case.findings
        ));
    }
    for part in &case.says {
        if !drawn.contains(part.as_str()) {
            problems.push(format!("nothing says `{part}`:\n{drawn}"));
        }
    }
    problems
}

fn run_case(given: &str, case: &Case) -> Vec<String> {
    let mut problems = Vec::new();
    let options = options(case);
    let mut all = documents("given.yaml", given);
    all.extend(documents("case.yaml", &case.documents));
    let findings = check(all.clone(), &options);
    problems.extend(compare_findings(case, &findings));
    let mut world = World::new(options);
    let refused = world.set_documents(all).is_err();
    assert_eq!(
        refused,
        findings.iter().any(|finding| finding.severity == Severity::Error)
    );
    if refused {
        assert_eq!(
            world.proxies().count(),
            0,
            "a refused state leaves nothing behind"
        );
        return problems;
    }
    // Ordered replicas appear one after the other.
    let mut index = 0;
    loop {
        let next = world.plan().into_iter().find(|spec| {
            world.report(&spec.name).is_none() && !case.unreported.contains(&spec.name.to_string())
        });
        let Some(spec) = next else { break };
        let reported = case.pods.get(&spec.name.to_string());
        world.report_pod(report(spec, index, reported));
        index += 1;
    }
    for (name, jwks) in &case.keys {
        world.report_keys(name, jwks.as_str().into(), 7);
    }
    if let Some(expected) = &case.key_sources {
        let sources = world.key_sources();
        let names: Vec<String> = sources.iter().map(|origin| origin.name.to_string()).collect();
        if names != *expected {
            problems.push(format!("expected key sources {expected:?}, found {names:?}"));
        }
    }
    let plan: BTreeMap<String, Value> = world
        .plan()
        .iter()
        .map(|spec| {
            (
                spec.name.to_string(),
                serde_json::to_value(spec).expect("a pod is JSON"),
            )
        })
        .collect();
    if let Some(planned) = &case.planned
        && *planned != plan.keys().cloned().collect::<Vec<_>>()
    {
        problems.push(format!("expected the plan {planned:?}, found {:?}", plan.keys()));
    }
    for (name, expected) in &case.plan {
        let found = plan.get(name).unwrap_or(&Value::Null);
        if !holds(expected, found) {
            problems.push(format!("pod {name}: expected {expected:#}\nfound {found:#}"));
        }
    }
    for (proxy, expected) in &case.proxies {
        let name = NamespacedName::parse(proxy).expect("the case names a proxy");
        let resources = world.resources_for(&name);
        let keys: Vec<String> = resources.keys().map(ToString::to_string).collect();
        for key in &expected.has {
            if !keys.contains(key) {
                problems.push(format!("{proxy} lacks {key}, it has {keys:?}"));
            }
        }
        for key in &expected.lacks {
            if keys.contains(key) {
                problems.push(format!("{proxy} has {key}"));
            }
        }
        let everyone = case.everyone.iter();
        for (key, expected) in expected.resources.iter().chain(everyone) {
            let found = resources.iter().find(|(other, _)| *other.0 == **key);
            let found = found.map_or(Value::Null, |(_, resource)| {
                serde_json::to_value(resource).expect("JSON")
            });
            if !holds(expected, &found) {
                problems.push(format!("{proxy} {key}: expected {expected:#}\nfound {found:#}"));
            }
        }
    }
    assert!(
        case.everyone.is_empty() || !case.proxies.is_empty(),
        "`everyone` needs a proxy to look at"
    );
    problems
}

#[expect(clippy::needless_pass_by_value, reason = "the harness passes it so")]
fn run(path: &Path, text: String) -> datatest_stable::Result<()> {
    let table: Table = serde_saphyr::from_str(&text)?;
    assert!(!table.cases.is_empty(), "{}: no cases", path.display());
    let mut problems = Vec::new();
    for case in &table.cases {
        for problem in run_case(&table.given, case) {
            problems.push(format!("`{}`: {problem}", case.name));
        }
    }
    if problems.is_empty() {
        Ok(())
    } else {
        Err(format!("{}:\n{}", path.display(), problems.join("\n")).into())
    }
}

datatest_stable::harness! {
    { test = run, root = "../../cases/compile", pattern = r"\.yaml$" },
}
