//! Patches: JSON patch (RFC 6902), JSON merge patch (RFC 7386) and upstream's strategic merge patch, and how to make the latter.
//!
//! All work on the JSON of an object and say nothing about versions or validity. What is merged how is read from the schema.
//! Invariant: a patch either applies wholly or leaves nothing behind, and no patch makes a document that is too deep to handle.

mod diff;
mod json;
#[cfg(test)]
#[path = "tests.rs"]
mod made_from_the_schema;
mod order;
mod shape;
mod strategic;

use serde_json::Value;

use crate::{
    StatusError,
    schema::Message,
    status::Reason,
    strict::{self, Problem},
};

pub use diff::{create_merge_patch, create_three_way_patch, create_two_way_patch};

/// Most operations of a JSON patch, as upstream has it.
pub const MAX_OPERATIONS: usize = 10_000;
/// Deepest nesting of documents and patches.
pub const MAX_DEPTH: usize = 250;
/// Most bytes of JSON that the `copy` operations of one JSON patch may make.
pub const MAX_COPIED: usize = 3 << 20;

/// Most work that the operations of one JSON patch may make: items of lists that are shifted, and values that are looked at.
pub const MAX_WORK: usize = 50_000_000;

/// How a patch is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PatchType {
    /// RFC 6902, a list of operations.
    Json,
    /// RFC 7386.
    Merge,
    /// Lists of objects are merged by their merge key.
    Strategic,
}

/// A patch that was read and can be applied, several times if need be.
#[derive(Clone, Debug)]
pub struct Patch(Kind);

#[derive(Clone, Debug)]
enum Kind {
    Json(json_patch::Patch),
    Merge(Value),
    Strategic(serde_json::Map<String, Value>),
}

/// Why a patch cannot be read, applied or made.
#[derive(Debug, thiserror::Error)]
pub enum PatchError {
    /// The patch is no JSON, or not of the form its type has.
    #[error("error decoding patch: {0}")]
    Decode(#[source] serde_json::Error),
    /// The patch must be an object.
    #[error("error decoding patch: a {0} patch must be a JSON object")]
    NotAnObject(&'static str),
    /// Too many operations.
    #[error("The allowed maximum operations in a JSON patch is {MAX_OPERATIONS}, got {0}")]
    TooManyOperations(usize),
    /// The copies of a JSON patch are too large.
    #[error("the copy operations of the JSON patch would make more than {MAX_COPIED} bytes")]
    TooLarge,
    /// The operations of a JSON patch take too long.
    #[error("the JSON patch has too many operations on lists or documents of this length; send fewer at a time")]
    TooMuchWork,
    /// Nested too deeply.
    #[error("the document or patch is nested more than {MAX_DEPTH} deep")]
    TooDeep,
    /// An operation of a JSON patch does not apply.
    #[error("the {operation} operation at index {index} does not apply: {path:?}: {why}")]
    Operation {
        /// `add`, `remove` …
        operation: &'static str,
        /// Its place in the patch.
        index: usize,
        /// The path it names.
        path: String,
        /// Why not.
        why: String,
    },
    /// A list item without the field that identifies it.
    #[error("{list}: item {item} does not contain the merge key {key:?}")]
    NoMergeKey {
        /// Name of the list.
        list: String,
        /// The item, shortened.
        item: String,
        /// The field it must have.
        key: &'static str,
    },
    /// A directive with a value it cannot have.
    #[error("{directive}: {why}")]
    Directive {
        /// Such as `$patch`.
        directive: String,
        /// What is wrong and what would be right.
        why: String,
    },
    /// A strategic merge patch of a kind that was made at run time: nothing says how its lists are merged.
    #[error(
        "the body of the request was in an unknown format - accepted media types include: application/json-patch+json, \
         application/merge-patch+json, application/apply-patch+yaml"
    )]
    NotStrategic,
    /// A field that the schema does not know.
    #[error("unable to find api field in {message} for the json field {field:?}")]
    UnknownField {
        /// The message.
        message: &'static str,
        /// The field.
        field: String,
    },
}

impl Patch {
    /// Reads a patch, with a problem for each field that is given twice; the last one counts.
    ///
    /// # Errors
    /// When the text is no JSON, not of the form its type has, or past a limit.
    pub fn parse(patch_type: PatchType, text: &[u8]) -> Result<(Self, Vec<Problem>), PatchError> {
        let (value, problems) = strict::parse(text).map_err(PatchError::Decode)?;
        Ok((Self::new(patch_type, value)?, problems))
    }

    /// A patch from its JSON.
    ///
    /// # Errors
    /// When it is not of the form its type has, or past a limit.
    pub fn new(patch_type: PatchType, value: Value) -> Result<Self, PatchError> {
        shape::check_depth(&value)?;
        Ok(Self(match (patch_type, value) {
            (PatchType::Json, value) => Kind::Json(json::read(value)?),
            (PatchType::Merge, value @ Value::Object(_)) => Kind::Merge(value),
            (PatchType::Strategic, Value::Object(map)) => Kind::Strategic(map),
            // To upstream this is a map without entries.
            (PatchType::Strategic, Value::Null) => Kind::Strategic(serde_json::Map::new()),
            (PatchType::Merge, _) => return Err(PatchError::NotAnObject("merge")),
            (PatchType::Strategic, _) => return Err(PatchError::NotAnObject("strategic merge")),
        }))
    }

    /// The patched document. `schema` describes the document; only strategic merge patches need it.
    ///
    /// # Errors
    /// When the patch does not fit the document, or is a strategic one without a schema.
    pub fn apply(&self, mut document: Value, schema: Option<&'static Message>) -> Result<Value, PatchError> {
        shape::check_depth(&document)?;
        match &self.0 {
            Kind::Json(patch) => json::apply(document, patch),
            Kind::Merge(patch) => {
                json_patch::merge(&mut document, patch);
                Ok(document)
            }
            Kind::Strategic(patch) => {
                let Value::Object(document) = document else { return Err(PatchError::NotAnObject("strategic merge")) };
                let schema = schema.ok_or(PatchError::NotStrategic)?;
                strategic::merge_map(document, patch.clone(), shape::Shape::Object(schema)).map(Value::Object)
            }
        }
    }
}

impl From<PatchError> for StatusError {
    fn from(error: PatchError) -> Self {
        let reason = match error {
            PatchError::TooManyOperations(_) | PatchError::TooLarge | PatchError::TooMuchWork => Reason::RequestEntityTooLarge,
            PatchError::Operation { .. } | PatchError::UnknownField { .. } => Reason::Invalid,
            PatchError::NotStrategic => Reason::UnsupportedMediaType,
            _ => Reason::BadRequest,
        };
        Self::new(reason, error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{Resource, core::v1::Pod};

    fn merged(document: Value, patch: Value) -> Value {
        Patch::new(PatchType::Merge, patch).unwrap().apply(document, Pod::KIND.message()).unwrap()
    }

    #[test]
    fn a_merge_patch_replaces_lists_and_deletes_nulls() {
        assert_eq!(
            merged(json!({"a": {"b": 1, "c": 2}, "l": [1, 2]}), json!({"a": {"b": null, "d": {"e": null}}, "l": [3]})),
            json!({"a": {"c": 2, "d": {}}, "l": [3]})
        );
    }

    #[test]
    fn a_patch_of_the_wrong_form_is_refused() {
        assert!(matches!(Patch::parse(PatchType::Merge, b"[1]"), Err(PatchError::NotAnObject("merge"))));
        assert!(matches!(Patch::parse(PatchType::Strategic, b"1"), Err(PatchError::NotAnObject(_))));
        assert!(matches!(Patch::parse(PatchType::Json, b"{}"), Err(PatchError::Decode(_))));
        assert!(matches!(Patch::parse(PatchType::Json, b"[{"), Err(PatchError::Decode(_))));
        let deep = format!("{}{}", "{\"a\":".repeat(5000), "1");
        assert!(matches!(Patch::parse(PatchType::Merge, deep.as_bytes()), Err(PatchError::Decode(_))));
        let mut deep = json!(1);
        for _ in 0..300 {
            deep = json!({ "a": deep });
        }
        assert!(matches!(Patch::new(PatchType::Merge, deep), Err(PatchError::TooDeep)));
    }
}
