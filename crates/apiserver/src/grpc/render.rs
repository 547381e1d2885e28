//! Objects in the form that a client asked for: protobuf in an `Any`, or Kubernetes JSON.

use api::{
    KindRef,
    ferrokube::v1 as proto,
    google::protobuf::Any,
    meta::v1::{ObjectMeta, PartialObjectMetadata},
};
use bytes::Bytes;
use prost::Message as _;
use serde_json::Value;

use crate::pipeline::Stored;

/// `type_url` of an object of which only the metadata is sent.
const PARTIAL: &str = "type.googleapis.com/k8s.io.apimachinery.pkg.apis.meta.v1.PartialObjectMetadata";

/// An object in one of the two forms; the other one is empty.
pub(super) struct Rendered {
    pub(super) object: Option<Any>,
    pub(super) json: Bytes,
}

impl Rendered {
    /// Writes an object as protobuf or as JSON. One that has no JSON form stays protobuf, and a warning says why: it must not keep the
    /// client from the other objects, and what is written already cannot be answered with an error.
    pub(super) fn object(Stored { kind, bytes }: Stored, as_json: bool, warnings: &mut Vec<String>) -> Self {
        Self::new(|bytes| kind.any(bytes), bytes, as_json.then_some(|bytes| whole(&kind, bytes)), warnings)
    }

    /// Writes an object of which only the metadata is sent.
    pub(super) fn partial(bytes: Bytes, as_json: bool, warnings: &mut Vec<String>) -> Self {
        let any = |value| Any { type_url: PARTIAL.to_owned(), value };
        Self::new(any, bytes, as_json.then_some(partial), warnings)
    }

    fn new(
        to_any: impl FnOnce(Bytes) -> Any,
        bytes: Bytes,
        to_json: Option<impl FnOnce(Bytes) -> Result<Value, String>>,
        warnings: &mut Vec<String>,
    ) -> Self {
        match to_json.map(|to_json| to_json(bytes.clone())) {
            Some(Ok(value)) => return Self { object: None, json: value.to_string().into() },
            Some(Err(why)) => warnings.push(why),
            None => {}
        }
        Self { object: Some(to_any(bytes)), json: Bytes::new() }
    }

    /// How many bytes the object has.
    pub(super) fn len(&self) -> usize {
        self.object.as_ref().map_or(0, |any| any.value.len()) + self.json.len()
    }
}

/// The answer that is one object.
pub(super) fn answer(object: Stored, as_json: bool, mut warnings: Vec<String>) -> proto::Object {
    let Rendered { object, json } = Rendered::object(object, as_json, &mut warnings);
    proto::Object { object, warnings, json }
}

fn whole(kind: &KindRef, bytes: Bytes) -> Result<Value, String> {
    let object = kind.decode(bytes).map_err(|e| format!("a stored {} cannot be decoded: {e}", kind.kind))?;
    object.to_value().map_err(|e| no_json(&kind.kind, object.meta(), &e))
}

fn partial(bytes: Bytes) -> Result<Value, String> {
    const KIND: &str = "PartialObjectMetadata";
    let object = PartialObjectMetadata::decode(bytes).map_err(|e| format!("a stored {KIND} cannot be decoded: {e}"))?;
    let metadata = object.metadata.unwrap_or_default();
    let value = serde_json::to_value(&metadata).map_err(|e| no_json(KIND, &metadata, &e))?;
    Ok(serde_json::json!({"apiVersion": "meta.k8s.io/v1", "kind": KIND, "metadata": value}))
}

fn no_json(kind: &str, meta: &ObjectMeta, why: &dyn std::fmt::Display) -> String {
    let place = if meta.namespace.is_empty() { String::new() } else { format!(" of namespace {:?}", meta.namespace) };
    format!("{kind} {:?}{place} has no JSON form and comes as protobuf: {why}", meta.name)
}

#[cfg(test)]
mod tests {
    use api::{Resource, core::v1::ConfigMap};
    use serde_json::json;

    use super::*;

    #[test]
    fn json_is_what_a_manifest_would_say() {
        let mut map = ConfigMap::default();
        map.metadata_mut().name = "a".to_owned();
        map.metadata_mut().creation_timestamp = Some(api::meta::v1::Time { seconds: 0, nanos: 0 });
        map.binary_data.insert("k".to_owned(), Bytes::from_static(b"\xff"));
        let stored = || Stored { kind: ConfigMap::HANDLE.clone(), bytes: api::Object::encode(&map) };
        let mut warnings = Vec::new();
        let rendered = Rendered::object(stored(), true, &mut warnings);
        assert!(rendered.object.is_none() && warnings.is_empty());
        let metadata = json!({"name": "a", "creationTimestamp": "1970-01-01T00:00:00Z"});
        assert_eq!(
            serde_json::from_slice::<Value>(&rendered.json).unwrap(),
            json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "binaryData": {"k": "/w=="}})
        );
        let any = Any { type_url: ConfigMap::KIND.type_url.to_string(), value: stored().bytes };
        assert_eq!(Rendered::object(stored(), false, &mut warnings).object, Some(any));

        let partial = PartialObjectMetadata { metadata: Some(map.metadata().clone()) };
        let rendered = Rendered::partial(partial.encode_to_vec().into(), true, &mut warnings);
        assert_eq!(
            serde_json::from_slice::<Value>(&rendered.json).unwrap(),
            json!({"apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata", "metadata": metadata})
        );
        assert!(warnings.is_empty());
    }

    #[test]
    fn what_has_no_json_form_comes_as_protobuf_with_a_warning() {
        let broken = Stored { kind: ConfigMap::HANDLE.clone(), bytes: Bytes::from_static(b"\xff") };
        let answer = answer(broken.clone(), true, Vec::new());
        let any = Any { type_url: ConfigMap::KIND.type_url.to_string(), value: broken.bytes };
        assert_eq!((answer.object, answer.json), (Some(any), Bytes::new()));
        assert!(answer.warnings[0].starts_with("a stored ConfigMap cannot be decoded: "), "{:?}", answer.warnings);
    }
}
