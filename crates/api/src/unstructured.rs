//! Objects of kinds that are made at run time: metadata with a type, everything else a JSON tree.

//! The encoding says neither `apiVersion` nor `kind`, as that of compiled kinds does not: JSON adds them, and [`any`] where it travels.

use bytes::Bytes;
use prost::Message as _;
use serde_json::{Map, Value};

use crate::{
    ferrokube::v1,
    google::protobuf::Any,
    json,
    kind::{Codec, DecodeError, Kind, KindRef},
    meta::v1::ObjectMeta,
    resource::Object,
    rules::{FieldErrors, Path},
    schema::Schema,
};

/// `type_url` of these objects in a `google.protobuf.Any`.
pub const TYPE_URL: &str = "type.googleapis.com/ferrokube.v1.Unstructured";

/// An object whose kind has no type of its own.
#[derive(Clone, Debug)]
pub struct Unstructured {
    /// Its kind.
    pub kind: KindRef,
    /// Its metadata.
    pub meta: ObjectMeta,
    /// Everything but `apiVersion`, `kind` and `metadata`.
    pub content: Map<String, Value>,
}

/// The codec of these objects.
pub const CODEC: &dyn Codec = &Dynamic;

struct Dynamic;

impl Codec for Dynamic {
    fn decode(&self, kind: &KindRef, bytes: Bytes) -> Result<Box<dyn Object>, DecodeError> {
        let encoded = v1::Unstructured::decode(bytes)?;
        // An object of another version of the kind becomes one of this version.
        if encoded.kind != kind.kind && !encoded.kind.is_empty() {
            let found = format!("{}/{}", encoded.api_version, encoded.kind);
            return Err(DecodeError::WrongKind { expected: format!("{kind:?}"), found });
        }
        let content = if encoded.content.is_empty() { Map::new() } else { serde_json::from_slice(&encoded.content)? };
        Ok(Box::new(Unstructured { kind: kind.clone(), meta: encoded.metadata.unwrap_or_default(), content }))
    }

    fn decode_value(&self, kind: &KindRef, value: Value) -> Result<Box<dyn Object>, json::Error> {
        json::check_kind(kind, &value)?;
        let Value::Object(mut content) = value else { return Err(json::Error::NotAnObject) };
        content.remove("apiVersion");
        content.remove("kind");
        let meta = content.remove("metadata").filter(|meta| !meta.is_null());
        let meta = meta.map(serde_json::from_value).transpose()?.unwrap_or_default();
        Ok(Box::new(Unstructured { kind: kind.clone(), meta, content }))
    }

    fn empty(&self, kind: &KindRef) -> Box<dyn Object> {
        Box::new(Unstructured { kind: kind.clone(), meta: ObjectMeta::default(), content: Map::new() })
    }
}

impl Object for Unstructured {
    fn kind(&self) -> &KindRef {
        &self.kind
    }

    fn meta(&self) -> &ObjectMeta {
        &self.meta
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.meta
    }

    fn encode(&self) -> Bytes {
        let encoded = v1::Unstructured {
            metadata: Some(self.meta.clone()),
            content: to_text(&self.content),
            ..v1::Unstructured::default()
        };
        encoded.encode_to_vec().into()
    }

    fn to_value(&self) -> Result<Value, json::Error> {
        let meta = serde_json::to_value(&self.meta).map_err(|source| json::no_json(&self.kind, &self.meta, source))?;
        let mut value = self.content.clone();
        value.insert("apiVersion".to_owned(), self.kind.api_version.as_ref().into());
        value.insert("kind".to_owned(), self.kind.kind.as_ref().into());
        value.insert("metadata".to_owned(), meta);
        Ok(Value::Object(value))
    }

    fn set_defaults(&mut self) {
        if let Schema::Dynamic(schema) = &self.kind.schema {
            schema.set_defaults(&mut self.content);
        }
    }

    fn validate(&self, old: Option<&dyn Object>, errors: &mut FieldErrors) {
        let Schema::Dynamic(schema) = &self.kind.schema else { return };
        let values = (self.to_value(), old.map(|old| old.to_value()).transpose());
        match values {
            (Ok(new), Ok(old)) => schema.validate(&new, old.as_ref(), errors),
            (Err(why), _) | (_, Err(why)) => errors.invalid(&Path::root(), "", why.to_string()),
        }
    }

    fn copy_status_from(&mut self, other: &dyn Object) {
        if let Some(other) = other.downcast_ref::<Self>() {
            match other.content.get("status") {
                Some(status) => drop(self.content.insert("status".to_owned(), status.clone())),
                None => drop(self.content.remove("status")),
            }
        }
    }

    fn boxed_clone(&self) -> Box<dyn Object> {
        Box::new(self.clone())
    }

    fn equals(&self, other: &dyn Object) -> bool {
        other.downcast_ref::<Self>().is_some_and(|other| {
            (&self.kind.api_version, &self.kind.kind, &self.meta, &self.content)
                == (&other.kind.api_version, &other.kind.kind, &other.meta, &other.content)
        })
    }
}

fn to_text(content: &Map<String, Value>) -> Bytes {
    // Texts as keys and numbers that were read: it cannot fail.
    serde_json::to_vec(content).unwrap_or_default().into()
}

/// The encoding of an object from its stored JSON, of whichever version it was stored in.
///
/// # Errors
/// When it is no JSON object with metadata, or of another kind.
pub fn from_stored(kind: &str, json: &[u8]) -> Result<Bytes, DecodeError> {
    let mut content: Map<String, Value> = serde_json::from_slice(json)?;
    content.remove("apiVersion");
    match content.remove("kind") {
        Some(Value::String(found)) if found != kind => {
            return Err(DecodeError::WrongKind { expected: kind.to_owned(), found });
        }
        _ => {}
    }
    let metadata: ObjectMeta =
        content.remove("metadata").filter(|m| !m.is_null()).map(serde_json::from_value).transpose()?.unwrap_or_default();
    let encoded = v1::Unstructured { metadata: Some(metadata), content: to_text(&content), ..v1::Unstructured::default() };
    Ok(encoded.encode_to_vec().into())
}

/// The JSON that is stored of an encoded object.
///
/// # Errors
/// When the encoding is broken.
pub fn to_stored(api_version: &str, kind: &str, encoded: &[u8]) -> Result<Vec<u8>, DecodeError> {
    let encoded = v1::Unstructured::decode(encoded)?;
    let mut value: Map<String, Value> =
        if encoded.content.is_empty() { Map::new() } else { serde_json::from_slice(&encoded.content)? };
    value.insert("apiVersion".to_owned(), api_version.into());
    value.insert("kind".to_owned(), kind.into());
    value.insert("metadata".to_owned(), serde_json::to_value(encoded.metadata.unwrap_or_default())?);
    Ok(serde_json::to_vec(&value)?)
}

/// The text, boolean or number at a path such as `spec.color` in an encoded object, as a selector compares it; empty if there is none.
pub fn field(encoded: &[u8], path: &str) -> String {
    let content = v1::Unstructured::decode(encoded).map(|object| object.content).unwrap_or_default();
    let content: Value = serde_json::from_slice(&content).unwrap_or_default();
    match path.trim_start_matches('.').split('.').try_fold(&content, |value, name| value.get(name)) {
        Some(Value::String(text)) => text.clone(),
        Some(value @ (Value::Bool(_) | Value::Number(_))) => value.to_string(),
        _ => String::new(),
    }
}

/// An encoded object as it travels: with its `apiVersion` and `kind`, which the encoding has not.
pub fn any(kind: &Kind, encoded: &[u8]) -> Any {
    // Fields of a protobuf message can be appended.
    let typed = v1::Unstructured { api_version: kind.api_version.to_string(), kind: kind.kind.to_string(), ..Default::default() };
    let mut value = Vec::with_capacity(encoded.len() + typed.encoded_len());
    value.extend_from_slice(encoded);
    value.extend(typed.encode_to_vec());
    Any { type_url: kind.type_url.to_string(), value: value.into() }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::testing::custom_kind;

    #[test]
    fn json_and_protobuf_say_the_same() {
        let kind = custom_kind("stable.example.com", "v1", "Widget");
        let value = json!({
            "apiVersion": "stable.example.com/v1", "kind": "Widget",
            "metadata": {"name": "a", "namespace": "b", "labels": {"x": "y"}},
            "spec": {"size": 3, "none": null}, "status": {"ready": true},
        });
        let object = kind.from_value(value.clone()).unwrap();
        assert_eq!(object.meta().labels["x"], "y");
        let back = kind.decode(object.encode()).unwrap();
        assert!(back.equals(&*object));
        assert_eq!(back.to_value().unwrap(), value);

        let mut other = kind.empty();
        other.copy_status_from(&*object);
        assert_eq!(other.downcast_ref::<Unstructured>().unwrap().content["status"]["ready"], true);
        other.copy_status_from(&*kind.empty());
        assert!(other.downcast_ref::<Unstructured>().unwrap().content.is_empty());
    }

    #[test]
    fn what_is_stored_is_json_and_reads_back_byte_for_byte() {
        let kind = custom_kind("stable.example.com", "v1", "Widget");
        let value =
            json!({"metadata": {"name": "a", "labels": {"b": "1", "a": "2"}}, "spec": {"z": 1, "color": "red", "on": true}});
        let encoded = kind.from_value(value).unwrap().encode();
        let stored = to_stored("stable.example.com/v1", "Widget", &encoded).unwrap();
        let shown: Value = serde_json::from_slice(&stored).unwrap();
        assert_eq!((&shown["apiVersion"], &shown["metadata"]["name"]), (&json!("stable.example.com/v1"), &json!("a")));
        assert_eq!(from_stored("Widget", &stored).unwrap(), encoded);
        assert_eq!(kind.decode(encoded.clone()).unwrap().encode(), encoded);
        assert_eq!([".spec.color", "spec.on", "spec.z", "spec.none"].map(|path| field(&encoded, path)), ["red", "true", "1", ""]);
        assert!(from_stored("Gadget", &stored).is_err() && from_stored("Widget", b"k8s\0").is_err());
        let any = any(&kind, &encoded);
        assert_eq!(any.type_url, TYPE_URL);
        assert!(kind.decode(any.value).unwrap().equals(&*kind.decode(encoded).unwrap()));
    }

    #[test]
    fn a_resource_version_can_be_appended_to_the_encoding() {
        let kind = custom_kind("stable.example.com", "v1", "Widget");
        let mut bytes = kind.from_value(json!({"metadata": {"name": "a"}, "spec": 1})).unwrap().encode().to_vec();
        bytes.extend_from_slice(b"\x0a\x04\x32\x0242");
        let object = kind.decode(bytes.into()).unwrap();
        assert_eq!((object.meta().name.as_str(), object.meta().resource_version.as_str()), ("a", "42"));
    }

    #[test]
    fn another_kind_is_refused_and_another_version_converted() {
        let (v1, v2) = (custom_kind("example.com", "v1", "Widget"), custom_kind("example.com", "v2", "Widget"));
        let gadget = custom_kind("example.com", "v1", "Gadget");
        let object = v1.from_value(json!({"spec": {"a": 1}})).unwrap();
        assert_eq!(v2.decode(object.encode()).unwrap().to_value().unwrap()["apiVersion"], "example.com/v2");
        assert!(matches!(gadget.decode(any(&v1, &object.encode()).value), Err(DecodeError::WrongKind { .. })));
        assert!(matches!(v2.from_value(object.to_value().unwrap()), Err(json::Error::WrongKind { .. })));
    }
}
