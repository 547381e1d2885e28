//! What several API servers bring about together when they start.

use std::time::Duration;

use crate::support::{Cluster, Server, config};
use api::{
    core::v1::{Endpoints, Namespace, Service},
    discovery::v1::EndpointSlice,
    scheduling::v1::PriorityClass,
};
use apiserver::bootstrap::{self, Advertised};
use daemon::{Health, Shutdown};

fn start(
    server: &Server,
    config: &apiserver::admission::AdmissionConfig,
    address: &str,
) -> (Shutdown, tokio::task::JoinHandle<()>) {
    let shutdown = Shutdown::new();
    let advertised = Advertised { address: address.parse().unwrap(), services: config.service_cidr };
    let gate = Health::new(shutdown.clone()).ready_gate("bootstrap");
    let task = tokio::spawn(bootstrap::run(server.pipeline.clone(), advertised, gate, shutdown.clone()));
    (shutdown, task)
}

async fn wait_for(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    // Less than the time between two heartbeats: it is the change that brings it about.
    let deadline = tokio::time::Instant::now() + Duration::from_secs(9);
    while !holds().await {
        assert!(tokio::time::Instant::now() < deadline, "{what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn addresses(server: &Server) -> Vec<String> {
    let endpoints: Result<Endpoints, _> = server.get("default", "kubernetes").await;
    let subsets = endpoints.map(|e| e.subsets).unwrap_or_default();
    subsets.iter().flat_map(|subset| &subset.addresses).map(|address| address.ip.clone()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn servers_that_start_together_make_one_cluster() {
    let config = config("10.96.0.0/16", 30000..=32767);
    let cluster = Cluster::bare(2, &config).await;
    let [one, other] = &cluster.servers[..] else { panic!("two servers") };
    let (first, first_task) = start(one, &config, "172.30.0.2:6443");
    let (second, second_task) = start(other, &config, "172.30.0.3:6443");
    wait_for("the endpoints", async || addresses(one).await == ["172.30.0.2", "172.30.0.3"]).await;
    let service: Service = one.get("default", "kubernetes").await.unwrap();
    assert_eq!((service.spec().cluster_ip.as_str(), service.spec().ports[0].port), ("10.96.0.1", 443));
    assert_eq!(one.keys("/registry/ferrokube/clusterips/").await, ["10.96.0.1"]);
    for name in ["default", "kube-system", "kube-public", "kube-node-lease"] {
        let namespace: Namespace = other.get("", name).await.unwrap();
        assert_eq!((namespace.status().phase.as_str(), namespace.spec().finalizers.len()), ("Active", 1));
    }
    let class: PriorityClass = one.get("", "system-node-critical").await.unwrap();
    assert_eq!(class.value, 2_000_001_000);

    second.start();
    second_task.await.unwrap();
    wait_for("the server that left to be gone", async || addresses(one).await == ["172.30.0.2"]).await;
    let slice: EndpointSlice = one.get("default", "kubernetes").await.unwrap();
    assert_eq!(slice.endpoints.len(), 1);
    assert_eq!(slice.endpoints[0].addresses, ["172.30.0.2"]);
    first.start();
    first_task.await.unwrap();
    assert!(addresses(one).await.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn servers_on_one_address_live_and_end_apart() {
    let config = config("10.96.0.0/16", 30000..=32767);
    let cluster = Cluster::bare(2, &config).await;
    let [one, other] = &cluster.servers[..] else { panic!("two servers") };
    let (first, first_task) = start(one, &config, "172.30.0.2:6443");
    wait_for("the first", async || addresses(one).await == ["172.30.0.2"]).await;
    let (second, second_task) = start(other, &config, "172.30.0.2:7443");
    wait_for("the second", async || addresses(one).await == ["172.30.0.2", "172.30.0.2"]).await;
    let endpoints: Endpoints = one.get("default", "kubernetes").await.unwrap();
    assert_eq!(endpoints.subsets.iter().map(|subset| subset.ports[0].port).collect::<Vec<_>>(), [6443, 7443]);
    let port = async |name: &str| one.get("default", name).await.map(|slice: EndpointSlice| slice.ports[0].port());
    wait_for("its slice", async || port("kubernetes-7443").await == Ok(7443)).await;
    assert_eq!(port("kubernetes").await, Ok(6443));

    first.start();
    first_task.await.unwrap();
    assert_eq!((port("kubernetes").await, addresses(one).await), (Ok(7443), vec!["172.30.0.2".to_owned()]));
    assert!(port("kubernetes-7443").await.unwrap_err().is_not_found());
    second.start();
    second_task.await.unwrap();
    assert!(addresses(one).await.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_goes_comes_back_and_who_dies_goes() {
    let config = config("10.96.0.0/16", 30000..=32767);
    let cluster = Cluster::bare(2, &config).await;
    let [one, other] = &cluster.servers[..] else { panic!("two servers") };
    let (first, first_task) = start(one, &config, "172.30.0.2:6443");
    let (_, second_task) = start(other, &config, "172.30.0.3:6443");
    let both = ["172.30.0.2", "172.30.0.3"];
    wait_for("both servers", async || addresses(one).await == both).await;

    let endpoints: Endpoints = one.get("default", "kubernetes").await.unwrap();
    assert!(one.delete(&endpoints).await.unwrap());
    let slice: EndpointSlice = one.get("default", "kubernetes").await.unwrap();
    assert!(one.delete(&slice).await.unwrap());
    wait_for("the endpoints again", async || addresses(other).await == both).await;
    wait_for("the slice again", async || other.get::<EndpointSlice>("default", "kubernetes").await.is_ok()).await;

    // As if it were killed, and its time over.
    second_task.abort();
    let txn = store::Txn::new().delete("/registry/ferrokube/apiservers/172.30.0.3:6443");
    one.store.commit(&txn).await.unwrap();
    wait_for("the dead server to be gone", async || addresses(one).await == ["172.30.0.2"]).await;
    first.start();
    first_task.await.unwrap();
}
