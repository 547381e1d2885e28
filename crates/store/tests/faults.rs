//! What the store does while etcd's members die, stop, are wiped, or forget.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests state their claims by unwrapping")]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use store::testing::EtcdCluster;
use store::{
    Change, Collection, Entry, Error, EtcdError, EventKind, Guard, ListOptions, Outcome, ReadAt, Selection, Txn, WatchStart,
};
use support::proxy::Proxy;
use support::{Running, pod, unwrap_next};
use tokio::time::{sleep, timeout};

/// What writers were told: the names whose creation was acknowledged, those with an unknown outcome, and the longest a
/// write took.
#[derive(Default)]
struct Told {
    acknowledged: BTreeMap<String, i64>,
    unknown: BTreeSet<String>,
    slowest: Duration,
}

/// Creates pods one after another until told to stop.
async fn write(pods: Collection, prefix: String, stop: Arc<AtomicBool>) -> Told {
    let mut told = Told::default();
    for i in 0.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let (name, began) = (format!("{prefix}-{i}"), Instant::now());
        match pods.create("load", &name, &pod("load", &name, "")).await {
            Ok(entry) => drop(told.acknowledged.insert(name, entry.revision())),
            Err(Error::Etcd(EtcdError::Unavailable(_) | EtcdError::TimedOut(_))) => {}
            Err(Error::Etcd(EtcdError::Undetermined(_))) => drop(told.unknown.insert(name)),
            // Every name is written once: an object of that name is our own.
            Err(error) => panic!("{name}: {error:?}"),
        }
        told.slowest = told.slowest.max(began.elapsed());
    }
    told
}

/// Everything acknowledged is there, at the revision that was told, and nothing is there that nobody wrote.
async fn check(pods: &Collection, told: &[Told]) {
    let list = pods.list(&Selection::all(), ListOptions::default()).await.unwrap();
    let found: BTreeMap<_, _> = list.items.iter().map(|entry| (entry.name().to_owned(), entry.revision())).collect();
    let mut expected = BTreeMap::new();
    for told in told {
        expected.extend(told.acknowledged.clone());
        let happened = told.unknown.iter().filter_map(|name| Some((name.clone(), *found.get(name)?)));
        expected.extend(happened);
    }
    assert_eq!(found, expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_acknowledged_write_is_lost_when_leaders_die_and_members_are_wiped() {
    let mut cluster = EtcdCluster::start(3).await.unwrap();
    let (one, two) = (Running::start(cluster.config()).await, Running::start(cluster.config()).await);
    let stop = Arc::<AtomicBool>::default();
    let writers: Vec<_> = [("a", &one), ("b", &one), ("c", &two), ("d", &two)]
        .map(|(name, running)| tokio::spawn(write(running.pods(), name.to_owned(), stop.clone())))
        .into();
    let watching = two.pods();
    let watcher = tokio::spawn(async move {
        let mut watch = watching.watch(Selection::all(), WatchStart::Initial(ReadAt::Latest)).await.unwrap();
        let mut seen = BTreeMap::new();
        while !seen.contains_key("end") {
            for event in watch.next().await.unwrap().events {
                let known = seen.insert(event.entry.name().to_owned(), event.entry.revision());
                assert_eq!((known, event.kind), (None, EventKind::Added), "each creation is told once");
            }
        }
        seen
    });

    for _ in 0..2 {
        sleep(Duration::from_millis(700)).await;
        let leader = cluster.leader().await.unwrap();
        cluster.kill(leader).unwrap();
        sleep(Duration::from_secs(2)).await;
        cluster.restart(leader).unwrap();
        cluster.ready().await.unwrap();
    }
    let leader = cluster.leader().await.unwrap();
    cluster.kill(leader).unwrap();
    sleep(Duration::from_secs(2)).await;
    cluster.wipe_and_rejoin(leader).await.unwrap();
    cluster.ready().await.unwrap();
    sleep(Duration::from_millis(500)).await;

    stop.store(true, Ordering::Relaxed);
    let mut told = Vec::new();
    for writer in writers {
        told.push(writer.await.unwrap());
    }
    let acknowledged: usize = told.iter().map(|told| told.acknowledged.len()).sum();
    let slowest = told.iter().map(|told| told.slowest).max().unwrap();
    println!("acknowledged {acknowledged}, slowest {slowest:?}");
    assert!(acknowledged > 20);
    check(&one.pods(), &told).await;
    check(&two.pods(), &told).await;
    one.pods().create("load", "end", &pod("load", "end", "")).await.unwrap();
    let mut seen = timeout(Duration::from_secs(20), watcher).await.unwrap().unwrap();
    seen.remove("end");
    let list = one.pods().list(&Selection::all(), ListOptions::default()).await.unwrap();
    assert_eq!(seen.len() + 1, list.items.len());
    assert!(list.items.iter().all(|entry| entry.name() == "end" || seen.get(entry.name()) == Some(&entry.revision())));
    one.stop().await;
    two.stop().await;
}

#[tokio::test]
async fn a_stopped_member_costs_about_a_second() {
    let cluster = EtcdCluster::start(3).await.unwrap();
    let leader = cluster.leader().await.unwrap();
    let follower = (leader + 1) % 3;
    // The member to begin with is chosen at random.
    let running = loop {
        let running = Running::start(cluster.config()).await;
        if running.store.etcd().preferred_endpoint() == cluster.endpoint(follower) {
            break running;
        }
        running.stop().await;
    };
    let pods = running.pods();
    pods.create("a", "before", &pod("a", "before", "")).await.unwrap();
    cluster.pause(follower).unwrap();
    let began = Instant::now();
    let created = pods.create("a", "during", &pod("a", "during", "")).await.unwrap();
    let wrote = began.elapsed();
    let read = pods.get("a", "during", ReadAt::Latest).await.unwrap();
    let total = began.elapsed();
    println!("write {wrote:?}, with consistent read {total:?}");
    assert_eq!(read.revision(), created.revision());
    assert!(wrote < Duration::from_secs(3) && total < Duration::from_secs(5), "{wrote:?} {total:?}");
    let began = Instant::now();
    pods.create("a", "after", &pod("a", "after", "")).await.unwrap();
    assert!(began.elapsed() < Duration::from_secs(1), "the next ones go straight to another member");
    cluster.resume(follower).unwrap();
    let list = pods.list(&Selection::all(), ListOptions::default()).await.unwrap();
    assert_eq!(list.items.len(), 3);
    running.stop().await;
}

#[tokio::test]
async fn a_write_whose_answer_is_lost_is_found_by_reading_back() {
    let cluster = EtcdCluster::start(1).await.unwrap();
    let proxy = Proxy::start(&cluster.endpoint(0)).await;
    let mut config = cluster.config();
    config.endpoints = vec![proxy.endpoint.clone()];
    let direct = Running::start(cluster.config()).await;
    let running = Running::start(config).await;
    let pods = running.pods();
    let created = pods.create("a", "x", &pod("a", "x", "")).await.unwrap();

    // The answers of the first attempts vanish; a later attempt finds what the first one wrote.
    let losing = async |write: std::pin::Pin<Box<dyn Future<Output = Result<Arc<Entry>, Error>> + Send>>| {
        pods.get("a", "x", ReadAt::Latest).await.unwrap();
        proxy.swallow_answers();
        let write = tokio::spawn(write);
        sleep(Duration::from_millis(500)).await;
        let seen = direct.pods().list(&Selection::all(), ListOptions::default()).await.unwrap();
        proxy.restore();
        (timeout(Duration::from_secs(15), write).await.unwrap().unwrap(), seen)
    };
    let collection = pods.clone();
    let (written, seen) = losing(Box::pin(async move { collection.create("a", "y", &pod("a", "y", "")).await })).await;
    let written = written.unwrap();
    assert_eq!(seen.items.last().map(|entry| (entry.name(), entry.revision())), Some(("y", written.revision())));

    let (collection, at) = (pods.clone(), created.revision());
    let (updated, seen) = losing(Box::pin(async move { collection.update("a", "x", at, &pod("a", "x", "n1")).await })).await;
    let updated = updated.unwrap();
    assert_eq!(seen.items[0].revision(), updated.revision());

    let (collection, at) = (pods.clone(), updated.revision());
    let (deleted, seen) = losing(Box::pin(async move { collection.delete("a", "x", at).await })).await;
    assert!(deleted.unwrap().revision() > updated.revision());
    assert_eq!(seen.items.len(), 1);
    assert!(running.store.counters().etcd_read_backs.get() >= 3);

    pods.get("a", "y", ReadAt::Latest).await.unwrap();
    // Somebody else's later write does not hide that ours came first.
    let (collection, at) = (pods.clone(), written.revision());
    proxy.swallow_answers();
    let ours = tokio::spawn(async move { collection.update("a", "y", at, &pod("a", "y", "ours")).await });
    let theirs = |entry: &Arc<Entry>| match entry.revision() {
        revision if revision == at => Err(Error::NotReady),
        _ => Ok(Change::Put(pod("a", "y", "theirs").into())),
    };
    while direct.pods().modify("a", "y", theirs).await.is_err() {
        sleep(Duration::from_millis(20)).await;
    }
    proxy.restore();
    let ours = timeout(Duration::from_secs(15), ours).await.unwrap().unwrap().unwrap();
    let now = direct.pods().get("a", "y", ReadAt::Latest).await.unwrap();
    assert!(now.revision() > ours.revision());
    running.stop().await;
    direct.stop().await;
}

#[tokio::test]
async fn what_another_wrote_beside_it_does_not_make_a_write_done() {
    let cluster = EtcdCluster::start(1).await.unwrap();
    let proxy = Proxy::start(&cluster.endpoint(0)).await;
    let mut config = cluster.config();
    config.endpoints = vec![proxy.endpoint.clone()];
    let (running, direct) = (Running::start(config).await, Running::start(cluster.config()).await);
    let Outcome::Committed(at) = direct.store.commit(&Txn::new().put("/quota", "0", None)).await.unwrap() else { panic!() };
    // Both put the same figure beside an object of their own, as creations under one quota do.
    let create = |name: &str| {
        let own = format!("/own/{name}");
        let guarded = Txn::new().guard(&own, Guard::Absent).guard("/quota", Guard::At(at));
        guarded.put(&own, name.to_owned(), None).put("/quota", "1", None)
    };
    running.store.etcd().get("/quota").await.unwrap();
    assert!(matches!(direct.store.commit(&create("theirs")).await.unwrap(), Outcome::Committed(_)));

    // Refused, which is not heard, and refused again.
    proxy.swallow_answers();
    let (store, ours) = (running.store.clone(), create("ours"));
    let ours = tokio::spawn(async move { store.commit(&ours).await });
    sleep(Duration::from_millis(500)).await;
    proxy.restore();
    let ours = timeout(Duration::from_secs(15), ours).await.unwrap().unwrap().unwrap();
    assert!(matches!(ours, Outcome::Refused(_)), "{ours:?}");
    assert!(running.store.counters().etcd_read_backs.get() >= 1);
    assert!(direct.store.etcd().get("/own/ours").await.unwrap().is_none());
    running.stop().await;
    direct.stop().await;
}

#[tokio::test]
async fn a_refusal_says_nothing_of_an_attempt_before_it_that_was_not_answered() {
    let cluster = EtcdCluster::start(1).await.unwrap();
    let proxy = Proxy::start(&cluster.endpoint(0)).await;
    let mut config = cluster.config();
    config.endpoints = vec![proxy.endpoint.clone()];
    let (running, direct) = (Running::start(config).await, Running::start(cluster.config()).await);
    let events = running.store.collection("events").unwrap();
    events.create("a", "first", &pod("a", "first", "")).await.unwrap();

    // Written, not acknowledged, and gone with the lease that it shares with the first.
    proxy.swallow_answers();
    let write = tokio::spawn(async move { events.create("a", "second", &pod("a", "second", "")).await });
    let theirs = direct.store.collection("events").unwrap();
    for there in [true, false] {
        while theirs.get("a", "second", ReadAt::Latest).await.is_ok() != there {
            sleep(Duration::from_millis(20)).await;
        }
    }
    proxy.restore();
    // Only the repetition is told that there is no such lease.
    let answer = timeout(Duration::from_secs(15), write).await.unwrap().unwrap();
    assert!(matches!(answer, Err(Error::Etcd(EtcdError::Undetermined(_)))), "{answer:?}");
    assert!(theirs.get("a", "second", ReadAt::Latest).await.is_err(), "it is not done twice");
    running.stop().await;
    direct.stop().await;
}

#[tokio::test]
async fn without_etcd_writes_fail_in_time_and_say_whether_they_may_have_happened() {
    let mut cluster = EtcdCluster::start(1).await.unwrap();
    let mut config = cluster.config();
    config.request_timeout = Duration::from_secs(2);
    config.catch_up_timeout = Duration::from_secs(2);
    let running = Running::start(config).await;
    let pods = running.pods();
    pods.create("a", "x", &pod("a", "x", "")).await.unwrap();
    cluster.pause(0).unwrap();
    let lost = pods.create("a", "y", &pod("a", "y", "")).await;
    assert!(matches!(lost, Err(Error::Etcd(EtcdError::Undetermined(_)))), "{lost:?}");
    cluster.kill(0).unwrap();
    // The broken connection may still swallow one request.
    let _first = pods.create("a", "z", &pod("a", "z", "")).await;
    let refused = pods.create("a", "z", &pod("a", "z", "")).await;
    assert!(matches!(refused, Err(Error::Etcd(EtcdError::Unavailable(_)))), "{refused:?}");
    let any = pods.get("a", "x", ReadAt::Any).await.unwrap();
    assert!(pods.get("a", "x", ReadAt::Latest).await.is_err());
    cluster.restart(0).unwrap();
    cluster.ready().await.unwrap();
    let again = pods.get("a", "x", ReadAt::Latest).await.unwrap();
    assert_eq!(again.revision(), any.revision());
    running.stop().await;
}

#[tokio::test]
async fn a_relist_after_compaction_tells_exactly_what_was_missed() {
    let cluster = EtcdCluster::start(1).await.unwrap();
    let proxy = Proxy::start(&cluster.endpoint(0)).await;
    let (mut config, mut compacting) = (cluster.config(), cluster.config());
    config.endpoints = vec![proxy.endpoint.clone()];
    config.compaction_interval = Duration::ZERO;
    compacting.compaction_interval = Duration::from_millis(300);
    let running = Running::start(config).await;
    let other = Running::start(compacting).await;
    let (pods, theirs) = (running.pods(), other.pods());
    for name in ["kept", "changed", "deleted", "replaced"] {
        theirs.create("a", name, &pod("a", name, "")).await.unwrap();
    }
    let mut watch = pods.watch(Selection::all(), WatchStart::Initial(ReadAt::Latest)).await.unwrap();
    assert_eq!(unwrap_next(&mut watch).await.events.len(), 4);

    proxy.refuse();
    let to = |node: &'static str| move |e: &Arc<Entry>| Ok::<_, Error>(Change::Put(pod("a", e.name(), node).into()));
    theirs.modify("a", "changed", to("n1")).await.unwrap();
    let changed = theirs.modify("a", "changed", to("n2")).await.unwrap();
    theirs.modify("a", "deleted", |_| Ok::<_, Error>(Change::Delete)).await.unwrap();
    theirs.modify("a", "replaced", |_| Ok::<_, Error>(Change::Delete)).await.unwrap();
    // A new object of the same name has another UID.
    let mut object = pod("a", "replaced", "n3");
    let mut metadata = Vec::new();
    store::wire::put_bytes(&mut metadata, 5, b"another-uid");
    store::wire::put_bytes(&mut object, 1, &metadata);
    let replaced = theirs.create("a", "replaced", &object).await.unwrap();
    theirs.create("a", "passing", &pod("a", "passing", "")).await.unwrap();
    theirs.modify("a", "passing", |_| Ok::<_, Error>(Change::Delete)).await.unwrap();
    let new = theirs.create("a", "new", &pod("a", "new", "")).await.unwrap();
    let compactions = other.store.counters().compactions.get();
    while other.store.counters().compactions.get() < compactions + 3 {
        sleep(Duration::from_millis(50)).await;
    }
    proxy.restore();

    let mut told = Vec::new();
    while told.len() < 5 {
        let batch = unwrap_next(&mut watch).await;
        told.extend(batch.events.iter().map(|e| (e.kind, e.entry.name().to_owned(), e.entry.revision())));
    }
    let deletion = told.iter().find(|(_, name, _)| name == "deleted").unwrap().2;
    let replacing = told.iter().find(|(kind, name, _)| name == "replaced" && *kind == EventKind::Deleted).unwrap().2;
    assert!(replacing < replaced.revision() && deletion > new.revision());
    assert_eq!(
        told,
        [
            (EventKind::Modified, "changed".to_owned(), changed.revision()),
            (EventKind::Deleted, "replaced".to_owned(), replacing),
            (EventKind::Added, "replaced".to_owned(), replaced.revision()),
            (EventKind::Added, "new".to_owned(), new.revision()),
            (EventKind::Deleted, "deleted".to_owned(), deletion),
        ]
    );
    assert!(running.store.counters().relists.get() >= 1);
    let (ours, truth) = (ListOptions::default(), ListOptions::default());
    let (ours, truth) = (pods.list(&Selection::all(), ours).await.unwrap(), theirs.list(&Selection::all(), truth).await.unwrap());
    let objects = |list: &store::List| list.items.iter().map(|e| (e.key().to_owned(), e.object())).collect::<Vec<_>>();
    assert_eq!(objects(&ours), objects(&truth));
    assert!(watch.try_next().unwrap().is_none());
    running.stop().await;
    other.stop().await;
}

#[tokio::test]
async fn a_lagging_watcher_is_told_so_and_never_delays_another() {
    let cluster = EtcdCluster::start(1).await.unwrap();
    let mut config = cluster.config();
    config.ring_events = 50;
    let running = Running::start(config).await;
    let pods = running.pods();
    let start = WatchStart::After(running.store.revision());
    let mut lagging = pods.watch(Selection::all(), start).await.unwrap();
    let mut lively = pods.watch(Selection::all(), start).await.unwrap();
    let mut elsewhere = pods.watch(Selection::namespace("quiet"), start).await.unwrap();
    pods.create("quiet", "q", &pod("quiet", "q", "")).await.unwrap();
    let mut seen = 0;
    for i in 0..120 {
        pods.create("a", &format!("p{i}"), &pod("a", &format!("p{i}"), "")).await.unwrap();
        while seen < i + 2 {
            seen += unwrap_next(&mut lively).await.events.len();
        }
    }
    assert!(matches!(lagging.next().await, Err(Error::Expired { .. })));
    // What others missed does not concern whoever selects something else.
    pods.create("quiet", "r", &pod("quiet", "r", "")).await.unwrap();
    assert!(matches!(elsewhere.next().await, Err(Error::Expired { .. })), "its own first event is gone");
    let mut elsewhere = pods.watch(Selection::namespace("quiet"), WatchStart::After(running.store.revision())).await.unwrap();
    for i in 0..60 {
        pods.create("b", &format!("p{i}"), &pod("b", &format!("p{i}"), "")).await.unwrap();
    }
    pods.create("quiet", "s", &pod("quiet", "s", "")).await.unwrap();
    assert_eq!(unwrap_next(&mut elsewhere).await.events[0].entry.name(), "s");
    assert!(running.store.counters().expired_watchers.get() == 2);
    running.stop().await;
}
