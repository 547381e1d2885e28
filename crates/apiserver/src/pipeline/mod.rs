//! One path per verb, the same for every kind and either front end.
//!
//! ```text
//! create, update, patch:  decode → metadata → default → strategy → admit → validate → check → store
//! delete:                 preconditions → permit → grace and finalizers → check → store
//! get, list, watch:       selectors → watch cache
//! ```
//!
//! Invariant: an object is written only in a transaction guarded by the revision it was computed from, together with everything that
//! admission demanded. If a guard fails, everything is computed again from the newest state.

mod create;
mod delete;
mod fence;
mod read;
mod select;
mod update;

use std::{sync::Arc, time::Duration};

use api::{Kind, KindRef, Object, Registry, StatusError, registry::Kinds, rules::FieldErrors, status::Reason};
use bytes::Bytes;
use store::{Collection, Entry, Guard, Outcome, ReadAt, Store, Txn};

pub(crate) use self::read::watch_error;
pub(crate) use self::update::with_status_of;
pub use self::{delete::Deleted, fence::Fence, read::Page, select::Selectors};
use crate::{
    admission::{Chain, Effects},
    reader::{damaged, store_error, unexpected},
    request::Request,
    strategies::metadata,
    strategy::{AnyStrategy, Strategies},
};

/// How often a write is computed anew because something it depends on changed meanwhile.
const ATTEMPTS: u32 = 64;

/// The pipeline. One for the whole server.
pub struct Pipeline {
    store: Store,
    registry: Arc<Registry>,
    strategies: Strategies,
    admission: Chain,
}

/// An object as stored, in its protobuf encoding with resource version.
#[derive(Clone, Debug)]
pub struct Stored {
    /// Its kind: that of the subresource's body, where it has one of its own.
    pub kind: KindRef,
    /// The encoding.
    pub bytes: Bytes,
}

/// What one attempt to write is computed from.
struct Old {
    entry: Arc<Entry>,
    object: Box<dyn Object>,
}

/// What came of one attempt to write.
enum Attempt<T> {
    /// It is written.
    Done(T),
    /// There was nothing to write, or the request is a dry run.
    Unwritten(T),
    /// A guard did not hold.
    Again,
}

impl Pipeline {
    /// A pipeline over a store, for the kinds of a registry.
    pub fn new(store: Store, registry: Arc<Registry>, strategies: Strategies, admission: Chain) -> Self {
        Self { store, registry, strategies, admission }
    }

    /// The kinds that are served at this moment.
    pub fn kinds(&self) -> Arc<Kinds> {
        self.registry.kinds()
    }

    /// The store below.
    pub fn store(&self) -> &Store {
        &self.store
    }

    fn collection(&self, kind: &Kind) -> Result<Collection, StatusError> {
        let collection = self.store.collection(&kind.qualified_plural());
        collection
            .ok_or_else(|| StatusError::new(Reason::MethodNotAllowed, format!("{} are not stored", kind.qualified_plural())))
    }

    /// The object to compute a write from: the cached one, or (`newest`) the one etcd has now.
    async fn current(&self, collection: &Collection, request: &Request, newest: bool) -> Result<Old, StatusError> {
        let kind = &request.kind;
        let cached = if newest { None } else { collection.get(&request.namespace, &request.name, ReadAt::Any).await.ok() };
        let entry = match cached {
            Some(entry) => entry,
            None => {
                let newest = collection.get(&request.namespace, &request.name, ReadAt::Latest).await;
                newest.map_err(|e| store_error(kind, &request.name, e))?
            }
        };
        let object = decode(kind, &entry)?;
        Ok(Old { entry, object })
    }

    /// Whether an attempt ended without a write although there is a newer object than the cached one that it was computed from. etcd tells
    /// writes that such an attempt is out of date; refusals, and finding that nothing needs to change, must be checked.
    async fn is_premature<T>(
        &self,
        collection: &Collection,
        request: &Request,
        old: &Old,
        answer: &Result<Attempt<T>, StatusError>,
    ) -> bool {
        match answer {
            Ok(Attempt::Done(_) | Attempt::Again) => return false,
            // It may have happened.
            Err(e) if e.reason() == Reason::Timeout => return false,
            Ok(Attempt::Unwritten(_)) | Err(_) => {}
        }
        let newest = collection.get(&request.namespace, &request.name, ReadAt::Latest).await;
        newest.map_or(true, |entry| entry.revision() != old.entry.revision())
    }

    fn strategy(&self, kind: &Kind) -> &dyn AnyStrategy {
        self.strategies.of(kind)
    }

    /// Remarks on an object as it was sent.
    pub fn warnings(&self, object: &dyn Object) -> Vec<String> {
        let mut warnings = metadata::warnings(object.meta());
        warnings.extend(self.strategy(object.kind()).warnings(object));
        warnings
    }

    /// Everything that is checked of a new object, or of a changed one against the old.
    ///
    /// What was wrong before does not count: an object that was stored under older rules can still be labelled, finished and deleted.
    fn validate(&self, subresource: &str, new: &dyn Object, old: Option<&dyn Object>) -> Result<(), StatusError> {
        let strategy = self.strategy(new.kind());
        let of_itself = |object: &dyn Object, old: Option<&dyn Object>| {
            let mut errors = FieldErrors::default();
            metadata::validate(object, old, &mut errors);
            object.validate(old, &mut errors);
            if subresource.is_empty() {
                strategy.validate(object, &mut errors);
            }
            errors
        };
        let mut errors = of_itself(new, old);
        match old {
            None => strategy.validate_create(new, &mut errors),
            Some(old) => {
                if !errors.is_empty() {
                    errors.forgive(&of_itself(old, None));
                }
                strategy.validate_update(subresource, new, old, &mut errors);
            }
        }
        if errors.is_empty() { Ok(()) } else { Err(StatusError::invalid(new.kind(), &new.meta().name, &errors)) }
    }

    /// Writes an object, or deletes it (`object` is `None`), together with what admission demanded. `expected` is the revision the
    /// object is at, `None` if there must be none. Answers the revision; nothing if a guard did not hold.
    async fn commit(
        &self,
        kind: &Kind,
        collection: &Collection,
        (namespace, name): (&str, &str),
        expected: Option<i64>,
        object: Option<&[u8]>,
        effects: Effects,
    ) -> Result<Option<i64>, StatusError> {
        let layout = collection.layout();
        let key = layout.key(namespace, name);
        // The object's own guard comes first: its state is the first one in a refusal.
        let guard = expected.map_or(Guard::Absent, Guard::At);
        let txn = Txn::new().guard(&key, guard);
        let txn = match object {
            Some(object) => txn.put_object(layout, namespace, name, object).map_err(|error| unexpected(&error, &key))?,
            None => txn.delete(&key),
        };
        let txn = effects.onto(txn);
        match self.store.commit(&txn).await {
            Ok(Outcome::Committed(revision)) => Ok(Some(revision)),
            Ok(Outcome::Refused(states)) => {
                let own = states.first().and_then(|state| state.value.as_ref()).map(|value| value.revision);
                match (expected, own) {
                    (None, Some(_)) => Err(StatusError::already_exists(kind, name)),
                    (Some(_), None) => Err(StatusError::not_found(kind, name)),
                    _ => Ok(None),
                }
            }
            Err(e) => Err(store_error(kind, name, e)),
        }
    }
}

/// A pause before computing a write anew, longer the more often it failed: several writers of one thing take turns.
async fn pause(attempt: u32) {
    let most = 1u64 << attempt.min(6);
    tokio::time::sleep(Duration::from_millis(rand::random_range(0..=most))).await;
}

/// The error of a write that lost every race.
fn contended(kind: &Kind, name: &str) -> StatusError {
    StatusError::conflict(kind, name, "what it depends on keeps changing; please try again")
}

/// True where a client names no resource version: it leaves it out, or sends 0 as upstream's libraries do.
fn is_unversioned(object: &dyn Object) -> bool {
    matches!(object.meta().resource_version.as_str(), "" | "0")
}

/// Decodes an entry.
fn decode(kind: &KindRef, entry: &Arc<Entry>) -> Result<Box<dyn Object>, StatusError> {
    kind.decode(entry.object()).map_err(|error| damaged(entry, &error))
}

/// The object's encoding as it is stored: without resource version.
fn encode(object: &mut dyn Object) -> Bytes {
    object.meta_mut().resource_version.clear();
    object.encode()
}

impl Stored {
    /// An object as it is after a write at `revision`, from its encoding without resource version.
    fn at(kind: &KindRef, bytes: &[u8], revision: i64) -> Self {
        Self { kind: kind.clone(), bytes: store::wire::with_resource_version(bytes, revision) }
    }
}
