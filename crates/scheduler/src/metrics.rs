//! What the scheduler counts, under upstream's names.

use std::time::Duration;

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
};

/// The scheduler's metrics. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Metrics {
    attempts: Family<Outcome, Counter>,
    algorithm: Histogram,
    pending: Family<QueueName, Gauge>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    result: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct QueueName {
    queue: &'static str,
}

impl Metrics {
    /// Metrics registered with the daemon's.
    pub fn new(metrics: &daemon::Metrics) -> Self {
        let this = Self {
            attempts: Family::default(),
            algorithm: Histogram::new((0..16).map(|n| 0.000_05 * f64::from(1 << n))),
            pending: Family::default(),
        };
        metrics.register(|registry| {
            registry.register("scheduler_schedule_attempts", "Decisions and bindings by result", this.attempts.clone());
            registry.register("scheduler_scheduling_algorithm_duration_seconds", "Time a decision took", this.algorithm.clone());
            registry.register("scheduler_pending_pods", "Pods that wait, by queue", this.pending.clone());
        });
        this
    }

    pub(crate) fn decided(&self, placed: bool, took: Duration) {
        self.algorithm.observe(took.as_secs_f64());
        if !placed {
            self.attempts.get_or_create(&Outcome { result: "unschedulable" }).inc();
        }
    }

    pub(crate) fn bound(&self, ok: bool) {
        self.attempts.get_or_create(&Outcome { result: if ok { "scheduled" } else { "error" } }).inc();
    }

    pub(crate) fn pending(&self, [active, backoff, unschedulable]: [usize; 3]) {
        for (queue, length) in [("active", active), ("backoff", backoff), ("unschedulable", unschedulable)] {
            self.pending.get_or_create(&QueueName { queue }).set(i64::try_from(length).unwrap_or(i64::MAX));
        }
    }
}
