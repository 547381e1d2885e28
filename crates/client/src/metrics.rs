//! What controllers report of themselves.

use daemon::Metrics;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
};

/// Upper bounds of the time histograms' buckets, seconds.
const SECONDS: [f64; 9] = [0.001, 0.005, 0.02, 0.1, 0.5, 1.0, 5.0, 30.0, 300.0];

/// Metrics of all controllers of a process. Cheap to clone; all clones are one.
#[derive(Clone, Debug)]
pub struct ControllerMetrics {
    depth: Family<Name, Gauge>,
    adds: Family<Name, Counter>,
    retries: Family<Name, Counter>,
    waited: Family<Name, Histogram, fn() -> Histogram>,
    worked: Family<Name, Histogram, fn() -> Histogram>,
    reconciles: Family<Outcome, Counter>,
}

/// Metrics of one work queue.
#[derive(Clone, Debug)]
pub struct QueueMetrics {
    pub(crate) depth: Gauge,
    pub(crate) adds: Counter,
    pub(crate) retries: Counter,
    pub(crate) waited: Histogram,
    pub(crate) worked: Histogram,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Name {
    name: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    controller: &'static str,
    result: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Election {
    name: String,
}

// === impl ControllerMetrics ===

impl ControllerMetrics {
    /// Registers the metrics; once a process.
    pub fn register(metrics: &Metrics) -> Self {
        let histogram: fn() -> Histogram = || Histogram::new(SECONDS);
        let this = Self {
            depth: Family::default(),
            adds: Family::default(),
            retries: Family::default(),
            waited: Family::new_with_constructor(histogram),
            worked: Family::new_with_constructor(histogram),
            reconciles: Family::default(),
        };
        metrics.register(|registry| {
            registry.register("workqueue_depth", "Keys that wait to be worked on", this.depth.clone());
            registry.register("workqueue_adds", "Keys added", this.adds.clone());
            registry.register("workqueue_retries", "Keys added again because the work on them failed", this.retries.clone());
            registry.register("workqueue_queue_duration_seconds", "How long keys wait", this.waited.clone());
            registry.register("workqueue_work_duration_seconds", "How long the work on a key takes", this.worked.clone());
            registry.register("controller_reconciles", "Work done, by result", this.reconciles.clone());
        });
        this
    }

    /// The metrics of one queue.
    pub fn queue(&self, name: &'static str) -> QueueMetrics {
        let name = Name { name };
        QueueMetrics {
            depth: self.depth.get_or_create(&name).clone(),
            adds: self.adds.get_or_create(&name).clone(),
            retries: self.retries.get_or_create(&name).clone(),
            waited: self.waited.get_or_create(&name).clone(),
            worked: self.worked.get_or_create(&name).clone(),
        }
    }

    pub(crate) fn reconciled(&self, controller: &'static str, result: &'static str) {
        self.reconciles.get_or_create(&Outcome { controller, result }).inc();
    }
}

/// Registers and returns the gauge of an election: 1 while this process leads.
pub(crate) fn leadership(metrics: &Metrics, election: &str) -> Gauge {
    let family = Family::<Election, Gauge>::default();
    let gauge = family.get_or_create(&Election { name: election.to_owned() }).clone();
    metrics.register(|registry| registry.register("leader_election_master_status", "1 while this process leads", family));
    gauge
}
