//! Objects as JSON, and reading them with a word about it if it takes long.

use api::{Kind, meta::v1::ObjectMeta};
use client::{Dynamic, List, ListParams};
use serde_json::{Map, Value};

use crate::{Session, failures::Failures};

/// Sets a value in nested objects, which are made where they are missing.
pub fn set(value: &mut Value, path: &[&str], new: Value) {
    let mut here = value;
    for key in path {
        if !here.is_object() {
            *here = Value::Object(Map::new());
        }
        let Value::Object(map) = here else { return };
        here = map.entry(*key).or_insert(Value::Null);
    }
    *here = new;
}

/// An object as it can be created: without what only a stored object has.
pub fn fresh(mut object: Value) -> Value {
    if let Some(Value::Object(metadata)) = object.get_mut("metadata") {
        metadata.retain(|field, _| !matches!(field.as_str(), "resourceVersion" | "uid" | "creationTimestamp"));
    }
    object
}

/// The text at a JSON pointer; empty if there is none.
pub fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// The number at a JSON pointer; 0 if there is none.
pub fn number(value: &Value, pointer: &str) -> i64 {
    value.pointer(pointer).and_then(Value::as_i64).unwrap_or_default()
}

/// The items at a JSON pointer.
pub fn list<'a>(value: &'a Value, pointer: &str) -> &'a [Value] {
    value.pointer(pointer).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

/// The members of the object at a JSON pointer, by key.
pub fn members<'a>(value: &'a Value, pointer: &str) -> Vec<(&'a str, &'a Value)> {
    value.pointer(pointer).and_then(Value::as_object).into_iter().flatten().map(|(key, value)| (key.as_str(), value)).collect()
}

/// An object's JSON with `apiVersion` and `kind`.
///
/// # Errors
/// When it has none.
pub fn to_value(object: &Dynamic) -> anyhow::Result<Value> {
    Ok(object.to_value()?)
}

/// Objects' JSON with their kinds. One that has none is named as a failure and left out, so that it does not hide the others.
///
/// # Errors
/// What must end the command.
pub fn shown(session: &Session, failures: &mut Failures, objects: &[Dynamic]) -> anyhow::Result<Vec<(&'static Kind, Value)>> {
    let mut found = Vec::with_capacity(objects.len());
    for object in objects {
        found.extend(failures.check(session, to_value(object))?.map(|value| (object.kind().forever(), value)));
    }
    Ok(found)
}

/// Reads one object.
///
/// # Errors
/// Not found, and whatever the server says.
pub async fn get(session: &Session, kind: &'static Kind, namespace: &str, name: &str) -> anyhow::Result<Dynamic> {
    let api = session.client()?.dynamic(kind, namespace);
    Ok(session.shown(&format!("reading {}", crate::kinds::display(kind, name)), api.get(name)).await?)
}

/// Reads one object, if it exists.
///
/// # Errors
/// Whatever the server says but not found.
pub async fn get_opt(session: &Session, kind: &'static Kind, namespace: &str, name: &str) -> anyhow::Result<Option<Dynamic>> {
    let api = session.client()?.dynamic(kind, namespace);
    Ok(session.shown(&format!("reading {}", crate::kinds::display(kind, name)), api.get_opt(name)).await?)
}

/// Reads the objects of a kind that match.
///
/// # Errors
/// Whatever the server says.
pub async fn list_all(
    session: &Session,
    kind: &'static Kind,
    namespace: &str,
    params: &ListParams,
) -> anyhow::Result<List<Dynamic>> {
    Ok(session.list(&session.client()?.dynamic(kind, namespace), params).await?)
}

/// Reads the objects of a kind that match, `params.limit` at a time.
///
/// # Errors
/// Whatever the server says.
pub async fn list_chunked(
    session: &Session,
    kind: &'static Kind,
    namespace: &str,
    mut params: ListParams,
) -> anyhow::Result<Vec<Dynamic>> {
    let mut found = Vec::new();
    loop {
        let list = list_all(session, kind, namespace, &params).await?;
        found.extend(list.items);
        if list.metadata.r#continue.is_empty() {
            return Ok(found);
        }
        params.continue_token = list.metadata.r#continue;
    }
}

/// Reads the metadata of the objects of a kind that match.
///
/// # Errors
/// Whatever the server says.
pub async fn list_metadata(
    session: &Session,
    kind: &'static Kind,
    namespace: &str,
    params: &ListParams,
) -> anyhow::Result<Vec<ObjectMeta>> {
    let list = session.list(&session.client()?.metadata(kind, namespace), params).await?;
    Ok(list.items.into_iter().map(|item| item.metadata).collect())
}
