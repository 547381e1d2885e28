//! Objects as Kubernetes JSON, for clients without the protobuf types.

use api::{
    ferrokube::v1::{
        CreateRequest, DeleteRequest, GetRequest, ListRequest, PatchRequest, ResourceName, WatchRequest, WriteOptions,
        patch_request, watch_event,
    },
    meta::v1::DeleteOptions,
};
use serde_json::{Value, json};

use crate::support::World;

fn resource(plural: &str) -> Option<ResourceName> {
    Some(ResourceName { resource: plural.to_owned(), ..ResourceName::default() })
}

fn parsed(bytes: &[u8]) -> Value {
    serde_json::from_slice(bytes).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_answer_can_be_kubernetes_json() {
    let world = World::new().await;
    let mut objects = world.objects();
    let namespace = || "default".to_owned();
    let options = || Some(WriteOptions { as_json: true, ..WriteOptions::default() });

    let template = json!({"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i:1"}]}});
    let controller = json!({"metadata": {"name": "web"}, "spec": {"replicas": 2, "template": template}});
    let create = CreateRequest {
        resource: resource("replicationcontrollers"),
        namespace: namespace(),
        json: controller.to_string().into(),
        options: options(),
        ..CreateRequest::default()
    };
    let created = objects.create(create).await.unwrap().into_inner();
    assert_eq!((created.object, created.warnings), (None, Vec::new()));
    let created = parsed(&created.json);
    assert_eq!((&created["apiVersion"], &created["kind"]), (&json!("v1"), &json!("ReplicationController")));
    assert_eq!(created["spec"]["template"]["spec"]["containers"][0]["image"], "i:1");
    let revision = created["metadata"]["resourceVersion"].as_str().unwrap();
    assert!(revision.parse::<u64>().is_ok() && created["metadata"]["creationTimestamp"].as_str().unwrap().ends_with('Z'));

    let get = |subresource: &str| GetRequest {
        resource: resource("replicationcontrollers"),
        namespace: namespace(),
        name: "web".to_owned(),
        subresource: subresource.to_owned(),
        as_json: true,
    };
    assert_eq!(parsed(&objects.get(get("")).await.unwrap().into_inner().json), created);
    let scale = parsed(&objects.get(get("scale")).await.unwrap().into_inner().json);
    assert_eq!(
        (&scale["kind"], &scale["apiVersion"], &scale["spec"]["replicas"]),
        (&json!("Scale"), &json!("autoscaling/v1"), &json!(2))
    );

    let list = ListRequest { resource: resource("replicationcontrollers"), as_json: true, limit: -1, ..ListRequest::default() };
    let chunk = objects.list(list.clone()).await.unwrap().into_inner().message().await.unwrap().unwrap();
    assert!(chunk.items.is_empty() && chunk.warnings.is_empty());
    assert_eq!(chunk.json_items.iter().map(|item| parsed(item)).collect::<Vec<_>>(), std::slice::from_ref(&created));
    let list = ListRequest { metadata_only: true, ..list };
    let chunk = objects.list(list).await.unwrap().into_inner().message().await.unwrap().unwrap();
    let partial =
        json!({"apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata", "metadata": created["metadata"].clone()});
    assert_eq!(chunk.json_items.iter().map(|item| parsed(item)).collect::<Vec<_>>(), [partial]);

    let watch = WatchRequest {
        resource: resource("replicationcontrollers"),
        send_initial_events: true,
        as_json: true,
        ..WatchRequest::default()
    };
    let mut changes = objects.watch(watch).await.unwrap().into_inner();
    let patch = PatchRequest {
        resource: resource("replicationcontrollers"),
        namespace: namespace(),
        name: "web".to_owned(),
        r#type: patch_request::Type::Merge as i32,
        patch: br#"{"spec": {"replicas": 3}}"#[..].into(),
        options: options(),
        ..PatchRequest::default()
    };
    let patched = parsed(&objects.patch(patch).await.unwrap().into_inner().json);
    assert_eq!(patched["spec"]["replicas"], 3);
    let delete = DeleteRequest {
        resource: resource("replicationcontrollers"),
        namespace: namespace(),
        name: "web".to_owned(),
        // By default a controller waits for its pods to be orphaned.
        options: Some(DeleteOptions { propagation_policy: Some("Background".to_owned()), ..DeleteOptions::default() }),
        as_json: true,
    };
    let deleted = objects.delete(delete).await.unwrap().into_inner();
    assert_eq!((deleted.object, &parsed(&deleted.json)["metadata"]["name"]), (None, &json!("web")));

    let mut seen = Vec::new();
    while seen.last().is_none_or(|(kind, _)| *kind != watch_event::Type::Deleted) {
        for event in changes.message().await.unwrap().unwrap().events {
            assert!(event.object.is_none());
            match event.r#type() {
                watch_event::Type::Bookmark => assert!(event.json.is_empty() && event.initial_events_end),
                kind => seen.push((kind, parsed(&event.json)["spec"]["replicas"].clone())),
            }
        }
    }
    let expected = [(watch_event::Type::Added, 2), (watch_event::Type::Modified, 3), (watch_event::Type::Deleted, 3)];
    assert_eq!(seen, expected.map(|(kind, replicas)| (kind, json!(replicas))));
}
