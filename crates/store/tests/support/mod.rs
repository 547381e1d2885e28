//! A store with two kinds, running against a test cluster.

#![allow(dead_code, reason = "each test binary uses its part")]

pub mod proxy;

use std::borrow::Cow;
use std::time::Duration;

use store::wire::put_bytes;
use store::{Batch, Collection, Config, Encoding, FieldLayout, KindLayout, Store, Watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// A store and the task that keeps it up to date.
pub struct Running {
    pub store: Store,
    shutdown: CancellationToken,
    runner: JoinHandle<()>,
}

impl Running {
    pub async fn start(config: Config) -> Self {
        let (store, runner) = Store::new(config, vec![pods(), events()]).unwrap();
        let shutdown = CancellationToken::new();
        let runner = tokio::spawn(runner.run(shutdown.clone()));
        timeout(Duration::from_secs(20), store.ready()).await.unwrap();
        Self { store, shutdown, runner }
    }

    pub fn pods(&self) -> Collection {
        self.store.collection("pods").unwrap()
    }

    pub async fn stop(self) {
        self.shutdown.cancel();
        self.runner.await.unwrap();
    }
}

pub fn pods() -> KindLayout {
    KindLayout {
        name: Cow::Borrowed("pods"),
        api_version: Cow::Borrowed("v1"),
        kind: Cow::Borrowed("Pod"),
        prefix: Cow::Borrowed("/registry/pods/"),
        namespaced: true,
        ttl: None,
        encoding: Encoding::Protobuf,
        fields: vec![FieldLayout::text("spec.nodeName", &[2, 10]).indexed(), FieldLayout::text("status.phase", &[3, 1])],
    }
}

pub fn events() -> KindLayout {
    KindLayout {
        name: Cow::Borrowed("events"),
        kind: Cow::Borrowed("Event"),
        prefix: Cow::Borrowed("/registry/events/"),
        ttl: Some(Duration::from_secs(2)),
        fields: vec![],
        ..pods()
    }
}

/// A pod of few fields, without resource version. Its owner's UID is `owner-of-<name>`.
pub fn pod(namespace: &str, name: &str, node: &str) -> Vec<u8> {
    padded_pod(namespace, name, node, 0)
}

/// A pod with an annotation of `padding` bytes.
pub fn padded_pod(namespace: &str, name: &str, node: &str, padding: usize) -> Vec<u8> {
    let (mut metadata, mut label, mut owner, mut spec, mut object) = (vec![], vec![], vec![], vec![], vec![]);
    put_bytes(&mut label, 1, b"name");
    put_bytes(&mut label, 2, name.as_bytes());
    put_bytes(&mut owner, 4, format!("owner-of-{name}").as_bytes());
    put_bytes(&mut metadata, 1, name.as_bytes());
    put_bytes(&mut metadata, 3, namespace.as_bytes());
    put_bytes(&mut metadata, 5, format!("uid-{namespace}-{name}").as_bytes());
    put_bytes(&mut metadata, 11, &label);
    if padding > 0 {
        let mut annotation = vec![];
        put_bytes(&mut annotation, 1, b"padding");
        put_bytes(&mut annotation, 2, &vec![b'x'; padding]);
        put_bytes(&mut metadata, 12, &annotation);
    }
    put_bytes(&mut metadata, 13, &owner);
    put_bytes(&mut spec, 10, node.as_bytes());
    put_bytes(&mut object, 1, &metadata);
    put_bytes(&mut object, 2, &spec);
    object
}

/// The next batch, which must come within some seconds.
pub async fn unwrap_next(watch: &mut Watch) -> Batch {
    timeout(Duration::from_secs(20), watch.next()).await.expect("nothing came").unwrap()
}
