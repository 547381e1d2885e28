//! The storage envelope: `k8s\0` and `runtime.Unknown{typeMeta{apiVersion, kind}, raw}`, as upstream stores objects.
//!
//! Reading borrows, writing allocates once. *Invariant:* `raw` never holds `metadata.resourceVersion`; the
//! revision at which etcd holds the value is the resource version and is appended when an object is served.

use thiserror::Error;

use crate::wire::{self, WireError};

/// The four bytes every enveloped value begins with.
pub const MAGIC: [u8; 4] = *b"k8s\0";

const TYPE_META: u32 = 1;
const RAW: u32 = 2;
const CONTENT_ENCODING: u32 = 3;
const API_VERSION: u32 = 1;
const KIND: u32 = 2;

/// Why a stored value cannot be served.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum EnvelopeError {
    /// The value does not begin with [`MAGIC`] (JSON, or another program's data).
    #[error("the value is not in the protobuf storage envelope")]
    NoEnvelope,
    /// The envelope or the object in it is broken.
    #[error("the value is no valid protobuf")]
    Malformed(#[from] WireError),
    /// The kind is stored as JSON, and the value is none, or not that of an object.
    #[error("the value is no JSON object of this kind: {0}")]
    NoJson(String),
    /// The key is longer than 65,535 bytes, or the object than 4 GiB.
    #[error("the key or the value is too long")]
    TooLong,
    /// The envelope says that its content is encoded further (compressed, encrypted).
    #[error("unsupported content encoding {0:?}")]
    Encoded(String),
    /// The envelope holds another type than is stored under this prefix.
    #[error("the value holds a {api_version} {kind}")]
    OtherType {
        /// The envelope's apiVersion.
        api_version: String,
        /// The envelope's kind.
        kind: String,
    },
}

/// A stored value taken apart; everything borrows from it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Unknown<'a> {
    /// For example `v1`, `coordination.k8s.io/v1`.
    pub api_version: &'a str,
    /// For example `Pod`.
    pub kind: &'a str,
    /// The encoded object.
    pub raw: &'a [u8],
}

/// Takes a stored value apart.
///
/// # Errors
/// [`EnvelopeError::NoEnvelope`], [`EnvelopeError::Malformed`] or [`EnvelopeError::Encoded`]. The object
/// itself is not looked into.
pub fn decode(value: &[u8]) -> Result<Unknown<'_>, EnvelopeError> {
    let body = value.strip_prefix(&MAGIC).ok_or(EnvelopeError::NoEnvelope)?;
    let mut unknown = Unknown::default();
    for field in wire::fields(body) {
        let field = field?;
        match (field.number, field.value.bytes()) {
            (TYPE_META, Some(type_meta)) => {
                unknown.api_version = wire::text(type_meta, &[API_VERSION]);
                unknown.kind = wire::text(type_meta, &[KIND]);
            }
            (RAW, Some(raw)) => unknown.raw = raw,
            (CONTENT_ENCODING, Some(encoding)) if !encoding.is_empty() => {
                return Err(EnvelopeError::Encoded(String::from_utf8_lossy(encoding).into_owned()));
            }
            _ => {}
        }
    }
    Ok(unknown)
}

/// Wraps an encoded object for storage, in one allocation of the exact size.
pub fn encode(api_version: &str, kind: &str, raw: &[u8]) -> Vec<u8> {
    let type_meta = wire::bytes_field_len(API_VERSION, api_version.len()) + wire::bytes_field_len(KIND, kind.len());
    let body = wire::bytes_field_len(TYPE_META, type_meta) + wire::bytes_field_len(RAW, raw.len());
    let mut out = Vec::with_capacity(MAGIC.len() + body);
    out.extend_from_slice(&MAGIC);
    wire::put_varint(&mut out, u64::from(TYPE_META) << 3 | 2);
    wire::put_varint(&mut out, type_meta as u64);
    wire::put_bytes(&mut out, API_VERSION, api_version.as_bytes());
    wire::put_bytes(&mut out, KIND, kind.as_bytes());
    wire::put_bytes(&mut out, RAW, raw);
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_upstream_value_is_read() {
        // Upstream writes contentEncoding and contentType as empty strings.
        let mut value = encode("v1", "Pod", b"\x0a\x00");
        value.extend_from_slice(&[0x1a, 0, 0x22, 0]);
        let unknown = decode(&value).unwrap();
        assert_eq!((unknown.api_version, unknown.kind, unknown.raw), ("v1", "Pod", &b"\x0a\x00"[..]));
    }

    #[test]
    fn foreign_values_are_refused() {
        assert_eq!(decode(b"{\"kind\":\"Pod\"}"), Err(EnvelopeError::NoEnvelope));
        assert_eq!(decode(b"k8s\0\x0a\x05"), Err(EnvelopeError::Malformed(WireError::Truncated { at: 0 })));
        let mut zipped = encode("v1", "Pod", b"");
        zipped.extend_from_slice(b"\x1a\x04gzip");
        assert_eq!(decode(&zipped), Err(EnvelopeError::Encoded("gzip".into())));
    }

    proptest! {
        #[test]
        fn what_is_wrapped_is_unwrapped(version in ".{0,20}", kind in ".{0,20}", raw in prop::collection::vec(any::<u8>(), 0..500)) {
            let value = encode(&version, &kind, &raw);
            prop_assert_eq!(value.capacity(), value.len());
            prop_assert_eq!(decode(&value), Ok(Unknown { api_version: &version, kind: &kind, raw: &raw }));
        }

        #[test]
        fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut value = MAGIC.to_vec();
            value.extend_from_slice(&bytes);
            let _any = decode(&value);
            let _any = decode(&bytes);
        }
    }
}
