//! Watchers: cursors over the shared events.
//!
//! A watcher owns nothing but its cursor (and the objects it begins with, until they are delivered). It is woken, reads the shared
//! ring from its cursor and applies its selection. If the ring has let go of what it has not read yet, it is told so. Nothing
//! here waits for a watcher.

use std::sync::Arc;

use tokio::sync::Notify;

use super::kind::{KindCache, State};
use super::ring::{Event, Ring};
use super::topics::TopicId;
use crate::entry::Entry;
use crate::error::Error;
use crate::selection::{Scope, Selection};
use crate::store::ReadAt;

/// Events taken out of the ring at a time.
const BATCH: usize = 512;

/// Where a watch begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WatchStart {
    /// With the first change after this revision.
    After(i64),
    /// With the objects there are (as [`EventKind::Added`]), then the changes after them. The batch that ends the objects
    /// has [`Batch::initial_end`] set.
    Initial(ReadAt),
}

/// What happened to an object, seen through the watch's selection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// It came to be, or began to be selected.
    Added,
    /// It changed and is still selected.
    Modified,
    /// It is gone, or is no longer selected.
    Deleted,
}

/// One change.
#[derive(Clone, Debug)]
pub struct WatchEvent {
    /// What happened.
    pub kind: EventKind,
    /// The object after the change; if it was deleted, its last selected state, at the revision of the change.
    pub entry: Arc<Entry>,
}

/// Some changes in a row. Changes of one revision are never split over two batches.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    /// The changes, oldest first; empty only if `initial_end`.
    pub events: Vec<WatchEvent>,
    /// The watch has delivered everything up to this revision. Of no meaning before the initial objects are complete.
    pub revision: i64,
    /// With this batch the initial objects are complete: time for the bookmark that says so.
    pub initial_end: bool,
}

/// A running watch. Dropping it ends it.
pub struct Watch {
    kind: Arc<KindCache>,
    selection: Selection,
    topic: TopicId,
    wake: Arc<Notify>,
    epoch: u64,
    cursor: u64,
    /// Everything up to this revision has been read.
    revision: i64,
    /// The objects to begin with, until they are delivered.
    initial: Option<std::vec::IntoIter<Arc<Entry>>>,
}

/// Events taken out of the ring, and the revision up to which they are complete.
type Taken = (Vec<Arc<Event>>, i64);

// === impl Watch ===

impl Watch {
    /// Begins a watch. The cache must have reached `start`.
    pub(crate) fn new(kind: Arc<KindCache>, selection: Selection, start: WatchStart) -> Result<Self, Error> {
        let topic = TopicId::of(&selection, &kind.layout);
        let mut guard = kind.state.write();
        let state = &mut *guard;
        let (cursor, revision, initial) = match start {
            WatchStart::After(revision) if revision < state.ring.floor() => {
                return Err(Error::Expired { requested: revision, oldest: state.ring.floor() });
            }
            WatchStart::After(revision) => {
                let cursor = state.ring.after(revision).next().map_or(state.next_seq, |event| event.seq);
                (cursor, revision, None)
            }
            WatchStart::Initial(_) => {
                let items: Vec<_> = state.candidates(&kind.layout, &selection, None).cloned().collect();
                (state.next_seq, state.revision(&kind.published), Some(items.into_iter()))
            }
        };
        state.topics.subscribe(&topic, &kind.layout, &state.ring);
        let wake = state.topics.get(&topic).map_or_else(|| kind.wake.clone(), |topic| topic.wake.clone());
        let epoch = state.epoch;
        state.watches += 1;
        drop(guard);
        Ok(Self { kind, selection, topic, wake, epoch, cursor, revision, initial })
    }

    /// Waits for the next changes. Cancel safe.
    ///
    /// # Errors
    /// [`Error::Expired`] once the watch has fallen too far behind, [`Error::Removed`] once the kind is gone; it is over then.
    pub async fn next(&mut self) -> Result<Batch, Error> {
        if let Some(batch) = self.take_initial() {
            return Ok(batch);
        }
        let wake = self.wake.clone();
        loop {
            let woken = wake.notified();
            if let Some(batch) = self.take()? {
                return Ok(batch);
            }
            woken.await;
        }
    }

    /// The next changes, if there are any.
    ///
    /// # Errors
    /// As [`Watch::next`].
    pub fn try_next(&mut self) -> Result<Option<Batch>, Error> {
        match self.take_initial() {
            Some(batch) => Ok(Some(batch)),
            None => self.take(),
        }
    }

    /// The revision up to which this watch has delivered everything: what a bookmark says. Nothing while something waits
    /// to be taken.
    pub fn bookmark(&self) -> Option<i64> {
        if self.initial.is_some() {
            return None;
        }
        let state = self.kind.state.read();
        let ring = state.events_of(&self.topic);
        let done = self.epoch == state.epoch && ring.at_or_after(self.cursor).next().is_none();
        done.then(|| state.revision(&self.kind.published))
    }

    fn take_initial(&mut self) -> Option<Batch> {
        let items = self.initial.as_mut()?;
        let (kind, selection, revision) = (&self.kind, &self.selection, self.revision);
        let added = |entry| WatchEvent { kind: EventKind::Added, entry };
        let selected = items.by_ref().filter(|entry| selection.matches(&kind.layout, entry));
        let events: Vec<_> = selected.take(BATCH).map(added).collect();
        let initial_end = items.as_slice().is_empty();
        if initial_end {
            self.initial = None;
        }
        self.kind.counters.deliveries.add(events.len() as u64);
        Some(Batch { events, revision, initial_end })
    }

    fn take(&mut self) -> Result<Option<Batch>, Error> {
        loop {
            let Some((events, revision)) = self.read()? else {
                return Ok(None);
            };
            let events: Vec<_> = events.iter().filter_map(|event| self.seen(event)).collect();
            if !events.is_empty() {
                self.kind.counters.deliveries.add(events.len() as u64);
                return Ok(Some(Batch { events, revision, initial_end: false }));
            }
        }
    }

    /// Takes the next events out of the ring.
    fn read(&mut self) -> Result<Option<Taken>, Error> {
        let state = self.kind.state.read();
        if state.closed {
            return Err(Error::Removed(self.kind.layout.name.to_string()));
        }
        let ring = state.events_of(&self.topic);
        if self.epoch != state.epoch || self.cursor < ring.first_seq() {
            self.kind.counters.expired_watchers.add(1);
            return Err(Error::Expired { requested: self.revision, oldest: ring.floor() });
        }
        let mut rest = ring.at_or_after(self.cursor).peekable();
        let mut events: Vec<Arc<Event>> = Vec::with_capacity(rest.size_hint().0.min(BATCH));
        while let Some(event) = rest.peek() {
            if events.len() >= BATCH && events.last().is_some_and(|last| last.revision != event.revision) {
                break;
            }
            events.extend(rest.next().cloned());
        }
        let Some(last) = events.last() else {
            return Ok(None);
        };
        let drained = rest.next().is_none();
        self.revision = if drained { state.revision(&self.kind.published) } else { last.revision };
        self.cursor = last.seq + 1;
        Ok(Some((events, self.revision)))
    }

    /// The event as the selection sees it.
    fn seen(&self, event: &Event) -> Option<WatchEvent> {
        let selects = |entry: &Entry| self.selection.matches(&self.kind.layout, entry);
        let everything = self.selection.scope == Scope::All && self.selection.index.is_none() && self.selection.filter.is_none();
        let before = event.previous.as_deref().is_some_and(|previous| everything || selects(previous));
        let after = !event.deleted && (everything || selects(&event.entry));
        let (kind, entry) = match (before, after) {
            (false, true) => (EventKind::Added, event.entry.clone()),
            (true, true) => (EventKind::Modified, event.entry.clone()),
            (true, false) => (EventKind::Deleted, event.gone()),
            (false, false) => return None,
        };
        Some(WatchEvent { kind, entry })
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let mut state = self.kind.state.write();
        state.topics.unsubscribe(&self.topic);
        state.watches -= 1;
    }
}

impl State {
    fn events_of(&self, topic: &TopicId) -> &Ring {
        self.topics.get(topic).map_or(&self.ring, |topic| &topic.ring)
    }
}
