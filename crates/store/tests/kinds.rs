//! Kinds that come and go while the store runs, against real etcd.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests state their claims by unwrapping")]

mod support;

use std::collections::BTreeSet;

use serde_json::{Value, json};
use store::testing::EtcdCluster;
use store::{
    Encoding, Error, EventKind, FieldKind, FieldLayout, IndexKey, KindLayout, ListOptions, ReadAt, Selection, Txn, WatchStart,
};
use support::{Running, pods, unwrap_next};

/// A kind whose objects are JSON in etcd.
fn widgets(plural: &str) -> KindLayout {
    KindLayout {
        name: format!("{plural}.example.com").into(),
        api_version: "example.com/v1".into(),
        kind: "Widget".into(),
        prefix: format!("/registry/example.com/{plural}/").into(),
        namespaced: true,
        ttl: None,
        encoding: Encoding::Json,
        fields: vec![FieldLayout { kind: FieldKind::Json, ..FieldLayout::text("spec.color", &[]).indexed() }],
    }
}

fn widget(name: &str, color: &str) -> Value {
    json!({
        "apiVersion": "example.com/v1beta1", "kind": "Widget",
        "metadata": {"name": name, "namespace": "default", "uid": name, "labels": {"name": name}},
        "spec": {"color": color},
    })
}

fn put(name: &str, color: &str) -> Txn {
    Txn::new().put(format!("/registry/example.com/widgets/default/{name}"), widget(name, color).to_string().into_bytes(), None)
}

#[tokio::test]
async fn a_kind_that_is_added_amid_writes_misses_nothing_and_repeats_nothing() {
    const OBJECTS: usize = 300;
    let cluster = EtcdCluster::start(1).await.unwrap();
    let running = Running::start(cluster.config()).await;
    let writer = running.store.clone();
    let writing = tokio::spawn(async move {
        for i in 0..OBJECTS {
            writer.commit(&put(&format!("w{i:03}"), "red")).await.unwrap();
        }
    });
    for _ in 0..5 {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        let widgets_now = running.store.add(widgets("widgets")).await.unwrap();
        let mut watch = widgets_now.watch(Selection::all(), WatchStart::Initial(ReadAt::Any)).await.unwrap();
        let first = unwrap_next(&mut watch).await;
        let (mut seen, mut revision) = (BTreeSet::new(), 0);
        for event in &first.events {
            assert!(seen.insert(event.entry.name().to_owned()), "{} comes twice", event.entry.name());
            revision = revision.max(event.entry.revision());
        }
        for _ in 0..20 {
            tokio::time::sleep(std::time::Duration::from_millis(2)).await;
            let batch = watch.try_next().unwrap().unwrap_or_default();
            for event in batch.events {
                assert!(event.kind == EventKind::Added && event.entry.revision() > revision, "{event:?}");
                revision = event.entry.revision();
                assert!(seen.insert(event.entry.name().to_owned()), "{} comes twice", event.entry.name());
            }
        }
        // What was told is everything up to here: no gap.
        let expected: BTreeSet<_> = (0..seen.len()).map(|i| format!("w{i:03}")).collect();
        assert_eq!(seen, expected);
        assert!(running.store.remove("widgets.example.com"));
        assert!(matches!(watch.next().await, Err(Error::Removed(_))));
        assert!(matches!(widgets_now.get("default", "w000", ReadAt::Any).await, Err(Error::Removed(_))));
        assert!(running.store.collection("widgets.example.com").is_none() && !running.store.remove("widgets.example.com"));
    }
    writing.await.unwrap();
    let widgets = running.store.add(widgets("widgets")).await.unwrap();
    assert_eq!(widgets.list(&Selection::all(), ListOptions::default()).await.unwrap().items.len(), OBJECTS);
    assert!(matches!(running.store.add(pods()).await, Err(Error::OverlappingKinds(..))));
    running.stop().await;
}

#[tokio::test]
async fn custom_objects_are_json_in_etcd_and_selected_like_any_other() {
    let cluster = EtcdCluster::start(1).await.unwrap();
    let running = Running::start(cluster.config()).await;
    running.store.commit(&put("old", "blue")).await.unwrap();
    let widgets = running.store.add(widgets("widgets")).await.unwrap();
    let mut watch = widgets.watch(Selection::all(), WatchStart::After(running.store.revision())).await.unwrap();

    let encoded = api::unstructured::from_stored("Widget", widget("new", "red").to_string().as_bytes()).unwrap();
    let created = widgets.create("default", "new", &encoded).await.unwrap();
    let told = unwrap_next(&mut watch).await.events.remove(0).entry;
    assert_eq!((told.name(), told.label("name"), told.uid(), told.stored()), ("new", Some("new"), "new", &encoded[..]));
    let stored = running.store.etcd().get("/registry/example.com/widgets/default/new").await.unwrap().unwrap();
    let stored: Value = serde_json::from_slice(&stored.bytes).unwrap();
    assert_eq!((&stored["apiVersion"], &stored["spec"]), (&json!("example.com/v1"), &json!({"color": "red"})));
    assert_eq!(stored["metadata"]["resourceVersion"], Value::Null);

    let of_color = |color: &str| Selection::all().with_index(IndexKey::Field { field: 0, value: color.to_owned() });
    for (color, name) in [("red", "new"), ("blue", "old")] {
        let list = widgets.list(&of_color(color), ListOptions::default()).await.unwrap();
        assert_eq!(list.items.iter().map(|entry| entry.name()).collect::<Vec<_>>(), [name]);
    }
    // What is another kind's, or no JSON, is refused and hides nothing.
    assert!(matches!(widgets.update("default", "new", created.revision(), b"\x22\x01{").await, Err(Error::InvalidObject { .. })));
    let broken = Txn::new().put("/registry/example.com/widgets/default/broken", b"{\"kind\":\"Gadget\"}".to_vec(), None);
    running.store.commit(&broken).await.unwrap();
    assert_eq!(widgets.list(&Selection::all(), ListOptions::default()).await.unwrap().items.len(), 2);
    running.stop().await;
}

/// Resident memory of this process, bytes.
fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.split_whitespace().next().unwrap().parse::<usize>().unwrap() << 10
}

#[tokio::test]
async fn a_thousand_empty_kinds_cost_little_memory_and_no_watch() {
    const KINDS: usize = 1000;
    let cluster = EtcdCluster::start(1).await.unwrap();
    let running = Running::start(cluster.config()).await;
    running.store.add(widgets("first")).await.unwrap();
    let watches = running.store.counters().watches_opened.get();
    let before = resident();
    for i in 0..KINDS {
        running.store.add(widgets(&format!("widgets{i}"))).await.unwrap();
    }
    let grown = resident().saturating_sub(before);
    println!("{KINDS} kinds without objects: {} KiB, {} B each", grown >> 10, grown / KINDS);
    assert!(grown < 10 << 20, "{grown} bytes");
    assert_eq!(running.store.counters().watches_opened.get(), watches, "one watch follows all kinds");

    let last = running.store.collection("widgets999.example.com").unwrap();
    let encoded = api::unstructured::from_stored("Widget", widget("a", "red").to_string().as_bytes()).unwrap();
    last.create("default", "a", &encoded).await.unwrap();
    assert_eq!(last.list(&Selection::all(), ListOptions::default()).await.unwrap().items.len(), 1);
    running.stop().await;
}
