//! What a kind is: its names, how it is served, stored and printed, and how its objects are read. A value: the kinds of the schema are
//! static, those of CustomResourceDefinitions are made at run time.

use std::{borrow::Cow, fmt, hash, ops::Deref, sync::Arc};

use bytes::Bytes;
use serde_json::Value;

use crate::{
    google::protobuf::Any,
    json,
    names::Format,
    resource::{Object, Resource},
    schema::{Message, Schema},
    unstructured,
};

/// Text that is static in the kinds of the schema and owned in others.
pub type Text = Cow<'static, str>;
/// A list that is static in the kinds of the schema and owned in others.
pub type List<T> = Cow<'static, [T]>;

/// How a kind is named, stored, served and printed. Carried about as a [`KindRef`].
#[derive(Clone)]
pub struct Kind {
    /// API group; empty for the core group.
    pub group: Text,
    /// Version within the group.
    pub version: Text,
    /// `group/version`, or the version alone for the core group, as `apiVersion` has it.
    pub api_version: Text,
    /// CamelCase name.
    pub kind: Text,
    /// Lower-case plural, the resource's name in URLs and RBAC rules; empty for kinds that are only the body of a subresource.
    pub plural: Text,
    /// Lower-case singular.
    pub singular: Text,
    /// What fingers type instead.
    pub short_names: List<Text>,
    /// True if objects live in a namespace.
    pub namespaced: bool,
    /// Path below `/registry/`; `None` for kinds that are computed and never stored. Kinds with the same path are versions of one.
    pub storage: Option<Text>,
    /// Subresources served.
    pub subresources: List<Text>,
    /// Categories such as `all`.
    pub categories: List<Text>,
    /// Table columns after NAME.
    pub columns: List<Column>,
    /// What field selectors may name besides `metadata.name` and `metadata.namespace`.
    pub selectable: List<Selectable>,
    /// Verbs served.
    pub verbs: List<Text>,
    /// Form of `metadata.name`.
    pub name_format: Format,
    /// Schema of the object.
    pub schema: Schema,
    /// `type_url` of the object in a `google.protobuf.Any`. Kinds made at run time share that of `ferrokube.v1.Unstructured`.
    pub type_url: Text,
    /// How objects are read.
    pub codec: &'static dyn Codec,
}

/// A column of the table that `get` prints.
#[derive(Clone, Debug)]
pub struct Column {
    /// Heading.
    pub name: Text,
    /// A JSON path, or `=` and the name of a printer function.
    pub path: Text,
    /// Above 0: wide output only.
    pub priority: i32,
}

/// A field that field selectors may name.
#[derive(Clone, Debug)]
pub struct Selectable {
    /// Name in selectors, such as `spec.nodeName`.
    pub label: Text,
    /// Field numbers that lead from the object to the value; empty where the label is the JSON path of it.
    pub numbers: List<u32>,
    /// The value is a boolean (`true`, `false`), not text.
    pub boolean: bool,
}

/// Reads the objects of a kind. The kind is told, since one codec serves all kinds that are made at run time.
pub trait Codec: Send + Sync {
    /// Decodes the protobuf encoding.
    ///
    /// # Errors
    /// When the bytes are not that of an object of this kind.
    fn decode(&self, kind: &KindRef, bytes: Bytes) -> Result<Box<dyn Object>, DecodeError>;

    /// Decodes JSON, ignoring unknown fields; `apiVersion` and `kind` may be absent but must not differ.
    ///
    /// # Errors
    /// When the value is of another kind or does not fit the type.
    fn decode_value(&self, kind: &KindRef, value: Value) -> Result<Box<dyn Object>, json::Error>;

    /// An empty object.
    fn empty(&self, kind: &KindRef) -> Box<dyn Object>;
}

/// Why an encoded object could not be decoded.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// It is no protobuf, or not that of this type.
    #[error(transparent)]
    Protobuf(#[from] prost::DecodeError),
    /// The JSON inside does not parse.
    #[error("the content is no JSON object: {0}")]
    Content(#[from] serde_json::Error),
    /// It is of another kind.
    #[error("the object is a {found}, but a {expected} is wanted here")]
    WrongKind {
        /// What is wanted.
        expected: String,
        /// What the object says.
        found: String,
    },
}

// === impl Kind ===

impl Kind {
    /// `plural` or `plural.group`, as messages and RBAC name a resource.
    pub fn qualified_plural(&self) -> String {
        if self.group.is_empty() { self.plural.to_string() } else { format!("{}.{}", self.plural, self.group) }
    }

    /// True if the kind has this subresource.
    pub fn has_subresource(&self, name: &str) -> bool {
        self.subresources.iter().any(|s| s == name)
    }

    /// The message that the kind was generated from; `None` for kinds made at run time.
    pub fn message(&self) -> Option<&'static Message> {
        match self.schema {
            Schema::Compiled(message) => Some(message),
            Schema::Dynamic(_) => None,
        }
    }
}

impl PartialEq for Kind {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::eq(self, other)
    }
}

impl Eq for Kind {}

impl hash::Hash for Kind {
    fn hash<H: hash::Hasher>(&self, state: &mut H) {
        (&self.group, &self.version, &self.kind).hash(state);
    }
}

impl fmt::Debug for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.api_version, self.kind)
    }
}

// === KindRef ===

/// A handle on a kind, cheap to clone. Two are equal if they are of the same value: a kind whose definition changes is another one.
#[derive(Clone)]
pub struct KindRef(Handle);

#[derive(Clone)]
enum Handle {
    Static(&'static Kind),
    Shared(Arc<Kind>),
}

impl KindRef {
    /// The handle on a kind of the schema.
    pub const fn of(kind: &'static Kind) -> Self {
        Self(Handle::Static(kind))
    }

    /// The kind for as long as the process lives, during which one made at run time stays in memory: for programs that soon end.
    pub fn forever(&self) -> &'static Kind {
        match &self.0 {
            Handle::Static(kind) => kind,
            Handle::Shared(kind) => Box::leak(Box::new(kind.clone())),
        }
    }

    /// Decodes the protobuf encoding of an object.
    ///
    /// # Errors
    /// When the bytes are not that of an object of this kind.
    pub fn decode(&self, bytes: Bytes) -> Result<Box<dyn Object>, DecodeError> {
        self.codec.decode(self, bytes)
    }

    /// Decodes JSON, ignoring unknown fields; `apiVersion` and `kind` may be absent but must not differ.
    ///
    /// # Errors
    /// When the value is of another kind or does not fit the type.
    pub fn from_value(&self, value: Value) -> Result<Box<dyn Object>, json::Error> {
        self.codec.decode_value(self, value)
    }

    /// An empty object.
    pub fn empty(&self) -> Box<dyn Object> {
        self.codec.empty(self)
    }

    /// An encoded object as it travels.
    pub fn any(&self, encoded: Bytes) -> Any {
        match self.schema {
            Schema::Compiled(_) => Any { type_url: self.type_url.to_string(), value: encoded },
            Schema::Dynamic(_) => unstructured::any(self, &encoded),
        }
    }
}

impl Deref for KindRef {
    type Target = Kind;

    fn deref(&self) -> &Kind {
        match &self.0 {
            Handle::Static(kind) => kind,
            Handle::Shared(kind) => kind,
        }
    }
}

impl From<&'static Kind> for KindRef {
    fn from(kind: &'static Kind) -> Self {
        Self::of(kind)
    }
}

impl From<&Self> for KindRef {
    fn from(kind: &Self) -> Self {
        kind.clone()
    }
}

impl From<Kind> for KindRef {
    fn from(kind: Kind) -> Self {
        Self(Handle::Shared(Arc::new(kind)))
    }
}

impl PartialEq for KindRef {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl Eq for KindRef {}

impl PartialEq<Kind> for KindRef {
    fn eq(&self, other: &Kind) -> bool {
        **self == *other
    }
}

impl PartialEq<&Kind> for KindRef {
    fn eq(&self, other: &&Kind) -> bool {
        **self == **other
    }
}

impl hash::Hash for KindRef {
    fn hash<H: hash::Hasher>(&self, state: &mut H) {
        (**self).hash(state);
    }
}

impl fmt::Debug for KindRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

// === the codec of generated types ===

/// The codec of a generated type.
pub(crate) struct Typed<K>(std::marker::PhantomData<fn() -> K>);

impl<K: Resource> Typed<K> {
    /// The codec.
    pub const CODEC: &'static dyn Codec = &Self(std::marker::PhantomData);
}

impl<K: Resource> Codec for Typed<K> {
    fn decode(&self, _: &KindRef, bytes: Bytes) -> Result<Box<dyn Object>, DecodeError> {
        Ok(Box::new(K::decode(bytes)?))
    }

    fn decode_value(&self, _: &KindRef, value: Value) -> Result<Box<dyn Object>, json::Error> {
        Ok(Box::new(json::from_value::<K>(value)?))
    }

    fn empty(&self, _: &KindRef) -> Box<dyn Object> {
        Box::new(K::default())
    }
}
