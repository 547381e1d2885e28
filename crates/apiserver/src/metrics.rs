//! What the API server reports of itself, under upstream's names where the meaning is the same.

use std::{fmt, time::Duration};

use api::kind::Text;
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric},
    metrics::{
        MetricType,
        counter::{ConstCounter, Counter},
        family::Family,
        gauge::{ConstGauge, Gauge},
        histogram::Histogram,
    },
};
use store::{Stats, Store};

use crate::{
    call::Nature,
    request::{Action, Verb},
    subresource::Subresource,
};

/// Upper bounds of the buckets of request times, seconds.
const SECONDS: [f64; 12] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0];
/// A number of a kind's cache.
type Reading = fn(&Stats) -> usize;

/// Metrics of requests, under upstream's names and labels. Cheap to clone; all clones are one.
#[derive(Clone, Debug)]
pub(crate) struct RequestMetrics {
    requests: Family<Answered, Counter>,
    seconds: Family<Labels, Histogram>,
    in_flight: Family<KindLabels, Gauge>,
    long_running: Family<Labels, Gauge>,
}

/// What a request does; all empty for what is on no object, and for what is refused before that is known.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    verb: &'static str,
    group: Text,
    version: Text,
    resource: Text,
    subresource: &'static str,
    scope: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Answered {
    verb: &'static str,
    group: Text,
    version: Text,
    resource: Text,
    subresource: &'static str,
    scope: &'static str,
    code: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct KindLabels {
    request_kind: &'static str,
}

/// A request that is counted as in flight until this is dropped.
#[derive(Debug)]
pub(crate) struct InFlight {
    gauge: Option<Gauge>,
    metrics: RequestMetrics,
}

// === impl RequestMetrics ===

impl RequestMetrics {
    /// Registers the metrics of requests; once a process.
    pub(crate) fn register(metrics: &daemon::Metrics) -> Self {
        let this = Self {
            requests: Family::default(),
            seconds: Family::new_with_constructor(|| Histogram::new(SECONDS)),
            in_flight: Family::default(),
            long_running: Family::default(),
        };
        metrics.register(|registry| {
            let registry = registry.sub_registry_with_prefix("apiserver");
            registry.register("request", "Requests answered, by what they do and HTTP code", this.requests.clone());
            registry.register("request_duration_seconds", "Time to the answer; not of streams", this.seconds.clone());
            registry.register("current_inflight_requests", "Requests that are handled now; no streams", this.in_flight.clone());
            registry.register("longrunning_requests", "Watches, logs and the like that last now", this.long_running.clone());
        });
        this
    }

    /// A request begins. What lasts count as long-running once it is known what they do.
    pub(crate) fn begin(&self, nature: Nature) -> InFlight {
        let labels = KindLabels { request_kind: if nature.reads_only { "readOnly" } else { "mutating" } };
        InFlight::new((!nature.lasts).then(|| self.in_flight.get_or_create_owned(&labels)), self.clone())
    }

    /// A request was answered; `took` is nothing for a stream, and for what was refused before it was handled.
    pub(crate) fn answered(&self, action: Option<&Action>, code: u16, took: Option<Duration>) {
        let labels = Labels::of(action);
        if let Some(took) = took {
            self.seconds.get_or_create(&labels).observe(took.as_secs_f64());
        }
        let Labels { verb, group, version, resource, subresource, scope } = labels;
        self.requests.get_or_create(&Answered { verb, group, version, resource, subresource, scope, code }).inc();
    }
}

// === impl InFlight ===

impl InFlight {
    fn new(gauge: Option<Gauge>, metrics: RequestMetrics) -> Self {
        if let Some(gauge) = &gauge {
            gauge.inc();
        }
        Self { gauge, metrics }
    }

    /// The request does this: if it is a stream, it counts as long-running from now on.
    pub(crate) fn of(self, action: Option<&Action>) -> Self {
        match (&self.gauge, action) {
            (None, Some(_)) => {
                let gauge = self.metrics.long_running.get_or_create_owned(&Labels::of(action));
                Self::new(Some(gauge), self.metrics.clone())
            }
            _ => self,
        }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        if let Some(gauge) = &self.gauge {
            gauge.dec();
        }
    }
}

// === impl Labels ===

impl Labels {
    fn of(action: Option<&Action>) -> Self {
        let Some(Action { verb, kind, subresource, scope }) = action else { return Self::default() };
        let verb = match (verb, subresource.and_then(Subresource::stream)) {
            (_, Some(stream)) if stream.both_ways => "CONNECT",
            (Verb::Get, _) => "GET",
            (Verb::List, _) => "LIST",
            (Verb::Watch, _) => "WATCH",
            (Verb::Create, _) => "POST",
            (Verb::Update, _) => "PUT",
            (Verb::Patch, _) => "PATCH",
            (Verb::Delete, _) => "DELETE",
            (Verb::DeleteCollection, _) => "DELETECOLLECTION",
        };
        let (group, version, resource) = (kind.group.clone(), kind.version.clone(), kind.plural.clone());
        Self { verb, group, version, resource, subresource: subresource.map_or("", |part| part.name), scope }
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
