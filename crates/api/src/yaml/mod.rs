//! Manifests: YAML or JSON text into JSON values that know their lines, and JSON values into YAML as `kubectl` prints it.
//!
//! Scalars are read as `kubectl` reads them (YAML 1.1: `yes`, `on` and `0644` are no text). Nothing is read without bounds: nesting,
//! what aliases expand to, and the size of the text are limited, and a key given twice is an error, not a choice.

mod json;
mod load;
mod scalar;
mod write;

use std::collections::BTreeMap;

use serde_json::Value;

pub use write::to_yaml;

/// Deepest nesting.
pub const MAX_DEPTH: usize = 200;
/// Most bytes that anchors and aliases may add to a file, its values reckoned with what they take in memory.
pub const MAX_ALIASED: usize = 16 << 20;
/// Greatest size of a file in bytes.
pub const MAX_SIZE: usize = 32 << 20;

/// Why a manifest cannot be read, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{file}: document {document}, line {line}: {message}")]
pub struct ManifestError {
    /// The file's name as the user gave it.
    pub file: String,
    /// Which of the file's documents, from 1.
    pub document: usize,
    /// Line in the file, from 1.
    pub line: usize,
    /// What is wrong and what would be right.
    pub message: String,
}

/// One document of a manifest.
#[derive(Clone, Debug)]
pub struct Document {
    /// What it says.
    pub value: Value,
    /// Which of the file's documents, from 1; empty ones count too.
    pub number: usize,
    /// Line where it starts, from 1.
    pub line: usize,
    lines: Lines,
}

/// Where a value and its parts stand.
#[derive(Clone, Debug, Default)]
struct Lines {
    line: usize,
    parts: Parts,
}

#[derive(Clone, Debug, Default)]
enum Parts {
    #[default]
    None,
    List(Vec<Lines>),
    Map(BTreeMap<String, Lines>),
}

/// Reads the documents of a file; empty ones are left out. `file` is the name that errors show.
///
/// # Errors
/// When the text is not UTF-8, neither YAML nor JSON, gives a key twice, or is past a bound; with document and line.
pub fn parse(file: &str, text: &[u8]) -> Result<Vec<Document>, ManifestError> {
    let error = |line, message| ManifestError { file: file.to_owned(), document: 1, line, message };
    if text.len() > MAX_SIZE {
        return Err(error(1, format!("the file has {} bytes; at most {MAX_SIZE} are read", text.len())));
    }
    let text = std::str::from_utf8(text).map_err(|e| {
        let line = text[..e.valid_up_to()].iter().filter(|b| **b == b'\n').count() + 1;
        error(line, "the text is not UTF-8".to_owned())
    })?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    // YAML holds JSON, but reads some of it otherwise (escapes, tabs); what starts like JSON is JSON if it can be.
    if text.trim_start().starts_with('{')
        && let Some(documents) = json::parse(file, text)?
    {
        return Ok(documents);
    }
    load::parse(file, text)
}

impl Document {
    /// The line in the file of the value at a path such as `spec.containers[0].image` or `metadata.labels[app]`, or, if there is no
    /// such value, of the nearest one around it.
    pub fn line_of(&self, path: &str) -> usize {
        let (mut here, mut rest) = (&self.lines, path);
        while let Some((next, tail)) = here.step(rest) {
            (here, rest) = (next, tail);
        }
        here.line
    }
}

impl Lines {
    /// The part that the path's first segment names, and the rest of the path.
    fn step<'p>(&self, path: &'p str) -> Option<(&Self, &'p str)> {
        match &self.parts {
            Parts::None => None,
            Parts::List(items) => {
                let (index, tail) = path.strip_prefix('[')?.split_once(']')?;
                Some((items.get(index.parse::<usize>().ok()?)?, tail))
            }
            Parts::Map(map) => {
                if let Some((key, tail)) = path.strip_prefix('[').and_then(|p| p.split_once(']')) {
                    return Some((map.get(key)?, tail));
                }
                // Keys may hold dots, so the longest key that fits is the one meant.
                let path = path.strip_prefix('.').unwrap_or(path);
                let fits = |tail: &&str| tail.is_empty() || tail.starts_with(['.', '[']);
                let candidates = map.iter().filter_map(|(k, v)| Some((k, v, path.strip_prefix(k.as_str()).filter(fits)?)));
                candidates.max_by_key(|(k, ..)| k.len()).map(|(_, v, tail)| (v, tail))
            }
        }
    }
}

#[cfg(test)]
mod tests;
