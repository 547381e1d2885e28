//! The whole proxy between an API server in memory and a real kernel.

use std::time::{Duration, Instant};

use ::daemon::Kit;
use api::core::v1::{Service, ServicePort};
use api::discovery::v1::{Endpoint, EndpointPort, EndpointSlice};
use client::Informers;
use client::testing::MemoryServer;
use kube_proxy::dirty::Dirty;
use kube_proxy::healthz::Healthz;
use kube_proxy::model::Family;
use kube_proxy::nft::Netlink;
use kube_proxy::proxy::{Proxy, Settings};

use crate::net::{PORT, SERVICE, World, address, counts};

/// A proxy in the node's namespace, on a runtime of its own. Dropping it is like kill -9: nothing is tidied up.
struct Running {
    _runtime: tokio::runtime::Runtime,
    kit: Kit,
}

impl Running {
    fn start(world: &World, server: &MemoryServer) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let entered = runtime.enter();
        let kit = Kit::new();
        let settings = Settings {
            node_name: "node-1".into(),
            family: Family::V4,
            pod_cidrs: vec!["10.244.0.0/16".parse().unwrap()],
            api_servers: vec![],
            min_sync_period: Duration::from_millis(20),
        };
        let handle = runtime.handle().clone();
        let (netlink, monitor) = world.run("node", || {
            let _entered = handle.enter();
            let netlink = Netlink::open(Family::V4).unwrap();
            let monitor = netlink.monitor().unwrap();
            (netlink, monitor)
        });
        let dirty = Dirty::default();
        let informers = Informers::new(server.client(), kit.clone());
        let proxy = Proxy::new(settings, &informers, dirty.clone(), Healthz::default(), &kit);
        kit.tasks.spawn("sync", proxy.run(netlink));
        kit.tasks.spawn("monitor", monitor.run(move || dirty.note(|pending| pending.table = true)));
        drop(entered);
        runtime.block_on(kit.health.became_ready());
        Self { _runtime: runtime, kit }
    }
}

fn web() -> Service {
    let mut service = Service::default();
    service.metadata_mut().namespace = "default".into();
    service.metadata_mut().name = "web".into();
    service.spec_mut().cluster_ip = SERVICE.to_string();
    service.spec_mut().ports = vec![ServicePort { port: PORT.into(), ..ServicePort::default() }];
    service
}

fn slice(pods: &[u8]) -> EndpointSlice {
    let mut slice = EndpointSlice { address_type: "IPv4".into(), ..EndpointSlice::default() };
    slice.metadata_mut().namespace = "default".into();
    slice.metadata_mut().name = "web-1".into();
    slice.metadata_mut().labels.insert("kubernetes.io/service-name".into(), "web".into());
    slice.ports = vec![EndpointPort { port: Some(8080), ..EndpointPort::default() }];
    let endpoint = |pod: &u8| Endpoint { addresses: vec![address(*pod).to_string()], ..Endpoint::default() };
    slice.endpoints = pods.iter().map(endpoint).collect();
    slice
}

fn eventually(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !condition() {
        assert!(Instant::now() < deadline, "never came true: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn endpoints_in_the_api_are_endpoints_in_the_kernel() {
    let world = World::new(3);
    world.serve();
    let server = MemoryServer::new();
    server.put(web());
    server.put(slice(&[1, 2]));
    let running = Running::start(&world, &server);
    assert_eq!(counts(&world.pods("3", SERVICE, PORT, 4)).into_values().collect::<Vec<_>>(), [2, 2]);
    server.put(slice(&[2]));
    eventually("pod 2 alone", || world.pods("3", SERVICE, PORT, 2) == [2, 2]);
    let metrics = running.kit.metrics.encode().unwrap();
    assert!(metrics.contains("kubeproxy_sync_proxy_rules_duration_seconds_count"), "{metrics}");

    drop(running);
    assert_eq!(world.pods("3", SERVICE, PORT, 2), [2, 2], "the rules outlive the proxy");
    server.put(slice(&[1]));
    let _running = Running::start(&world, &server);
    assert_eq!(world.pods("3", SERVICE, PORT, 2), [1, 1]);
}

#[test]
fn a_flushed_ruleset_is_restored_at_once() {
    let world = World::new(2);
    world.serve();
    let server = MemoryServer::new();
    server.put(web());
    server.put(slice(&[1]));
    let _running = Running::start(&world, &server);
    let whole = world.listing();
    for damage in ["flush ruleset", "delete element ip ferrokube cluster-ips { 10.96.0.1 }", "flush chain ip ferrokube services"]
    {
        world.nft(damage);
        eventually(damage, || world.nft("list ruleset").len() == whole.len());
        assert_eq!(world.pods("2", SERVICE, PORT, 1), [1]);
    }
}
