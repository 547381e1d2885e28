//! The Objects service: what it is sent as calls, and what came of them as messages.

use api::{
    Kind, StatusError,
    ferrokube::v1::{self as proto, objects_server::Objects},
    google::protobuf::Any,
    patch::PatchType,
};
use bytes::Bytes;
use futures::stream;
use tokio::time::Instant;
use tonic::{Response, Status};

use super::{Answers, Services, asked, batches, fence, render, sent};
use crate::{
    call::{Action, Answer, Body, Call, Following, Options, Paging, ResourceName, Selected},
    decode::FieldValidation,
    pipeline::Deleted,
    request::Asked,
};

pub(super) fn resource(named: Option<proto::ResourceName>) -> ResourceName {
    let proto::ResourceName { group, version, resource } = named.unwrap_or_default();
    ResourceName { group, version, plural: resource }
}

/// An object as it was sent: as JSON, if there is any.
fn body(object: Option<Any>, json: Bytes) -> Body {
    match object {
        _ if !json.is_empty() => Body::Json(json),
        Some(Any { type_url, value }) => Body::Protobuf { type_url, bytes: value },
        None => Body::Missing,
    }
}

/// The options of a write, and whether the answer is to be JSON.
fn options(sent: Option<proto::WriteOptions>) -> Result<(Options, bool), StatusError> {
    let proto::WriteOptions { dry_run, field_manager, field_validation, as_json } = sent.unwrap_or_default();
    Ok((Options { dry_run, field_manager, validation: FieldValidation::parse(&field_validation)? }, as_json))
}

fn patch_type(sent: proto::patch_request::Type) -> Result<PatchType, StatusError> {
    use proto::patch_request::Type;
    match sent {
        Type::Json => Ok(PatchType::Json),
        Type::Merge => Ok(PatchType::Merge),
        Type::Strategic => Ok(PatchType::Strategic),
        Type::Unspecified => Err(StatusError::bad_request("type: JSON, MERGE or STRATEGIC is wanted here")),
    }
}

impl Services {
    /// Carries out a call whose answer is one object.
    async fn object(&self, asked: &Asked, call: Call, as_json: bool) -> Result<Response<proto::Object>, Status> {
        match self.server.call(asked, call).await? {
            Answer::Object(stored, warnings) => Ok(Response::new(render::answer(stored, as_json, warnings))),
            other => Err(other.unexpected().into()),
        }
    }
}

#[tonic::async_trait]
impl Objects for Services {
    type ListStream = Answers<proto::ListResponse>;
    type WatchStream = Answers<proto::WatchResponse>;

    async fn get(&self, request: tonic::Request<proto::GetRequest>) -> Result<Response<proto::Object>, Status> {
        let asked = asked(&request)?;
        let r = request.into_inner();
        let call = Call::new(resource(r.resource), Action::Get).on(r.namespace, r.name, r.subresource);
        self.object(&asked, call, r.as_json).await
    }

    async fn list(&self, request: tonic::Request<proto::ListRequest>) -> Result<Response<Self::ListStream>, Status> {
        let asked = asked(&request)?;
        let r = request.into_inner();
        let paging = Paging { limit: r.limit, continue_token: r.continue_token, resource_version: r.resource_version };
        let action = Action::List(Selected { labels: r.label_selector, fields: r.field_selector }, paging);
        match self.server.call(&asked, Call::new(resource(r.resource), action).within(r.namespace)).await? {
            Answer::List(kind, page) => {
                let form = batches::Form { kind, metadata_only: r.metadata_only, as_json: r.as_json };
                Ok(sent(stream::iter(batches::list(form, page).map(Ok))))
            }
            Answer::Computed(objects) => Ok(sent(stream::iter([Ok(batches::computed(objects, r.as_json))]))),
            other => Err(other.unexpected().into()),
        }
    }

    async fn watch(&self, request: tonic::Request<proto::WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let asked = asked(&request)?;
        let r = request.into_inner();
        let (resource_version, timeout_seconds) = (r.resource_version, r.timeout_seconds);
        let following = Following { resource_version, initial_events: r.send_initial_events, timeout_seconds };
        let action = Action::Watch(Selected { labels: r.label_selector, fields: r.field_selector }, following);
        match self.server.call(&asked, Call::new(resource(r.resource), action).within(r.namespace)).await? {
            Answer::Watch(kind, watch, lasts) => {
                let options = batches::WatchOptions {
                    form: batches::Form { kind, metadata_only: r.metadata_only, as_json: r.as_json },
                    bookmarks: r.allow_bookmarks,
                    tell_initial_end: r.send_initial_events,
                    deadline: Instant::now() + lasts,
                };
                Ok(sent(batches::watch(watch, options, self.shutdown.clone())))
            }
            other => Err(other.unexpected().into()),
        }
    }

    async fn create(&self, request: tonic::Request<proto::CreateRequest>) -> Result<Response<proto::Object>, Status> {
        let (asked, fence) = (asked(&request)?, fence(request.metadata())?);
        let r = request.into_inner();
        let (options, as_json) = options(r.options)?;
        let call = Call::new(resource(r.resource), Action::Create(body(r.object, r.json)));
        self.object(&asked, call.on(r.namespace, r.name, r.subresource).with(options, fence), as_json).await
    }

    async fn update(&self, request: tonic::Request<proto::UpdateRequest>) -> Result<Response<proto::Object>, Status> {
        let (asked, fence) = (asked(&request)?, fence(request.metadata())?);
        let r = request.into_inner();
        let (options, as_json) = options(r.options)?;
        let call = Call::new(resource(r.resource), Action::Update(body(r.object, r.json)));
        self.object(&asked, call.on(r.namespace, r.name, r.subresource).with(options, fence), as_json).await
    }

    async fn patch(&self, request: tonic::Request<proto::PatchRequest>) -> Result<Response<proto::Object>, Status> {
        let (asked, fence) = (asked(&request)?, fence(request.metadata())?);
        let r = request.into_inner();
        let patch_type = patch_type(r.r#type())?;
        let (options, as_json) = options(r.options)?;
        let call = Call::new(resource(r.resource), Action::Patch(patch_type, r.patch));
        self.object(&asked, call.on(r.namespace, r.name, r.subresource).with(options, fence), as_json).await
    }

    async fn delete(&self, request: tonic::Request<proto::DeleteRequest>) -> Result<Response<proto::DeleteResponse>, Status> {
        let (asked, fence) = (asked(&request)?, fence(request.metadata())?);
        let r = request.into_inner();
        let call = Call::new(resource(r.resource), Action::Delete(r.options.unwrap_or_default()));
        let call = call.on(r.namespace, r.name, String::new()).with(Options::default(), fence);
        match self.server.call(&asked, call).await? {
            Answer::Deleted(Deleted { object, gone }) => {
                let proto::Object { object, warnings, json } = render::answer(object, r.as_json, Vec::new());
                Ok(Response::new(proto::DeleteResponse { object, deleted: gone, json, warnings }))
            }
            other => Err(other.unexpected().into()),
        }
    }

    async fn delete_collection(
        &self,
        request: tonic::Request<proto::DeleteCollectionRequest>,
    ) -> Result<Response<proto::DeleteCollectionResponse>, Status> {
        let (asked, fence) = (asked(&request)?, fence(request.metadata())?);
        let r = request.into_inner();
        let selected = Selected { labels: r.label_selector, fields: r.field_selector };
        let call = Call::new(resource(r.resource), Action::DeleteCollection(selected, r.options.unwrap_or_default()));
        match self.server.call(&asked, call.within(r.namespace).with(Options::default(), fence)).await? {
            Answer::DeletedMany(count) => Ok(Response::new(proto::DeleteCollectionResponse { count })),
            other => Err(other.unexpected().into()),
        }
    }

    async fn kinds(&self, _: tonic::Request<proto::KindsRequest>) -> Result<Response<proto::KindsResponse>, Status> {
        let kinds = self.server.pipeline.kinds().resources().map(|kind| kind_info(kind)).collect();
        Ok(Response::new(proto::KindsResponse { kinds }))
    }

    async fn version(&self, _: tonic::Request<proto::VersionRequest>) -> Result<Response<proto::VersionResponse>, Status> {
        Ok(Response::new(proto::VersionResponse {
            git_version: format!("v{}", daemon::VERSION),
            api_level: api::API_LEVEL.to_owned(),
            platform: daemon::platform(),
        }))
    }
}

fn kind_info(kind: &Kind) -> proto::KindInfo {
    let owned = |list: &[api::kind::Text]| list.iter().map(ToString::to_string).collect();
    proto::KindInfo {
        resource: Some(proto::ResourceName {
            group: kind.group.to_string(),
            version: kind.version.to_string(),
            resource: kind.plural.to_string(),
        }),
        kind: kind.kind.to_string(),
        singular: kind.singular.to_string(),
        short_names: owned(&kind.short_names),
        namespaced: kind.namespaced,
        verbs: owned(&kind.verbs),
        categories: owned(&kind.categories),
        message: kind.type_url.rsplit('/').next().unwrap_or_default().to_owned(),
        subresources: owned(&kind.subresources),
    }
}
