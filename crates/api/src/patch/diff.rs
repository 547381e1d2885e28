//! Making patches: what `apply` and `edit` send.
//!
//! Invariant: applying the patch made from `a` and `b` to `a` gives `b`.

use serde_json::{Map, Value};

use super::{
    PatchError,
    order::identity,
    shape::{Shape, Slot, check_depth},
    strategic::{DELETE_FROM, PATCH, RETAIN_KEYS, SET_ORDER, merge_map},
};
use crate::schema::Message;

type Object = Map<String, Value>;

/// The strategic merge patch that turns `original` into `modified`; an empty object if they are equal.
///
/// # Errors
/// When a document is no object, is too deep, or has nested fields that the schema does not know.
pub fn create_two_way_patch(original: &Value, modified: &Value, schema: Option<&'static Message>) -> Result<Value, PatchError> {
    create_three_way_patch(original, modified, original, schema)
}

/// The strategic merge patch that makes `current` have all that `modified` has, and takes away what `original` (what was applied
/// last) has and `modified` has no more. What others set in `current` stays. An empty object if there is nothing to do. Without a schema it
/// is a JSON merge patch.
///
/// # Errors
/// When a document is no object, is too deep, or has nested fields that the schema does not know.
pub fn create_three_way_patch(
    original: &Value,
    modified: &Value,
    current: &Value,
    schema: Option<&'static Message>,
) -> Result<Value, PatchError> {
    for document in [original, modified, current] {
        check_depth(document)?;
    }
    let (Value::Object(modified), Value::Object(current)) = (modified, current) else {
        return Err(PatchError::NotAnObject("strategic merge"));
    };
    diff_maps(original.as_object(), modified, current, schema.map_or(Shape::Free, Shape::Object)).map(Value::Object)
}

/// The JSON merge patch that turns `original` into `modified`, if `modified` holds no null; an empty object if they are equal.
pub fn create_merge_patch(original: &Value, modified: &Value) -> Value {
    let (Value::Object(original), Value::Object(modified)) = (original, modified) else { return modified.clone() };
    let mut patch = Object::new();
    for (key, want) in modified {
        match original.get(key) {
            Some(have) if have == want => {}
            Some(have @ Value::Object(_)) if want.is_object() => {
                patch.insert(key.clone(), create_merge_patch(have, want));
            }
            _ => {
                patch.insert(key.clone(), want.clone());
            }
        }
    }
    for key in original.keys().filter(|key| !modified.contains_key(*key)) {
        patch.insert(key.clone(), Value::Null);
    }
    Value::Object(patch)
}

fn diff_maps(original: Option<&Object>, modified: &Object, current: &Object, shape: Shape) -> Result<Object, PatchError> {
    let mut patch = Object::new();
    for (key, want) in modified {
        let have = current.get(key).filter(|have| !have.is_null());
        let was = original.and_then(|o| o.get(key));
        match (want, have) {
            (Value::Null, Some(_)) => {
                patch.insert(key.clone(), Value::Null);
            }
            (Value::Null, None) => {}
            (want, Some(have)) if want == have => {}
            (Value::Object(want), Some(Value::Object(have))) => {
                let nested = diff_maps(was.and_then(Value::as_object), want, have, shape.slot(key)?.shape)?;
                if !nested.is_empty() {
                    patch.insert(key.clone(), Value::Object(nested));
                }
            }
            (Value::Array(want), Some(Value::Array(have))) => {
                let was = was.and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
                diff_lists(key, Lists { was, want, have }, shape.slot(key)?, &mut patch)?;
            }
            (want, _) => {
                patch.insert(key.clone(), want.clone());
            }
        }
    }
    for key in original.into_iter().flat_map(Object::keys) {
        if !modified.contains_key(key) && current.contains_key(key) {
            patch.insert(key.clone(), Value::Null);
        }
    }
    Ok(patch)
}

/// One list as it was applied last, as it is wanted, and as it is.
#[derive(Clone, Copy)]
struct Lists<'a> {
    was: &'a [Value],
    want: &'a [Value],
    have: &'a [Value],
}

fn diff_lists(name: &str, lists: Lists<'_>, slot: Slot, patch: &mut Object) -> Result<(), PatchError> {
    let mergeable = match slot.merge_key {
        Some(key) => keyed(lists.want, key) && keyed(lists.have, key),
        None => slot.merge_set && unique_scalars(lists.want) && unique_scalars(lists.have),
    };
    if !mergeable {
        return replace_list(name, lists, slot, patch);
    }
    let find = |list: &'_ [Value], item: &Value| {
        list.iter().position(|candidate| identity(candidate, slot.merge_key) == identity(item, slot.merge_key))
    };
    let mut changes = Vec::new();
    for item in lists.want {
        match find(lists.have, item).map(|i| &lists.have[i]) {
            None => changes.push(item.clone()),
            Some(have) => {
                let was = find(lists.was, item).map(|i| &lists.was[i]);
                changes.extend(diff_item(was, item, have, slot)?.map(Value::Object));
            }
        }
    }
    let gone: Vec<&Value> =
        lists.was.iter().filter(|item| find(lists.want, item).is_none() && find(lists.have, item).is_some()).collect();
    let places: Vec<usize> = lists.want.iter().filter_map(|item| find(lists.have, item)).collect();
    let reordered = !places.is_sorted() || places.len() < lists.want.len();
    if changes.is_empty() && gone.is_empty() && !reordered {
        return Ok(());
    }
    let keyed_by = |item: &Value| match slot.merge_key {
        Some(key) => Value::Object(std::iter::once((key.to_owned(), identity(item, Some(key)).clone())).collect()),
        None => item.clone(),
    };
    patch.insert(format!("{SET_ORDER}{name}"), Value::Array(lists.want.iter().map(keyed_by).collect()));
    match slot.merge_key {
        Some(_) => changes.extend(gone.into_iter().map(|item| {
            let mut item = keyed_by(item);
            item[PATCH] = "delete".into();
            item
        })),
        None if !gone.is_empty() => {
            patch.insert(format!("{DELETE_FROM}{name}"), Value::Array(gone.into_iter().cloned().collect()));
        }
        None => {}
    }
    if !changes.is_empty() {
        patch.insert(name.to_owned(), Value::Array(changes));
    }
    Ok(())
}

/// The patch of one item of a keyed list, with its merge key; `None` if it needs none.
fn diff_item(was: Option<&Value>, want: &Value, have: &Value, slot: Slot) -> Result<Option<Object>, PatchError> {
    let (Some(key), Value::Object(want), Value::Object(have)) = (slot.merge_key, want, have) else { return Ok(None) };
    let mut nested = diff_maps(was.and_then(Value::as_object), want, have, slot.shape)?;
    if nested.is_empty() {
        return Ok(None);
    }
    if slot.retain_keys {
        let keys = want.iter().filter(|(_, v)| !v.is_null()).map(|(k, _)| k.as_str().into()).collect();
        nested.insert(RETAIN_KEYS.to_owned(), Value::Array(keys));
    }
    if let Some(id) = want.get(key) {
        nested.insert(key.to_owned(), id.clone());
    }
    Ok(Some(nested))
}

/// Replaces a list that cannot be merged: an atomic one, or one where several items share a merge key (such as port 53 for TCP and
/// UDP). There, what the server added to an item is kept by matching items on all the fields that tell them apart.
fn replace_list(name: &str, lists: Lists<'_>, slot: Slot, patch: &mut Object) -> Result<(), PatchError> {
    if slot.merge_key.is_none() && !slot.merge_set {
        if lists.want != lists.have {
            patch.insert(name.to_owned(), Value::Array(lists.want.to_vec()));
        }
        return Ok(());
    }
    let mut items = Vec::with_capacity(lists.want.len() + 1);
    items.push(serde_json::json!({ PATCH: "replace" }));
    let mut taken = vec![false; lists.have.len()];
    for want in lists.want {
        let free = (0..lists.have.len()).find(|i| !taken[*i] && same_item(want, &lists.have[*i], slot.identity));
        let have = free.and_then(|i| {
            taken[i] = true;
            lists.have[i].as_object()
        });
        items.push(match (want, have) {
            (Value::Object(want), Some(have)) => {
                let was = lists.was.iter().find(|was| slot.identity.iter().all(|key| was.get(key) == want.get(*key)));
                let nested = diff_maps(was.and_then(Value::as_object), want, have, slot.shape)?;
                Value::Object(merge_map(have.clone(), nested, slot.shape)?)
            }
            (want, _) => want.clone(),
        });
    }
    if items[1..] != *lists.have {
        patch.insert(name.to_owned(), Value::Array(items));
    }
    Ok(())
}

/// True if the items agree in all the fields that identify them; a field that `want` leaves out may be anything.
fn same_item(want: &Value, have: &Value, identity: &[&str]) -> bool {
    !identity.is_empty() && identity.iter().all(|key| want.get(key).is_none_or(|value| have.get(key) == Some(value)))
}

fn keyed(items: &[Value], key: &str) -> bool {
    let mut seen: Vec<&Value> = Vec::with_capacity(items.len());
    items.iter().all(|item| {
        let id = item.get(key).filter(|id| !id.is_object() && !id.is_array() && !id.is_null());
        let fresh = id.is_some_and(|id| !seen.contains(&id));
        seen.extend(id);
        fresh
    })
}

fn unique_scalars(items: &[Value]) -> bool {
    items.iter().enumerate().all(|(i, item)| !item.is_object() && !item.is_array() && !items[..i].contains(item))
}
