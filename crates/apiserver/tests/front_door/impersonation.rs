//! Acting as somebody else, for those who may.

use api::{
    authentication::v1::{SelfSubjectReview, UserInfo},
    ferrokube::v1::{CreateRequest, ResourceName, objects_client::ObjectsClient},
    rbac::v1::{ClusterRole, ClusterRoleBinding},
    status::{Reason, StatusError},
};
use client::Transport;
use prost::Message as _;
use serde_json::json;

use crate::support::{World, eventually, object};

/// Who the server takes the request to be from.
async fn whoami(transport: &Transport, headers: &[(&'static str, &'static str)]) -> Result<UserInfo, StatusError> {
    let resource = ResourceName {
        group: "authentication.k8s.io".to_owned(),
        resource: "selfsubjectreviews".to_owned(),
        ..ResourceName::default()
    };
    let mut request =
        tonic::Request::new(CreateRequest { resource: Some(resource), json: b"{}"[..].into(), ..CreateRequest::default() });
    for (name, value) in headers {
        request.metadata_mut().append(*name, value.parse().unwrap());
    }
    let answer = ObjectsClient::new(transport.clone()).create(request).await.map_err(StatusError::from)?.into_inner();
    let review = SelfSubjectReview::decode(answer.object.unwrap_or_default().value).unwrap();
    Ok(review.status.unwrap_or_default().user_info.unwrap_or_default())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_may_impersonate_is_taken_for_another() {
    let world = World::new().await;
    let admin = world.transport();
    let bob = whoami(&admin, &[("impersonate-user", "bob"), ("impersonate-group", "dev"), ("impersonate-group", "ops")]).await;
    let bob = bob.unwrap();
    assert_eq!(
        (bob.username.as_str(), bob.groups.as_slice()),
        ("bob", &["dev", "ops", "system:authenticated"].map(String::from)[..])
    );
    let builder = whoami(&admin, &[("impersonate-user", "system:serviceaccount:default:builder")]).await.unwrap();
    assert!(builder.groups.contains(&"system:serviceaccounts:default".to_owned()), "{builder:?}");
    let full = [
        ("impersonate-user", "bob"),
        ("impersonate-uid", "7"),
        ("impersonate-extra-example.com%2freason", "why"),
        ("impersonate-extra-example.com%2freason", "how"),
    ];
    let full = whoami(&admin, &full).await.unwrap();
    assert_eq!(
        (full.uid.as_str(), full.extra["example.com/reason"].items.as_slice()),
        ("7", &["why", "how"].map(String::from)[..])
    );
    let error = whoami(&admin, &[("impersonate-group", "dev")]).await.unwrap_err();
    assert_eq!(error.reason(), Reason::BadRequest, "{error}");

    let umlaut = client::config::Impersonation { user: "jürgen".to_owned(), ..Default::default() };
    assert_eq!(whoami(&world.transport_as(umlaut), &[]).await.unwrap().username, "jürgen");

    // Ann may be bob, and in no group.
    let ann = world.transport_of("ann", None);
    let refused = whoami(&ann, &[("impersonate-user", "bob")]).await.unwrap_err();
    assert_eq!(
        refused.message(),
        "users \"bob\" is forbidden: User \"ann\" cannot impersonate resource \"users\" in API group \"\" at the cluster scope"
    );
    let rules = json!([{"verbs": ["impersonate"], "apiGroups": [""], "resources": ["users"], "resourceNames": ["bob"]}]);
    let role = object(json!({"metadata": {"name": "be-bob"}, "rules": rules}));
    world.admin().all::<ClusterRole>().create(&role).await.unwrap();
    let binding = object(json!({
        "metadata": {"name": "be-bob"},
        "subjects": [{"kind": "User", "name": "ann", "apiGroup": "rbac.authorization.k8s.io"}],
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "be-bob"}
    }));
    world.admin().all::<ClusterRoleBinding>().create(&binding).await.unwrap();
    eventually(async || whoami(&ann, &[("impersonate-user", "bob")]).await.is_ok_and(|user| user.username == "bob")).await;
    for more in [
        [("impersonate-user", "carl")].as_slice(),
        &[("impersonate-user", "bob"), ("impersonate-group", "system:masters")],
        &[("impersonate-user", "bob"), ("impersonate-uid", "7")],
        &[("impersonate-user", "bob"), ("impersonate-extra-scope", "x")],
        &[("impersonate-user", "system:serviceaccount:default:bob")],
    ] {
        assert_eq!(whoami(&ann, more).await.unwrap_err().reason(), Reason::Forbidden, "{more:?}");
    }
}
