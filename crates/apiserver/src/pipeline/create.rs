//! Create.

use api::{Object, StatusError, meta::v1::Time, names};

use super::{ATTEMPTS, Fence, Pipeline, Stored, contended, encode, is_unversioned, pause};
use crate::{
    admission::{Effects, Write},
    request::Request,
    strategies::metadata,
};

impl Pipeline {
    /// Stores a new object and returns it as stored.
    ///
    /// # Errors
    /// When the object is not valid, admission refuses it, one of that name exists, or etcd does not answer.
    pub async fn create(&self, request: &Request, object: Box<dyn Object>, fence: Option<&Fence>) -> Result<Stored, StatusError> {
        let collection = self.collection(&request.kind)?;
        for attempt in 0..ATTEMPTS {
            let mut object = object.boxed_clone();
            let generated = prepare(request, &mut *object)?;
            let strategy = self.strategy(&request.kind);
            object.set_defaults();
            strategy.set_defaults(&mut *object);
            if !strategy.keeps_status_on_create() {
                object.copy_status_from(&*request.kind.empty());
            }
            strategy.prepare_for_create(&mut *object);
            let write = Write { request, old: None };
            let mut effects = Effects::default();
            if let Some(fence) = fence {
                fence.guard(&self.store, attempt > 0, &mut effects).await?;
            }
            self.admission.admit(&write, &mut *object, &mut effects).await?;
            self.validate("", &*object, None)?;
            self.admission.check(&write, &*object, &mut effects).await?;
            let bytes = encode(&mut *object);
            let (namespace, name) = (object.meta().namespace.clone(), object.meta().name.clone());
            if request.dry_run {
                return Ok(Stored { kind: request.kind.clone(), bytes });
            }
            match self.commit(&request.kind, &collection, (&namespace, &name), None, Some(&bytes), effects).await {
                Ok(Some(revision)) => return Ok(Stored::at(&request.kind, &bytes, revision)),
                Ok(None) => {}
                // Another generated name will do.
                Err(e) if generated && e.is_already_exists() && attempt < 8 => {}
                Err(e) => return Err(e),
            }
            pause(attempt).await;
        }
        Err(contended(&request.kind, &object.meta().name))
    }
}

/// Gives a new object its identity. True if the name was generated.
fn prepare(request: &Request, object: &mut dyn Object) -> Result<bool, StatusError> {
    let unversioned = is_unversioned(object);
    let meta = object.meta_mut();
    if !meta.namespace.is_empty() && meta.namespace != request.namespace {
        return Err(StatusError::bad_request(format!(
            "the namespace of the provided object does not match the namespace sent on the request: metadata.namespace is {:?}, the request's {:?}",
            meta.namespace, request.namespace
        )));
    }
    if !request.name.is_empty() && !meta.name.is_empty() && meta.name != request.name {
        return Err(StatusError::bad_request(format!(
            "the name of the object ({}) does not match the name on the request ({})",
            meta.name, request.name
        )));
    }
    if !unversioned {
        return Err(StatusError::bad_request("metadata.resourceVersion: must not be set on objects to be created"));
    }
    meta.namespace.clone_from(&request.namespace);
    if meta.name.is_empty() {
        meta.name.clone_from(&request.name);
    }
    let generated = meta.name.is_empty() && !meta.generate_name.is_empty();
    if generated {
        meta.name = names::generate_name(&meta.generate_name, rand::random());
    }
    meta.uid = uuid::Uuid::new_v4().to_string();
    meta.creation_timestamp = Some(Time::now());
    meta.deletion_timestamp = None;
    meta.deletion_grace_period_seconds = None;
    meta.generation = 0;
    meta.self_link.clear();
    // Field ownership belongs to server-side apply.
    meta.managed_fields.clear();
    metadata::remove_duplicates(meta);
    Ok(generated)
}
