//! Update and patch: both turn the stored object into a new one.

use api::{
    Object, StatusError,
    patch::{Patch, PatchType},
    rules::{FieldErrors, Path},
    status::Reason,
};
use bytes::Bytes;
use parking_lot::Mutex;
use store::Collection;

use super::{ATTEMPTS, Attempt, Fence, Old, Pipeline, Stored, contended, encode, is_unversioned, pause};
use crate::{
    admission::{Effects, Write},
    decode::{self, FieldValidation},
    request::{Request, Verb},
    strategies::metadata,
    subresource::Handler,
};

impl Pipeline {
    /// Replaces an object, or what the subresource is of it, and returns it as stored.
    ///
    /// # Errors
    /// When the object is not valid, admission refuses it, it changed since its resource version, or etcd does not answer.
    pub async fn update(&self, request: &Request, object: Box<dyn Object>, fence: Option<&Fence>) -> Result<Stored, StatusError> {
        let unconditional = is_unversioned(&*object) && !self.strategy(&request.kind).allows_unconditional_update();
        let make = |old: &dyn Object| {
            if unconditional {
                let mut errors = FieldErrors::default();
                let at = Path::root();
                errors.invalid(&at.field("metadata").field("resourceVersion"), 0, "must be specified for an update");
                return Err(StatusError::invalid(&request.kind, &object.meta().name, &errors));
            }
            self.replacement(request, old, object.boxed_clone())
        };
        self.change(request, fence, make).await
    }

    /// True if an update with this object, which does not exist, is to create it. One that names a version or UID is about an object that was
    /// there and is gone.
    pub fn creates_on_update(&self, request: &Request, object: &dyn Object) -> bool {
        let anew = is_unversioned(object) && object.meta().uid.is_empty();
        request.subresource.is_none() && anew && self.strategy(&request.kind).creates_on_update()
    }

    /// Changes parts of an object and returns it as stored, with remarks for the client.
    ///
    /// # Errors
    /// As [`Pipeline::update`], and when the patch is malformed or does not fit the object.
    pub async fn patch(
        &self,
        request: &Request,
        patch_type: PatchType,
        patch: &[u8],
        validation: FieldValidation,
        fence: Option<&Fence>,
    ) -> Result<(Stored, Vec<String>), StatusError> {
        let sent = patch;
        let (patch, twice) = Patch::parse(patch_type, sent)?;
        let warnings = Mutex::default();
        let changed = self.change(request, fence, |old| {
            let body = request.subresource.and_then(|subresource| subresource.read(old));
            let current = body.as_deref().unwrap_or(old);
            let kind = current.kind();
            let current = current.to_value().map_err(|e| StatusError::internal(e.to_string()))?;
            let patched = patch.apply(current, kind.message())?;
            let read = decode::from_value(kind, patched, twice.clone(), validation);
            // The object was good: it is the patch that made it unreadable.
            let (object, mut remarks) = read.map_err(|error| unreadable(request, sent, &error))?;
            remarks.extend(self.warnings(&*object));
            *warnings.lock() = remarks;
            self.replacement(request, old, object)
        });
        let stored = changed.await?;
        Ok((stored, warnings.into_inner()))
    }

    /// Carries out what the body of a subresource that is only ever created says, such as a Binding, and returns the object as stored.
    ///
    /// # Errors
    /// As [`Pipeline::update`].
    pub async fn act(&self, request: &Request, body: &dyn Object, fence: Option<&Fence>) -> Result<Stored, StatusError> {
        let Some(Handler::Apply(apply)) = request.subresource.map(|subresource| subresource.handler) else {
            let message = format!("{} cannot be written by creating it", request.resource());
            return Err(StatusError::new(Reason::MethodNotAllowed, message));
        };
        self.change(request, fence, |old| {
            let mut object = old.boxed_clone();
            apply(body, &mut *object)?;
            Ok(object)
        })
        .await
    }

    /// The whole object as it would be with this body.
    fn replacement(&self, request: &Request, old: &dyn Object, body: Box<dyn Object>) -> Result<Box<dyn Object>, StatusError> {
        let Some(Handler::View(view)) = request.subresource.map(|subresource| subresource.handler) else { return Ok(body) };
        let mut object = old.boxed_clone();
        object.meta_mut().resource_version.clone_from(&body.meta().resource_version);
        (view.write)(&*body, &mut *object)?;
        Ok(object)
    }

    async fn change(
        &self,
        request: &Request,
        fence: Option<&Fence>,
        make: impl Fn(&dyn Object) -> Result<Box<dyn Object>, StatusError> + Send + Sync,
    ) -> Result<Stored, StatusError> {
        let collection = self.collection(&request.kind)?;
        for attempt in 0..ATTEMPTS {
            let old = self.current(&collection, request, attempt > 0).await?;
            let answer = self.attempt(&collection, request, fence, attempt, &old, &make).await;
            if attempt == 0 && self.is_premature(&collection, request, &old, &answer).await {
                continue;
            }
            match answer? {
                Attempt::Done(stored) | Attempt::Unwritten(stored) => return Ok(stored),
                Attempt::Again => pause(attempt).await,
            }
        }
        Err(contended(&request.kind, &request.name))
    }

    async fn attempt(
        &self,
        collection: &Collection,
        request: &Request,
        fence: Option<&Fence>,
        attempt: u32,
        old: &Old,
        make: &(impl Fn(&dyn Object) -> Result<Box<dyn Object>, StatusError> + Send + Sync),
    ) -> Result<Attempt<Stored>, StatusError> {
        let (kind, subresource) = (&request.kind, request.part());
        let mut new = make(&*old.object)?;
        keep_identity(request, &mut *new, &*old.object)?;
        let strategy = self.strategy(kind);
        match request.subresource.map(|subresource| subresource.handler) {
            None => new.copy_status_from(&*old.object),
            Some(Handler::Part(part)) => new = part(new, &*old.object),
            Some(_) => {}
        }
        new.set_defaults();
        strategy.set_defaults(&mut *new);
        strategy.prepare_for_update(subresource, &mut *new, &*old.object);
        let write = Write { request, old: Some(&*old.object) };
        let mut effects = Effects::default();
        if let Some(fence) = fence {
            fence.guard(&self.store, attempt > 0, &mut effects).await?;
        }
        self.admission.admit(&write, &mut *new, &mut effects).await?;
        self.validate(subresource, &*new, Some(&*old.object))?;
        self.admission.check(&write, &*new, &mut effects).await?;

        let bytes = encode(&mut *new);
        if request.dry_run || bytes == old.entry.stored() {
            return self.answer(request, new, bytes, old.entry.revision()).map(Attempt::Unwritten);
        }
        let place = (request.namespace.as_str(), request.name.as_str());
        let last_finalizer_gone = new.meta().deletion_timestamp.is_some()
            && new.meta().finalizers.is_empty()
            && new.meta().deletion_grace_period_seconds.unwrap_or_default() == 0
            && !strategy.is_held(&*new);
        let put = if last_finalizer_gone {
            let deletion = Request { verb: Verb::Delete, ..request.clone() };
            effects = Effects::default();
            if let Some(fence) = fence {
                fence.guard(&self.store, attempt > 0, &mut effects).await?;
            }
            // What the object holds is what it was last stored with.
            let write = Write { request: &deletion, old: Some(&*old.object) };
            self.admission.check(&write, &*old.object, &mut effects).await?;
            None
        } else {
            Some(&bytes[..])
        };
        match self.commit(&request.kind, collection, place, Some(old.entry.revision()), put, effects).await? {
            Some(revision) => self.answer(request, new, bytes, revision).map(Attempt::Done),
            None => Ok(Attempt::Again),
        }
    }

    /// The object, or the subresource's own body.
    fn answer(&self, request: &Request, mut object: Box<dyn Object>, bytes: Bytes, revision: i64) -> Result<Stored, StatusError> {
        object.meta_mut().resource_version = revision.to_string();
        match request.subresource.and_then(|subresource| subresource.read(&*object)) {
            Some(body) => Ok(Stored { kind: body.kind().clone(), bytes: body.encode() }),
            None => Ok(Stored::at(&request.kind, &bytes, revision)),
        }
    }
}

/// The stored object with the status of the one that was sent, and with what of the metadata may be written along.
pub(crate) fn with_status_of(mut sent: Box<dyn Object>, stored: &dyn Object) -> Box<dyn Object> {
    let mut object = stored.boxed_clone();
    object.copy_status_from(&*sent);
    metadata::take_over(object.meta_mut(), sent.meta_mut());
    object
}

/// The answer to a patch that makes an object which is none.
fn unreadable(request: &Request, patch: &[u8], error: &StatusError) -> StatusError {
    const SHOWN: usize = 1 << 10;
    let text = String::from_utf8_lossy(patch);
    let mut errors = FieldErrors::default();
    errors.invalid(&Path::root().field("patch"), &text[..text.floor_char_boundary(SHOWN)], error);
    StatusError::invalid(&request.kind, &request.name, &errors)
}

/// What no update may touch, and what an update may demand.
fn keep_identity(request: &Request, new: &mut dyn Object, old: &dyn Object) -> Result<(), StatusError> {
    let (kind, name, old, unversioned) = (&request.kind, &request.name, old.meta(), is_unversioned(new));
    let meta = new.meta_mut();
    if !meta.name.is_empty() && meta.name != *name {
        return Err(StatusError::bad_request(format!(
            "the name of the object ({}) does not match the name on the request ({name})",
            meta.name
        )));
    }
    if !meta.namespace.is_empty() && meta.namespace != request.namespace {
        return Err(StatusError::bad_request(format!(
            "the namespace of the object ({}) does not match the namespace on the request ({})",
            meta.namespace, request.namespace
        )));
    }
    if !unversioned && meta.resource_version != old.resource_version {
        return Err(StatusError::modified(kind, name));
    }
    if !meta.uid.is_empty() && meta.uid != old.uid {
        let why = format!("Precondition failed: UID in precondition: {}, UID in object meta: {}", meta.uid, old.uid);
        return Err(StatusError::conflict(kind, name, why));
    }
    meta.name.clone_from(&old.name);
    meta.generate_name.clone_from(&old.generate_name);
    meta.namespace.clone_from(&old.namespace);
    meta.self_link.clear();
    meta.uid.clone_from(&old.uid);
    meta.generation = old.generation;
    meta.creation_timestamp.clone_from(&old.creation_timestamp);
    meta.deletion_timestamp.clone_from(&old.deletion_timestamp);
    meta.deletion_grace_period_seconds = old.deletion_grace_period_seconds;
    meta.managed_fields.clear();
    metadata::remove_duplicates(meta);
    Ok(())
}
