//! What the schema says about a place in a document, as far as merging needs it.

use serde_json::Value;

use super::{MAX_DEPTH, PatchError};
use crate::schema::{Cardinality, FieldType, ListType, Message};

/// What a JSON object is.
#[derive(Clone, Copy, Debug)]
pub(super) enum Shape {
    /// A message.
    Object(&'static Message),
    /// A map whose values are of this type.
    MapOf(FieldType),
    /// Anything: the schema says no more.
    Free,
}

/// How the value under a key is merged.
#[derive(Clone, Copy, Debug)]
pub(super) struct Slot {
    /// What the value, or each item of the list, is.
    pub shape: Shape,
    /// The field that identifies an item of the list.
    pub merge_key: Option<&'static str>,
    /// The list is a set of scalars.
    pub merge_set: bool,
    /// Fields that a changed item leaves out are dropped.
    pub retain_keys: bool,
    /// All fields that tell items apart.
    pub identity: &'static [&'static str],
}

impl Slot {
    const fn plain(shape: Shape) -> Self {
        Self { shape, merge_key: None, merge_set: false, retain_keys: false, identity: &[] }
    }
}

impl Shape {
    /// How the value under `key` is merged.
    ///
    /// # Errors
    /// When the patch has there what the schema does not.
    pub fn slot(self, key: &str) -> Result<Slot, PatchError> {
        match self {
            Self::Free => Ok(Slot::plain(Self::Free)),
            Self::MapOf(ty) => Ok(Slot::plain(Self::of(ty))),
            Self::Object(message) => {
                let unknown = || PatchError::UnknownField { message: message.name, field: key.to_owned() };
                let field = message.field(key).ok_or_else(unknown)?;
                let shape = match field.cardinality {
                    Cardinality::Map => Self::MapOf(field.ty),
                    Cardinality::Singular | Cardinality::List => Self::of(field.ty),
                };
                Ok(Slot {
                    shape,
                    merge_key: field.merge_key,
                    merge_set: field.merge_set,
                    retain_keys: field.retain_keys,
                    identity: if let ListType::Map(keys) = field.list { keys } else { &[] },
                })
            }
        }
    }

    fn of(ty: FieldType) -> Self {
        match ty {
            FieldType::Message(message) | FieldType::Either(message) => Self::Object(message),
            _ => Self::Free,
        }
    }
}

/// Refuses what is nested so deeply that recursion would be at risk.
pub(super) fn check_depth(value: &Value) -> Result<(), PatchError> {
    if depth(value) > MAX_DEPTH { Err(PatchError::TooDeep) } else { Ok(()) }
}

/// How deep a value nests: 1 for a scalar. Does not look further than is allowed.
pub(super) fn depth(value: &Value) -> usize {
    fn below(value: &Value, left: usize) -> usize {
        let Some(left) = left.checked_sub(1) else { return 1 };
        let inner = match value {
            Value::Array(items) => items.iter().map(|item| below(item, left)).max(),
            Value::Object(map) => map.values().map(|item| below(item, left)).max(),
            _ => None,
        };
        1 + inner.unwrap_or(0)
    }
    below(value, MAX_DEPTH)
}
