//! Fencing: a write that a leader makes happens only while its Lease says that it leads.
//!
//! A leader names its Lease and itself with each write. The Lease is read and guarded in the transaction of the write, so that not even
//! a leader that was paused between its check and its write can act after another one took over.

use api::{Kind, Resource, StatusError, coordination::v1::Lease};
use store::{Guard, ReadAt, Store};

use super::store_error;
use crate::admission::Effects;

/// Which Lease a write depends on, and who must hold it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fence {
    /// Namespace of the Lease.
    pub namespace: String,
    /// Name of the Lease.
    pub name: String,
    /// `spec.holderIdentity` it must have.
    pub holder: String,
}

impl Fence {
    /// Reads `namespace/name=holder`.
    ///
    /// # Errors
    /// When the text is of another form.
    pub fn parse(text: &str) -> Result<Self, StatusError> {
        let error = || StatusError::bad_request(format!("ferrokube-leader: {text:?} is not of the form NAMESPACE/NAME=HOLDER"));
        let (lease, holder) = text.split_once('=').ok_or_else(error)?;
        let (namespace, name) = lease.split_once('/').ok_or_else(error)?;
        if namespace.is_empty() || name.is_empty() || holder.is_empty() {
            return Err(error());
        }
        Ok(Self { namespace: namespace.to_owned(), name: name.to_owned(), holder: holder.to_owned() })
    }

    /// Makes the write depend on the Lease. `newest` reads it afresh: after an attempt failed, perhaps because it was renewed.
    pub(super) async fn guard(&self, store: &Store, newest: bool, effects: &mut Effects) -> Result<(), StatusError> {
        let kind: &'static Kind = Lease::KIND;
        let collection = store.collection(&kind.qualified_plural());
        let leases = collection.ok_or_else(|| StatusError::internal("leases are not stored"))?;
        let at = if newest { ReadAt::Latest } else { ReadAt::Any };
        let entry = leases.get(&self.namespace, &self.name, at).await.map_err(|e| store_error(kind, &self.name, e))?;
        let lease: Lease = prost::Message::decode(entry.object())
            .map_err(|e| StatusError::internal(format!("{}: the stored object cannot be decoded: {e}", entry.key())))?;
        let holder = lease.spec().holder_identity.as_deref().unwrap_or_default();
        if holder == self.holder {
            effects.guard(leases.layout().key(&self.namespace, &self.name), Guard::At(entry.revision()));
            return Ok(());
        }
        if !newest {
            // The cache may lag behind the election.
            return Box::pin(self.guard(store, true, effects)).await;
        }
        let why = format!("{:?} does not lead: the lease is held by {holder:?}", self.holder);
        Err(StatusError::conflict(kind, &self.name, why))
    }
}
