//! JSON patch (RFC 6902), as lenient as the library that upstream uses, and with bounds on what its operations can make.
//!
//! Upstream's objects leave out what is empty, so what is not there stands for an empty value: it can be replaced, tested for `null` and
//! copied. A missing `value` is `null`. An index may have a sign and leading zeros; a negative one counts from the end.

use std::borrow::Cow;

use json_patch::{
    AddOperation, PatchErrorKind, PatchOperation,
    jsonptr::{Pointer, PointerBuf},
};
use serde_json::Value;

use super::{
    MAX_COPIED, MAX_DEPTH, MAX_OPERATIONS, MAX_WORK, PatchError,
    shape::{check_depth, depth},
};

pub(super) fn read(mut value: Value) -> Result<json_patch::Patch, PatchError> {
    if let Value::Array(operations) = &mut value {
        if operations.len() > MAX_OPERATIONS {
            return Err(PatchError::TooManyOperations(operations.len()));
        }
        for operation in operations.iter_mut().filter_map(Value::as_object_mut) {
            operation.entry("value").or_insert(Value::Null);
        }
    }
    serde_json::from_value(value).map_err(PatchError::Decode)
}

/// Applies the operations in turn. Copies can double a document with each operation, in size and in depth, so both are watched; and so is
/// the time that thousands of operations on a list of a million items would take.
pub(super) fn apply(mut document: Value, patch: &json_patch::Patch) -> Result<Value, PatchError> {
    let (mut copied, mut work) = (0_usize, 0_usize);
    // Never less than the document's depth; measured anew only when it says too much.
    let mut deepest = depth(&document);
    for (index, operation) in patch.0.iter().enumerate() {
        let Some(operation) = lenient(&document, operation) else { continue };
        let operation = &*operation;
        if let PatchOperation::Copy(copy) = operation {
            let size = document.pointer(copy.from.as_str()).map_or(0, |value| value.to_string().len());
            copied = copied.saturating_add(size);
            if copied > MAX_COPIED {
                return Err(PatchError::TooLarge);
            }
        }
        work = work.saturating_add(shifted(&document, operation));
        if work > MAX_WORK {
            return Err(PatchError::TooMuchWork);
        }
        json_patch::patch_unsafe(&mut document, std::slice::from_ref(operation)).map_err(|error| PatchError::Operation {
            operation: name(operation),
            index,
            path: operation.path().to_string(),
            why: match error.kind {
                PatchErrorKind::TestFailed => "test failed: the value differs".to_owned(),
                PatchErrorKind::InvalidPointer => "the path does not exist".to_owned(),
                PatchErrorKind::InvalidFromPointer => "the path given in \"from\" does not exist".to_owned(),
                other => other.to_string(),
            },
        })?;
        let at = operation.path().count();
        deepest = deepest.max(match operation {
            PatchOperation::Add(add) => at + depth(&add.value),
            PatchOperation::Replace(replace) => at + depth(&replace.value),
            PatchOperation::Copy(copy) => at + deepest.saturating_sub(copy.from.count()),
            PatchOperation::Move(from) => at + deepest.saturating_sub(from.from.count()),
            PatchOperation::Remove(_) | PatchOperation::Test(_) => 0,
        });
        if deepest > MAX_DEPTH {
            check_depth(&document)?;
            deepest = depth(&document);
            work = work.saturating_add(count(&document));
        }
    }
    Ok(document)
}

/// The operation as the strict library wants it; nothing for a test that what is not there is `null`.
fn lenient<'a>(document: &Value, operation: &'a PatchOperation) -> Option<Cow<'a, PatchOperation>> {
    let lacks = |path: &Pointer| absent_key(document, path);
    match operation {
        PatchOperation::Test(test) if test.value.is_null() && lacks(&test.path) => return None,
        PatchOperation::Replace(replace) if lacks(&replace.path) => {
            return Some(Cow::Owned(set(&indexed(document, &replace.path, 0), replace.value.clone())));
        }
        PatchOperation::Copy(copy) if lacks(&copy.from) => {
            return Some(Cow::Owned(set(&indexed(document, &copy.path, 1), Value::Null)));
        }
        _ => {}
    }
    let mut changed = Cow::Borrowed(operation);
    let mut resolve = |path: &Pointer, more: i64, at: fn(&mut PatchOperation) -> Option<&mut PointerBuf>| {
        let resolved = indexed(document, path, more);
        if resolved != *path
            && let Some(place) = at(changed.to_mut())
        {
            *place = resolved;
        }
    };
    match operation {
        PatchOperation::Move(from) => {
            resolve(&from.from, 0, from_of);
            // What is moved within a list is out of it when its new place is counted.
            resolve(&from.path, i64::from(from.from.parent() != from.path.parent()), path_of);
        }
        PatchOperation::Copy(copy) => {
            resolve(&copy.from, 0, from_of);
            resolve(&copy.path, 1, path_of);
        }
        PatchOperation::Add(add) => resolve(&add.path, 1, path_of),
        other => resolve(other.path(), 0, path_of),
    }
    Some(changed)
}

fn set(path: &Pointer, value: Value) -> PatchOperation {
    PatchOperation::Add(AddOperation { path: path.to_buf(), value })
}

fn path_of(operation: &mut PatchOperation) -> Option<&mut PointerBuf> {
    Some(match operation {
        PatchOperation::Add(operation) => &mut operation.path,
        PatchOperation::Remove(operation) => &mut operation.path,
        PatchOperation::Replace(operation) => &mut operation.path,
        PatchOperation::Move(operation) => &mut operation.path,
        PatchOperation::Copy(operation) => &mut operation.path,
        PatchOperation::Test(operation) => &mut operation.path,
    })
}

fn from_of(operation: &mut PatchOperation) -> Option<&mut PointerBuf> {
    match operation {
        PatchOperation::Move(operation) => Some(&mut operation.from),
        PatchOperation::Copy(operation) => Some(&mut operation.from),
        _ => None,
    }
}

/// True if the path leads to an object that has no such field.
fn absent_key(document: &Value, path: &Pointer) -> bool {
    let Some((parent, key)) = path.split_back() else { return false };
    let parent = indexed(document, parent, 0);
    let object = parent.resolve(document).ok().and_then(Value::as_object);
    object.is_some_and(|object| !object.contains_key(&*key.decoded()))
}

/// The path with plain indices of lists. The last list may be `more` items longer when its index is counted from the end.
fn indexed(document: &Value, path: &Pointer, more: i64) -> PointerBuf {
    let (mut at, mut resolved, count) = (Some(document), PointerBuf::new(), path.count());
    for (i, token) in path.tokens().enumerate() {
        let more = if i + 1 == count { more } else { 0 };
        let number = at.and_then(Value::as_array).and_then(|items| {
            let number: i64 = token.encoded().parse().ok()?;
            let length = i64::try_from(items.len()).ok()?;
            usize::try_from(if number < 0 { number.checked_add(length)?.checked_add(more)? } else { number }).ok()
        });
        at = match (at, number) {
            (Some(Value::Array(items)), Some(number)) => items.get(number),
            (Some(Value::Object(map)), _) => map.get(&*token.decoded()),
            _ => None,
        };
        match number {
            Some(number) => resolved.push_back(number),
            None => resolved.push_back(token),
        }
    }
    resolved
}

/// Items of lists that the operation may shift.
fn shifted(document: &Value, operation: &PatchOperation) -> usize {
    let parent_length = |path: &str| {
        let parent = path.rsplit_once('/').and_then(|(parent, _)| document.pointer(parent));
        parent.and_then(Value::as_array).map_or(0, Vec::len)
    };
    match operation {
        PatchOperation::Add(_) | PatchOperation::Remove(_) | PatchOperation::Copy(_) => parent_length(operation.path().as_str()),
        PatchOperation::Move(from) => parent_length(from.path.as_str()) + parent_length(from.from.as_str()),
        PatchOperation::Replace(_) | PatchOperation::Test(_) => 0,
    }
}

/// Values in a value, itself included. Only for what passed the bound on depth.
fn count(value: &Value) -> usize {
    match value {
        Value::Array(items) => items.iter().fold(1, |sum, item| sum + count(item)),
        Value::Object(map) => map.values().fold(1, |sum, item| sum + count(item)),
        _ => 1,
    }
}

fn name(operation: &PatchOperation) -> &'static str {
    match operation {
        PatchOperation::Add(_) => "add",
        PatchOperation::Remove(_) => "remove",
        PatchOperation::Replace(_) => "replace",
        PatchOperation::Move(_) => "move",
        PatchOperation::Copy(_) => "copy",
        PatchOperation::Test(_) => "test",
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn patched(document: Value, patch: Value) -> Result<Value, String> {
        read(patch).and_then(|patch| apply(document, &patch)).map_err(|e| e.to_string())
    }

    #[test]
    fn operations_apply_in_turn_or_say_which_does_not() {
        let patch = json!([
            {"op": "test", "path": "/a", "value": 1},
            {"op": "replace", "path": "/a", "value": 2},
            {"op": "add", "path": "/l/-", "value": 3},
            {"op": "remove", "path": "/l/0"},
        ]);
        assert_eq!(patched(json!({"a": 1, "l": [1]}), patch).unwrap(), json!({"a": 2, "l": [3]}));
        let error = patched(json!({}), json!([{"op": "remove", "path": "/a/b"}])).unwrap_err();
        assert_eq!(error, "the remove operation at index 0 does not apply: \"/a/b\": the path does not exist");
        let error = patched(json!({"a": 1}), json!([{"op": "test", "path": "/a", "value": 2}])).unwrap_err();
        assert!(error.contains("test failed"), "{error}");
    }

    #[test]
    fn what_is_not_there_stands_for_an_empty_value() {
        for (operations, expected) in [
            (json!([{"op": "replace", "path": "/b", "value": 1}]), json!({"a": {}, "b": 1})),
            (json!([{"op": "replace", "path": "/a/b~1c"}]), json!({"a": {"b/c": null}})),
            (json!([{"op": "test", "path": "/b", "value": null}]), json!({"a": {}})),
            (json!([{"op": "test", "path": "/a/b"}]), json!({"a": {}})),
            (json!([{"op": "copy", "from": "/b", "path": "/a/c"}]), json!({"a": {"c": null}})),
            (json!([{"op": "add", "path": "/a/c"}]), json!({"a": {"c": null}})),
        ] {
            assert_eq!(patched(json!({"a": {}}), operations.clone()).unwrap(), expected, "{operations}");
        }
        for refused in [
            json!([{"op": "remove", "path": "/b"}]),
            json!([{"op": "move", "from": "/b", "path": "/c"}]),
            json!([{"op": "replace", "path": "/b/c", "value": 1}]),
            json!([{"op": "test", "path": "/b", "value": 1}]),
            json!([{"op": "test", "path": "/b/c", "value": null}]),
            json!([{"op": "copy", "from": "/b/c", "path": "/d"}]),
        ] {
            assert!(patched(json!({"a": {}}), refused.clone()).is_err(), "{refused}");
        }
    }

    #[test]
    fn an_index_may_count_from_the_end_and_have_leading_zeros() {
        for (operations, expected) in [
            (json!([{"op": "replace", "path": "/l/-1", "value": 9}]), json!([1, 2, 9])),
            (json!([{"op": "replace", "path": "/l/01", "value": 9}]), json!([1, 9, 3])),
            (json!([{"op": "remove", "path": "/l/-3"}]), json!([2, 3])),
            (json!([{"op": "add", "path": "/l/-1", "value": 9}]), json!([1, 2, 3, 9])),
            (json!([{"op": "add", "path": "/l/-4", "value": 9}]), json!([9, 1, 2, 3])),
            (json!([{"op": "move", "from": "/l/0", "path": "/l/-1"}]), json!([2, 3, 1])),
            (json!([{"op": "copy", "from": "/l/-1", "path": "/l/+0"}]), json!([3, 1, 2, 3])),
            (json!([{"op": "test", "path": "/l/-2", "value": 2}]), json!([1, 2, 3])),
        ] {
            assert_eq!(patched(json!({"l": [1, 2, 3]}), operations.clone()).unwrap(), json!({ "l": expected }), "{operations}");
        }
        for path in ["/l/-4", "/l/3", "/l/x", "/l/-9223372036854775808", "/l/"] {
            let operations = json!([{"op": "replace", "path": path, "value": 9}]);
            assert!(patched(json!({"l": [1, 2, 3]}), operations).is_err(), "{path}");
        }
    }

    #[test]
    fn copies_cannot_blow_a_document_up() {
        let double = json!({"op": "copy", "from": "/a", "path": "/a/b"});
        let wide = |i: usize| json!({"op": "copy", "from": "", "path": format!("/c{i}")});
        let deep: Vec<Value> = (0..300).map(|_| double.clone()).collect();
        assert!(patched(json!({"a": {"b": {}}}), Value::Array(deep)).is_err());
        let broad: Vec<Value> = (0..64).map(wide).collect();
        assert!(patched(json!({"text": "x".repeat(1000)}), Value::Array(broad)).is_err());
        let many: Vec<Value> = (0..=MAX_OPERATIONS).map(|_| json!({"op": "add", "path": "/a", "value": 1})).collect();
        let error = patched(json!({}), Value::Array(many)).unwrap_err();
        assert_eq!(error, "The allowed maximum operations in a JSON patch is 10000, got 10001");
    }

    #[test]
    fn operations_on_long_lists_end_in_time() {
        let list: Vec<Value> = (0..200_000).map(Value::from).collect();
        let insert = json!({"op": "add", "path": "/l/0", "value": 1});
        let started = std::time::Instant::now();
        let error = patched(json!({ "l": list }), Value::Array(vec![insert; 9000])).unwrap_err();
        assert!(error.contains("send fewer at a time"), "{error}");
        let mut deep = json!({"x": 1});
        for _ in 0..200 {
            deep = json!({ "d": deep });
        }
        let document = json!({"wide": vec![0; 200_000], "deep": deep});
        let copy = json!({"op": "move", "from": "/wide/0", "path": format!("{}/y", "/deep".to_owned() + &"/d".repeat(199))});
        assert!(patched(document, Value::Array(vec![copy; 5000])).is_err());
        assert!(started.elapsed().as_secs() < 20, "{:?}", started.elapsed());
    }

    proptest! {
        #[test]
        fn any_operations_apply_or_fail_without_a_panic(
            operations in proptest::collection::vec((0..6_usize, "(/[ab0-2-]{1,2}){0,3}", "(/[ab0-2~-]{1,2}){0,3}"), 0..8)
        ) {
            let names = ["add", "remove", "replace", "move", "copy", "test"];
            let operation = |(op, path, from): &(usize, String, String)| json!({"op": names[*op], "path": path, "from": from, "value": {"a": [1]}});
            let patch = Value::Array(operations.iter().map(operation).collect());
            let result = patched(json!({"a": {"b": [1, 2]}, "b": [{"a": 1}]}), patch);
            prop_assert!(result.is_ok() || result.is_err());
        }
    }
}
