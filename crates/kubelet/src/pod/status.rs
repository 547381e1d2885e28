//! A pod's reported status, derived from its state; nothing here is ever set by hand elsewhere.

use api::{
    core::v1::{
        ContainerState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting, ContainerStatus, HostIp,
        PodCondition, PodIp, PodStatus,
    },
    meta::v1::Time,
    pod::{Qos, is_terminal},
};
use jiff::Timestamp;

use super::{
    fields::NodeFacts,
    plan::{Life, Situation, is_initialised, lets_others_begin, life, restart_blocked_until},
    reason::Reason,
    state::{Failure, Memory, Task},
    unit::{Restart, Role, Unit, reported, units},
};
use crate::runtime::{Container, State};

/// How ids of this runtime are written.
const SCHEME: &str = "docker://";
/// The most text of a termination message that a status carries, in bytes.
const MESSAGE_MAX: usize = 4096;

/// Derives the status.
pub fn status(situation: &Situation<'_>, node: &NodeFacts) -> PodStatus {
    let Situation { pod, observed, memory, .. } = *situation;
    let old = pod.status();
    let life = life(situation);
    // Of a pod that was refused no container ever was.
    let ended = life == Life::Rejected || matches!(old.phase.as_str(), "Succeeded" | "Failed");
    let refused = ended && old.container_statuses.is_empty() && observed.containers.is_empty();
    let (mut before, mut containers, mut later) = (Vec::new(), Vec::new(), Vec::new());
    for unit in units(pod.spec()).filter(|unit| !refused || unit.role == Role::Ephemeral) {
        let list = match unit.role {
            Role::Init | Role::Sidecar => &mut before,
            Role::Main => &mut containers,
            Role::Ephemeral => &mut later,
        };
        list.push(unit_status(situation, life, &unit));
    }
    let mut status = PodStatus {
        host_ip: node.address.clone(),
        host_ips: vec![HostIp { ip: node.address.clone() }],
        start_time: old.start_time.or_else(|| memory.seen_at.map(Into::into)),
        qos_class: if old.qos_class.is_empty() { Qos::of(pod.spec()).as_str().to_owned() } else { old.qos_class.clone() },
        nominated_node_name: old.nominated_node_name.clone(),
        reason: old.reason.clone(),
        message: old.message.clone(),
        ..PodStatus::default()
    };
    let shown = |address: String| PodIp { ip: address };
    status.pod_ips = if pod.spec().host_network {
        vec![shown(node.address.clone())]
    } else {
        observed.addresses.by_family().map(|address| shown(address.to_string())).collect()
    };
    // A pod that has ended keeps the addresses it had in its status.
    if status.pod_ips.is_empty() && life != Life::Runs {
        status.pod_ips.clone_from(&old.pod_ips);
    }
    status.pod_ip = status.pod_ips.first().map(|primary| primary.ip.clone()).unwrap_or_default();
    status.phase = match life {
        Life::Terminal => old.phase.clone(),
        Life::Rejected => {
            if let Some(rejection) = &memory.rejection {
                status.reason = rejection.reason.clone().into_owned();
                status.message.clone_from(&rejection.message);
            }
            "Failed".into()
        }
        Life::DeadlineExceeded => {
            status.reason = Reason::DeadlineExceeded.as_str().into();
            status.message = "Pod was active on the node longer than the specified deadline".into();
            "Failed".into()
        }
        _ if is_terminal(pod) => old.phase.clone(),
        Life::Deleted if has_ended(situation) => last_phase(&containers).into(),
        _ => phase(situation, &before, &containers).into(),
    };
    status.conditions = conditions(situation, &status.phase, &before, &containers);
    status.init_container_statuses = before;
    status.container_statuses = containers;
    status.ephemeral_container_statuses = later;
    status
}

/// Whether nothing of a pod that ends runs any more, or is about to.
fn has_ended(situation: &Situation<'_>) -> bool {
    !situation.observed.any_running() && !situation.memory.busy.iter().any(|task| matches!(task, Task::Start(_)))
}

/// The phase of a pod that was deleted and has ended: whoever still looks at it, for a finalizer, is told how.
fn last_phase(containers: &[ContainerStatus]) -> &'static str {
    let succeeded = |status: &ContainerStatus| status.state().terminated.as_ref().is_some_and(|ended| ended.exit_code == 0);
    if !containers.is_empty() && containers.iter().all(succeeded) { "Succeeded" } else { "Failed" }
}

fn phase(situation: &Situation<'_>, before: &[ContainerStatus], containers: &[ContainerStatus]) -> &'static str {
    let pod = situation.pod;
    if let Some(blocking) = blocking(situation) {
        let ended = before.iter().find(|status| status.name == blocking.name()).map(ContainerStatus::state);
        let failed = blocking.restart == Restart::Never && ended.is_some_and(|state| state.terminated.is_some());
        return if failed { "Failed" } else { "Pending" };
    }
    let (mut waiting, mut running, mut stopped, mut succeeded) = (0, 0, 0, 0);
    for container in containers {
        let state = container.state();
        if state.running.is_some() {
            running += 1;
        } else if let Some(ended) = &state.terminated {
            stopped += 1;
            succeeded += usize::from(ended.exit_code == 0);
        } else if let Some(ended) = &container.last_state().terminated {
            stopped += 1;
            succeeded += usize::from(ended.exit_code == 0);
        } else {
            waiting += 1;
        }
    }
    if waiting > 0 || containers.is_empty() {
        "Pending"
    } else if running > 0 || matches!(pod.spec().restart_policy.as_str(), "Always" | "") {
        "Running"
    } else if stopped == succeeded {
        "Succeeded"
    } else if pod.spec().restart_policy == "Never" {
        "Failed"
    } else {
        "Running"
    }
}

/// The first unit that keeps the main ones from beginning.
fn blocking<'a>(situation: &Situation<'a>) -> Option<Unit<'a>> {
    if is_initialised(situation) {
        return None;
    }
    // Of a pod that has ended the sandbox is gone; it was prepared if its main units ever began.
    let ran = |name: &str| reported(situation.pod, name).is_some_and(|status| !status.container_id.is_empty());
    let begun =
        |unit: &Unit<'_>| unit.role == Role::Main && (situation.observed.newest(unit.name()).is_some() || ran(unit.name()));
    if life(situation) != Life::Runs && units(situation.pod.spec()).any(|unit| begun(&unit)) {
        return None;
    }
    units(situation.pod.spec()).find(|unit| !lets_others_begin(situation, unit))
}

fn waiting(reason: Reason, message: String) -> ContainerState {
    ContainerState {
        waiting: Some(ContainerStateWaiting { reason: reason.as_str().into(), message }),
        ..ContainerState::default()
    }
}

/// What a container that has not been started waits for.
fn before_start(situation: &Situation<'_>, unit: &Unit<'_>, failure: Option<&Failure>) -> ContainerState {
    match failure {
        Some(failure) => waiting(failure.reason, failure.message.clone()),
        None if unit.role == Role::Ephemeral => {
            let message = "ephemeral containers are not supported by this kubelet yet";
            waiting(Reason::EphemeralContainersNotSupported, message.to_owned())
        }
        None if units(situation.pod.spec()).any(|unit| matches!(unit.role, Role::Init | Role::Sidecar)) => {
            waiting(Reason::PodInitializing, String::new())
        }
        None => waiting(Reason::ContainerCreating, String::new()),
    }
}

fn unit_status(situation: &Situation<'_>, life: Life, unit: &Unit<'_>) -> ContainerStatus {
    let Situation { pod, observed, memory, .. } = *situation;
    let (name, spec) = (unit.name(), &unit.spec);
    let old = reported(pod, name);
    let incarnations = observed.containers.get(name).map_or(&[][..], Vec::as_slice);
    let failure = memory.containers.get(name).and_then(|container| container.failure.as_ref());
    let mut status = ContainerStatus {
        name: name.to_owned(),
        image: spec.image.clone(),
        started: (unit.role != Role::Ephemeral).then_some(false),
        ..ContainerStatus::default()
    };
    let before_start = || before_start(situation, unit, failure);
    let Some(newest) = incarnations.first() else {
        // Never started, or lost: then what was last reported is the best there is.
        if let Some(old) = old.filter(|old| !old.container_id.is_empty()) {
            status = old.clone();
            status.ready = false;
            status.started = Some(false);
            if status.state().running.is_some() {
                let started_at = status.state().running().started_at;
                let message = "The container could not be located when the pod was terminated".to_owned();
                status.state = Some(ContainerState {
                    terminated: Some(ContainerStateTerminated {
                        exit_code: 137,
                        reason: Reason::ContainerStatusUnknown.as_str().into(),
                        message,
                        started_at,
                        container_id: status.container_id.clone(),
                        ..ContainerStateTerminated::default()
                    }),
                    ..ContainerState::default()
                });
            }
        } else {
            status.state = Some(before_start());
        }
        return status;
    };
    // One that is created only has not been started again, and may never be: its sandbox can fail. Until then the one before it is the container.
    let begun = incarnations.iter().find(|container| container.state != State::Created);
    status.restart_count =
        if newest.state == State::Created { newest.labels.attempt.saturating_sub(1) } else { newest.labels.attempt } as i32;
    status.container_id = match (begun, old) {
        (Some(begun), _) => format!("{SCHEME}{}", begun.id),
        (None, Some(old)) => old.container_id.clone(),
        (None, None) => String::new(),
    };
    status.image_id = format!("{SCHEME}{}", newest.image_id);
    let earlier = incarnations.get(1).and_then(|container| terminated(container, memory));
    status.last_state = earlier.or_else(|| {
        // Cleared away already; what was reported stays true.
        old.filter(|old| old.container_id == status.container_id || incarnations.len() < 2).and_then(|old| old.last_state.clone())
    });
    match &newest.state {
        State::Created => status.state = Some(before_start()),
        State::Running => {
            let started_at = newest.started_at.map(Time::from);
            status.state =
                Some(ContainerState { running: Some(ContainerStateRunning { started_at }), ..ContainerState::default() });
            let (started, ready) = memory.health(spec, newest);
            (status.started, status.ready) = (Some(started), ready);
        }
        State::Exited(exit) => {
            let ended = terminated(newest, memory);
            status.ready = unit.role == Role::Init && exit.code == 0;
            let again = life == Life::Runs && unit.restart.after(exit.code);
            // One that is just being restarted is not held back any more.
            let blocked = !memory.busy.contains(&Task::Start(name.to_owned()))
                && restart_blocked_until(memory, name, exit.finished_at).is_some_and(|time| situation.now < time);
            if again && blocked {
                let delay = memory.containers.get(name).map_or(0, |container| container.restarts.delay().as_secs());
                let of = format!("{}_{}({})", pod.metadata().name, pod.metadata().namespace, pod.metadata().uid);
                let message = format!("back-off {} restarting failed container={name} pod={of}", duration(delay));
                status.state = Some(waiting(Reason::CrashLoopBackOff, message));
                status.last_state = ended;
            } else if let (true, Some(failure)) = (again, failure) {
                status.state = Some(waiting(failure.reason, failure.message.clone()));
                status.last_state = ended;
            } else {
                status.state = ended;
            }
        }
    }
    status
}

/// A number of seconds as upstream writes it: `10s`, `1m20s`.
fn duration(seconds: u64) -> String {
    match (seconds / 60, seconds % 60) {
        (0, seconds) => format!("{seconds}s"),
        (minutes, seconds) => format!("{minutes}m{seconds}s"),
    }
}

fn terminated(container: &Container, memory: &Memory) -> Option<ContainerState> {
    let exit = container.exit()?;
    let never_ran = container.started_at.is_none() && !exit.error.is_empty();
    let reason = match exit {
        exit if exit.oom_killed => Reason::OOMKilled,
        _ if never_ran => Reason::ContainerCannotRun,
        exit if exit.code == 0 => Reason::Completed,
        _ => Reason::Error,
    };
    let left = memory.messages.get(&container.id).map_or("", String::as_str);
    let message = if left.is_empty() { exit.error.as_str() } else { left };
    Some(ContainerState {
        terminated: Some(ContainerStateTerminated {
            exit_code: exit.code,
            signal: 0,
            reason: reason.as_str().into(),
            message: cut(message).to_owned(),
            started_at: container.started_at.map(Time::from),
            finished_at: Some(exit.finished_at.into()),
            container_id: format!("{SCHEME}{}", container.id),
        }),
        ..ContainerState::default()
    })
}

fn cut(text: &str) -> &str {
    let end = (0..=MESSAGE_MAX.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    &text[..end]
}

fn conditions(
    situation: &Situation<'_>,
    phase: &str,
    before: &[ContainerStatus],
    containers: &[ContainerStatus],
) -> Vec<PodCondition> {
    let Situation { pod, observed, now, .. } = *situation;
    let old = &pod.status().conditions;
    let sandbox = observed.sandbox().is_some() && (pod.spec().host_network || !observed.addresses.is_empty());
    let stays = |name: &str| units(pod.spec()).any(|unit| unit.name() == name && unit.stays());
    let staying = before.iter().chain(containers).filter(|container| stays(&container.name));
    let unready: Vec<&str> = staying.filter(|container| !container.ready).map(|container| container.name.as_str()).collect();
    let (reason, message) = match phase {
        "Succeeded" => (Reason::PodCompleted, String::new()),
        "Failed" => (Reason::PodFailed, String::new()),
        _ => (Reason::ContainersNotReady, format!("containers with unready status: [{}]", unready.join(" "))),
    };
    let containers_ready = unready.is_empty() && !matches!(phase, "Succeeded" | "Failed");
    let uninitialised = blocking(situation).filter(|_| phase != "Succeeded").map(|first| {
        let incomplete = units(pod.spec()).skip_while(|unit| unit.name() != first.name());
        let incomplete =
            incomplete.filter(|unit| matches!(unit.role, Role::Init | Role::Sidecar) && !lets_others_begin(situation, unit));
        let names: Vec<String> = incomplete.map(|unit| unit.name().to_owned()).collect();
        (Some(Reason::ContainersNotInitialized), format!("containers with incomplete status: [{}]", names.join(" ")))
    });
    let closed: Vec<&str> = pod
        .spec()
        .readiness_gates
        .iter()
        .map(|gate| gate.condition_type.as_str())
        .filter(|gate| !old.iter().any(|condition| condition.r#type == *gate && condition.status == "True"))
        .collect();
    let no = |reason: Reason, message: &str| Some((Some(reason), message.to_owned()));
    let ready = match (containers_ready, closed.first()) {
        (false, _) => no(reason, &message),
        (true, Some(gate)) => no(
            Reason::ReadinessGatesNotReady,
            &format!("corresponding condition of pod readiness gate {gate:?} does not exist or is not True."),
        ),
        (true, None) => None,
    };
    let ours = [
        ("PodReadyToStartContainers", (!sandbox).then(|| (None, String::new()))),
        ("Initialized", uninitialised),
        ("Ready", ready),
        ("ContainersReady", if containers_ready { None } else { no(reason, &message) }),
        ("PodScheduled", None),
    ];
    let mut conditions: Vec<PodCondition> = ours.into_iter().map(|(kind, problem)| condition(old, kind, problem, now)).collect();
    // Conditions that others set stay.
    conditions.extend(old.iter().filter(|other| !ours_named(&other.r#type)).cloned());
    conditions
}

fn ours_named(kind: &str) -> bool {
    matches!(kind, "PodReadyToStartContainers" | "Initialized" | "Ready" | "ContainersReady" | "PodScheduled")
}

fn condition(old: &[PodCondition], kind: &str, problem: Option<(Option<Reason>, String)>, now: Timestamp) -> PodCondition {
    let status = if problem.is_none() { "True" } else { "False" };
    let before = old.iter().find(|condition| condition.r#type == kind && condition.status == status);
    let (reason, message) = problem.unwrap_or_default();
    PodCondition {
        r#type: kind.into(),
        status: status.into(),
        last_transition_time: before.and_then(|condition| condition.last_transition_time).or(Some(now.into())),
        reason: reason.map_or("", Reason::as_str).into(),
        message,
        ..PodCondition::default()
    }
}

#[cfg(test)]
#[path = "status_tests.rs"]
mod tests;
