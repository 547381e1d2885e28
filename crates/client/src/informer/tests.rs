use std::time::Duration;

use api::{
    core::v1::{Node, Pod},
    google::protobuf::Any,
    meta::v1::ObjectMeta,
};

use super::*;
use crate::testing::MemoryServer;

fn pod(name: &str, node: &str) -> Pod {
    let mut pod = Pod::default();
    pod.metadata_mut().namespace = "d".into();
    pod.metadata_mut().name = name.into();
    pod.spec_mut().node_name = node.into();
    pod
}

fn names(store: &Store<Pod>) -> Vec<String> {
    let mut names: Vec<_> = store.list().iter().map(|pod| pod.name().to_owned()).collect();
    names.sort();
    names
}

async fn until(condition: impl Fn() -> bool) {
    let wait = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), wait).await.expect("the condition does not come true");
}

#[tokio::test]
async fn a_store_holds_what_there_is_and_follows() {
    let server = MemoryServer::new();
    server.put(pod("a", "x"));
    let informer = server.informers().of::<Pod>();
    informer.add_index("node", |pod| vec![pod.spec().node_name.clone()]);
    informer.wait_synced().await;
    assert_eq!(names(informer.store()), ["a"]);
    let pods = server.client().namespaced::<Pod>("d");
    pods.create(&pod("b", "x")).await.unwrap();
    until(|| informer.store().by_index("node", "x").len() == 2).await;
    pods.delete("b", &crate::delete::now()).await.unwrap();
    until(|| names(informer.store()) == ["a"]).await;
}

#[tokio::test]
async fn a_lost_watch_resumes_without_a_gap() {
    let server = MemoryServer::new();
    let informer = server.informers().of::<Pod>();
    informer.wait_synced().await;
    let mut changes = informer.subscribe();
    for round in 0..3 {
        server.disconnect();
        server.put(pod(&format!("p{round}"), ""));
        let change = changes.next().await;
        assert_eq!(change.new.unwrap().name(), format!("p{round}"));
        assert!(change.old.is_none());
    }
}

#[tokio::test]
async fn after_an_expired_watch_only_real_changes_are_told() {
    let server = MemoryServer::new();
    server.put(pod("kept", ""));
    server.put(pod("gone", ""));
    let informer = server.informers().of::<Pod>();
    informer.wait_synced().await;
    let mut changes = informer.subscribe();
    for _ in 0..2 {
        assert!(changes.next().await.old.is_none());
    }
    server.remove::<Pod>("d", "gone");
    server.put(pod("new", ""));
    server.compact();
    let mut seen = Vec::new();
    for _ in 0..2 {
        let change = changes.next().await;
        seen.push((change.old.map(|pod| pod.name().to_owned()), change.new.map(|pod| pod.name().to_owned())));
    }
    seen.sort();
    assert_eq!(seen, [(None, Some("new".to_owned())), (Some("gone".to_owned()), None)]);
    assert_eq!(names(informer.store()), ["kept", "new"]);
    assert!(changes.try_next().is_none());
}

#[tokio::test]
async fn a_server_that_was_restored_from_an_older_state_is_followed_from_there() {
    let server = MemoryServer::new();
    (0..5).for_each(|n| drop(server.put(pod(&format!("lost{n}"), ""))));
    let informer = server.informers().of::<Pod>();
    informer.wait_synced().await;
    server.start_over();
    server.put(pod("new", ""));
    until(|| names(informer.store()) == ["new"]).await;
    server.put(pod("next", ""));
    until(|| names(informer.store()) == ["new", "next"]).await;
}

#[tokio::test]
async fn informers_of_one_kind_and_scope_are_shared() {
    let server = MemoryServer::new();
    let informers = server.informers();
    let scope = Scope { field_selector: "spec.nodeName=x".into(), ..Scope::default() };
    let (all, again, some) = (informers.of::<Pod>(), informers.of::<Pod>(), informers.with::<Pod>(scope));
    assert!(Arc::ptr_eq(&all.0, &again.0));
    assert!(!Arc::ptr_eq(&all.0, &some.0));
    server.put(pod("a", "x"));
    server.put(pod("b", "y"));
    informers.synced().await;
    until(|| names(some.store()) == ["a"] && names(all.store()) == ["a", "b"]).await;
    server.put(pod("a", "y"));
    until(|| names(some.store()).is_empty()).await;
}

#[tokio::test]
async fn what_a_process_does_not_need_is_not_kept() {
    let server = MemoryServer::new();
    server.put(pod("a", "x"));
    let informers = server.informers();
    informers.transform(|pod: &mut Pod| pod.spec = None);
    let (pods, metadata) = (informers.of::<Pod>(), informers.metadata(Pod::KIND));
    informers.synced().await;
    assert!(pods.store().list()[0].spec.is_none());
    assert_eq!(metadata.store().list()[0].meta().name, "a");
}

#[tokio::test]
async fn readiness_opens_with_the_first_lists() {
    let server = MemoryServer::new();
    let kit = Kit::new();
    server.fail_next("watch", "nodes", api::StatusError::unavailable("not yet"));
    let informers = Informers::new(server.client(), kit.clone());
    informers.of::<Node>();
    assert!(!kit.health.is_ready());
    tokio::time::timeout(Duration::from_secs(20), kit.health.became_ready()).await.unwrap();
    assert!(kit.tasks.failed_already().is_none());
}

/// A pod of which a version with the label `broken` cannot be read.
#[derive(Debug)]
struct Fragile(Pod);

impl Item for Fragile {
    const METADATA_ONLY: bool = false;

    fn read(kind: &KindRef, any: Any) -> crate::Result<Self> {
        let pod = Pod::read(kind, any)?;
        if pod.metadata().labels.contains_key("broken") { Err(crate::Error::decode(kind, None)) } else { Ok(Self(pod)) }
    }

    fn meta(&self) -> &ObjectMeta {
        self.0.metadata()
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        self.0.metadata_mut()
    }
}

#[tokio::test]
async fn an_object_that_cannot_be_read_costs_only_itself() {
    let server = MemoryServer::new();
    let broken = |name: &str| {
        let mut pod = pod(name, "x");
        pod.metadata_mut().labels.insert("broken".to_owned(), String::new());
        pod
    };
    server.put(broken("a"));
    server.put(pod("b", "x"));
    let informer = server.informers().informer::<Fragile>(Pod::KIND, Scope::default());
    informer.wait_synced().await;
    let held = || {
        let mut held: Vec<_> =
            informer.store().list().iter().map(|pod| (pod.0.name().to_owned(), pod.0.spec().node_name.clone())).collect();
        held.sort();
        held
    };
    let of = |held: &[(&str, &str)]| held.iter().map(|(name, node)| ((*name).to_owned(), (*node).to_owned())).collect::<Vec<_>>();
    assert_eq!(held(), of(&[("b", "x")]));
    // What exists and cannot be read is not gone; what never was is.
    let find = |name: &str| informer.store().find(&ObjectKey::new("d", name)).map(|pod| pod.is_some());
    assert!(matches!(find("a"), Err(crate::Error::InDoubt { .. })));
    assert!(find("b").unwrap() && !find("z").unwrap());
    // What was known of it stays, also when everything is listed anew.
    server.put(broken("b"));
    server.put(pod("c", "x"));
    until(|| held() == of(&[("b", "x"), ("c", "x")])).await;
    server.compact();
    server.disconnect();
    server.put(pod("d", "x"));
    until(|| held() == of(&[("b", "x"), ("c", "x"), ("d", "x")])).await;
    assert!(find("a").is_err());
    server.put(pod("a", "y"));
    server.put(broken("c"));
    server.remove::<Pod>("d", "c");
    until(|| held() == of(&[("a", "y"), ("b", "x"), ("d", "x")])).await;
    assert!(find("a").unwrap() && !find("c").unwrap());
    // One that went while nobody looked is gone.
    server.put(broken("e"));
    until(|| find("e").is_err()).await;
    server.remove::<Pod>("d", "e");
    until(|| find("e").is_ok_and(|exists| !exists)).await;
    server.put(broken("e"));
    until(|| find("e").is_err()).await;
    server.compact();
    server.remove::<Pod>("d", "e");
    server.disconnect();
    server.put(pod("f", "x"));
    until(|| find("f").is_ok_and(|exists| exists)).await;
    assert!(!find("e").unwrap());
}
