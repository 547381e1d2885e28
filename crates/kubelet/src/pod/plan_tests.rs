use std::sync::Arc;

use api::{
    core::v1::{Container as Spec, Probe},
    meta::v1::Time,
};
use proptest::prelude::*;

use super::*;
use crate::{
    pod::{
        reason::Reason,
        state::{Failure, Probes, Stopping},
        unit::unit,
    },
    runtime::{Exit, Labels},
    volumes::Mounted,
};

/// A small world: what the plan asks for is done at once, or fails as told.
struct World {
    pod: Pod,
    gone: bool,
    memory: Memory,
    containers: Vec<Container>,
    address: bool,
    now: i64,
    ids: u32,
    /// What the next start does.
    start_fails: bool,
    /// Every start that was done, as name and attempt.
    started: Vec<(String, u32)>,
}

impl World {
    fn new(policy: &str) -> Self {
        let mut pod = Pod::default();
        pod.metadata_mut().uid = "u".into();
        pod.spec_mut().restart_policy = policy.into();
        pod.spec_mut().termination_grace_period_seconds = Some(5);
        for name in ["a", "b"] {
            pod.spec_mut().containers.push(Spec { name: name.into(), liveness_probe: Some(Probe::default()), ..Spec::default() });
        }
        Self {
            pod,
            gone: false,
            memory: Memory::default(),
            containers: Vec::new(),
            address: false,
            now: 1000,
            ids: 0,
            start_fails: false,
            started: Vec::new(),
        }
    }

    fn time(&self) -> Timestamp {
        Timestamp::from_second(self.now).unwrap()
    }

    fn observed(&self) -> Observed {
        let mut observed = Observed::new(self.containers.clone());
        if self.address && observed.sandbox().is_some() {
            observed.addresses = [[10, 0, 0, 1]].into_iter().collect();
        }
        observed
    }

    fn plan(&self) -> Plan {
        let observed = self.observed();
        plan(&Situation { pod: &self.pod, gone: self.gone, observed: &observed, memory: &self.memory, now: self.time() })
    }

    fn add(&mut self, labels: Labels, state: State) {
        self.ids += 1;
        self.containers.push(Container {
            id: format!("{:03}", self.ids),
            labels,
            image: String::new(),
            image_id: String::new(),
            pid: 1,
            state,
            created_at: self.time(),
            started_at: Some(self.time()),
            stop_signal: "SIGTERM".into(),
            tty: false,
        });
    }

    fn end(&mut self, index: usize, code: i32) {
        let finished_at = self.time();
        if let Some(container) = self.containers.get_mut(index).filter(|container| container.is_running()) {
            container.state = State::Exited(Exit { code, oom_killed: false, error: String::new(), finished_at });
        }
    }

    /// Does what the plan says, checking what must always hold.
    fn step(&mut self) -> Plan {
        let plan = self.plan();
        let observed = self.observed();
        let life =
            life(&Situation { pod: &self.pod, gone: self.gone, observed: &observed, memory: &self.memory, now: self.time() });
        if life != Life::Runs {
            assert!(plan.start.is_empty() && plan.create_sandbox.is_none(), "nothing is started for a pod that ends: {plan:?}");
        }
        if plan.tear_down.is_some() {
            assert!(!observed.any_running(), "the sandbox goes last");
        }
        if plan.create_sandbox.is_some() {
            assert!(observed.sandbox().is_none() && !observed.any_running());
        }
        if plan.prepare_volumes {
            self.memory.volumes = VolumeState::Ready(Arc::new(Mounted::default()));
        }
        if let Some(attempt) = plan.create_sandbox {
            self.add(Labels::sandbox("n", "p", "u", attempt), State::Running);
            self.address = true;
        }
        if plan.connect_sandbox {
            self.address = true;
        }
        for start in &plan.start {
            self.start(start);
        }
        for stop in &plan.stop {
            let deadline = later(self.time(), stop.grace).unwrap();
            self.memory.stopping.insert(stop.id.clone(), Stopping { deadline, forced: false, failed: false });
            // Some end when asked; others wait to be forced.
            if stop.container == "a" {
                let index = self.containers.iter().position(|container| container.id == stop.id).unwrap();
                self.end(index, 143);
            }
        }
        for id in &plan.force {
            let index = self.containers.iter().position(|container| container.id == *id).unwrap();
            self.end(index, 137);
        }
        self.containers.retain(|container| !plan.remove.contains(&container.id));
        match plan.tear_down {
            Some(TearDown::Sandbox) => {
                self.containers.retain(|container| !container.labels.is_sandbox());
                self.memory.sandbox_clean = true;
            }
            Some(TearDown::Everything) => {
                self.containers.clear();
                (self.memory.clean, self.memory.sandbox_clean) = (true, true);
            }
            None => {}
        }
        for name in ["a", "b"] {
            let running =
                self.containers.iter().filter(|container| container.labels.container == name && container.is_running()).count();
            assert!(running <= 1, "two of {name} run");
            let kept = self.containers.iter().filter(|container| container.labels.container == name).count();
            assert!(kept <= KEEP_DEAD + 2, "{kept} of {name} kept");
        }
        plan
    }

    fn start(&mut self, start: &Start) {
        let observed = self.observed();
        if let Some(newest) = observed.newest(&start.container) {
            assert_eq!(start.attempt, newest.labels.attempt + 1, "attempts follow each other");
            assert!(!newest.is_running());
        }
        let now = self.time();
        let memory = self.memory.container(&start.container);
        if let Some(ended) = start.last_ended {
            assert!(memory.restarts.blocked_until(ended).is_none_or(|until| now >= until), "the delay is kept");
            memory.restarts.advance(ended, now);
        }
        if std::mem::take(&mut self.start_fails) {
            let retry_at = later(now, Duration::from_secs(3)).unwrap();
            memory.failure = Some(Failure { reason: Reason::ErrImagePull, message: String::new(), retry_at });
            return;
        }
        memory.failure = None;
        let unit = unit(self.pod.spec(), &start.container).unwrap();
        let labels = Labels {
            kind: crate::runtime::ContainerKind::Application,
            container: start.container.clone(),
            hash: spec_hash(&unit.spec),
            sandbox: observed
                .sandbox()
                .map(|sandbox| sandbox.id.clone())
                .or_else(|| self.observed().sandbox().map(|s| s.id.clone()))
                .unwrap(),
            ..Labels::sandbox("n", "p", "u", start.attempt)
        };
        self.started.push((start.container.clone(), start.attempt));
        self.add(labels, State::Running);
    }

    /// Steps until nothing is left to do, letting time pass as the plan wishes.
    fn settle(&mut self) {
        for _ in 0..60 {
            let plan = self.step();
            let idle = plan.start.is_empty() && plan.stop.is_empty() && plan.force.is_empty() && plan.remove.is_empty();
            let idle = idle
                && plan.tear_down.is_none()
                && plan.create_sandbox.is_none()
                && !plan.prepare_volumes
                && !plan.connect_sandbox;
            match plan.wake_at {
                _ if !idle => {}
                Some(at) => self.now = self.now.max(at.as_second()) + 1,
                None => return,
            }
        }
    }

    fn running(&self) -> usize {
        self.containers.iter().filter(|container| container.is_running()).count()
    }
}

#[derive(Clone, Debug)]
enum Happening {
    Step,
    Pass(i64),
    Exit(usize, i32),
    LoseContainer(usize),
    StartFails,
    NotLive(usize),
    Delete,
    Gone,
}

fn happening() -> impl Strategy<Value = Happening> {
    prop_oneof![
        8 => Just(Happening::Step),
        3 => (0..40i64).prop_map(Happening::Pass),
        4 => (0..8usize, 0..3i32).prop_map(|(index, code)| Happening::Exit(index, code)),
        1 => (0..8usize).prop_map(Happening::LoseContainer),
        1 => Just(Happening::StartFails),
        2 => (0..8usize).prop_map(Happening::NotLive),
        1 => Just(Happening::Delete),
        1 => Just(Happening::Gone),
    ]
}

proptest! {
    /// Whatever happens, the invariants hold (`step` checks them), and in the end the pod either runs whole, has completed, or is gone.
    #[test]
    fn whatever_happens_a_pod_settles(policy in prop_oneof!["Always", "OnFailure", "Never"], happenings in prop::collection::vec(happening(), 0..60)) {
        let mut world = World::new(&policy);
        for happening in happenings {
            match happening {
                Happening::Step => { world.step(); }
                Happening::Pass(seconds) => world.now += seconds,
                Happening::Exit(index, code) => world.end(index, code),
                Happening::LoseContainer(index) => if index < world.containers.len() && !world.containers[index].is_running() { world.containers.remove(index); },
                Happening::StartFails => world.start_fails = true,
                Happening::NotLive(index) => if let Some(id) = world.containers.get(index).map(|container| container.id.clone()) {
                    world.memory.probes.insert(id, Probes { live: Some(false), ..Probes::default() });
                },
                Happening::Delete => world.pod.metadata_mut().deletion_timestamp = Some(Time::default()),
                Happening::Gone => world.gone = true,
            }
        }
        world.start_fails = false;
        world.settle();
        let plan = world.plan();
        let observed = world.observed();
        match life(&Situation { pod: &world.pod, gone: world.gone, observed: &observed, memory: &world.memory, now: world.time() }) {
            Life::Deleted => prop_assert!(plan.finished && world.containers.is_empty()),
            Life::Completed => prop_assert!(world.running() == 0 && policy != "Always"),
            _ => {
                let done = |name: &str| observed.newest(name).and_then(Container::exit).is_some_and(|exit| !unit(world.pod.spec(), name).unwrap().restart.after(exit.code));
                prop_assert!(["a", "b"].iter().all(|name| done(name) || observed.newest(name).is_some_and(Container::is_running)));
            }
        }
    }
}

#[test]
fn a_spec_that_changed_restarts_its_container_only() {
    let mut world = World::new("Always");
    world.settle();
    assert_eq!(world.started, [("a".to_owned(), 0), ("b".to_owned(), 0)]);
    world.pod.spec_mut().containers[0].image = "new".into();
    let plan = world.step();
    assert_eq!(plan.stop.iter().map(|stop| (stop.container.as_str(), stop.why)).collect::<Vec<_>>(), [("a", Why::Changed)]);
    world.settle();
    assert_eq!(world.started[2..], [("a".to_owned(), 1)]);
}

#[test]
fn a_dead_sandbox_is_replaced_with_its_containers() {
    let mut world = World::new("Always");
    world.settle();
    world.end(0, 137);
    let plan = world.step();
    assert!(plan.stop.iter().all(|stop| stop.why == Why::SandboxChanged) && plan.stop.len() == 2);
    assert_eq!(plan.create_sandbox, None, "not before its containers have ended");
    world.settle();
    assert_eq!((world.running(), world.observed().sandbox().unwrap().labels.attempt), (3, 1));
}

#[test]
fn a_pod_that_was_active_too_long_ends() {
    let mut world = World::new("Always");
    world.pod.spec_mut().active_deadline_seconds = Some(60);
    world.memory.seen_at = Some(world.time());
    world.step();
    world.step();
    assert_eq!(world.running(), 3);
    assert_eq!(world.plan().wake_at.map(|at| at.as_second()), Some(1060));
    world.now += 60;
    world.settle();
    assert_eq!(world.running(), 0);
}

#[test]
fn what_is_under_way_is_not_asked_for_again() {
    let mut world = World::new("Always");
    world.memory.busy.extend([Task::Sandbox, Task::Volumes, Task::Start("a".into())]);
    let plan = world.plan();
    assert!(plan.create_sandbox.is_none() && !plan.prepare_volumes);
    assert_eq!(plan.start.iter().map(|start| start.container.as_str()).collect::<Vec<_>>(), ["b"]);
}

impl World {
    /// A pod with an init unit, a sidecar, another init unit and two main units, of which `a` ends when asked and `b` when forced.
    fn staged(policy: &str) -> Self {
        let mut world = Self::new(policy);
        let sidecar = Some("Always".to_owned());
        world.pod.spec_mut().init_containers = [("first", None), ("beside", sidecar), ("second", None)]
            .map(|(name, restart_policy)| Spec {
                name: name.into(),
                startup_probe: restart_policy.is_some().then(Probe::default),
                restart_policy,
                ..Spec::default()
            })
            .into();
        world
    }

    /// The units that run, in the order in which they were started.
    fn names(&self) -> Vec<&str> {
        let running = self.containers.iter().filter(|container| container.is_running() && !container.labels.is_sandbox());
        running.map(|container| container.labels.container.as_str()).collect()
    }

    fn finish(&mut self, name: &str, code: i32) {
        let index = self.containers.iter().rposition(|container| container.labels.container == name).unwrap();
        self.end(index, code);
        self.settle();
    }

    fn has_started(&mut self, name: &str) {
        let id = self.observed().newest(name).unwrap().id.clone();
        self.memory.probes.insert(id, Probes { started: Some(true), ..Probes::default() });
        self.settle();
    }

    fn life(&self) -> Life {
        let observed = self.observed();
        life(&Situation { pod: &self.pod, gone: self.gone, observed: &observed, memory: &self.memory, now: self.time() })
    }

    /// Brings the main units up.
    fn prepare(&mut self) {
        self.settle();
        self.finish("first", 0);
        self.has_started("beside");
        self.finish("second", 0);
    }
}

#[test]
fn units_begin_when_those_before_them_have_come_to_their_point() {
    let mut world = World::staged("Always");
    world.settle();
    assert_eq!(world.names(), ["first"]);
    world.finish("first", 1);
    assert_eq!((world.names(), world.started.len()), (vec!["first"], 2), "one that failed is run again");
    world.finish("first", 0);
    assert_eq!(world.names(), ["beside"]);
    world.settle();
    assert_eq!(world.names(), ["beside"], "not before its startup probe has succeeded");
    world.has_started("beside");
    assert_eq!(world.names(), ["beside", "second"]);
    world.finish("second", 0);
    assert_eq!(world.names(), ["beside", "a", "b"]);
    world.finish("a", 0);
    world.finish("beside", 1);
    assert_eq!(world.started.len(), 8, "{:?}", world.started);
    assert_eq!(world.names(), ["b", "a", "beside"], "and from then on each by itself");
}

#[test]
fn a_new_sandbox_is_prepared_again() {
    let mut world = World::staged("Always");
    world.prepare();
    let sandbox = world.containers.iter().position(|container| container.labels.is_sandbox()).unwrap();
    world.end(sandbox, 137);
    world.settle();
    assert_eq!(world.names(), ["first"]);
    world.prepare();
    assert_eq!(world.names(), ["beside", "a", "b"]);
}

#[test]
fn an_init_unit_that_fails_for_good_ends_its_pod() {
    let mut world = World::staged("Never");
    world.settle();
    world.finish("first", 3);
    assert_eq!((world.life(), world.running()), (Life::Completed, 0));
    assert_eq!(world.started, [("first".to_owned(), 0)]);
}

#[test]
fn sidecars_end_after_the_main_units_and_end_no_pod() {
    let mut world = World::staged("Never");
    world.prepare();
    world.finish("a", 0);
    world.finish("beside", 1);
    assert_eq!((world.life(), world.names()), (Life::Runs, vec!["b", "beside"]), "a sidecar is always run again");
    let index = world.containers.iter().position(|container| container.labels.container == "b").unwrap();
    world.end(index, 0);
    assert_eq!(world.life(), Life::Completed);
    let plan = world.step();
    assert_eq!(plan.stop.iter().map(|stop| stop.container.as_str()).collect::<Vec<_>>(), ["beside"]);
    world.settle();
    assert_eq!(world.running(), 0);
}

#[test]
fn a_deleted_pod_ends_its_sidecars_last_within_what_is_left_of_its_grace() {
    let mut world = World::staged("Always");
    world.prepare();
    let metadata = world.pod.metadata_mut();
    metadata.deletion_grace_period_seconds = Some(30);
    metadata.deletion_timestamp = Some(Time { seconds: world.now + 30, nanos: 0 });
    let plan = world.step();
    assert_eq!(plan.stop.iter().map(|stop| stop.container.as_str()).collect::<Vec<_>>(), ["a", "b"]);
    assert!(world.step().stop.is_empty(), "b has not ended yet");
    world.now += 10;
    let index = world.containers.iter().position(|container| container.labels.container == "b").unwrap();
    world.end(index, 0);
    let plan = world.step();
    assert_eq!(
        plan.stop.iter().map(|stop| (stop.container.as_str(), stop.grace.as_secs())).collect::<Vec<_>>(),
        [("beside", 20)]
    );
    world.settle();
    assert!(world.containers.is_empty() && world.plan().finished);
}
