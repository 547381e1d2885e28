use api::{
    StatusError,
    core::v1::{ConfigMap, Node, Pod},
};
use serde_json::json;

use super::*;
use crate::testing::{MemoryServer, UNREADABLE};

fn map(name: &str, value: &str) -> ConfigMap {
    let mut map = ConfigMap::default();
    map.metadata_mut().name = name.into();
    map.data.insert("k".into(), value.into());
    map
}

#[tokio::test]
async fn an_object_lives_from_create_to_delete() {
    let server = MemoryServer::new();
    let maps = server.client().namespaced::<ConfigMap>("d");
    let created = maps.create(&map("a", "1")).await.unwrap();
    assert_eq!((created.namespace(), created.data["k"].as_str()), ("d", "1"));
    assert!(maps.create(&map("a", "1")).await.unwrap_err().is_already_exists());
    let mut changed = created.clone();
    changed.data.insert("k".into(), "2".into());
    maps.update(&changed).await.unwrap();
    let error = maps.update(&changed).await.unwrap_err();
    assert!(error.is_conflict(), "{error}");
    let patched = maps.patch("a", &Patch::Merge(json!({"data": {"l": "3"}}))).await.unwrap();
    assert_eq!(patched.data.len(), 2);
    let wrong = delete::uid("other");
    assert!(maps.delete("a", &wrong).await.unwrap_err().is_conflict());
    assert!(maps.delete("a", &DeleteOptions::default()).await.unwrap().gone);
    assert!(maps.get("a").await.unwrap_err().is_not_found());
    assert!(maps.get_opt("a").await.unwrap().is_none());
}

#[tokio::test]
async fn a_list_collects_its_chunks_and_obeys_selectors_and_limits() {
    let server = MemoryServer::new();
    for n in 0..1201 {
        let mut object = map(&format!("m{n:04}"), "");
        object.metadata_mut().namespace = if n % 2 == 0 { "even" } else { "odd" }.into();
        object.metadata_mut().labels.insert("third".into(), (n % 3 == 0).to_string());
        server.put(object);
    }
    let client = server.client();
    let all = client.all::<ConfigMap>();
    assert_eq!(all.list(&ListParams::default()).await.unwrap().items.len(), 1201);
    assert_eq!(client.namespaced::<ConfigMap>("odd").list(&ListParams::default()).await.unwrap().items.len(), 600);
    assert_eq!(all.list(&ListParams::default().labels("third=true")).await.unwrap().items.len(), 401);
    let first = all.list(&ListParams::default().limit(1000)).await.unwrap();
    assert_eq!((first.items.len(), first.metadata.remaining_item_count), (1000, Some(201)));
    let rest = ListParams { continue_token: first.metadata.r#continue, ..ListParams::default() };
    assert_eq!(all.list(&rest).await.unwrap().items.len(), 201);
    assert_eq!(client.metadata(ConfigMap::KIND, "").list(&ListParams::default()).await.unwrap().items[0].meta().name, "m0000");
    let dynamic = client.dynamic(ConfigMap::KIND, "").list(&ListParams::default().fields("metadata.name=m0007")).await.unwrap();
    assert_eq!(dynamic.items[0].kind(), ConfigMap::KIND);
}

#[tokio::test]
async fn status_and_the_rest_are_written_apart() {
    let server = MemoryServer::new();
    let nodes = server.client().all::<Node>();
    let mut node = Node::default();
    node.metadata_mut().name = "n".into();
    let mut node = nodes.create(&node).await.unwrap();
    node.status_mut().phase = "Running".into();
    node.spec_mut().unschedulable = true;
    let stored = nodes.update_status(&node).await.unwrap();
    assert_eq!((stored.status().phase.as_str(), stored.spec().unschedulable), ("Running", false));
    node.metadata_mut().resource_version.clear();
    node.status_mut().phase.clear();
    let stored = nodes.update(&node).await.unwrap();
    assert_eq!((stored.status().phase.as_str(), stored.spec().unschedulable), ("Running", true));
}

#[tokio::test(start_paused = true)]
async fn a_read_is_tried_again_and_a_write_is_not() {
    let server = MemoryServer::new();
    let maps = server.client().namespaced::<ConfigMap>("d");
    maps.create(&map("a", "1")).await.unwrap();
    for _ in 0..3 {
        server.fail_next("get", "configmaps", StatusError::unavailable("away"));
    }
    maps.get("a").await.unwrap();
    server.fail_next("update", "configmaps", StatusError::unavailable("away"));
    assert!(maps.update(&map("a", "2")).await.unwrap_err().is_unavailable());
    assert_eq!(server.find::<ConfigMap>("d", "a").unwrap().data["k"], "1");
}

#[tokio::test]
async fn json_and_subresources_of_pods() {
    let server = MemoryServer::new();
    let client = server.client();
    let pods = client.dynamic(Pod::KIND, "d");
    let pod = pods.create_json(&json!({"kind": "Pod", "apiVersion": "v1", "metadata": {"name": "p"}})).await.unwrap();
    let mut binding = api::core::v1::Binding::default();
    binding.metadata_mut().name = "p".into();
    binding.metadata_mut().namespace = "d".into();
    binding.metadata_mut().uid = pod.meta().uid.clone();
    binding.target_mut().name = "n".into();
    client.pods().bind(binding.clone()).await.unwrap();
    assert!(client.pods().bind(binding).await.unwrap_err().is_conflict());
    assert_eq!(server.find::<Pod>("d", "p").unwrap().spec().node_name, "n");
    assert_eq!(server.take_writes(), ["create pods d/p", "bind pods d/p"]);
}

#[tokio::test]
async fn an_object_that_cannot_be_read_is_named_and_never_just_missing() {
    let server = MemoryServer::new();
    for name in ["a", "b", "c"] {
        let mut object = map(name, "");
        object.metadata_mut().namespace = "d".into();
        if name == "b" {
            object.metadata_mut().annotations.insert(UNREADABLE.into(), String::new());
        }
        server.put(object);
    }
    let maps = server.client().namespaced::<ConfigMap>("d");
    let list = maps.list_readable(&ListParams::default()).await.unwrap();
    let names: Vec<_> = list.items.iter().map(Resource::name).collect();
    assert_eq!((names, list.unreadable[0].to_string().as_str()), (vec!["a", "c"], "cannot read the v1/ConfigMap d/b"));
    let error = maps.list(&ListParams::default()).await.unwrap_err();
    assert!(matches!(error, Error::Unreadable { .. }), "{error}");
    // Its metadata can be read.
    assert_eq!(server.client().metadata(ConfigMap::KIND, "d").list(&ListParams::default()).await.unwrap().items.len(), 3);
}
