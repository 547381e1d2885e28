//! What plugins share: waiting for what a controller is about to make, and what a write does.

use std::time::Duration;

use api::{Object, Resource};

use super::Write;
use crate::request::Verb;

/// How often something that a controller is about to make is looked for before its absence counts, as upstream does.
pub(super) const LOOKS: u32 = 10;

/// The time between two looks: from 100 to 200 ms, so that those who wait do not all come at once.
pub(super) async fn pause() {
    tokio::time::sleep(Duration::from_millis(rand::random_range(100..=200))).await;
}

/// What a write does to the object itself; `None` for its subresources.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// A new object.
    Create,
    /// A changed object.
    Update,
    /// The object goes.
    Delete,
}

impl Write<'_> {
    /// What the write does, on the object or a subresource alike.
    pub(super) fn action(&self) -> Action {
        match (self.request.verb, self.old) {
            (Verb::Delete | Verb::DeleteCollection, _) => Action::Delete,
            (_, None) => Action::Create,
            (_, Some(_)) => Action::Update,
        }
    }

    /// The object, if the write creates it and it is of this kind.
    pub(super) fn created<'o, K: Resource>(&self, object: &'o mut dyn Object) -> Option<&'o mut K> {
        (self.action() == Action::Create && self.request.subresource.is_none()).then(|| object.downcast_mut())?
    }
}
