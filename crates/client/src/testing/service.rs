//! The gRPC services over the stored objects.

use std::{pin::Pin, sync::Arc};

use api::{
    Bytes, KindRef, Object, Resource, StatusError,
    coordination::v1::Lease,
    core::v1::Pod,
    ferrokube::v1::{self as proto, watch_event::Type},
    google::protobuf::Any,
    meta::v1::{ListMeta, PartialObjectMetadata},
    patch::{Patch, PatchType},
    registry::Kinds,
};
use futures::{Stream, stream};
use prost::Message as _;
use tonic::{Request, Response, Status, Streaming, metadata::MetadataMap};

use super::{MemoryServer, selectors::Selection, state::Past};
use crate::fence::{Guard, HEADER};

type BoxStream<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;
type Answer<T> = Result<Response<T>, Status>;

/// Objects in one chunk of a list.
const CHUNK: usize = 500;

// === impl MemoryServer ===

impl MemoryServer {
    /// What a leader's write depends on.
    fn check_leader(&self, metadata: &MetadataMap) -> Result<(), StatusError> {
        let Some(value) = metadata.get(HEADER) else { return Ok(()) };
        let guard: Option<Guard> = value.to_str().ok().and_then(|text| text.parse().ok());
        let guard = guard.ok_or_else(|| StatusError::bad_request(format!("{HEADER} cannot be read")))?;
        let lease: Option<Lease> = self.find(&guard.namespace, &guard.name);
        let held = lease.is_some_and(|lease| {
            (lease.spec().holder_identity.as_deref(), lease.spec().lease_transitions)
                == (Some(&guard.holder), Some(guard.transitions))
        });
        if held { Ok(()) } else { Err(StatusError::conflict(Lease::KIND, &guard.name, "the lease is held by another")) }
    }

    fn write(
        &self,
        options: Option<&proto::WriteOptions>,
        write: impl FnOnce(&mut super::State) -> Result<Arc<dyn Object>, StatusError>,
    ) -> Answer<proto::Object> {
        let mut state = self.0.state.lock();
        let dry_run = options.is_some_and(|options| options.dry_run);
        let object = if dry_run { write(&mut state.clone()) } else { write(&mut state) }?;
        Ok(Response::new(answer(&*object)))
    }
}

#[tonic::async_trait]
impl proto::objects_server::Objects for MemoryServer {
    type ListStream = BoxStream<proto::ListResponse>;
    type WatchStream = BoxStream<proto::WatchResponse>;

    async fn get(&self, request: Request<proto::GetRequest>) -> Answer<proto::Object> {
        let request = request.into_inner();
        let kind = &kind(request.resource.as_ref())?;
        self.begin("get", kind)?;
        let state = self.0.state.lock();
        Ok(Response::new(answer(&**state.existing(kind, &request.namespace, &request.name)?)))
    }

    async fn list(&self, request: Request<proto::ListRequest>) -> Answer<Self::ListStream> {
        let request = request.into_inner();
        let kind = &kind(request.resource.as_ref())?;
        self.begin("list", kind)?;
        let selection = Selection::new(&request.namespace, &request.label_selector, &request.field_selector)?;
        let state = self.0.state.lock();
        let matching = state.list(kind, &request.namespace).filter(|object| selection.matches(&***object));
        let mut items: Vec<Any> = matching.map(|object| any(&**object, request.metadata_only)).collect();
        // The continue token is how many objects have been sent, which is enough for tests that do not write in between.
        let start = request.continue_token.parse().unwrap_or(0).min(items.len());
        items.drain(..start);
        let mut metadata = ListMeta { resource_version: state.revision().to_string(), ..ListMeta::default() };
        let limit = usize::try_from(request.limit).unwrap_or(0);
        if limit > 0 && items.len() > limit {
            metadata.r#continue = (start + limit).to_string();
            metadata.remaining_item_count = i64::try_from(items.len() - limit).ok();
            items.truncate(limit);
        }
        let mut chunks: Vec<_> =
            items.chunks(CHUNK).map(|items| proto::ListResponse { items: items.to_vec(), ..Default::default() }).collect();
        match chunks.last_mut() {
            Some(last) => last.metadata = Some(metadata),
            None => chunks.push(proto::ListResponse { metadata: Some(metadata), ..Default::default() }),
        }
        Ok(Response::new(Box::pin(stream::iter(chunks.into_iter().map(Ok)))))
    }

    async fn watch(&self, request: Request<proto::WatchRequest>) -> Answer<Self::WatchStream> {
        let request = request.into_inner();
        let kind = kind(request.resource.as_ref())?;
        self.begin("watch", &kind)?;
        let selection = Selection::new(&request.namespace, &request.label_selector, &request.field_selector)?;
        let mut changed = self.0.revision.subscribe();
        let connection = self.0.connection.lock().clone();
        let (mut initial, mut seen) = (Vec::new(), request.resource_version.parse().unwrap_or(0));
        {
            let state = self.0.state.lock();
            if request.send_initial_events {
                let matching = state.list(&kind, &request.namespace).filter(|object| selection.matches(&***object));
                initial.extend(matching.map(|object| event(Type::Added, &**object, request.metadata_only, state.revision())));
                initial.push(proto::WatchEvent {
                    r#type: Type::Bookmark.into(),
                    resource_version: state.revision(),
                    initial_events_end: true,
                    ..Default::default()
                });
            }
            if request.send_initial_events || seen == 0 {
                seen = state.revision();
            }
            state.since(&kind, seen)?;
        }
        let server = self.clone();
        Ok(Response::new(Box::pin(async_stream::stream! {
            if !initial.is_empty() {
                yield Ok(proto::WatchResponse { events: initial, ..Default::default() });
            }
            loop {
                let past = server.0.state.lock().since(&kind, seen);
                match past {
                    Ok(past) => {
                        seen = past.last().map_or(seen, |past| past.revision);
                        let events: Vec<_> =
                            past.iter().filter_map(|past| transition(past, &selection, request.metadata_only)).collect();
                        if !events.is_empty() {
                            yield Ok(proto::WatchResponse { events, ..Default::default() });
                        }
                    }
                    Err(error) => {
                        yield Err(error.into());
                        return;
                    }
                }
                tokio::select! {
                    outcome = changed.changed() => if outcome.is_err() { return },
                    () = connection.cancelled() => {
                        yield Err(Status::unavailable("connection lost"));
                        return;
                    }
                }
            }
        })))
    }

    async fn create(&self, request: Request<proto::CreateRequest>) -> Answer<proto::Object> {
        let (metadata, _, request) = request.into_parts();
        let kind = &kind(request.resource.as_ref())?;
        self.begin("create", kind)?;
        self.check_leader(&metadata)?;
        if !request.subresource.is_empty() {
            return Err(StatusError::bad_request("the test server creates no subresources").into());
        }
        let mut object = read(kind, request.object, &request.json)?;
        if kind.namespaced && object.meta().namespace.is_empty() {
            object.meta_mut().namespace = request.namespace;
        }
        let mut created = crate::ObjectKey::default();
        let answer = self.write(request.options.as_ref(), |state| {
            let object = state.create(object)?;
            created = crate::ObjectKey::of(object.meta());
            Ok(object)
        })?;
        self.wrote("create", kind, "", &created.namespace, &created.name);
        self.fault("create", kind, true)?;
        Ok(answer)
    }

    async fn update(&self, request: Request<proto::UpdateRequest>) -> Answer<proto::Object> {
        let (metadata, _, request) = request.into_parts();
        let kind = &kind(request.resource.as_ref())?;
        self.begin("update", kind)?;
        self.check_leader(&metadata)?;
        let mut object = read(kind, request.object, &request.json)?;
        let meta = object.meta_mut();
        if meta.name.is_empty() {
            meta.name = request.name;
        }
        if kind.namespaced && meta.namespace.is_empty() {
            meta.namespace = request.namespace;
        }
        let (namespace, name) = (meta.namespace.clone(), meta.name.clone());
        let answer = self.write(request.options.as_ref(), |state| state.update(object, &request.subresource))?;
        self.wrote("update", kind, &request.subresource, &namespace, &name);
        Ok(answer)
    }

    async fn patch(&self, request: Request<proto::PatchRequest>) -> Answer<proto::Object> {
        let (metadata, _, request) = request.into_parts();
        let kind = &kind(request.resource.as_ref())?;
        self.begin("patch", kind)?;
        self.check_leader(&metadata)?;
        let patch: serde_json::Value =
            serde_json::from_slice(&request.patch).map_err(|e| StatusError::bad_request(e.to_string()))?;
        let patch_type = match request.r#type() {
            proto::patch_request::Type::Json => PatchType::Json,
            proto::patch_request::Type::Strategic => PatchType::Strategic,
            _ => PatchType::Merge,
        };
        let answer = self.write(request.options.as_ref(), |state| {
            let old = state.existing(kind, &request.namespace, &request.name)?;
            let mut value = old.to_value().map_err(|e| StatusError::internal(e.to_string()))?;
            let patch = Patch::new(patch_type, patch).map_err(|e| StatusError::bad_request(e.to_string()))?;
            value = patch.apply(value, kind.message()).map_err(|e| StatusError::bad_request(e.to_string()))?;
            let object = kind.from_value(value).map_err(|e| StatusError::bad_request(e.to_string()))?;
            state.update(object, &request.subresource)
        })?;
        self.wrote("patch", kind, &request.subresource, &request.namespace, &request.name);
        Ok(answer)
    }

    async fn delete(&self, request: Request<proto::DeleteRequest>) -> Answer<proto::DeleteResponse> {
        let (metadata, _, request) = request.into_parts();
        let kind = &kind(request.resource.as_ref())?;
        self.begin("delete", kind)?;
        self.check_leader(&metadata)?;
        let options = request.options.unwrap_or_default();
        let (object, deleted) = self.0.state.lock().delete(kind, &request.namespace, &request.name, &options)?;
        self.wrote("delete", kind, "", &request.namespace, &request.name);
        Ok(Response::new(proto::DeleteResponse { object: Some(any(&*object, false)), deleted, ..Default::default() }))
    }

    async fn delete_collection(
        &self,
        request: Request<proto::DeleteCollectionRequest>,
    ) -> Answer<proto::DeleteCollectionResponse> {
        let (metadata, _, request) = request.into_parts();
        let kind = &kind(request.resource.as_ref())?;
        self.begin("delete", kind)?;
        self.check_leader(&metadata)?;
        let selection = Selection::new(&request.namespace, &request.label_selector, &request.field_selector)?;
        let options = request.options.unwrap_or_default();
        let mut count = 0;
        {
            let mut state = self.0.state.lock();
            let matching = state.list(kind, &request.namespace).filter(|object| selection.matches(&***object));
            let names: Vec<_> = matching.map(|object| (object.meta().namespace.clone(), object.meta().name.clone())).collect();
            for (namespace, name) in names {
                state.delete(kind, &namespace, &name, &options)?;
                count += 1;
            }
        }
        self.wrote("deletecollection", kind, "", &request.namespace, "");
        Ok(Response::new(proto::DeleteCollectionResponse { count }))
    }

    async fn kinds(&self, _: Request<proto::KindsRequest>) -> Answer<proto::KindsResponse> {
        let kinds = Kinds::compiled().resources().map(|kind| proto::KindInfo {
            resource: Some(proto::ResourceName {
                group: kind.group.to_string(),
                version: kind.version.to_string(),
                resource: kind.plural.to_string(),
            }),
            kind: kind.kind.to_string(),
            namespaced: kind.namespaced,
            ..proto::KindInfo::default()
        });
        Ok(Response::new(proto::KindsResponse { kinds: kinds.collect() }))
    }

    async fn version(&self, _: Request<proto::VersionRequest>) -> Answer<proto::VersionResponse> {
        Ok(Response::new(proto::VersionResponse { git_version: "v0.0.0-test".to_owned(), ..proto::VersionResponse::default() }))
    }
}

#[tonic::async_trait]
impl proto::pods_server::Pods for MemoryServer {
    type LogsStream = BoxStream<proto::LogsResponse>;
    type ExecStream = BoxStream<proto::ExecResponse>;
    type AttachStream = BoxStream<proto::ExecResponse>;
    type PortForwardStream = BoxStream<proto::PortForwardResponse>;

    async fn bind(&self, request: Request<proto::BindRequest>) -> Answer<proto::BindResponse> {
        let (metadata, _, request) = request.into_parts();
        self.begin("bind", Pod::KIND)?;
        self.check_leader(&metadata)?;
        let binding = request.binding.unwrap_or_default();
        let wanted = binding.metadata();
        {
            let mut state = self.0.state.lock();
            let mut object = state.existing(Pod::KIND, &wanted.namespace, &wanted.name)?.boxed_clone();
            if !wanted.uid.is_empty() && wanted.uid != object.meta().uid {
                return Err(StatusError::conflict(Pod::KIND, &wanted.name, "the pod is another one by now").into());
            }
            if let Some(pod) = object.downcast_mut::<Pod>() {
                if !pod.spec().node_name.is_empty() {
                    let why = format!("pod {} is already assigned to node {:?}", wanted.name, pod.spec().node_name);
                    return Err(StatusError::conflict(Pod::KIND, &wanted.name, why).into());
                }
                pod.spec_mut().node_name.clone_from(&binding.target().name);
            }
            state.put(object);
        }
        self.wrote("bind", Pod::KIND, "", &wanted.namespace, &wanted.name);
        Ok(Response::new(proto::BindResponse {}))
    }

    async fn evict(&self, request: Request<proto::EvictRequest>) -> Answer<proto::EvictResponse> {
        let (metadata, _, request) = request.into_parts();
        self.begin("evict", Pod::KIND)?;
        self.check_leader(&metadata)?;
        let eviction = request.eviction.unwrap_or_default();
        let wanted = eviction.metadata();
        self.0.state.lock().delete(Pod::KIND, &wanted.namespace, &wanted.name, eviction.delete_options())?;
        self.wrote("evict", Pod::KIND, "", &wanted.namespace, &wanted.name);
        Ok(Response::new(proto::EvictResponse {}))
    }

    async fn logs(&self, _: Request<proto::LogsRequest>) -> Answer<Self::LogsStream> {
        Err(Status::unimplemented("the test server has no nodes"))
    }

    async fn exec(&self, _: Request<Streaming<proto::ExecRequest>>) -> Answer<Self::ExecStream> {
        Err(Status::unimplemented("the test server has no nodes"))
    }

    async fn attach(&self, _: Request<Streaming<proto::ExecRequest>>) -> Answer<Self::AttachStream> {
        Err(Status::unimplemented("the test server has no nodes"))
    }

    async fn port_forward(&self, _: Request<Streaming<proto::PortForwardRequest>>) -> Answer<Self::PortForwardStream> {
        Err(Status::unimplemented("the test server has no nodes"))
    }
}

fn kind(resource: Option<&proto::ResourceName>) -> Result<KindRef, StatusError> {
    let name = resource.cloned().unwrap_or_default();
    let found = Kinds::compiled().resource(&name.group, &name.version, &name.resource);
    found.cloned().map_err(|unknown| StatusError::new(api::status::Reason::NotFound, unknown.to_string()))
}

fn read(kind: &KindRef, object: Option<Any>, json: &Bytes) -> Result<Box<dyn Object>, StatusError> {
    if json.is_empty() {
        kind.decode(object.unwrap_or_default().value).map_err(|error| StatusError::bad_request(error.to_string()))
    } else {
        let value = serde_json::from_slice(json).map_err(|error| StatusError::bad_request(error.to_string()))?;
        kind.from_value(value).map_err(|error| StatusError::bad_request(error.to_string()))
    }
}

fn answer(object: &dyn Object) -> proto::Object {
    proto::Object { object: Some(any(object, false)), ..Default::default() }
}

fn any(object: &dyn Object, metadata_only: bool) -> Any {
    if metadata_only {
        let partial = PartialObjectMetadata { metadata: Some(object.meta().clone()) };
        let type_url = "type.googleapis.com/k8s.io.apimachinery.pkg.apis.meta.v1.PartialObjectMetadata".to_owned();
        return Any { type_url, value: partial.encode_to_vec().into() };
    }
    let mut value = object.encode();
    if object.meta().annotations.contains_key(super::UNREADABLE) {
        // Field 2, which most kinds have as a message, holds one byte of a field.
        value = [&value[..], &[0x12, 1, 0x0a]].concat().into();
    }
    Any { type_url: object.kind().type_url.to_string(), value }
}

fn event(what: Type, object: &dyn Object, metadata_only: bool, revision: i64) -> proto::WatchEvent {
    proto::WatchEvent {
        r#type: what.into(),
        object: Some(any(object, metadata_only)),
        resource_version: revision,
        ..Default::default()
    }
}

/// What a change is to a watch that sees only what it selects.
fn transition(past: &Past, selection: &Selection, metadata_only: bool) -> Option<proto::WatchEvent> {
    let selected = |object: &&Arc<dyn Object>| selection.matches(&***object);
    let (old, new) = (past.old.as_ref().filter(selected), past.new.as_ref().filter(selected));
    let (what, object) = match (old, new) {
        (None, Some(new)) => (Type::Added, new),
        (Some(_), Some(new)) => (Type::Modified, new),
        (Some(old), None) => (Type::Deleted, old),
        (None, None) => return None,
    };
    Some(event(what, &**object, metadata_only, past.revision))
}
