//! What the API server reports of itself, under upstream's names where the meaning is the same.

use std::{fmt, time::Duration};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric},
    metrics::{
        MetricType,
        counter::{ConstCounter, Counter},
        family::Family,
        gauge::ConstGauge,
        histogram::Histogram,
    },
};
use store::{Stats, Store};

/// Upper bounds of the buckets of request times, seconds.
const SECONDS: [f64; 10] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0, 5.0];

/// A number of a kind's cache.
type Reading = fn(&Stats) -> usize;

/// Metrics of requests. Cheap to clone; all clones are one.
#[derive(Clone, Debug)]
pub(crate) struct RequestMetrics {
    requests: Family<Answered, Counter>,
    seconds: Family<Method, Histogram>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Answered {
    method: String,
    code: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Method {
    method: String,
}

// === impl RequestMetrics ===

impl RequestMetrics {
    /// Registers the metrics of requests; once a process.
    pub(crate) fn register(metrics: &daemon::Metrics) -> Self {
        let this = Self { requests: Family::default(), seconds: Family::new_with_constructor(|| Histogram::new(SECONDS)) };
        metrics.register(|registry| {
            let registry = registry.sub_registry_with_prefix("apiserver");
            registry.register("request", "Requests answered, by method and gRPC code", this.requests.clone());
            registry.register("request_duration_seconds", "Time to the answer; not of streams", this.seconds.clone());
        });
        this
    }

    /// A request was answered; `took` is nothing for a stream. `method` must be one that is served: clients choose the others.
    pub(crate) fn answered(&self, method: &str, code: tonic::Code, took: Option<Duration>) {
        let labels = Answered { method: method.to_owned(), code: format!("{code:?}") };
        self.requests.get_or_create(&labels).inc();
        if let Some(took) = took {
            self.seconds.get_or_create(&Method { method: method.to_owned() }).observe(took.as_secs_f64());
        }
    }
}

/// Reads what the store has counted, at each scrape.
pub(crate) struct StoreMetrics(pub(crate) Store);

impl fmt::Debug for StoreMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoreMetrics").finish_non_exhaustive()
    }
}

impl Collector for StoreMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let counters = self.0.counters();
        for (name, help, counter) in [
            ("etcd_requests", "Requests sent to etcd, each attempt counted", &counters.etcd_requests),
            ("etcd_failovers", "Attempts that were repeated with another member", &counters.etcd_failovers),
            ("etcd_read_backs", "Writes whose outcome had to be read back", &counters.etcd_read_backs),
            ("etcd_watches_opened", "Times the etcd watch was opened", &counters.watches_opened),
            ("etcd_compactions", "Compactions this process has done", &counters.compactions),
            ("etcd_defragmentations", "Members this process has defragmented", &counters.defragmentations),
            ("store_conflicts", "Writes refused because a guard did not hold", &counters.conflicts),
            ("store_unreadable", "Stored values that could not be read and are not served", &counters.unreadable),
            (
                "store_consistent_reads",
                "Reads that had to ask etcd for its revision, before being joined",
                &counters.consistent_reads,
            ),
            ("store_revision_fetches", "Requests for etcd's revision actually sent", &counters.revision_fetches),
            ("watch_cache_events_received", "Events received from etcd", &counters.events),
            ("watch_cache_relists", "Times the cache was listed anew", &counters.relists),
            ("watch_events", "Events handed to watchers", &counters.deliveries),
            ("watch_expired", "Watchers that fell behind and were told to list again", &counters.expired_watchers),
        ] {
            let name = format!("apiserver_{name}");
            ConstCounter::new(counter.get()).encode(encoder.encode_descriptor(&name, help, None, MetricType::Counter)?)?;
        }
        let kinds: Vec<(String, Stats)> =
            self.0.collections().map(|kind| (kind.layout().name.to_string(), kind.stats())).collect();
        let gauges: [(&str, &str, Reading); 4] = [
            ("apiserver_storage_objects", "Objects stored", |s| s.objects),
            ("apiserver_watch_cache_events", "Recent events kept for watchers that lag", |s| s.events),
            ("apiserver_watch_cache_event_bytes", "About how many bytes those hold", |s| s.event_bytes),
            ("apiserver_registered_watchers", "Watches that run", |s| s.watches),
        ];
        for (name, help, of) in gauges {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            for (resource, stats) in &kinds {
                let labels = [("resource", resource.as_str())];
                let value = i64::try_from(of(stats)).unwrap_or(i64::MAX);
                ConstGauge::new(value).encode(family.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }
}
