//! What the machine knows of one pod: what it observes in the runtime, and what only it remembers.
//!
//! Observations are replaced, never edited; a restarted kubelet makes them again from the runtime. Memory is what may be lost: delays, reasons of
//! failures, probe results (taken from the reported status then), what is under way.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use api::core::v1::{Container, Pod};
use jiff::Timestamp;

use super::{admission::Rejection, backoff::Backoff, reason::Reason};
use crate::{
    network::Addresses,
    runtime::{self, ContainerId},
    volumes::Mounted,
};

/// What is wanted of a pod.
#[derive(Clone, Debug)]
pub struct Desired {
    /// The pod as the API server has it; as it last was, or made up from container labels, if it is gone there.
    pub pod: Arc<Pod>,
    /// The API server has it no more: everything must go, nobody is to be told.
    pub gone: bool,
}

/// A pod's containers as the runtime has them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Observed {
    /// Sandboxes, newest first.
    pub sandboxes: Vec<runtime::Container>,
    /// Application containers by name, newest first.
    pub containers: BTreeMap<String, Vec<runtime::Container>>,
    /// Addresses of the newest sandbox; none until it is on the network.
    pub addresses: Addresses,
}

/// What the machine remembers of a pod.
#[derive(Clone, Debug, Default)]
pub struct Memory {
    /// Why this node does not take the pod, decided when it was first seen.
    pub rejection: Option<Rejection>,
    /// By container name.
    pub containers: BTreeMap<String, ContainerMemory>,
    /// Results of probes, by the container they are about.
    pub probes: BTreeMap<ContainerId, Probes>,
    /// Why there is no sandbox.
    pub sandbox: Option<Failure>,
    /// Consecutive failures to make the sandbox, for their delay.
    pub sandbox_failures: u32,
    /// The volumes.
    pub volumes: VolumeState,
    /// Consecutive failures to make the volumes, for their delay.
    pub volume_failures: u32,
    /// What the volumes are made of has changed since they were last begun to be made.
    pub volumes_stale: bool,
    /// What is under way.
    pub busy: BTreeSet<Task>,
    /// Containers that were asked to stop.
    pub stopping: BTreeMap<ContainerId, Stopping>,
    /// Termination messages of containers that have ended.
    pub messages: BTreeMap<ContainerId, String>,
    /// The host holds nothing of the pod any more.
    pub clean: bool,
    /// Sandbox and network are gone since the pod came to its end.
    pub sandbox_clean: bool,
    /// When the pod was first seen here, if its status does not say.
    pub seen_at: Option<Timestamp>,
}

/// What is remembered of a container, over its incarnations.
#[derive(Clone, Debug, Default)]
pub struct ContainerMemory {
    /// Delay of restarts.
    pub restarts: Backoff,
    /// Delay of image pulls.
    pub pulls: Backoff,
    /// Why the last start failed.
    pub failure: Option<Failure>,
    /// Consecutive failures to create it, for their delay.
    pub create_failures: u32,
}

/// Why something failed and when to try again.
#[derive(Clone, Debug, PartialEq)]
pub struct Failure {
    /// Why.
    pub reason: Reason,
    /// For people.
    pub message: String,
    /// Not before this time.
    pub retry_at: Timestamp,
}

/// The pod's volumes.
#[derive(Clone, Debug, Default)]
pub enum VolumeState {
    /// Not looked at since the kubelet started, or out of date.
    #[default]
    Unknown,
    /// There.
    Ready(Arc<Mounted>),
    /// Not there.
    Failed(Failure),
}

/// Something under way; never twice at once.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Task {
    /// Making or connecting the sandbox.
    Sandbox,
    /// Making the volumes.
    Volumes,
    /// Starting a container.
    Start(String),
    /// Signalling a container.
    Signal(ContainerId),
    /// Removing a container.
    Remove(ContainerId),
    /// Taking the sandbox (or everything) down.
    TearDown,
}

/// A container that was asked to stop.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Stopping {
    /// When it will be made to.
    pub deadline: Timestamp,
    /// It has been made to.
    pub forced: bool,
    /// That did not work: it is made to again at the deadline.
    pub failed: bool,
}

/// Results of a container's probes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Probes {
    /// The startup probe has succeeded (or failed for good, if `Some(false)`).
    pub started: Option<bool>,
    /// The liveness probe's word.
    pub live: Option<bool>,
    /// The readiness probe's word.
    pub ready: Option<bool>,
}

// === impl Observed ===

impl Observed {
    /// Sorts a pod's containers.
    pub fn new(all: impl IntoIterator<Item = runtime::Container>) -> Self {
        let mut observed = Self::default();
        for container in all {
            if container.labels.is_sandbox() {
                observed.sandboxes.push(container);
            } else {
                observed.containers.entry(container.labels.container.clone()).or_default().push(container);
            }
        }
        let newest_first =
            |list: &mut Vec<runtime::Container>| list.sort_by_key(|c| std::cmp::Reverse((c.labels.attempt, c.created_at)));
        newest_first(&mut observed.sandboxes);
        observed.containers.values_mut().for_each(newest_first);
        observed
    }

    /// The newest sandbox, if it runs.
    pub fn sandbox(&self) -> Option<&runtime::Container> {
        self.sandboxes.first().filter(|sandbox| sandbox.is_running())
    }

    /// The newest container of a name.
    pub fn newest(&self, name: &str) -> Option<&runtime::Container> {
        self.containers.get(name)?.first()
    }

    /// All application containers.
    pub fn applications(&self) -> impl Iterator<Item = &runtime::Container> {
        self.containers.values().flatten()
    }

    /// Whether any application container runs.
    pub fn any_running(&self) -> bool {
        self.applications().any(runtime::Container::is_running)
    }
}

// === impl Memory ===

impl Memory {
    /// The container's record, made if there is none.
    pub fn container(&mut self, name: &str) -> &mut ContainerMemory {
        self.containers.entry(name.to_owned()).or_default()
    }

    /// Whether a container that runs has started, and whether it is ready.
    pub fn health(&self, spec: &Container, container: &runtime::Container) -> (bool, bool) {
        let probes = self.probes.get(&container.id).copied().unwrap_or_default();
        let started = spec.startup_probe.is_none() || probes.started == Some(true);
        (started, started && (spec.readiness_probe.is_none() || probes.ready == Some(true)))
    }

    /// Forgets what is about containers that are no more.
    pub fn forget_removed(&mut self, observed: &Observed) {
        let known: BTreeSet<&str> = observed.applications().chain(&observed.sandboxes).map(|c| c.id.as_str()).collect();
        self.probes.retain(|id, _| known.contains(id.as_str()));
        self.stopping.retain(|id, _| known.contains(id.as_str()));
        self.messages.retain(|id, _| known.contains(id.as_str()));
    }
}

/// The delay before a failed creation is tried again: 2 s, doubling to a minute.
pub fn retry_delay(failures: u32) -> Duration {
    Duration::from_secs(1 << failures.min(6)).min(Duration::from_secs(60))
}
