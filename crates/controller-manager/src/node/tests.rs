use std::{collections::BTreeSet, time::Duration};

use api::{
    Resource,
    coordination::v1::Lease,
    core::v1::{Node, Pod},
    meta::v1::MicroTime,
};
use client::testing::MemoryServer;
use serde_json::json;

use crate::{
    NodeArgs, pods,
    testing::{context, object, running_pod},
};

fn args() -> NodeArgs {
    NodeArgs {
        cluster_cidr: "10.244.0.0/16".parse().unwrap(),
        node_monitor_grace_period: Duration::from_millis(600),
        node_startup_grace_period: Duration::from_millis(900),
        node_eviction_rate: 10.0,
        unhealthy_zone_threshold: 0.55,
    }
}

fn node(name: &str) -> Node {
    object(json!({
        "metadata": {"name": name},
        "status": {"conditions": [{"type": "Ready", "status": "True", "lastHeartbeatTime": "2024-01-01T00:00:00Z"}]},
    }))
}

fn renew(server: &MemoryServer, name: &str) {
    let mut lease: Lease = object(json!({"metadata": {"namespace": "kube-node-lease", "name": name}}));
    lease.spec_mut().renew_time = Some(MicroTime::now());
    server.put(lease);
}

/// Renews the leases of these nodes until it is dropped.
fn alive(server: &MemoryServer, names: &'static [&'static str]) -> tokio_util::task::AbortOnDropHandle<()> {
    let server = server.clone();
    tokio_util::task::AbortOnDropHandle::new(tokio::spawn(async move {
        loop {
            names.iter().for_each(|name| renew(&server, name));
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }))
}

fn ready(server: &MemoryServer, name: &str) -> String {
    server.find::<Node>("", name).unwrap().status().conditions[0].status.clone()
}

fn taints(server: &MemoryServer, name: &str) -> Vec<String> {
    let node = server.find::<Node>("", name).unwrap();
    node.spec().taints.iter().map(|taint| format!("{}:{}", taint.key.replace("node.kubernetes.io/", ""), taint.effect)).collect()
}

fn tolerant(mut pod: Pod, seconds: i64) -> Pod {
    let toleration = |key: &str| json!({"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": seconds});
    let both = json!([toleration("node.kubernetes.io/not-ready"), toleration("node.kubernetes.io/unreachable")]);
    pod.spec_mut().tolerations = api::json::read(both).unwrap();
    pod
}

#[tokio::test]
async fn a_node_that_falls_silent_is_unknown_and_its_pods_go_when_they_no_longer_tolerate_it() {
    let server = MemoryServer::new();
    for name in ["a", "b", "c"] {
        server.put(node(name));
        server.put(tolerant(running_pod("d", &format!("on-{name}"), name, "10.0.0.1"), 1));
    }
    let mut patient = running_pod("d", "patient", "c", "10.0.0.2");
    patient.spec_mut().tolerations = api::json::read(json!([{"operator": "Exists"}])).unwrap();
    server.put(patient);
    let _others = alive(&server, &["a", "b"]);
    let context = context(&server);
    super::start(&context, &args());
    server.eventually(|server| ready(server, "c") == "Unknown").await;
    let unready = |server: &MemoryServer| server.find::<Pod>("d", "on-c").is_none_or(|pod| !pods::is_ready(&pod));
    server.eventually(unready).await;
    server.eventually(|server| taints(server, "c") == ["unreachable:NoSchedule", "unreachable:NoExecute"]).await;
    server.eventually(|server| server.find::<Pod>("d", "on-c").is_none_or(|pod| pods::is_terminating(&pod))).await;
    assert!(!pods::is_terminating(&server.find::<Pod>("d", "patient").unwrap()));
    for name in ["a", "b"] {
        assert_eq!((ready(&server, name).as_str(), taints(&server, name).len()), ("True", 0));
        assert!(pods::is_ready(&server.find::<Pod>("d", &format!("on-{name}")).unwrap()));
    }
    // It comes back: its kubelet says so.
    renew(&server, "c");
    let mut back = server.find::<Node>("", "c").unwrap();
    back.status_mut().conditions = node("c").status().conditions.clone();
    back.status_mut().conditions[0].last_heartbeat_time = Some(api::meta::v1::Time::now());
    server.put(back);
    server.eventually(|server| taints(server, "c").is_empty()).await;
}

#[tokio::test]
async fn pods_of_a_node_that_says_it_is_not_ready_do_not_serve_until_its_kubelet_says_otherwise() {
    let server = MemoryServer::new();
    let mut unready = node("a");
    unready.status_mut().conditions[0].status = "False".into();
    unready.status_mut().conditions[0].last_transition_time = Some(api::meta::v1::Time::now());
    server.put(unready);
    server.put(running_pod("d", "p", "a", "10.0.0.1"));
    let _alive = alive(&server, &["a"]);
    let context = context(&server);
    super::start(&context, &args());
    server.eventually(|server| !pods::is_ready(&server.find::<Pod>("d", "p").unwrap())).await;
    let mut again = server.find::<Pod>("d", "p").unwrap();
    again.status_mut().conditions[0].status = "True".into();
    again.status_mut().conditions[0].last_transition_time =
        Some(api::meta::v1::Time { seconds: api::meta::v1::Time::now().seconds + 1, nanos: 0 });
    server.put(again);
    let mut touched = server.find::<Node>("", "a").unwrap();
    touched.metadata_mut().labels.insert("touched".into(), "yes".into());
    server.put(touched);
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(pods::is_ready(&server.find::<Pod>("d", "p").unwrap()));
}

#[tokio::test]
async fn when_every_node_falls_silent_nothing_is_evicted() {
    let server = MemoryServer::new();
    for name in ["a", "b", "c"] {
        server.put(node(name));
        server.put(running_pod("d", &format!("on-{name}"), name, "10.0.0.1"));
    }
    let context = context(&server);
    super::start(&context, &args());
    server.eventually(|server| ["a", "b", "c"].iter().all(|name| ready(server, name) == "Unknown")).await;
    tokio::time::sleep(Duration::from_millis(900)).await;
    for pod in server.all::<Pod>() {
        assert!(!pods::is_terminating(&pod));
    }
    for name in ["a", "b", "c"] {
        server.eventually(|server| taints(server, name) == ["unreachable:NoSchedule"]).await;
    }
}

#[tokio::test]
async fn every_node_gets_a_range_of_its_own_also_from_a_second_manager() {
    let server = MemoryServer::new();
    for n in 0..20 {
        server.put(node(&format!("n{n}")));
    }
    let distinct = |server: &MemoryServer| {
        let ranges: BTreeSet<_> = server.all::<Node>().iter().map(|node| node.spec().pod_cidr.clone()).collect();
        !ranges.contains("") && ranges.len() == server.all::<Node>().len()
    };
    let first = context(&server);
    super::cidr::start(&first, args().cluster_cidr);
    server.eventually(distinct).await;
    first.kit.shutdown.start();
    // In a cluster its writes would be fenced off by now; here it must have ended.
    first.kit.tasks.all_ended().await;
    for n in 20..40 {
        server.put(node(&format!("n{n}")));
    }
    let second = context(&server);
    super::cidr::start(&second, args().cluster_cidr);
    server.eventually(distinct).await;
    assert!(server.all::<Node>().iter().all(|node| node.spec().pod_cidrs == [node.spec().pod_cidr.clone()]));
    assert!(server.find::<Node>("", "n0").unwrap().name() == "n0");
}

#[tokio::test]
async fn a_cordoned_node_is_tainted() {
    let server = MemoryServer::new();
    let mut cordoned = node("a");
    cordoned.spec_mut().unschedulable = true;
    server.put(cordoned);
    let _alive = alive(&server, &["a"]);
    let context = context(&server);
    super::start(&context, &args());
    server.eventually(|server| taints(server, "a") == ["unschedulable:NoSchedule"]).await;
    let mut node = server.find::<Node>("", "a").unwrap();
    node.spec_mut().unschedulable = false;
    server.put(node);
    server.eventually(|server| taints(server, "a").is_empty()).await;
}

#[tokio::test]
async fn a_new_node_takes_pods_as_soon_as_it_is_ready() {
    let server = MemoryServer::new();
    let context = context(&server);
    super::start(&context, &args());
    context.informers.synced().await;
    // As the API server stores it.
    let taint = json!({"key": "node.kubernetes.io/not-ready", "effect": "NoSchedule"});
    server.put::<Node>(object(json!({"metadata": {"name": "n"}, "spec": {"taints": [taint]}})));
    let _alive = alive(&server, &["n"]);
    server.eventually(|server| !server.find::<Node>("", "n").unwrap().spec().pod_cidr.is_empty()).await;
    assert!(taints(&server, "n").contains(&"not-ready:NoSchedule".to_owned()));
    let mut up = server.find::<Node>("", "n").unwrap();
    up.status_mut().conditions = node("n").status().conditions.clone();
    server.put(up);
    let begun = std::time::Instant::now();
    server.eventually(|server| taints(server, "n").is_empty()).await;
    assert!(begun.elapsed() < Duration::from_millis(500), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_node_that_comes_again_has_its_whole_time_whatever_was_heard_of_the_last_one() {
    let server = MemoryServer::new();
    let _other = alive(&server, &["other"]);
    server.put(node("other"));
    server.put(node("n"));
    let context = context(&server);
    super::start(&context, &args());
    context.informers.synced().await;
    server.remove::<Node>("", "n");
    // Its kubelet renews once more, then is quiet for long.
    tokio::time::sleep(Duration::from_millis(50)).await;
    renew(&server, "n");
    tokio::time::sleep(args().node_monitor_grace_period + Duration::from_millis(100)).await;
    server.put(node("n"));
    tokio::time::sleep(args().node_monitor_grace_period / 2).await;
    assert_eq!(ready(&server, "n"), "True");
    server.eventually(|server| ready(server, "n") == "Unknown").await;
}
