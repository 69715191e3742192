//! Namespace: a name and labels.

use crate::field::Fields;
use crate::resource::Resource;

pub(crate) fn read(fields: &Fields<'_>) -> Resource {
    if let Some(spec) = fields.get("spec") {
        spec.map(|spec| {
            spec.no_meaning(&["finalizers"]);
            Some(())
        });
    }
    Resource::Namespace
}
