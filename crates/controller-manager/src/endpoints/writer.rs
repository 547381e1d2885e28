//! The EndpointSlices of one manager: which there are, and what changes them.

use std::sync::Arc;

use api::{discovery::v1::EndpointSlice, meta::v1::DeleteOptions};
use client::{Client, Error, Informer, ListParams, ObjectKey};
use futures::future::{join_all, try_join_all};
use workload::OwnWrites;

use super::{SERVICE_NAME, SLICE_MANAGED_BY, slices::Plan};
use crate::Context;

/// Name of the index of slices by manager and Service, each as [`index_key`] has it.
const SERVICE: &str = "service";

/// Reads and writes the slices of one manager.
pub(super) struct Slices {
    client: Client,
    informer: Informer<EndpointSlice>,
    manager: &'static str,
    own: OwnWrites<ObjectKey, EndpointSlice>,
}

/// The Service of a slice of this manager.
pub(super) fn service_of(slice: &EndpointSlice, manager: &str) -> Option<ObjectKey> {
    let meta = slice.metadata();
    let name = meta.labels.get(SERVICE_NAME).filter(|_| meta.labels.get(SLICE_MANAGED_BY).is_some_and(|by| by == manager))?;
    Some(ObjectKey::new(&*meta.namespace, &**name))
}

fn index_key(manager: &str, service: &ObjectKey) -> String {
    format!("{manager}\0{service}")
}

// === impl Slices ===

impl Slices {
    pub(super) fn new(context: &Context, manager: &'static str) -> Self {
        let informer = context.informers.of::<EndpointSlice>();
        informer.add_index(SERVICE, |slice: &EndpointSlice| {
            let manager = slice.metadata().labels.get(SLICE_MANAGED_BY);
            let key = manager.and_then(|manager| Some(index_key(manager, &service_of(slice, manager)?)));
            key.into_iter().collect()
        });
        Self { client: context.client.clone(), informer, manager, own: OwnWrites::default() }
    }

    /// The slices of a Service, with this process's own writes reckoned in.
    ///
    /// # Errors
    /// When the answer to a creation was lost and the server does not say what became of it.
    pub(super) async fn of(&self, service: &ObjectKey) -> Result<Vec<Arc<EndpointSlice>>, Error> {
        self.own.clear_doubt(service, || self.stored(service)).await?;
        // Read before the slices, so that it says no more than they do.
        let seen = self.informer.revision();
        let shown = self.informer.store().by_index(SERVICE, &index_key(self.manager, service));
        Ok(self.own.reckon(service, shown, seen))
    }

    /// The slices of a Service, as the server has them.
    async fn stored(&self, service: &ObjectKey) -> Result<Vec<EndpointSlice>, Error> {
        let (name, manager) = (&service.name, self.manager);
        let of_service = ListParams::default().labels(format!("{SERVICE_NAME}={name},{SLICE_MANAGED_BY}={manager}"));
        Ok(self.client.namespaced(&service.namespace).list(&of_service).await?.items)
    }

    /// Carries out a plan.
    pub(super) async fn write(&self, service: &ObjectKey, plan: Plan) -> Result<(), Error> {
        let api = self.client.namespaced::<EndpointSlice>(&service.namespace);
        let created = join_all(plan.create.iter().map(|slice| api.create(slice))).await;
        // Before any failure ends this: what was created must not be created again.
        let outcomes = created.into_iter().map(|outcome| match outcome {
            Ok(slice) => {
                self.own.stored(service, slice);
                Ok(())
            }
            Err(error) => {
                if error.is_unavailable() {
                    self.own.doubt(service);
                }
                Err(error)
            }
        });
        outcomes.collect::<Vec<_>>().into_iter().collect::<Result<(), _>>()?;
        let update = async |slice| api.update(slice).await.map(|updated| self.own.stored(service, updated));
        try_join_all(plan.update.iter().map(update)).await?;
        let delete = async |slice: &EndpointSlice| {
            let meta = slice.metadata();
            api.delete_seen(meta, DeleteOptions::default()).await.map(|()| self.own.deleted(service, &meta.uid))
        };
        try_join_all(plan.delete.iter().map(delete)).await?;
        Ok(())
    }

    /// Deletes a Service's slices.
    pub(super) async fn clear(&self, service: &ObjectKey, slices: &[Arc<EndpointSlice>]) -> Result<(), Error> {
        if !slices.is_empty() {
            tracing::debug!(%service, "no endpoints any more");
        }
        let delete = slices.iter().map(|slice| (**slice).clone()).collect();
        self.write(service, Plan { delete, ..Plan::default() }).await
    }
}
