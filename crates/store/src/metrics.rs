//! What the store counts about itself, as plain numbers that whoever serves metrics reads, and how long etcd takes.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;

/// Upper bounds of the buckets of [`Latencies`], seconds: upstream's range with fewer steps.
const SECONDS: [f64; 12] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.4, 0.8, 1.5, 3.0, 8.0, 60.0];

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

/// How long requests to etcd about objects take, attempts with several members together. Cheap to clone; all clones are one.
#[derive(Clone)]
pub struct Latencies(Family<EtcdRequest, Histogram>);

/// A request to etcd, in upstream's labels.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct EtcdRequest {
    /// `create`, `update`, `delete`, `get` or `list`.
    operation: &'static str,
    /// The resource, such as `pods`.
    r#type: String,
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
    /// How long etcd takes.
    pub latencies: Latencies,
}

// === impl Latencies ===

impl Latencies {
    /// For the registry, as upstream's `etcd_request_duration_seconds`.
    pub fn family(&self) -> Family<EtcdRequest, Histogram> {
        self.0.clone()
    }

    /// Notes a request about objects of the kind of that [`crate::KindLayout::name`].
    pub(crate) fn observe(&self, operation: &'static str, kind: &str, took: Duration) {
        let resource = kind.split_once('.').map_or(kind, |(resource, _)| resource);
        self.0.get_or_create(&EtcdRequest { operation, r#type: resource.to_owned() }).observe(took.as_secs_f64());
    }
}

impl Default for Latencies {
    fn default() -> Self {
        Self(Family::new_with_constructor(|| Histogram::new(SECONDS)))
    }
}

impl fmt::Debug for Latencies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Latencies").finish_non_exhaustive()
    }
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
