//! What can go wrong with a read or write of the store.

use std::sync::Arc;

use thiserror::Error;

use crate::entry::{Entry, EntryError};
use crate::envelope::EnvelopeError;
use crate::etcd::EtcdError;

/// Why a read or write of the store failed.
#[derive(Debug, Error)]
pub enum Error {
    /// There is no object under this key.
    #[error("{key} does not exist")]
    NotFound {
        /// The etcd key.
        key: String,
    },
    /// A create met an object of that name.
    #[error("{key} already exists")]
    AlreadyExists {
        /// The etcd key.
        key: String,
    },
    /// The object is at another revision than the one the write was based on.
    #[error("{} has changed: it is at revision {}", current.key(), current.revision())]
    Conflict {
        /// The object as it is now.
        current: Arc<Entry>,
    },
    /// The revision lies before the oldest one still known: list again (HTTP 410).
    #[error("revision {requested} is too old: the oldest known is {oldest}")]
    Expired {
        /// What was asked for.
        requested: i64,
        /// The oldest revision that can be served now.
        oldest: i64,
    },
    /// The revision was not reached within the time a read may wait for it.
    #[error("revision {requested} is too large: the current one is {current}")]
    Future {
        /// What was asked for.
        requested: i64,
        /// What the cache has seen.
        current: i64,
    },
    /// The first list is not in yet.
    #[error("the cache is not filled yet")]
    NotReady,
    /// A stored value cannot be read.
    #[error("the value of {key} cannot be read")]
    Unreadable {
        /// The etcd key.
        key: String,
        /// What is wrong with it.
        source: EnvelopeError,
    },
    /// The object to be written is no protobuf message or too large to be kept.
    #[error("the object for {key} cannot be stored")]
    InvalidObject {
        /// The etcd key.
        key: String,
        /// What is wrong with it.
        source: EntryError,
    },
    /// The kind was removed from the store.
    #[error("{0} are no longer stored")]
    Removed(String),
    /// etcd refused, could not be reached, or the outcome is unknown.
    #[error(transparent)]
    Etcd(#[from] EtcdError),
    /// Two kinds of the same name or with prefixes of which one begins with the other.
    #[error("the kinds {0} and {1} overlap")]
    OverlappingKinds(String, String),
}
