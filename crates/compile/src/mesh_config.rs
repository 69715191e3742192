//! What the documents say about the mesh as a whole: its profile, and Istio's MeshConfig in the ConfigMap `istio` of the root
//! namespace.

use bartizan_config::istio::{GatewayTopology, MeshConfig, PathNormalization};
use bartizan_config::{Document, Finding, Resource, Severity};
use bartizan_mesh::{PathRule, RemoteAddress};

use crate::codes;
use crate::library::Library;
use crate::options::Options;
use crate::profile;

/// What holds with these documents.
pub(crate) struct Effective<'a> {
    pub(crate) options: Options,
    /// How clients' addresses are found where no workload says otherwise.
    pub(crate) remote: RemoteAddress,
    /// The mesh's configuration, and its document.
    pub(crate) mesh: Option<(&'a Document, &'a MeshConfig)>,
}

/// What holds with these documents.
pub(crate) fn effective<'a>(
    library: &'a Library,
    given: &Options,
    findings: &mut Vec<Finding>,
) -> Effective<'a> {
    let mut options = given.clone();
    choose_profile(library, &mut options, findings);
    let mesh = library.iter().find_map(|document| {
        let Resource::ConfigMap(map) = &document.resource else {
            return None;
        };
        let is_it = document.name().as_str() == "istio"
            && document.namespace() == Some(&given.settings.root_namespace);
        if is_it && map.mesh.is_none() {
            let what = "the mesh's configuration is at `data.mesh`, and there is none";
            let finding = document.finding(codes::EMPTY_MESH_CONFIG, Severity::Error, "data", what);
            findings.push(finding.help("write `mesh: |` below `data`, or give the ConfigMap another name"));
        }
        Some((&**document, map.mesh.as_deref().filter(|_| is_it)?))
    });
    let mut remote = RemoteAddress::default();
    if let Some((document, mesh)) = mesh {
        if let Some(domain) = &mesh.trust_domain
            && *domain != options.settings.trust_domain
        {
            let what = format!(
                "the trust domain of this mesh is `{}`, not `{domain}`",
                options.settings.trust_domain
            );
            let path = "data.mesh.trustDomain";
            let finding = document.finding(codes::OTHER_TRUST_DOMAIN, Severity::Error, path, what);
            findings.push(finding.help(format!(
                "start it with `--trust-domain {domain}`, or correct the name"
            )));
        }
        options
            .trust_domain_aliases
            .extend(mesh.trust_domain_aliases.iter().cloned());
        if let Some(written) = mesh.path_normalization {
            let paths = path_rule(written);
            if options.settings.paths == PathRule::RefuseAmbiguous {
                let what = format!(
                    "paths are normalized as written here, and not refused as profile `{}` says",
                    options.settings.profile.name
                );
                let path = "data.mesh.pathNormalization.normalization";
                let finding = document.finding(codes::PATHS_OF_MESH_CONFIG, Severity::Note, path, what);
                findings.push(finding.help("remove `pathNormalization` to have ambiguous paths refused"));
            }
            options.settings.paths = paths;
        }
        remote = topology(mesh.gateway_topology, remote);
    }
    Effective {
        options,
        remote,
        mesh,
    }
}

/// A Profile among the documents counts where nobody chose one at the start.
fn choose_profile(library: &Library, options: &mut Options, findings: &mut Vec<Finding>) {
    let mut first: Option<&Document> = None;
    for document in library.iter() {
        let Resource::Profile(written) = &document.resource else {
            continue;
        };
        if let Some(first) = first {
            let what = format!("the mesh has another profile, `{}`", first.name());
            let finding = document.finding(codes::SEVERAL_PROFILES, Severity::Error, "metadata.name", what);
            findings.push(finding.help(format!(
                "keep one of them; the other is at {}:{}",
                first.file, first.position
            )));
            continue;
        }
        first = Some(document);
        if options.profile_is_chosen {
            let what = format!(
                "profile `{}` does not hold: the mesh was started with `{}`",
                document.name(),
                options.settings.profile.name
            );
            let finding = document.finding(codes::PROFILE_NOT_USED, Severity::Note, "metadata.name", what);
            findings.push(finding.help("start it without `--profile` to let the document hold"));
            continue;
        }
        let (profile, paths) = profile::resolve(document.name(), *written);
        options.settings.profile = profile;
        options.settings.paths = paths;
    }
}

/// `proxy.istio.io/config` lies over the mesh's `defaultConfig`, field by field.
pub(crate) fn topology(written: Option<GatewayTopology>, below: RemoteAddress) -> RemoteAddress {
    let Some(written) = written else {
        return below;
    };
    RemoteAddress {
        trusted_proxies: written.trusted_proxies.unwrap_or(below.trusted_proxies),
        proxy_protocol: written.proxy_protocol || below.proxy_protocol,
    }
}

fn path_rule(written: PathNormalization) -> PathRule {
    match written {
        PathNormalization::None => PathRule::None,
        PathNormalization::Base => PathRule::Base,
        PathNormalization::MergeSlashes => PathRule::MergeSlashes,
        PathNormalization::DecodeAndMergeSlashes => PathRule::DecodeAndMergeSlashes,
    }
}
