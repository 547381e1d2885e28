//! The schema as data: what `proto/` says about every message and field, as static tables; and what a schema must be able to do that
//! is made at run time.
//!
//! The tables are built by `build.rs` and never change. Patches, strict decoding, `explain` and OpenAPI read them, so that each of them
//! knows exactly what the generated types know.

use std::{fmt, sync::Arc};

use serde_json::{Map, Value};

use crate::{names::Format, ownership::Shape, rules::FieldErrors, strict::Problem};

/// What the objects of a kind look like.
#[derive(Clone, Debug)]
pub enum Schema {
    /// The kind is a message of `proto/`.
    Compiled(&'static Message),
    /// The kind was made at run time.
    Dynamic(Arc<dyn DynamicSchema>),
}

/// A schema made at run time. *Object* below is everything but `apiVersion`, `kind` and `metadata`, unless it says otherwise.
pub trait DynamicSchema: fmt::Debug + Send + Sync {
    /// Drops what the schema does not know of an object, and says so, with what else does not fit: an unknown field is a problem that
    /// [may be passed over](Problem::unknown), a value of the wrong type is left to [`DynamicSchema::validate`].
    fn prune(&self, object: &mut Map<String, Value>) -> Vec<Problem>;

    /// Sets what the schema defaults where it is absent.
    fn set_defaults(&self, object: &mut Map<String, Value>);

    /// Checks a whole object, `apiVersion`, `kind` and `metadata` included; a changed one against the old one.
    fn validate(&self, object: &Value, old: Option<&Value>, errors: &mut FieldErrors);

    /// The schema as an OpenAPI v3 schema object, for documentation and for clients.
    fn open_api(&self) -> Value;

    /// How a whole object is owned, `metadata` included: by the list types, map keys and atomic places that the schema names.
    fn shape(&self) -> Shape<'_> {
        Shape::Untyped
    }
}

impl Schema {
    /// How an object is owned.
    pub fn shape(&self) -> Shape<'_> {
        match self {
            Self::Compiled(message) => message.shape(),
            Self::Dynamic(schema) => schema.shape(),
        }
    }
}

/// A message.
#[derive(Debug)]
pub struct Message {
    /// Full protobuf name, such as `k8s.io.api.core.v1.Pod`.
    pub name: &'static str,
    /// What it is, in a sentence or two.
    pub doc: &'static str,
    /// Server-side apply: objects of this message have one owner.
    pub atomic: bool,
    /// Its fields, in the order of the schema.
    pub fields: &'static [Field],
}

/// A field of a message.
#[derive(Debug)]
pub struct Field {
    /// Protobuf field number.
    pub number: u32,
    /// Name in JSON.
    pub json: &'static str,
    /// What it does, in a sentence or two.
    pub doc: &'static str,
    /// What one value is (of a map, the values; the keys are strings).
    pub ty: FieldType,
    /// How often it occurs.
    pub cardinality: Cardinality,
    /// Its fields stand in the parent's JSON object.
    pub inline: bool,
    /// Present in every valid object.
    pub required: bool,
    /// Value when unset, as a JSON literal.
    pub default: Option<&'static str>,
    /// The only values allowed, if there are any here.
    pub one_of: &'static [&'static str],
    /// Least value.
    pub min: Option<i64>,
    /// Greatest value.
    pub max: Option<i64>,
    /// Textual form.
    pub format: Option<Format>,
    /// Cannot change after creation.
    pub immutable: bool,
    /// Strategic merge: the field that identifies an item of this list.
    pub merge_key: Option<&'static str>,
    /// Strategic merge: this list of scalars is merged as a set.
    pub merge_set: bool,
    /// Strategic merge: fields of the item that the patch leaves out are dropped.
    pub retain_keys: bool,
    /// How server-side apply sees the list.
    pub list: ListType,
    /// Server-side apply: the map has one owner.
    pub atomic: bool,
    /// Stands in JSON even when it is empty.
    pub always: bool,
}

/// What a value is.
#[derive(Clone, Copy, Debug)]
pub enum FieldType {
    /// A boolean.
    Bool,
    /// A 32-bit integer.
    I32,
    /// A 64-bit integer.
    I64,
    /// A floating-point number.
    F64,
    /// Text.
    String,
    /// Bytes, base64 in JSON.
    Bytes,
    /// A nested object.
    Message(&'static Message),
    /// A moment in RFC 3339.
    Time,
    /// A length of time such as `1m30s`.
    Duration,
    /// An amount such as `1500m` or `2Gi`; a number is taken too.
    Quantity,
    /// A number or text.
    IntOrString,
    /// A list of texts.
    Strings,
    /// Any JSON.
    Json,
    /// The object of the message's inlined field, or what its other field holds: a boolean, texts or a list of such objects.
    Either(&'static Message),
}

impl FieldType {
    /// The name `explain` shows, such as `string`, `integer` or `PodSpec`.
    pub fn display_name(self) -> &'static str {
        match self {
            Self::Bool => "boolean",
            Self::I32 | Self::I64 => "integer",
            Self::F64 => "number",
            Self::String | Self::Bytes | Self::Time | Self::Duration => "string",
            Self::Quantity => "Quantity",
            Self::Message(m) => m.name.rsplit('.').next().unwrap_or(m.name),
            Self::IntOrString => "IntOrString",
            Self::Strings => "[]string",
            Self::Json => "Object",
            Self::Either(_) => self.message().map_or("Object", |m| Self::Message(m).display_name()),
        }
    }

    /// The schema of the object that the value is, or may be.
    pub fn message(self) -> Option<&'static Message> {
        match self {
            Self::Message(m) => Some(m),
            Self::Either(m) => m.fields.iter().find(|f| f.inline).and_then(|f| f.ty.message()),
            _ => None,
        }
    }
}

/// How often a field occurs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cardinality {
    /// At most once.
    Singular,
    /// Any number of times, in order.
    List,
    /// Any number of times, each under its own string key.
    Map,
}

/// How server-side apply treats a list.
#[derive(Clone, Copy, Debug)]
pub enum ListType {
    /// One value that has one owner.
    Atomic,
    /// Scalars, each at most once.
    Set,
    /// Objects identified by these fields.
    Map(&'static [&'static str]),
}

impl Message {
    /// The field with this JSON name, looked for in inlined messages too.
    pub fn field(&self, json: &str) -> Option<&'static Field> {
        self.fields.iter().find_map(|f| match f.ty {
            FieldType::Message(m) if f.inline => m.field(json),
            _ => (f.json == json).then_some(f),
        })
    }

    /// All fields as JSON shows them: those of inlined messages in place of these.
    pub fn json_fields(&self) -> Vec<&'static Field> {
        let mut out = Vec::with_capacity(self.fields.len());
        for f in self.fields {
            match f.ty {
                FieldType::Message(m) if f.inline => out.extend(m.json_fields()),
                _ => out.push(f),
            }
        }
        out
    }
}
