//! What kube-proxy reports of itself, under the names upstream's has where the meaning is the same.

use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;

use crate::sync::Summary;

/// Upper bounds of the histograms' buckets, seconds.
const SECONDS: [f64; 12] = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 5.0, 20.0];

/// Metrics of syncs. Cheap to clone; all clones are one.
#[derive(Clone, Debug)]
pub struct SyncMetrics {
    syncs: Histogram,
    full: Histogram,
    latency: Histogram,
    programming: Histogram,
    last: Gauge,
    queued: Gauge,
    failures: Counter,
    rules: Gauge,
    elements: Gauge,
    flows: Counter,
    service_changes: Counter,
    endpoint_changes: Counter,
}

// === impl SyncMetrics ===

impl SyncMetrics {
    /// Registers the metrics; once a process.
    pub fn register(metrics: &daemon::Metrics) -> Self {
        let this = Self {
            syncs: Histogram::new(SECONDS),
            full: Histogram::new(SECONDS),
            latency: Histogram::new(SECONDS),
            programming: Histogram::new(programming_seconds()),
            last: Gauge::default(),
            queued: Gauge::default(),
            failures: Counter::default(),
            rules: Gauge::default(),
            elements: Gauge::default(),
            flows: Counter::default(),
            service_changes: Counter::default(),
            endpoint_changes: Counter::default(),
        };
        metrics.register(|registry| {
            let registry = registry.sub_registry_with_prefix("kubeproxy");
            registry.register("sync_proxy_rules_duration_seconds", "Time of one sync", this.syncs.clone());
            registry.register(
                "sync_full_proxy_rules_duration_seconds",
                "Time of one sync that listed the table first",
                this.full.clone(),
            );
            registry.register("rules_latency_seconds", "Time from a change seen to its rules applied", this.latency.clone());
            let help = "Time from a change of a pod or Service, as its EndpointSlice says, to its rules applied";
            registry.register("network_programming_duration_seconds", help, this.programming.clone());
            registry.register(
                "sync_proxy_rules_last_timestamp_seconds",
                "When the rules were last brought up to date, since the Unix epoch",
                this.last.clone(),
            );
            registry.register(
                "sync_proxy_rules_last_queued_timestamp_seconds",
                "When a sync was last asked for, since the Unix epoch",
                this.queued.clone(),
            );
            registry.register("sync_proxy_rules_nftables_sync_failures", "Syncs that the kernel refused", this.failures.clone());
            registry.register("rules", "Rules in the table", this.rules.clone());
            registry.register("elements", "Elements of the table's sets and maps", this.elements.clone());
            let help = "Tracked UDP flows ended because their endpoint is gone, or because they began before there was one";
            registry.register("conntrack_reconciler_deleted_entries", help, this.flows.clone());
            registry.register("sync_proxy_rules_service_changes", "Changes of Services", this.service_changes.clone());
            registry.register("sync_proxy_rules_endpoint_changes", "Changes of EndpointSlices", this.endpoint_changes.clone());
        });
        this
    }

    /// A Service has changed.
    pub fn service_changed(&self) {
        self.service_changes.inc();
    }

    /// A slice has changed.
    pub fn slice_changed(&self) {
        self.endpoint_changes.inc();
    }

    /// A sync was asked for.
    pub fn asked(&self) {
        self.queued.set(unix_seconds());
    }

    /// A sync went well; its oldest change had waited for `waited` when it began.
    pub fn synced(&self, summary: &Summary, waited: Duration) {
        self.syncs.observe(summary.took.as_secs_f64());
        if summary.listed {
            self.full.observe(summary.took.as_secs_f64());
        }
        self.latency.observe((waited + summary.took).as_secs_f64());
        self.last.set(unix_seconds());
        self.rules.set(i64::try_from(summary.rules).unwrap_or(i64::MAX));
        self.elements.set(i64::try_from(summary.elements).unwrap_or(i64::MAX));
        self.flows.inc_by(u64::try_from(summary.flows_ended).unwrap_or(u64::MAX));
    }

    /// The rules now show a change that happened at `changed`.
    pub fn programmed(&self, changed: Timestamp) {
        let took = Timestamp::now().duration_since(changed);
        // Clocks of two hosts may differ.
        self.programming.observe(took.as_secs_f64().max(0.0));
    }

    /// A sync failed.
    pub fn failed(&self) {
        self.failures.inc();
    }
}

/// Upstream's buckets for what takes from a moment to minutes.
fn programming_seconds() -> impl Iterator<Item = f64> {
    let whole = (1..60).chain((60..=115).step_by(5)).chain((120..=300).step_by(30));
    [0.25, 0.5].into_iter().chain(whole.map(f64::from))
}

fn unix_seconds() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}
