//! The watch cache: every object of every kind as of now, and the recent events, fed by one etcd watch.
//!
//! ```text
//!  etcd ──one watch──► feed ──changes by kind──► KindCache: entries, indexes, ring ──wake──► Watch, Watch, …
//!                        └──after all kinds──► the published revision ──wake──► reads that wait for it
//! ```
//!
//! The watch covers the whole keyspace, so every revision is seen, and a consistent read only waits until the revision etcd
//! reports has been published: no progress notifications, no polling.
//! Kinds come and go at run time. One that comes is in the feed before its list is read, and keeps the changes it is told of until then: those
//! after the list's revision are applied on top of it, the others are in it.
//! *Invariants:* the published revision is one up to which every kind has applied everything; it never falls, except when etcd
//! itself has lost history, and then every watcher is told to begin anew.

mod feed;
mod kind;
pub mod list;
mod read_index;
mod ring;
#[cfg(test)]
mod tests;
mod topics;
pub mod watch;

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use api::unstructured;
use parking_lot::{Mutex, RwLock};
use tokio::sync::{Notify, watch as signal};
use tokio::time::timeout;

pub(crate) use self::feed::{Feed, list_kind};
pub(crate) use self::kind::{KindCache, Limits, Listed};
pub(crate) use self::read_index::{ReadIndex, ReadIndexer};
use crate::entry::Entry;
use crate::envelope::{self, EnvelopeError};
use crate::error::Error;
use crate::layout::{Encoding, KindLayout};
use crate::metrics::Counters;

/// How long a consistent read waits before it doubts that the etcd watch is alive.
const DOUBT_AFTER: Duration = Duration::from_secs(1);

/// The caches of all kinds.
pub(crate) struct Cache {
    table: RwLock<Arc<Table>>,
    limits: Limits,
    published: Arc<AtomicI64>,
    reached: signal::Sender<i64>,
    ready: signal::Sender<bool>,
    /// Told when a read has waited suspiciously long.
    doubt: Notify,
    /// Who is told, by prefix, that keys which hold no objects came or went.
    keys: Mutex<Vec<(String, signal::Sender<()>)>>,
    pub(crate) counters: Arc<Counters>,
}

/// The kinds at one moment.
#[derive(Clone, Default)]
pub(crate) struct Table {
    /// By prefix. Those that are being opened are among them: they are told of changes from the first moment on.
    kinds: BTreeMap<String, Arc<KindCache>>,
    /// Those that can be read.
    by_name: HashMap<String, Arc<KindCache>>,
}

impl Table {
    /// Every kind, ordered by prefix.
    pub(crate) fn kinds(&self) -> impl Iterator<Item = &Arc<KindCache>> {
        self.kinds.values()
    }

    /// The kind a key belongs to.
    pub(crate) fn kind_of(&self, key: &str) -> Option<&Arc<KindCache>> {
        let (prefix, kind) = self.kinds.range::<str, _>((Bound::Unbounded, Bound::Included(key))).next_back()?;
        key.starts_with(prefix.as_str()).then_some(kind)
    }

    /// # Errors
    /// A kind has the same name, or a prefix begins with the other.
    fn insert(&mut self, kind: Arc<KindCache>) -> Result<(), Error> {
        let (name, prefix) = (&*kind.layout.name, &*kind.layout.prefix);
        let longer = self.kinds.range::<str, _>((Bound::Included(prefix), Bound::Unbounded)).next();
        let other =
            self.kind_of(prefix).or_else(|| longer.filter(|(longer, _)| longer.starts_with(prefix)).map(|(_, kind)| kind));
        let same = || self.kinds().find(|other| other.layout.name == name);
        if let Some(other) = other.or_else(same) {
            return Err(Error::OverlappingKinds(other.layout.name.to_string(), name.to_owned()));
        }
        self.kinds.insert(prefix.to_owned(), kind);
        Ok(())
    }
}

impl Cache {
    /// # Errors
    /// Two kinds have the same name, or a prefix begins with another.
    pub(crate) fn new(layouts: Vec<KindLayout>, limits: Limits, counters: Arc<Counters>) -> Result<Self, Error> {
        let published = Arc::new(AtomicI64::new(0));
        let (reached, ready) = (signal::Sender::new(0), signal::Sender::new(false));
        let table = RwLock::default();
        let keys = Mutex::default();
        let cache = Self { table, limits, published, reached, ready, doubt: Notify::new(), keys, counters };
        for layout in layouts {
            let kind = cache.insert(layout, false)?;
            cache.show(&kind);
        }
        Ok(cache)
    }

    /// The kinds at this moment.
    pub(crate) fn table(&self) -> Arc<Table> {
        self.table.read().clone()
    }

    /// The kind of that name, if it can be read.
    pub(crate) fn kind(&self, name: &str) -> Option<Arc<KindCache>> {
        self.table.read().by_name.get(name).cloned()
    }

    /// The kinds that can be read, ordered by prefix.
    pub(crate) fn shown(&self) -> Vec<Arc<KindCache>> {
        let table = self.table();
        table.kinds().filter(|kind| table.by_name.contains_key(&*kind.layout.name)).cloned().collect()
    }

    /// Adds a kind, which is told of changes from now on but cannot be read yet. `opening`: they wait until it is filled.
    ///
    /// # Errors
    /// A kind has the same name, or a prefix begins with the other.
    pub(crate) fn insert(&self, layout: KindLayout, opening: bool) -> Result<Arc<KindCache>, Error> {
        let kind = Arc::new(KindCache::new(Arc::new(layout), self.limits, self.published.clone(), self.counters.clone()));
        if opening {
            kind.begin_opening();
        }
        let mut table = self.table.write();
        Arc::make_mut(&mut table).insert(kind.clone())?;
        Ok(kind)
    }

    /// Lets a kind be read.
    pub(crate) fn show(&self, kind: &Arc<KindCache>) {
        Arc::make_mut(&mut self.table.write()).by_name.insert(kind.layout.name.to_string(), kind.clone());
    }

    /// Takes a kind out and ends its watches. False if it was not there.
    pub(crate) fn remove(&self, name: &str) -> bool {
        let mut table = self.table.write();
        let Some(kind) = table.kinds().find(|kind| kind.layout.name == name).cloned() else { return false };
        let changed = Arc::make_mut(&mut table);
        changed.kinds.remove(&*kind.layout.prefix);
        changed.by_name.remove(name);
        drop(table);
        kind.close();
        true
    }

    /// The revision up to which everything is applied; 0 before the first list.
    pub(crate) fn revision(&self) -> i64 {
        self.published.load(Ordering::Acquire)
    }

    pub(crate) fn is_ready(&self) -> bool {
        *self.ready.borrow()
    }

    /// Waits until the first list is in and has caught up.
    pub(crate) async fn ready(&self) {
        // The sender lives in `self`: waiting cannot fail.
        if self.ready.subscribe().wait_for(|ready| *ready).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Waits until everything up to `revision` is applied; answers the revision then reached.
    ///
    /// # Errors
    /// [`Error::Future`] if that is not so within the time.
    pub(crate) async fn wait_for(&self, revision: i64, within: Duration) -> Result<i64, Error> {
        let now = self.revision();
        if now >= revision {
            return Ok(now);
        }
        let mut reached = self.reached.subscribe();
        let doubt_after = DOUBT_AFTER.min(within);
        if let Ok(Ok(now)) = timeout(doubt_after, reached.wait_for(|now| *now >= revision)).await {
            return Ok(*now);
        }
        self.doubt.notify_one();
        match timeout(within - doubt_after, reached.wait_for(|now| *now >= revision)).await {
            Ok(Ok(now)) => Ok(*now),
            _ => Err(Error::Future { requested: revision, current: self.revision() }),
        }
    }

    /// Told from now on when a key that begins with `prefix` and holds no object comes or goes.
    pub(crate) fn keys(&self, prefix: &str) -> signal::Receiver<()> {
        let mut keys = self.keys.lock();
        keys.retain(|(_, told)| !told.is_closed());
        let (told, receiver) = signal::channel(());
        keys.push((prefix.to_owned(), told));
        receiver
    }

    /// A key that holds no object came or went; any may have, if it is not said which.
    fn tell(&self, key: Option<&str>) {
        let concerned = |prefix: &str| key.is_none_or(|key| key.starts_with(prefix));
        self.keys.lock().iter().filter(|(prefix, _)| concerned(prefix)).for_each(|(_, told)| {
            told.send_replace(());
        });
    }

    /// Makes a revision known up to which all kinds have applied everything.
    fn publish(&self, revision: i64) {
        self.published.store(revision, Ordering::Release);
        self.reached.send_replace(revision);
    }

    fn set_ready(&self) {
        self.ready.send_replace(true);
    }

    /// Waits until a read has waited suspiciously long.
    async fn doubted(&self) {
        self.doubt.notified().await;
    }
}

/// Makes an entry of a stored value.
///
/// # Errors
/// The value is not an enveloped object of the kind, or not its JSON where the kind is stored so.
pub(crate) fn read(layout: &KindLayout, key: &str, value: &[u8], revision: i64) -> Result<Entry, EnvelopeError> {
    let entry = match layout.encoding {
        Encoding::Protobuf => {
            let unknown = envelope::decode(value)?;
            if (unknown.api_version, unknown.kind) != (&*layout.api_version, &*layout.kind) {
                let (api_version, kind) = (unknown.api_version.to_owned(), unknown.kind.to_owned());
                return Err(EnvelopeError::OtherType { api_version, kind });
            }
            Entry::new(key, layout.prefix.len(), unknown.raw, revision)
        }
        Encoding::Json => {
            let object = unstructured::from_stored(&layout.kind, value).map_err(|why| EnvelopeError::NoJson(why.to_string()))?;
            Entry::new(key, layout.prefix.len(), &object, revision)
        }
    };
    entry.map_err(|error| match error {
        crate::entry::EntryError::Malformed(error) => EnvelopeError::Malformed(error),
        crate::entry::EntryError::TooLong => EnvelopeError::TooLong,
        crate::entry::EntryError::NoJson => EnvelopeError::NoJson(error.to_string()),
    })
}
