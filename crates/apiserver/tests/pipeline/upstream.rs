//! What users of upstream's API server rely on, over a real etcd: what is created by an update, what a patch may look like, what stays
//! readable and deletable whatever was stored.

use api::{
    Object, Resource, StatusError,
    coordination::v1::Lease,
    core::v1::{Endpoints, Namespace, Node, Pod, ReplicationController, ResourceQuota, Service, ServiceAccount},
    meta::v1::{DeleteOptions, Time},
    names::Format,
    patch::PatchType as Type,
    status::Reason,
};
use apiserver::{
    admission::{AdmissionConfig, Plugins},
    request::Verb,
};
use store::Txn;

use crate::support::{Cluster, Server, config, object, request};

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

fn reason<T: std::fmt::Debug>(result: Result<T, StatusError>) -> Reason {
    result.unwrap_err().reason()
}

/// Stores an object as an older server would have, past every check.
async fn put<K: Resource>(server: &Server, object: &K) {
    let collection = server.store.collection(&K::KIND.qualified_plural()).unwrap();
    let mut object = object.clone();
    object.metadata_mut().resource_version.clear();
    let (namespace, name) = (object.namespace().to_owned(), object.name().to_owned());
    let txn = Txn::new().put_object(collection.layout(), &namespace, &name, &Object::encode(&object)).unwrap();
    server.store.commit(&txn).await.unwrap();
    server.store.fresh(store::ReadAt::Latest).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_object_that_no_server_would_store_today_is_labelled_shown_and_deleted() {
    let cluster = Cluster::start(1, &usual()).await;
    let server = &cluster.servers[0];
    let mut bad = server.create(pod("bad", "")).await.unwrap();
    bad.spec_mut().node_name = "gone".into();
    bad.spec_mut().termination_grace_period_seconds = Some(1 << 62);
    bad.status_mut().start_time = Some(Time { seconds: 1 << 62, nanos: -5 });
    bad.status_mut().pod_ip = "not-an-ip".into();
    put(server, &bad).await;
    let stored: Pod = server.get("default", "bad").await.unwrap();
    assert!(api::json::to_value(&stored).unwrap()["status"]["startTime"].as_str().unwrap().starts_with("9999-"));
    let labelled = server.patch(&stored, Type::Merge, r#"{"metadata": {"labels": {"a": "b"}}}"#).await.unwrap();
    assert_eq!(labelled.metadata().labels["a"], "b");
    // It gets no worse.
    let error = server.patch(&stored, Type::Merge, r#"{"spec": {"activeDeadlineSeconds": -1}}"#).await;
    let text = message(error);
    assert!(text.contains("spec.activeDeadlineSeconds") && !text.contains("terminationGracePeriodSeconds: Invalid"), "{text}");
    let (gone, marked) = server.delete_with(&labelled, &DeleteOptions::default()).await.unwrap();
    assert!(!gone && marked.metadata().deletion_timestamp.unwrap().seconds < 253_402_300_800);
    assert_eq!(marked.metadata().deletion_grace_period_seconds, Some(i64::from(i32::MAX)));
    let now = DeleteOptions { grace_period_seconds: Some(0), ..DeleteOptions::default() };
    assert!(server.delete_with(&labelled, &now).await.unwrap().0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_status_is_checked_by_the_schema() {
    let cluster = Cluster::start(1, &usual()).await;
    let server = &cluster.servers[0];
    let stored = server.create(pod("web", "")).await.unwrap();
    let with = |change: fn(&mut Pod)| {
        let mut pod = stored.clone();
        change(&mut pod);
        server.update_part("status", pod)
    };
    for (change, field) in [
        ((|pod| pod.status_mut().start_time = Some(Time { seconds: 1 << 62, nanos: 0 })) as fn(&mut Pod), "status.startTime"),
        (|pod| pod.status_mut().pod_ip = "127.0.0.1".into(), "status.podIP"),
        (|pod| pod.status_mut().pod_ip = "not-an-ip".into(), "status.podIP"),
        (|pod| pod.status_mut().host_ip = "not-an-ip".into(), "status.hostIP"),
    ] {
        let text = message(with(change).await);
        assert!(text.contains(&format!("{field}: Invalid value")), "{text}");
    }
    let good = with(|pod| {
        pod.status_mut().pod_ip = "10.244.0.7".into();
        pod.metadata_mut().labels.insert("a".into(), "b".into());
    });
    let good = good.await.unwrap();
    assert_eq!((good.status().pod_ips[0].ip.as_str(), good.metadata().labels["a"].as_str()), ("10.244.0.7", "b"));

    let mut node: Node =
        object(r#"{"metadata": {"name": "n"}, "status": {"addresses": [{"type": "InternalIP", "address": "not-an-ip"}]}}"#);
    assert!(message(server.create(node.clone()).await).contains("status.addresses[0].address: Invalid value: \"not-an-ip\""));
    node.status_mut().addresses[0].address = "172.30.1.2".into();
    let created = server.create(node).await.unwrap();
    // A new node's status is kept, and it gets no pods before it is ready.
    assert_eq!(created.status().addresses[0].address, "172.30.1.2");
    let mut labelled = created.clone();
    labelled.metadata_mut().labels.insert("a".into(), "b".into());
    labelled.spec_mut().unschedulable = true;
    let written = server.update_part("status", labelled).await.unwrap();
    assert_eq!((written.metadata().labels["a"].as_str(), written.spec().unschedulable), ("b", false), "labels, but no spec");
    let taints: Vec<String> = created.spec().taints.iter().map(|t| format!("{}:{}", t.key, t.effect)).collect();
    assert_eq!(taints, ["node.kubernetes.io/not-ready:NoSchedule"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_update_creates_where_upstream_does_and_version_zero_is_none() {
    let cluster = Cluster::start(1, &usual()).await;
    let server = &cluster.servers[0];
    let endpoints: Endpoints = object(
        r#"{"metadata": {"name": "db", "namespace": "default", "resourceVersion": "0"},
            "subsets": [{"addresses": [{"ip": "10.0.0.9"}], "ports": [{"port": 5432, "protocol": "TCP"}]}]}"#,
    );
    let of = |object: &Endpoints| server.pipeline.creates_on_update(&request(Verb::Update, object), object);
    assert!(of(&endpoints));
    let mut gone = endpoints.clone();
    gone.metadata_mut().resource_version = "7".into();
    assert!(!of(&gone));
    let lease: Lease = object(r#"{"metadata": {"name": "new", "namespace": "default"}}"#);
    assert_eq!(reason(server.update(lease.clone()).await), Reason::NotFound, "whose version could it name?");
    server.create(lease.clone()).await.unwrap();
    assert_eq!(reason(server.update(lease).await), Reason::Invalid);
    let absent = pod("absent", "");
    assert!(!server.pipeline.creates_on_update(&request(Verb::Update, &absent), &absent));
    assert_eq!(reason(server.update(endpoints.clone()).await), Reason::NotFound);
    server.create(endpoints.clone()).await.unwrap();
    let mut changed = endpoints;
    changed.subsets[0].addresses[0].ip = "10.0.0.10".into();
    let updated = server.update(changed).await.unwrap();
    assert_eq!(updated.subsets[0].addresses[0].ip, "10.0.0.10");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_patch_that_does_not_fit_the_schema_is_invalid_with_the_cause_patch() {
    let cluster = Cluster::start(1, &usual()).await;
    let server = &cluster.servers[0];
    let stored = server.create(pod("web", "")).await.unwrap();
    for (kind, patch, said) in [
        (Type::Merge, r#"{"spec": {"nodeNmae": "x"}}"#, "unknown field \"spec.nodeNmae\""),
        (Type::Merge, r#"{"metadata": {"labels": 5}}"#, "metadata.labels: wrong type"),
        (Type::Strategic, r#"{"spec": {"bogus": 1}}"#, "unknown field \"spec.bogus\""),
        (Type::Json, r#"[{"op": "add", "path": "/spec/bogus", "value": 1}]"#, "unknown field \"spec.bogus\""),
        (Type::Merge, r#"{"metadata": {"labels": {"a": "1"}, "labels": {"a": "2"}}}"#, "duplicate field \"metadata.labels\""),
    ] {
        let error = server.patch(&stored, kind, patch).await.unwrap_err();
        assert_eq!(error.reason(), Reason::Invalid, "{patch}");
        let cause = &error.status().details().causes[0];
        assert_eq!((cause.field.as_str(), cause.reason.as_str()), ("patch", "FieldValueInvalid"), "{patch}");
        assert!(cause.message.contains(said), "{patch}: {}", cause.message);
    }
    assert_eq!(reason(server.patch(&stored, Type::Merge, "{").await), Reason::BadRequest);
    // To upstream this is a patch that changes nothing.
    assert_eq!(server.patch(&stored, Type::Strategic, "null").await.unwrap(), stored);
    let patch =
        r#"[{"op": "replace", "path": "/metadata/labels", "value": {"a": "b"}}, {"op": "test", "path": "/spec/nodeName"}]"#;
    assert_eq!(server.patch(&stored, Type::Json, patch).await.unwrap().metadata().labels["a"], "b");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_label_with_a_namespaces_name_is_true_after_every_write() {
    const LABEL: &str = "kubernetes.io/metadata.name";
    let cluster = Cluster::start(1, &usual()).await;
    let server = &cluster.servers[0];
    let text = format!(r#"{{"metadata": {{"name": "shop", "labels": {{"{LABEL}": "bank"}}}}}}"#);
    let created = server.create(object::<Namespace>(&text)).await.unwrap();
    assert_eq!(created.metadata().labels[LABEL], "shop");
    for patch in
        [format!(r#"{{"metadata": {{"labels": {{"{LABEL}": "bank"}}}}}}"#), r#"{"metadata": {"labels": null}}"#.to_owned()]
    {
        assert_eq!(server.patch(&created, Type::Merge, &patch).await.unwrap().metadata().labels[LABEL], "shop");
    }
    let mut stored = created;
    stored.metadata_mut().labels.insert(LABEL.into(), "bank".into());
    put(server, &stored).await;
    stored.metadata_mut().resource_version.clear();
    assert_eq!(server.update_part("status", stored).await.unwrap().metadata().labels[LABEL], "shop");
    assert!(!Namespace::KIND.verbs.iter().any(|verb| verb == "deletecollection"));
    assert_eq!(Namespace::KIND.name_format, Format::DnsLabel);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_external_address_belongs_to_nobody_else() {
    let mut known = usual();
    known.cluster_cidr = Some("10.244.0.0/16".parse().unwrap());
    let cluster = Cluster::start(1, &known).await;
    let server = &cluster.servers[0];
    let node = r#"{"metadata": {"name": "n"}, "spec": {"podCIDR": "10.244.3.0/24"},
        "status": {"addresses": [{"type": "InternalIP", "address": "172.30.1.2"}]}}"#;
    server.create(object::<Node>(node)).await.unwrap();
    server.store.etcd().commit(&Txn::new().put("/registry/ferrokube/apiservers/172.30.1.9:6443", "", None)).await.unwrap();
    let service = |name: &str, ip: &str| -> Service {
        object(&format!(
            r#"{{"metadata": {{"name": "{name}", "namespace": "default"}},
                "spec": {{"ports": [{{"port": 80}}], "externalIPs": ["{ip}"]}}}}"#
        ))
    };
    for (ip, whose) in [
        ("172.30.1.2", "node \"n\""),
        ("::ffff:172.30.1.2", "node \"n\""),
        ("172.30.1.9", "an API server"),
        ("10.96.0.1", "the range of Services"),
        ("10.244.3.7", "the range of pods"),
        ("10.244.99.7", "the range of pods"),
    ] {
        let text = message(server.create(service("web", ip)).await);
        assert!(
            text.ends_with(&format!("spec.externalIPs[0]: Invalid value: {ip:?}: may not be an address of {whose}")),
            "{text}"
        );
    }
    let text = message(server.create(service("web", "127.0.0.1")).await);
    assert!(text.contains("may not be in the loopback range"), "{text}");
    let good = server.create(service("web", "203.0.113.7")).await.unwrap();
    let patch = r#"{"spec": {"externalIPs": ["203.0.113.7", "172.30.1.2"]}}"#;
    assert!(message(server.patch(&good, Type::Merge, patch).await).contains("spec.externalIPs[1]"));

    let mut strict = usual();
    strict.plugins = Plugins::new(vec!["DenyServiceExternalIPs".into()], Vec::new()).unwrap();
    let cluster = Cluster::start(1, &strict).await;
    let error = cluster.servers[0].create(service("web", "203.0.113.7")).await.unwrap_err();
    assert_eq!(error.reason(), Reason::Forbidden);
    assert!(error.message().ends_with("Use of external IPs is denied by admission control."), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_network_is_the_clusters_and_nobody_elses() {
    let mut known = usual();
    known.cluster_cidr = Some("10.244.0.0/16".parse().unwrap());
    let cluster = Cluster::start(2, &known).await;
    let node = |name: &str, cidr: &str| -> Node {
        object(&format!(r#"{{"metadata": {{"name": "{name}"}}, "spec": {{"podCIDR": "{cidr}"}}}}"#))
    };
    let server = &cluster.servers[0];
    server.create(node("a", "10.244.3.0/24")).await.unwrap();
    for (cidr, why) in [
        ("10.245.0.0/24", "must lie in the cluster's network for pods, 10.244.0.0/16"),
        ("10.0.0.0/8", "must lie in the cluster's network for pods, 10.244.0.0/16"),
        ("10.244.3.128/25", "may not overlap that of node \"a\""),
        ("10.244.0.0/16", "may not overlap that of node \"a\""),
    ] {
        let text = message(server.create(node("b", cidr)).await);
        assert!(text.ends_with(why), "{cidr}: {text}");
    }
    // Two servers at once: one of them gives it.
    let both = tokio::join!(server.create(node("c", "10.244.4.0/24")), cluster.servers[1].create(node("d", "10.244.4.0/24")));
    assert_eq!([both.0.is_ok(), both.1.is_ok()].iter().filter(|ok| **ok).count(), 1);
    let cluster = Cluster::start(1, &usual()).await;
    let text = message(cluster.servers[0].create(node("a", "10.96.3.0/24")).await);
    assert!(text.ends_with("may not overlap the network of Services, 10.96.0.0/16"), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_new_namespace_is_about_to_get_is_awaited() {
    let cluster = Cluster::bare(1, &usual()).await;
    let server = &cluster.servers[0];
    server.create(object::<Namespace>(r#"{"metadata": {"name": "default"}}"#)).await.unwrap();
    let late = async {
        tokio::time::sleep(std::time::Duration::from_millis(300)).await;
        let account = r#"{"metadata": {"name": "default", "namespace": "default"}}"#;
        server.create(object::<ServiceAccount>(account)).await.unwrap();
    };
    let (created, ()) = tokio::join!(server.create(pod("web", "")), late);
    assert_eq!(created.unwrap().spec().service_account_name, "default");
    let quota = r#"{"metadata": {"name": "q", "namespace": "default"}, "spec": {"hard": {"pods": "1"}}}"#;
    let mut quota = server.create(object::<ResourceQuota>(quota)).await.unwrap();
    let late = async {
        tokio::time::sleep(std::time::Duration::from_millis(300)).await;
        quota.status_mut().hard = quota.spec().hard.clone();
        quota.status_mut().used = [("pods".to_owned(), api::quantity::Quantity::ZERO.into())].into();
        server.update_part("status", quota).await.unwrap();
    };
    let (created, ()) = tokio::join!(server.create(pod("second", "")), late);
    created.unwrap();
    assert!(message(server.create(pod("third", "")).await).contains("exceeded quota"));
    let other = pod("other", r#""serviceAccountName": "nobody","#);
    assert!(message(server.create(other).await).contains("serviceaccount \"nobody\" not found"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn templates_that_no_node_runs_are_taken_with_a_remark_and_classes_that_do_not_exist_are_not() {
    let cluster = Cluster::start(1, &usual()).await;
    let server = &cluster.servers[0];
    let rc: ReplicationController = object(
        r#"{"metadata": {"name": "rc", "namespace": "default"}, "spec": {"template": {"metadata": {"labels": {"a": "b"}}, "spec":
            {"containers": [{"name": "a", "image": "a:1", "ports": [{"containerPort": 80, "hostPort": 80}]}]}}}}"#,
    );
    let said = "spec.template.spec.containers[0].ports[0].hostPort: host ports are not supported by this kubelet yet: nodes will not run the pod";
    assert_eq!(server.pipeline.warnings(&rc), [said]);
    server.create(rc).await.unwrap();
    let text = message(server.create(pod("a", r#""runtimeClassName": "gvisor","#)).await);
    assert!(text.ends_with("is forbidden: pod rejected: RuntimeClass \"gvisor\" not found"), "{text}");
    let text = message(server.create(pod("a", r#""overhead": {"cpu": "1"},"#)).await);
    assert!(text.contains("Pod Overhead set without"), "{text}");
    let text = message(server.create(pod("a", r#""ephemeralContainers": [{"name": "e", "image": "e"}],"#)).await);
    assert!(text.contains("spec.ephemeralContainers: Forbidden: cannot be set on create"), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn quantities_keep_the_text_that_upstream_keeps() {
    let cluster = Cluster::start(1, &usual()).await;
    let server = &cluster.servers[0];
    let mut pod = pod("web", "");
    let requests = &mut pod.spec_mut().containers[0].resources_mut().requests;
    for (name, text) in [("cpu", "+1"), ("memory", "1E3"), ("ephemeral-storage", "1.5Gi"), ("example.com/gpu", "1e100")] {
        requests.insert(name.into(), api::resource::Quantity { string: text.into() });
    }
    let limits = [("example.com/gpu".to_owned(), api::resource::Quantity { string: "1e100".into() })];
    pod.spec_mut().containers[0].resources_mut().limits = limits.into();
    let stored = server.create(pod).await.unwrap();
    let texts: Vec<&str> = stored.spec().containers[0].resources().requests.values().map(|q| q.string.as_str()).collect();
    assert_eq!(texts, ["+1", "1536Mi", "100e27", "1E3"]);
}
