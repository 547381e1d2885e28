//! How much CPU and memory the node and its pods use, measured when somebody asks.
//!
//! CPU use is a difference between two looks at the control groups. The last look is kept, so that who asks regularly is answered at once with
//! the average since; who asks for the first time waits for a second look. Nobody asks: nothing is measured.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use api::{
    ferrokube::v1::{ContainerUsage, PodRef, PodUsage, StatsResponse, Usage as WireUsage},
    google::protobuf::Timestamp as WireTime,
};
use jiff::Timestamp;
use tokio::{sync::Mutex, time::Instant};

use crate::{
    cgroups::{Cgroups, Usage},
    manager::Pods,
    runtime::{self, Runtime},
};

/// The shortest and longest time over which CPU use is averaged.
const WINDOW: Duration = Duration::from_secs(1);
const STALE: Duration = Duration::from_secs(60);

/// Measures resource use.
pub struct Stats {
    runtime: Arc<dyn Runtime>,
    pods: Pods,
    cgroups: Cgroups,
    node_group: String,
    last: Mutex<Option<Sample>>,
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
    usage: Usage,
}

// === impl Stats ===

impl Stats {
    /// Measures this node, all of which lies in the control group `node_group`.
    pub fn new(runtime: Arc<dyn Runtime>, pods: Pods, cgroups: Cgroups, node_group: String) -> Self {
        Self { runtime, pods, cgroups, node_group, last: Mutex::new(None) }
    }

    /// What is used now.
    pub async fn measure(&self, node_only: bool) -> runtime::Result<StatsResponse> {
        // Whoever asks at the same time waits and is answered from the same look.
        let mut last = self.last.lock().await;
        let mut now = self.look(node_only).await?;
        let usable = |before: &Sample| {
            let age = now.at.duration_since(before.at);
            (WINDOW..STALE).contains(&age) && (node_only || !before.containers.is_empty() || now.containers.is_empty())
        };
        let before = match last.take().filter(usable) {
            Some(before) => before,
            None => {
                let before = now;
                tokio::time::sleep_until(before.at + WINDOW).await;
                now = self.look(node_only).await?;
                before
            }
        };
        let answer = compare(&before, &now);
        *last = Some(now);
        Ok(answer)
    }

    async fn look(&self, node_only: bool) -> runtime::Result<Sample> {
        let (mut containers, mut listed) = (BTreeMap::new(), Vec::new());
        if !node_only {
            listed = self.runtime.list(None).await?;
        }
        let pods: BTreeMap<_, _> = self.pods.list().into_iter().map(|pod| (pod.metadata().uid.clone(), pod)).collect();
        for container in listed.into_iter().filter(|container| container.running && !container.labels.is_sandbox()) {
            let Some(pod) = pods.get(&container.labels.uid) else { continue };
            let Some(usage) = self.cgroups.usage(pod, &container.id) else { continue };
            let labels = container.labels;
            let measured = Measured {
                pod: PodRef { namespace: labels.namespace, name: labels.pod, uid: labels.uid },
                name: labels.container,
                usage,
            };
            containers.insert(container.id, measured);
        }
        Ok(Sample { at: Instant::now(), time: Timestamp::now(), node: self.cgroups.usage_of(&self.node_group), containers })
    }
}

fn compare(before: &Sample, now: &Sample) -> StatsResponse {
    let window = now.at.duration_since(before.at);
    let between = |old: Option<Usage>, new: Usage| WireUsage {
        time: Some(WireTime { seconds: now.time.as_second(), nanos: now.time.subsec_nanosecond() }),
        window_millis: window.as_millis() as i64,
        cpu_nanocores: old.map_or(0, |old| {
            let used = new.cpu_nanos.saturating_sub(old.cpu_nanos);
            (u128::from(used) * 1_000_000_000 / window.as_nanos().max(1)) as u64
        }),
        memory_working_set_bytes: new.memory_bytes,
    };
    let mut pods: BTreeMap<String, PodUsage> = BTreeMap::new();
    for (id, measured) in &now.containers {
        // A container that was not there before has no rate yet.
        let Some(old) = before.containers.get(id) else { continue };
        let usage = between(Some(old.usage), measured.usage);
        let pod = pods
            .entry(measured.pod.uid.clone())
            .or_insert_with(|| PodUsage { pod: Some(measured.pod.clone()), containers: Vec::new() });
        pod.containers.push(ContainerUsage { name: measured.name.clone(), usage: Some(usage) });
    }
    let node = now.node.unwrap_or(Usage { cpu_nanos: 0, memory_bytes: 0 });
    StatsResponse { node: Some(between(before.node, node)), pods: pods.into_values().collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_use_is_the_difference_over_the_window() {
        let measured = |cpu_nanos| Measured {
            pod: PodRef { uid: "u".into(), ..PodRef::default() },
            name: "c".into(),
            usage: Usage { cpu_nanos, memory_bytes: 7 },
        };
        let at = Instant::now();
        let before = Sample {
            at,
            time: Timestamp::UNIX_EPOCH,
            node: Some(Usage { cpu_nanos: 0, memory_bytes: 1 }),
            containers: BTreeMap::from([("id".into(), measured(1_000_000_000))]),
        };
        let mut now = Sample {
            at: at + Duration::from_secs(2),
            node: Some(Usage { cpu_nanos: 4_000_000_000, memory_bytes: 9 }),
            ..before.clone()
        };
        now.containers.insert("id".into(), measured(2_000_000_000));
        now.containers.insert("new".into(), measured(5));
        let answer = compare(&before, &now);
        assert_eq!(answer.node.unwrap().cpu_nanocores, 2_000_000_000);
        assert_eq!(answer.pods[0].containers.len(), 1);
        let usage = answer.pods[0].containers[0].usage.unwrap();
        assert_eq!((usage.cpu_nanocores, usage.memory_working_set_bytes, usage.window_millis), (500_000_000, 7, 2000));
    }
}
