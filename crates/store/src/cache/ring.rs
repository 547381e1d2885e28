//! The recent events of a kind, shared by all watchers.
//!
//! *Invariant:* sequence numbers rise by one in the order of application and revisions never fall, so a cursor is the
//! sequence number of the next event to be read; whoever's cursor is below `first_seq` has missed something.

use std::collections::VecDeque;
use std::sync::{Arc, OnceLock};

use crate::entry::Entry;

/// One change of one object.
#[derive(Debug)]
pub(crate) struct Event {
    /// Place among the events of the kind.
    pub(crate) seq: u64,
    /// The revision of the change.
    pub(crate) revision: i64,
    /// The object after the change; if it was deleted, its last state at the revision of the deletion.
    pub(crate) entry: Arc<Entry>,
    /// The object before the change, if there was one.
    pub(crate) previous: Option<Arc<Entry>>,
    /// Whether the change was a deletion.
    pub(crate) deleted: bool,
    gone: OnceLock<Arc<Entry>>,
}

/// Recent events, oldest first: all of a kind, or those of one topic.
#[derive(Debug, Default)]
pub(crate) struct Ring {
    events: VecDeque<Arc<Event>>,
    floor: i64,
    first_seq: u64,
}

// === impl Event ===

impl Event {
    pub(crate) fn new(seq: u64, revision: i64, entry: Arc<Entry>, previous: Option<Arc<Entry>>, deleted: bool) -> Self {
        Self { seq, revision, entry, previous, deleted, gone: OnceLock::new() }
    }

    /// What a watcher is told that no longer selects the object: its state before, at the revision of the change.
    pub(crate) fn gone(&self) -> Arc<Entry> {
        match &self.previous {
            Some(previous) if !self.deleted => self.gone.get_or_init(|| Arc::new(previous.at_revision(self.revision))).clone(),
            _ => self.entry.clone(),
        }
    }

    /// What the event holds in memory that nothing else will, once newer events are in.
    pub(crate) fn size(&self) -> usize {
        self.entry.heap_size() + size_of::<Self>()
    }
}

// === impl Ring ===

impl Ring {
    /// An empty ring: everything up to the revision `floor` is history, events are numbered from `first_seq`.
    pub(crate) fn new(floor: i64, first_seq: u64) -> Self {
        Self { events: VecDeque::new(), floor, first_seq }
    }

    /// The newest revision whose changes may be missing: reading can begin after it, not before.
    pub(crate) fn floor(&self) -> i64 {
        self.floor
    }

    /// The lowest cursor that has missed nothing.
    pub(crate) fn first_seq(&self) -> u64 {
        self.first_seq
    }

    pub(crate) fn len(&self) -> usize {
        self.events.len()
    }

    pub(crate) fn push(&mut self, event: Arc<Event>) {
        self.events.push_back(event);
    }

    pub(crate) fn pop(&mut self) -> Option<Arc<Event>> {
        let event = self.events.pop_front()?;
        self.floor = event.revision;
        self.first_seq = event.seq + 1;
        Some(event)
    }

    /// Forgets an event that the ring of all events has let go, if it is in this one.
    pub(crate) fn forget(&mut self, event: &Event) {
        if self.events.front().is_some_and(|front| front.seq == event.seq) {
            self.pop();
        }
    }

    pub(crate) fn iter(&self) -> impl DoubleEndedIterator<Item = &Arc<Event>> {
        self.events.iter()
    }

    /// The events from a cursor on.
    pub(crate) fn at_or_after(&self, cursor: u64) -> impl Iterator<Item = &Arc<Event>> {
        self.events.range(self.events.partition_point(|event| event.seq < cursor)..)
    }

    /// The events after a revision.
    pub(crate) fn after(&self, revision: i64) -> impl Iterator<Item = &Arc<Event>> {
        self.events.range(self.events.partition_point(|event| event.revision <= revision)..)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn event(seq: u64, revision: i64) -> Arc<Event> {
        let entry = Arc::new(Entry::new("/registry/nodes/a", 16, b"", revision).unwrap());
        Arc::new(Event::new(seq, revision, entry, None, false))
    }

    proptest! {
        #[test]
        fn a_cursor_at_or_above_the_first_misses_nothing(
            steps in prop::collection::vec((0..3i64, any::<bool>()), 1..200),
            cursor in 0..200u64,
        ) {
            let (mut ring, mut revision, mut seq) = (Ring::new(10, 0), 10, 0);
            for (rise, pop) in steps {
                revision += rise;
                ring.push(event(seq, revision));
                seq += 1;
                if pop {
                    ring.pop();
                }
            }
            let read: Vec<_> = ring.at_or_after(cursor).map(|e| e.seq).collect();
            let expected: Vec<_> = (cursor.max(ring.first_seq())..seq).collect();
            prop_assert_eq!(read, expected);
            prop_assert!(ring.after(ring.floor()).all(|e| e.revision > ring.floor()));
            prop_assert!(ring.iter().all(|e| e.revision >= ring.floor()));
        }
    }
}
