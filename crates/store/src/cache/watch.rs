//! Watchers.

use std::sync::Arc;

use crate::entry::Entry;
use crate::error::Error;
use crate::store::ReadAt;

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
    /// The watch has delivered everything up to this revision.
    pub revision: i64,
    /// With this batch the initial objects are complete: time for the bookmark that says so.
    pub initial_end: bool,
}

/// A running watch. Dropping it ends it.
pub struct Watch;

#[allow(unused_variables, clippy::todo)]
impl Watch {
    /// Waits for the next changes. Cancel safe.
    ///
    /// # Errors
    /// [`Error::Expired`] once the watch has fallen too far behind; it is over then.
    pub async fn next(&mut self) -> Result<Batch, Error> {
        todo!()
    }

    /// The revision up to which this watch has delivered everything: what a bookmark says. Nothing while changes wait to be
    /// taken.
    pub fn bookmark(&self) -> Option<i64> {
        todo!()
    }
}
