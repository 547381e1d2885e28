//! Names in objects that mean other objects of the same folder: they follow when those are renamed.

use serde_json::Value;

use super::Item;
use crate::objects::text;

/// An object's kind and its two names, with its two namespaces.
struct Renamed {
    kind: String,
    namespaced: bool,
    known: (String, String),
    now: (String, String),
}

/// Lets every reference follow, and from here on objects are known by their new names.
pub fn update(items: &mut [Item]) {
    let renamed: Vec<Renamed> = items
        .iter()
        .map(|item| Renamed {
            kind: item.kind().to_owned(),
            namespaced: item.is_namespaced(),
            known: item.known.clone(),
            now: (item.name().to_owned(), item.namespace().to_owned()),
        })
        .collect();
    for item in items.iter_mut() {
        let (kind, namespace) = (item.kind().to_owned(), item.known.1.clone());
        let Value::Object(fields) = &mut item.value else { continue };
        for (key, value) in fields.iter_mut().filter(|(key, _)| !matches!(key.as_str(), "metadata" | "data" | "stringData")) {
            visit(key, value, &kind, &mut |wanted, name, own_namespace| {
                let within = own_namespace.unwrap_or(&namespace);
                let found = renamed.iter().find(|other| {
                    other.kind == wanted && other.known.0 == *name && (!other.namespaced || other.known.1 == within)
                })?;
                name.clone_from(&found.now.0);
                Some(found.now.1.clone())
            });
        }
    }
    items.iter_mut().for_each(Item::settle);
}

/// Calls `follow` with each name that stands below a key, the kind of what it means, and the namespace if one is named beside it.
/// What it returns is the new namespace.
fn visit(key: &str, value: &mut Value, kind: &str, follow: &mut impl FnMut(&str, &mut String, Option<&str>) -> Option<String>) {
    let mut member = |value: &mut Value, field: &str, wanted: &str| {
        if let Some(Value::String(name)) = value.get_mut(field) {
            follow(wanted, name, None);
        }
    };
    match (key, &mut *value) {
        ("configMap" | "configMapRef" | "configMapKeyRef", value) => member(value, "name", "ConfigMap"),
        ("secretRef" | "secretKeyRef", value) => member(value, "name", "Secret"),
        ("secret", value) => {
            member(value, "secretName", "Secret");
            member(value, "name", "Secret");
        }
        ("persistentVolumeClaim", value) => member(value, "claimName", "PersistentVolumeClaim"),
        ("service", value) if kind == "Ingress" => member(value, "name", "Service"),
        ("imagePullSecrets" | "secrets", Value::Array(list)) => list.iter_mut().for_each(|entry| member(entry, "name", "Secret")),
        ("roleRef" | "scaleTargetRef", value) => {
            let wanted = text(value, "/kind").to_owned();
            member(value, "name", &wanted);
        }
        ("serviceAccountName" | "serviceAccount", Value::String(name)) => {
            follow("ServiceAccount", name, None);
        }
        ("priorityClassName", Value::String(name)) => {
            follow("PriorityClass", name, None);
        }
        ("serviceName", Value::String(name)) if kind == "StatefulSet" => {
            follow("Service", name, None);
        }
        ("subjects", Value::Array(list)) => list.iter_mut().for_each(|subject| account(subject, follow)),
        ("rules", Value::Array(rules)) => rules.iter_mut().for_each(|rule| allowed(rule, follow)),
        _ => {}
    }
    match value {
        Value::Object(fields) => fields.iter_mut().for_each(|(key, value)| visit(key, value, kind, follow)),
        Value::Array(list) => list.iter_mut().for_each(|value| visit("", value, kind, follow)),
        _ => {}
    }
}

/// A service account to which a role is given.
fn account(subject: &mut Value, follow: &mut impl FnMut(&str, &mut String, Option<&str>) -> Option<String>) {
    if text(subject, "/kind") != "ServiceAccount" {
        return;
    }
    let namespace = subject.get("namespace").and_then(Value::as_str).map(str::to_owned);
    let Some(Value::String(name)) = subject.get_mut("name") else { return };
    // One without a namespace is in that of the binding.
    if let Some(now) = follow("ServiceAccount", name, namespace.as_deref()).filter(|now| !now.is_empty()) {
        subject["namespace"] = now.into();
    }
}

/// The names that a rule of a role is for.
fn allowed(rule: &mut Value, follow: &mut impl FnMut(&str, &mut String, Option<&str>) -> Option<String>) {
    for (plural, wanted) in
        [("configmaps", "ConfigMap"), ("secrets", "Secret"), ("services", "Service"), ("serviceaccounts", "ServiceAccount")]
    {
        let meant = rule.get("resources").and_then(Value::as_array).is_some_and(|list| list.iter().any(|one| one == plural));
        let names = rule.get_mut("resourceNames").and_then(Value::as_array_mut).filter(|_| meant);
        for name in names.into_iter().flatten() {
            if let Value::String(name) = name {
                follow(wanted, name, None);
            }
        }
    }
}
