//! Checking values against a schema, with upstream's words.

use api::rules::{FieldErrors, Path};
use serde_json::{Map, Number, Value};

use super::{Additional, Limits, Schema, Shown, Type, format, lists, prune::is_meta, type_name};

/// Says what of a value its schema refuses. Of whole objects, `apiVersion`, `kind` and `metadata` are left to others, except of embedded
/// ones. Rules in CEL are not looked at.
pub fn validate(value: &Value, schema: &Schema, at: &Path<'_>, errors: &mut FieldErrors) {
    check(value, schema, at, true, errors);
}

fn check(value: &Value, schema: &Schema, at: &Path<'_>, root: bool, errors: &mut FieldErrors) {
    if value.is_null() && (schema.nullable || schema.ty == Type::Any && !schema.int_or_string) {
        return;
    }
    if let Some(wanted) = wrong_type(value, schema) {
        let why = format_args!("{at} in body must be of type {wanted}: {:?}", type_name(value)).to_string();
        errors.type_invalid(at, type_name(value), why);
        return;
    }
    match value {
        Value::Object(map) => object(map, schema, at, root, errors),
        Value::Array(list) => array(list, schema, at, errors),
        Value::String(text) => string(text, &schema.limits, at, errors),
        Value::Number(n) => number(n, &schema.limits, at, errors),
        _ => {}
    }
    if !schema.limits.one_of.is_empty() && !schema.limits.one_of.iter().any(|allowed| equal(allowed, value)) {
        let allowed: Vec<String> =
            schema.limits.one_of.iter().map(|v| v.as_str().map_or_else(|| v.to_string(), str::to_owned)).collect();
        let allowed: Vec<&str> = allowed.iter().map(String::as_str).collect();
        errors.not_supported(at, Shown(value), &allowed);
    }
    junctors(value, schema, at, root, errors);
}

/// The type that is wanted, if the value is of another.
fn wrong_type(value: &Value, schema: &Schema) -> Option<&'static str> {
    if schema.int_or_string {
        return (!value.is_string() && !is_integer(value)).then_some("integer,string");
    }
    let fits = match schema.ty {
        Type::Any => true,
        Type::Object => value.is_object(),
        Type::Array => value.is_array(),
        Type::String => value.is_string(),
        Type::Integer => is_integer(value),
        Type::Number => value.is_number(),
        Type::Boolean => value.is_boolean(),
    };
    (!fits).then_some(schema.ty.as_str())
}

fn is_integer(value: &Value) -> bool {
    value.as_number().is_some_and(|n| !n.is_f64() || n.as_f64().is_some_and(|f| f.fract() == 0.0 && f.abs() < 9.3e18))
}

/// Equality of JSON, in which `1` and `1.0` are the same number.
pub(crate) fn equal(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(x), Value::Number(y)) => x == y || (x.is_f64() || y.is_f64()) && x.as_f64() == y.as_f64(),
        (Value::Array(x), Value::Array(y)) => x.len() == y.len() && x.iter().zip(y).all(|(x, y)| equal(x, y)),
        (Value::Object(x), Value::Object(y)) => {
            x.len() == y.len() && x.iter().all(|(k, v)| y.get(k).is_some_and(|w| equal(v, w)))
        }
        _ => a == b,
    }
}

fn object(map: &Map<String, Value>, schema: &Schema, at: &Path<'_>, root: bool, errors: &mut FieldErrors) {
    let limits = &schema.limits;
    for name in &limits.required {
        if !map.contains_key(name) {
            errors.required(&at.field(name));
        }
    }
    let count = i64::try_from(map.len()).unwrap_or(i64::MAX);
    if let Some(min) = limits.properties.min.filter(|min| count < *min) {
        errors.invalid(at, count, format_args!("{at} in body should have at least {min} properties"));
    }
    if let Some(max) = limits.properties.max.filter(|max| count > *max) {
        errors.too_many(at, map.len(), usize::try_from(max).unwrap_or_default());
    }
    if schema.embedded && !root {
        embedded(map, at, errors);
    }
    for (name, value) in map {
        if let Some(field) = schema.properties.get(name) {
            // Names of fields and keys of maps look the same in paths, as upstream writes them.
            if !(root && name == "metadata") {
                check(value, field, &at.field(name), false, errors);
            }
        } else if let Some(values) = schema.values() {
            check(value, values, &at.field(name), false, errors);
        } else if matches!(schema.additional, Some(Additional::Bool(false))) && !((root || schema.embedded) && is_meta(name)) {
            errors.invalid(at, "", format_args!("{}.{name} in body is a forbidden property", at));
        }
    }
}

/// What every object inside an object must have.
fn embedded(map: &Map<String, Value>, at: &Path<'_>, errors: &mut FieldErrors) {
    for name in ["apiVersion", "kind"] {
        match map.get(name) {
            Some(Value::String(text)) if !text.is_empty() => {}
            None | Some(Value::Null | Value::String(_)) => errors.required_because(&at.field(name), "must not be empty"),
            Some(other) => errors.type_invalid(&at.field(name), type_name(other), "must be string".to_owned()),
        }
    }
    if let Some(metadata) = map.get("metadata")
        && let Err(e) = api::json::read::<api::meta::v1::ObjectMeta>(metadata.clone())
    {
        errors.invalid(&at.field("metadata"), Shown(metadata), format_args!("must be object metadata: {e}"));
    }
}

fn array(list: &[Value], schema: &Schema, at: &Path<'_>, errors: &mut FieldErrors) {
    let count = i64::try_from(list.len()).unwrap_or(i64::MAX);
    if let Some(min) = schema.limits.items.min.filter(|min| count < *min) {
        errors.invalid(at, count, format_args!("{at} in body should have at least {min} items"));
    }
    if let Some(max) = schema.limits.items.max.filter(|max| count > *max) {
        errors.too_many(at, list.len(), usize::try_from(max).unwrap_or_default());
    }
    if let Some(items) = &schema.items {
        for (i, item) in list.iter().enumerate() {
            check(item, items, &at.index(i), false, errors);
        }
    }
    lists::check(list, schema, at, errors);
}

fn string(text: &str, limits: &Limits, at: &Path<'_>, errors: &mut FieldErrors) {
    let needs_count = limits.length.min.is_some() || limits.length.max.is_some();
    let count = if needs_count { i64::try_from(text.chars().count()).unwrap_or(i64::MAX) } else { 0 };
    if let Some(max) = limits.length.max.filter(|max| count > *max) {
        errors.too_long(at, usize::try_from(max).unwrap_or_default());
    }
    if let Some(min) = limits.length.min.filter(|min| count < *min) {
        errors.invalid(at, text, format_args!("{at} in body should be at least {min} chars long"));
    }
    if let Some(pattern) = limits.pattern.as_ref().filter(|pattern| !pattern.matches(text)) {
        errors.invalid(at, text, format_args!("{at} in body should match '{}'", pattern.as_str()));
    }
    if !format::is_valid(&limits.format, text) {
        let why = format_args!("{at} in body must be of type {}: {text:?}", limits.format).to_string();
        errors.type_invalid(at, text, why);
    }
}

fn number(n: &Number, limits: &Limits, at: &Path<'_>, errors: &mut FieldErrors) {
    let Some(value) = n.as_f64() else { return };
    if let Some((max, exclusive)) = limits.maximum
        && (value > max || exclusive && value >= max)
    {
        let or_equal = if exclusive { "" } else { " or equal to" };
        errors.invalid(at, format_args!("{n}"), format_args!("{at} in body should be less than{or_equal} {max}"));
    }
    if let Some((min, exclusive)) = limits.minimum
        && (value < min || exclusive && value <= min)
    {
        let or_equal = if exclusive { "" } else { " or equal to" };
        errors.invalid(at, format_args!("{n}"), format_args!("{at} in body should be greater than{or_equal} {min}"));
    }
    if let Some(factor) = limits.multiple_of.filter(|factor| !is_multiple(n, *factor)) {
        errors.invalid(at, format_args!("{n}"), format_args!("{at} in body should be a multiple of {factor}"));
    }
    let bounds = match limits.format.as_str() {
        "int32" => Some((f64::from(i32::MIN), f64::from(i32::MAX))),
        "uint32" => Some((0.0, f64::from(u32::MAX))),
        "uint64" => Some((0.0, f64::MAX)),
        "float" => Some((f64::from(f32::MIN), f64::from(f32::MAX))),
        _ => None,
    };
    if let Some((min, max)) = bounds
        && !(min..=max).contains(&value)
    {
        errors.invalid(
            at,
            format_args!("{n}"),
            format_args!("{at} in body must be of type {}: {:?}", limits.format, n.to_string()),
        );
    }
}

fn is_multiple(n: &Number, factor: f64) -> bool {
    const EXACT: f64 = 9_007_199_254_740_992.0;
    match n.as_i64() {
        #[expect(clippy::cast_possible_truncation, reason = "a whole number that an i64 holds")]
        Some(whole) if factor.fract() == 0.0 && factor.abs() >= 1.0 && factor.abs() < EXACT => whole % (factor as i64) == 0,
        _ => {
            let quotient = n.as_f64().unwrap_or_default() / factor;
            // As upstream's: what rounding leaves does not count.
            (quotient - quotient.round()).abs() < 1e-9 * quotient.abs().max(1.0)
        }
    }
}

fn junctors(value: &Value, schema: &Schema, at: &Path<'_>, root: bool, errors: &mut FieldErrors) {
    let limits = &schema.limits;
    let holds = |schema: &Schema| {
        let mut found = FieldErrors::default();
        check(value, schema, at, root, &mut found);
        found.is_empty()
    };
    let name = if root { String::new() } else { at.to_string() };
    for schema in &limits.all_of {
        check(value, schema, at, root, errors);
    }
    if !limits.any_of.is_empty() && !limits.any_of.iter().any(holds) {
        errors.invalid(at, "", format_args!("{name:?} must validate at least one schema (anyOf)"));
    }
    if !limits.exactly_one_of.is_empty() {
        match limits.exactly_one_of.iter().filter(|schema| holds(schema)).count() {
            0 => errors.invalid(at, "", format_args!("{name:?} must validate one and only one schema (oneOf). Found none valid")),
            1 => {}
            n => errors.invalid(
                at,
                "",
                format_args!("{name:?} must validate one and only one schema (oneOf). Found {n} valid alternatives"),
            ),
        }
    }
    if limits.not.as_deref().is_some_and(holds) {
        errors.invalid(at, "", format_args!("{name:?} must not validate the schema (not)"));
    }
}
