//! What runs on the node, as the pods' tasks last saw it: for figures, so that nobody asks the runtime again.

use std::{collections::BTreeMap, sync::Arc};

use jiff::Timestamp;
use parking_lot::Mutex;

use crate::{
    metrics::KubeletMetrics,
    pod::state::Observed,
    runtime::{Container, ContainerId, State},
};

/// The containers of all pods; clones share them.
#[derive(Clone)]
pub struct Running {
    pods: Arc<Mutex<BTreeMap<String, PodContainers>>>,
    metrics: KubeletMetrics,
}

/// A container that runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunningContainer {
    /// Its id.
    pub id: ContainerId,
    /// Its name.
    pub name: String,
    /// When it was started.
    pub started_at: Timestamp,
}

#[derive(Default)]
struct PodContainers {
    sandbox: bool,
    running: Vec<RunningContainer>,
    created: usize,
    exited: usize,
}

// === impl Running ===

impl Running {
    /// Nothing yet. What is there is told to `metrics`.
    pub fn new(metrics: KubeletMetrics) -> Self {
        Self { pods: Arc::default(), metrics }
    }

    /// A pod's task has looked at its containers.
    pub fn set(&self, uid: &str, observed: &Observed) {
        let mut pod = PodContainers { sandbox: observed.sandbox().is_some(), ..PodContainers::default() };
        for container in observed.applications() {
            match container.state {
                State::Running => pod.running.push(RunningContainer::of(container)),
                State::Created => pod.created += 1,
                State::Exited(_) => pod.exited += 1,
            }
        }
        self.pods.lock().insert(uid.to_owned(), pod);
        self.count();
    }

    /// A pod is gone.
    pub fn remove(&self, uid: &str) {
        self.pods.lock().remove(uid);
        self.count();
    }

    /// The containers that run, by the UID of their pod.
    pub fn list(&self) -> BTreeMap<String, Vec<RunningContainer>> {
        let pods = self.pods.lock();
        pods.iter().filter(|(_, pod)| !pod.running.is_empty()).map(|(uid, pod)| (uid.clone(), pod.running.clone())).collect()
    }

    fn count(&self) {
        let pods = self.pods.lock();
        let sum = |of: fn(&PodContainers) -> usize| pods.values().map(of).sum();
        self.metrics.set_running(
            sum(|pod| pod.sandbox.into()),
            sum(|pod| pod.running.len()),
            sum(|pod| pod.created),
            sum(|pod| pod.exited),
        );
    }
}

// === impl RunningContainer ===

impl RunningContainer {
    fn of(container: &Container) -> Self {
        let started_at = container.started_at.unwrap_or(container.created_at);
        Self { id: container.id.clone(), name: container.labels.container.clone(), started_at }
    }
}
