//! The face of the crate: [`Store`] over all kinds, [`Collection`] over one.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio_util::sync::CancellationToken;

use crate::cache::list::{List, ListOptions};
use crate::cache::watch::{Watch, WatchStart};
use crate::entry::Entry;
use crate::error::Error;
use crate::etcd::{Config, Etcd, Outcome, Txn};
use crate::layout::KindLayout;
use crate::metrics::Counters;
use crate::selection::Selection;

/// How fresh a read must be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ReadAt {
    /// At least as fresh as every write acknowledged before the read began (upstream: no resourceVersion).
    #[default]
    Latest,
    /// At least as fresh as this revision (upstream: `resourceVersionMatch=NotOlderThan`).
    AtLeast(i64),
    /// Whatever the cache holds (upstream: resourceVersion `0`).
    Any,
}

/// What [`Collection::modify`] shall do with the object it was shown.
#[derive(Clone, Debug)]
pub enum Change {
    /// Replace it by this encoded object.
    Put(Bytes),
    /// Delete it.
    Delete,
    /// Leave it as it is.
    Keep,
}

/// The objects of all kinds. Cheap to clone.
#[derive(Clone)]
pub struct Store;

/// The objects of one kind. Cheap to clone.
#[derive(Clone)]
pub struct Collection;

/// Keeps the cache in step with etcd and takes care of etcd's history and size. Runs until told to stop.
pub struct Runner;

#[allow(unused_variables, clippy::todo)]
impl Store {
    /// A store for these kinds and what keeps it up to date. Nothing is contacted yet.
    ///
    /// # Errors
    /// Certificates or addresses cannot be used, or kinds overlap.
    pub fn new(config: Config, kinds: Vec<KindLayout>) -> Result<(Self, Runner), Error> {
        todo!()
    }

    /// Waits until the first list is in and has caught up.
    pub async fn ready(&self) {
        todo!()
    }

    /// Whether the first list is in and has caught up.
    pub fn is_ready(&self) -> bool {
        todo!()
    }

    /// The handle of the kind of that [`KindLayout::name`].
    pub fn collection(&self, name: &str) -> Option<Collection> {
        todo!()
    }

    /// The handles of all kinds.
    pub fn collections(&self) -> impl Iterator<Item = Collection> + '_ {
        std::iter::empty()
    }

    /// The revision up to which the cache has seen everything.
    pub fn revision(&self) -> i64 {
        todo!()
    }

    /// Waits until a read is as fresh as demanded; answers the revision then reached.
    pub async fn fresh(&self, at: ReadAt) -> Result<i64, Error> {
        todo!()
    }

    /// Carries out a transaction over several keys, see [`Txn`].
    pub async fn commit(&self, txn: Txn) -> Result<Outcome, Error> {
        todo!()
    }

    /// The etcd cluster itself, for keys that are no objects.
    pub fn etcd(&self) -> &Etcd {
        todo!()
    }

    /// What the store has counted.
    pub fn counters(&self) -> &Counters {
        todo!()
    }
}

#[allow(unused_variables, clippy::todo)]
impl Runner {
    /// Runs until `shutdown` is cancelled.
    pub async fn run(self, shutdown: CancellationToken) {
        todo!()
    }
}

#[allow(unused_variables, clippy::todo)]
impl Collection {
    /// What this is a collection of.
    pub fn layout(&self) -> &KindLayout {
        todo!()
    }

    /// Creates an object. With a `ttl` (seconds precision, up to a minute late) etcd removes it by itself.
    ///
    /// # Errors
    /// [`Error::AlreadyExists`], or an [`Error::Etcd`].
    pub async fn create(
        &self,
        namespace: &str,
        name: &str,
        object: &[u8],
        ttl: Option<Duration>,
    ) -> Result<Arc<Entry>, Error> {
        todo!()
    }

    /// Reads an object. Errors: [`Error::NotFound`].
    pub async fn get(&self, namespace: &str, name: &str, at: ReadAt) -> Result<Arc<Entry>, Error> {
        todo!()
    }

    /// Replaces an object that is still at revision `expected`.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Conflict`] with the current object, or an [`Error::Etcd`].
    pub async fn update(
        &self,
        namespace: &str,
        name: &str,
        expected: i64,
        object: &[u8],
        ttl: Option<Duration>,
    ) -> Result<Arc<Entry>, Error> {
        todo!()
    }

    /// Deletes an object that is still at revision `expected`. Answers its last state, at the revision of the deletion.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Conflict`] with the current object, or an [`Error::Etcd`].
    pub async fn delete(
        &self,
        namespace: &str,
        name: &str,
        expected: i64,
    ) -> Result<Arc<Entry>, Error> {
        todo!()
    }

    /// Reads an object, lets `change` decide, and writes what it decides, again and again until nobody came in between.
    /// Begins with the cached object; if `change` fails on that, it is shown the current one before its error counts.
    /// Answers the new state ([`Change::Put`], or the old one if the bytes are the same), the last one ([`Change::Delete`]) or the
    /// unchanged one ([`Change::Keep`]).
    ///
    /// # Errors
    /// What `change` answers; [`Error::NotFound`]; an [`Error::Etcd`].
    pub async fn modify<E: From<Error>>(
        &self,
        namespace: &str,
        name: &str,
        change: impl FnMut(&Entry) -> Result<Change, E> + Send,
    ) -> Result<Arc<Entry>, E> {
        todo!()
    }

    /// Lists objects in key order.
    ///
    /// # Errors
    /// [`Error::Expired`] if the page's or the exact revision is no longer known, [`Error::Future`], an [`Error::Etcd`].
    pub async fn list(&self, selection: &Selection, options: ListOptions) -> Result<List, Error> {
        todo!()
    }

    /// Watches objects.
    ///
    /// # Errors
    /// [`Error::Expired`] if the start is too old, [`Error::Future`], an [`Error::Etcd`].
    pub async fn watch(&self, selection: Selection, start: WatchStart) -> Result<Watch, Error> {
        todo!()
    }
}
