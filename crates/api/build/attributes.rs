//! Serde attributes for prost's types, so that their JSON is upstream's.

use crate::model::{Cardinality, Field, Message, Type};

/// Adds derives and field attributes for every message that has JSON.
pub fn apply(config: &mut prost_build::Config, messages: &[Message]) {
    for m in messages.iter().filter(|m| m.has_json && m.odd.is_none()) {
        config.message_attribute(&m.name, "#[derive(serde::Serialize, serde::Deserialize)]\n#[serde(default)]");
        for f in &m.fields {
            let proto_name = f.rust.trim_start_matches("r#");
            config.field_attribute(format!("{}.{proto_name}", m.name), attribute(f, messages));
        }
    }
}

fn attribute(f: &Field, messages: &[Message]) -> String {
    if f.options.inline {
        return "#[serde(flatten, deserialize_with = \"crate::json::inline\")]".to_owned();
    }
    let mut parts = vec![format!("rename = \"{}\"", f.json)];
    // What upstream holds by value is always there: objects as `{}`, numbers-or-text as 0, durations as 0s (but times as null).
    let by_value = |m: &Message| matches!(m.odd, None | Some("IntOrString" | "Duration"));
    let is_object = matches!(&f.ty, Type::Message(name) if messages.iter().any(|m| m.name == *name && by_value(m)));
    if f.ty == Type::F64 {
        parts.push("serialize_with = \"crate::json::number\"".to_owned());
    }
    match (f.cardinality, &f.ty) {
        (Cardinality::Map, Type::Bytes) => parts.push("with = \"crate::json::base64_map\"".to_owned()),
        (Cardinality::Plain, Type::Bytes) => parts.push("with = \"crate::json::base64_bytes\"".to_owned()),
        (Cardinality::Map, _) => parts.push("deserialize_with = \"crate::json::map\"".to_owned()),
        (Cardinality::Optional, _) if f.options.required && is_object => {
            parts.push("serialize_with = \"crate::json::or_empty\"".to_owned());
        }
        (Cardinality::Optional, _) => {}
        _ => parts.push("deserialize_with = \"crate::json::null_as_default\"".to_owned()),
    }
    if !f.options.required {
        parts.push(format!("skip_serializing_if = \"{}\"", skip(f)));
    }
    format!("#[serde({})]", parts.join(", "))
}

fn skip(f: &Field) -> &'static str {
    match (f.cardinality, &f.ty) {
        (Cardinality::Optional, _) => "Option::is_none",
        (Cardinality::List, _) => "Vec::is_empty",
        (Cardinality::Map, _) => "std::collections::BTreeMap::is_empty",
        (Cardinality::Plain, _) => "crate::json::is_default",
    }
}
