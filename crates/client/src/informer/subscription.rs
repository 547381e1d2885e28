//! Changes to be taken at a subscriber's own pace.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Weak},
};

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::{Changed, Handler};
use crate::{Item, key::ObjectKey};

/// A change of one object between two moments at which a subscriber looked.
///
/// If an object was deleted and another of the same name created meanwhile, both come as one change: the UIDs differ then.
#[derive(Clone, Debug)]
pub struct ObjectChange<T> {
    /// What the subscriber saw last; `None` if it has not seen the object.
    pub old: Option<Arc<T>>,
    /// What is there now; `None` if the object is gone. One of the two is set.
    pub new: Option<Arc<T>>,
}

/// Changes that wait for their subscriber. Dropping it ends the subscription.
#[derive(Debug)]
pub struct Subscription<T> {
    pending: Arc<Pending<T>>,
}

#[derive(Debug)]
struct Pending<T> {
    changes: Mutex<Changes<T>>,
    arrived: Notify,
}

#[derive(Debug)]
struct Changes<T> {
    /// Keys in the order of their first change; a key that is not in `merged` is passed over.
    order: VecDeque<ObjectKey>,
    merged: HashMap<ObjectKey, ObjectChange<T>>,
}

// === impl Subscription ===

impl<T: Item> Subscription<T> {
    pub(super) fn new() -> (Self, Handler<T>) {
        let changes = Mutex::new(Changes { order: VecDeque::new(), merged: HashMap::new() });
        let pending = Arc::new(Pending { changes, arrived: Notify::new() });
        let subscriber: Weak<Pending<T>> = Arc::downgrade(&pending);
        let handler = move |changed: Changed<'_, T>| match subscriber.upgrade() {
            Some(pending) => {
                pending.changes.lock().merge(changed);
                pending.arrived.notify_one();
                true
            }
            None => false,
        };
        (Self { pending }, Box::new(handler))
    }

    /// The next change; waits for it. Cancel safe.
    pub async fn next(&mut self) -> ObjectChange<T> {
        loop {
            if let Some(change) = self.try_next() {
                return change;
            }
            self.pending.arrived.notified().await;
        }
    }

    /// The next change, if there is one.
    pub fn try_next(&mut self) -> Option<ObjectChange<T>> {
        self.pending.changes.lock().take()
    }
}

// === impl Changes ===

impl<T: Item> Changes<T> {
    fn merge(&mut self, changed: Changed<'_, T>) {
        let Some(object) = changed.newest() else { return };
        let key = ObjectKey::of(object.meta());
        match self.merged.get_mut(&key) {
            Some(waiting) => {
                waiting.new = changed.new.cloned();
                if waiting.old.is_none() && waiting.new.is_none() {
                    // Came and went unseen.
                    self.merged.remove(&key);
                    if self.order.len() > 2 * self.merged.len() + 64 {
                        let Self { order, merged } = self;
                        order.retain(|key| merged.contains_key(key));
                    }
                }
            }
            None => {
                self.order.push_back(key.clone());
                self.merged.insert(key, ObjectChange { old: changed.old.cloned(), new: changed.new.cloned() });
            }
        }
    }

    fn take(&mut self) -> Option<ObjectChange<T>> {
        while let Some(key) = self.order.pop_front() {
            if let Some(change) = self.merged.remove(&key) {
                return Some(change);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use api::core::v1::Pod;

    use super::*;

    fn pod(name: &str, version: &str) -> Arc<Pod> {
        let mut pod = Pod::default();
        pod.metadata_mut().name = name.into();
        pod.metadata_mut().resource_version = version.into();
        Arc::new(pod)
    }

    #[tokio::test]
    async fn changes_that_wait_are_merged_by_object() {
        let (mut subscription, handler) = Subscription::<Pod>::new();
        let (a1, a2, b1) = (pod("a", "1"), pod("a", "2"), pod("b", "1"));
        handler(Changed { old: None, new: Some(&a1) });
        handler(Changed { old: None, new: Some(&b1) });
        handler(Changed { old: Some(&a1), new: Some(&a2) });
        handler(Changed { old: Some(&b1), new: None });
        let change = subscription.next().await;
        assert!(change.old.is_none());
        assert_eq!(change.new.unwrap().metadata().resource_version, "2");
        assert!(subscription.try_next().is_none());
        handler(Changed { old: Some(&a2), new: None });
        let change = subscription.next().await;
        assert_eq!((change.old.unwrap().metadata().resource_version.as_str(), change.new.is_none()), ("2", true));
        drop(subscription);
        assert!(!handler(Changed { old: None, new: Some(&a1) }));
    }
}
