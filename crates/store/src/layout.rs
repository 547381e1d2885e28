//! What the store must know of a kind: where its objects lie in etcd and which of their fields are selectable.

use std::borrow::Cow;
use std::time::Duration;

use api::unstructured;

use crate::wire::{self, Value};

/// A kind as the store sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KindLayout {
    /// What [`crate::Store::collection`] finds it by and what metrics and logs call it: the resource with its
    /// group, e.g. `pods` or `leases.coordination.k8s.io`.
    pub name: Cow<'static, str>,
    /// Written into the envelope, e.g. `v1`.
    pub api_version: Cow<'static, str>,
    /// Written into the envelope, e.g. `Pod`.
    pub kind: Cow<'static, str>,
    /// Key prefix with its final slash, e.g. `/registry/pods/`. No kind's prefix may begin with another's.
    pub prefix: Cow<'static, str>,
    /// Whether a namespace stands between prefix and name.
    pub namespaced: bool,
    /// How long an object lives after it was last written, in whole seconds; etcd removes it up to a minute later. For Events.
    pub ttl: Option<Duration>,
    /// How an object is written in etcd.
    pub encoding: Encoding,
    /// The selectable fields. An [`IndexKey::Field`](crate::IndexKey::Field) names one by its place here.
    pub fields: Vec<FieldLayout>,
}

/// How objects are written in etcd. In memory and towards its callers the store has them in protobuf either way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Encoding {
    /// In the protobuf envelope.
    #[default]
    Protobuf,
    /// As JSON with `apiVersion` and `kind`, as upstream stores custom resources: [`api::Unstructured`] in memory. Objects of the
    /// kind's other versions are read too, and become this one's when they are next written.
    Json,
}

/// A selectable field of a kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldLayout {
    /// As field selectors write it, e.g. `spec.nodeName`.
    pub json_path: Cow<'static, str>,
    /// Field numbers from the object down, e.g. `[2, 10]`; empty for [`FieldKind::Json`].
    pub path: Cow<'static, [u32]>,
    /// How its value is written on the wire.
    pub kind: FieldKind,
    /// Keep an index value → objects and let watchers of one value sleep through changes of others. Costs some 30
    /// bytes an object; worth it where many clients each select one value.
    pub indexed: bool,
}

/// How a selectable field's value is written on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FieldKind {
    /// A string; absent reads as empty.
    Text,
    /// A bool; reads `true` or `false`.
    Bool,
    /// A text, bool or number that the field's path leads to in the JSON of an [`Encoding::Json`] kind; absent reads as empty.
    Json,
}

// === impl KindLayout ===

impl KindLayout {
    /// The key of an object. `namespace` is ignored for a kind that has none.
    pub fn key(&self, namespace: &str, name: &str) -> String {
        let mut key = String::with_capacity(self.prefix.len() + namespace.len() + 1 + name.len());
        key.push_str(&self.prefix);
        if self.namespaced {
            key.push_str(namespace);
            key.push('/');
        }
        key.push_str(name);
        key
    }

    /// The place of a selectable field in [`KindLayout::fields`].
    pub fn field(&self, json_path: &str) -> Option<usize> {
        self.fields.iter().position(|field| field.json_path == json_path)
    }
}

// === impl FieldLayout ===

impl FieldLayout {
    /// A text field without an index.
    pub const fn text(json_path: &'static str, path: &'static [u32]) -> Self {
        Self { json_path: Cow::Borrowed(json_path), path: Cow::Borrowed(path), kind: FieldKind::Text, indexed: false }
    }

    /// The same field with an index.
    pub const fn indexed(mut self) -> Self {
        self.indexed = true;
        self
    }

    /// The field's value in an encoded object, as a selector compares it.
    pub fn value<'a>(&self, object: &'a [u8]) -> Cow<'a, str> {
        if self.kind == FieldKind::Json {
            return Cow::Owned(unstructured::field(object, &self.json_path));
        }
        let value = wire::last(object, &self.path);
        match (self.kind, value) {
            (FieldKind::Text, Some(value)) => Cow::Borrowed(value.text().unwrap_or_default()),
            (FieldKind::Text, None) => Cow::Borrowed(""),
            (FieldKind::Bool, Some(Value::Varint(v))) if v != 0 => Cow::Borrowed("true"),
            (FieldKind::Bool | FieldKind::Json, _) => Cow::Borrowed("false"),
        }
    }
}
