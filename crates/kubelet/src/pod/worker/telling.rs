//! What a pod's task tells: events for whoever looks at the pod, and the steps of the pod's life, one line each, for the log.
//!
//! A line is written when something has changed, never because it was looked at again; the task's span says which pod it is about.

use api::core::v1::{ContainerStatus, PodStatus};
use jiff::Timestamp;
use tracing::{debug, info, warn};

use super::Worker;
use crate::{
    cluster::PodEvent,
    network::Addresses,
    pod::{
        admission::Rejection,
        plan::{Life, Stop, life},
        probe::Report,
        reason::Reason,
        state::{Failure, Observed},
    },
    runtime::Container,
};

/// The part of an id that people compare.
pub(in crate::pod) fn short(id: &str) -> &str {
    id.get(..12).unwrap_or(id)
}

/// The statuses of all units.
fn all_of(status: &PodStatus) -> impl Iterator<Item = &ContainerStatus> {
    status.init_container_statuses.iter().chain(&status.container_statuses).chain(&status.ephemeral_container_statuses)
}

// === impl Worker ===

impl Worker {
    pub(super) fn event(&self, event: PodEvent) {
        if !self.desired.gone {
            self.ctx.cluster.event(&self.desired.pod, event);
        }
    }

    /// Tells whoever looks at the pod that it cannot be run here.
    pub(super) fn note_rejection(&self) {
        if life(&self.situation(Timestamp::now())) == Life::Rejected
            && let Some(Rejection { reason, message }) = &self.memory.rejection
        {
            warn!(reason = reason.as_ref(), message, "pod not taken");
            self.ctx.metrics.pod_rejected(reason);
            self.event(PodEvent::warning(reason.clone(), message.clone()));
        }
    }

    /// Says once per restart that it is being held back.
    pub(super) fn note_back_offs(&self, derived: &PodStatus) {
        let held_back =
            |status: &ContainerStatus| Reason::parse(&status.state().waiting().reason) == Some(Reason::CrashLoopBackOff);
        let was = |name: &str| all_of(&self.written).any(|status| status.name == name && held_back(status));
        let metadata = self.desired.pod.metadata();
        for container in all_of(derived) {
            if held_back(container) && !was(&container.name) {
                let message = format!(
                    "Back-off restarting failed container {} in pod {}_{}({})",
                    container.name, metadata.name, metadata.namespace, metadata.uid
                );
                info!(container = container.name, restarts = container.restart_count, "container held back");
                self.event(PodEvent::warning("BackOff", message).about(&container.name));
            }
        }
    }

    /// Tells of the containers that have ended since the last look; what has been reported already was told by whoever reported it.
    pub(super) fn tell_ended(&self, before: &Observed) {
        let known = |id: &str| before.applications().any(|container| container.id == id && container.exit().is_some());
        let reported = |id: &str| {
            let ends = |of: &api::core::v1::ContainerState| of.terminated().container_id.ends_with(id);
            all_of(&self.written).any(|status| ends(status.state()) || ends(status.last_state()))
        };
        for container in self.observed.applications().filter(|container| !known(&container.id) && !reported(&container.id)) {
            if let Some(exit) = container.exit() {
                let (name, id) = (&container.labels.container, short(&container.id));
                info!(container = name, id, code = exit.code, out_of_memory = exit.oom_killed, "container ended");
            }
        }
    }

    pub(super) fn tell_probe(&self, report: &Report) {
        let all = || self.observed.applications();
        let name = all().find(|container| container.id == report.container).map_or("", |c| c.labels.container.as_str());
        info!(container = name, id = short(&report.container), probe = report.kind.title(), good = report.good, "probe changed");
    }

    pub(super) fn tell_stop(&self, stop: &Stop) {
        let (why, grace) = (stop.why.as_str(), stop.grace.as_secs());
        info!(container = stop.container, id = short(&stop.id), why, grace_seconds = grace, "stopping container");
    }

    pub(super) fn tell_forced(&self, id: &str) {
        let name = self.observed.applications().find(|container| container.id == id).map(|c| c.labels.container.as_str());
        info!(container = name, id = short(id), "container outlasted its grace and is killed");
    }

    pub(super) fn tell_sandbox(&self, container: &Container, addresses: &Addresses) {
        info!(id = short(&container.id), attempt = container.labels.attempt, %addresses, "sandbox made");
    }

    /// Tells of a failure that is not the one that was told last.
    pub(super) fn tell_failure(&self, container: &str, last: Option<&Failure>, reason: Reason, message: &str) {
        let reason = reason.as_str();
        let again = last.is_some_and(|last| last.message.ends_with(message));
        if again {
            debug!(container, reason, message, "failed again");
        } else {
            warn!(container, reason, message, "failed");
        }
    }

    pub(super) fn tell_phase(&self, derived: &PodStatus) {
        if self.written.phase != derived.phase {
            info!(phase = derived.phase, reason = derived.reason, "pod is in another phase");
        }
    }
}
