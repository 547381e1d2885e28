//! What to do next for a pod: a pure function of what is wanted, what is observed, what is remembered and the time.
//!
//! *Invariants:* a container never has two running incarnations; nothing is started for a pod that is to end; a pod's sandbox goes only after
//! its containers have ended; asked again with the same situation, the plan is the same, and what is under way is not asked for again.

use std::{collections::BTreeSet, time::Duration};

use api::{
    core::v1::Pod,
    pod::{DEFAULT_GRACE_SECONDS, is_terminal},
};
use jiff::Timestamp;

use super::{
    backoff::later,
    spec::spec_hash,
    state::{Memory, Observed, Task, VolumeState},
    unit::{Role, Unit, reported, units},
};
use crate::runtime::{Container, ContainerId, State};

/// The least that a sidecar has of its pod's grace, however long the others took: upstream's number.
const LAST_GRACE: Duration = Duration::from_secs(2);
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
    /// All that it is for has ended for good, or cannot begin.
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

/// What is to become of one unit.
enum Fate<'a> {
    /// It runs.
    Running,
    /// It is to be started, not before some time.
    Start { attempt: u32, not_before: Option<Timestamp>, last_ended: Option<Timestamp> },
    /// It was created but never started: leftovers of a kubelet that died.
    Leftover(&'a Container),
    /// It has ended for good, with this code.
    Ended(i32),
}

/// Makes the plan.
pub fn plan(situation: &Situation<'_>) -> Plan {
    let mut plan = Plan::default();
    let life = life(situation);
    let units: Vec<Unit<'_>> = units(situation.pod.spec()).collect();
    for container in situation.observed.applications().filter(|container| container.is_running()) {
        if let Some((why, grace)) = reason_to_stop(situation, life, &units, container) {
            stop(situation, container, why, grace, &mut plan);
        }
    }
    match life {
        Life::Runs => run(situation, &units, &mut plan),
        Life::Completed | Life::DeadlineExceeded | Life::Terminal | Life::Rejected => {
            end(situation, TearDown::Sandbox, &mut plan)
        }
        Life::Deleted => end(situation, TearDown::Everything, &mut plan),
    }
    remove_old(situation, &units, &mut plan);
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
    if is_completed(situation) { Life::Completed } else { Life::Runs }
}

/// Whether the main units have ended for good, or never begin since one before them has failed for good.
fn is_completed(situation: &Situation<'_>) -> bool {
    let all = || units(situation.pod.spec());
    let ended = |unit: &Unit<'_>| matches!(fate(situation, unit), Fate::Ended(_));
    let mut main = all().filter(|unit| unit.role == Role::Main).peekable();
    if main.peek().is_some() && main.all(|unit| ended(&unit)) {
        return true;
    }
    let failed = |unit: &Unit<'_>| matches!(fate(situation, unit), Fate::Ended(code) if code != 0);
    !is_initialised(situation) && all().filter(|unit| unit.role == Role::Init).any(|unit| failed(&unit))
}

/// Whether the sandbox that runs has been prepared: one of the main units was begun in it. Init units are then done with.
pub fn is_initialised(situation: &Situation<'_>) -> bool {
    let Some(sandbox) = situation.observed.sandbox() else { return false };
    let main = units(situation.pod.spec()).filter(|unit| unit.role == Role::Main);
    let newest = main.filter_map(|unit| situation.observed.newest(unit.name()));
    newest.into_iter().any(|container| container.labels.sandbox == sandbox.id)
}

/// Whether what comes after a unit may begin.
pub fn lets_others_begin(situation: &Situation<'_>, unit: &Unit<'_>) -> bool {
    match (unit.role, fate(situation, unit)) {
        (Role::Init, Fate::Ended(code)) => code == 0,
        (Role::Sidecar, Fate::Running) => {
            situation.observed.newest(unit.name()).is_some_and(|container| situation.memory.health(&unit.spec, container).0)
        }
        (Role::Init | Role::Sidecar, _) => false,
        (Role::Main | Role::Ephemeral, _) => true,
    }
}

/// When a pod with activeDeadlineSeconds must end.
fn deadline(situation: &Situation<'_>) -> Option<Timestamp> {
    let seconds = situation.pod.spec().active_deadline_seconds?;
    let start = situation.pod.status().start_time.as_ref().map(|time| time.timestamp()).or(situation.memory.seen_at)?;
    later(start, Duration::from_secs(seconds.max(0) as u64))
}

/// The time before which a container must not be restarted.
pub fn restart_blocked_until(memory: &Memory, name: &str, ended: Timestamp) -> Option<Timestamp> {
    memory.containers.get(name)?.restarts.blocked_until(ended)
}

fn fate<'a>(situation: &Situation<'a>, unit: &Unit<'_>) -> Fate<'a> {
    let Some(container) = situation.observed.newest(unit.name()) else { return fate_of_absent(situation, unit) };
    let again = |not_before, last_ended| Fate::Start { attempt: container.labels.attempt + 1, not_before, last_ended };
    match &container.state {
        State::Running => Fate::Running,
        State::Created => Fate::Leftover(container),
        State::Exited(exit) if unit.restart.after(exit.code) => {
            again(restart_blocked_until(situation.memory, unit.name(), exit.finished_at), Some(exit.finished_at))
        }
        // What it has prepared is gone with its sandbox.
        State::Exited(exit) if unit.role == Role::Init && exit.code == 0 && !is_in_sandbox(situation, container) => {
            again(None, None)
        }
        State::Exited(exit) => Fate::Ended(exit.code),
    }
}

fn is_in_sandbox(situation: &Situation<'_>, container: &Container) -> bool {
    situation.observed.sandbox().is_some_and(|sandbox| sandbox.id == container.labels.sandbox)
}

/// A unit that the runtime does not have: never started, or lost; the reported status knows which.
fn fate_of_absent<'a>(situation: &Situation<'a>, unit: &Unit<'_>) -> Fate<'a> {
    let first = Fate::Start { attempt: 0, not_before: None, last_ended: None };
    let Some(status) = reported(situation.pod, unit.name()) else { return first };
    let ended = status.state().terminated.as_ref().or(status.last_state().terminated.as_ref());
    if status.container_id.is_empty() && ended.is_none() {
        return first;
    }
    // How a lost container ended nobody knows; that counts as a failure.
    let code = if status.state().running.is_some() { 137 } else { ended.map_or(137, |ended| ended.exit_code) };
    let unprepared = unit.role == Role::Init && code == 0 && situation.observed.sandbox().is_none();
    if unprepared || unit.restart.after(code) {
        Fate::Start { attempt: status.restart_count.max(0) as u32 + 1, not_before: None, last_ended: None }
    } else {
        Fate::Ended(code)
    }
}

fn reason_to_stop(situation: &Situation<'_>, life: Life, units: &[Unit<'_>], container: &Container) -> Option<(Why, Duration)> {
    let pod = situation.pod;
    let grace = |seconds: Option<i64>| Duration::from_secs(seconds.unwrap_or(DEFAULT_GRACE_SECONDS).max(0) as u64);
    let of_pod = pod.spec().termination_grace_period_seconds;
    let place = units.iter().position(|unit| unit.name() == container.labels.container);
    if life != Life::Runs {
        let grace = grace(pod.metadata().deletion_grace_period_seconds.or(of_pod));
        return match place.filter(|place| units[*place].role == Role::Sidecar) {
            None => Some((Why::PodEnds, grace)),
            Some(place) => is_last(situation, units, place).then(|| (Why::PodEnds, rest_of(situation, grace))),
        };
    }
    let Some(unit) = place.map(|place| &units[place]) else {
        return Some((Why::Superfluous, grace(of_pod)));
    };
    if situation.observed.newest(unit.name()).is_some_and(|newest| newest.id != container.id) {
        return Some((Why::Superfluous, grace(of_pod)));
    }
    if !is_in_sandbox(situation, container) {
        return Some((Why::SandboxChanged, grace(of_pod)));
    }
    if container.labels.hash != spec_hash(&unit.spec) {
        return Some((Why::Changed, grace(of_pod)));
    }
    let probes = situation.memory.probes.get(&container.id)?;
    if probes.started == Some(false) {
        return Some((Why::NotStarted, grace(unit.spec.startup_probe().termination_grace_period_seconds.or(of_pod))));
    }
    if probes.live == Some(false) {
        return Some((Why::NotLive, grace(unit.spec.liveness_probe().termination_grace_period_seconds.or(of_pod))));
    }
    None
}

/// Whether nothing runs any more that a sidecar is there for: sidecars end after the others, the last one first.
fn is_last(situation: &Situation<'_>, units: &[Unit<'_>], place: usize) -> bool {
    let before =
        |unit: &Unit<'_>| unit.role == Role::Sidecar && units[..place].iter().any(|earlier| earlier.name() == unit.name());
    let runs = |unit: &&Unit<'_>| situation.observed.newest(unit.name()).is_some_and(Container::is_running);
    !units.iter().filter(runs).any(|unit| unit.name() != units[place].name() && !before(unit))
}

/// What is left of the pod's grace for those that end last.
fn rest_of(situation: &Situation<'_>, grace: Duration) -> Duration {
    let end = situation.pod.metadata().deletion_timestamp.as_ref().map(|time| time.timestamp());
    let left = end.map_or(grace, |end| end.duration_since(situation.now).try_into().unwrap_or(Duration::ZERO));
    left.max(LAST_GRACE).min(grace)
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

fn run(situation: &Situation<'_>, units: &[Unit<'_>], plan: &mut Plan) {
    let Situation { memory, now, .. } = *situation;
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
    let initialised = is_initialised(situation);
    // Nothing starts ephemeral units yet.
    let wanted = units.iter().filter(|unit| unit.role != Role::Ephemeral && !(initialised && unit.role == Role::Init));
    let wanted: Vec<(&Unit<'_>, Fate<'_>)> = wanted.map(|unit| (unit, fate(situation, unit))).collect();
    let any_wanted = wanted.iter().any(|(_, fate)| !matches!(fate, Fate::Ended(_)));
    let mut may_begin = any_wanted && sandbox(situation, plan) && !volumes_blocked;
    for (unit, fate) in wanted {
        let task = || Task::Start(unit.name().to_owned());
        match fate {
            Fate::Start { attempt, not_before, last_ended } if !memory.busy.contains(&task()) => {
                let failure = memory.containers.get(unit.name()).and_then(|container| container.failure.as_ref());
                let not_before = not_before.max(failure.map(|failure| failure.retry_at));
                if not_before.is_some_and(|time| now < time) {
                    plan.wake(not_before);
                } else if may_begin {
                    plan.start.push(Start { container: unit.name().to_owned(), attempt, last_ended });
                }
            }
            Fate::Leftover(container) if !memory.busy.contains(&task()) => remove(situation, container, plan),
            Fate::Start { .. } | Fate::Leftover(_) | Fate::Running | Fate::Ended(_) => {}
        }
        may_begin &= initialised || lets_others_begin(situation, unit);
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
        if observed.addresses.is_empty() && !pod.spec().host_network {
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
fn remove_old(situation: &Situation<'_>, units: &[Unit<'_>], plan: &mut Plan) {
    let observed = situation.observed;
    let names: BTreeSet<&str> = units.iter().map(Unit::name).collect();
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
