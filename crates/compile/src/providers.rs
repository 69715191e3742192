//! External authorizers that CUSTOM policies name (`MeshConfig.extensionProviders`).

use std::collections::BTreeMap;
use std::sync::Arc;

use bartizan_mesh::{Key, Provider, Resource};

/// An authorizer.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ProviderEntry {
    pub(crate) provider: Provider,
    pub(crate) key: Key,
    pub(crate) resource: Arc<Resource>,
}

/// By the provider's name.
pub(crate) type Providers = BTreeMap<Arc<str>, Arc<ProviderEntry>>;
