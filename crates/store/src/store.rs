//! The face of the crate: [`Store`] over all kinds, [`Collection`] over one.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use crate::cache::list::{List, ListOptions};
use crate::cache::watch::{Watch, WatchStart};
use crate::cache::{Cache, Feed, KindCache, Limits, ReadIndex, ReadIndexer, list_kind, read};
use crate::config::Config;
use crate::entry::{Entry, EntryError};
use crate::error::Error;
use crate::etcd::maintenance::Maintenance;
use crate::etcd::quorum::Watchman;
use crate::etcd::{Etcd, EtcdError, Guard, KeyState, Outcome, Txn};
use crate::layout::KindLayout;
use crate::metrics::{Counters, Stats};
use crate::selection::Selection;
use crate::wire;

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
pub struct Store(Arc<Inner>);

/// The objects of one kind. Cheap to clone.
#[derive(Clone)]
pub struct Collection {
    store: Store,
    kind: Arc<KindCache>,
}

/// Keeps the cache in step with etcd and takes care of etcd's history and size. Runs until told to stop.
pub struct Runner {
    feed: Feed,
    read_indexer: ReadIndexer,
    maintenance: Maintenance,
    watchman: Watchman,
}

struct Inner {
    cache: Arc<Cache>,
    etcd: Etcd,
    read_index: ReadIndex,
    catch_up_timeout: Duration,
}

/// Keys fetched at a time when a page of the past is read from etcd.
const HISTORY_PAGE: i64 = 500;

// === impl Store ===

impl Store {
    /// A store for these kinds and what keeps it up to date. Nothing is contacted yet. To be called inside a Tokio runtime.
    ///
    /// # Errors
    /// Certificates or addresses cannot be used, or kinds overlap.
    pub fn new(config: Config, kinds: Vec<KindLayout>) -> Result<(Self, Runner), Error> {
        let counters = Arc::<Counters>::default();
        let etcd = Etcd::new(&config, counters.clone())?;
        let limits = Limits { events: config.ring_events, bytes: config.ring_bytes };
        let cache = Arc::new(Cache::new(kinds, limits, counters.clone())?);
        let (read_index, read_indexer) = ReadIndex::new(etcd.clone(), counters.clone());
        let feed = Feed { cache: cache.clone(), etcd: etcd.clone(), replay: config.replay };
        let maintenance = Maintenance::new(etcd.clone(), &config, counters);
        let (catch_up_timeout, watchman) = (config.catch_up_timeout, Watchman(etcd.clone()));
        let store = Self(Arc::new(Inner { cache, etcd, read_index, catch_up_timeout }));
        Ok((store, Runner { feed, read_indexer, maintenance, watchman }))
    }

    /// Waits until the first list is in and has caught up.
    pub async fn ready(&self) {
        self.0.cache.ready().await;
    }

    /// Whether the first list is in and has caught up.
    pub fn is_ready(&self) -> bool {
        self.0.cache.is_ready()
    }

    /// The handle of the kind of that [`KindLayout::name`].
    pub fn collection(&self, name: &str) -> Option<Collection> {
        self.0.cache.kind(name).map(|kind| Collection { store: self.clone(), kind })
    }

    /// The handles of all kinds, ordered by where they are stored.
    pub fn collections(&self) -> impl Iterator<Item = Collection> + '_ {
        self.0.cache.shown().into_iter().map(|kind| Collection { store: self.clone(), kind })
    }

    /// Adds a kind: reads its objects and follows them from then on, with the one watch that follows everything.
    ///
    /// # Errors
    /// [`Error::OverlappingKinds`], or an [`Error::Etcd`], after which the kind is not there.
    pub async fn add(&self, layout: KindLayout) -> Result<Collection, Error> {
        let kind = self.0.cache.insert(layout, true)?;
        // If this is dropped half-way, the kind must not stay half-open.
        let unfinished = Unfinished(Some((self, &kind)));
        let revision = self.etcd().revision().await?;
        let listed = list_kind(&self.0.cache, self.etcd(), &kind, revision).await?;
        kind.open(listed, revision);
        unfinished.done();
        self.0.cache.show(&kind);
        Ok(Collection { store: self.clone(), kind })
    }

    /// Removes a kind: what is read of it and watched ends with [`Error::Removed`]. Its objects stay in etcd. False if there is none.
    pub fn remove(&self, name: &str) -> bool {
        self.0.cache.remove(name)
    }

    /// The revision up to which the cache has seen everything; 0 before the first list.
    pub fn revision(&self) -> i64 {
        self.0.cache.revision()
    }

    /// Waits until a read is as fresh as demanded; answers the revision then reached.
    ///
    /// # Errors
    /// [`Error::NotReady`], [`Error::Future`] or an [`Error::Etcd`].
    pub async fn fresh(&self, at: ReadAt) -> Result<i64, Error> {
        let patience = self.0.catch_up_timeout;
        if !self.is_ready() {
            timeout(patience, self.ready()).await.map_err(|_| Error::NotReady)?;
        }
        match at {
            ReadAt::Any => Ok(self.revision()),
            ReadAt::AtLeast(revision) => self.0.cache.wait_for(revision, patience).await,
            ReadAt::Latest => self.0.cache.wait_for(self.0.read_index.get().await?, patience).await,
        }
    }

    /// Carries out a transaction over several keys.
    ///
    /// # Errors
    /// An [`Error::Etcd`]; if that is [`EtcdError::Undetermined`], it may have happened, otherwise nothing was written.
    pub async fn commit(&self, txn: &Txn) -> Result<Outcome, Error> {
        let begun = Instant::now();
        let outcome = self.0.etcd.commit(txn).await;
        if let Some((key, operation)) = txn.purpose()
            && let Some(kind) = self.0.cache.table().kind_of(key)
        {
            self.counters().latencies.observe(operation, &kind.layout.name, begun.elapsed());
        }
        let outcome = outcome?;
        if matches!(outcome, Outcome::Refused(_)) {
            self.counters().conflicts.add(1);
        }
        Ok(outcome)
    }

    /// The etcd cluster itself, for keys that are no objects.
    pub fn etcd(&self) -> &Etcd {
        &self.0.etcd
    }

    /// Told from now on whenever a key that begins with `prefix` and holds no object came into being or went; it may be told without that.
    /// Which keys there are is to be read from [`Store::etcd`].
    pub fn keys(&self, prefix: &str) -> watch::Receiver<()> {
        self.0.cache.keys(prefix)
    }

    /// What the store has counted.
    pub fn counters(&self) -> &Counters {
        &self.0.cache.counters
    }
}

/// A kind that is being added; taken out again if that does not come to its end.
struct Unfinished<'a>(Option<(&'a Store, &'a Arc<KindCache>)>);

impl Unfinished<'_> {
    fn done(mut self) {
        self.0 = None;
    }
}

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        if let Some((store, kind)) = self.0 {
            store.0.cache.remove(&kind.layout.name);
        }
    }
}

// === impl Runner ===

impl Runner {
    /// Runs until `shutdown` is cancelled. Returning earlier, or panicking, means that the store is of no use any more: the
    /// process should end.
    pub async fn run(self, shutdown: CancellationToken) {
        let mut tasks = JoinSet::new();
        tasks.spawn(self.feed.run(shutdown.clone()));
        let read_indexer = self.read_indexer;
        let indexing = shutdown.clone();
        tasks.spawn(async move { indexing.run_until_cancelled(read_indexer.run()).await.unwrap_or_default() });
        tasks.spawn(self.maintenance.run(shutdown.clone()));
        tasks.spawn(self.watchman.run(shutdown));
        // The first to end, for whatever reason, ends the others.
        if let Some(Err(error)) = tasks.join_next().await
            && let Ok(panic) = error.try_into_panic()
        {
            std::panic::resume_unwind(panic);
        }
        tasks.shutdown().await;
    }
}

// === impl Collection ===

impl Collection {
    /// What this is a collection of.
    pub fn layout(&self) -> &Arc<KindLayout> {
        &self.kind.layout
    }

    /// The store this is a part of.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// How much the cache of this kind holds at present.
    pub fn stats(&self) -> Stats {
        self.kind.stats()
    }

    /// Creates an object.
    ///
    /// # Errors
    /// [`Error::AlreadyExists`], [`Error::InvalidObject`], or an [`Error::Etcd`].
    pub async fn create(&self, namespace: &str, name: &str, object: &[u8]) -> Result<Arc<Entry>, Error> {
        let key = self.kind.layout.key(namespace, name);
        let txn = self.put(Txn::new().guard(&key, Guard::Absent), namespace, name, object)?;
        match self.store.commit(&txn).await? {
            Outcome::Committed(revision) => self.written(&key, object, revision),
            Outcome::Refused(_) => Err(Error::AlreadyExists { key }),
        }
    }

    /// Reads an object.
    ///
    /// # Errors
    /// [`Error::NotFound`], or what [`Store::fresh`] answers.
    pub async fn get(&self, namespace: &str, name: &str, at: ReadAt) -> Result<Arc<Entry>, Error> {
        self.store.fresh(at).await?;
        self.kind.check_open()?;
        let key = self.kind.layout.key(namespace, name);
        self.kind.get(&key).ok_or(Error::NotFound { key })
    }

    /// Replaces an object that is still at revision `expected`.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Conflict`] with the current object, [`Error::InvalidObject`], or an [`Error::Etcd`].
    pub async fn update(&self, namespace: &str, name: &str, expected: i64, object: &[u8]) -> Result<Arc<Entry>, Error> {
        let key = self.kind.layout.key(namespace, name);
        let txn = self.put(Txn::new().guard(&key, Guard::At(expected)), namespace, name, object)?;
        match self.store.commit(&txn).await? {
            Outcome::Committed(revision) => self.written(&key, object, revision),
            Outcome::Refused(found) => Err(self.refused(key, found)),
        }
    }

    /// Deletes an object that is still at revision `expected`. Answers its last state, at the revision of the deletion.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Conflict`] with the current object, or an [`Error::Etcd`].
    pub async fn delete(&self, namespace: &str, name: &str, expected: i64) -> Result<Arc<Entry>, Error> {
        let key = self.kind.layout.key(namespace, name);
        let mut last = self.kind.get(&key).filter(|entry| entry.revision() == expected);
        if last.is_none() {
            last = Some(self.current(&key).await?);
        }
        let Some(last) = last.filter(|entry| entry.revision() == expected) else {
            return Err(Error::Conflict { current: self.current(&key).await? });
        };
        let txn = Txn::new().guard(&key, Guard::At(expected)).delete(&key);
        match self.store.commit(&txn).await? {
            Outcome::Committed(revision) => Ok(Arc::new(last.at_revision(revision))),
            Outcome::Refused(found) => Err(self.refused(key, found)),
        }
    }

    /// Reads an object, lets `change` decide, and writes what it decides, again and again until nobody came in between.
    ///
    /// Begins with the cached object. If on that `change` fails or finds nothing to do, the object is read again with
    /// [`ReadAt::Latest`], and if it turns out to be another, that one counts. Answers the new state ([`Change::Put`], or
    /// the old one if the bytes are the same), the last one ([`Change::Delete`]) or the unchanged one ([`Change::Keep`]).
    ///
    /// # Errors
    /// What `change` answers; [`Error::NotFound`]; [`Error::InvalidObject`]; an [`Error::Etcd`].
    pub async fn modify<E: From<Error>>(
        &self,
        namespace: &str,
        name: &str,
        mut change: impl FnMut(&Arc<Entry>) -> Result<Change, E> + Send,
    ) -> Result<Arc<Entry>, E> {
        let key = self.kind.layout.key(namespace, name);
        let (mut entry, mut live) = match self.kind.get(&key) {
            Some(cached) => (cached, false),
            None => (self.get(namespace, name, ReadAt::Latest).await?, true),
        };
        loop {
            let decided = change(&entry);
            let written = match &decided {
                Ok(Change::Put(object)) if *normalized(&key, object)? != *entry.stored() => {
                    self.update(namespace, name, entry.revision(), object).await
                }
                Ok(Change::Delete) => self.delete(namespace, name, entry.revision()).await,
                Ok(_) | Err(_) if !live => {
                    let latest = self.get(namespace, name, ReadAt::Latest).await?;
                    live = true;
                    if latest.revision() == entry.revision() {
                        return decided.map(|_| latest);
                    }
                    entry = latest;
                    continue;
                }
                Ok(_) => return Ok(entry),
                Err(_) => return decided.map(|_| entry),
            };
            match written {
                Err(Error::Conflict { current }) => (entry, live) = (current, true),
                other => return Ok(other?),
            }
        }
    }

    /// Lists objects in key order.
    ///
    /// # Errors
    /// [`Error::Expired`] if the page's or the exact revision is no longer known, and what [`Store::fresh`] answers.
    pub async fn list(&self, selection: &Selection, options: ListOptions) -> Result<List, Error> {
        self.store.fresh(options.exact.map_or(options.at, ReadAt::AtLeast)).await?;
        self.kind.check_open()?;
        match (self.kind.list(selection, &options), options.exact) {
            (Err(Error::Expired { requested, oldest }), Some(revision)) => {
                self.list_history(selection, &options, revision).await.map_err(|error| match error {
                    Error::Etcd(EtcdError::Compacted) => Error::Expired { requested, oldest },
                    other => other,
                })
            }
            (list, _) => list,
        }
    }

    /// Watches objects.
    ///
    /// # Errors
    /// [`Error::Expired`] if the start is too old, and what [`Store::fresh`] answers.
    pub async fn watch(&self, selection: Selection, start: WatchStart) -> Result<Watch, Error> {
        let at = match start {
            WatchStart::After(revision) => ReadAt::AtLeast(revision),
            WatchStart::Initial(at) => at,
        };
        self.store.fresh(at).await?;
        self.kind.check_open()?;
        Watch::new(self.kind.clone(), selection, start)
    }

    /// Lists as of a revision that the cache has forgotten but etcd may still know.
    async fn list_history(&self, selection: &Selection, options: &ListOptions, revision: i64) -> Result<List, Error> {
        let layout = &self.kind.layout;
        let prefix = selection.scope.prefix(layout);
        let mut after = options.after.as_ref().map(|path| format!("{}{path}", layout.prefix));
        // A page that begins before the scope begins with it.
        after = after.filter(|after| after.as_str() >= prefix.as_str());
        let mut items = Vec::new();
        loop {
            let begun = Instant::now();
            let page = self.store.etcd().page(&prefix, after.as_deref(), HISTORY_PAGE, revision).await;
            self.store.counters().latencies.observe("list", &layout.name, begun.elapsed());
            let page = page?;
            for kv in &page.items {
                let key = String::from_utf8_lossy(kv.key()).into_owned();
                match read(layout, &key, kv.value(), kv.mod_revision()) {
                    Ok(entry) if selection.matches(layout, &entry) => items.push(Arc::new(entry)),
                    Ok(_) => {}
                    Err(error) => {
                        tracing::error!(key, %error, "a stored value cannot be read and is not served")
                    }
                }
                after = Some(key);
            }
            if !page.more || (options.limit > 0 && items.len() > options.limit) {
                // How many are left would take reading them all.
                return Ok(List::cut(items, revision, options.limit, true));
            }
        }
    }

    fn put(&self, txn: Txn, namespace: &str, name: &str, object: &[u8]) -> Result<Txn, Error> {
        txn.put_object(&self.kind.layout, namespace, name, object)
            .map_err(|source| Error::InvalidObject { key: self.kind.layout.key(namespace, name), source })
    }

    fn written(&self, key: &str, object: &[u8], revision: i64) -> Result<Arc<Entry>, Error> {
        let entry = Entry::new(key, self.kind.layout.prefix.len(), object, revision);
        entry.map(Arc::new).map_err(|source| Error::InvalidObject { key: key.to_owned(), source })
    }

    /// The object as etcd has it now.
    async fn current(&self, key: &str) -> Result<Arc<Entry>, Error> {
        let begun = Instant::now();
        let value = self.store.etcd().get(key).await;
        self.store.counters().latencies.observe("get", &self.kind.layout.name, begun.elapsed());
        let value = value?;
        let found = vec![KeyState { key: key.to_owned(), value }];
        match self.refused(key.to_owned(), found) {
            Error::Conflict { current } => Ok(current),
            other => Err(other),
        }
    }

    /// The error of a write whose guard did not hold.
    fn refused(&self, key: String, found: Vec<KeyState>) -> Error {
        let Some(value) = found.into_iter().next().and_then(|state| state.value) else {
            return Error::NotFound { key };
        };
        match read(&self.kind.layout, &key, &value.bytes, value.revision) {
            Ok(current) => Error::Conflict { current: Arc::new(current) },
            Err(source) => Error::Unreadable { key, source },
        }
    }
}

fn normalized<'a>(key: &str, object: &'a [u8]) -> Result<std::borrow::Cow<'a, [u8]>, Error> {
    wire::normalized(object).map_err(|error| Error::InvalidObject { key: key.to_owned(), source: EntryError::from(error) })
}
