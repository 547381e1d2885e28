//! Fencing: a write that a leader makes happens only while its Lease says that it leads.
//!
//! A leader names its Lease and itself with each write. The Lease is read and guarded in the transaction of the write, so that not even
//! a leader that was paused between its check and its write can act after another one took over.

use api::{Kind, Resource, StatusError, coordination::v1::Lease};
use client::fence;
use store::{Guard, ReadAt, Store};

use super::store_error;
use crate::admission::Effects;

/// Which Lease a write depends on, and who must hold it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fence(pub fence::Guard);

impl Fence {
    /// Makes the write depend on the Lease. `newest` reads it afresh: after an attempt failed, perhaps because it was renewed.
    pub(super) async fn guard(&self, store: &Store, newest: bool, effects: &mut Effects) -> Result<(), StatusError> {
        let kind: &'static Kind = Lease::KIND;
        let collection = store.collection(&kind.qualified_plural());
        let leases = collection.ok_or_else(|| StatusError::internal("leases are not stored"))?;
        let at = if newest { ReadAt::Latest } else { ReadAt::Any };
        let fence::Guard { namespace, name, holder, transitions } = &self.0;
        let entry = leases.get(namespace, name, at).await.map_err(|e| store_error(kind, name, e))?;
        let lease: Lease = prost::Message::decode(entry.object())
            .map_err(|e| StatusError::internal(format!("{}: the stored object cannot be decoded: {e}", entry.key())))?;
        let spec = lease.spec();
        let found = (spec.holder_identity.as_deref().unwrap_or_default(), spec.lease_transitions.unwrap_or_default());
        if found == (holder.as_str(), *transitions) {
            effects.guard(leases.layout().key(namespace, name), Guard::At(entry.revision()));
            return Ok(());
        }
        if !newest {
            // The cache may lag behind the election.
            return Box::pin(self.guard(store, true, effects)).await;
        }
        let why = format!("{holder:?} does not lead: the lease is held by {:?}", found.0);
        Err(StatusError::conflict(kind, name, why))
    }
}
