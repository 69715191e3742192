//! What a mesh is built with that no document says.

use std::net::{IpAddr, Ipv4Addr};
use std::path::{Component, Path, PathBuf};

use bartizan_mesh::Settings;
use bartizan_types::{Name, TrustDomain};

use crate::allocations::Allocations;

/// What a mesh is built with that no document says.
#[derive(Clone, Debug)]
pub struct Options {
    /// Trust domain, root namespace, cluster domain, profile and path rule; every proxy is told them.
    pub settings: Settings,
    /// Whether the settings' profile was chosen by whoever starts the mesh; a Profile among the documents then has no effect.
    pub profile_is_chosen: bool,
    /// Further names of the trust domain in policies (Istio `trustDomainAliases`).
    pub trust_domain_aliases: Vec<TrustDomain>,
    /// Absolute; the folder that documents' `file` paths are relative to. Paths in a LocalRun are relative to the folder of
    /// its file.
    pub base: PathBuf,
    /// Where gateways listen on the host when no LocalRun says.
    pub gateway_address: IpAddr,
    /// The name of this machine as `spec.nodeName` tells it.
    pub node_name: String,
    /// The node's address as `status.hostIP` tells it.
    pub node_address: IpAddr,
    /// The virtual addresses of an earlier run.
    pub allocations: Allocations,
}

impl Options {
    /// These settings and defaults for the rest.
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            profile_is_chosen: false,
            trust_domain_aliases: Vec::new(),
            base: PathBuf::from("/"),
            gateway_address: IpAddr::V4(Ipv4Addr::LOCALHOST),
            node_name: "local".to_owned(),
            node_address: IpAddr::V4(Ipv4Addr::new(10, 66, 0, 1)),
            allocations: Allocations::default(),
        }
    }

    /// The absolute path that `path` means in a document of `file`, without `.` and `..`.
    pub(crate) fn resolve(&self, file: &str, path: &str) -> PathBuf {
        let folder = self.base.join(file);
        let folder = folder.parent().unwrap_or(Path::new("/"));
        let mut resolved = PathBuf::from("/");
        for part in folder.join(path).components() {
            match part {
                Component::Normal(part) => resolved.push(part),
                Component::ParentDir => {
                    resolved.pop();
                }
                Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
            }
        }
        resolved
    }

    /// Whether a namespace of this name exists without a document.
    pub(crate) fn is_given_namespace(&self, name: &Name) -> bool {
        name.as_str() == "default" || *name == self.settings.root_namespace
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bartizan_mesh::{PathRule, Profile};
    use bartizan_types::Hostname;

    #[test]
    fn paths_are_relative_to_the_documents_folder() {
        let mut options = Options::new(Settings {
            trust_domain: TrustDomain::parse("cluster.local").unwrap(),
            root_namespace: Name::parse("istio-system").unwrap(),
            cluster_domain: Hostname::parse("cluster.local").unwrap(),
            profile: Profile::zero_trust(),
            paths: PathRule::RefuseAmbiguous,
        });
        options.base = PathBuf::from("/home/me");
        for (file, path, want) in [
            ("shop/local.yaml", "./bin/cart", "/home/me/shop/bin/cart"),
            ("local.yaml", "../cart", "/home/cart"),
            ("/etc/mesh/local.yaml", "cart", "/etc/mesh/cart"),
            ("local.yaml", "/usr/bin/cart", "/usr/bin/cart"),
            ("local.yaml", "../../../../x", "/x"),
        ] {
            assert_eq!(options.resolve(file, path), PathBuf::from(want), "{file} {path}");
        }
    }
}
