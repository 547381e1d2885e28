//! Objects as clients send them: protobuf in an `Any`, or JSON checked against the schema.

use api::{
    KindRef, Object, Resource, StatusError,
    rules::{FieldErrors, Path},
    status::Reason,
    strict::{self, Problem},
};
use bytes::Bytes;
use serde_json::Value;
use store::wire::{self, object_meta};

use crate::call::Body;

/// Largest object a request may carry, encoded: upstream's limit.
const MAX_OBJECT: usize = 3 << 20;
/// Numbers of `metadata.name` and `metadata.namespace`.
const NAME: u32 = 1;
const NAMESPACE: u32 = 3;

/// What becomes of unknown fields in JSON, and of fields that stand in it twice, of which the last counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FieldValidation {
    /// They are refused.
    #[default]
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
            _ => {
                let mut errors = FieldErrors::default();
                let root = Path::root();
                errors.not_supported(&root.field("fieldValidation"), text, &["Ignore", "Strict", "Warn"]);
                Err(invalid("WriteOptions", &errors))
            }
        }
    }
}

/// The refusal of a request whose own fields are not valid: those of no object, but of a message such as `DeleteOptions`.
pub fn invalid(message: &str, errors: &FieldErrors) -> StatusError {
    let refusal = StatusError::new(Reason::Invalid, format!("{message} is invalid: {errors}"));
    errors.causes().into_iter().fold(refusal, StatusError::with_cause)
}

/// What an object says of its place, read before all of it is: whether its sender may send it depends on that.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Named {
    /// `metadata.namespace`; empty if it says none.
    pub namespace: String,
    /// `metadata.name`; empty if it says none.
    pub name: String,
}

impl Named {
    /// Reads it. What cannot be read says nothing: decoding it tells why.
    pub fn of(body: &Body) -> Self {
        match body {
            Body::Json(json) => {
                let value: Value = serde_json::from_slice(json).unwrap_or_default();
                let text = |key: &str| value["metadata"][key].as_str().unwrap_or_default().to_owned();
                Self { namespace: text("namespace"), name: text("name") }
            }
            Body::Protobuf { bytes, .. } => {
                let text = |number| wire::text(bytes, &[object_meta::IN_OBJECT, number]).to_owned();
                Self { namespace: text(NAMESPACE), name: text(NAME) }
            }
            Body::Missing | Body::Awaited => Self::default(),
        }
    }
}

/// The object as the type that its kind has.
///
/// # Errors
/// When it is of another kind.
pub(crate) fn expect<K: Resource>(object: &dyn Object) -> Result<&K, StatusError> {
    object.downcast_ref().ok_or_else(|| StatusError::bad_request(format!("object: a {} is wanted here", K::KIND.kind)))
}

/// Decodes an object of a kind, with remarks for the client.
///
/// # Errors
/// When it is missing, too large, of another kind, or malformed.
pub fn object(kind: &KindRef, body: Body, validation: FieldValidation) -> Result<(Box<dyn Object>, Vec<String>), StatusError> {
    let (Body::Json(bytes) | Body::Protobuf { bytes, .. }) = &body else {
        return Err(StatusError::bad_request("object: an object is wanted here, as object or as json"));
    };
    if bytes.len() > MAX_OBJECT {
        let size = bytes.len();
        let message = format!(
            "Request entity too large: the object has {size} bytes, the limit is {MAX_OBJECT}; split it into several objects"
        );
        return Err(StatusError::new(Reason::RequestEntityTooLarge, message));
    }
    let Body::Protobuf { type_url, bytes } = &body else { return from_json(kind, bytes, validation) };
    if type_url.rsplit('/').next() != kind.type_url.rsplit('/').next() {
        let message = format!("object: {type_url:?} is not what is wanted here: {:?}", kind.type_url);
        return Err(StatusError::bad_request(message));
    }
    strict::check_protobuf(kind, bytes).map_err(|why| StatusError::new(Reason::RequestEntityTooLarge, why))?;
    let object = kind
        .decode(bytes.clone())
        .map_err(|e| StatusError::bad_request(format!("object: the protobuf encoding of a {} is broken: {e}", kind.kind)))?;
    Ok((object, Vec::new()))
}

fn from_json(kind: &KindRef, json: &Bytes, validation: FieldValidation) -> Result<(Box<dyn Object>, Vec<String>), StatusError> {
    let (value, twice) =
        strict::parse(json).map_err(|e| StatusError::bad_request(format!("json: the object is not JSON: {e}")))?;
    checked(kind, value, twice, validation)
}

/// Reads an object from JSON, with remarks for the client. `problems` are those that were found already, such as fields given twice.
///
/// # Errors
/// When the value does not fit the schema, or has unknown fields that are not to be dropped.
pub fn from_value(
    kind: &KindRef,
    value: Value,
    problems: Vec<Problem>,
    validation: FieldValidation,
) -> Result<(Box<dyn Object>, Vec<String>), StatusError> {
    checked(kind, value, problems, validation)
}

fn checked(
    kind: &KindRef,
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
    let object = kind.from_value(value).map_err(|e| StatusError::bad_request(format!("json: {e}")))?;
    Ok((object, warnings))
}

#[cfg(test)]
mod tests {
    use api::core::v1::Pod;

    use super::*;

    fn read(json: &'static str, validation: FieldValidation) -> Result<Vec<String>, String> {
        let read = object(Pod::HANDLE, Body::Json(Bytes::from_static(json.as_bytes())), validation);
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
    fn an_objects_place_is_read_before_the_object() {
        let json = |json: &'static [u8]| Named::of(&Body::Json(Bytes::from_static(json)));
        let read = json(br#"{"spec": {"x": [1]}, "metadata": {"name": "a", "namespace": "b"}}"#);
        assert_eq!((read.name.as_str(), read.namespace.as_str()), ("a", "b"));
        let mut pod = Pod::default();
        pod.metadata_mut().name = "a".to_owned();
        pod.metadata_mut().namespace = "b".to_owned();
        let body = Body::Protobuf { type_url: Pod::KIND.type_url.to_string(), bytes: api::Object::encode(&pod) };
        assert_eq!(Named::of(&body), read);
        for nothing in ["{", "[]", r#"{"metadata": 5}"#, r#"{"metadata": {"name": 5}}"#] {
            assert_eq!(json(nothing.as_bytes()), Named::default());
        }
    }

    #[test]
    fn what_is_wrong_is_refused_however_lenient_the_client() {
        let error = read(r#"{"spec": {"containers": 5}}"#, FieldValidation::Ignore).unwrap_err();
        assert!(error.contains("spec.containers: wrong type: a list is wanted here, found 5"), "{error}");
        assert!(read("{", FieldValidation::Ignore).unwrap_err().starts_with("json: the object is not JSON: "));
    }
}
