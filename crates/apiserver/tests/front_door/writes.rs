//! Writes as upstream's clients make them: a PUT that creates, an eviction, remarks on what was taken.

use std::sync::Arc;

use api::{
    core::v1::{Endpoints, Namespace, Pod, ServiceAccount},
    policy::v1::Eviction,
    rbac::v1::{Role, RoleBinding},
    status::Reason,
};
use client::{Error, ListParams};
use parking_lot::Mutex;
use serde_json::json;

use crate::support::{HOUR, World, object};

fn reason<T: std::fmt::Debug>(result: client::Result<T>) -> Reason {
    match result.unwrap_err() {
        Error::Api(status) => status.reason(),
        other => panic!("{other}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_put_creates_for_those_who_may_create() {
    let world = World::new().await;
    let admin = world.admin();
    let endpoints: Endpoints = object(json!({"metadata": {"name": "db", "namespace": "default"},
        "subsets": [{"addresses": [{"ip": "192.0.2.9"}], "ports": [{"port": 5432, "protocol": "TCP"}]}]}));
    let role = json!({"metadata": {"name": "writer", "namespace": "default"},
        "rules": [{"apiGroups": [""], "resources": ["endpoints"], "verbs": ["update"]}]});
    admin.namespaced::<Role>("default").create(&object(role)).await.unwrap();
    let binding = json!({"metadata": {"name": "writer", "namespace": "default"}, "subjects": [{"kind": "User", "name": "jane"}],
        "roleRef": {"kind": "Role", "name": "writer"}});
    admin.namespaced::<RoleBinding>("default").create(&object(binding)).await.unwrap();
    let jane = world.with_certificate("jane", None, HOUR).namespaced::<Endpoints>("default");
    assert_eq!(reason(jane.update(&endpoints).await), Reason::Forbidden);
    let admins = admin.namespaced::<Endpoints>("default");
    let created = admins.update(&endpoints).await.unwrap();
    assert!(!created.metadata.unwrap().uid.is_empty());
    jane.update(&endpoints).await.unwrap();

    let pod: Pod = object(json!({"metadata": {"name": "web", "namespace": "default"},
        "spec": {"containers": [{"name": "a", "image": "a:1"}]}}));
    assert_eq!(reason(admin.namespaced::<Pod>("default").update(&pod).await), Reason::NotFound);
    let all = admin.all::<Namespace>().delete_collection(&Default::default(), &ListParams::default()).await;
    assert_eq!(reason(all), Reason::MethodNotAllowed);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_no_node_can_run_is_taken_with_a_remark_and_an_eviction_is_of_the_pod_it_names() {
    let world = World::new().await;
    let remarks = Arc::new(Mutex::new(Vec::new()));
    let heard = remarks.clone();
    let admin = world.admin().on_warning(move |remark| heard.lock().push(remark.to_owned()));
    let account = json!({"metadata": {"name": "default", "namespace": "default"}});
    admin.namespaced::<ServiceAccount>("default").create(&object(account)).await.unwrap();
    let pods = admin.namespaced::<Pod>("default");
    let pod: Pod = object(json!({"metadata": {"name": "web", "namespace": "default"}, "spec": {
        "initContainers": [{"name": "i", "image": "i:1"}], "containers": [{"name": "a", "image": "a:1"}]}}));
    pods.create(&pod).await.unwrap();
    let said = "spec.initContainers: init containers are not supported by this kubelet yet: nodes will not run the pod";
    assert_eq!(std::mem::take(&mut *remarks.lock()), [said]);
    pods.patch("web", &client::Patch::Merge(json!({"metadata": {"labels": {"a": "b"}}}))).await.unwrap();
    assert_eq!(remarks.lock().len(), 1);
    let eviction: Eviction = object(json!({"metadata": {"name": "other", "namespace": "default"}}));
    assert_eq!(reason(pods.create_subresource("web", "eviction", &eviction).await), Reason::BadRequest);
    assert!(pods.get_opt("web").await.unwrap().is_some());
    let eviction: Eviction = object(json!({"metadata": {"name": "web", "namespace": "default"}}));
    pods.create_subresource("web", "eviction", &eviction).await.unwrap();
    assert!(pods.get_opt("web").await.unwrap().is_none());
}
