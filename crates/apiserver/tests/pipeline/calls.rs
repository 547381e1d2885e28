//! Calls over a real etcd: what a subresource is, its descriptor says, and nothing else.

use std::sync::Arc;

use api::{KindRef, Registry, Resource, StatusError, core::v1::ConfigMap, status::Reason};
use apiserver::{
    admission,
    auth::{Identity, IdentityConfig},
    call::{Action, Answer, Body, Call, Options, ResourceName, Server},
    kubelets::{Kubelets, KubeletsConfig},
    pipeline::Pipeline,
    request::{Asked, User, Verb},
    strategies,
    subresource::{Handler, Subresource},
};
use bytes::Bytes;

use crate::support::{Cluster, config, object};

/// A part of a ConfigMap, for this test only: its key `title`.
static TITLE: Subresource = Subresource {
    name: "title",
    verbs: &[Verb::Get, Verb::Update],
    body: None,
    handler: Handler::Part(|sent, stored| {
        let mut object = stored.boxed_clone();
        if let (Some(new), Some(sent)) = (object.downcast_mut::<ConfigMap>(), sent.downcast_ref::<ConfigMap>()) {
            new.data.extend(sent.data.get("title").map(|title| ("title".to_owned(), title.clone())));
        }
        object
    }),
};
/// An action on a ConfigMap: it takes the keys of the one that is sent.
static MERGE: Subresource = Subresource {
    name: "merge",
    verbs: &[Verb::Create],
    body: Some(ConfigMap::HANDLE),
    handler: Handler::Apply(|body, object| {
        if let (Some(new), Some(body)) = (object.downcast_mut::<ConfigMap>(), body.downcast_ref::<ConfigMap>()) {
            new.data.extend(body.data.clone());
        }
        Ok(())
    }),
};
static ALL: &[&Subresource] = &[&TITLE, &MERGE];

/// A server whose ConfigMaps have those two.
async fn server(cluster: &Cluster, keys: &tempfile::TempDir) -> Server {
    let store = cluster.servers[0].store.clone();
    let registry = Arc::new(Registry::compiled());
    registry.change(
        [KindRef::from(api::Kind {
            subresources: ["title", "merge", "status"].map(Into::into).to_vec().into(),
            ..api::Kind::clone(ConfigMap::KIND)
        })],
        |kind| kind == ConfigMap::KIND,
    );
    daemon::pki::signing_key().unwrap().write(&keys.path().join("sa.pub"), &keys.path().join("sa.key")).unwrap();
    let identity = IdentityConfig {
        issuer: "https://test".to_owned(),
        audiences: vec!["https://test".to_owned()],
        signing_key_file: keys.path().join("sa.key"),
        key_files: vec![keys.path().join("sa.pub")],
    };
    let identity = Arc::new(Identity::new(&store, identity).unwrap());
    tokio::spawn(identity.clone().run(daemon::Shutdown::new()));
    identity.ready().await;
    let chain = admission::chain(&store, &config("10.96.0.0/16", 30000..=32767));
    let [certificate_authority, certificate, key] = ["ca", "crt", "key"].map(|name| keys.path().join(name));
    Server {
        pipeline: Arc::new(Pipeline::new(store, registry, strategies::all(), chain)),
        identity,
        kubelets: Kubelets::new(KubeletsConfig { certificate_authority, certificate, key }),
        subresources: ALL,
    }
}

fn user(name: &str, group: &str) -> Asked {
    Asked::new(Arc::new(User { name: name.to_owned(), groups: vec![group.to_owned()], ..User::default() }))
}

async fn call(server: &Server, asked: &Asked, part: &str, action: Action) -> Result<ConfigMap, StatusError> {
    let resource = ResourceName { plural: "configmaps".to_owned(), ..ResourceName::default() };
    let call = Call::new(resource, action).on("default".to_owned(), "a".to_owned(), part.to_owned());
    match server.call(asked, call.with(Options::default(), None)).await? {
        Answer::Object(stored, _) => Ok(prost::Message::decode(stored.bytes).unwrap()),
        other => Err(other.unexpected()),
    }
}

fn body(json: &'static str) -> Body {
    Body::Json(Bytes::from_static(json.as_bytes()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subresource_is_its_descriptor() {
    let cluster = Cluster::start(1, &config("10.96.0.0/16", 30000..=32767)).await;
    let keys = tempfile::tempdir().unwrap();
    let server = server(&cluster, &keys).await;
    let map = r#"{"metadata": {"name": "a", "namespace": "default"}, "data": {"title": "old", "text": "stays"}}"#;
    cluster.servers[0].create(object::<ConfigMap>(map)).await.unwrap();
    let admin = || user("admin", "system:masters");

    // Read, and changed in its part only.
    assert_eq!(call(&server, &admin(), "title", Action::Get).await.unwrap().data["title"], "old");
    let sent = body(r#"{"apiVersion": "v1", "kind": "ConfigMap", "data": {"title": "new", "text": "goes"}}"#);
    let changed = call(&server, &admin(), "title", Action::Update(sent)).await.unwrap();
    assert_eq!((&*changed.data["title"], &*changed.data["text"]), ("new", "stays"));
    // An action.
    let sent = body(r#"{"apiVersion": "v1", "kind": "ConfigMap", "data": {"more": "x"}}"#);
    let changed = call(&server, &admin(), "merge", Action::Create(sent)).await.unwrap();
    assert_eq!((changed.data.len(), &*changed.data["more"]), (3, "x"));

    // Verbs, and what is not described.
    for (part, action, reason) in [
        ("title", Action::Create(body("{}")), Reason::MethodNotAllowed),
        ("merge", Action::Get, Reason::MethodNotAllowed),
        ("merge", Action::Connect(Default::default()), Reason::MethodNotAllowed),
        ("status", Action::Get, Reason::NotFound),
        ("nothing", Action::Get, Reason::NotFound),
    ] {
        let refused = call(&server, &admin(), part, action).await.unwrap_err();
        assert_eq!(refused.reason(), reason, "{part}: {refused}");
    }
    // What a user must be allowed, and what is counted.
    let ann = user("ann", "system:authenticated");
    let refused = call(&server, &ann, "title", Action::Get).await.unwrap_err();
    assert!(refused.message().contains(r#"cannot get resource "configmaps/title""#), "{refused}");
    assert_eq!(ann.action().unwrap().subresource.unwrap().name, "title");
}
