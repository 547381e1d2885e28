//! Manifests in JSON: one or several values, a key given twice is an error.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{self, MapAccess, SeqAccess, Visitor},
};
use serde_json::{Map, Value};

use super::{Document, Lines, ManifestError, load};

/// A value in which no object has a key twice.
struct Strict(Value);

/// Reads JSON documents; `None` if the text starts like JSON but is written in YAML's wider form, such as `{a: b}`.
pub(super) fn parse(file: &str, text: &str) -> Result<Option<Vec<Document>>, ManifestError> {
    let mut documents = Vec::new();
    // The same text as YAML knows the lines; JSON that YAML reads otherwise goes without.
    let located = load::parse(file, text).ok();
    for (i, value) in serde_json::Deserializer::from_str(text).into_iter::<Strict>().enumerate() {
        match value {
            Ok(Strict(value)) => {
                let lines = match &located {
                    Some(found) => found.get(i).map(|d| d.lines.clone()).unwrap_or_default(),
                    None => Lines::default(),
                };
                let lines = Lines { line: lines.line.max(1), ..lines };
                documents.push(Document { value, number: i + 1, line: lines.line, lines });
            }
            Err(_) if located.is_some() && i == 0 => return Ok(None),
            Err(e) => {
                let message = e.to_string();
                // The position is told apart from the message.
                let message = message.rsplit_once(" at line ").map_or(message.as_str(), |(m, _)| m).to_owned();
                return Err(ManifestError { file: file.to_owned(), document: i + 1, line: e.line().max(1), message });
            }
        }
    }
    documents.retain(|d| !d.value.is_null());
    Ok(Some(documents))
}

impl<'de> Deserialize<'de> for Strict {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(StrictVisitor).map(Self)
    }
}

struct StrictVisitor;

impl<'de> Visitor<'de> for StrictVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_bool<E>(self, v: bool) -> Result<Value, E> {
        Ok(Value::Bool(v))
    }

    fn visit_i64<E>(self, v: i64) -> Result<Value, E> {
        Ok(v.into())
    }

    fn visit_u64<E>(self, v: u64) -> Result<Value, E> {
        Ok(v.into())
    }

    fn visit_f64<E>(self, v: f64) -> Result<Value, E> {
        Ok(v.into())
    }

    fn visit_str<E>(self, v: &str) -> Result<Value, E> {
        Ok(v.into())
    }

    fn visit_string<E>(self, v: String) -> Result<Value, E> {
        Ok(v.into())
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(Strict(item)) = items.next_element()? {
            list.push(item);
        }
        Ok(Value::Array(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some(key) = entries.next_key::<String>()? {
            let Strict(value) = entries.next_value()?;
            if map.contains_key(&key) {
                return Err(de::Error::custom(format!("key {key:?} is given twice")));
            }
            map.insert(key, value);
        }
        Ok(Value::Object(map))
    }
}
