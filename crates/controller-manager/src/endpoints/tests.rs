use std::time::{Duration, Instant};

use client::testing::MemoryServer;
use serde_json::json;

use super::*;
use crate::testing::{context, object, running_pod};

fn service(extra: serde_json::Value) -> Service {
    let mut spec = json!({"selector": {"app": "web"}, "clusterIP": "10.96.0.1", "ports": [{"port": 80, "targetPort": "http"}]});
    json_merge(&mut spec, extra);
    object(json!({"metadata": {"name": "web", "namespace": "d", "labels": {"l": "1"}}, "spec": spec}))
}

fn json_merge(into: &mut serde_json::Value, from: serde_json::Value) {
    for (key, value) in from.as_object().unwrap() {
        into[key] = value.clone();
    }
}

/// Ready and unready addresses by the Endpoints.
fn addresses(server: &MemoryServer) -> (Vec<String>, Vec<String>) {
    let endpoints = server.find::<Endpoints>("d", "web").unwrap_or_default();
    let ips =
        |addresses: &[api::core::v1::EndpointAddress]| addresses.iter().map(|address| address.ip.clone()).collect::<Vec<_>>();
    let subset = endpoints.subsets.first().cloned().unwrap_or_default();
    (ips(&subset.addresses), ips(&subset.not_ready_addresses))
}

/// Address, ready, serving and terminating by the slices.
fn slices(server: &MemoryServer) -> Vec<(String, bool, bool, bool)> {
    let mut all: Vec<_> = server
        .all::<EndpointSlice>()
        .iter()
        .flat_map(|slice| slice.endpoints.clone())
        .map(|e| {
            let conditions = e.conditions();
            let is = |value: Option<bool>| value == Some(true);
            (e.addresses[0].clone(), is(conditions.ready), is(conditions.serving), is(conditions.terminating))
        })
        .collect();
    all.sort();
    all
}

#[tokio::test]
async fn endpoints_follow_readiness_labels_and_deletion() {
    let server = MemoryServer::new();
    server.put(service(json!({})));
    server.put(running_pod("d", "a", "n1", "10.0.0.1"));
    server.put(running_pod("d", "b", "n2", "10.0.0.2"));
    let context = context(&server);
    start(&context);
    let both = |server: &MemoryServer| addresses(server).0 == ["10.0.0.1", "10.0.0.2"] && slices(server).len() == 2;
    server.eventually(both).await;
    let endpoints = server.find::<Endpoints>("d", "web").unwrap();
    assert_eq!((endpoints.subsets[0].ports[0].port, endpoints.metadata().labels["l"].as_str()), (8080, "1"));
    assert_eq!(endpoints.subsets[0].addresses[0].target_ref().name, "a");
    let slice = &server.all::<EndpointSlice>()[0];
    assert_eq!(
        (slice.metadata().labels[SERVICE_NAME].as_str(), slice.metadata().owner_references[0].kind.as_str()),
        ("web", "Service")
    );
    assert_eq!(slice.endpoints[0].node_name.as_deref(), Some("n1"));

    let begun = Instant::now();
    let mut pod = server.find::<Pod>("d", "a").unwrap();
    pod.status_mut().conditions[0].status = "False".into();
    server.put(pod.clone());
    let unready = |server: &MemoryServer| {
        addresses(server).1 == ["10.0.0.1"] && slices(server)[0] == ("10.0.0.1".into(), false, false, false)
    };
    server.eventually(unready).await;
    pod.metadata_mut().labels.clear();
    server.put(pod);
    server.eventually(|server| addresses(server) == (vec!["10.0.0.2".into()], vec![]) && slices(server).len() == 1).await;
    assert!(begun.elapsed() < Duration::from_secs(1));

    let mut pod = server.find::<Pod>("d", "b").unwrap();
    pod.metadata_mut().deletion_timestamp = Some(api::meta::v1::Time::now());
    server.put(pod);
    let leaving =
        |server: &MemoryServer| addresses(server).0.is_empty() && slices(server) == [("10.0.0.2".into(), false, true, true)];
    server.eventually(leaving).await;
    server.remove::<Service>("d", "web");
    server.eventually(|server| server.find::<Endpoints>("d", "web").is_none()).await;
}

#[tokio::test]
async fn addresses_are_published_unready_if_asked_for() {
    let server = MemoryServer::new();
    server.put(service(json!({"publishNotReadyAddresses": true})));
    let mut pod = running_pod("d", "a", "n1", "10.0.0.1");
    pod.status_mut().conditions.clear();
    server.put(pod);
    let context = context(&server);
    start(&context);
    let published = |server: &MemoryServer| {
        addresses(server).0 == ["10.0.0.1"] && slices(server) == [("10.0.0.1".into(), true, false, false)]
    };
    server.eventually(published).await;
}

#[tokio::test]
async fn an_address_that_is_none_costs_its_pod_only() {
    let server = MemoryServer::new();
    server.put(service(json!({})));
    for (name, ip) in [("a", "10.0.0.1"), ("b", "127.0.0.1"), ("c", "not-an-ip"), ("d", "0.0.0.0"), ("e", "10.0.0.5")] {
        server.put(running_pod("d", name, "n1", ip));
    }
    let context = context(&server);
    start(&context);
    let two = |server: &MemoryServer| addresses(server).0 == ["10.0.0.1", "10.0.0.5"] && slices(server).len() == 2;
    server.eventually(two).await;
}

#[tokio::test]
async fn nothing_is_written_when_nothing_changes() {
    let server = MemoryServer::new();
    server.put(service(json!({})));
    server.put(running_pod("d", "a", "n1", "10.0.0.1"));
    let context = context(&server);
    start(&context);
    server.eventually(|server| addresses(server).0.len() == 1 && slices(server).len() == 1).await;
    server.take_writes();
    let mut pod = server.find::<Pod>("d", "a").unwrap();
    pod.status_mut().start_time = Some(api::meta::v1::Time::now());
    server.put(pod);
    let mut service = server.find::<Service>("d", "web").unwrap();
    service.metadata_mut().annotations.insert("x".into(), "y".into());
    server.put(service);
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(server.take_writes(), [""; 0]);
}

#[tokio::test]
async fn a_service_without_a_selector_keeps_what_a_person_wrote() {
    let server = MemoryServer::new();
    server.put(service(json!({"selector": {}})));
    let by_hand = json!({"metadata": {"name": "web", "namespace": "d"}, "subsets": [{"addresses": [{"ip": "192.0.2.1"}]}]});
    server.put(object::<Endpoints>(by_hand));
    let context = context(&server);
    start(&context);
    context.informers.synced().await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(addresses(&server).0, ["192.0.2.1"]);
}
