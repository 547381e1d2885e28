//! Identity over a real etcd.

use std::{sync::Arc, time::Duration};

use api::{
    Kind, Object, Resource, StatusError,
    authentication::v1::{BoundObjectReference, SelfSubjectReview, TokenRequest, TokenRequestSpec, TokenReview},
    authorization::v1::{SelfSubjectAccessReview, SelfSubjectRulesReview, SubjectAccessReview},
    coordination::v1::Lease,
    core::v1::{ConfigMap, Node, Pod, Secret, ServiceAccount},
    json,
    rbac::v1::{ClusterRole, Role, RoleBinding},
    status::Reason,
};
use daemon::Shutdown;
use prost::Message as _;
use serde_json::{Value, json};
use store::{Selection, Store, testing::EtcdCluster};
use tempfile::TempDir;

use super::{Credentials, Decision, Identity, IdentityConfig, bootstrap};
use crate::{
    admission::{Chain, Effects, Write},
    layout::layouts,
    request::{Request, User, Verb},
    subresource,
};

/// An etcd, a store and an identity over it that is ready.
struct World {
    store: Store,
    identity: Arc<Identity>,
    shutdown: Shutdown,
    etcd: EtcdCluster,
    keys: TempDir,
}

impl World {
    async fn new() -> Self {
        let etcd = EtcdCluster::start(1).await.unwrap();
        let keys = tempfile::tempdir().unwrap();
        daemon::pki::signing_key().unwrap().write(&keys.path().join("sa.pub"), &keys.path().join("sa.key")).unwrap();
        let shutdown = Shutdown::new();
        let (store, identity) = server(&etcd, &keys, &shutdown);
        identity.ready().await;
        Self { store, identity, shutdown, etcd, keys }
    }

    /// Stores an object as it is given; what it lacks of an identity is added. Answers its UID.
    async fn create<K: Resource>(&self, value: Value) -> String {
        let mut object: K = json::from_value(value).unwrap();
        let meta = object.metadata_mut();
        meta.uid = uuid::Uuid::new_v4().to_string();
        let (namespace, name, uid) = (meta.namespace.clone(), meta.name.clone(), meta.uid.clone());
        let collection = self.store.collection(&K::KIND.qualified_plural()).unwrap();
        collection.create(&namespace, &name, &object.encode_to_vec()).await.unwrap();
        uid
    }

    async fn delete<K: Resource>(&self, namespace: &str, name: &str) {
        let collection = self.store.collection(&K::KIND.qualified_plural()).unwrap();
        let deleted = collection.modify::<store::Error>(namespace, name, |_| Ok(store::Change::Delete));
        deleted.await.unwrap();
    }

    async fn allowed(&self, request: &Request) -> bool {
        self.identity.authorize(request).await.unwrap() == Decision::Allow
    }

    /// Waits until a request is allowed, or is not: the index follows the store.
    async fn until_allowed(&self, request: &Request, wanted: bool) {
        let reached = async {
            while self.allowed(request).await != wanted {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), reached).await.unwrap();
    }

    async fn token(&self, user: &User, name: &str, spec: TokenRequestSpec) -> Result<TokenRequest, StatusError> {
        let request =
            Request { subresource: Some(&subresource::TOKEN), ..on(user, Verb::Create, ServiceAccount::KIND, "blue", name) };
        self.identity.issue_token(&request, TokenRequest { spec: Some(spec), ..TokenRequest::default() }).await
    }

    async fn authenticate(&self, token: &str) -> Result<User, StatusError> {
        self.identity.authenticate(&Credentials { certificate: None, token: Some(token.to_owned()) }).await
    }

    /// What the admission plugins say of a write.
    async fn admit(&self, request: &Request, mut object: impl Resource, old: Option<&dyn Object>) -> Result<(), StatusError> {
        let chain = Chain::default().with_all(self.identity.plugins());
        let write = Write { request, old };
        chain.admit(&write, &mut object, &mut Effects::default()).await?;
        chain.check(&write, &object, &mut Effects::default()).await
    }

    async fn review<K: Resource>(&self, user: &User, review: Value) -> Result<K, StatusError> {
        let review: K = json::from_value(review).unwrap();
        let answer = self.identity.review(&on(user, Verb::Create, K::KIND, "", ""), Box::new(review)).await?;
        Ok(answer.downcast_ref::<K>().unwrap().clone())
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.shutdown.start();
    }
}

fn server(etcd: &EtcdCluster, keys: &TempDir, shutdown: &Shutdown) -> (Store, Arc<Identity>) {
    let (store, runner) = Store::new(etcd.config(), layouts(Duration::from_secs(60))).unwrap();
    tokio::spawn(runner.run(shutdown.token().clone()));
    let config = IdentityConfig {
        issuer: "https://kubernetes.default.svc.cluster.local".into(),
        audiences: vec!["https://kubernetes.default.svc.cluster.local".into()],
        signing_key_file: keys.path().join("sa.key"),
        key_files: vec![keys.path().join("sa.pub")],
    };
    let identity = Arc::new(Identity::new(&store, config).unwrap());
    tokio::spawn(identity.clone().run(shutdown.clone()));
    (store, identity)
}

fn user(name: &str, groups: &[&str]) -> User {
    User { name: name.into(), groups: groups.iter().map(|g| (*g).to_owned()).collect(), ..User::default() }
}

fn kubelet(node: &str) -> User {
    user(&format!("system:node:{node}"), &["system:nodes", "system:authenticated"])
}

fn admin() -> User {
    user("kubernetes-admin", &["system:masters", "system:authenticated"])
}

fn on(user: &User, verb: Verb, kind: &'static Kind, namespace: &str, name: &str) -> Request {
    Request::new(Arc::new(user.clone()), verb, kind, namespace, name)
}

fn pod(name: &str, node: &str) -> Value {
    json!({
        "metadata": {"name": name, "namespace": "blue"},
        "spec": {
            "nodeName": node,
            "serviceAccountName": "builder",
            "containers": [{"name": "c", "image": "i", "envFrom": [{"configMapRef": {"name": format!("{name}-config")}}]}],
            "volumes": [{"name": "v", "secret": {"secretName": format!("{name}-secret")}}]
        }
    })
}

fn named(namespace: &str, name: &str) -> Value {
    json!({"metadata": {"name": name, "namespace": namespace}})
}

fn bound_to(pod: &str, uid: &str) -> TokenRequestSpec {
    let reference = BoundObjectReference { kind: "Pod".into(), api_version: "v1".into(), name: pod.into(), uid: uid.into() };
    TokenRequestSpec { bound_object_ref: Some(reference), ..TokenRequestSpec::default() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_servers_bring_in_the_default_roles_once() {
    let world = World::new().await;
    let (other_store, other) = server(&world.etcd, &world.keys, &world.shutdown);
    let (more_store, more) = server(&world.etcd, &world.keys, &world.shutdown);
    tokio::join!(other.ready(), more.ready());
    let roles = world.store.collection("clusterroles.rbac.authorization.k8s.io").unwrap();
    let revisions = async || -> Vec<(String, i64)> {
        let list = roles.list(&Selection::all(), Default::default()).await.unwrap();
        list.items.iter().map(|e| (e.name().to_owned(), e.revision())).collect()
    };
    // What the aggregated ones are made of is written a little later.
    let rules = async |name: &str| {
        let entry = roles.get("", name, store::ReadAt::Latest).await.unwrap();
        ClusterRole::decode(entry.object()).unwrap().rules
    };
    let written = async {
        while rules("view").await.is_empty() || rules("admin").await.len() <= rules("edit").await.len() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), written).await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let before = revisions().await;
    assert!(before.len() > 25 && before.iter().any(|(name, _)| name == "cluster-admin"), "{before:?}");
    for store in [&world.store, &other_store, &more_store] {
        bootstrap::reconcile(store).await.unwrap();
    }
    assert_eq!(revisions().await, before);

    // The default identities can do what they are for, and nothing else.
    let scheduler = user("system:kube-scheduler", &["system:authenticated"]);
    let bind = Request { subresource: Some(&subresource::BINDING), ..on(&scheduler, Verb::Create, Pod::KIND, "blue", "web") };
    assert!(world.allowed(&bind).await);
    assert!(!world.allowed(&on(&scheduler, Verb::Get, Secret::KIND, "blue", "x")).await);
    let lease = |name| on(&scheduler, Verb::Update, Lease::KIND, "kube-system", name);
    assert!(world.allowed(&lease("kube-scheduler")).await && !world.allowed(&lease("kube-controller-manager")).await);
    let anonymous = world.identity.authenticate(&Credentials::default()).await.unwrap();
    assert_eq!(
        (anonymous.name.as_str(), &anonymous.groups[..]),
        ("system:anonymous", &["system:unauthenticated".to_owned()][..])
    );
    assert!(!world.allowed(&on(&anonymous, Verb::List, Pod::KIND, "blue", "")).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn people_who_keep_their_own_role_keep_it() {
    let world = World::new().await;
    let roles = world.store.collection("clusterroles.rbac.authorization.k8s.io").unwrap();
    let change = async |name: &str, annotation: &str| {
        let changed = roles.modify::<store::Error>("", name, |entry| {
            let mut role = ClusterRole::decode(entry.object()).unwrap();
            role.rules.clear();
            role.metadata_mut().annotations.insert("rbac.authorization.kubernetes.io/autoupdate".into(), annotation.into());
            Ok(store::Change::Put(role.encode_to_vec().into()))
        });
        changed.await.unwrap();
    };
    change("system:node-proxier", "true").await;
    change("system:basic-user", "false").await;
    world.delete::<ClusterRole>("", "system:discovery").await;
    bootstrap::reconcile(&world.store).await.unwrap();
    let rules = async |name: &str| {
        let entry = roles.get("", name, store::ReadAt::Latest).await.unwrap();
        ClusterRole::decode(entry.object()).unwrap().rules.len()
    };
    assert_eq!(rules("system:basic-user").await, 0);
    assert!(rules("system:node-proxier").await > 0 && rules("system:discovery").await > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_lives_no_longer_than_what_it_is_bound_to() {
    let world = World::new().await;
    let account = world.create::<ServiceAccount>(named("blue", "builder")).await;
    let node = world.create::<Node>(json!({"metadata": {"name": "n1"}})).await;
    let web = world.create::<Pod>(pod("web", "n1")).await;
    let issued = world.token(&admin(), "builder", bound_to("web", &web)).await.unwrap();
    let lifetime = issued.status().expiration_timestamp().seconds - issued.metadata().creation_timestamp().seconds;
    assert_eq!(lifetime, 3600);
    let token = issued.status().token.clone();
    let builder = world.authenticate(&token).await.unwrap();
    assert_eq!((builder.name.as_str(), &builder.uid), ("system:serviceaccount:blue:builder", &account));
    assert_eq!(builder.groups, ["system:serviceaccounts", "system:serviceaccounts:blue", "system:authenticated"]);
    let extra = |key: &str| builder.extra.get(&format!("authentication.kubernetes.io/{key}")).map(|v| v[0].as_str());
    assert_eq!((extra("pod-name"), extra("pod-uid")), (Some("web"), Some(web.as_str())));
    assert_eq!((extra("node-name"), extra("node-uid")), (Some("n1"), Some(node.as_str())));
    assert!(extra("credential-id").is_some_and(|id| id.starts_with("JTI=")));

    // Another pod of the same name is not the pod.
    world.delete::<Pod>("blue", "web").await;
    world.create::<Pod>(pod("web", "n1")).await;
    let gone = world.authenticate(&token).await.unwrap_err();
    assert_eq!(gone.reason(), Reason::Unauthorized);

    let unbound = world.token(&admin(), "builder", TokenRequestSpec::default()).await.unwrap().status().token.clone();
    assert!(world.authenticate(&unbound).await.is_ok());
    world.delete::<ServiceAccount>("blue", "builder").await;
    world.create::<ServiceAccount>(named("blue", "builder")).await;
    assert_eq!(world.authenticate(&unbound).await.unwrap_err().reason(), Reason::Unauthorized);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_malformed_token_request_is_told_what_is_wrong() {
    let world = World::new().await;
    world.create::<ServiceAccount>(named("blue", "builder")).await;
    world.create::<ServiceAccount>(named("blue", "other")).await;
    let web = world.create::<Pod>(pod("web", "n1")).await;
    let short = TokenRequestSpec { expiration_seconds: Some(60), ..TokenRequestSpec::default() };
    let error = world.token(&admin(), "builder", short).await.unwrap_err();
    assert_eq!(error.reason(), Reason::Invalid);
    assert!(error.message().contains("spec.expirationSeconds"), "{error}");
    let error = world.token(&admin(), "nobody", TokenRequestSpec::default()).await.unwrap_err();
    assert_eq!(error.message(), "serviceaccounts \"nobody\" not found");
    assert!(world.token(&admin(), "builder", bound_to("none", "")).await.unwrap_err().is_not_found());
    assert!(world.token(&admin(), "builder", bound_to("web", "other-uid")).await.unwrap_err().is_conflict());
    assert_eq!(world.token(&admin(), "other", bound_to("web", &web)).await.unwrap_err().reason(), Reason::BadRequest);
    let mut of_deployment = bound_to("web", "");
    of_deployment.bound_object_ref.as_mut().unwrap().kind = "Deployment".into();
    assert_eq!(world.token(&admin(), "builder", of_deployment).await.unwrap_err().reason(), Reason::BadRequest);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kubelet_reads_only_what_its_pods_use() {
    let world = World::new().await;
    world.create::<Pod>(pod("a", "n1")).await;
    world.create::<Pod>(pod("b", "n2")).await;
    let n1 = kubelet("n1");
    let get = |kind, name| on(&n1, Verb::Get, kind, "blue", name);
    for allowed in [
        get(Secret::KIND, "a-secret"),
        get(ConfigMap::KIND, "a-config"),
        get(Pod::KIND, "a"),
        get(ServiceAccount::KIND, "builder"),
    ] {
        assert!(world.allowed(&allowed).await, "{allowed:?}");
    }
    for refused in [
        get(Secret::KIND, "b-secret"),
        get(Secret::KIND, ""),
        get(ConfigMap::KIND, "b-config"),
        get(Pod::KIND, "b"),
        on(&n1, Verb::Get, Secret::KIND, "green", "a-secret"),
        on(&n1, Verb::List, Secret::KIND, "blue", ""),
        on(&n1, Verb::Delete, Secret::KIND, "blue", "a-secret"),
        on(&n1, Verb::List, Pod::KIND, "", ""),
        on(&n1, Verb::Get, Lease::KIND, "kube-node-lease", "n2"),
    ] {
        assert!(!world.allowed(&refused).await, "{refused:?}");
    }
    let Decision::NoOpinion(why) = world.identity.authorize(&get(Secret::KIND, "b-secret")).await.unwrap() else { panic!() };
    assert_eq!(why, "no relationship found between node 'n1' and this object");

    let watch = Request { selected_name: Some("a-secret".into()), ..on(&n1, Verb::Watch, Secret::KIND, "blue", "") };
    assert!(world.allowed(&watch).await);
    let own_pods = Request { selected_node: Some("n1".into()), ..on(&n1, Verb::Watch, Pod::KIND, "", "") };
    assert!(world.allowed(&own_pods).await);
    assert!(!world.allowed(&Request { selected_node: Some("n2".into()), ..own_pods }).await);
    assert!(world.allowed(&on(&n1, Verb::Update, Lease::KIND, "kube-node-lease", "n1")).await);
    // A name like a node's is not enough, nor is the group.
    let impostor = user("system:node:n1", &["system:authenticated"]);
    assert!(!world.allowed(&on(&impostor, Verb::Get, Secret::KIND, "blue", "a-secret")).await);

    world.delete::<Pod>("blue", "a").await;
    world.until_allowed(&get(Secret::KIND, "a-secret"), false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kubelet_knows_at_once_what_another_server_bound() {
    let world = World::new().await;
    let (_, other) = server(&world.etcd, &world.keys, &world.shutdown);
    other.ready().await;
    for i in 0..20 {
        let name = format!("p{i}");
        world.create::<Pod>(pod(&name, "n1")).await;
        let get = on(&kubelet("n1"), Verb::Get, Secret::KIND, "blue", &format!("{name}-secret"));
        assert_eq!(other.authorize(&get).await.unwrap(), Decision::Allow, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kubelet_gets_tokens_only_for_its_own_pods() {
    let world = World::new().await;
    world.create::<ServiceAccount>(named("blue", "builder")).await;
    let a = world.create::<Pod>(pod("a", "n1")).await;
    let b = world.create::<Pod>(pod("b", "n2")).await;
    let n1 = kubelet("n1");
    assert!(world.token(&n1, "builder", bound_to("a", &a)).await.is_ok());
    let why = |result: Result<TokenRequest, StatusError>| result.unwrap_err().message().to_owned();
    assert!(why(world.token(&n1, "builder", bound_to("b", &b)).await).ends_with("bound to a pod scheduled on a different node"));
    assert!(why(world.token(&n1, "builder", TokenRequestSpec::default()).await).ends_with("token not bound to a pod"));
    assert!(why(world.token(&n1, "builder", bound_to("a", "")).await).ends_with("pod binding without a uid"));
    let vault = TokenRequestSpec { audiences: vec!["vault".into()], ..bound_to("a", &a) };
    assert!(why(world.token(&n1, "builder", vault).await).ends_with("audience \"vault\" not found in pod spec volume"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kubelet_changes_only_itself_and_its_pods() {
    let world = World::new().await;
    let uid = world.create::<Node>(json!({"metadata": {"name": "n1"}})).await;
    let n1 = kubelet("n1");
    let node = |name: &str| json::from_value::<Node>(json!({"metadata": {"name": name}})).unwrap();
    assert!(world.admit(&on(&n1, Verb::Create, Node::KIND, "", ""), node("n1"), None).await.is_ok());
    let error = world.admit(&on(&n1, Verb::Create, Node::KIND, "", ""), node("n2"), None).await.unwrap_err();
    assert_eq!(error.message(), "nodes \"n2\" is forbidden: node \"n1\" is not allowed to modify node \"n2\"");
    let lease = |name: &str| json::from_value::<Lease>(named("kube-node-lease", name)).unwrap();
    let create = on(&n1, Verb::Create, Lease::KIND, "kube-node-lease", "");
    assert!(world.admit(&create, lease("n1"), None).await.is_ok());
    assert!(world.admit(&create, lease("n2"), None).await.is_err());

    let create = on(&n1, Verb::Create, Pod::KIND, "blue", "");
    let plain: Pod = json::from_value(pod("web", "n1")).unwrap();
    assert!(world.admit(&create, plain.clone(), None).await.unwrap_err().message().contains("can only create mirror pods"));
    let owner = |uid: &str| json!([{"apiVersion": "v1", "kind": "Node", "name": "n1", "uid": uid, "controller": true}]);
    let mirror = |node: &str, uid: &str| {
        let annotations = json!({"kubernetes.io/config.mirror": "x"});
        json::from_value::<Pod>(json!({
            "metadata": {"name": "m", "namespace": "blue", "annotations": annotations, "ownerReferences": owner(uid)},
            "spec": {"nodeName": node, "containers": [{"name": "c", "image": "i"}]}
        }))
        .unwrap()
    };
    assert!(world.admit(&create, mirror("n1", &uid), None).await.is_ok());
    assert!(world.admit(&create, mirror("n2", &uid), None).await.is_err());
    assert!(world.admit(&create, mirror("n1", "other"), None).await.is_err());
    let mut greedy = mirror("n1", &uid);
    greedy.spec_mut().volumes = plain.spec().volumes.clone();
    assert!(world.admit(&create, greedy, None).await.unwrap_err().message().ends_with("create pods that reference secrets"));

    let foreign: Pod = json::from_value(pod("far", "n2")).unwrap();
    let status = |name| Request { subresource: Some(&subresource::STATUS), ..on(&n1, Verb::Update, Pod::KIND, "blue", name) };
    assert!(world.admit(&status("web"), plain.clone(), Some(&plain)).await.is_ok());
    assert!(world.admit(&status("far"), foreign.clone(), Some(&foreign)).await.is_err());
    let chain = Chain::default().with_all(world.identity.plugins());
    let delete = on(&n1, Verb::Delete, Pod::KIND, "blue", "");
    let write = Write { request: &delete, old: None };
    assert!(chain.permit_deletion(&write, &plain).await.is_ok());
    let error = chain.permit_deletion(&write, &foreign).await.unwrap_err();
    assert!(error.message().ends_with("node \"n1\" can only delete pods with spec.nodeName set to itself"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_role_grants_what_it_says_until_it_is_taken_back() {
    let world = World::new().await;
    world
        .create::<Role>(json!({
            "metadata": {"name": "pods", "namespace": "blue"},
            "rules": [{"verbs": ["list"], "apiGroups": [""], "resources": ["pods"]}]
        }))
        .await;
    world
        .create::<RoleBinding>(json!({
            "metadata": {"name": "pods", "namespace": "blue"},
            "subjects": [{"kind": "ServiceAccount", "name": "builder", "namespace": "blue"}],
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "pods"}
        }))
        .await;
    let builder = user("system:serviceaccount:blue:builder", &["system:serviceaccounts", "system:authenticated"]);
    let list = on(&builder, Verb::List, Pod::KIND, "blue", "");
    world.until_allowed(&list, true).await;
    assert!(!world.allowed(&on(&builder, Verb::List, Pod::KIND, "green", "")).await);
    assert!(!world.allowed(&on(&builder, Verb::List, Secret::KIND, "blue", "")).await);
    assert!(!world.allowed(&on(&builder, Verb::Create, Pod::KIND, "blue", "")).await);

    let ask = json!({"spec": {"resourceAttributes": {"namespace": "blue", "verb": "list", "resource": "pods"}}});
    let answer: SelfSubjectAccessReview = world.review(&builder, ask).await.unwrap();
    let why = r#"RBAC: allowed by RoleBinding "pods/blue" of Role "pods" to ServiceAccount "builder/blue""#;
    assert_eq!((answer.status().allowed, answer.status().reason.as_str()), (true, why));

    world.delete::<RoleBinding>("blue", "pods").await;
    world.until_allowed(&list, false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_gives_away_more_than_they_have() {
    let world = World::new().await;
    world
        .create::<RoleBinding>(json!({
            "metadata": {"name": "admin", "namespace": "blue"},
            "subjects": [{"kind": "User", "name": "ann"}],
            "roleRef": {"kind": "ClusterRole", "name": "admin"}
        }))
        .await;
    let ann = user("ann", &["dev", "system:authenticated"]);
    let create = on(&ann, Verb::Create, Role::KIND, "blue", "");
    world.until_allowed(&create, true).await;
    let role = |verb: &str, resource: &str| {
        json::from_value::<Role>(json!({
            "metadata": {"name": "r", "namespace": "blue"},
            "rules": [{"verbs": [verb], "apiGroups": [""], "resources": [resource]}]
        }))
        .unwrap()
    };
    assert!(world.admit(&create, role("list", "pods"), None).await.is_ok());
    let error = world.admit(&create, role("delete", "nodes"), None).await.unwrap_err();
    assert_eq!(
        error.message(),
        "roles.rbac.authorization.k8s.io \"r\" is forbidden: user \"ann\" (groups=[\"dev\" \"system:authenticated\"]) is attempting to \
         grant RBAC permissions not currently held:\n{APIGroups:[\"\"], Resources:[\"nodes\"], Verbs:[\"delete\"]}"
    );
    let bind = on(&ann, Verb::Create, RoleBinding::KIND, "blue", "");
    let binding = |role: &str| {
        json::from_value::<RoleBinding>(json!({
            "metadata": {"name": "b", "namespace": "blue"},
            "subjects": [{"kind": "User", "name": "bob"}],
            "roleRef": {"kind": "ClusterRole", "name": role}
        }))
        .unwrap()
    };
    assert!(world.admit(&bind, binding("edit"), None).await.is_ok());
    assert_eq!(world.admit(&bind, binding("cluster-admin"), None).await.unwrap_err().reason(), Reason::Forbidden);
    assert!(world.admit(&bind, binding("missing"), None).await.unwrap_err().is_not_found());
    // What only garbage collection cares about may change; anything else counts as granting again.
    let (old, mut new) = (binding("cluster-admin"), binding("cluster-admin"));
    new.metadata_mut().finalizers.push("x".into());
    let update = on(&ann, Verb::Update, RoleBinding::KIND, "blue", "b");
    assert!(world.admit(&update, new.clone(), Some(&old)).await.is_ok());
    new.metadata_mut().labels.insert("a".into(), "b".into());
    assert!(world.admit(&update, new, Some(&old)).await.is_err());
    assert!(
        world.admit(&on(&admin(), Verb::Create, RoleBinding::KIND, "blue", ""), binding("cluster-admin"), None).await.is_ok()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reviews_answer_who_and_what() {
    let world = World::new().await;
    let account = world.create::<ServiceAccount>(named("blue", "builder")).await;
    let token = world.token(&admin(), "builder", TokenRequestSpec::default()).await.unwrap().status().token.clone();
    let answer: TokenReview = world.review(&admin(), json!({"spec": {"token": token}})).await.unwrap();
    assert!(answer.status().authenticated && answer.spec().token.is_empty());
    assert_eq!(answer.status().user().uid, account);
    let answer: TokenReview = world.review(&admin(), json!({"spec": {"token": "garbage"}})).await.unwrap();
    assert!(!answer.status().authenticated && !answer.status().error.is_empty());

    let answer: SelfSubjectReview = world.review(&kubelet("n1"), json!({})).await.unwrap();
    assert_eq!(answer.status().user_info().username, "system:node:n1");

    let about = json!({"spec": {"user": "ann", "groups": ["system:masters"], "resourceAttributes": {"verb": "delete", "resource": "nodes"}}});
    let answer: SubjectAccessReview = world.review(&admin(), about).await.unwrap();
    assert!(answer.status().allowed);
    let about = json!({"spec": {"user": "system:anonymous", "groups": ["system:unauthenticated"],
        "nonResourceAttributes": {"verb": "get", "path": "/version"}}});
    let answer: SubjectAccessReview = world.review(&admin(), about).await.unwrap();
    assert!(answer.status().allowed, "{:?}", answer.status());
    let neither = world.review::<SubjectAccessReview>(&admin(), json!({"spec": {"user": "ann"}})).await.unwrap_err();
    assert_eq!(neither.reason(), Reason::Invalid);

    let scheduler = user("system:kube-scheduler", &["system:authenticated"]);
    let answer: SelfSubjectRulesReview = world.review(&scheduler, json!({"spec": {"namespace": "blue"}})).await.unwrap();
    assert!(answer.status().resource_rules.iter().any(|r| r.resources.iter().any(|r| r == "pods/binding")));
    assert!(!answer.status().incomplete);
}
