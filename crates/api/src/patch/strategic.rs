//! Applying a strategic merge patch: objects merge field by field, lists as the schema says, directives steer the rest.

use std::collections::HashSet;

use serde_json::{Map, Value};

use super::{
    PatchError,
    order::{Places, arrange, identity},
    shape::{Shape, Slot},
};

/// In an object or list item: `replace`, `delete` or `merge`.
pub(super) const PATCH: &str = "$patch";
/// In an object: the only fields that stay.
pub(super) const RETAIN_KEYS: &str = "$retainKeys";
/// Before the name of a set: scalars to take out.
pub(super) const DELETE_FROM: &str = "$deleteFromPrimitiveList/";
/// Before the name of a list: the order of its items.
pub(super) const SET_ORDER: &str = "$setElementOrder/";

type Object = Map<String, Value>;

fn is_directive(key: &str) -> bool {
    key == PATCH || key == RETAIN_KEYS || key.starts_with(DELETE_FROM) || key.starts_with(SET_ORDER)
}

fn wrong(directive: &str, why: impl Into<String>) -> PatchError {
    PatchError::Directive { directive: directive.to_owned(), why: why.into() }
}

/// What `$patch` asks for.
#[derive(PartialEq)]
enum Mode {
    Merge,
    Replace,
    Delete,
}

fn mode(directive: Option<&Value>) -> Result<Mode, PatchError> {
    match directive.map(Value::as_str) {
        None | Some(Some("merge")) => Ok(Mode::Merge),
        Some(Some("replace")) => Ok(Mode::Replace),
        Some(Some("delete")) => Ok(Mode::Delete),
        Some(_) => Err(wrong(
            PATCH,
            format!("unknown patch type {}; known are merge, replace and delete", directive.unwrap_or(&Value::Null)),
        )),
    }
}

/// The object with the patch merged in.
pub(super) fn merge_map(mut original: Object, mut patch: Object, shape: Shape) -> Result<Object, PatchError> {
    match mode(patch.remove(PATCH).as_ref())? {
        Mode::Merge => {}
        Mode::Replace => return Ok(clean_map(patch)),
        Mode::Delete => return Ok(Object::new()),
    }
    if let Some(keys) = patch.remove(RETAIN_KEYS) {
        retain_keys(&mut original, &patch, &keys)?;
    }
    for (key, order) in take_directives(&mut patch, SET_ORDER)? {
        merge_ordered(&mut original, &mut patch, key, &order, shape)?;
    }
    let deletions = take_directives(&mut patch, DELETE_FROM)?;
    for (key, value) in patch {
        let merged = match (original.remove(&key), value) {
            (_, Value::Null) => None,
            (Some(Value::Object(o)), Value::Object(p)) => Some(Value::Object(merge_map(o, p, shape.slot(&key)?.shape)?)),
            (Some(Value::Array(o)), Value::Array(p)) => Some(Value::Array(merge_list(&key, o, p, shape.slot(&key)?)?)),
            (_, value) => clean(value),
        };
        if let Some(merged) = merged {
            original.insert(key, merged);
        }
    }
    for (key, gone) in deletions {
        if let Some(Value::Array(items)) = original.get_mut(&key) {
            let gone = Places::new(&gone, None);
            items.retain(|item| gone.get(item).is_none());
        }
    }
    Ok(original)
}

/// Takes the directives with this prefix out of the patch: what they are about, and their list.
fn take_directives(patch: &mut Object, prefix: &str) -> Result<Vec<(String, Vec<Value>)>, PatchError> {
    let keys: Vec<String> = patch.keys().filter(|k| k.starts_with(prefix)).cloned().collect();
    let mut found = Vec::with_capacity(keys.len());
    for key in keys {
        match (key.strip_prefix(prefix), patch.remove(&key)) {
            (Some(field), Some(Value::Array(list))) if !field.is_empty() => found.push((field.to_owned(), list)),
            _ => return Err(wrong(&key, "a list is wanted, and the name of a field after the slash")),
        }
    }
    Ok(found)
}

/// Drops what is not to stay. Everything the patch sets must be listed.
fn retain_keys(original: &mut Object, patch: &Object, keys: &Value) -> Result<(), PatchError> {
    let Value::Array(keys) = keys else { return Err(wrong(RETAIN_KEYS, "a list of field names is wanted")) };
    let keys: HashSet<&str> = keys.iter().filter_map(Value::as_str).collect();
    let listed = |name: &str| keys.contains(name);
    if let Some((key, _)) = patch.iter().find(|(key, value)| !value.is_null() && !is_directive(key) && !listed(key)) {
        return Err(wrong(RETAIN_KEYS, format!("the patch sets {key:?}, which is not listed")));
    }
    original.retain(|key, _| listed(key));
    Ok(())
}

/// Merges a list whose order the patch sets, and takes it out of the patch.
fn merge_ordered(
    original: &mut Object,
    patch: &mut Object,
    key: String,
    order: &[Value],
    shape: Shape,
) -> Result<(), PatchError> {
    let slot = shape.slot(&key)?;
    let list = |value: Option<Value>| match value {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Array(items)) => Ok(Some(items)),
        Some(_) => Err(wrong(&format!("{SET_ORDER}{key}"), "the field is not a list")),
    };
    if patch.get(&key).is_some_and(Value::is_null) {
        return Ok(());
    }
    let (server, additions) = (list(original.remove(&key))?, list(patch.remove(&key))?);
    if let Some(additions) = &additions {
        check_order(&key, additions, order, slot)?;
    }
    let merged = match (server.clone(), additions) {
        (Some(server), None) => server,
        (None, Some(additions)) => clean_list(additions),
        (Some(server), Some(additions)) => merge_list(&key, server, additions, slot)?,
        (None, None) => return Ok(()),
    };
    let arranged = arrange(merged, order, &server.unwrap_or_default(), slot.merge_key);
    original.insert(key, Value::Array(arranged));
    Ok(())
}

/// The items a patch adds or changes must stand in its order list, in the same order.
fn check_order(key: &str, items: &[Value], order: &[Value], slot: Slot) -> Result<(), PatchError> {
    let mut rest = order.iter();
    for item in items.iter().filter(|item| item.get(PATCH).is_none()) {
        let wanted = identity(item, slot.merge_key);
        if !rest.any(|listed| identity(listed, slot.merge_key) == wanted) {
            return Err(wrong(
                &format!("{SET_ORDER}{key}"),
                format!("the order of the patch's items does not match at {}", brief(item)),
            ));
        }
    }
    Ok(())
}

fn merge_list(name: &str, original: Vec<Value>, patch: Vec<Value>, slot: Slot) -> Result<Vec<Value>, PatchError> {
    let is_replace = |item: &Value| item.get(PATCH).and_then(Value::as_str) == Some("replace");
    if patch.iter().any(is_replace) {
        // Items with a directive are about the list, and no items of it.
        return Ok(clean_list(patch.into_iter().filter(|item| item.get(PATCH).is_none()).collect()));
    }
    match slot.merge_key {
        Some(key) => merge_objects(name, original, patch, key, slot.shape),
        None if slot.merge_set => merge_scalars(name, original, patch),
        None => Ok(clean_list(patch)),
    }
}

fn merge_scalars(name: &str, original: Vec<Value>, patch: Vec<Value>) -> Result<Vec<Value>, PatchError> {
    if patch.iter().any(|item| item.is_object() || item.is_array()) {
        return Err(wrong(name, "the items of this list are scalars"));
    }
    let server = original.clone();
    let mut merged: Vec<Value> = Vec::with_capacity(original.len() + patch.len());
    let mut seen = HashSet::new();
    merged.extend(original.into_iter().chain(patch.iter().cloned()).filter(|item| seen.insert(item.to_string())));
    Ok(arrange(merged, &patch, &server, None))
}

fn merge_objects(
    name: &str,
    original: Vec<Value>,
    patch: Vec<Value>,
    key: &'static str,
    shape: Shape,
) -> Result<Vec<Value>, PatchError> {
    let key_of = |item: &Value| {
        let missing = || PatchError::NoMergeKey { list: name.to_owned(), item: brief(item), key };
        item.get(key).cloned().ok_or_else(missing)
    };
    let server = original.clone();
    for item in &original {
        key_of(item)?;
    }
    let (mut merged, mut wanted) = (original, Vec::new());
    let (mut changes, mut gone) = (Vec::with_capacity(patch.len()), HashSet::new());
    for item in patch {
        let id = key_of(&item)?;
        if mode(item.get(PATCH))? == Mode::Delete {
            gone.insert(id.to_string());
        } else {
            changes.push((id, item));
        }
    }
    merged.retain(|item| !gone.contains(&identity(item, Some(key)).to_string()));
    let mut places = Places::new(&merged, Some(key));
    for (id, item) in changes {
        match places.get(&id).and_then(|place| merged.get_mut(place)) {
            Some(found) => {
                if let (Value::Object(o), Value::Object(p)) = (found.take(), item) {
                    *found = Value::Object(merge_map(o, p, shape)?);
                }
            }
            None => {
                places.add(&id, merged.len());
                merged.extend(clean(item));
            }
        }
        wanted.push(Value::Object(std::iter::once((key.to_owned(), id)).collect()));
    }
    Ok(arrange(merged, &wanted, &server, Some(key)))
}

/// The value without directives and nulls, which mean nothing where there is nothing to merge with; `None` if nothing is left.
fn clean(value: Value) -> Option<Value> {
    match value {
        Value::Object(map) if map.get(PATCH).and_then(Value::as_str) == Some("delete") => None,
        Value::Object(map) => Some(Value::Object(clean_map(map))),
        Value::Array(items) => Some(Value::Array(clean_list(items))),
        other => Some(other),
    }
}

fn clean_map(map: Object) -> Object {
    let kept = map.into_iter().filter(|(key, value)| !value.is_null() && !is_directive(key));
    kept.filter_map(|(key, value)| Some((key, clean(value)?))).collect()
}

/// Items that only carry a directive go.
fn clean_list(items: Vec<Value>) -> Vec<Value> {
    let bare = |item: &Value| item.as_object().is_some_and(|map| map.len() == 1 && map.contains_key(PATCH));
    items.into_iter().filter(|item| !bare(item)).filter_map(clean).collect()
}

fn brief(item: &Value) -> String {
    let text = item.to_string();
    match text.char_indices().nth(80) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{
        Resource,
        core::v1::Pod,
        patch::{Patch, PatchType},
    };

    fn patched(document: Value, patch: Value) -> Result<Value, String> {
        let patch = Patch::new(PatchType::Strategic, patch).map_err(|e| e.to_string())?;
        patch.apply(document, Pod::KIND.message()).map_err(|e| e.to_string())
    }

    fn containers(items: Value) -> Value {
        json!({"spec": {"containers": items}})
    }

    #[test]
    fn list_items_are_matched_by_their_merge_key() {
        let pod = containers(json!([{"name": "a", "image": "1", "env": [{"name": "X", "value": "1"}]}, {"name": "b"}]));
        let patch = containers(json!([{"name": "a", "image": "2", "env": [{"name": "Y", "value": "2"}]}, {"name": "c"}]));
        let expected = containers(json!([
            {"name": "a", "image": "2", "env": [{"name": "X", "value": "1"}, {"name": "Y", "value": "2"}]}, {"name": "b"}, {"name": "c"}
        ]));
        assert_eq!(patched(pod, patch).unwrap()["spec"]["containers"].as_array().unwrap().len(), 3);
        let pod = containers(json!([{"name": "a", "image": "1", "env": [{"name": "X", "value": "1"}]}, {"name": "b"}]));
        let patch = containers(json!([{"name": "a", "image": "2", "env": [{"name": "Y", "value": "2"}]}]));
        let result = patched(pod, patch).unwrap();
        assert_eq!(result["spec"]["containers"][0]["image"], expected["spec"]["containers"][0]["image"]);
        assert_eq!(result["spec"]["containers"][0]["env"].as_array().unwrap().len(), 2);
    }

    #[test]
    fn directives_replace_and_delete() {
        let pod = || containers(json!([{"name": "a"}, {"name": "b"}]));
        assert_eq!(
            patched(pod(), containers(json!([{"$patch": "delete", "name": "a"}]))).unwrap(),
            containers(json!([{"name": "b"}]))
        );
        assert_eq!(
            patched(pod(), containers(json!([{"$patch": "replace"}, {"name": "c"}]))).unwrap(),
            containers(json!([{"name": "c"}]))
        );
        assert_eq!(
            patched(
                pod(),
                containers(json!([{"$patch": "replace", "name": "x"}, {"name": "c"}, {"$patch": "delete", "name": "a"}]))
            )
            .unwrap(),
            containers(json!([{"name": "c"}]))
        );
        let labels = json!({"metadata": {"labels": {"a": "1"}}});
        let replace = json!({"metadata": {"labels": {"$patch": "replace", "b": "2"}}});
        assert_eq!(patched(labels.clone(), replace).unwrap(), json!({"metadata": {"labels": {"b": "2"}}}));
        let delete = json!({"metadata": {"labels": {"$patch": "delete"}}});
        assert_eq!(patched(labels.clone(), delete).unwrap(), json!({"metadata": {"labels": {}}}));
        let error = patched(labels, json!({"$patch": "explode"})).unwrap_err();
        assert_eq!(error, "$patch: unknown patch type \"explode\"; known are merge, replace and delete");
    }

    #[test]
    fn nulls_delete_and_leave_nothing_behind() {
        let result = patched(
            json!({"metadata": {"labels": {"a": "1"}}}),
            json!({"metadata": {"labels": {"a": null, "b": "2"}}, "spec": {"nodeName": null, "x": {"y": null}}}),
        );
        assert_eq!(result.unwrap(), json!({"metadata": {"labels": {"b": "2"}}, "spec": {"x": {}}}));
    }

    #[test]
    fn sets_of_scalars_grow_shrink_and_are_ordered() {
        let pod = json!({"metadata": {"finalizers": ["a", "b", "c"]}});
        let patch = json!({"metadata": {"$deleteFromPrimitiveList/finalizers": ["b"], "finalizers": ["d"], "$setElementOrder/finalizers": ["d", "c", "a"]}});
        assert_eq!(patched(pod, patch).unwrap(), json!({"metadata": {"finalizers": ["d", "c", "a"]}}));
    }

    #[test]
    fn retained_keys_drop_all_others() {
        let volumes = |items: Value| json!({"spec": {"volumes": items}});
        let pod = volumes(json!([{"name": "v", "emptyDir": {}}]));
        let patch = volumes(json!([{"name": "v", "$retainKeys": ["name", "hostPath"], "hostPath": {"path": "/x"}}]));
        assert_eq!(patched(pod.clone(), patch).unwrap(), volumes(json!([{"name": "v", "hostPath": {"path": "/x"}}])));
        let wrong = volumes(json!([{"name": "v", "$retainKeys": ["name"], "hostPath": {"path": "/x"}}]));
        assert!(patched(pod, wrong).unwrap_err().contains("which is not listed"));
    }

    #[test]
    fn atomic_lists_are_replaced() {
        let pod = json!({"spec": {"tolerations": [{"key": "a"}], "containers": [{"name": "a", "args": ["1", "2"]}]}});
        let patch = json!({"spec": {"tolerations": [{"key": "b"}], "containers": [{"name": "a", "args": ["3"]}]}});
        assert_eq!(patched(pod, patch.clone()).unwrap(), patch);
    }

    #[test]
    fn the_order_of_items_follows_the_directive() {
        let pod = containers(json!([{"name": "a"}, {"name": "b"}, {"name": "side"}]));
        let patch = json!({"spec": {"$setElementOrder/containers": [{"name": "b"}, {"name": "a"}]}});
        let result = patched(pod, patch).unwrap();
        assert_eq!(result, containers(json!([{"name": "b"}, {"name": "a"}, {"name": "side"}])));
        let bad = json!({"spec": {"$setElementOrder/containers": [{"name": "b"}], "containers": [{"name": "a"}]}});
        assert!(patched(containers(json!([])), bad).unwrap_err().contains("does not match"));
        let bad = json!({"spec": {"$setElementOrder/containers": 5}});
        assert!(patched(containers(json!([])), bad).unwrap_err().contains("a list is wanted"));
    }

    #[test]
    fn items_without_their_merge_key_and_unknown_fields_are_errors() {
        let error = patched(containers(json!([{"name": "a"}])), containers(json!([{"image": "x"}]))).unwrap_err();
        assert_eq!(error, "containers: item {\"image\":\"x\"} does not contain the merge key \"name\"");
        let error = patched(json!({"spec": {"bogus": {}}}), json!({"spec": {"bogus": {"a": 1}}})).unwrap_err();
        assert!(error.contains("\"bogus\""), "{error}");
    }
}
