use api::core::v1::{Container as Spec, Pod, PodReadinessGate, Probe};

use super::*;
use crate::{
    pod::state::{Failure, Observed, Probes},
    runtime::{Exit, Labels},
};

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn pod(policy: &str) -> Pod {
    let mut pod = Pod::default();
    (pod.metadata_mut().name, pod.metadata_mut().namespace, pod.metadata_mut().uid) = ("p".into(), "n".into(), "u".into());
    pod.spec_mut().restart_policy = policy.into();
    pod.spec_mut().containers = vec![Spec { name: "a".into(), image: "i:1".into(), ..Spec::default() }];
    pod
}

fn container(name: &str, attempt: u32, state: State) -> Container {
    let labels = if name == "POD" {
        Labels::sandbox("n", "p", "u", attempt)
    } else {
        Labels {
            kind: crate::runtime::ContainerKind::Application,
            container: name.into(),
            ..Labels::sandbox("n", "p", "u", attempt)
        }
    };
    Container {
        id: format!("{name}{attempt}"),
        labels,
        image: "i:1".into(),
        image_id: "sha256:1".into(),
        state,
        pid: 0,
        created_at: at(10),
        started_at: Some(at(11)),
        stop_signal: String::new(),
        tty: false,
    }
}

fn exited(code: i32) -> State {
    State::Exited(Exit { code, oom_killed: false, error: String::new(), finished_at: at(20) })
}

fn derive(pod: &Pod, containers: Vec<Container>, memory: &Memory) -> PodStatus {
    let mut observed = Observed::new(containers);
    observed.addresses = observed.sandbox().map(|_| [10, 0, 0, 9]).into_iter().collect();
    let node = NodeFacts { address: "192.0.2.1".into(), ..NodeFacts::default() };
    status(&Situation { pod, gone: false, observed: &observed, memory, now: at(100) }, &node)
}

fn condition_of(status: &PodStatus, kind: &str) -> (String, String, String) {
    let found = status.conditions.iter().find(|condition| condition.r#type == kind).cloned().unwrap_or_default();
    (found.status, found.reason, found.message)
}

#[test]
fn a_new_pod_is_pending_and_says_that_it_is_being_created() {
    let status = derive(&pod("Always"), Vec::new(), &Memory::default());
    assert_eq!((status.phase.as_str(), status.qos_class.as_str(), status.pod_ip.as_str()), ("Pending", "BestEffort", ""));
    assert_eq!(status.container_statuses[0].state().waiting().reason, "ContainerCreating");
    assert_eq!(
        condition_of(&status, "Ready"),
        ("False".into(), "ContainersNotReady".into(), "containers with unready status: [a]".into())
    );
    assert_eq!(condition_of(&status, "PodReadyToStartContainers").0, "False");
    assert_eq!(condition_of(&status, "PodScheduled").0, "True");
}

#[test]
fn a_running_pod_is_ready_unless_a_probe_or_a_gate_says_otherwise() {
    let both = || vec![container("POD", 0, State::Running), container("a", 0, State::Running)];
    let mut pod = pod("Always");
    let status = derive(&pod, both(), &Memory::default());
    assert_eq!(
        (status.phase.as_str(), status.pod_ip.as_str(), condition_of(&status, "Ready").0.as_str()),
        ("Running", "10.0.0.9", "True")
    );
    assert_eq!(status.container_statuses[0].container_id, "docker://a0");

    pod.spec_mut().readiness_gates = vec![PodReadinessGate { condition_type: "example.com/gate".into() }];
    let gated = derive(&pod, both(), &Memory::default());
    assert_eq!(
        (condition_of(&gated, "Ready").1.as_str(), condition_of(&gated, "ContainersReady").0.as_str()),
        ("ReadinessGatesNotReady", "True")
    );

    pod.spec_mut().readiness_gates.clear();
    pod.spec_mut().containers[0].startup_probe = Some(Probe::default());
    pod.spec_mut().containers[0].readiness_probe = Some(Probe::default());
    let mut memory = Memory::default();
    for (probes, started, ready) in [
        (Probes::default(), false, false),
        (Probes { ready: Some(true), ..Probes::default() }, false, false),
        (Probes { started: Some(true), ..Probes::default() }, true, false),
        (Probes { started: Some(true), ready: Some(true), live: None }, true, true),
    ] {
        memory.probes.insert("a0".into(), probes);
        let status = derive(&pod, both(), &memory);
        assert_eq!(
            (status.container_statuses[0].started, status.container_statuses[0].ready),
            (Some(started), ready),
            "{probes:?}"
        );
    }
}

#[test]
fn ends_are_told_with_their_reason() {
    let mut killed = container("a", 0, exited(137));
    if let State::Exited(exit) = &mut killed.state {
        exit.oom_killed = true;
    }
    let status = derive(&pod("Never"), vec![killed], &Memory::default());
    assert_eq!(status.container_statuses[0].state().terminated().reason, "OOMKilled");
    assert_eq!(status.phase, "Failed");
    let status = derive(&pod("Never"), vec![container("a", 0, exited(0))], &Memory::default());
    assert_eq!(
        (status.phase.as_str(), status.container_statuses[0].state().terminated().reason.as_str()),
        ("Succeeded", "Completed")
    );
    assert_eq!(condition_of(&status, "Ready").1, "PodCompleted");
    let memory = Memory { messages: [("a0".to_owned(), "bye".to_owned())].into(), ..Memory::default() };
    let status = derive(&pod("OnFailure"), vec![container("a", 0, exited(1))], &memory);
    assert_eq!((status.phase.as_str(), status.container_statuses[0].state().terminated().message.as_str()), ("Running", "bye"));
}

#[test]
fn a_container_held_back_keeps_its_last_state() {
    let mut memory = Memory::default();
    for _ in 0..4 {
        memory.container("a").restarts.advance(at(20), at(20));
    }
    let status = derive(&pod("Always"), vec![container("a", 3, exited(1)), container("a", 2, exited(2))], &memory);
    let first = &status.container_statuses[0];
    assert_eq!(first.state().waiting().reason, "", "80 seconds have passed since it ended");
    assert_eq!((first.restart_count, first.last_state().terminated().exit_code), (3, 2));
    memory.container("a").restarts.advance(at(20), at(20));
    let status = derive(&pod("Always"), vec![container("a", 3, exited(1)), container("a", 2, exited(2))], &memory);
    let first = &status.container_statuses[0];
    assert_eq!(first.state().waiting().message, "back-off 2m40s restarting failed container=a pod=p_n(u)");
    assert_eq!((first.last_state().terminated().exit_code, status.phase.as_str()), (1, "Running"));
    memory.busy.insert(Task::Start("a".into()));
    let status = derive(&pod("Always"), vec![container("a", 3, exited(1)), container("a", 2, exited(2))], &memory);
    assert_eq!(status.container_statuses[0].state().waiting().reason, "", "it is being restarted");
}

#[test]
fn failures_to_start_are_told_and_foreign_conditions_stay() {
    let mut memory = Memory::default();
    memory.container("a").failure =
        Some(Failure { reason: Reason::ErrImagePull, message: "no such host".into(), retry_at: at(200) });
    let mut pod = pod("Always");
    pod.status_mut().conditions.push(PodCondition {
        r#type: "example.com/x".into(),
        status: "True".into(),
        ..PodCondition::default()
    });
    let status = derive(&pod, Vec::new(), &memory);
    assert_eq!(status.container_statuses[0].state().waiting().reason, "ErrImagePull");
    assert_eq!(status.container_statuses[0].state().waiting().message, "no such host");
    assert_eq!(condition_of(&status, "example.com/x").0, "True");
}

#[test]
fn transition_times_change_only_with_the_status() {
    let mut pod = pod("Always");
    let first = derive(&pod, Vec::new(), &Memory::default());
    pod.status = Some(first.clone());
    let mut later = first;
    later.conditions.iter_mut().for_each(|condition| condition.last_transition_time = Some(Time { seconds: 50, nanos: 0 }));
    pod.status = Some(later);
    let again = derive(&pod, vec![container("POD", 0, State::Running)], &Memory::default());
    let time =
        |kind: &str| again.conditions.iter().find(|c| c.r#type == kind).and_then(|c| c.last_transition_time).map(|t| t.seconds);
    assert_eq!((time("Ready"), time("PodReadyToStartContainers")), (Some(50), Some(100)));
}

#[test]
fn a_terminal_phase_is_never_taken_back() {
    let mut pod = pod("Always");
    pod.status_mut().phase = "Failed".into();
    pod.status_mut().reason = "Evicted".into();
    let status = derive(&pod, vec![container("a", 0, State::Running)], &Memory::default());
    assert_eq!((status.phase.as_str(), status.reason.as_str()), ("Failed", "Evicted"));
}

#[test]
fn a_pod_that_is_prepared_says_what_it_waits_for() {
    let mut pod = pod("Always");
    let sidecar = Spec { name: "s".into(), restart_policy: Some("Always".into()), ..Spec::default() };
    pod.spec_mut().init_containers = vec![Spec { name: "i".into(), ..Spec::default() }, sidecar];
    let first = derive(&pod, vec![container("POD", 0, State::Running), container("i", 0, State::Running)], &Memory::default());
    assert_eq!(first.phase, "Pending");
    assert_eq!(
        condition_of(&first, "Initialized"),
        ("False".into(), "ContainersNotInitialized".into(), "containers with incomplete status: [i s]".into())
    );
    assert_eq!(condition_of(&first, "Ready").2, "containers with unready status: [s a]");
    assert_eq!(first.container_statuses[0].state().waiting().reason, "PodInitializing");
    assert!(first.init_container_statuses[0].state().running.is_some());

    let in_sandbox = |name: &str, state| {
        let mut made = container(name, 0, state);
        made.labels.sandbox = "POD0".into();
        made
    };
    let all = vec![
        container("POD", 0, State::Running),
        in_sandbox("i", exited(0)),
        in_sandbox("s", State::Running),
        in_sandbox("a", State::Running),
    ];
    let ready = derive(&pod, all, &Memory::default());
    assert_eq!((ready.phase.as_str(), condition_of(&ready, "Initialized").0.as_str()), ("Running", "True"));
    assert_eq!(condition_of(&ready, "Ready").0, "True");
    assert!(ready.init_container_statuses.iter().all(|status| status.ready), "one has done its work, the other serves");

    pod.spec_mut().restart_policy = "Never".into();
    let failed = derive(&pod, vec![container("POD", 0, State::Running), in_sandbox("i", exited(1))], &Memory::default());
    assert_eq!((failed.phase.as_str(), condition_of(&failed, "Initialized").0.as_str()), ("Failed", "False"));
}

#[test]
fn a_pod_shows_an_address_of_each_family_and_keeps_them_when_it_ends() {
    let node = NodeFacts::default();
    let mut pod = pod("Never");
    let mut observed = Observed::new(vec![container("POD", 0, State::Running)]);
    let both: [std::net::IpAddr; 2] = ["10.0.0.9".parse().unwrap(), "fd00::9".parse().unwrap()];
    observed.addresses = both.into_iter().collect();
    let derive = |pod: &Pod, observed: &Observed| {
        let derived = status(&Situation { pod, gone: false, observed, memory: &Memory::default(), now: at(100) }, &node);
        (derived.clone(), derived.pod_ip, derived.pod_ips.into_iter().map(|ip| ip.ip).collect::<Vec<_>>())
    };
    let (running, primary, all) = derive(&pod, &observed);
    assert_eq!((primary.as_str(), all), ("10.0.0.9", vec!["10.0.0.9".to_owned(), "fd00::9".to_owned()]));
    pod.status = Some(running);
    let ended = Observed::new(vec![container("a", 0, exited(0))]);
    assert_eq!(derive(&pod, &ended).2, ["10.0.0.9", "fd00::9"]);
}
