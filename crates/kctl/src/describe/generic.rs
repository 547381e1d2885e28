//! Objects described from their fields alone, and the two kinds of plain data.

use api::Kind;
use serde_json::Value;

use super::{labels_and_annotations, or_none, text::Text};
use crate::objects::{members, text};

/// Fields of `metadata` that are shown on their own, or say nothing to people.
const METADATA: [&str; 5] = ["name", "namespace", "labels", "annotations", "managedFields"];

/// Describes an object of any kind.
pub fn describe(out: &mut Text, kind: &Kind, object: &Value) {
    out.field(0, "Name", text(object, "/metadata/name"));
    if kind.namespaced {
        out.field(0, "Namespace", text(object, "/metadata/namespace"));
    }
    labels_and_annotations(out, object);
    // By name, as kubectl has them.
    let mut fields: Vec<(&str, &Value)> = members(object, "");
    let (api_version, own_kind) = (Value::from(&*kind.api_version), Value::from(&*kind.kind));
    fields.retain(|(key, _)| !matches!(*key, "apiVersion" | "kind"));
    fields.extend([("apiVersion", &api_version), ("kind", &own_kind)]);
    fields.sort_by_key(|(key, _)| *key);
    for (key, value) in fields {
        if key != "metadata" {
            member(out, 0, key, value);
            continue;
        }
        out.line(0, "Metadata:");
        for (key, value) in members(object, "/metadata").into_iter().filter(|(key, _)| !METADATA.contains(key)) {
            member(out, 1, key, value);
        }
    }
}

fn member(out: &mut Text, level: usize, key: &str, value: &Value) {
    let title = title(key);
    match value {
        Value::Object(map) if map.is_empty() => out.field(level, &title, ""),
        Value::Object(map) => {
            out.line(level, format!("{title}:"));
            map.iter().for_each(|(key, value)| member(out, level + 1, key, value));
        }
        Value::Array(items) if items.iter().any(Value::is_object) => {
            out.line(level, format!("{title}:"));
            for (i, item) in items.iter().enumerate() {
                if i > 0 {
                    out.line(0, "");
                }
                members(item, "").into_iter().for_each(|(key, value)| member(out, level + 1, key, value));
            }
        }
        Value::Array(items) => {
            out.line(level, format!("{title}:"));
            items.iter().for_each(|item| out.line(level + 1, api::jsonpath::text(item)));
        }
        scalar => out.field(level, &title, api::jsonpath::text(scalar)),
    }
}

/// Words that are written in capitals.
const ACRONYMS: [&str; 4] = ["API", "GUID", "UID", "URL"];

/// `podCIDR` as `Pod CIDR`, `apiVersion` as `API Version`. Keys that are data, such as labels, stay as they are.
pub fn title(key: &str) -> String {
    if !key.chars().all(|c| c.is_ascii_alphanumeric()) {
        return key.to_owned();
    }
    let chars: Vec<char> = key.chars().collect();
    let mut out = String::new();
    for (i, c) in chars.iter().enumerate() {
        let after_lower = i > 0 && chars[i - 1].is_ascii_lowercase();
        // The plural of an abbreviation is one word.
        let plural = chars.get(i + 1..) == Some(&['s']);
        let before_lower =
            i > 0 && chars[i - 1].is_ascii_uppercase() && chars.get(i + 1).is_some_and(char::is_ascii_lowercase) && !plural;
        if c.is_ascii_uppercase() && (after_lower || before_lower) {
            out.push(' ');
        }
        if i == 0 { out.extend(c.to_uppercase()) } else { out.push(*c) }
    }
    let word = |word: &str| {
        let upper = word.to_uppercase();
        if ACRONYMS.contains(&upper.as_str()) { upper } else { word.to_owned() }
    };
    out.split(' ').map(word).collect::<Vec<_>>().join(" ")
}

/// Describes a ConfigMap with all its data.
pub fn config_map(out: &mut Text, object: &Value) {
    head(out, object);
    out.line(0, "");
    out.line(0, "Data");
    out.line(0, "====");
    for (key, value) in members(object, "/data") {
        out.line(0, format!("{key}:"));
        out.line(0, "----");
        api::jsonpath::text(value).lines().for_each(|line| out.line(0, line.replace('\t', "    ")));
        out.line(0, "");
    }
    out.line(0, "");
    out.line(0, "BinaryData");
    out.line(0, "====");
    for (key, value) in members(object, "/binaryData") {
        out.line(0, format!("{key}: {} bytes", decoded_length(value)));
    }
    out.line(0, "");
}

/// Describes a Secret without showing what it holds.
pub fn secret(out: &mut Text, object: &Value) {
    head(out, object);
    out.line(0, "");
    out.field(0, "Type", or_none(text(object, "/type")));
    out.line(0, "");
    out.line(0, "Data");
    out.line(0, "====");
    for (key, value) in members(object, "/data") {
        out.field(0, key, format!("{} bytes", decoded_length(value)));
    }
}

fn head(out: &mut Text, object: &Value) {
    out.field(0, "Name", text(object, "/metadata/name"));
    out.field(0, "Namespace", text(object, "/metadata/namespace"));
    labels_and_annotations(out, object);
}

/// Length of what base64 text stands for.
fn decoded_length(value: &Value) -> usize {
    let text = value.as_str().unwrap_or_default();
    let padding = text.bytes().rev().take_while(|byte| *byte == b'=').count();
    (text.len() / 4 * 3).saturating_sub(padding)
}

#[cfg(test)]
mod tests {
    use api::{Resource as _, coordination::v1::Lease};
    use serde_json::json;

    use super::*;

    #[test]
    fn any_object_is_described_from_its_fields() {
        let mut out = Text::default();
        let object = json!({"metadata": {"name": "a", "namespace": "d", "uid": "u", "labels": {"x/y": "z"}},
            "spec": {"holderIdentity": "me", "podCIDRs": ["a", "b"], "items": [{"aB": 1}, {"aB": 2}]}});
        describe(&mut out, Lease::KIND, &object);
        assert_eq!(
            out.render(),
            "Name:         a\nNamespace:    d\nLabels:       x/y=z\nAnnotations:  <none>\nAPI Version:  coordination.k8s.io/v1\n\
             Kind:         Lease\nMetadata:\n  UID:  u\nSpec:\n  Holder Identity:  me\n  Items:\n    A B:  1\n\n    A B:  2\n  Pod CIDRs:\n    a\n    b\n"
        );
    }

    #[test]
    fn a_secret_is_never_shown() {
        let mut out = Text::default();
        secret(&mut out, &json!({"metadata": {"name": "s"}, "type": "Opaque", "data": {"k": "aGVsbG8="}}));
        let text = out.render();
        assert!(text.contains("k:  5 bytes") && !text.contains("aGVs"), "{text}");
    }
}
