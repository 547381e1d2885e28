//! Keeps a store in step with the server through one watch call at a time.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use daemon::Shutdown;
use futures::StreamExt;
use tokio::time::Instant;

use super::{Informer, Transform};
use crate::{
    Api, Backoff, Change, Item, WatchEvent, WatchParams, WatchStream,
    error::{Error, Result},
    key::ObjectKey,
};

/// A watch that lasted this long was a good one, however it ended.
const HEALTHY: Duration = Duration::from_secs(5);

/// How far the local copy is.
enum State<T> {
    /// What the server has is unknown, or too long ago; the store holds what was there before.
    Unsynced,
    /// The objects that exist are coming in; the store still holds what was there before.
    Syncing(Snapshot<T>),
    /// The store holds the server's state as of this revision.
    Synced(i64),
}

/// What a store holds at one revision.
pub(super) struct Snapshot<T> {
    pub(super) objects: HashMap<ObjectKey, Arc<T>>,
    /// Objects that exist and cannot be read, as far as their names are known. `objects` may hold what they were before.
    pub(super) unreadable: HashSet<ObjectKey>,
}

/// The one writer of an informer's store.
pub(super) struct Reflector<T> {
    api: Api<T>,
    params: WatchParams,
    transform: Option<Transform<T>>,
    informer: Informer<T>,
    state: State<T>,
}

// === impl Snapshot ===

impl<T> Default for Snapshot<T> {
    fn default() -> Self {
        Self { objects: HashMap::new(), unreadable: HashSet::new() }
    }
}

// === impl Reflector ===

impl<T: Item> Reflector<T> {
    pub(super) fn new(api: Api<T>, params: WatchParams, transform: Option<Transform<T>>, informer: Informer<T>) -> Self {
        Self { api, params, transform, informer, state: State::Unsynced }
    }

    /// Runs until the shutdown begins.
    pub(super) async fn run(mut self, shutdown: Shutdown) {
        let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(10));
        loop {
            let begun = Instant::now();
            let ended = tokio::select! {
                () = shutdown.started() => return,
                ended = self.watch() => ended,
            };
            if begun.elapsed() >= HEALTHY {
                backoff.reset();
            }
            match ended {
                Err(error) if error.is_expired() || error.is_timeout() => {
                    // A server that does not reach our revision in time may never do so: etcd was restored from an older state.
                    tracing::debug!(%error, "starting anew");
                    self.state = State::Unsynced;
                }
                Err(error) if error.is_unavailable() => tracing::debug!(error = &error as &dyn std::error::Error, "watch ended"),
                Err(error) => tracing::warn!(error = &error as &dyn std::error::Error, "watch failed"),
                Ok(()) => tracing::trace!("watch closed"),
            }
            if let State::Syncing(_) = self.state {
                self.state = State::Unsynced;
            }
            tokio::select! {
                () = shutdown.started() => return,
                () = tokio::time::sleep(backoff.next_delay()) => {}
            }
        }
    }

    /// One watch call, from its beginning to its end.
    async fn watch(&mut self) -> Result<()> {
        let mut params = self.params.clone();
        match self.state {
            State::Synced(revision) => params.resource_version = revision.to_string(),
            State::Unsynced | State::Syncing(_) => params.initial_events = true,
        }
        let mut events: WatchStream<T> = self.api.watch(&params).await?;
        if params.initial_events {
            self.state = State::Syncing(Snapshot::default());
        }
        while let Some(event) = events.next().await {
            match event {
                Err(Error::Unreadable { key, source, .. }) => self.pass_over(key, &source),
                event => self.apply(event?)?,
            }
        }
        Ok(())
    }

    /// An object that cannot be read stays as it was known; the others go on. Each is told once.
    fn pass_over(&mut self, key: ObjectKey, why: &Error) {
        if let State::Syncing(snapshot) = &mut self.state {
            if let Some(known) = self.informer.store().get(&key) {
                snapshot.objects.insert(key.clone(), known);
            }
            snapshot.unreadable.insert(key.clone());
        }
        if self.informer.store().doubt(key.clone()) {
            tracing::error!(object = %key, error = why as &dyn std::error::Error, "an object cannot be read and is passed over");
        }
    }

    fn apply(&mut self, event: WatchEvent<T>) -> Result<()> {
        let (revision, initial_events_end) =
            (event.revision, matches!(event.change, Change::Bookmark { initial_events_end: true }));
        let change = match event.change {
            Change::Added(object) | Change::Modified(object) => Some((ObjectKey::of(object.meta()), Some(self.shrunk(object)))),
            Change::Deleted(object) => Some((ObjectKey::of(object.meta()), None)),
            Change::Bookmark { .. } => None,
        };
        match &mut self.state {
            State::Syncing(snapshot) => {
                if let Some((key, object)) = change {
                    snapshot.unreadable.remove(&key);
                    match object {
                        Some(object) => drop(snapshot.objects.insert(key, object)),
                        None => drop(snapshot.objects.remove(&key)),
                    }
                }
                if initial_events_end {
                    self.informer.replace(std::mem::take(snapshot), revision);
                    self.state = State::Synced(revision);
                }
            }
            State::Synced(seen) => {
                if revision < *seen {
                    // A server that goes back in time has lost something; what we hold may be wrong in any way.
                    let reason = format!("revision {revision} came after {seen}");
                    return Err(Error::Api(api::StatusError::new(api::status::Reason::Expired, reason)));
                }
                *seen = revision;
                match change {
                    Some((key, object)) => self.informer.put(&key, object, revision),
                    None => self.informer.advance(revision),
                }
            }
            State::Unsynced => {}
        }
        Ok(())
    }

    fn shrunk(&self, mut object: T) -> Arc<T> {
        object.meta_mut().managed_fields = Vec::new();
        if let Some(transform) = &self.transform {
            transform(&mut object);
        }
        Arc::new(object)
    }
}
