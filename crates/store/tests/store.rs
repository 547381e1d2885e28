//! The store against real etcd clusters.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests state their claims by unwrapping")]

mod support;

use std::sync::Arc;
use std::time::Duration;

use store::testing::EtcdCluster;
use store::{
    Change, Entry, Error, EventKind, Guard, IndexKey, ListOptions, Outcome, ReadAt, Selection, Txn, Watch, WatchEvent, WatchStart,
};
use support::{Running, pod, pods, unwrap_next};

fn names(items: &[Arc<Entry>]) -> Vec<&str> {
    items.iter().map(|entry| entry.name()).collect()
}

fn told(events: &[WatchEvent]) -> Vec<(EventKind, &str)> {
    events.iter().map(|event| (event.kind, event.entry.name())).collect()
}

/// The events until there have been `count`.
async fn events(watch: &mut Watch, count: usize) -> Vec<WatchEvent> {
    let mut events = Vec::new();
    while events.len() < count {
        events.extend(unwrap_next(watch).await.events);
    }
    events
}

#[tokio::test]
async fn objects_are_created_read_changed_and_deleted() {
    let cluster = EtcdCluster::start(1).await.unwrap();
    let running = Running::start(cluster.config()).await;
    let pods = running.pods();

    let created = pods.create("default", "a", &pod("default", "a", "n1")).await.unwrap();
    assert_eq!(created.stored(), pod("default", "a", "n1"));
    let again = pods.create("default", "a", &pod("default", "a", "n1")).await;
    assert!(matches!(again, Err(Error::AlreadyExists { .. })));

    let read = pods.get("default", "a", ReadAt::Latest).await.unwrap();
    assert_eq!((read.revision(), read.object()), (created.revision(), created.object()));

    // What a client sends back holds a resource version; it is not stored.
    let updated = pods.update("default", "a", read.revision(), &read.object()).await.unwrap();
    assert!(updated.revision() > read.revision());
    assert_eq!(updated.stored(), read.stored());

    match pods.update("default", "a", read.revision(), &pod("default", "a", "n2")).await {
        Err(Error::Conflict { current }) => assert_eq!(current.revision(), updated.revision()),
        other => panic!("{other:?}"),
    }
    assert!(matches!(pods.update("default", "b", 1, b"").await, Err(Error::NotFound { .. })));
    assert!(matches!(pods.update("default", "a", 1, b"\x0a\xff").await, Err(Error::InvalidObject { .. })));

    let conflict = pods.delete("default", "a", read.revision()).await;
    assert!(matches!(conflict, Err(Error::Conflict { .. })), "{conflict:?}");
    let deleted = pods.delete("default", "a", updated.revision()).await.unwrap();
    assert!(deleted.revision() > updated.revision());
    assert!(matches!(pods.get("default", "a", ReadAt::Latest).await, Err(Error::NotFound { .. })));
    assert!(matches!(pods.delete("default", "a", 1).await, Err(Error::NotFound { .. })));
    running.stop().await;
}

#[tokio::test]
async fn modify_tries_again_until_nobody_came_in_between() {
    let cluster = EtcdCluster::start(1).await.unwrap();
    let (one, two) = (Running::start(cluster.config()).await, Running::start(cluster.config()).await);
    let created = one.pods().create("default", "a", &pod("default", "a", "n0")).await.unwrap();
    let tasks: Vec<_> = [one.pods(), two.pods()]
        .into_iter()
        .flat_map(|pods| (0..10).map(move |_| pods.clone()))
        .map(|pods| {
            tokio::spawn(async move {
                let add_one = |entry: &Arc<Entry>| {
                    let node = entry.field(&pods_field()).trim_start_matches('n').parse::<u32>().unwrap();
                    Ok::<_, Error>(Change::Put(pod("default", "a", &format!("n{}", node + 1)).into()))
                };
                pods.modify("default", "a", add_one).await.unwrap();
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    let entry = two.pods().get("default", "a", ReadAt::Latest).await.unwrap();
    assert_eq!(entry.field(&pods_field()), "n20");
    assert!(entry.revision() >= created.revision() + 20);
    let kept = one.pods().modify("default", "a", |entry| Ok::<_, Error>(Change::Put(entry.object()))).await.unwrap();
    assert_eq!(kept.revision(), entry.revision(), "writing the same bytes writes nothing");
    one.stop().await;
    two.stop().await;
}

fn pods_field() -> store::FieldLayout {
    pods().fields[0].clone()
}

#[tokio::test]
async fn a_read_sees_every_write_acknowledged_before_by_another_server() {
    let cluster = EtcdCluster::start(3).await.unwrap();
    let (one, two) = (Running::start(cluster.config()).await, Running::start(cluster.config()).await);
    for i in 0..100 {
        let name = format!("p{i}");
        let created = one.pods().create("default", &name, &pod("default", &name, "")).await.unwrap();
        let read = two.pods().get("default", &name, ReadAt::Latest).await.unwrap();
        assert_eq!(read.revision(), created.revision());
        let list = two.pods().list(&Selection::all(), ListOptions::default()).await.unwrap();
        assert!(list.revision >= created.revision() && list.items.len() == i + 1);
    }
    one.stop().await;
    two.stop().await;
}

#[tokio::test]
async fn pages_of_a_list_are_all_as_of_the_first_ones_revision() {
    let cluster = EtcdCluster::start(1).await.unwrap();
    let mut config = cluster.config();
    config.ring_events = 20;
    let running = Running::start(config).await;
    let pods = running.pods();
    for i in 0..10 {
        pods.create("a", &format!("p{i}"), &pod("a", &format!("p{i}"), "")).await.unwrap();
    }
    let all = Selection::namespace("a");
    let first = pods.list(&all, ListOptions { limit: 4, ..Default::default() }).await.unwrap();
    assert_eq!((names(&first.items), first.remaining), (vec!["p0", "p1", "p2", "p3"], Some(6)));

    // Meanwhile one is deleted, one changed and one is new.
    let p5 = pods.get("a", "p5", ReadAt::Any).await.unwrap();
    pods.delete("a", "p5", p5.revision()).await.unwrap();
    pods.modify("a", "p6", |_| Ok::<_, Error>(Change::Put(pod("a", "p6", "n1").into()))).await.unwrap();
    pods.create("a", "p45", &pod("a", "p45", "")).await.unwrap();

    let page = |after: &Option<String>| ListOptions {
        limit: 4,
        exact: Some(first.revision),
        after: after.clone(),
        ..Default::default()
    };
    let second = pods.list(&all, page(&first.next)).await.unwrap();
    assert_eq!(names(&second.items), ["p4", "p5", "p6", "p7"]);
    assert_eq!(second.items[1].revision(), p5.revision());
    assert_eq!(second.items[2].field(&pods_field()), "");
    let third = pods.list(&all, page(&second.next)).await.unwrap();
    assert_eq!((names(&third.items), third.next), (vec!["p8", "p9"], None));

    // The same when the cache has forgotten and only etcd knows.
    for i in 0..40 {
        pods.modify("a", "p9", |_| Ok::<_, Error>(Change::Put(pod("a", "p9", &format!("n{i}")).into()))).await.unwrap();
    }
    let second = pods.list(&all, page(&first.next)).await.unwrap();
    assert_eq!(names(&second.items), ["p4", "p5", "p6", "p7"]);
    assert_eq!((second.revision, second.next.as_deref()), (first.revision, Some("a/p7")));
    let future = pods.list(&all, ListOptions { exact: Some(1 << 40), ..Default::default() }).await;
    assert!(matches!(future, Err(Error::Future { .. })), "{future:?}");
    running.stop().await;
}

#[tokio::test]
async fn lists_and_watches_follow_scope_index_and_filter() {
    let cluster = EtcdCluster::start(1).await.unwrap();
    let running = Running::start(cluster.config()).await;
    let pods = running.pods();
    for (namespace, name, node) in [("a", "x", "n1"), ("a", "y", "n2"), ("b", "x", "n1"), ("b", "z", "")] {
        pods.create(namespace, name, &pod(namespace, name, node)).await.unwrap();
    }
    let on = |node: &str| IndexKey::Field { field: 0, value: node.into() };
    let owned = |uid: &str| Selection::all().with_index(IndexKey::Owner(uid.into()));
    let list = async |selection: &Selection| {
        let list = pods.list(selection, ListOptions::default()).await.unwrap();
        list.items.iter().map(|entry| entry.path().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(list(&Selection::all().with_index(on("n1"))).await, ["a/x", "b/x"]);
    assert_eq!(list(&Selection::all().with_index(on(""))).await, ["b/z"]);
    assert_eq!(list(&Selection::namespace("b").with_index(on("n1"))).await, ["b/x"]);
    assert_eq!(list(&Selection::object("a", "y")).await, ["a/y"]);
    assert_eq!(list(&Selection::namespace("")).await, Vec::<String>::new());
    assert_eq!(list(&owned("owner-of-x")).await, ["a/x", "b/x"]);
    assert_eq!(list(&Selection::all().with_filter(|entry| entry.label("name") == Some("x"))).await, ["a/x", "b/x"]);

    let initial = WatchStart::Initial(ReadAt::Latest);
    let mut node1 = pods.watch(Selection::all().with_index(on("n1")), initial).await.unwrap();
    let mut namespace = pods.watch(Selection::namespace("b"), WatchStart::After(running.store.revision())).await.unwrap();
    let first = unwrap_next(&mut node1).await;
    assert_eq!(told(&first.events), [(EventKind::Added, "x"), (EventKind::Added, "x")]);
    assert!(first.initial_end);

    let to = |node: &'static str| {
        move |entry: &Arc<Entry>| Ok::<_, Error>(Change::Put(pod(entry.namespace(), entry.name(), node).into()))
    };
    let bound = pods.modify("b", "z", to("n1")).await.unwrap();
    let moved = pods.modify("b", "z", to("n2")).await.unwrap();
    let deleted = pods.modify("b", "x", |_| Ok::<_, Error>(Change::Delete)).await.unwrap();
    let seen = events(&mut node1, 3).await;
    assert_eq!(told(&seen), [(EventKind::Added, "z"), (EventKind::Deleted, "z"), (EventKind::Deleted, "x")]);
    let revisions: Vec<_> = seen.iter().map(|event| event.entry.revision()).collect();
    assert_eq!(revisions, [bound.revision(), moved.revision(), deleted.revision()]);
    assert_eq!(seen[1].entry.field(&pods_field()), "n1", "its last selected state");
    let seen = events(&mut namespace, 3).await;
    assert_eq!(told(&seen), [(EventKind::Modified, "z"), (EventKind::Modified, "z"), (EventKind::Deleted, "x")]);
    assert_eq!(namespace.bookmark(), Some(deleted.revision()));
    assert!(node1.try_next().unwrap().is_none());
    running.stop().await;
}

#[tokio::test]
async fn a_transaction_happens_whole_or_not_at_all() {
    let cluster = EtcdCluster::start(1).await.unwrap();
    let running = Running::start(cluster.config()).await;
    let (store, pods) = (&running.store, running.pods());
    let both = |ip: &str| {
        Txn::new()
            .guard(format!("/registry/test-ips/{ip}"), Guard::Absent)
            .put(format!("/registry/test-ips/{ip}"), "uid-1", None)
            .put_object(pods.layout(), "a", "x", &pod("a", "x", ""))
            .unwrap()
    };
    let Outcome::Committed(revision) = store.commit(&both("1")).await.unwrap() else { panic!() };
    assert_eq!(pods.get("a", "x", ReadAt::Latest).await.unwrap().revision(), revision);
    let Outcome::Refused(states) = store.commit(&both("1")).await.unwrap() else { panic!() };
    assert_eq!(states[0].value.as_ref().unwrap().bytes, "uid-1");
    assert_eq!(pods.get("a", "x", ReadAt::Latest).await.unwrap().revision(), revision);
    let (found, _) = store.etcd().get_prefix("/registry/test-ips/").await.unwrap();
    assert_eq!(found, states);
    running.stop().await;
}

#[tokio::test]
async fn objects_with_a_time_to_live_share_leases_and_vanish() {
    let cluster = EtcdCluster::start(1).await.unwrap();
    let running = Running::start(cluster.config()).await;
    let events = running.store.collection("events").unwrap();
    for i in 0..20 {
        events.create("a", &format!("e{i}"), &pod("a", "e", "")).await.unwrap();
    }
    let requests = running.store.counters().etcd_requests.get();
    assert!(requests < 35, "20 puts, few leases, few reads: {requests}");
    let mut watch = events.watch(Selection::all(), WatchStart::Initial(ReadAt::Latest)).await.unwrap();
    let mut gone = 0;
    while gone < 20 {
        gone += unwrap_next(&mut watch).await.events.iter().filter(|event| event.kind == EventKind::Deleted).count();
    }
    assert!(events.list(&Selection::all(), ListOptions::default()).await.unwrap().items.is_empty());
    running.stop().await;
}

#[tokio::test]
async fn what_etcd_refuses_is_told_apart() {
    let cluster = EtcdCluster::start(1).await.unwrap();
    let running = Running::start(cluster.config()).await;
    let mut large = pod("a", "x", "");
    store::wire::put_bytes(&mut large, 99, &vec![7; 3 << 20]);
    let refused = running.pods().create("a", "x", &large).await;
    assert!(matches!(refused, Err(Error::Etcd(store::EtcdError::TooLarge(_)))), "{refused:?}");
    running.pods().create("a", "y", &pod("a", "y", "")).await.unwrap();
    running.stop().await;
}

#[tokio::test]
async fn values_of_other_programs_are_not_served_and_disturb_nobody() {
    let cluster = EtcdCluster::start(1).await.unwrap();
    let running = Running::start(cluster.config()).await;
    for value in ["{\"kind\":\"Pod\"}", "", "k8s\0\u{1}", "k8s\0\n\u{5}"] {
        let txn = Txn::new().put("/registry/pods/a/foreign", value, None).put("/other", "x", None);
        running.store.commit(&txn).await.unwrap();
    }
    running.pods().create("a", "x", &pod("a", "x", "")).await.unwrap();
    let list = running.pods().list(&Selection::all(), ListOptions::default()).await.unwrap();
    assert_eq!(names(&list.items), ["x"]);
    assert_eq!(running.store.counters().unreadable.get(), 4);
    running.stop().await;
}

#[tokio::test]
async fn a_watch_survives_the_restart_of_its_server() {
    let cluster = EtcdCluster::start(1).await.unwrap();
    let running = Running::start(cluster.config()).await;
    let first = running.pods().create("a", "x", &pod("a", "x", "")).await.unwrap();
    running.pods().create("a", "y", &pod("a", "y", "")).await.unwrap();
    running.stop().await;
    let running = Running::start(cluster.config()).await;
    let mut watch = running.pods().watch(Selection::all(), WatchStart::After(first.revision())).await.unwrap();
    assert_eq!(told(&unwrap_next(&mut watch).await.events), [(EventKind::Added, "y")]);
    let idle = tokio::time::timeout(Duration::from_millis(100), watch.next()).await;
    assert!(idle.is_err());
    running.stop().await;
}

#[tokio::test]
async fn a_page_that_is_compacted_away_is_told_so_and_the_list_can_begin_anew() {
    let cluster = EtcdCluster::start(1).await.unwrap();
    let mut config = cluster.config();
    config.ring_events = 5;
    config.compaction_interval = Duration::from_millis(200);
    let running = Running::start(config).await;
    let pods = running.pods();
    for i in 0..10 {
        pods.create("a", &format!("p{i}"), &pod("a", &format!("p{i}"), "")).await.unwrap();
    }
    let all = Selection::namespace("a");
    let first = pods.list(&all, ListOptions { limit: 4, ..Default::default() }).await.unwrap();
    let rest = || ListOptions { limit: 4, exact: Some(first.revision), after: first.next.clone(), ..Default::default() };
    assert_eq!(names(&pods.list(&all, rest()).await.unwrap().items), ["p4", "p5", "p6", "p7"]);
    let begun = running.store.counters().compactions.get();
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    for i in 0.. {
        pods.modify("a", "p9", |_| Ok::<_, Error>(Change::Put(pod("a", "p9", &format!("n{i}")).into()))).await.unwrap();
        if i >= 10 && running.store.counters().compactions.get() >= begun + 3 {
            break;
        }
        assert!(tokio::time::Instant::now() < deadline, "nothing is compacted");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    match pods.list(&all, rest()).await {
        Err(Error::Expired { requested, oldest }) => assert!(requested == first.revision && oldest > requested),
        other => panic!("{other:?}"),
    }
    assert_eq!(pods.list(&all, ListOptions::default()).await.unwrap().items.len(), 10);
    running.stop().await;
}
