//! One container of a replica.

use std::path::PathBuf;

use bartizan_config::kube::{Container, VolumeSource};
use bartizan_config::native::LocalWorkload;
use bartizan_config::{Finding, Severity};
use bartizan_types::{ContainerPort, ContainerSpec, Mount};

use super::local_run::LocalMatch;
use super::{Context, Replica};
use crate::codes;

impl Context<'_> {
    pub(super) fn containers(
        &self,
        replica: &Replica<'_>,
        containers: &[Container],
        path: &str,
        field: &str,
        findings: &mut Vec<Finding>,
    ) -> Vec<ContainerSpec> {
        containers
            .iter()
            .enumerate()
            .map(|(index, container)| {
                self.container(replica, container, &format!("{path}.{field}[{index}]"), findings)
            })
            .collect()
    }

    fn container(
        &self,
        replica: &Replica<'_>,
        container: &Container,
        path: &str,
        findings: &mut Vec<Finding>,
    ) -> ContainerSpec {
        let local = self.local.for_container(
            &replica.name.namespace,
            self.document.name(),
            &container.name,
            container.image.as_deref(),
        );
        let local = local.as_ref();
        let command = self.command(container, local, path, findings);
        ContainerSpec {
            name: container.name.clone(),
            command: command.words,
            working_directory: command.working_directory,
            environment: self.environment(replica, container, local, path, findings),
            run_as_user: self.run_as_user(replica, container, path, findings),
            ports: container
                .ports
                .iter()
                .map(|port| ContainerPort {
                    name: port.name.clone(),
                    port: port.port,
                })
                .collect(),
            mounts: container
                .volume_mounts
                .iter()
                .map(|mount| Mount {
                    volume: mount.volume.clone(),
                    path: PathBuf::from(&mount.path),
                    sub_path: mount.sub_path.as_ref().map(PathBuf::from),
                    read_only: mount.read_only || !is_writable(replica, &mount.volume),
                })
                .collect(),
            read: self.paths(local, |entry| &entry.read),
            write: self.paths(local, |entry| &entry.write),
            readiness: self.probe(
                container,
                container.readiness.as_ref(),
                &format!("{path}.readinessProbe"),
                findings,
            ),
            liveness: self.probe(
                container,
                container.liveness.as_ref(),
                &format!("{path}.livenessProbe"),
                findings,
            ),
            startup: self.probe(
                container,
                container.startup.as_ref(),
                &format!("{path}.startupProbe"),
                findings,
            ),
        }
    }

    fn paths(
        &self,
        local: Option<&LocalMatch<'_>>,
        field: impl Fn(&LocalWorkload) -> &Vec<String>,
    ) -> Vec<PathBuf> {
        let Some(local) = local else {
            return Vec::new();
        };
        field(local.entry)
            .iter()
            .map(|path| self.options.resolve(&local.document.file, path))
            .collect()
    }

    fn run_as_user(
        &self,
        replica: &Replica<'_>,
        container: &Container,
        path: &str,
        findings: &mut Vec<Finding>,
    ) -> Option<u32> {
        let own = container.security_context;
        let user = own.run_as_user.or(replica.pod_security.run_as_user);
        let not_root = own.run_as_non_root.or(replica.pod_security.run_as_non_root);
        if user == Some(0) && not_root == Some(true) {
            findings.push(
                self.document
                    .finding(
                        codes::CANNOT_RUN,
                        Severity::Error,
                        &format!("{path}.securityContext"),
                        format!(
                            "container `{}` must not run as root (`runAsNonRoot`) and has `runAsUser: 0`",
                            container.name
                        ),
                    )
                    .help("give it another user id, or drop one of the two"),
            );
        }
        user
    }
}

/// Files of ConfigMaps and Secrets are read-only, as in Kubernetes.
fn is_writable(replica: &Replica<'_>, volume: &bartizan_types::Name) -> bool {
    replica.volumes.iter().any(|candidate| {
        candidate.name == *volume && matches!(candidate.source, VolumeSource::EmptyDir { .. })
    })
}
