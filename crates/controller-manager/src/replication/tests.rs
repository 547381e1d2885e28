use api::StatusError;
use client::testing::MemoryServer;
use serde_json::json;

use super::*;
use crate::testing::{context, object, running_pod};

fn rc(replicas: i32) -> ReplicationController {
    object(json!({
        "metadata": {"name": "web", "namespace": "d", "uid": "rc-uid", "generation": 1},
        "spec": {
            "replicas": replicas, "selector": {"app": "web"},
            "template": {
                "metadata": {"labels": {"app": "web"}, "annotations": {"a": "b"}},
                "spec": {"containers": [{"name": "c", "image": "i"}]},
            },
        },
    }))
}

fn active(server: &MemoryServer) -> Vec<Pod> {
    server.all::<Pod>().into_iter().filter(pods::is_active).collect()
}

fn status(server: &MemoryServer) -> api::core::v1::ReplicationControllerStatus {
    server.find::<ReplicationController>("d", "web").unwrap().status().clone()
}

fn scale(server: &MemoryServer, replicas: i32) {
    let mut rc = server.find::<ReplicationController>("d", "web").unwrap();
    rc.spec_mut().replicas = Some(replicas);
    rc.metadata_mut().generation += 1;
    server.put(rc);
}

#[tokio::test]
async fn pods_are_made_from_the_template_and_given_up_again() {
    let server = MemoryServer::new();
    server.put(rc(7));
    let context = context(&server);
    start(&context);
    server.eventually(|server| status(server).replicas == 7 && status(server).observed_generation == 1).await;
    let pods = server.all::<Pod>();
    assert_eq!(pods.len(), 7);
    let meta = pods[0].metadata();
    assert!(meta.name.starts_with("web-") && meta.annotations["a"] == "b");
    assert_eq!((meta.owner_references[0].uid.as_str(), meta.owner_references[0].controller), ("rc-uid", Some(true)));
    scale(&server, 2);
    server.eventually(|server| active(server).len() == 2 && status(server).replicas == 2).await;
    assert_eq!(status(&server).observed_generation, 2);
}

#[tokio::test]
async fn a_lagging_copy_never_makes_too_many() {
    let server = MemoryServer::new();
    server.put(rc(20));
    let context = context(&server);
    start(&context);
    // Keep the informers busy reconnecting while the controller works.
    for round in 0..20 {
        server.disconnect();
        let mut rc = server.find::<ReplicationController>("d", "web").unwrap();
        rc.metadata_mut().annotations.insert("round".into(), round.to_string());
        server.put(rc);
        tokio::time::sleep(Duration::from_millis(10)).await;
        assert!(server.all::<Pod>().len() <= 20);
    }
    server.eventually(|server| status(server).replicas == 20).await;
    assert_eq!(server.all::<Pod>().len(), 20);
    let creates = server.take_writes().iter().filter(|write| write.starts_with("create pods")).count();
    assert_eq!(creates, 20);
}

#[tokio::test]
async fn a_lost_or_finished_pod_is_replaced() {
    let server = MemoryServer::new();
    server.put(rc(2));
    let context = context(&server);
    start(&context);
    server.eventually(|server| active(server).len() == 2).await;
    let pods = server.all::<Pod>();
    server.remove::<Pod>("d", pods[0].name());
    let mut failed = pods[1].clone();
    failed.status_mut().phase = "Failed".into();
    server.put(failed);
    server.eventually(|server| active(server).len() == 2 && server.all::<Pod>().len() == 3).await;
}

#[tokio::test]
async fn pods_are_adopted_and_let_go_by_their_labels() {
    let server = MemoryServer::new();
    server.put(rc(1));
    server.put(running_pod("d", "orphan", "n", "10.0.0.1"));
    let context = context(&server);
    start(&context);
    server.eventually(|server| status(server).ready_replicas == 1).await;
    let mut pod = server.find::<Pod>("d", "orphan").unwrap();
    assert_eq!(controller_of(pod.metadata()).unwrap().uid, "rc-uid");
    pod.metadata_mut().labels.insert("app".into(), "debug".into());
    server.put(pod);
    let let_go = |server: &MemoryServer| {
        let free = server.find::<Pod>("d", "orphan").unwrap().metadata().owner_references.is_empty();
        free && server.all::<Pod>().len() == 2
    };
    server.eventually(let_go).await;
}

#[tokio::test]
async fn what_cannot_be_created_is_told_once_and_heals() {
    let server = MemoryServer::new();
    server.put(rc(8));
    for _ in 0..3 {
        server.fail_next("create", "pods", StatusError::new(api::status::Reason::Forbidden, "exceeded quota: q"));
    }
    let context = context(&server);
    start(&context);
    let told = |server: &MemoryServer| {
        server.all::<api::core::v1::Event>().iter().any(|event| {
            event.reason == "FailedCreate" && event.message == "Error creating: exceeded quota: q" && event.count >= 1
        })
    };
    server.eventually(told).await;
    server.eventually(|server| status(server).replicas == 8 && status(server).conditions.is_empty()).await;
}

#[tokio::test]
async fn pods_that_a_quota_refused_come_as_soon_as_it_has_more_left() {
    let server = MemoryServer::new();
    let quota = |used: &str| {
        let meta = json!({"namespace": "d", "name": "q"});
        object::<ResourceQuota>(json!({"metadata": meta, "spec": {"hard": {"pods": "9"}}, "status": {"used": {"pods": used}}}))
    };
    server.put(quota("9"));
    server.put(rc(1));
    // So many refusals that the next attempt of its own is seconds away.
    for _ in 0..10 {
        server.fail_next("create", "pods", StatusError::new(api::status::Reason::Forbidden, "exceeded quota: q"));
    }
    let context = context(&server);
    start(&context);
    let refused = |server: &MemoryServer| server.all::<api::core::v1::Event>().iter().any(|event| event.count >= 10);
    server.eventually(refused).await;
    let begun = std::time::Instant::now();
    server.put(quota("8"));
    server.eventually(|server| active(server).len() == 1).await;
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_pod_whose_creation_was_not_answered_is_not_created_again() {
    let server = MemoryServer::new();
    let context = context(&server);
    start(&context);
    context.informers.synced().await;
    // For a while no watch brings pods.
    (0..5).for_each(|_| server.fail_next("watch", "pods", StatusError::unavailable("away")));
    server.disconnect();
    (0..2).for_each(|_| server.lose_next_answer("pods"));
    server.put(rc(3));
    server.eventually(|server| status(server).replicas == 3).await;
    let creates = server.take_writes().iter().filter(|write| write.starts_with("create pods")).count();
    assert_eq!((server.all::<Pod>().len(), creates), (3, 3));
}

/// Ends every pod as a kubelet does that refuses it.
fn refuse_all(server: &MemoryServer) {
    for mut pod in active(server) {
        let status = pod.status_mut();
        (status.phase, status.reason) = ("Failed".to_owned(), "OutOfpods".to_owned());
        status.message = "Node didn't have enough resource: pods".to_owned();
        server.put(pod);
    }
}

#[tokio::test]
async fn pods_that_fail_at_once_are_made_ever_more_slowly_and_a_restart_forgets_nothing() {
    let server = MemoryServer::new();
    server.put(rc(3));
    let made = |server: &MemoryServer| server.take_writes().iter().filter(|write| write.starts_with("create pods")).count();
    let run = async |server: &MemoryServer, seconds: u64| {
        let context = context(server);
        start(&context);
        let end = tokio::time::Instant::now() + Duration::from_secs(seconds);
        while tokio::time::Instant::now() < end {
            refuse_all(server);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        context.kit.shutdown.start();
        made(server)
    };
    let first = run(&server, 5).await;
    assert!((4..=10).contains(&first), "{first} pods in 5 s");
    let told = |server: &MemoryServer| {
        let events = server.all::<api::core::v1::Event>();
        let reason = "Node didn't have enough resource: pods";
        events.iter().any(|event| event.reason == "FailedCreate" && event.message.ends_with(reason))
    };
    server.eventually(told).await;
    assert_eq!(status(&server).conditions[0].reason, "FailedCreate");
    let second = run(&server, 2).await;
    assert!(second <= 1, "{second} pods in 2 s after a restart");
    // Pods of another template are made at once.
    let context = context(&server);
    start(&context);
    context.informers.synced().await;
    tokio::time::sleep(Duration::from_millis(1100)).await;
    let mut mended = server.find::<ReplicationController>("d", "web").unwrap();
    mended.spec_mut().template_mut().metadata_mut().labels.insert("v".to_owned(), "2".to_owned());
    server.put(mended);
    server.eventually(|server| active(server).len() == 3).await;
    server.eventually(|server| status(server).conditions.is_empty()).await;
}
