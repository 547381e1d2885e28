//! Documents as ownership sees them: fields in the order of their names, items under the step that leads to them. JSON trees and protobuf
//! encodings of compiled kinds answer alike, so that a stored object need not become a tree before it can be compared.

use std::collections::BTreeMap;

use bytes::Buf;
use prost::encoding::{WireType, decode_key, decode_varint};
use serde_json::Value;

use super::{
    path::{Name, Step},
    shape::{Place, Shape},
};
use crate::schema::{Cardinality, Field, FieldType, Message};

/// A value in a document.
pub(super) trait Document<'a>: Copy {
    /// True if both say the same.
    fn equals(self, other: Self) -> bool;
    /// The fields or entries of an object, in the order of their names; nothing if it is no object.
    fn fields<'s>(self, shape: Shape<'s>) -> Vec<(Name, Shape<'s>, Self)>;
    /// The items of a list, in the order of their steps; of several under one step only the first, with what is to be known of that.
    fn items<'s>(self, shape: Shape<'s>) -> Vec<Item<'s, Self>>;
}

/// An item of a list.
pub(super) struct Item<'s, D> {
    /// What leads to it.
    pub step: Step,
    /// How it is owned.
    pub shape: Shape<'s>,
    /// The items under this step: one, unless the list has duplicates.
    pub values: Vec<D>,
}

/// True if a value of this shape is owned as a whole, because it has no parts.
pub(super) fn is_leaf(shape: Shape<'_>, value: &Value) -> bool {
    matches!((shape, value), (Shape::Leaf, _) | (Shape::Untyped, Value::Array(_)))
        || !matches!(value, Value::Object(_) | Value::Array(_))
}

/// The step to an item of a keyed list; its place if it has none of the keys.
fn step_by_keys(place: &dyn Place, index: usize, mut value_of: impl FnMut(&str) -> Option<Value>) -> Step {
    let keys = (0..).map_while(|n| place.key(n));
    let found = keys.filter_map(|key| {
        let value = value_of(&key).or_else(|| place.key_default(&key))?;
        Some((key, value))
    });
    let found: Vec<_> = found.collect();
    if found.is_empty() { Step::Index(i64::try_from(index).unwrap_or(i64::MAX)) } else { Step::key(found) }
}

/// The step to an item of a list that has this shape.
pub(super) fn step_to(shape: Shape<'_>, index: usize, item: &Value) -> Step {
    match shape {
        Shape::Set => Step::Value(item.clone()),
        Shape::Keyed(place) => step_by_keys(place, index, |key| item.get(key).cloned()),
        _ => Step::Index(i64::try_from(index).unwrap_or(i64::MAX)),
    }
}

/// Brings items under one step together, in the order of the steps.
fn gather<'s, D>(items: impl Iterator<Item = (Step, D)>, shape: Shape<'s>) -> Vec<Item<'s, D>> {
    let mut found: BTreeMap<Step, Vec<D>> = BTreeMap::new();
    for (step, value) in items {
        found.entry(step).or_default().push(value);
    }
    found.into_iter().map(|(step, values)| Item { step, shape, values }).collect()
}

fn item_shape(shape: Shape<'_>) -> Shape<'_> {
    match shape {
        Shape::Keyed(place) => place.item(),
        _ => Shape::Leaf,
    }
}

// === JSON ===

impl<'a> Document<'a> for &'a Value {
    fn equals(self, other: Self) -> bool {
        self == other
    }

    fn fields<'s>(self, shape: Shape<'s>) -> Vec<(Name, Shape<'s>, Self)> {
        let Value::Object(map) = self else { return Vec::new() };
        let shape_of = |name: &str| match shape {
            Shape::Struct(place) => place.field(name).unwrap_or(Shape::Untyped),
            Shape::Map(place) => place.item(),
            _ => Shape::Untyped,
        };
        let fields = map.iter().map(|(name, value)| (Name::Owned(name.clone()), shape_of(name), value));
        let mut fields: Vec<_> = fields.collect();
        fields.sort_unstable_by(|(a, ..), (b, ..)| a.cmp(b));
        fields
    }

    fn items<'s>(self, shape: Shape<'s>) -> Vec<Item<'s, Self>> {
        let Value::Array(items) = self else { return Vec::new() };
        gather(items.iter().enumerate().map(|(i, item)| (step_to(shape, i, item), item)), item_shape(shape))
    }
}

// === protobuf ===

/// A value in the encoding of an object of a compiled kind, as this crate writes it: every field's occurrences beside each other, the
/// entries of maps in order.
#[derive(Clone, Copy, Debug)]
pub(super) enum Encoded<'a> {
    /// All occurrences of a repeated field with their tags.
    Repeated(&'static Field, &'a [u8]),
    /// The content of one value.
    One(FieldType, &'a [u8]),
}

impl<'a> Encoded<'a> {
    /// An object of this message.
    pub fn object(message: &'static Message, bytes: &'a [u8]) -> Self {
        Self::One(FieldType::Message(message), bytes)
    }

    const fn bytes(self) -> &'a [u8] {
        match self {
            Self::Repeated(_, bytes) | Self::One(_, bytes) => bytes,
        }
    }

    /// The scalar as JSON has it: what identifies an item is text or a number.
    fn to_value(self) -> Option<Value> {
        let Self::One(ty, mut bytes) = self else { return None };
        let mut int = || if bytes.is_empty() { Some(0) } else { decode_varint(&mut bytes).ok() };
        match ty {
            FieldType::String => Some(Value::from(String::from_utf8_lossy(bytes))),
            // Negative numbers are written as the 64 bits of their two's complement.
            FieldType::I32 | FieldType::I64 => Some(Value::from(int()?.cast_signed())),
            FieldType::Bool => Some(Value::from(int()? != 0)),
            _ => None,
        }
    }
}

/// One field as it stands in an encoding: its number, all of it with its tag, and the content alone.
type Raw<'a> = (u32, &'a [u8], &'a [u8]);

/// The next field; nothing at the end, or where the encoding is not well-formed.
fn next<'a>(bytes: &mut &'a [u8]) -> Option<Raw<'a>> {
    let whole = *bytes;
    let mut rest = whole;
    let (number, wire_type) = decode_key(&mut rest).ok()?;
    let length = match wire_type {
        WireType::Varint => {
            let mut after = rest;
            decode_varint(&mut after).ok()?;
            rest.len() - after.len()
        }
        WireType::SixtyFourBit => 8,
        WireType::ThirtyTwoBit => 4,
        WireType::LengthDelimited => usize::try_from(decode_varint(&mut rest).ok()?).ok()?,
        WireType::StartGroup | WireType::EndGroup => return None,
    };
    let content = rest.get(..length)?;
    rest.advance(length);
    *bytes = rest;
    Some((number, &whole[..whole.len() - rest.len()], content))
}

fn message_fields<'a>(message: &'static Message, mut bytes: &'a [u8], found: &mut Vec<(Name, Shape<'static>, Encoded<'a>)>) {
    // Fields are declared and written in the order of their numbers, but for a few.
    let mut from = 0;
    let mut seen = 0_u128;
    while !bytes.is_empty() {
        let start = bytes;
        let Some((number, _, mut content)) = next(&mut bytes) else { break };
        let fields = &message.fields;
        let Some(at) = (from..fields.len()).chain(0..from).find(|&i| fields[i].number == number) else { continue };
        from = at;
        if at < 128 {
            seen |= 1 << at;
        }
        let field = &fields[at];
        match (field.cardinality, field.ty) {
            (Cardinality::Singular, FieldType::Message(inner)) if field.inline => message_fields(inner, content, found),
            (Cardinality::Singular, ty) => {
                // Of a value that stands there twice the last counts; it is not written so.
                let mut ahead = bytes;
                while let Some((again, _, last)) = next(&mut ahead).filter(|(again, ..)| *again == number) {
                    debug_assert_eq!(again, number, "the same field again");
                    (content, bytes) = (last, ahead);
                }
                found.push((Name::Borrowed(field.json), field.shape(), Encoded::One(ty, content)));
            }
            (Cardinality::List | Cardinality::Map, _) => {
                let mut ahead = bytes;
                while next(&mut ahead).is_some_and(|(again, ..)| again == number) {
                    bytes = ahead;
                }
                let all = &start[..start.len() - bytes.len()];
                found.push((Name::Borrowed(field.json), field.shape(), Encoded::Repeated(field, all)));
            }
        }
    }
    for (at, field) in message.fields.iter().enumerate().filter(|(_, field)| field.always) {
        if at < 128 && seen & (1 << at) != 0 {
            continue;
        }
        match (field.cardinality, field.ty) {
            (Cardinality::Singular, ty) => {
                found.push((Name::Borrowed(field.json), field.shape(), Encoded::One(ty, &[])));
            }
            (Cardinality::List | Cardinality::Map, _) => {
                found.push((Name::Borrowed(field.json), field.shape(), Encoded::Repeated(field, &[])));
            }
        }
    }
}

/// A map's entry: key and value.
fn entry(mut bytes: &[u8]) -> (&str, &[u8]) {
    let (mut key, mut value): (&str, &[u8]) = ("", &[]);
    while let Some((number, _, content)) = next(&mut bytes) {
        match number {
            1 => key = std::str::from_utf8(content).unwrap_or_default(),
            2 => value = content,
            _ => {}
        }
    }
    (key, value)
}

impl<'a> Document<'a> for Encoded<'a> {
    fn equals(self, other: Self) -> bool {
        self.bytes() == other.bytes()
    }

    fn fields<'s>(self, _: Shape<'s>) -> Vec<(Name, Shape<'s>, Self)> {
        let mut found = Vec::new();
        match self {
            Self::One(FieldType::Message(message), bytes) => {
                found.reserve(16);
                message_fields(message, bytes, &mut found);
            }
            Self::Repeated(field, mut bytes) if field.cardinality == Cardinality::Map => {
                let shape = field.item();
                while let Some((_, _, content)) = next(&mut bytes) {
                    let (key, value) = entry(content);
                    found.push((Name::Owned(key.to_owned()), shape, Self::One(field.ty, value)));
                }
            }
            Self::One(..) | Self::Repeated(..) => {}
        }
        found.sort_unstable_by(|(a, ..), (b, ..)| a.cmp(b));
        found
    }

    fn items<'s>(self, shape: Shape<'s>) -> Vec<Item<'s, Self>> {
        let Self::Repeated(field, mut bytes) = self else { return Vec::new() };
        let mut items = Vec::new();
        while let Some((_, _, content)) = next(&mut bytes) {
            let item = Self::One(field.ty, content);
            let step = match (shape, field.ty) {
                (Shape::Keyed(place), FieldType::Message(message)) => {
                    step_by_keys(place, items.len(), |key| scalar(message, content, key))
                }
                _ => Step::Value(item.to_value().unwrap_or_default()),
            };
            items.push((step, item));
        }
        gather(items.into_iter(), item_shape(shape))
    }
}

/// The scalar in this field of an encoded message, as its JSON has it.
fn scalar(message: &'static Message, bytes: &[u8], name: &str) -> Option<Value> {
    for field in message.fields {
        match field.ty {
            FieldType::Message(inner) if field.inline => {
                let mut rest = bytes;
                let content = std::iter::from_fn(|| next(&mut rest)).find(|(number, ..)| *number == field.number);
                if let Some(value) = content.and_then(|(_, _, content)| scalar(inner, content, name)) {
                    return Some(value);
                }
            }
            ty if field.json == name => {
                let mut rest = bytes;
                let content = std::iter::from_fn(|| next(&mut rest)).filter(|(number, ..)| *number == field.number).last();
                return match content {
                    Some((_, _, content)) => Encoded::One(ty, content).to_value(),
                    None if field.always => Encoded::One(ty, &[]).to_value(),
                    None => None,
                };
            }
            _ => {}
        }
    }
    None
}
