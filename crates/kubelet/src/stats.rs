//! How much CPU and memory the node and its pods use.
//!
//! CPU use is a difference between two looks at the control groups. Who asks is answered at once: now is compared with a look that was taken some
//! seconds ago, whoever asked then. So a look is taken every fifteen seconds and forgotten; that reads two small files of each container and asks
//! nobody. Of a container that was started since, all it has used is known.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use api::{
    ferrokube::v1::{ContainerUsage, PodRef, PodUsage, StatsResponse, Usage as WireUsage},
    google::protobuf::Timestamp as WireTime,
};
use jiff::Timestamp;
use tokio::{
    sync::Mutex,
    time::{Instant, MissedTickBehavior, interval, sleep_until},
};

use crate::{
    cgroups::{Cgroups, Usage},
    manager::Pods,
    running::Running,
};

/// How often a look is taken.
const INTERVAL: Duration = Duration::from_secs(15);
/// How many are kept: with two there is always one that is old enough.
const KEPT: usize = 2;
/// The time over which CPU use is averaged, if there is a look that old; and the shortest for which a figure is given.
const WINDOW: Duration = Duration::from_secs(5);
const SHORTEST: Duration = Duration::from_secs(1);

/// Measures resource use.
pub struct Stats {
    pods: Pods,
    running: Running,
    cgroups: Cgroups,
    node_group: String,
    samples: Mutex<Samples>,
}

/// What was seen before: the regular looks, oldest first, and the very last one, which answers all who ask at about the same time.
#[derive(Default)]
struct Samples {
    kept: VecDeque<Arc<Sample>>,
    last: Option<Arc<Sample>>,
}

/// One look at everything.
#[derive(Clone)]
struct Sample {
    at: Instant,
    time: Timestamp,
    node: Option<Usage>,
    /// By container id.
    containers: BTreeMap<String, Measured>,
}

#[derive(Clone)]
struct Measured {
    pod: PodRef,
    name: String,
    started_at: Timestamp,
    usage: Usage,
}

// === impl Stats ===

impl Stats {
    /// Measures this node, all of which lies in the control group `node_group`, and the containers that are `running` of these `pods`.
    pub fn new(pods: Pods, running: Running, cgroups: Cgroups, node_group: String) -> Self {
        Self { pods, running, cgroups, node_group, samples: Mutex::default() }
    }

    /// Takes the regular looks; for ever.
    pub async fn keep_looking(self: Arc<Self>) {
        let mut ticks = interval(INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let sample = Arc::new(self.look().await);
            self.samples.lock().await.keep(sample);
        }
    }

    /// What is used now. Waits only within the first second after the start.
    pub async fn measure(&self, node_only: bool) -> StatsResponse {
        // Whoever asks at the same time waits and is answered from the same look.
        let mut samples = self.samples.lock().await;
        let mut now = self.fresh(&mut samples).await;
        if samples.kept.is_empty() {
            samples.keep(now.clone());
        }
        let before = match samples.before(now.at) {
            Some(before) => before,
            None => {
                let first = samples.kept.front().unwrap_or(&now).clone();
                sleep_until(first.at + SHORTEST).await;
                now = self.fresh(&mut samples).await;
                first
            }
        };
        compare(&before, &now, node_only)
    }

    /// The last look, if it is one of this second; a new one else.
    async fn fresh(&self, samples: &mut Samples) -> Arc<Sample> {
        if let Some(last) = samples.last.as_ref().filter(|last| last.at.elapsed() < SHORTEST) {
            return last.clone();
        }
        let now = Arc::new(self.look().await);
        samples.last = Some(now.clone());
        now
    }

    async fn look(&self) -> Sample {
        let pods: BTreeMap<_, _> = self.pods.list().into_iter().map(|pod| (pod.metadata().uid.clone(), pod)).collect();
        let (running, cgroups, node_group) = (self.running.list(), self.cgroups.clone(), self.node_group.clone());
        let read = move || {
            let mut containers = BTreeMap::new();
            for (uid, list) in running {
                let Some(pod) = pods.get(&uid) else { continue };
                let metadata = pod.metadata();
                let pod_ref = PodRef { namespace: metadata.namespace.clone(), name: metadata.name.clone(), uid };
                for container in list {
                    let Some(usage) = cgroups.usage(pod, &container.id) else { continue };
                    let (name, started_at) = (container.name, container.started_at);
                    containers.insert(container.id, Measured { pod: pod_ref.clone(), name, started_at, usage });
                }
            }
            Sample { at: Instant::now(), time: Timestamp::now(), node: cgroups.usage_of(&node_group), containers }
        };
        match tokio::task::spawn_blocking(read).await {
            Ok(sample) => sample,
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            // The runtime ends.
            Err(_) => Sample { at: Instant::now(), time: Timestamp::now(), node: None, containers: BTreeMap::new() },
        }
    }
}

// === impl Samples ===

impl Samples {
    fn keep(&mut self, sample: Arc<Sample>) {
        self.kept.push_back(sample);
        while self.kept.len() > KEPT {
            self.kept.pop_front();
        }
    }

    /// What to compare with: the newest look that is old enough, or the oldest if that is just usable.
    fn before(&self, now: Instant) -> Option<Arc<Sample>> {
        let age = |sample: &Arc<Sample>| now.saturating_duration_since(sample.at);
        let good = self.kept.iter().rev().find(|sample| age(sample) >= WINDOW);
        good.or_else(|| self.kept.front().filter(|sample| age(sample) >= SHORTEST)).cloned()
    }
}

fn compare(before: &Sample, now: &Sample, node_only: bool) -> StatsResponse {
    let since_before = now.at.saturating_duration_since(before.at);
    let between = |old: u64, new: Usage, window: Duration| WireUsage {
        time: Some(WireTime { seconds: now.time.as_second(), nanos: now.time.subsec_nanosecond() }),
        window_millis: window.as_millis() as i64,
        cpu_nanocores: (u128::from(new.cpu_nanos.saturating_sub(old)) * 1_000_000_000 / window.as_nanos().max(1)) as u64,
        memory_working_set_bytes: new.memory_bytes,
    };
    let mut pods: BTreeMap<&str, PodUsage> = BTreeMap::new();
    for (id, measured) in now.containers.iter().filter(|_| !node_only) {
        let (old, window) = match before.containers.get(id) {
            Some(old) => (old.usage.cpu_nanos, since_before),
            // Started since: its group was made for it.
            None => (0, now.time.duration_since(measured.started_at).try_into().unwrap_or(since_before)),
        };
        let pod =
            pods.entry(&measured.pod.uid).or_insert_with(|| PodUsage { pod: Some(measured.pod.clone()), containers: Vec::new() });
        let usage = between(old, measured.usage, window.max(Duration::from_millis(1)));
        pod.containers.push(ContainerUsage { name: measured.name.clone(), usage: Some(usage) });
    }
    let node = now.node.map(|node| between(before.node.map_or(node.cpu_nanos, |old| old.cpu_nanos), node, since_before));
    StatsResponse { node, pods: pods.into_values().collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(at: Instant, second: i64, node: u64, containers: &[(&str, i64, u64)]) -> Sample {
        let measured = |(id, started, cpu_nanos): &(&str, i64, u64)| {
            let pod = PodRef { uid: "u".into(), ..PodRef::default() };
            let started_at = Timestamp::from_second(*started).unwrap();
            let usage = Usage { cpu_nanos: *cpu_nanos, memory_bytes: 7 };
            ((*id).to_owned(), Measured { pod, name: (*id).to_owned(), started_at, usage })
        };
        Sample {
            at,
            time: Timestamp::from_second(second).unwrap(),
            node: Some(Usage { cpu_nanos: node, memory_bytes: 9 }),
            containers: containers.iter().map(measured).collect(),
        }
    }

    #[test]
    fn cpu_use_is_the_difference_over_the_window_and_since_the_start_of_what_is_new() {
        let at = Instant::now();
        let before = sample(at, 100, 0, &[("old", 0, 1_000_000_000)]);
        let now =
            sample(at + Duration::from_secs(10), 110, 20_000_000_000, &[("old", 0, 6_000_000_000), ("new", 106, 1_000_000_000)]);
        let answer = compare(&before, &now, false);
        assert_eq!(answer.node.unwrap().cpu_nanocores, 2_000_000_000);
        let figures: Vec<_> = answer.pods[0].containers.iter().map(|c| (c.name.as_str(), c.usage.unwrap())).collect();
        let figures: Vec<_> = figures.iter().map(|(name, usage)| (*name, usage.cpu_nanocores, usage.window_millis)).collect();
        assert_eq!(figures, [("new", 250_000_000, 4000), ("old", 500_000_000, 10_000)]);
        assert!(compare(&before, &now, true).pods.is_empty());
    }

    #[test]
    fn the_window_is_the_shortest_that_is_long_enough() {
        let mut samples = Samples::default();
        let begin = Instant::now();
        let at = |seconds| begin + Duration::from_secs(seconds);
        assert!(samples.before(at(1)).is_none());
        for second in [0, 15, 30] {
            samples.keep(Arc::new(sample(at(second), 0, 0, &[])));
        }
        let age = |now| samples.before(at(now)).map(|sample| at(now).duration_since(sample.at).as_secs());
        assert_eq!([31, 34, 35, 44].map(age), [Some(16), Some(19), Some(5), Some(14)]);
    }
}
