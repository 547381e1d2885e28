//! Controllers whose pods admission refuses, and what may change its mind.

use std::{collections::HashSet, sync::Arc};

use api::{core::v1::ResourceQuota, quantity};
use client::{Changed, Item, ObjectKey};
use parking_lot::Mutex;

/// The controllers that could not, or have yet to, create all their pods. Cheap to clone; all clones are one.
#[derive(Clone, Debug, Default)]
pub(super) struct Refused(Arc<Mutex<HashSet<ObjectKey>>>);

impl Refused {
    pub(super) fn insert(&self, key: &ObjectKey) {
        self.0.lock().insert(key.clone());
    }

    pub(super) fn remove(&self, key: &ObjectKey) {
        self.0.lock().remove(key);
    }

    /// Those in the namespace of the object that changed, if the change may help them.
    pub(super) fn when<T: Item>(&self, helps: bool, changed: Changed<'_, T>) -> Vec<ObjectKey> {
        let Some(object) = changed.newest().filter(|_| helps) else { return Vec::new() };
        let refused = self.0.lock();
        refused.iter().filter(|key| key.namespace == object.meta().namespace).cloned().collect()
    }
}

/// True if the quota admits more than before.
pub(super) fn has_more_left(changed: Changed<'_, ResourceQuota>) -> bool {
    let (Some(old), Some(new)) = (changed.old, changed.new) else { return changed.new.is_none() };
    old.spec().hard.keys().any(|name| {
        let hard = |quota: &ResourceQuota| quantity::get(&quota.spec().hard, name);
        let used = |quota: &ResourceQuota| quantity::get(&quota.status().used, name).unwrap_or_default();
        hard(new).is_none() || hard(new) > hard(old) || used(new) < used(old)
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::testing::object;

    #[test]
    fn a_quota_has_more_left_when_less_is_used_or_more_is_allowed() {
        let quota = |hard: &str, used: &str| -> Arc<ResourceQuota> {
            Arc::new(object(json!({"spec": {"hard": {"pods": hard}}, "status": {"used": {"pods": used}}})))
        };
        let helps = |old: Option<&Arc<_>>, new: Option<&Arc<_>>| has_more_left(Changed { old, new });
        let (full, freed, raised) = (quota("2", "2"), quota("2", "1"), quota("3", "2"));
        assert!(helps(Some(&full), Some(&freed)) && helps(Some(&full), Some(&raised)) && helps(Some(&full), None));
        assert!(!helps(Some(&freed), Some(&full)) && !helps(Some(&raised), Some(&full)) && !helps(None, Some(&freed)));
    }
}
