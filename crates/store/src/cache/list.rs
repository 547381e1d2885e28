//! Lists out of the cache.

use std::sync::Arc;

use crate::entry::Entry;
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
