//! What upstream demands of the schemas in definitions: that they are structural, and that they say nothing they cannot mean.

use api::{
    apiextensions::v1::JsonSchemaProps,
    rules::{FieldErrors, Path},
};

use super::{
    MAX_DEPTH, Pattern, Schema, Shown, Type, lists,
    prune::{is_meta, prune_value},
    validate::validate,
};

/// Values of `type`, as messages list them.
const TYPES: [&str; 6] = ["array", "boolean", "integer", "number", "object", "string"];

/// Says what is wrong with a version's schema, apart from its rules in CEL. `has_status` is true if the version serves status on its own.
pub fn check(props: &JsonSchemaProps, has_status: bool, at: &Path<'_>, errors: &mut FieldErrors) {
    if depth(props, 0) > MAX_DEPTH {
        errors.invalid(at, "", super::Error::TooDeep);
        return;
    }
    if has_status {
        root(props, at, errors);
    }
    if props.nullable {
        errors.forbidden(&at.field("nullable"), "nullable cannot be true at the root");
    }
    let before = errors.0.len();
    structural(props, Level::Root, at, errors);
    complete(props, at, errors);
    open_api(props, true, &Place::default(), at, errors);
    if errors.0.len() > before {
        return;
    }
    match Schema::new(props) {
        Ok(schema) => defaults(&schema, true, at, errors),
        Err(e) => errors.invalid(at, "", e),
    }
}

fn depth(props: &JsonSchemaProps, above: usize) -> usize {
    if above > MAX_DEPTH {
        return above;
    }
    parts(props).map(|part| depth(part, above + 1)).max().unwrap_or(above)
}

/// Every schema directly inside this one.
fn parts(p: &JsonSchemaProps) -> impl Iterator<Item = &JsonSchemaProps> {
    let items = p.items.iter().flat_map(|items| items.schema.as_deref().into_iter().chain(&items.json_schemas));
    let or_bool = p.additional_properties.iter().chain(&p.additional_items).filter_map(|either| either.schema.as_deref());
    let junctors = p.all_of.iter().chain(&p.any_of).chain(&p.one_of).chain(p.not.as_deref());
    let named = p.properties.values().chain(p.pattern_properties.values()).chain(p.definitions.values());
    let dependencies = p.dependencies.values().filter_map(|either| either.schema.as_ref());
    items.chain(or_bool).chain(junctors).chain(named).chain(dependencies)
}

/// With a status of its own, the root may say only what holds for both halves of the object.
fn root(p: &JsonSchemaProps, at: &Path<'_>, errors: &mut FieldErrors) {
    if !p.r#type.is_empty() && p.r#type != "object" {
        let why = "only \"object\" is allowed as the type at the root of the schema if the status subresource is enabled";
        errors.invalid(&at.field("type"), &p.r#type, why);
    }
    let other = [
        ("$ref", p.r#ref.is_some()),
        ("default", p.default.is_some()),
        ("enum", !p.r#enum.is_empty()),
        ("maxProperties", p.max_properties.is_some()),
        ("minProperties", p.min_properties.is_some()),
        ("allOf", !p.all_of.is_empty()),
        ("oneOf", !p.one_of.is_empty()),
        ("anyOf", !p.any_of.is_empty()),
        ("not", p.not.is_some()),
        ("additionalProperties", p.additional_properties.is_some()),
        ("x-kubernetes-embedded-resource", p.x_kubernetes_embedded_resource),
        ("x-kubernetes-int-or-string", p.x_kubernetes_int_or_string),
        ("x-kubernetes-map-type", p.x_kubernetes_map_type.is_some()),
    ];
    for (name, _) in other.iter().filter(|(_, set)| *set) {
        errors.forbidden(&at.field(name), "must not be set at the root of the schema if the status subresource is enabled");
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Level {
    Root,
    Item,
    Field,
}

/// What holds for everything that is no junctor, and what is inside.
fn structural(p: &JsonSchemaProps, level: Level, at: &Path<'_>, errors: &mut FieldErrors) {
    let items = p.items.as_ref().and_then(|items| items.schema.as_deref());
    if p.r#type == "array" && p.items.is_none() {
        errors.required_because(&at.field("items"), "must be specified");
    }
    if let Some(items) = items {
        structural(items, Level::Item, &at.field("items"), errors);
    }
    for (name, field) in &p.properties {
        structural(field, Level::Field, &at.field("properties").key(name), errors);
    }
    if let Some(additional) = &p.additional_properties {
        let here = at.field("additionalProperties");
        if level == Level::Root {
            errors.forbidden(&here, "must not be used at the root");
        }
        if p.x_kubernetes_embedded_resource {
            errors.forbidden(&here, "must not be used if x-kubernetes-embedded-resource is set");
        }
        if let Some(schema) = additional.schema.as_deref() {
            structural(schema, Level::Field, &here, errors);
        }
    }
    extensions(p, level, at, errors);
    junctors(p, is_int_or_string(&p.any_of), p.all_of.first().is_some_and(|first| is_int_or_string(&first.any_of)), at, errors);
    metadata(p, level, at, errors);
}

fn extensions(p: &JsonSchemaProps, level: Level, at: &Path<'_>, errors: &mut FieldErrors) {
    let preserves = p.x_kubernetes_preserve_unknown_fields == Some(true);
    let int_or_string = p.x_kubernetes_int_or_string;
    for (name, set) in [
        ("x-kubernetes-preserve-unknown-fields", preserves),
        ("x-kubernetes-embedded-resource", p.x_kubernetes_embedded_resource),
    ] {
        if int_or_string && set {
            errors.invalid(&at.field(name), set, "must be false if x-kubernetes-int-or-string is true");
        }
    }
    let here = at.field("type");
    if p.x_kubernetes_embedded_resource && p.r#type != "object" {
        let why = "must be object if x-kubernetes-embedded-resource is true";
        if p.r#type.is_empty() { errors.required_because(&here, why) } else { errors.invalid(&here, &p.r#type, why) }
    } else if p.r#type.is_empty() && !int_or_string && !preserves {
        errors.required_because(
            &here,
            match level {
                Level::Root => "must not be empty at the root",
                Level::Item => "must not be empty for specified array items",
                Level::Field => "must not be empty for specified object fields",
            },
        );
    }
    if level == Level::Root && !p.r#type.is_empty() && p.r#type != "object" {
        errors.invalid(&here, &p.r#type, "must be object at the root");
    }
    if p.x_kubernetes_embedded_resource && !preserves && p.properties.is_empty() {
        errors.required_because(
            &at.field("properties"),
            "must not be empty if x-kubernetes-embedded-resource is true without x-kubernetes-preserve-unknown-fields",
        );
    }
}

/// Of what every object has, schemas may restrict the names and nothing else.
fn metadata(p: &JsonSchemaProps, level: Level, at: &Path<'_>, errors: &mut FieldErrors) {
    let whole = level == Level::Root || p.x_kubernetes_embedded_resource;
    let properties = at.field("properties");
    for name in ["kind", "apiVersion"] {
        if let Some(field) = p.properties.get(name).filter(|field| whole && field.r#type != "string") {
            errors.invalid(&properties.key(name).field("type"), &field.r#type, "must be string");
        }
    }
    let Some(metadata) = p.properties.get("metadata") else { return };
    let here = properties.key("metadata");
    if whole && metadata.r#type != "object" {
        errors.invalid(&here.field("type"), &metadata.r#type, "must be object");
    }
    if level == Level::Root {
        let mut rest = metadata.clone();
        if rest.properties.keys().all(|name| name == "name" || name == "generateName") {
            rest.properties.clear();
        }
        (rest.r#type, rest.default) = (String::new(), None);
        if rest != JsonSchemaProps::default() {
            errors.forbidden(
                &here,
                "must not specify anything other than name and generateName, but metadata is implicitly specified",
            );
        }
    }
}

/// `[{type: integer}, {type: string}]`, which may stand where types may not.
fn is_int_or_string(any_of: &[JsonSchemaProps]) -> bool {
    let is = |p: &JsonSchemaProps, ty: &str| *p == JsonSchemaProps { r#type: ty.to_owned(), ..JsonSchemaProps::default() };
    matches!(any_of, [first, second] if is(first, "integer") && is(second, "string"))
}

fn junctors(p: &JsonSchemaProps, skip_any_of: bool, skip_first_all_of: bool, at: &Path<'_>, errors: &mut FieldErrors) {
    for (i, schema) in p.any_of.iter().enumerate().filter(|_| !skip_any_of) {
        nested(schema, false, &at.field("anyOf").index(i), errors);
    }
    for (i, schema) in p.all_of.iter().enumerate() {
        nested(schema, skip_first_all_of && i == 0, &at.field("allOf").index(i), errors);
    }
    for (i, schema) in p.one_of.iter().enumerate() {
        nested(schema, false, &at.field("oneOf").index(i), errors);
    }
    if let Some(schema) = &p.not {
        nested(schema, false, &at.field("not"), errors);
    }
    if !p.pattern.is_empty()
        && let Err(why) = Pattern::new(&p.pattern)
    {
        errors.invalid(&at.field("pattern"), &p.pattern, format_args!("must be a valid regular expression, but isn't: {why}"));
    }
}

/// Junctors judge values; what a value is, is said outside of them.
fn nested(p: &JsonSchemaProps, skip_any_of: bool, at: &Path<'_>, errors: &mut FieldErrors) {
    junctors(p, skip_any_of, false, at, errors);
    if let Some(items) = p.items.as_ref().and_then(|items| items.schema.as_deref()) {
        nested(items, false, &at.field("items"), errors);
    }
    for (name, field) in &p.properties {
        nested(field, false, &at.field("properties").key(name), errors);
    }
    let forbidden = [
        ("type", !p.r#type.is_empty(), "must be empty to be structural"),
        ("additionalProperties", p.additional_properties.is_some(), "must be undefined to be structural"),
        ("default", p.default.is_some(), "must be undefined to be structural"),
        ("title", !p.title.is_empty(), "must be empty to be structural"),
        ("description", !p.description.is_empty(), "must be empty to be structural"),
        ("nullable", p.nullable, "must be false to be structural"),
        ("externalDocs", p.external_docs.is_some(), "must be undefined to be structural"),
        (
            "x-kubernetes-preserve-unknown-fields",
            p.x_kubernetes_preserve_unknown_fields == Some(true),
            "must be false to be structural",
        ),
        ("x-kubernetes-embedded-resource", p.x_kubernetes_embedded_resource, "must be false to be structural"),
        ("x-kubernetes-int-or-string", p.x_kubernetes_int_or_string, "must be false to be structural"),
        ("x-kubernetes-list-map-keys", !p.x_kubernetes_list_map_keys.is_empty(), "must be empty to be structural"),
        ("x-kubernetes-list-type", p.x_kubernetes_list_type.is_some(), "must be undefined to be structural"),
        ("x-kubernetes-map-type", p.x_kubernetes_map_type.is_some(), "must be undefined to be structural"),
        ("x-kubernetes-validations", !p.x_kubernetes_validations.is_empty(), "must be empty to be structural"),
    ];
    for (name, _, why) in forbidden.iter().filter(|(_, set, _)| *set) {
        errors.forbidden(&at.field(name), why);
    }
    if p.properties.contains_key("metadata") {
        errors.forbidden(&at.field("properties").key("metadata"), "must not be specified in a nested context");
    }
}

/// Every field and list that a junctor judges is one that the schema has.
fn complete(p: &JsonSchemaProps, at: &Path<'_>, errors: &mut FieldErrors) {
    complete_junctors(p, p, at, at, errors);
    if let Some(items) = p.items.as_ref().and_then(|items| items.schema.as_deref()) {
        complete(items, &at.field("items"), errors);
    }
    for (name, field) in &p.properties {
        complete(field, &at.field("properties").key(name), errors);
    }
    if let Some(schema) = p.additional_properties.as_ref().and_then(|additional| additional.schema.as_deref()) {
        complete(schema, &at.field("additionalProperties"), errors);
    }
}

fn complete_junctors(p: &JsonSchemaProps, outer: &JsonSchemaProps, outside: &Path<'_>, at: &Path<'_>, errors: &mut FieldErrors) {
    for (name, list) in [("anyOf", &p.any_of), ("allOf", &p.all_of), ("oneOf", &p.one_of)] {
        for (i, schema) in list.iter().enumerate() {
            complete_nested(schema, Some(outer), outside, &at.field(name).index(i), errors);
        }
    }
    if let Some(schema) = &p.not {
        complete_nested(schema, Some(outer), outside, &at.field("not"), errors);
    }
}

fn complete_nested(
    p: &JsonSchemaProps,
    outer: Option<&JsonSchemaProps>,
    outside: &Path<'_>,
    at: &Path<'_>,
    errors: &mut FieldErrors,
) {
    let Some(outer) = outer else { return errors.required_because(outside, format_args!("because it is defined in {at}")) };
    complete_junctors(p, outer, outside, at, errors);
    if let Some(items) = p.items.as_ref().and_then(|items| items.schema.as_deref()) {
        let other = outer.items.as_ref().and_then(|items| items.schema.as_deref());
        complete_nested(items, other, &outside.field("items"), &at.field("items"), errors);
    }
    for (name, field) in &p.properties {
        let (outside, at) = (outside.field("properties"), at.field("properties"));
        complete_nested(field, outer.properties.get(name), &outside.key(name), &at.key(name), errors);
    }
}

/// What a schema's surroundings forbid in it.
#[derive(Clone, Default)]
struct Place {
    /// Why there may be no default here.
    no_default: Option<String>,
    /// Below the `metadata`, `kind` or `apiVersion` of a whole object.
    in_meta: bool,
}

fn open_api(p: &JsonSchemaProps, root: bool, place: &Place, at: &Path<'_>, errors: &mut FieldErrors) {
    unsupported(p, place, at, errors);
    if p.unique_items {
        errors.forbidden(
            &at.field("uniqueItems"),
            "uniqueItems cannot be set to true since the runtime complexity becomes quadratic",
        );
    }
    if let Some(additional) = &p.additional_properties {
        let here = at.field("additionalProperties");
        if !p.properties.is_empty() && (!additional.allows || additional.schema.is_some()) {
            errors.forbidden(&here, "additionalProperties and properties are mutual exclusive");
        }
        if let Some(schema) = &additional.schema {
            let why = "inside additionalProperties applying to object metadata".to_owned();
            let no_default = if place.in_meta { Some(why) } else { place.no_default.clone() };
            open_api(schema, false, &Place { no_default, ..*place }, &here, errors);
        }
    }
    for (name, field) in &p.properties {
        let meta = (root || p.x_kubernetes_embedded_resource) && is_meta(name);
        let no_default = if meta && root { Some(format!("in top-level {name}")) } else { place.no_default.clone() };
        let inside = Place { no_default, in_meta: place.in_meta || meta };
        open_api(field, false, &inside, &at.field("properties").key(name), errors);
    }
    for (name, list) in [("allOf", &p.all_of), ("oneOf", &p.one_of), ("anyOf", &p.any_of)] {
        for (i, schema) in list.iter().enumerate() {
            open_api(schema, false, place, &at.field(name).index(i), errors);
        }
    }
    if let Some(schema) = &p.not {
        open_api(schema, false, place, &at.field("not"), errors);
    }
    if let Some(schema) = p.items.as_ref().and_then(|items| items.schema.as_deref()) {
        open_api(schema, false, place, &at.field("items"), errors);
    }
    if p.x_kubernetes_preserve_unknown_fields == Some(false) {
        errors.invalid(&at.field("x-kubernetes-preserve-unknown-fields"), false, "must be true or undefined");
    }
    list_and_map_types(p, at, errors);
}

fn unsupported(p: &JsonSchemaProps, place: &Place, at: &Path<'_>, errors: &mut FieldErrors) {
    if p.r#type == "null" {
        errors.forbidden(&at.field("type"), "type cannot be set to null, use nullable as an alternative");
    }
    if Type::parse(&p.r#type).is_none() {
        errors.not_supported(&at.field("type"), &p.r#type, &TYPES);
    }
    if let Some(why) = place.no_default.as_ref().filter(|_| p.default.is_some()) {
        errors.forbidden(&at.field("default"), format_args!("must not be set {why}"));
    }
    let never = [
        ("id", !p.id.is_empty()),
        ("additionalItems", p.additional_items.is_some()),
        ("patternProperties", !p.pattern_properties.is_empty()),
        ("definitions", !p.definitions.is_empty()),
        ("dependencies", !p.dependencies.is_empty()),
        ("$ref", p.r#ref.is_some()),
    ];
    for (name, _) in never.iter().filter(|(_, set)| *set) {
        errors.forbidden(&at.field(name), format_args!("{name} is not supported"));
    }
    if p.items.as_ref().is_some_and(|items| !items.json_schemas.is_empty()) {
        errors.forbidden(&at.field("items"), super::Error::ItemList);
    }
    if place.in_meta && p.x_kubernetes_embedded_resource {
        errors.forbidden(&at.field("x-kubernetes-embedded-resource"), "must not be used inside of resource meta");
    }
}

fn list_and_map_types(p: &JsonSchemaProps, at: &Path<'_>, errors: &mut FieldErrors) {
    lists::check_types(p, at, errors);
    let (here, ty) = (at.field("x-kubernetes-map-type"), at.field("type"));
    let Some(map_type) = p.x_kubernetes_map_type.as_deref() else { return };
    if p.r#type.is_empty() {
        errors.required_because(&ty, "must be object if x-kubernetes-map-type is specified");
    } else if p.r#type != "object" {
        errors.invalid(&ty, &p.r#type, "must be object if x-kubernetes-map-type is specified");
    }
    if !matches!(map_type, "atomic" | "granular") {
        errors.not_supported(&here, map_type, &["atomic", "granular"]);
    }
}

/// Defaults are what the schema allows, and nothing that it would drop.
fn defaults(schema: &Schema, root: bool, at: &Path<'_>, errors: &mut FieldErrors) {
    if let Some(default) = schema.default.as_ref().filter(|_| !root) {
        let here = at.field("default");
        let mut pruned = default.clone();
        if prune_value(&mut pruned, schema).0.is_empty() {
            let mut whole = default.clone();
            if let serde_json::Value::Object(map) = &mut whole {
                super::set_defaults(map, schema);
            }
            validate(&whole, schema, &here, errors);
        } else {
            errors.invalid(&here, Shown(default), "must not have unknown fields");
        }
    }
    if let Some(items) = &schema.items {
        defaults(items, false, &at.field("items"), errors);
    }
    for (name, field) in &schema.properties {
        defaults(field, false, &at.field("properties").key(name), errors);
    }
    if let Some(values) = schema.values() {
        defaults(values, false, &at.field("additionalProperties"), errors);
    }
}
