//! Lists that are sets or maps hold nothing twice.

use std::collections::HashSet;

use api::{
    apiextensions::v1::JsonSchemaProps,
    rules::{FieldErrors, Path},
};
use serde_json::{Map, Value};

use super::{ListType, Schema, Shown};

/// Says which items of a list stand in it already.
pub(super) fn check(list: &[Value], schema: &Schema, at: &Path<'_>, errors: &mut FieldErrors) {
    match &schema.list {
        ListType::Atomic => {}
        ListType::Set => {
            let mut seen = HashSet::new();
            for (i, item) in list.iter().enumerate() {
                if !seen.insert(canonical(item)) {
                    errors.duplicate(&at.index(i), Shown(item));
                }
            }
        }
        ListType::Map(keys) => {
            let (mut seen, identity) = (HashSet::new(), Identity::new(keys, schema));
            for (i, item) in list.iter().enumerate() {
                let Some(key) = identity.key(item) else { continue };
                if !seen.insert(canonical(&key)) {
                    errors.duplicate(&at.index(i), Shown(&key));
                }
            }
        }
    }
}

/// What tells the items of a list apart: fields, with what an item that leaves one out has there.
#[derive(Debug)]
pub(crate) struct Identity(Vec<(String, Option<Value>)>);

impl Identity {
    /// Of a list with these keys.
    pub fn new(keys: &[String], list: &Schema) -> Self {
        let default = |key: &String| list.items.as_deref()?.properties.get(key)?.default.clone();
        Self(keys.iter().map(|key| (key.clone(), default(key))).collect())
    }

    /// The keys of an item; none if the item is no object.
    fn key(&self, item: &Value) -> Option<Value> {
        let item = item.as_object()?;
        let pairs = self.0.iter().filter_map(|(key, default)| Some((key.clone(), item.get(key).or(default.as_ref())?.clone())));
        Some(Value::Object(pairs.collect::<Map<_, _>>()))
    }

    /// The keys of an item as a text that is the same for equal keys.
    pub fn text(&self, item: &Value) -> Option<String> {
        self.key(item).as_ref().map(canonical)
    }
}

/// Text that is the same for equal values: whole numbers as such, fields in order.
fn canonical(value: &Value) -> String {
    match value {
        Value::Number(n) => match n.as_f64() {
            Some(f) if n.is_f64() && f.fract() == 0.0 && f.abs() < 9e15 => format!("{f:.0}"),
            _ => n.to_string(),
        },
        Value::Array(list) => format!("[{}]", list.iter().map(canonical).collect::<Vec<_>>().join(",")),
        Value::Object(map) => {
            let mut fields: Vec<String> = map.iter().map(|(k, v)| format!("{k:?}:{}", canonical(v))).collect();
            fields.sort_unstable();
            format!("{{{}}}", fields.join(","))
        }
        other => other.to_string(),
    }
}

/// Says what of a list's type makes no sense.
pub(super) fn check_types(p: &JsonSchemaProps, at: &Path<'_>, errors: &mut FieldErrors) {
    let (list_type, keys) = (p.x_kubernetes_list_type.as_deref(), &p.x_kubernetes_list_map_keys);
    let (here, keys_here) = (at.field("x-kubernetes-list-type"), at.field("x-kubernetes-list-map-keys"));
    match list_type {
        None if keys.is_empty() => return,
        None => return errors.required_because(&here, "must be map if x-kubernetes-list-map-keys is non-empty"),
        Some(_) if p.r#type.is_empty() => {
            errors.required_because(&at.field("type"), "must be array if x-kubernetes-list-type is specified");
        }
        Some(_) if p.r#type != "array" => {
            errors.invalid(&at.field("type"), &p.r#type, "must be array if x-kubernetes-list-type is specified");
        }
        Some(_) => {}
    }
    match list_type {
        Some("atomic" | "set" | "map") => {}
        Some(other) => errors.not_supported(&here, other, &["atomic", "set", "map"]),
        None => {}
    }
    if list_type != Some("map") && !keys.is_empty() {
        errors.invalid(&here, list_type.unwrap_or_default(), "must be map if x-kubernetes-list-map-keys is non-empty");
    }
    if list_type == Some("map") && keys.is_empty() {
        errors.required_because(&keys_here, "must not be empty if x-kubernetes-list-type is map");
    }
    let items_here = at.field("items");
    let Some(items) = p.items.as_ref().and_then(|items| items.schema.as_deref()) else {
        if list_type == Some("map") {
            errors.required_because(&items_here, "must have a schema if x-kubernetes-list-type is map");
        }
        return;
    };
    if items.nullable && matches!(list_type, Some("set" | "map")) {
        let why = format_args!("cannot be nullable when x-kubernetes-list-type is {}", list_type.unwrap_or_default());
        errors.forbidden(&items_here.field("nullable"), why);
    }
    match list_type {
        Some("set") => set_items(items, &items_here, errors),
        Some("map") => map_items(keys, items, &items_here, &keys_here, errors),
        _ => {}
    }
}

fn set_items(items: &JsonSchemaProps, at: &Path<'_>, errors: &mut FieldErrors) {
    let why = "must be atomic as item of a list with x-kubernetes-list-type=set";
    let (list_type, map_type) = (items.x_kubernetes_list_type.as_deref(), items.x_kubernetes_map_type.as_deref());
    if items.r#type == "array" && list_type.is_some_and(|ty| ty != "atomic") {
        errors.invalid(&at.field("x-kubernetes-list-type"), list_type.unwrap_or_default(), why);
    }
    if items.r#type == "object" && map_type != Some("atomic") {
        errors.invalid(&at.field("x-kubernetes-map-type"), map_type.unwrap_or_default(), why);
    }
}

fn map_items(keys: &[String], items: &JsonSchemaProps, at: &Path<'_>, keys_here: &Path<'_>, errors: &mut FieldErrors) {
    if items.r#type != "object" {
        let why = "must be object if parent array's x-kubernetes-list-type is map";
        return errors.invalid(&at.field("type"), &items.r#type, why);
    }
    let properties = at.field("properties");
    for (i, key) in keys.iter().enumerate() {
        if keys[..i].contains(key) {
            errors.invalid(keys_here, keys, "must not contain duplicate entries");
        }
        let Some(field) = items.properties.get(key) else {
            errors.invalid(keys_here, keys, "entries must all be names of item properties");
            continue;
        };
        let here = properties.key(key);
        if matches!(field.r#type.as_str(), "array" | "object") {
            let why = "must be a scalar type if parent array's x-kubernetes-list-type is map";
            errors.invalid(&here.field("type"), &field.r#type, why);
        }
        if !items.required.contains(key) && field.default.is_none() {
            let why = "this property is in x-kubernetes-list-map-keys, so it must have a default or be a required property";
            errors.required_because(&here.field("default"), why);
        }
        if field.nullable {
            errors.forbidden(&here.field("nullable"), "this property is in x-kubernetes-list-map-keys, so it cannot be nullable");
        }
    }
}
