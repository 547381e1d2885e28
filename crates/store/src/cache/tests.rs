//! The cache of a kind against a model that keeps every state of the past.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use proptest::prelude::*;

use super::kind::Change;
use super::list::ListOptions;
use super::watch::{EventKind, Watch, WatchStart};
use super::{KindCache, Limits, Listed};
use crate::entry::Entry;
use crate::error::Error;
use crate::layout::{Encoding, FieldLayout, KindLayout};
use crate::selection::{IndexKey, Selection};
use crate::store::ReadAt;
use crate::wire::put_bytes;

/// What objects there were: path to (revision, node).
type Snapshot = BTreeMap<String, (i64, String)>;

/// Whether an object at a path and on a node is selected.
type Selects = fn(&str, &str) -> bool;

/// One write: which object, and the node it goes to, or its deletion.
#[derive(Clone, Debug)]
struct Write {
    object: usize,
    node: Option<usize>,
    /// Applied together with the write before.
    together: bool,
}

const PATHS: [&str; 5] = ["a/x", "a/x-1", "a/y", "b/x", "b/z"];

fn layout() -> KindLayout {
    KindLayout {
        name: "pods".into(),
        api_version: "v1".into(),
        kind: "Pod".into(),
        prefix: "/registry/pods/".into(),
        namespaced: true,
        ttl: None,
        encoding: Encoding::Protobuf,
        fields: vec![FieldLayout::text("spec.nodeName", &[2, 10]).indexed(), FieldLayout::text("metadata.name", &[1, 1])],
    }
}

fn entry(path: &str, node: &str, revision: i64) -> Arc<Entry> {
    let (mut metadata, mut owner, mut spec, mut object) = (vec![], vec![], vec![], vec![]);
    put_bytes(&mut metadata, 1, path.split_once('/').unwrap().1.as_bytes());
    put_bytes(&mut metadata, 5, path.as_bytes());
    put_bytes(&mut owner, 4, format!("owner-{node}").as_bytes());
    put_bytes(&mut metadata, 13, &owner);
    put_bytes(&mut spec, 10, node.as_bytes());
    put_bytes(&mut object, 1, &metadata);
    put_bytes(&mut object, 2, &spec);
    Arc::new(Entry::new(&format!("/registry/pods/{path}"), "/registry/pods/".len(), &object, revision).unwrap())
}

fn cache(events: usize) -> Arc<KindCache> {
    let limits = Limits { events, bytes: usize::MAX };
    Arc::new(KindCache::new(Arc::new(layout()), limits, Arc::new(AtomicI64::new(0)), Arc::default()))
}

fn writes() -> impl Strategy<Value = Vec<Write>> {
    let write = (0..PATHS.len(), prop::option::weighted(0.75, 0..3usize), any::<bool>());
    prop::collection::vec(write.prop_map(|(object, node, together)| Write { object, node, together }), 1..60)
}

/// Applies the writes, one a revision; answers every state there was.
fn apply(cache: &KindCache, writes: &[Write]) -> BTreeMap<i64, Snapshot> {
    let (mut revision, mut now, mut states) = (10, Snapshot::new(), BTreeMap::new());
    cache.reset(vec![], revision);
    cache.published.store(revision, Ordering::Release);
    states.insert(revision, now.clone());
    let mut batch = Vec::new();
    for write in writes {
        if !write.together {
            cache.apply(std::mem::take(&mut batch));
        }
        revision += 1;
        let path = PATHS[write.object];
        let node = write.node.map(|node| format!("n{node}"));
        let new = node.as_ref().map(|node| entry(path, node, revision));
        batch.push(Change { key: format!("/registry/pods/{path}"), revision, entry: new });
        match node {
            Some(node) => drop(now.insert(path.to_owned(), (revision, node))),
            None => drop(now.remove(path)),
        }
        states.insert(revision, now.clone());
    }
    cache.apply(batch);
    cache.published.store(revision, Ordering::Release);
    states
}

/// Selections, and the same said of the model.
fn selections() -> Vec<(Selection, Selects)> {
    let on = |value: &str| IndexKey::Field { field: 0, value: value.into() };
    vec![
        (Selection::all(), |_, _| true),
        (Selection::namespace("a"), |path, _| path.starts_with("a/")),
        (Selection::object("a", "x"), |path, _| path == "a/x"),
        (Selection::all().with_index(on("n1")), |_, node| node == "n1"),
        (Selection::namespace("b").with_index(on("n0")), |path, node| path.starts_with("b/") && node == "n0"),
        (Selection::all().with_index(IndexKey::Owner("owner-n2".into())), |_, node| node == "n2"),
        (Selection::all().with_index(IndexKey::Field { field: 1, value: "x".into() }), |path, _| path.ends_with("/x")),
        (Selection::all().with_filter(|entry| entry.uid() < "b"), |path, _| path < "b"),
    ]
}

fn selected(state: &Snapshot, selects: Selects) -> Snapshot {
    let selected = state.iter().filter(|(path, (_, node))| selects(path, node));
    selected.map(|(path, object)| (path.clone(), object.clone())).collect()
}

fn listed(items: &[Arc<Entry>]) -> Vec<(String, i64)> {
    items.iter().map(|entry| (entry.path().to_owned(), entry.revision())).collect()
}

/// Applies what a watcher is told to what it knows, checking that each event makes sense.
fn follow(watch: &mut Watch, mut known: Snapshot) -> Result<Snapshot, Error> {
    let mut last = 0;
    while let Some(batch) = watch.try_next()? {
        for event in batch.events {
            let (path, revision) = (event.entry.path().to_owned(), event.entry.revision());
            assert!(revision > last && revision <= batch.revision, "in order");
            last = revision;
            let node = event.entry.field(&layout().fields[0]).into_owned();
            let before = match event.kind {
                EventKind::Added | EventKind::Modified => known.insert(path, (revision, node)),
                EventKind::Deleted => {
                    let before = known.remove(&path);
                    assert_eq!(before.as_ref().map(|(_, node)| node), Some(&node), "the last selected state");
                    before
                }
            };
            assert_eq!(before.is_some(), event.kind != EventKind::Added);
        }
    }
    assert!(watch.bookmark().is_some());
    Ok(known)
}

proptest! {
    #[test]
    fn lists_of_the_past_are_what_was_there(writes in writes(), events in 1..40usize, limit in 0..4usize) {
        let cache = cache(events);
        let states = apply(&cache, &writes);
        for (selection, selects) in selections() {
            for (revision, state) in &states {
                let mut found = Vec::new();
                let mut options = ListOptions { exact: Some(*revision), limit, ..Default::default() };
                loop {
                    let list = match cache.list(&selection, &options) {
                        Err(Error::Expired { oldest, .. }) => {
                            prop_assert!(oldest > *revision && found.is_empty());
                            break;
                        }
                        list => list.unwrap(),
                    };
                    prop_assert_eq!(list.revision, *revision);
                    prop_assert!(limit == 0 || list.items.len() <= limit);
                    found.extend(listed(&list.items));
                    options.after = list.next;
                    if options.after.is_none() {
                        let expected: Vec<_> = selected(state, selects).into_iter().map(|(p, (r, _))| (p, r)).collect();
                        prop_assert_eq!(found, expected);
                        break;
                    }
                }
            }
        }
    }

    #[test]
    fn a_watch_tells_exactly_what_changed(writes in writes(), events in 1..40usize) {
        let cache = cache(events);
        let states = apply(&cache, &writes);
        let (_, end) = states.last_key_value().unwrap();
        for (selection, selects) in selections() {
            for (revision, state) in &states {
                match Watch::new(cache.clone(), selection.clone(), WatchStart::After(*revision)) {
                    Err(Error::Expired { oldest, .. }) => prop_assert!(oldest > *revision),
                    watch => {
                        let known = follow(&mut watch.unwrap(), selected(state, selects)).unwrap();
                        prop_assert_eq!(known, selected(end, selects));
                    }
                }
            }
        }
        prop_assert_eq!(cache.stats().watches, 0);
    }

    #[test]
    fn a_running_watch_ends_with_the_truth_or_is_told_that_it_missed_something(
        writes in writes(),
        events in 5..40usize,
        read_after in 1..20usize,
    ) {
        let cache = cache(events);
        cache.reset(vec![], 10);
        let start = |selection: &Selection| Watch::new(cache.clone(), selection.clone(), WatchStart::Initial(ReadAt::Any));
        let mut watches: Vec<_> = selections().into_iter().map(|(s, f)| (start(&s).unwrap(), f, Some(Snapshot::new()))).collect();
        let (mut now, mut revision) = (Snapshot::new(), 10);
        for chunk in writes.chunks(read_after) {
            for write in chunk {
                revision += 1;
                let (path, node) = (PATHS[write.object], write.node.map(|node| format!("n{node}")));
                let new = node.as_ref().map(|node| entry(path, node, revision));
                cache.apply([Change { key: format!("/registry/pods/{path}"), revision, entry: new }]);
                match node {
                    Some(node) => drop(now.insert(path.to_owned(), (revision, node))),
                    None => drop(now.remove(path)),
                }
            }
            for (watch, selects, known) in &mut watches {
                *known = match known.take().map(|known| follow(watch, known)) {
                    Some(Ok(known)) => {
                        prop_assert_eq!(&known, &selected(&now, *selects));
                        Some(known)
                    }
                    // More has happened at a time than is kept.
                    Some(Err(_)) => {
                        prop_assert!(read_after > events);
                        None
                    }
                    None => None,
                };
            }
        }
    }

    #[test]
    fn a_relist_tells_exactly_the_difference(seen in writes(), missed in writes()) {
        let (ours, truth) = (cache(1_000), cache(1_000));
        let states = apply(&ours, &seen);
        let (last, before) = states.last_key_value().unwrap();
        apply(&truth, &seen);
        let mut revision = *last;
        let mut created: BTreeMap<String, i64> = BTreeMap::new();
        for write in &missed {
            revision += 1;
            let key = format!("/registry/pods/{}", PATHS[write.object]);
            let new = write.node.map(|node| entry(PATHS[write.object], &format!("n{node}"), revision));
            if new.is_some() {
                created.entry(key.clone()).or_insert(revision);
            } else {
                created.remove(&key);
            }
            truth.apply([Change { key, revision, entry: new }]);
        }
        truth.published.store(revision, Ordering::Release);
        let all = |cache: &KindCache| cache.list(&Selection::all(), &ListOptions::default()).unwrap();
        let list = all(&truth);
        let mut watches: Vec<_> = selections()
            .into_iter()
            .map(|(selection, selects)| (Watch::new(ours.clone(), selection, WatchStart::After(*last)).unwrap(), selects))
            .collect();
        let relisted = list.items.iter().map(|entry| Listed {
            entry: entry.clone(),
            created: created.get(entry.key()).copied().unwrap_or(entry.revision()),
        });
        ours.replace(relisted.collect(), list.revision);
        ours.published.store(list.revision, Ordering::Release);
        prop_assert_eq!(listed(&all(&ours).items), listed(&list.items));
        let now: Snapshot = list.items.iter().map(|entry| {
            (entry.path().to_owned(), (entry.revision(), entry.field(&layout().fields[0]).into_owned()))
        }).collect();
        for (watch, selects) in &mut watches {
            let mut known = selected(before, *selects);
            while let Some(batch) = watch.try_next().unwrap() {
                for event in batch.events {
                    let path = event.entry.path().to_owned();
                    match event.kind {
                        EventKind::Deleted => prop_assert!(known.remove(&path).is_some()),
                        _ => {
                            let node = event.entry.field(&layout().fields[0]).into_owned();
                            known.insert(path, (event.entry.revision(), node));
                        }
                    }
                }
            }
            prop_assert_eq!(known, selected(&now, *selects));
        }
    }
}

#[test]
fn watchers_of_one_value_are_woken_by_its_changes_only() {
    let cache = cache(100);
    let on = |node: &str| Selection::all().with_index(IndexKey::Field { field: 0, value: node.into() });
    let start = WatchStart::Initial(ReadAt::Any);
    let mut watch = Watch::new(cache.clone(), on("n1"), start).unwrap();
    assert!(watch.try_next().unwrap().unwrap().initial_end);
    let put = |path: &str, node: &str, revision| {
        cache.apply([Change { key: format!("/registry/pods/{path}"), revision, entry: Some(entry(path, node, revision)) }]);
    };
    let mut next = polled(&mut watch);
    put("a/x", "n2", 11);
    assert!(!next.is_woken());
    put("a/x", "n1", 12);
    assert!(next.is_woken());
}

/// Polls the watch's next batch once and tells whether it has been woken since.
fn polled(watch: &mut Watch) -> Woken<'_> {
    let flag = Arc::new(Flag::default());
    let waker = std::task::Waker::from(flag.clone());
    let mut next = Box::pin(watch.next());
    assert!(next.as_mut().poll(&mut std::task::Context::from_waker(&waker)).is_pending());
    Woken { flag, _next: next }
}

struct Woken<'a> {
    flag: Arc<Flag>,
    _next: std::pin::Pin<Box<dyn Future<Output = Result<super::watch::Batch, Error>> + 'a>>,
}

impl Woken<'_> {
    fn is_woken(&mut self) -> bool {
        self.flag.0.load(Ordering::SeqCst)
    }
}

#[derive(Default)]
struct Flag(std::sync::atomic::AtomicBool);

impl std::task::Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::SeqCst);
    }
}
