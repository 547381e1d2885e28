//! What controllers report of themselves.

use std::{collections::BTreeSet, fmt, sync::Arc};

use daemon::Metrics;
use parking_lot::Mutex;
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric},
    metrics::{
        MetricType,
        counter::Counter,
        family::Family,
        gauge::{ConstGauge, Gauge},
        histogram::Histogram,
    },
};
use tokio::time::Instant;

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
    under_way: AllUnderWay,
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
    pub(crate) under_way: UnderWay,
}

/// The work that is under way in one queue, by when it began and a number that is different for each.
#[derive(Clone, Debug, Default)]
pub(crate) struct UnderWay(Arc<Mutex<BTreeSet<(Instant, u64)>>>);

/// The work under way in all queues; looked at when somebody asks.
#[derive(Clone, Debug, Default)]
struct AllUnderWay(Arc<Mutex<Vec<(Name, UnderWay)>>>);

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
            under_way: AllUnderWay::default(),
            reconciles: Family::default(),
        };
        metrics.register(|registry| {
            registry.register("workqueue_depth", "Keys that wait to be worked on", this.depth.clone());
            registry.register("workqueue_adds", "Keys added", this.adds.clone());
            registry.register("workqueue_retries", "Keys added again because the work on them failed", this.retries.clone());
            registry.register("workqueue_queue_duration_seconds", "How long keys wait", this.waited.clone());
            registry.register("workqueue_work_duration_seconds", "How long the work on a key takes", this.worked.clone());
            registry.register_collector(Box::new(this.under_way.clone()));
            registry.register("controller_reconciles", "Work done, by result", this.reconciles.clone());
        });
        this
    }

    /// The metrics of one queue.
    pub fn queue(&self, name: &'static str) -> QueueMetrics {
        let name = Name { name };
        let under_way = UnderWay::default();
        self.under_way.0.lock().push((name.clone(), under_way.clone()));
        QueueMetrics {
            depth: self.depth.get_or_create(&name).clone(),
            adds: self.adds.get_or_create(&name).clone(),
            retries: self.retries.get_or_create(&name).clone(),
            waited: self.waited.get_or_create(&name).clone(),
            worked: self.worked.get_or_create(&name).clone(),
            under_way,
        }
    }

    pub(crate) fn reconciled(&self, controller: &'static str, result: &'static str) {
        self.reconciles.get_or_create(&Outcome { controller, result }).inc();
    }
}

// === impl UnderWay ===

impl UnderWay {
    pub(crate) fn begin(&self, begun: Instant, number: u64) {
        self.0.lock().insert((begun, number));
    }

    pub(crate) fn end(&self, begun: Instant, number: u64) {
        self.0.lock().remove(&(begun, number));
    }

    /// How long all of it has taken together, and the oldest of it; seconds.
    fn seconds(&self) -> (f64, f64) {
        let begun = self.0.lock();
        let age = |(begun, _): &(Instant, u64)| begun.elapsed().as_secs_f64();
        // The sum of nothing would be -0.0.
        (begun.iter().map(age).fold(0.0, |sum, age| sum + age), begun.first().map(age).unwrap_or_default())
    }
}

// === impl AllUnderWay ===

impl Collector for AllUnderWay {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let queues: Vec<_> = self.0.lock().iter().map(|(name, under_way)| (name.clone(), under_way.seconds())).collect();
        let unfinished = "How long the work that is under way has taken so far, all together";
        let mut family = encoder.encode_descriptor("workqueue_unfinished_work_seconds", unfinished, None, MetricType::Gauge)?;
        for (name, (all, _)) in &queues {
            ConstGauge::new(*all).encode(family.encode_family(name)?)?;
        }
        let longest = "How long the oldest work that is under way has taken so far";
        let metric = "workqueue_longest_running_processor_seconds";
        let mut family = encoder.encode_descriptor(metric, longest, None, MetricType::Gauge)?;
        for (name, (_, oldest)) in &queues {
            ConstGauge::new(*oldest).encode(family.encode_family(name)?)?;
        }
        Ok(())
    }
}

/// Registers and returns the gauge of an election: 1 while this process leads.
pub(crate) fn leadership(metrics: &Metrics, election: &str) -> Gauge {
    let family = Family::<Election, Gauge>::default();
    let gauge = family.get_or_create(&Election { name: election.to_owned() }).clone();
    metrics.register(|registry| registry.register("leader_election_master_status", "1 while this process leads", family));
    gauge
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::WorkQueue;

    #[tokio::test(start_paused = true)]
    async fn work_that_hangs_is_seen_while_it_hangs() {
        let metrics = Metrics::new();
        let queue = WorkQueue::new(Some(ControllerMetrics::register(&metrics).queue("garbage")));
        let value = |metric: &str| {
            let text = metrics.encode().unwrap();
            let start = format!("workqueue_{metric}{{name=\"garbage\"}} ");
            text.lines().find_map(|line| line.strip_prefix(&*start)).unwrap_or_else(|| panic!("no {start}in {text}")).to_owned()
        };
        queue.add("a");
        queue.add("b");
        let first = queue.next().await.unwrap();
        tokio::time::advance(Duration::from_secs(30)).await;
        let second = queue.next().await.unwrap();
        tokio::time::advance(Duration::from_secs(10)).await;
        assert_eq!((&*value("unfinished_work_seconds"), &*value("longest_running_processor_seconds")), ("50.0", "40.0"));
        drop(first);
        assert_eq!((&*value("unfinished_work_seconds"), &*value("longest_running_processor_seconds")), ("10.0", "10.0"));
        drop(second);
        assert_eq!((&*value("unfinished_work_seconds"), &*value("longest_running_processor_seconds")), ("0.0", "0.0"));
    }
}
