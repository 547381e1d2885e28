//! Objects of kinds that are made at run time: metadata with a type, everything else a JSON tree.

use bytes::Bytes;
use prost::Message as _;
use serde_json::{Map, Value};

use crate::{
    ferrokube::v1,
    json,
    kind::{Codec, DecodeError, KindRef},
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
            api_version: self.kind.api_version.to_string(),
            kind: self.kind.kind.to_string(),
            content: Value::Object(self.content.clone()).to_string().into(),
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
            "metadata": {"name": "a", "namespace": "b", "labels": {"x": "y"}, "creationTimestamp": null},
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
        assert!(matches!(gadget.decode(object.encode()), Err(DecodeError::WrongKind { .. })));
        assert!(matches!(v2.from_value(object.to_value().unwrap()), Err(json::Error::WrongKind { .. })));
    }
}
