//! The verbs, once for all kinds: typed, dynamic, or metadata only.

mod item;
mod params;
mod watch;

use std::marker::PhantomData;

use api::{
    Bytes, KindRef, Resource,
    autoscaling::v1::Scale,
    ferrokube::v1::{
        CreateRequest, DeleteCollectionRequest, DeleteRequest, GetRequest, ListRequest, ListResponse, Object, PatchRequest,
        ResourceName, UpdateRequest, WriteOptions,
    },
    google::protobuf::Any,
    meta::v1::{DeleteOptions, ListMeta, ObjectMeta, Preconditions},
};
use futures::{Stream, StreamExt, TryStreamExt};
use serde_json::Value;

use self::item::read_one;
pub use self::{
    item::{Body, Dynamic, Item, Metadata, Reads, Trimmed},
    params::{ListParams, Patch, WatchParams, delete},
    watch::{Change, WatchEvent, WatchStream},
};
use crate::{
    Client,
    error::{Error, Result},
};

/// Objects of one kind, in one namespace or all.
#[derive(Debug)]
pub struct Api<T> {
    pub(crate) client: Client,
    pub(crate) kind: KindRef,
    pub(crate) namespace: String,
    pub(crate) options: WriteOptions,
    pub(crate) item: PhantomData<fn() -> T>,
}

/// Objects as of one resource version.
#[derive(Clone, Debug)]
pub struct List<T> {
    /// The objects, ordered by namespace and name.
    pub items: Vec<T>,
    /// Resource version, continue token and remaining count.
    pub metadata: ListMeta,
}

/// Objects as of one resource version, and why others that exist are not among them. What is not here need not be gone.
#[derive(Debug)]
pub struct Readable<T> {
    /// The objects that could be read, ordered by namespace and name.
    pub items: Vec<T>,
    /// One [`Error::Unreadable`] for each that could not; it names the object.
    pub unreadable: Vec<Error>,
    /// Resource version, continue token and remaining count.
    pub metadata: ListMeta,
}

/// What became of a deleted object.
#[derive(Clone, Debug)]
pub struct Deleted<T> {
    /// The object as it is now, when it goes through a grace period or has finalizers; else as it last was.
    pub object: Option<T>,
    /// True when it is gone.
    pub gone: bool,
}

// === impl Api ===

impl<T> Clone for Api<T> {
    fn clone(&self) -> Self {
        Self {
            client: self.client.clone(),
            kind: self.kind.clone(),
            namespace: self.namespace.clone(),
            options: self.options.clone(),
            item: PhantomData,
        }
    }
}

impl<T> Api<T> {
    /// The kind.
    pub fn kind(&self) -> &KindRef {
        &self.kind
    }

    /// The namespace; empty for all or for a cluster-scoped kind.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The same with other options for its writes. An empty field manager stays ours.
    #[must_use]
    pub fn with_options(mut self, options: WriteOptions) -> Self {
        let field_manager = std::mem::take(&mut self.options.field_manager);
        self.options = options;
        if self.options.field_manager.is_empty() {
            self.options.field_manager = field_manager;
        }
        self
    }

    fn resource(&self) -> Option<ResourceName> {
        Some(ResourceName {
            group: self.kind.group.to_string(),
            version: self.kind.version.to_string(),
            resource: self.kind.plural.to_string(),
        })
    }

    fn stored<B: Item>(&self, object: Object) -> Result<B> {
        self.client.warn(&object.warnings);
        B::read(&self.kind, object.object.unwrap_or_default())
    }

    async fn get_any<B: Item>(&self, name: &str, subresource: &str) -> Result<B> {
        let request = GetRequest {
            resource: self.resource(),
            namespace: self.namespace.clone(),
            name: name.to_owned(),
            subresource: subresource.to_owned(),
            as_json: false,
        };
        let answer = self.client.read(|| async {
            let request = self.client.request(request.clone());
            Ok(self.client.within(self.client.objects().get(request)).await?.into_inner())
        });
        self.stored(answer.await?)
    }

    async fn create_any<B: Item>(&self, name: &str, subresource: &str, object: Option<Any>, json: Bytes) -> Result<B> {
        let request = self.client.write_request(CreateRequest {
            resource: self.resource(),
            namespace: self.namespace.clone(),
            name: name.to_owned(),
            subresource: subresource.to_owned(),
            object,
            json,
            options: Some(self.options.clone()),
        })?;
        self.stored(self.client.within(self.client.objects().create(request)).await?.into_inner())
    }

    async fn update_any<B: Item>(&self, name: &str, subresource: &str, object: Option<Any>, json: Bytes) -> Result<B> {
        let request = self.client.write_request(UpdateRequest {
            resource: self.resource(),
            namespace: self.namespace.clone(),
            name: name.to_owned(),
            subresource: subresource.to_owned(),
            object,
            json,
            options: Some(self.options.clone()),
        })?;
        self.stored(self.client.within(self.client.objects().update(request)).await?.into_inner())
    }

    /// Reads a subresource, such as `scale`.
    ///
    /// # Errors
    /// Not found; see [`Error`].
    pub async fn get_subresource<B: Item>(&self, name: &str, subresource: &str) -> Result<B> {
        self.get_any(name, subresource).await
    }

    /// Creates a subresource, such as `token`, and returns the server's answer.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn create_subresource<B: Resource>(&self, name: &str, subresource: &str, body: &B) -> Result<B> {
        self.create_any(name, subresource, Some(body.to_any()), Bytes::new()).await
    }

    /// As [`Self::create_subresource`], from JSON.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn create_subresource_json<B: Item>(&self, name: &str, subresource: &str, body: &Value) -> Result<B> {
        self.create_any(name, subresource, None, body.to_string().into()).await
    }

    /// Replaces a subresource, such as `scale`.
    ///
    /// # Errors
    /// Conflict if the resource version is set and no longer the stored one; see [`Error`].
    pub async fn update_subresource<B: Resource>(&self, name: &str, subresource: &str, body: &B) -> Result<B> {
        self.update_any(name, subresource, Some(body.to_any()), Bytes::new()).await
    }

    /// Changes parts of a subresource.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn patch_subresource<B: Item>(&self, name: &str, subresource: &str, patch: &Patch) -> Result<B> {
        let request = self.client.write_request(PatchRequest {
            resource: self.resource(),
            namespace: self.namespace.clone(),
            name: name.to_owned(),
            subresource: subresource.to_owned(),
            r#type: patch.wire_type() as i32,
            patch: patch.encode(),
            options: Some(self.options.clone()),
        })?;
        self.stored(self.client.within(self.client.objects().patch(request)).await?.into_inner())
    }

    /// Reads how many replicas there are and should be.
    ///
    /// # Errors
    /// Not found; see [`Error`].
    pub async fn get_scale(&self, name: &str) -> Result<Scale> {
        self.get_subresource(name, "scale").await
    }

    /// Sets how many replicas there should be.
    ///
    /// # Errors
    /// Conflict if the resource version is set and no longer the stored one; see [`Error`].
    pub async fn update_scale(&self, name: &str, scale: &Scale) -> Result<Scale> {
        self.update_subresource(name, "scale", scale).await
    }
}

impl<T: Item> Api<T> {
    /// Reads one object.
    ///
    /// # Errors
    /// Not found; see [`Error`].
    pub async fn get(&self, name: &str) -> Result<T> {
        self.get_any(name, "").await
    }

    /// Reads one object; `None` if there is none.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn get_opt(&self, name: &str) -> Result<Option<T>> {
        match self.get(name).await {
            Ok(object) => Ok(Some(object)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Reads the objects that match, up to the limit if there is one: all of them or none, so that what is not among them does not exist.
    ///
    /// # Errors
    /// [`Error::Unreadable`] if one of them cannot be read; expired if the continue token is too old; see [`Error`].
    pub async fn list(&self, params: &ListParams) -> Result<List<T>> {
        let Readable { items, unreadable, metadata } = self.list_readable(params).await?;
        unreadable.into_iter().next().map_or(Ok(List { items, metadata }), Err)
    }

    /// Reads the objects that match, up to the limit if there is one, and passes over those that cannot be read. For who shows or
    /// changes what there is; who decides on what is missing wants [`Self::list`].
    ///
    /// # Errors
    /// Expired if the continue token is too old; see [`Error`].
    pub async fn list_readable(&self, params: &ListParams) -> Result<Readable<T>> {
        let attempt = || async {
            let mut list = Readable { items: Vec::new(), unreadable: Vec::new(), metadata: ListMeta::default() };
            let mut chunks = std::pin::pin!(self.list_chunks(params).await?);
            while let Some(chunk) = chunks.try_next().await? {
                list.items.extend(chunk.items);
                list.unreadable.extend(chunk.unreadable);
                list.metadata = chunk.metadata;
            }
            Ok(list)
        };
        self.client.read(attempt).await
    }

    /// Reads the objects that match chunk by chunk as the server sends them. Only the last chunk's metadata is set.
    async fn list_chunks(&self, params: &ListParams) -> Result<impl Stream<Item = Result<Readable<T>>> + Send + use<T>> {
        let request = self.client.request(ListRequest {
            resource: self.resource(),
            namespace: self.namespace.clone(),
            label_selector: params.label_selector.clone(),
            field_selector: params.field_selector.clone(),
            limit: params.limit,
            continue_token: params.continue_token.clone(),
            metadata_only: T::METADATA_ONLY,
            resource_version: params.resource_version.clone(),
            as_json: false,
        });
        let kind = self.kind.clone();
        let chunks = self.client.objects().list(request).await?.into_inner();
        Ok(chunks.map(move |chunk| {
            let ListResponse { items, metadata, .. } = chunk?;
            let mut chunk = Readable {
                items: Vec::with_capacity(items.len()),
                unreadable: Vec::new(),
                metadata: metadata.unwrap_or_default(),
            };
            for any in items {
                match read_one(&kind, any) {
                    Ok(object) => chunk.items.push(object),
                    Err(error) => chunk.unreadable.push(error),
                }
            }
            Ok(chunk)
        }))
    }

    /// Changes as they happen. Ends, without an error, when the server closes the watch: resume at the last revision seen.
    ///
    /// # Errors
    /// Expired if the revision is too old; see [`Error`].
    pub async fn watch(&self, params: &WatchParams) -> Result<WatchStream<T>> {
        let request = self.client.request(params.request(self.resource(), &self.namespace, T::METADATA_ONLY));
        let responses = self.client.objects().watch(request).await?.into_inner();
        Ok(WatchStream::new(self.kind.clone(), responses))
    }

    /// Changes parts of an object.
    ///
    /// # Errors
    /// Not found; see [`Error`].
    pub async fn patch(&self, name: &str, patch: &Patch) -> Result<T> {
        self.patch_subresource(name, "", patch).await
    }

    /// Changes parts of an object's status.
    ///
    /// # Errors
    /// Not found; see [`Error`].
    pub async fn patch_status(&self, name: &str, patch: &Patch) -> Result<T> {
        self.patch_subresource(name, "status", patch).await
    }

    /// Deletes an object, at once or after its grace period and finalizers.
    ///
    /// # Errors
    /// Not found; conflict if a precondition fails; see [`Error`].
    pub async fn delete(&self, name: &str, options: &DeleteOptions) -> Result<Deleted<T>> {
        let request = self.client.write_request(DeleteRequest {
            resource: self.resource(),
            namespace: self.namespace.clone(),
            name: name.to_owned(),
            options: Some(options.clone()),
            as_json: false,
        })?;
        let answer = self.client.within(self.client.objects().delete(request)).await?.into_inner();
        let object = answer.object.map(|any| T::read(&self.kind, any)).transpose()?;
        Ok(Deleted { object, gone: answer.deleted })
    }

    /// Deletes the very version of an object that `seen` is of, in the way `options` say. An object that is gone is no error.
    ///
    /// # Errors
    /// Conflict if the object has changed since, or is another one of that name: what was decided on the old state must be decided anew.
    /// Else see [`Error`].
    pub async fn delete_seen(&self, seen: &ObjectMeta, mut options: DeleteOptions) -> Result<()> {
        let (uid, resource_version) = (Some(seen.uid.clone()), Some(seen.resource_version.clone()));
        options.preconditions = Some(Preconditions { uid, resource_version });
        match self.delete(&seen.name, &options).await {
            Err(error) if error.is_not_found() => Ok(()),
            outcome => outcome.map(drop),
        }
    }

    /// Deletes every object that the selectors match. Returns how many.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn delete_collection(&self, options: &DeleteOptions, params: &ListParams) -> Result<i64> {
        let request = self.client.write_request(DeleteCollectionRequest {
            resource: self.resource(),
            namespace: self.namespace.clone(),
            label_selector: params.label_selector.clone(),
            field_selector: params.field_selector.clone(),
            options: Some(options.clone()),
        })?;
        Ok(self.client.objects().delete_collection(request).await.map_err(Error::from)?.into_inner().count)
    }

    /// Creates an object from JSON, checked by the server for unknown fields.
    ///
    /// # Errors
    /// See [`Self::create`].
    pub async fn create_json(&self, object: &Value) -> Result<T> {
        self.create_any("", "", None, object.to_string().into()).await
    }

    /// Replaces an object (or a subresource, if not empty) by JSON, checked by the server for unknown fields.
    ///
    /// # Errors
    /// See [`Self::update`].
    pub async fn update_json(&self, name: &str, subresource: &str, object: &Value) -> Result<T> {
        self.update_any(name, subresource, None, object.to_string().into()).await
    }
}

impl<T: Item + Body> Api<T> {
    /// Stores a new object and returns it as stored.
    ///
    /// # Errors
    /// Already exists; invalid; see [`Error`].
    pub async fn create(&self, object: &T) -> Result<T> {
        self.create_any("", "", Some(object.to_any()), Bytes::new()).await
    }

    /// Replaces an object but for its status.
    ///
    /// # Errors
    /// Conflict if its resource version is no longer the stored one; not found; invalid; see [`Error`].
    pub async fn update(&self, object: &T) -> Result<T> {
        self.replace(object, "").await
    }

    /// Replaces an object's status and nothing else.
    ///
    /// # Errors
    /// As those of [`Self::update`].
    pub async fn update_status(&self, object: &T) -> Result<T> {
        self.replace(object, "status").await
    }

    async fn replace(&self, object: &T, subresource: &str) -> Result<T> {
        self.update_any(&object.meta().name, subresource, Some(object.to_any()), Bytes::new()).await
    }
}

#[cfg(test)]
mod tests;
