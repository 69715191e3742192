//! The attributes that an expression may name.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

use crate::extent::Extent;
use crate::types::Type;

/// The declared attributes with their types and greatest sizes.
#[derive(Clone, Debug, Default)]
pub struct Environment {
    attributes: BTreeMap<Arc<str>, Declared>,
    /// Every prefix of an attribute's name that ends before a dot.
    objects: BTreeMap<Arc<str>, Vec<Arc<str>>>,
}

#[derive(Clone, Debug)]
pub(crate) struct Declared {
    pub(crate) of: Type,
    pub(crate) extent: Extent,
}

impl Environment {
    /// Nothing declared.
    pub fn new() -> Self {
        Self::default()
    }

    /// Declares an attribute by its dotted name; what stands before a dot becomes an object. A map has texts as keys.
    #[must_use]
    pub fn declare(mut self, path: &str, of: Type, extent: Extent) -> Self {
        let mut child = path;
        while let Some((object, field)) = child.rsplit_once('.') {
            let fields = self.objects.entry(object.into()).or_default();
            if !fields.iter().any(|known| **known == *field) {
                fields.push(field.into());
            }
            child = object;
        }
        let extent = match of {
            Type::Map(..) => extent.for_a_map(),
            _ => extent,
        };
        self.attributes.insert(path.into(), Declared { of, extent });
        self
    }

    /// The attributes of a bartizan `AccessRule`: who asks, who is asked, the request, its user, the connection, and the time.
    /// The sizes are those that the mesh accepts at most.
    pub fn access_rule() -> &'static Self {
        static ACCESS_RULE: LazyLock<Environment> = LazyLock::new(access_rule);
        &ACCESS_RULE
    }

    /// The declared attributes: dotted name and type, in the order of the names.
    pub fn attributes(&self) -> impl Iterator<Item = (&str, &Type)> {
        self.attributes
            .iter()
            .map(|(path, declared)| (path.as_ref(), &declared.of))
    }

    pub(crate) fn attribute(&self, path: &str) -> Option<(&Arc<str>, &Declared)> {
        self.attributes.get_key_value(path)
    }

    /// The fields of an object, in the order of their declaration.
    pub(crate) fn object(&self, path: &str) -> Option<(&Arc<str>, &[Arc<str>])> {
        self.objects
            .get_key_value(path)
            .map(|(path, fields)| (path, fields.as_slice()))
    }

    /// The names that an expression can begin with.
    pub(crate) fn roots(&self) -> impl Iterator<Item = &str> {
        self.attributes
            .keys()
            .chain(self.objects.keys())
            .map(AsRef::as_ref)
            .filter(|path: &&str| !path.contains('.'))
    }
}

/// Maps whose keys are given in lower case, whatever was sent.
pub(crate) const IN_LOWER_CASE: &[&str] = &["request.headers"];

fn access_rule() -> Environment {
    let name = Extent::text(256);
    let labels = || Extent::entries(64, Extent::text(256));
    // A field of a request's head is no longer than the head.
    let head = Extent::text(65_536);
    let texts = || Type::map_of(Type::String, Type::String);
    let mut environment = Environment::new();
    for (path, of, extent) in [
        ("source.authenticated", Type::Bool, Extent::SCALAR),
        ("source.identity", Type::String, Extent::text(2048)),
        ("source.principal", Type::String, Extent::text(2048)),
        ("source.trustDomain", Type::String, name.clone()),
        ("source.namespace", Type::String, name.clone()),
        ("source.serviceAccount", Type::String, name.clone()),
        ("source.ip", Type::String, Extent::text(64)),
        ("source.remoteIp", Type::String, Extent::text(64)),
        ("source.labels", texts(), labels()),
        ("source.version", Type::String, name.clone()),
        ("source.workload", Type::String, name.clone()),
        ("destination.namespace", Type::String, name.clone()),
        ("destination.serviceAccount", Type::String, name.clone()),
        ("destination.workload", Type::String, name.clone()),
        ("destination.version", Type::String, name.clone()),
        ("destination.labels", texts(), labels()),
        ("destination.ip", Type::String, Extent::text(64)),
        ("destination.port", Type::Int, Extent::SCALAR),
        ("request.method", Type::String, name.clone()),
        ("request.path", Type::String, head.clone()),
        ("request.host", Type::String, name.clone()),
        ("request.headers", texts(), Extent::entries(256, head.clone())),
        ("request.query", texts(), Extent::entries(256, head)),
        ("auth.authenticated", Type::Bool, Extent::SCALAR),
        ("auth.principal", Type::String, Extent::text(8192)),
        ("auth.issuer", Type::String, Extent::text(8192)),
        ("auth.subject", Type::String, Extent::text(8192)),
        ("auth.presenter", Type::String, Extent::text(8192)),
        (
            "auth.audiences",
            Type::list_of(Type::String),
            Extent::entries(256, Extent::text(4096)),
        ),
        (
            "auth.claims",
            Type::map_of(Type::String, Type::Dyn),
            Extent::entries(256, Extent::json(4096, 1024, 16_384)),
        ),
        ("connection.tls", Type::Bool, Extent::SCALAR),
        ("connection.tlsVersion", Type::String, name.clone()),
        ("connection.cipher", Type::String, name.clone()),
        ("connection.group", Type::String, name.clone()),
        ("connection.sni", Type::String, name),
        ("now", Type::Timestamp, Extent::SCALAR),
    ] {
        environment = environment.declare(path, of, extent);
    }
    environment
}
