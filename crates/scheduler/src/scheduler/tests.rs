//! The whole scheduler against an in-memory API server.

use api::core::v1::{Event, PodCondition};
use client::testing::MemoryServer;
use daemon::Kit;
use futures::future::BoxFuture;
use parking_lot::Mutex;

use super::*;
use crate::{
    plugin::{PreBind, Reserve, StageError},
    testing::{NodeBuilder, PodBuilder, node, pod},
};

/// A running scheduler; ends with the test.
struct Running {
    kit: Kit,
    _task: tokio_util::task::AbortOnDropHandle<()>,
}

fn start(server: &MemoryServer) -> Running {
    start_with(server, Stages::default())
}

fn start_with(server: &MemoryServer, stages: Stages) -> Running {
    let kit = Kit::new();
    let args =
        crate::Args { client: client::Args::default(), scheduler_name: "default-scheduler".to_owned(), parallel_bindings: 4 };
    let metrics = Metrics::new(&kit.metrics);
    let task = tokio::spawn(crate::schedule(args, kit.clone(), server.client(), metrics, stages));
    Running { kit, _task: tokio_util::task::AbortOnDropHandle::new(task) }
}

fn put_node(server: &MemoryServer, node: NodeBuilder) {
    server.put((*node.build()).clone());
}

fn put_pod(server: &MemoryServer, pod: PodBuilder) -> Pod {
    let mut pod = (*pod.build().pod).clone();
    pod.spec_mut().scheduler_name = "default-scheduler".to_owned();
    server.put(pod)
}

fn find(server: &MemoryServer, name: &str) -> Pod {
    server.find("default", name).unwrap()
}

fn node_of(server: &MemoryServer, name: &str) -> String {
    find(server, name).spec().node_name.clone()
}

fn condition(server: &MemoryServer, name: &str, kind: &str) -> Option<PodCondition> {
    find(server, name).status().conditions.iter().find(|c| c.r#type == kind).cloned()
}

fn told(server: &MemoryServer, name: &str, reason: &str) -> Option<String> {
    let events = server.all::<Event>();
    let about = |event: &&Event| event.involved_object().name == name && event.reason == reason;
    events.iter().find(about).map(|event| event.message.clone())
}

#[tokio::test]
async fn a_pod_that_fits_nowhere_says_why_in_upstreams_words_and_is_bound_when_a_node_comes() {
    let server = MemoryServer::new();
    put_node(&server, node("small").cpu("100m"));
    put_node(&server, node("tainted").taint("k", "v", "NoSchedule"));
    put_pod(&server, pod("p").cpu("1"));
    let _running = start(&server);
    let message = "0/2 nodes are available: 1 Insufficient cpu, 1 node(s) had untolerated taint {k: v}. \
                   preemption: 0/2 nodes are available: 2 Preemption is not helpful for scheduling.";
    server.eventually(|server| told(server, "p", "FailedScheduling").is_some()).await;
    assert_eq!(told(&server, "p", "FailedScheduling").unwrap(), message);
    server.eventually(|server| condition(server, "p", "PodScheduled").is_some()).await;
    let waits = condition(&server, "p", "PodScheduled").unwrap();
    assert_eq!((waits.status.as_str(), waits.reason.as_str(), waits.message.as_str()), ("False", "Unschedulable", message));
    put_node(&server, node("large"));
    server.eventually(|server| node_of(server, "p") == "large").await;
    server.eventually(|server| told(server, "p", "Scheduled").is_some()).await;
    assert_eq!(told(&server, "p", "Scheduled").unwrap(), "Successfully assigned default/p to large");
}

#[tokio::test]
async fn a_failed_binding_gives_its_room_back_and_is_tried_again() {
    let server = MemoryServer::new();
    put_node(&server, node("n").cpu("1"));
    server.fail_next("bind", "pods", StatusError::unavailable("away"));
    put_pod(&server, pod("p").cpu("1"));
    let _running = start(&server);
    server.eventually(|server| node_of(server, "p") == "n").await;
    assert_eq!(server.take_writes().iter().filter(|write| write.starts_with("bind ")).count(), 1);
}

#[tokio::test]
async fn no_node_is_given_more_than_it_has_however_many_bindings_are_under_way() {
    let server = MemoryServer::new();
    (0..5).for_each(|n| put_node(&server, node(&format!("n{n}")).cpu("2")));
    (0..30).for_each(|n| drop(put_pod(&server, pod(&format!("p{n}")).cpu("500m"))));
    let _running = start(&server);
    let bound = |server: &MemoryServer| server.all::<Pod>().iter().filter(|pod| !pod.spec().node_name.is_empty()).count();
    server.eventually(|server| bound(server) == 20).await;
    server
        .eventually(|server| (0..30).filter(|n| told(server, &format!("p{n}"), "FailedScheduling").is_some()).count() == 10)
        .await;
    for n in 0..5 {
        let name = format!("n{n}");
        assert_eq!(server.all::<Pod>().iter().filter(|pod| pod.spec().node_name == name).count(), 4);
    }
}

#[tokio::test]
async fn a_more_important_pod_makes_room_for_itself_and_its_room_is_kept_through_a_restart() {
    let server = MemoryServer::new();
    put_node(&server, node("n").cpu("1"));
    put_pod(&server, pod("low").cpu("1").priority(1));
    let first = start(&server);
    server.eventually(|server| node_of(server, "low") == "n").await;
    put_pod(&server, pod("vip").cpu("1").priority(10));
    let going = |server: &MemoryServer| find(server, "low").metadata().deletion_timestamp.is_some();
    server.eventually(going).await;
    let target = condition(&server, "low", "DisruptionTarget").unwrap();
    assert_eq!((target.status.as_str(), target.reason.as_str()), ("True", "PreemptionByScheduler"));
    server.eventually(|server| find(server, "vip").status().nominated_node_name == "n").await;
    server.eventually(|server| told(server, "low", "Preempted").is_some()).await;
    first.kit.shutdown.start();
    drop(first);
    let _second = start(&server);
    let under_way = "preemption: not eligible due to a terminating pod on the nominated node.";
    server.eventually(|server| server.all::<Event>().iter().any(|event| event.message.ends_with(under_way))).await;
    // A less important pod comes first, but the room is not for it.
    put_pod(&server, pod("late").cpu("1").priority(5));
    server.eventually(|server| told(server, "late", "FailedScheduling").is_some()).await;
    server.remove::<Pod>("default", "low");
    server.eventually(|server| node_of(server, "vip") == "n").await;
    assert_eq!(node_of(&server, "late"), "");
}

#[tokio::test]
async fn a_binding_that_failed_after_it_was_seen_to_have_happened_stays() {
    let server = MemoryServer::new();
    let metrics = Metrics::new(&Kit::new().metrics);
    let mut scheduler = Scheduler::new(server.client(), EventRecorder::none(), metrics, String::new(), 1);
    scheduler.node_changed(&ObjectChange { old: None, new: Some(node("n").build()) });
    let waiting = pod("p").build().pod;
    scheduler.pod_changed(&ObjectChange { old: None, new: Some(waiting.clone()) });
    let info = scheduler.queue.pop().unwrap();
    scheduler.decide(info.clone());
    let mut bound = (*waiting).clone();
    bound.spec_mut().node_name = "n".to_owned();
    scheduler.pod_changed(&ObjectChange { old: Some(waiting), new: Some(Arc::new(bound)) });
    let lost = || client::Error::from(StatusError::unavailable("the answer was lost"));
    scheduler.finish(Ok(Done::Bound { pod: info, node: "n".to_owned(), result: Err(lost().into()) }));
    assert!(scheduler.cluster.is_placed("p"));
    // One that was not seen gives its room back.
    scheduler.pod_changed(&ObjectChange { old: None, new: Some(pod("q").build().pod) });
    let info = scheduler.queue.pop().unwrap();
    scheduler.decide(info.clone());
    scheduler.finish(Ok(Done::Bound { pod: info, node: "n".to_owned(), result: Err(lost().into()) }));
    assert!(!scheduler.cluster.is_placed("q"));
}

fn put_affine(server: &MemoryServer, name: &str, rule: &str, term: serde_json::Value) {
    let affinity = json!({ rule: {"requiredDuringSchedulingIgnoredDuringExecution": [term]} });
    put_pod(server, pod(name).with(|pod| pod.spec_mut().affinity = Some(serde_json::from_value(affinity).unwrap())));
}

/// How long a pod waits that is woken in time: its back-off. Nothing else would wake it for five minutes.
const IN_TIME: std::time::Duration = std::time::Duration::from_secs(3);

async fn bound_in_time(server: &MemoryServer, name: &str, node: &str) {
    let bound = server.eventually(|server| node_of(server, name) == node);
    assert!(tokio::time::timeout(IN_TIME, bound).await.is_ok(), "{name} still waits");
}

async fn waits(server: &MemoryServer, name: &str) {
    server.eventually(|server| condition(server, name, "PodScheduled").is_some_and(|c| c.status == "False")).await;
}

fn near(label: &str, namespaces: serde_json::Value) -> serde_json::Value {
    let mut term = json!({"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"app": label}}});
    if !namespaces.is_null() {
        term["namespaceSelector"] = json!({ "matchLabels": namespaces });
    }
    term
}

#[tokio::test]
async fn a_pod_that_must_be_near_another_is_bound_once_that_one_is() {
    let server = MemoryServer::new();
    put_node(&server, node("n"));
    let space = json!({"metadata": {"name": "default", "labels": {"team": "a"}}});
    server.put::<Namespace>(serde_json::from_value(space).unwrap());
    put_affine(&server, "fe", "podAffinity", near("be", json!(null)));
    put_affine(&server, "far", "podAffinity", near("be", json!({"team": "a"})));
    put_affine(&server, "lost", "podAffinity", near("be", json!({"team": "b"})));
    let _running = start(&server);
    for name in ["fe", "far", "lost"] {
        waits(&server, name).await;
    }
    put_pod(&server, pod("be").label("app", "be"));
    bound_in_time(&server, "fe", "n").await;
    bound_in_time(&server, "far", "n").await;
    assert_eq!(node_of(&server, "lost"), "");
    let space = json!({"metadata": {"name": "default", "labels": {"team": "b"}}});
    server.put::<Namespace>(serde_json::from_value(space).unwrap());
    bound_in_time(&server, "lost", "n").await;
}

#[tokio::test]
async fn a_pod_that_waits_for_others_labels_is_bound_once_they_have_them() {
    let server = MemoryServer::new();
    put_node(&server, node("n"));
    let _running = start(&server);
    put_pod(&server, pod("other").label("app", "old"));
    bound_in_time(&server, "other", "n").await;
    put_affine(&server, "fe", "podAffinity", near("new", json!(null)));
    put_affine(&server, "away", "podAntiAffinity", near("old", json!(null)));
    waits(&server, "fe").await;
    waits(&server, "away").await;
    let mut other = find(&server, "other");
    other.metadata_mut().labels.insert("app".to_owned(), "new".to_owned());
    server.put(other);
    bound_in_time(&server, "fe", "n").await;
    bound_in_time(&server, "away", "n").await;
}

/// A pod that is to be spread over nodes, and may go to one of them only.
fn spread(name: &str, node: &str) -> PodBuilder {
    let constraint = json!({
        "maxSkew": 1, "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "DoNotSchedule",
        "nodeAffinityPolicy": "Ignore", "labelSelector": {"matchLabels": {"app": "ts"}},
    });
    let node = node.to_owned();
    pod(name).label("app", "ts").with(move |pod| {
        pod.spec_mut().node_selector.insert("kubernetes.io/hostname".to_owned(), node);
        pod.spec_mut().topology_spread_constraints.push(serde_json::from_value(constraint).unwrap());
    })
}

#[tokio::test]
async fn a_pod_that_waits_for_its_like_elsewhere_is_bound_once_they_are_or_that_node_is_gone() {
    for by_pods in [true, false] {
        let server = MemoryServer::new();
        ["n1", "n2", "n3"].into_iter().for_each(|name| put_node(&server, node(name)));
        let _running = start(&server);
        put_pod(&server, spread("x1", "n1"));
        bound_in_time(&server, "x1", "n1").await;
        put_pod(&server, spread("x2", "n1"));
        waits(&server, "x2").await;
        put_pod(&server, spread("x3", "n2"));
        if by_pods {
            put_pod(&server, spread("x4", "n3"));
        } else {
            bound_in_time(&server, "x3", "n2").await;
            server.remove::<Node>("", "n3");
        }
        bound_in_time(&server, "x2", "n1").await;
    }
}

#[tokio::test]
async fn room_that_was_kept_for_a_pod_is_free_when_that_pod_is_gone() {
    let server = MemoryServer::new();
    put_node(&server, node("n").cpu("1"));
    put_pod(&server, pod("low").cpu("1").priority(1));
    let _running = start(&server);
    bound_in_time(&server, "low", "n").await;
    put_pod(&server, pod("vip").cpu("1").priority(10));
    server.eventually(|server| find(server, "vip").status().nominated_node_name == "n").await;
    server.eventually(|server| find(server, "low").metadata().deletion_timestamp.is_some()).await;
    put_pod(&server, pod("late").cpu("1").priority(5));
    waits(&server, "late").await;
    server.remove::<Pod>("default", "low");
    // Nothing more comes of the pod that the room was kept for.
    server.remove::<Pod>("default", "vip");
    bound_in_time(&server, "late", "n").await;
}

#[tokio::test]
async fn a_victim_that_changed_since_it_was_chosen_is_not_evicted_on_old_grounds() {
    let server = MemoryServer::new();
    put_node(&server, node("n").cpu("1"));
    put_pod(&server, pod("low").cpu("1").priority(1));
    let _running = start(&server);
    bound_in_time(&server, "low", "n").await;
    server.fail_next("delete", "pods", StatusError::modified(Pod::KIND, "low"));
    put_pod(&server, pod("vip").cpu("1").priority(10));
    let going = server.eventually(|server| find(server, "low").metadata().deletion_timestamp.is_some());
    assert!(tokio::time::timeout(IN_TIME, going).await.is_ok());
    assert!(condition(&server, "low", "DisruptionTarget").is_some());
}

/// As volume binding will be: one volume for all pods, which is set aside in memory when a node is chosen and attached before the binding.
#[derive(Default)]
struct OneVolume {
    holder: Mutex<Option<String>>,
    /// How often attaching fails before it succeeds.
    broken: Mutex<usize>,
    log: Mutex<Vec<String>>,
}

impl OneVolume {
    fn note(&self, what: &str, pod: &PodInfo, node: &str) {
        self.log.lock().push(format!("{what} {} {node}", pod.uid()));
    }

    fn stages(self: &Arc<Self>) -> Stages {
        Stages { reserve: vec![self.clone()], pre_bind: vec![self.clone()] }
    }
}

impl Reserve for OneVolume {
    fn name(&self) -> &'static str {
        "VolumeBinding"
    }

    fn reserve(&self, pod: &PodInfo, node: &str) -> Result<(), StageError> {
        self.note("reserve", pod, node);
        let mut holder = self.holder.lock();
        match &*holder {
            Some(other) => Err(format!("the volume is {other}'s").into()),
            None => {
                *holder = Some(pod.uid().to_owned());
                Ok(())
            }
        }
    }

    fn unreserve(&self, pod: &PodInfo, node: &str) {
        self.note("unreserve", pod, node);
        self.holder.lock().take_if(|holder| *holder == pod.uid());
    }
}

impl PreBind for OneVolume {
    fn name(&self) -> &'static str {
        "VolumeBinding"
    }

    fn pre_bind<'a>(&'a self, pod: &'a PodInfo, node: &'a str) -> BoxFuture<'a, Result<(), StageError>> {
        Box::pin(async move {
            tokio::task::yield_now().await;
            self.note("pre-bind", pod, node);
            let mut broken = self.broken.lock();
            match broken.checked_sub(1) {
                Some(left) => {
                    *broken = left;
                    Err("the volume cannot be attached".into())
                }
                None => Ok(()),
            }
        })
    }
}

#[tokio::test]
async fn what_was_reserved_is_given_back_when_a_later_stage_or_the_binding_fails() {
    let server = MemoryServer::new();
    put_node(&server, node("n").cpu("1"));
    server.fail_next("bind", "pods", StatusError::unavailable("away"));
    put_pod(&server, pod("p").cpu("1"));
    let volume = Arc::new(OneVolume { broken: Mutex::new(1), ..OneVolume::default() });
    let _running = start_with(&server, volume.stages());
    server.eventually(|server| node_of(server, "p") == "n").await;
    let tried = ["reserve p n", "pre-bind p n", "unreserve p n"];
    // Attaching failed, then the binding, then nothing.
    assert_eq!(*volume.log.lock(), [&tried[..], &tried[..], &tried[..2]].concat());
    assert_eq!(volume.holder.lock().as_deref(), Some("p"));
    server.eventually(|server| told(server, "p", "FailedScheduling").is_some()).await;
    let why = "running PreBind plugin \"VolumeBinding\": the volume cannot be attached";
    assert_eq!(told(&server, "p", "FailedScheduling").as_deref(), Some(why));
    assert_eq!(server.take_writes().iter().filter(|write| write.starts_with("bind ")).count(), 1);
}

#[tokio::test]
async fn a_pod_that_cannot_reserve_is_not_bound_and_takes_no_room() {
    let server = MemoryServer::new();
    put_node(&server, node("n").cpu("1"));
    put_pod(&server, pod("p").cpu("1"));
    let volume = Arc::new(OneVolume { holder: Mutex::new(Some("another".to_owned())), ..OneVolume::default() });
    let _running = start_with(&server, volume.stages());
    server.eventually(|server| told(server, "p", "FailedScheduling").is_some()).await;
    let why = "running Reserve plugin \"VolumeBinding\": the volume is another's";
    assert_eq!(told(&server, "p", "FailedScheduling").as_deref(), Some(why));
    assert_eq!(volume.log.lock()[..2], ["reserve p n", "unreserve p n"]);
    assert_eq!(volume.holder.lock().as_deref(), Some("another"), "giving back takes nothing from others");
    *volume.holder.lock() = None;
    server.eventually(|server| node_of(server, "p") == "n").await;
}

#[test]
fn stages_give_back_in_reverse_order() {
    struct Named(&'static str, Arc<Mutex<Vec<String>>>);
    impl Reserve for Named {
        fn name(&self) -> &'static str {
            self.0
        }
        fn reserve(&self, _: &PodInfo, _: &str) -> Result<(), StageError> {
            self.1.lock().push(format!("reserve {}", self.0));
            if self.0 == "b" { Err("no".into()) } else { Ok(()) }
        }
        fn unreserve(&self, _: &PodInfo, _: &str) {
            self.1.lock().push(format!("unreserve {}", self.0));
        }
    }
    let log = Arc::new(Mutex::new(Vec::new()));
    let plugin = |name| Arc::new(Named(name, log.clone())) as Arc<dyn Reserve>;
    let stages = Stages { reserve: vec![plugin("a"), plugin("b"), plugin("c")], pre_bind: Vec::new() };
    let error = stages.reserve(&pod("p").build(), "n").unwrap_err();
    assert_eq!((error.stage, error.plugin), ("Reserve", "b"));
    assert_eq!(*log.lock(), ["reserve a", "reserve b", "unreserve c", "unreserve b", "unreserve a"]);
}
