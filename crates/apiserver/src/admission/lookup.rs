//! Reading the objects that plugins decide by, typed.

use std::{marker::PhantomData, time::Duration};

use api::{Object, Resource, StatusError};
use store::{Collection, Entry, ListOptions, ReadAt, Selection, Store};

use super::Write;
use crate::request::Verb;

/// How often something that a controller is about to make is looked for before its absence counts, as upstream does.
pub(super) const LOOKS: u32 = 10;

/// The time between two looks: from 100 to 200 ms, so that those who wait do not all come at once.
pub(super) async fn pause() {
    tokio::time::sleep(Duration::from_millis(rand::random_range(100..=200))).await;
}

/// Reads objects of one kind from the store.
pub(super) struct Lookup<K> {
    store: Store,
    kind: PhantomData<fn() -> K>,
}

/// An object as stored.
pub(super) struct Found<K> {
    /// Its key in etcd.
    pub key: String,
    /// The revision it was written at.
    pub revision: i64,
    /// The object.
    pub object: K,
}

impl<K: Resource> Lookup<K> {
    /// Over a store.
    pub fn new(store: &Store) -> Self {
        Self { store: store.clone(), kind: PhantomData }
    }

    /// The kind's collection.
    ///
    /// # Errors
    /// When the store does not hold the kind.
    pub fn collection(&self) -> Result<Collection, StatusError> {
        let name = K::KIND.qualified_plural();
        self.store.collection(&name).ok_or_else(|| StatusError::internal(format!("{name} are not stored")))
    }

    /// The object, if there is one: the cached one, or else what etcd has.
    ///
    /// # Errors
    /// When the store does not answer, or holds what cannot be decoded.
    pub async fn get(&self, namespace: &str, name: &str) -> Result<Option<Found<K>>, StatusError> {
        if let Some(found) = self.get_at(namespace, name, ReadAt::Any).await? {
            return Ok(Some(found));
        }
        self.get_at(namespace, name, ReadAt::Latest).await
    }

    async fn get_at(&self, namespace: &str, name: &str, at: ReadAt) -> Result<Option<Found<K>>, StatusError> {
        match self.collection()?.get(namespace, name, at).await {
            Ok(entry) => found(&entry).map(Some),
            Err(store::Error::NotFound { .. }) => Ok(None),
            Err(e) => Err(unreadable::<K>(&e)),
        }
    }

    /// The objects of a namespace, or of the cluster if it is empty.
    ///
    /// # Errors
    /// When the store does not answer, or holds what cannot be decoded.
    pub async fn list(&self, namespace: &str, at: ReadAt) -> Result<Vec<Found<K>>, StatusError> {
        let selection = if namespace.is_empty() { Selection::all() } else { Selection::namespace(namespace) };
        let list = self.collection()?.list(&selection, ListOptions { at, ..ListOptions::default() }).await;
        list.map_err(|e| unreadable::<K>(&e))?.items.iter().map(|entry| found(entry)).collect()
    }
}

fn found<K: Resource>(entry: &Entry) -> Result<Found<K>, StatusError> {
    let object = K::decode(entry.object())
        .map_err(|e| StatusError::internal(format!("{}: the stored object cannot be decoded: {e}", entry.key())))?;
    Ok(Found { key: entry.key().to_owned(), revision: entry.revision(), object })
}

/// The answer when the store cannot be read.
fn unreadable<K: Resource>(error: &store::Error) -> StatusError {
    tracing::debug!(error = error as &dyn std::error::Error, kind = &*K::KIND.kind, "admission cannot read");
    StatusError::unavailable(format!("{} cannot be read now, and the request depends on them; please try again", K::KIND.plural))
}

/// What a write does to the object itself; `None` for its subresources.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// A new object.
    Create,
    /// A changed object.
    Update,
    /// The object goes.
    Delete,
}

impl Write<'_> {
    /// What the write does, on the object or a subresource alike.
    pub(super) fn action(&self) -> Action {
        match (self.request.verb, self.old) {
            (Verb::Delete | Verb::DeleteCollection, _) => Action::Delete,
            (_, None) => Action::Create,
            (_, Some(_)) => Action::Update,
        }
    }

    /// The object, if the write creates it and it is of this kind.
    pub(super) fn created<'o, K: Resource>(&self, object: &'o mut dyn Object) -> Option<&'o mut K> {
        (self.action() == Action::Create && self.request.subresource.is_empty()).then(|| object.downcast_mut())?
    }
}
