//! What upstream says of schemas and values, case by case, and what must hold for any.

use api::{
    apiextensions::v1::JsonSchemaProps,
    rules::{FieldErrors, Path},
};
use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::*;

/// A schema as it stands in a manifest.
pub(crate) fn props(yaml: &str) -> JsonSchemaProps {
    serde_yaml::from_str(yaml).unwrap_or_else(|e| panic!("{e}: {yaml}"))
}

/// A schema as it stands in a manifest.
pub(crate) fn schema(yaml: &str) -> Schema {
    Schema::new(&props(yaml)).unwrap()
}

fn said(errors: &FieldErrors) -> Vec<String> {
    errors.0.iter().map(|e| format!("{}: {}", e.field, e.message)).collect()
}

fn problems(yaml: &str) -> Vec<String> {
    let mut errors = FieldErrors::default();
    check(&props(yaml), false, &Path::root(), &mut errors);
    said(&errors)
}

#[test]
fn schemas_that_upstream_takes_are_taken() {
    for yaml in [
        "{type: object}",
        "{type: object, x-kubernetes-preserve-unknown-fields: true}",
        "{type: object, properties: {a: {x-kubernetes-int-or-string: true}}}",
        "{type: object, properties: {a: {x-kubernetes-int-or-string: true, anyOf: [{type: integer}, {type: string}]}}}",
        "{type: object, properties: {a: {x-kubernetes-int-or-string: true, allOf: [{anyOf: [{type: integer}, {type: string}]}, {pattern: x}]}}}",
        "{type: object, properties: {metadata: {type: object, properties: {name: {type: string, maxLength: 5}}}}}",
        "{type: object, properties: {a: {type: object, x-kubernetes-embedded-resource: true, x-kubernetes-preserve-unknown-fields: true}}}",
        "{type: object, properties: {l: {type: array, x-kubernetes-list-type: map, x-kubernetes-list-map-keys: [k], items: {type: object, required: [k], properties: {k: {type: string}}}}}}",
        "{type: object, properties: {l: {type: array, x-kubernetes-list-type: set, items: {type: string}}}}",
        "{type: object, properties: {a: {type: string}, b: {type: string}}, oneOf: [{required: [a]}, {properties: {b: {enum: [x]}}}]}",
    ] {
        assert_eq!(problems(yaml), Vec::<String>::new(), "{yaml}");
    }
}

#[test]
fn schemas_that_upstream_refuses_are_refused_in_its_words() {
    for (yaml, wanted) in [
        ("{}", "type: Required value: must not be empty at the root"),
        ("{type: string}", "type: Invalid value: \"string\": must be object at the root"),
        ("{type: object, additionalProperties: {type: string}}", "additionalProperties: Forbidden: must not be used at the root"),
        ("{type: object, nullable: true}", "nullable: Forbidden: nullable cannot be true at the root"),
        (
            "{type: object, properties: {a: {}}}",
            "properties[a].type: Required value: must not be empty for specified object fields",
        ),
        ("{type: object, properties: {a: {type: array}}}", "properties[a].items: Required value: must be specified"),
        (
            "{type: object, properties: {a: {type: array, items: {}}}}",
            "properties[a].items.type: Required value: must not be empty for specified array items",
        ),
        (
            "{type: object, properties: {a: {type: string}}, anyOf: [{properties: {a: {type: string}}}]}",
            "anyOf[0].properties[a].type: Forbidden: must be empty to be structural",
        ),
        (
            "{type: object, not: {properties: {b: {minimum: 1}}}}",
            "properties[b]: Required value: because it is defined in not.properties[b]",
        ),
        (
            "{type: object, properties: {a: {type: string, pattern: '('}}}",
            "properties[a].pattern: Invalid value: \"(\": must be a valid regular",
        ),
        (
            "{type: object, properties: {a: {x-kubernetes-int-or-string: true, x-kubernetes-preserve-unknown-fields: true}}}",
            "properties[a].x-kubernetes-preserve-unknown-fields: Invalid value: true: must be false if x-kubernetes-int-or-string is true",
        ),
        (
            "{type: object, properties: {a: {type: object, x-kubernetes-preserve-unknown-fields: false}}}",
            "properties[a].x-kubernetes-preserve-unknown-fields: Invalid value: false: must be true or undefined",
        ),
        (
            "{type: object, properties: {a: {type: object, x-kubernetes-embedded-resource: true}}}",
            "properties[a].properties: Required value: must not be empty if x-kubernetes-embedded-resource is true without",
        ),
        (
            "{type: object, properties: {metadata: {type: object, properties: {labels: {type: object}}}}}",
            "properties[metadata]: Forbidden: must not specify anything other than name and generateName, but metadata is implicitly specified",
        ),
        (
            "{type: object, properties: {kind: {type: integer}}}",
            "properties[kind].type: Invalid value: \"integer\": must be string",
        ),
        (
            "{type: object, properties: {a: {type: 'null'}}}",
            "properties[a].type: Forbidden: type cannot be set to null, use nullable",
        ),
        (
            "{type: object, properties: {a: {type: text}}}",
            "properties[a].type: Unsupported value: \"text\": supported values: \"array\"",
        ),
        ("{type: object, $ref: '#/a'}", "$ref: Forbidden: $ref is not supported"),
        ("{type: object, id: a}", "id: Forbidden: id is not supported"),
        ("{type: object, definitions: {a: {type: string}}}", "definitions: Forbidden: definitions is not supported"),
        (
            "{type: object, properties: {a: {type: array, items: [{type: string}]}}}",
            "properties[a].items: Forbidden: items must be a schema object",
        ),
        (
            "{type: object, properties: {a: {type: array, uniqueItems: true, items: {type: string}}}}",
            "properties[a].uniqueItems: Forbidden: uniqueItems cannot be set to true since the runtime complexity becomes quadratic",
        ),
        (
            "{type: object, properties: {a: {type: object, properties: {b: {type: string}}, additionalProperties: {type: string}}}}",
            "properties[a].additionalProperties: Forbidden: additionalProperties and properties are mutual exclusive",
        ),
        (
            "{type: object, properties: {l: {type: array, x-kubernetes-list-type: map, items: {type: object}}}}",
            "properties[l].x-kubernetes-list-map-keys: Required value: must not be empty if x-kubernetes-list-type is map",
        ),
        (
            "{type: object, properties: {l: {type: array, x-kubernetes-list-map-keys: [k], items: {type: object}}}}",
            "properties[l].x-kubernetes-list-type: Required value: must be map if x-kubernetes-list-map-keys is non-empty",
        ),
        (
            "{type: object, properties: {l: {type: array, x-kubernetes-list-type: map, x-kubernetes-list-map-keys: [k], items: {type: object, properties: {k: {type: string}}}}}}",
            "properties[l].items.properties[k].default: Required value: this property is in x-kubernetes-list-map-keys, so it must have a default",
        ),
        (
            "{type: object, properties: {l: {type: array, x-kubernetes-list-type: set, items: {type: object, properties: {k: {type: string}}}}}}",
            "properties[l].items.x-kubernetes-map-type: Invalid value: \"\": must be atomic as item of a list with x-kubernetes-list-type=set",
        ),
        (
            "{type: object, properties: {m: {type: string, x-kubernetes-map-type: atomic}}}",
            "properties[m].type: Invalid value: \"string\": must be object if x-kubernetes-map-type is specified",
        ),
        (
            "{type: object, properties: {a: {type: object, default: {z: 1}, properties: {b: {type: string}}}}}",
            "properties[a].default: Invalid value: {\"z\":1}: must not have unknown fields",
        ),
        (
            "{type: object, properties: {a: {type: integer, default: x}}}",
            "properties[a].default: Invalid value: \"string\": properties[a].default in body must be of type integer: \"string\"",
        ),
        (
            "{type: object, properties: {metadata: {type: object, default: {}}}}",
            "properties[metadata].default: Forbidden: must not be set in top-level metadata",
        ),
    ] {
        let found = problems(yaml);
        assert!(found.iter().any(|problem| problem.starts_with(wanted)), "{yaml}: {found:#?}");
    }
}

fn nested(depth: usize) -> JsonSchemaProps {
    let mut schema = props("{type: string}");
    for _ in 0..depth {
        let mut outer = props("{type: object}");
        outer.properties.insert("a".to_owned(), schema);
        schema = outer;
    }
    schema
}

#[test]
fn schemas_without_end_are_refused() {
    assert!(Schema::new(&nested(MAX_DEPTH)).is_ok());
    assert!(matches!(Schema::new(&nested(MAX_DEPTH + 1)), Err(Error::TooDeep)));
    let mut errors = FieldErrors::default();
    check(&nested(2_000), false, &Path::root(), &mut errors);
    assert_eq!(said(&errors), [": Invalid value: \"\": schemas are nested more than 48 deep"]);
}

#[test]
fn values_are_refused_in_upstreams_words() {
    let s = schema(
        "{type: object, required: [must], properties: {
           must: {type: string}, n: {type: integer, minimum: 1, maximum: 10, multipleOf: 2}, x: {type: number, minimum: 0, exclusiveMinimum: true},
           s: {type: string, minLength: 2, maxLength: 3, pattern: '^a'}, e: {type: string, enum: [lit, out]}, b: {type: boolean},
           l: {type: array, minItems: 1, maxItems: 2, items: {type: string}}, m: {type: object, minProperties: 1, maxProperties: 1, additionalProperties: {type: integer}},
           set: {type: array, x-kubernetes-list-type: set, items: {type: integer}},
           ports: {type: array, x-kubernetes-list-type: map, x-kubernetes-list-map-keys: [port, protocol], items: {type: object, required: [port], properties: {port: {type: integer}, protocol: {type: string, default: TCP}}}},
           any: {x-kubernetes-int-or-string: true}, nul: {type: string, nullable: true}, f: {type: string, format: date-time}, i32: {type: integer, format: int32},
           one: {type: object, properties: {a: {type: string}, b: {type: string}}, oneOf: [{required: [a]}, {required: [b]}]},
           some: {type: integer, anyOf: [{minimum: 10}, {maximum: 0}]}, not: {type: string, not: {enum: [x]}},
           whole: {type: object, x-kubernetes-embedded-resource: true, x-kubernetes-preserve-unknown-fields: true}}}",
    );
    for (value, wanted) in [
        (json!({}), vec!["must: Required value"]),
        (json!({"must": 1}), vec!["must: Invalid value: \"integer\": must in body must be of type string: \"integer\""]),
        (json!({"must": "", "n": 0}), vec!["n: Invalid value: 0: n in body should be greater than or equal to 1"]),
        (json!({"must": "", "n": 12}), vec!["n: Invalid value: 12: n in body should be less than or equal to 10"]),
        (json!({"must": "", "n": 3}), vec!["n: Invalid value: 3: n in body should be a multiple of 2"]),
        (json!({"must": "", "n": 4.0}), vec![]),
        (json!({"must": "", "n": 4.5}), vec!["n: Invalid value: \"number\": n in body must be of type integer: \"number\""]),
        (json!({"must": "", "x": 0}), vec!["x: Invalid value: 0: x in body should be greater than 0"]),
        (
            json!({"must": "", "s": "b"}),
            vec![
                "s: Invalid value: \"b\": s in body should be at least 2 chars long",
                "s: Invalid value: \"b\": s in body should match '^a'",
            ],
        ),
        (json!({"must": "", "s": "abcd"}), vec!["s: Too long: may not be more than 3 bytes"]),
        (json!({"must": "", "s": "aéé"}), vec![]),
        (json!({"must": "", "e": "dim"}), vec!["e: Unsupported value: \"dim\": supported values: \"lit\", \"out\""]),
        (json!({"must": "", "b": "true"}), vec!["b: Invalid value: \"string\": b in body must be of type boolean: \"string\""]),
        (json!({"must": "", "l": []}), vec!["l: Invalid value: 0: l in body should have at least 1 items"]),
        (json!({"must": "", "l": ["a", "b", "c"]}), vec!["l: Too many: 3: must have at most 2 items"]),
        (
            json!({"must": "", "l": [1]}),
            vec!["l[0]: Invalid value: \"integer\": l[0] in body must be of type string: \"integer\""],
        ),
        (json!({"must": "", "m": {}}), vec!["m: Invalid value: 0: m in body should have at least 1 properties"]),
        (
            json!({"must": "", "m": {"a": "b"}}),
            vec!["m.a: Invalid value: \"string\": m.a in body must be of type integer: \"string\""],
        ),
        (json!({"must": "", "set": [1, 2, 1.0]}), vec!["set[2]: Duplicate value: 1.0"]),
        (
            json!({"must": "", "ports": [{"port": 80}, {"port": 80, "protocol": "UDP"}, {"port": 80, "protocol": "TCP"}]}),
            vec!["ports[2]: Duplicate value: {\"port\":80,\"protocol\":\"TCP\"}"],
        ),
        (json!({"must": "", "any": "50%"}), vec![]),
        (
            json!({"must": "", "any": true}),
            vec!["any: Invalid value: \"boolean\": any in body must be of type integer,string: \"boolean\""],
        ),
        (json!({"must": "", "nul": null}), vec![]),
        (json!({"must": null}), vec!["must: Invalid value: \"null\": must in body must be of type string: \"null\""]),
        (json!({"must": "", "f": "now"}), vec!["f: Invalid value: \"now\": f in body must be of type date-time: \"now\""]),
        (
            json!({"must": "", "i32": 1_u64 << 40}),
            vec!["i32: Invalid value: 1099511627776: i32 in body must be of type int32: \"1099511627776\""],
        ),
        (
            json!({"must": "", "one": {}}),
            vec!["one: Invalid value: \"\": \"one\" must validate one and only one schema (oneOf). Found none valid"],
        ),
        (
            json!({"must": "", "one": {"a": "", "b": ""}}),
            vec!["one: Invalid value: \"\": \"one\" must validate one and only one schema (oneOf). Found 2 valid alternatives"],
        ),
        (json!({"must": "", "some": 5}), vec!["some: Invalid value: \"\": \"some\" must validate at least one schema (anyOf)"]),
        (json!({"must": "", "not": "x"}), vec!["not: Invalid value: \"\": \"not\" must not validate the schema (not)"]),
        (
            json!({"must": "", "whole": {"kind": "", "metadata": {"labels": 5}}}),
            vec![
                "whole.apiVersion: Required value: must not be empty",
                "whole.kind: Required value: must not be empty",
                "whole.metadata: Invalid value: {\"labels\":5}: must be object metadata: invalid type: integer `5`, expected a map",
            ],
        ),
    ] {
        let mut errors = FieldErrors::default();
        validate(&value, &s, &Path::root(), &mut errors);
        assert_eq!(said(&errors), wanted, "{value}");
    }
}

/// Any JSON, with names that schemas here use.
fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        (-1e20_f64..1e20).prop_map(Value::from),
        "[a-z0-9é:./@-]{0,12}".prop_map(Value::from),
    ];
    leaf.prop_recursive(5, 60, 5, |inner| {
        let map = prop::collection::btree_map("[a-d]|apiVersion|kind|metadata", inner.clone(), 0..5);
        prop_oneof![
            prop::collection::vec(inner, 0..5).prop_map(Value::from),
            map.prop_map(|map| Value::Object(map.into_iter().collect::<Map<_, _>>())),
        ]
    })
}

/// Any schema of the shapes that definitions have.
fn any_schema() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(json!({"type": "string", "maxLength": 4, "format": "date-time", "default": "d"})),
        Just(json!({"type": "string", "pattern": "^[a-z]+$", "nullable": true})),
        Just(json!({"type": "integer", "minimum": 1, "default": 3})),
        Just(json!({"type": "number", "multipleOf": 0.5})),
        Just(json!({"x-kubernetes-int-or-string": true})),
        Just(json!({"x-kubernetes-preserve-unknown-fields": true})),
        Just(json!({"type": "boolean", "enum": [true]})),
    ];
    leaf.prop_recursive(4, 30, 4, |inner| {
        prop_oneof![
            inner.clone().prop_map(|items| json!({"type": "array", "items": items, "x-kubernetes-list-type": "set"})),
            inner.clone().prop_map(|values| json!({"type": "object", "additionalProperties": values, "default": {}})),
            prop::collection::btree_map("[a-d]", inner, 0..4)
                .prop_map(|fields| json!({"type": "object", "properties": fields, "required": ["a"], "minProperties": 1})),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(300) })]

    #[test]
    fn pruning_and_defaulting_twice_is_as_once(fields in prop::collection::btree_map("[a-d]", any_schema(), 0..4), value in any_json()) {
        let props: JsonSchemaProps = serde_json::from_value(json!({"type": "object", "properties": fields})).unwrap();
        let schema = Schema::new(&props).unwrap();
        let mut once = value.as_object().cloned().unwrap_or_default();
        prune(&mut once, &schema);
        let mut twice = once.clone();
        prop_assert_eq!(prune(&mut twice, &schema), Pruned::default());
        prop_assert_eq!(&twice, &once);
        set_defaults(&mut once, &schema);
        let mut twice = once.clone();
        set_defaults(&mut twice, &schema);
        prop_assert_eq!(&twice, &once);
        let mut errors = FieldErrors::default();
        validate(&Value::Object(once), &schema, &Path::root(), &mut errors);
    }

    #[test]
    fn any_schema_is_read_or_refused(value in any_schema()) {
        let props: JsonSchemaProps = serde_json::from_value(value).unwrap();
        let mut errors = FieldErrors::default();
        check(&props, true, &Path::root(), &mut errors);
    }

    #[test]
    fn any_pattern_is_compiled_or_refused(text in "[\\\\\\[\\]{}()a-dQEdwsb0-9,&~^$.*+?|-]{0,20}", value in ".{0,20}") {
        if let Ok(pattern) = Pattern::new(&text) {
            pattern.matches(&value);
        }
    }
}
