//! Every kind that is read.

use crate::gateway_api::{Gateway, GatewayClass, HttpRoute, ReferenceGrant};
use crate::istio::{AuthorizationPolicy, PeerAuthentication, RequestAuthentication};
use crate::kube::{ConfigMap, Deployment, Pod, SecretData, Service, StatefulSet};
use crate::native::{AccessRule, LocalRun, PolicyClaim, PolicyTest, Profile, StaticProxy};

/// What a document says.
#[derive(Clone, Debug, PartialEq)]
pub enum Resource {
    /// Kubernetes `v1` Namespace; its labels are in the document's metadata.
    Namespace,
    /// Kubernetes `v1` ServiceAccount.
    ServiceAccount,
    /// Kubernetes `apps/v1` Deployment.
    Deployment(Deployment),
    /// Kubernetes `apps/v1` StatefulSet.
    StatefulSet(StatefulSet),
    /// Kubernetes `v1` Pod.
    Pod(Pod),
    /// Kubernetes `v1` Service.
    Service(Service),
    /// Kubernetes `v1` ConfigMap.
    ConfigMap(ConfigMap),
    /// Kubernetes `v1` Secret.
    Secret(SecretData),
    /// Istio `security.istio.io` PeerAuthentication.
    PeerAuthentication(PeerAuthentication),
    /// Istio `security.istio.io` RequestAuthentication.
    RequestAuthentication(RequestAuthentication),
    /// Istio `security.istio.io` AuthorizationPolicy.
    AuthorizationPolicy(AuthorizationPolicy),
    /// Gateway API GatewayClass.
    GatewayClass(GatewayClass),
    /// Gateway API Gateway.
    Gateway(Gateway),
    /// Gateway API HTTPRoute.
    HttpRoute(HttpRoute),
    /// Gateway API ReferenceGrant.
    ReferenceGrant(ReferenceGrant),
    /// `bartizan.dev/v1alpha1` LocalRun.
    LocalRun(LocalRun),
    /// `bartizan.dev/v1alpha1` StaticProxy.
    StaticProxy(StaticProxy),
    /// `bartizan.dev/v1alpha1` AccessRule.
    AccessRule(AccessRule),
    /// `bartizan.dev/v1alpha1` Profile.
    Profile(Profile),
    /// `bartizan.dev/v1alpha1` PolicyTest; it has no effect on the mesh.
    PolicyTest(PolicyTest),
    /// `bartizan.dev/v1alpha1` PolicyClaim; it has no effect on the mesh.
    PolicyClaim(PolicyClaim),
}
