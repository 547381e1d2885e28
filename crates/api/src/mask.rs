//! Which fields of an object somebody reads, and what is left of an encoded object without the others.
//!
//! Works on the protobuf encoding, so that what nobody reads is never decoded.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use prost::{
    DecodeError,
    encoding::{DecodeContext, WireType, decode_key, decode_varint, encode_key, encode_varint, skip_field},
};

use crate::schema::{Cardinality, FieldType, Message};

/// Number of the key in the encoding of a map's entry.
const KEY: u32 = 1;

/// A set of fields of one kind of object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mask(BTreeMap<u32, Part>);

/// What is read of a field.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    /// All of it.
    Whole,
    /// These fields of it (of each item or value).
    Fields(Mask),
    /// The values under these keys of a map.
    Keys(BTreeSet<String>),
}

/// A path that leads to no field.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {message} has no field {field:?}")]
pub struct NoSuchField {
    /// The whole path.
    pub path: String,
    /// Where the field was looked for.
    pub message: &'static str,
    /// What was looked for.
    pub field: String,
}

// === impl Mask ===

impl Mask {
    /// The fields that JSON paths name, such as `spec.containers.ports` (of every container) or `metadata.annotations['example.com/a']`.
    ///
    /// # Errors
    /// When a path names a field that the schema does not have.
    pub fn new(message: &'static Message, paths: &[&str]) -> Result<Self, NoSuchField> {
        let mut mask = Self::default();
        for path in paths {
            mask.add(message, path, &steps(path))?;
        }
        Ok(mask)
    }

    fn add(&mut self, message: &'static Message, path: &str, fields: &[&str]) -> Result<(), NoSuchField> {
        let Some((name, rest)) = fields.split_first() else { return Ok(()) };
        let missing = || NoSuchField { path: path.to_owned(), message: message.name, field: (*name).to_owned() };
        let found = message.fields.iter().find(|field| !field.inline && field.json == *name);
        let Some(field) = found else {
            // The fields of an inlined message stand beside the others in JSON, but not in protobuf.
            let inlined = message.fields.iter().filter(|field| field.inline);
            let mut inside = inlined.filter_map(|field| match field.ty {
                FieldType::Message(inner) if inner.field(name).is_some() => Some((field.number, inner)),
                _ => None,
            });
            let (number, inner) = inside.next().ok_or_else(missing)?;
            return self.part(number, |mask| mask.add(inner, path, fields));
        };
        match (rest, field.ty, field.cardinality) {
            ([], ..) => drop(self.0.insert(field.number, Part::Whole)),
            ([key], _, Cardinality::Map) => match self.0.entry(field.number).or_insert_with(|| Part::Keys(BTreeSet::new())) {
                Part::Keys(keys) => drop(keys.insert((*key).to_owned())),
                Part::Whole | Part::Fields(_) => {}
            },
            (_, FieldType::Message(inner), Cardinality::Singular | Cardinality::List) => {
                self.part(field.number, |mask| mask.add(inner, path, rest))?;
            }
            _ => return Err(NoSuchField { path: path.to_owned(), message: message.name, field: rest[0].to_owned() }),
        }
        Ok(())
    }

    fn part(&mut self, number: u32, add: impl FnOnce(&mut Self) -> Result<(), NoSuchField>) -> Result<(), NoSuchField> {
        match self.0.entry(number).or_insert_with(|| Part::Fields(Self::default())) {
            Part::Fields(mask) => add(mask),
            Part::Whole | Part::Keys(_) => Ok(()),
        }
    }

    /// The encoded object without the fields that are not in the set.
    ///
    /// # Errors
    /// When it is no protobuf message.
    pub fn apply(&self, object: &[u8]) -> Result<Bytes, DecodeError> {
        let mut out = Vec::with_capacity(object.len());
        self.copy(object, &mut out)?;
        Ok(out.into())
    }

    fn copy(&self, mut message: &[u8], out: &mut Vec<u8>) -> Result<(), DecodeError> {
        while !message.is_empty() {
            let begin = message;
            let (number, wire) = decode_key(&mut message)?;
            let inner = match wire {
                WireType::LengthDelimited => {
                    let mut rest = message;
                    let length = usize::try_from(decode_varint(&mut rest)?).unwrap_or(usize::MAX);
                    rest.get(..length)
                }
                _ => None,
            };
            skip_field(wire, number, &mut message, DecodeContext::default())?;
            let field = &begin[..begin.len() - message.len()];
            match (self.0.get(&number), inner) {
                (Some(Part::Fields(mask)), Some(inner)) => {
                    let mut part = Vec::new();
                    mask.copy(inner, &mut part)?;
                    encode_key(number, wire, out);
                    encode_varint(part.len() as u64, out);
                    out.append(&mut part);
                }
                (Some(Part::Keys(keys)), Some(entry)) if !key_of(entry)?.is_some_and(|key| keys.contains(key)) => {}
                (Some(_), _) => out.extend_from_slice(field),
                (None, _) => {}
            }
        }
        Ok(())
    }
}

/// `a.b['c.d']` as `a`, `b` and `c.d`.
fn steps(path: &str) -> Vec<&str> {
    let (fields, key) = match path.strip_suffix("']").and_then(|path| path.split_once("['")) {
        Some((fields, key)) => (fields, Some(key)),
        None => (path, None),
    };
    fields.split('.').chain(key).collect()
}

/// The key of a map's encoded entry.
fn key_of(mut entry: &[u8]) -> Result<Option<&str>, DecodeError> {
    let mut key = None;
    while !entry.is_empty() {
        let (number, wire) = decode_key(&mut entry)?;
        let mut rest = entry;
        skip_field(wire, number, &mut entry, DecodeContext::default())?;
        if number == KEY && wire == WireType::LengthDelimited {
            decode_varint(&mut rest)?;
            key = std::str::from_utf8(&rest[..rest.len() - entry.len()]).ok();
        }
    }
    Ok(key)
}

#[cfg(test)]
mod tests {
    use prost::Message as _;
    use serde_json::json;

    use super::*;
    use crate::{Resource, core::v1::Pod, json::from_value, sample::Sampler};

    fn kept(paths: &[&str], pod: serde_json::Value) -> serde_json::Value {
        let mask = Mask::new(Pod::KIND.message().unwrap(), paths).unwrap();
        let pod: Pod = from_value(pod).unwrap();
        let left = Pod::decode(mask.apply(&pod.encode_to_vec()).unwrap()).unwrap();
        serde_json::to_value(left).unwrap()
    }

    #[test]
    fn only_what_is_read_is_left() {
        let pod = json!({
            "metadata": {"name": "a", "annotations": {"cost": "1", "big": "x"}, "labels": {"l": "1"}},
            "spec": {
                "nodeName": "n",
                "containers": [{"name": "c", "image": "i", "ports": [{"containerPort": 80}]}, {"name": "d"}],
                "volumes": [{"name": "v", "emptyDir": {}}, {"name": "w", "hostPath": {"path": "/"}}],
            },
        });
        let paths =
            ["metadata.annotations['cost']", "spec.containers.ports.containerPort", "spec.volumes.hostPath", "metadata.name"];
        let left = kept(&paths, pod.clone());
        assert_eq!(left["metadata"], json!({"name": "a", "annotations": {"cost": "1"}}));
        assert_eq!(left["spec"]["containers"][0]["ports"], json!([{"containerPort": 80}]));
        assert_eq!((&left["spec"]["containers"][0]["name"], left["spec"].get("nodeName")), (&json!(""), None));
        // A list keeps its length.
        assert_eq!(left["spec"]["containers"].as_array().unwrap().len(), 2);
        assert_eq!(left["spec"]["volumes"][1]["hostPath"], json!({"path": "/"}));
        // The wider of two paths counts, in either order.
        for paths in [["metadata", "metadata.name"], ["metadata.name", "metadata"]] {
            assert_eq!(kept(&paths, pod.clone())["metadata"], pod["metadata"]);
        }
    }

    #[test]
    fn a_path_that_leads_nowhere_is_named() {
        let error = |path: &str| Mask::new(Pod::KIND.message().unwrap(), &[path]).unwrap_err().to_string();
        assert_eq!(error("spec.nodName"), "spec.nodName: k8s.io.api.core.v1.PodSpec has no field \"nodName\"");
        assert!(error("spec.nodeName.x").ends_with("has no field \"x\""));
    }

    #[test]
    fn the_set_of_all_fields_changes_nothing_and_garbage_never_panics() {
        let pod: Pod = from_value(Sampler::full(8).object(Pod::KIND.message().unwrap())).unwrap();
        let all: Vec<_> = Pod::KIND.message().unwrap().json_fields().iter().map(|field| field.json).collect();
        let mask = Mask::new(Pod::KIND.message().unwrap(), &all).unwrap();
        let bytes = pod.encode_to_vec();
        assert_eq!(mask.apply(&bytes).unwrap(), bytes);
        let mask = Mask::new(Pod::KIND.message().unwrap(), &["spec.containers.ports", "metadata.labels['a']"]).unwrap();
        for cut in 0..bytes.len().min(2000) {
            drop(mask.apply(&bytes[..cut]));
        }
    }
}
