//! The watch cache: every object of every kind as of now, and the recent events, fed by one etcd watch.
//!
//! ```text
//!  etcd ──one watch──► feed ──changes by kind──► KindCache: entries, indexes, ring ──wake──► Watch, Watch, …
//!                        └──after all kinds──► the published revision ──wake──► reads that wait for it
//! ```
//!
//! The watch covers the whole keyspace, so every revision is seen, and a consistent read only waits until the revision etcd
//! reports has been published: no progress notifications, no polling.
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

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Notify, watch as signal};
use tokio::time::timeout;

pub(crate) use self::feed::Feed;
pub(crate) use self::kind::{KindCache, Limits, Listed};
pub(crate) use self::read_index::{ReadIndex, ReadIndexer};
use crate::entry::Entry;
use crate::envelope::{self, EnvelopeError};
use crate::error::Error;
use crate::layout::KindLayout;
use crate::metrics::Counters;

/// How long a consistent read waits before it doubts that the etcd watch is alive.
const DOUBT_AFTER: Duration = Duration::from_secs(1);

/// The caches of all kinds.
pub(crate) struct Cache {
    kinds: Vec<Arc<KindCache>>,
    /// Prefix and place in `kinds`, ordered by prefix.
    prefixes: Vec<(String, usize)>,
    by_name: HashMap<String, usize>,
    published: Arc<AtomicI64>,
    reached: signal::Sender<i64>,
    ready: signal::Sender<bool>,
    /// Told when a read has waited suspiciously long.
    doubt: Notify,
    /// Who is told, by prefix, that keys which hold no objects came or went.
    keys: Mutex<Vec<(String, signal::Sender<()>)>>,
    pub(crate) counters: Arc<Counters>,
}

impl Cache {
    /// # Errors
    /// Two kinds have the same name, or a prefix begins with another.
    pub(crate) fn new(layouts: Vec<KindLayout>, limits: Limits, counters: Arc<Counters>) -> Result<Self, Error> {
        let published = Arc::new(AtomicI64::new(0));
        let mut prefixes: Vec<_> = layouts.iter().enumerate().map(|(i, l)| (l.prefix.to_string(), i)).collect();
        prefixes.sort_unstable();
        let overlap = |a: usize, b: usize| Error::OverlappingKinds(layouts[a].name.to_string(), layouts[b].name.to_string());
        if let Some([a, b]) = prefixes.array_windows::<2>().find(|[a, b]| b.0.starts_with(&a.0)) {
            return Err(overlap(a.1, b.1));
        }
        let mut by_name = HashMap::new();
        for (index, layout) in layouts.iter().enumerate() {
            if let Some(other) = by_name.insert(layout.name.to_string(), index) {
                return Err(overlap(other, index));
            }
        }
        let kind = |layout| KindCache::new(Arc::new(layout), limits, published.clone(), counters.clone());
        let kinds = layouts.into_iter().map(|layout| Arc::new(kind(layout))).collect();
        let (reached, ready) = (signal::Sender::new(0), signal::Sender::new(false));
        Ok(Self { kinds, prefixes, by_name, published, reached, ready, doubt: Notify::new(), keys: Mutex::default(), counters })
    }

    pub(crate) fn kinds(&self) -> &[Arc<KindCache>] {
        &self.kinds
    }

    pub(crate) fn kind(&self, name: &str) -> Option<&Arc<KindCache>> {
        self.kinds.get(*self.by_name.get(name)?)
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

    /// The kind a key belongs to.
    pub(crate) fn kind_of(&self, key: &str) -> Option<usize> {
        let at = self.prefixes.partition_point(|(prefix, _)| prefix.as_str() <= key);
        let (prefix, index) = self.prefixes.get(at.checked_sub(1)?)?;
        key.starts_with(prefix.as_str()).then_some(*index)
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
/// The value is not an enveloped object of the kind.
pub(crate) fn read(layout: &KindLayout, key: &str, value: &[u8], revision: i64) -> Result<Entry, EnvelopeError> {
    let unknown = envelope::decode(value)?;
    if (unknown.api_version, unknown.kind) != (&*layout.api_version, &*layout.kind) {
        let (api_version, kind) = (unknown.api_version.to_owned(), unknown.kind.to_owned());
        return Err(EnvelopeError::OtherType { api_version, kind });
    }
    Entry::new(key, layout.prefix.len(), unknown.raw, revision).map_err(|error| match error {
        crate::entry::EntryError::Malformed(error) => EnvelopeError::Malformed(error),
        crate::entry::EntryError::TooLong => EnvelopeError::TooLong,
    })
}
