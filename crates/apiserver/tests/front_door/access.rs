//! Who gets in, with good and bad credentials.

use std::time::Duration;

use api::{
    authentication::v1::TokenRequest,
    core::v1::{Pod, Secret, ServiceAccount},
    rbac::v1::{Role, RoleBinding},
    status::Reason,
};
use client::{Api, Client, Error, ListParams};
use daemon::pki::Ca;
use serde_json::json;

use crate::support::{HOUR, World, eventually, object, request};

/// Why a list of pods is refused; `None` if it is not, `Some(None)` if there is no connection at all.
async fn refused(client: &Client) -> Option<Option<Reason>> {
    match client.namespaced::<Pod>("default").list(&ListParams::default()).await {
        Ok(_) => None,
        Err(Error::Api(status)) => Some(Some(status.reason())),
        Err(_) => Some(None),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_anonymous_but_version_and_health() {
    let world = World::new().await;
    let anonymous = world.anonymous();
    assert_eq!(anonymous.version().await.unwrap().api_level, api::API_LEVEL);
    assert_eq!(refused(&anonymous).await, Some(Some(Reason::Unauthorized)));
    assert!(anonymous.kinds().await.is_err());
    assert_eq!(refused(&world.admin()).await, None);
    let metrics = world.kit.metrics.encode().unwrap();
    for line in [
        "apiserver_request_total{verb=\"LIST\",group=\"\",version=\"v1\",resource=\"pods\",subresource=\"\",scope=\"namespace\",code=\"200\"} 1",
        "apiserver_request_total{verb=\"\",group=\"\",version=\"\",resource=\"\",subresource=\"\",scope=\"\",code=\"401\"} 2",
        "apiserver_current_inflight_requests{request_kind=\"readOnly\"} 0",
        "apiserver_storage_objects{resource=\"pods\"} 0",
    ] {
        assert!(metrics.contains(line), "{line} in {metrics}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_certificates_do_not_get_in() {
    let world = World::new().await;
    // Of another CA: refused in the handshake.
    let (foreign, _) = Ca::create("foreign", HOUR).unwrap();
    let pair = foreign.issue(&request("kubernetes-admin", Some("system:masters"), HOUR)).unwrap();
    assert_eq!(refused(&world.with_pair(&pair)).await, Some(None));

    // One that expires while the connection lives, then for a new connection.
    let pair = world.ca.issue(&request("kubernetes-admin", Some("system:masters"), Duration::from_secs(3))).unwrap();
    let brief = world.with_pair(&pair);
    assert_eq!(refused(&brief).await, None);
    eventually(async || refused(&brief).await.is_some()).await;
    assert_eq!(refused(&brief).await, Some(Some(Reason::Unauthorized)));
    eventually(async || refused(&world.with_pair(&pair)).await == Some(None)).await;

    // Good, but nobody gave its user anything; nor can one make oneself a node.
    assert_eq!(refused(&world.with_certificate("ann", None, HOUR)).await, Some(Some(Reason::Forbidden)));
    assert_eq!(refused(&world.with_certificate("system:node:n1", None, HOUR)).await, Some(Some(Reason::Forbidden)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_can_do_what_roles_grant_and_nothing_else() {
    let world = World::new().await;
    let admin = world.admin();
    let accounts: Api<ServiceAccount> = admin.namespaced("default");
    accounts.create(&object(json!({"metadata": {"name": "reader"}}))).await.unwrap();
    let token: TokenRequest = accounts.create_subresource("reader", "token", &TokenRequest::default()).await.unwrap();
    let reader = world.with_token(&token.status().token);
    assert_eq!(refused(&reader).await, Some(Some(Reason::Forbidden)));

    let rules = json!([{"verbs": ["list"], "apiGroups": [""], "resources": ["pods"]}]);
    let role = object(json!({"metadata": {"name": "pods"}, "rules": rules}));
    admin.namespaced::<Role>("default").create(&role).await.unwrap();
    let binding = object(json!({
        "metadata": {"name": "pods"},
        "subjects": [{"kind": "ServiceAccount", "name": "reader", "namespace": "default"}],
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "pods"}
    }));
    admin.namespaced::<RoleBinding>("default").create(&binding).await.unwrap();
    eventually(async || refused(&reader).await.is_none()).await;

    let error = reader.namespaced::<Secret>("default").list(&ListParams::default()).await.err().unwrap();
    assert_eq!(
        error.to_string(),
        "secrets is forbidden: User \"system:serviceaccount:default:reader\" cannot list resource \"secrets\" in API group \"\" \
         in the namespace \"default\""
    );
    let all = reader.all::<Pod>().list(&ListParams::default()).await.err().unwrap();
    assert!(all.to_string().ends_with("cannot list resource \"pods\" in API group \"\" at the cluster scope"), "{all}");

    // Damaged, it is nobody's; and it ends with its account.
    let mut damaged = token.status().token.clone();
    damaged.truncate(damaged.len() - 4);
    for bad in [damaged.as_str(), "garbage", "a.b.c"] {
        assert_eq!(refused(&world.with_token(bad)).await, Some(Some(Reason::Unauthorized)), "{bad}");
    }
    accounts.delete("reader", &Default::default()).await.unwrap();
    eventually(async || refused(&reader).await == Some(Some(Reason::Unauthorized))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kubelets_certificate_cannot_read_what_only_another_nodes_pods_use() {
    let world = World::new().await;
    let admin = world.admin();
    let secrets: Api<Secret> = admin.namespaced("default");
    let accounts: Api<ServiceAccount> = admin.namespaced("default");
    let account = object(json!({"metadata": {"name": "default"}}));
    if let Err(error) = accounts.create(&account).await {
        assert!(matches!(&error, Error::Api(status) if status.is_already_exists()), "{error}");
    }
    for node in ["n1", "n2"] {
        secrets.create(&object(json!({"metadata": {"name": format!("of-{node}")}}))).await.unwrap();
        let pod = object(json!({
            "metadata": {"name": node},
            "spec": {
                "nodeName": node,
                "containers": [{"name": "c", "image": "i"}],
                "volumes": [{"name": "v", "secret": {"secretName": format!("of-{node}")}}]
            }
        }));
        admin.namespaced::<Pod>("default").create(&pod).await.unwrap();
    }
    let kubelet = world.with_certificate("system:node:n1", Some("system:nodes"), HOUR);
    let read: Api<Secret> = kubelet.namespaced("default");
    assert!(read.get("of-n1").await.is_ok());
    let error = read.get("of-n2").await.err().unwrap();
    assert!(error.to_string().ends_with("no relationship found between node 'n1' and this object"), "{error}");
    assert!(read.list(&ListParams::default()).await.is_err());
    let pods: Api<Pod> = kubelet.namespaced("default");
    assert!(pods.get("n1").await.is_ok() && pods.get("n2").await.is_err());
    assert!(pods.delete("n2", &Default::default()).await.is_err());
}
