//! What has changed since the rules were last computed.
//!
//! Written by the informers' handlers, emptied by the one task that syncs. Changes of one Service merge, so what waits is bounded by
//! the number of Services.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::Timestamp;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::model::ServiceKey;

/// The changes that wait. Cheap to clone; all clones are one.
#[derive(Clone, Debug, Default)]
pub struct Dirty(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    pending: Mutex<Pending>,
    arrived: Notify,
}

/// Changes taken to be worked on.
#[derive(Debug, Default)]
pub struct Pending {
    /// Services that changed, or whose endpoints did.
    pub services: BTreeSet<ServiceKey>,
    /// Our Node changed.
    pub node: bool,
    /// Somebody else changed our table.
    pub table: bool,
    /// When what changed in a slice, by namespace and name, had happened, as far as it says; the oldest.
    pub triggered: BTreeMap<String, Timestamp>,
    /// When the first of these changes came.
    pub since: Option<Instant>,
}

// === impl Dirty ===

impl Dirty {
    /// Notes changes.
    pub fn note(&self, change: impl FnOnce(&mut Pending)) {
        let mut pending = self.0.pending.lock();
        change(&mut pending);
        if !pending.is_empty() {
            pending.since.get_or_insert_with(Instant::now);
            self.0.arrived.notify_one();
        }
    }

    /// Waits until something has changed. Cancel safe.
    pub async fn wait(&self) {
        while self.0.pending.lock().is_empty() {
            self.0.arrived.notified().await;
        }
    }

    /// Takes the changes.
    pub fn take(&self) -> Pending {
        std::mem::take(&mut self.0.pending.lock())
    }
}

// === impl Pending ===

impl Pending {
    /// Whether nothing has changed.
    pub fn is_empty(&self) -> bool {
        self.services.is_empty() && !self.node && !self.table
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn changes_of_one_service_merge() {
        let dirty = Dirty::default();
        for _ in 0..3 {
            dirty.note(|pending| {
                pending.services.insert(ServiceKey::new("default", "web"));
            });
        }
        dirty.wait().await;
        assert_eq!(dirty.take().services.len(), 1);
        assert!(dirty.take().is_empty());
        let idle = tokio::time::timeout(std::time::Duration::from_millis(20), dirty.wait()).await;
        assert!(idle.is_err(), "taken changes do not wake anybody");
    }

    #[test]
    fn the_age_is_that_of_the_first_change() {
        let dirty = Dirty::default();
        dirty.note(|pending| pending.node = true);
        let first = dirty.0.pending.lock().since;
        dirty.note(|pending| pending.table = true);
        assert_eq!(dirty.take().since, first);
    }
}
