//! Dropping what a schema does not name.

use std::mem;

use api::rules::Path;
use serde_json::{Map, Value};

use super::Schema;

/// Most dropped fields that are told.
const MAX_TOLD: usize = 100;

/// Paths of the fields that were dropped, in the order of the document; not more than a hundred.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Pruned(pub Vec<String>);

impl Pruned {
    fn note(&mut self, at: &Path<'_>) {
        if self.0.len() < MAX_TOLD {
            self.0.push(at.to_string());
        }
    }
}

/// Drops the fields of an object that its schema does not name. `apiVersion`, `kind` and `metadata` of whole objects stay.
pub fn prune(object: &mut Map<String, Value>, schema: &Schema) -> Pruned {
    let mut pruned = Pruned::default();
    map(object, Some(schema), true, &Path::root(), &mut pruned);
    pruned
}

/// As [`prune`], for a value inside an object.
pub(crate) fn prune_value(v: &mut Value, schema: &Schema) -> Pruned {
    let mut pruned = Pruned::default();
    value(v, Some(schema), &Path::root(), &mut pruned);
    pruned
}

/// True for the fields that every whole object has.
pub(crate) fn is_meta(name: &str) -> bool {
    matches!(name, "apiVersion" | "kind" | "metadata")
}

fn value(v: &mut Value, schema: Option<&Schema>, at: &Path<'_>, pruned: &mut Pruned) {
    match v {
        Value::Object(object) => map(object, schema, schema.is_some_and(|s| s.embedded), at, pruned),
        Value::Array(list) => {
            let keeps = schema.is_some_and(|s| s.preserve_unknown && s.items.is_none());
            let items = schema.and_then(|s| s.items.as_deref());
            for (i, item) in list.iter_mut().enumerate().filter(|_| !keeps) {
                value(item, items, &at.index(i), pruned);
            }
        }
        _ => {}
    }
}

fn map(object: &mut Map<String, Value>, schema: Option<&Schema>, whole: bool, at: &Path<'_>, pruned: &mut Pruned) {
    let keeps = schema.is_some_and(|s| s.preserve_unknown);
    object.retain(|key, v| {
        if whole && is_meta(key) {
            return true;
        }
        let named = schema.and_then(|s| s.properties.get(key));
        let here = at.field(key);
        match (named, schema.and_then(|s| s.additional.as_ref()), schema) {
            (Some(field), ..) => value(v, Some(field), &here, pruned),
            (None, Some(_), Some(s)) if s.values().is_some() => value(v, s.values(), &here, pruned),
            _ if keeps => {}
            // Anything goes, but nothing is known of what it holds.
            (None, Some(_), _) => value(v, None, &here, pruned),
            _ => {
                pruned.note(&here);
                return false;
            }
        }
        true
    });
    // A map that was once large keeps its room.
    if object.is_empty() {
        mem::take(object);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::schema::tests::schema;

    #[test]
    fn what_no_schema_names_is_dropped_and_told() {
        let s = schema(
            "{type: object, properties: {
               a: {type: object, properties: {b: {type: string}}},
               list: {type: array, items: {type: object, properties: {c: {type: integer}}}},
               map: {type: object, additionalProperties: {type: object, properties: {d: {type: integer}}}},
               free: {type: object, x-kubernetes-preserve-unknown-fields: true, properties: {known: {type: object, properties: {e: {type: string}}}}},
               any: {type: object, additionalProperties: true},
               whole: {type: object, x-kubernetes-embedded-resource: true, properties: {spec: {type: object}}}}}",
        );
        let mut object = json!({
            "apiVersion": "a/v1", "kind": "K", "metadata": {"name": "n", "odd": 1}, "extra": 1,
            "a": {"b": "x", "z": 1}, "list": [{"c": 1, "z": 1}, {"z": 2}], "map": {"k": {"d": 1, "z": 1}},
            "free": {"u": {"v": 1}, "known": {"e": "", "z": 1}}, "any": {"k": {"x": 1}, "s": "t"},
            "whole": {"apiVersion": "v1", "kind": "Pod", "metadata": {"labels": {"a": "b"}}, "spec": {"z": 1}, "z": 1},
        });
        let Value::Object(map) = &mut object else { panic!("an object") };
        let pruned = prune(map, &s);
        assert_eq!(
            pruned.0,
            ["a.z", "any.k.x", "extra", "free.known.z", "list[0].z", "list[1].z", "map.k.z", "whole.spec.z", "whole.z"]
        );
        assert_eq!(
            object,
            json!({
                "apiVersion": "a/v1", "kind": "K", "metadata": {"name": "n", "odd": 1},
                "a": {"b": "x"}, "list": [{"c": 1}, {}], "map": {"k": {"d": 1}},
                "free": {"u": {"v": 1}, "known": {"e": ""}}, "any": {"k": {}, "s": "t"},
                "whole": {"apiVersion": "v1", "kind": "Pod", "metadata": {"labels": {"a": "b"}}, "spec": {}},
            })
        );
    }
}
