//! What the store counts about itself, as plain numbers that whoever serves metrics reads.

use std::sync::atomic::{AtomicU64, Ordering};

/// A number that only rises.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `n`.
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    /// The sum so far.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What the store counts over all kinds.
#[derive(Debug, Default)]
pub struct Counters {
    /// Requests sent to etcd, each attempt counted.
    pub etcd_requests: Counter,
    /// Attempts that failed and were repeated with another member.
    pub etcd_failovers: Counter,
    /// Writes whose outcome had to be read back.
    pub etcd_read_backs: Counter,
    /// Writes refused because a guard did not hold.
    pub conflicts: Counter,
    /// Events received on the etcd watch.
    pub events: Counter,
    /// Times the etcd watch was opened.
    pub watches_opened: Counter,
    /// Times the cache was listed anew because history was lost or in doubt.
    pub relists: Counter,
    /// Stored values that could not be read and are not served.
    pub unreadable: Counter,
    /// Watchers that fell behind and were told to list again.
    pub expired_watchers: Counter,
    /// Events handed to watchers.
    pub deliveries: Counter,
    /// Reads that had to ask etcd for the current revision, before being joined.
    pub consistent_reads: Counter,
    /// Requests for the current revision actually sent.
    pub revision_fetches: Counter,
    /// Compactions this process has done.
    pub compactions: Counter,
    /// Members this process has defragmented.
    pub defragmentations: Counter,
}

/// How much the cache of a kind holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Objects.
    pub objects: usize,
    /// Recent events.
    pub events: usize,
    /// About how many bytes the recent events hold.
    pub event_bytes: usize,
    /// Running watches.
    pub watches: usize,
}
