//! Leaders that were paused, and a server that ends.

use std::{pin::Pin, time::Duration};

use api::{
    StatusError,
    coordination::v1::Lease,
    core::v1::ConfigMap,
    discovery::v1::EndpointSlice,
    ferrokube::v1::{CreateRequest, ResourceName, objects_client::ObjectsClient},
    rbac::v1::{Role, RoleBinding},
};
use apiserver::layout;
use client::{Api, Client, Error, LeaderElection, LeaderError, Leadership, ListParams};
use daemon::{Kit, Shutdown};
use serde_json::json;
use store::{ReadAt, Store};

use crate::support::{ADVERTISED, World, eventually, object};

fn election(identity: &str) -> LeaderElection {
    let mut election = LeaderElection::new("test");
    identity.clone_into(&mut election.identity);
    election.lease_duration = Duration::from_secs(1);
    // A process that was paused does not know it: by its own clock it leads long after the lease has run out.
    election.renew_deadline = Duration::from_secs(600);
    election.retry_period = Duration::from_millis(100);
    election
}

type Leading<'a> = Pin<Box<dyn Future<Output = Result<(), LeaderError>> + 'a>>;

/// The client of a leader that is paused as soon as it leads: what makes it lead is not polled any more.
async fn pause(leadership: Leadership, kit: &Kit) -> (Client, Leading<'_>) {
    let (sender, started) = tokio::sync::oneshot::channel();
    let mut leading: Leading<'_> = Box::pin(leadership.lead(kit, move |client, _| drop(sender.send(client))));
    let client = tokio::select! {
        biased;
        ended = &mut leading => panic!("{ended:?}"),
        client = started => client.unwrap(),
    };
    (client, leading)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_late_write_of_a_paused_leader_is_refused() {
    let world = World::new().await;
    let (admin, shutdown) = (world.admin(), Shutdown::new());
    let kit = Kit::new();
    let (old, _paused) = pause(election("paused").acquire(&admin, &shutdown).await.unwrap(), &kit).await;
    let name = |name: &str| object::<ConfigMap>(json!({"metadata": {"name": name}}));
    let maps = |client: &Client| -> Api<ConfigMap> { client.namespaced("default") };
    let first = maps(&old).create(&name("while-leading")).await.unwrap();

    // It does not renew, so that another one takes over.
    let (new, _successor) = pause(election("successor").acquire(&admin, &shutdown).await.unwrap(), &kit).await;
    maps(&new).create(&name("of-the-successor")).await.unwrap();
    let refused = |error: Error| {
        let Error::Api(status) = error else { panic!("{error}") };
        assert!(status.is_conflict(), "{status}");
        assert_eq!(
            status.message(),
            "Operation cannot be fulfilled on leases.coordination.k8s.io \"test\": \"paused\" does not lead: the lease is held by \
             \"successor\""
        );
    };
    refused(maps(&old).create(&name("late")).await.unwrap_err());
    refused(maps(&old).update(&ConfigMap { data: [("a".into(), "b".into())].into(), ..first.clone() }).await.unwrap_err());
    refused(maps(&old).patch("while-leading", &client::Patch::Merge(json!({"data": {"a": "b"}}))).await.unwrap_err());
    refused(maps(&old).delete("while-leading", &Default::default()).await.unwrap_err());
    refused(maps(&old).delete_collection(&Default::default(), &ListParams::default()).await.unwrap_err());

    let list = maps(&admin).list(&ListParams::default()).await.unwrap();
    let names: Vec<_> = list.items.iter().map(|map| (map.metadata().name.as_str(), map.data.len())).collect();
    assert_eq!(names, [("of-the-successor", 0), ("while-leading", 0)]);
    assert_eq!(list.items[1].metadata().resource_version, first.metadata().resource_version);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_may_not_read_a_lease_learns_nothing_of_it_by_writing() {
    let world = World::new().await;
    let lease = object::<Lease>(json!({"metadata": {"name": "secret"}, "spec": {"holderIdentity": "somebody"}}));
    world.admin().namespaced::<Lease>("kube-system").create(&lease).await.unwrap();
    let rules = json!([{"verbs": ["create"], "apiGroups": [""], "resources": ["configmaps"]}]);
    let role = object(json!({"metadata": {"name": "maps"}, "rules": rules}));
    world.admin().namespaced::<Role>("default").create(&role).await.unwrap();
    let binding = object(json!({
        "metadata": {"name": "maps"},
        "subjects": [{"kind": "User", "name": "ann", "apiGroup": "rbac.authorization.k8s.io"}],
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "maps"}
    }));
    world.admin().namespaced::<RoleBinding>("default").create(&binding).await.unwrap();
    let create = async |lease: &str| {
        let mut request = tonic::Request::new(CreateRequest {
            resource: Some(ResourceName { resource: "configmaps".to_owned(), ..ResourceName::default() }),
            namespace: "default".to_owned(),
            json: br#"{"metadata": {"generateName": "a-"}}"#[..].into(),
            ..CreateRequest::default()
        });
        if !lease.is_empty() {
            request.metadata_mut().insert(client::fence::HEADER, lease.parse().unwrap());
        }
        ObjectsClient::new(world.transport_of("ann", None)).create(request).await.map(drop).map_err(StatusError::from)
    };
    eventually(async || create("").await.is_ok()).await;
    for (lease, name) in
        [("kube-system/secret=ann;0", "secret"), ("kube-system/secret=somebody;0", "secret"), ("kube-system/none=ann;0", "none")]
    {
        let error = create(lease).await.unwrap_err();
        let expected = format!(
            "leases.coordination.k8s.io {name:?} is forbidden: User \"ann\" cannot get resource \"leases\" in API group \
             \"coordination.k8s.io\" in the namespace \"kube-system\""
        );
        assert_eq!(error.message(), expected, "{lease}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_ends_is_no_endpoint_any_more() {
    let world = World::new().await;
    let slices: Api<EndpointSlice> = world.admin().namespaced("default");
    let addresses = |slice: &EndpointSlice| slice.endpoints.iter().flat_map(|e| e.addresses.clone()).collect::<Vec<_>>();
    eventually(async || slices.get("kubernetes").await.is_ok_and(|slice| addresses(&slice) == [ADVERTISED])).await;

    world.kit.shutdown.start();
    tokio::time::timeout(Duration::from_secs(20), world.kit.tasks.all_ended()).await.expect("it drains");
    assert_eq!(world.kit.tasks.failed_already(), None);
    let (store, runner) = Store::new(world.etcd.config(), layout::layouts(Duration::from_secs(60))).unwrap();
    let running = Shutdown::new();
    tokio::spawn(runner.run(running.token().clone()));
    let slices = store.collection("endpointslices.discovery.k8s.io").unwrap();
    let entry = slices.get("default", "kubernetes", ReadAt::Latest).await.unwrap();
    let slice: EndpointSlice = prost::Message::decode(entry.object()).unwrap();
    assert_eq!(addresses(&slice), Vec::<String>::new());
    running.start();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_has_lost_etcd_is_not_ready_until_it_is_back() {
    let mut world = World::new().await;
    let health = world.kit.health.clone();
    let becomes = async |wanted: bool| {
        let wait = async {
            while health.is_ready() != wanted {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), wait).await.unwrap_or_else(|_| panic!("ready is not {wanted} in time"));
    };
    becomes(true).await;
    world.etcd.kill(0).unwrap();
    becomes(false).await;
    world.etcd.restart(0).unwrap();
    becomes(true).await;
}
