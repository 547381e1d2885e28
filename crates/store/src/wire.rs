//! Protobuf at wire level: finding fields in encoded objects without decoding them.
//!
//! Everything here borrows from the encoded bytes. Malformed input never panics: iteration yields an
//! error and stops, lookups treat what follows a broken field as absent.
//! *Invariant:* where a field occurs several times, the readers answer as a decoder would after merging.

use std::borrow::Cow;

use bytes::Bytes;
use thiserror::Error;

/// Field numbers of `k8s.io.apimachinery.pkg.apis.meta.v1.ObjectMeta`.
pub mod object_meta {
    /// `metadata` in every object.
    pub const IN_OBJECT: u32 = 1;
    /// `metadata.uid`.
    pub const UID: u32 = 5;
    /// `metadata.resourceVersion`.
    pub const RESOURCE_VERSION: u32 = 6;
    /// `metadata.labels`, a map entry each.
    pub const LABELS: u32 = 11;
    /// `metadata.annotations`, a map entry each.
    pub const ANNOTATIONS: u32 = 12;
    /// `metadata.ownerReferences`.
    pub const OWNER_REFERENCES: u32 = 13;
    /// `uid` inside an owner reference.
    pub const OWNER_UID: u32 = 4;
}

/// Most bytes that [`put_resource_version`] appends: two tags, two lengths, twenty characters.
pub const MAX_RESOURCE_VERSION: usize = 24;

/// The largest field number protobuf knows.
const MAX_FIELD: u64 = (1 << 29) - 1;

/// Why bytes are no protobuf message.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum WireError {
    /// The message ends inside a field.
    #[error("message ends inside the field at byte {at}")]
    Truncated {
        /// Offset of the field's tag.
        at: usize,
    },
    /// A number of more than ten bytes.
    #[error("number too long at byte {at}")]
    Overlong {
        /// Offset of the field's tag.
        at: usize,
    },
    /// A field number of zero or beyond protobuf's range, or a wire type other than 0, 1, 2 and 5.
    #[error("invalid tag at byte {at}")]
    InvalidTag {
        /// Offset of the tag.
        at: usize,
    },
}

/// The undecoded value of a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value<'a> {
    /// int32, int64, uint32, uint64, sint32, sint64, bool, enum.
    Varint(u64),
    /// fixed64, sfixed64, double.
    Fixed64(u64),
    /// string, bytes, message, packed.
    Bytes(&'a [u8]),
    /// fixed32, sfixed32, float.
    Fixed32(u32),
}

impl<'a> Value<'a> {
    /// The bytes of a length-delimited field, nothing for other wire types.
    pub fn bytes(self) -> Option<&'a [u8]> {
        match self {
            Value::Bytes(b) => Some(b),
            _ => None,
        }
    }

    /// The text of a string field, nothing if it is no valid UTF-8.
    pub fn text(self) -> Option<&'a str> {
        self.bytes().and_then(|b| std::str::from_utf8(b).ok())
    }
}

/// One field of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field<'a> {
    /// Its number, at least 1.
    pub number: u32,
    /// Its value.
    pub value: Value<'a>,
    /// Offset of its tag in the message.
    pub start: usize,
    /// Offset of the byte after it in the message. A length-delimited value ends here too.
    pub end: usize,
}

/// Iterator over the fields of a message in wire order; ends after the first error.
#[derive(Clone, Debug)]
pub struct Fields<'a> {
    message: &'a [u8],
    at: usize,
}

/// The fields of `message`, in wire order.
pub fn fields(message: &[u8]) -> Fields<'_> {
    Fields { message, at: 0 }
}

/// The value at a path of field numbers: the last occurrence, as a decoder would keep it.
pub fn last<'a>(message: &'a [u8], path: &[u32]) -> Option<Value<'a>> {
    let (number, rest) = path.split_first()?;
    let mut found = None;
    for field in fields(message).map_while(Result::ok).filter(|f| f.number == *number) {
        if rest.is_empty() {
            found = Some(field.value);
        } else if let Some(inner) = field.value.bytes().and_then(|inner| last(inner, rest)) {
            found = Some(inner);
        }
    }
    found
}

/// The text at a path of field numbers; empty if it is absent or no valid UTF-8.
pub fn text<'a>(message: &'a [u8], path: &[u32]) -> &'a str {
    last(message, path).and_then(Value::text).unwrap_or_default()
}

/// The length-delimited values of a repeated field, in wire order.
pub fn repeated(message: &[u8], number: u32) -> impl Iterator<Item = &[u8]> + '_ {
    fields(message).map_while(Result::ok).filter(move |f| f.number == number).filter_map(|f| f.value.bytes())
}

/// The entries of a `map<string, string>` field, in wire order (a later entry overrides an earlier one).
pub fn string_map(message: &[u8], number: u32) -> impl Iterator<Item = (&str, &str)> + '_ {
    repeated(message, number).map(|entry| (text(entry, &[1]), text(entry, &[2])))
}

/// Number of bytes that `value` takes as a varint.
pub const fn varint_len(value: u64) -> usize {
    if value == 0 { 1 } else { (70 - value.leading_zeros() as usize) / 7 }
}

/// Appends `value` as a varint.
pub fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Appends a length-delimited field.
pub fn put_bytes(out: &mut Vec<u8>, number: u32, value: &[u8]) {
    put_varint(out, u64::from(number) << 3 | 2);
    put_varint(out, value.len() as u64);
    out.extend_from_slice(value);
}

/// Number of bytes [`put_bytes`] appends.
pub const fn bytes_field_len(number: u32, len: usize) -> usize {
    varint_len((number as u64) << 3) + varint_len(len as u64) + len
}

/// Appends `metadata{resourceVersion}`, which sets the resource version of the object before it when decoded.
pub fn put_resource_version(out: &mut Vec<u8>, revision: i64) {
    let digits = revision.to_string();
    let inner = bytes_field_len(object_meta::RESOURCE_VERSION, digits.len());
    put_varint(out, u64::from(object_meta::IN_OBJECT) << 3 | 2);
    put_varint(out, inner as u64);
    put_bytes(out, object_meta::RESOURCE_VERSION, digits.as_bytes());
}

/// A copy of an encoded object with this resource version.
pub fn with_resource_version(object: &[u8], revision: i64) -> Bytes {
    let mut out = Vec::with_capacity(object.len() + MAX_RESOURCE_VERSION);
    out.extend_from_slice(object);
    put_resource_version(&mut out, revision);
    out.into()
}

/// `object` with at most one `metadata` field, which lacks `resourceVersion`; borrowed when it already is so.
///
/// Several `metadata` fields are joined into one, which decodes to the same object.
///
/// # Errors
/// The object or its metadata is no protobuf message.
pub fn normalized(object: &[u8]) -> Result<Cow<'_, [u8]>, WireError> {
    let (mut metadata, mut occurrences, mut dirty) = (Vec::new(), 0, false);
    for field in fields(object) {
        let field = field?;
        if let (object_meta::IN_OBJECT, Value::Bytes(inner)) = (field.number, field.value) {
            occurrences += 1;
            for meta in fields(inner) {
                dirty |= meta?.number == object_meta::RESOURCE_VERSION;
            }
        }
    }
    if occurrences <= 1 && !dirty {
        return Ok(Cow::Borrowed(object));
    }
    let mut rest = Vec::with_capacity(object.len());
    for field in fields(object) {
        let field = field?;
        match (field.number, field.value) {
            (object_meta::IN_OBJECT, Value::Bytes(inner)) => {
                for meta in fields(inner) {
                    let meta = meta?;
                    if meta.number != object_meta::RESOURCE_VERSION {
                        metadata.extend_from_slice(&inner[meta.start..meta.end]);
                    }
                }
            }
            _ => rest.extend_from_slice(&object[field.start..field.end]),
        }
    }
    let mut out = Vec::with_capacity(object.len());
    put_bytes(&mut out, object_meta::IN_OBJECT, &metadata);
    out.append(&mut rest);
    Ok(Cow::Owned(out))
}

// === impl Fields ===

impl<'a> Fields<'a> {
    fn varint(&mut self, tag: usize) -> Result<u64, WireError> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = *self.message.get(self.at).ok_or(WireError::Truncated { at: tag })?;
            self.at += 1;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(WireError::Overlong { at: tag })
    }

    fn take(&mut self, len: u64, tag: usize) -> Result<&'a [u8], WireError> {
        let rest = &self.message[self.at..];
        let len = usize::try_from(len).map_err(|_| WireError::Truncated { at: tag })?;
        let taken = rest.get(..len).ok_or(WireError::Truncated { at: tag })?;
        self.at += len;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self, tag: usize) -> Result<[u8; N], WireError> {
        let bytes = self.take(N as u64, tag)?;
        bytes.try_into().map_err(|_| WireError::Truncated { at: tag })
    }

    fn field(&mut self) -> Result<Field<'a>, WireError> {
        let start = self.at;
        let tag = self.varint(start)?;
        let number = tag >> 3;
        if number == 0 || number > MAX_FIELD {
            return Err(WireError::InvalidTag { at: start });
        }
        let value = match tag & 7 {
            0 => Value::Varint(self.varint(start)?),
            1 => Value::Fixed64(u64::from_le_bytes(self.array(start)?)),
            2 => {
                let len = self.varint(start)?;
                Value::Bytes(self.take(len, start)?)
            }
            5 => Value::Fixed32(u32::from_le_bytes(self.array(start)?)),
            _ => return Err(WireError::InvalidTag { at: start }),
        };
        Ok(Field { number: number as u32, value, start, end: self.at })
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<Field<'a>, WireError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.at >= self.message.len() {
            return None;
        }
        let field = self.field();
        if field.is_err() {
            self.at = self.message.len();
        }
        Some(field)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn message(parts: &[(u32, &[u8])]) -> Vec<u8> {
        let mut out = Vec::new();
        for (number, value) in parts {
            put_bytes(&mut out, *number, value);
        }
        out
    }

    #[test]
    fn a_path_finds_the_last_occurrence() {
        let spec = message(&[(10, b"node-a"), (10, b"node-b")]);
        let object = message(&[(2, &spec), (2, &message(&[(3, b"x")]))]);
        assert_eq!(text(&object, &[2, 10]), "node-b");
        assert_eq!(text(&object, &[2, 11]), "");
        assert_eq!(text(&object, &[]), "");
    }

    #[test]
    fn normalizing_joins_metadata_and_drops_the_resource_version() {
        let first = message(&[(1, b"name"), (6, b"12")]);
        let second = message(&[(3, b"ns")]);
        let object = message(&[(1, &first), (2, b""), (1, &second)]);
        let normal = normalized(&object).unwrap();
        assert_eq!(*normal, message(&[(1, &message(&[(1, b"name"), (3, b"ns")])), (2, b"")]));
        assert!(matches!(normalized(&normal).unwrap(), Cow::Borrowed(_)));
    }

    #[test]
    fn broken_messages_are_refused_with_their_place() {
        assert_eq!(fields(&[0x0a, 5, 1]).last(), Some(Err(WireError::Truncated { at: 0 })));
        assert_eq!(fields(&[0x08, 1, 0x0b]).last(), Some(Err(WireError::InvalidTag { at: 2 })));
        assert_eq!(fields(&[0xff; 11]).last(), Some(Err(WireError::Overlong { at: 0 })));
        assert_eq!(fields(&[0x00]).last(), Some(Err(WireError::InvalidTag { at: 0 })));
    }

    proptest! {
        #[test]
        fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _count = fields(&bytes).count();
            let _text = text(&bytes, &[1, 2, 3]);
            let _labels = string_map(&bytes, 1).count();
            if let Ok(normal) = normalized(&bytes) {
                prop_assert!(fields(&normal).all(|f| f.is_ok()));
                prop_assert_eq!(&*normalized(&normal).unwrap(), &*normal);
            }
        }

        #[test]
        fn varints_have_the_announced_length(value: u64) {
            let mut out = Vec::new();
            put_varint(&mut out, value);
            prop_assert_eq!(out.len(), varint_len(value));
            let mut reader = Fields { message: &out, at: 0 };
            prop_assert_eq!(reader.varint(0), Ok(value));
        }
    }
}
