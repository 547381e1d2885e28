//! Addresses and node ports of Services, given out by several API servers over one etcd.

use std::collections::BTreeSet;

use crate::support::{Cluster, Server, config, object};
use api::{StatusError, core::v1::Service};
use futures::{StreamExt, stream};

const IPS: &str = "/registry/ferrokube/clusterips/";
const PORTS: &str = "/registry/ferrokube/nodeports/";

fn service(name: &str, spec: &str) -> Service {
    object(&format!(r#"{{"metadata": {{"name": "{name}", "namespace": "default"}}, "spec": {spec}}}"#))
}

async fn create_many(servers: &[Server], count: usize, spec: &str) -> Vec<Result<Service, StatusError>> {
    let one = |i: usize| servers[i % servers.len()].create(service(&format!("s{i}"), spec));
    stream::iter(0..count).map(one).buffer_unordered(64).collect().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_servers_give_five_hundred_services_five_hundred_addresses() {
    let cluster = Cluster::start(2, &config("10.96.0.0/16", 30000..=32767)).await;
    let created = create_many(&cluster.servers, 500, r#"{"ports": [{"port": 80}]}"#).await;
    let addresses: BTreeSet<String> = created.into_iter().map(|s| s.unwrap().spec().cluster_ip.clone()).collect();
    assert_eq!(addresses.len(), 500);
    let held: BTreeSet<String> = cluster.servers[0].keys(IPS).await.into_iter().collect();
    assert_eq!(held, addresses);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_address_and_port_is_given_out_before_there_are_none() {
    let cluster = Cluster::start(2, &config("10.96.0.0/27", 30000..=30029)).await;
    // Of 30 addresses the first is the API servers' own.
    let created = create_many(&cluster.servers, 29, r#"{"type": "NodePort", "ports": [{"port": 80}]}"#).await;
    let created: Vec<Service> = created.into_iter().map(Result::unwrap).collect();
    let ports: BTreeSet<i32> = created.iter().map(|s| s.spec().ports[0].node_port).collect();
    assert_eq!(ports.len(), 29);
    for server in &cluster.servers {
        let error = server.create(service("more", r#"{"ports": [{"port": 80}]}"#)).await.unwrap_err();
        assert!(error.message().starts_with("failed to allocate a serviceIP: range is full"), "{error}");
    }
    assert!(cluster.servers[1].delete(&created[7]).await.unwrap());
    let again = cluster.servers[1].create(service("more", r#"{"ports": [{"port": 80}]}"#)).await.unwrap();
    assert_eq!(again.spec().cluster_ip, created[7].spec().cluster_ip);
    assert_eq!(cluster.servers[0].keys(PORTS).await.len(), 28);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_asked_for_is_given_once_and_only_from_the_range() {
    let cluster = Cluster::start(2, &config("10.96.0.0/24", 30000..=30999)).await;
    let [one, other] = &cluster.servers[..] else { panic!("two servers") };
    let spec = r#"{"type": "NodePort", "clusterIP": "10.96.0.9", "ports": [{"port": 80, "nodePort": 30009}]}"#;
    let first = one.create(service("first", spec)).await.unwrap();
    assert_eq!((first.spec().cluster_ip.as_str(), first.spec().ports[0].node_port), ("10.96.0.9", 30009));
    let message = |result: Result<Service, StatusError>| result.unwrap_err().message().to_owned();
    assert_eq!(
        message(other.create(service("b", r#"{"clusterIP": "10.96.0.9", "ports": [{"port": 80}]}"#)).await),
        r#"Service "b" is invalid: spec.clusterIPs: Invalid value: ["10.96.0.9"]: failed to allocate IP 10.96.0.9: provided IP is already allocated"#
    );
    assert_eq!(
        message(other.create(service("b", r#"{"clusterIP": "10.97.0.9", "ports": [{"port": 80}]}"#)).await),
        r#"Service "b" is invalid: spec.clusterIPs: Invalid value: ["10.97.0.9"]: failed to allocate IP 10.97.0.9: the provided IP (10.97.0.9) is not in the valid range. The range of valid IPs is 10.96.0.0/24"#
    );
    assert_eq!(
        message(other.create(service("b", r#"{"type": "NodePort", "ports": [{"port": 80, "nodePort": 30009}]}"#)).await),
        r#"Service "b" is invalid: spec.ports[0].nodePort: Invalid value: 30009: provided port is already allocated"#
    );
    assert_eq!(
        message(other.create(service("b", r#"{"type": "NodePort", "ports": [{"port": 80, "nodePort": 80}]}"#)).await),
        r#"Service "b" is invalid: spec.ports[0].nodePort: Invalid value: 80: provided port is not in the valid range. The range of valid ports is 30000-30999"#
    );
    assert_eq!(one.keys(IPS).await, ["10.96.0.9"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_of_type_gives_back_and_takes_what_it_must() {
    let cluster = Cluster::start(1, &config("10.96.0.0/24", 30000..=30999)).await;
    let server = &cluster.servers[0];
    let spec = r#"{"type": "NodePort", "ports": [{"name": "t", "port": 53}, {"name": "u", "port": 53, "protocol": "UDP"}]}"#;
    let mut web = server.create(service("web", spec)).await.unwrap();
    let port = web.spec().ports[0].node_port;
    assert_eq!(web.spec().ports[1].node_port, port, "one number for both protocols");
    assert_eq!(server.keys(PORTS).await, [port.to_string()]);
    let address = web.spec().cluster_ip.clone();

    web.spec_mut().r#type = "ClusterIP".into();
    let web = server.update(web).await.unwrap();
    assert_eq!((server.keys(PORTS).await.len(), server.keys(IPS).await), (0, vec![address.clone()]));
    assert_eq!(web.spec().cluster_ip, address);

    let alias = service("web", r#"{"type": "ExternalName", "externalName": "example.com."}"#);
    let web = server.update(alias).await.unwrap();
    assert_eq!((web.spec().cluster_ip.as_str(), server.keys(IPS).await.len()), ("", 0));

    let back =
        server.update(service("web", r#"{"type": "LoadBalancer", "externalTrafficPolicy": "Local", "ports": [{"port": 80}]}"#));
    let back = back.await.unwrap();
    let mut ports = vec![back.spec().ports[0].node_port.to_string(), back.spec().health_check_node_port.to_string()];
    ports.sort();
    assert_eq!((server.keys(PORTS).await, server.keys(IPS).await), (ports, vec![back.spec().cluster_ip.clone()]));
    assert!(server.delete(&back).await.unwrap());
    assert_eq!((server.keys(PORTS).await.len(), server.keys(IPS).await.len()), (0, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_held_for_what_is_not_stored() {
    let cluster = Cluster::start(1, &config("10.96.0.0/24", 30000..=30999)).await;
    let server = &cluster.servers[0];
    let tried = server.create_with(service("web", r#"{"type": "NodePort", "ports": [{"port": 80}]}"#), true).await.unwrap();
    assert!(tried.spec().cluster_ip.starts_with("10.96.0."));
    server.create(service("web", r#"{"ports": [{"port": 80, "protocol": "ICMP"}]}"#)).await.unwrap_err();
    server.create(service("web", r#"{"clusterIP": "None", "ports": [{"port": 80}]}"#)).await.unwrap();
    assert_eq!((server.keys(PORTS).await.len(), server.keys(IPS).await.len()), (0, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_come_in_step_with_services_that_others_wrote() {
    let cluster = Cluster::start(1, &config("10.96.0.0/24", 30000..=30999)).await;
    let server = &cluster.servers[0];
    let kept = server.create(service("kept", r#"{"type": "NodePort", "ports": [{"port": 80}]}"#)).await.unwrap();
    let own = (server.keys(IPS).await, server.keys(PORTS).await);
    // As if upstream's API server had written the one and somebody had lost the other.
    let foreign =
        service("foreign", r#"{"type": "NodePort", "clusterIP": "10.96.0.77", "ports": [{"port": 80, "nodePort": 30777}]}"#);
    let services = server.store.collection("services").unwrap();
    services.create("default", "foreign", &prost::Message::encode_to_vec(&foreign)).await.unwrap();
    server.store.commit(&store::Txn::new().put(format!("{IPS}10.96.0.99"), "nobody", None)).await.unwrap();

    let shutdown = tokio_util::sync::CancellationToken::new();
    let task = tokio::spawn(apiserver::admission::repair(server.store.clone(), shutdown.clone()));
    let mut wanted = [own.0, vec!["10.96.0.77".to_owned()]].concat();
    wanted.sort();
    let ports = [own.1, vec!["30777".to_owned()]].concat();
    let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(10);
    loop {
        let (mut found, addresses) = (server.keys(PORTS).await, server.keys(IPS).await);
        found.sort_by_key(|port| port == "30777");
        if addresses == wanted && found == ports {
            break;
        }
        assert!(tokio::time::Instant::now() < deadline, "not repaired: {addresses:?} {found:?}");
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    shutdown.cancel();
    task.await.unwrap();
    assert_eq!(server.get::<Service>("default", "kept").await.unwrap(), kept);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_port_is_never_chosen_that_the_service_names_itself() {
    let cluster = Cluster::start(1, &config("10.96.0.0/24", 30000..=30001)).await;
    let server = &cluster.servers[0];
    let ports = r#"[{"name": "a", "port": 80, "nodePort": 30000}, {"name": "b", "port": 81}]"#;
    let spec = format!(r#"{{"type": "NodePort", "ports": {ports}}}"#);
    for i in 0..20 {
        let made = server.create(service(&format!("s{i}"), &spec)).await.unwrap();
        let ports: Vec<i32> = made.spec().ports.iter().map(|port| port.node_port).collect();
        assert_eq!(ports, [30000, 30001]);
        assert!(server.delete(&made).await.unwrap());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_service_held_is_free_once_its_last_finalizer_is() {
    let cluster = Cluster::start(1, &config("10.96.0.0/24", 30000..=30999)).await;
    let server = &cluster.servers[0];
    let mut web = service("web", r#"{"type": "NodePort", "ports": [{"port": 80}]}"#);
    web.metadata.get_or_insert_default().finalizers = vec!["a.io/b".to_owned()];
    let web = server.create(web).await.unwrap();
    assert!(!server.delete(&web).await.unwrap());
    assert_eq!((server.keys(PORTS).await.len(), server.keys(IPS).await.len()), (1, 1));
    // The update that lets it go changes its type as well.
    server.update(service("web", r#"{"type": "ExternalName", "externalName": "example.com"}"#)).await.unwrap();
    assert!(server.get::<Service>("default", "web").await.unwrap_err().is_not_found());
    assert_eq!((server.keys(PORTS).await.len(), server.keys(IPS).await.len()), (0, 0));
}
