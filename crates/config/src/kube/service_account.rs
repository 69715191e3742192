//! ServiceAccount: the name that becomes a part of an identity.

use crate::field::Fields;
use crate::resource::Resource;

pub(crate) fn read(fields: &Fields<'_>) -> Resource {
    fields.no_meaning(&["automountServiceAccountToken", "imagePullSecrets", "secrets"]);
    Resource::ServiceAccount
}
