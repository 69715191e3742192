//! GatewayClass: which controller answers for a class of gateways.

use crate::field::Fields;
use crate::finding::{Severity, codes};

/// Gateway API GatewayClass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GatewayClass {
    /// `spec.controllerName`.
    pub controller_name: String,
}

impl GatewayClass {
    /// Our own controller.
    pub const CONTROLLER: &str = "bartizan.dev/gateway-controller";
    /// Istio's, which is answered as well.
    pub const ISTIO_CONTROLLER: &str = "istio.io/gateway-controller";

    /// Whether gateways of the class are ours to run.
    pub fn is_ours(&self) -> bool {
        self.controller_name == Self::CONTROLLER || self.controller_name == Self::ISTIO_CONTROLLER
    }
}

pub(crate) fn read(fields: &Fields<'_>) -> Option<GatewayClass> {
    fields.required("spec")?.map(|spec| {
        spec.no_meaning(&["description"]);
        spec.not_supported(&["parametersRef"]);
        let value = spec.required("controllerName")?;
        let class = GatewayClass {
            controller_name: value.text()?.to_owned(),
        };
        if !class.is_ours() {
            spec.sink.push(
                Severity::Note,
                codes::NO_MEANING,
                value.spot,
                format!(
                    "{} is another controller, so gateways of this class are not run",
                    spec.sink.quoted(&class.controller_name)
                ),
                None,
                Some(format!(
                    "`{}` and `{}` are run",
                    GatewayClass::CONTROLLER,
                    GatewayClass::ISTIO_CONTROLLER
                )),
            );
        }
        Some(class)
    })
}
