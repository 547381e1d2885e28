//! `FieldsV1`: field sets as JSON, byte for byte in upstream's form and order.

use std::{borrow::Cow, cmp::Ordering, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{self, DeserializeSeed, IgnoredAny, MapAccess, Visitor},
};
use serde_json::Value;

use super::{
    path::{Name, Step},
    set::{FieldSet, Node},
};
use crate::meta::v1::FieldsV1;

impl FieldSet {
    /// Reads `FieldsV1`. Empty text is an empty set.
    ///
    /// # Errors
    /// When the text is no JSON, or not of the form, with what is wrong and where.
    pub fn decode(fields: &[u8]) -> Result<Self, serde_json::Error> {
        if fields.is_empty() {
            return Ok(Self::default());
        }
        Ok(serde_json::from_slice::<Node>(fields)?.children)
    }

    /// How many places of this set are in the encoded one, told without making that; `None` if it cannot be read.
    pub(super) fn common(fields: &[u8], set: &Self) -> Option<usize> {
        let mut json = serde_json::Deserializer::from_slice(fields);
        Common(set).deserialize(&mut json).ok().map(|(_, common)| common)
    }

    /// The set as `FieldsV1`.
    pub fn encode(&self) -> FieldsV1 {
        let mut text = String::with_capacity(256);
        write_set(&mut text, self, false);
        FieldsV1 { raw: text.into() }
    }
}

fn write_set(out: &mut String, set: &FieldSet, member: bool) {
    out.push('{');
    if member {
        out.push_str("\".\":{}");
    }
    for (i, (step, node)) in set.nodes.iter().enumerate() {
        if i > 0 || member {
            out.push(',');
        }
        write_step(out, step);
        out.push(':');
        match node.children.is_empty() {
            // A place without parts is itself in the set.
            true => out.push_str("{}"),
            false => write_set(out, &node.children, node.member),
        }
    }
    out.push('}');
}

fn write_step(out: &mut String, step: &Step) {
    match step {
        Step::Field(name) if is_plain(name) => {
            out.push_str("\"f:");
            out.push_str(name);
            out.push('"');
        }
        Step::Field(name) => write_text(out, &format!("f:{name}")),
        Step::Key(keys) => {
            let mut text = String::from("k:{");
            for (i, (name, value)) in keys.iter().enumerate() {
                if i > 0 {
                    text.push(',');
                }
                write_text(&mut text, name);
                text.push(':');
                write_value(&mut text, value);
            }
            text.push('}');
            write_text(out, &text);
        }
        Step::Value(value) => {
            let mut text = String::from("v:");
            write_value(&mut text, value);
            write_text(out, &text);
        }
        Step::Index(index) => write_text(out, &format!("i:{index}")),
    }
}

/// True if the text stands in JSON as it is.
fn is_plain(text: &str) -> bool {
    text.bytes().all(|b| b >= b' ' && b != b'"' && b != b'\\')
}

fn write_text(out: &mut String, text: &str) {
    if is_plain(text) {
        out.push('"');
        out.push_str(text);
        out.push('"');
    } else {
        write_value(out, &Value::from(text));
    }
}

fn write_value(out: &mut String, value: &Value) {
    out.push_str(&value.to_string());
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        d.deserialize_map(Nodes)
    }
}

struct Nodes;

impl<'de> Visitor<'de> for Nodes {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object whose keys are \".\" or begin with f:, k:, v: or i:")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Node, A::Error> {
        let mut node = Node::default();
        let mut sorted = true;
        while let Some(Text(key)) = map.next_key()? {
            if key == "." {
                map.next_value::<IgnoredAny>()?;
                node.member = true;
                continue;
            }
            let step = read_step(&key).map_err(de::Error::custom)?;
            let mut child: Node = map.next_value()?;
            // A place without parts is itself in the set.
            child.member |= child.children.is_empty();
            sorted &= node.children.nodes.last().is_none_or(|(last, _)| *last < step);
            node.children.nodes.push((step, child));
        }
        if !sorted {
            let nodes = std::mem::take(&mut node.children.nodes);
            for (step, child) in nodes {
                node.children = node.children.union(&FieldSet { nodes: vec![(step, child)] });
            }
        }
        Ok(node)
    }
}

/// Counts the places of this set that are in an encoded one; says too whether the place that is read is itself in that.
struct Common<'s>(&'s FieldSet);

impl<'de> DeserializeSeed<'de> for Common<'_> {
    type Value = (bool, usize);

    fn deserialize<D: Deserializer<'de>>(self, d: D) -> Result<Self::Value, D::Error> {
        d.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Common<'_> {
    type Value = (bool, usize);

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a field set")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let nodes = &self.0.nodes;
        let only_fields = nodes.iter().all(|(step, _)| matches!(step, Step::Field(_)));
        let named = |name: &str| {
            let at = nodes.binary_search_by(|(step, _)| match step {
                Step::Field(field) => (**field).cmp(name),
                _ => Ordering::Greater,
            });
            at.ok().and_then(|at| nodes.get(at)).map(|(_, node)| node)
        };
        let (mut member, mut empty, mut common) = (false, true, 0);
        while let Some(Text(key)) = map.next_key()? {
            empty = false;
            member |= key == ".";
            let node = match key.strip_prefix("f:") {
                Some(name) => named(name),
                None if only_fields || key == "." => None,
                None => self.0.node(&read_step(&key).map_err(de::Error::custom)?),
            };
            match node {
                Some(node) => {
                    let (is_in, below) = map.next_value_seed(Common(&node.children))?;
                    common += below + usize::from(is_in && node.member);
                }
                None => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok((member || empty, common))
    }
}

/// Text that is copied only where it has escapes.
struct Text<'a>(Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for Text<'a> {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct Texts;
        impl<'de> Visitor<'de> for Texts {
            type Value = Text<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("text")
            }

            fn visit_borrowed_str<E: de::Error>(self, text: &'de str) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Borrowed(text)))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Owned(text.to_owned())))
            }
        }
        d.deserialize_str(Texts)
    }
}

/// Reads one key of `FieldsV1`.
fn read_step(key: &str) -> Result<Step, String> {
    let json = |text: &str| serde_json::from_str::<Value>(text).map_err(|e| format!("{key:?}: {e}"));
    match key.split_at_checked(2) {
        Some(("f:", name)) => Ok(Step::Field(Name::Owned(name.to_owned()))),
        Some(("v:", value)) => Ok(Step::Value(json(value)?)),
        Some(("i:", index)) => index.parse().map(Step::Index).map_err(|e| format!("{key:?}: {e}")),
        Some(("k:", keys)) => match json(keys)? {
            Value::Object(map) if !map.is_empty() => {
                Ok(Step::key(map.into_iter().map(|(name, value)| (Name::Owned(name), value)).collect()))
            }
            _ => Err(format!("{key:?}: an object with the item's keys is wanted after k:")),
        },
        _ => Err(format!("{key:?}: a key of a field set is \".\" or begins with f:, k:, v: or i:")),
    }
}
