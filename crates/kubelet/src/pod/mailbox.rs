//! How a pod's task is told of things. A mailbox keeps the latest, not a history, so it is bounded by the pod itself: one desired pod, and the ids of
//! its containers that changed.

use std::{collections::BTreeSet, sync::Arc};

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::state::Desired;
use crate::runtime::ContainerId;

/// A pod's mailbox; whoever has it can write.
#[derive(Clone, Debug)]
pub struct Mailbox {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    mail: Mutex<Mail>,
    notify: Notify,
}

/// What has come in since it was last emptied.
#[derive(Debug, Default)]
pub(super) struct Mail {
    /// What is wanted now, if that changed.
    pub desired: Option<Desired>,
    /// Containers to look at again.
    pub containers: BTreeSet<ContainerId>,
    /// Look at all containers again: events may have been missed.
    pub resync: bool,
    /// A ConfigMap or Secret of the pod changed.
    pub sources_changed: bool,
}

// === impl Mailbox ===

impl Mailbox {
    /// A mailbox with what is wanted at first.
    pub fn new(desired: Desired) -> Self {
        let mail = Mail { desired: Some(desired), resync: true, ..Mail::default() };
        Self { inner: Arc::new(Inner { mail: Mutex::new(mail), notify: Notify::new() }) }
    }

    /// The pod is wanted differently (or not at all).
    pub fn set_desired(&self, desired: Desired) {
        self.put(|mail| mail.desired = Some(desired));
    }

    /// A container of the pod changed.
    pub fn container_changed(&self, id: ContainerId) {
        self.put(|mail| {
            mail.containers.insert(id);
        });
    }

    /// Events may have been missed.
    pub fn resync(&self) {
        self.put(|mail| mail.resync = true);
    }

    /// A ConfigMap or Secret that the pod uses changed.
    pub fn sources_changed(&self) {
        self.put(|mail| mail.sources_changed = true);
    }

    fn put(&self, change: impl FnOnce(&mut Mail)) {
        change(&mut self.inner.mail.lock());
        self.inner.notify.notify_one();
    }

    pub(super) fn take(&self) -> Mail {
        std::mem::take(&mut *self.inner.mail.lock())
    }

    /// Waits until something has come in.
    pub(super) async fn arrived(&self) {
        self.inner.notify.notified().await;
    }
}
