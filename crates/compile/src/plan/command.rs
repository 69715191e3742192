//! Which command of this machine stands for a container.

use std::path::PathBuf;

use bartizan_config::kube::Container;
use bartizan_config::{Finding, Severity};

use super::Context;
use super::local_run::LocalMatch;
use crate::codes;

/// What is run, and where.
pub(super) struct Command {
    pub(super) words: Vec<String>,
    pub(super) working_directory: Option<PathBuf>,
}

impl Context<'_> {
    /// LocalRun's `command` and `args` take the place of the container's own, each where it is given.
    pub(super) fn command(
        &self,
        container: &Container,
        local: Option<&LocalMatch<'_>>,
        path: &str,
        findings: &mut Vec<Finding>,
    ) -> Command {
        let mut words = local
            .and_then(|local| self.local_words(local))
            .or_else(|| container.command.clone())
            .unwrap_or_default();
        let args = local.and_then(|local| local.entry.args.as_ref());
        let args = args.or(container.args.as_ref()).cloned().unwrap_or_default();
        if words.first().is_none_or(String::is_empty) {
            findings.push(self.no_command(container, path));
            words = vec!["false".to_owned()];
        }
        words.extend(args);
        let own_directory = container.working_directory.as_ref().map(PathBuf::from);
        let local_directory = local.and_then(|local| {
            let directory = local.entry.working_directory.as_ref()?;
            Some(self.options.resolve(&local.document.file, directory))
        });
        Command {
            words,
            working_directory: local_directory.or(own_directory),
        }
    }

    /// The entry's command; a program with a `/` is a path relative to the document's folder.
    fn local_words(&self, local: &LocalMatch<'_>) -> Option<Vec<String>> {
        let mut words = local.entry.command.clone()?;
        if let Some(program) = words.first_mut()
            && program.contains('/')
        {
            let path = self.options.resolve(&local.document.file, program);
            *program = path.to_string_lossy().into_owned();
        }
        Some(words)
    }

    fn no_command(&self, container: &Container, path: &str) -> Finding {
        let workload = &self.document.reference.name;
        let namespace = self
            .document
            .namespace()
            .map(ToString::to_string)
            .unwrap_or_default();
        let target = match &container.image {
            Some(image) => format!("image: {image}"),
            None => format!("container: {namespace}/{workload}/{}", container.name),
        };
        let what = match &container.image {
            Some(image) => format!(
                "container `{}` has the image `{image}` and no command for this machine",
                container.name
            ),
            None => format!(
                "container `{}` has neither an image nor a command",
                container.name
            ),
        };
        let field = if container.image.is_some() {
            ".image"
        } else {
            ".name"
        };
        self.document
            .finding(codes::NO_COMMAND, Severity::Error, &format!("{path}{field}"), what)
            .why("images are not pulled: what runs is a command of this machine")
            .help(format!(
                "say what runs in its place, in any file of the folder:\n  apiVersion: bartizan.dev/v1alpha1\n  kind: LocalRun\n  metadata: {{ name: local }}\n  spec:\n    workloads:\n      - {target}\n        command: [./my-server]"
            ))
    }
}
