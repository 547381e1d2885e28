//! Each has a share of its own, whatever others from the same address or with the same name do.

use std::time::Duration;

use api::{
    authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec},
    core::v1::{Namespace, Node, Pod, ServiceAccount},
    ferrokube::v1::{ResourceName, WatchRequest, objects_client::ObjectsClient},
    rbac::v1::{ClusterRole, ClusterRoleBinding},
};
use client::{Api, Transport};
use futures::StreamExt as _;
use serde_json::json;
use tonic::Code;

use crate::{
    flood::{P99, call, code, connect_as, p99},
    support::{HOUR, World, eventually, object},
};

/// A token of a service account for a pod of its own.
async fn pod_token(world: &World, account: &str, pod: &str) -> String {
    let accounts: Api<ServiceAccount> = world.admin().namespaced("default");
    // It may be there already.
    accounts.create(&object(json!({"metadata": {"name": account}}))).await.ok();
    let pods: Api<Pod> = world.admin().namespaced("default");
    let spec = json!({"serviceAccountName": account, "containers": [{"name": "c", "image": "i"}]});
    let pod = pods.create(&object(json!({"metadata": {"name": pod}, "spec": spec}))).await.unwrap();
    let metadata = pod.metadata.unwrap_or_default();
    let bound = BoundObjectReference { kind: "Pod".into(), api_version: "v1".into(), name: metadata.name, uid: metadata.uid };
    let spec = TokenRequestSpec { bound_object_ref: Some(bound), ..TokenRequestSpec::default() };
    let request = TokenRequest { spec: Some(spec), ..TokenRequest::default() };
    let token: TokenRequest = accounts.create_subresource(account, "token", &request).await.unwrap();
    token.status().token.clone()
}

/// Lets everyone who has shown who it is watch namespaces and nodes.
async fn permit_watches(world: &World) {
    let rules = json!([{"verbs": ["watch", "get"], "apiGroups": [""], "resources": ["namespaces", "nodes"]}]);
    let role = object(json!({"metadata": {"name": "watchers"}, "rules": rules}));
    world.admin().all::<ClusterRole>().create(&role).await.unwrap();
    let binding = object(json!({
        "metadata": {"name": "watchers"},
        "subjects": [{"kind": "Group", "name": "system:authenticated", "apiGroup": "rbac.authorization.k8s.io"}],
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "watchers"}
    }));
    world.admin().all::<ClusterRoleBinding>().create(&binding).await.unwrap();
    let ann = world.with_certificate("ann", None, HOUR);
    eventually(async || ann.all::<Namespace>().get("default").await.is_ok()).await;
}

fn watch(resource: &str) -> WatchRequest {
    WatchRequest {
        resource: Some(ResourceName { resource: resource.to_owned(), ..ResourceName::default() }),
        send_initial_events: true,
        ..WatchRequest::default()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pods_keep_out_neither_each_other_nor_their_node() {
    let world = World::new().await;
    permit_watches(&world).await;
    let mut held = Vec::new();
    for pod in ["a", "b", "c"] {
        let token = pod_token(&world, pod, pod).await;
        let mut connection = connect_as(&world, None, 1 << 20).await;
        for _ in 0..260 {
            let mut request = call("Version", []);
            request.headers_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
            held.push(tokio::spawn(connection.send_request(request)));
        }
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    let peaceful = world.with_token(&pod_token(&world, "peaceful", "peaceful").await);
    let node = world.with_certificate("system:node:a", Some("system:nodes"), HOUR);
    for (who, client) in [("a pod", &peaceful), ("the node", &node)] {
        for _ in 0..20 {
            client.all::<Namespace>().get("default").await.unwrap_or_else(|error| panic!("{who}: {error}"));
        }
        let slowest = p99(client).await;
        eprintln!("{who} beside three pods that hold all they may: p99 {slowest:?}");
        assert!(slowest < P99, "{who}: {slowest:?}");
    }
    drop(held);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pods_of_one_account_have_streams_each_and_more_together() {
    let world = World::with_flags(&["--max-streams-per-user=5"]).await;
    permit_watches(&world).await;
    let mut held = Vec::new();
    for i in 0..11 {
        let token = pod_token(&world, "agent", &format!("agent-{i}")).await;
        let mut objects = ObjectsClient::new(world.transport_with_token(&token));
        let mut mine = 0;
        let refusal = loop {
            match objects.watch(watch("namespaces")).await {
                Ok(stream) => held.push(stream),
                Err(refusal) => break refusal,
            }
            mine += 1;
        };
        assert_eq!((mine, refusal.code()), (if i < 10 { 5 } else { 0 }, Code::ResourceExhausted), "pod {i}");
        let whose = if i < 10 { " in pod " } else { "all with a token of" };
        assert!(refusal.message().contains(whose), "{refusal}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_connection_with_two_thousand_watches_holds_no_turn() {
    const STREAMS: usize = 2_048;
    // Six turns: two for nodes, one for each user.
    let world = World::with_flags(&["--max-requests-inflight=6", "--max-streams-per-user=1100"]).await;
    permit_watches(&world).await;
    let transport: Transport = world.transport_of("system:node:a", Some("system:nodes"));
    let node: Node = object(json!({"metadata": {"name": "a"}}));
    world.admin().all::<Node>().create(&node).await.unwrap();
    let objects = ObjectsClient::new(transport);
    let open = futures::stream::iter(0..STREAMS).map(|_| {
        let mut objects = objects.clone();
        async move {
            let mut stream = objects.watch(watch("nodes")).await.unwrap().into_inner();
            assert!(stream.message().await.unwrap().is_some());
            stream
        }
    });
    let open: Vec<_> = open.buffer_unordered(64).collect().await;
    assert_eq!(open.len(), STREAMS);
    let ann = world.with_certificate("ann", None, HOUR);
    let node = world.with_certificate("system:node:b", Some("system:nodes"), HOUR);
    for (who, client) in [("ann", &ann), ("another node", &node), ("an administrator", &world.admin())] {
        let slowest = p99(client).await;
        eprintln!("{who} beside a connection with {STREAMS} watches: p99 {slowest:?}");
        assert!(slowest < P99, "{who}: {slowest:?}");
    }
    // The connection has a turn of its own all the same, and no more streams.
    let mut more = objects.clone();
    let refused = more.watch(watch("nodes"));
    assert!(tokio::time::timeout(Duration::from_millis(300), refused).await.is_err(), "a stream more than it may have");
    drop(open);
    let mut connection = connect_as(&world, Some(("system:node:a", Some("system:nodes"))), 1 << 20).await;
    let mut calls = Vec::new();
    for _ in 0..STREAMS {
        calls.push(tokio::spawn(connection.send_request(call("Version", []))));
    }
    tokio::time::sleep(Duration::from_millis(200)).await;
    let slowest = p99(&ann).await;
    eprintln!("ann beside a connection with {STREAMS} calls without a body: p99 {slowest:?}");
    assert!(slowest < P99, "{slowest:?}");
    for call in calls.into_iter().take(10) {
        assert_ne!(code(async { call.await.unwrap() }).await, Code::Ok);
    }
}
