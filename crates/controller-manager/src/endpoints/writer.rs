//! The EndpointSlices of one manager: which there are, and what changes them.

use std::{collections::HashMap, sync::Arc, time::Duration};

use api::{discovery::v1::EndpointSlice, meta::v1::DeleteOptions};
use client::{Client, Error, Informer, ObjectKey};
use futures::future::{join_all, try_join_all};
use parking_lot::Mutex;

use super::{SERVICE_NAME, SLICE_MANAGED_BY, slices::Plan};
use crate::{Context, context::revision};

/// How long the informer is given to show what was just created.
pub(super) const CATCH_UP: Duration = Duration::from_millis(20);
/// Name of the index of slices by manager and Service, each as [`index_key`] has it.
const SERVICE: &str = "service";

/// Reads and writes the slices of one manager.
pub(super) struct Slices {
    client: Client,
    informer: Informer<EndpointSlice>,
    manager: &'static str,
    /// The newest revision at which each Service's slices were created by us: until the informer has come so far, they would be missed and
    /// created again.
    created: Mutex<HashMap<ObjectKey, i64>>,
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
        Self { client: context.client.clone(), informer, manager, created: Mutex::default() }
    }

    /// The slices of a Service; `None` until the informer shows those that were created last.
    pub(super) fn of(&self, service: &ObjectKey) -> Option<Vec<Arc<EndpointSlice>>> {
        if self.created.lock().get(service).is_some_and(|created| *created > self.informer.revision()) {
            return None;
        }
        Some(self.informer.store().by_index(SERVICE, &index_key(self.manager, service)))
    }

    /// Carries out a plan.
    pub(super) async fn write(&self, service: &ObjectKey, plan: Plan) -> Result<(), Error> {
        let api = self.client.namespaced::<EndpointSlice>(&service.namespace);
        let outcomes = join_all(plan.create.iter().map(|slice| api.create(slice))).await;
        // Before any failure ends this: what was created must not be created again.
        for created in outcomes.iter().flatten().map(|slice| revision(slice.metadata())) {
            self.created.lock().entry(service.clone()).and_modify(|newest| *newest = created.max(*newest)).or_insert(created);
        }
        outcomes.into_iter().collect::<Result<Vec<_>, _>>()?;
        try_join_all(plan.update.iter().map(|slice| api.update(slice))).await?;
        try_join_all(plan.delete.iter().map(|slice| api.delete_seen(slice.metadata(), DeleteOptions::default()))).await?;
        Ok(())
    }

    /// Deletes a Service's slices and forgets the Service.
    pub(super) async fn clear(&self, service: &ObjectKey, slices: &[Arc<EndpointSlice>]) -> Result<(), Error> {
        self.created.lock().remove(service);
        if !slices.is_empty() {
            tracing::debug!(%service, "no endpoints any more");
        }
        let delete = slices.iter().map(|slice| (**slice).clone()).collect();
        self.write(service, Plan { delete, ..Plan::default() }).await
    }
}
