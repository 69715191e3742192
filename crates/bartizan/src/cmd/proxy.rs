//! `bartizan proxy --static DIR`: one proxy without a control plane, for debugging and for the benchmark.

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use bartizan_compile::{StaticRole as PlannedRole, compile_static};
use bartizan_config::finding;
use bartizan_identity::{Svid, TrustBundle};
use bartizan_proxy::{StaticConfig, StaticListener, StaticRole};
use bartizan_types::TrustDomain;

use crate::args::ProxyArgs;
use crate::exit::{Exit, FINDINGS};
use crate::folder::{Folder, has_errors};
use crate::{internal, text};

/// How long open requests may take at the end.
const DRAIN: Duration = Duration::from_secs(5);

/// Serves until it is told to end.
///
/// # Errors
/// When the documents have errors, or the certificate, key or bundle cannot be read.
pub(crate) fn run(args: &ProxyArgs) -> anyhow::Result<ExitCode> {
    internal::small_pages();
    let folder = Folder::read(std::slice::from_ref(&args.folder), &args.documents)?;
    let mut findings = folder.findings.clone();
    let plan = if has_errors(&findings) {
        None
    } else {
        match compile_static(folder.documents, &folder.options) {
            Ok(plan) => {
                findings.extend(plan.findings.iter().cloned());
                Some(plan)
            }
            Err(more) => {
                findings.extend(more);
                None
            }
        }
    };
    eprint!("{}", finding::render_all(&findings, text::paint()));
    let Some(plan) = plan else {
        return Err(Exit::error(FINDINGS, finding::summary(&findings)));
    };
    internal::log_to_stderr();
    let svid = Svid::from_pem(&read(&plan.certificate)?, &read(&plan.key)?)
        .with_context(|| format!("{} with {}", plan.certificate.display(), plan.key.display()))?;
    let trust_domain = TrustDomain::parse(plan.identity.trust_domain())?;
    let bundle = TrustBundle::from_pem(trust_domain, &read(&plan.trust_bundle)?)
        .with_context(|| plan.trust_bundle.display().to_string())?;
    bartizan_proxy::run_static(StaticConfig {
        workload: plan.workload,
        resources: plan.resources.into_iter().map(Arc::new).collect(),
        listeners: plan
            .listeners
            .iter()
            .map(|listener| StaticListener {
                address: listener.listen,
                role: match listener.role {
                    PlannedRole::Inbound { to } => StaticRole::Inbound { to },
                    PlannedRole::Outbound => StaticRole::Outbound,
                },
            })
            .collect(),
        svid: (svid, bundle),
        access_log: plan.access_log,
        metrics: plan.metrics,
        workers: plan.workers.get(),
        drain: DRAIN,
    })?;
    Ok(ExitCode::SUCCESS)
}

fn read(path: &Path) -> anyhow::Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))
}
