//! Setting what a schema defaults.

use serde_json::{Map, Value};

use super::Schema;

/// Most values that the defaults of one object add. A list of empty objects with a large default each would take memory out of all
/// proportion to what was sent.
const MAX_ADDED: usize = 100_000;

/// Sets every default below the object whose field is absent, or null where it cannot be; then drops what is null and cannot be.
///
/// Stops when the defaults add more than a hundred thousand values: validation then finds what is missing.
pub fn set_defaults(object: &mut Map<String, Value>, schema: &Schema) {
    let mut left = MAX_ADDED;
    default_map(object, schema, &mut left);
    drop_map(object, schema);
}

/// Drops the fields that are null, cannot be and have no default.
pub fn drop_nulls(value: &mut Value, schema: &Schema) {
    match value {
        Value::Object(object) => drop_map(object, schema),
        Value::Array(list) => {
            if let Some(items) = &schema.items {
                list.iter_mut().for_each(|item| drop_nulls(item, items));
            }
        }
        _ => {}
    }
}

fn drop_map(object: &mut Map<String, Value>, schema: &Schema) {
    object.retain(|key, value| {
        let Some(field) = schema.field(key) else { return true };
        if value.is_null() && !field.nullable {
            return false;
        }
        drop_nulls(value, field);
        true
    });
}

fn default_map(object: &mut Map<String, Value>, schema: &Schema, left: &mut usize) {
    for (name, field) in &schema.properties {
        let Some(default) = &field.default else { continue };
        let absent = object.get(name).is_none_or(|value| value.is_null() && !field.nullable);
        if absent && take(default, left) {
            object.insert(name.clone(), default.clone());
        }
    }
    for (name, value) in object {
        if let Some(field) = schema.field(name) {
            default_value(value, field, left);
        }
    }
}

fn default_value(value: &mut Value, schema: &Schema, left: &mut usize) {
    match (value, &schema.default) {
        (value @ Value::Null, Some(default)) if !schema.nullable && take(default, left) => *value = default.clone(),
        (Value::Object(object), _) => default_map(object, schema, left),
        (Value::Array(list), _) => {
            if let Some(items) = &schema.items {
                list.iter_mut().for_each(|item| default_value(item, items, left));
            }
        }
        _ => {}
    }
}

/// True if there is room for as many values as the default holds.
fn take(default: &Value, left: &mut usize) -> bool {
    let size = match default {
        Value::Object(_) | Value::Array(_) => size(default),
        _ => 1,
    };
    let enough = size <= *left;
    *left = left.saturating_sub(size);
    enough
}

fn size(value: &Value) -> usize {
    1 + match value {
        Value::Object(map) => map.values().map(size).sum(),
        Value::Array(list) => list.iter().map(size).sum(),
        Value::String(text) => text.len() / 32,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::schema::tests::schema;

    fn defaulted(schema: &Schema, value: Value) -> Value {
        let Value::Object(mut map) = value else { panic!("an object") };
        set_defaults(&mut map, schema);
        Value::Object(map)
    }

    #[test]
    fn defaults_are_set_where_nothing_is_and_in_what_was_set() {
        let s = schema(
            "{type: object, properties: {
               n: {type: integer, default: 3},
               o: {type: object, default: {}, properties: {inner: {type: string, default: x}}},
               without: {type: object, properties: {inner: {type: string, default: x}}},
               list: {type: array, items: {type: object, properties: {port: {type: integer, default: 80}}}},
               map: {type: object, additionalProperties: {type: object, properties: {p: {type: string, default: q}}}}}}",
        );
        assert_eq!(defaulted(&s, json!({})), json!({"n": 3, "o": {"inner": "x"}}));
        assert_eq!(
            defaulted(&s, json!({"n": 0, "o": {"inner": "y"}, "without": {}, "list": [{}, {"port": 1}], "map": {"k": {}}})),
            json!({"n": 0, "o": {"inner": "y"}, "without": {"inner": "x"}, "list": [{"port": 80}, {"port": 1}], "map": {"k": {"p": "q"}}})
        );
    }

    #[test]
    fn null_is_a_value_only_where_the_schema_says_so() {
        let s = schema(
            "{type: object, properties: {
               foo: {type: string, nullable: false, default: default}, bar: {type: string, nullable: true, default: b}, baz: {type: string},
               map: {type: object, additionalProperties: {type: string, default: d}}, list: {type: array, items: {type: string, default: i}}}}",
        );
        assert_eq!(
            defaulted(&s, json!({"foo": null, "bar": null, "baz": null, "map": {"k": null}, "list": [null]})),
            json!({"foo": "default", "bar": null, "map": {"k": "d"}, "list": ["i"]})
        );
    }

    #[test]
    fn defaults_take_no_memory_out_of_all_proportion() {
        let many: Vec<u32> = (0..10_000).collect();
        let s = schema(&format!(
            "{{type: object, properties: {{list: {{type: array, items: {{type: object, properties: {{x: {{type: array, items: {{type: integer}}, default: {many:?}}}}}}}}}}}}}"
        ));
        let value = defaulted(&s, json!({"list": vec![json!({}); 10_000]}));
        let set = value["list"].as_array().unwrap().iter().filter(|item| item.get("x").is_some()).count();
        assert_eq!(set, 9);
    }
}
