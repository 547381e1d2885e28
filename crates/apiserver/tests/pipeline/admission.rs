//! Admission over a real etcd: quotas, limits, namespaces, service accounts, priorities.

use crate::support::{Cluster, Server, config, object, request};
use api::{
    Resource, StatusError,
    core::v1::{LimitRange, Namespace, Pod, ResourceQuota, Secret, ServiceAccount},
    meta::v1::DeleteOptions,
    scheduling::v1::PriorityClass,
    status::Reason,
};
use apiserver::{
    admission::AdmissionConfig,
    request::{Request, Verb},
};
use futures::{StreamExt, stream};

fn usual() -> AdmissionConfig {
    config("10.96.0.0/16", 30000..=32767)
}

fn pod(name: &str, spec: &str) -> Pod {
    object(&format!(
        r#"{{"metadata": {{"name": "{name}", "namespace": "default"}},
            "spec": {{{spec} "containers": [{{"name": "main", "image": "web:1"}}]}}}}"#
    ))
}

fn message<T: std::fmt::Debug>(result: Result<T, StatusError>) -> String {
    result.unwrap_err().message().to_owned()
}

/// Creates a quota and computes its use, as the controller would for an empty namespace.
async fn quota(server: &Server, spec: &str) -> ResourceQuota {
    let text = format!(r#"{{"metadata": {{"name": "q", "namespace": "default"}}, "spec": {spec}}}"#);
    let mut quota = server.create(object::<ResourceQuota>(&text)).await.unwrap();
    let hard = quota.spec().hard.clone();
    let zero = |name: &String| (name.clone(), api::resource::Quantity { string: "0".into() });
    quota.status_mut().used = hard.keys().map(zero).collect();
    quota.status_mut().hard = hard;
    server.update_part("status", quota).await.unwrap()
}

async fn used(server: &Server, resource: &str) -> String {
    let quota: ResourceQuota = server.get("default", "q").await.unwrap();
    quota.status().used[resource].string.clone()
}

/// Waits until every server has seen what was written.
async fn settle(cluster: &Cluster) {
    for server in &cluster.servers {
        server.store.fresh(store::ReadAt::Latest).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_quota_holds_however_many_create_at_once() {
    let cluster = Cluster::start(2, &usual()).await;
    let first = &cluster.servers[0];
    quota(first, r#"{"hard": {"pods": "7", "count/pods": "20"}}"#).await;
    settle(&cluster).await;
    let servers = &cluster.servers;
    let create = |i: usize| servers[i % 2].create(pod(&format!("p{i}"), ""));
    let results: Vec<_> = stream::iter(0..40).map(create).buffer_unordered(40).collect().await;
    let (made, refused): (Vec<_>, Vec<_>) = results.into_iter().partition(Result::is_ok);
    assert_eq!((made.len(), used(first, "pods").await), (7, "7".to_owned()));
    for error in refused {
        let text = message(error);
        assert!(text.ends_with("is forbidden: exceeded quota: q, requested: pods=1, used: pods=7, limited: pods=7"), "{text}");
    }

    // What ends, or goes, makes room.
    let mut made = made.into_iter().map(Result::unwrap);
    let (mut ended, gone) = (made.next().unwrap(), made.next().unwrap());
    ended.status_mut().phase = "Succeeded".into();
    first.update_part("status", ended).await.unwrap();
    assert_eq!((used(first, "pods").await, used(first, "count/pods").await), ("6".to_owned(), "7".to_owned()));
    assert!(first.delete(&gone).await.unwrap());
    assert_eq!((used(first, "pods").await, used(first, "count/pods").await), ("5".to_owned(), "6".to_owned()));
    let late = servers[1].create(pod("late", "")).await.unwrap();
    assert_eq!(used(first, "pods").await, "6");
    let eviction = Request { name: "late".to_owned(), ..request::<Pod>(Verb::Create, &late) };
    assert!(first.pipeline.delete(&eviction, &DeleteOptions::default(), None).await.unwrap().gone);
    assert_eq!(used(first, "pods").await, "5");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_quota_on_limits_wants_them_said() {
    let cluster = Cluster::start(1, &usual()).await;
    let server = &cluster.servers[0];
    quota(server, r#"{"hard": {"limits.cpu": "2", "secrets": "1"}}"#).await;
    settle(&cluster).await;
    assert_eq!(
        message(server.create(pod("web", "")).await),
        "pods \"web\" is forbidden: failed quota: q: must specify limits.cpu for: main"
    );
    let secret = |name: &str| object::<Secret>(&format!(r#"{{"metadata": {{"name": "{name}", "namespace": "default"}}}}"#));
    server.create(secret("a")).await.unwrap();
    assert_eq!(
        message(server.create(secret("b")).await),
        "secrets \"b\" is forbidden: exceeded quota: q, requested: secrets=1, used: secrets=1, limited: secrets=1"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn limits_are_filled_in_and_kept() {
    let cluster = Cluster::start(1, &usual()).await;
    let server = &cluster.servers[0];
    let range = r#"{"metadata": {"name": "l", "namespace": "default"},
        "spec": {"limits": [{"type": "Container", "max": {"memory": "1Gi"}, "default": {"memory": "512Mi"}}]}}"#;
    server.create(object::<LimitRange>(range)).await.unwrap();
    settle(&cluster).await;
    let made = server.create(pod("web", "")).await.unwrap();
    assert_eq!(made.spec().containers[0].resources().limits["memory"].string, "512Mi");
    assert_eq!(made.status().qos_class, "Burstable");
    let mut big = pod("big", "");
    big.spec_mut().containers[0].resources_mut().limits.insert("memory".into(), api::resource::Quantity { string: "2Gi".into() });
    assert_eq!(
        message(server.create(big).await),
        "pods \"big\" is forbidden: maximum memory usage per Container is 1Gi, but limit is 2Gi"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_new_comes_into_a_namespace_that_goes() {
    let cluster = Cluster::start(2, &usual()).await;
    let [one, other] = &cluster.servers[..] else { panic!("two servers") };
    let in_namespace = |namespace: &str, name: &str| {
        object::<Secret>(&format!(r#"{{"metadata": {{"name": "{name}", "namespace": "{namespace}"}}}}"#))
    };
    assert_eq!(message(one.create(in_namespace("nowhere", "a")).await), "namespaces \"nowhere\" not found");
    let shop = one.create(object::<Namespace>(r#"{"metadata": {"name": "shop"}}"#)).await.unwrap();
    other.create(in_namespace("shop", "a")).await.unwrap();
    assert!(!one.delete(&shop).await.unwrap(), "held until it is empty");
    // The other server may not have heard of it; the guard on the namespace tells it.
    let refused = other.create(in_namespace("shop", "b")).await.unwrap_err();
    assert_eq!(
        refused.message(),
        "secrets \"b\" is forbidden: unable to create new content in namespace shop because it is being terminated"
    );
    assert_eq!(refused.status().details().causes[0].reason, "NamespaceTerminating");
    let default: Namespace = one.get("", "default").await.unwrap();
    assert_eq!(message(one.delete(&default).await), "namespaces \"default\" is forbidden: this namespace may not be deleted");

    let mut empty: Namespace = one.get("", "shop").await.unwrap();
    assert_eq!(empty.status().phase, "Terminating");
    empty.spec_mut().finalizers.clear();
    one.update_part("finalize", empty).await.unwrap();
    assert!(one.get::<Namespace>("", "shop").await.unwrap_err().is_not_found());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_gets_an_account_its_token_a_priority_and_tolerations() {
    let cluster = Cluster::start(1, &usual()).await;
    let server = &cluster.servers[0];
    let class = r#"{"metadata": {"name": "high"}, "value": 7, "preemptionPolicy": "Never"}"#;
    server.create(object::<PriorityClass>(class)).await.unwrap();
    let made = server.create(pod("web", r#""priorityClassName": "high","#)).await.unwrap();
    let spec = made.spec();
    assert_eq!((spec.service_account_name.as_str(), spec.service_account.as_str()), ("default", "default"));
    assert_eq!((spec.priority(), spec.preemption_policy()), (7, "Never"));
    assert_eq!(spec.containers[0].volume_mounts[0].mount_path, "/var/run/secrets/kubernetes.io/serviceaccount");
    assert_eq!(spec.volumes[0].volume_source().projected().sources.len(), 3);
    assert_eq!(spec.tolerations.len(), 2);

    let plain = server.create(pod("plain", r#""automountServiceAccountToken": false,"#)).await.unwrap();
    assert_eq!((plain.spec().priority(), plain.spec().volumes.len()), (0, 0));
    assert_eq!(
        message(server.create(pod("x", r#""serviceAccountName": "nobody","#)).await),
        "pods \"x\" is forbidden: error looking up service account default/nobody: serviceaccount \"nobody\" not found"
    );
    assert_eq!(
        message(server.create(pod("x", r#""priorityClassName": "none","#)).await),
        "pods \"x\" is forbidden: no PriorityClass with name none was found"
    );
    let given = server.create(pod("x", r#""priority": 9,"#)).await.unwrap_err();
    assert_eq!(given.reason(), Reason::Forbidden);
    // What was created can be sent back as it is.
    let again = server.update(made.clone()).await.unwrap();
    assert_eq!(again.metadata().resource_version, made.metadata().resource_version);
    let quiet: ServiceAccount = server.get("default", "default").await.unwrap();
    let quiet = ServiceAccount { automount_service_account_token: Some(false), ..quiet };
    server.update(quiet).await.unwrap();
    settle(&cluster).await;
    assert!(server.create(pod("quiet", "")).await.unwrap().spec().volumes.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_priority_class_is_the_default() {
    let cluster = Cluster::start(1, &usual()).await;
    let server = &cluster.servers[0];
    let class = |name: &str| {
        object::<PriorityClass>(&format!(r#"{{"metadata": {{"name": "{name}"}}, "value": 3, "globalDefault": true}}"#))
    };
    server.create(class("one")).await.unwrap();
    assert_eq!(
        message(server.create(class("two")).await),
        "priorityclasses.scheduling.k8s.io \"two\" is forbidden: PriorityClass one is already marked as default. Only one default can exist"
    );
    settle(&cluster).await;
    let made = server.create(pod("web", "")).await.unwrap();
    assert_eq!((made.spec().priority(), made.spec().priority_class_name.as_str()), (3, "one"));
    assert_eq!(made.name(), "web");
}
