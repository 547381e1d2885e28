//! The cache of one kind: its objects as of now, their indexes, and the recent events.
//!
//! One writer (the feed) applies changes; readers take `Arc`s out under the read lock and work on them outside of it.
//! *Invariants:* under the lock, entries, indexes and rings tell of the same revision; an index holds an entry exactly if the
//! entries do.

use std::collections::{BTreeSet, HashMap};
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use parking_lot::RwLock;
use tokio::sync::Notify;

use super::ring::{Event, Ring};
use super::topics::Topics;
use crate::entry::{ByKey, Entry};
use crate::error::Error;
use crate::layout::KindLayout;
use crate::metrics::{Counters, Stats};
use crate::selection::{IndexKey, Scope, Selection};

/// The cache of one kind.
pub(crate) struct KindCache {
    pub(crate) layout: Arc<KindLayout>,
    pub(crate) counters: Arc<Counters>,
    pub(super) state: RwLock<State>,
    /// Wakes the watchers of all events.
    pub(super) wake: Arc<Notify>,
    /// The revision up to which the caches of all kinds have seen everything.
    pub(super) published: Arc<AtomicI64>,
    limits: Limits,
}

/// How much of the past is kept.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) events: usize,
    pub(crate) bytes: usize,
}

/// What the lock of a kind protects.
pub(super) struct State {
    pub(super) entries: BTreeSet<ByKey>,
    indexes: Indexes,
    pub(super) ring: Ring,
    pub(super) topics: Topics,
    pub(super) next_seq: u64,
    /// Raised when history is thrown away: cursors of before are void.
    pub(super) epoch: u64,
    /// The revision of the newest event applied.
    revision: i64,
    ring_bytes: usize,
    /// Running watches.
    pub(super) watches: usize,
    /// What the feed has told while the kind is being opened and its list is not in yet.
    opening: Option<Vec<Change>>,
    /// The kind was removed: watches end.
    pub(super) closed: bool,
}

/// One change to be applied.
#[derive(Debug)]
pub(crate) struct Change {
    /// The etcd key.
    pub(crate) key: String,
    /// When it happened.
    pub(crate) revision: i64,
    /// The new state; nothing if the object was deleted.
    pub(crate) entry: Option<Arc<Entry>>,
}

/// An object found by listing etcd.
#[derive(Debug)]
pub(crate) struct Listed {
    pub(crate) entry: Arc<Entry>,
    /// The revision the key was created at.
    pub(crate) created: i64,
}

type Index = HashMap<Box<str>, BTreeSet<ByKey>>;

/// Value → objects.
#[derive(Default)]
struct Indexes {
    owners: Index,
    /// By the field's place in the layout; fields without an index keep an empty one.
    fields: Vec<Index>,
}

// === impl KindCache ===

impl KindCache {
    pub(crate) fn new(layout: Arc<KindLayout>, limits: Limits, published: Arc<AtomicI64>, counters: Arc<Counters>) -> Self {
        let indexes = Indexes { fields: layout.fields.iter().map(|_| Index::new()).collect(), ..Indexes::default() };
        let state = State {
            entries: BTreeSet::new(),
            indexes,
            ring: Ring::default(),
            topics: Topics::new(&layout),
            next_seq: 0,
            epoch: 0,
            revision: 0,
            ring_bytes: 0,
            watches: 0,
            opening: None,
            closed: false,
        };
        Self { layout, counters, state: RwLock::new(state), wake: Arc::default(), published, limits }
    }

    /// The object under a key.
    pub(crate) fn get(&self, key: &str) -> Option<Arc<Entry>> {
        self.state.read().get(key).cloned()
    }

    /// How much it holds.
    pub(crate) fn stats(&self) -> Stats {
        let state = self.state.read();
        Stats { objects: state.entries.len(), events: state.ring.len(), event_bytes: state.ring_bytes, watches: state.watches }
    }

    /// Applies changes, oldest first, and wakes those they concern.
    pub(crate) fn apply(&self, changes: impl IntoIterator<Item = Change>) {
        let mut wakes = Vec::new();
        let mut state = self.state.write();
        if let Some(pending) = &mut state.opening {
            pending.extend(changes);
            return;
        }
        let before = state.next_seq;
        for change in changes {
            state.apply(&self.layout, change, &mut wakes);
        }
        state.trim(&self.layout, self.limits);
        let any = state.next_seq != before;
        drop(state);
        if any {
            self.wake.notify_waiters();
        }
        wakes.iter().for_each(|wake| wake.notify_waiters());
    }

    /// Makes the objects those that a list as of `revision` found, telling watchers exactly the difference.
    pub(crate) fn replace(&self, listed: Vec<Listed>, revision: i64) {
        if self.is_opening() {
            return self.open(listed, revision);
        }
        let changes = self.state.read().difference(listed, revision);
        self.apply(changes);
    }

    /// Keeps what the feed tells until [`KindCache::open`].
    pub(crate) fn begin_opening(&self) {
        self.state.write().opening = Some(Vec::new());
    }

    /// Whether the first list is not in yet.
    pub(crate) fn is_opening(&self) -> bool {
        self.state.read().opening.is_some()
    }

    /// Begins with a list as of `revision` and applies what the feed has told since. Does nothing if another list came first.
    pub(crate) fn open(&self, listed: Vec<Listed>, revision: i64) {
        let mut state = self.state.write();
        let Some(pending) = state.opening.take() else { return };
        state.begin(&self.layout, listed, revision);
        // Nobody watches yet.
        for change in pending.into_iter().filter(|change| change.revision > revision) {
            state.apply(&self.layout, change, &mut Vec::new());
        }
        state.trim(&self.layout, self.limits);
    }

    /// Ends the watches: the kind was removed.
    pub(crate) fn close(&self) {
        let mut wakes = vec![self.wake.clone()];
        let mut state = self.state.write();
        state.closed = true;
        state.topics.wake_all(&mut wakes);
        drop(state);
        wakes.iter().for_each(|wake| wake.notify_waiters());
    }

    /// # Errors
    /// [`Error::Removed`] if the kind was removed.
    pub(crate) fn check_open(&self) -> Result<(), Error> {
        if self.state.read().closed { Err(Error::Removed(self.layout.name.to_string())) } else { Ok(()) }
    }

    /// Throws everything away, history included, and begins with a list as of `revision`.
    pub(crate) fn reset(&self, listed: Vec<Listed>, revision: i64) {
        let mut wakes = vec![self.wake.clone()];
        let mut state = self.state.write();
        state.opening = None;
        state.begin(&self.layout, listed, revision);
        let seq = state.next_seq;
        state.topics.reset(revision, seq, &mut wakes);
        state.epoch += 1;
        drop(state);
        wakes.iter().for_each(|wake| wake.notify_waiters());
    }
}

// === impl State ===

impl State {
    pub(super) fn get(&self, key: &str) -> Option<&Arc<Entry>> {
        self.entries.get(key.as_bytes()).map(|found| &found.0)
    }

    /// The revision the state is as of. `published` must be loaded under the lock.
    pub(super) fn revision(&self, published: &AtomicI64) -> i64 {
        // All events up to the published revision are applied in every kind; this one may be ahead.
        self.revision.max(published.load(Ordering::Acquire))
    }

    /// The objects that scope and index select, after a key, in order.
    pub(super) fn candidates<'a>(
        &'a self,
        layout: &KindLayout,
        selection: &Selection,
        after: Option<&str>,
    ) -> Box<dyn Iterator<Item = &'a Arc<Entry>> + 'a> {
        let set = match &selection.index {
            Some(IndexKey::Owner(uid)) => self.indexes.owners.get(uid.as_str()),
            Some(IndexKey::Field { field, value }) if layout.fields.get(*field).is_some_and(|f| f.indexed) => {
                self.indexes.fields.get(*field).and_then(|index| index.get(value.as_str()))
            }
            _ => Some(&self.entries),
        };
        let Some(set) = set else {
            return Box::new(std::iter::empty());
        };
        let prefix = selection.scope.prefix(layout);
        if matches!(selection.scope, Scope::Object { .. }) {
            let found = set.get(prefix.as_bytes()).filter(|_| after.is_none_or(|after| prefix.as_str() > after));
            return Box::new(found.into_iter().map(|found| &found.0));
        }
        let start = match after {
            Some(after) if after >= prefix.as_str() => Bound::Excluded(after.as_bytes()),
            _ => Bound::Included(prefix.as_bytes()),
        };
        let range = set.range::<[u8], _>((start, Bound::Unbounded)).map(|found| &found.0);
        Box::new(range.take_while(move |entry| entry.key().starts_with(&prefix)))
    }

    fn apply(&mut self, layout: &KindLayout, change: Change, wakes: &mut Vec<Arc<Notify>>) {
        let previous = self.get(&change.key).cloned();
        let (entry, deleted) = match (change.entry, &previous) {
            (Some(entry), _) => (entry, false),
            (None, Some(previous)) => (Arc::new(previous.at_revision(change.revision)), true),
            // Deleted before it was ever readable.
            (None, None) => return,
        };
        if let Some(previous) = &previous {
            self.indexes.remove(layout, previous);
        }
        if deleted {
            self.entries.remove(change.key.as_bytes());
        } else {
            self.indexes.insert(layout, &entry);
            self.entries.replace(ByKey(entry.clone()));
        }
        let revision = change.revision.max(self.revision);
        let event = Arc::new(Event::new(self.next_seq, revision, entry, previous, deleted));
        self.next_seq += 1;
        self.revision = revision;
        self.ring_bytes += event.size();
        self.topics.push(layout, &event, wakes);
        self.ring.push(event);
    }

    /// Makes the objects those of a list as of `revision`, with no history.
    fn begin(&mut self, layout: &KindLayout, listed: Vec<Listed>, revision: i64) {
        let entries: BTreeSet<_> = listed.into_iter().map(|listed| ByKey(listed.entry)).collect();
        let mut indexes = Indexes { fields: layout.fields.iter().map(|_| Index::new()).collect(), ..Indexes::default() };
        entries.iter().for_each(|entry| indexes.insert(layout, &entry.0));
        self.ring = Ring::new(revision, self.next_seq);
        (self.entries, self.indexes, self.revision, self.ring_bytes) = (entries, indexes, revision, 0);
    }

    fn trim(&mut self, layout: &KindLayout, limits: Limits) {
        // The newest event stays: its revision is what the ring can be read from.
        while self.ring.len() > 1 && (self.ring.len() > limits.events || self.ring_bytes > limits.bytes) {
            let Some(event) = self.ring.pop() else { return };
            self.ring_bytes -= event.size();
            self.topics.forget(layout, &event);
        }
    }

    /// The changes that lead from the present state to what a list found, in the order of their revisions.
    fn difference(&self, listed: Vec<Listed>, revision: i64) -> Vec<Change> {
        let mut changes = Vec::new();
        let mut found = BTreeSet::new();
        for Listed { entry, created } in listed {
            found.insert(ByKey(entry.clone()));
            let key = entry.key().to_owned();
            match self.get(&key) {
                Some(known) if known.revision() == entry.revision() => continue,
                Some(known) if known.uid() != entry.uid() => {
                    changes.push(Change { key: key.clone(), revision: created - 1, entry: None });
                }
                _ => {}
            }
            changes.push(Change { key, revision: entry.revision(), entry: Some(entry) });
        }
        for ByKey(known) in self.entries.difference(&found) {
            changes.push(Change { key: known.key().to_owned(), revision, entry: None });
        }
        for change in &mut changes {
            // A change that should have been seen long ago happens now.
            if change.revision < self.revision {
                change.revision = revision;
            }
        }
        changes.sort_by_key(|change| change.revision);
        changes
    }
}

// === impl Indexes ===

impl Indexes {
    fn insert(&mut self, layout: &KindLayout, entry: &Arc<Entry>) {
        for uid in entry.owners() {
            self.owners.entry(uid.into()).or_default().insert(ByKey(entry.clone()));
        }
        for (field, index) in layout.fields.iter().zip(&mut self.fields).filter(|(field, _)| field.indexed) {
            let value = entry.field(field);
            match index.get_mut(&*value) {
                Some(set) => drop(set.insert(ByKey(entry.clone()))),
                None => drop(index.insert(value.into(), BTreeSet::from([ByKey(entry.clone())]))),
            }
        }
    }

    fn remove(&mut self, layout: &KindLayout, entry: &Arc<Entry>) {
        for uid in entry.owners() {
            remove(&mut self.owners, uid, entry);
        }
        for (field, index) in layout.fields.iter().zip(&mut self.fields).filter(|(field, _)| field.indexed) {
            remove(index, &entry.field(field), entry);
        }
    }
}

fn remove(index: &mut Index, value: &str, entry: &Arc<Entry>) {
    if let Some(set) = index.get_mut(value) {
        set.remove(entry.key().as_bytes());
        if set.is_empty() {
            index.remove(value);
        }
    }
}
