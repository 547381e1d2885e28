//! The Objects service.

use std::pin::Pin;

use api::{
    Kind, KindRef, Object, Resource, StatusError,
    authentication::v1::TokenRequest,
    core::v1::{Pod, ServiceAccount},
    ferrokube::v1::{self as proto, objects_server::Objects},
    meta::v1::DeleteOptions,
    policy::v1::Eviction,
    rules::{FieldErrors, Path},
    status::Reason,
};
use futures::{Stream, StreamExt, TryStreamExt, stream};
use tokio::time::{Duration, Instant};
use tonic::{Response, Status};

use super::{
    Asked, Services, asked, batches, check_namespace, check_verb, fence,
    render::{self, Rendered},
};
use crate::{
    decode::{self, FieldValidation},
    pipeline::{Fence, Selectors, Stored},
    request::{Request, Verb},
};

type Streaming<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// A watch whose client names no time lasts between half as long and this, so that they do not all come back at once.
const LONGEST_WATCH: Duration = Duration::from_secs(3600);

/// A request on one object or a collection, before it is authorised.
pub(super) fn request(
    user: std::sync::Arc<crate::request::User>,
    verb: Verb,
    kind: impl Into<KindRef>,
    namespace: &str,
    name: &str,
) -> Request {
    Request {
        user,
        verb,
        kind: kind.into(),
        subresource: String::new(),
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        dry_run: false,
        selected_name: None,
        selected_node: None,
    }
}

fn select(request: &mut Request, labels: &str, fields: &str) -> Result<Selectors, StatusError> {
    let selectors = Selectors::parse(labels, fields)?;
    request.selected_name = selectors.exact("metadata.name").map(str::to_owned);
    request.selected_node = selectors.exact("spec.nodeName").map(str::to_owned);
    Ok(selectors)
}

/// How long a watch lasts. What its client may see was decided when it began, so that none goes on for good.
fn watch_time(seconds: i64) -> Result<Duration, StatusError> {
    match u64::try_from(seconds) {
        Ok(0) => Ok(rand::random_range(LONGEST_WATCH / 2..LONGEST_WATCH)),
        Ok(seconds) => Ok(Duration::from_secs(seconds.min(86_400))),
        Err(_) => {
            let (mut errors, root) = (FieldErrors::default(), Path::root());
            errors.invalid(&root.field("timeoutSeconds"), seconds, "must be greater than or equal to 0");
            Err(decode::invalid("WatchRequest", &errors))
        }
    }
}

fn named(kind: &Kind, name: &str) -> Result<(), StatusError> {
    if name.is_empty() {
        Err(StatusError::bad_request(format!("name: the name of one of the {} is wanted here", kind.plural)))
    } else {
        Ok(())
    }
}

#[tonic::async_trait]
impl Objects for Services {
    type ListStream = Streaming<proto::ListResponse>;
    type WatchStream = Streaming<proto::WatchResponse>;

    async fn get(&self, call: tonic::Request<proto::GetRequest>) -> Result<Response<proto::Object>, Status> {
        let asked = asked(&call)?;
        let r = call.into_inner();
        let kind = self.0.resolve(r.resource.as_ref())?;
        check_verb(&kind, Verb::Get, &r.subresource)?;
        check_namespace(&kind, &r.namespace, false)?;
        named(&kind, &r.name)?;
        let request =
            Request { subresource: r.subresource, ..request(asked.user.clone(), Verb::Get, &kind, &r.namespace, &r.name) };
        self.0.authorize(&asked, &request).await?;
        let object = if kind.storage.is_some() {
            self.0.pipeline.get(&request).await?
        } else {
            let mut items = self.0.measure(&request, &Selectors::default()).await?;
            items.pop().ok_or_else(|| StatusError::not_found(&kind, &r.name))?
        };
        Ok(Response::new(render::answer(object, r.as_json, Vec::new())))
    }

    async fn list(&self, call: tonic::Request<proto::ListRequest>) -> Result<Response<Self::ListStream>, Status> {
        let asked = asked(&call)?;
        let r = call.into_inner();
        let kind = self.0.resolve(r.resource.as_ref())?;
        check_verb(&kind, Verb::List, "")?;
        check_namespace(&kind, &r.namespace, true)?;
        let mut request = request(asked.user.clone(), Verb::List, &kind, &r.namespace, "");
        let selectors = select(&mut request, &r.label_selector, &r.field_selector)?;
        self.0.authorize(&asked, &request).await?;
        if kind.storage.is_none() {
            let mut answer = proto::ListResponse { metadata: Some(Default::default()), ..Default::default() };
            for item in self.0.measure(&request, &selectors).await? {
                match Rendered::object(item, r.as_json, &mut answer.warnings) {
                    Rendered { object: Some(object), .. } => answer.items.push(object),
                    Rendered { json, .. } => answer.json_items.push(json),
                }
            }
            return Ok(Response::new(stream::iter([Ok(answer)]).boxed()));
        }
        let form = batches::Form { kind, metadata_only: r.metadata_only, as_json: r.as_json };
        let page = self.0.pipeline.list(&request, &selectors, &r.resource_version, r.limit, &r.continue_token).await?;
        Ok(Response::new(stream::iter(batches::list(form, page)).map(Ok).boxed()))
    }

    async fn watch(&self, call: tonic::Request<proto::WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let asked = asked(&call)?;
        let r = call.into_inner();
        let kind = self.0.resolve(r.resource.as_ref())?;
        let lasts = watch_time(r.timeout_seconds)?;
        check_verb(&kind, Verb::Watch, "")?;
        check_namespace(&kind, &r.namespace, true)?;
        let mut request = request(asked.user.clone(), Verb::Watch, &kind, &r.namespace, "");
        let selectors = select(&mut request, &r.label_selector, &r.field_selector)?;
        self.0.authorize(&asked, &request).await?;
        let watch = self.0.pipeline.watch(&request, &selectors, &r.resource_version, r.send_initial_events).await?;
        let options = batches::WatchOptions {
            form: batches::Form { kind, metadata_only: r.metadata_only, as_json: r.as_json },
            bookmarks: r.allow_bookmarks,
            tell_initial_end: r.send_initial_events,
            deadline: Instant::now() + lasts,
        };
        let events = batches::watch(watch, options, self.0.shutdown.clone());
        Ok(Response::new(events.map_err(Status::from).boxed()))
    }

    async fn create(&self, call: tonic::Request<proto::CreateRequest>) -> Result<Response<proto::Object>, Status> {
        let (asked, fence) = (asked(&call)?, fence(call.metadata())?);
        let r = call.into_inner();
        let kind = self.0.resolve(r.resource.as_ref())?;
        check_verb(&kind, Verb::Create, &r.subresource)?;
        let options = r.options.unwrap_or_default();
        let validation = FieldValidation::parse(&options.field_validation)?;
        let body_kind = body_kind(&kind, &r.subresource, true);
        let of_object = decode::Named::of(&r.object, &r.json);
        let namespace = if r.namespace.is_empty() && kind.namespaced { of_object.namespace } else { r.namespace };
        check_namespace(&kind, &namespace, false)?;
        let request = Request {
            subresource: r.subresource,
            dry_run: options.dry_run,
            ..request(asked.user.clone(), Verb::Create, &kind, &namespace, &r.name)
        };
        self.0.authorize_write(&asked, &request, fence.as_ref()).await?;
        let (object, mut warnings) = decode::object(body_kind, r.object, &r.json, validation)?;
        warnings.extend(self.0.pipeline.warnings(&*object));
        let object = self.0.create(&request, object, fence.as_ref()).await?;
        Ok(Response::new(render::answer(object, options.as_json, warnings)))
    }

    async fn update(&self, call: tonic::Request<proto::UpdateRequest>) -> Result<Response<proto::Object>, Status> {
        let (asked, fence) = (asked(&call)?, fence(call.metadata())?);
        let r = call.into_inner();
        let kind = self.0.resolve(r.resource.as_ref())?;
        check_verb(&kind, Verb::Update, &r.subresource)?;
        let options = r.options.unwrap_or_default();
        let validation = FieldValidation::parse(&options.field_validation)?;
        let body_kind = body_kind(&kind, &r.subresource, false);
        let of_object = decode::Named::of(&r.object, &r.json);
        let or = |given: String, own: String| if given.is_empty() { own } else { given };
        let namespace = if kind.namespaced { or(r.namespace, of_object.namespace) } else { r.namespace };
        let name = or(r.name, of_object.name);
        check_namespace(&kind, &namespace, false)?;
        named(&kind, &name)?;
        let request = Request {
            subresource: r.subresource,
            dry_run: options.dry_run,
            ..request(asked.user.clone(), Verb::Update, &kind, &namespace, &name)
        };
        self.0.authorize_write(&asked, &request, fence.as_ref()).await?;
        let (object, mut warnings) = decode::object(body_kind, r.object, &r.json, validation)?;
        if request.subresource.is_empty() {
            warnings.extend(self.0.pipeline.warnings(&*object));
        }
        let stored = self.0.replace(&asked, request, object, fence.as_ref()).await?;
        Ok(Response::new(render::answer(stored, options.as_json, warnings)))
    }

    async fn patch(&self, call: tonic::Request<proto::PatchRequest>) -> Result<Response<proto::Object>, Status> {
        let (asked, fence) = (asked(&call)?, fence(call.metadata())?);
        let r = call.into_inner();
        let kind = self.0.resolve(r.resource.as_ref())?;
        check_verb(&kind, Verb::Patch, &r.subresource)?;
        check_namespace(&kind, &r.namespace, false)?;
        named(&kind, &r.name)?;
        let patch_type = r.r#type();
        let options = r.options.unwrap_or_default();
        let validation = FieldValidation::parse(&options.field_validation)?;
        let request = Request {
            subresource: r.subresource,
            dry_run: options.dry_run,
            ..request(asked.user.clone(), Verb::Patch, &kind, &r.namespace, &r.name)
        };
        self.0.authorize_write(&asked, &request, fence.as_ref()).await?;
        let (stored, warnings) = self.0.pipeline.patch(&request, patch_type, &r.patch, validation, fence.as_ref()).await?;
        Ok(Response::new(render::answer(stored, options.as_json, warnings)))
    }

    async fn delete(&self, call: tonic::Request<proto::DeleteRequest>) -> Result<Response<proto::DeleteResponse>, Status> {
        let (asked, fence) = (asked(&call)?, fence(call.metadata())?);
        let r = call.into_inner();
        let kind = self.0.resolve(r.resource.as_ref())?;
        check_verb(&kind, Verb::Delete, "")?;
        check_namespace(&kind, &r.namespace, false)?;
        named(&kind, &r.name)?;
        let options = r.options.unwrap_or_default();
        let request = Request {
            dry_run: !options.dry_run.is_empty(),
            ..request(asked.user.clone(), Verb::Delete, &kind, &r.namespace, &r.name)
        };
        self.0.authorize_write(&asked, &request, fence.as_ref()).await?;
        let deleted = self.0.pipeline.delete(&request, &options, fence.as_ref()).await?;
        let mut warnings = Vec::new();
        let Rendered { object, json } = Rendered::object(deleted.object, r.as_json, &mut warnings);
        Ok(Response::new(proto::DeleteResponse { object, deleted: deleted.gone, json, warnings }))
    }

    async fn delete_collection(
        &self,
        call: tonic::Request<proto::DeleteCollectionRequest>,
    ) -> Result<Response<proto::DeleteCollectionResponse>, Status> {
        let (asked, fence) = (asked(&call)?, fence(call.metadata())?);
        let r = call.into_inner();
        let kind = self.0.resolve(r.resource.as_ref())?;
        check_verb(&kind, Verb::DeleteCollection, "")?;
        check_namespace(&kind, &r.namespace, true)?;
        let options = r.options.unwrap_or_default();
        let mut request = Request {
            dry_run: !options.dry_run.is_empty(),
            ..request(asked.user.clone(), Verb::DeleteCollection, &kind, &r.namespace, "")
        };
        let selectors = select(&mut request, &r.label_selector, &r.field_selector)?;
        self.0.authorize_write(&asked, &request, fence.as_ref()).await?;
        let count = self.0.pipeline.delete_collection(&request, &selectors, &options, fence.as_ref()).await?;
        Ok(Response::new(proto::DeleteCollectionResponse { count }))
    }

    async fn kinds(&self, _: tonic::Request<proto::KindsRequest>) -> Result<Response<proto::KindsResponse>, Status> {
        let kinds = self.0.pipeline.kinds().resources().map(|kind| kind_info(kind)).collect();
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

impl super::Server {
    /// Creates an object, or does what creating a subresource stands for.
    pub(super) async fn create(
        &self,
        request: &Request,
        object: Box<dyn Object>,
        fence: Option<&Fence>,
    ) -> Result<Stored, StatusError> {
        let of = |object: Box<dyn Object>| Stored { kind: object.kind().clone(), bytes: object.encode() };
        match (&*request.kind.plural, request.subresource.as_str()) {
            ("pods", "eviction") => {
                let eviction =
                    object.downcast_ref::<Eviction>().ok_or_else(|| StatusError::internal("an Eviction is wanted here"))?;
                let name = if request.name.is_empty() { eviction.name() } else { &request.name };
                if !eviction.name().is_empty() && eviction.name() != name {
                    return Err(StatusError::bad_request("name in URL does not match name in Eviction object"));
                }
                self.evict(&Request { name: name.to_owned(), ..request.clone() }, eviction.delete_options(), fence).await?;
                Ok(of(object))
            }
            ("serviceaccounts", "token") => {
                let token = object
                    .downcast_ref::<TokenRequest>()
                    .ok_or_else(|| StatusError::internal("a TokenRequest is wanted here"))?;
                Ok(of(Box::new(self.identity.issue_token(request, token.clone()).await?)))
            }
            (_, "") if request.kind.storage.is_none() => match &*request.kind.plural {
                "bindings" => {
                    let name = object.meta().name.clone();
                    let binding =
                        Request { kind: Pod::HANDLE.clone(), subresource: "binding".to_owned(), name, ..request.clone() };
                    self.pipeline.act(&binding, &*object, fence).await
                }
                _ => Ok(of(self.identity.review(request, object).await?)),
            },
            (_, "") => self.pipeline.create(request, object, fence).await,
            _ => {
                let name = if request.name.is_empty() { object.meta().name.clone() } else { request.name.clone() };
                self.pipeline.act(&Request { name, ..request.clone() }, &*object, fence).await
            }
        }
    }

    /// Replaces an object, or creates it where that is how the kind is put.
    async fn replace(
        &self,
        asked: &Asked,
        request: Request,
        object: Box<dyn Object>,
        fence: Option<&Fence>,
    ) -> Result<Stored, StatusError> {
        match self.pipeline.update(&request, object.boxed_clone(), fence).await {
            Err(e) if e.is_not_found() && self.pipeline.creates_on_update(&request, &*object) => {
                let creation = Request { verb: Verb::Create, ..request };
                self.authorize_write(asked, &creation, fence).await?;
                self.pipeline.create(&creation, object, fence).await
            }
            answer => answer,
        }
    }

    /// Deletes a pod because its place is wanted. The place for disruption budgets.
    pub(super) async fn evict(
        &self,
        request: &Request,
        options: &DeleteOptions,
        fence: Option<&Fence>,
    ) -> Result<(), StatusError> {
        named(&request.kind, &request.name)?;
        let dry_run = request.dry_run || !options.dry_run.is_empty();
        let deletion = Request { subresource: String::new(), dry_run, ..request.clone() };
        self.pipeline.delete(&deletion, options, fence).await.map(drop)
    }
}

/// The kind of what is sent to a subresource.
fn body_kind<'a>(kind: &'a KindRef, subresource: &str, create: bool) -> &'a KindRef {
    match (&*kind.plural, subresource) {
        (_, "scale") => api::autoscaling::v1::Scale::HANDLE,
        ("pods", "binding") if create => api::core::v1::Binding::HANDLE,
        ("pods", "eviction") if create => Eviction::HANDLE,
        (plural, "token") if create && plural == ServiceAccount::KIND.plural => TokenRequest::HANDLE,
        _ => kind,
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

/// A kind that is computed cannot be read like this.
pub(super) fn not_readable(kind: &Kind) -> StatusError {
    StatusError::new(Reason::MethodNotAllowed, format!("{} can only be created", kind.qualified_plural()))
}
