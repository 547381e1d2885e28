//! Transactions: guards over keys, and the writes that happen together if all guards hold.

use std::time::Duration;

use bytes::Bytes;

use crate::layout::KindLayout;

/// What must hold of a key for a transaction to happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Guard {
    /// There is no such key.
    Absent,
    /// The key exists.
    Exists,
    /// The key was last written at this revision.
    At(i64),
}

/// A key and the value found there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyState {
    /// The key.
    pub key: String,
    /// Its value and the revision it was written at; nothing if there is no such key.
    pub value: Option<Value>,
}

/// A value as etcd holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Value {
    /// The bytes, with the envelope if it is an object.
    pub bytes: Bytes,
    /// The revision it was written at.
    pub revision: i64,
}

/// How a transaction ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It happened, at this revision.
    Committed(i64),
    /// A guard did not hold; nothing was written. These are the guarded keys, in the order of the guards.
    Refused(Vec<KeyState>),
}

/// A transaction: writes that happen together, if all guards hold, or not at all.
///
/// For an unanswered transaction to be resolved by reading back, every put that matters should carry a guard on its
/// key and a value nobody else would write (objects do: they hold a UID).
#[derive(Clone, Debug, Default)]
pub struct Txn {
    pub(crate) guards: Vec<(String, Guard)>,
    pub(crate) ops: Vec<Op>,
}

/// One write of a transaction.
#[derive(Clone, Debug)]
pub(crate) enum Op {
    Put {
        key: String,
        value: Bytes,
        ttl: Option<Duration>,
    },
    Delete {
        key: String,
    },
}

// === impl Txn ===

impl Txn {
    /// An empty transaction.
    pub fn new() -> Self {
        Self::default()
    }

    /// Demands something of a key.
    pub fn guard(mut self, key: impl Into<String>, guard: Guard) -> Self {
        self.guards.push((key.into(), guard));
        self
    }

    /// Writes plain bytes.
    pub fn put(
        mut self,
        key: impl Into<String>,
        value: impl Into<Bytes>,
        ttl: Option<Duration>,
    ) -> Self {
        self.ops.push(Op::Put {
            key: key.into(),
            value: value.into(),
            ttl,
        });
        self
    }

    /// Writes an encoded object in its envelope, without its resource version.
    ///
    /// # Errors
    /// The object is no protobuf message.
    pub fn put_object(
        self,
        layout: &KindLayout,
        namespace: &str,
        name: &str,
        object: &[u8],
        ttl: Option<Duration>,
    ) -> Result<Self, crate::wire::WireError> {
        let object = crate::wire::normalized(object)?;
        let value = crate::envelope::encode(&layout.api_version, &layout.kind, &object);
        Ok(self.put(layout.key(namespace, name), value, ttl))
    }

    /// Deletes a key, if it exists.
    pub fn delete(mut self, key: impl Into<String>) -> Self {
        self.ops.push(Op::Delete { key: key.into() });
        self
    }
}
