//! Typed reads of the store, for everything in the server that needs an object to decide by; and the one place that says what of the
//! store's errors clients are told.
//!
//! *Invariant:* no text of the store or of etcd reaches a client. Texts go to the log; clients get a reason and words of the API.

mod follow;

use std::{marker::PhantomData, sync::Arc};

use api::{Kind, Resource, StatusError, meta::v1::ObjectMeta, status::Reason};
use prost::Message as _;
use store::{Collection, Entry, Error, EtcdError, IndexKey, ListOptions, ReadAt, Selection, Store};

pub(crate) use self::follow::{Follower, follow};

/// Reads the stored objects of one kind. Cheap to make and to clone.
pub struct Reader<K> {
    store: Store,
    kind: PhantomData<fn() -> K>,
}

/// An object and what it was decoded from.
#[derive(Clone, Debug)]
pub struct Found<K> {
    /// The stored version: key, revision, encoding.
    pub entry: Arc<Entry>,
    /// The object, with its resource version.
    pub object: K,
}

// === impl Reader ===

impl<K: Resource> Reader<K> {
    /// A reader over a store.
    pub fn new(store: &Store) -> Self {
        Self { store: store.clone(), kind: PhantomData }
    }

    /// The kind's collection.
    ///
    /// # Errors
    /// `InternalError` if the store was not given the kind.
    pub fn collection(&self) -> Result<Collection, StatusError> {
        collection(&self.store, K::KIND)
    }

    /// The object's encoded version as of `at`; nothing if there is none.
    ///
    /// # Errors
    /// When the store cannot answer.
    pub async fn entry(&self, namespace: &str, name: &str, at: ReadAt) -> Result<Option<Arc<Entry>>, StatusError> {
        match self.collection()?.get(namespace, name, at).await {
            Ok(entry) => Ok(Some(entry)),
            Err(Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(store_error(K::KIND, name, error)),
        }
    }

    /// The object's newest encoded version. The cached one is answered only if `will_do` says so.
    ///
    /// # Errors
    /// When the store cannot answer.
    pub async fn entry_unless_cached(
        &self,
        namespace: &str,
        name: &str,
        will_do: impl Fn(&Entry) -> bool + Send,
    ) -> Result<Option<Arc<Entry>>, StatusError> {
        match self.entry(namespace, name, ReadAt::Any).await? {
            Some(entry) if will_do(&entry) => Ok(Some(entry)),
            _ => self.entry(namespace, name, ReadAt::Latest).await,
        }
    }

    /// The object as of `at`; nothing if there is none.
    ///
    /// # Errors
    /// When the store cannot answer, or the stored object is damaged.
    pub async fn get(&self, namespace: &str, name: &str, at: ReadAt) -> Result<Option<Found<K>>, StatusError> {
        self.entry(namespace, name, at).await?.map(Found::decode).transpose()
    }

    /// The cached object, or else the one that etcd has: for what is seldom changed and must not be missed when it is new.
    ///
    /// # Errors
    /// As [`Reader::get`].
    pub async fn cached(&self, namespace: &str, name: &str) -> Result<Option<Found<K>>, StatusError> {
        self.entry_unless_cached(namespace, name, |_| true).await?.map(Found::decode).transpose()
    }

    /// The object as etcd has it now.
    ///
    /// # Errors
    /// `NotFound` if there is none; else as [`Reader::get`].
    pub async fn latest(&self, namespace: &str, name: &str) -> Result<K, StatusError> {
        let found = self.get(namespace, name, ReadAt::Latest).await?;
        found.map(|found| found.object).ok_or_else(|| StatusError::not_found(K::KIND, name))
    }

    /// The objects of a namespace, or of the cluster if it is empty.
    ///
    /// # Errors
    /// As [`Reader::get`].
    pub async fn list(&self, namespace: &str, at: ReadAt) -> Result<Vec<Found<K>>, StatusError> {
        self.select(&scope(namespace), at).await
    }

    /// The objects that a selection selects.
    ///
    /// # Errors
    /// As [`Reader::get`].
    pub async fn select(&self, selection: &Selection, at: ReadAt) -> Result<Vec<Found<K>>, StatusError> {
        self.entries(selection, at).await?.into_iter().map(Found::decode).collect()
    }

    /// The encoded objects of a namespace (of all, if it is empty) whose indexed field has this value.
    ///
    /// # Errors
    /// When the store cannot answer, or the kind has no such index.
    pub async fn indexed(&self, namespace: &str, field: &str, value: &str, at: ReadAt) -> Result<Vec<Arc<Entry>>, StatusError> {
        let place = self.collection()?.layout().field(field);
        let field = place.ok_or_else(|| StatusError::internal(format!("{} have no index of {field}", K::KIND.plural)))?;
        self.entries(&scope(namespace).with_index(IndexKey::Field { field, value: value.to_owned() }), at).await
    }

    async fn entries(&self, selection: &Selection, at: ReadAt) -> Result<Vec<Arc<Entry>>, StatusError> {
        let list = self.collection()?.list(selection, ListOptions { at, ..ListOptions::default() }).await;
        Ok(list.map_err(|error| store_error(K::KIND, "", error))?.items)
    }
}

impl<K> Clone for Reader<K> {
    fn clone(&self) -> Self {
        Self { store: self.store.clone(), kind: PhantomData }
    }
}

// === impl Found ===

impl<K: Resource> Found<K> {
    fn decode(entry: Arc<Entry>) -> Result<Self, StatusError> {
        let object = decode(&entry)?;
        Ok(Self { entry, object })
    }
}

/// The collection of a kind.
pub(crate) fn collection(store: &Store, kind: &Kind) -> Result<Collection, StatusError> {
    let name = kind.qualified_plural();
    store.collection(&name).ok_or_else(|| StatusError::internal(format!("{name} are not stored")))
}

/// Decodes an entry.
pub(crate) fn decode<K: Resource>(entry: &Entry) -> Result<K, StatusError> {
    K::decode(entry.object()).map_err(|error| damaged(entry, &error))
}

/// Decodes only the metadata of an entry.
pub(crate) fn decode_metadata(entry: &Entry) -> Result<ObjectMeta, StatusError> {
    ObjectMeta::decode(entry.metadata()).map_err(|error| damaged(entry, &error))
}

/// The error of a stored object that cannot be decoded. It was encoded by an API server, so that the data is damaged.
pub(crate) fn damaged(entry: &Entry, error: &(dyn std::error::Error + 'static)) -> StatusError {
    tracing::error!(key = entry.key(), error, "a stored object cannot be decoded");
    StatusError::internal(format!("the stored object {:?} cannot be decoded; the API server's log says why", entry.path()))
}

/// The error of an operation on etcd that is on no object.
pub(crate) fn etcd_error(error: &EtcdError) -> StatusError {
    of_etcd(error, "the request")
}

/// The API's error for the store's.
pub(crate) fn store_error(kind: &Kind, name: &str, error: Error) -> StatusError {
    match error {
        Error::NotFound { .. } => StatusError::not_found(kind, name),
        Error::AlreadyExists { .. } => StatusError::already_exists(kind, name),
        Error::Conflict { .. } => StatusError::modified(kind, name),
        Error::Expired { requested, oldest } => StatusError::new(
            Reason::Expired,
            format!("too old resource version: {requested} (oldest known: {oldest}); list again and go on from there"),
        ),
        Error::Removed(what) => StatusError::new(Reason::Gone, format!("the server no longer serves {what:?}")),
        Error::Future { requested, current } => {
            StatusError::new(Reason::Timeout, format!("Too large resource version: {requested}, current: {current}"))
        }
        Error::NotReady => StatusError::unavailable("the server is starting: its caches are not filled yet"),
        Error::Etcd(error) => of_etcd(&error, &format!("{} {name:?}", kind.kind)),
        other => unexpected(&other, &format!("{} {name:?}", kind.kind)),
    }
}

/// `what` is what the operation was about.
fn of_etcd(error: &EtcdError, what: &str) -> StatusError {
    match error {
        EtcdError::Shared(error) => of_etcd(error, what),
        EtcdError::Stopped => StatusError::unavailable("the server is shutting down; please try again"),
        EtcdError::TooLarge(_) => StatusError::new(
            Reason::RequestEntityTooLarge,
            format!("{what} is too large to be stored: etcd takes at most 1.5 MiB; split it up"),
        ),
        EtcdError::NoSpace(_) => StatusError::unavailable("etcd's database is full; free space in it or raise its quota"),
        EtcdError::Undetermined(_) => StatusError::new(
            Reason::Timeout,
            "etcd did not answer in time: the write may or may not have happened; read the object before trying again",
        ),
        error if error.is_temporary() => {
            // The store says once for all requests when etcd is lost and when it is back.
            tracing::debug!(error = error as &dyn std::error::Error, "etcd does not answer");
            StatusError::unavailable("etcd does not answer, or most of its members do not agree; please try again")
        }
        other => unexpected(other, what),
    }
}

/// The error of what cannot happen as long as everything is right: the log says what did.
pub(crate) fn unexpected(error: &(dyn std::error::Error + 'static), what: &str) -> StatusError {
    tracing::error!(error, what, "the store failed in a way that it should not");
    StatusError::internal(format!("{what}: the store failed; the API server's log says why"))
}

fn scope(namespace: &str) -> Selection {
    if namespace.is_empty() { Selection::all() } else { Selection::namespace(namespace) }
}

#[cfg(test)]
mod tests {
    use api::core::v1::Pod;

    use super::*;

    #[test]
    fn no_text_of_the_store_reaches_a_client() {
        const TEXT: &str = "10.0.0.7:2379 said something";
        let config = || EtcdError::Config { what: TEXT.to_owned(), source: TEXT.into() };
        let errors = [
            Error::Etcd(config()),
            Error::Etcd(EtcdError::Protocol(TEXT)),
            Error::Etcd(EtcdError::Shared(Arc::new(config()))),
            Error::Unreadable { key: TEXT.to_owned(), source: store::envelope::decode(TEXT.as_bytes()).unwrap_err() },
            Error::OverlappingKinds(TEXT.to_owned(), TEXT.to_owned()),
            Error::NotFound { key: TEXT.to_owned() },
        ];
        for error in errors {
            let (shown, told) = (error.to_string(), store_error(Pod::KIND, "web", error));
            assert!(!told.message().contains(TEXT), "{shown}: {told}");
            assert!(!format!("{:?}", told.status()).contains(TEXT), "{shown}: {told}");
        }
        assert!(!etcd_error(&config()).message().contains(TEXT));
    }
}
