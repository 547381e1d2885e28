//! What the store does for etcd's size, and when etcd forgets.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests state their claims by unwrapping")]

mod support;

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use store::testing::EtcdCluster;
use store::{Change, Collection, Error, EtcdError, ListOptions, Quorum, ReadAt, Selection, WatchStart};
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

/// Fills the database until it takes no more.
async fn fill(pods: &Collection) {
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
}

/// Waits until an object can be created.
async fn takes_writes(pods: &Collection, name: &str) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while let Err(error) = pods.create("a", name, &pod("a", name, "")).await {
        assert!(matches!(error, Error::Etcd(EtcdError::NoSpace(_) | EtcdError::Undetermined(_))), "{error:?}");
        assert!(Instant::now() < deadline, "it takes writes again");
        sleep(Duration::from_millis(200)).await;
    }
}

#[tokio::test]
async fn a_full_database_is_emptied_and_takes_writes_again() {
    let cluster = EtcdCluster::start_with(1, &["--quota-backend-bytes", "16777216"]).await.unwrap();
    let running = Running::start(cluster.config()).await;
    let pods = running.pods();
    fill(&pods).await;
    let counters = running.store.counters();
    until("it is defragmented", || counters.defragmentations.get() > 0).await;
    takes_writes(&pods, "y").await;
    running.stop().await;
}

#[tokio::test]
async fn a_full_database_is_emptied_by_the_members_that_answer() {
    let mut cluster = EtcdCluster::start_with(3, &["--quota-backend-bytes", "16777216"]).await.unwrap();
    let down = (cluster.leader().await.unwrap() + 1) % 3;
    cluster.kill(down).unwrap();
    let running = Running::start(cluster.config()).await;
    let pods = running.pods();
    fill(&pods).await;
    takes_writes(&pods, "y").await;
    assert_eq!(running.store.counters().defragmentations.get(), 2);
    // The third is full when it is back, and is then looked after too.
    cluster.restart(down).unwrap();
    cluster.ready().await.unwrap();
    takes_writes(&pods, "z").await;
    running.stop().await;
}

/// What the log says at info or above, as far as it comes from this thread.
#[derive(Clone, Default)]
struct Said(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Said {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn a_lost_quorum_is_told_within_seconds_and_said_once() {
    let said = Said::default();
    let writer = said.clone();
    let subscriber =
        tracing_subscriber::fmt().with_ansi(false).with_max_level(tracing::Level::INFO).with_writer(move || writer.clone());
    let _log = tracing::subscriber::set_default(subscriber.finish());
    let mut cluster = EtcdCluster::start(3).await.unwrap();
    let mut config = cluster.config();
    config.request_timeout = Duration::from_secs(2);
    let running = Running::start(config).await;
    let (pods, quorum) = (running.pods(), running.store.etcd().quorum());
    pods.create("a", "x", &pod("a", "x", "")).await.unwrap();
    until("it is known to be well", || *quorum.borrow() == Quorum::Held).await;
    // One of three is nothing to speak of, even the leader.
    let stopped = cluster.leader().await.unwrap();
    let killed = (stopped + 1) % 3;
    cluster.pause(stopped).unwrap();
    sleep(Duration::from_secs(8)).await;
    assert_eq!(*quorum.borrow(), Quorum::Held);
    cluster.kill(killed).unwrap();
    let begun = Instant::now();
    until("the loss is told", || matches!(&*quorum.borrow(), Quorum::Lost(_))).await;
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    let Quorum::Lost(why) = quorum.borrow().clone() else { panic!("it is back") };
    let both = [stopped, killed].map(|index| why.contains(&cluster.endpoint(index)));
    assert!(why.starts_with("2 of 3 members do not answer") && both == [true, true], "{why}");
    for n in 0..3 {
        let refused = pods.get("a", "x", ReadAt::Latest).await.unwrap_err();
        assert!(matches!(&refused, Error::Etcd(error) if error.is_temporary()), "{n}: {refused:?}");
    }
    cluster.resume(stopped).unwrap();
    cluster.restart(killed).unwrap();
    until("it is told to be back", || *quorum.borrow() == Quorum::Held).await;
    pods.get("a", "x", ReadAt::Latest).await.unwrap();
    running.stop().await;
    let said = String::from_utf8(said.0.lock().unwrap().clone()).unwrap();
    let times = |what: &str| said.lines().filter(|line| line.contains(what)).count();
    assert_eq!((times("has no quorum"), times("has a quorum again")), (1, 1), "{said}");
    assert!(said.lines().count() < 30, "{said}");
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
