//! What the store does for etcd's size, and when etcd forgets.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests state their claims by unwrapping")]

mod support;

use std::time::{Duration, Instant};

use store::testing::EtcdCluster;
use store::{Change, Error, EtcdError, ListOptions, ReadAt, Selection, WatchStart};
use support::proxy::Proxy;
use support::{Running, padded_pod, pod, unwrap_next};
use tokio::time::sleep;

/// Waits until something is so.
async fn until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(40);
    while !done() {
        assert!(Instant::now() < deadline, "{what}");
        sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn a_full_database_is_emptied_and_takes_writes_again() {
    let cluster = EtcdCluster::start_with(1, &["--quota-backend-bytes", "16777216"]).await.unwrap();
    let running = Running::start(cluster.config()).await;
    let pods = running.pods();
    pods.create("a", "x", &pod("a", "x", "")).await.unwrap();
    // The same object again and again: all of it is history.
    let mut refused = None;
    for i in 0..60 {
        let grow = |_: &_| Ok::<_, Error>(Change::Put(padded_pod("a", "x", &format!("n{i}"), 1 << 20).into()));
        if let Err(error) = pods.modify("a", "x", grow).await {
            refused = Some(error);
            break;
        }
    }
    assert!(matches!(refused, Some(Error::Etcd(EtcdError::NoSpace(_)))), "{refused:?}");
    let counters = running.store.counters();
    until("it is defragmented", || counters.defragmentations.get() > 0).await;
    let deadline = Instant::now() + Duration::from_secs(20);
    while let Err(error) = pods.create("a", "y", &pod("a", "y", "")).await {
        assert!(matches!(error, Error::Etcd(EtcdError::NoSpace(_))), "{error:?}");
        assert!(Instant::now() < deadline, "it takes writes again");
        sleep(Duration::from_millis(100)).await;
    }
    running.stop().await;
}

#[tokio::test]
async fn members_are_defragmented_when_it_pays_by_one_server_at_a_time() {
    let cluster = EtcdCluster::start(3).await.unwrap();
    let mut config = cluster.config();
    config.compaction_interval = Duration::from_millis(500);
    config.defragment_from = 4 << 20;
    let (one, two) = (Running::start(config.clone()).await, Running::start(config).await);
    let pods = one.pods();
    pods.create("a", "x", &pod("a", "x", "")).await.unwrap();
    for i in 0..15 {
        let grow = |_: &_| Ok::<_, Error>(Change::Put(padded_pod("a", "x", &format!("n{i}"), 1 << 20).into()));
        pods.modify("a", "x", grow).await.unwrap();
    }
    let defragmented = || [&one, &two].map(|r| r.store.counters().defragmentations.get()).iter().sum::<u64>();
    until("every member is defragmented", || defragmented() >= 3).await;
    sleep(Duration::from_secs(2)).await;
    assert!(defragmented() <= 4, "and then left alone");
    assert_eq!(pods.get("a", "x", ReadAt::Latest).await.unwrap().field(&pods.layout().fields[0]), "n14");
    one.stop().await;
    two.stop().await;
}

#[tokio::test]
async fn when_etcd_loses_history_everybody_begins_anew() {
    let mut cluster = EtcdCluster::start(1).await.unwrap();
    let running = Running::start(cluster.config()).await;
    let pods = running.pods();
    for name in ["x", "y", "z"] {
        pods.create("a", name, &pod("a", name, "")).await.unwrap();
    }
    let mut watch = pods.watch(Selection::all(), WatchStart::Initial(ReadAt::Latest)).await.unwrap();
    assert_eq!(unwrap_next(&mut watch).await.events.len(), 3);
    cluster.start_over().await.unwrap();
    let over = tokio::time::timeout(Duration::from_secs(20), watch.next()).await.unwrap();
    assert!(matches!(over, Err(Error::Expired { .. })), "{over:?}");
    let created = pods.create("b", "new", &pod("b", "new", "")).await.unwrap();
    assert!(created.revision() < 5);
    let list = pods.list(&Selection::all(), ListOptions::default()).await.unwrap();
    assert_eq!(list.items.iter().map(|entry| entry.path()).collect::<Vec<_>>(), ["b/new"]);
    running.stop().await;
}

#[tokio::test]
async fn a_renewed_certificate_is_used_without_a_restart() {
    let cluster = EtcdCluster::start(1).await.unwrap();
    let proxy = Proxy::start(&cluster.endpoint(0)).await;
    let mut config = cluster.config();
    config.endpoints = vec![proxy.endpoint.clone()];
    let files = config.tls.clone().unwrap();
    let running = Running::start(config).await;
    let old = std::fs::read(&files.cert).unwrap();
    // While they are half written, the former ones are used.
    std::fs::write(&files.cert, "").unwrap();
    proxy.restore();
    running.pods().create("a", "x", &pod("a", "x", "")).await.unwrap();
    cluster.renew_client_certificate().unwrap();
    assert_ne!(std::fs::read(&files.cert).unwrap(), old);
    proxy.restore();
    running.pods().create("a", "y", &pod("a", "y", "")).await.unwrap();
    running.stop().await;
}

/// For a minute: longer than any silence that a connection or a watch is closed for.
#[tokio::test]
async fn an_idle_watch_stays_open() {
    let cluster = EtcdCluster::start(1).await.unwrap();
    let running = Running::start(cluster.config()).await;
    sleep(Duration::from_secs(60)).await;
    assert_eq!(running.store.counters().watches_opened.get(), 1);
    running.stop().await;
}
