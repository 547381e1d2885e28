//! What all kinds have in common: the static table entry, the typed trait, and the object-safe trait the API server's pipeline uses.

use std::{any::Any, fmt};

use bytes::Bytes;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

use crate::{
    json,
    meta::v1::ObjectMeta,
    names::Format,
    rules::{FieldErrors, Path, Rules},
    schema::Message,
};

pub use crate::generated::k8s::io::apimachinery::pkg::api::resource::Quantity;

/// How a kind is named, stored, served and printed. One static entry a kind, generated from the schema.
pub struct Kind {
    /// API group; empty for the core group.
    pub group: &'static str,
    /// Version within the group.
    pub version: &'static str,
    /// `group/version`, or the version alone for the core group, as `apiVersion` has it.
    pub api_version: &'static str,
    /// CamelCase name.
    pub kind: &'static str,
    /// Lower-case plural, the resource's name in URLs and RBAC rules; empty for kinds that are only the body of a subresource.
    pub plural: &'static str,
    /// Lower-case singular.
    pub singular: &'static str,
    /// What fingers type instead.
    pub short_names: &'static [&'static str],
    /// True if objects live in a namespace.
    pub namespaced: bool,
    /// Path below `/registry/`; `None` for kinds that are computed and never stored.
    pub storage: Option<&'static str>,
    /// Subresources served.
    pub subresources: &'static [&'static str],
    /// Categories such as `all`.
    pub categories: &'static [&'static str],
    /// Table columns after NAME.
    pub columns: &'static [Column],
    /// What field selectors may name besides `metadata.name` and `metadata.namespace`.
    pub selectable: &'static [Selectable],
    /// Verbs served.
    pub verbs: &'static [&'static str],
    /// Form of `metadata.name`.
    pub name_format: Format,
    /// Schema of the object.
    pub message: &'static Message,
    /// `type_url` of the object in a `google.protobuf.Any`.
    pub type_url: &'static str,
    /// Decodes the protobuf encoding.
    pub decode: fn(Bytes) -> Result<Box<dyn Object>, prost::DecodeError>,
    /// Decodes JSON, ignoring unknown fields; `apiVersion` and `kind` may be absent but must not differ.
    pub from_value: fn(Value) -> Result<Box<dyn Object>, json::Error>,
    /// An empty object.
    pub new: fn() -> Box<dyn Object>,
}

/// A column of the table that `get` prints.
#[derive(Debug)]
pub struct Column {
    /// Heading.
    pub name: &'static str,
    /// A JSON path, or `=` and the name of a printer function.
    pub path: &'static str,
    /// Above 0: wide output only.
    pub priority: i32,
}

/// A field that field selectors may name.
#[derive(Debug)]
pub struct Selectable {
    /// Name in selectors, such as `spec.nodeName`.
    pub label: &'static str,
    /// Field numbers that lead from the object to the value.
    pub numbers: &'static [u32],
    /// The value is a boolean (`true`, `false`), not text.
    pub boolean: bool,
}

impl Kind {
    /// The kind served as `plural` of `group`.
    pub fn by_resource(group: &str, plural: &str) -> Option<&'static Self> {
        crate::KINDS.iter().copied().find(|k| k.group == group && k.plural == plural && !plural.is_empty())
    }

    /// The kind with this `apiVersion` and `kind`.
    pub fn by_api_version(api_version: &str, kind: &str) -> Option<&'static Self> {
        crate::KINDS.iter().copied().find(|k| k.api_version == api_version && k.kind == kind)
    }

    /// The kind whose objects carry this `type_url`.
    pub fn by_type_url(type_url: &str) -> Option<&'static Self> {
        crate::KINDS.iter().copied().find(|k| k.type_url == type_url)
    }

    /// `plural` or `plural.group`, as messages and RBAC name a resource.
    pub fn qualified_plural(&self) -> String {
        if self.group.is_empty() { self.plural.to_owned() } else { format!("{}.{}", self.plural, self.group) }
    }

    /// True if the kind has this subresource.
    pub fn has_subresource(&self, name: &str) -> bool {
        self.subresources.contains(&name)
    }
}

impl PartialEq for Kind {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::eq(self, other)
    }
}

impl Eq for Kind {}

impl std::hash::Hash for Kind {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        (self.group, self.version, self.kind).hash(state);
    }
}

impl fmt::Debug for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.api_version, self.kind)
    }
}

/// An object of one kind.
pub trait Resource:
    prost::Message + Rules + Default + Clone + PartialEq + Serialize + DeserializeOwned + fmt::Debug + Send + Sync + 'static
{
    /// The kind's entry in the table.
    const KIND: &'static Kind;
    /// The object's metadata, or its default if unset.
    fn metadata(&self) -> &ObjectMeta;
    /// The object's metadata, made first if unset.
    fn metadata_mut(&mut self) -> &mut ObjectMeta;

    /// Sets the status to that of `other`. Does nothing for kinds that have none.
    fn copy_status_from(&mut self, other: &Self);

    /// `metadata.name`.
    fn name(&self) -> &str {
        &self.metadata().name
    }

    /// `metadata.namespace`; empty for cluster-scoped kinds.
    fn namespace(&self) -> &str {
        &self.metadata().namespace
    }
}

/// A message whose unset occurrences share one default.
pub trait SharedDefault: Sized + 'static {
    /// The default.
    fn shared_default() -> &'static Self;
}

/// An object of some kind, for code that serves all kinds alike. Implemented by every [`Resource`].
pub trait Object: Any + fmt::Debug + Send + Sync {
    /// The kind's entry in the table.
    fn kind(&self) -> &'static Kind;
    /// The object's metadata, or its default if unset.
    fn meta(&self) -> &ObjectMeta;
    /// The object's metadata, made first if unset.
    fn meta_mut(&mut self) -> &mut ObjectMeta;
    /// Protobuf encoding.
    fn encode(&self) -> Bytes;
    /// JSON with `apiVersion` and `kind`.
    ///
    /// # Errors
    /// When a value has no JSON form, such as raw JSON that does not parse.
    fn to_value(&self) -> Result<Value, json::Error>;
    /// Sets what the schema defaults.
    fn set_defaults(&mut self);
    /// Checks every field on its own.
    fn validate(&self, errors: &mut FieldErrors);
    /// Checks that fields which cannot change did not. Objects of different kinds are not compared.
    fn validate_update(&self, old: &dyn Object, errors: &mut FieldErrors);
    /// Sets the status to that of `other`, if both are of the same kind and it has a status.
    fn copy_status_from(&mut self, other: &dyn Object);
    /// A copy.
    fn boxed_clone(&self) -> Box<dyn Object>;
    /// True if both are of the same kind and equal.
    fn equals(&self, other: &dyn Object) -> bool;
}

impl<K: Resource> Object for K {
    fn kind(&self) -> &'static Kind {
        K::KIND
    }

    fn meta(&self) -> &ObjectMeta {
        Resource::metadata(self)
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        Resource::metadata_mut(self)
    }

    fn encode(&self) -> Bytes {
        Bytes::from(self.encode_to_vec())
    }

    fn to_value(&self) -> Result<Value, json::Error> {
        json::to_value(self)
    }

    fn set_defaults(&mut self) {
        Rules::set_defaults(self);
    }

    fn validate(&self, errors: &mut FieldErrors) {
        Rules::validate(self, &Path::root(), errors);
    }

    fn validate_update(&self, old: &dyn Object, errors: &mut FieldErrors) {
        if let Some(old) = old.downcast_ref::<K>() {
            Rules::validate_update(self, old, &Path::root(), errors);
        }
    }

    fn copy_status_from(&mut self, other: &dyn Object) {
        if let Some(other) = other.downcast_ref::<K>() {
            Resource::copy_status_from(self, other);
        }
    }

    fn boxed_clone(&self) -> Box<dyn Object> {
        Box::new(self.clone())
    }

    fn equals(&self, other: &dyn Object) -> bool {
        other.downcast_ref::<K>().is_some_and(|other| self == other)
    }
}

impl dyn Object {
    /// The object as its own type, if it is of that kind.
    pub fn downcast_ref<K: Resource>(&self) -> Option<&K> {
        (self as &dyn Any).downcast_ref()
    }

    /// The object as its own type, if it is of that kind.
    pub fn downcast_mut<K: Resource>(&mut self) -> Option<&mut K> {
        (self as &mut dyn Any).downcast_mut()
    }
}

pub(crate) fn decode<K: Resource>(bytes: Bytes) -> Result<Box<dyn Object>, prost::DecodeError> {
    Ok(Box::new(K::decode(bytes)?))
}

pub(crate) fn from_value<K: Resource>(value: Value) -> Result<Box<dyn Object>, json::Error> {
    Ok(Box::new(json::from_value::<K>(value)?))
}

pub(crate) fn new<K: Resource>() -> Box<dyn Object> {
    Box::new(K::default())
}
