//! What to do next for a pod: a pure function of what is wanted, what is observed, what is remembered and the time.
//!
//! *Invariants:* a container never has two running incarnations; nothing is started for a pod that is to end; a pod's sandbox goes only after
//! its containers have ended; asked again with the same situation, the plan is the same, and what is under way is not asked for again.

use std::{collections::BTreeSet, time::Duration};

use api::{
    core::v1::{Container as Spec, ContainerStatus, Pod},
    pod::is_terminal,
};
use jiff::Timestamp;

use super::{
    backoff::later,
    spec::spec_hash,
    state::{Memory, Observed, Task, VolumeState},
};
use crate::runtime::{Container, ContainerId, State};

/// Grace of pods that do not say, in seconds.
const DEFAULT_GRACE: i64 = 30;
/// Dead incarnations kept of each container, for their logs, besides the newest.
const KEEP_DEAD: usize = 1;

/// Everything that decides.
#[derive(Clone, Copy)]
pub struct Situation<'a> {
    /// What is wanted.
    pub pod: &'a Pod,
    /// The API server has it no more.
    pub gone: bool,
    /// What the runtime says.
    pub observed: &'a Observed,
    /// What is remembered.
    pub memory: &'a Memory,
    /// Now.
    pub now: Timestamp,
}

/// What to do, and when to look again if nothing happens before.
#[derive(Debug, Default, PartialEq)]
pub struct Plan {
    /// Make the pod's volumes.
    pub prepare_volumes: bool,
    /// Make a sandbox of this attempt.
    pub create_sandbox: Option<u32>,
    /// Connect the running sandbox to the network.
    pub connect_sandbox: bool,
    /// Containers to start.
    pub start: Vec<Start>,
    /// Containers to ask to stop, or to stop sooner than they were told.
    pub stop: Vec<Stop>,
    /// Containers whose grace is over.
    pub force: Vec<ContainerId>,
    /// Dead containers to remove.
    pub remove: Vec<ContainerId>,
    /// Take this down.
    pub tear_down: Option<TearDown>,
    /// The pod has ended and left nothing: its object may go.
    pub finished: bool,
    /// Look again at this time.
    pub wake_at: Option<Timestamp>,
}

/// A container to start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Start {
    /// Its name.
    pub container: String,
    /// Which incarnation it is.
    pub attempt: u32,
    /// When the last incarnation ended, if there was one.
    pub last_ended: Option<Timestamp>,
}

/// A container to ask to stop.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stop {
    /// Which.
    pub id: ContainerId,
    /// Its name.
    pub container: String,
    /// How long it may take.
    pub grace: Duration,
    /// Why.
    pub why: Why,
}

/// Why a container is stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// The pod ends.
    PodEnds,
    /// Its spec has changed.
    Changed,
    /// Its sandbox is no more.
    SandboxChanged,
    /// Its liveness probe has failed.
    NotLive,
    /// Its startup probe has failed.
    NotStarted,
    /// A newer incarnation, or none at all, is wanted.
    Superfluous,
}

impl Why {
    /// The reason in words, for the log.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::PodEnds => "the pod ends",
            Self::Changed => "its definition changed",
            Self::SandboxChanged => "its sandbox is no more",
            Self::NotLive => "its liveness probe failed",
            Self::NotStarted => "its startup probe failed",
            Self::Superfluous => "it is superfluous",
        }
    }
}

/// How much to take down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TearDown {
    /// Sandbox and network; dead containers stay for their logs.
    Sandbox,
    /// All that the host holds of the pod.
    Everything,
}

/// Where a pod is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Life {
    /// Its containers should run.
    Runs,
    /// All containers have ended for good.
    Completed,
    /// It was active for too long.
    DeadlineExceeded,
    /// It ended before this kubelet saw it.
    Terminal,
    /// This node cannot run it.
    Rejected,
    /// It is being deleted, or is gone.
    Deleted,
}

/// What is to become of one container.
enum Fate<'a> {
    /// It runs.
    Running,
    /// It is to be started, not before some time.
    Start { attempt: u32, not_before: Option<Timestamp>, last_ended: Option<Timestamp> },
    /// It was created but never started: leftovers of a kubelet that died.
    Leftover(&'a Container),
    /// It has ended for good.
    Done,
}

/// Makes the plan.
pub fn plan(situation: &Situation<'_>) -> Plan {
    let mut plan = Plan::default();
    let life = life(situation);
    let running = situation.pod.spec().containers.as_slice();
    for container in situation.observed.applications().filter(|container| container.is_running()) {
        if let Some((why, grace)) = reason_to_stop(situation, life, running, container) {
            stop(situation, container, why, grace, &mut plan);
        }
    }
    match life {
        Life::Runs => run(situation, &mut plan),
        Life::Completed | Life::DeadlineExceeded | Life::Terminal | Life::Rejected => {
            end(situation, TearDown::Sandbox, &mut plan)
        }
        Life::Deleted => end(situation, TearDown::Everything, &mut plan),
    }
    remove_old(situation, &mut plan);
    plan
}

/// Where the pod is in its life.
pub fn life(situation: &Situation<'_>) -> Life {
    let pod = situation.pod;
    if situation.gone || pod.metadata().deletion_timestamp.is_some() {
        return Life::Deleted;
    }
    if is_terminal(pod) {
        return Life::Terminal;
    }
    if situation.memory.rejection.is_some() {
        return Life::Rejected;
    }
    if deadline(situation).is_some_and(|deadline| situation.now >= deadline) {
        return Life::DeadlineExceeded;
    }
    let done = |spec: &Spec| matches!(fate(situation, spec), Fate::Done);
    if !pod.spec().containers.is_empty() && pod.spec().containers.iter().all(done) { Life::Completed } else { Life::Runs }
}

/// When a pod with activeDeadlineSeconds must end.
fn deadline(situation: &Situation<'_>) -> Option<Timestamp> {
    let seconds = situation.pod.spec().active_deadline_seconds?;
    let start = situation.pod.status().start_time.as_ref().map(|time| time.timestamp()).or(situation.memory.seen_at)?;
    later(start, Duration::from_secs(seconds.max(0) as u64))
}

/// Whether a container that ended with this code is started again.
pub fn restarts(pod: &Pod, exit_code: i32) -> bool {
    match pod.spec().restart_policy.as_str() {
        "Never" => false,
        "OnFailure" => exit_code != 0,
        _ => true,
    }
}

/// The time before which a container must not be restarted.
pub fn restart_blocked_until(memory: &Memory, name: &str, ended: Timestamp) -> Option<Timestamp> {
    memory.containers.get(name)?.restarts.blocked_until(ended)
}

/// The container's status as last reported.
pub fn reported<'a>(pod: &'a Pod, name: &str) -> Option<&'a ContainerStatus> {
    pod.status().container_statuses.iter().find(|status| status.name == name)
}

fn fate<'a>(situation: &Situation<'a>, spec: &Spec) -> Fate<'a> {
    let Some(container) = situation.observed.newest(&spec.name) else { return fate_of_absent(situation, spec) };
    match &container.state {
        State::Running => Fate::Running,
        State::Created => Fate::Leftover(container),
        State::Exited(exit) if restarts(situation.pod, exit.code) => Fate::Start {
            attempt: container.labels.attempt + 1,
            not_before: restart_blocked_until(situation.memory, &spec.name, exit.finished_at),
            last_ended: Some(exit.finished_at),
        },
        State::Exited(_) => Fate::Done,
    }
}

/// A container that the runtime does not have: never started, or lost; the reported status knows which.
fn fate_of_absent<'a>(situation: &Situation<'a>, spec: &Spec) -> Fate<'a> {
    let first = Fate::Start { attempt: 0, not_before: None, last_ended: None };
    let Some(status) = reported(situation.pod, &spec.name) else { return first };
    let ended = status.state().terminated.as_ref().or(status.last_state().terminated.as_ref());
    if status.container_id.is_empty() && ended.is_none() {
        return first;
    }
    // How a lost container ended nobody knows; that counts as a failure.
    let code = if status.state().running.is_some() { 137 } else { ended.map_or(137, |ended| ended.exit_code) };
    if restarts(situation.pod, code) {
        Fate::Start { attempt: status.restart_count.max(0) as u32 + 1, not_before: None, last_ended: None }
    } else {
        Fate::Done
    }
}

fn reason_to_stop(situation: &Situation<'_>, life: Life, specs: &[Spec], container: &Container) -> Option<(Why, Duration)> {
    let pod = situation.pod;
    let grace = |seconds: Option<i64>| Duration::from_secs(seconds.unwrap_or(DEFAULT_GRACE).max(0) as u64);
    let of_pod = pod.spec().termination_grace_period_seconds;
    if life != Life::Runs {
        return Some((Why::PodEnds, grace(pod.metadata().deletion_grace_period_seconds.or(of_pod))));
    }
    let Some(spec) = specs.iter().find(|spec| spec.name == container.labels.container) else {
        return Some((Why::Superfluous, grace(of_pod)));
    };
    if situation.observed.newest(&spec.name).is_some_and(|newest| newest.id != container.id) {
        return Some((Why::Superfluous, grace(of_pod)));
    }
    if situation.observed.sandbox().is_none_or(|sandbox| sandbox.id != container.labels.sandbox) {
        return Some((Why::SandboxChanged, grace(of_pod)));
    }
    if container.labels.hash != spec_hash(spec) {
        return Some((Why::Changed, grace(of_pod)));
    }
    let probes = situation.memory.probes.get(&container.id)?;
    if probes.started == Some(false) {
        return Some((Why::NotStarted, grace(spec.startup_probe().termination_grace_period_seconds.or(of_pod))));
    }
    if probes.live == Some(false) {
        return Some((Why::NotLive, grace(spec.liveness_probe().termination_grace_period_seconds.or(of_pod))));
    }
    None
}

fn stop(situation: &Situation<'_>, container: &Container, why: Why, grace: Duration, plan: &mut Plan) {
    let (memory, now) = (situation.memory, situation.now);
    let busy = memory.busy.contains(&Task::Signal(container.id.clone()));
    let asked = Stop { id: container.id.clone(), container: container.labels.container.clone(), grace, why };
    let Some(stopping) = memory.stopping.get(&container.id) else {
        if !busy {
            plan.stop.push(asked);
        }
        return;
    };
    // A later request may shorten the grace, never lengthen it.
    let sooner = later(now, grace).filter(|deadline| *deadline < stopping.deadline);
    if busy || (stopping.forced && !stopping.failed) {
    } else if now >= stopping.deadline {
        plan.force.push(container.id.clone());
    } else if sooner.is_some() && !stopping.forced {
        plan.stop.push(asked);
        plan.wake(sooner);
    } else {
        plan.wake(Some(stopping.deadline));
    }
}

fn run(situation: &Situation<'_>, plan: &mut Plan) {
    let Situation { pod, memory, now, .. } = *situation;
    plan.wake(deadline(situation));
    match &memory.volumes {
        _ if memory.busy.contains(&Task::Volumes) => {}
        VolumeState::Unknown => plan.prepare_volumes = true,
        VolumeState::Failed(failure) if now >= failure.retry_at => plan.prepare_volumes = true,
        VolumeState::Failed(failure) => plan.wake(Some(failure.retry_at)),
        VolumeState::Ready(mounted) if mounted.renew_at.is_some_and(|time| now >= time) => plan.prepare_volumes = true,
        VolumeState::Ready(mounted) => plan.wake(mounted.renew_at),
    }
    let volumes_blocked =
        matches!(&memory.volumes, VolumeState::Failed(_)) && !plan.prepare_volumes && !memory.busy.contains(&Task::Volumes);
    let wanted: Vec<(&Spec, Fate<'_>)> = pod.spec().containers.iter().map(|spec| (spec, fate(situation, spec))).collect();
    let any_wanted = wanted.iter().any(|(_, fate)| !matches!(fate, Fate::Done));
    let sandbox_coming = any_wanted && sandbox(situation, plan);
    for (spec, fate) in wanted {
        match fate {
            Fate::Start { attempt, not_before, last_ended } => {
                if memory.busy.contains(&Task::Start(spec.name.clone())) {
                    continue;
                }
                let failure = memory.containers.get(&spec.name).and_then(|container| container.failure.as_ref());
                let not_before = not_before.max(failure.map(|failure| failure.retry_at));
                if not_before.is_some_and(|time| now < time) {
                    plan.wake(not_before);
                } else if sandbox_coming && !volumes_blocked {
                    plan.start.push(Start { container: spec.name.clone(), attempt, last_ended });
                }
            }
            Fate::Leftover(container) if !memory.busy.contains(&Task::Start(spec.name.clone())) => {
                remove(situation, container, plan)
            }
            Fate::Leftover(_) | Fate::Running | Fate::Done => {}
        }
    }
}

/// Sees to the sandbox; whether containers may be started, because it is there or being made.
fn sandbox(situation: &Situation<'_>, plan: &mut Plan) -> bool {
    let Situation { pod, observed, memory, now, .. } = *situation;
    if memory.busy.contains(&Task::Sandbox) {
        return true;
    }
    let delayed = memory.sandbox.as_ref().filter(|failure| now < failure.retry_at);
    if let Some(failure) = delayed {
        plan.wake(Some(failure.retry_at));
        return false;
    }
    if observed.sandbox().is_some() {
        if observed.address.is_none() && !pod.spec().host_network {
            plan.connect_sandbox = true;
        }
        return true;
    }
    // Containers of the last sandbox end first: they would keep its namespaces alive.
    if observed.any_running() {
        return false;
    }
    plan.create_sandbox = Some(observed.sandboxes.first().map_or(0, |sandbox| sandbox.labels.attempt + 1));
    true
}

fn end(situation: &Situation<'_>, what: TearDown, plan: &mut Plan) {
    let Situation { observed, memory, .. } = *situation;
    // What is being signalled runs; everything else must have come to its end first.
    let working = memory.busy.iter().any(|task| !matches!(task, Task::Signal(_)));
    if working || observed.any_running() {
        return;
    }
    let clean = match what {
        TearDown::Sandbox => memory.sandbox_clean && observed.sandboxes.is_empty(),
        TearDown::Everything => memory.clean,
    };
    if !clean {
        plan.tear_down = Some(what);
    } else if what == TearDown::Everything {
        plan.finished = true;
    }
}

/// Removes incarnations that nobody will ask for any more.
fn remove_old(situation: &Situation<'_>, plan: &mut Plan) {
    let observed = situation.observed;
    let names: BTreeSet<&str> = situation.pod.spec().containers.iter().map(|spec| spec.name.as_str()).collect();
    for (name, list) in &observed.containers {
        let keep = if names.contains(name.as_str()) { KEEP_DEAD + 1 } else { 0 };
        for container in list.iter().skip(keep).filter(|container| !container.is_running()) {
            remove(situation, container, plan);
        }
    }
    for sandbox in observed.sandboxes.iter().skip(1) {
        remove(situation, sandbox, plan);
    }
}

fn remove(situation: &Situation<'_>, container: &Container, plan: &mut Plan) {
    let task = Task::Remove(container.id.clone());
    if plan.tear_down.is_none() && !situation.memory.busy.contains(&task) && !plan.remove.contains(&container.id) {
        plan.remove.push(container.id.clone());
    }
}

// === impl Plan ===

impl Plan {
    fn wake(&mut self, at: Option<Timestamp>) {
        self.wake_at = [self.wake_at, at].into_iter().flatten().min();
    }
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
