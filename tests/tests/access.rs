//! Who may do what, and what several writers at once can break: items 7 and 8 of what the first cluster must show.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests state their claims by unwrapping, in their helpers too"
)]

use std::{collections::BTreeSet, time::Duration};

use anyhow::ensure;
use api::{
    authentication::v1::TokenRequest,
    core::v1::{ConfigMap, Namespace as ApiNamespace, Node, Pod, ResourceQuota, Secret, Service, ServiceAccount},
    rbac::v1::{Role, RoleBinding},
};
use client::{Client, Error, ListParams};
use futures::{StreamExt, stream};
use serde_json::{Value, json};
use tests::{
    Cluster, Daemon, Host, etcd,
    kube::{self, Namespace, PODS_READY},
    wait,
};

fn reason(error: &Error) -> String {
    error.status().map_or_else(|| format!("no status: {error:?}"), |status| status.status().reason.clone())
}

fn pod(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": { "name": name },
        "spec": { "nodeName": "", "containers": [{ "name": "c", "image": "nothing:1" }] },
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn services_created_through_two_servers_at_once_get_different_addresses() {
    let cluster = Cluster::for_tests().unwrap();
    let servers = cluster.hosts_of(Daemon::Apiserver);
    assert!(servers.len() >= 2, "needs a cluster of two API servers: up --apiservers 2");
    let namespace = Namespace::new(&cluster, "addresses").unwrap();
    let clients: Vec<Client> = servers.iter().map(|host| cluster.client_to(host).unwrap()).collect();
    let create = |number: usize| {
        let services = clients[number % clients.len()].namespaced::<Service>(&namespace.name);
        let service = json!({
            "apiVersion": "v1", "kind": "Service", "metadata": { "name": format!("s{number}") },
            "spec": { "type": if number.is_multiple_of(10) { "NodePort" } else { "ClusterIP" }, "ports": [{ "port": 80 }] },
        });
        async move { services.create_json(&service).await.unwrap() }
    };
    let made: Vec<Service> = stream::iter(0..500).map(create).buffer_unordered(32).collect().await;
    let addresses: BTreeSet<_> = made.iter().map(|service| service.spec().cluster_ip.clone()).collect();
    assert_eq!(addresses.len(), 500);
    assert!(!addresses.contains(""));
    let ports: BTreeSet<_> =
        made.iter().flat_map(|service| &service.spec().ports).map(|port| port.node_port).filter(|port| *port > 0).collect();
    assert_eq!(ports.len(), 50);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quota_holds_under_parallel_creation() {
    let cluster = Cluster::for_tests().unwrap();
    let namespace = Namespace::new(&cluster, "quota").unwrap();
    let servers = cluster.hosts_of(Daemon::Apiserver);
    let clients: Vec<Client> = servers.iter().map(|host| cluster.client_to(host).unwrap()).collect();
    let quotas = clients[0].namespaced::<ResourceQuota>(&namespace.name);
    let quota = json!({
        "apiVersion": "v1", "kind": "ResourceQuota", "metadata": { "name": "five" }, "spec": { "hard": { "pods": "5" } },
    });
    quotas.create_json(&quota).await.unwrap();
    wait::until_async("the quota to be counted", Duration::from_secs(10), || async {
        let quota = quotas.get("five").await?;
        ensure!(quota.status().hard.contains_key("pods"), "{:?}", quota.status());
        Ok(())
    })
    .await
    .unwrap();
    let create = |number: usize| {
        let pods = clients[number % clients.len()].namespaced::<Pod>(&namespace.name);
        async move { pods.create_json(&pod(&format!("p{number}"))).await }
    };
    let outcomes: Vec<_> = stream::iter(0..40).map(create).buffer_unordered(20).collect().await;
    let refused: BTreeSet<_> = outcomes.iter().filter_map(|outcome| outcome.as_ref().err()).map(reason).collect();
    assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 5, "{refused:?}");
    assert_eq!(refused, BTreeSet::from(["Forbidden".to_owned()]));
}

#[tokio::test(flavor = "multi_thread")]
async fn deleting_a_namespace_empties_it() {
    let cluster = Cluster::for_tests().unwrap();
    let namespace = Namespace::new(&cluster, "emptied").unwrap();
    let client = cluster.client().unwrap();
    namespace.apply(&kube::guestbooks("web", 2)).unwrap();
    namespace.apply(&kube::service("web", "web", "")).unwrap();
    namespace.wait_pods("app=web", 2, PODS_READY).unwrap();
    let map = json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "m" } });
    client.namespaced::<ConfigMap>(&namespace.name).create_json(&map).await.unwrap();
    let namespaces = client.all::<ApiNamespace>();
    namespaces.delete(&namespace.name, &client::delete::now()).await.ok();
    wait::until_async("the namespace to be gone", Duration::from_secs(60), || async {
        let there = namespaces.get_opt(&namespace.name).await?;
        ensure!(there.is_none(), "{:?}", there.map(|there| there.status().clone()));
        Ok(())
    })
    .await
    .unwrap();
    let urls = etcd::client_urls(&cluster).join(",");
    let keys = etcd::etcdctl(&cluster, &urls, &["get", "--prefix", "--keys-only", "/registry/"]).unwrap();
    let left: Vec<_> = keys
        .lines()
        .filter(|key| key.split('/').any(|part| part == namespace.name))
        .filter(|key| !key.contains("/events/"))
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_can_do_what_rbac_grants_and_nothing_else() {
    let cluster = Cluster::for_tests().unwrap();
    let namespace = Namespace::new(&cluster, "tokens").unwrap();
    let admin = cluster.client().unwrap();
    let accounts = admin.namespaced::<ServiceAccount>(&namespace.name);
    let answer = accounts.create_subresource("default", "token", &TokenRequest::default()).await.unwrap();
    let token = answer.status().token.clone();
    let holder = cluster.client_with_token(Some(&token)).unwrap();
    let pods = holder.namespaced::<Pod>(&namespace.name);
    assert_eq!(reason(&pods.list(&ListParams::default()).await.unwrap_err()), "Forbidden");

    let role = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": { "name": "reader" },
        "rules": [{ "apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list"] }],
    });
    let binding = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": { "name": "reader" },
        "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "reader" },
        "subjects": [{ "kind": "ServiceAccount", "name": "default", "namespace": namespace.name }],
    });
    admin.namespaced::<Role>(&namespace.name).create_json(&role).await.unwrap();
    admin.namespaced::<RoleBinding>(&namespace.name).create_json(&binding).await.unwrap();
    wait::until_async("the grant", Duration::from_secs(5), || async { Ok(pods.list(&ListParams::default()).await?) })
        .await
        .unwrap();
    assert_eq!(reason(&pods.create_json(&pod("p")).await.unwrap_err()), "Forbidden");
    let secrets = holder.namespaced::<Secret>(&namespace.name);
    assert_eq!(reason(&secrets.list(&ListParams::default()).await.unwrap_err()), "Forbidden");
    let elsewhere = holder.namespaced::<Pod>("kube-system");
    assert_eq!(reason(&elsewhere.list(&ListParams::default()).await.unwrap_err()), "Forbidden");

    let altered = format!("{}x", &token[..token.len() - 1]);
    let stranger = cluster.client_with_token(Some(&altered)).unwrap();
    assert_eq!(reason(&stranger.all::<Node>().list(&ListParams::default()).await.unwrap_err()), "Unauthorized");
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_reads_anything_but_the_version() {
    let cluster = Cluster::for_tests().unwrap();
    let nobody = cluster.client_with_token(None).unwrap();
    assert_eq!(reason(&nobody.all::<Node>().list(&ListParams::default()).await.unwrap_err()), "Unauthorized");
    assert!(!nobody.version().await.unwrap().git_version.is_empty());
    let anybody = cluster.client_for("somebody", Some("some-group")).unwrap();
    assert_eq!(reason(&anybody.all::<Node>().list(&ListParams::default()).await.unwrap_err()), "Forbidden");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kubelet_reads_only_the_secrets_of_its_own_pods_and_changes_only_its_own_node() {
    let cluster = Cluster::for_tests().unwrap();
    let namespace = Namespace::new(&cluster, "secrets").unwrap();
    let admin = cluster.client().unwrap();
    let secret = json!({ "apiVersion": "v1", "kind": "Secret", "metadata": { "name": "s" }, "stringData": { "key": "value" } });
    admin.namespaced::<Secret>(&namespace.name).create_json(&secret).await.unwrap();
    let env = "env: [{name: KEY, valueFrom: {secretKeyRef: {name: s, key: key}}}]";
    namespace.apply(&kube::busybox("user", env)).unwrap();
    let user = namespace.wait_pod("user").unwrap();
    assert_eq!(namespace.exec("user", "main", &["sh", "-c", "echo $KEY"]).unwrap(), "value\n");
    for host in cluster.nodes() {
        let kubelet = cluster.client_as(&format!("kubelet-{}", host.name)).unwrap();
        let read = kubelet.namespaced::<Secret>(&namespace.name).get("s").await;
        if host.name == user.node {
            read.unwrap();
        } else {
            assert_eq!(reason(&read.unwrap_err()), "Forbidden", "{}", host.name);
            let other = kubelet.all::<Node>();
            let patch = client::Patch::Merge(json!({ "metadata": { "labels": { "owned": "yes" } } }));
            assert_eq!(reason(&other.patch(&user.node, &patch).await.unwrap_err()), "Forbidden");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_instances_one_works_and_the_other_takes_over() {
    let cluster = Cluster::for_tests().unwrap();
    let hosts = cluster.hosts_of(Daemon::ControllerManager);
    assert!(hosts.len() >= 2, "needs a cluster of two controller managers: up --apiservers 2");
    let holder = || {
        let lease = cluster.kctl_json(&["-n", "kube-system", "get", "lease", "kube-controller-manager"])?;
        let holder = lease["spec"]["holderIdentity"].as_str().unwrap_or_default().to_owned();
        ensure!(!holder.is_empty(), "{lease}");
        Ok(holder)
    };
    let before = holder().unwrap();
    let is_leader = |host: &&Host| before.starts_with(&format!("{}_", host.name));
    let leader = hosts.iter().find(is_leader).unwrap_or_else(|| panic!("{before} names no host"));
    let process = cluster.process(leader, Daemon::ControllerManager).unwrap();
    cluster.pause(leader, Daemon::ControllerManager).unwrap();
    let after = wait::until("another leader", Duration::from_secs(40), || {
        let after = holder()?;
        ensure!(after != before, "still {after}");
        Ok(after)
    });
    cluster.resume(leader, Daemon::ControllerManager).unwrap();
    let after = after.unwrap();
    // A leader that finds itself replaced ends. Started again, it stands by and does not take the lease from the other.
    process.wait_end(Duration::from_secs(20)).unwrap();
    cluster.start(leader, Daemon::ControllerManager).unwrap();
    assert_eq!(holder().unwrap(), after);
}
