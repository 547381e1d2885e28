use std::time::Duration;

use api::core::v1::{ConfigMap, Node as ApiNode, Secret};
use client::{delete, testing::MemoryServer};
use serde_json::{Value, json};

use super::*;
use crate::testing::{context, object};

fn map(name: &str, uid: &str, owners: Value) -> ConfigMap {
    object(json!({"metadata": {"namespace": "d", "name": name, "uid": uid, "ownerReferences": owners}}))
}

fn secret(name: &str, uid: &str, owners: Value) -> Secret {
    object(json!({"metadata": {"namespace": "d", "name": name, "uid": uid, "ownerReferences": owners}}))
}

fn owner(name: &str, uid: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "name": name, "uid": uid, "blockOwnerDeletion": true})
}

fn has(server: &MemoryServer, name: &str) -> bool {
    server.find::<ConfigMap>("d", name).is_some() || server.find::<Secret>("d", name).is_some()
}

async fn settle() {
    tokio::time::sleep(Duration::from_millis(150)).await;
}

#[tokio::test]
async fn what_nobody_owns_any_more_goes_and_the_rest_lets_go() {
    let server = MemoryServer::new();
    server.put(map("owner", "o", json!([])));
    server.put(secret("child", "c", json!([owner("owner", "o")])));
    server.put(secret("grandchild", "g", json!([{"apiVersion": "v1", "kind": "Secret", "name": "child", "uid": "c"}])));
    server.put(secret("shared", "s", json!([owner("owner", "o"), owner("other", "p")])));
    server.put(map("other", "p", json!([])));
    server.put(secret("free", "f", json!([])));
    let context = context(&server);
    start(&context);
    context.informers.synced().await;
    settle().await;
    assert_eq!(server.take_writes(), [""; 0]);
    context.client.namespaced::<ConfigMap>("d").delete("owner", &delete::propagation("Background")).await.unwrap();
    server.eventually(|server| !has(server, "child") && !has(server, "grandchild")).await;
    let let_go = |server: &MemoryServer| server.find::<Secret>("d", "shared").unwrap().metadata().owner_references.len() == 1;
    server.eventually(let_go).await;
    assert!(has(&server, "free") && has(&server, "other"));
}

#[tokio::test]
async fn an_owner_of_the_same_name_but_another_uid_is_no_owner() {
    let server = MemoryServer::new();
    server.put(map("owner", "new", json!([])));
    server.put(secret("child", "c", json!([owner("owner", "old")])));
    let context = context(&server);
    start(&context);
    server.eventually(|server| !has(server, "child")).await;
    assert!(has(&server, "owner"));
}

#[tokio::test]
async fn in_the_foreground_dependents_go_first() {
    let server = MemoryServer::new();
    server.put(map("owner", "o", json!([])));
    let mut child = secret("child", "c", json!([owner("owner", "o")]));
    child.metadata_mut().finalizers = vec!["x.io/wait".into()];
    server.put(child);
    server.put(secret("bystander", "b", json!([{"apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "uid": "o"}])));
    let context = context(&server);
    start(&context);
    context.informers.synced().await;
    context.client.namespaced::<ConfigMap>("d").delete("owner", &delete::propagation("Foreground")).await.unwrap();
    let deleting = |server: &MemoryServer| server.find::<Secret>("d", "child").unwrap().metadata().deletion_timestamp.is_some();
    server.eventually(deleting).await;
    settle().await;
    assert!(has(&server, "owner"));
    let mut child = server.find::<Secret>("d", "child").unwrap();
    child.metadata_mut().finalizers.clear();
    context.client.namespaced::<Secret>("d").update(&child).await.unwrap();
    server.eventually(|server| !has(server, "owner") && !has(server, "child") && !has(server, "bystander")).await;
}

#[tokio::test]
async fn orphans_stay() {
    let server = MemoryServer::new();
    server.put(map("owner", "o", json!([])));
    server.put(secret("child", "c", json!([owner("owner", "o")])));
    let context = context(&server);
    start(&context);
    context.informers.synced().await;
    context.client.namespaced::<ConfigMap>("d").delete("owner", &delete::propagation("Orphan")).await.unwrap();
    server.eventually(|server| !has(server, "owner")).await;
    settle().await;
    assert_eq!(server.find::<Secret>("d", "child").unwrap().metadata().owner_references.len(), 0);
}

#[tokio::test]
async fn orphans_stay_also_those_that_no_local_copy_shows_yet() {
    let server = MemoryServer::new();
    server.put(map("owner", "o", json!([])));
    let context = context(&server);
    start(&context);
    context.informers.synced().await;
    // No watch brings what happens now before it is over.
    for _ in 0..50 {
        server.fail_next("watch", "secrets", api::StatusError::unavailable("away"));
    }
    server.disconnect();
    server.put(secret("child", "c", json!([owner("owner", "o")])));
    context.client.namespaced::<ConfigMap>("d").delete("owner", &delete::propagation("Orphan")).await.unwrap();
    server.eventually(|server| !has(server, "owner")).await;
    assert_eq!(server.find::<Secret>("d", "child").unwrap().metadata().owner_references.len(), 0);
}

#[tokio::test]
async fn owners_that_cannot_be_judged_keep_what_they_own() {
    let server = MemoryServer::new();
    let unknown = json!([{"apiVersion": "x.io/v1", "kind": "Thing", "name": "t", "uid": "u"}]);
    server.put(secret("child", "c", unknown));
    let node: ApiNode = object(json!({"metadata": {"name": "n", "ownerReferences": [owner("owner", "o")]}}));
    server.put(node);
    let context = context(&server);
    start(&context);
    context.informers.synced().await;
    settle().await;
    assert!(has(&server, "child") && server.find::<ApiNode>("", "n").is_some());
}
