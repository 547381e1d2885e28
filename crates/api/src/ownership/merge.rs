//! Merging an applied configuration into a document, and taking fields out of one.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

use super::{
    document::{is_leaf, step_to},
    path::{FieldPath, Name, Step},
    set::FieldSet,
    shape::Shape,
};

/// Why a configuration cannot be applied.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ConfigurationError {
    /// Two items of a list are the same item.
    #[error("{list}: duplicate entries for key {item}")]
    Duplicate {
        /// The list.
        list: FieldPath,
        /// What both are.
        item: Step,
    },
    /// An item lacks a field that identifies it.
    #[error(
        "{list}: element {index}: associative list with keys has an element that omits key field {key:?} (and doesn't have default value)"
    )]
    MissingKey {
        /// The list.
        list: FieldPath,
        /// The item's place in it.
        index: usize,
        /// The field.
        key: String,
    },
    /// An item of a keyed list is no object, or one of a set is null or has parts.
    #[error("{list}: element {index}: {found} cannot be an item of this list")]
    NoItem {
        /// The list.
        list: FieldPath,
        /// The item's place in it.
        index: usize,
        /// What is there.
        found: String,
    },
}

/// Checks that every item of the configuration's lists can be told from the others.
///
/// # Errors
/// When an item stands in a list twice, or lacks what identifies it.
pub fn check(shape: Shape<'_>, config: &Value) -> Result<(), ConfigurationError> {
    check_at(shape, config, &mut FieldPath::default())
}

fn check_at(shape: Shape<'_>, value: &Value, at: &mut FieldPath) -> Result<(), ConfigurationError> {
    match (shape, value) {
        (Shape::Struct(_) | Shape::Map(_) | Shape::Untyped, Value::Object(map)) => {
            for (name, value) in map {
                at.0.push(Step::field(name.clone()));
                check_at(field_shape(shape, name), value, at)?;
                at.0.pop();
            }
        }
        (Shape::Set | Shape::Keyed(_), Value::Array(items)) => {
            let mut seen = BTreeSet::new();
            for (index, item) in items.iter().enumerate() {
                check_item(shape, index, item, at)?;
                let step = step_to(shape, index, item);
                if let Shape::Keyed(place) = shape {
                    at.0.push(step.clone());
                    check_at(place.item(), item, at)?;
                    at.0.pop();
                }
                if !seen.insert(step.clone()) {
                    return Err(ConfigurationError::Duplicate { list: at.clone(), item: step });
                }
            }
        }
        _ => {}
    }
    Ok(())
}

fn check_item(shape: Shape<'_>, index: usize, item: &Value, at: &FieldPath) -> Result<(), ConfigurationError> {
    match (shape, item) {
        (Shape::Keyed(place), Value::Object(map)) => {
            let missing = |key: &Name| !map.contains_key(&**key) && place.key_default(key).is_none();
            match (0..).map_while(|n| place.key(n)).find(missing) {
                Some(key) => Err(ConfigurationError::MissingKey { list: at.clone(), index, key: key.to_string() }),
                None => Ok(()),
            }
        }
        (Shape::Set, Value::String(_) | Value::Number(_) | Value::Bool(_)) => Ok(()),
        (_, found) => Err(ConfigurationError::NoItem { list: at.clone(), index, found: found.to_string() }),
    }
}

fn field_shape<'s>(shape: Shape<'s>, name: &str) -> Shape<'s> {
    match shape {
        Shape::Struct(place) => place.field(name).unwrap_or(Shape::Untyped),
        Shape::Map(place) => place.item(),
        _ => Shape::Untyped,
    }
}

/// True if the value has no parts that could be merged.
fn is_bare(value: Option<&Value>) -> bool {
    match value {
        None | Some(Value::Null) => true,
        Some(Value::Object(map)) => map.is_empty(),
        Some(Value::Array(items)) => items.is_empty(),
        Some(_) => false,
    }
}

/// The document with what the configuration says. Leaves are the configuration's, also where they are null; what it does not name stays.
pub fn merge(shape: Shape<'_>, live: &Value, config: &Value) -> Value {
    if is_bare(Some(live)) && is_bare(Some(config)) {
        return config.clone();
    }
    match (shape, live, config) {
        (Shape::Leaf, ..) => config.clone(),
        (Shape::Untyped, live, config) if is_leaf(shape, config) || is_leaf(shape, live) => config.clone(),
        (Shape::Struct(_) | Shape::Map(_) | Shape::Untyped, Value::Object(live), Value::Object(config)) => {
            let mut merged = live.clone();
            for (name, value) in config {
                let value = match live.get(name) {
                    Some(live) => merge(field_shape(shape, name), live, value),
                    None => value.clone(),
                };
                merged.insert(name.clone(), value);
            }
            Value::Object(merged)
        }
        (Shape::Set | Shape::Keyed(_), Value::Array(live), Value::Array(config)) => {
            Value::Array(merge_lists(shape, live, config))
        }
        // Null says nothing about the parts that are there.
        (_, live, Value::Null) => live.clone(),
        (.., config) => config.clone(),
    }
}

/// Items of both in the configuration's order, those of the document alone where they stood before the next that both have.
fn merge_lists(shape: Shape<'_>, live: &[Value], config: &[Value]) -> Vec<Value> {
    let steps =
        |items: &[Value]| -> Vec<Step> { items.iter().enumerate().map(|(index, item)| step_to(shape, index, item)).collect() };
    let (live_steps, config_steps) = (steps(live), steps(config));
    let mut of_live: BTreeMap<&Step, Vec<&Value>> = BTreeMap::new();
    for (step, item) in live_steps.iter().zip(live) {
        of_live.entry(step).or_default().push(item);
    }
    let in_config: BTreeSet<&Step> = config_steps.iter().collect();
    let merged = |step: &Step, item: &Value| match (shape, of_live.get(step).map(Vec::as_slice)) {
        (Shape::Keyed(place), Some(&[live])) => merge(place.item(), live, item),
        // What stands there twice is replaced as a whole.
        _ => item.clone(),
    };
    let mut shared = config_steps.iter().filter(|step| of_live.contains_key(step)).peekable();
    let mut out = Vec::with_capacity(live.len() + config.len());
    let mut old = live_steps.iter().zip(live).peekable();
    let mut new = config_steps.iter().zip(config).peekable();
    loop {
        match (old.peek(), new.peek()) {
            (Some(&(step, item)), _) if !in_config.contains(step) => {
                out.push(item.clone());
                old.next();
            }
            // It was or will be placed as the configuration says.
            (Some(&(step, _)), _) if shared.peek() != Some(&step) => {
                old.next();
            }
            (at, Some(&(step, item))) => {
                out.push(merged(step, item));
                let both = at.is_some_and(|(old, _)| *old == step);
                new.next();
                if shared.peek() == Some(&step) {
                    shared.next();
                }
                if both {
                    old.next();
                }
            }
            (_, None) => {
                out.extend(old.map(|(_, item)| item.clone()));
                return out;
            }
        }
    }
}

/// The document without the places of the set and all below them. A list or object that loses its last part is null.
pub fn remove(shape: Shape<'_>, value: &Value, set: &FieldSet) -> Value {
    if set.is_empty() {
        return value.clone();
    }
    match (shape, value) {
        (Shape::Struct(_) | Shape::Map(_) | Shape::Untyped, Value::Object(map)) if !map.is_empty() => {
            let mut left = Map::new();
            for (name, value) in map {
                match set.node(&Step::field(name.clone())) {
                    Some(node) if node.member => {}
                    Some(node) => drop(left.insert(name.clone(), remove(field_shape(shape, name), value, &node.children))),
                    None => drop(left.insert(name.clone(), value.clone())),
                }
            }
            if left.is_empty() { Value::Null } else { Value::Object(left) }
        }
        (Shape::Set | Shape::Keyed(_), Value::Array(items)) if !items.is_empty() => {
            let mut left = Vec::with_capacity(items.len());
            for (index, item) in items.iter().enumerate() {
                let inner = if let Shape::Keyed(place) = shape { place.item() } else { Shape::Leaf };
                match set.node(&step_to(shape, index, item)) {
                    Some(node) if node.member => {}
                    Some(node) => left.push(remove(inner, item, &node.children)),
                    None => left.push(item.clone()),
                }
            }
            if left.is_empty() { Value::Null } else { Value::Array(left) }
        }
        _ => value.clone(),
    }
}
