//! Keeps the cache in step with etcd: lists once, then follows one watch over the whole keyspace.
//!
//! ```text
//!  Empty ──list──► Following ──connection lost──► Following, from the next revision, at another member
//!                     ├──history compacted, or a revision missing or seen twice──► list, tell the difference, Following
//!                     └──etcd was restored from a backup──► Empty, every watcher begins anew
//! ```
//!
//! Every revision of etcd changes at least one key, so revisions must arrive without a gap: a lost event is noticed.
//! *Invariant:* a response is applied whole or not at all; all events of a revision come in one response.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use etcd_client::{Event, KeyValue, WatchResponse, WatchStream};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::kind::Change;
use super::{Cache, KindCache, Listed, Table, read};
use crate::entry::Entry;
use crate::etcd::maintenance::COMPACT_REV_KEY;
use crate::etcd::{Etcd, EtcdError};
use crate::layout::KindLayout;

/// Objects of a list fetched at a time.
const PAGE: i64 = 500;
const FIRST_BACKOFF: Duration = Duration::from_millis(50);
const MAX_BACKOFF: Duration = Duration::from_secs(2);
/// A watch that has brought something this recently is alive.
const LIVELY: Duration = Duration::from_millis(500);

/// The one writer of the cache.
pub(crate) struct Feed {
    pub(crate) cache: Arc<Cache>,
    pub(crate) etcd: Etcd,
    /// How many revisions before the current one to begin with.
    pub(crate) replay: u32,
}

/// Why following came to an end.
#[derive(Debug)]
enum Ended {
    /// The connection or the member is gone; nothing is lost.
    Broken,
    /// The next revision is compacted away.
    Compacted,
    /// A revision was missing or came twice.
    Doubtful { expected: i64, got: i64 },
    /// etcd's revision is lower than one it had told before, or it is another cluster: it was restored from a backup.
    Replaced { now: i64 },
}

/// Whether the cache must be listed, and how.
#[derive(Clone, Copy, PartialEq, Eq)]
enum List {
    No,
    Difference,
    Anew,
}

impl Feed {
    /// Runs until cancelled.
    pub(crate) async fn run(self, shutdown: CancellationToken) {
        shutdown.run_until_cancelled(self.forever()).await;
    }

    async fn forever(self) {
        let (mut list, mut cluster, mut backoff) = (List::Anew, None, FIRST_BACKOFF);
        loop {
            let began = Instant::now();
            match self.round(&mut list, &mut cluster).await {
                Ok(Ended::Broken) => {}
                Ok(Ended::Compacted) => {
                    tracing::warn!(revision = self.cache.revision(), "what follows is compacted, listing again");
                    list = List::Difference;
                }
                Ok(Ended::Doubtful { expected, got }) => {
                    tracing::error!(expected, got, "etcd's watch skipped or repeated a revision, listing again");
                    list = List::Difference;
                }
                Ok(Ended::Replaced { now }) => {
                    tracing::error!(had = self.cache.revision(), now, "etcd has lost history, beginning anew");
                    list = List::Anew;
                }
                Err(error) => {
                    let error = &error as &dyn std::error::Error;
                    if self.etcd.is_lost() {
                        tracing::debug!(error, "etcd cannot be read");
                    } else {
                        tracing::warn!(error, "etcd cannot be read");
                    }
                }
            }
            let lasted = began.elapsed() > MAX_BACKOFF;
            backoff = if lasted { FIRST_BACKOFF } else { (backoff * 2).min(MAX_BACKOFF) };
            sleep(rand::random_range(backoff / 2..backoff)).await;
        }
    }

    /// Lists if need be, then follows until that ends.
    async fn round(&self, list: &mut List, cluster: &mut Option<u64>) -> Result<Ended, EtcdError> {
        let (current, id) = self.etcd.revision_and_cluster().await?;
        let other = cluster.replace(id).is_some_and(|before| before != id);
        if *list != List::Anew && (other || current < self.cache.revision()) {
            return Ok(Ended::Replaced { now: current });
        }
        match list {
            List::No => {}
            List::Difference => {
                self.cache.counters.relists.add(1);
                self.list(current, false).await?;
            }
            List::Anew => self.list_in_the_past(current).await?,
        }
        *list = List::No;
        if self.cache.revision() >= current {
            self.cache.set_ready();
        }
        self.cache.counters.watches_opened.add(1);
        let (stream, member) = self.etcd.watch_all(self.cache.revision() + 1).await?;
        let ended = self.follow(stream, current).await;
        if matches!(ended, Ended::Broken) {
            self.etcd.avoid(member);
        }
        Ok(ended)
    }

    /// Lists as of some revisions ago, so that following fills the rings with the changes since.
    async fn list_in_the_past(&self, current: i64) -> Result<(), EtcdError> {
        let mut start = current.saturating_sub(i64::from(self.replay));
        if let Some(kept) = self.etcd.get(COMPACT_REV_KEY).await? {
            // Upstream's scheme compacts up to the revision recorded one round earlier: the recorded one is still there.
            let kept = std::str::from_utf8(&kept.bytes).ok().and_then(|text| text.parse().ok()).unwrap_or(current);
            start = start.max(kept);
        }
        match self.list(start.clamp(1, current), true).await {
            Err(EtcdError::Compacted) => self.list(current, true).await,
            other => other,
        }
    }

    /// Reads every kind as of a revision and makes the cache so.
    async fn list(&self, revision: i64, anew: bool) -> Result<(), EtcdError> {
        let table = self.cache.table();
        let mut lists = Vec::new();
        for kind in table.kinds() {
            lists.push((kind, list_kind(&self.cache, &self.etcd, kind, revision).await?));
        }
        for (kind, listed) in lists {
            if anew {
                kind.reset(listed, revision);
            } else {
                kind.replace(listed, revision);
            }
        }
        self.cache.publish(revision);
        self.cache.tell(None);
        Ok(())
    }

    /// Applies what the watch brings until it ends.
    async fn follow(&self, mut stream: WatchStream, target: i64) -> Ended {
        let mut heard = Instant::now();
        loop {
            let response = tokio::select! {
                biased;
                response = stream.message() => Some(response),
                () = self.cache.doubted() => None,
                () = self.etcd.moved() => None,
            };
            let Some(response) = response else {
                if heard.elapsed() < LIVELY {
                    continue;
                }
                // Either a read has waited too long, or requests to the member have failed. Coming back costs little.
                tracing::info!("opening the etcd watch anew");
                return Ended::Broken;
            };
            heard = Instant::now();
            match response {
                Ok(Some(response)) if response.canceled() && response.compact_revision() > 0 => {
                    return Ended::Compacted;
                }
                Ok(Some(response)) if response.canceled() => return Ended::Broken,
                Ok(Some(response)) => {
                    if let Some(ended) = self.take(&response) {
                        return ended;
                    }
                }
                Ok(None) => return Ended::Broken,
                Err(error) => {
                    tracing::debug!(%error, "the etcd watch broke");
                    return Ended::Broken;
                }
            }
            if !self.cache.is_ready() && self.cache.revision() >= target {
                self.cache.set_ready();
            }
        }
    }

    /// Applies one response, unless its revisions do not continue what is known.
    fn take(&self, response: &WatchResponse) -> Option<Ended> {
        let known = self.cache.revision();
        let mut last = known;
        let table = self.cache.table();
        let mut changes: BTreeMap<&str, (&KindCache, Vec<Change>)> = BTreeMap::new();
        for event in response.events() {
            let revision = event.kv().map_or(0, KeyValue::mod_revision);
            if revision != last + 1 && (revision != last || last == known) {
                return Some(Ended::Doubtful { expected: last + 1, got: revision });
            }
            last = revision;
            if let Some((kind, change)) = self.change(&table, event) {
                changes.entry(&kind.layout.prefix).or_insert_with(|| (kind, Vec::new())).1.push(change);
            }
        }
        if last == known {
            return None;
        }
        self.cache.counters.events.add(response.events().len() as u64);
        for (kind, changes) in changes.into_values() {
            kind.apply(changes);
        }
        self.cache.publish(last);
        None
    }

    fn change<'t>(&self, table: &'t Table, event: &Event) -> Option<(&'t KindCache, Change)> {
        let kv = event.kv()?;
        let key = kv.key_str().ok()?;
        let Some(kind) = table.kind_of(key) else {
            // 0: it was deleted; 1: it is new.
            if kv.version() <= 1 {
                self.cache.tell(Some(key));
            }
            return None;
        };
        // A deletion carries only the key and its revision.
        let entry = (kv.version() != 0).then(|| entry(&self.cache, &kind.layout, kv)).flatten();
        Some((&**kind, Change { key: key.to_owned(), revision: kv.mod_revision(), entry }))
    }
}

/// Reads the objects of a kind as of a revision.
///
/// # Errors
/// An [`EtcdError`].
pub(crate) async fn list_kind(cache: &Cache, etcd: &Etcd, kind: &KindCache, revision: i64) -> Result<Vec<Listed>, EtcdError> {
    let (mut listed, mut after) = (Vec::new(), None::<String>);
    loop {
        let begun = Instant::now();
        let page = etcd.page(&kind.layout.prefix, after.as_deref(), PAGE, revision).await;
        cache.counters.latencies.observe("list", &kind.layout.name, begun.elapsed());
        let page = page?;
        after = page.items.last().map(|kv| String::from_utf8_lossy(kv.key()).into_owned());
        let entries = page.items.iter();
        listed.extend(
            entries.filter_map(|kv| Some(Listed { entry: entry(cache, &kind.layout, kv)?, created: kv.create_revision() })),
        );
        if !page.more || after.is_none() {
            return Ok(listed);
        }
    }
}

/// The entry of a stored value; nothing, loudly, if it cannot be read.
fn entry(cache: &Cache, layout: &KindLayout, kv: &KeyValue) -> Option<Arc<Entry>> {
    let key = kv.key_str().ok()?;
    match read(layout, key, kv.value(), kv.mod_revision()) {
        Ok(entry) => Some(Arc::new(entry)),
        Err(error) => {
            cache.counters.unreadable.add(1);
            tracing::error!(key, %error, "a stored value cannot be read and is not served");
            None
        }
    }
}
