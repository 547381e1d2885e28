//! Objects as clients send them: protobuf in an `Any`, or JSON checked against the schema.

mod text;

use api::{Kind, Object, StatusError, google::protobuf::Any, status::Reason, strict};
use bytes::Bytes;
use serde_json::Value;

/// Largest object a request may carry, encoded: upstream's limit.
const MAX_OBJECT: usize = 3 << 20;

/// What becomes of unknown fields in JSON, and of fields that stand in it twice, of which the last counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FieldValidation {
    /// They are refused.
    Strict,
    /// They are dropped and the client is told.
    Warn,
    /// They are dropped.
    Ignore,
}

impl FieldValidation {
    /// Reads the request's field of that name; empty means strict.
    ///
    /// # Errors
    /// When it is none of the three.
    pub fn parse(text: &str) -> Result<Self, StatusError> {
        match text {
            "" | "Strict" => Ok(Self::Strict),
            "Warn" => Ok(Self::Warn),
            "Ignore" => Ok(Self::Ignore),
            _ => Err(StatusError::bad_request(format!(
                "fieldValidation: {text:?} is not supported: Strict, Warn or Ignore is wanted here"
            ))),
        }
    }
}

/// Decodes an object of a kind, from JSON if there is any, with remarks for the client.
///
/// # Errors
/// When it is missing, too large, of another kind, or malformed.
pub fn object(
    kind: &'static Kind,
    any: Option<Any>,
    json: &Bytes,
    validation: FieldValidation,
) -> Result<(Box<dyn Object>, Vec<String>), StatusError> {
    let size = if json.is_empty() { any.as_ref().map_or(0, |any| any.value.len()) } else { json.len() };
    if size > MAX_OBJECT {
        let message = format!(
            "Request entity too large: the object has {size} bytes, the limit is {MAX_OBJECT}; split it into several objects"
        );
        return Err(StatusError::new(Reason::RequestEntityTooLarge, message));
    }
    if !json.is_empty() {
        return from_json(kind, json, validation);
    }
    let any = any.ok_or_else(|| StatusError::bad_request("object: an object is wanted here, as object or as json"))?;
    if any.type_url.rsplit('/').next() != kind.type_url.rsplit('/').next() {
        let message = format!("object: {:?} is not what is wanted here: {:?}", any.type_url, kind.type_url);
        return Err(StatusError::bad_request(message));
    }
    let object = (kind.decode)(any.value)
        .map_err(|e| StatusError::bad_request(format!("object: the protobuf encoding of a {} is broken: {e}", kind.kind)))?;
    Ok((object, Vec::new()))
}

fn from_json(
    kind: &'static Kind,
    json: &Bytes,
    validation: FieldValidation,
) -> Result<(Box<dyn Object>, Vec<String>), StatusError> {
    let (value, duplicates) =
        text::parse(json).map_err(|e| StatusError::bad_request(format!("json: the object is not JSON: {e}")))?;
    let duplicates: Vec<String> = duplicates.iter().map(|path| format!("duplicate field \"{path}\"")).collect();
    if validation == FieldValidation::Strict && !duplicates.is_empty() {
        return Err(not_strict(kind, &duplicates));
    }
    let (object, mut warnings) = from_value(kind, value, validation)?;
    if validation == FieldValidation::Warn {
        warnings.extend(duplicates);
    }
    Ok((object, warnings))
}

/// Reads an object from JSON, with remarks for the client.
///
/// # Errors
/// When the value does not fit the schema, or has unknown fields that are not to be dropped.
pub fn from_value(
    kind: &'static Kind,
    value: Value,
    validation: FieldValidation,
) -> Result<(Box<dyn Object>, Vec<String>), StatusError> {
    let (unknown, wrong): (Vec<_>, Vec<_>) = strict::check(kind, &value).into_iter().partition(|problem| problem.unknown);
    let refused = if validation == FieldValidation::Strict { [&wrong[..], &unknown[..]].concat() } else { wrong };
    if !refused.is_empty() {
        let list: Vec<String> = refused.iter().map(ToString::to_string).collect();
        return Err(not_strict(kind, &list));
    }
    let warnings =
        if validation == FieldValidation::Warn { unknown.iter().map(ToString::to_string).collect() } else { Vec::new() };
    let object = (kind.from_value)(value).map_err(|e| StatusError::bad_request(format!("json: {e}")))?;
    Ok((object, warnings))
}

fn not_strict(kind: &Kind, problems: &[String]) -> StatusError {
    StatusError::bad_request(format!(
        "{} in version {:?} cannot be handled as a {}: strict decoding error: {}",
        kind.kind,
        kind.version,
        kind.kind,
        problems.join(", ")
    ))
}
