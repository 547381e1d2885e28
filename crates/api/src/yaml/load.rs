//! From parser events to documents: nesting, anchors, merge keys, lines, bounds.

use std::collections::{BTreeMap, HashMap};

use saphyr_parser::{Event, Parser, ScalarStyle, Span, StrInput, Tag};
use serde_json::{Map, Value};

use super::{Document, Lines, MAX_ALIASED, MAX_DEPTH, ManifestError, Parts, scalar};

/// The key that merges other mappings into its own.
const MERGE_KEY: &str = "<<";

/// What a value takes beside its text, in bytes.
const VALUE_WEIGHT: usize = 64;

/// A value with its lines and its size.
#[derive(Clone, Default)]
struct Node {
    value: Value,
    lines: Lines,
    /// Bytes that a copy takes, about.
    weight: usize,
    depth: usize,
    /// A plain `<<`.
    is_merge_key: bool,
}

/// A collection whose end has not been seen.
enum Open {
    List { anchor: usize, line: usize, items: Vec<Node> },
    Map { anchor: usize, line: usize, entries: Entries, key: Option<Node> },
}

#[derive(Default)]
struct Entries {
    values: BTreeMap<String, Node>,
    merged: Vec<Node>,
}

struct Loader<'a> {
    file: &'a str,
    document: usize,
    open: Vec<Open>,
    anchors: HashMap<usize, Node>,
    /// Weight of all copies made so far.
    copied: usize,
    root: Option<Node>,
}

pub(super) fn parse(file: &str, text: &str) -> Result<Vec<Document>, ManifestError> {
    let mut loader = Loader { file, document: 0, open: Vec::new(), anchors: HashMap::new(), copied: 0, root: None };
    let mut documents = Vec::new();
    let mut parser: Parser<'_, StrInput<'_>> = Parser::new_from_str(text);
    while let Some(event) = parser.next_event() {
        let (event, span) = event.map_err(|e| {
            let error = loader.error(e.marker().line(), e.info());
            ManifestError { document: error.document.max(1), ..error }
        })?;
        if matches!(event, Event::StreamEnd) {
            break;
        }
        documents.extend(loader.event(event, span)?);
    }
    Ok(documents)
}

impl Loader<'_> {
    fn error(&self, line: usize, message: impl Into<String>) -> ManifestError {
        ManifestError { file: self.file.to_owned(), document: self.document, line: line.max(1), message: message.into() }
    }

    /// Takes one event; gives the document that ends with it.
    fn event(&mut self, event: Event<'_>, span: Span) -> Result<Option<Document>, ManifestError> {
        let line = span.start.line();
        match event {
            Event::DocumentStart(_) => {
                self.document += 1;
                self.anchors.clear();
            }
            Event::DocumentEnd => {
                let root = self.root.take().filter(|root| !root.value.is_null());
                return Ok(root.map(|root| Document {
                    line: root.lines.line,
                    value: root.value,
                    number: self.document,
                    lines: root.lines,
                }));
            }
            Event::Scalar(text, style, anchor, tag) => {
                let is_merge_key = style == ScalarStyle::Plain && tag.is_none() && text == MERGE_KEY;
                let value = self.scalar(&text, style, tag.as_deref(), line)?;
                let lines = Lines { line, parts: Parts::None };
                self.add(Node { value, lines, weight: VALUE_WEIGHT + text.len(), depth: 1, is_merge_key }, anchor)?;
            }
            Event::Alias(anchor) => {
                let known = self.anchors.get(&anchor).map(|node| node.weight);
                let weight = known.ok_or_else(|| self.error(line, "the alias refers to itself or to nothing"))?;
                self.copy(weight, line)?;
                let node = self.anchors.get(&anchor).cloned().unwrap_or_default();
                self.add(Node { is_merge_key: false, ..node }, 0)?;
            }
            Event::SequenceStart(anchor, _) => self.open(Open::List { anchor, line, items: Vec::new() }, line)?,
            Event::MappingStart(anchor, _) => {
                self.open(Open::Map { anchor, line, entries: Entries::default(), key: None }, line)?;
            }
            Event::SequenceEnd | Event::MappingEnd => self.close()?,
            _ => {}
        }
        Ok(None)
    }

    fn scalar(&self, text: &str, style: ScalarStyle, tag: Option<&Tag>, line: usize) -> Result<Value, ManifestError> {
        let resolved = match tag {
            Some(tag) if tag.is_yaml_core_schema() => scalar::tagged(text, &tag.suffix),
            _ if style == ScalarStyle::Plain => scalar::plain(text),
            _ => Ok(Value::String(text.to_owned())),
        };
        resolved.map_err(|message| self.error(line, message))
    }

    /// Accounts for a copy that is about to be made.
    fn copy(&mut self, weight: usize, line: usize) -> Result<(), ManifestError> {
        self.copied = self.copied.saturating_add(weight);
        if self.copied > MAX_ALIASED {
            return Err(self.error(line, format!("aliases expand to more than {MAX_ALIASED} bytes")));
        }
        Ok(())
    }

    fn open(&mut self, open: Open, line: usize) -> Result<(), ManifestError> {
        self.open.push(open);
        if self.open.len() > MAX_DEPTH {
            return Err(self.error(line, format!("nested more than {MAX_DEPTH} deep")));
        }
        Ok(())
    }

    fn close(&mut self) -> Result<(), ManifestError> {
        let Some(open) = self.open.pop() else { return Ok(()) };
        let (anchor, line, value, parts, weight, depth) = match open {
            Open::List { anchor, line, items } => {
                let (weight, depth) = measure(items.iter());
                let (values, lines) = items.into_iter().map(|node| (node.value, node.lines)).unzip();
                (anchor, line, Value::Array(values), Parts::List(lines), weight, depth)
            }
            Open::Map { anchor, line, entries, .. } => {
                let nodes = self.merge(entries, line)?;
                let (weight, depth) = measure(nodes.values());
                let weight = nodes.keys().fold(weight, |sum, key| sum.saturating_add(key.len()));
                let (mut map, mut lines) = (Map::new(), BTreeMap::new());
                for (key, node) in nodes {
                    map.insert(key.clone(), node.value);
                    lines.insert(key, node.lines);
                }
                (anchor, line, Value::Object(map), Parts::Map(lines), weight, depth)
            }
        };
        self.add(Node { value, lines: Lines { line, parts }, weight, depth, is_merge_key: false }, anchor)
    }

    /// The entries with those of merged mappings that they do not have themselves.
    fn merge(&self, entries: Entries, line: usize) -> Result<BTreeMap<String, Node>, ManifestError> {
        let Entries { mut values, merged } = entries;
        let mut sources = Vec::new();
        for node in merged {
            match (node.value, node.lines.parts) {
                (Value::Array(items), Parts::List(lines)) => sources.extend(items.into_iter().zip(lines)),
                (value, parts) => sources.push((value, Lines { line: node.lines.line, parts })),
            }
        }
        for source in sources {
            let (Value::Object(map), Lines { parts: Parts::Map(mut lines), .. }) = source else {
                return Err(self.error(line, "<< merges a mapping or a list of mappings"));
            };
            for (key, value) in map {
                let lines = lines.remove(&key).unwrap_or_default();
                let (weight, depth) = size(&value);
                values.entry(key).or_insert(Node { value, lines, weight, depth, is_merge_key: false });
            }
        }
        Ok(values)
    }

    /// Puts a finished value where it belongs.
    fn add(&mut self, node: Node, anchor: usize) -> Result<(), ManifestError> {
        let line = node.lines.line;
        if self.open.len() + node.depth > MAX_DEPTH + 1 {
            return Err(self.error(line, format!("nested more than {MAX_DEPTH} deep")));
        }
        if anchor > 0 {
            self.copy(node.weight, line)?;
            self.anchors.insert(anchor, node.clone());
        }
        let problem = match self.open.last_mut() {
            None => {
                self.root = Some(node);
                None
            }
            Some(Open::List { items, .. }) => {
                items.push(node);
                None
            }
            Some(Open::Map { entries, key, .. }) => match key.take() {
                None => {
                    *key = Some(node);
                    None
                }
                Some(key) => insert(entries, key, node),
            },
        };
        problem.map_or(Ok(()), |(line, message)| Err(self.error(line, message)))
    }
}

/// Adds an entry to a mapping, or says what is wrong with it, and where.
fn insert(entries: &mut Entries, key: Node, mut node: Node) -> Option<(usize, String)> {
    if key.is_merge_key {
        entries.merged.push(node);
        return None;
    }
    let line = key.lines.line;
    let key = match key.value {
        Value::String(text) => text,
        Value::Bool(_) | Value::Number(_) | Value::Null => key.value.to_string(),
        _ => return Some((line, "a list or mapping cannot be a key".to_owned())),
    };
    if let Some(first) = entries.values.get(&key) {
        return Some((line, format!("key {key:?} is given twice, first in line {}", first.lines.line)));
    }
    // What is wrong with a field is shown at its key.
    node.lines.line = line;
    entries.values.insert(key, node);
    None
}

fn measure<'n>(nodes: impl Iterator<Item = &'n Node>) -> (usize, usize) {
    nodes.fold((VALUE_WEIGHT, 1), |(weight, depth), node| (weight.saturating_add(node.weight), depth.max(node.depth + 1)))
}

/// Weight of a value, and how deep it nests. Only for what passed the bound on depth.
fn size(value: &Value) -> (usize, usize) {
    let add = |(weight, depth): (usize, usize), (w, d): (usize, usize)| (weight.saturating_add(w), depth.max(d + 1));
    match value {
        Value::Array(items) => items.iter().map(size).fold((VALUE_WEIGHT, 1), add),
        Value::Object(map) => {
            let keys: usize = map.keys().map(String::len).sum();
            map.values().map(size).fold((VALUE_WEIGHT + keys, 1), add)
        }
        Value::String(text) => (VALUE_WEIGHT + text.len(), 1),
        _ => (VALUE_WEIGHT, 1),
    }
}
