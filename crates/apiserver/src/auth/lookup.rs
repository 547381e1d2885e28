//! Reading the objects that credentials and permissions depend on.

use std::sync::Arc;

use api::{Object, Resource, StatusError, meta::v1::ObjectMeta};
use prost::Message as _;
use store::{Collection, Entry, IndexKey, ListOptions, ReadAt, Selection, Store};

/// Reads objects: from the cache if what is there will do, else from etcd.
#[derive(Clone)]
pub(super) struct Lookup(Store);

impl Lookup {
    pub(super) fn new(store: Store) -> Self {
        Self(store)
    }

    pub(super) fn collection<K: Resource>(&self) -> Result<Collection, StatusError> {
        let name = K::KIND.qualified_plural();
        self.0.collection(&name).ok_or_else(|| StatusError::internal(format!("{name} are not stored")))
    }

    /// The object's newest version. The cached one is answered only if `will_do` says so.
    pub(super) async fn entry<K: Resource>(
        &self,
        namespace: &str,
        name: &str,
        will_do: impl Fn(&Entry) -> bool + Send,
    ) -> Result<Option<Arc<Entry>>, StatusError> {
        let collection = self.collection::<K>()?;
        match collection.get(namespace, name, ReadAt::Any).await {
            Ok(entry) if will_do(&entry) => return Ok(Some(entry)),
            Ok(_) | Err(store::Error::NotFound { .. }) => {}
            Err(error) => return Err(unavailable(&error)),
        }
        match collection.get(namespace, name, ReadAt::Latest).await {
            Ok(entry) => Ok(Some(entry)),
            Err(store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(unavailable(&error)),
        }
    }

    /// The object as etcd has it now.
    pub(super) async fn latest<K: Resource>(&self, namespace: &str, name: &str) -> Result<Option<K>, StatusError> {
        let entry = self.entry::<K>(namespace, name, |_| false).await?;
        entry.map(|entry| decode(&entry)).transpose()
    }

    /// The objects of a namespace (of all, if it is empty) whose indexed field has this value.
    pub(super) async fn selected<K: Resource>(
        &self,
        namespace: &str,
        field: &str,
        value: &str,
        at: ReadAt,
    ) -> Result<Vec<Arc<Entry>>, StatusError> {
        let collection = self.collection::<K>()?;
        let place = collection.layout().field(field);
        let field = place.ok_or_else(|| StatusError::internal(format!("{} have no index of {field}", K::KIND.plural)))?;
        let scope = if namespace.is_empty() { Selection::all() } else { Selection::namespace(namespace) };
        let selection = scope.with_index(IndexKey::Field { field, value: value.to_owned() });
        let list = collection.list(&selection, ListOptions { at, ..ListOptions::default() }).await;
        Ok(list.map_err(|e| unavailable(&e))?.items)
    }
}

/// Decodes an entry. What is stored was encoded by an API server, so failing here means the data is damaged.
pub(super) fn decode<K: Resource>(entry: &Entry) -> Result<K, StatusError> {
    K::decode(entry.object()).map_err(|e| damaged(entry, &e))
}

/// Decodes only the metadata of an entry.
pub(super) fn decode_metadata(entry: &Entry) -> Result<ObjectMeta, StatusError> {
    ObjectMeta::decode(entry.metadata()).map_err(|e| damaged(entry, &e))
}

/// The object of the type that the kind says.
pub(super) fn expect<K: Resource>(object: &dyn Object) -> Result<&K, StatusError> {
    object.downcast_ref().ok_or_else(|| StatusError::bad_request(format!("object: a {} is wanted here", K::KIND.kind)))
}

fn damaged(entry: &Entry, error: &prost::DecodeError) -> StatusError {
    StatusError::internal(format!("{}: the stored object cannot be decoded: {error}", entry.key()))
}

fn unavailable(error: &store::Error) -> StatusError {
    tracing::debug!(error = error as &dyn std::error::Error, "who may do what cannot be looked up");
    StatusError::unavailable("permissions cannot be looked up now: etcd does not answer; please try again")
}
