//! Lists out of the cache.
//!
//! A list is a vector of shared entries taken under the read lock. A later page of a chunked list is as of the revision of the
//! first one: the changes since are undone with the help of the recent events.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::kind::{KindCache, State};
use crate::entry::Entry;
use crate::error::Error;
use crate::selection::Selection;
use crate::store::ReadAt;

/// How much of a list, and as of when.
#[derive(Clone, Debug, Default)]
pub struct ListOptions {
    /// How fresh the list must be. Ignored with `exact`.
    pub at: ReadAt,
    /// List as of exactly this revision (later pages of a chunked list; upstream: `resourceVersionMatch=Exact`).
    pub exact: Option<i64>,
    /// At most this many objects; 0 is all.
    pub limit: usize,
    /// Only objects after this [`Entry::path`], from [`List::next`] of the page before.
    pub after: Option<String>,
}

/// A list of objects, all as of one revision.
#[derive(Clone, Debug)]
pub struct List {
    /// The objects, in key order.
    pub items: Vec<Arc<Entry>>,
    /// The revision they are as of.
    pub revision: i64,
    /// Where the next page begins, if `limit` cut the list; it is to be read with `exact: Some(revision)`.
    pub next: Option<String>,
    /// How many more objects there are after a cut list; nothing if a filter makes that unknown.
    pub remaining: Option<usize>,
}

impl List {
    /// Cuts what was found (in order) to `limit`.
    pub(crate) fn cut(mut items: Vec<Arc<Entry>>, revision: i64, limit: usize, filtered: bool) -> Self {
        let more = if limit == 0 { 0 } else { items.len().saturating_sub(limit) };
        items.truncate(items.len() - more);
        let next = items.last().filter(|_| more > 0).map(|last| last.path().to_owned());
        Self { items, revision, remaining: next.as_ref().filter(|_| !filtered).map(|_| more), next }
    }
}

impl KindCache {
    /// Lists what is there now, or was there at an exact revision.
    ///
    /// # Errors
    /// [`Error::Expired`] if that revision lies before the recent events, [`Error::Future`] if it has not come yet.
    pub(crate) fn list(&self, selection: &Selection, options: &ListOptions) -> Result<List, Error> {
        let after = options.after.as_ref().map(|path| format!("{}{path}", self.layout.prefix));
        let state = self.state.read();
        let now = state.revision(&self.published);
        let revision = options.exact.unwrap_or(now);
        let mut items: Vec<_> = state.candidates(&self.layout, selection, after.as_deref()).cloned().collect();
        let undo = if revision == now { BTreeMap::new() } else { state.undo(revision, now)? };
        drop(state);
        if !undo.is_empty() {
            items.retain(|entry| !undo.contains_key(entry.key()));
            let prefix = selection.scope.prefix(&self.layout);
            let in_range = |key: &str| key.starts_with(&prefix) && after.as_deref().is_none_or(|after| key > after);
            let restored = undo.into_iter().filter(|(key, _)| in_range(key)).filter_map(|(_, entry)| entry);
            items.extend(restored);
            items.sort_unstable_by(|a, b| a.key().cmp(b.key()));
        }
        items.retain(|entry| selection.matches(&self.layout, entry));
        Ok(List::cut(items, revision, options.limit, selection.filter.is_some()))
    }
}

impl State {
    /// What the objects that have changed since `revision` were then, by key.
    fn undo(&self, revision: i64, now: i64) -> Result<BTreeMap<String, Option<Arc<Entry>>>, Error> {
        if revision > now {
            return Err(Error::Future { requested: revision, current: now });
        }
        if revision < self.ring.floor() {
            return Err(Error::Expired { requested: revision, oldest: self.ring.floor() });
        }
        let mut undo = BTreeMap::new();
        for event in self.ring.after(revision) {
            // The first change since tells what was there before it.
            if !undo.contains_key(event.entry.key()) {
                undo.insert(event.entry.key().to_owned(), event.previous.clone());
            }
        }
        Ok(undo)
    }
}
