//! Manifests in JSON: one or several values, a key given twice is an error.

use serde::{Deserialize, Deserializer, de::DeserializeSeed};
use serde_json::Value;

use super::{Document, Lines, ManifestError, load};
use crate::{rules::Path, tree::Tree};

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
        let mut refuse = |key: &str, _: &Path<'_>| Err(format!("key {key:?} is given twice"));
        Tree { at: &Path::root(), on_duplicate: &mut refuse }.deserialize(deserializer).map(Self)
    }
}
