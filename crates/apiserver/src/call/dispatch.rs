//! The way of a call: what is decided and done, in which order.

use std::sync::Arc;

use api::{
    Object, Resource, StatusError,
    coordination::v1::Lease,
    core::v1::Pod,
    rules::{FieldErrors, Path},
    status::Reason,
};
use tokio::time::Duration;
use tracing::Instrument as _;

use super::{Action, Answer, Call, resolve::check_name};
use crate::{
    auth::{Decision, Identity},
    decode,
    kubelets::Kubelets,
    pipeline::{Fence, Pipeline, Selectors, Stored},
    request::{Asked, Request, Verb},
    subresource::{BINDING, Handler, Subresource},
};

/// A watch whose client names no time lasts between half as long and this, so that they do not all come back at once.
const LONGEST_WATCH: Duration = Duration::from_secs(3600);

/// What carries out calls. One for the whole server.
pub struct Server {
    /// Reads and writes.
    pub pipeline: Arc<Pipeline>,
    /// Who asks, and whether they may.
    pub identity: Arc<Identity>,
    /// The way to the nodes.
    pub kubelets: Kubelets,
    /// The subresources that are served.
    pub subresources: &'static [&'static Subresource],
}

impl Server {
    /// Carries out a call for the one who asked.
    ///
    /// # Errors
    /// When it makes no sense, is not allowed, has to wait too long for its turn, or fails.
    pub async fn call(&self, asked: &Asked, call: Call) -> Result<Answer, StatusError> {
        let (request, selectors) = self.resolve(&asked.user, &call)?;
        let span = tracing::info_span!(
            "call",
            user = request.user.name,
            verb = %request.verb,
            resource = request.resource(),
            namespace = request.namespace,
            name = request.name,
        );
        let carried_out = async {
            self.authorize(asked, &request, call.fence.as_ref()).await?;
            let _turn = if request.lasts() { None } else { asked.turn().await? };
            self.dispatch(asked, request, &selectors, call).await
        };
        carried_out.instrument(span).await
    }

    /// Decides on a call of which only the head has come. It is decided on again when all of it is there: what follows may differ.
    ///
    /// # Errors
    /// When its user may not do what it says, or the head does not say what that is.
    pub(crate) async fn authorize_head(&self, asked: &Asked, head: &Call) -> Result<(), StatusError> {
        let (request, _) = self.resolve(&asked.user, head)?;
        if request.kind.storage.is_none() {
            let message = format!("{} are not stored; a request on them has at most 64 KiB", request.kind.plural);
            return Err(StatusError::new(Reason::RequestEntityTooLarge, message));
        }
        self.authorize(asked, &request, head.fence.as_ref()).await
    }

    /// Refuses a request that its user may not make, or may not make depend on this Lease: its refusal would tell who holds it.
    async fn authorize(&self, asked: &Asked, request: &Request, fence: Option<&Fence>) -> Result<(), StatusError> {
        asked.does(request);
        self.allow(request).await?;
        let Some(Fence(lease)) = fence else { return Ok(()) };
        self.allow(&Request::new(request.user.clone(), Verb::Get, Lease::HANDLE, &lease.namespace, &lease.name)).await
    }

    async fn allow(&self, request: &Request) -> Result<(), StatusError> {
        match self.identity.authorize(request).await? {
            Decision::Allow => Ok(()),
            Decision::NoOpinion(reason) => Err(forbidden(request, &reason)),
        }
    }

    async fn dispatch(&self, asked: &Asked, request: Request, selectors: &Selectors, call: Call) -> Result<Answer, StatusError> {
        let (fence, options, pipeline) = (call.fence.as_ref(), call.options, &self.pipeline);
        let is_stored = request.kind.storage.is_some();
        Ok(match call.action {
            Action::Get if is_stored => Answer::Object(pipeline.get(&request).await?, Vec::new()),
            Action::Get => {
                let mut found = self.measure(&request, selectors).await?;
                let found = found.pop().ok_or_else(|| StatusError::not_found(&request.kind, &request.name))?;
                Answer::Object(found, Vec::new())
            }
            Action::List(_, paging) if is_stored => {
                let page = pipeline.list(&request, selectors, &paging.resource_version, paging.limit, &paging.continue_token);
                let page = page.await?;
                Answer::List(request.kind, page)
            }
            Action::List(..) => Answer::Computed(self.measure(&request, selectors).await?),
            Action::Watch(_, following) => {
                let lasts = watch_time(following.timeout_seconds)?;
                let watch = pipeline.watch(&request, selectors, &following.resource_version, following.initial_events).await?;
                Answer::Watch(request.kind, watch, lasts)
            }
            Action::Create(body) => {
                let (object, mut warnings) = decode::object(request.body_kind(), body, options.validation)?;
                warnings.extend(pipeline.warnings(&*object));
                Answer::Object(self.create(&request, object, fence).await?, warnings)
            }
            Action::Update(body) => {
                let (object, mut warnings) = decode::object(request.body_kind(), body, options.validation)?;
                if request.subresource.is_none() {
                    warnings.extend(pipeline.warnings(&*object));
                }
                Answer::Object(self.replace(asked, request, object, fence).await?, warnings)
            }
            Action::Patch(patch_type, patch) => {
                let (stored, warnings) = pipeline.patch(&request, patch_type, &patch, options.validation, fence).await?;
                Answer::Object(stored, warnings)
            }
            Action::Delete(how) => Answer::Deleted(pipeline.delete(&request, &how, fence).await?),
            Action::DeleteCollection(_, how) => {
                Answer::DeletedMany(pipeline.delete_collection(&request, selectors, &how, fence).await?)
            }
            Action::Connect(wanted) => Answer::Link(Box::new(self.link(&request, &wanted).await?)),
        })
    }

    /// Creates an object, or does what creating this stands for.
    async fn create(&self, request: &Request, object: Box<dyn Object>, fence: Option<&Fence>) -> Result<Stored, StatusError> {
        let of = |object: Box<dyn Object>| Stored { kind: object.kind().clone(), bytes: object.encode() };
        let Some(subresource) = request.subresource else {
            return match &*request.kind.plural {
                _ if request.kind.storage.is_some() => self.pipeline.create(request, object, fence).await,
                "bindings" => {
                    let name = object.meta().name.clone();
                    check_name(Pod::KIND, &name)?;
                    let kind = Pod::HANDLE.clone();
                    let binding = Request { kind, subresource: Some(&BINDING), name, ..request.clone() };
                    self.pipeline.act(&binding, &*object, fence).await
                }
                _ => Ok(of(self.identity.review(request, object).await?)),
            };
        };
        let name = &object.meta().name;
        if !name.is_empty() && *name != request.name {
            let message = format!("name in URL does not match name in {} object", object.kind().kind);
            return Err(StatusError::bad_request(message));
        }
        match subresource.handler {
            Handler::Run(run) => run(self, request, object, fence).await.map(of),
            _ => self.pipeline.act(request, &*object, fence).await,
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
                self.authorize(asked, &creation, fence).await?;
                self.pipeline.create(&creation, object, fence).await
            }
            answer => answer,
        }
    }
}

/// Upstream's words for a request that is not allowed.
fn forbidden(request: &Request, reason: &str) -> StatusError {
    let group = &request.kind.group;
    let place = match request.namespace.as_str() {
        "" => "at the cluster scope".to_owned(),
        namespace => format!("in the namespace {namespace:?}"),
    };
    let because = if reason.is_empty() { String::new() } else { format!(": {reason}") };
    let why = format!(
        "User {:?} cannot {} resource {:?} in API group {group:?} {place}{because}",
        request.user.name,
        request.verb,
        request.resource(),
    );
    StatusError::forbidden(&request.kind, &request.name, why)
}

/// How long a watch lasts. What its client may see was decided when it began, so that none goes on for good.
fn watch_time(seconds: i64) -> Result<Duration, StatusError> {
    match u64::try_from(seconds) {
        Ok(0) => Ok(rand::random_range(LONGEST_WATCH / 2..LONGEST_WATCH)),
        Ok(seconds) => Ok(Duration::from_secs(seconds.min(86_400))),
        Err(_) => {
            let mut errors = FieldErrors::default();
            errors.invalid(&Path::root().field("timeoutSeconds"), seconds, "must be greater than or equal to 0");
            Err(decode::invalid("WatchRequest", &errors))
        }
    }
}
