//! Fencing: a write that a leader makes happens only while its Lease says that it leads.
//!
//! A leader names its Lease and itself with each write. The Lease is read and guarded in the transaction of the write, so that not even
//! a leader that was paused between its check and its write can act after another one took over.

use api::{Resource, StatusError, coordination::v1::Lease};
use client::fence;
use store::{Guard, ReadAt, Store};

use crate::{
    admission::Effects,
    reader::{Found, Reader},
};

/// Which Lease a write depends on, and who must hold it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fence(pub fence::Guard);

impl Fence {
    /// Makes the write depend on the Lease. `newest` reads it afresh: after an attempt failed, perhaps because it was renewed.
    pub(super) async fn guard(&self, store: &Store, newest: bool, effects: &mut Effects) -> Result<(), StatusError> {
        let at = if newest { ReadAt::Latest } else { ReadAt::Any };
        let fence::Guard { namespace, name, holder, transitions } = &self.0;
        let found = Reader::<Lease>::new(store).get(namespace, name, at).await?;
        let Found { entry, object: lease } = found.ok_or_else(|| StatusError::not_found(Lease::KIND, name))?;
        let spec = lease.spec();
        let found = (spec.holder_identity.as_deref().unwrap_or_default(), spec.lease_transitions.unwrap_or_default());
        if found == (holder.as_str(), *transitions) {
            effects.guard(entry.key(), Guard::At(entry.revision()));
            return Ok(());
        }
        if !newest {
            // The cache may lag behind the election.
            return Box::pin(self.guard(store, true, effects)).await;
        }
        let why = format!("{holder:?} does not lead: the lease is held by {:?}", found.0);
        Err(StatusError::conflict(Lease::KIND, name, why))
    }
}
