//! RequestAuthentications: which workloads they are for, and what they say, resolved.

use std::collections::BTreeMap;
use std::sync::Arc;

use bartizan_mesh::{RequestAuthentication, Resource};
use bartizan_types::NamespacedName;

use crate::keys::KeyOrigin;
use crate::library::Library;
use crate::options::Options;
use crate::target::Attachment;

/// A RequestAuthentication and the workloads that it is for.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct AuthenticationEntry {
    pub(crate) authentication: RequestAuthentication,
    pub(crate) resource: Arc<Resource>,
    pub(crate) attachment: Attachment,
    /// The key sets that its rules use, by name.
    pub(crate) keys: Vec<KeyOrigin>,
}

pub(crate) type Authentications = BTreeMap<NamespacedName, Arc<AuthenticationEntry>>;

/// All RequestAuthentications.
pub(crate) fn build(_library: &Library, _options: &Options) -> Authentications {
    Authentications::new()
}
