//! The whole scheduler against an in-memory API server.

use api::core::v1::{Event, PodCondition};
use client::testing::MemoryServer;
use daemon::Kit;

use super::*;
use crate::testing::{NodeBuilder, PodBuilder, node, pod};

/// A running scheduler; ends with the test.
struct Running {
    kit: Kit,
    _task: tokio_util::task::AbortOnDropHandle<()>,
}

fn start(server: &MemoryServer) -> Running {
    let kit = Kit::new();
    let args =
        crate::Args { client: client::Args::default(), scheduler_name: "default-scheduler".to_owned(), parallel_bindings: 4 };
    let metrics = Metrics::new(&kit.metrics);
    let task = tokio::spawn(crate::schedule(args, kit.clone(), server.client(), metrics));
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
    scheduler.finish(Ok(Done::Bound { pod: info, node: "n".to_owned(), result: Err(lost()) }));
    assert!(scheduler.cluster.is_placed("p"));
    // One that was not seen gives its room back.
    scheduler.pod_changed(&ObjectChange { old: None, new: Some(pod("q").build().pod) });
    let info = scheduler.queue.pop().unwrap();
    scheduler.decide(info.clone());
    scheduler.finish(Ok(Done::Bound { pod: info, node: "n".to_owned(), result: Err(lost()) }));
    assert!(!scheduler.cluster.is_placed("q"));
}
