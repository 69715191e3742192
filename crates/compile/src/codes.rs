//! The table of this room's codes: `docs/findings.md` is generated from it.

use bartizan_config::Code;

macro_rules! codes {
    ($($name:ident = $id:literal, $title:literal, $explanation:literal;)*) => {
        $(
            #[doc = concat!($id, ": ", $title, ".")]
            pub const $name: Code = Code::new($id, $title, $explanation);
        )*
        /// All codes of this room, in the order of their ids.
        pub const CODES: &[Code] = &[$($name),*];
    };
}

codes! {
    DUPLICATE_RESOURCE = "BZ0201", "resource written twice",
        "Two documents have the same kind, namespace and name. In a cluster the later one would replace the earlier; in a folder nobody can say which is the later one.";
    MISSING_NAMESPACE = "BZ0202", "namespace does not exist",
        "The document lives in a namespace that no Namespace document makes. `default` and the root namespace (`istio-system`) exist without one.";
    MISSING_SERVICE_ACCOUNT = "BZ0203", "service account does not exist",
        "A pod runs as a service account that no document makes. Its name becomes the workload's identity, so it must be written down; `default` exists in each namespace.";
    MISSING_CONFIG = "BZ0204", "ConfigMap, Secret or key does not exist",
        "A container's environment or a volume refers to a ConfigMap, a Secret or a key in one that no document has. Where that is fine, say `optional: true`.";
    NO_COMMAND = "BZ0205", "nothing to run on this machine",
        "The container has an image and no command. Images are not pulled here: a LocalRun document says which local command stands for the image or for this one container.";
    NAME_TAKEN = "BZ0206", "name of a replica is taken or too long",
        "Replicas are named after their workload with a number behind it; two workloads would have a replica of the same name, or the name would be longer than a host name may be.";
    MISSING_PORT_NAME = "BZ0207", "port name that no container has",
        "A service targets a port by a name that no container port of its workload has. Named ports are found in the container's `ports`.";
    CANNOT_RUN = "BZ0208", "cannot be run as written",
        "The pod asks for something that a local mesh cannot do, and running it without would change what it means.";
    SELECTS_NOTHING = "BZ0210", "selects no workload",
        "No workload of the documents has these labels in the place where the resource looks for them. Usually a label is misspelt, or the resource is in another namespace than its workloads.";
    SERVICE_WITHOUT_PODS = "BZ0211", "service without pods",
        "No workload of the service's namespace has the labels of its selector, or it has no selector: requests to it are answered 503.";
    EXTERNAL_NAME = "BZ0212", "ExternalName that is not in the mesh",
        "An ExternalName service stands for another name. Here that must be a service of the mesh: nothing leaves the mesh yet.";
    PORT_CONFLICT = "BZ0213", "ports contradict each other",
        "Services that target the same port of a workload declare different protocols for it. The first service by name that declares one counts.";
    ADDRESSES_EXHAUSTED = "BZ0214", "no virtual address left",
        "Every address of 10.67.0.0/16 is taken by a service.";
    UNKNOWN_NAMESPACE_IN_POLICY = "BZ0220", "policy names a namespace that does not exist",
        "A policy lets in or keeps out a namespace that no document makes. Policies for peers of other meshes are fine; otherwise the name is misspelt.";
    UNKNOWN_PRINCIPAL = "BZ0221", "policy names an identity that nobody has",
        "No service account of the documents makes this identity. A policy that lets in nobody usually has a misspelt namespace, service account or trust domain.";
    HTTP_RULE_ON_TCP = "BZ0222", "HTTP fields on a TCP port",
        "Hosts, methods, paths and request headers exist only in HTTP. On a port that is declared as TCP or TLS an ALLOW rule with them never matches, and in a DENY rule they are ignored, so that it refuses every connection that the rest of the rule matches.";
    UNKNOWN_PORT_IN_POLICY = "BZ0223", "policy names a port that nothing serves",
        "Policies speak of the workload's port (a service's `targetPort`), not of the service's. No service and no container port of the selected workloads has this number.";
    IGNORED_PEER_AUTHENTICATION = "BZ0224", "PeerAuthentication that has no effect",
        "Only one PeerAuthentication without a selector counts in a namespace (the first by name), and one with a selector counts only outside the root namespace, as in Istio.";
    NOBODY_ALLOWED = "BZ0225", "nobody may call it",
        "With the zero-trust profile nothing is allowed that no ALLOW policy allows, and none is for the workloads behind this service or gateway. Write an AuthorizationPolicy for whoever should call it; clients from outside need one that selects the gateway.";
    USER_WITHOUT_TOKENS = "BZ0226", "rule asks for a user where no token is looked at",
        "A rule asks for a verified user or a claim, and no RequestAuthentication is for the workload: nobody is ever verified there, so that an ALLOW rule never matches and a negative condition always does.";
    TOKEN_NOT_REQUIRED = "BZ0227", "tokens are checked but not asked for",
        "A RequestAuthentication refuses bad tokens and lets requests without a token pass. That there is a token is asked for by an ALLOW policy with `requestPrincipals` or a claim, or by the profile's `userCredentials`.";
    ISSUER_WITH_OTHER_KEYS = "BZ0228", "one issuer with different keys",
        "Two rules that hold at the same workload take tokens of the same issuer and check them with different keys. A token is taken when either accepts it, so that the weaker of the two decides.";
    PEOPLE_WITHOUT_TOKENS = "BZ0229", "marked for people, and no token is looked at",
        "The profile asks for a user's verified token at workloads and routes that are marked with `bartizan.dev/users`, and no RequestAuthentication is for this one: every request is refused.";
    NOT_OUR_GATEWAY = "BZ0230", "gateway of a class that is not ours",
        "The Gateway's class is neither `bartizan` nor `istio` nor a GatewayClass whose controller is one of theirs: nothing listens for it here.";
    LISTENER_CONFLICT = "BZ0231", "gateways in conflict",
        "Two gateways would listen at the same address of the host. A LocalRun document can give one of them another.";
    GATEWAY_ADDRESS = "BZ0232", "gateway port that needs a place on the host",
        "Ports below 1024 need privileges on the host. Port 80 is offered as 8080; for others a LocalRun document says where the host listens (`spec.gateways`).";
    ROUTE_NOT_ATTACHED = "BZ0233", "route that is not attached",
        "The HTTPRoute names a parent that does not exist, does not let routes of this namespace attach, or serves none of the route's hosts. Requests do not reach it that way.";
    BACKEND_NOT_RESOLVED = "BZ0234", "backend that cannot be resolved",
        "The service or its port does not exist, or it is in another namespace and no ReferenceGrant there lets this route point at it. That share of the requests is answered 500, as Gateway API says.";
    DRY_RUN = "BZ0235", "policy that only looks",
        "The policy has the annotation `istio.io/dry-run: \"true\"`: what it would do is written to the access log and changes nothing.";
    EXPRESSION_ON_TCP = "BZ0236", "expression about requests on a TCP port",
        "An AccessRule speaks of `request` or `auth`, which exist only in HTTP. On a port that is declared as TCP or TLS an ALLOW rule with them never matches, and a DENY rule with them refuses every connection.";
    UNUSED_LOCAL_RUN = "BZ0240", "LocalRun entry for nothing",
        "No container has this image or this place, no gateway this name or port: the entry has no effect.";
    LOCAL_RUN_TWICE = "BZ0241", "two LocalRun entries for the same thing",
        "Two entries say what runs for the same image or container, or where the same gateway listens.";
    STATIC_ONLY = "BZ0250", "only for a proxy without a control plane",
        "A StaticProxy has no meaning in a mesh; `bartizan proxy --static DIR` serves it.";
    NOT_STATIC = "BZ0251", "not for a proxy without a control plane",
        "A proxy that runs from a folder reads one StaticProxy, and AuthorizationPolicies, AccessRules, RequestAuthentications with inline keys and PeerAuthentications for it, and a Profile. Nobody fetches keys for it, and it has no services that it could ask.";
    UNKNOWN_PROVIDER = "BZ0260", "authorizer that does not exist",
        "A CUSTOM policy names a provider that is not among `extensionProviders` of the mesh's configuration. Istio would refuse every request that its rules match.";
    SEVERAL_PROVIDERS = "BZ0261", "several authorizers for one workload",
        "CUSTOM policies with different providers are for the same workload. Istio asks none of them and refuses every request that their rules match.";
    PROVIDER_SERVICE = "BZ0262", "authorizer that is no service of the mesh",
        "An authorizer is a service of this mesh with a port of this number: it is asked over mTLS, under the identity of the workload that asks, and nothing leaves the mesh.";
    PROVIDER_NOT_ALLOWED = "BZ0263", "authorizer that the workload may not call",
        "The policies of the authorizer's own workloads let in nobody with the identity of a workload that must ask it: every question is refused, and so is every request.";
    PROVIDER_WITHOUT_MTLS = "BZ0264", "authorizer over plaintext",
        "The authorizer's port takes no mTLS, so that anybody on the way can answer in its place (NIST SP 800-204B EUAZ-SR-1).";
    CUSTOM_ON_TCP = "BZ0265", "authorizer that cannot be asked about connections",
        "On a port that is declared as TCP or TLS only a gRPC authorizer can be asked; a CUSTOM policy with an HTTP authorizer has no effect there, as in Istio.";
    SEVERAL_PROFILES = "BZ0270", "several profiles",
        "A mesh has one profile: at most one Profile document, or the one that `--profile` names.";
    PROFILE_NOT_USED = "BZ0271", "profile that does not hold",
        "The mesh was started with `--profile`, which wins over a Profile among the documents.";
    OTHER_TRUST_DOMAIN = "BZ0272", "another trust domain",
        "The trust domain in Istio's mesh configuration is not that of this mesh.";
    PATHS_OF_MESH_CONFIG = "BZ0273", "paths as Istio normalizes them",
        "Istio's mesh configuration says how paths are normalized, and that wins over the profile's `paths`. A path that the application could read differently than the policy did is then no longer refused.";
    KEYS_WITHOUT_TLS = "BZ0274", "keys over plaintext",
        "The profile asks for users' tokens, and the keys that check them would be fetched without TLS, so that anybody on the way could make tokens (NIST SP 800-204B EUAZ-SR-1).";
    EMPTY_MESH_CONFIG = "BZ0275", "mesh configuration that says nothing",
        "The ConfigMap `istio` of the root namespace has no `data.mesh`, where Istio's MeshConfig is, so that nothing of it holds.";
    UNKNOWN_IN_TEST = "BZ0280", "test or claim names what does not exist",
        "A PolicyTest or PolicyClaim names a service, workload, identity or namespace that no document makes, so that what it says is about nothing.";
}

#[cfg(test)]
mod tests {
    use super::CODES;

    #[test]
    fn ids_are_unique_sorted_and_of_this_room() {
        assert!(CODES.windows(2).all(|pair| pair[0].id < pair[1].id));
        assert!(
            CODES
                .iter()
                .all(|code| code.id.starts_with("BZ02") && code.id.len() == 6)
        );
        assert!(CODES.iter().all(|code| code.explanation.ends_with('.')));
    }
}
