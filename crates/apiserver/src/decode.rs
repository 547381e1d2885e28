//! Objects as clients send them: protobuf in an `Any`, or JSON checked against the schema.

use api::{
    Kind, Object, StatusError,
    google::protobuf::Any,
    status::Reason,
    strict::{self, Problem},
};
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
    strict::check_protobuf(kind, &any.value).map_err(|why| StatusError::new(Reason::RequestEntityTooLarge, why))?;
    let object = (kind.decode)(any.value)
        .map_err(|e| StatusError::bad_request(format!("object: the protobuf encoding of a {} is broken: {e}", kind.kind)))?;
    Ok((object, Vec::new()))
}

fn from_json(
    kind: &'static Kind,
    json: &Bytes,
    validation: FieldValidation,
) -> Result<(Box<dyn Object>, Vec<String>), StatusError> {
    let (value, twice) =
        strict::parse(json).map_err(|e| StatusError::bad_request(format!("json: the object is not JSON: {e}")))?;
    checked(kind, value, twice, validation)
}

/// Reads an object from JSON, with remarks for the client. `problems` are those that were found already, such as fields given twice.
///
/// # Errors
/// When the value does not fit the schema, or has unknown fields that are not to be dropped.
pub fn from_value(
    kind: &'static Kind,
    value: Value,
    problems: Vec<Problem>,
    validation: FieldValidation,
) -> Result<(Box<dyn Object>, Vec<String>), StatusError> {
    checked(kind, value, problems, validation)
}

fn checked(
    kind: &'static Kind,
    value: Value,
    mut problems: Vec<Problem>,
    validation: FieldValidation,
) -> Result<(Box<dyn Object>, Vec<String>), StatusError> {
    problems.extend(strict::check(kind, &value));
    let (unknown, wrong): (Vec<_>, Vec<_>) = problems.into_iter().partition(|problem| problem.unknown);
    let refused = if validation == FieldValidation::Strict { [&wrong[..], &unknown[..]].concat() } else { wrong };
    if !refused.is_empty() {
        let list: Vec<String> = refused.iter().map(ToString::to_string).collect();
        let message = format!(
            "{} in version {:?} cannot be handled as a {}: strict decoding error: {}",
            kind.kind,
            kind.version,
            kind.kind,
            list.join(", ")
        );
        return Err(StatusError::bad_request(message));
    }
    let warnings =
        if validation == FieldValidation::Warn { unknown.iter().map(ToString::to_string).collect() } else { Vec::new() };
    let object = (kind.from_value)(value).map_err(|e| StatusError::bad_request(format!("json: {e}")))?;
    Ok((object, warnings))
}

#[cfg(test)]
mod tests {
    use api::{Resource, core::v1::Pod};

    use super::*;

    fn read(json: &'static str, validation: FieldValidation) -> Result<Vec<String>, String> {
        let read = object(Pod::KIND, None, &Bytes::from_static(json.as_bytes()), validation);
        read.map(|(_, warnings)| warnings).map_err(|error| error.message().to_owned())
    }

    #[test]
    fn unknown_fields_and_fields_given_twice_are_refused_told_or_dropped() {
        let json = r#"{"metadata": {"name": "a", "name": "b"}, "spec": {"hostNetwrk": true}}"#;
        let twice = "duplicate field \"metadata.name\"";
        let unknown = "unknown field \"spec.hostNetwrk\"; did you mean \"hostNetwork\"?";
        let expected = format!("Pod in version \"v1\" cannot be handled as a Pod: strict decoding error: {twice}, {unknown}");
        assert_eq!(read(json, FieldValidation::Strict), Err(expected));
        assert_eq!(read(json, FieldValidation::Warn), Ok(vec![twice.to_owned(), unknown.to_owned()]));
        assert_eq!(read(json, FieldValidation::Ignore), Ok(Vec::new()));
    }

    #[test]
    fn what_is_wrong_is_refused_however_lenient_the_client() {
        let error = read(r#"{"spec": {"containers": 5}}"#, FieldValidation::Ignore).unwrap_err();
        assert!(error.contains("spec.containers: wrong type: a list is wanted here, found 5"), "{error}");
        assert!(read("{", FieldValidation::Ignore).unwrap_err().starts_with("json: the object is not JSON: "));
    }
}
