//! One version of one object, encoded, with what lists, watches and selectors read of it.
//!
//! An entry is a single buffer `key ‖ object ‖ metadata{resourceVersion}` and a few offsets into it; labels, owners and
//! selectable fields are read from the bytes when asked for. Entries never change; a new version is a new entry.
//! *Invariant:* the object holds at most one `metadata` field before the appended one.

use std::fmt;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use thiserror::Error;

use crate::layout::FieldLayout;
use crate::wire::{self, MAX_RESOURCE_VERSION, Value, WireError, object_meta};

/// Why an encoded object cannot become an entry.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum EntryError {
    /// The object is no protobuf message.
    #[error("the object is no valid protobuf")]
    Malformed(#[from] WireError),
    /// The object is not what a kind that is stored as JSON holds.
    #[error("the object has no JSON form")]
    NoJson,
    /// The key is longer than 65,535 bytes, or the object than 4 GiB.
    #[error("the key or the object is too long")]
    TooLong,
}

/// One version of one object.
pub struct Entry {
    buffer: Bytes,
    revision: i64,
    metadata: (u32, u32),
    key_len: u16,
    prefix_len: u16,
    suffix_len: u8,
}

// === impl Entry ===

impl Entry {
    /// Makes an entry from an encoded object. `prefix_len` is the length of the kind's prefix at the beginning of the key.
    ///
    /// # Errors
    /// The object is no protobuf message, or a length is out of range.
    pub fn new(key: &str, prefix_len: usize, object: &[u8], revision: i64) -> Result<Self, EntryError> {
        let object = wire::normalized(object)?;
        let mut metadata = (0, 0);
        for field in wire::fields(&object) {
            let field = field?;
            if let (object_meta::IN_OBJECT, Value::Bytes(inner)) = (field.number, field.value) {
                metadata = (key.len() + field.end - inner.len(), key.len() + field.end);
            }
        }
        let too_long = |_| EntryError::TooLong;
        let mut suffix = Vec::with_capacity(MAX_RESOURCE_VERSION);
        wire::put_resource_version(&mut suffix, revision);
        let mut buffer = BytesMut::with_capacity(key.len() + object.len() + suffix.len());
        buffer.extend_from_slice(key.as_bytes());
        buffer.extend_from_slice(&object);
        buffer.extend_from_slice(&suffix);
        Ok(Self {
            metadata: (u32::try_from(metadata.0).map_err(too_long)?, u32::try_from(metadata.1).map_err(too_long)?),
            key_len: u16::try_from(key.len()).map_err(too_long)?,
            prefix_len: u16::try_from(prefix_len.min(key.len())).map_err(too_long)?,
            suffix_len: suffix.len() as u8,
            buffer: Bytes::from(Vec::from(buffer).into_boxed_slice()),
            revision,
        })
    }

    /// The same object as of another revision: what a watcher is told of an object that is gone.
    pub fn at_revision(&self, revision: i64) -> Self {
        let stored = self.buffer.len() - usize::from(self.suffix_len);
        let mut buffer = Vec::with_capacity(stored + MAX_RESOURCE_VERSION);
        buffer.extend_from_slice(&self.buffer[..stored]);
        wire::put_resource_version(&mut buffer, revision);
        Self { suffix_len: (buffer.len() - stored) as u8, buffer: Bytes::from(buffer.into_boxed_slice()), revision, ..*self }
    }

    /// The etcd key.
    pub fn key(&self) -> &str {
        std::str::from_utf8(&self.buffer[..usize::from(self.key_len)]).unwrap_or_default()
    }

    /// The key without the kind's prefix: `namespace/name` or `name`.
    pub fn path(&self) -> &str {
        self.key().get(usize::from(self.prefix_len)..).unwrap_or_default()
    }

    /// The namespace, empty for a kind that has none.
    pub fn namespace(&self) -> &str {
        self.path().split_once('/').map_or("", |(namespace, _)| namespace)
    }

    /// The name.
    pub fn name(&self) -> &str {
        self.path().split_once('/').map_or_else(|| self.path(), |(_, name)| name)
    }

    /// The revision of this version, as in `metadata.resourceVersion`.
    pub fn revision(&self) -> i64 {
        self.revision
    }

    /// The encoded object with its resource version, as clients get it. Shares the entry's memory.
    pub fn object(&self) -> Bytes {
        self.buffer.slice(usize::from(self.key_len)..)
    }

    /// The encoded object without resource version, as it is stored.
    pub fn stored(&self) -> &[u8] {
        &self.buffer[usize::from(self.key_len)..self.buffer.len() - usize::from(self.suffix_len)]
    }

    /// Length of [`Entry::object`] in bytes.
    pub fn object_len(&self) -> usize {
        self.buffer.len() - usize::from(self.key_len)
    }

    /// The encoded `ObjectMeta`, without resource version.
    pub fn metadata(&self) -> &[u8] {
        self.buffer.get(self.metadata.0 as usize..self.metadata.1 as usize).unwrap_or_default()
    }

    /// The encoded `PartialObjectMetadata` of the object, with its resource version.
    pub fn partial(&self) -> Bytes {
        let metadata = self.metadata();
        let mut out = Vec::with_capacity(wire::bytes_field_len(object_meta::IN_OBJECT, metadata.len()) + MAX_RESOURCE_VERSION);
        wire::put_bytes(&mut out, object_meta::IN_OBJECT, metadata);
        wire::put_resource_version(&mut out, self.revision);
        out.into()
    }

    /// `metadata.uid`, empty if there is none.
    pub fn uid(&self) -> &str {
        wire::text(self.metadata(), &[object_meta::UID])
    }

    /// The labels in wire order.
    pub fn labels(&self) -> impl Iterator<Item = (&str, &str)> {
        wire::string_map(self.metadata(), object_meta::LABELS)
    }

    /// The value of a label.
    pub fn label(&self, key: &str) -> Option<&str> {
        self.labels().filter(|(k, _)| *k == key).last().map(|(_, value)| value)
    }

    /// The annotations in wire order.
    pub fn annotations(&self) -> impl Iterator<Item = (&str, &str)> {
        wire::string_map(self.metadata(), object_meta::ANNOTATIONS)
    }

    /// The UIDs of the owners, in wire order.
    pub fn owners(&self) -> impl Iterator<Item = &str> {
        wire::repeated(self.metadata(), object_meta::OWNER_REFERENCES)
            .map(|owner| wire::text(owner, &[object_meta::OWNER_UID]))
            .filter(|uid| !uid.is_empty())
    }

    /// The value of a selectable field.
    pub fn field(&self, field: &FieldLayout) -> std::borrow::Cow<'_, str> {
        field.value(self.stored())
    }

    /// Bytes this entry holds on the heap, the allocator's own needs aside.
    pub fn heap_size(&self) -> usize {
        self.buffer.len() + size_of::<Self>() + 2 * size_of::<usize>()
    }
}

impl fmt::Debug for Entry {
    /// Key and revision only: an object may be a Secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Entry").field("key", &self.key()).field("revision", &self.revision).finish_non_exhaustive()
    }
}

/// An entry ordered by its key, for sets that need no second copy of the key.
#[derive(Clone, Debug)]
pub(crate) struct ByKey(pub(crate) Arc<Entry>);

impl ByKey {
    fn key(&self) -> &[u8] {
        &self.0.buffer[..usize::from(self.0.key_len)]
    }
}

impl std::borrow::Borrow<[u8]> for ByKey {
    fn borrow(&self) -> &[u8] {
        self.key()
    }
}

impl PartialEq for ByKey {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl Eq for ByKey {}

impl PartialOrd for ByKey {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for ByKey {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.key().cmp(other.key())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn object() -> Vec<u8> {
        let (mut metadata, mut label, mut owner, mut out) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        wire::put_bytes(&mut label, 1, b"app");
        wire::put_bytes(&mut label, 2, b"web");
        wire::put_bytes(&mut owner, 4, b"uid-2");
        wire::put_bytes(&mut metadata, 1, b"web-1");
        wire::put_bytes(&mut metadata, 5, b"uid-1");
        wire::put_bytes(&mut metadata, 11, &label);
        wire::put_bytes(&mut metadata, 13, &owner);
        wire::put_bytes(&mut out, 1, &metadata);
        wire::put_bytes(&mut out, 2, b"\x52\x06node-a");
        out
    }

    #[test]
    fn an_entry_reads_its_object() {
        let entry = Entry::new("/registry/pods/default/web-1", 15, &object(), 42).unwrap();
        assert_eq!((entry.namespace(), entry.name(), entry.uid()), ("default", "web-1", "uid-1"));
        assert_eq!(entry.label("app"), Some("web"));
        assert_eq!(entry.owners().collect::<Vec<_>>(), ["uid-2"]);
        assert_eq!(entry.field(&FieldLayout::text("spec.nodeName", &[2, 10])), "node-a");
        assert_eq!(entry.stored(), object());
        assert_eq!(wire::text(&entry.object(), &[1, 6]), "42");
        assert_eq!(wire::text(&entry.partial(), &[1, 6]), "42");
        assert_eq!(wire::text(&entry.partial(), &[1, 1]), "web-1");
    }

    #[test]
    fn a_later_revision_changes_nothing_else() {
        let entry = Entry::new("/registry/nodes/a", 16, &object(), 9).unwrap();
        let later = entry.at_revision(1_000_000);
        assert_eq!((later.revision(), later.key(), later.stored()), (1_000_000, entry.key(), entry.stored()));
        assert_eq!(wire::text(&later.object(), &[1, 6]), "1000000");
        assert_eq!((later.namespace(), later.name()), ("", "a"));
    }

    proptest! {
        #[test]
        fn random_objects_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), revision in 0..i64::MAX) {
            if let Ok(entry) = Entry::new("/registry/pods/a/b", 15, &bytes, revision) {
                let _all = (entry.labels().count(), entry.owners().count(), entry.uid().len(), entry.partial());
                let object = entry.object();
                prop_assert_eq!(wire::text(&object, &[1, 6]), revision.to_string());
                prop_assert_eq!(entry.at_revision(revision).object(), entry.object());
            }
        }
    }
}
