//! How objects go: at once, after a grace period, or when nothing holds them back any more.

use api::{
    core::v1::{ConfigMap, Pod, ReplicationController},
    meta::v1::{DeleteOptions, Preconditions},
    patch::PatchType as Type,
};
use apiserver::{
    pipeline::Selectors,
    request::{Request, Verb},
};

use crate::support::{Cluster, Server, config, object, request};

async fn cluster(servers: usize) -> Cluster {
    Cluster::start(servers, &config("10.96.0.0/16", 30000..=32767)).await
}

fn map(name: &str, finalizers: &str) -> ConfigMap {
    object(&format!(r#"{{"metadata": {{"name": "{name}", "namespace": "default", "finalizers": [{finalizers}]}}}}"#))
}

fn pod(name: &str, node: &str) -> Pod {
    object(&format!(
        r#"{{"metadata": {{"name": "{name}", "namespace": "default"}},
            "spec": {{"nodeName": "{node}", "containers": [{{"name": "a", "image": "web:1"}}]}}}}"#
    ))
}

fn grace(seconds: i64) -> DeleteOptions {
    DeleteOptions { grace_period_seconds: Some(seconds), ..DeleteOptions::default() }
}

fn policy(policy: &str) -> DeleteOptions {
    DeleteOptions { propagation_policy: Some(policy.to_owned()), ..DeleteOptions::default() }
}

async fn is_gone(server: &Server, pod: &Pod) -> bool {
    server.get::<Pod>("default", &pod.metadata().name).await.is_err_and(|e| e.is_not_found())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_on_a_node_has_its_grace_and_one_that_never_ran_has_none() {
    let cluster = cluster(1).await;
    let server = &cluster.servers[0];
    let waiting = server.create(pod("waiting", "")).await.unwrap();
    assert!(server.delete(&waiting).await.unwrap() && is_gone(server, &waiting).await);

    let running = server.create(pod("running", "n1")).await.unwrap();
    let tried = DeleteOptions { dry_run: vec!["All".to_owned()], ..DeleteOptions::default() };
    let (gone, shown) = server.delete_with(&running, &tried).await.unwrap();
    assert!(!gone && shown.metadata().deletion_timestamp.is_some());
    assert_eq!(server.get::<Pod>("default", "running").await.unwrap(), running, "a dry run changes nothing");

    let (gone, going) = server.delete_with(&running, &DeleteOptions::default()).await.unwrap();
    let meta = going.metadata();
    assert_eq!((gone, meta.deletion_grace_period_seconds, meta.generation), (false, Some(30), 2));
    let (gone, again) = server.delete_with(&running, &grace(60)).await.unwrap();
    assert_eq!((gone, &again), (false, &going), "no deletion is put off");
    let (gone, sooner) = server.delete_with(&running, &grace(5)).await.unwrap();
    assert_eq!((gone, sooner.metadata().deletion_grace_period_seconds), (false, Some(5)));
    let (begun, due) = (going.metadata().deletion_timestamp.unwrap(), sooner.metadata().deletion_timestamp.unwrap());
    assert_eq!(begun.seconds - due.seconds, 25);
    // What the kubelet says when the pod has ended.
    let (gone, last) = server.delete_with(&running, &grace(0)).await.unwrap();
    assert!(gone && last.metadata().uid == running.metadata().uid && is_gone(server, &running).await);
    assert!(server.delete_with(&running, &grace(0)).await.unwrap_err().is_not_found());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn preconditions_say_which_object_is_meant() {
    let cluster = cluster(2).await;
    let [one, other] = &cluster.servers[..] else { panic!("two servers") };
    let made = one.create(map("a", "")).await.unwrap();
    let on = |uid: Option<&str>, version: Option<&str>| DeleteOptions {
        preconditions: Some(Preconditions { uid: uid.map(str::to_owned), resource_version: version.map(str::to_owned) }),
        ..DeleteOptions::default()
    };
    let meta = made.metadata();
    let error = other.delete_with(&made, &on(Some("another"), None)).await.unwrap_err();
    assert_eq!(
        error.message(),
        format!(
            "Operation cannot be fulfilled on configmaps \"a\": Precondition failed: UID in precondition: another, UID in object \
             meta: {}",
            meta.uid
        )
    );
    assert!(other.delete_with(&made, &on(None, Some("1"))).await.unwrap_err().is_conflict());
    assert!(other.delete_with(&made, &on(Some(&meta.uid), Some(&meta.resource_version))).await.unwrap().0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn propagation_waits_for_the_garbage_collector() {
    let cluster = cluster(1).await;
    let server = &cluster.servers[0];
    let controller = |name: &str| -> ReplicationController {
        object(&format!(
            r#"{{"metadata": {{"name": "{name}", "namespace": "default"}},
                "spec": {{"template": {{"metadata": {{"labels": {{"app": "web"}}}},
                    "spec": {{"containers": [{{"name": "a", "image": "web:1"}}]}}}}}}}}"#
        ))
    };
    for (how, finalizer) in [("Foreground", "foregroundDeletion"), ("Orphan", "orphan")] {
        let made = server.create(controller(&how.to_lowercase())).await.unwrap();
        let (gone, going) = server.delete_with(&made, &policy(how)).await.unwrap();
        let meta = going.metadata();
        assert_eq!((gone, &*meta.finalizers, meta.deletion_grace_period_seconds), (false, &[finalizer.to_owned()][..], Some(0)));
        assert_eq!(meta.generation, 2, "its deletion is something to be observed");
        // The garbage collector has done its part.
        server.patch(&going, Type::Merge, r#"{"metadata": {"finalizers": null}}"#).await.unwrap();
        let left = server.get::<ReplicationController>("default", &how.to_lowercase()).await;
        assert!(left.unwrap_err().is_not_found());
    }
    let made = server.create(controller("background")).await.unwrap();
    assert!(server.delete_with(&made, &policy("Background")).await.unwrap().0);
    let error = server.delete_with(&made, &policy("Sideways")).await.unwrap_err();
    assert_eq!(
        error.message(),
        "DeleteOptions.meta.k8s.io \"\" is invalid: propagationPolicy: Unsupported value: \"Sideways\": supported values: \
         \"Background\", \"Foreground\", \"Orphan\""
    );
    let dry = DeleteOptions { dry_run: vec!["Some".to_owned()], ..DeleteOptions::default() };
    assert_eq!(
        server.delete_with(&made, &dry).await.unwrap_err().message(),
        "DeleteOptions.meta.k8s.io \"\" is invalid: dryRun: Unsupported value: \"Some\": supported values: \"All\""
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deletion_means_the_newest_object_whatever_a_server_has_seen() {
    let cluster = cluster(2).await;
    let [one, other] = &cluster.servers[..] else { panic!("two servers") };
    for _ in 0..30 {
        let first = one.create(map("a", "\"a.io/b\"")).await.unwrap();
        assert!(!one.delete_with(&first, &DeleteOptions::default()).await.unwrap().0);
        one.patch(&first, Type::Merge, r#"{"metadata": {"finalizers": null}}"#).await.unwrap();
        let second = one.create(map("a", "\"a.io/b\"")).await.unwrap();
        // The other server may still see the first one, whose deletion has begun.
        let (gone, going) = other.delete_with(&second, &DeleteOptions::default()).await.unwrap();
        assert_eq!((gone, &going.metadata().uid), (false, &second.metadata().uid));
        other.patch(&second, Type::Merge, r#"{"metadata": {"finalizers": null}}"#).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collection_goes_as_far_as_it_is_selected() {
    let cluster = cluster(1).await;
    let server = &cluster.servers[0];
    for i in 0..40 {
        let mut one = map(&format!("m{i:02}"), "");
        one.metadata.get_or_insert_default().labels.insert("half".to_owned(), (i % 2).to_string());
        server.create(one).await.unwrap();
    }
    let delete = async |labels: &str, fields: &str, dry: bool| {
        let options = DeleteOptions { dry_run: if dry { vec!["All".to_owned()] } else { Vec::new() }, ..Default::default() };
        let all = Request { dry_run: dry, ..request::<ConfigMap>(Verb::DeleteCollection, &map("", "")) };
        server.pipeline.delete_collection(&all, &Selectors::parse(labels, fields).unwrap(), &options, None).await.unwrap()
    };
    assert_eq!(delete("half=1", "", true).await, 20);
    assert_eq!(delete("half=1", "", false).await, 20);
    assert_eq!(delete("half=1", "", false).await, 0);
    assert_eq!(delete("", "metadata.name=m02", false).await, 1);
    assert_eq!(delete("", "", false).await, 19);
}
