//! What a write changes and what it leaves alone.

use std::sync::atomic::{AtomicI64, Ordering};

use api::{
    Object,
    autoscaling::v1::Scale,
    coordination::v1::Lease,
    core::v1::{ConfigMap, Pod, ReplicationController},
    patch::PatchType as Type,
    status::Reason,
};
use apiserver::{
    pipeline::Fence,
    request::{Request, Verb},
};
use client::fence::Guard;
use prost::Message;

use crate::support::{Cluster, Server, config, object, part, request};

async fn cluster(servers: usize) -> Cluster {
    Cluster::start(servers, &config("10.96.0.0/16", 30000..=32767)).await
}

fn map(name: &str) -> ConfigMap {
    object(&format!(r#"{{"metadata": {{"name": "{name}", "namespace": "default"}}, "data": {{"a": "1"}}}}"#))
}

fn controller() -> ReplicationController {
    object(
        r#"{"metadata": {"name": "web", "namespace": "default"}, "status": {"replicas": 9},
            "spec": {"replicas": 1, "template": {"metadata": {"labels": {"app": "web"}},
                "spec": {"containers": [{"name": "a", "image": "web:1"}]}}}}"#,
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn object_and_status_are_written_apart_and_only_wishes_are_counted() {
    let cluster = cluster(1).await;
    let server = &cluster.servers[0];
    let made = server.create(controller()).await.unwrap();
    assert_eq!((made.status().replicas, made.metadata().generation), (0, 1), "nobody creates a status");

    let mut both = made.clone();
    both.spec_mut().replicas = Some(4);
    both.status_mut().replicas = 4;
    both.metadata_mut().labels.insert("a".to_owned(), "b".to_owned());
    let status = server.update_part("status", both.clone()).await.unwrap();
    assert_eq!((status.spec().replicas(), status.status().replicas, status.metadata().generation), (1, 4, 1));
    assert_eq!(status.metadata().labels["a"], "b", "metadata goes with either");

    both.metadata_mut().resource_version.clone_from(&status.metadata().resource_version);
    both.status_mut().replicas = 7;
    let spec = server.update(both).await.unwrap();
    assert_eq!((spec.spec().replicas(), spec.status().replicas, spec.metadata().generation), (4, 4, 2));
    let labelled = server.patch(&spec, Type::Merge, r#"{"metadata": {"labels": {"c": "d"}}}"#).await.unwrap();
    assert_eq!(labelled.metadata().generation, 2, "labels are no wish");

    // Through the scale, whose resource version is the controller's.
    let scale = |replicas: i32, version: &str| {
        let mut scale = Scale::default();
        scale.metadata_mut().resource_version = version.to_owned();
        scale.spec_mut().replicas = replicas;
        Box::new(scale) as Box<dyn Object>
    };
    let request = Request { subresource: part("scale"), ..request(Verb::Update, &labelled) };
    let stale = server.pipeline.update(&request, scale(5, &spec.metadata().resource_version), None).await.unwrap_err();
    assert!(stale.is_conflict(), "{stale}");
    let scaled = server.pipeline.update(&request, scale(5, &labelled.metadata().resource_version), None).await.unwrap();
    assert_eq!(Scale::decode(scaled.bytes).unwrap().spec().replicas, 5);
    let negative = server.pipeline.update(&request, scale(-5, ""), None).await.unwrap_err();
    assert!(negative.message().contains("spec.replicas: Invalid value: -5"), "{negative}");
    let last: ReplicationController = server.get("default", "web").await.unwrap();
    assert_eq!((last.spec().replicas(), last.metadata().generation), (5, 3));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_generated_name_is_the_prefix_and_five_characters() {
    let cluster = cluster(1).await;
    let server = &cluster.servers[0];
    let long = "x".repeat(300);
    for prefix in ["web-", &long[..250]] {
        let mut unnamed = map("");
        unnamed.metadata_mut().generate_name = prefix.to_owned();
        let (one, other) = (server.create(unnamed.clone()).await.unwrap(), server.create(unnamed).await.unwrap());
        let name = &one.metadata().name;
        let kept = prefix.len().min(58);
        assert_eq!((&name[..kept], name.len()), (&prefix[..kept], kept + 5));
        assert_ne!(*name, other.metadata().name);
    }
    let mut wrong = map("");
    wrong.metadata_mut().generate_name = "Web-".to_owned();
    let error = server.create(wrong).await.unwrap_err();
    assert!(error.message().contains("metadata.generateName: Invalid value: \"Web-\""), "{error}");
    assert!(server.create(map("")).await.unwrap_err().message().contains("metadata.name: Required value"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dry_run_shows_what_would_be_and_changes_nothing() {
    let cluster = cluster(1).await;
    let server = &cluster.servers[0];
    let tried = server.create_with(map("a"), true).await.unwrap();
    assert!(!tried.metadata().uid.is_empty());
    assert!(server.get::<ConfigMap>("default", "a").await.unwrap_err().is_not_found());
    let made = server.create(map("a")).await.unwrap();
    let patched = server.patch_with(&made, Type::Merge, r#"{"data": {"a": "2"}}"#, true).await.unwrap();
    assert_eq!(patched.data["a"], "2");
    let update = Request { dry_run: true, ..request(Verb::Update, &made) };
    let changed = ConfigMap { data: [("b".to_owned(), "3".to_owned())].into(), ..made.clone() };
    let shown = server.pipeline.update(&update, Box::new(changed), None).await.unwrap();
    assert_eq!(ConfigMap::decode(shown.bytes).unwrap().data["b"], "3");
    // It fails as the real one would.
    let mut stale = made.clone();
    stale.metadata_mut().resource_version = "1".to_owned();
    assert!(server.pipeline.update(&update, Box::new(stale), None).await.unwrap_err().is_conflict());
    assert_eq!(server.get::<ConfigMap>("default", "a").await.unwrap(), made);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_back_is_not_lost_to_a_cache_that_lags() {
    let cluster = cluster(2).await;
    let [one, other] = &cluster.servers[..] else { panic!("two servers") };
    let made = one.create(map("a")).await.unwrap();
    for i in 0..100 {
        one.patch(&made, Type::Merge, r#"{"data": {"a": "2"}}"#).await.unwrap();
        // Compared with what this server last saw there may seem nothing to do.
        let server = if i % 2 == 0 { one } else { other };
        let back = server.patch(&made, Type::Merge, r#"{"data": {"a": "1"}}"#).await.unwrap();
        let found: ConfigMap = one.get("default", "a").await.unwrap();
        assert_eq!((&*found.data["a"], &found), ("1", &back));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_is_bound_once_and_only_while_it_waits() {
    let cluster = cluster(2).await;
    let [one, other] = &cluster.servers[..] else { panic!("two servers") };
    let pod: Pod = object(
        r#"{"metadata": {"name": "web", "namespace": "default"}, "spec": {"containers": [{"name": "a", "image": "web:1"}]}}"#,
    );
    let made = one.create(pod).await.unwrap();
    let bind = async |server: &Server, node: &str| {
        let binding: api::core::v1::Binding = object(&format!(
            r#"{{"metadata": {{"name": "web", "namespace": "default"}}, "target": {{"kind": "Node", "name": "{node}"}}}}"#
        ));
        let request = Request { subresource: part("binding"), ..request::<Pod>(Verb::Create, &made) };
        server.pipeline.act(&request, &binding as &dyn Object, None).await
    };
    let (a, b) = tokio::join!(bind(one, "n1"), bind(other, "n2"));
    let refused = [&a, &b].into_iter().filter_map(|r| r.as_ref().err()).collect::<Vec<_>>();
    assert_eq!(refused.len(), 1);
    assert_eq!(refused[0].reason(), Reason::Conflict);
    let bound: Pod = one.get("default", "web").await.unwrap();
    assert_eq!(bound.spec().node_name, if a.is_ok() { "n1" } else { "n2" });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_write_of_a_leader_is_stored_after_another_took_over() {
    let cluster = cluster(2).await;
    let [one, other] = &cluster.servers[..] else { panic!("two servers") };
    let lease: Lease = object(
        r#"{"metadata": {"name": "l", "namespace": "default"}, "spec": {"holderIdentity": "old", "leaseTransitions": 1}}"#,
    );
    let lease = one.create(lease).await.unwrap();
    let mut blind = lease.clone();
    blind.metadata_mut().resource_version.clear();
    let refused = one.update(blind).await.unwrap_err();
    assert!(
        refused.message().ends_with("metadata.resourceVersion: Invalid value: 0: must be specified for an update"),
        "{refused}"
    );
    let fence = Fence(Guard { namespace: "default".into(), name: "l".into(), holder: "old".into(), transitions: 1 });
    let last = AtomicI64::new(0);
    let write = async |worker: usize| {
        for i in 0.. {
            let made = map(&format!("w{worker}-{i}"));
            let request = request::<ConfigMap>(Verb::Create, &made);
            match one.pipeline.create(&request, Box::new(made), Some(&fence)).await {
                Ok(stored) => {
                    let stored = ConfigMap::decode(stored.bytes).unwrap();
                    let revision: i64 = stored.metadata().resource_version.parse().unwrap();
                    last.fetch_max(revision, Ordering::SeqCst);
                }
                Err(error) => return error,
            }
        }
        unreachable!("it is refused in the end")
    };
    let take_over = async {
        tokio::time::sleep(std::time::Duration::from_millis(300)).await;
        // Renewals change the lease as well, and disturb nobody who holds it.
        let mut renewed = lease.clone();
        renewed.spec_mut().lease_duration_seconds = Some(20);
        let mut taken = other.update(renewed).await.unwrap();
        tokio::time::sleep(std::time::Duration::from_millis(300)).await;
        taken.spec_mut().holder_identity = Some("new".to_owned());
        taken.spec_mut().lease_transitions = Some(2);
        let taken = other.update(taken).await.unwrap();
        taken.metadata().resource_version.parse::<i64>().unwrap()
    };
    let (taken, a, b, c, d) = tokio::join!(take_over, write(0), write(1), write(2), write(3));
    for error in [a, b, c, d] {
        assert!(error.is_conflict() && error.message().contains("\"old\" does not lead"), "{error}");
    }
    let last = last.load(Ordering::SeqCst);
    assert!(last > 0 && last < taken, "{last} {taken}");
    let written = one.keys("/registry/configmaps/default/").await.len();
    println!("{written} written before");
}
