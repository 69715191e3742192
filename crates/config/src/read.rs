//! From a file's text to its documents.

use std::cell::RefCell;

use bartizan_types::{Name, Namespace, ResourceRef};

use crate::document::{Document, Metadata, Reading};
use crate::field::{Fields, Value};
use crate::finding::{Severity, codes};
use crate::kinds::{self, Class, InnerDocument, Known, Owner};
use crate::node::{Node, parse};
use crate::resource::Resource;
use crate::sink::Sink;
use crate::source::{SourceFile, Spot};
use crate::source_map::SourceMap;
use crate::{marks, names};

/// The largest file that is read, in bytes.
pub const LARGEST_FILE_BYTES: usize = 10 * 1024 * 1024;

/// Where a namespaced resource lives that does not say.
const DEFAULT_NAMESPACE: &str = "default";

/// Reads every document of a file: YAML (several, separated by `---`), JSON, and the items of a `kind: List`.
///
/// Never panics and never stops at the first finding. A document with an error of its own is not among the documents,
/// but its findings are. Memory is bounded by the limits of [`codes::TOO_LARGE`] and [`codes::TOO_COMPLEX`].
pub fn read(file: &SourceFile) -> Reading {
    let sink = Sink::new(file);
    if file.text.len() > LARGEST_FILE_BYTES {
        let what = format!(
            "the file has {} bytes; at most {LARGEST_FILE_BYTES} are read",
            file.text.len()
        );
        sink.error(codes::TOO_LARGE, Spot::START, what);
        return Reading {
            documents: Vec::new(),
            findings: sink.into_findings(),
        };
    }
    let mut documents = Vec::new();
    for root in parse(&file.text, &sink) {
        let before = documents.len();
        if !root.node.is_null() {
            read_node(file, &root.node, &sink, &mut documents);
        }
        if !root.whole {
            documents.truncate(before);
        }
        if sink.is_full() {
            break;
        }
    }
    Reading {
        documents,
        findings: sink.into_findings(),
    }
}

fn read_node(file: &SourceFile, root: &Node, sink: &Sink, documents: &mut Vec<Document>) {
    let Some(fields) = Value::root(root, sink).fields() else {
        let what = "a resource is a mapping with `apiVersion`, `kind` and `metadata`";
        sink.error(codes::NOT_A_RESOURCE, root.spot, what);
        return;
    };
    let errors = sink.errors();
    let Some((api_version, kind)) = read_type(&fields) else {
        return;
    };
    match kinds::classify(api_version, kind) {
        Class::List => {
            for item in fields.required("items").map(Value::items).unwrap_or_default() {
                read_node(file, item.node(), sink, documents);
            }
        }
        Class::Known(known) => {
            sink.hide_values(known == Known::Secret);
            let inner = RefCell::default();
            let read = read_known(known, kind, &fields, &inner);
            fields.report_unknown();
            sink.hide_values(false);
            if let Some((reference, metadata, resource)) = read
                && sink.errors() == errors
            {
                documents.push(Document {
                    reference,
                    metadata,
                    resource,
                    positions: SourceMap::new(file, root, &inner.into_inner()),
                    file: file.path.clone(),
                    position: root.spot.position,
                });
            }
        }
        Class::Other(other) => other.report(api_version, kind, &fields),
    }
}

/// `apiVersion` and `kind`, which say how to read the rest.
fn read_type<'a>(fields: &Fields<'a>) -> Option<(&'a str, &'a str)> {
    let api_version = fields.get("apiVersion");
    let kind = fields.get("kind");
    if api_version.is_none() && kind.is_none() {
        fields.sink.push(
            Severity::Warning,
            codes::NOT_A_RESOURCE,
            fields.spot,
            "the document has neither `apiVersion` nor `kind`, so it has no effect",
            None,
            Some("move files that are not resources out of the folder".to_owned()),
        );
        return None;
    }
    let text = |value: Option<Value<'a>>, name: &'static str| {
        let Some(value) = value else {
            let what = format!("the document has no `{name}`");
            match fields.nearest_key(name) {
                Some((key, spot)) => {
                    let help = format!("did you mean `{name}` where `{key}` stands?");
                    fields.sink.error_help(codes::NOT_A_RESOURCE, spot, what, help);
                }
                None => fields.sink.error(codes::NOT_A_RESOURCE, fields.spot, what),
            }
            return None;
        };
        value.text()
    };
    let (api_version, kind) = (text(api_version, "apiVersion"), text(kind, "kind"));
    Some((api_version?, kind?))
}

fn read_known(
    known: Known,
    kind: &str,
    fields: &Fields<'_>,
    inner: &RefCell<Vec<InnerDocument>>,
) -> Option<(ResourceRef, Metadata, Resource)> {
    let metadata = fields.required("metadata");
    let head = metadata.and_then(|value| value.map(|metadata| Some(read_metadata(known, metadata))));
    if let Some(metadata) = metadata {
        marks::report_misplaced(metadata, marks::Place::Document(known));
    }
    fields.no_meaning(&["status"]);
    let (name, namespace, metadata) = head.unwrap_or_default();
    // Without a usable head the rest is still read, so that its findings are seen too.
    let namespace = match namespace {
        Some(namespace) => namespace,
        None => Namespace::parse(DEFAULT_NAMESPACE).ok()?,
    };
    let owner = Owner { namespace, inner };
    let resource = known.read(fields, &owner);
    let reference = ResourceRef {
        kind: kind.into(),
        namespace: known.is_namespaced().then_some(owner.namespace),
        name: name?,
    };
    Some((reference, metadata, resource?))
}

/// Name, namespace, and the rest of `metadata`.
fn read_metadata(known: Known, fields: &Fields<'_>) -> (Option<Name>, Option<Namespace>, Metadata) {
    let rule = known.name_rule();
    if let Some(generated) = fields.get("generateName") {
        generated.error_help(
            codes::CHANGES_MEANING,
            "`generateName` cannot be honoured: names here are those of the documents",
            "give the resource a `name`",
        );
    }
    let name = match fields.get("name") {
        None if fields.has("generateName") => None,
        None => fields.required("name").and_then(|value| value.parse(rule)),
        Some(value) => value.parse(rule),
    };
    let namespace = fields.get("namespace").and_then(|value| {
        if !known.is_namespaced() {
            let what = "`namespace` is set, but the kind is not in a namespace";
            value.error_help(codes::CONFLICT, what, "remove it");
            return None;
        }
        value.parse(names::dns_label)
    });
    let labels = fields.get("labels").map(Value::labels).unwrap_or_default();
    let annotations = fields.get("annotations").map(Value::text_map).unwrap_or_default();
    fields.no_meaning(&[
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "finalizers",
        "generation",
        "managedFields",
        "ownerReferences",
        "resourceVersion",
        "selfLink",
        "uid",
    ]);
    (name, namespace, Metadata { labels, annotations })
}
