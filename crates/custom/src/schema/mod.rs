//! Structural schemas: what a version says of its objects, in the form that pruning, defaults and validation read.

mod check;
mod default;
mod format;
mod lists;
mod path;
mod pattern;
mod prune;
#[cfg(test)]
pub(crate) mod tests;
mod validate;

use std::{collections::BTreeMap, fmt};

use api::apiextensions::v1::{JsonSchemaProps, ValidationRule};
use serde_json::Value;

pub use check::check;
pub use default::{drop_nulls, set_defaults};
pub(crate) use format::is_valid as is_format;
pub(crate) use lists::Identity;
pub use path::resolve;
pub use pattern::Pattern;
pub use prune::{Pruned, prune};
pub(crate) use validate::equal as same;
pub use validate::validate;

/// Deepest nesting of schemas.
pub const MAX_DEPTH: usize = 48;

/// One schema: of an object, a field, the items of a list or the values of a map.
///
/// Schemas inside `allOf`, `anyOf`, `oneOf` and `not` have the same shape, of which [`check()`] forbids all that is not validation.
#[derive(Clone, Debug, Default)]
pub struct Schema {
    /// What the value is.
    pub ty: Type,
    /// For people.
    pub description: String,
    /// For people.
    pub title: String,
    /// What is set where the value is absent.
    pub default: Option<Value>,
    /// The value may be null.
    pub nullable: bool,
    /// Schema of a list's items.
    pub items: Option<Box<Schema>>,
    /// Schemas of an object's fields.
    pub properties: BTreeMap<String, Schema>,
    /// What an object may hold besides.
    pub additional: Option<Additional>,
    /// Fields that no schema names are kept.
    pub preserve_unknown: bool,
    /// The value is a whole object, with `apiVersion`, `kind` and `metadata`.
    pub embedded: bool,
    /// The value is an integer or a text.
    pub int_or_string: bool,
    /// How a list is merged and compared.
    pub list: ListType,
    /// The object is merged as one value.
    pub atomic: bool,
    /// Rules in CEL.
    pub rules: Vec<ValidationRule>,
    /// What is demanded of the value itself.
    pub limits: Limits,
}

/// Type of a value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Type {
    /// None is named.
    #[default]
    Any,
    /// A JSON object.
    Object,
    /// A JSON array.
    Array,
    /// A text.
    String,
    /// A whole number.
    Integer,
    /// A number.
    Number,
    /// A boolean.
    Boolean,
}

impl Type {
    /// Name in schemas; empty for none.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Any => "",
            Self::Object => "object",
            Self::Array => "array",
            Self::String => "string",
            Self::Integer => "integer",
            Self::Number => "number",
            Self::Boolean => "boolean",
        }
    }

    /// The type of this name; none for names that no type has.
    pub fn parse(name: &str) -> Option<Self> {
        let all = [Self::Any, Self::Object, Self::Array, Self::String, Self::Integer, Self::Number, Self::Boolean];
        all.into_iter().find(|ty| ty.as_str() == name)
    }
}

/// What an object may hold besides the fields that are named.
#[derive(Clone, Debug)]
pub enum Additional {
    /// Anything, or nothing.
    Bool(bool),
    /// Values of this schema: the object is a map.
    Schema(Box<Schema>),
}

/// How a list is merged and compared.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ListType {
    /// As one value.
    #[default]
    Atomic,
    /// Each item at most once, in any order.
    Set,
    /// Objects told apart by these fields.
    Map(Vec<String>),
}

/// What is demanded of a value.
#[derive(Clone, Debug, Default)]
pub struct Limits {
    /// Textual or numeric form.
    pub format: String,
    /// Greatest number, and whether it is itself too great.
    pub maximum: Option<(f64, bool)>,
    /// Least number, and whether it is itself too small.
    pub minimum: Option<(f64, bool)>,
    /// Number of which the value is a multiple.
    pub multiple_of: Option<f64>,
    /// Fewest and most characters of a text.
    pub length: Range,
    /// Fewest and most items of a list.
    pub items: Range,
    /// Fewest and most fields of an object.
    pub properties: Range,
    /// What a text must match.
    pub pattern: Option<Pattern>,
    /// The only values allowed; any if empty.
    pub one_of: Vec<Value>,
    /// Fields that must be there.
    pub required: Vec<String>,
    /// All of these must hold.
    pub all_of: Vec<Schema>,
    /// At least one of these must hold.
    pub any_of: Vec<Schema>,
    /// Exactly one of these must hold.
    pub exactly_one_of: Vec<Schema>,
    /// This must not hold.
    pub not: Option<Box<Schema>>,
}

/// A least and a greatest count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Range {
    /// Least.
    pub min: Option<i64>,
    /// Greatest.
    pub max: Option<i64>,
}

/// Why a schema cannot be read at all.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It nests too deeply.
    #[error("schemas are nested more than {MAX_DEPTH} deep")]
    TooDeep,
    /// It is true or false where a schema belongs, or a list of schemas.
    #[error("items must be a schema object and not an array")]
    ItemList,
    /// No type has this name.
    #[error("unknown type {0:?}")]
    UnknownType(String),
    /// A default, an example or an enum value that is no JSON.
    #[error("invalid JSON: {0}")]
    Json(#[from] serde_json::Error),
    /// The pattern is no regular expression.
    #[error("pattern {pattern:?} must be a valid regular expression, but isn't: {why}")]
    Pattern {
        /// The pattern.
        pattern: String,
        /// What is wrong with it.
        why: String,
    },
}

impl Schema {
    /// Reads a schema. What [`check()`] refuses is read nonetheless, where it can be.
    ///
    /// # Errors
    /// When the schema is no schema of this shape.
    pub fn new(props: &JsonSchemaProps) -> Result<Self, Error> {
        read(props, 0)
    }

    /// Schema of a map's values.
    pub fn values(&self) -> Option<&Self> {
        match &self.additional {
            Some(Additional::Schema(schema)) => Some(schema),
            _ => None,
        }
    }

    /// Schema of the field or of the values of a map.
    pub fn field(&self, name: &str) -> Option<&Self> {
        self.properties.get(name).or_else(|| self.values())
    }

    /// The field at a path of dots, such as `.spec.replicas`.
    pub fn at_path(&self, path: &str) -> Option<&Self> {
        path.split('.').filter(|name| !name.is_empty()).try_fold(self, |schema, name| schema.field(name))
    }
}

fn read(props: &JsonSchemaProps, depth: usize) -> Result<Schema, Error> {
    if depth > MAX_DEPTH {
        return Err(Error::TooDeep);
    }
    let below = |props: &JsonSchemaProps| read(props, depth + 1);
    let items = match &props.items {
        Some(items) if !items.json_schemas.is_empty() => return Err(Error::ItemList),
        Some(items) => items.schema.as_deref().map(below).transpose()?.map(Box::new),
        None => None,
    };
    let additional = match props.additional_properties.as_deref() {
        Some(other) => Some(match other.schema.as_deref() {
            Some(schema) => Additional::Schema(Box::new(below(schema)?)),
            None => Additional::Bool(other.allows),
        }),
        None => None,
    };
    let keys = &props.x_kubernetes_list_map_keys;
    let list = match props.x_kubernetes_list_type.as_deref() {
        Some("set") => ListType::Set,
        Some("map") => ListType::Map(keys.clone()),
        _ => ListType::Atomic,
    };
    Ok(Schema {
        ty: Type::parse(&props.r#type).ok_or_else(|| Error::UnknownType(props.r#type.clone()))?,
        description: props.description.clone(),
        title: props.title.clone(),
        default: props.default.as_ref().map(|json| json_value(&json.raw)).transpose()?.filter(|v| !v.is_null()),
        nullable: props.nullable,
        items,
        properties: props.properties.iter().map(|(k, v)| Ok((k.clone(), below(v)?))).collect::<Result<_, Error>>()?,
        additional,
        preserve_unknown: props.x_kubernetes_preserve_unknown_fields.unwrap_or_default(),
        embedded: props.x_kubernetes_embedded_resource,
        int_or_string: props.x_kubernetes_int_or_string,
        list,
        atomic: props.x_kubernetes_map_type.as_deref() == Some("atomic"),
        rules: props.x_kubernetes_validations.clone(),
        limits: limits(props, depth)?,
    })
}

fn limits(props: &JsonSchemaProps, depth: usize) -> Result<Limits, Error> {
    let each = |list: &[JsonSchemaProps]| list.iter().map(|p| read(p, depth + 1)).collect::<Result<Vec<_>, Error>>();
    let pattern = Some(&props.pattern).filter(|text| !text.is_empty()).map(|text| Pattern::new(text)).transpose();
    Ok(Limits {
        format: props.format.clone(),
        maximum: props.maximum.map(|limit| (limit, props.exclusive_maximum)),
        minimum: props.minimum.map(|limit| (limit, props.exclusive_minimum)),
        multiple_of: props.multiple_of,
        length: Range { min: props.min_length, max: props.max_length },
        items: Range { min: props.min_items, max: props.max_items },
        properties: Range { min: props.min_properties, max: props.max_properties },
        pattern: pattern.map_err(|why| Error::Pattern { pattern: props.pattern.clone(), why })?,
        one_of: props.r#enum.iter().map(|json| json_value(&json.raw)).collect::<Result<_, _>>()?,
        required: props.required.clone(),
        all_of: each(&props.all_of)?,
        any_of: each(&props.any_of)?,
        exactly_one_of: each(&props.one_of)?,
        not: props.not.as_deref().map(|p| read(p, depth + 1)).transpose()?.map(Box::new),
    })
}

/// Raw JSON as a value; nothing stands for null.
///
/// # Errors
/// When it is no JSON.
pub(crate) fn json_value(raw: &[u8]) -> Result<Value, serde_json::Error> {
    if raw.is_empty() { Ok(Value::Null) } else { serde_json::from_slice(raw) }
}

/// A value as error messages show it: JSON, cut where it is long.
pub(crate) struct Shown<'a>(pub &'a Value);

impl fmt::Debug for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const MAX: usize = 256;
        let text = self.0.to_string();
        if text.len() <= MAX {
            return f.write_str(&text);
        }
        write!(f, "{}…", &text[..text.floor_char_boundary(MAX)])
    }
}

/// The type of a value as error messages name it.
pub(crate) fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(n) if n.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}
